"""Convolutions by Winograd's algorithm on NumPy arrays: kernels and memory for `convolution_code`."""

from __future__ import annotations

import numpy as np

from stylekeras.native import convolution_code, winograd
from stylekeras.native.blas import alone
from stylekeras.native.convolution_code import APART
from stylekeras.native.memory import Kept, Workspace, address, aligned
from stylekeras.native.winograd import TILE, WINDOW
from stylekeras.threads import Threads

# Tiles at a time, a multiple of all that go through registers together: more of them no longer stay in the cache.
_BLOCK = 48
# Kernels of more bytes come from memory for each block: then twice as many tiles are better.
_LARGE = 2**24
# Of all blocks each thread gets so many shares, one after the other: Python takes its time for each.
_SHARES = 4


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
        return self._code.shape.width

    def kernels(self, weights: np.ndarray) -> np.ndarray:
        """`winograd.kernels` as the code wants them, once for all layers that have the same weights (out, in, 3, 3)."""
        return self._kept(weights)

    def _laid_out(self, weights: np.ndarray) -> np.ndarray:
        out, channels, panel = *weights.shape[:2], self._code.shape.panel
        panels = -(-out // panel)
        # Products that nobody wants fill up the last panel.
        found = aligned(WINDOW**2 * panels * channels * panel).reshape(WINDOW**2, panels, channels, panel)

        def lay_out(i: int) -> None:
            some = weights[i * panel : (i + 1) * panel]
            found[:, i, :, : len(some)] = winograd.kernels(some)

        with alone():
            self._threads.share(lay_out, range(panels))
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
        added: np.ndarray | None = None,
        mask: np.ndarray | None = None,
    ) -> None:
        """Convolve into `result`.

        Args: picture (h, w, c) and result (h', w', c'), float32 and contiguous, c and c' multiples of `multiple`;
            kernels: of `kernels`; bias: (c',) float32, added; floor: the least that results are; pads: rows of zeros
            above the picture and columns at its left, below and at the right of it as many are taken as are needed;
            mask: of the result's form, where it is not positive the result is 0; added: likewise, comes to the result
            before the floor, only with a mask. Raises: ValueError of others.
        """
        (height, width, channels), (down, across, out) = picture.shape, result.shape
        if channels % self.multiple or out % self.multiple or (mask is None and added is not None):
            raise ValueError(f"{channels} channels to {out}, {added is not None} added")
        columns, panel, rows = -(-across // TILE), self._code.shape.panel, self._code.shape.rows
        panels, tiles, threads = -(-out // panel), columns * -(-down // TILE), self._threads.count
        most = 2 * _BLOCK if kernels.nbytes > _LARGE and tiles > 2 * _BLOCK * threads else _BLOCK
        # As even as can be, and where there are few tiles channels are shared out among the threads too.
        blocks = -(-tiles // most)
        blocks = threads * -(-blocks // threads) if blocks >= threads else blocks
        block = rows * -(-tiles // (rows * blocks))
        some = panel * -(-panels // min(-(-threads // blocks), panels))
        together = block * max(1, blocks // (threads * _SHARES))
        fixed = (height, width, channels, down, across, out, *pads, columns)
        # Windows, products and scratch, one after the other.
        ends = np.cumsum([WINDOW * WINDOW * (block * each + APART) for each in (channels, some)])
        size = int(ends[-1]) + (WINDOW * WINDOW + 1) * max(channels, out)
        given = (address(picture, picture.shape, 4), address(kernels, (WINDOW**2 * panels * panel * channels,), 4))
        start_of = address(bias, (out,), 4)
        made = [0 if each is None else address(each, result.shape, 4) for each in (added, mask, result)]

        def run(task: tuple[int, int]) -> None:
            first, start = task
            last, wanted = min(first + together, tiles), min(some, panels * panel - start)
            sizes = (first, last, block, min(wanted, out - start), wanted, panels * panel)
            places = np.array((*fixed, *sizes), np.int64)
            with self._memory.of(size) as memory:
                own = memory.ctypes.data
                free = (own, *(own + int(end) * memory.itemsize for end in ends), places.ctypes.data)
                kernel = given[1] + start * channels * kernels.itemsize
                to = (each and each + start * result.itemsize for each in made)
                self._code.run(given[0], kernel, start_of + start * bias.itemsize, floor, *to, *free)

        tasks = ((first, start) for start in range(0, out, some) for first in range(0, tiles, together))
        self._threads.share(run, tasks)

    def rest(self) -> None:
        """Let go of memory that is not in use."""
        self._memory.rest()
