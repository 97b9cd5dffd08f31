"""Convolutions in bfloat16 on NumPy arrays: kernels, memory and threads for `direct_code`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from stylekeras.native import direct_code
from stylekeras.native.direct_code import GROUP, SIDE, STEP
from stylekeras.native.threads import Threads, aligned
from stylekeras.native.tiles import BYTES, ROWS

# What is laid out at a time, in bytes: with the kernels of 32 channels it stays in the second cache.
_ROOM = 5 * 2**18


class DirectConvolver:
    """Convolves with kernels of 3x3; from several threads at once if wanted."""

    def __init__(self, threads: Threads, run: Callable[..., None] | None = None) -> None:
        self._threads = threads
        self._run = run or direct_code.compiled()
        self._kernels: dict[tuple[tuple[int, ...], bytes], np.ndarray] = {}
        self._unused: list[np.ndarray] = []

    def kernels(self, weights: np.ndarray) -> np.ndarray:
        """What the code wants, once for all layers that have the same weights (out, in, 3, 3) of float32 that were
        rounded to bfloat16."""
        key = (weights.shape, hashlib.blake2b(np.ascontiguousarray(weights).data, digest_size=16).digest())
        if key not in self._kernels:
            # Channels that are not there have zeros.
            more = [(0, -each % GROUP) for each in weights.shape[:2]]
            weights = np.pad(weights, [*more, (0, 0), (0, 0)])
            out, channels = weights.shape[:2]
            bits = (np.ascontiguousarray(weights, np.float32).view(np.uint32) >> 16).astype(np.uint16)
            shape = (out // GROUP, 2, ROWS, channels // GROUP, ROWS, 2, SIDE * SIDE)
            # Groups out, groups in, shifts, halves of channels out, pairs of channels in, channels out, of the pair.
            packed = bits.reshape(shape).transpose(0, 3, 6, 1, 4, 2, 5)
            kept = aligned(packed.size // 2).view(np.uint16)
            kept.reshape(packed.shape)[:] = packed
            self._kernels[key] = kept
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
        added: np.ndarray | None = None,
        mask: np.ndarray | None = None,
    ) -> None:
        """Convolve into `result`.

        Args: picture (h, w, c) and result (h', w', c'), 16 bits each and contiguous, c and c' even;
            kernels: of `kernels`; bias: (c',) float32, added; floor: the least that results are; pads: rows of zeros
            above the picture and columns at its left, below and at the right of it as many are taken as are needed;
            added: of the result's form, comes to it before the floor; mask: likewise, where it is not positive the
            result is 0 (with either, c' is a multiple of 32).
        """
        (height, width, channels), (down, across, out) = picture.shape, result.shape
        columns, groups, outs = across + SIDE - 1, -(-channels // GROUP), -(-out // GROUP)
        bias = np.pad(bias, (0, -out % GROUP))
        # As even as can be, and where there are few rows channels are shared out among the threads too.
        most = max(1, _ROOM // (groups * columns * BYTES) - SIDE + 1)
        threads = self._threads.count
        blocks = -(-down // most)
        if down >= threads:
            blocks = min(down, threads * -(-blocks // threads))
        rows = -(-down // blocks)
        some = -(-outs // min(outs, -(-threads // blocks)))
        # Positions of the last step that lie beyond the rows, and what their last shift reads.
        apart = (rows + SIDE - 1) * columns + STEP + SIDE
        size = groups * apart * BYTES // 4

        def run(task: tuple[int, int]) -> None:
            first, start = task
            count = min(rows, down - first)
            positions = STEP * -(-count * columns // STEP)
            offsets = np.full(positions, -1, np.int64)
            inside = offsets[: count * columns].reshape(count, columns)
            inside[:, :across] = (np.arange(first, first + count)[:, None] * across + np.arange(across)) * (2 * out)
            places = (height, width, channels, out, first - pads[0], -pads[1], count + SIDE - 1, columns, apart)
            told = np.array((*places, positions, start, min(start + some, outs)), np.int64)
            with self._memory(size) as memory:
                given = (_at(picture), _at(kernels), _at(bias), floor, *map(_at, (added, mask, result, memory)))
                self._run(*given, _at(offsets), _at(told))

        tasks = ((first, start) for first in range(0, down, rows) for start in range(0, outs, some))
        self._threads.share(run, tasks)

    def rest(self) -> None:
        """Let go of memory that is not in use."""
        self._unused.clear()

    @contextmanager
    def _memory(self, size: int) -> Iterator[np.ndarray]:
        try:
            found = self._unused.pop()
        except IndexError:
            found = aligned(size)
        if found.size < size:
            found = aligned(size)
        yield found[:size]
        self._unused.append(found)


def _at(array: np.ndarray | None) -> int:
    return 0 if array is None else int(array.ctypes.data)
