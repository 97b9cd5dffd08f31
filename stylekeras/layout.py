"""How a picture fits into memory: as a whole, or in tiles.

Memory is a model with few numbers, fitted to `benchmarks/memory.py`: what an engine takes by itself, the network's
activations over the pixels that are looked at at a time, and the optimizer's pictures.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from stylekeras import memory, tiling
from stylekeras.errors import SettingsError

# Bytes of a picture's pixel, and of one activation.
PIXEL, NUMBER = 12, 4
# Sides of tiles, beside those that divide a picture evenly; smaller than `_EVEN`, they are mostly halo.
SIDES = (4096, 3072, 2048, 1536, 1024, 768, 512, 384, 256, 192, 128, 96, 64, 48, 32, 16)
# What pictures on disk cost, in steps.
_DISK = 0.15
_EVEN = 256
# Forward is half of forward and back, since no weight has a gradient, and tiles are looked at twice.
_TWICE = 3 / 2


class Footprint(NamedTuple):
    """What an engine takes: `fixed` bytes, and the rest times the bytes of the network's activations over what it looks
    at at a time.

    Of a whole picture that is `activations`; of tiles `in_tiles`, of which `resting` are still taken between its calls.
    While tiles keep what the second look needs, it is `holding` and `held` for each of them.
    """

    fixed: float
    activations: float
    in_tiles: float
    resting: float = 0.0
    holding: float = 0.0
    held: float = 0.0


class Need(NamedTuple):
    """What a picture of a run takes, as far as memory is concerned.

    `canvas` is its (h, w) with the `margin`; `kept` the density of the photo's features that tiles keep (see
    `tiling.Anatomy`); `pictures` of its size the optimizer holds, `stored` of them on disk where a layout says so;
    `inputs` the bytes of the images that the run was given; `devices` look at a tile each at the same time, which is
    `spread` wherever it takes less time.
    """

    footprint: Footprint
    anatomy: tiling.Anatomy
    canvas: tuple[int, int]
    margin: int = 0
    kept: float = 0.0
    pictures: int = 0
    stored: int = 0
    inputs: float = 0.0
    devices: int = 1
    spread: bool = False


class Layout(NamedTuple):
    """How a picture is looked at: whole (`tile` None) or in tiles of that side, of which `held` keep what the first
    look found of the network until the second; if the optimizer is `on_disk`."""

    tile: int | None = None
    on_disk: bool = False
    held: int = 0


def peak(need: Need, layout: Layout) -> float:
    """Bytes that a step takes at its highest."""
    footprint, pixels = need.footprint, _area(need.canvas)
    unit = _unit(need, layout)
    pictures = (need.pictures - (need.stored if layout.on_disk else 0)) * PIXEL * pixels
    if layout.tile is None:
        return footprint.fixed + need.inputs + footprint.activations * unit + pictures
    kept = 0.0 if layout.on_disk else need.kept * NUMBER * pixels
    looking = footprint.in_tiles * min(need.devices, count(need, layout))
    if layout.held:
        looking = max(looking, footprint.holding + footprint.held * layout.held)
    # On disk, an update of the optimizer has pictures in memory that are not there while the network looks: then it is
    # the gradient alone.
    along = PIXEL * pixels if layout.on_disk else pictures
    return footprint.fixed + need.inputs + kept + max(looking * unit + along, footprint.resting * unit + pictures)


def _unit(need: Need, layout: Layout) -> float:
    """The bytes of the network's activations over what is looked at at a time."""
    return need.anatomy.activations * NUMBER * _area(window(need, layout))


def disk(need: Need, layout: Layout) -> float:
    """Bytes of temporary files at the highest."""
    if not layout.on_disk:
        return 0.0
    # An update has its own results there too before the state that it began with goes.
    pictures = (need.pictures + 3) * PIXEL
    return (pictures + (0.0 if layout.tile is None else need.kept * NUMBER)) * _area(need.canvas)


