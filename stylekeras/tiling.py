"""Exact tiles: the loss and gradient of a picture of which only a part is looked at at a time.

What a loss takes from a picture are sums over its positions (stylekeras/objective.py). So a first pass adds the sums of
all tiles, the loss is differentiated once in their totals, and a second pass pulls these derivatives back through each
tile and adds up what they are in the pixels it saw:

    d loss / d image = sum over tiles t of  d/d image  < d loss / d sums, sums of t >

A tile owns some positions of each tap and sees what these depend on: its window, its own pixels with a halo around
them. Keeping the gradient of the whole window, where the published way keeps that of the own pixels and so needs twice
the halo, is exact from a halo of the taps' reach.

All windows of a picture have one size, so that one compiled function serves them, and begin on multiples of the
network's stride, so that its pooling falls on the same pixels as in the whole picture. Functions of tensors are given;
nothing here depends on a framework.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stylekeras import trees


class Field(NamedTuple):
    """What the positions of a tap see of the pixels along one axis: position i those from i * stride - low to
    i * stride + high.

    `layers` are the (kernel, stride, before, after) on the way there, with the padding before and after; of several
    ways one, they lead to the same number of positions.
    """

    stride: int = 1
    low: int = 0
    high: int = 0
    layers: tuple[tuple[int, int, int, int], ...] = ()

    def through(self, kernel: int, stride: int = 1, before: int = 0, after: int = 0) -> Field:
        """The field behind one more convolution or pooling."""
        return Field(
            self.stride * stride,
            self.low + self.stride * before,
            self.high + self.stride * (kernel - 1 - before),
            (*self.layers, (kernel, stride, before, after)),
        )

    def positions(self, length: int) -> int:
        """How many positions there are over that many pixels."""
        for kernel, stride, before, after in self.layers:
            length = (length + before + after - kernel) // stride + 1
        return length


class Window(NamedTuple):
    """A tile along one axis: the pixels it sees, and those of them that it owns."""

    start: int
    stop: int
    own_start: int
    own_stop: int

    def own(self, field: Field, length: int) -> np.ndarray:
        """Which of the window's positions of a tap the tile owns, (positions,) float32 of 0 and 1.

        Args: length: of the whole picture.
        """
        first = self.start // field.stride
        positions = first + np.arange(field.positions(self.stop - self.start))
        owned = positions * field.stride >= self.own_start
        # What lies beyond a picture's last whole stride is its last tile's.
        if self.own_stop < length:
            owned &= positions * field.stride < self.own_stop
        return owned.astype(np.float32)


# (vertical, horizontal)
Fields = Mapping[str, tuple[Field, Field]]
_PIXELS = Field()


class Anatomy(NamedTuple):
    """What tiles and memory depend on: the taps' `fields`, and in numbers for each pixel of the picture how many each
    tap has (`densities`) and the whole network as far as the deepest tap (`activations`)."""

    fields: Fields
    densities: Mapping[str, float]
    activations: float


class Tile(NamedTuple):
    """A part of a picture of `shape` (h, w): its windows along both axes."""

    rows: Window
    columns: Window
    shape: tuple[int, int]

    def cut(self, image: Any) -> Any:
        """The window of a picture (1, h, w, c)."""
        return image[:, self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]

    def cut_tap(self, features: Any, fields: tuple[Field, Field]) -> Any:
        """The window of a tap of the whole picture, (1, h', w', c)."""
        parts = []
        for window, field in zip((self.rows, self.columns), fields, strict=True):
            first = window.start // field.stride
            parts.append(slice(first, first + field.positions(window.stop - window.start)))
        return features[:, parts[0], parts[1]]

    def paste(self, whole: np.ndarray, part: np.ndarray, fields: tuple[Field, Field]) -> None:
        """Write the positions that the tile owns of its window of a tap into that of the whole picture."""
        there, here = [], []
        for i, window in enumerate((self.rows, self.columns)):
            own = np.flatnonzero(window.own(fields[i], self.shape[i]))
            if not own.size:
                return
            first = window.start // fields[i].stride
            here.append(slice(own[0], own[-1] + 1))
            there.append(slice(first + own[0], first + own[-1] + 1))
        whole[:, there[0], there[1]] = part[:, here[0], here[1]]

    def owned(self, fields: Fields) -> dict[str, np.ndarray]:
        """{"image" and each tap: (1, h', w', 1)}: 1 at the window's positions that are this tile's, 0 elsewhere."""
        masks = {}
        for name, pair in {"image": (_PIXELS, _PIXELS), **fields}.items():
            rows, columns = self.rows.own(pair[0], self.shape[0]), self.columns.own(pair[1], self.shape[1])
            masks[name] = np.outer(rows, columns)[None, :, :, None]
        return masks


def tiles(shape: tuple[int, int], size: int, fields: Fields, margin: int = 0) -> list[Tile]:
    """A picture of `shape` (h, w) as tiles that own about `size` pixels a side, or the least there can be.

    As many as without a `margin` on each of its sides, which the outer ones own too.

    Returns: one tile, of the whole picture, where that is no larger than a tile with its halo would be.
    """
    rows, columns = axes(shape, size, fields, margin)
    return [Tile(row, column, shape) for row in rows for column in columns]


def axes(shape: tuple[int, int], size: int, fields: Fields, margin: int = 0) -> list[list[Window]]:
    """The windows of `tiles` along both axes; each of the one with each of the other is a tile."""
    return [windows(shape[i], size, [pair[i] for pair in fields.values()], margin) for i in range(2)]


def windows(length: int, size: int, fields: Sequence[Field], margin: int = 0) -> list[Window]:
    """`tiles` along one axis: windows of one size that begin on multiples of the stride, the last one at the end."""
    stride = math.lcm(*(field.stride for field in fields))
    # The first position that a tile owns must not see pixels before its window; the last none behind it, nor may total
    # variation, which looks at the next pixel.
    before = _up(max(field.low for field in fields), stride)
    behind = max(1, *(field.high - field.stride + 1 for field in fields))
    whole = max(1, length // stride)
    count = min(whole, math.ceil((length - 2 * margin) / size))
    bounds = [i * whole // count * stride for i in range(count)] + [length]
    spans = [
        (max(0, start - before), stop if stop == length else min(length, stop + behind))
        for start, stop in itertools.pairwise(bounds)
    ]
    longest = max(stop - start for start, stop in spans)
    # The same remainder as the whole has, so that the last window begins on a stride too.
    longest = min(length, longest + (length - longest) % stride)
    if longest == length:
        return [Window(0, length, 0, length)]
    found = []
    for (start, _), own_start, own_stop in zip(spans, bounds[:-1], bounds[1:], strict=True):
        first = min(start, length - longest)
        found.append(Window(first, first + longest, own_start, own_stop))
    return found


def add_up(measured: Iterable[Any]) -> Any:
    """The sums of all tiles, in float64, of those of each, nested NumPy arrays."""
    total: dict[str, Any] = {}
    structure: Any = {}
    for sums in measured:
        structure = trees.names(sums, "")
        for name, value in trees.leaves(sums, "").items():
            total[name] = total.get(name, 0.0) + np.asarray(value, np.float64)
    return trees.transform(lambda name: total[name], structure)


def gradient(image: Any, pulled: Iterable[tuple[Tile, np.ndarray]]) -> np.ndarray:
    """The gradient of a picture (1, h, w, 3), of what each tile adds to it on its window."""
    found = np.zeros(image.shape, image.dtype)
    for tile, added in pulled:
        part = tile.cut(found)
        part += added
    return found


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
