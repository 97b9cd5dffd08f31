"""Loss curves: the numbers of a run, step by step, and a picture of them, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from PIL import Image, ImageDraw, ImageFont

import stylekeras as sk
from stylekeras import objective

from .contact import shortened

Colour: TypeAlias = tuple[int, int, int]

# Numbers that a checkpoint keeps of a curve: about 12 characters each, of the million that its description may have.
_KEPT = 40_000

# Drawn larger and reduced: Pillow's lines have no soft edges.
_FINE = 3
_WIDTH, _LEFT, _LEGEND, _GAP, _ROW, _LEAST = 1100, 76, 268, 36, 21, 300
_INK, _FAINT, _GRID, _PAPER = (32, 32, 32), (120, 120, 120), (228, 228, 228), (255, 255, 255)
# Okabe and Ito's colours, which colour-blind readers tell apart too.
_TERMS: dict[str, Colour] = {"content": (0, 114, 178), "style": (213, 94, 0), "tv": (0, 158, 115)}
# Layers from shallow to deep.
_LAYERS: dict[str, tuple[Colour, Colour]] = {
    "content": ((120, 190, 235), (0, 82, 140)),
    "style": ((250, 170, 60), (120, 10, 90)),
}
# What falls below is left out: a term that is zero but for rounding would press everything else together.
_DECADES = 8.0


class Point(NamedTuple):
    """A step: its number over all scales, its scale's (height, width), the loss and its unweighted terms."""

    step: int
    size: tuple[int, int]
    loss: float
    terms: Mapping[str, float]


@dataclass
class Curve:
    """The losses of a run. `points` are in the order of the steps; the same terms are in all of them."""

    points: list[Point] = field(default_factory=list)

    def add(self, step: int, progress: sk.Progress) -> None:
        """Record a step; `step` counts over all scales."""
        self.points.append(Point(step, progress.size, progress.loss, dict(progress.terms)))

    def until(self, step: int) -> Curve:
        """Without what came after a step."""
        return Curve([point for point in self.points if point.step <= step])

    def to_dict(self) -> dict[str, Any]:
        """As JSON of at most half a million characters; of a long run every second step, or fewer."""
        names = list(self.points[0].terms) if self.points else []
        stride = math.ceil(len(self.points) * (len(names) + 4) / _KEPT)
        rows = [
            [point.step, *point.size, _rounded(point.loss), *(_rounded(point.terms.get(name, 0.0)) for name in names)]
            for point in self.points[:: max(1, stride)]
        ]
        return {"terms": names, "rows": rows}

    @classmethod
    def from_dict(cls, value: Any) -> Curve:
        """What `to_dict` gave. It may come from a stranger's file. Raises: ValueError if it is nothing like that."""
        try:
            names, points = [str(name) for name in value["terms"]], []
            for step, height, width, loss, *terms in value["rows"]:
                numbers = dict(zip(names, map(float, terms), strict=True))
                points.append(Point(int(step), (int(height), int(width)), float(loss), numbers))
            steps = [0, *(point.step for point in points), 1 << 40]
            if not all(first < second for first, second in pairwise(steps)):
                raise ValueError("its steps are in disorder")
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a curve: {error}") from error
        return cls(points)


class _Line(NamedTuple):
    """A curve to draw: its values by step, at most one for each of the curve's points."""

    name: str
    colour: Colour
    width: float
    values: Sequence[float]


def draw(curve: Curve, settings: sk.Settings, title: str) -> Image.Image:
    """Two panels over the steps of all scales, their losses on a logarithmic axis.

    Above, the loss and what it is the sum of: content, style and total variation times their weights (a weight only
    moves a line up or down there). Below, what each layer adds to them before its weight. Dotted lines are the ends of
    scales. A line has gaps where its value is not above 0, or lies 8 decades below the greatest.

    Args:
        curve: Of at least one step.
        settings: The run's: they say what the weights are.

    Returns: an RGB image, 1100 px wide.
    """
    weights, points = objective.weights(settings, []), curve.points
    first = [_Line("loss", _INK, 2.5, [point.loss for point in points])]
    for name, colour in _TERMS.items():
        values = [weights[name] * point.terms.get(name, 0.0) for point in points]
        first.append(_Line(f"{weights[name]:.4g} x {name}", colour, 1.7, values))
    second = []
    for kind, (shallow, deep) in _LAYERS.items():
        names = [name for name in points[0].terms if name.startswith(f"{kind}/")]
        for i, name in enumerate(names):
            colour = _between(shallow, deep, (i + 1) / len(names))
            second.append(_Line(name, colour, 1.7, [point.terms.get(name, 0.0) for point in points]))
    panels = [("loss and its weighted terms", _seen(first)), ("layers, before their weights", _seen(second))]
    heights = [max(_LEAST, _ROW * len(lines)) for _, lines in panels]
    sheet = _Sheet(_WIDTH, 44 + sum(heights) + 2 * _GAP * len(heights))
    sheet.text((_LEFT, 14), shortened(title, sheet.font(17), (_WIDTH - 2 * _LEFT) * _FINE), size=17)
    top = 50 + _GAP
    for (name, lines), height in zip(panels, heights, strict=True):
        _panel(sheet, top, height, name, points, lines)
        top += height + 2 * _GAP
    return sheet.reduced()


