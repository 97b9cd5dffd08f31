"""NumPy's names for nodes of an ONNX graph: run code written against `ops` with an `Ops` and it writes its own graph.

That is how the objective gets into ONNX: `stylekeras/objective.py` is called once with tensors that only stand for
values, and what it did with them is the graph. There is no second definition of a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from stylekeras.errors import GraphError
from stylekeras.graphs import APART, RESULT
from stylekeras.graphs.builder import IR_VERSION, SAME_SIZES, STOP, Builder, Dim, known_shape

_LAST = np.iinfo(np.int64).max

Number: TypeAlias = "Tensor | float | int | np.generic"


class Tensor:
    """A value that the graph will have. `shape` holds numbers, and names or None where they are open."""

    # NumPy numbers on the left leave the operation to us.
    __array_ufunc__ = None

    def __init__(self, ops: Ops, name: str, shape: Iterable[Dim], dtype: npt.DTypeLike) -> None:
        self.ops = ops
        self.name = name
        self.shape: tuple[Any, ...] = tuple(shape)
        self.dtype = np.dtype(dtype)

    def __add__(self, other: Number) -> Tensor:
        return self.ops._binary("Add", self, other)

    def __radd__(self, other: Number) -> Tensor:
        return self.ops._binary("Add", other, self)

    def __sub__(self, other: Number) -> Tensor:
        return self.ops._binary("Sub", self, other)

    def __rsub__(self, other: Number) -> Tensor:
        return self.ops._binary("Sub", other, self)

    def __mul__(self, other: Number) -> Tensor:
        return self.ops._binary("Mul", self, other)

    def __rmul__(self, other: Number) -> Tensor:
        return self.ops._binary("Mul", other, self)

    def __truediv__(self, other: Number) -> Tensor:
        return self.ops._binary("Div", self, other)

    def __rtruediv__(self, other: Number) -> Tensor:
        return self.ops._binary("Div", other, self)

    def __neg__(self) -> Tensor:
        return self.ops._unary("Neg", self)

    def __bool__(self) -> bool:
        raise GraphError("the value of a traced tensor is not known while the graph is written")

    def __getitem__(self, key: Any) -> Tensor:
        """Slices of step 1, single elements by number, and new axes (None)."""
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, EllipsisType) for part in parts):
            raise GraphError("a traced tensor is not indexed with an ellipsis")
        starts, ends, axes, dropped, added = [], [], [], [], []
        shape, axis, place = list(self.shape), 0, 0
        for part in parts:
            if part is None:
                added.append(place)
                place += 1
                continue
            if isinstance(part, slice):
                if part.step not in (None, 1):
                    raise GraphError("a traced tensor is sliced with step 1 only")
                if part != slice(None):
                    starts.append(0 if part.start is None else int(part.start))
                    ends.append(_LAST if part.stop is None else int(part.stop))
                    axes.append(axis)
                    known = shape[axis]
                    shape[axis] = len(range(known)[part]) if isinstance(known, int) else None
                place += 1
            else:
                starts.append(int(part))
                ends.append(_LAST if int(part) == -1 else int(part) + 1)
                axes.append(axis)
                dropped.append(axis)
            axis += 1
        b, name = self.ops.builder, self.name
        if axes:
            name = b.op("Slice", name, b.ints(*starts), b.ints(*ends), b.ints(*axes))
        if dropped:
            name = b.op("Squeeze", name, b.ints(*dropped))
            shape = [dim for i, dim in enumerate(shape) if i not in dropped]
        if added:
            name = b.op("Unsqueeze", name, b.ints(*added))
            for new in added:
                shape.insert(new, 1)
        return self.ops.tensor(name, shape, self.dtype)


class Ops:
    """The functions of NumPy that the objective uses, on `Tensor`s of one graph."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def input(self, name: str, shape: Iterable[Dim], dtype: npt.DTypeLike = np.float32) -> Tensor:
        """A tensor that the graph is given."""
        self.builder.taken.add(name)
        return self.tensor(name, shape, dtype)

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Tensor:
        """A tensor of known value."""
        array = np.asarray(value, dtype)
        return self.tensor(self.builder.constant(array), array.shape, array.dtype)

    def abs(self, x: Tensor) -> Tensor:
        """Absolute values."""
        return self._unary("Abs", x)

    def relu(self, x: Tensor) -> Tensor:
        """x where it is positive, 0 elsewhere."""
        return self._unary("Relu", x)

    def sqrt(self, x: Tensor) -> Tensor:
        """Square roots."""
        return self._unary("Sqrt", x)

    def square(self, x: Tensor) -> Tensor:
        """x times x."""
        return self._binary("Mul", x, x)

    def maximum(self, x: Number, y: Number) -> Tensor:
        """The larger of two, element by element."""
        return self._binary("Max", x, y)

    def max(self, x: Tensor, axis: int | Sequence[int] | None = None) -> Tensor:
        """The largest over some axes, or over all."""
        return self._reduce("ReduceMax", x, axis)

    def isfinite(self, x: Tensor) -> Tensor:
        """Where x is neither NaN nor infinite."""
        wrong = self.builder.op("Or", self.builder.op("IsNaN", x.name), self.builder.op("IsInf", x.name))
        return self.tensor(self.builder.op("Not", wrong), x.shape, np.bool_)

    def where(self, condition: Tensor, x: Number, y: Number) -> Tensor:
        """x where the condition holds, y elsewhere."""
        left, right = self._pair(x, y)
        shape = _broadcast(_broadcast(left.shape, right.shape), condition.shape)
        return self.tensor(self.builder.op("Where", condition.name, left.name, right.name), shape, left.dtype)

    def sum(self, x: Tensor, axis: int | Sequence[int] | None = None) -> Tensor:
        """The sum over some axes, or over all."""
        return self._reduce("ReduceSum", x, axis)

    def mean(self, x: Tensor, axis: int | Sequence[int] | None = None) -> Tensor:
        """The mean over some axes, or over all."""
        return self._reduce("ReduceMean", x, axis)

    def trace(self, x: Tensor) -> Tensor:
        """The sum of a matrix's diagonal."""
        return self.sum(x * self.eye(x.shape[0], dtype=x.dtype))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of two matrices."""
        self._two_axes(x, y)
        name = self.builder.op("MatMul", x.name, y.name)
        return self.tensor(name, (x.shape[0], y.shape[1]), x.dtype)

    def transpose(self, x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
        """The axes in another order, by default the reverse one."""
        order = list(range(len(x.shape)))[::-1] if axes is None else list(axes)
        return self.tensor(self.builder.op("Transpose", x.name, perm=order), [x.shape[i] for i in order], x.dtype)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Another shape, of which one size may be -1."""
        known = all(isinstance(dim, int) for dim in x.shape)
        rest = int(np.prod([dim for dim in shape if dim != -1]))
        whole = int(np.prod([int(dim) for dim in x.shape])) // rest if known else None
        result = [(whole if dim == -1 else dim) for dim in shape]
        return self.tensor(self.builder.op("Reshape", x.name, self.builder.ints(*shape)), result, x.dtype)

    def shape(self, x: Tensor) -> tuple[Any, ...]:
        """The sizes: numbers where they are known, whole-numbered tensors where they are open."""
        sizes: list[Any] = []
        for axis, dim in enumerate(x.shape):
            if isinstance(dim, int):
                sizes.append(dim)
            else:
                size = self.builder.op("Squeeze", self.builder.shape(x.name, axis, axis + 1))
                sizes.append(self.tensor(size, (), np.int64))
        return tuple(sizes)

    def cast(self, x: Number, dtype: npt.DTypeLike) -> Tensor:
        """Another type."""
        if not isinstance(x, Tensor):
            return self.constant(x, dtype)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.tensor(self.builder.op("Cast", x.name, to=kind), x.shape, dtype)

    def eye(self, n: int, dtype: npt.DTypeLike = np.float32) -> Tensor:
        """The unit matrix: written as a comparison, not stored."""
        index = self.builder.constant(np.arange(n))
        columns = self.builder.op("Unsqueeze", index, self.builder.ints(1))
        equal = self.tensor(self.builder.op("Equal", index, columns), (n, n), np.bool_)
        return self.cast(equal, dtype)

    def ones(self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> Tensor:
        """Ones of a known shape."""
        return self.constant(np.ones(shape, dtype))

    def ones_like(self, x: Tensor) -> Tensor:
        """Ones of the shape of x."""
        return self._filled(1, x)

    def zeros_like(self, x: Tensor) -> Tensor:
        """Zeros of the shape of x."""
        return self._filled(0, x)

    def stop_gradient(self, x: Tensor) -> Tensor:
        """x, taken as a constant by `append_gradient`."""
        name = self.builder.op("Identity", x.name)
        self.builder.nodes[-1].doc_string = STOP
        return self.tensor(name, x.shape, x.dtype)

    def apart(self, function: Callable[..., tuple[Tensor, ...]], *given: Tensor) -> tuple[Tensor, ...]:
        """What a function of a style loss, `function(ops, *tensors)`, makes of tensors, between nodes that are named so
        that a runtime that has another way for it finds it (`APART`)."""
        module = function.__module__.rpartition(".")[2]
        base = self.builder.name(f"{APART}{module}.{function.__name__}")
        found = function(self, *(self._marked(x, f"{base}/{i}") for i, x in enumerate(given)))
        return tuple(self._marked(x, f"{base}/{RESULT}{i}") for i, x in enumerate(found))

    def _marked(self, x: Tensor, name: str) -> Tensor:
        self.builder.taken.add(name)
        self.builder.nodes.append(helper.make_node("Identity", [x.name], [name], name=name))
        return self.tensor(name, x.shape, x.dtype)

    def splice(self, model: onnx.ModelProto, inputs: Mapping[str, Tensor], *, prefix: str) -> dict[str, Tensor]:
        """Another model's nodes, its inputs replaced by tensors of this graph.

        Args: model: at the operator set that is written here or a newer one, without nodes that have graphs within
            them; prefix: of its names here. Returns: its outputs, under their own names.
        """
        b, graph = self.builder, model.graph
        b.opset = max(b.opset, *(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")))
        names = {name: item.name for name, item in inputs.items()}

        def named(name: str) -> str:
            return names.get(name, prefix + name) if name else ""

        for node in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = prefix + (node.name or node.output[0])
            copy.input[:] = [named(name) for name in node.input]
            copy.output[:] = [named(name) for name in node.output]
            b.taken.update((copy.name, *copy.output))
            b.nodes.append(copy)
        for tensor in graph.initializer:
            kept = onnx.TensorProto()
            kept.CopyFrom(tensor)
            kept.name = named(tensor.name)
            b.taken.add(kept.name)
            b.constants.append(kept)
        found = {}
        for info in graph.output:
            kind = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            found[info.name] = self.tensor(named(info.name), known_shape(info) or (), kind)
        return found

    def model(
        self,
        name: str,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        metadata: Mapping[str, str] | None = None,
    ) -> onnx.ModelProto:
        """All that was traced as a model, inputs and outputs under the names given."""
        b = self.builder

        def infos(group: Mapping[str, Tensor]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(key, b.types[x.name], list(x.shape)) for key, x in group.items()]

        made = {key: item for key, item in outputs.items() if item.name != key}
        nodes = [*b.nodes, *(helper.make_node("Identity", [item.name], [key]) for key, item in made.items())]
        graph = helper.make_graph(nodes, name, infos(inputs), infos(outputs), b.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=IR_VERSION)
        model.producer_name = "stylekeras"
        helper.set_model_props(model, dict(metadata or {}))
        return model

    def tensor(self, name: str, shape: Iterable[Dim], dtype: npt.DTypeLike = np.float32) -> Tensor:
        """What a node that was written with the builder gives."""
        tensor = Tensor(self, name, shape, dtype)
        self.builder.shapes[name] = list(tensor.shape)
        self.builder.types[name] = helper.np_dtype_to_tensor_dtype(tensor.dtype)
        return tensor

    def _filled(self, value: float, x: Tensor) -> Tensor:
        if all(isinstance(dim, int) for dim in x.shape):
            return self.constant(np.full(x.shape, value, x.dtype))
        scalar = self.builder.constant(np.array(value, x.dtype))
        return self.tensor(self.builder.op("Expand", scalar, self.builder.shape(x.name)), x.shape, x.dtype)

    def _unary(self, kind: str, x: Tensor) -> Tensor:
        return self.tensor(self.builder.op(kind, x.name), x.shape, x.dtype)

    def _pair(self, x: Number, y: Number) -> tuple[Tensor, Tensor]:
        """Two operands as tensors of one type: a number takes the other's."""
        if isinstance(x, Tensor):
            other = y if isinstance(y, Tensor) else self.constant(y, x.dtype)
            pair = (x, other)
        elif isinstance(y, Tensor):
            pair = (self.constant(x, y.dtype), y)
        else:
            raise GraphError("neither operand is a traced tensor")
        if pair[0].dtype != pair[1].dtype:
            raise GraphError(f"operands of types {pair[0].dtype} and {pair[1].dtype}: cast one of them")
        return pair

    def _binary(self, kind: str, x: Number, y: Number) -> Tensor:
        left, right = self._pair(x, y)
        name = self.builder.op(kind, left.name, right.name)
        # As in the other engines, sizes that are open are of pictures, and two of them meet only if they are equal.
        self.builder.nodes[-1].doc_string = SAME_SIZES
        return self.tensor(name, _broadcast(left.shape, right.shape), left.dtype)

    def _reduce(self, kind: str, x: Tensor, axis: int | Sequence[int] | None) -> Tensor:
        rank = len(x.shape)
        axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
        gone = {i % rank for i in axes}
        if not gone:  # a scalar is its own sum
            return x
        name = self.builder.op(kind, x.name, self.builder.ints(*sorted(gone)), keepdims=0)
        return self.tensor(name, [dim for i, dim in enumerate(x.shape) if i not in gone], x.dtype)

    def _two_axes(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            if len(tensor.shape) != 2:
                raise GraphError(f"a matrix product of a tensor of shape {tensor.shape}")


def _broadcast(left: Sequence[Dim], right: Sequence[Dim]) -> list[Dim]:
    """The shape of an elementwise operation on two shapes."""
    rank = max(len(left), len(right))
    shapes: list[list[Dim]] = [[*[1] * (rank - len(shape)), *shape] for shape in (left, right)]
    result: list[Dim] = []
    for a, b in zip(*shapes, strict=True):
        if a == b or b == 1:
            result.append(a)
        elif a == 1:
            result.append(b)
        elif isinstance(a, int) and isinstance(b, int):
            raise GraphError(f"shapes {tuple(left)} and {tuple(right)} do not fit")
        else:
            result.append(a if isinstance(a, int) else b if isinstance(b, int) else None)
    return result
