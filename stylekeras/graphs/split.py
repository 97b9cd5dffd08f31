"""Cutting a graph in two: what some of its outputs need, and the rest.

So a pass forward and a pass back, written as one graph, run one after the other with something between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx
from onnx import helper, shape_inference

# What the first half hands over, by the names in the whole graph, is called this.
KEPT = "kept/"


def split(model: onnx.ModelProto, early: Sequence[str], late: Sequence[str]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The halves of a graph.

    Args: early, late: outputs of the model.
    Returns: a model with the inputs and outputs that `early` needs, and as outputs besides, named `kept/...`, what the
        second reads of it; and one with the outputs `late`, these as inputs, and the inputs of the whole that it reads.
    """
    graph = shape_inference.infer_shapes(model).graph
    first = _needed(graph, early)
    second = _needed(graph, late)
    # Shapes are small, and what they are the shapes of is not.
    cheap = {node.output[0] for node in graph.node if node.op_type == "Shape" and node.input[0] in first}
    first |= cheap
    second -= first
    made = {name for node in graph.node if node.output[0] in first for name in node.output}
    read = {name for node in graph.node if node.output[0] in second for name in node.input}
    kept = sorted(read & made)
    known = {info.name: info for info in (*graph.value_info, *graph.output, *graph.input)}

    def handed(name: str) -> onnx.ValueInfoProto:
        info = onnx.ValueInfoProto()
        info.CopyFrom(known[name])
        info.name = KEPT + name
        return info

    def part(tensors: set[str], before: list[Any], after: list[Any], inputs: list[Any], outputs: list[Any]) -> Any:
        nodes = [*before, *(node for node in graph.node if node.output[0] in tensors), *after]
        read = {name for node in nodes for name in node.input}
        entries = [*(info for info in graph.input if info.name in read), *inputs]
        constants = [constant for constant in graph.initializer if constant.name in read]
        half = helper.make_graph(nodes, graph.name, entries, outputs, constants)
        return helper.make_model(half, opset_imports=model.opset_import, ir_version=model.ir_version)

    given = [helper.make_node("Identity", [name], [KEPT + name]) for name in kept]
    taken = [helper.make_node("Identity", [KEPT + name], [name]) for name in kept]
    between = [handed(name) for name in kept]
    ends = [[known[name] for name in names] for names in (early, late)]
    return part(first, [], given, [], [*ends[0], *between]), part(second, taken, [], between, ends[1])


def _needed(graph: onnx.GraphProto, outputs: Iterable[str]) -> set[str]:
    """The tensors that outputs are computed from."""
    needed = set(outputs)
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.output)
            needed.update(node.input)
    return needed
