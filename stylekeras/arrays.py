"""NumPy as a namespace for objective and optimizers, with the names of `keras.ops` that it lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["cast", "cond", "convert_to_tensor", "matmul", "stop_gradient", "where"]


def cast(value: Any, dtype: Any) -> Any:
    """`value` in another type."""
    return np.asarray(value, dtype)


def cond(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """What one of two functions gives."""
    return yes() if condition else no()


def convert_to_tensor(value: Any) -> Any:
    """`value` as an array, of its own type."""
    return np.asarray(value)


def matmul(x: Any, y: Any) -> Any:
    """The product of two matrices, a row or a column without BLAS.

    Its threads wait for more work in a busy loop, on the cores that the runtime wants next: a fifth of a step.
    """
    return np.einsum("ij,jk->ik", x, y) if 1 in (len(x), y.shape[1]) else np.matmul(x, y)


def stop_gradient(value: Any) -> Any:
    """`value`: NumPy has no gradients."""
    return value


def where(condition: Any, x: Any, y: Any) -> Any:
    """As NumPy's, but two Python numbers give float32, as in the other namespaces, not float64."""
    typed = [value.dtype for value in (x, y) if hasattr(value, "dtype")] or [np.float32]
    return np.where(condition, *(np.asarray(value, np.result_type(*typed)) for value in (x, y)))


def __getattr__(name: str) -> Any:
    return getattr(np, name)
