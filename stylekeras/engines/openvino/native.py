"""Operators of our own in OpenVINO's graphs: convolutions by our machine code, and parts of a style loss by NumPy."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import openvino
from openvino import opset13

from stylekeras import style_losses
from stylekeras.engines import multiplies_bfloat16
from stylekeras.graphs import APART, RESULT
from stylekeras.graphs.channels_last import Layer
from stylekeras.native.blas import alone
from stylekeras.threads import Threads

if TYPE_CHECKING:
    from stylekeras.native.convolution import Convolver
    from stylekeras.native.direct import DirectConvolver
    from stylekeras.native.gram import Grams
    from stylekeras.native.pool import Pool

_Run = Callable[[list[np.ndarray], list[np.ndarray]], None]


class Native:
    """What an engine has for them: threads, and the machine code once a graph wants it."""

    def __init__(self, threads: int) -> None:
        self.threads = Threads(threads)

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

    @functools.cached_property
    def pool(self) -> Pool:
        """Pools in bfloat16."""
        from stylekeras.native.pool import Pool

        return Pool(self.threads)

    def rest(self) -> None:
        """Let go of memory that is not in use."""
        for name in ("convolve", "convolve_low"):
            if name in self.__dict__:
                getattr(self, name).rest()


class Nodes:
    """The operators of a graph. They work as long as this is there.

    OpenVINO never lets go of an operator that is written in Python, nor that of what it refers to. So operators have
    nothing but a number and a reference that does not hold, and when this goes they lose their inputs.
    """

    def __init__(self, native: Native) -> None:
        self.failures: list[Exception] = []
        self._native = native
        self._runs: list[_Run] = []
        self.made: list[_Node] = []
        weakref.finalize(self, _cut_off, self.made)

    @property
    def multiple(self) -> int:
        """What channels in and out have to be multiples of."""
        return self._native.convolve.multiple

    def convolution(self, picture: openvino.Output, weights: np.ndarray, layer: Layer) -> openvino.Output:
        """See `channels_last.Convolutions`."""
        convolve = self._native.convolve
        kernels = convolve.kernels(weights)
        # What a graph has as a constant is the graph's.
        bias = np.array(layer.bias)

        def run(results: list[np.ndarray], given: list[np.ndarray]) -> None:
            convolve(given[0][0], kernels, results[0][0], bias=bias, floor=layer.floor, pads=layer.pads)

        return self._node([picture], [[1, *layer.size]], run).output(0)

    def low_convolution(
        self,
        picture: openvino.Output,
        weights: np.ndarray,
        layer: Layer,
        *,
        added: openvino.Output | None = None,
        mask: openvino.Output | None = None,
    ) -> openvino.Output:
        """See `low_channels_last.Layers`."""
        convolve = self._native.convolve_low
        inputs = {name: each for name, each in (("added", added), ("mask", mask)) if each is not None}
        kernels, bias = convolve.kernels(weights), np.array(layer.bias)

        def run(results: list[np.ndarray], given: list[np.ndarray]) -> None:
            seen, *others = (_bits(each[0]) for each in given)
            further = dict(zip(inputs, others, strict=True))
            with _low(results[0][0]) as found:
                convolve(seen, kernels, found, bias=bias, floor=layer.floor, pads=layer.pads, **further)

        return self._low_node([picture, *inputs.values()], [1, *layer.size], run)

    def largest(self, picture: openvino.Output) -> openvino.Output:
        """See `low_channels_last.Layers`."""
        return self._pool(self._native.pool.largest, picture)

    def mean(self, picture: openvino.Output) -> openvino.Output:
        """See `low_channels_last.Layers`."""
        return self._pool(self._native.pool.mean, picture)

    def _pool(self, pool: Callable[[np.ndarray, np.ndarray], None], picture: openvino.Output) -> openvino.Output:
        _, height, width, channels = picture.get_shape()
        return self._resized(pool, picture, [1, height // 2, width // 2, channels])

    def repeated(self, gradient: openvino.Output) -> openvino.Output:
        """See `low_channels_last.Layers`."""
        _, height, width, channels = gradient.get_shape()
        return self._resized(self._native.pool.repeated, gradient, [1, 2 * height, 2 * width, channels])

    def _resized(
        self, function: Callable[[np.ndarray, np.ndarray], None], given: openvino.Output, shape: list[int]
    ) -> openvino.Output:
        def run(results: list[np.ndarray], given: list[np.ndarray]) -> None:
            with _low(results[0][0]) as found:
                function(_bits(given[0][0]), found)

        return self._low_node([given], shape, run)

    def winners(self, picture: openvino.Output, gradient: openvino.Output, least: float) -> openvino.Output:
        """See `low_channels_last.Layers`."""
        pool, (_, height, width, channels) = self._native.pool, gradient.get_shape()

        def run(results: list[np.ndarray], given: list[np.ndarray]) -> None:
            with _low(results[0][0]) as found:
                pool.winners(_bits(given[0][0]), _bits(given[1][0]), found, least=least)

        return self._low_node([picture, gradient], [1, 2 * height, 2 * width, channels], run)

    def _low_node(self, inputs: list[openvino.Output], shape: list[int], run: _Run) -> openvino.Output:
        """One that makes bfloat16. Where OpenVINO imitates that it wants float32 of operators."""
        if multiplies_bfloat16():
            return self._node(inputs, [shape], run, openvino.Type.bf16).output(0)
        return opset13.convert(self._node(inputs, [shape], run), "bf16").output(0)

    def gram(self, features: openvino.Output) -> openvino.Output:
        """F^T F in float32 of features (positions, channels) in bfloat16, channels a multiple of 32."""
        grams, channels = self._native.grams, int(features.get_shape()[1])

        def run(results: list[np.ndarray], given: list[np.ndarray]) -> None:
            grams(_bits(given[0]), results[0])

        return self._node([features], [[channels, channels]], run).output(0)

    def take_apart(self, model: openvino.Model) -> None:
        """Do with NumPy what is marked by `ops.apart`, all parts that do not need each other at the same time."""
        outputs = (output for node in model.get_ordered_ops() for output in node.outputs())
        named = {name: output for output in outputs for name in output.get_names()}
        parts = []
        for name in named:
            found = re.fullmatch(rf"({APART}(\w+)\.(\w+?)(_\d+)?/){RESULT}0", name)
            if found:
                function = style_losses.load(found[2]).ALONE[found[3]]
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
        threads = self._native.threads

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
        node = self._node([each for part in parts for each in part.given], shapes, run)
        for result, output in zip(results, node.outputs(), strict=True):
            result.replace(output)

    def _node(
        self,
        inputs: list[openvino.Output],
        shapes: list[list[int]],
        run: _Run,
        kind: openvino.Type = openvino.Type.f32,
    ) -> _Node:
        self._runs.append(run)
        return _Node(inputs, shapes, kind, weakref.ref(self), len(self._runs) - 1)

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


class LowNodes:
    """See `low_channels_last.Layers`."""

    def __init__(self, nodes: Nodes) -> None:
        self.convolution = nodes.low_convolution
        self.largest, self.winners = nodes.largest, nodes.winners
        self.mean, self.repeated = nodes.mean, nodes.repeated


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
