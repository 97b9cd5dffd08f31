"""The difference of the covariances, and of the means: Sun and Saenko (2016), "Deep CORAL", eq. 1, for the covariances;
Kolkin, Salavon and Shakhnarovich (2019), "Style Transfer by Relaxed Optimal Transport and Self-Similarity", the moment
matching loss, for both together.

With mean m and covariance S of the picture's features, M and T of the style's, C channels, |.| Frobenius' norm,

    compare = (|S - T|^2 + w |m - M|^2) / C^2           w = 4 max(|T|, 0.001 |T + M M^T|)

Gram matrices are covariance and mean in one, T + M M^T, in which the mean outweighs the rest: two pictures agree by it
although their textures differ. Here both have to agree by themselves. Without a mean the colours would be left to the
photo.

Where we differ: squares and not absolute values, so that the gradient ends at 0. The mean gets the weight that to
second order makes the distance that of wasserstein.py times 4 |T| / C where all variance is in one direction, as in
real features much of it is. The weight is at least a small part of the Gram matrix: a flat style image has a mean too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stylekeras.losses import channel_sums
from stylekeras.style_losses.gram import gram

Arrays = dict[str, Any]

# That of L-BFGS' last pair.
CURVATURE = None

SMALLEST = 1e-3


def measure(ops: Any, features: Any, mask: Any = None) -> Arrays:
    """Sums of features (1, h, w, c), weighted with a mask (1, h, w, 1) if given: {"mean": (c,), "gram": (c, c)}."""
    return {"mean": channel_sums(ops, features, mask), "gram": gram(ops, features, mask)}


def target(sums: Arrays, count: Any) -> Arrays:
    """The style's "mean" (c,), "covariance" (c, c) and the "weight" w above, from sums over `count` pixels."""
    mean, gram = sums["mean"] / count, sums["gram"] / count
    covariance = gram - np.outer(mean, mean)
    weight = 4 * max(np.linalg.norm(covariance), SMALLEST * np.linalg.norm(gram))
    return {"mean": mean, "covariance": covariance, "weight": weight}


def scale(target: Arrays) -> Any:
    """The distance of the style from a blank picture's features: (|T|^2 + w |M|^2) / C^2."""
    return _mean(np, target["covariance"], target["mean"], target["weight"])


def compare(ops: Any, sums: Arrays, count: Any, target: Arrays) -> Any:
    """The distance per entry of the covariance; a scalar."""
    mean = sums["mean"] / count
    covariance = sums["gram"] / count - mean[:, None] * mean[None, :]
    return _mean(ops, covariance - target["covariance"], mean - target["mean"], target["weight"])


def _mean(ops: Any, covariance: Any, mean: Any, weight: Any) -> Any:
    return ops.mean(ops.square(covariance)) + weight / mean.shape[0] * ops.mean(ops.square(mean))
