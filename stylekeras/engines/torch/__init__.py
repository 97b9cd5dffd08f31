"""The PyTorch engine: autograd; on a GPU a whole step is recorded once for each scale and then played back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from stylekeras import loss_scaling, preprocessing, trees
from stylekeras.engines import Loop, Objective, Taps, cores, devices_of, native_precisions, precision_of
from stylekeras.engines.torch import ops, vgg
from stylekeras.layout import Footprint
from stylekeras.weights import Weights

_logger = logging.getLogger(__name__)
_recording = threading.Lock()


def sees_gpu() -> bool:
    """Whether PyTorch would run on a GPU."""
    return bool(torch.cuda.is_available())


class Engine:
    """PyTorch, on the GPU when it sees one; without Keras, whose layers for it copy each picture to another order of
    its axes and back."""

    name = "torch"
    version = torch.__version__
    reads_onnx = False

    footprint = Footprint(fixed=7.50e08, activations=1.8, in_tiles=2.7, resting=1.0, holding=1.5, held=3.5)

    def __init__(self, precision: str, devices: int | None = None) -> None:
        # Gram matrices, losses and L-BFGS need what float32 promises, on GPUs too.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        native = native_precisions()
        if sees_gpu():
            # AMD's GPUs have numbers of their own.
            native = native_precisions((0, 0) if torch.version.hip else torch.cuda.get_device_capability())
        self.precision = precision_of(self.name, precision, "float32", "bfloat16", "float16", auto=native)
        self.ops: Any = ops if self.precision == "float32" else ops.Narrow()
        self.devices = len(devices_of(self.name, devices, "device", [None]))
        self.queues = sees_gpu()
        self.device = f"GPU ({torch.cuda.get_device_name()})" if sees_gpu() else f"CPU ({cores()} cores)"

    def out_of_memory(self, error: Exception) -> bool:
        """Whether memory ran out, on the GPU or, where PyTorch has no type for it, on the processor."""
        told = ("can't allocate memory", "CUDA error: out of memory")
        return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in told)

    def tensor(self, value: Any) -> Any:
        """A nested structure of arrays and numbers as float32 tensors on the device."""
        return trees.transform(lambda item: self.ops.convert_to_tensor(np.asarray(item, np.float32)), value)

    def array(self, value: Any) -> Any:
        """A nested structure of tensors as NumPy arrays."""
        return trees.transform(lambda item: item.detach().cpu().numpy(), value)

    def backbone(self, weights: Weights, taps: list[str], *, pooling: str, padding: str) -> Taps:
        """The taps model, from (1, h, w, 3) to {tap: (1, h', w', c)}."""
        place = ops.device()
        taps_of = vgg.build(weights, taps, pooling=pooling, padding=padding, dtype=self.precision, device=place)
        return (
            _scaled(taps_of, preprocessing.scale(weights, self.precision)) if self.precision == "float16" else taps_of
        )

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

        return Recorded(self, optimizer, advance, queue=True) if self.queues else Loop(self, optimizer, advance)


class Recorded(Loop):
    """A step as a CUDA graph, recorded after the first of a scale: hundreds of small kernels that Python would be too
    slow to start one by one. It writes into its own state, of which copies are handed out."""

    _graph: Any = None
    _recordable = True
    # What it was recorded with: it reads these where they lie.
    _given: Any = None
    # Its numbers, one by one and in one vector.
    _numbers: Any = None
    _vector: Any = None
    # The fields that it writes.
    _written: frozenset[str] = frozenset()

    def start(self, state: Any) -> None:
        """Take over a state, of any height and width."""
        self.rest()
        self._state = state
        self._newest = state._replace(**{name: _own(value) for name, value in state._asdict().items()})

    def rest(self) -> None:
        """Let go of the pictures and the recording, which holds all that a step takes of memory."""
        super().rest()
        self._graph = self._given = self._numbers = self._vector = None

    def _begin(self, targets: Any, weights: Any) -> tuple[Any, Any]:
        if self._given is None or self._given[0] is not targets or self._given[1] is not weights:
            # Not recorded: what libraries set up when they are first used cannot be.
            self._graph, self._given, self._recordable = None, (targets, weights), True
            self._in_place(targets, weights)
        else:
            if self._graph is None and self._recordable:
                self._try_to_record(targets, weights)
            if self._graph is None:
                self._in_place(targets, weights)
            else:
                self._graph.replay()
        # On the way, while the next step is done.
        numbers = torch.empty(self._vector.shape, device="cpu", pin_memory=sees_gpu())
        numbers.copy_(self._vector, non_blocking=True)
        done = torch.cuda.Event() if sees_gpu() else None
        if done is not None:
            done.record()
        fields = {name: _copy(getattr(self._newest, name)) for name in self._written}
        return (numbers, done), self._state._replace(**fields)

    def _fetch(self, numbers: Any) -> Any:
        vector, done = numbers
        if done is not None:
            done.synchronize()
        values = iter(vector)
        return trees.transform(lambda _: next(values).numpy(), self._numbers)

    def _try_to_record(self, targets: Any, weights: Any) -> None:
        """Record the step, or go on without: recording alone leaves the state as it is."""
        try:
            self._graph = self._record(targets, weights)
        except RuntimeError as error:
            self._recordable = False
            _logger.warning("a step cannot be recorded on this GPU (%s): each is slower, the picture the same", error)

    def _record(self, targets: Any, weights: Any) -> Any:
        """The graph of `_in_place`. Raises: RuntimeError, if memory runs out as well."""
        graph = torch.cuda.CUDAGraph()
        # One at a time; somebody may fetch a picture meanwhile in another thread. Where recording ends with an error,
        # PyTorch leaves its own stream in place of the current one.
        before = torch.cuda.stream(torch.cuda.current_stream())
        with _recording, before, torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._in_place(targets, weights)
        return graph

    def _in_place(self, targets: Any, weights: Any) -> None:
        """A step in whose end the state is overwritten."""
        state = self._newest
        loss, terms, after = self._advance(state, targets, weights)
        self._written = frozenset(name for name, new in after._asdict().items() if new is not getattr(state, name))
        olds, news = _leaves(state), _leaves(after)
        pairs = [(old, new) for old, new in zip(olds, news, strict=True) if new is not old]
        kept = {old.data_ptr() for old in olds}
        # Before the first is overwritten: what is new may be what another was.
        news = [new.clone() if new.data_ptr() in kept else new for _, new in pairs]
        for (old, _), new in zip(pairs, news, strict=True):
            old.copy_(new)
        self._numbers = (loss, terms, (state.loss, state.accepted, state.moved))
        self._vector = torch.stack([number.float() for number in _leaves(self._numbers)])


def _leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    trees.transform(found.append, tree)
    return found


def _own(value: Any) -> Any:
    """A field of a state, to be written into; one of five axes is a history."""
    if value.ndim == 5:
        return ops.History(value.clone(), torch.arange(len(value), device=value.device))
    return value.clone()


def _copy(value: Any) -> Any:
    """As the optimizer knows it."""
    return value.sorted() if isinstance(value, ops.History) else value.clone()


def _scaled(taps: Taps, scale: float) -> Taps:
    """`taps`, of a network at that scale, with loss scaling of its own gradient."""

    class Features(torch.autograd.Function):  # type: ignore[misc]  # untyped where PyTorch is missing
        """The taps one after the other, since it takes no dict."""

        @staticmethod
        def forward(context: Any, image: Any, taken: list[str]) -> tuple[Any, ...]:
            with torch.enable_grad():
                context.image = image.detach().requires_grad_()
                found = taps(context.image)
            taken.extend(found)
            context.features = list(found.values())
            return tuple(value.detach() for value in context.features)

        @staticmethod
        def backward(context: Any, *cotangents: Any) -> Any:
            factor = loss_scaling.factor(ops, cotangents, scale)
            scaled = [factor * cotangent for cotangent in cotangents]
            return torch.autograd.grad(context.features, context.image, scaled)[0] / factor, None

    def features(image: Any) -> dict[str, Any]:
        taken: list[str] = []
        found = Features.apply(image, taken)
        return dict(zip(taken, found, strict=True))

    return features
