"""The TensorFlow engine: a `tf.Variable` image, one `tf.function` step around a `tf.GradientTape`.

Targets and weights are arguments of the compiled step and all state is variables of open height and width, so one trace
serves every picture and every scale of a run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from stylekeras import engines
from stylekeras.engines import Objective, Taps, cores, keras_on, precision_of
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

    footprint = Footprint(fixed=9.50e08, activations=2.2, in_tiles=2.4)

    def __init__(self, precision: str) -> None:
        tf.config.experimental.enable_tensor_float_32_execution(False)
        gpus = tf.config.list_physical_devices("GPU")
        self.precision = precision_of(self.name, precision, "float32", "bfloat16", matrices=not gpus)
        self.device = _gpu_name(gpus[0]) if gpus else f"CPU ({cores()} cores)"
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

        model = vgg.build(weights, taps, pooling=pooling, padding=padding, dtype=self.precision)
        signature = [tf.TensorSpec((1, None, None, 3), tf.float32)]
        compiled: Taps = tf.function(lambda image: model(image, training=False), input_signature=signature)
        return compiled

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

    def _step(self, targets: Any, weights: Any) -> tuple[Any, dict[str, Any], tuple[Any, Any, Any]]:
        result: tuple[Any, dict[str, Any], tuple[Any, Any, Any]] = self._compiled(targets, weights)
        return result

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
        return loss, terms, (after.loss, after.accepted, after.moved)


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


def _gpu_name(gpu: Any) -> str:
    return f"GPU ({tf.config.experimental.get_device_details(gpu).get('device_name', 'unnamed')})"
