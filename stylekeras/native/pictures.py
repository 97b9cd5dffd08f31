"""NumPy as `stylekeras.arrays` has it, with machine code for what an optimizer does with its history."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from stylekeras import arrays
from stylekeras.native import picture_code
from stylekeras.native.memory import address
from stylekeras.native.picture_code import BLOCK
from stylekeras.threads import Threads, undisturbed

# Numbers that a thread takes at a time, some blocks: many enough that it seldom waits for the interpreter.
_SHARE = 4 * BLOCK


class Pictures:
    """A namespace. What is not contiguous or not in float32 is left to `arrays`."""

    def __init__(self, threads: Threads, code: picture_code.Code | None = None) -> None:
        self._threads = threads
        self._given = code

    def __getattr__(self, name: str) -> Any:
        return getattr(arrays, name)

    @functools.cached_property
    def _code(self) -> picture_code.Code:
        # Compiled where it is first needed: a step or two later than the rest of a run's.
        return self._given or picture_code.compiled()

    def inner_products(self, history: Sequence[np.ndarray], pictures: Sequence[np.ndarray]) -> tuple[Any, ...]:
        """As that of `arrays`, for one or two pictures."""
        if not _plain(*history, *pictures):
            return arrays.inner_products(history, pictures)
        size, count, code = pictures[0].size, len(history), self._code
        rows = _addresses(history)
        one, other = _addresses([pictures[0], pictures[-1]]).tolist()
        parts = np.empty((-(-size // BLOCK), count, 2), np.float32)

        # It holds what machine code has the address of: interrupted twice, it is left to itself.
        def run(start: int, held: Any = (history, pictures)) -> None:
            moved, results = rows + 4 * start, parts[start // BLOCK :]
            columns = (one + 4 * start, other + 4 * start)
            code.products(moved.ctypes.data, count, *columns, min(_SHARE, size - start), results.ctypes.data)

        undisturbed(self._threads.share, run, range(0, size, _SHARE))
        totals = parts.sum(axis=0, dtype=np.float64).astype(np.float32)
        return tuple(totals[:, j] for j in range(len(pictures)))

    def weighted_sum(self, weights: np.ndarray, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """As that of `arrays`."""
        if not _plain(weights, *pictures):
            found: np.ndarray = arrays.weighted_sum(weights, pictures)
            return found
        if len(weights) != len(pictures):
            raise ValueError(f"{len(weights)} weights for {len(pictures)} pictures")
        found, size, code = np.empty_like(pictures[0]), pictures[0].size, self._code
        rows = _addresses(pictures)
        (result,) = _addresses([found]).tolist()

        # Likewise.
        def run(start: int, held: Any = (found, pictures)) -> None:
            moved = rows + 4 * start
            given = (moved.ctypes.data, weights.ctypes.data, len(rows), min(_SHARE, size - start))
            code.sums(*given, result + 4 * start)

        undisturbed(self._threads.share, run, range(0, size, _SHARE))
        return found


def _plain(*pictures: np.ndarray) -> bool:
    return all(each.dtype == np.float32 and each.flags.c_contiguous for each in pictures)


def _addresses(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Where they lie. Raises: ValueError if they are not all of one shape."""
    return np.array([address(each, pictures[0].shape, 4) for each in pictures], np.int64)
