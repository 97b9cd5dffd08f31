"""Reverse-mode differentiation of an ONNX graph: the gradient as more nodes of the same graph.

Exporters give up on gradients, so what they wrote for inference cannot be optimized through. Here every node on a path
from the input to the scalar output adds what its rule says (stylekeras/graphs/rules.py), in reverse order (Griewank and
Walther 2008, section 3.2), and what comes out is an ordinary graph that any runtime takes.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import checker, helper, inliner, numpy_helper, shape_inference, version_converter

from stylekeras.errors import GraphError, nearest
from stylekeras.graphs.builder import (
    FLOATS,
    IR_VERSION,
    OPSET,
    SAME_SIZES,
    STOP,
    Builder,
    attributes,
    known_shape,
)
from stylekeras.graphs.rules import RULES, Node

# The newest that the rules were read against.
NEWEST_OPSET = 24
# Since then Resize says how it places pixels.
_RESIZE_CHANGED = 11
# Since then a constant need not be an input; the oldest version that is written.
_OWN_CONSTANTS = 4
# What protobuf can hold.
_LARGEST = 2**31 - 1
_STANDARD = ("", "ai.onnx")
_DISCRETE = frozenset(
    kind
    for name, kind in onnx.TensorProto.DataType.items()
    if name in ("BOOL", "STRING") or name.startswith(("INT", "UINT"))
)


def append_gradient(model: onnx.ModelProto, output: str, inputs: Sequence[str]) -> onnx.ModelProto:
    """A graph that also computes the gradient of one scalar.

    Args:
        model: any ONNX graph of operators that have a rule; not changed.
        output: a tensor of one element, of a floating type.
        inputs: inputs of the graph, of floating types, in which it is differentiated.

    Returns: the model with an output `gradient/<input>` more for each of `inputs`, of that input's shape and type; it
        passes ONNX' checker and shape inference. Opsets before 18 are converted.
    Raises: GraphError if an operator has no rule (naming it and its node), a name is unknown, `output` is no scalar or
        does not depend on an input, or the graph is not valid.
    """
    model = prepare(model)
    graph = model.graph
    b = _builder(model)
    seed = _seed(b, graph, output)
    targets = {name: f"gradient/{name}" for name in inputs}
    for name, target in targets.items():
        known = [item.name for item in graph.input]
        if name not in known:
            raise GraphError(f"the graph has no input {name!r}{nearest(name, known)}")
        if not _differentiable(b, name):
            raise GraphError(f"the input {name!r} is not of a floating type")
        if target in b.types:
            raise GraphError(f"the graph has a tensor {target!r} already: it was differentiated before?")
        b.taken.add(target)
    gradients = _backward(b, graph, {output: seed}, set(inputs))
    for name in inputs:
        if name not in gradients:
            raise GraphError(f"{output!r} does not depend on the input {name!r}")
    graph.node.extend(b.nodes)
    graph.initializer.extend(b.constants)
    for name, target in targets.items():
        graph.node.append(helper.make_node("Identity", [gradients[name]], [target], name=b.name("out")))
        value = graph.output.add()
        value.CopyFrom(next(item for item in graph.input if item.name == name))
        value.name = target
    check(model)
    return model


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with local functions inlined, its nodes in an order in which they run, at opset 18 or later.

    Raises: GraphError if it is cyclic or otherwise not valid, of an operator set that is not known, has tensors in
    other files, or is larger than protobuf can hold.
    """
    versions = {item.domain: item.version for item in model.opset_import}
    version = next((versions[domain] for domain in _STANDARD if domain in versions), None)
    if version is None:
        raise GraphError("the graph names no ONNX operator set")
    if version > min(NEWEST_OPSET, onnx.defs.onnx_opset_version()):
        raise GraphError(f"the graph has operator set {version}; up to {NEWEST_OPSET} can be read: export it with less")
    if model.ByteSize() > _LARGEST:
        raise GraphError("the graph is larger than 2 GB, which is more than ONNX' own tools can check")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _settle(result)
    _sort(result.graph)
    check(result)
    if result.functions:
        try:
            result = inliner.inline_local_functions(result)
        except Exception as error:  # onnx raises its own C++ errors, of many types
            raise GraphError(f"the graph's functions cannot be inlined: {_line(error)}") from None
    if version < OPSET:
        try:
            result = version_converter.convert_version(result, OPSET)
        except Exception as error:  # see above
            raise GraphError(f"operator set {version} cannot be converted to {OPSET}: {_line(error)}") from None
        if version < _RESIZE_CHANGED:
            _keep_resizes(result.graph)
    return result


