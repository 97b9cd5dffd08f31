"""The squared 2-Wasserstein distance between Gaussians fitted to the features of the two pictures.

Mean m and covariance S of the picture's features, M and T of the style's, C channels (Dowson and Landau 1982; used for
style transfer by Crowson's style-transfer-pytorch 2021):

    compare = (|m - M|^2 + tr(S') + tr(T') - 2 tr((R S' R)^(1/2))) / C           R = T'^(1/2)

Where we differ: both covariances are widened by the same small e (S' = S + e I, T' = T + e I, e = WIDEN times T's mean
variance), so the distance is still zero exactly when they agree, but its gradient stays bounded where a tap has fewer
positions than channels. Where features vary little for their size, or the picture's vary many times as much as the
style's, float32 does not tell small eigenvalues from 0: T and S are widened by at least ROUNDING times the mean of the
features' squares, the style's and the picture's (S by e, if that is more). On photographs and paintings that is under
half of e as long as picture and style are alike. And no eigendecomposition or matrix root is differentiated. The map P
that carries the picture's Gaussian to the style's, P S' P = T', is the geometric mean of T' and the inverse of S'
(Bhatia, Jain and Lim 2019); with D = I - P

    tr(S') + tr(T') - 2 tr((R S' R)^(1/2)) = tr(D S' D)          its derivative in S = D

without the cancellation on the left, and P comes from matrix products alone (`transport`), in float32, on any device;
or from a tridiagonal matrix, where that is faster (`ALONE`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from stylekeras.losses import channel_sums
from stylekeras.style_losses.gram import gram

Arrays = dict[str, Any]

# That of L-BFGS' last pair: one by colour and frequency does not bring it further here.
CURVATURE = None

WIDEN = 1e-3
# Times the mean square of the features: what rounding makes of the smallest eigenvalues of a covariance in float32, at
# 64 channels 1e-6 and at 512 1e-7 of the eigenvalues' sum, is less, even for stripes and black and white halves. Where
# nearly all of a picture is of one colour it can be more: `_with_at_least`.
ROUNDING = 2e-4
# A target without any variance (a flat style image) still needs a regular square root.
FLOOR = 1e-12
# The iterations bring all singular values from SMALLEST to 1 times the largest to 1, to 1e-7, and hold those that
# rounding lifts above the largest by less than MARGIN.
ITERATIONS = 10
SMALLEST = 1e-5
MARGIN = 0.01
# A difference of traces that is less than so much of them has fewer than six digits left.
CANCELS = 0.05


def measure(ops: Any, features: Any, mask: Any = None) -> Arrays:
    """Sums of features (1, h, w, c), weighted with a mask (1, h, w, 1) if given: {"mean": (c,), "gram": (c, c)}."""
    return {"mean": channel_sums(ops, features, mask), "gram": gram(ops, features, mask)}


def target(sums: Arrays, count: Any) -> Arrays:
    """The style's Gaussian: "mean" (c,), "widen" (the e above), T's eigenvectors "basis" (c, c), T' there "values"."""
    mean = sums["mean"] / count
    covariance = sums["gram"] / count - np.outer(mean, mean)
    values, basis = np.linalg.eigh(covariance)
    widen = max(WIDEN * max(np.mean(values), FLOOR), ROUNDING * np.mean(np.diag(sums["gram"])) / count)
    return {"mean": mean, "widen": widen, "basis": basis, "values": np.maximum(values, 0.0) + widen}


def scale(target: Arrays) -> Any:
    """The distance of the style from a blank picture's features: (|M|^2 + tr(T)) / C."""
    return np.mean(np.square(target["mean"]) + target["values"] - target["widen"])


