"""The OpenVINO engine."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import openvino
from openvino import opset13, passes

from stylekeras.engines import (
    cannot_run,
    cores,
    devices_of,
    multiplies_bfloat16,
    native_precisions,
    precision_of,
)
from stylekeras.engines.openvino import layouts, low_precision
from stylekeras.engines.openvino.native import Code, FloatLayers, LowLayers, Native, Nodes
from stylekeras.errors import RunError
from stylekeras.graphs import APART, channels_last, low_channels_last
from stylekeras.graphs.engine import GraphEngine, Run
from stylekeras.layout import Footprint
from stylekeras.native.pictures import Pictures
from stylekeras.threads import undisturbed

# Compiled models that are kept: one for each size, those used last.
_SIZES = 4
# Roots of one thread for each layer take a third of the time that products of matrices take on two cores. But no more
# cores than there are large layers, two, take part in finding them.
_FEW_CORES = 4
# Machine code that a precision wants, and others do.
_CODE: dict[str, tuple[Code, ...]] = {
    "winograd": (
        ("convolution_code", "compiled"),
        ("pool_code", "compiled", 4),
        ("colours_code", "features"),
        ("colours_code", "planes", 3),
    ),
    "bfloat16": (("direct_code", "compiled"), ("pool_code", "compiled", 2), ("gram_code", "compiled")),
}
_ROOTS: Code = ("tridiagonal_code", "compiled")
_HISTORY: Code = ("picture_code", "compiled")
# Of what is fixed, 0.3 to 0.6 GB are scales that are done: their models stay compiled, with weights of their own.
# Winograd's kernels, which all have in common, are four times as large as the weights. Its tiles keep nothing for their
# second look: what is handed over has its channels first, and to change that twice took longer than to look again.
_FOOTPRINTS = {
    "float32": Footprint(fixed=1.45e09, activations=2.1, in_tiles=4.8, resting=4.8, holding=11.5, held=1.9),
    "winograd": Footprint(fixed=1.45e09, activations=1.25, in_tiles=3.8, resting=3.8),
}


def sees_gpu() -> bool:
    """Whether OpenVINO would run on an NVIDIA GPU: it never does."""
    return False


class Engine(GraphEngine):
    """OpenVINO on the processor. What runs often is compiled for each size: open sizes are slower by a tenth."""

    name = "openvino"
    version = openvino.__version__.partition("-")[0]

    def __init__(self, precision: str, devices: int | None = None) -> None:
        self._core = openvino.Core()
        # Without instructions for it, it would imitate it or compute in float32, and not say so.
        low = ("bfloat16",) if multiplies_bfloat16() else ()
        self.precision = precision_of(self.name, precision, "float32", "winograd", *low, auto=native_precisions())
        self.footprint = _FOOTPRINTS.get(self.precision, _FOOTPRINTS["float32"])
        self.devices = len(devices_of(self.name, devices, "device", [None]))
        self.device = f"CPU ({cores()} cores)"
        self._native = Native(cores())
        self.ops = Pictures(self._native.threads)

    def prepare(self, graph: bytes, *, often: bool) -> Run:
        """Make a graph ready to run, compiled for each size if it does so `often`."""
        if self.precision != "bfloat16" or self._native.has_matrix_unit:
            self._native.begin(*_CODE.get(self.precision, ()))
        try:
            model = self._core.read_model(graph)
        except RuntimeError as error:
            raise cannot_run(self.name, error) from None
        if often:
            marked = cores() <= _FEW_CORES and APART.encode() in graph
            self._native.begin(*((_ROOTS,) if marked else ()), _HISTORY)
            # What is known of the weights at any size, once for all sizes.
            _fold(model)
        return _Run(self, model, often=often)

    def compiled(self, model: openvino.Model, shapes: Mapping[str, list[int]]) -> _Compiled:
        """A model ready to run, for these sizes or, if there are none, for any."""
        nodes = Nodes(self._native)
        if shapes:
            model = model.clone()
            model.reshape(dict(shapes))
            self._rewrite(model, nodes)
        # Float32 for what the graph has in float32: bfloat16 is written in it, for the network alone.
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        return _Compiled(nodes, self._core.compile_model(model, "CPU", options), threading.Lock())

    def _rewrite(self, model: openvino.Model, nodes: Nodes) -> None:
        """Have done by our own code what that does faster."""
        _fold(model)
        if self.precision == "winograd":
            channels_last.rewrite(model, opset13, FloatLayers(nodes))
        if cores() <= _FEW_CORES:
            nodes.take_apart(model)
        layouts.drop_identities(model)
        if self.precision == "bfloat16":
            low_precision.narrow(model, nodes.gram if self._native.has_matrix_unit else None)
            if self._native.has_matrix_unit:
                low_channels_last.rewrite(model, opset13, LowLayers(nodes))
        layouts.sum_first(model)
        layouts.keep_sums_apart(model)

    def rest(self) -> None:
        """Let go of memory that only steps need."""
        self._native.rest()


def _fold(model: openvino.Model) -> None:
    """Have done what needs no inputs."""
    layouts.turn_constants(model)
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(model)


class _Compiled(NamedTuple):
    """A model and the operators of ours in it; those go last."""

    nodes: Nodes
    model: openvino.CompiledModel
    # For a second run of it OpenVINO waits for the first, with the interpreter, which our operators in that wait for.
    lock: threading.Lock

    def outputs(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """By name, not copied: memory that lives as long as they do, and that no other run writes to."""
        with self.lock:
            self.nodes.failures.clear()
            results = self.model.create_infer_request().infer(dict(given), share_inputs=True, share_outputs=True)
        return {name: value for output, value in results.items() for name in output.names}


class _Run(Run):
    def __init__(self, engine: Engine, model: openvino.Model, *, often: bool) -> None:
        self._engine = engine
        self._model = model
        self._often = often
        # It has dropped the inputs that nothing depends on.
        self._needed = {name for port in model.inputs for name in port.names}
        self._compiled: dict[tuple[tuple[int, ...], ...], _Compiled] = {}

    def __call__(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: value for name, value in given.items() if name in self._needed}
        shapes = {name: list(np.shape(value)) for name, value in given.items()} if self._often else {}
        key = tuple(map(tuple, shapes.values()))
        try:
            # Taken out and put back last: the first is the one not used for longest.
            found = self._compiled.pop(key, None) or undisturbed(self._engine.compiled, self._model, shapes)
            self._compiled[key] = found
            if len(self._compiled) > _SIZES:
                del self._compiled[next(iter(self._compiled))]
            # OpenVINO does not survive an exception in the middle of an operator of ours.
            outputs = undisturbed(found.outputs, given)
        except RuntimeError as error:
            failures = self._compiled[key].nodes.failures if key in self._compiled else []
            ours = failures[0] if failures else error
            if isinstance(ours, MemoryError) or "alloc" in str(ours):
                raise MemoryError from None
            lines = str(ours).strip().splitlines() or [type(ours).__name__]
            raise RunError(f"OpenVINO: {lines[-1]}") from error
        if not self._often:
            # Of a painting's features it would keep as much as a step takes, for as long as it lives.
            self.rest()
        return outputs

    def rest(self) -> None:
        self._engine.rest()
        for each in self._compiled.values():
            # What was interrupted twice may still be running, with its memory. At the end of a program, where a run was
            # left half done, modules are gone.
            try:  # noqa: SIM105
                each.model.release_memory()
            except RuntimeError:
                pass