def _settle(model: onnx.ModelProto) -> None:
    """Bring an old or careless exporter's model into today's form, without changing what it computes."""
    graph = model.graph
    for tensor in _all_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise GraphError(f"the tensor {tensor.name!r} lies in another file; save the model in one file")
    if model.ir_version < _OWN_CONSTANTS:
        # Before, every constant was an input as well.
        fixed = {tensor.name for tensor in graph.initializer}
        kept = [item for item in graph.input if item.name not in fixed]
        del graph.input[:]
        graph.input.extend(kept)
    model.ir_version = max(model.ir_version, IR_VERSION)
    for info in [*graph.input, *graph.output, *graph.value_info]:
        for dim in info.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 0:
                dim.ClearField("dim_value")


def _all_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Every tensor in a model, those in functions, attributes and inner graphs too."""
    nodes, graphs = [*model.graph.node, *(node for item in model.functions for node in item.node)], [model.graph]
    tensors: list[onnx.TensorProto] = []
    while nodes:
        node = nodes.pop()
        for item in node.attribute:
            tensors += [item.t, *item.tensors]
            for sparse in [item.sparse_tensor, *item.sparse_tensors]:
                tensors += [sparse.values, sparse.indices]
        for body in _bodies(node):
            graphs.append(body)
            nodes += body.node
    for graph in graphs:
        tensors += graph.initializer
        for sparse in graph.sparse_initializer:
            tensors += [sparse.values, sparse.indices]
    return tensors


def _keep_resizes(graph: onnx.GraphProto) -> None:
    """Upsample and the first Resize placed pixels otherwise than today's default, which the converter gives them."""
    for node in graph.node:
        if node.op_type == "Resize" and not {"coordinate_transformation_mode", "nearest_mode"} & set(attributes(node)):
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(helper.make_attribute("nearest_mode", "floor"))