def between(one: Arrays, other: Arrays, amount: float) -> Arrays:
    """The Gaussian that is that share of the way from one to the other: McCann's interpolation, along which mass moves
    straight. A mixture of both would vary by the difference of their means besides."""
    (root, inverse), (second, _) = (_roots(target) for target in (one, other))
    transport = inverse @ _root(root @ second @ second @ root) @ inverse
    way = (1 - amount) * np.eye(len(root)) + amount * transport
    values, basis = np.linalg.eigh(way @ root @ root @ way)
    mean, widen = ((1 - amount) * one[name] + amount * other[name] for name in ("mean", "widen"))
    return {"mean": mean, "widen": widen, "basis": basis, "values": np.maximum(values, widen)}


def _roots(target: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """T'^(1/2) and its inverse."""
    basis, deviations = target["basis"], np.sqrt(target["values"])
    return (basis * deviations) @ basis.T, (basis / deviations) @ basis.T


def _root(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric matrix without negative eigenvalues, but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def compare(ops: Any, sums: Arrays, count: Any, target: Arrays) -> Any:
    """The distance per channel; a scalar, with its exact gradient in `sums`."""
    mean = sums["mean"] / count
    covariance = sums["gram"] / count - mean[:, None] * mean[None, :]
    channels = mean.shape[0]
    unit = ops.eye(channels, dtype=mean.dtype)
    rounding = ROUNDING / channels * ops.sum(sums["gram"] / count * unit)
    widen = ops.maximum(target["widen"], rounding)
    covariance = covariance + widen * unit
    frozen = ops.stop_gradient(covariance)
    apart = getattr(ops, "apart", partial(_at_once, ops))
    spread, derivative = apart(distance, frozen, target["basis"], target["values"], ops.stop_gradient(widen))
    shift = ops.sum(ops.square(mean - target["mean"]))
    # The spread comes from what is frozen; the last term has its gradient and is 0.
    return (shift + spread + ops.sum(derivative * (covariance - frozen))) / channels


def distance(ops: Any, covariance: Any, basis: Any, values: Any, least: Any) -> tuple[Any, Any]:
    """tr(D S' D) and D, its derivative in S', for S' = `covariance` (c, c) and T' of eigenvectors `basis` (c, c) and
    eigenvalues `values` (c,). In no direction S' has less variance than `least`, but for rounding."""
    widened = ops.matmul(ops.transpose(basis), ops.matmul(covariance, basis))
    unit = ops.eye(covariance.shape[0], dtype=covariance.dtype)
    widened = widened + ops.maximum(least * unit - widened * unit, 0.0)
    rest = unit - transport(ops, widened, values)
    spread = ops.sum(ops.matmul(rest, widened) * rest)
    return spread, ops.matmul(basis, ops.matmul(rest, ops.transpose(basis)))


def _distance_by_root(
    algebra: Any, covariance: np.ndarray, basis: np.ndarray, values: np.ndarray, least: np.ndarray
) -> tuple[Any, np.ndarray]:
    """`distance` by another formula. What is not finite has none.

    With R = Q v^(1/2), v the `values` and Q the `basis`, P = R (R^T S' R)^(-1/2) R^T. As long as S' and T' are far from
    each other tr(S') + tr(T') - 2 tr((R^T S' R)^(1/2)) is as good as the product tr(D S' D).
    """
    root = basis * np.sqrt(values)
    with np.errstate(all="ignore"):  # a trial of huge numbers is rejected
        middle = algebra.symmetric_product(root, covariance @ root)
        if not np.isfinite(middle).all():
            return np.nan, np.full(middle.shape, np.nan)
        found = algebra.around_inverse_root(root, middle)
        if found is None:
            covariance = _with_at_least(covariance, least)
            found = algebra.around_eigenvectors(root, root.T @ covariance @ root)
        carries, trace = found
        rest = np.eye(len(root), dtype=root.dtype) - carries
        both = np.trace(covariance, dtype=np.float64) + np.sum(values, dtype=np.float64)
        spread = both - 2 * trace
        if not spread > CANCELS * both:
            spread = np.sum((rest @ covariance) * rest)
        # Of pictures that are alike rounding may leave a little less than nothing.
        return max(spread, 0.0), rest


def _with_at_least(covariance: np.ndarray, least: np.ndarray) -> np.ndarray:
    """The covariance with no eigenvalue below `least`: rounding has left less where most positions are alike, since
    sums of equal products round all in one direction."""
    wide = np.asarray(covariance, np.float64)
    try:
        np.linalg.cholesky(wide - 0.5 * least * np.eye(len(wide)))
    except np.linalg.LinAlgError:
        values, basis = np.linalg.eigh(wide)
        wide = (basis * np.maximum(values, least)) @ basis.T
    return np.asarray(wide, covariance.dtype)


ALONE = {"distance": _distance_by_root}


def _at_once(ops: Any, function: Any, *given: Any) -> Any:
    return function(ops, *given)


def _coefficients() -> list[tuple[float, float, float]]:
    """(a, b, c) for each step a + b x^2 + c x^4 of the iteration.

    x (a + b x^2 + c x^4) is the odd polynomial that comes closest to 1 on the interval that the steps before leave
    (Remez exchange; Amsel et al. 2025, section 3), which is widened as long as it is wide: beyond their interval such
    polynomials are steep, and what rounding brings there would be lost for good.
    """
    found, low, high = [], SMALLEST, 1.0
    for _ in range(ITERATIONS):
        high += MARGIN * min(1.0, high - low) * high
        inner = np.array([0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high])
        for _ in range(10):
            x = np.array([low, *inner, high])
            a, b, c, error = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], axis=1), np.ones(4))
            # Where the polynomial is flat.
            inner = np.sqrt((-3 * b + np.sqrt(9 * b * b - 20 * a * c) * np.array([-1, 1])) / (10 * c))
        found.append((float(a), float(b), float(c)))
        low, high = 1 - abs(error), 1 + abs(error)
    return found


