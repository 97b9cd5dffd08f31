"""Engines, one per framework: what runs the objective, and on which device. Only `engines/X` imports framework X.

An engine module has `sees_gpu()` and `Engine(precision, devices)` (how many at most, None for all GPUs), an object with

- `ops`: the namespace (NumPy's names) that objective and optimizers are written in;
- `name`, `version`, `device`, `precision`: what it runs on, in words;
- `footprint`: what it takes of memory (stylekeras/layout.py);
- `reads_onnx`: whether `backbone` takes a network from an ONNX file;
- `out_of_memory(error)`: whether that is what its framework raises when memory runs out;
- `backbone(weights, taps, pooling, padding) -> image -> {tap: features}`;
- `evaluator(taps, objective) -> (image, targets, weights) -> (loss, terms, gradient)`;
- `measurer(taps, objective) -> (image, targets) -> sums` and
  `differentiator(objective) -> (sums, targets, weights) -> (loss, terms, gradient)`: the two halves, for tiles;
- `vjp(taps, objective) -> (image, targets) -> (sums, pull)`, where `pull(cotangents)`, called once, gives the gradient
  in the image of the sums' product with them (by name, `objective.parts`) from what was kept of the network;
- `devices`: how many it may spread tiles over, and, if that can be more than one, `together(function, group)`: what a
  function of a `measurer` or `evaluator` gives for each arguments of a group of no more, all at the same time;
- `loop(taps, objective, optimizer)`: the optimizer's state and its step, see `Loop`; `queues`: whether a loop itself
  sees to it that a GPU always has a step to do;
- `tensor(array)` and `array(tensor)`, for nested structures of them.

Adding an engine is adding a file or folder here, and its name to the orders below.
"""

from __future__ import annotations

import functools
import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from stylekeras.errors import EngineError, nearest

# By measured speed (benchmarks/README.md), on a processor and on a GPU; "auto" is the first that can be used. On a GPU,
# TensorFlow has not been measured, and JAX takes seconds for every size before its first step.
ORDER = ("openvino", "tensorflow", "onnxruntime", "jax", "torch")
GPU_ORDER = ("torch", "tensorflow", "jax", "onnxruntime")
# These take nearly all of a GPU's memory for themselves once they are used.
_GREEDY = {"tensorflow", "jax"}
# Those that spread tiles over several devices.
SPREADING = ("tensorflow", "jax")
# What "onnx" stands for: the first of these that is installed.
ONNX_RUNTIMES = ("openvino", "onnxruntime")

# The modules that an engine imports, and how to get them.
_NEEDS = {
    "tensorflow": ("tensorflow", "keras"),
    "jax": ("jax", "keras"),
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx", "llvmlite", "threadpoolctl"),
}
INSTALL = {
    "tensorflow": "pip install tensorflow keras",
    "jax": "pip install jax keras",
    "torch": "pip install torch",
    "onnxruntime": "pip install 'stylekeras[onnx]'",
    "openvino": "pip install 'stylekeras[openvino]'",
}

Taps = Callable[[Any], dict[str, Any]]
# What `Loop.step` returns.
Step = tuple[float, float, dict[str, float], float]


class Objective(Protocol):
    """What an engine differentiates: `stylekeras.objective.Objective`."""

    def __call__(self, ops: Any, image: Any, features: Any, targets: Any, weights: Any) -> tuple[Any, dict[str, Any]]:
        """The scalar loss and its terms."""
        ...

    def measure(self, ops: Any, image: Any, features: Any, targets: Any) -> Any:
        """What of a picture adds up over its pixels."""
        ...

    def combine(self, ops: Any, sums: Any, targets: Any, weights: Any) -> tuple[Any, dict[str, Any]]:
        """The scalar loss and its terms from the sums."""
        ...


def load(name: str, precision: str, devices: int | None = None) -> Any:
    """The engine of that name, ready to run.

    Args: name: one of `ORDER`, "onnx" for the first of `ONNX_RUNTIMES` that is installed, or "auto"; devices: how many
        tiles are spread over, None for all GPUs that it sees.
    Raises: EngineError if its framework is missing, Keras is already loaded on another backend, or there are fewer
        devices.
    """
    if name == "auto":
        able = [name for name in ORDER if may_have(name, precision) and ((devices or 1) == 1 or name in SPREADING)]
        name = pick(able) or ("openvino" if precision == "winograd" else "tensorflow")
    elif name == "onnx":
        able = [name for name in ONNX_RUNTIMES if may_have(name, precision)]
        name = pick(able or ONNX_RUNTIMES) or "onnxruntime"
    if missing(name):
        raise EngineError(f"engine {name} needs {' and '.join(missing(name))}: {INSTALL[name]}")
    try:
        module = importlib.import_module(f"stylekeras.engines.{name}")
    except ImportError as error:
        raise EngineError(f"engine {name} is not available: {error}; {INSTALL[name]}") from error
    return module.Engine(precision, devices)


