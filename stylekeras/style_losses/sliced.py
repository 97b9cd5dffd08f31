"""The sliced 2-Wasserstein distance, from sums over pixels: Heitz, Vanhoey, Chambon and Belcour (2021), "A Sliced
Wasserstein Loss for Neural Texture Synthesis".

Features are projected on directions u of length 1. In one dimension the squared 2-Wasserstein distance is that between
sorted values: with the distribution function F of the picture's projections and G of the style's, the mean over u of

    integral (F^-1(q) - G^-1(q))^2 dq

Sorting needs all pixels at once. But where F is near G, which has the density g, this is (Peyre 2018)

    integral (F(t) - G(t))^2 / g(t) dt

and the integral of 1 - F from a to b is the mean over pixels of clip(x, a, b) - a, how much of a projection x lies
between a and b: that adds up. With BINS intervals of as many pixels each, g is 1 / (BINS (b - a)) within each, and

    compare = mean over u of  BINS * sum over the intervals [a, b] of (mean clip(x, a, b) - mean clip(y, a, b))^2

for projections x of the picture and y of the style. The outermost intervals have no end, so that nothing lies beyond
them. A shift that is small beside the intervals counts by its square, so this has the unit and about the size of the
distance in wasserstein.py; but where that stops at mean and covariance, this sees how values are distributed.

Where we differ, besides: the intervals are those of a Gaussian with the mean and the variance of the style's
projections, which most projections of many channels nearly are (Diaconis and Freedman 1984). Directions, as many as
there are channels like theirs, are drawn once and not anew at every step: L-BFGS needs one function. Twice as many made
the same pictures. The variance is widened by the e of moments.py, so that no projection is divided by 0.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np

from stylekeras.losses import channel_sums
from stylekeras.style_losses.gram import gram

Arrays = dict[str, Any]

# That of L-BFGS' last pair.
CURVATURE = None

BINS = 4
# Between the intervals, for a projection of mean 0 and variance 1.
EDGES = np.array([NormalDist().inv_cdf(i / BINS) for i in range(1, BINS)])
# The projections, what of them is above each edge, and their gradients, as measured with OpenVINO.
ACTIVATIONS = 6
WIDEN = 1e-3
ROUNDING = 2e-4
# A target without any variance (a flat style image) still needs a size to divide by.
FLOOR = 1e-12


def frame(sums: Arrays, count: Any) -> Arrays:
    """What projects a picture's features for this style, from the style's own sums over `count` pixels.

    Returns: "mean" (c,), M, and "directions" (c, c), each u divided by the standard deviation of the style along it.
    """
    mean, gram = sums["mean"] / count, sums["gram"] / count
    covariance = gram - np.outer(mean, mean)
    channels = len(mean)
    directions = np.random.default_rng(0).normal(size=(channels, channels))
    directions /= np.linalg.norm(directions, axis=0)
    widen = max(WIDEN * max(np.trace(covariance) / channels, FLOOR), ROUNDING * np.trace(gram) / channels)
    variance = np.maximum(np.sum(directions * (covariance @ directions), axis=0), 0.0) + widen
    return {"mean": mean, "directions": directions / np.sqrt(variance)}


def measure(ops: Any, features: Any, mask: Any = None, frame: Arrays | None = None) -> Arrays:
    """Sums of features (1, h, w, c), weighted with a mask (1, h, w, 1) if given.

    Returns: {"mean": (c,), "gram": (c, c)} without a frame, which is made of these. With one, {"projected": (c,),
        "above": (BINS - 1, c)}: of the features' projections, and of how far these lie above each of EDGES.
    """
    if frame is None:
        return {"mean": channel_sums(ops, features, mask), "gram": gram(ops, features, mask)}
    directions, channels = frame["directions"], features.shape[-1]
    centre = ops.matmul(frame["mean"][None, :], directions)
    projected = ops.matmul(ops.reshape(features, (-1, channels)), directions) - centre
    edges = ops.cast(EDGES[None, :, None], features.dtype)
    above = ops.reshape(ops.relu(projected[:, None, :] - edges), (-1, len(EDGES) * channels))
    weights = ops.reshape(ops.ones_like(features[:, :, :, :1]) if mask is None else mask, (1, -1))
    return {
        "projected": ops.matmul(weights, projected)[0],
        "above": ops.reshape(ops.matmul(weights, above), (len(EDGES), channels)),
    }


def target(sums: Arrays, count: Any, frame: Arrays) -> Arrays:
    """The style's "lowest" (c,), "inner" (BINS - 2, c) and "highest" (c,): mean of what lies in the intervals; its
    "variance" (c,) along the directions, and its "size", mean(M^2)."""
    variance = 1 / np.sum(frame["directions"] ** 2, axis=0)
    return {**_intervals(sums, count), "variance": variance, "size": np.mean(frame["mean"] ** 2)}


def scale(target: Arrays) -> Any:
    """The distance of the style from a blank picture's features, nearly: (|M|^2 + tr T) / C, T by the directions."""
    return target["size"] + np.mean(target["variance"])


def compare(ops: Any, sums: Arrays, count: Any, target: Arrays) -> Any:
    """The distance per direction; a scalar."""
    found = _intervals(sums, count)
    squares = {name: ops.square(value - target[name]) for name, value in found.items()}
    total = squares["lowest"] + ops.sum(squares["inner"], axis=0) + squares["highest"]
    return BINS * ops.mean(target["variance"] * total)


def _intervals(sums: Arrays, count: Any) -> Arrays:
    """Mean over pixels of what of a projection lies in each interval."""
    projected, above = sums["projected"] / count, sums["above"] / count
    return {"lowest": projected - above[0], "inner": above[:-1] - above[1:], "highest": above[-1]}
