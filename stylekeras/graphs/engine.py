"""What the engines that run ONNX graphs share: graphs are built once and kept, the optimizer is NumPy."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from stylekeras import arrays, trees
from stylekeras.backbones import NetworkFile
from stylekeras.engines import Loop
from stylekeras.graphs import store
from stylekeras.host import Host
from stylekeras.layout import Footprint
from stylekeras.weights import Weights


class Run(Protocol):
    """A graph that is ready to run: called with its inputs by name, it gives its outputs so, arrays of their own."""

    def __call__(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run it."""
        ...

    def rest(self) -> None:
        """Give back the memory it keeps for its next run; what is compiled stays."""


class GraphEngine(Host):
    """An engine on a runtime of ONNX graphs. A runtime says how it prepares one; what then runs takes and gives arrays.

    Neither TensorFlow nor Keras is imported, and the package onnx only where a graph is not kept already.
    """

    name: str
    version: str
    device: str
    precision: str
    footprint: Footprint
    reads_onnx = True
    queues = False

    def prepare(self, graph: bytes, *, often: bool) -> Run:
        """Make a graph ready to run, often at one size or once at several."""
        raise NotImplementedError

    def out_of_memory(self, error: Exception) -> bool:
        """Whether memory ran out: what runs a graph says so with a MemoryError."""
        return isinstance(error, MemoryError)

    def backbone(self, weights: Weights | NetworkFile, taps: list[str], *, pooling: str, padding: str) -> Taps:
        """The taps model, from (1, h, w, 3) to {tap: (1, h', w', c)}."""
        card = weights.card
        shape: dict[str, Any] = {"backbone": weights.backbone, "taps": taps, "pooling": pooling, "padding": padding}
        # Winograd's algorithm comes in when a graph is prepared.
        arithmetic = "float32" if self.precision == "winograd" else self.precision
        shape["precision"] = arithmetic
        shape["preprocessing"] = [card.channel_order, card.range, card.mean, card.std]

        def build() -> bytes:
            from stylekeras.graphs import taps as graphs

            made = graphs.build(weights, taps, pooling=pooling, padding=padding, precision=arithmetic)
            return bytes(made.SerializeToString())

        taps_model = Taps(self, {"weights": weights.sha256, **shape}, build)
        if isinstance(weights, NetworkFile):
            taps_model.graph  # noqa: B018 - what is wrong with a file is found before a run begins
        return taps_model

    def evaluator(self, taps: Taps, objective: Any) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(image, targets, weights) -> (loss, terms, gradient)."""
        graphs = self._steps(taps, objective)

        def evaluate(image: Any, targets: Any, weights: Any) -> tuple[Any, dict[str, Any], Any]:
            return _evaluated(graphs(image=image, targets=targets, weights=weights))

        return evaluate

    def _steps(self, taps: Taps, objective: Any) -> _Graphs:
        def build(image: Any, targets: Any, weights: Any) -> Any:
            return step().build(taps.model(), objective, targets, weights)

        return _Graphs(self, {"graph": "step", "taps": taps.key, "objective": objective.name}, build)

    def measurer(self, taps: Taps, objective: Any) -> Callable[[Any, Any], Any]:
        """(image, targets) -> sums."""

        def build(image: Any, targets: Any) -> Any:
            return step().measure(taps.model(), objective.measure, targets)

        graphs = _Graphs(self, {"graph": "measure", "taps": taps.key, "objective": objective.name}, build)

        def measure(image: Any, targets: Any) -> Any:
            found = graphs(image=image, targets=targets)
            return trees.transform(lambda name: found[name], _names_of_sums(objective, targets))

        return measure

    def vjp(self, taps: Taps, objective: Any) -> Callable[[Any, Any], tuple[Any, Callable[[Any], Any]]]:
        """(image, targets) -> (sums, cotangents -> gradient), see `stylekeras.engines`."""

        def half(index: int) -> _Graphs:
            def build(image: Any, targets: Any, **more: Any) -> Any:
                return step().halves(taps.model(), objective.measure, targets)[index]

            return _Graphs(self, {"graph": f"vjp {index}", "taps": taps.key, "objective": objective.name}, build)

        first, second = half(0), half(1)

        def forward(image: Any, targets: Any) -> tuple[Any, Callable[[Any], Any]]:
            found = first(image=image, targets=targets)
            sums = trees.transform(lambda name: found[name], _names_of_sums(objective, targets))
            # Under their names, as leaves of a tree.
            kept = {name.removeprefix("kept/"): found[name] for name in found if name.startswith("kept/")}

            def pull(cotangents: Mapping[str, Any]) -> Any:
                given = {"image": image, "targets": targets, "cotangents": cotangents}
                return second(**given, kept=kept)["gradient/image"]

            return sums, pull

        return forward

    def differentiator(self, objective: Any) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(sums, targets, weights) -> (loss, terms, gradient)."""

        def build(sums: Any, targets: Any, weights: Any) -> Any:
            return step().combine(objective.combine, sums, targets, weights)

        graphs = _Graphs(self, {"graph": "combine", "objective": objective.name}, build)

        def differentiate(sums: Any, targets: Any, weights: Any) -> tuple[Any, dict[str, Any], Any]:
            found = graphs(sums=sums, targets=targets, weights=weights)
            gradient = trees.transform(lambda name: found[f"gradient/{name}"], trees.names(sums, "sums"))
            return found["loss"], _terms(found), gradient

        return differentiate

    def loop(self, taps: Taps, objective: Any, optimizer: ModuleType) -> Loop:
        """The optimizer's state and its step."""
        graphs = self._steps(taps, objective)

        def advance(state: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            loss, terms, gradient = _evaluated(graphs(image=state.image, targets=targets, weights=weights))
            with np.errstate(all="ignore"):  # a trial that is not finite is rejected
                return loss, terms, optimizer.update(self.ops, state, loss, gradient)

        return _Loop(self, optimizer, advance, graphs)


class _Loop(Loop):
    def __init__(self, engine: GraphEngine, optimizer: ModuleType, advance: Any, graphs: _Graphs) -> None:
        super().__init__(engine, optimizer, advance)
        self._graphs = graphs

    def rest(self) -> None:
        """Let go of the pictures, and of the memory of a step: the next scale is of another size."""
        super().rest()
        self._graphs.rest()


class Taps:
    """A taps model: called with a picture, it gives its features."""

    def __init__(self, engine: GraphEngine, key: Mapping[str, Any], build: Callable[[], bytes]) -> None:
        self.key = key
        self._engine = engine
        self._build = build
        self._run: Run | None = None

    @functools.cached_property
    def graph(self) -> bytes:
        """The model, as the bytes of its file."""
        return store.load_or_build({"graph": "taps", **self.key}, self._build)

    def model(self) -> Any:
        """The model, as an `onnx.ModelProto`."""
        import onnx

        return onnx.ModelProto.FromString(self.graph)

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """(1, h, w, 3) to {tap: (1, h', w', c)}."""
        if self._run is None:
            self._run = self._engine.prepare(self.graph, often=False)
        return self._run({"image": image})


class _Graphs:
    """A graph for each structure of what it is given."""

    def __init__(self, engine: GraphEngine, key: Mapping[str, Any], build: Callable[..., Any]) -> None:
        self._engine = engine
        self._key = key
        self._build = build
        self._runs: dict[str, Run] = {}

    def __call__(self, **given: Any) -> dict[str, np.ndarray]:
        # What was kept between two halves has its form from the rest.
        told = {name: value for name, value in given.items() if name != "kept"}
        form = trees.transform(lambda value: _open(np.shape(value)), told)
        form_key = repr(form)
        if form_key not in self._runs:

            def build() -> bytes:
                return bytes(self._build(**given).SerializeToString())

            graph = store.load_or_build({**self._key, "form": form}, build)
            self._runs[form_key] = self._engine.prepare(graph, often=True)
        flat = [trees.leaves(tree, name) for name, tree in given.items()]
        return self._runs[form_key]({name: np.asarray(value) for group in flat for name, value in group.items()})

    def rest(self) -> None:
        """Give back the memory that is kept for the next call."""
        for run in self._runs.values():
            run.rest()


def step() -> ModuleType:
    """What writes graphs; imported where one is written."""
    from stylekeras.graphs import step

    return step


def _evaluated(found: Mapping[str, Any]) -> tuple[Any, dict[str, Any], Any]:
    """Loss, terms and gradient of what a step's graph gave."""
    return found["loss"], _terms(found), found["gradient/image"]


def _terms(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("terms/"): value for name, value in found.items() if name.startswith("terms/")}


def _names_of_sums(objective: Any, targets: Any) -> Any:
    """The structure of a picture's sums, with names for leaves: those of a picture of one pixel."""
    pixel = np.ones((1, 1, 1, 1), np.float32)
    one = trees.transform(lambda value: pixel if np.ndim(value) == 4 else value, targets)
    taps: dict[str, Any] = collections.defaultdict(lambda: pixel)
    for style in one["styles"]:
        for tap, target in style.items():
            for value in target.get("frame", {}).values():  # of as many rows as there are channels
                taps[tap] = np.ones((1, 1, 1, len(value)), np.float32)
    return trees.names(objective.measure(arrays, np.ones((1, 1, 1, 3), np.float32), taps, one), "sums")


def _open(shape: tuple[int, ...]) -> list[int | None]:
    """A shape without the height and width of a picture."""
    return [shape[0], None, None, shape[3]] if len(shape) == 4 else list(shape)
