"""PyTorch under NumPy's names: what objective and optimizers are written in.

Keras' functions for PyTorch make a tensor of every Python number, for which a GPU waits, and ask a GPU which way a
condition goes. Nothing here waits for it, so that a whole step can be recorded.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

abs = torch.abs
floor = torch.floor
isfinite = torch.isfinite
log2 = torch.log2
logical_and = torch.logical_and
logical_not = torch.logical_not
logical_or = torch.logical_or
matmul = torch.matmul
relu = torch.relu
sqrt = torch.sqrt
square = torch.square
zeros_like = torch.zeros_like


class History(NamedTuple):
    """An optimizer's pairs that is written into: `rows` (m, ...) in any order, `order` (m,) where the oldest is, the
    next..."""

    rows: Any
    order: Any

    def sorted(self) -> Any:
        """(m, ...), oldest first, a copy."""
        return self.rows.index_select(0, self.order)


def cast(value: Any, dtype: Any) -> Any:
    """`value` in another type, on the device; a NumPy array is a constant, that is copied there once."""
    if isinstance(value, torch.Tensor):
        return value.to(_type(dtype))
    if isinstance(value, np.ndarray) and value.size <= _CONSTANT:
        return _constant(value.tobytes(), value.shape, str(value.dtype), _type(dtype), device())
    if isinstance(value, bool | int | float):
        return torch.full((), value, dtype=_type(dtype), device=device())
    return torch.as_tensor(value, dtype=_type(dtype), device=device())


# The most numbers that are kept for good.
_CONSTANT = 64


@functools.lru_cache(maxsize=64)
def _constant(data: bytes, shape: tuple[int, ...], kind: str, dtype: Any, place: str) -> Any:
    return torch.tensor(np.frombuffer(data, kind).reshape(shape), dtype=dtype, device=place)


def clip(value: Any, low: float, high: float) -> Any:
    """`value` between two numbers."""
    return torch.clamp(value, low, high)


def combination(coefficients: Any, history: History | Any) -> Any:
    """The sum of a history's pictures, each times its coefficient."""
    rows: Any = history
    if isinstance(history, History):
        rows, coefficients = history.rows, torch.empty_like(coefficients).index_copy_(0, history.order, coefficients)
    return torch.matmul(coefficients, rows.reshape(len(rows), -1)).reshape(rows.shape[1:])


def concatenate(values: Sequence[Any], axis: int = 0) -> Any:
    """As NumPy's."""
    return torch.cat(list(values), axis)


