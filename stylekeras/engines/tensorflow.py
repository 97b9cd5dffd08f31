"""The TensorFlow engine: a `tf.Variable` image, one `tf.function` step around a `tf.GradientTape`.

Targets and weights are arguments of the compiled step and all state is variables of open height and width, so one trace
serves every picture and every scale of a run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from stylekeras import engines, loss_scaling, preprocessing, trees
from stylekeras.engines import Objective, Taps, cores, devices_of, keras_on, native_precisions, precision_of
from stylekeras.layout import Footprint
from stylekeras.weights import Weights

keras = keras_on("tensorflow")

# It imports Keras itself, on whatever backend is set by then.
import tensorflow as tf  # noqa: E402


def sees_gpu() -> bool:
    """Whether TensorFlow would run on a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


class Engine:
    """TensorFlow through Keras 3, on the GPU when TensorFlow sees one.

    Switches TensorFloat-32 off for the process: Gram matrices, losses and L-BFGS need what float32 promises.
    """

    name = "tensorflow"
    version = tf.__version__
    ops = keras.ops
    reads_onnx = False
    # A call comes back once its numbers are there.
    queues = False

    footprint = Footprint(fixed=9.50e08, activations=2.2, in_tiles=2.8, resting=0.7, holding=3.6, held=2.0)

    def __init__(self, precision: str, devices: int | None = None) -> None:
        tf.config.experimental.enable_tensor_float_32_execution(False)
        gpus = tf.config.list_physical_devices("GPU")
        native = native_precisions(_capability(gpus[0]) if gpus else None)
        self.precision = precision_of(self.name, precision, "float32", "bfloat16", "float16", auto=native)
        kind = "GPU" if gpus else "CPU"
        chosen = devices_of(self.name, devices, kind, tf.config.list_logical_devices(kind))
        self.devices = len(chosen)
        self.device = _gpu_name(gpus[0]) if gpus else f"CPU ({cores()} cores)"
        if self.devices > 1:
            self.device = f"{self.devices} x {self.device}"
        # Kernels are on all of them.
        self._strategy = tf.distribute.MirroredStrategy([item.name for item in chosen]) if self.devices > 1 else None
        self._together: dict[int, tuple[Any, Callable[..., Any]]] = {}
        self.traces = 0

    def out_of_memory(self, error: Exception) -> bool:
        """Whether memory ran out."""
        return isinstance(error, tf.errors.ResourceExhaustedError)

    def tensor(self, value: Any) -> Any:
        """A nested structure of arrays and numbers as float32 tensors on the device."""
        return tf.nest.map_structure(lambda item: tf.convert_to_tensor(item, tf.float32), value)

    def array(self, value: Any) -> Any:
        """A nested structure of tensors as NumPy arrays."""
        return tf.nest.map_structure(lambda item: np.asarray(item), value)

    def backbone(self, weights: Weights, taps: list[str], *, pooling: str, padding: str) -> Taps:
        """The taps model, from (1, h, w, 3) to {tap: (1, h', w', c)}, compiled."""
        from stylekeras.backbones import vgg

        with nullcontext() if self._strategy is None else self._strategy.scope():
            model = vgg.build(weights, taps, pooling=pooling, padding=padding, dtype=self.precision)
        signature = [tf.TensorSpec((1, None, None, 3), tf.float32)]
        compiled: Taps = tf.function(lambda image: model(image, training=False), input_signature=signature)
        return (
            _scaled(compiled, preprocessing.scale(weights, self.precision)) if self.precision == "float16" else compiled
        )

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` of nested structures of tensors, compiled; heights and widths may change between calls."""
        return _Compiled(self, function)

    def evaluator(self, taps: Taps, objective: Objective) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(image, targets, weights) -> (loss, terms, gradient), compiled."""

        def evaluate(image: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(image)
                loss, terms = objective(self.ops, image, taps(image), targets, weights)
            return loss, terms, tape.gradient(loss, image)

        return self.function(evaluate)

    def measurer(self, taps: Taps, objective: Objective) -> Callable[[Any, Any], Any]:
        """(image, targets) -> sums, compiled."""
        return self.function(lambda image, targets: objective.measure(self.ops, image, taps(image), targets))

    def vjp(self, taps: Taps, objective: Objective) -> Callable[[Any, Any], tuple[Any, Callable[[Any], Any]]]:
        """(image, targets) -> (sums, cotangents -> gradient), compiled; see `stylekeras.engines`."""
        measure = self.measurer(taps, objective)

        def forward(image: Any, targets: Any) -> tuple[Any, Callable[[Any], Any]]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(image)
                sums = measure(image, targets)
            named = trees.leaves(sums, "sums")

            def pull(cotangents: Mapping[str, Any]) -> Any:
                return tape.gradient([named[name] for name in cotangents], image, list(cotangents.values()))

            return sums, pull

        return forward

    def together(self, function: Callable[..., Any], group: Sequence[tuple[Any, ...]]) -> list[Any]:
        """`function` of each arguments of a group, on as many devices at the same time."""
        strategy = self._strategy
        if strategy is None:
            return [function(*arguments) for arguments in group]
        # Kept with the function: another may be given its number once it is gone.
        kept, run = self._together.get(id(function), (None, None))
        if kept is not function or run is None:
            run = tf.function(lambda arguments: strategy.run(function, args=arguments), reduce_retracing=True)
            self._together[id(function)] = (function, run)
        values = strategy.experimental_distribute_values_from_function(
            # All devices run; what is left over is not looked at.
            lambda context: group[min(context.replica_id_in_sync_group, len(group) - 1)]
        )
        found = run(values)

        def of(device: int) -> Any:
            return tf.nest.map_structure(lambda item: strategy.experimental_local_results(item)[device], found)

        return [of(i) for i in range(len(group))]

    def differentiator(self, objective: Objective) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(sums, targets, weights) -> (loss, terms, gradient), compiled."""

        def differentiate(sums: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sums)
                loss, terms = objective.combine(self.ops, sums, targets, weights)
            return loss, terms, tape.gradient(loss, sums)

        return self.function(differentiate)

    def loop(self, taps: Taps, objective: Objective, optimizer: ModuleType) -> Loop:
        """The optimizer's state on the device and its compiled step."""
        return Loop(self, taps, objective, optimizer)


class Loop(engines.Loop):
    """The optimizer's state as variables, `state.image` the one that the tape watches; a step is one compiled call."""

    def __init__(self, engine: Engine, taps: Taps, objective: Objective, optimizer: ModuleType) -> None:
        super().__init__(engine, optimizer)
        self._taps = taps
        self._objective = objective
        self._variables: Any = None
        self._compiled = engine.function(self._evaluate_and_update)

    def start(self, state: Any) -> None:
        """Take over a state, of any height and width."""
        if self._variables is None:
            self._variables = tf.nest.map_structure(_variable, state)
        else:
            tf.nest.map_structure(lambda variable, value: variable.assign(value), self._variables, state)

    def rest(self) -> None:
        """Let go of the pictures, keep what is compiled."""
        self._terms = {}
        if self._variables is not None:
            tf.nest.map_structure(lambda variable: variable.assign(_smallest(variable)), self._variables)

    @property
    def state(self) -> Any:
        """The state as tensors that later steps do not change."""
        return tf.nest.map_structure(lambda variable: variable.read_value(), self._variables)

    def _begin(self, targets: Any, weights: Any) -> tuple[Any, Any]:
        return self._compiled(targets, weights), None

    def _evaluate_and_update(self, targets: Any, weights: Any) -> tuple[Any, dict[str, Any], tuple[Any, Any, Any]]:
        state = self._variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(state.image)
            features = self._taps(state.image)
            loss, terms = self._objective(self.engine.ops, state.image, features, targets, weights)
        gradient = tape.gradient(loss, state.image)
        before = tf.nest.map_structure(tf.convert_to_tensor, state)
        after = self._optimizer.update(self.engine.ops, before, loss, gradient)
        for variable, old, new in zip(state, before, after, strict=True):
            if new is not old:
                variable.assign(new)
        numbers: tuple[Any, dict[str, Any], tuple[Any, Any, Any]]
        numbers = _on_host((loss, terms, (after.loss, after.accepted, after.moved)))
        return numbers


def _on_host(numbers: Any) -> Any:
    """A nested structure of scalars as float32 in the machine's own memory, by one copy from the device."""
    flat = [tf.cast(number, tf.float32) for number in tf.nest.flatten(numbers)]
    vector = tf.stack(flat)
    with tf.device("CPU:0"):
        return tf.nest.pack_sequence_as(numbers, tf.unstack(tf.identity(vector), num=len(flat)))


class _Compiled:
    """A `tf.function` whose rank-4 arguments have open height and width, traced once for each structure."""

    def __init__(self, engine: Engine, function: Callable[..., Any]) -> None:
        self._engine = engine
        self._function = function
        self._traced: dict[str, Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        specs = tf.nest.map_structure(_open_spec, arguments)
        key = str(specs)
        if key not in self._traced:
            self._traced[key] = tf.function(self._count, input_signature=list(specs))
        return self._traced[key](*arguments)

    def _count(self, *arguments: Any) -> Any:
        # Python runs here only while tracing.
        self._engine.traces += 1
        return self._function(*arguments)


def _scaled(taps: Taps, scale: float) -> Taps:
    """`taps`, of a network at that scale, with loss scaling of its own gradient."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow is untyped
    def features_of(image: Any) -> tuple[dict[str, Any], Callable[..., Any]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(image)
            features = taps(image)

        def gradient(*cotangents: Any, variables: Sequence[Any]) -> tuple[Any, list[None]]:
            factor = loss_scaling.factor(keras.ops, cotangents, scale)
            # Both in the order of the names.
            scaled = [factor * cotangent for cotangent in cotangents]
            return tape.gradient(tf.nest.flatten(features), image, scaled) / factor, [None] * len(variables)

        return features, gradient

    return features_of  # type: ignore[no-any-return]  # TensorFlow is untyped


def _open_spec(value: Any) -> tf.TensorSpec:
    shape = value.shape
    if len(shape) == 4:
        shape = (shape[0], None, None, shape[3])
    return tf.TensorSpec(shape, value.dtype)


def _smallest(variable: tf.Variable) -> Any:
    value = variable.read_value()
    return value[..., :1, :1, :] if len(value.shape) >= 4 else value


def _variable(value: Any) -> tf.Variable:
    shape = list(value.shape)
    if len(shape) >= 4:
        shape[-3], shape[-2] = None, None
    return tf.Variable(value, shape=tf.TensorShape(shape), trainable=False)


def _capability(gpu: Any) -> tuple[int, int]:
    """Of an NVIDIA GPU; that of the oldest where it is not said."""
    found: tuple[int, int] = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
    return found


def _gpu_name(gpu: Any) -> str:
    return f"GPU ({tf.config.experimental.get_device_details(gpu).get('device_name', 'unnamed')})"
