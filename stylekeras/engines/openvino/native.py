"""Operators of our own in OpenVINO's graphs: convolutions by our machine code, and parts of a style loss by NumPy."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import math
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino
from openvino import opset13

from stylekeras import style_losses
from stylekeras.engines import multiplies_bfloat16
from stylekeras.graphs import APART, RESULT
from stylekeras.graphs.channels_last import Layer
from stylekeras.native.blas import alone
from stylekeras.threads import Threads, in_background

if TYPE_CHECKING:
    from stylekeras.native.convolution import Convolver
    from stylekeras.native.direct import DirectConvolver
    from stylekeras.native.gram import Grams
    from stylekeras.native.pool import Pool

_Run = Callable[[list[np.ndarray], list[np.ndarray]], None]
# A module of `stylekeras.native`, its function that compiles, and what that is called with.
Code = tuple[str, str, *tuple[int, ...]]


class Native:
    """What an engine has for them: threads, and the machine code once a graph wants it."""

    def __init__(self, threads: int) -> None:
        self.threads = Threads(threads)
        self._begun: set[Code] = set()

    @functools.cached_property
    def has_matrix_unit(self) -> bool:
        """Whether there is one for bfloat16 that this process may use."""
        from stylekeras.native import tiles

        return tiles.available()

    @functools.cached_property
    def convolve(self) -> Convolver:
        """Convolutions."""
        # Its compiler takes a moment to load, which most precisions have no use for.
        from stylekeras.native.convolution import Convolver

        return Convolver(self.threads)

    @functools.cached_property
    def grams(self) -> Grams:
        """Gram matrices of features in bfloat16."""
        from stylekeras.native.gram import Grams

        return Grams(self.threads)

    @functools.cached_property
    def convolve_low(self) -> DirectConvolver:
        """Convolutions in bfloat16."""
        from stylekeras.native.direct import DirectConvolver

        return DirectConvolver(self.threads)

    def begin(self, *wanted: Code) -> None:
        """Compile code in another thread, meanwhile."""
        new = [each for each in wanted if each not in self._begun]
        self._begun.update(new)
        # A single core would do it instead of what else there is to do.
        if new and self.threads.count > 1:
            in_background(lambda: _compile(new), "stylekeras-compiler")

    def pool(self, size: int) -> Pool:
        """Pools of numbers of so many bytes."""
        from stylekeras.native.pool import Pool

        return Pool(self.threads, size)

    def rest(self) -> None:
        """Let go of memory that is not in use."""
        for name in ("convolve", "convolve_low"):
            if name in self.__dict__:
                getattr(self, name).rest()


def _compile(wanted: list[Code]) -> None:
    for module, function, *given in wanted:
        # At the end of a program nobody will want it. What goes wrong does so again where it is wanted.
        if threading.main_thread().is_alive():
            with contextlib.suppress(Exception):
                getattr(importlib.import_module(f"stylekeras.native.{module}"), function)(*given)


class Nodes:
    """The operators of a graph. They work as long as this is there.

    OpenVINO never lets go of an operator that is written in Python, nor that of what it refers to. So operators have
    nothing but a number and a reference that does not hold, and when this goes they lose their inputs.
    """

    def __init__(self, native: Native) -> None:
        self.failures: list[Exception] = []
        self.native = native
        self._runs: list[_Run] = []
        self.made: list[_Node] = []

        def gram(results: list[np.ndarray], given: list[np.ndarray]) -> None:
            native.grams(_bits(given[0]), results[0])

        # One for all: nodes of equal features are one then.
        self._gram: _Run = gram
        weakref.finalize(self, _cut_off, self.made)

    def gram(self, features: openvino.Output) -> openvino.Output:
        """F^T F in float32 of features (positions, channels) in bfloat16, channels a multiple of 32."""
        channels = int(features.get_shape()[1])
        return self.node([features], [[channels, channels]], self._gram).output(0)

    def take_apart(self, model: openvino.Model) -> None:
        """Do with NumPy what is marked by `ops.apart`, all parts that do not need each other at the same time."""
        outputs = (output for node in model.get_ordered_ops() for output in node.outputs())
        named = {name: output for output in outputs for name in output.get_names()}
        parts = []
        for name in named:
            found = re.fullmatch(rf"({APART}(\w+)\.(\w+?)(_\d+)?/){RESULT}0", name)
            if found:
                from stylekeras.native import roots

                function = functools.partial(style_losses.load(found[2]).ALONE[found[3]], roots)
                parts.append(_Part(function, _numbered(named, found[1]), _numbered(named, found[1] + RESULT)))
        while parts:
            # Nothing goes in a circle: one of them at least needs none of the others.
            ends = {each.get_node().get_friendly_name() for part in parts for each in part.results}
            free: list[_Part] = []
            later: list[_Part] = []
            for part in parts:
                (later if ends & _before(part.given) else free).append(part)
            self._together(free)
            parts = later

    def _together(self, parts: list[_Part]) -> None:
        """One node for all of them."""
        # Those that take longest first.
        parts = sorted(parts, key=lambda part: -max(math.prod(each.get_shape()) for each in part.results))
        forms = [(part.function, len(part.given), len(part.results)) for part in parts]
        threads = self.native.threads

        def run(results: list[np.ndarray], given: list[np.ndarray]) -> None:
            inputs, outputs = iter(given), iter(results)
            tasks = [
                (function, list(itertools.islice(inputs, ins)), list(itertools.islice(outputs, outs)))
                for function, ins, outs in forms
            ]
            with alone():
                threads.share(_done, tasks)

        results = [each for part in parts for each in part.results]
        shapes = [list(each.get_shape()) for each in results]
        node = self.node([each for part in parts for each in part.given], shapes, run)
        for result, output in zip(results, node.outputs(), strict=True):
            result.replace(output)

    def node(
        self,
        inputs: list[openvino.Output],
        shapes: list[list[int]],
        run: _Run,
        kind: openvino.Type = openvino.Type.f32,
    ) -> _Node:
        """An operator of ours, which makes tensors of those shapes, all of that type."""
        if run not in self._runs:
            self._runs.append(run)
        return _Node(inputs, shapes, kind, weakref.ref(self), self._runs.index(run))

    def run(self, number: int, results: list[np.ndarray], given: list[np.ndarray]) -> None:
        """What an operator does. OpenVINO hands on what an exception says, not what it is: it is kept too."""
        try:
            self._runs[number](results, given)
        except Exception as error:
            self.failures.append(error)
            raise


def _bits(features: np.ndarray) -> np.ndarray:
    """Of bfloat16. Where OpenVINO imitates that it hands over float32, which is rounded here."""
    if features.itemsize == 2:
        return features.view(np.uint16)
    bits = features.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


@contextlib.contextmanager
def _low(result: np.ndarray) -> Iterator[np.ndarray]:
    """A result in bfloat16, as bits to write; likewise."""
    if result.itemsize == 2:
        yield result.view(np.uint16)
        return
    found = np.empty(result.shape, np.uint16)
    yield found
    result[...] = (found.astype(np.uint32) << 16).view(np.float32)


def _cut_off(nodes: list[_Node]) -> None:
    for node in nodes:
        node.set_arguments([])


class Layers:
    """See `channels_last.Layers`. Code is compiled for it once something is made of it."""

    def __init__(self, nodes: Nodes, size: int) -> None:
        self._nodes = nodes
        # Of a number, in bytes.
        self._size = size

    @property
    def multiple(self) -> int:
        """What channels have to be multiples of in a pool."""
        from stylekeras.native import writer

        return writer.shape().width

    @property
    def _convolve(self) -> Convolver | DirectConvolver:
        return self._nodes.native.convolve

    @property
    def _pool(self) -> Pool:
        return self._nodes.native.pool(self._size)

    def convolution(
        self,
        picture: openvino.Output,
        weights: np.ndarray,
        layer: Layer,
        *,
        added: openvino.Output | None = None,
        mask: openvino.Output | None = None,
    ) -> openvino.Output:
        """A convolution, with what comes after it."""
        convolve, kernels = self._convolve, self._convolve.kernels(weights)
        inputs = {name: each for name, each in (("added", added), ("mask", mask)) if each is not None}
        # What a graph has as a constant is the graph's.
        bias = np.array(layer.bias)

        def run(result: np.ndarray, seen: np.ndarray, *others: np.ndarray) -> None:
            further = dict(zip(inputs, others, strict=True))
            convolve(seen, kernels, result, bias=bias, floor=layer.floor, pads=layer.pads, **further)

        return self._node([picture, *inputs.values()], list(layer.size), run)

    def largest(self, picture: openvino.Output) -> openvino.Output:
        """The largest of 2x2 positions each."""
        return self._pooled(self._pool.largest, picture)

    def mean(self, picture: openvino.Output) -> openvino.Output:
        """The mean of 2x2 positions each."""
        return self._pooled(self._pool.mean, picture)

    def repeated(self, gradient: openvino.Output) -> openvino.Output:
        """Each position four times."""
        pool, (_, height, width, channels) = self._pool, gradient.get_shape()
        return self._node(
            [gradient], [2 * height, 2 * width, channels], lambda result, given: pool.repeated(given, result)
        )

    def winners(self, picture: openvino.Output, gradient: openvino.Output, least: float) -> openvino.Output:
        """The gradient of `largest`."""
        pool, (_, height, width, channels) = self._pool, gradient.get_shape()

        def run(result: np.ndarray, features: np.ndarray, given: np.ndarray) -> None:
            pool.winners(features, given, result, least=least)

        return self._node([picture, gradient], [2 * height, 2 * width, channels], run)

    def _pooled(self, pool: Callable[[np.ndarray, np.ndarray], None], picture: openvino.Output) -> openvino.Output:
        _, height, width, channels = picture.get_shape()
        return self._node([picture], [height // 2, width // 2, channels], lambda result, given: pool(given, result))

    def _node(self, inputs: list[openvino.Output], shape: list[int], run: Callable[..., None]) -> openvino.Output:
        """Of one picture."""

        def whole(results: list[np.ndarray], given: list[np.ndarray]) -> None:
            run(results[0][0], *(each[0] for each in given))

        return self._nodes.node(inputs, [[1, *shape]], whole).output(0)


class FloatLayers(Layers):
    """See `channels_last.FloatLayers`."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__(nodes, 4)

    @property
    def across(self) -> int:
        """How many columns a result `from_planes` has at least."""
        from stylekeras.native.colours import least_across

        return least_across()

    def from_planes(self, planes: openvino.Output, weights: np.ndarray, layer: Layer) -> openvino.Output:
        """A picture's first convolution, with what comes after it."""
        from stylekeras.native.colours import FromPlanes

        convolve = FromPlanes(self._nodes.native.threads, weights, layer.bias, layer.floor)
        return self._node([planes], list(layer.size), lambda result, given: convolve(given, result))

    def to_planes(self, features: openvino.Output, weights: np.ndarray, layer: Layer) -> openvino.Output:
        """The gradient in a picture's planes."""
        from stylekeras.native.colours import ToPlanes

        convolve = ToPlanes(self._nodes.native.threads, weights, layer.pads)
        height, width, out = layer.size
        return self._node([features], [out, height, width], lambda result, given: convolve(given, result))