def pick(names: Sequence[str]) -> str | None:
    """Of these engines: on a GPU the first that sees it, otherwise the first that is installed.

    In a program that uses TensorFlow or JAX, that comes first on a GPU: it may have all of its memory.
    """
    usable = [name for name in names if not missing(name) and _keras_is_free(name)]
    if gpu_driver():
        for name in sorted(GPU_ORDER, key=lambda name: not (name in _GREEDY and name in sys.modules)):
            if name in usable and _sees_gpu(name):
                return name
    return usable[0] if usable else None


@functools.cache
def _sees_gpu(name: str) -> bool:
    """Asked in a process of its own: Keras is on one backend for good once one framework has been tried."""
    program = f"import sys; from stylekeras.engines import {name} as engine; sys.exit(not engine.sees_gpu())"
    # -P: a torch.py in the current folder is not PyTorch. But this package may be found by way of that folder.
    home = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), home)))
    command, environment = [sys.executable, "-P", "-c", program], {**os.environ, "PYTHONPATH": paths}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def missing(name: str) -> list[str]:
    """The packages that an engine lacks."""
    if name not in _NEEDS:
        raise EngineError(f"unknown engine {name!r}{nearest(name, _NEEDS)}")
    return [module for module in _NEEDS[name] if module not in sys.modules and util.find_spec(module) is None]


def gpu_driver() -> bool:
    """Whether this machine has an NVIDIA driver, so that it is worth asking a framework for a GPU."""
    return Path("/proc/driver/nvidia/version").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1")


def precision_of(name: str, asked: str, *has: str, auto: Sequence[str] = ()) -> str:
    """The precision an engine works in: what was asked for; for "auto" the first of `auto` that it has, otherwise its
    first.

    Raises: EngineError if it does not have it.
    """
    if asked not in ("auto", *has):
        raise EngineError(f"engine {name} computes in {' or '.join(has)}, not in {asked}")
    if asked == "auto":
        return next((each for each in auto if each in has), has[0])
    return asked


# The compute capabilities from which NVIDIA's GPUs have matrix units for a precision.
_NATIVE = (((8, 0), "bfloat16"), ((7, 0), "float16"))


def native_precisions(capability: tuple[int, int] | None = None) -> tuple[str, ...]:
    """The fastest precisions, not every engine has the first: what a GPU's matrix units compute in, by its compute
    capability, or those of the processor.

    Winograd's algorithm is faster than vector instructions for bfloat16 (benchmarks/README.md).
    """
    if capability is not None:
        return (next((precision for least, precision in _NATIVE if tuple(capability) >= least), "float32"),)
    if has_matrix_unit():
        return ("bfloat16",)
    found = ("winograd",) if "avx2" in processor_flags() else ()
    return (*found, "bfloat16" if has_fast_bfloat16() else "float32")


def devices_of(name: str, asked: int | None, kind: str, seen: Sequence[Any]) -> list[Any]:
    """The devices that tiles are spread over: as many as asked for; if nothing was, all GPUs or one processor.

    Raises: EngineError if there are fewer.
    """
    if asked is None:
        return list(seen if kind == "GPU" else seen[:1])
    if asked > len(seen):
        have = f"{len(seen)} {kind}" if name in SPREADING else "one device at a time"
        other = "" if name in SPREADING else f"; engines with several are {' and '.join(SPREADING)}"
        raise EngineError(f"devices={asked}: engine {name} has {have}{other}")
    return list(seen[:asked])


def cannot_run(name: str, error: Exception) -> EngineError:
    """What to say of a graph that a runtime does not take."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return EngineError(f"engine {name} cannot run this network: {lines[-1] if lines else type(error).__name__}")


def may_have(name: str, precision: str) -> bool:
    """Whether an engine has a precision on this processor, as far as that is known before it is loaded."""
    if precision == "winograd":
        return name == "openvino"
    if precision in ("auto", "float32") or name not in ONNX_RUNTIMES:
        return True
    return name == "openvino" and precision == "bfloat16" and multiplies_bfloat16()


@functools.cache
def _processor() -> dict[str, str]:
    """What Linux says of the processor; nothing where that cannot be known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def processor_flags() -> frozenset[str]:
    """What the processor can do, as Linux calls it; nothing where that cannot be known."""
    return frozenset(_processor().get("flags", _processor().get("Features", "")).split())


