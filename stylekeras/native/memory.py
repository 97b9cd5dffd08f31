"""Memory that machine code is given by its address: arrays, what is kept of weights, and what a thread works in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

# Of the cache, in bytes.
_LINE = 64


def address(array: np.ndarray, shape: tuple[int, ...], size: int) -> int:
    """Where an array lies.

    Raises: ValueError if it is not contiguous, of that shape and of numbers of so many bytes: code does not look.
    """
    if array.shape != shape or array.itemsize != size or not array.flags.c_contiguous:
        raise ValueError(f"an array {array.shape} of {array.dtype}, where {shape} of {size} bytes each was wanted")
    return int(array.ctypes.data)


def aligned(size: int) -> np.ndarray:
    """Zeros in float32, from the beginning of a line of the cache on."""
    whole = np.zeros(size + _LINE // 4, np.float32)
    start = -whole.ctypes.data % _LINE // 4
    return whole[start : start + size]


class Kept:
    """What is made of weights, once for all layers that have the same."""

    def __init__(self, make: Callable[[np.ndarray], np.ndarray]) -> None:
        self._make = make
        self._found: dict[tuple[tuple[int, ...], int], np.ndarray] = {}

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """The numbers of `make(weights)`, in memory that begins where a line of the cache does."""
        # Python's own hash has 64 bits, is keyed anew in each process, and is thrice as fast as what hashlib has.
        key = (weights.shape, hash(weights.tobytes()))
        if key not in self._found:
            made = self._make(weights).reshape(-1)
            if made.ctypes.data % _LINE:
                kept = aligned(made.nbytes // 4).view(made.dtype)
                kept[:] = made
                made = kept
            self._found[key] = made
        return self._found[key]


class Workspace:
    """Memory for threads while they compute, of those that do not."""

    def __init__(self) -> None:
        self._unused: list[np.ndarray] = []

    @contextmanager
    def of(self, size: int) -> Iterator[np.ndarray]:
        """So many numbers in float32, whatever they are."""
        try:
            found = self._unused.pop()
        except IndexError:
            found = aligned(size)
        if found.size < size:
            found = aligned(size)
        yield found[:size]
        self._unused.append(found)

    def rest(self) -> None:
        """Let go of what is not in use."""
        self._unused.clear()
