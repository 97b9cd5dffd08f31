"""Gram matrices on NumPy arrays: memory and threads for `gram_code`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from stylekeras.native import gram_code
from stylekeras.native.gram_code import STEP
from stylekeras.native.memory import address, aligned
from stylekeras.native.tiles import DEPTH, ROWS, TILE
from stylekeras.threads import Threads

# Of packed tiles, in bytes, of either factor: with the sums they stay in the second cache.
_PACKED = 2**18


class Grams:
    """Computes F^T F of features in bfloat16; from several threads at once if wanted."""

    def __init__(self, threads: Threads, run: Callable[..., None] | None = None) -> None:
        self._threads = threads
        self._run = run or gram_code.compiled()

    def __call__(self, features: np.ndarray, result: np.ndarray) -> None:
        """Args: features (positions, channels), contiguous, 16 bits each, channels a multiple of `STEP`; result
        (channels, channels) float32."""
        count, channels = features.shape
        address(features, features.shape, 2)
        if channels % STEP:
            raise ValueError(f"{channels} channels")
        groups = -(-count // DEPTH)
        shares = max(1, min(self._threads.count, groups))
        bounds = [groups * i // shares * DEPTH for i in range(shares + 1)]
        size = channels // ROWS * TILE
        chunk = max(1, _PACKED // size)
        sums = [aligned(channels * channels) for _ in range(shares)]

        def run(i: int) -> None:
            left, right = aligned(chunk * size // 4), aligned(chunk * size // 4)

            def add(part: np.ndarray) -> None:
                given = (part.ctypes.data, len(part) // DEPTH, channels, sums[i].ctypes.data)
                self._run(*given, left.ctypes.data, right.ctypes.data, chunk)

            part = features[bounds[i] : bounds[i + 1]]
            whole = len(part) - len(part) % DEPTH
            add(part[:whole])
            if whole < len(part):
                rest = np.zeros((DEPTH, channels), features.dtype)
                rest[: len(part) - whole] = part[whole:]
                add(rest)

        self._threads.share(run, range(shares))
        total = functools.reduce(np.add, sums).reshape(channels, channels)
        np.add(np.triu(total), np.triu(total, 1).T, out=result)
