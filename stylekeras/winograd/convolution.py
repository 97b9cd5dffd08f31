"""Convolutions by Winograd's algorithm on NumPy arrays: kernels, memory and threads for `machine_code`."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from stylekeras import winograd
from stylekeras.winograd import TILE, WINDOW, machine_code
from stylekeras.winograd.machine_code import APART, PLACES

# Tiles at a time, a multiple of all that go through registers together: more of them no longer stay in the cache.
_BLOCK = 48
_LINE = 64


class Convolver:
    """Convolves with kernels of 3x3; from several threads at once if wanted."""

    def __init__(self, threads: int) -> None:
        self._code = machine_code.compiled()
        self._threads = threads
        # Whoever calls may be bound to one core; threads take that over from those that start them.
        free = (os.sched_setaffinity, (0, os.sched_getaffinity(0))) if hasattr(os, "sched_setaffinity") else (None, ())
        self._pool = ThreadPoolExecutor(max(threads - 1, 1), "winograd", *free)
        self._kernels: dict[tuple[tuple[int, ...], bytes], np.ndarray] = {}
        # What a thread needs while it computes, of those that do not.
        self._unused: list[np.ndarray] = []

    @property
    def multiple(self) -> int:
        """What channels in and out have to be multiples of."""
        return self._code.shape.panel

    def kernels(self, weights: np.ndarray) -> np.ndarray:
        """`winograd.kernels` as the code wants them, once for all layers that have the same weights (out, in, 3, 3)."""
        key = (weights.shape, hashlib.blake2b(np.ascontiguousarray(weights).data, digest_size=16).digest())
        if key not in self._kernels:
            out, channels, panel = *weights.shape[:2], self.multiple
            found = winograd.kernels(weights).reshape(-1, channels, out // panel, panel).transpose(0, 2, 1, 3)
            self._kernels[key] = _aligned(found.size)
            self._kernels[key].reshape(found.shape)[:] = found
        return self._kernels[key]

    def __call__(
        self,
        picture: np.ndarray,
        kernels: np.ndarray,
        result: np.ndarray,
        *,
        bias: np.ndarray,
        floor: float = -np.inf,
        pads: tuple[int, int] = (0, 0),
    ) -> None:
        """Convolve into `result`.

        Args: picture (h, w, c) and result (h', w', c'), float32 and contiguous, c and c' multiples of `multiple`;
            kernels: of `kernels`; bias: (c',) float32, added; floor: the least that results are; pads: rows of zeros
            above the picture and columns at its left. Below and at the right of it as many are taken as are needed.
        """
        (height, width, channels), (down, across, out) = picture.shape, result.shape
        columns, panel, rows = -(-across // TILE), self.multiple, self._code.shape.rows
        tiles = columns * -(-down // TILE)
        # As even as can be, and where there are few tiles channels are shared out among the threads too.
        blocks = -(-tiles // _BLOCK)
        blocks = self._threads * -(-blocks // self._threads) if blocks >= self._threads else blocks
        block = rows * -(-tiles // (rows * blocks))
        parts = min(-(-self._threads // blocks), out // panel)
        some = panel * -(-out // (panel * parts))
        tasks = deque((first, start) for start in range(0, out, some) for first in range(0, tiles, block))
        fixed = (height, width, channels, down, across, out, *pads, columns)
        size_in, size_out = (WINDOW * WINDOW * (block * each + APART) for each in (channels, some))
        scratch = WINDOW * WINDOW * max(channels, out)

        def work() -> None:
            places = np.zeros(len(PLACES), np.int64)
            with self._memory(size_in + size_out + scratch) as memory:
                parts = (memory[:size_in], memory[size_in : size_in + size_out], memory[size_in + size_out :])
                free = [part.ctypes.data for part in parts]
                while tasks:
                    try:
                        first, start = tasks.popleft()
                    except IndexError:  # another thread was faster
                        return
                    places[:] = (*fixed, first, min(first + block, tiles), block, min(some, out - start))
                    given = (kernels[start * channels :], bias[start:])
                    addresses = [each.ctypes.data for each in (picture, *given)]
                    to = result.ctypes.data + start * result.itemsize
                    self._code.run(*addresses, floor, to, *free, places.ctypes.data)

        others = [self._pool.submit(work) for _ in range(min(self._threads, len(tasks)) - 1)]
        work()
        for each in others:
            each.result()

    def rest(self) -> None:
        """Let go of memory that is not in use."""
        self._unused.clear()

    @contextmanager
    def _memory(self, size: int) -> Iterator[np.ndarray]:
        found = self._unused.pop() if self._unused else _aligned(0)
        if found.size < size:
            found = _aligned(size)
        yield found[:size]
        self._unused.append(found)


def _aligned(size: int) -> np.ndarray:
    """Zeros from the beginning of a line of the cache on."""
    whole = np.zeros(size + _LINE // 4, np.float32)
    start = -whole.ctypes.data % _LINE // 4
    return whole[start : start + size]
