"""A backbone from an ONNX file, whoever exported it: taps by name, of any network of operators that have a rule."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper, shape_inference

from stylekeras import tiling
from stylekeras.errors import GraphError, nearest
from stylekeras.graphs import reach
from stylekeras.graphs.builder import Builder, Dim, known_shape
from stylekeras.graphs.gradient import check, prepare
from stylekeras.graphs.taps import preprocessed
from stylekeras.graphs.trace import Ops
from stylekeras.weights import Card

_LARGEST = 2**31 - 1
_FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Tap:
    """A tensor of a file that can be tapped: its name, channels, the operator that makes it, and its layout."""

    name: str
    channels: int
    operator: str
    channels_first: bool


def read(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model of a file, checked and at the operator set that is written here. Nothing else is read or run.

    Raises: GraphError if it cannot be read, is no valid ONNX, is too large, or has its tensors in other files.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise GraphError(f"{path}: larger than 2 GB, which no ONNX file may be")
        content = path.read_bytes()
    except OSError as error:
        raise GraphError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's own, of a type that changes with its version
        raise GraphError(f"{path}: not an ONNX file, or cut short ({type(error).__name__})") from None
    if not model.graph.node:
        raise GraphError(f"{path}: not an ONNX file, or one without nodes")
    try:
        return prepare(model)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None


def candidates(path: str | os.PathLike[str]) -> list[Tap]:
    """Everything in a file that can be tapped, in the order of the network.

    Raises: GraphError as `read`, or if it does not take a picture.
    """
    return list(_found(_opened(read(path), Path(path))).values())


def taps(
    path: str | os.PathLike[str], names: Iterable[str], card: Card, metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """The network of a file, cut after its taps.

    Args: names: tensors of four axes, by their own names or their nodes'; card: its preprocessing.
    Returns: as `stylekeras.graphs.taps.vgg`.
    Raises: GraphError as `candidates`, or for a name that is not there.
    """
    path = Path(path)
    model = _opened(read(path), path)
    chosen = _chosen(model, path, names)
    cut = _cut(model, {tap.name: tap for tap in chosen.values()})
    ops = Ops(Builder())
    image = ops.input("image", (1, "height", "width", 3))
    b, entry = ops.builder, cut.graph.input[0]
    b.taken.update(chosen)  # the outputs' names
    x = preprocessed(ops, image, card)
    if not _channels_first(known_shape(entry)):
        x = b.op("Transpose", x, perm=[0, 2, 3, 1])
    shape = (1, 3, "height", "width") if _channels_first(known_shape(entry)) else (1, "height", "width", 3)
    inner = ops.splice(cut, {entry.name: ops.tensor(x, shape)}, prefix="network/")
    outputs = {}
    for number, (name, tap) in enumerate(chosen.items()):
        size = (f"tap{number}_height", f"tap{number}_width")
        features = inner[tap.name].name
        if tap.channels_first:
            features = b.op("Transpose", features, perm=[0, 2, 3, 1])
        outputs[name] = ops.tensor(features, (1, *size, tap.channels))
    made = ops.model("taps", {"image": image}, outputs, metadata)
    check(made)
    return made


def anatomy(path: str | os.PathLike[str], names: Iterable[str]) -> tiling.Anatomy:
    """That of a file's network, cut after its taps; `names` as for `taps`.

    Raises: GraphError if something in it sees all of a picture, or it cannot be told.
    """
    path = Path(path)
    model = _opened(read(path), path)
    chosen = _chosen(model, path, names)
    cut = _cut(model, {tap.name: tap for tap in chosen.values()})
    try:
        seen = reach.fields(cut)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
    densities = {
        tap.name: tap.channels / (seen[tap.name][0].stride * seen[tap.name][1].stride)
        for tap in _found(model).values()
        if tap.name in seen
    }
    return tiling.Anatomy(
        {name: seen[tap.name] for name, tap in chosen.items()},
        {name: densities[tap.name] for name, tap in chosen.items()},
        sum(densities.values()),
    )


def _opened(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model for one picture of any size: its input's height and width open, whatever they were exported with."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    entries = [item for item in model.graph.input if item.name not in fixed]
    shapes = [known_shape(item) for item in entries]
    if len(entries) != 1 or not _is_picture(entries[0], shapes[0]):
        described = ", ".join(f"{item.name} {shape}" for item, shape in zip(entries, shapes, strict=True))
        raise GraphError(f"{path}: expected one input (1, 3, h, w) or (1, h, w, 3) in float32; it has {described}")
    dims = entries[0].type.tensor_type.shape.dim
    spatial = (2, 3) if _channels_first(shapes[0]) else (1, 2)
    dims[0].dim_value = 1
    for axis, name in zip(spatial, ("height", "width"), strict=True):
        dims[axis].dim_param = name
    # What was inferred for the exported size holds for that size only.
    del model.graph.value_info[:]
    del model.graph.output[:]
    return model


def _is_picture(entry: onnx.ValueInfoProto, shape: list[Dim] | None) -> bool:
    if shape is None or len(shape) != 4 or entry.type.tensor_type.elem_type != _FLOAT:
        return False
    return 3 in (shape[1], shape[3]) and (shape[0] == 1 or not isinstance(shape[0], int))


def _channels_first(shape: list[Dim] | None) -> bool:
    return shape is not None and shape[1] == 3


def _found(model: onnx.ModelProto) -> dict[str, Tap]:
    """The tensors of four axes of which the channels are known and the positions are not."""
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    shapes = {info.name: info for info in inferred.graph.value_info}
    found = {}
    for node in model.graph.node:
        for name in node.output:
            info = shapes.get(name)
            shape = None if info is None else known_shape(info)
            if info is None or shape is None or len(shape) != 4 or info.type.tensor_type.elem_type != _FLOAT:
                continue
            first, last = isinstance(shape[1], int), isinstance(shape[3], int)
            if first != last and not isinstance(shape[2], int):
                channels = shape[1] if first else shape[3]
                found[name] = Tap(name, int(channels or 0), node.op_type, first)
    return found


def _chosen(model: onnx.ModelProto, path: Path, names: Iterable[str]) -> dict[str, Tap]:
    """The taps of these names. Raises: GraphError for one that is not there."""
    known = _found(model)
    by_node = {node.name: node.output[0] for node in model.graph.node if node.name and len(node.output) == 1}
    chosen = {}
    for name in dict.fromkeys(names):
        tensor = name if name in known else by_node.get(name, name)
        if tensor not in known:
            raise GraphError(f"{path.name} has no tap {name!r}{nearest(name, known)}")
        chosen[name] = known[tensor]
    return chosen


def _cut(model: onnx.ModelProto, taps: Mapping[str, Tap]) -> onnx.ModelProto:
    """The nodes that these tensors need, these tensors as outputs."""
    needed, kept = set(taps), []
    for node in reversed(model.graph.node):
        if needed.isdisjoint(node.output):
            continue
        if any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in node.attribute):
            raise GraphError(f"{node.op_type} ({node.name or node.output[0]}) has a graph within it")
        needed.update(name for name in node.input if name)
        kept.append(node)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.node[:]
    graph.node.extend(reversed(kept))
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    for name, tap in taps.items():
        shape = [1, tap.channels, None, None] if tap.channels_first else [1, None, None, tap.channels]
        graph.output.append(helper.make_tensor_value_info(name, _FLOAT, shape))
    inputs = [item for item in graph.input if item.name not in {tensor.name for tensor in model.graph.initializer}]
    del graph.input[:]
    graph.input.extend(inputs)
    return result
