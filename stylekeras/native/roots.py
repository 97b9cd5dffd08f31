"""Roots of symmetric matrices on NumPy arrays, in one thread: `tridiagonal_code` and products of matrices."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from stylekeras.native import tridiagonal_code
from stylekeras.native.memory import address
from stylekeras.native.tridiagonal_code import BLOCK, Code

# So many reflections at a time are products of matrices.
_TOGETHER = 64
# Of the approximation of 1/sqrt(x): for numbers from SMALLEST times the largest on, good to 1.1e-7. With another one
# they fill vectors.
_POLES = 31
_SMALLEST = 1e-14
# Times the largest eigenvalue: where there may be less, float64 rounds too much off for inverses.
_LEAST = 1e-12


class Reduced(NamedTuple):
    """A symmetric matrix as U T U^T, T tridiagonal: its `diagonal` (n,) and what is `beside` it (n - 1,). U is the
    product of reflections I - factor v v^T, the first on the left: `vectors` (n, m), zeros from column n on, and
    `factors` (n,)."""

    diagonal: np.ndarray
    beside: np.ndarray
    vectors: np.ndarray
    factors: np.ndarray


def reduced(matrix: np.ndarray, code: Code | None = None) -> Reduced:
    """A symmetric matrix (n, n), of which the lower half is read, in tridiagonal form; in float64."""
    count = len(matrix)
    # Columns that begin a power of two apart would get into each other's way in the cache.
    size = BLOCK * (-(-count // BLOCK) | 1)
    # Of Fortran's order, the lower half: rows are columns.
    work = np.zeros((size, size))
    work[:count, :count] = matrix.T
    # Where they stand next to the diagonal, both halves are.
    line, number = work.strides
    blocks = np.lib.stride_tricks.as_strided(
        work, (size // BLOCK, BLOCK, BLOCK), (BLOCK * (line + number), line, number)
    )
    above, below = np.tril_indices(BLOCK, -1)
    blocks[:, above, below] = blocks[:, below, above]
    vectors, factors, diagonal, beside = (np.empty(shape) for shape in ((count, size), count, count, count))
    rest = np.empty((BLOCK + 1) * size)
    given = [address(each, each.shape, 8) for each in (work, vectors, factors, diagonal, beside, rest)]
    (code or tridiagonal_code.compiled()).reduce(*given, count, size)
    return Reduced(diagonal, beside[: count - 1], vectors, factors)


def inverse_root(diagonal: np.ndarray, beside: np.ndarray, code: Code | None = None) -> tuple[np.ndarray, float] | None:
    """T^(-1/2) in float32 of a tridiagonal matrix T, its `diagonal` (n,) and what is `beside` it (n - 1,) in float64,
    and the trace of T^(1/2); None if T is singular or not positive, as far as rounding tells.

    x^(-1/2) = 2/pi times the integral of 1 / (x + t^2) over all t > 0, as a sum over few t, the best in Zolotarev's
    sense (Hale, Higham and Trefethen 2008, section 4): a sum of inverses of tridiagonal matrices, each of which is
    known from two vectors (Meurant 1992).
    """
    count = len(diagonal)
    given = address(diagonal, (count,), 8), address(beside, (count - 1,), 8)
    size = -(-count // BLOCK) * BLOCK
    # No eigenvalue is above it (Gershgorin 1931).
    around = np.abs(np.concatenate([[0.0], beside, [0.0]]))
    bound = np.max(np.abs(diagonal) + around[1:] + around[:-1])
    # The last counts nothing and tells whether T is positive.
    shifts, weights = (np.append(each, 0.0) for each in _poles())
    shifts, weights = shifts * bound, weights * np.sqrt(bound)
    found, least = np.zeros((count, size), np.float32), np.empty(len(shifts))
    work = np.empty((2 * count + size) * len(shifts))
    rest = [address(each, each.shape, each.itemsize) for each in (shifts, weights, work, found, least)]
    (code or tridiagonal_code.compiled()).invert(*given, *rest, count, size, len(shifts))
    # What is not a number is not above it either.
    if not np.min(least) > _LEAST * bound:
        return None
    half = found[:, :count]
    whole = half + half.T
    np.fill_diagonal(whole, np.diag(half))
    # T (T + s I)^(-1) is I - s (T + s I)^(-1).
    traces = np.sum(work[: count * len(shifts)].reshape(count, -1), axis=0)
    return whole, float(np.sum(count * weights - shifts * traces))


def turn(form: Reduced, matrix: np.ndarray) -> np.ndarray:
    """U^T A for a matrix A (n, m), in its type.

    Some reflections at a time are I - V S V^T, where the inverse of S is half of V^T V, the other half of it zeros, and
    1 / factor on its diagonal (Schreiber and Van Loan 1989; Puglisi 1992).
    """
    found = np.array(matrix, order="C")
    count = len(found)
    change = np.empty_like(found)
    for first in range(0, count - 2, _TOGETHER):
        some = slice(first, min(first + _TOGETHER, count - 2))
        # They change nothing up to their first.
        vectors = form.vectors[some, first + 1 : count].astype(found.dtype)
        factors = form.factors[some]
        inverse = np.triu(vectors @ vectors.T, 1)
        np.fill_diagonal(inverse, 1 / np.where(factors, factors, 1))
        rest = found[first + 1 :]
        weighted = np.linalg.inv(inverse).T @ vectors
        rest -= np.matmul(vectors.T, weighted @ rest, out=change[first + 1 :])
    return found


def symmetric_product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A^T B (m, m), if that is symmetric, of A and B (n, m): three quarters of it are computed."""
    count = one.shape[1]
    middle = count // 2
    found = np.empty((count, count), one.dtype)
    np.matmul(one.T, other[:, :middle], out=found[:, :middle])
    np.matmul(one[:, middle:].T, other[:, middle:], out=found[middle:, middle:])
    found[:middle, middle:] = found[middle:, :middle].T
    return found


