"""What the tensors of a network see of its picture (`stylekeras.tiling.Field`), by walking through its nodes."""

from __future__ import annotations

from typing import Any, NamedTuple

import onnx
from onnx import numpy_helper, shape_inference

from stylekeras.errors import GraphError
from stylekeras.graphs.builder import as_list, attributes, known_shape
from stylekeras.tiling import Field

# What looks at one position of each of its inputs at a time.
_ARITHMETIC = {"Abs", "Add", "Cast", "Clip", "Div", "Dropout", "Exp", "Identity", "Max", "Min", "Mul", "Neg", "Pow"}
_ACTIVATIONS = {"Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu", "Sigmoid", "Softplus"}
_POINTWISE = _ARITHMETIC | _ACTIVATIONS | {"Sqrt", "Sub", "Sum", "Tanh"}
_SAME_BORDER = ("constant", "edge")


class _Seen(NamedTuple):
    """A tensor's fields (vertical, horizontal), and the axes that they are along."""

    fields: tuple[Field, Field]
    axes: tuple[int, int]


def fields(model: onnx.ModelProto) -> dict[str, tuple[Field, Field]]:
    """For every tensor that depends on the model's one input, a picture, its fields.

    Raises: GraphError for a node that looks at all of a picture, or at which part cannot be told.
    """
    entry = model.graph.input[0]
    shape = known_shape(entry) or []
    axes = (2, 3) if shape[1] == 3 else (1, 2)
    seen = {entry.name: _Seen((Field(), Field()), axes)}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    shapes: dict[str, Any] = {info.name: known_shape(info) for info in inferred}
    shapes |= {name: list(value.shape) for name, value in constants.items()}
    for node in model.graph.node:
        if node.op_type == "Constant" and (tensor := attributes(node).get("value")) is not None:
            constants[node.output[0]] = numpy_helper.to_array(tensor)
            shapes[node.output[0]] = list(tensor.dims)
        pictures = [seen[name] for name in node.input if name in seen]
        if not pictures:
            continue
        found = _through(node, pictures, constants, shapes)
        seen.update(dict.fromkeys(node.output, found))
    return {name: item.fields for name, item in seen.items()}


def _through(node: onnx.NodeProto, pictures: list[_Seen], constants: dict[str, Any], shapes: dict[str, Any]) -> _Seen:
    given, first = attributes(node), pictures[0]
    kind, spatial = node.op_type, first.axes
    if kind == "Transpose":
        perm = list(given["perm"])
        return first._replace(axes=(perm.index(spatial[0]), perm.index(spatial[1])))
    if kind in ("Conv", "MaxPool", "AveragePool") and spatial == (2, 3):
        kernel = given.get("kernel_shape") or (shapes[node.input[1]][2:] if kind == "Conv" else None)
        return _Seen(_slid(node, first, given, kernel), spatial)
    if kind == "Pad" and given.get("mode", "constant") in _SAME_BORDER:
        pads = _pads(node, first, constants)
        if pads is not None:
            return _Seen(tuple(first.fields[i].through(1, 1, *pads[i]) for i in range(2)), spatial)  # type: ignore[arg-type]
    if kind == "Concat" and given["axis"] % 4 not in spatial and len(pictures) == len(node.input):
        return _joined(node, pictures)
    if kind == "BatchNormalization":  # its numbers are one for each channel
        return first
    if kind in _POINTWISE and all(_is_flat(shapes.get(name), spatial) for name in node.input if name in shapes):
        return _joined(node, pictures)
    raise _refused(node)


def _slid(node: onnx.NodeProto, seen: _Seen, given: dict[str, Any], kernel: Any) -> tuple[Field, Field]:
    """Behind a convolution or pooling."""
    if given.get("ceil_mode") or kernel is None:
        raise _refused(node)
    strides, dilations = (as_list(given.get(name), 2, 1) for name in ("strides", "dilations"))
    spans = [(kernel[i] - 1) * dilations[i] + 1 for i in range(2)]
    pads = as_list(given.get("pads"), 4, 0)
    auto = given.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        # With a stride they depend on the size of the picture.
        if strides != [1, 1]:
            raise _refused(node)
        less, more = [(span - 1) // 2 for span in spans], [span // 2 for span in spans]
        pads = [*less, *more] if auto == "SAME_UPPER" else [*more, *less]
    elif auto == "VALID":
        pads = [0] * 4
    found = [seen.fields[i].through(spans[i], strides[i], pads[i], pads[i + 2]) for i in range(2)]
    return found[0], found[1]


def _pads(node: onnx.NodeProto, seen: _Seen, constants: dict[str, Any]) -> list[tuple[int, int]] | None:
    """(before, behind) along the two axes of a padding; None if that cannot be told."""
    if len(node.input) < 2 or node.input[1] not in constants:
        return None
    amounts = [int(value) for value in constants[node.input[1]]]
    axes = [0, 1, 2, 3]
    if len(node.input) > 3 and node.input[3]:
        if node.input[3] not in constants:
            return None
        axes = [int(axis) % 4 for axis in constants[node.input[3]]]
    by_axis = {axis: (amounts[i], amounts[i + len(axes)]) for i, axis in enumerate(axes)}
    others = [pair for axis, pair in by_axis.items() if axis not in seen.axes]
    if any(pair != (0, 0) for pair in others) or min(amounts) < 0:
        return None
    return [by_axis.get(axis, (0, 0)) for axis in seen.axes]


def _joined(node: onnx.NodeProto, pictures: list[_Seen]) -> _Seen:
    """What several tensors of one size see together."""
    first = pictures[0]
    if any(other.axes != first.axes for other in pictures):
        raise _refused(node)
    joined = []
    for i in range(2):
        fields = [picture.fields[i] for picture in pictures]
        if len({field.stride for field in fields}) > 1:
            raise _refused(node)
        joined.append(
            fields[0]._replace(low=max(field.low for field in fields), high=max(field.high for field in fields))
        )
    return _Seen((joined[0], joined[1]), first.axes)


def _is_flat(shape: list[Any] | None, axes: tuple[int, int]) -> bool:
    """Whether a constant of that shape is the same at all positions, or it is not one."""
    if shape is None or any(not isinstance(dim, int) for dim in shape):
        return True
    padded = [1] * (4 - len(shape)) + shape
    return all(padded[axis] == 1 for axis in axes)


def _refused(node: onnx.NodeProto) -> GraphError:
    name = node.name or node.output[0]
    return GraphError(
        f"what {node.op_type} ({name}) sees of a picture is not a part of it that can be told, so the network cannot "
        "be run in tiles; use tile=none"
    )