class LowLayers(Layers):
    """See `channels_last.Layers`; in bfloat16."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__(nodes, 2)

    @property
    def _convolve(self) -> DirectConvolver:
        return self._nodes.native.convolve_low

    def _node(self, inputs: list[openvino.Output], shape: list[int], run: Callable[..., None]) -> openvino.Output:
        """Where OpenVINO imitates bfloat16 it wants float32 of operators."""

        def whole(results: list[np.ndarray], given: list[np.ndarray]) -> None:
            with _low(results[0][0]) as found:
                run(found, *(_bits(each[0]) for each in given))

        if multiplies_bfloat16():
            return self._nodes.node(inputs, [[1, *shape]], whole, openvino.Type.bf16).output(0)
        return opset13.convert(self._nodes.node(inputs, [[1, *shape]], whole), "bf16").output(0)


class _Part(NamedTuple):
    """A part of a graph, and what does it on arrays."""

    function: Callable[..., tuple[np.ndarray, ...]]
    given: list[openvino.Output]
    results: list[openvino.Output]


def _done(task: tuple[Callable[..., tuple[np.ndarray, ...]], list[np.ndarray], list[np.ndarray]]) -> None:
    function, given, results = task
    for result, value in zip(results, function(*given), strict=True):
        result[...] = value


def _numbered(named: Mapping[str, openvino.Output], base: str) -> list[openvino.Output]:
    """What is named so, from 0 on."""
    found = (named.get(f"{base}{i}") for i in itertools.count())
    return list(itertools.takewhile(lambda each: each is not None, found))


def _before(outputs: list[openvino.Output]) -> set[str]:
    """The names of all nodes that they come from."""
    seen: set[str] = set()
    waiting = [each.get_node() for each in outputs]
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() not in seen:
            seen.add(node.get_friendly_name())
            waiting += [each.get_node() for each in node.input_values()]
    return seen


class _Node(openvino.Op):  # type: ignore[misc]
    """An operator of `Nodes`, by its number there."""

    def __init__(
        self,
        inputs: list[openvino.Output],
        shapes: list[list[int]],
        kind: openvino.Type,
        owner: weakref.ref[Nodes],
        number: int,
    ) -> None:
        self._shapes = shapes
        self._kind = kind
        self._owner = owner
        self._number = number
        # Asks for what it makes.
        super().__init__(self, inputs)
        nodes = owner()
        if nodes is not None:
            nodes.made.append(self)

    def validate_and_infer_types(self) -> None:
        """As every operator."""
        self.set_output_size(len(self._shapes))
        for i, shape in enumerate(self._shapes):
            self.set_output_type(i, self._kind, openvino.PartialShape(shape))

    def clone_with_new_inputs(self, new_inputs: list[openvino.Output]) -> _Node:
        """As every operator."""
        return _Node(new_inputs, self._shapes, self._kind, self._owner, self._number)

    def visit_attributes(self, visitor: Any) -> bool:
        """What it is besides its kind and inputs: two that are alike in that become one when a model is compiled."""
        visitor.on_attributes({"number": self._number})
        return True

    def has_evaluate(self) -> bool:
        """As every operator."""
        return True

    def evaluate(self, outputs: list[openvino.Tensor], inputs: list[openvino.Tensor]) -> bool:
        """As every operator."""
        nodes = self._owner()
        if nodes is None:
            return False
        nodes.run(self._number, [each.data for each in outputs], [each.data for each in inputs])
        return True
