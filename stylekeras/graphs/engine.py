"""What the engines that run ONNX graphs share: graphs are built once and kept, the optimizer is NumPy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from stylekeras import arrays, trees
from stylekeras.backbones import NetworkFile
from stylekeras.engines import Loop
from stylekeras.graphs import store
from stylekeras.weights import Weights

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class GraphEngine:
    """An engine on a runtime of ONNX graphs. A runtime says how it prepares one; what then runs takes and gives arrays.

    Neither TensorFlow nor Keras is imported, and the package onnx only where a graph is not kept already.
    """

    name: str
    version: str
    device: str
    precision: str
    ops = arrays
    reads_onnx = True

    def prepare(self, graph: bytes, *, often: bool) -> Run:
        """Make a graph ready to run, often at one size or once at several."""
        raise NotImplementedError

    def out_of_memory(self, error: Exception) -> bool:
        """Whether memory ran out: what runs a graph says so with a MemoryError."""
        return isinstance(error, MemoryError)

    def tensor(self, value: Any) -> Any:
        """A nested structure of arrays and numbers in float32."""
        return trees.transform(lambda item: np.asarray(item, np.float32), value)

    def array(self, value: Any) -> Any:
        """A nested structure as NumPy arrays."""
        return trees.transform(np.asarray, value)

    def backbone(self, weights: Weights | NetworkFile, taps: list[str], *, pooling: str, padding: str) -> Taps:
        """The taps model, from (1, h, w, 3) to {tap: (1, h', w', c)}."""
        card = weights.card
        shape: dict[str, Any] = {"backbone": weights.backbone, "taps": taps, "pooling": pooling, "padding": padding}
        shape["precision"] = self.precision
        shape["preprocessing"] = [card.channel_order, card.range, card.mean, card.std]

        def build() -> bytes:
            from stylekeras.graphs import taps as graphs

            made = graphs.build(weights, taps, pooling=pooling, padding=padding, precision=self.precision)
            return bytes(made.SerializeToString())

        taps_model = Taps(self, {"weights": weights.sha256, **shape}, build)
        if isinstance(weights, NetworkFile):
            taps_model.graph  # noqa: B018 - what is wrong with a file is found before a run begins
        return taps_model

    def evaluator(self, taps: Taps, objective: Any) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(image, targets, weights) -> (loss, terms, gradient)."""
        return _Step(self, taps, objective)

    def loop(self, taps: Taps, objective: Any, optimizer: ModuleType) -> Loop:
        """The optimizer's state and its step."""
        evaluate = self.evaluator(taps, objective)

        def advance(state: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            loss, terms, gradient = evaluate(state.image, targets, weights)
            with np.errstate(all="ignore"):  # a trial that is not finite is rejected
                return loss, terms, optimizer.update(self.ops, state, loss, gradient)

        return Loop(self, optimizer, advance)


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

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """(1, h, w, 3) to {tap: (1, h', w', c)}."""
        if self._run is None:
            self._run = self._engine.prepare(self.graph, often=False)
        return self._run({"image": image})


class _Step:
    """The step graph, one for each structure of targets."""

    def __init__(self, engine: GraphEngine, taps: Taps, objective: Any) -> None:
        self._engine = engine
        self._taps = taps
        self._objective = objective
        self._runs: dict[str, Run] = {}

    def __call__(self, image: Any, targets: Any, weights: Any) -> tuple[Any, dict[str, Any], Any]:
        given = {"image": image, **trees.leaves(targets, "targets"), **trees.leaves(weights, "weights")}
        form = {name: _open(np.shape(value)) for name, value in given.items()}
        key = repr(form)
        if key not in self._runs:
            self._runs[key] = self._engine.prepare(self._graph(form, targets, weights), often=True)
        found = self._runs[key]({name: np.asarray(value) for name, value in given.items()})
        terms = {name.removeprefix("terms/"): value for name, value in found.items() if name.startswith("terms/")}
        return found["loss"], terms, found["gradient/image"]

    def _graph(self, form: Mapping[str, Any], targets: Any, weights: Any) -> bytes:
        def build() -> bytes:
            import onnx

            from stylekeras.graphs import step

            taps = onnx.ModelProto.FromString(self._taps.graph)
            return bytes(step.build(taps, self._objective, targets, weights).SerializeToString())

        key = {"graph": "step", "taps": self._taps.key, "objective": self._objective.name, "form": form}
        return store.load_or_build(key, build)


def _open(shape: tuple[int, ...]) -> list[int | None]:
    """A shape without the height and width of a picture."""
    return [shape[0], None, None, shape[3]] if len(shape) == 4 else list(shape)
