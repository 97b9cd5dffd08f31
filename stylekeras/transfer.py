"""The whole algorithm on one page: pyramid -> targets -> optimise -> colour.

A frozen network looks at a photo, at a painting and at the picture being made; gradient descent moves the picture until
its features match the photo's (content) and their statistics the painting's (style), from a coarse scale to the fine
one. Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks" (CVPR 2016).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from stylekeras import color, engines, images, objective, optimizers, pyramid, style_losses
from stylekeras import weights as weight_sets
from stylekeras.errors import DivergedError, SettingsError, nearest
from stylekeras.progress import Evaluation, Progress
from stylekeras.settings import INITS, Settings, Style

DEFAULTS = Settings()
# An optimizer may step over the edge and back off; it may not stay there.
_NOT_FINITE_IN_A_ROW = 10


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
    start = _load_start(settings.init)
    problem = _prepare(content, styles, settings)
    sizes = pyramid.sizes(problem.shape, settings.size, settings.min_size)
    if resume is not None and resume["sizes"] != sizes:
        raise SettingsError(f"resume: the state is of a run with sizes {resume['sizes']}, these settings give {sizes}")
    return _run(problem, sizes, start, resume)


def loss_and_gradient(image: Any, content: Any, styles: Any, settings: Settings = DEFAULTS) -> Evaluation:
    """The objective at any picture, whoever made it.

    Args: `image` as `content`, at least 32 px a side; it is evaluated at its own size without a margin, the content
        resized to it, the styles at the size the schedule would use for it. The rest as for `stylize`.
    Raises: RequestError if an input or setting is wrong.
    """
    picture = images.load_image(image, name="image")
    problem = _prepare(content, styles, settings)
    targets = _targets(problem, picture.shape[:2], margin=0)
    evaluate = problem.engine.evaluator(problem.objective)
    evaluated = evaluate(problem.engine.tensor(picture[None]), targets, problem.weights)
    loss, terms, gradient = problem.engine.array(evaluated)
    terms = {name: float(value) for name, value in terms.items()}
    return Evaluation(float(loss), terms, gradient[0], problem.provenance)


@dataclass(frozen=True)
class _Problem:
    """Everything about a run that does not change with the scale."""

    settings: Settings
    content: np.ndarray | None
    styles: list[tuple[np.ndarray, Style]]
    engine: Any
    extract: Callable[[Any], dict[str, Any]]
    style_loss: ModuleType
    weights: Any
    provenance: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        image = self.styles[0][0] if self.content is None else self.content
        return image.shape[0], image.shape[1]

    def objective(self, image: Any, targets: Any, weights: Any) -> tuple[Any, dict[str, Any]]:
        ops = self.engine.ops
        sums = objective.measure(ops, self.style_loss, image, self.extract(image), targets)
        return objective.combine(ops, self.style_loss, sums, targets, weights)


def _prepare(content: Any, styles: Any, settings: Settings) -> _Problem:
    photo = None if content is None else images.load_image(content, name="content")
    painted = [style if isinstance(style, Style) else Style(style) for style in _sequence(styles)]
    paintings = [images.load_image(style.image, name=f"style {i + 1}") for i, style in enumerate(painted)]
    if photo is None and not paintings:
        raise SettingsError("neither a content nor a style image: nothing to do")
    if photo is None and (settings.init == "content" or settings.colors != "style"):
        raise SettingsError("without a content image, init must be noise, style or a picture, and colors style")
    if photo is not None and settings.colors == "match":
        paintings = [color.match(painting, photo) for painting in paintings]

    engine = engines.load(settings.engine, settings.precision)
    loaded = weight_sets.load(settings.weights, settings.backbone, seed=settings.seed)
    taps = [*(settings.content_layers if photo is not None else ()), *(settings.style_layers if paintings else ())]
    extract = engine.backbone(loaded, taps, pooling=settings.pooling, padding=settings.padding)
    provenance = {
        "engine": engine.name,
        "engine_version": engine.version,
        "device": engine.device,
        "precision": engine.precision,
        "backbone": loaded.backbone,
        "weights": loaded.card.name,
        "weights_source": loaded.source,
        "weights_sha256": loaded.sha256,
        "notes": list(loaded.notes),
    }
    return _Problem(
        settings=settings,
        content=photo,
        styles=list(zip(paintings, painted, strict=True)),
        engine=engine,
        extract=extract,
        style_loss=style_losses.load(settings.style_loss),
        weights=engine.tensor(objective.weights(settings, [style.weight for style in painted])),
        provenance=provenance,
    )


def _load_start(init: str) -> np.ndarray | None:
    if init in INITS:
        return None
    if not Path(init).exists():
        raise SettingsError(f"init={init!r} is not a file{nearest(init, INITS)}")
    return images.load_image(init, name="init")


def _sequence(styles: Any) -> Sequence[Any]:
    return styles if isinstance(styles, list | tuple) else [styles]


def _targets(problem: _Problem, shape: tuple[int, int], *, margin: int) -> Any:
    """What the picture of that shape, with a margin around it, is compared with."""
    engine, settings = problem.engine, problem.settings
    relative = settings.loss_scale == "relative"

    def features(image: np.ndarray) -> Any:
        return problem.extract(engine.tensor(image[None]))

    content: Any = {}
    if problem.content is not None:
        seen = features(_mirror(images.resize(problem.content, *shape), margin))
        content = objective.content_target(engine.ops, seen, settings.content_layers, relative=relative)
    targets = []
    for image, style in problem.styles:
        longest = max(round(max(shape) * style.scale), pyramid.smallest_longest(image.shape[:2]))
        seen = features(images.fit(image, longest))
        sums = objective.style_sums(engine.ops, problem.style_loss, seen, settings.style_layers)
        targets.append(objective.style_target(engine.ops, problem.style_loss, sums, relative=relative))
    return {"content": content, "styles": targets}


def _run(
    problem: _Problem, sizes: list[int], start: np.ndarray | None, resume: Mapping[str, Any] | None
) -> Iterator[Progress]:
    settings, engine = problem.settings, problem.engine
    optimizer = optimizers.load(settings.optimizer)
    options = {"learning_rate": settings.learning_rate} if settings.optimizer == "adam" else {}
    loop = engine.loop(problem.objective, optimizer)
    began = time.perf_counter()
    picture: np.ndarray | None = None
    for scale in range(resume["scale"] if resume else 0, len(sizes)):
        shape = pyramid.shape_at(problem.shape, sizes[scale])
        targets = _targets(problem, shape, margin=settings.margin)
        done = 0
        if resume is not None and scale == resume["scale"]:
            done = resume["step"]
            loop.restore(resume["optimizer"], resume["terms"])
        else:
            image = _start(problem, shape, start) if picture is None else images.resize(picture, *shape, linear=False)
            canvas = _mirror(image, settings.margin)
            loop.start(optimizer.init(engine.ops, engine.tensor(canvas[None]), clip=settings.clip, **options))
        steps = pyramid.steps_at(settings.steps, scale)
        not_finite = 0
        for step in range(done + 1, steps + 1):
            evaluated, loss, terms = loop.step(targets, problem.weights)
            not_finite = 0 if math.isfinite(evaluated) else not_finite + 1
            if not math.isfinite(loss) or not_finite >= _NOT_FINITE_IN_A_ROW:
                raise DivergedError(
                    f"the loss became {evaluated} at step {step} of {shape[1]}x{shape[0]}; try smaller weights, "
                    "precision=float32 or optimizer=lbfgs"
                )
            yield _report(problem, loop, sizes, shape, scale, step, steps, loss, terms, time.perf_counter() - began)
        picture = _cut(engine.array(loop.image)[0], settings.margin)


def _start(problem: _Problem, shape: tuple[int, int], start: np.ndarray | None) -> np.ndarray:
    """The picture before the first step, (h, w, 3) in [0, 1]."""
    settings = problem.settings
    random = np.random.default_rng(settings.seed)
    image: np.ndarray
    if start is not None:
        image = images.resize(start, *shape)
    elif settings.init == "content" and problem.content is not None:
        image = images.resize(problem.content, *shape)
    elif settings.init == "style" and problem.styles:
        image = images.resize(problem.styles[0][0], *shape)
    else:
        image = random.normal(0.5, 0.15, (*shape, 3))
    # All positions of a flat area have the same features and so the same gradient: nothing there would ever become a
    # stroke without something to grow from.
    image = image + settings.init_noise * random.standard_normal(image.shape)
    return np.clip(image, 0.0, 1.0).astype(np.float32)


def _mirror(image: np.ndarray, margin: int) -> np.ndarray:
    """(h, w, 3) with a mirrored margin on every side: where the network's zeros beyond the border leave their marks."""
    return np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")


def _cut(canvas: np.ndarray, margin: int) -> np.ndarray:
    """The picture without its margin."""
    return canvas[margin : canvas.shape[0] - margin, margin : canvas.shape[1] - margin]


def _report(
    problem: _Problem,
    loop: Any,
    sizes: list[int],
    shape: tuple[int, int],
    scale: int,
    step: int,
    steps: int,
    loss: float,
    terms: dict[str, float],
    seconds: float,
) -> Progress:
    frozen = loop.state

    def image() -> np.ndarray:
        picture: np.ndarray = _cut(problem.engine.array(loop.result(frozen))[0], problem.settings.margin)
        if problem.settings.colors == "luminance" and problem.content is not None:
            return color.luminance(np.clip(picture, 0.0, 1.0), images.resize(problem.content, *shape))
        return picture

    def state() -> Mapping[str, Any]:
        arrays = problem.engine.array(frozen)
        return {"sizes": sizes, "scale": scale, "step": step, "optimizer": arrays._asdict(), "terms": terms}

    return Progress(
        step=step,
        steps=steps,
        size=shape,
        scale=scale,
        scales=len(sizes),
        loss=loss,
        terms=terms,
        seconds=seconds,
        provenance=problem.provenance,
        _image=image,
        _state=state,
    )