def check(model: onnx.ModelProto) -> None:
    """Raise GraphError if a model is not valid."""
    try:
        checker.check_model(model, full_check=True)
    except Exception as error:  # see above
        raise GraphError(f"not a valid ONNX graph: {_line(error)}") from None


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _sort(graph: onnx.GraphProto) -> None:
    """Order the nodes so that each comes after what it reads, otherwise as they are (Kahn 1962)."""
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    before = [{made_by[name] for name in _reads(node) if name in made_by} for node in graph.node]
    readers: dict[int, list[int]] = {}
    for i, numbers in enumerate(before):
        for number in numbers:
            readers.setdefault(number, []).append(i)
    waits = [len(numbers) for numbers in before]
    ready = [i for i, count in enumerate(waits) if count == 0]
    order: list[int] = []
    while ready:
        current = heapq.heappop(ready)
        order.append(current)
        for reader in readers.get(current, []):
            waits[reader] -= 1
            if waits[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(graph.node):
        # Whoever waits, waits for one that waits: going back long enough ends in the circle.
        stuck = next(i for i, count in enumerate(waits) if count > 0)
        for _ in graph.node:
            stuck = next(number for number in before[stuck] if waits[number] > 0)
        node = graph.node[stuck]
        raise GraphError(f"the graph is cyclic: {node.op_type} ({node.name or node.output[0]}) waits for itself")
    if order != sorted(order):
        nodes = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs within a node (If, Loop, Scan)."""
    return [body for item in node.attribute for body in [*item.graphs, *([item.g] if item.HasField("g") else [])]]


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a graph and of the graphs within them."""
    inner = [found for node in graph.node for body in _bodies(node) for found in _all_nodes(body)]
    return [*graph.node, *inner]


def _reads(node: onnx.NodeProto) -> list[str]:
    """The tensors that a node reads, also from within its bodies (If, Loop)."""
    names = list(node.input)
    for body in _bodies(node):
        own = {name for inner in body.node for name in inner.output}
        own |= {value.name for value in (*body.input, *body.initializer)}
        names += [name for inner in body.node for name in _reads(inner) if name not in own]
        names += [value.name for value in body.output if value.name not in own]
    return [name for name in names if name]


def _builder(model: onnx.ModelProto) -> Builder:
    """A builder that knows the types and shapes of the graph's tensors."""
    graph = model.graph
    # The default value of an input says nothing about the values that it may be given.
    inputs = {item.name for item in graph.input}
    fixed = [tensor for tensor in graph.initializer if tensor.name not in inputs]
    view = model
    if len(fixed) < len(graph.initializer):
        view = onnx.ModelProto()
        view.CopyFrom(model)
        del view.graph.initializer[:]
        view.graph.initializer.extend(fixed)
    try:
        inferred = shape_inference.infer_shapes(view, check_type=True, strict_mode=True, data_prop=True).graph
    except Exception as error:  # see above
        raise GraphError(f"the graph's shapes do not fit: {_line(error)}") from None
    b = Builder(prefix="grad_")
    for info in [*inferred.input, *inferred.value_info, *inferred.output]:
        if not info.type.HasField("tensor_type"):
            continue
        b.types[info.name] = info.type.tensor_type.elem_type
        dims = known_shape(info)
        if dims is not None:
            b.shapes[info.name] = dims
    for tensor in fixed:
        b.types[tensor.name] = tensor.data_type
        b.shapes[tensor.name] = list(tensor.dims)
    for node in _all_nodes(graph):
        b.taken.update((*node.input, *node.output, node.name))
        for body in _bodies(node):
            b.taken.update(item.name for item in (*body.input, *body.output, *body.initializer))
            b.taken.update(item.values.name for item in body.sparse_initializer)
    b.taken.update(item.name for item in (*graph.input, *graph.initializer))
    b.taken.update(item.values.name for item in graph.sparse_initializer)
    return b


def _differentiable(b: Builder, name: str) -> bool:
    return b.types.get(name) in FLOATS


def _discrete(b: Builder, name: str) -> bool:
    """Whether a tensor has whole numbers, truth values or text, through which no gradient flows."""
    return b.types.get(name) in _DISCRETE


def _seed(b: Builder, graph: onnx.GraphProto, output: str) -> str:
    """The cotangent of the output: one."""
    known = [name for node in graph.node for name in node.output]
    if output not in known:
        raise GraphError(f"the graph has no tensor {output!r}{nearest(output, known)}")
    shape = b.shapes.get(output)
    if shape is None or any(dim != 1 for dim in shape):
        shown = "unknown shape" if shape is None else f"shape {shape}"
        raise GraphError(f"{output!r} has {shown}: only a scalar can be differentiated; sum or average it")
    if not _differentiable(b, output):
        raise GraphError(f"{output!r} is not of a floating type")
    return b.constant(np.ones(shape, b.dtype(output)))


def _backward(b: Builder, graph: onnx.GraphProto, cotangents: dict[str, str], inputs: set[str]) -> dict[str, str]:
    """Add the nodes of the reverse sweep; returns the cotangents of `inputs` that there are."""
    constants = _Constants(graph)
    b.same_sizes.update(node.output[0] for node in graph.node if node.doc_string == SAME_SIZES)
    depends = set(inputs)
    for node in graph.node:
        if node.op_type == "Identity" and node.doc_string == STOP:
            continue
        if any(name in depends for name in _reads(node)):
            # What is neither discrete nor known to have a derivative is followed too, so that it is refused.
            depends.update(name for name in node.output if name and not _discrete(b, name))
    parts = {name: [value] for name, value in cotangents.items()}
    for node in reversed(graph.node):
        reached = [i for i, name in enumerate(node.output) if name in parts and name in depends]
        if not reached or not any(name in depends for name in _reads(node)):
            continue
        kind = node.op_type if node.domain in _STANDARD else f"{node.domain}.{node.op_type}"
        wanted = frozenset(i for i, name in enumerate(node.input) if name in depends)
        label = node.name or node.output[0]
        view = Node(kind, label, list(node.input), list(node.output), attributes(node), wanted, constants)
        if kind not in RULES:
            raise view.refuse("there is no rule for this operator")
        for name in (*node.input, *node.output):
            if name and (name not in b.types or name not in b.shapes):
                what = "rank" if name in b.types else "type"
                raise view.refuse(f"the {what} of {name!r} is not known")
        try:
            found = RULES[kind](b, view, {i: _total(b, parts, node.output[i]) for i in reached})
        except GraphError:
            raise
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise view.refuse(f"its form is not known ({type(error).__name__}: {error})") from error
        for i, cotangent in found.items():
            if i in wanted:
                parts.setdefault(node.input[i], []).append(cotangent)
    return {name: _total(b, parts, name) for name in inputs if name in parts}


def _total(b: Builder, parts: dict[str, list[str]], name: str) -> str:
    """The sum of what came to a tensor from all its readers."""
    if len(parts[name]) > 1:
        parts[name] = [b.op("Sum", *parts[name])]
    return parts[name][0]


class _Constants(dict[str, np.ndarray]):
    """Values of initializers and Constant nodes by name, read when they are asked for."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__()
        inputs = {item.name for item in graph.input}
        self._tensors: dict[str, Any] = {item.name: item for item in graph.initializer if item.name not in inputs}
        for node in graph.node:
            if node.op_type == "Constant" and node.domain in _STANDARD:
                value = attributes(node)
                self._tensors[node.output[0]] = value.get("value", next(iter(value.values())))

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or `default` if it is not constant."""
        if name not in self._tensors:
            return default
        if name not in self:
            value = self._tensors[name]
            self[name] = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
        return self[name]