def around_inverse_root(outer: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, float] | None:
    """R M^(-1/2) R^T, in R's type, for R = `outer` (n, n) and a symmetric matrix M (n, n), of which the lower half is
    read; and the trace of M^(1/2). None in float32 if M is singular or not positive, as far as rounding tells."""
    if outer.dtype != np.float32:
        return around_eigenvectors(outer, matrix)
    form = reduced(matrix)
    root = inverse_root(form.diagonal, form.beside)
    if root is None:
        return None
    inner, trace = root
    turned = turn(form, outer.T)
    return symmetric_product(turned, inner @ turned), trace


def around_eigenvectors(outer: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """The same of any M. Eigenvalues that are less than float32 tells from 0 are taken for as much as that."""
    found, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
    found = np.maximum(found, np.finfo(np.float32).eps ** 2 * found[-1])
    half = outer @ np.asarray(vectors / found**0.25, outer.dtype)
    return half @ half.T, float(np.sum(np.sqrt(found)))


@functools.cache
def _poles() -> tuple[np.ndarray, np.ndarray]:
    """Shifts s and weights w: 1/sqrt(x) is about the sum of w / (x + s) for x from SMALLEST to 1.

    The t above are k sc(u | 1 - k^2) for k^2 = SMALLEST and even steps of u, to a quarter of Jacobi's elliptic
    functions' period; those by descending means (Abramowitz and Stegun 1964, 16.4).
    """
    means, differences, geometric = [1.0], [0.0], np.sqrt(_SMALLEST)
    while means[-1] - geometric > 1e-15 * geometric:
        differences.append((means[-1] - geometric) / 2)
        arithmetic = (means[-1] + geometric) / 2
        geometric = np.sqrt(means[-1] * geometric)
        means.append(arithmetic)
    # The period's quarter is pi/2 over the last mean: so many halvings of even angles.
    steps = (np.arange(_POLES) + 0.5) / _POLES
    angle = 2.0 ** (len(means) - 1) * np.pi / 2 * steps
    for mean, difference in zip(means[:0:-1], differences[:0:-1], strict=True):
        angle = (angle + np.arcsin(difference / mean * np.sin(angle))) / 2
    sine, cosine = np.sin(angle), np.cos(angle)
    delta = np.sqrt(cosine**2 + _SMALLEST * sine**2)
    step = 1 / means[-1] / _POLES
    return _SMALLEST * (sine / cosine) ** 2, np.sqrt(_SMALLEST) * step * delta / cosine**2
