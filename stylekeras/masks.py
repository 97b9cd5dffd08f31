"""Masks: which part of a picture belongs to which style, and what of it a layer's positions see.

A mask is (h, w) float32 in [0, 1]. Resizing and means are linear, so masks that add up to 1 still do afterwards, and
work along one axis after the other. They take two to four times the memory of the larger of what there is before and
after.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from stylekeras import blocks, images
from stylekeras.errors import ImageError
from stylekeras.tiling import Field

# How much a position counts that sees other regions too: the share of what it sees inside its own, to this power. With
# 0 a region's deep statistics are half its neighbours'; above 2 they forget what is painted along its border.
FEATHER = 2

# (n, length) -> (n, another length), along the last axis
_Along = Callable[[np.ndarray], np.ndarray]


def load(source: Any, name: str) -> np.ndarray:
    """Read a mask: white counts, black does not, grey in proportion.

    source: as for `images.load_image`, of any size from 1 x 1 up; of colours the mean counts, transparency is white.
    Returns: (h, w) float32 in [0, 1]. Raises: ImageError as that, and for a mask that is black everywhere.
    """
    picture = images.load_image(source, name=name, min_side=1)
    mask = np.empty(picture.shape[:2], np.float32)
    for rows in blocks.rows(picture.shape):
        mask[rows] = picture[rows].mean(axis=2, dtype=np.float64)
    if not mask.any():
        label = f"{name} {os.fspath(source)}" if isinstance(source, str | os.PathLike) else name
        raise ImageError(f"{label}: black everywhere; white is where it is to count")
    return mask


def resize(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask of another size, (height, width): means over areas where it shrinks, straight lines where it grows."""

    def along(length: int) -> _Along:
        return lambda values: _resized(values, length)

    return mask if mask.shape == (height, width) else _separately(mask, along(height), along(width))


def at_tap(mask: np.ndarray, fields: tuple[Field, Field]) -> np.ndarray:
    """How much each position of a tap counts for a region of the picture.

    m, the mean of the mask over the pixels that a position stands for (as many as the tap's stride, in the middle of
    what it sees), times min(1, u / m)^FEATHER, where u is the mean of the mask over all pixels that it sees, each as
    often as there are ways to it through the network. That is nearly a Gaussian a quarter as wide as the whole field
    (Luo et al. 2016, "Understanding the effective receptive field"). So a position that sees other regions counts
    less; slopes and grey areas, where u = m, count as they are. Gatys et al. (2017, "Controlling perceptual factors",
    section 4.1) tell positions whose field lies inside a region from those that only touch it; this is the soft form of
    the former, and no region, however small, is without a position. The largest value is 1, as only proportions matter.

    Args: mask (h, w), not 0 everywhere; fields: the tap's, vertical and horizontal.
    Returns: (1, h', w', 1) float32 in [0, 1].
    """
    cells = [_cells(field, length) for field, length in zip(fields, mask.shape, strict=True)]
    found, seen = _separately(mask, *cells), _separately(mask, *map(_seen, fields))
    for rows in blocks.rows(found.shape):
        own = found[rows]
        own *= np.minimum(1.0, seen[rows] / np.where(own > 0, own, 1)) ** FEATHER
    # A field may be narrower than the stride, and so miss what is there.
    found = found if found.any() else _separately(mask, *cells)
    found /= found.max()
    return found[None, :, :, None]


def blend(below: np.ndarray, above: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`above` where the mask (h, w) is 1, `below` where it is 0, both (h, w, 3); the like between. Returns: float32."""
    found = np.empty(below.shape, np.float32)
    for rows in blocks.rows(below.shape):
        share = mask[rows, :, None]
        found[rows] = share * above[rows] + (1 - share) * below[rows]
    return found


def pixels(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The pixels of (h, w, 3) where a mask of that shape is at least half its largest value: (n, 1, 3)."""
    return image if mask is None else image[mask >= 0.5 * mask.max()][:, None]


def _separately(mask: np.ndarray, down: _Along, across: _Along) -> np.ndarray:
    """`across` of every row, and then `down` of every column: (h', w') float32 in [0, 1]."""

    def each(values: np.ndarray, function: _Along) -> np.ndarray:
        parts = [function(values[rows].astype(np.float64)).astype(np.float32) for rows in blocks.rows(values.shape)]
        return np.clip(np.concatenate(parts), 0, 1)

    return np.ascontiguousarray(each(each(mask, across).T, down).T)


def _resized(values: np.ndarray, length: int) -> np.ndarray:
    before = values.shape[1]
    edges = np.arange(length + 1) * (before / length)
    if length < before:
        return _averages(values, edges[:-1], edges[1:])
    at = np.clip((edges[:-1] + edges[1:] - 1) / 2, 0, before - 1)
    first = np.minimum(at.astype(int), max(before - 2, 0))
    part = at - first
    found: np.ndarray = (1 - part) * values[:, first] + part * values[:, np.minimum(first + 1, before - 1)]
    return found


def _averages(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The means from each start to its stop, in pixels; beyond the ends, what is there goes on."""
    length = values.shape[1]
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)

    def up_to(place: np.ndarray) -> Any:
        whole = np.clip(np.floor(place).astype(int), 0, length - 1)
        return sums[:, whole] + (place - whole) * values[:, whole]

    found: np.ndarray = (up_to(stops) - up_to(starts)) / (stops - starts)
    return found


def _cells(field: Field, length: int) -> _Along:
    """The means over the pixels that the positions of a tap stand for; the outer ones also for those beyond them."""
    count, stride = field.positions(length), field.stride
    starts = np.arange(count) * stride + (field.high - field.low + 1 - stride) / 2
    stops = starts + stride
    starts[0], stops[-1] = min(starts[0], 0), max(stops[-1], length)
    return lambda values: _averages(values, starts, stops)


def _seen(field: Field) -> _Along:
    """The means over the pixels that the positions of a tap see, each as often as there are ways to it."""

    def ways(values: np.ndarray) -> np.ndarray:
        for kernel, stride, before, after in field.layers:
            padded = np.pad(values, ((0, 0), (before + 1, after)))
            sums = np.cumsum(padded, axis=1)
            # Only what is inside the picture is a mask's.
            values = (sums[:, kernel::stride] - sums[:, : sums.shape[1] - kernel : stride]) / kernel
        return values

    def along(values: np.ndarray) -> np.ndarray:
        all_ways = ways(np.ones((1, values.shape[1])))
        return ways(values) / np.where(all_ways > 0, all_ways, 1.0)

    return along
