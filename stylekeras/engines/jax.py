"""The JAX engine: evaluation and optimizer step as one jitted function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np

from stylekeras.engines import Loop, Objective, cores, keras_on, precision_of
from stylekeras.layout import Footprint
from stylekeras.weights import Weights

keras = keras_on("jax")


def sees_gpu() -> bool:
    """Whether JAX would run on a GPU."""
    return bool(jax.default_backend() == "gpu")


class Engine:
    """JAX through Keras 3, on its default device. Every size is compiled anew: XLA needs sizes known."""

    name = "jax"
    version = jax.__version__
    ops = keras.ops
    reads_onnx = False

    footprint = Footprint(fixed=1.20e09, activations=3.0, in_tiles=3.0)

    def __init__(self, precision: str) -> None:
        # Gram matrices, losses and L-BFGS need what float32 promises, on GPUs too.
        jax.config.update("jax_default_matmul_precision", "highest")
        self.precision = precision_of(self.name, precision, "float32", "bfloat16")
        device = jax.devices()[0]
        self.device = f"GPU ({device.device_kind})" if sees_gpu() else f"CPU ({cores()} cores)"

    def out_of_memory(self, error: Exception) -> bool:
        """Whether memory ran out."""
        return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)

    def tensor(self, value: Any) -> Any:
        """A nested structure of arrays and numbers as float32 arrays on the device."""
        return jax.tree.map(lambda item: jax.numpy.asarray(item, "float32"), value)

    def array(self, value: Any) -> Any:
        """A nested structure as NumPy arrays."""
        return jax.tree.map(np.asarray, value)

    def backbone(self, weights: Weights, taps: list[str], *, pooling: str, padding: str) -> Taps:
        """The taps model, from (1, h, w, 3) to {tap: (1, h', w', c)}."""
        from stylekeras.backbones import vgg

        return Taps(vgg.build(weights, taps, pooling=pooling, padding=padding, dtype=self.precision))

    def evaluator(self, taps: Any, objective: Objective) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(image, targets, weights) -> (loss, terms, gradient), compiled."""
        evaluate = jax.jit(_evaluation(taps, objective))
        return lambda image, targets, weights: evaluate(taps.parameters, image, targets, weights)

    def measurer(self, taps: Any, objective: Objective) -> Callable[[Any, Any], Any]:
        """(image, targets) -> sums, compiled."""

        def measure(parameters: Any, image: Any, targets: Any) -> Any:
            return objective.measure(self.ops, image, taps.pure(parameters, image), targets)

        compiled = jax.jit(measure)
        return lambda image, targets: compiled(taps.parameters, image, targets)

    def differentiator(self, objective: Objective) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(sums, targets, weights) -> (loss, terms, gradient), compiled."""
        compiled = jax.jit(jax.value_and_grad(functools.partial(objective.combine, self.ops), has_aux=True))

        def differentiate(sums: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            (loss, terms), gradient = compiled(sums, targets, weights)
            return loss, terms, gradient

        return differentiate

    def loop(self, taps: Any, objective: Objective, optimizer: ModuleType) -> Loop:
        """The optimizer's state on the device and its compiled step."""
        evaluate = _evaluation(taps, objective)

        def advance(parameters: Any, state: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            loss, terms, gradient = evaluate(parameters, state.image, targets, weights)
            return loss, terms, optimizer.update(self.ops, state, loss, gradient)

        compiled = jax.jit(advance)
        return Loop(self, optimizer, lambda state, *rest: compiled(taps.parameters, state, *rest))


class Taps:
    """The taps model; its kernels are arguments of what is compiled, since constants are copied into every program."""

    def __init__(self, model: Any) -> None:
        self.parameters = [variable.value for variable in model.non_trainable_variables]
        self._model = model
        self._compiled = jax.jit(self.pure)

    def pure(self, parameters: Any, image: Any) -> dict[str, Any]:
        """Features from kernels and picture."""
        features: dict[str, Any] = self._model.stateless_call([], parameters, image, training=False)[0]
        return features

    def __call__(self, image: Any) -> dict[str, Any]:
        """(1, h, w, 3) to {tap: (1, h', w', c)}."""
        return dict(self._compiled(self.parameters, image))


def _evaluation(taps: Any, objective: Objective) -> Callable[..., tuple[Any, Any, Any]]:
    def loss_of(image: Any, parameters: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        return objective(keras.ops, image, taps.pure(parameters, image), targets, weights)

    def evaluate(parameters: Any, image: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
        (loss, terms), gradient = jax.value_and_grad(loss_of, has_aux=True)(image, parameters, targets, weights)
        return loss, terms, gradient

    return evaluate
