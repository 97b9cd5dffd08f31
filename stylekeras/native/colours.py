"""Convolutions from and to a picture's planes on NumPy arrays: kernels and threads for `colours_code`."""

from __future__ import annotations

import numpy as np

from stylekeras.native import colours_code, writer
from stylekeras.native.colours_code import SIDE
from stylekeras.native.memory import address
from stylekeras.native.writer import Shape
from stylekeras.threads import Threads

# Of all rows each thread gets so many shares, one after the other.
_SHARES = 4


class FromPlanes:
    """Convolves planes with kernels of 3x3 (out, planes, 3, 3), to features; from several threads at once if wanted.

    Args: bias: (out,); floor: the least that results are; shape: of another processor, for tests.
    """

    def __init__(
        self, threads: Threads, weights: np.ndarray, bias: np.ndarray, floor: float, shape: Shape | None = None
    ) -> None:
        self._threads, self._floor = threads, floor
        self._shape = shape or writer.shape()
        self._run = colours_code.features(shape)
        out, planes = weights.shape[:2]
        self._kernels = np.zeros((-(-out // self._shape.panel), planes, SIDE, SIDE, self._shape.panel), np.float32)
        self._bias = np.zeros((len(self._kernels), self._shape.panel), np.float32)
        self._bias.reshape(-1)[:out] = bias
        for i, panel in enumerate(self._kernels):
            some = weights[i * self._shape.panel : (i + 1) * self._shape.panel]
            panel[..., : len(some)] = some.transpose(1, 2, 3, 0)

    def __call__(self, planes: np.ndarray, result: np.ndarray) -> None:
        """Convolve planes (n, h + 2, w + 2), with the zeros around them, into result (h, w, out), both float32 and
        contiguous. ValueError of others, where out is no multiple of a vector, and where w is less than a few."""
        (down, across, out), (panels, count, *_, panel) = result.shape, self._kernels.shape
        if out % self._shape.width or -(-out // panel) != panels or across < least_across(self._shape):
            raise ValueError(f"{out} channels, {across} positions across")
        given = address(planes, (count, down + 2, across + 2), 4), address(result, result.shape, 4)
        kernels, bias = (address(each, each.shape, 4) for each in (self._kernels, self._bias))
        sizes = (across + 2, (down + 2) * (across + 2), across, out, panels * panel, count)

        def run(first: int, last: int) -> None:
            places = np.array((*sizes, first, last), np.int64)
            self._run(given[0], kernels, bias, self._floor, given[1], places.ctypes.data)

        self._threads.share_evenly(run, down, each=_SHARES)


class ToPlanes:
    """Convolves features with kernels of 3x3 (planes, channels, 3, 3), to planes; from several threads at once if
    wanted. Channels are a multiple of a vector, planes a few.

    Args: pads: rows of zeros above the features and columns at their left, below and at the right of them as many are
        taken as are needed; shape: of another processor, for tests.
    """

    def __init__(
        self, threads: Threads, weights: np.ndarray, pads: tuple[int, int], shape: Shape | None = None
    ) -> None:
        self._threads, self._pads = threads, pads
        width = (shape or writer.shape()).width
        planes, channels = weights.shape[:2]
        if channels % width or min(pads) < 0:
            raise ValueError(f"{channels} channels, {pads} before")
        self._channels, self._planes = channels, planes
        self._run = colours_code.planes(planes, shape)
        split = weights.reshape(planes, channels // width, width, SIDE, SIDE)
        self._kernels = np.ascontiguousarray(split.transpose(3, 4, 1, 0, 2), np.float32)

    def __call__(self, features: np.ndarray, result: np.ndarray) -> None:
        """Convolve features (h, w, channels) into result (planes, h', w'), both float32 and contiguous. ValueError of
        others."""
        (height, width, _), (_, down, across) = features.shape, result.shape
        given = address(features, (height, width, self._channels), 4), address(result, (self._planes, down, across), 4)
        kernels = address(self._kernels, self._kernels.shape, 4)
        sizes = (height, width, self._channels, down, across, *self._pads)

        def run(first: int, last: int) -> None:
            places = np.array((*sizes, first, last), np.int64)
            self._run(given[0], kernels, given[1], places.ctypes.data)

        self._threads.share_evenly(run, down, each=_SHARES)


def least_across(shape: Shape | None = None) -> int:
    """How many positions a row of features has at least."""
    return (shape or writer.shape()).rows
