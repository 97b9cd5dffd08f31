"""Operators of our own in OpenVINO's graphs: convolutions by our machine code, and parts of a style loss by NumPy."""

from __future__ import annotations

import functools
import itertools
import math
import re
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import openvino

from stylekeras import style_losses
from stylekeras.graphs import APART, RESULT
from stylekeras.graphs.channels_last import Layer
from stylekeras.native.threads import Threads, alone

if TYPE_CHECKING:
    from stylekeras.native.convolution import Convolver

_Run = Callable[[list[np.ndarray], list[np.ndarray]], None]


class Native:
    """What an engine has for them: threads, and the machine code once a graph wants it."""

    def __init__(self, threads: int) -> None:
        self.threads = Threads(threads)

    @functools.cached_property
    def convolve(self) -> Convolver:
        """Convolutions."""
        # Its compiler takes a moment to load, which most precisions have no use for.
        from stylekeras.native.convolution import Convolver

        return Convolver(self.threads)

    def rest(self) -> None:
        """Let go of memory that is not in use."""
        if "convolve" in self.__dict__:
            self.convolve.rest()


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

    def _node(self, inputs: list[openvino.Output], shapes: list[list[int]], run: _Run) -> _Node:
        self._runs.append(run)
        return _Node(inputs, shapes, weakref.ref(self), len(self._runs) - 1)

    def run(self, number: int, results: list[np.ndarray], given: list[np.ndarray]) -> None:
        """What an operator does. OpenVINO hands on what an exception says, not what it is: it is kept too."""
        try:
            self._runs[number](results, given)
        except Exception as error:
            self.failures.append(error)
            raise


def _cut_off(nodes: list[_Node]) -> None:
    for node in nodes:
        node.set_arguments([])


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
        self, inputs: list[openvino.Output], shapes: list[list[int]], owner: weakref.ref[Nodes], number: int
    ) -> None:
        self._shapes = shapes
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
            self.set_output_type(i, openvino.Type.f32, openvino.PartialShape(shape))

    def clone_with_new_inputs(self, new_inputs: list[openvino.Output]) -> _Node:
        """As every operator."""
        return _Node(new_inputs, self._shapes, self._owner, self._number)

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
