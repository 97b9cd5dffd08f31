"""The ONNX Runtime engine, on a GPU if its build has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

from stylekeras.engines import cannot_run, cores, devices_of, precision_of
from stylekeras.errors import RunError
from stylekeras.graphs.engine import GraphEngine, Run
from stylekeras.layout import Footprint

_GPU = "CUDAExecutionProvider"


def sees_gpu() -> bool:
    """Whether ONNX Runtime would run on a GPU."""
    return _GPU in onnxruntime.get_available_providers()


class Engine(GraphEngine):
    """ONNX Runtime, in float32; one session serves every size."""

    name = "onnxruntime"
    version = onnxruntime.__version__

    footprint = Footprint(fixed=6.50e08, activations=5.7, in_tiles=7.8, resting=7.8, holding=11.5, held=1.9)

    def __init__(self, precision: str, devices: int | None = None) -> None:
        self.precision = precision_of(self.name, precision, "float32")
        self.devices = len(devices_of(self.name, devices, "device", [None]))
        self.device = "GPU (CUDA)" if sees_gpu() else f"CPU ({cores()} cores)"

    def prepare(self, graph: bytes, *, often: bool) -> Run:
        """Make a graph ready to run, at any size."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Gram matrices, losses and L-BFGS need what float32 promises, on GPUs too.
        providers: list[Any] = (
            [(_GPU, {"use_tf32": "0"}), "CPUExecutionProvider"] if sees_gpu() else ["CPUExecutionProvider"]
        )
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=providers)
        except Exception as error:  # its errors are of no common type
            raise cannot_run(self.name, error) from None
        return _Run(session, often=often)


class _Run(Run):
    def __init__(self, session: onnxruntime.InferenceSession, *, often: bool) -> None:
        self._session = session
        self._names = [item.name for item in session.get_outputs()]
        self._needed = {item.name for item in session.get_inputs()}
        self._options = onnxruntime.RunOptions()
        if not often:
            # Of a painting's features it would keep as much as a step takes, for as long as it lives.
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def __call__(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            found = self._session.run(None, {name: given[name] for name in self._needed}, self._options)
        except Exception as error:  # its errors are of no common type
            if "allocate" in str(error):
                raise MemoryError from None
            raise RunError(f"ONNX Runtime: {str(error).splitlines()[0]}") from error
        return dict(zip(self._names, found, strict=True))

    def rest(self) -> None:
        """Does nothing: memory is given back at the end of a run, and a step does not know that it is the last."""
