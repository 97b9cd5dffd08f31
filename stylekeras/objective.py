"""The objective: `measure(image) -> sums`, `combine(sums, targets) -> loss`, and the targets of pictures.

    loss = content_weight * content + style_weight * style + tv_weight * tv

Everything per pixel is summed in `measure`, so the sums of tiles, masks or devices add; everything after that is in
`combine`. Targets and weights are arguments, dicts of arrays, never constants of a compiled step: one compiled step
serves every picture. `ops` is a namespace with NumPy's names, the engine's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from stylekeras import lazy, losses, trees
from stylekeras.settings import Settings

Arrays = dict[str, Any]
Features = Mapping[str, Any]

# A flat target (a black style image) would make relative losses divide by zero.
_SMALLEST_SCALE = 1e-12


@dataclass(frozen=True)
class Objective:
    """The loss as the engines take it: a function of picture, features, targets and weights."""

    style_loss: ModuleType

    @property
    def name(self) -> str:
        """What tells this objective from others."""
        return self.style_loss.__name__.rpartition(".")[2]

    def __call__(
        self, ops: Any, image: Any, features: Features, targets: Arrays, weights: Arrays
    ) -> tuple[Any, dict[str, Any]]:
        """Loss and unweighted terms, see `measure` and `combine`."""
        return self.combine(ops, self.measure(ops, image, features, targets), targets, weights)

    def measure(self, ops: Any, image: Any, features: Features, targets: Arrays) -> Arrays:
        """See `measure`."""
        return measure(ops, self.style_loss, image, features, targets)

    def combine(self, ops: Any, sums: Arrays, targets: Arrays, weights: Arrays) -> tuple[Any, dict[str, Any]]:
        """See `combine`."""
        return combine(ops, self.style_loss, sums, targets, weights)


@dataclass(frozen=True)
class Pull:
    """The sums of a picture times given numbers: with the derivatives of the loss in the sums of a whole picture, the
    gradient of this at a part is what the part adds to that of the loss.

    Called as `Objective`, with `cotangents` instead of weights: by the name of each of the sums (see `parts`).
    """

    style_loss: ModuleType

    @property
    def name(self) -> str:
        """What tells this objective from others."""
        return f"pull_{Objective(self.style_loss).name}"

    def __call__(
        self, ops: Any, image: Any, features: Features, targets: Arrays, cotangents: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The scalar, and no terms."""
        sums = parts(measure(ops, self.style_loss, image, features, targets))
        products = [ops.sum(sums[name] * factor) for name, factor in cotangents.items()]
        return sum(products[1:], products[0]), {}


def parts(sums: Arrays) -> dict[str, Any]:
    """By name, what in the sums of a picture depends on its pixels: all but the counts."""
    return {name: value for name, value in trees.leaves(sums, "sums").items() if not name.endswith("/count")}


class Strength(NamedTuple):
    """What `Settings.strength` comes to.

    `amount` is the share of the way that the style's statistics are from the photo's to the painting's own; `content`
    and `style` are what their weights are multiplied by.
    """

    amount: float = 1.0
    content: float = 1.0
    style: float = 1.0


# Where the statistics are the painting's own. Colours change by as much from there to 1 as their share is of the way
# from the photo to there (docs/objective.md has figures).
_PAINTING = 0.9
# What the content's weight is divided by at 1: the photo's composition is still there, though little holds it.
_LOOSEST = 16.0


def strength(settings: Settings) -> Strength:
    """What the strength of the settings comes to.

    Up to 0.9 it moves what the picture is compared with, from the photo's own statistics to the painting's, and leaves
    the weights as they are: a content loss of a deep layer does not hold colours, so weights alone cannot lead evenly
    from the photo to the painting. From 0.9 on it lets go of the content. 0 has no style loss at all. Absolute losses
    have no strength.
    """
    value = settings.strength
    if settings.loss_scale == "absolute":
        return Strength()
    if value < _PAINTING:
        return Strength(value / _PAINTING, 1.0, 1.0 if value else 0.0)
    return Strength(content=_LOOSEST ** ((_PAINTING - value) / (1 - _PAINTING)))


def weights(settings: Settings, styles: list[float], layers: Sequence[Mapping[str, float] | None] = ()) -> Arrays:
    """The scalars of the loss as float arguments, with `strength` worked in.

    Where a style has its own `layers`, "style_layers" has a dict for each style, else one for all of them.

    See `strength` for what that does to them.
    """
    towards = strength(settings)
    style_layers: Any = dict(settings.style_layers)
    if any(own is not None for own in layers):
        style_layers = [dict(settings.style_layers if own is None else own) for own in layers]
    return {
        "content": settings.content_weight * towards.content,
        "style": settings.style_weight * towards.style,
        "tv": settings.tv_weight * towards.amount,
        "content_layers": dict(settings.content_layers),
        "style_layers": style_layers,
        "styles": list(styles),
    }


