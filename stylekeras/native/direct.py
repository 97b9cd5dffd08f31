"""Convolutions in bfloat16 on NumPy arrays: kernels, memory and threads for `direct_code`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stylekeras.native import direct_code
from stylekeras.native.direct_code import GROUP, SIDE, STEP
from stylekeras.native.memory import Kept, Workspace, address
from stylekeras.native.tiles import BYTES, ROWS
from stylekeras.threads import Threads

# What is laid out at a time, in bytes: with the kernels of 32 channels it stays in the second cache.
_ROOM = 5 * 2**18


class DirectConvolver:
    """Convolves with kernels of 3x3; from several threads at once if wanted."""

    def __init__(self, threads: Threads, run: Callable[..., None] | None = None) -> None:
        self._threads = threads
        self._run = run or direct_code.compiled()
        self._kept = Kept(_packed)
        self._memory = Workspace()

    def kernels(self, weights: np.ndarray) -> np.ndarray:
        """What the code wants, once for all layers that have the same weights (out, in, 3, 3) of float32 that were
        rounded to bfloat16."""
        return self._kept(weights)

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
        others = [each for each in (added, mask) if each is not None]
        if channels % 2 or out % 2 or (others and out % GROUP) or bias.shape != (out,):
            raise ValueError(f"{channels} channels to {out}, {bias.shape} added, {len(others)} further")
        bias = np.pad(np.asarray(bias, np.float32), (0, -out % GROUP))
        same = (
            address(picture, picture.shape, 2),
            address(kernels, (outs * GROUP * groups * GROUP * SIDE * SIDE,), 2),
            address(bias, bias.shape, 4),
            floor,
        )
        made = [0 if each is None else address(each, result.shape, 2) for each in (added, mask, result)]
        # As even as can be, and where there are few rows channels are shared out among the threads too.
        most = max(1, _ROOM // (groups * columns * BYTES) - SIDE + 1)
        threads = self._threads.count
        blocks = max(1, -(-down // most))
        if down >= threads:
            blocks = min(down, threads * -(-blocks // threads))
        rows = -(-down // blocks)
        some = -(-outs // min(outs, -(-threads // blocks)))
        # Positions of the last step that lie beyond the rows, and what their last shift reads.
        apart = (rows + SIDE - 1) * columns + STEP + SIDE
        size = groups * apart * BYTES // 4

        # As if the rows began the result. The last ones may be fewer.
        counts = {min(rows, down - first) for first in range(0, down, rows)}
        offsets = {count: _offsets(count, across, out) for count in counts}

        def run(task: tuple[int, int]) -> None:
            first, start = task
            count = min(rows, down - first)
            places = (height, width, channels, out, first - pads[0], -pads[1], count + SIDE - 1, columns, apart)
            told = np.array((*places, len(offsets[count]), start, min(start + some, outs)), np.int64)
            there = (each and each + first * result.strides[0] for each in made)
            with self._memory.of(size) as memory:
                free = (address(each, each.shape, each.itemsize) for each in (memory, offsets[count], told))
                self._run(*same, *there, *free)

        tasks = ((first, start) for first in range(0, down, rows) for start in range(0, outs, some))
        self._threads.share(run, tasks)

    def rest(self) -> None:
        """Let go of memory that is not in use."""
        self._memory.rest()


def _offsets(rows: int, across: int, out: int) -> np.ndarray:
    """Where results of positions begin, in bytes: those of rows, two more in each, and as many more as fill a step."""
    columns = across + SIDE - 1
    found = np.full(STEP * -(-rows * columns // STEP), -1, np.int64)
    inside = found[: rows * columns].reshape(rows, columns)
    inside[:, :across] = np.arange(rows * across).reshape(rows, across) * (2 * out)
    return found


def _packed(weights: np.ndarray) -> np.ndarray:
    # Channels that are not there have zeros.
    more = [(0, -each % GROUP) for each in weights.shape[:2]]
    weights = np.pad(np.asarray(weights, np.float32), [*more, (0, 0), (0, 0)])
    out, channels = weights.shape[:2]
    bits = (weights.view(np.uint32) >> 16).astype(np.uint16)
    shape = (out // GROUP, 2, ROWS, channels // GROUP, ROWS, 2, SIDE * SIDE)
    # Groups out, groups in, shifts, halves of channels out, pairs of channels in, channels out, of the pair.
    return bits.reshape(shape).transpose(0, 3, 6, 1, 4, 2, 5)
