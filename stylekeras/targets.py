"""What pictures are compared with: the photo's features, the paintings' statistics, and masks at the layers.

All of it is measured once for a scale, on the engine, in the tiles of the scale's layout if it has any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stylekeras import lazy, masks, objective, tiling
from stylekeras.layout import Layout

if TYPE_CHECKING:
    from stylekeras.machines import Machine

Image = Callable[[], np.ndarray]


class Reference(NamedTuple):
    """A style image, with what counts of it, and what part of the picture is compared with it.

    Images are made when they are asked for, (h, w, 3). `layers` are the taps; `region` is (h, w); `mask` of the size of
    the picture, its margin included; None for all. With an `amount` below 1 the picture is compared with what is that
    share of the way from the statistics of the photo, of the picture's size, in the mask to the style image's.
    """

    image: Image
    layers: Mapping[str, float]
    region: np.ndarray | None = None
    mask: np.ndarray | None = None
    amount: float = 1.0
    photo: Image | None = None


def style(
    machine: Machine, layout: Layout, reference: Reference, mask: Mapping[str, Any], margin: int, *, relative: bool
) -> Any:
    """`objective.style_target` of a reference, on the engine.

    Args: mask: the reference's, as `at_taps` has it; margin: that of the picture.
    """
    style_loss, taps = machine.objective.style_loss, reference.layers
    region = at_taps(machine, reference.region, taps)
    images = [(reference.amount, _measurer(machine, layout, reference.image, region, taps))]
    if reference.photo is not None and reference.amount < 1:
        before = _measurer(machine, layout, reference.photo, mask, taps, margin)
        images.insert(0, (1 - reference.amount, before))
    found = [(share, sums({})) for share, sums in images]
    frames = objective.style_frames(style_loss, objective.mixed(found))
    if frames:
        found = [(share, sums(frames)) for share, sums in images]
    made = [objective.style_target(style_loss, sums, frames, relative=relative) for _, sums in found]
    target = made[-1] if len(made) == 1 else objective.between(style_loss, made[0], made[1], reference.amount)
    return machine.engine.tensor(target)


def at_taps(
    machine: Machine, mask: np.ndarray | None, taps: Iterable[str], *, on_disk: bool = False
) -> dict[str, np.ndarray | lazy.Stored]:
    """What a mask (h, w) is at each tap, (1, h', w', 1), in memory or on disk; nothing where there is none."""
    keep: Callable[[np.ndarray], Any] = lazy.store if on_disk else np.asarray
    return {} if mask is None else {tap: keep(masks.at_tap(mask, machine.anatomy.fields[tap])) for tap in taps}


def of_tile(
    tile: tiling.Tile,
    fields: Mapping[str, Any],
    frames: Mapping[str, Any],
    mask: Mapping[str, np.ndarray | lazy.Stored],
) -> dict[str, Any]:
    """What `objective.measure` takes of a style in a tile.

    Args: frames: of each tap it is compared in, if there are any, {"frame": ...}; mask: as `at_taps` has it.
    """
    return {
        tap: {**known, **({"mask": tile.cut_tap(mask[tap], fields[tap])} if mask else {})}
        for tap, known in frames.items()
    }


def features(
    machine: Machine,
    tiles: Sequence[tiling.Tile],
    image: np.ndarray,
    taps: Iterable[str],
    array: Callable[[tuple[int, ...], Any], Any],
) -> dict[str, Any]:
    """The taps of a picture (h, w, 3) that is looked at in tiles, (1, h', w', c) each, in arrays made by `array`."""
    whole: dict[str, Any] = {}
    for tile in tiles:
        seen = machine.extract(machine.engine.tensor(tile.cut(image[None])))
        # All taps together are as large as a step's activations: not kept while the next tile is looked at.
        parts = {tap: machine.engine.array(seen[tap]) for tap in taps}
        del seen
        for tap, part in parts.items():
            if tap not in whole:
                size = [field.positions(image.shape[i]) for i, field in enumerate(machine.anatomy.fields[tap])]
                whole[tap] = array((1, *size, part.shape[3]), np.float32)
            tile.paste(whole[tap], part, machine.anatomy.fields[tap])
    return whole


def tiles(machine: Machine, layout: Layout, shape: tuple[int, int], margin: int) -> list[tiling.Tile]:
    """The tiles of a picture of that shape; none where it is looked at as a whole."""
    if layout.tile is None:
        return []
    return tiling.tiles(shape, layout.tile, machine.anatomy.fields, margin)


def _measurer(
    machine: Machine, layout: Layout, image: Image, where: Mapping[str, Any], taps: Iterable[str], margin: int = 0
) -> Callable[[Any], Any]:
    """Frames to `objective.style_sums` of an image, over what `at_taps` has for it."""
    engine, style_loss = machine.engine, machine.objective.style_loss

    def sums(frames: Any) -> Any:
        picture = image()
        cut = tiles(machine, layout, picture.shape[:2], margin)
        if len(cut) <= 1:
            seen = machine.extract(engine.tensor(picture[None]))
            # They may be on disk.
            counts = engine.tensor({tap: np.asarray(mask) for tap, mask in where.items()})
            known = engine.tensor(frames)
            return engine.array(objective.style_sums(engine.ops, style_loss, seen, taps, counts, known))
        fields, framed = machine.anatomy.fields, {tap: {"frame": frames[tap]} if frames else {} for tap in taps}

        def given(tile: tiling.Tile) -> tuple[Any, Any]:
            wanted = of_tile(tile, fields, framed, where)
            targets = {"content": {}, "styles": [wanted], "owned": tile.owned(fields)}
            return engine.tensor(tile.cut(picture[None])), engine.tensor(targets)

        measured = map(engine.array, machine.each(machine.measure, map(given, cut)))
        return {tap: parts[0] for tap, parts in tiling.add_up(measured)["style"].items()}

    return sums
