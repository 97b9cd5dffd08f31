"""The PyTorch engine: autograd, one operator after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from stylekeras import loss_scaling, trees
from stylekeras.engines import Loop, Objective, Taps, cores, devices_of, keras_on, native_precision, precision_of
from stylekeras.layout import Footprint
from stylekeras.weights import Weights

keras = keras_on("torch")


def sees_gpu() -> bool:
    """Whether PyTorch would run on a GPU."""
    return bool(torch.cuda.is_available())


class Engine:
    """PyTorch through Keras 3, on the GPU when PyTorch sees one."""

    name = "torch"
    version = torch.__version__
    ops = keras.ops
    reads_onnx = False

    footprint = Footprint(fixed=1.50e09, activations=2.7, in_tiles=2.7, resting=1.0, holding=1.5, held=3.5)

    def __init__(self, precision: str, devices: int | None = None) -> None:
        # Gram matrices, losses and L-BFGS need what float32 promises, on GPUs too.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        native = native_precision()
        if sees_gpu():
            # AMD's GPUs have numbers of their own.
            native = native_precision((0, 0) if torch.version.hip else torch.cuda.get_device_capability())
        self.precision = precision_of(self.name, precision, "float32", "bfloat16", "float16", auto=native)
        self.devices = len(devices_of(self.name, devices, "device", [None]))
        self.device = f"GPU ({torch.cuda.get_device_name()})" if sees_gpu() else f"CPU ({cores()} cores)"

    def out_of_memory(self, error: Exception) -> bool:
        """Whether memory ran out, on the GPU or, where PyTorch has no type for it, on the processor."""
        return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

    def tensor(self, value: Any) -> Any:
        """A nested structure of arrays and numbers as float32 tensors on the device."""
        return trees.transform(lambda item: self.ops.convert_to_tensor(np.asarray(item, np.float32)), value)

    def array(self, value: Any) -> Any:
        """A nested structure of tensors as NumPy arrays."""
        return trees.transform(lambda item: item.detach().cpu().numpy(), value)

    def backbone(self, weights: Weights, taps: list[str], *, pooling: str, padding: str) -> Taps:
        """The taps model, from (1, h, w, 3) to {tap: (1, h', w', c)}."""
        from stylekeras.backbones import vgg

        model = vgg.build(weights, taps, pooling=pooling, padding=padding, dtype=self.precision)

        def features(image: Any) -> dict[str, Any]:
            found: dict[str, Any] = model(image, training=False)
            return found

        return _scaled(features, vgg.scale(weights, self.precision)) if self.precision == "float16" else features

    def evaluator(self, taps: Taps, objective: Objective) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(image, targets, weights) -> (loss, terms, gradient)."""

        def evaluate(image: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            with torch.enable_grad():
                image = image.detach().requires_grad_()
                loss, terms = objective(self.ops, image, taps(image), targets, weights)
                (gradient,) = torch.autograd.grad(loss, image)
            return loss.detach(), {name: value.detach() for name, value in terms.items()}, gradient

        return evaluate

    def measurer(self, taps: Taps, objective: Objective) -> Callable[[Any, Any], Any]:
        """(image, targets) -> sums."""

        def measure(image: Any, targets: Any) -> Any:
            with torch.no_grad():
                return objective.measure(self.ops, image, taps(image), targets)

        return measure

    def vjp(self, taps: Taps, objective: Objective) -> Callable[[Any, Any], tuple[Any, Callable[[Any], Any]]]:
        """(image, targets) -> (sums, cotangents -> gradient), see `stylekeras.engines`."""

        def forward(image: Any, targets: Any) -> tuple[Any, Callable[[Any], Any]]:
            with torch.enable_grad():
                image = image.detach().requires_grad_()
                sums = objective.measure(self.ops, image, taps(image), targets)
            named = trees.leaves(sums, "sums")

            def pull(cotangents: Mapping[str, Any]) -> Any:
                asked = [named[name] for name in cotangents]
                return torch.autograd.grad(asked, image, list(cotangents.values()))[0]

            return trees.transform(lambda value: value.detach(), sums), pull

        return forward

    def differentiator(self, objective: Objective) -> Callable[[Any, Any, Any], tuple[Any, Any, Any]]:
        """(sums, targets, weights) -> (loss, terms, gradient)."""

        def differentiate(sums: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            with torch.enable_grad():
                sums = trees.transform(lambda value: value.detach().requires_grad_(), sums)
                loss, terms = objective.combine(self.ops, sums, targets, weights)
                places = trees.leaves(sums, "sums")
                found = dict(zip(places, torch.autograd.grad(loss, list(places.values())), strict=True))
            gradient = trees.transform(lambda name: found[name], trees.names(sums, "sums"))
            return loss.detach(), {name: value.detach() for name, value in terms.items()}, gradient

        return differentiate

    def loop(self, taps: Taps, objective: Objective, optimizer: ModuleType) -> Loop:
        """The optimizer's state on the device and its step."""
        evaluate = self.evaluator(taps, objective)

        def advance(state: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
            loss, terms, gradient = evaluate(state.image, targets, weights)
            with torch.no_grad():
                return loss, terms, optimizer.update(self.ops, state, loss, gradient)

        return Loop(self, optimizer, advance)


def _scaled(taps: Taps, scale: float) -> Taps:
    """`taps`, of a network at that scale, with loss scaling of its own gradient."""

    class Features(torch.autograd.Function):  # type: ignore[misc]  # untyped where PyTorch is missing
        """The taps one after the other, since it takes no dict."""

        @staticmethod
        def forward(context: Any, image: Any, names: list[str]) -> tuple[Any, ...]:
            with torch.enable_grad():
                context.image = image.detach().requires_grad_()
                found = taps(context.image)
            names.extend(found)
            context.features = list(found.values())
            return tuple(value.detach() for value in context.features)

        @staticmethod
        def backward(context: Any, *cotangents: Any) -> Any:
            factor = loss_scaling.factor(keras.ops, cotangents, scale)
            scaled = [factor * cotangent for cotangent in cotangents]
            return torch.autograd.grad(context.features, context.image, scaled)[0] / factor, None

    def features(image: Any) -> dict[str, Any]:
        names: list[str] = []
        found = Features.apply(image, names)
        return dict(zip(names, found, strict=True))

    return features
