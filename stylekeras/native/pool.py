"""Pooling on NumPy arrays: threads for `pool_code`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stylekeras.native import pool_code
from stylekeras.native.threads import Threads


class Pool:
    """The largest of 2x2 positions in bfloat16, 16 bits each; from several threads at once if wanted."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._largest, self._winners = pool_code.largest(), pool_code.winners()

    def largest(self, features: np.ndarray, result: np.ndarray) -> None:
        """Features (h, w, c), c a multiple of 16, to (h // 2, w // 2, c); both contiguous."""
        rows, across, channels = result.shape
        down = features.strides[0]

        def run(part: slice) -> None:
            given = (features[2 * part.start :].ctypes.data, result[part].ctypes.data, part.stop - part.start)
            self._largest(*given, across, channels, down)

        self._threads.share(run, self._parts(rows))

    def winners(
        self, features: np.ndarray, gradient: np.ndarray, result: np.ndarray, *, least: float = -np.inf
    ) -> None:
        """Of features (h, w, c) and the pool's gradient (h // 2, w // 2, c) that of the features that pooling looks at,
        (2 (h // 2), 2 (w // 2), c); all contiguous. It is 0 where the largest is not more than `least`."""
        rows, across, channels = gradient.shape
        down = features.strides[0]

        def run(part: slice) -> None:
            wide = slice(2 * part.start, 2 * part.stop)
            given = (features[wide].ctypes.data, gradient[part].ctypes.data, result[wide].ctypes.data)
            self._winners(*given, least, part.stop - part.start, across, channels, down)

        self._threads.share(run, self._parts(rows))

    def _parts(self, rows: int) -> Iterator[slice]:
        count = min(rows, self._threads.count)
        return (slice(rows * i // count, rows * (i + 1) // count) for i in range(count))
