"""How a picture fits into memory: as a whole, or in tiles.

Memory is a model with few numbers, fitted to `benchmarks/memory.py`: what an engine takes by itself, the network's
activations over the pixels that are looked at at a time, and the optimizer's pictures.
"""

from __future__ import annotations

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
    """What an engine takes: `fixed` bytes, and `activations` times the bytes of the network's activations, or
    `in_tiles` times, where one function looks forward and another back."""

    fixed: float
    activations: float
    in_tiles: float


class Need(NamedTuple):
    """What a picture of a run takes, as far as memory is concerned.

    `canvas` is its (h, w) with the `margin`; `kept` the density of the photo's features that tiles keep (see
    `tiling.Anatomy`); `pictures` of its size the optimizer holds, `stored` of them on disk where a layout says so;
    `inputs` the bytes of the images that the run was given.
    """

    footprint: Footprint
    anatomy: tiling.Anatomy
    canvas: tuple[int, int]
    margin: int = 0
    kept: float = 0.0
    pictures: int = 0
    stored: int = 0
    inputs: float = 0.0


class Layout(NamedTuple):
    """How a picture is looked at, whole (`tile` None) or in tiles of that side; if the optimizer is `on_disk`."""

    tile: int | None = None
    on_disk: bool = False


def peak(need: Need, layout: Layout) -> float:
    """Bytes that a step takes at its highest."""
    pixels, seen = _area(need.canvas), _area(window(need, layout))
    factor = need.footprint.activations if layout.tile is None else need.footprint.in_tiles
    network = factor * need.anatomy.activations * NUMBER * seen
    held = need.pictures - (need.stored if layout.on_disk else 0)
    kept = 0.0 if layout.tile is None or layout.on_disk else need.kept * NUMBER * pixels
    return need.footprint.fixed + need.inputs + network + held * PIXEL * pixels + kept


def disk(need: Need, layout: Layout) -> float:
    """Bytes of temporary files at the highest."""
    if not layout.on_disk:
        return 0.0
    # An update has its own results there too before the state that it began with goes.
    pictures = (need.pictures + 3) * PIXEL
    return (pictures + (0.0 if layout.tile is None else need.kept * NUMBER)) * _area(need.canvas)


def choose(need: Need, tile: str | int, most: int | None) -> Layout:
    """The layout for a picture in `most` bytes (None: not known): the whole if that fits, else the largest tiles.

    Args: tile: the setting.
    Raises: SettingsError if not even the smallest tiles fit, saying what would.
    """
    if isinstance(tile, int):
        return Layout(tile, most is not None and peak(need, Layout(tile)) > most)
    if tile == "none" or most is None or peak(need, Layout()) <= most:
        return Layout()
    tried = [Layout(side, on_disk) for on_disk in (False, True) for side in _sides(need)]
    sizes = {layout: peak(need, layout) for layout in tried}
    fitting = [layout for layout in tried if sizes[layout] <= most and len(_tiles(need, layout)) > 1]
    if fitting:
        return min(fitting, key=lambda layout: work(need, layout) + _DISK * layout.on_disk)
    height, width = need.canvas
    least = min(sizes.values(), default=peak(need, Layout()))
    raise SettingsError(
        f"{width}x{height} pixels take {memory.text(least * 1.01)} of memory at least, and there are "
        f"{memory.text(most)}; use a smaller size"
    )


def _sides(need: Need) -> list[int]:
    """What tiles may have as their side: what one side of the picture divides evenly into, and `SIDES`."""
    lengths = [side - 2 * need.margin for side in need.canvas]
    even = {-(-length // parts) for length in lengths for parts in range(2, length // _EVEN + 1)}
    return sorted({*even, *(side for side in SIDES if side < max(need.canvas))}, reverse=True)


def smaller(layout: Layout, canvas: tuple[int, int]) -> Layout | None:
    """The next smaller layout, where memory has run out all the same; None if there is none."""
    side = max(canvas) if layout.tile is None else layout.tile
    # Much smaller, not a little: memory that ran out once may do so again.
    sides = [other for other in SIDES if other <= side / 2]
    return Layout(sides[0], layout.on_disk) if sides else None


def window(need: Need, layout: Layout) -> tuple[int, int]:
    """(h, w) of what is looked at at a time."""
    if layout.tile is None:
        return need.canvas
    tile = _tiles(need, layout)[0]
    return tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start


def work(need: Need, layout: Layout) -> float:
    """What a step of that layout computes, in steps of the whole picture."""
    if layout.tile is None:
        return 1.0
    return _TWICE * len(_tiles(need, layout)) * _area(window(need, layout)) / _area(need.canvas)


def count(need: Need, layout: Layout) -> int:
    """How many parts are looked at."""
    return 1 if layout.tile is None else len(_tiles(need, layout))


def _tiles(need: Need, layout: Layout) -> list[tiling.Tile]:
    return tiling.tiles(need.canvas, layout.tile or 0, need.anatomy.fields, need.margin)


def _area(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]
