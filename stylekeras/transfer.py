"""The whole algorithm on one page: pyramid -> targets -> optimise -> colour.

A frozen network looks at a photo, at a painting and at the picture being made; gradient descent moves the picture until
its features match the photo's (content) and their statistics the painting's (style), from a coarse scale to the fine
one. Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks" (CVPR 2016).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from stylekeras import (
    blocks,
    color,
    engines,
    images,
    lazy,
    machines,
    masks,
    objective,
    paintings,
    pyramid,
    targets,
    trees,
)
from stylekeras.ahead import ahead
from stylekeras.errors import DivergedError, GraphError, SettingsError, nearest
from stylekeras.layout import Layout
from stylekeras.paintings import Painting
from stylekeras.progress import Evaluation, Progress
from stylekeras.settings import INITS, Settings, Style

DEFAULTS = Settings()
# An optimizer may step over the edge and back off; it may not stay there.
_NOT_FINITE_IN_A_ROW = 10
# Steps that a picture has to have stayed the same for; more than L-BFGS waits before it forgets its history.
_STEADY = 20


def stylize(
    content: Any, styles: Any, settings: Settings = DEFAULTS, *, callback: Callable[[Progress], object] | None = None
) -> np.ndarray:
    """Paint `content` in the style of `styles`.

    Args:
        content: a path, a PIL image or an array ((h, w), (h, w, 3|4), uint8, uint16 or float in [0, 1]); None to
            reconstruct the style alone (from noise, in the first style's shape).
        styles: one image or `Style`, or a sequence of them; empty to reconstruct the content alone.
        settings: everything else.
        callback: called with each step's `Progress`.

    Returns: (h, w, 3) float32 RGB in [0, 1], its longest side `settings.size`.
    Raises: RequestError if an input or setting is wrong, DivergedError if the loss becomes NaN or infinite.
    """
    progress = None
    for progress in iterate(content, styles, settings):
        if callback is not None:
            callback(progress)
    assert progress is not None, "a schedule has at least one step"
    picture: np.ndarray = np.clip(progress.image, 0.0, 1.0)
    return picture


def iterate(
    content: Any, styles: Any, settings: Settings = DEFAULTS, *, resume: Mapping[str, Any] | None = None
) -> Iterator[Progress]:
    """`stylize` step by step.

    Args: as for `stylize`; `resume` is the `Progress.state` of a run with the same inputs and settings, to go on after.
    Returns: an iterator over the steps of all scales. Inputs are read and checked before it is returned.
    Raises: as `stylize`; DivergedError while iterating.
    """
    made, sizes = problem(content, styles, settings)
    if resume is not None:
        _check_resume(resume, made, sizes)
    return _run(made, sizes, resume)


def problem(content: Any, styles: Any, settings: Settings) -> tuple[Problem, list[int]]:
    """A run's inputs, read and checked, and the longest sides of its scales; see `iterate`."""
    _check_settings(settings)
    start = _load_start(settings.init)
    if content is None and _sequence(styles) and (settings.init == "content" or settings.colors != "style"):
        raise SettingsError("without a content image, init must be noise, style or a picture, and colors style")
    if settings.init == "style" and not _sequence(styles):
        raise SettingsError("init=style needs a style image")
    made = _prepare(content, styles, settings, settings.size, start)
    sizes = pyramid.sizes(made.shape, settings.size, settings.min_size)
    # All are chosen now: what does not fit is found before anything is painted.
    layouts = [_layout(made, pyramid.shape_at(made.shape, size), settings.margin) for size in sizes]
    return replace(made, layouts=layouts), sizes


def loss_and_gradient(image: Any, content: Any, styles: Any, settings: Settings = DEFAULTS) -> Evaluation:
    """The objective at any picture, whoever made it.

    Args: `image` as `content`, at least 32 px a side, but floats may be outside [0, 1] (to -4 and 5), as in pictures
        that were not clipped; it is evaluated at its own size without a margin, the content resized to it, the styles
        at the size the schedule would use for it. The rest as for `stylize`.
    Raises: RequestError if an input or setting is wrong.
    """
    _check_settings(settings)
    picture = images.load_image(image, name="image", clip=False)
    problem = _prepare(content, styles, settings, max(picture.shape))
    with machines.memory_errors(problem.machine):
        shape = picture.shape[:2]
        view = _view(problem, shape, 0, _layout(problem, shape, 0))
        found = view.evaluate(view.host.tensor(picture[None]), problem.weights)
        loss, terms, gradient = view.host.array(found)
    terms = {name: float(value) for name, value in terms.items()}
    return Evaluation(float(loss), terms, gradient[0], problem.provenance)


@dataclass(frozen=True)
class Problem:
    """Everything about a run that does not change with the scale.

    `asked` are the styles as they were given, `styles` as they enter; `coverage` is how much of the picture is in any
    of them, (h, w), None if all of it is; `shape` is the photo's, (h, w); `start` a picture to start from, of any size,
    if that is not the photo or noise; `memory` what may be taken, None if that is not known; `layouts` how the picture
    is looked at, at each scale.
    """

    settings: Settings
    content: np.ndarray | None
    asked: list[Style]
    styles: list[Painting]
    coverage: np.ndarray | None
    start: np.ndarray | None
    shape: tuple[int, int]
    machine: machines.Machine
    weights: Any
    memory: int | None
    notes: list[str]
    layouts: Sequence[Layout] = ()

    @property
    def looked_at(self) -> dict[str, Any]:
        """What `machines.need` asks of a run."""
        layers = [_layers(style, self.settings) for style in self.styles]
        return {"content": self.content is not None, "styles": layers, "inputs": self.inputs}

    @property
    def inputs(self) -> int:
        """The bytes of all its images, and of what masks are at the last scale's taps."""
        arrays = [self.content, self.start, self.coverage]
        arrays += [array for style in self.styles for array in (style.image, style.mask, style.region)]
        held = sum(array.nbytes for array in {id(array): array for array in arrays if array is not None}.values())
        for style in self.styles:
            if style.mask is not None:
                fields = (self.machine.anatomy.fields[tap] for tap in _layers(style, self.settings))
                held += sum(style.mask.nbytes // (down.stride * across.stride) for down, across in fields)
        return held

    @property
    def provenance(self) -> dict[str, Any]:
        """The machine's, with what else there is to say."""
        made_by = self.machine.provenance
        return {**made_by, "notes": [*made_by["notes"], *self.notes]}


def _prepare(content: Any, styles: Any, settings: Settings, longest: int, start: np.ndarray | None = None) -> Problem:
    photo = None if content is None else images.load_image(content, name="content")
    asked = [style if isinstance(style, Style) else Style(style) for style in _sequence(styles)]
    given, notes = paintings.load(asked, None if photo is None else photo.shape[:2], longest)
    if photo is None and not given:
        raise SettingsError("neither a content nor a style image: nothing to do")
    if asked and not any(style.weight for style in asked):
        raise SettingsError("the weights of all styles are 0: leave the styles out, or give one a weight")
    shape = (given[0].image if photo is None else photo).shape[:2]
    styles, coverage = paintings.merge(given), paintings.coverage(given)
    if not _painted(settings, photo):
        # Nothing is painted: the photo to the last bit, whatever rounding makes of gradients that should be 0.
        coverage = np.zeros(pyramid.shape_at(shape, longest), np.float32)
    if photo is not None and settings.colors == "match":
        styles = [paintings.recolour(style, photo, settings.color_amount) for style in styles]
    if settings.init == "style" and styles:
        start = styles[0].image
    # Camera files are much larger than any scale of the picture: reduced once, not at every scale.
    photo = None if photo is None else _reduce(photo, longest)
    styles = [style.reduce(longest) for style in styles]
    layers = [_layers(style, settings) for style in styles]
    weights = objective.weights(settings, [style.weight for style in styles], [style.layers for style in styles])
    towards_content = photo is not None and weights["content"] * max(weights["content_layers"].values()) > 0
    heaviest = max((style.weight * max(own.values()) for style, own in zip(styles, layers, strict=True)), default=0)
    towards_style = weights["style"] * heaviest > 0
    if not (towards_content or towards_style):
        less = "" if weights["style"] or not settings.style_weight else "; at strength=0 the style has none"
        raise SettingsError(f"all weights of the content and of the style are 0: nothing to optimize for{less}")
    taps = [*(settings.content_layers if photo is not None else ()), *(tap for own in layers for tap in own)]
    machine = machines.machine(settings, tuple(dict.fromkeys(taps)))
    if any(style.mask is not None or style.region is not None for style in styles):
        _check_masks(machine)
    return Problem(
        settings=settings,
        content=photo,
        asked=asked,
        styles=styles,
        coverage=coverage,
        start=start,
        shape=shape,
        machine=machine,
        weights=machine.engine.tensor(weights),
        memory=machines.most(machine, settings),
        notes=notes,
    )


def _layers(style: Painting, settings: Settings) -> Mapping[str, float]:
    """What a style is compared in."""
    return settings.style_layers if style.layers is None else style.layers


def _check_masks(machine: machines.Machine) -> None:
    try:
        machine.anatomy  # noqa: B018 - it is looked for
    except GraphError as error:
        what = str(error).partition(", so ")[0]
        raise SettingsError(f"{what}, so masks and regions cannot be brought to its layers; leave them out") from None


def _check_settings(settings: Any) -> None:
    if not isinstance(settings, Settings):
        raise SettingsError(f"settings: expected a stylekeras.Settings, not {type(settings).__name__}")


def _load_start(init: str) -> np.ndarray | None:
    if init in INITS:
        return None
    if not os.path.exists(init):
        raise SettingsError(f"init={init!r} is not a file{nearest(init, INITS)}")
    return images.load_image(init, name="init")


def _sequence(styles: Any) -> Sequence[Any]:
    return styles if isinstance(styles, list | tuple) else [styles]


def _reduce(image: np.ndarray, longest: int) -> np.ndarray:
    return images.fit(image, longest) if max(image.shape) > longest else image


# How it is looked at may change, to another machine's memory; and "auto" in what it computed in comes to the same.
_MAY_CHANGE = ("tile", "memory", "devices", "precision")


def _identity(problem: Problem, sizes: list[int]) -> dict[str, Any]:
    """What has to be the same for a state to go on."""
    chosen = problem.settings.to_dict()
    return {
        "settings": {name: value for name, value in chosen.items() if name not in _MAY_CHANGE},
        "precision": problem.machine.provenance["precision"],
        "sizes": list(sizes),
        "shape": list(problem.shape),
        "styles": [[style.weight, style.scale, *_more(style)] for style in problem.asked],
    }


def _more(style: Style) -> list[Any]:
    """What few styles have."""
    layers = {} if style.layers is None else dict(style.layers)
    given = [style.mask is not None, style.region is not None, layers]
    return given if any(given) else []


def _check_resume(resume: Mapping[str, Any], problem: Problem, sizes: list[int]) -> None:
    missing = {"run", "scale", "step", "last", "optimizer", "terms", "moved", "tile"} - set(resume)
    if missing:
        raise SettingsError(f"resume: not a Progress.state; it lacks {', '.join(sorted(missing))}")
    if set(resume["optimizer"]) != set(problem.machine.optimizer.State._fields):
        raise SettingsError("resume: the state is of another version of this optimizer")
    now, before = _identity(problem, sizes), dict(resume["run"])
    if isinstance(before.get("settings"), Mapping):
        before["settings"] = {name: value for name, value in before["settings"].items() if name not in _MAY_CHANGE}
    if now != before:
        inner = now["settings"] if now["settings"] != before["settings"] else now
        other = before["settings"] if now["settings"] != before["settings"] else before
        name = next(name for name in {**inner, **other} if inner.get(name) != other.get(name))
        raise SettingsError(
            f"resume: the state is of another run: its {name} is {other.get(name)}, not {inner.get(name)}"
        )


def _layout(problem: Problem, shape: tuple[int, int], margin: int) -> Layout:
    """Whether the picture of that shape, with a margin around it, is looked at in tiles."""
    canvas, machine, settings = _canvas(shape, margin), problem.machine, problem.settings
    return machines.layout(machine, settings, canvas, margin, problem.memory, **problem.looked_at)


def _canvas(shape: tuple[int, int], margin: int) -> tuple[int, int]:
    return shape[0] + 2 * margin, shape[1] + 2 * margin


def _view(problem: Problem, shape: tuple[int, int], margin: int, layout: Layout) -> machines.View:
    """What that picture is compared with."""
    machine, settings, content = problem.machine, problem.settings, problem.content
    # Made one after the other, each when the one before is no longer needed.
    photo = None if content is None else lambda: _mirror(images.resize(content, *shape), margin)
    references = (_reference(problem, style, shape, margin) for style in problem.styles)
    return machines.view(machine, settings, layout, _canvas(shape, margin), margin, photo, references)


def _reference(problem: Problem, style: Painting, shape: tuple[int, int], margin: int) -> targets.Reference:
    """What the picture of that shape, with a margin around it, is compared with for a style."""
    settings, content, longest = problem.settings, problem.content, max(shape)
    return targets.Reference(
        image=lambda: style.fit_image(longest),
        layers=_layers(style, settings),
        region=style.fit_region(longest),
        mask=None if style.mask is None else _mask(style.mask, shape, margin),
        amount=objective.strength(settings).amount,
        photo=None if content is None else lambda: _mirror(images.resize(content, *shape), margin),
    )


def _mask(mask: np.ndarray, shape: tuple[int, int], margin: int) -> np.ndarray:
    """A mask of that size, with the margin mirrored as the photo's."""
    return _mirror(masks.resize(mask, *shape)[..., None], margin)[..., 0]


def _run(problem: Problem, sizes: list[int], resume: Mapping[str, Any] | None) -> Iterator[Progress]:
    began = time.perf_counter()
    picture: np.ndarray | None = None
    for scale in range(resume["scale"] if resume else 0, len(sizes)):
        here = resume if resume is not None and scale == resume["scale"] else None
        picture = yield from _scale(problem, sizes, scale, picture, here, began)


def _scale(
    problem: Problem,
    sizes: list[int],
    scale: int,
    picture: np.ndarray | None,
    resume: Mapping[str, Any] | None,
    began: float,
) -> Generator[Progress, None, np.ndarray]:
    """The steps of one scale, from the picture of the one before or from a state. Returns: its picture."""
    settings = problem.settings
    shape = pyramid.shape_at(problem.shape, sizes[scale])
    photo = None
    coverage = None if problem.coverage is None else masks.resize(problem.coverage, *shape)
    if problem.content is not None and (_keeps_colours(settings) or coverage is not None):
        photo = images.resize(problem.content, *shape)
    painter = _Painter(problem, shape, _layout_after(problem.layouts[scale], resume))
    try:
        painter.start(picture, resume)
        done = resume["step"] if resume is not None else 0
        moved: list[float] = resume["moved"] if resume is not None else []
        steps = pyramid.steps_at(settings.steps, scale)
        end = done + 1 if resume is not None and resume["last"] else steps + 1
        loop, state, not_finite = painter.loop, painter.state, 0
        with closing(ahead(painter.steps(end - done - 1), machines.steps_ahead(painter.view))) as taken:
            for step, made in enumerate(taken, done + 1):
                loop, state = made.loop, made.state
                not_finite = 0 if math.isfinite(made.evaluated) else not_finite + 1
                if not math.isfinite(made.loss) or not_finite >= _NOT_FINITE_IN_A_ROW:
                    raise DivergedError(
                        f"the loss became {made.evaluated} at step {step} of {shape[1]}x{shape[0]}; try smaller "
                        "weights, precision=float32 or optimizer=lbfgs"
                    )
                moved = [*moved[1 - _STEADY :], made.moved]
                steady = len(moved) == _STEADY and sum(moved) < settings.tolerance
                last = step == steps or steady or not _painted(settings, problem.content)
                place = {"scale": scale, "step": step, "last": last, "moved": moved, "tile": made.tile}
                place |= {"run": _identity(problem, sizes), "terms": made.terms}
                yield Progress(
                    step=step,
                    steps=steps,
                    last=last,
                    size=shape,
                    scale=scale,
                    scales=len(sizes),
                    loss=made.loss,
                    terms=dict(made.terms),
                    seconds=time.perf_counter() - began,
                    provenance=made.provenance,
                    _image=partial(_image, settings, loop, state, photo, coverage),
                    _state=partial(_state, loop.engine, state, place),
                )
                if last:
                    break
        return _cut(loop.engine.array(loop.result(state))[0], settings.margin)
    finally:
        painter.stop()


def _layout_after(layout: Layout, resume: Mapping[str, Any] | None) -> Layout:
    """The layout of a scale, or the smaller one that a state was in when memory had run out."""
    tile = None if resume is None else resume["tile"]
    if tile is None or (layout.tile is not None and layout.tile < tile):
        return layout
    return Layout(tile, layout.on_disk)


class _Made(NamedTuple):
    """What came of a step: the loss of what was evaluated, of the picture so far that picture's loss and terms, by how
    much it has changed, the optimizer's `state`, which `loop` reads, the tiles as in `_Painter`, and what did it."""

    evaluated: float
    loss: float
    terms: Mapping[str, float]
    moved: float
    state: Any
    loop: Any
    tile: int | None
    provenance: Mapping[str, Any]


class _Painter:
    """The optimizer at one scale; where memory runs out, it goes on in smaller tiles from where it was.

    `view` is what the picture is compared with, `loop` the optimizer, `state` its state before the next step.
    """

    def __init__(self, problem: Problem, shape: tuple[int, int], layout: Layout) -> None:
        self._problem = problem
        self._shape = shape
        self._terms: Mapping[str, float] = {}
        self._notes: list[str] = []
        self._held = ExitStack()
        self.state: Any = None
        # Of the tiles that memory was found to suffice for, where it ran out.
        self.tile: int | None = None
        self._layout = layout
        self._look()

    def start(self, picture: np.ndarray | None, resume: Mapping[str, Any] | None) -> None:
        """Begin with the picture of the scale before (None: there was none), or where a state left off."""
        if resume is not None:
            self.loop.restore(resume["optimizer"], resume["terms"])
            self._terms, self.tile = resume["terms"], resume["tile"]
        else:
            with machines.memory_errors(self._problem.machine):
                self.loop.start(_first_state(self._problem, self.view.host, self._shape, picture))
        self.state = self.loop.state

    def steps(self, count: int) -> Generator[_Made, None, None]:
        """That many steps."""
        for _ in range(count):
            evaluated, loss, terms, moved = self._step()
            self.state, self._terms = self.loop.state, terms
            yield _Made(evaluated, loss, terms, moved, self.state, self.loop, self.tile, self._provenance)

    def _step(self) -> engines.Step:
        while True:
            try:
                found: engines.Step = self.loop.step(self.view.targets, self._problem.weights)
                return found
            except Exception as error:
                fields = _fields(self.view.host, self.state)._asdict()
                self._shrink(error)
            # Not before the error is gone, and with it what its traceback holds in memory.
            self._look()
            self.loop.restore(fields, self._terms)

    @property
    def _provenance(self) -> dict[str, Any]:
        """The machine's, with what is this scale's own."""
        made_by, layout = self._problem.provenance, self.view.layout
        tile: dict[str, Any] = {}
        if layout.tile is not None:
            tile = {"tile": layout.tile, "tiles": self.view.parts, "held": layout.held, "disk": layout.on_disk}
        # With the same memory a run has the same tiles, and so becomes the same picture to the last bit.
        tight = any(other.tile for other in self._problem.layouts)
        memory = {"memory": self._problem.memory} if tight else {}
        return {**made_by, **tile, **memory, "notes": [*made_by["notes"], *self._notes]}

    def stop(self) -> None:
        """Let go of everything."""
        self._held.close()
        self.state = None

    def _look(self) -> None:
        """Make view and loop."""
        while True:
            try:
                self.view = _view(self._problem, self._shape, self._problem.settings.margin, self._layout)
                self.loop = self._held.enter_context(self.view.loop())
                return
            except Exception as error:
                # Nothing is held yet.
                self._layout = self._layout._replace(held=0)
                self._shrink(error)

    def _shrink(self, error: Exception) -> None:
        """Take a smaller layout if that may help against an error, which is raised if not."""
        (height, width), before = self._shape, self._layout
        self._layout = machines.less(self._problem.machine, self._problem.settings, before, self._shape, error)
        self._held.close()
        self.tile = self._layout.tile
        then = f"in tiles of {self.tile} px" if self.tile != before.tile else "tiles are looked at twice"
        self._notes.append(f"memory ran out at {width}x{height}: from there on {then}")


def _image(
    settings: Settings, loop: Any, frozen: Any, photo: np.ndarray | None, coverage: np.ndarray | None
) -> np.ndarray:
    # Copied: engines' arrays may be the state itself, and what a callback paints on it is its own.
    picture = _cut(loop.engine.array(loop.result(frozen))[0], settings.margin).copy()
    if photo is not None and _keeps_colours(settings):
        picture = color.luminance(np.clip(picture, 0.0, 1.0), photo, settings.color_amount)
    # Layers see beyond a region's border, so there the optimizer moves pixels that are in no style.
    return picture if photo is None or coverage is None else masks.blend(photo, picture, coverage)


def _keeps_colours(settings: Settings) -> bool:
    return settings.colors == "luminance" and settings.color_amount > 0


def _state(host: Any, frozen: Any, rest: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**rest, "optimizer": _Fields(host, frozen)}


class _Fields(Mapping[str, Any]):
    """An optimizer's state by field, as NumPy arrays that are copied when they are asked for: together they may not fit
    into memory a second time. What is on disk stays there, for `np.asarray`; a history may be a tuple of pictures."""

    def __init__(self, host: Any, state: Any) -> None:
        self._host = host
        self._state = state

    def __getitem__(self, name: str) -> Any:
        if name not in self._state._fields:
            raise KeyError(name)
        found = _fields(self._host, getattr(self._state, name))
        return np.array(found) if isinstance(found, np.ndarray) else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._state._fields)

    def __len__(self) -> int:
        return len(self._state._fields)


def _fields(host: Any, value: Any) -> Any:
    """A nested structure as NumPy arrays, but for pictures that are on disk."""
    return trees.transform(lambda item: item if isinstance(item, lazy.Picture) else host.array(item), value)


def _first_state(problem: Problem, host: Any, shape: tuple[int, int], picture: np.ndarray | None) -> Any:
    """The optimizer's state at the start of a scale, from the picture of the one before if there was one."""
    before = _start(problem, shape) if picture is None else _enlarged(problem, shape, picture)
    if problem.coverage is not None and problem.content is not None:
        photo = images.resize(problem.content, *shape)
        before = masks.blend(photo, before, masks.resize(problem.coverage, *shape))
    canvas = _mirror(before, problem.settings.margin)
    options = _options(problem, host, canvas, first=picture is None)
    return problem.machine.optimizer.init(host.ops, host.tensor(canvas[None]), clip=problem.settings.clip, **options)


def _enlarged(problem: Problem, shape: tuple[int, int], picture: np.ndarray) -> np.ndarray:
    """The picture of the scale before, with as much of the photo's finer detail as is to be left of the photo."""
    left = 1 - _painted(problem.settings, problem.content)
    if not left or problem.content is None:
        return images.resize(picture, *shape, linear=False)
    found = images.resize(problem.content, *shape)
    found -= images.resize(images.resize(problem.content, *picture.shape[:2]), *shape, linear=False)
    found *= np.float32(left)
    found += images.resize(picture, *shape, linear=False)
    return np.clip(found, 0.0, 1.0, out=found)


def _painted(settings: Settings, photo: np.ndarray | None) -> float:
    """How far from the photo a run that starts from it goes; 1 if it starts elsewhere."""
    return objective.strength(settings).amount if settings.init == "content" and photo is not None else 1.0


def _start(problem: Problem, shape: tuple[int, int]) -> np.ndarray:
    """The picture before the first step, (h, w, 3) in [0, 1]."""
    settings = problem.settings
    random = np.random.default_rng(settings.seed)
    image: np.ndarray
    if problem.start is not None:
        image = _cover(problem.start, shape)
    elif settings.init == "content" and problem.content is not None:
        image = images.resize(problem.content, *shape)
    else:
        image = np.empty((*shape, 3), np.float64)
        for rows in blocks.rows(image.shape):
            image[rows] = random.normal(0.5, 0.15, image[rows].shape)
    # All positions of a flat area have the same features and so the same gradient: nothing there would ever become a
    # stroke without something to grow from.
    amount = _painted(settings, problem.content)
    for rows in blocks.rows(image.shape):
        noise = amount * settings.init_noise * random.standard_normal(image[rows].shape)
        image[rows] = np.clip(image[rows] + noise, 0.0, 1.0)
    return image.astype(np.float32, copy=False)


def _options(problem: Problem, host: Any, canvas: np.ndarray, *, first: bool) -> dict[str, Any]:
    """What the optimizer is told beforehand, of a run's first scale or of a later one that starts at `canvas`."""
    settings = problem.settings
    if settings.optimizer == "adam":
        return {"learning_rate": settings.learning_rate}
    # It is that of a picture; from noise it led L-BFGS astray for its first dozens of steps.
    curvature = None if settings.init == "noise" else problem.machine.objective.style_loss.CURVATURE
    toward = None
    if first and settings.init == "content" and problem.content is not None and problem.styles:
        # The photo in the paintings' colours: where L-BFGS gets by itself too, a dozen steps later.
        margin, shape = settings.margin, (canvas.shape[0] - 2 * settings.margin, canvas.shape[1] - 2 * settings.margin)
        where = [None if style.mask is None else _mask(style.mask, shape, margin) for style in problem.styles]
        amount = _painted(settings, problem.content)
        coloured = paintings.colour(np.clip(canvas, 0.0, 1.0), problem.styles, where, amount)
        if problem.coverage is not None:
            coloured = masks.blend(canvas, coloured, _mask(problem.coverage, shape, margin))
        toward = host.tensor(coloured[None])
    return {"curvature": curvature, "toward": toward}


def _cover(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The largest middle part of `image` with the aspect of `shape`, resized to it: cut, not squashed."""
    factor = min(image.shape[0] / shape[0], image.shape[1] / shape[1])
    height, width = (min(image.shape[i], max(1, round(shape[i] * factor))) for i in range(2))
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return images.resize(image[top : top + height, left : left + width], *shape)


def _mirror(image: np.ndarray, margin: int) -> np.ndarray:
    """(h, w, 3) with a mirrored margin on every side: where the network's zeros beyond the border leave their marks."""
    if not margin:
        return image
    return np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")


def _cut(canvas: np.ndarray, margin: int) -> np.ndarray:
    """The picture without its margin."""
    return canvas[margin : canvas.shape[0] - margin, margin : canvas.shape[1] - margin]
