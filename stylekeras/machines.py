"""What evaluates the objective: network, losses and optimizer on an engine, built once; pictures whole or tiled."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from stylekeras import backbones, engines, lazy, memory, objective, optimizers, style_losses, targets, tiling
from stylekeras import layout as layouts
from stylekeras.errors import EngineError, GraphError, RunError, SettingsError
from stylekeras.host import Host, HostLoop, HostOnDisk
from stylekeras.layout import Layout, Need
from stylekeras.settings import Settings

_OUT_OF_MEMORY = "out of memory; use a smaller size or tile, or precision=bfloat16 where the engine has it"


@dataclass(frozen=True)
class Machine:
    """What is built and compiled once and serves every picture."""

    engine: Any
    extract: Callable[[Any], dict[str, Any]]
    objective: objective.Objective
    optimizer: ModuleType
    provenance: Mapping[str, Any]
    evaluate: Callable[[Any, Any, Any], tuple[Any, Any, Any]]
    # Loops hold pictures, so two runs at a time need two; the finished ones wait here.
    idle: list[Any]
    look: Callable[[], tiling.Anatomy]

    @cached_property
    def anatomy(self) -> tiling.Anatomy:
        """The network's. Raises: GraphError if what its taps see of a picture cannot be told, or is all of it."""
        return self.look()

    def new_loop(self) -> Any:
        """The optimizer's state and step on the engine."""
        return self.engine.loop(self.extract, self.objective, self.optimizer)

    @cached_property
    def measure(self) -> Callable[[Any, Any], Any]:
        """(image, targets) -> sums."""
        measurer: Callable[[Any, Any], Any] = self.engine.measurer(self.extract, self.objective)
        return measurer

    @cached_property
    def vjp(self) -> Callable[[Any, Any], tuple[Any, Callable[[Any], Any]]]:
        """(image, targets) -> (sums, cotangents -> their product's gradient in the image, once)."""
        vjp: Callable[[Any, Any], tuple[Any, Callable[[Any], Any]]] = self.engine.vjp(self.extract, self.objective)
        return vjp

    def each(self, function: Callable[..., Any], given: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """What `measure` or `pull` makes of each arguments, as many at the same time as there are devices."""
        if self.engine.devices == 1:
            yield from itertools.starmap(function, given)
            return
        given = iter(given)
        while group := list(itertools.islice(given, self.engine.devices)):
            yield from self.engine.together(function, group)

    @cached_property
    def differentiate(self) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(sums, targets, weights) -> (loss, terms, gradient)."""
        differentiator: Callable[[Any, Any, Any], tuple[Any, Any, Any]] = self.engine.differentiator(self.objective)
        return differentiator

    @cached_property
    def pull(self) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(image, targets, cotangents) -> (their product with the sums, no terms, its gradient in the image)."""
        pull: Callable[[Any, Any, Any], tuple[Any, Any, Any]] = self.engine.evaluator(
            self.extract, objective.Pull(self.objective.style_loss)
        )
        return pull


@dataclass(frozen=True)
class View:
    """A picture's size and what it is compared with."""

    machine: Machine
    targets: Any
    layout: Layout

    @property
    def host(self) -> Any:
        """Whose arrays the picture is in: the engine."""
        return self.machine.engine

    @property
    def parts(self) -> int:
        """How many times the network runs for a step."""
        return 1

    def evaluate(self, image: Any, weights: Any) -> tuple[Any, dict[str, Any], Any]:
        """Loss, terms and gradient of a picture (1, h, w, 3)."""
        return self.machine.evaluate(image, self.targets, weights)

    @contextmanager
    def loop(self) -> Iterator[Any]:
        """The optimizer's state and step, for as long as it is needed."""
        machine = self.machine
        loop = machine.idle.pop() if machine.idle else machine.new_loop()
        try:
            yield loop
        finally:
            loop.rest()
            machine.idle.append(loop)


@dataclass(frozen=True)
class TiledView(View):
    """As `View`, in tiles: the network on the engine, the picture and the optimizer in the machine's own memory.

    `targets` is what sums are compared with; `content` has each tap of the whole photo, (1, h', w', c), and `masks`
    those of each style, (1, h', w', 1), if it has one.
    """

    content: Mapping[str, np.ndarray | lazy.Stored]
    masks: Sequence[Mapping[str, np.ndarray | lazy.Stored]]
    tiles: list[tiling.Tile]

    @property
    def host(self) -> Any:
        """NumPy."""
        return HostOnDisk() if self.layout.on_disk else Host()

    @property
    def parts(self) -> int:
        """How many tiles there are."""
        return len(self.tiles)

    def evaluate(self, image: np.ndarray | lazy.Stored, weights: Any) -> tuple[Any, dict[str, Any], Any]:
        """Loss, terms and gradient of a picture (1, h, w, 3)."""
        machine, engine = self.machine, self.machine.engine
        # The last ones, whose second look is the first: the network is not run again for it.
        count = len(self.tiles) - self.layout.held
        again, held, pulls = self.tiles[:count], self.tiles[count:], []

        def given(tile: tiling.Tile) -> tuple[Any, Any]:
            return engine.tensor(tile.cut(image)), self._given(tile)

        def measure() -> Iterator[Any]:
            yield from map(engine.array, machine.each(machine.measure, map(given, again)))
            for tile in held:
                sums, pull = machine.vjp(*given(tile))
                pulls.append(pull)
                yield engine.array(sums)

        sums = tiling.add_up(measure())
        loss, terms, found = machine.differentiate(engine.tensor(sums), self.targets, weights)
        cotangents = objective.parts(found)

        def pull() -> Iterator[tuple[tiling.Tile, Any]]:
            for tile in reversed(held):
                yield tile, engine.array(pulls.pop()(cotangents))
            found = machine.each(machine.pull, ((*given(tile), cotangents) for tile in again))
            for tile, (_, _, gradient) in zip(again, found, strict=True):
                yield tile, engine.array(gradient)

        return engine.array(loss), engine.array(terms), tiling.gradient(image, pull())

    def _given(self, tile: tiling.Tile) -> Any:
        """The targets of a tile."""
        fields = self.machine.anatomy.fields
        content = {tap: {"features": tile.cut_tap(whole, fields[tap])} for tap, whole in self.content.items()}
        styles = []
        for style, mask in zip(self.targets["styles"], self.masks, strict=True):
            known = {tap: {"frame": target["frame"]} if "frame" in target else {} for tap, target in style.items()}
            styles.append(targets.of_tile(tile, fields, known, mask))
        return self.machine.engine.tensor({"content": content, "styles": styles, "owned": tile.owned(fields)})

    @contextmanager
    def loop(self) -> Iterator[Any]:
        """The optimizer's state and step, on the processor."""
        host, optimizer = self.host, self.machine.optimizer

        def advance(state: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            loss, terms, gradient = self.evaluate(state.image, weights)
            with np.errstate(all="ignore"):  # a trial that is not finite is rejected
                return loss, terms, host.keep(optimizer.update(host.ops, state, loss, gradient))

        yield HostLoop(host, optimizer, advance)


def need(
    machine: Machine,
    settings: Settings,
    canvas: tuple[int, int],
    margin: int,
    *,
    content: bool,
    styles: Sequence[Iterable[str]],
    inputs: int,
) -> Need:
    """What a picture of that shape, the margin included, takes of memory.

    Args: content: whether there is a photo; styles: the layers of each style; inputs: the bytes of the images that the
        run was given.
    Raises: GraphError as `Machine.anatomy`.
    """
    kept = sum(machine.anatomy.densities[tap] for tap in settings.content_layers) if content else 0.0
    optimizer, anatomy = machine.optimizer, machine.anatomy
    # A loss that keeps much measures for each style anew.
    each = getattr(machine.objective.style_loss, "ACTIVATIONS", 0)
    measured = each * sum(anatomy.densities[tap] for layers in styles for tap in layers)
    return Need(
        machine.engine.footprint,
        anatomy._replace(activations=anatomy.activations + measured),
        canvas,
        margin,
        kept,
        optimizer.PICTURES,
        optimizer.ON_DISK,
        inputs,
        machine.engine.devices,
        spread=settings.devices != "auto",
    )


def layout(
    machine: Machine,
    settings: Settings,
    canvas: tuple[int, int],
    margin: int,
    most: int | None,
    *,
    content: bool,
    styles: Sequence[Iterable[str]],
    inputs: int,
) -> Layout:
    """How a picture of that shape is looked at, in `most` bytes (None: not known); the rest as for `need`.

    Raises: SettingsError if it does not fit into the memory there is, or on the disk what would have to lie there;
        GraphError for a network that has no tiles.
    """
    try:
        needed = need(machine, settings, canvas, margin, content=content, styles=styles, inputs=inputs)
    except GraphError:
        if isinstance(settings.tile, int):
            raise
        return Layout()
    chosen = layouts.choose(needed, settings.tile, most)
    files, folder = layouts.disk(needed, chosen), tempfile.gettempdir()
    if files and files > (free := shutil.disk_usage(folder).free):
        raise SettingsError(
            f"{canvas[1]}x{canvas[0]} pixels take {memory.text(files)} of temporary files in so little memory, and "
            f"{folder} has {memory.text(free)}; set TMPDIR to a folder with more room, give it more memory, or use a "
            "smaller size"
        )
    return chosen


def steps_ahead(view: View) -> int:
    """How many steps are computed in a thread before they are asked for.

    On a GPU one, so that it does not wait for what is done with each, unless the engine has a queue for that; what that
    holds of memory twice, a processor needs more than it would gain.
    """
    engine = view.machine.engine
    return 1 if engine.device.startswith("GPU") and view.parts == 1 and not engine.queues else 0


def most(machine: Machine, settings: Settings) -> int | None:
    """The memory that may be taken. What a GPU has is not asked: there, tiles become smaller when it runs out."""
    if settings.memory is not None:
        return settings.memory
    return None if machine.engine.device.startswith("GPU") else memory.budget()


def view(
    machine: Machine,
    settings: Settings,
    layout: Layout,
    canvas: tuple[int, int],
    margin: int,
    content: Callable[[], np.ndarray] | None,
    styles: Iterable[targets.Reference],
) -> View:
    """What pictures of a shape are compared with.

    Args: canvas: that shape (h, w), the margin included; content: makes (h, w, 3), of that shape.
    """
    relative = settings.loss_scale == "relative"
    compared, regions = [], []
    for style in styles:
        regions.append(targets.at_taps(machine, style.mask, style.layers, on_disk=layout.on_disk))
        compared.append(targets.style(machine, layout, style, regions[-1], margin, relative=relative))
    tiles = targets.tiles(machine, layout, canvas, margin)
    if len(tiles) <= 1:
        seen: Any = {}
        if content is not None:
            features = machine.extract(machine.engine.tensor(content()[None]))
            seen = objective.content_target(machine.engine.ops, features, settings.content_layers, relative=relative)
        for target, region in zip(compared, regions, strict=True):
            for tap, mask in region.items():
                target[tap]["mask"] = machine.engine.tensor(mask)
        return View(machine, {"content": seen, "styles": compared}, Layout())
    array = lazy.Stored if layout.on_disk else np.zeros
    whole = {} if content is None else targets.features(machine, tiles, content(), settings.content_layers, array)
    scales = {tap: {"scale": objective.content_scale(found, relative=relative)} for tap, found in whole.items()}
    looked_for = machine.engine.tensor({"content": scales, "styles": compared})
    return TiledView(machine, looked_for, layout, whole, regions, tiles)


def machine(settings: Settings, taps: tuple[str, ...]) -> Machine:
    """The machine for these settings, the last one again if it is the same."""
    named = [Path(os.path.expanduser(name)) for name in (settings.weights, settings.backbone)]  # noqa: PTH111
    files = [path.resolve() for path in named if os.path.isfile(path)]
    engine = "onnx" if settings.engine == "auto" and backbones.is_file(settings.backbone) else settings.engine
    return _built(
        engine,
        settings.precision,
        settings.weights,
        tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files),
        settings.seed if settings.weights == "random" else 0,
        settings.backbone,
        settings.preprocessing,
        taps,
        settings.pooling,
        settings.padding,
        settings.style_loss,
        settings.optimizer,
        None if settings.devices == "auto" else int(settings.devices),
    )


# Two: a photo's and a painting's reconstruction, or a run and an evaluation, can take turns.
@lru_cache(maxsize=2)
def _built(
    engine_name: str,
    precision: str,
    weights: str,
    changed: tuple[tuple[str, int, int], ...],
    seed: int,
    backbone: str,
    preprocessing: str,
    taps: tuple[str, ...],
    pooling: str,
    padding: str,
    style_loss_name: str,
    optimizer_name: str,
    devices: int | None,
) -> Machine:
    """Build and, lazily, compile; the arguments are all that it depends on (`changed` tells versions of files)."""
    from_file = backbones.is_file(backbone)
    if from_file and precision not in ("auto", "float32", "winograd"):
        raise EngineError(f"networks from ONNX files run in float32 or winograd, not in {precision}")
    engine = engines.load(engine_name, "float32" if from_file and precision == "auto" else precision, devices)
    if from_file and not engine.reads_onnx:
        raise EngineError(f"engine {engine.name} has no networks from ONNX files; use engine=onnx")
    loaded = backbones.load(backbone, weights, taps, preprocessing=preprocessing, seed=seed)
    extract = engine.backbone(loaded, list(taps), pooling=pooling, padding=padding)
    optimizer = optimizers.load(optimizer_name)
    loss = objective.Objective(style_losses.load(style_loss_name))
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
    return Machine(
        engine=engine,
        extract=extract,
        objective=loss,
        optimizer=optimizer,
        provenance=provenance,
        evaluate=engine.evaluator(extract, loss),
        idle=[],
        look=backbones.anatomy(loaded, taps),
    )


def less(machine: Machine, settings: Settings, layout: Layout, canvas: tuple[int, int], error: Exception) -> Layout:
    """What to go on with after an error, if that was that memory ran out.

    Raises: RunError if there is nothing left to try, the error itself if it was another.
    """
    if not ran_out(machine, error):
        raise error
    smaller = layouts.smaller(layout, canvas) if settings.tile == "auto" or layout.held else None
    try:
        possible = smaller is not None and machine.anatomy is not None
    except GraphError:
        possible = False
    if smaller is None or not possible:
        raise RunError(_OUT_OF_MEMORY) from None
    return smaller


def ran_out(machine: Machine, error: Exception) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or machine.engine.out_of_memory(error)


@contextmanager
def memory_errors(machine: Machine) -> Iterator[None]:
    """Where memory runs out meanwhile, an error that says so and what to do."""
    try:
        yield
    except Exception as error:
        if ran_out(machine, error):
            raise RunError(_OUT_OF_MEMORY) from None
        raise