def _panel(sheet: _Sheet, top: int, height: int, title: str, points: Sequence[Point], lines: Sequence[_Line]) -> None:
    right, bottom = _WIDTH - _LEGEND, top + height
    start, end = points[0].step, max(points[-1].step, points[0].step + 1)
    shown = [value for line in lines for value in line.values if _plain(value)]
    high = max(shown, default=1.0)
    low = min((value for value in shown if value >= high / 10**_DECADES), default=high)
    # A little room, and at least a third of a decade.
    room = max(0.04 * math.log10(high / low), (0.33 - math.log10(high / low)) / 2)
    base, scale = math.log10(low) - room, height / (math.log10(high / low) + 2 * room)

    def x(step: float) -> float:
        return _LEFT + (step - start) / (end - start) * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - (math.log10(value) - base) * scale

    sheet.text((_LEFT, top - 38), title, fill=_FAINT)
    for value in log_ticks(10**base, 10 ** (base + height / scale), most=height // 30):
        sheet.line([(_LEFT, y(value)), (right, y(value))], _GRID, 1)
        sheet.text((_LEFT - 8, y(value)), f"{value:g}", anchor="rm")
    for step in step_ticks(start, end):
        sheet.line([(x(step), bottom), (x(step), bottom + 5)], _FAINT, 1)
        sheet.text((x(step), bottom + 8), str(step), anchor="mt")
    sheet.text((right + 22, bottom + 8), "step", fill=_FAINT, anchor="lt")
    parts = _parts(points)
    for i, part in enumerate(parts):
        left = x(points[part.start].step - (0.5 if i else 0))
        if i:
            sheet.line([(left, top), (left, bottom)], _FAINT, 1, dotted=True)
        name = "{1}x{0}".format(*points[part.start].size)
        until = x(points[parts[i + 1].start].step) if i + 1 < len(parts) else right
        if sheet.width(name, 12) + 8 < until - left:
            sheet.text((left + 4 * (i > 0), top - 4), name, fill=_FAINT, anchor="lb", size=12)
    for line in reversed(lines):  # the first lies on top
        for part in parts:
            steps = [point.step for point in points[part]]
            run: list[tuple[float, float]] = []
            for step, value in [*zip(steps, line.values[part], strict=True), (0, math.nan)]:
                if _plain(value) and value >= low:
                    run.append((x(step), y(value)))
                elif run:
                    sheet.line(run, line.colour, line.width)
                    run = []
    sheet.line([(_LEFT, top), (right, top), (right, bottom), (_LEFT, bottom), (_LEFT, top)], _FAINT, 1)
    for i, line in enumerate(lines):
        middle = top + _ROW * (i + 0.5)
        sheet.line([(right + 16, middle), (right + 38, middle)], line.colour, max(2.2, line.width))
        last = f"{line.values[-1]:.3g}"
        room = _LEGEND - 46 - 16 - sheet.width(last) - 8
        sheet.text((right + 46, middle), shortened(line.name, sheet.font(), room * _FINE), anchor="lm")
        sheet.text((_WIDTH - 16, middle), last, fill=_FAINT, anchor="rm")
    if not lines:
        sheet.text(((_LEFT + right) / 2, top + height / 2), "nothing above 0", fill=_FAINT, anchor="mm")


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`, both above 0, for a logarithmic axis, about `most`: 1, 2 and 5 of each
    decade, only 1 of each if these are too many, or of every second, third ... decade."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for mantissas, stride in [((1, 2, 5), 1), *(((1,), stride) for stride in range(1, last - first + 2))]:
        exponents = [exponent for exponent in range(first, last + 1) if exponent % stride == 0]
        found = [float(f"{mantissa}e{exponent}") for exponent in exponents for mantissa in mantissas]
        found = [value for value in found if low <= value <= high]
        if len(found) <= max(2, most):
            break
    return found


def step_ticks(start: int, end: int, most: int = 10) -> list[int]:
    """Round numbers of steps from `start` to `end`, at most `most`."""
    stride = next(
        mantissa * 10**exponent
        for exponent in range(20)
        for mantissa in (1, 2, 5)
        if (end - start) // (mantissa * 10**exponent) < most
    )
    return list(range(-(-start // stride) * stride, end + 1, stride))


class _Sheet:
    """White paper to draw on, in pixels of the finished picture."""

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width * _FINE, height * _FINE), _PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def font(self, size: int = 13) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return ImageFont.load_default(size * _FINE)

    def width(self, text: str, size: int = 13) -> float:
        return self.font(size).getlength(text) / _FINE

    def text(
        self, at: tuple[float, float], text: str, *, fill: Colour = _INK, anchor: str = "la", size: int = 13
    ) -> None:
        place = (at[0] * _FINE, at[1] * _FINE)
        self._draw.text(place, text, fill=fill, font=self.font(size), anchor=anchor)

    def line(
        self, points: Iterable[tuple[float, float]], colour: Colour, width: float, *, dotted: bool = False
    ) -> None:
        """Through all points; one alone is a dot. `dotted` is for an upright line."""
        places = [(x * _FINE, y * _FINE) for x, y in points]
        broad = round(width * _FINE)
        if dotted:
            (x, top), (_, bottom) = places
            for y in range(round(top), round(bottom), 6 * _FINE):
                self._draw.line([(x, y), (x, y + 2 * _FINE)], colour, broad)
        elif len(places) == 1:
            self._draw.circle(places[0], broad, colour)
        else:
            self._draw.line(places, colour, broad, joint="curve")

    def reduced(self) -> Image.Image:
        return self._image.reduce(_FINE)


def _parts(points: Sequence[Point]) -> list[slice]:
    """The points of each scale."""
    starts = [0, *(i for i in range(1, len(points)) if points[i].size != points[i - 1].size)]
    return [slice(start, end) for start, end in pairwise([*starts, len(points)])]


def _seen(lines: Iterable[_Line]) -> list[_Line]:
    """Those that have something to be seen."""
    return [line for line in lines if any(map(_plain, line.values))]


def _plain(value: float) -> bool:
    """Whether it has a place on a logarithmic axis."""
    return math.isfinite(value) and value > 0


def _between(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
