"""The coarse-to-fine schedule (Gatys et al. 2017, section 6; Snelgrove 2017): sizes, and how many steps at each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stylekeras.errors import SettingsError
from stylekeras.images import MIN_SIDE, fit_shape

# Ratio of one scale's size to the next.
RATIO = math.sqrt(2)


def shape_at(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    """(h, w) with the aspect of `shape` and `longest` as its longest side, at least 1."""
    return fit_shape(*shape, longest)


def smallest_longest(shape: tuple[int, int]) -> int:
    """The smallest longest side at which the shortest one still has MIN_SIDE pixels."""
    longest = math.ceil((MIN_SIDE - 0.5) * max(shape) / min(shape))
    return longest if min(shape_at(shape, longest)) >= MIN_SIDE else longest + 1


def sizes(shape: tuple[int, int], size: int, min_size: int | None) -> list[int]:
    """Longest sides of all scales, coarse to fine, about RATIO apart; the last is `size`.

    Args: shape (h, w) of the content image; min_size None for one scale.
    Raises: SettingsError if the picture's shortest side would be under MIN_SIDE pixels.
    """
    smallest = smallest_longest(shape)
    if size < smallest:
        height, width = shape_at(shape, size)
        raise SettingsError(
            f"size={size} makes this picture {width}x{height}; the shortest side needs {MIN_SIDE} px: use at least "
            f"size={smallest}"
        )
    start = size if min_size is None else min(size, max(min_size, smallest))
    count = max(0, round(math.log(size / start) / math.log(RATIO)))
    return [round(start * (size / start) ** (i / count)) for i in range(count)] + [size]


def steps_at(steps: Sequence[int], scale: int) -> int:
    """Steps of a scale; the last number given repeats."""
    return steps[min(scale, len(steps) - 1)]