def cond(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """What one of two functions gives; on a GPU both are called."""
    if condition.device.type == "cpu":
        return yes() if condition else no()
    return _chosen(condition, yes(), no())


def _chosen(condition: Any, yes: Any, no: Any) -> Any:
    if isinstance(yes, tuple):
        return tuple(_chosen(condition, *pair) for pair in zip(yes, no, strict=True))
    return yes if yes is no else torch.where(condition, yes, no)


def convert_to_tensor(value: Any) -> Any:
    """`value` on the device, of its own type."""
    if isinstance(value, np.ndarray):
        value = np.require(value, requirements=["C", "W"])
    return torch.as_tensor(value, device=device())


def device() -> Any:
    """Where tensors are made: on the current GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def eye(count: int, dtype: Any = torch.float32) -> Any:
    """The unit matrix."""
    return torch.eye(count, dtype=_type(dtype), device=device())


def filter(gain: Any, planes: Any) -> Any:
    """Three planes (3, h, w), the Fourier transform of the first times gain[0], those of the others times gain[1]."""
    half = gain[..., : planes.shape[-1] // 2 + 1]
    return torch.fft.irfft2(torch.stack([half[0], half[1], half[1]]) * torch.fft.rfft2(planes), planes.shape[-2:])


def full(shape: tuple[int, ...], value: Any, dtype: Any = torch.float32) -> Any:
    """As NumPy's."""
    return torch.full(shape, value, dtype=_type(dtype), device=device())


def inner_products(history: History | Any, pictures: Sequence[Any]) -> tuple[Any, ...]:
    """For each picture its inner products with all of a history, (m,)."""
    rows = history.rows if isinstance(history, History) else history
    flat = rows.reshape(len(rows), -1)
    found = (torch.mv(flat, picture.reshape(-1)) for picture in pictures)
    if isinstance(history, History):
        return tuple(products.index_select(0, history.order) for products in found)
    return tuple(found)


def max(value: Any, axis: int | None = None) -> Any:
    """As NumPy's."""
    return torch.amax(value) if axis is None else torch.amax(value, axis)


def maximum(x: Any, y: Any) -> Any:
    """As NumPy's; a tensor and a tensor or number."""
    return torch.maximum(x, y) if isinstance(y, torch.Tensor) else torch.clamp(x, min=y)


def mean(value: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """As NumPy's."""
    return torch.mean(value) if axis is None and not keepdims else torch.mean(value, axis, keepdim=keepdims)


def minimum(x: Any, y: Any) -> Any:
    """As NumPy's; a tensor and a tensor or number."""
    return torch.minimum(x, y) if isinstance(y, torch.Tensor) else torch.clamp(x, max=y)


def ones(shape: tuple[int, ...], dtype: Any = torch.float32) -> Any:
    """As NumPy's."""
    return torch.ones(shape, dtype=_type(dtype), device=device())


def ones_like(value: Any, dtype: Any = None) -> Any:
    """As NumPy's."""
    return torch.ones_like(value, dtype=None if dtype is None else _type(dtype))


def plus_product(matrix: Any, times: float, left: Any, right: Any) -> Any:
    """`matrix` + times `left` `right`."""
    return torch.addmm(matrix, left, right, alpha=times)


def power(base: Any, exponent: Any) -> Any:
    """As NumPy's."""
    return torch.pow(base, exponent)


def remember(history: History | Any, picture: Any, wanted: Any) -> Any:
    """The history without its oldest picture and with a new one, if that is wanted; a `History` is written into."""
    if not isinstance(history, History):
        return cond(wanted, lambda: torch.cat([history[1:], picture[None]]), lambda: history)
    oldest = history.order[:1]
    row = torch.where(wanted, picture[None], history.rows.index_select(0, oldest))
    history.rows.index_copy_(0, oldest, row)
    return History(history.rows, torch.where(wanted, history.order.roll(-1), history.order))


def reshape(value: Any, shape: tuple[int, ...]) -> Any:
    """As NumPy's."""
    return torch.reshape(value, tuple(shape))


def shape(value: Any) -> tuple[int, ...]:
    """Numbers."""
    return tuple(value.shape)


def solve_triangular(matrix: Any, right: Any, lower: bool = False) -> Any:
    """x in `matrix` x = `right`, (m, m) and (m, n)."""
    return torch.linalg.solve_triangular(matrix, right, upper=not lower)


def stack(values: Sequence[Any], axis: int = 0) -> Any:
    """As NumPy's."""
    return torch.stack(list(values), axis)


def stop_gradient(value: Any) -> Any:
    """`value`, a constant for gradients."""
    return value.detach()


def sum(value: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """As NumPy's."""
    return torch.sum(value) if axis is None and not keepdims else torch.sum(value, axis, keepdim=keepdims)


def transpose(value: Any, axes: Sequence[int] | None = None) -> Any:
    """As NumPy's."""
    return value.permute(*(range(value.ndim - 1, -1, -1) if axes is None else axes))


def where(condition: Any, x: Any, y: Any) -> Any:
    """As NumPy's, but two Python numbers give float32."""
    if not isinstance(x, torch.Tensor) and not isinstance(y, torch.Tensor):
        x = torch.full((), x, dtype=torch.float32, device=condition.device)
    return torch.where(condition, x, y)


def zeros(shape: tuple[int, ...], dtype: Any = torch.float32) -> Any:
    """As NumPy's."""
    return torch.zeros(shape, dtype=_type(dtype), device=device())


class Narrow:
    """The same names where features come from a network in a low precision.

    Sums of products of such features are the same, to the last bit of what is summed up, in TensorFloat-32, whose 11
    significant bits hold those of float16 and bfloat16, and their derivative is rounded no more by that than when it
    enters the network.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules[__name__], name)

    def products(self, x: Any, y: Any) -> Any:
        """x^T y for (n, c) and (n, d); only y has a gradient."""
        return _Products.apply(x, y)


class _Products(torch.autograd.Function):  # type: ignore[misc]  # untyped where PyTorch is missing
    @staticmethod
    def forward(context: Any, x: Any, y: Any) -> Any:
        context.save_for_backward(x)
        with _tensor_float():
            return torch.matmul(x.T, y)

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        (x,) = context.saved_tensors
        with _tensor_float():
            return None, torch.matmul(x, gradient)


@contextlib.contextmanager
def _tensor_float() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _type(dtype: Any) -> Any:
    return dtype if isinstance(dtype, torch.dtype) else getattr(torch, str(np.dtype(dtype)))