_STEPS = _coefficients()


def transport(ops: Any, covariance: Any, values: Any) -> Any:
    """P with P S P = T, for S = `covariance` and T = diag(`values`).

    Newton-Schulz iteration on a pair that starts at T and S and ends at P and its inverse, with polynomials of degree
    5 that lift small eigenvalues fastest. The usual start, the unit matrix and R S R, needs no basis; but the
    eigenvalues of R S R span the square of what those of S and T do, and small ones drown in float32. In T's
    eigenvectors, near which S is as well once the picture resembles the style, they do not: on real features P is good
    to 1e-4 there where the usual start finds 1e-2 or diverges.
    """
    unit = ops.eye(covariance.shape[0], dtype=covariance.dtype)
    sizes = ops.max(values), ops.max(ops.sum(covariance * unit, axis=1))
    forth, back = values / sizes[0], covariance / sizes[1]
    product = forth[:, None] * back
    # The root of the sum of the squares of their product's eigenvalues: none is above it, the largest not far below.
    bound = ops.sqrt(ops.sum(product * ops.transpose(product)))
    back, product = back / bound, product / bound
    # float64 sees the 1e-7 that is left, and Taylor's polynomial leaves its third power.
    steps = [*_STEPS, (15 / 8, -10 / 8, 3 / 8)] if "64" in str(covariance.dtype) else _STEPS
    for i, (one, two, four) in enumerate(steps):
        step = _plus_product(ops, one * unit + two * product, four, product, product)
        # The first `forth` is diagonal, and after the last step only `forth` is wanted.
        forth = ops.matmul(step, forth) if i else step * forth
        if i + 1 < len(steps):
            back = ops.matmul(back, step)
            product = ops.matmul(forth, back)
    return 0.5 * (forth + ops.transpose(forth)) * ops.sqrt(sizes[0] / sizes[1] / bound)


def _plus_product(ops: Any, matrix: Any, times: float, left: Any, right: Any) -> Any:
    """`matrix` + times `left` `right`; a namespace that has this in one says so."""
    if hasattr(ops, "plus_product"):
        return ops.plus_product(matrix, times, left, right)
    return matrix + times * ops.matmul(left, right)
