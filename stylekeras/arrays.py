"""NumPy as a namespace for objective and optimizers, with the names of `keras.ops` that it lacks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

__all__ = ["cast", "cond", "convert_to_tensor", "fft2", "ifft2", "matmul", "stop_gradient", "where"]

_BLOCK = 2**14


def cast(value: Any, dtype: Any) -> Any:
    """`value` in another type."""
    return np.asarray(value, dtype)


def cond(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """What one of two functions gives."""
    return yes() if condition else no()


def convert_to_tensor(value: Any) -> Any:
    """`value` as an array, of its own type."""
    return np.asarray(value)


def fft2(x: tuple[Any, Any]) -> tuple[Any, Any]:
    """The Fourier transform over the last two axes, real and imaginary part."""
    return _planes(np.fft.fft2, x)


def ifft2(x: tuple[Any, Any]) -> tuple[Any, Any]:
    """The inverse of `fft2`."""
    return _planes(np.fft.ifft2, x)


def _planes(transform: Callable[[Any], Any], x: tuple[Any, Any]) -> tuple[Any, Any]:
    """A transform of the last two axes, each plane in a thread of its own: NumPy's takes one core."""
    with ThreadPoolExecutor() as pool:
        found = np.stack(list(pool.map(transform, x[0] + 1j * x[1])))
    return found.real, found.imag


def matmul(x: Any, y: Any) -> Any:
    """The product of two matrices, one that is a few numbers wide without BLAS.

    Its threads wait for more work in a busy loop, on the cores that the runtime wants next: a fifth of a step.
    """
    if min(*x.shape, *y.shape) > 3:
        return np.matmul(x, y)
    # In blocks: a sum over a whole picture, number by number, would lose three digits.
    starts = range(0, x.shape[1], _BLOCK)
    return sum(np.einsum("ij,jk->ik", x[:, i : i + _BLOCK], y[i : i + _BLOCK]) for i in starts)


def stop_gradient(value: Any) -> Any:
    """`value`: NumPy has no gradients."""
    return value


def where(condition: Any, x: Any, y: Any) -> Any:
    """As NumPy's, but two Python numbers give float32, as in the other namespaces, not float64."""
    typed = [value.dtype for value in (x, y) if hasattr(value, "dtype")] or [np.float32]
    return np.where(condition, *(np.asarray(value, np.result_type(*typed)) for value in (x, y)))


def __getattr__(name: str) -> Any:
    return getattr(np, name)