def content_target(ops: Any, features: Features, taps: Mapping[str, float], *, relative: bool) -> Arrays:
    """Per tap: the content image's features (1, h, w, c) and the scale its loss is divided by."""
    return {
        tap: {
            "features": features[tap],
            "scale": ops.maximum(ops.mean(ops.square(features[tap])), _SMALLEST_SCALE)
            if relative
            else ops.ones((), features[tap].dtype),
        }
        for tap in taps
    }


def content_scale(features: np.ndarray | lazy.Picture, *, relative: bool) -> float:
    """The scale of `content_target` for features (1, h, w, c), summed in float64 and without a copy."""
    if not relative:
        return 1.0
    squares = (float(np.einsum("i,i->", part, part, dtype=np.float64)) for part in lazy.whole(features).parts())
    return max(sum(squares) / features.size, _SMALLEST_SCALE)


def style_sums(
    ops: Any,
    style_loss: ModuleType,
    features: Features,
    taps: Iterable[str],
    masks: Mapping[str, Any] | None = None,
    frames: Mapping[str, Any] | None = None,
) -> Arrays:
    """Per tap: the style loss's sums, and the number of positions they are over.

    Args: masks: of each tap, (1, h', w', 1), if only a part of the picture counts; frames: from `style_frames`.
    """
    masks, frames = masks or {}, frames or {}
    return {tap: _sums(ops, style_loss, features[tap], masks.get(tap), frames.get(tap)) for tap in taps}


def _sums(ops: Any, style_loss: ModuleType, features: Any, mask: Any, frame: Any = None) -> Arrays:
    sums = style_loss.measure(ops, features, mask, *([] if frame is None else [frame]))
    return {"sums": sums, "count": _count(ops, features, mask)}


def style_frames(style_loss: ModuleType, sums: Arrays) -> Arrays:
    """Per tap: what the style loss has to know of a style before it measures anything for it; {} if that is nothing.

    Args: `style_sums` of the style image without frames, as NumPy arrays. Returns: NumPy arrays, float64.
    """
    if not hasattr(style_loss, "frame"):
        return {}
    return {tap: style_loss.frame(_wide(measured), float(measured["count"])) for tap, measured in sums.items()}


def style_target(style_loss: ModuleType, sums: Arrays, frames: Arrays | None = None, *, relative: bool) -> Arrays:
    """Per tap: what the picture's sums are compared with, the scale its loss is divided by, and its frame if any.

    Args: `style_sums` of the style image as NumPy arrays, and the frames that they were measured with. Returns: NumPy
        arrays, float64.
    """
    targets: Arrays = {}
    for tap, measured in sums.items():
        frame = [frames[tap]] if frames else []
        target = style_loss.target(_wide(measured), float(measured["count"]), *frame)
        scale = max(float(style_loss.scale(target)), _SMALLEST_SCALE) if relative else 1.0
        targets[tap] = {"target": target, "scale": scale, **({"frame": frame[0]} if frame else {})}
    return targets


def mixed(parts: Sequence[tuple[float, Arrays]]) -> Arrays:
    """The `style_sums` of several images as if of one: each is that share of its positions, however large it is."""
    one: Arrays = {}
    for tap in parts[0][1]:
        each = [(share / float(sums[tap]["count"]), _wide(sums[tap])) for share, sums in parts]
        one[tap] = {"sums": {name: sum(by * found[name] for by, found in each) for name in each[0][1]}, "count": 1.0}
    return one


def between(style_loss: ModuleType, one: Arrays, other: Arrays, amount: float) -> Arrays:
    """The relative `style_target` that is that share of the way from one to another, measured with the same frames."""
    found: Arrays = {}
    for tap, first in one.items():
        target = getattr(style_loss, "between", _linear)(first["target"], other[tap]["target"], amount)
        scale = max(float(style_loss.scale(target)), _SMALLEST_SCALE)
        found[tap] = {**first, "target": target, "scale": scale}
    return found


def _linear(one: Arrays, other: Arrays, amount: float) -> Arrays:
    return {name: (1 - amount) * value + amount * other[name] for name, value in one.items()}


def _wide(measured: Arrays) -> Arrays:
    return {name: np.asarray(value, np.float64) for name, value in measured["sums"].items()}


