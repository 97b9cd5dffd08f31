"""The squared 2-Wasserstein distance between Gaussians fitted to the features of the two pictures.

Mean m and covariance S of the picture's features, M and T of the style's, C channels (Dowson and Landau 1982; used for
style transfer by Crowson's style-transfer-pytorch 2021):

    compare = (|m - M|^2 + tr(S') + tr(T') - 2 tr((R S' R)^(1/2))) / C           R = T'^(1/2)

Where we differ: both covariances are widened by the same small e (S' = S + e I, T' = T + e I, e = WIDEN times T's mean
variance), so the distance is still zero exactly when they agree, but its gradient stays bounded where a tap has fewer
positions than channels. Where the picture varies many times as much as the style, S is widened by ROUNDING times its
trace, if that is more than e: below, float32 does not tell its eigenvalues from 0. And no eigendecomposition or matrix
root is differentiated. The map P that carries the picture's Gaussian to the style's, P S' P = T', is the geometric mean
of T' and the inverse of S' (Bhatia, Jain and Lim 2019); with D = I - P

    tr(S') + tr(T') - 2 tr((R S' R)^(1/2)) = tr(D S' D)          its derivative in S = D

without the cancellation on the left, and P comes from matrix products alone (`_transport`), in float32, on any device.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stylekeras.style_losses.gram import gram

Arrays = dict[str, Any]

# That of L-BFGS' last pair: one by colour and frequency does not bring it further here.
CURVATURE = None

WIDEN = 1e-3
# About twice what rounding makes of the smallest eigenvalues of a covariance in float32, relative to its trace.
ROUNDING = 1e-7
# A target without any variance (a flat style image) still needs a regular square root.
FLOOR = 1e-12
# The iterations bring all singular values from SMALLEST to 1 times the largest to 1, to 2e-15.
ITERATIONS = 17
SMALLEST = 5e-6


def measure(ops: Any, features: Any, mask: Any = None) -> Arrays:
    """Sums of features (1, h, w, c), weighted with a mask (1, h, w, 1) if given: {"mean": (c,), "gram": (c, c)}."""
    weighted = features if mask is None else mask * features
    return {"mean": ops.sum(weighted, axis=(0, 1, 2)), "gram": gram(ops, features, mask)}


def target(sums: Arrays, count: Any) -> Arrays:
    """The style's Gaussian: "mean" (c,), "widen" (the e above), T's eigenvectors "basis" (c, c), T' there "values"."""
    mean = sums["mean"] / count
    covariance = sums["gram"] / count - np.outer(mean, mean)
    values, basis = np.linalg.eigh(covariance)
    widen = WIDEN * max(np.mean(values), FLOOR)
    return {"mean": mean, "widen": widen, "basis": basis, "values": np.maximum(values, 0.0) + widen}


def scale(target: Arrays) -> Any:
    """The distance of the style from a blank picture's features: (|M|^2 + tr(T)) / C."""
    return np.mean(np.square(target["mean"]) + target["values"] - target["widen"])


def compare(ops: Any, sums: Arrays, count: Any, target: Arrays) -> Any:
    """The distance per channel; a scalar, with its exact gradient in `sums`."""
    mean = sums["mean"] / count
    covariance = sums["gram"] / count - mean[:, None] * mean[None, :]
    channels = mean.shape[0]
    unit = ops.eye(channels, dtype=mean.dtype)
    covariance = covariance + ops.maximum(target["widen"], ROUNDING * ops.sum(covariance * unit)) * unit
    basis, frozen = target["basis"], ops.stop_gradient(covariance)
    widened = ops.matmul(ops.transpose(basis), ops.matmul(frozen, basis))
    rest = unit - _transport(ops, widened, target["values"])
    spread = ops.sum(ops.matmul(rest, widened) * rest)
    gradient = ops.matmul(basis, ops.matmul(rest, ops.transpose(basis)))
    shift = ops.sum(ops.square(mean - target["mean"]))
    # The spread comes from what is frozen; the last term has its gradient and is 0.
    return (shift + spread + ops.sum(gradient * (covariance - frozen))) / channels


def _coefficients() -> list[tuple[float, float]]:
    """(a, b) for each step a - b x^2 of the iteration: the cubic that lifts the interval's lower end most."""
    found, low = [], SMALLEST
    for _ in range(ITERATIONS):
        grow = math.sqrt(3.0 / (1.0 + low + low * low))
        found.append((1.5 * grow, 0.5 * grow**3))
        low = found[-1][0] * low - found[-1][1] * low**3
    return found


_STEPS = _coefficients()


def _transport(ops: Any, covariance: Any, values: Any) -> Any:
    """P with P S P = T, for S = `covariance` and T = diag(`values`).

    Newton-Schulz iteration on a pair that starts at T and S and ends at P and its inverse, scaled so that small
    eigenvalues grow as fast as a cubic lets them (Chen and Chow 2014, section 2.3). The usual start, the unit matrix
    and R S R, needs no basis; but the eigenvalues of R S R span the square of what those of S and T do, and small ones
    drown in float32. In T's eigenvectors, near which S is as well once the picture resembles the style, they do not: on
    real features P is good to 1e-5 there where the usual start finds 1e-2 or diverges.
    """
    channels = covariance.shape[0]
    unit = ops.eye(channels, dtype=covariance.dtype)
    # No eigenvalue of T S is above it.
    bound = ops.sum(values * ops.sum(covariance * unit, axis=1))
    size = ops.max(values)
    forth, back = unit * (values / size), covariance * (size / bound)
    for linear, cubic in _STEPS[:-1]:
        step = linear * unit - cubic * ops.matmul(forth, back)
        forth, back = ops.matmul(step, forth), ops.matmul(back, step)
    linear, cubic = _STEPS[-1]
    forth = ops.matmul(linear * unit - cubic * ops.matmul(forth, back), forth)
    return 0.5 * (forth + ops.transpose(forth)) * (size / ops.sqrt(bound))
