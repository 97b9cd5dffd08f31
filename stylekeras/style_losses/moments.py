"""Mean and standard deviation of every channel by itself: Li, Wang, Liu and Hou (2017), "Demystifying Neural Style
Transfer", the BN statistics; Huang and Belongie (2017), eq. 13.

With mean m and variance v of each of the picture's C channels, M and V of the style's,

    compare = mean((m - M)^2 + (sqrt(v') - sqrt(V'))^2)                     (over the channels)

Standard deviations, as both have them, and not variances: they are in the features' own units as means are, so neither
outweighs the other, and each summand is the squared 2-Wasserstein distance of two Gaussians in one dimension. The whole
is the distance of wasserstein.py for channels without correlations, in the same units, and the same weights suit it.

Where we differ: both variances are widened by the same small e (v' = v + e, V' = V + e), so that the gradient stays
bounded where a channel hardly varies; e is WIDEN times the mean of V, but at least ROUNDING times the mean of the
style's squares, below which float32 does not tell a variance from 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stylekeras.losses import channel_sums

Arrays = dict[str, Any]

# That of L-BFGS' last pair.
CURVATURE = None

WIDEN = 1e-3
ROUNDING = 2e-4
# A target without any variance (a flat style image) still needs a root with a gradient.
FLOOR = 1e-12


def measure(ops: Any, features: Any, mask: Any = None) -> Arrays:
    """Sums of features (1, h, w, c), weighted with a mask (1, h, w, 1) if given: {"mean": (c,), "squares": (c,)}."""
    return {"mean": channel_sums(ops, features, mask), "squares": channel_sums(ops, ops.square(features), mask)}


def target(sums: Arrays, count: Any) -> Arrays:
    """The style's "mean" (c,), "deviation" (c,), the root of V', and e, "widen", from sums over `count` pixels."""
    mean, squares = sums["mean"] / count, sums["squares"] / count
    variance = np.maximum(squares - mean**2, 0.0)
    widen = max(WIDEN * max(np.mean(variance), FLOOR), ROUNDING * np.mean(squares))
    return {"mean": mean, "widen": widen, "deviation": np.sqrt(variance + widen)}


def scale(target: Arrays) -> Any:
    """The distance of the style from a blank picture's features: mean(M^2 + V)."""
    return np.mean(target["mean"] ** 2 + target["deviation"] ** 2 - target["widen"])


def compare(ops: Any, sums: Arrays, count: Any, target: Arrays) -> Any:
    """The distance per channel; a scalar."""
    mean = sums["mean"] / count
    # Rounding may leave less than nothing.
    variance = ops.maximum(sums["squares"] / count - ops.square(mean), 0.0)
    deviation = ops.sqrt(variance + target["widen"])
    return ops.mean(ops.square(mean - target["mean"]) + ops.square(deviation - target["deviation"]))
