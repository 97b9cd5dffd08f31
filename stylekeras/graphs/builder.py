"""Adding nodes to an ONNX graph, with what is known of its tensors' types and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

# A dimension: a number, the name of one that is not known, or None.
Dim = int | str | None

# The oldest operator set that has all that we write; older graphs are converted to it.
OPSET = 18
# The oldest in which convolutions and pooling take bfloat16.
BFLOAT16_OPSET = 22
# The oldest file version that is written: what runtimes of the last years read.
IR_VERSION = 8

# The description of an Identity node through which no gradient flows.
STOP = "stop_gradient"
# The description of a node whose inputs have equal sizes wherever both are open: nothing is broadcast there.
SAME_SIZES = "same_sizes"

# The types that have derivatives.
FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
)
_NARROW = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})


@dataclass
class Builder:
    """Nodes and constants to be added to a graph, in an order in which they can run.

    `types` and `shapes` say what is known of tensors by name: an ONNX element type, and a list of dimensions.
    """

    taken: set[str] = field(default_factory=set)
    types: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, list[Dim]] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    prefix: str = ""
    # The operator set of the nodes: that of what was taken in, if it is newer than ours.
    opset: int = OPSET
    # Outputs of nodes that are so described.
    same_sizes: set[str] = field(default_factory=set)
    _shared: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def name(self, base: str) -> str:
        """A name that no other tensor has."""
        base = self.prefix + base
        name, number = base, 1
        while name in self.taken:
            number += 1
            name = f"{base}_{number}"
        self.taken.add(name)
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output. Inputs that are left out are ""; attributes that are None are left out."""
        return self.op_many(kind, 1, *inputs, **attributes)[0]

    def op_many(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node with `count` outputs."""
        outputs = [self.name(kind) for _ in range(count)]
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=outputs[0], **given))
        return outputs

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> str:
        """A constant tensor; small ones are shared."""
        array = np.asarray(value, dtype)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        key = (kind, array.shape, array.tobytes()) if array.size <= 64 else None
        if key is not None and key in self._shared:
            return self._shared[key]
        name = self.name("constant")
        self.constants.append(numpy_helper.from_array(array, name))
        self.types[name] = kind
        self.shapes[name] = list(array.shape)
        if key is not None:
            self._shared[key] = name
        return name

    def ints(self, *values: int) -> str:
        """A constant vector of int64, as shapes, axes and pads are."""
        return self.constant(np.array(values, np.int64))

    def like(self, value: float, tensor: str) -> str:
        """A constant scalar of the type of `tensor`."""
        return self.constant(np.array(value, self.dtype(tensor)))

    def dtype(self, tensor: str) -> np.dtype[Any]:
        """The NumPy type of a tensor."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.types[tensor]))

    def rank(self, tensor: str) -> int:
        """How many dimensions a tensor has."""
        return len(self.shapes[tensor])

    def shape(self, tensor: str, start: int | None = None, end: int | None = None) -> str:
        """The shape of a tensor, as a vector of int64: a constant where all of it is known."""
        known = self.shapes.get(tensor)
        if known is not None:
            dims = known[slice(start, end)]
            if all(isinstance(dim, int) for dim in dims):
                return self.constant(np.array(dims, np.int64))
        return self.op("Shape", tensor, start=start, end=end)

    def join(self, *vectors: str) -> str:
        """Vectors end to end."""
        return vectors[0] if len(vectors) == 1 else self.op("Concat", *vectors, axis=0)

    def reshape(self, tensor: str, like: str) -> str:
        """`tensor` in the shape of `like`, sizes of 0 included."""
        return self.op("Reshape", tensor, self.shape(like), allowzero=1)

    def cast(self, tensor: str, kind: int) -> str:
        """`tensor` as an ONNX element type; itself if it is known to have it."""
        return tensor if self.types.get(tensor) == kind else self.op("Cast", tensor, to=kind)

    def wide(self, tensor: str) -> int:
        """The type to count and to sum in: float32 for float16 and bfloat16, otherwise the tensor's own."""
        kind = self.types[tensor]
        return int(onnx.TensorProto.FLOAT) if kind in _NARROW else kind

    def in_float32(self, function: Callable[[str], str], tensor: str, of: str) -> str:
        """`function(tensor)`, computed in the wide type of `of` and cast back to its own."""
        if self.wide(of) == self.types[of]:
            return function(tensor)
        return self.op("Cast", function(self.op("Cast", tensor, to=self.wide(of))), to=self.types[of])

    def zero_pad(self, tensor: str, of: str, pads: str, axes: Iterable[int]) -> str:
        """`tensor`, of the type of `of`, with zeros before and behind it along some axes."""
        # Written out: with the value left out, as ONNX allows, OpenVINO does not read the node.
        return self.op("Pad", tensor, pads, self.like(0, of), self.ints(*axes))

    def sum_to(self, tensor: str, target: str, of: str) -> str:
        """Sum `tensor`, which has the shape of `of`, to the shape of `target`, which was broadcast to it."""
        wide, narrow = self.shapes[of], self.shapes[target]
        lead = len(wide) - len(narrow)
        axes, open_axes = list(range(lead)), []
        for axis, (there, here) in enumerate(zip(narrow, wide[lead:], strict=True), start=lead):
            if there == 1 and here != 1:
                axes.append(axis)
            elif of not in self.same_sizes and (there is None or (there != here and not isinstance(there, int))):
                open_axes.append(axis)
        if axes:
            tensor = self.op("ReduceSum", tensor, self.ints(*axes), keepdims=1)
        for axis in open_axes:
            tensor = self._sum_where_one(tensor, axis, self.shape(target, axis - lead, axis - lead + 1))
        return tensor if lead == 0 else self.reshape(tensor, target)

    def _sum_where_one(self, tensor: str, axis: int, size: str) -> str:
        """`tensor` summed along an axis, if `size` is 1; else as it is."""
        # Axes that are only known when it runs are more than OpenVINO takes; bounds of a slice are not. So the sum is
        # put behind the summands, and one or the other cut out.
        total = self.op("ReduceSum", tensor, self.ints(axis), keepdims=1)
        both = self.op("Concat", tensor, total, axis=axis)
        length = self.op("Shape", tensor, start=axis, end=axis + 1)
        is_one = self.op("Cast", self.op("Equal", size, self.ints(1)), to=int(onnx.TensorProto.INT64))
        end = self.op("Add", length, is_one)
        return self.op("Slice", both, self.op("Mul", length, is_one), end, self.ints(axis))


def known_shape(info: onnx.ValueInfoProto) -> list[Dim] | None:
    """The dimensions of a value, or None if not even their number is known."""
    kind = info.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in kind.shape.dim]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values, text decoded."""
    values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def as_list(values: Sequence[int] | None, length: int, default: int) -> list[int]:
    """An attribute of one number per axis, or the default for each."""
    return [default] * length if values is None else list(values)
