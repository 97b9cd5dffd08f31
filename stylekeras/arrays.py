"""NumPy as a namespace for objective and optimizers, with the names of `keras.ops` that it lacks.

An optimizer's history is a tuple of pictures here, not one array, so that none is copied when one is added: `remember`,
`inner_products` and `weighted_sum` are what an optimizer does with it. BLAS is left alone: its threads wait for more
work in a busy loop, on the cores that the runtime of the graphs wants next; that took a fifth of a step.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from stylekeras import spectrum
from stylekeras.engines import cores
from stylekeras.threads import Threads

__all__ = [
    "cast",
    "cond",
    "convert_to_tensor",
    "flatten",
    "inner_product",
    "inner_products",
    "matmul",
    "mean",
    "no_history",
    "relu",
    "remember",
    "solve_triangular",
    "stop_gradient",
    "sum",
    "weighted_sum",
    "where",
]

# Numbers at a time: that many pictures' worth stay in a core's cache, and sums keep their digits.
BLOCK = 2**14
# Likewise; shorter ones have threads wait for the interpreter, longer ones leave the cache.
_MIXED = 2**15
# Of Fourier transforms: NumPy computes those without a factor in float64, which takes four times as long.
NORM: Literal["ortho"] = "ortho"
# Of a picture's rows or columns at a time, for a thread.
_LINES = 2**16


def cast(value: Any, dtype: Any) -> Any:
    """`value` in another type."""
    return np.asarray(value, dtype)


def cond(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """What one of two functions gives."""
    return yes() if condition else no()


def convert_to_tensor(value: Any) -> Any:
    """`value` as an array, of its own type."""
    return np.asarray(value)


def flatten(response: Any, image: Any) -> Any:
    """As `spectrum.flatten`, rows and columns shared out among threads: NumPy's transforms take one core."""
    _, height, width, _ = image.shape
    half = width // 2 + 1
    brightness, colour = response[:, :, :half, 0]
    spectra = np.empty((3, height, half), np.result_type(image.dtype, np.complex64))
    found = np.empty(image.shape, image.dtype)

    def forth(rows: slice) -> None:
        planes = spectrum.opponent(sys.modules[__name__], image[0, rows].reshape(-1, 3).T)
        np.fft.rfft(planes.reshape(3, -1, width), norm=NORM, out=spectra[:, rows])

    def down(columns: slice) -> None:
        turned = np.fft.fft(spectra[..., columns], axis=1, norm=NORM)
        turned[0] *= brightness[:, columns]
        turned[1:] *= colour[:, columns]
        np.fft.ifft(turned, axis=1, norm=NORM, out=spectra[..., columns])

    def back(rows: slice) -> None:
        planes = np.fft.irfft(spectra[:, rows], width, norm=NORM)
        found[0, rows] = spectrum.colours(sys.modules[__name__], planes.reshape(3, -1)).T.reshape(-1, width, 3)

    for work, count, length in ((forth, height, width), (down, half, height), (back, height, width)):
        step = max(1, min(_LINES // length, -(-count // cores())))
        _threads().share(work, (slice(i, i + step) for i in range(0, count, step)))
    return found


def sum(value: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """As NumPy's, all of a picture's values block by block: so a sum does not depend on where the picture lies."""
    if axis is None and not keepdims and np.ndim(value) == 4 and value.size > BLOCK:
        flat = value.reshape(-1)
        whole = flat.size - flat.size % BLOCK
        rest = [np.sum(flat[whole:])] if whole < flat.size else []
        return total([*np.sum(flat[:whole].reshape(-1, BLOCK), axis=1), *rest])
    return np.sum(value, axis=axis, keepdims=keepdims)


def mean(value: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """As NumPy's, all of a picture's values block by block."""
    if axis is None and not keepdims and np.ndim(value) == 4 and value.dtype.kind == "f":
        return sum(value) / value.dtype.type(value.size)
    return np.mean(value, axis=axis, keepdims=keepdims)


def total(blocks: Sequence[Any]) -> Any:
    """What the sums of blocks are together."""
    return np.sum(np.stack(blocks))


def no_history(picture: Any, count: int) -> tuple[Any, ...]:
    """A history of nothing but zeros."""
    return (np.zeros_like(picture),) * count


def remember(pictures: Sequence[Any], picture: Any, wanted: Any) -> tuple[Any, ...]:
    """The history without its oldest picture and with a new one, if that is wanted."""
    return (*pictures[1:], picture) if wanted else tuple(pictures)


def inner_product(x: Any, y: Any) -> Any:
    """The sum of the products of two pictures' values."""
    return _inner(x.ravel(), y.ravel())


def inner_products(history: Sequence[Any], pictures: Sequence[Any]) -> tuple[Any, ...]:
    """For each picture its inner products with all of a history, (m,)."""
    flat = [picture.ravel() for picture in pictures]
    found = np.empty((len(history), len(flat)), flat[0].dtype)

    def multiply(i: int) -> None:
        found[i] = [_inner(history[i].ravel(), picture) for picture in flat]

    _threads().share(multiply, range(len(history)))
    return tuple(found.T)


def weighted_sum(weights: Any, pictures: Sequence[Any]) -> Any:
    """The sum of pictures, each times its weight."""
    found = np.zeros(pictures[0].shape, np.result_type(weights, pictures[0].dtype))
    flat, rows = found.reshape(-1), [picture.ravel() for picture in pictures]

    def add(starts: range) -> None:
        part = np.empty(_MIXED, found.dtype)
        for start in starts:
            block = flat[start : start + _MIXED]
            for weight, row in zip(weights, rows, strict=True):
                block += np.multiply(row[start : start + _MIXED], weight, out=part[: block.size])

    _threads().share(add, (range(i * _MIXED, flat.size, cores() * _MIXED) for i in range(cores())))
    return found


def _inner(x: Any, y: Any) -> Any:
    """The inner product of two vectors, block by block."""
    return np.concatenate(inner_blocks(x, y)).sum()


def inner_blocks(x: Any, y: Any) -> list[Any]:
    """Of the inner product of two vectors, each block's part."""
    whole = x.size - x.size % BLOCK
    blocks = [vector[:whole].reshape(-1, BLOCK) for vector in (x, y)]
    rest = [np.einsum("i,i->", x[whole:], y[whole:])[None]] if whole < x.size else []
    return [np.einsum("ij,ij->i", *blocks), *rest]


def _threads() -> Threads:
    return _of_process(os.getpid())


@functools.lru_cache(maxsize=1)
def _of_process(process: int) -> Threads:
    """A fork may have been bound to other cores than its parent."""
    return Threads(cores())


def matmul(x: Any, y: Any) -> Any:
    """The product of two matrices, one that is a few numbers wide without BLAS."""
    if min(*x.shape, *y.shape) > 3:
        return np.matmul(x, y)
    # A row of colours that lie between others takes several times as long.
    return np.einsum("ij,jk->ik", x, np.ascontiguousarray(y))


def relu(value: Any) -> Any:
    """`value` where it is positive, 0 elsewhere."""
    return np.maximum(value, 0)


def solve_triangular(matrix: Any, right: Any, lower: bool = False) -> Any:
    """x in `matrix` x = `right`, (m, m) and (m, n); what lies on the other side of the diagonal is not looked at."""
    found = np.zeros_like(right)
    for i in range(len(matrix)) if lower else reversed(range(len(matrix))):
        known = found[:i] if lower else found[i + 1 :]
        row = matrix[i, :i] if lower else matrix[i, i + 1 :]
        found[i] = (right[i] - np.einsum("j,jn->n", row, known)) / matrix[i, i]
    return found


def stop_gradient(value: Any) -> Any:
    """`value`: NumPy has no gradients."""
    return value


def where(condition: Any, x: Any, y: Any) -> Any:
    """As NumPy's, but two Python numbers give float32, as in the other namespaces, not float64.

    Where there is one condition for all, the result is not a copy.
    """
    typed = [value.dtype for value in (x, y) if hasattr(value, "dtype")] or [np.float32]
    x, y = (np.asarray(value, np.result_type(*typed)) for value in (x, y))
    if np.ndim(condition) == 0 and x.shape == y.shape:
        return x if condition else y
    return np.where(condition, x, y)


def __getattr__(name: str) -> Any:
    return getattr(np, name)
