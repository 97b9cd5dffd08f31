"""What an engine is to a loop, with the picture and the optimizer in the processor's own memory, or on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stylekeras import arrays, engines, lazy, spectrum, trees


class Host:
    """NumPy."""

    ops: Any = arrays

    def tensor(self, value: Any) -> Any:
        """A nested structure of arrays and numbers in float32."""
        return trees.transform(lambda item: np.asarray(item, np.float32), value)

    def array(self, value: Any) -> Any:
        """A nested structure as NumPy arrays."""
        return trees.transform(np.asarray, value)

    def keep(self, state: Any) -> Any:
        """An optimizer's state as it is kept between its steps."""
        return state

    def taken(self, value: Any) -> Any:
        """A field of a state that was saved."""
        return self.array(value)


class HostOnDisk(Host):
    """NumPy, with the pictures of an optimizer's state in temporary files (`lazy.Stored`).

    An optimizer makes the same of them, to the last bit, as of pictures in memory.
    """

    def __init__(self) -> None:
        self.ops = _OnDisk()

    def keep(self, state: Any) -> Any:
        """The state with its pictures on disk. Raises: RunError."""
        moved: dict[int, Any] = {}  # several fields may be one picture

        def kept(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(kept, value))
            if isinstance(value, lazy.Stored | lazy.Filled) or np.ndim(value) != 4 or np.size(value) <= 3:
                return value
            if id(value) not in moved:
                moved[id(value)] = lazy.store(value)
            return moved[id(value)]

        return type(state)(*map(kept, state))

    def taken(self, value: Any) -> Any:
        """A field of a state that was saved, where it is."""
        return value


class HostLoop(engines.Loop):
    """An optimizer on a `Host`."""

    def start(self, state: Any) -> None:
        """Take over a state, of any height and width."""
        super().start(self.engine.keep(state))

    def _taken(self, value: Any) -> Any:
        return self.engine.taken(value)


class _OnDisk:
    """`arrays` for pictures on disk too, and what is computed from them."""

    def __getattr__(self, name: str) -> Any:
        return getattr(arrays, name)

    def clip(self, value: Any, low: Any, high: Any) -> Any:
        """As NumPy's."""
        return (
            lazy.Computed(np.clip, value, low, high) if isinstance(value, lazy.Picture) else np.clip(value, low, high)
        )

    def flatten(self, response: Any, image: Any) -> Any:
        """As `spectrum.flatten`, one plane at a time."""
        _, height, width, _ = image.shape
        colours, gain, area = lazy.whole(image), lazy.whole(response), height * width
        planes = lazy.Stored((3, height, width), colours.dtype)
        for start, stop in lazy.parts(area):
            part = np.ascontiguousarray(colours.values(3 * start, 3 * stop).reshape(-1, 3).T)
            for i, values in enumerate(spectrum.opponent(arrays, part)):
                planes.write(i * area + start, values)
        for i in range(3):
            turned = np.fft.rfft2(planes.values(i * area, (i + 1) * area).reshape(height, width), norm=arrays.NORM)
            for row in range(height):
                first = min(i, 1) * area + row * width
                turned[row] = gain.values(first, first + width)[: width // 2 + 1] * turned[row]
            planes.write(i * area, np.fft.irfft2(turned, (height, width), norm=arrays.NORM).reshape(-1))
        found = lazy.Stored(image.shape, planes.dtype)
        for start, stop in lazy.parts(area):
            part = np.stack([planes.values(i * area + start, i * area + stop) for i in range(3)])
            found.write(3 * start, spectrum.colours(arrays, part).T.reshape(-1))
        return found

    def inner_product(self, x: Any, y: Any) -> Any:
        """As that of `arrays`."""
        ((found,),) = self.inner_products((x,), (y,))
        return found

    def inner_products(self, history: Sequence[Any], pictures: Sequence[Any]) -> tuple[Any, ...]:
        """For each picture its inner products with all of a history, (m,)."""
        rows, columns = [lazy.whole(other) for other in history], [lazy.whole(picture) for picture in pictures]
        found: list[list[Any]] = [[[] for _ in rows] for _ in columns]
        for start, stop in lazy.parts(columns[0].size, arrays.BLOCK):
            seen = [column.values(start, stop) for column in columns]
            for i, row in enumerate(rows):
                values = row.values(start, stop)
                for j, column in enumerate(seen):
                    found[j][i] += arrays.inner_blocks(values, column)
        return tuple(np.array([np.concatenate(blocks).sum() for blocks in column]) for column in found)

    def max(self, value: Any) -> Any:
        """As NumPy's, of all values."""
        return np.max([part.max() for part in value.parts()]) if isinstance(value, lazy.Picture) else np.max(value)

    def mean(self, value: Any) -> Any:
        """As that of `arrays`."""
        if not isinstance(value, lazy.Picture):
            return arrays.mean(value)
        return self.sum(value) / value.dtype.type(value.size)

    def no_history(self, picture: Any, count: int) -> tuple[Any, ...]:
        """A history of nothing but zeros."""
        return (self.zeros_like(picture),) * count

    def ones_like(self, value: Any, dtype: Any = None) -> Any:
        """As NumPy's."""
        return _filled(np.ones_like, value, 1, dtype)

    def remember(self, pictures: Sequence[Any], picture: Any, wanted: Any) -> tuple[Any, ...]:
        """The history without its oldest picture and with a new one, if that is wanted."""
        return (*pictures[1:], lazy.store(picture)) if wanted else tuple(pictures)

    def sum(self, value: Any, axis: Any = None) -> Any:
        """As that of `arrays`."""
        if not isinstance(value, lazy.Picture):
            return arrays.sum(value, axis)
        unit = arrays.BLOCK
        return arrays.total(
            [np.sum(part[i : i + unit]) for part in value.parts(unit) for i in range(0, part.size, unit)]
        )

    def weighted_sum(self, weights: Any, pictures: Sequence[Any]) -> Any:
        """The sum of pictures, each times its weight."""
        rows = [lazy.whole(picture) for picture in pictures]
        found = lazy.Stored(rows[0].shape, np.result_type(weights, rows[0].dtype))
        for start, stop in lazy.parts(found.size):
            part = np.zeros(stop - start, found.dtype)
            for weight, row in zip(weights, rows, strict=True):
                part += row.values(start, stop) * weight
            found.write(start, part)
        return found

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        """As that of `arrays`."""
        if not any(isinstance(value, lazy.Picture) for value in (condition, x, y)):
            return arrays.where(condition, x, y)
        if np.ndim(condition) == 0 and np.shape(x) == np.shape(y):
            return x if condition else y
        return lazy.Computed(arrays.where, condition, x, y)

    def zeros_like(self, value: Any, dtype: Any = None) -> Any:
        """As NumPy's."""
        return _filled(np.zeros_like, value, 0, dtype)


def _filled(function: Callable[..., Any], value: Any, number: int, dtype: Any) -> Any:
    if np.ndim(value) == 4:
        return lazy.Filled(value.shape, number, dtype or value.dtype)
    return function(value, dtype)