def measure(ops: Any, style_loss: ModuleType, image: Any, features: Features, targets: Arrays) -> Arrays:
    """Everything about a picture that adds up over its pixels.

    Args:
        image: (1, h, w, 3) float32 in [0, 1].
        features: its taps, (1, h', w', c) each.
        targets: {"content": content_target(...), "styles": [style_target(...), ...]}, each style with the taps that it
            is compared in. A tap of a style target may have a "mask" (1, h', w', 1), the part of the picture that is to
            look like that style; where it is 1 everywhere that is the same as no mask. A region's statistics are over
            its own area, so a small one is as strong. It has the "frame" of `style_frames`, if there is one. With
            "owned", {"image" or tap: (1, h', w', 1)}, 1 where a pixel or position counts and 0 elsewhere, the picture
            is one tile of a larger one. Nothing else of the targets is used.
    """
    styles, owned = targets["styles"], targets.get("owned", {})
    compared: dict[str, list[Arrays]] = {}
    for style in styles:
        for tap, target in style.items():
            compared.setdefault(tap, []).append(target)
    content = {
        tap: {
            "sum": losses.content_sum(ops, features[tap], target["features"], owned.get(tap)),
            "count": _count(ops, features[tap], owned.get(tap)) * features[tap].shape[-1],
        }
        for tap, target in targets["content"].items()
    }
    return {
        "content": content,
        "style": {
            tap: _style_parts(ops, style_loss, features[tap], wanted, owned.get(tap))
            for tap, wanted in compared.items()
        },
        "tv": {
            "sum": losses.total_variation_sum(ops, image, owned.get("image")),
            "count": _count(ops, image, owned.get("image")),
        },
    }


def _style_parts(ops: Any, style_loss: ModuleType, features: Any, wanted: list[Arrays], owned: Any) -> list[Arrays]:
    """The sums for each style; those of the whole picture are taken once for all styles with neither mask nor frame."""
    pairs = [(target.get("mask"), target.get("frame")) for target in wanted]
    shared = [mask is None and frame is None for mask, frame in pairs]
    whole = _sums(ops, style_loss, features, owned) if any(shared) else {}

    def part(mask: Any, frame: Any) -> Arrays:
        both = owned if mask is None else mask if owned is None else mask * owned
        return _sums(ops, style_loss, features, both, frame)

    return [whole if same else part(*pair) for same, pair in zip(shared, pairs, strict=True)]


def combine(
    ops: Any, style_loss: ModuleType, sums: Arrays, targets: Arrays, weights: Arrays
) -> tuple[Any, dict[str, Any]]:
    """Loss and terms from a picture's sums.

    Args: `targets` as for `measure`, without features and masks.

    Returns: the scalar loss and its unweighted terms: "content", "style", "tv" (before content_weight, style_weight and
    tv_weight) and "content/<tap>", "style/<tap>" (before the layer's weight; a style tap's is summed over the styles
    that are compared in it, with their weights).
    """
    zero = ops.zeros_like(sums["tv"]["sum"])
    terms: dict[str, Any] = {"content": zero, "style": zero}
    for tap, target in targets["content"].items():
        part = sums["content"][tap]
        terms[f"content/{tap}"] = part["sum"] / part["count"] / target["scale"]
        terms["content"] = terms["content"] + weights["content_layers"][tap] * terms[f"content/{tap}"]
    layers = weights["style_layers"]
    for tap, parts in sums["style"].items():
        numbers = [i for i, style in enumerate(targets["styles"]) if tap in style]
        distances = []
        for i, part in zip(numbers, parts, strict=True):
            target = targets["styles"][i][tap]
            distance = style_loss.compare(ops, part["sums"], part["count"], target["target"]) / target["scale"]
            distances.append(weights["styles"][i] * distance)
        terms[f"style/{tap}"] = sum(distances[1:], distances[0])
        if isinstance(layers, Mapping):
            terms["style"] = terms["style"] + layers[tap] * terms[f"style/{tap}"]
        else:
            for i, distance in zip(numbers, distances, strict=True):
                terms["style"] = terms["style"] + layers[i][tap] * distance
    terms["tv"] = sums["tv"]["sum"] / sums["tv"]["count"]
    loss = weights["content"] * terms["content"] + weights["style"] * terms["style"] + weights["tv"] * terms["tv"]
    return loss, terms


def _count(ops: Any, features: Any, mask: Any = None) -> Any:
    """The number of positions, or the sum of their weights."""
    if mask is not None:
        return losses.total(ops, mask)
    shape = ops.shape(features)
    return ops.cast(shape[1] * shape[2], features.dtype)
