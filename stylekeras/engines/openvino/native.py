"""Operators of our own in OpenVINO's graphs: convolutions by our machine code, and parts of a style loss by NumPy."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import openvino

from stylekeras import style_losses
from stylekeras.graphs import APART, RESULT
from stylekeras.graphs.channels_last import Layer
from stylekeras.native.convolution import Convolver
from stylekeras.native.threads import Threads


class Native:
    """Makes nodes; the machine code is compiled when the first of them wants it."""

    def __init__(self, threads: int) -> None:
        # OpenVINO hands on what they say, not what they are.
        self.failures: list[Exception] = []
        self._threads = Threads(threads)

    @functools.cached_property
    def convolve(self) -> Convolver:
        """Convolutions."""
        return Convolver(self._threads)

    def rest(self) -> None:
        """Let go of memory that is not in use."""
        if "convolve" in self.__dict__:
            self.convolve.rest()

    @property
    def multiple(self) -> int:
        """What channels in and out have to be multiples of."""
        return self.convolve.multiple

    def convolution(self, picture: openvino.Output, weights: np.ndarray, layer: Layer) -> openvino.Output:
        """See `channels_last.Convolutions`."""
        kernels = self.convolve.kernels(weights)

        def run(results: list[np.ndarray], given: list[np.ndarray]) -> None:
            bias, floor, pads, _ = layer
            self.convolve(given[0][0], kernels, results[0][0], bias=bias, floor=floor, pads=pads)

        return _Node([picture], [[1, *layer.size]], run, self.failures).output(0)

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

        def run(results: list[np.ndarray], given: list[np.ndarray]) -> None:
            inputs, outputs = iter(given), iter(results)
            tasks = [
                (part.function, [next(inputs) for _ in part.given], [next(outputs) for _ in part.results])
                for part in parts
            ]
            with self._threads.alone():
                self._threads.share(_done, tasks)

        results = [each for part in parts for each in part.results]
        shapes = [list(each.get_shape()) for each in results]
        node = _Node([each for part in parts for each in part.given], shapes, run, self.failures)
        for result, output in zip(results, node.outputs(), strict=True):
            result.replace(output)


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
    """An operator of our own: `run(results, inputs)`, arrays in float32. What goes wrong is added to `failures`."""

    def __init__(
        self,
        inputs: list[openvino.Output],
        shapes: list[list[int]],
        run: Callable[..., None],
        failures: list[Exception],
    ) -> None:
        self._shapes = shapes
        self._run = run
        self._failures = failures
        # Asks for what it makes.
        super().__init__(self, inputs)

    def validate_and_infer_types(self) -> None:
        """As every operator."""
        self.set_output_size(len(self._shapes))
        for i, shape in enumerate(self._shapes):
            self.set_output_type(i, openvino.Type.f32, openvino.PartialShape(shape))

    def clone_with_new_inputs(self, new_inputs: list[openvino.Output]) -> _Node:
        """As every operator."""
        return _Node(new_inputs, self._shapes, self._run, self._failures)

    def has_evaluate(self) -> bool:
        """As every operator."""
        return True

    def evaluate(self, outputs: list[openvino.Tensor], inputs: list[openvino.Tensor]) -> bool:
        """As every operator."""
        try:
            self._run([each.data for each in outputs], [each.data for each in inputs])
        except Exception as error:
            self._failures.append(error)
            raise
        return True
