"""Pictures that are larger than memory should hold: on disk, or computed a part at a time from others.

`Stored` is an array in a temporary file. What NumPy's functions of values make of it is `Computed`: an expression,
whose values are found where they are asked for. The file is read, not mapped, so that what a process takes is what it
needs.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from stylekeras import files
from stylekeras.errors import RunError

# Values at a time: of float32, 1 MB.
PART = 1 << 18


class Picture(NDArrayOperatorsMixin):
    """An array of `shape` and `dtype` of which some values can be had at a time, in the order they have in memory."""

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many values there are."""
        return math.prod(self.shape)

    def values(self, start: int, stop: int) -> np.ndarray:
        """Those values, (stop - start,), which nobody writes into."""
        raise NotImplementedError

    def parts(self, unit: int = 1) -> Iterator[np.ndarray]:
        """All values, as many at a time as are a multiple of `unit`."""
        for start, stop in parts(self.size, unit):
            yield self.values(start, stop)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.empty(self.shape, self.dtype if dtype is None else dtype)
        flat = whole.reshape(-1)
        for start, stop in parts(self.size):
            flat[start:stop] = self.values(start, stop)
        return whole

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options or ufunc.nout != 1 or ufunc.signature is not None:
            return NotImplemented
        return Computed(ufunc, *inputs)


class Computed(Picture):
    """A function of each value: of pictures of one shape and numbers."""

    def __init__(self, function: Callable[..., Any], *inputs: Any) -> None:
        self._function = function
        self._inputs = [whole(item) if np.ndim(item) else item for item in inputs]
        shapes = {item.shape for item in self._inputs if isinstance(item, Picture)}
        if len(shapes) != 1:
            raise ValueError(f"pictures of different shapes: {sorted(shapes)}")
        none = [np.empty(0, item.dtype) if isinstance(item, Picture) else item for item in self._inputs]
        super().__init__(shapes.pop(), function(*none).dtype)

    def values(self, start: int, stop: int) -> np.ndarray:
        """As `Picture.values`."""
        found: np.ndarray = self._function(
            *(item.values(start, stop) if isinstance(item, Picture) else item for item in self._inputs)
        )
        return found


class Filled(Picture):
    """One number everywhere."""

    def __init__(self, shape: Sequence[int], number: Any, dtype: Any) -> None:
        super().__init__(shape, dtype)
        self._number = number

    def values(self, start: int, stop: int) -> np.ndarray:
        """As `Picture.values`."""
        return np.full(stop - start, self._number, self.dtype)


class Whole(Picture):
    """An array in memory, or a mapped one."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array.shape, array.dtype)
        self._flat = array.reshape(-1)

    def values(self, start: int, stop: int) -> np.ndarray:
        """As `Picture.values`."""
        return self._flat[start:stop]


class Stored(Picture):
    """An array in a temporary file, which goes when it is forgotten; at first all zeros.

    Raises, and so do its methods: RunError, as for a full disk.
    """

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        super().__init__(shape, dtype)
        with _said():
            # Unbuffered: what is read is used at once.
            self._file = tempfile.TemporaryFile(prefix="stylekeras-", buffering=0)  # noqa: SIM115
            self._file.truncate(self.size * self.dtype.itemsize)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def values(self, start: int, stop: int) -> np.ndarray:
        """As `Picture.values`."""
        found = np.empty(stop - start, self.dtype)
        self._read(start, found)
        return found

    def write(self, start: int, values: np.ndarray) -> None:
        """Take values in, (n,), from the one numbered `start` on."""
        left = np.ascontiguousarray(values, self.dtype).view(np.uint8).data
        with _said():
            self._file.seek(start * self.dtype.itemsize)
            while left:
                left = left[self._file.write(left) :]

    def __getitem__(self, key: tuple[slice, slice, slice]) -> np.ndarray:
        """A window of a picture (1, h, w, c): picture[:, rows, columns]."""
        starts, shape = self._window(key)
        found = np.empty(shape, self.dtype)
        for i, start in enumerate(starts):
            self._read(start, found[0, i].reshape(-1))
        return found

    def __setitem__(self, key: tuple[slice, slice, slice], window: np.ndarray) -> None:
        starts, shape = self._window(key)
        if window.shape != shape:
            raise ValueError(f"a window of {shape}, not {window.shape}")
        for i, start in enumerate(starts):
            self.write(start, window[0, i].reshape(-1))

    def _window(self, key: tuple[slice, slice, slice]) -> tuple[list[int], tuple[int, ...]]:
        """Where the rows of a window begin, and its shape."""
        (_, height, width, depth), (all_of_it, rows, columns) = self.shape, key
        (top, bottom, _), (left, right, _) = rows.indices(height), columns.indices(width)
        if {rows.step, columns.step} != {None} or all_of_it != slice(None):
            raise TypeError("windows are picture[:, rows, columns]")
        starts = [(row * width + left) * depth for row in range(top, bottom)]
        return starts, (1, len(starts), max(0, right - left), depth)

    def _read(self, start: int, into: np.ndarray) -> None:
        left = into.view(np.uint8).data
        with _said():
            self._file.seek(start * self.dtype.itemsize)
            while left:
                count = self._file.readinto(left)
                if not count:
                    raise OSError("the file has been cut short")
                left = left[count:]


@contextmanager
def _said() -> Iterator[None]:
    """What the system says of a temporary file, with what to do."""
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        raise RunError(
            f"a picture cannot be kept in {folder}: {files.reason(error)}; set TMPDIR to a folder with more room, or "
            "give it more memory"
        ) from error


def parts(size: int, unit: int = 1) -> Iterator[tuple[int, int]]:
    """(start, stop) of as many of that many values at a time as are a multiple of `unit`."""
    step = max(1, PART // unit) * unit
    return ((start, min(start + step, size)) for start in range(0, size, step))


def whole(array: Any) -> Picture:
    """An array as a picture."""
    return array if isinstance(array, Picture) else Whole(np.asarray(array))


def store(array: Any) -> Stored:
    """A copy of an array or picture on disk; it itself if it is there. Raises: RunError."""
    if isinstance(array, Stored):
        return array
    picture = whole(array)
    stored = Stored(picture.shape, picture.dtype)
    for start, stop in parts(picture.size):
        stored.write(start, picture.values(start, stop))
    return stored
