"""Convolutions by Winograd's algorithm on NumPy arrays: kernels and memory for `convolution_code`."""

from __future__ import annotations

import numpy as np

from stylekeras.native import convolution_code, winograd
from stylekeras.native.blas import alone
from stylekeras.native.convolution_code import APART
from stylekeras.native.memory import Kept, Workspace, aligned
from stylekeras.native.winograd import TILE, WINDOW
from stylekeras.threads import Threads

# Tiles at a time, a multiple of all that go through registers together: more of them no longer stay in the cache.
_BLOCK = 48


class Convolver:
    """Convolves with kernels of 3x3; from several threads at once if wanted."""

    def __init__(self, threads: Threads) -> None:
        self._code = convolution_code.compiled()
        self._threads = threads
        self._kept = Kept(self._laid_out)
        self._memory = Workspace()

    @property
    def multiple(self) -> int:
        """What channels in and out have to be multiples of."""
        return self._code.shape.panel

    def kernels(self, weights: np.ndarray) -> np.ndarray:
        """`winograd.kernels` as the code wants them, once for all layers that have the same weights (out, in, 3, 3)."""
        return self._kept(weights)

    def _laid_out(self, weights: np.ndarray) -> np.ndarray:
        out, channels, panel = *weights.shape[:2], self.multiple
        found = aligned(WINDOW**2 * channels * out).reshape(WINDOW**2, out // panel, channels, panel)

        def lay_out(i: int) -> None:
            found[:, i] = winograd.kernels(weights[i * panel : (i + 1) * panel])

        with alone():
            self._threads.share(lay_out, range(out // panel))
        return found

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
        blocks, threads = -(-tiles // _BLOCK), self._threads.count
        blocks = threads * -(-blocks // threads) if blocks >= threads else blocks
        block = rows * -(-tiles // (rows * blocks))
        some = panel * -(-out // (panel * min(-(-threads // blocks), out // panel)))
        fixed = (height, width, channels, down, across, out, *pads, columns)
        # Windows, products and scratch, one after the other.
        ends = np.cumsum([WINDOW * WINDOW * (block * each + APART) for each in (channels, some)])
        size = int(ends[-1]) + WINDOW * WINDOW * max(channels, out)

        def run(task: tuple[int, int]) -> None:
            first, start = task
            last = min(first + block, tiles)
            places = np.array((*fixed, first, last, block, min(some, out - start)), np.int64)
            with self._memory.of(size) as memory:
                given = (picture, kernels[start * channels :], bias[start:])
                free = (memory, memory[ends[0] :], memory[ends[1] :], places)
                to = result.ctypes.data + start * result.itemsize
                self._code.run(*(_at(each) for each in given), floor, to, *(_at(each) for each in free))

        self._threads.share(run, ((first, start) for start in range(0, out, some) for first in range(0, tiles, block)))

    def rest(self) -> None:
        """Let go of memory that is not in use."""
        self._memory.rest()


def _at(array: np.ndarray) -> int:
    return int(array.ctypes.data)
