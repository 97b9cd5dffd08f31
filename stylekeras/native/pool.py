"""Pools on NumPy arrays: threads for `pool_code`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stylekeras.native import pool_code
from stylekeras.native.memory import address
from stylekeras.threads import Threads


class Pool:
    """Pools of 2x2 positions in float32, or in bfloat16, numbers of 4 or 2 bytes (`size`); from several threads at once
    if wanted.

    All arrays are contiguous: features (h, w, c), c a multiple of `multiple`, and the pool's result or gradient
    (h // 2, w // 2, c). ValueError of others.
    """

    def __init__(self, threads: Threads, size: int) -> None:
        self._threads = threads
        self._code = pool_code.compiled(size)

    @property
    def multiple(self) -> int:
        """What channels have to be multiples of."""
        return self._code.step

    def largest(self, features: np.ndarray, result: np.ndarray) -> None:
        """The largest of each window."""
        self._pool(self._code.largest, features, result)

    def mean(self, features: np.ndarray, result: np.ndarray) -> None:
        """The mean of each window."""
        self._pool(self._code.mean, features, result)

    def winners(
        self, features: np.ndarray, gradient: np.ndarray, result: np.ndarray, *, least: float = -np.inf
    ) -> None:
        """The gradient of `largest` in all features that it looks at, (2 (h // 2), 2 (w // 2), c), from that in its
        result. It is 0 where the largest is not more than `least`."""
        self._check(features, gradient)
        address(result, (2 * gradient.shape[0], 2 * gradient.shape[1], gradient.shape[2]), self._code.size)

        def run(first: int, last: int) -> None:
            wide = slice(2 * first, 2 * last)
            given = (_at(features[wide]), _at(gradient[first:last]), _at(result[wide]))
            self._code.winners(*given, least, last - first, *gradient.shape[1:], features.strides[0])

        self._threads.share_evenly(run, len(gradient))

    def repeated(self, gradient: np.ndarray, result: np.ndarray) -> None:
        """Each position four times, (2 h', 2 w', c)."""
        self._check(result, gradient)

        def run(first: int, last: int) -> None:
            given = (_at(gradient[first:last]), _at(result[2 * first : 2 * last]))
            self._code.repeated(*given, last - first, *gradient.shape[1:], 0)

        self._threads.share_evenly(run, len(gradient))

    def _pool(self, code: Callable[..., None], features: np.ndarray, result: np.ndarray) -> None:
        self._check(features, result)

        def run(first: int, last: int) -> None:
            given = (_at(features[2 * first : 2 * last]), _at(result[first:last]))
            code(*given, last - first, *result.shape[1:], features.strides[0])

        self._threads.share_evenly(run, len(result))

    def _check(self, features: np.ndarray, pooled: np.ndarray) -> None:
        height, width, channels = features.shape
        address(features, features.shape, self._code.size)
        address(pooled, (height // 2, width // 2, channels), self._code.size)
        if channels % self._code.step:
            raise ValueError(f"{channels} channels")


def _at(array: np.ndarray) -> int:
    return int(array.ctypes.data)