def choose(need: Need, tile: str | int, most: int | None) -> Layout:
    """The layout for a picture in `most` bytes (None: not known): the whole if that fits, else the tiles that take the
    least time.

    Args: tile: the setting.
    Raises: SettingsError if not even the smallest tiles fit, or not those that are asked for, saying what would.
    """
    spread = need.spread and need.devices > 1
    if tile == "none" or (tile == "auto" and not spread and (most is None or peak(need, Layout()) <= most)):
        return Layout()
    sides = [tile] if isinstance(tile, int) else _sides(need)
    tried = [Layout(side, on_disk) for on_disk in (False, True) for side in sides]
    if tile == "auto":
        tried = [Layout(), *(layout for layout in tried if count(need, layout) > 1)]
    fitting = [layout for layout in tried if most is None or peak(need, layout) <= most]
    if fitting:
        return min((_holding(need, layout, most) for layout in fitting), key=lambda layout: _cost(need, layout))
    height, width = need.canvas
    least = min(peak(need, layout) for layout in tried)
    what = f" in tiles of {tile} px" if isinstance(tile, int) else ""
    raise SettingsError(
        f"{width}x{height} pixels{what} take {memory.text(least * 1.01)} of memory at least, and there are "
        f"{memory.text(most or 0)}; use a smaller {'tile' if what else 'size'}"
    )


def _holding(need: Need, layout: Layout, most: int | None) -> Layout:
    """The layout with as many tiles as fit keeping what their second look needs."""
    if layout.tile is None or most is None or need.devices > 1 or not need.footprint.held:
        return layout
    one, two = (peak(need, layout._replace(held=held)) for held in (1, 2))
    if one > most:
        return layout
    each = need.footprint.held * _unit(need, layout)
    # The first may fit into what tiles take anyway.
    more = (most - two) // each + 2 if two > one else 1
    return layout._replace(held=int(min(more, count(need, layout))))


def _cost(need: Need, layout: Layout) -> float:
    """The time of a step in that layout, in steps of the whole picture."""
    return work(need, layout) + _DISK * layout.on_disk


def _sides(need: Need) -> list[int]:
    """What tiles may have as their side: what one side of the picture divides evenly into, and `SIDES`."""
    lengths = [side - 2 * need.margin for side in need.canvas]
    even = {-(-length // parts) for length in lengths for parts in range(2, length // _EVEN + 1)}
    return sorted({*even, *(side for side in SIDES if side < max(need.canvas))}, reverse=True)


def smaller(layout: Layout, canvas: tuple[int, int]) -> Layout | None:
    """The next smaller layout, where memory has run out all the same; None if there is none."""
    if layout.held:
        return layout._replace(held=0)
    side = max(canvas) if layout.tile is None else layout.tile
    # Much smaller, not a little: memory that ran out once may do so again.
    sides = [other for other in SIDES if other <= side / 2]
    return Layout(sides[0], layout.on_disk) if sides else None


def window(need: Need, layout: Layout) -> tuple[int, int]:
    """(h, w) of what is looked at at a time."""
    if layout.tile is None:
        return need.canvas
    rows, columns = (windows[0] for windows in _windows(need, layout))
    return rows.stop - rows.start, columns.stop - columns.start


def work(need: Need, layout: Layout) -> float:
    """How long what a step of that layout computes takes, in steps of the whole picture."""
    if layout.tile is None:
        return 1.0
    rounds = math.ceil(count(need, layout) / need.devices)
    twice = _TWICE * (rounds - layout.held) + layout.held
    return twice * _area(window(need, layout)) / _area(need.canvas)


def count(need: Need, layout: Layout) -> int:
    """How many parts are looked at."""
    return 1 if layout.tile is None else math.prod(map(len, _windows(need, layout)))


def _windows(need: Need, layout: Layout) -> list[list[tiling.Window]]:
    return tiling.axes(need.canvas, layout.tile or 0, need.anatomy.fields, need.margin)


def _area(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]
