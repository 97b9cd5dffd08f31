"""The squared 2-Wasserstein distance between Gaussians fitted to the features of the two pictures.

Mean m and covariance S of the picture's features, M and T of the style's, C channels (Dowson and Landau 1982; used for
style transfer by Crowson's style-transfer-pytorch 2021):

    compare = (|m - M|^2 + tr(S') + tr(T') - 2 tr((R S' R)^(1/2))) / C           R = T'^(1/2)

Where we differ: both covariances are widened by the same small e (S' = S + e I, T' = T + e I, e = WIDEN times T's mean
variance), so the distance is still zero exactly when they agree, but its gradient stays bounded where a tap has fewer
positions than channels. And the matrix square root is not differentiated through: its derivative is known,

    d tr((R S' R)^(1/2)) / dS = 1/2 R (R S' R)^(-1/2) R,

so one eigendecomposition in float64 gives value and gradient, which enter as a linear surrogate.
"""

from __future__ import annotations

from typing import Any

from stylekeras.style_losses.gram import gram

Arrays = dict[str, Any]

WIDEN = 1e-3
# A target without any variance (a flat style image) still needs a regular square root.
FLOOR = 1e-12


def measure(ops: Any, features: Any) -> Arrays:
    """Sums of features (1, h, w, c): {"mean": (c,), "gram": (c, c)}."""
    return {"mean": ops.sum(features, axis=(0, 1, 2)), "gram": gram(ops, features)}


def target(ops: Any, sums: Arrays, count: Any) -> Arrays:
    """Mean, widening, root and trace of the style's Gaussian, from sums over `count` pixels."""
    mean, covariance = _moments(ops, sums, count)
    channels = mean.shape[0]
    widen = WIDEN * ops.maximum(ops.trace(covariance) / channels, FLOOR)
    values, vectors = ops.linalg.eigh(_widened(ops, covariance, widen))
    root = ops.matmul(vectors * ops.sqrt(ops.maximum(values, 0.0)), ops.transpose(vectors))
    return {"mean": mean, "widen": widen, "root": ops.cast(root, mean.dtype), "trace": ops.trace(covariance)}


def compare(ops: Any, sums: Arrays, count: Any, target: Arrays) -> Any:
    """The distance per channel; a scalar, with its exact gradient in `sums`."""
    mean, covariance = _moments(ops, sums, count)
    channels = mean.shape[0]
    shift = ops.sum(ops.square(mean - target["mean"]))
    spread = ops.trace(covariance) + target["trace"] + 2.0 * channels * target["widen"]
    return (shift + spread - 2.0 * _trace_root(ops, covariance, target)) / channels


def scale(ops: Any, target: Arrays) -> Any:
    """The distance of the style from a blank picture's features: (|M|^2 + tr(T)) / C."""
    return (ops.sum(ops.square(target["mean"])) + target["trace"]) / target["mean"].shape[0]


def _moments(ops: Any, sums: Arrays, count: Any) -> tuple[Any, Any]:
    mean = sums["mean"] / count
    return mean, sums["gram"] / count - mean[:, None] * mean[None, :]


def _widened(ops: Any, covariance: Any, widen: Any) -> Any:
    # In float64: float32 eigendecompositions fail on rank-deficient covariances (512 channels over 64 positions).
    wide = ops.cast(covariance, "float64")
    return wide + ops.cast(widen, "float64") * ops.eye(covariance.shape[0], dtype="float64")


def _trace_root(ops: Any, covariance: Any, target: Arrays) -> Any:
    """tr((R S' R)^(1/2)), differentiable in `covariance`."""
    frozen = ops.stop_gradient(covariance)
    root = ops.cast(target["root"], "float64")
    # Frameworks raise on a NaN or infinite matrix; an optimizer has to see a loss that is not finite and step back.
    size = ops.sum(ops.abs(frozen))
    usable = ops.isfinite(size)
    widened = _widened(ops, ops.where(usable, frozen, ops.zeros_like(frozen)), target["widen"])
    values, vectors = ops.linalg.eigh(ops.matmul(ops.matmul(root, widened), root))
    # R S' R is at least e^2 I in exact arithmetic; rounding of S in float32 may fall below.
    roots = ops.sqrt(ops.maximum(values, ops.cast(ops.square(target["widen"]), "float64")))
    turned = ops.matmul(root, vectors)
    gradient = ops.cast(0.5 * ops.matmul(turned / roots, ops.transpose(turned)), covariance.dtype)
    value = ops.where(usable, ops.cast(ops.sum(roots), covariance.dtype), size)
    return value + ops.sum(gradient * (covariance - frozen))