def processor_vendor() -> str:
    """Who made it, as it says itself."""
    return _processor().get("vendor_id", "")


def processor_name() -> str:
    """What it is called; at least what kind it is."""
    return _processor().get("model name", "") or platform.processor() or platform.machine()


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16 that OpenVINO uses."""
    return not processor_flags().isdisjoint(("avx512_bf16", "amx_bf16"))


def has_fast_bfloat16() -> bool:
    """Whether the processor's vector instructions multiply bfloat16 faster than float32: AMD's do, Intel's do not."""
    return "avx512_bf16" in processor_flags() and processor_vendor() == "AuthenticAMD"


def has_matrix_unit() -> bool:
    """Whether the processor multiplies matrices of bfloat16 (Intel's AMX)."""
    return "amx_bf16" in processor_flags()


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keras_on(backend: str) -> ModuleType:
    """Keras on that backend, which it takes when it is first imported.

    Raises: EngineError if it has been imported on another one.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = backend
    keras = importlib.import_module("keras")
    if keras.backend.backend() != backend:
        raise EngineError(
            f"Keras is already loaded with its {keras.backend.backend()} backend; import stylekeras first, or set "
            f"KERAS_BACKEND={backend}"
        )
    return keras


class Loop:
    """The optimizer's state, arrays that are never written to once they are handed out, and its step."""

    def __init__(self, engine: Any, optimizer: Any, advance: Any = None, *, queue: bool = False) -> None:
        """`advance(state, targets, weights) -> loss, terms, state` evaluates `state.image` and updates; with `queue` it
        does not wait for the device, which so is given the next step before it is through with one. The last of them
        is done for nothing."""
        self.engine = engine
        self._optimizer = optimizer
        self._advance = advance
        self._queue = queue
        self._terms: dict[str, float] = {}
        self._state: Any = None
        # What will be known of a step that is under way, and the last of all states.
        self._next: tuple[Any, Any] | None = None
        self._newest: Any = None

    def start(self, state: Any) -> None:
        """Take over a state, of any height and width."""
        self._state = self._newest = state
        self._next = None

    def step(self, targets: Any, weights: Any) -> Step:
        """Evaluate `state.image` and update; until the next `start` with the same targets and weights.

        Returns: the loss just evaluated, the loss of the picture so far, that picture's terms, and by how much it has
            changed (root mean square).
        """
        numbers, self._state = self._next or self._begin(targets, weights)
        self._next = self._begin(targets, weights) if self._queue else None
        evaluated, terms, (loss, accepted, moved) = self._fetch(numbers)
        if accepted or not self._terms:
            self._terms = {name: float(value) for name, value in terms.items()}
        return float(evaluated), float(loss), self._terms, float(moved)

    def _begin(self, targets: Any, weights: Any) -> tuple[Any, Any]:
        """A step. Returns: its numbers as `_fetch` takes them, and the state after it."""
        evaluated, terms, state = self._advance(self._newest, targets, weights)
        self._newest = state
        return (evaluated, terms, (state.loss, state.accepted, state.moved)), state

    def _fetch(self, numbers: Any) -> Any:
        # All at once: on a GPU each fetch waits.
        return self.engine.array(numbers)

    def rest(self) -> None:
        """Let go of the pictures, keep what is compiled."""
        self._state = self._newest = self._next = None
        self._terms = {}

    def restore(self, fields: Mapping[str, Any], terms: Mapping[str, float]) -> None:
        """Take over a state that was saved as NumPy arrays, a history perhaps as a tuple of them."""
        self.start(self._optimizer.State(**{name: self._taken(value) for name, value in fields.items()}))
        self._terms = dict(terms)

    def _taken(self, value: Any) -> Any:
        ops = self.engine.ops
        if isinstance(value, tuple) and hasattr(ops, "no_history"):
            return tuple(map(np.asarray, value))
        return ops.convert_to_tensor(np.asarray(value))

    @property
    def state(self) -> Any:
        """The state as tensors that later steps do not change."""
        return self._state

    @property
    def image(self) -> Any:
        """The picture so far, (1, h, w, 3)."""
        return self.result(self.state)

    def result(self, state: Any) -> Any:
        """The picture of a state, (1, h, w, 3)."""
        return self._optimizer.result(self.engine.ops, state)


def _keras_is_free(name: str) -> bool:
    """Whether Keras, if the engine needs it, is not loaded for another one."""
    keras = sys.modules.get("keras")
    return keras is None or "keras" not in _NEEDS[name] or bool(keras.backend.backend() == name)
