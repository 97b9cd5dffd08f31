"""One rule for each operator: from the cotangents of a node's outputs to those of its inputs.

`rule(b, node, cotangents) -> {input number: cotangent}`; a cotangent is the name of a tensor of that output's or
input's shape, and a rule is called only if one of its outputs has one. Only inputs that `node.wants` need an answer. A
rule states no shape that the graph leaves open, so what it emits serves any height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx

from stylekeras.errors import GraphError
from stylekeras.graphs.builder import FLOATS, Builder, as_list

Cotangents: TypeAlias = Mapping[int, str]
Rule: TypeAlias = Callable[[Builder, "Node", Cotangents], Cotangents]

_INT64 = int(onnx.TensorProto.INT64)
_BEFORE_FIRST = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Node:
    """A node of the graph that is differentiated; `wanted` are the numbers of the inputs that need a cotangent."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: Mapping[str, Any]
    wanted: frozenset[int]
    constants: Mapping[str, Any]

    def wants(self, number: int) -> bool:
        """Whether input `number` needs a cotangent."""
        return number in self.wanted

    def has(self, number: int) -> bool:
        """Whether the optional input `number` is there."""
        return number < len(self.inputs) and self.inputs[number] != ""

    def constant(self, number: int) -> np.ndarray | None:
        """The value of input `number`, if it is a constant of the graph."""
        return self.constants.get(self.inputs[number]) if self.has(number) else None

    def refuse(self, why: str) -> GraphError:
        """An error that names the node."""
        return GraphError(f"cannot differentiate {self.kind} ({self.name}): {why}")


# Elementwise


def _relu(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    y = node.outputs[0]
    if b.dtype(y) != np.float32:
        return {0: b.op("Where", b.op("Greater", y, b.like(0, y)), g[0], b.like(0, y))}
    # 1 where y > 0 (y > 1e-38, to be exact): runtimes do this in a fraction of the time that Where takes them.
    passes = b.op("Clip", b.op("Mul", y, b.like(1e38, y)), b.like(0, y), b.like(1, y))
    return {0: b.op("Mul", g[0], passes)}


def _leaky_relu(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    x, alpha = node.inputs[0], node.attributes.get("alpha", 0.01)
    return {0: b.op("Where", b.op("Greater", x, b.like(0, x)), g[0], b.op("Mul", g[0], b.like(alpha, x)))}


def _sigmoid(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    y = node.outputs[0]
    return {0: b.op("Mul", g[0], b.op("Mul", y, b.op("Sub", b.like(1, y), y)))}


def _tanh(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    y = node.outputs[0]
    return {0: b.op("Mul", g[0], b.op("Sub", b.like(1, y), b.op("Mul", y, y)))}


def _sqrt(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    y = node.outputs[0]
    return {0: b.op("Div", b.op("Mul", g[0], b.like(0.5, y)), y)}


def _exp(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {0: b.op("Mul", g[0], node.outputs[0])}


def _log(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {0: b.op("Div", g[0], node.inputs[0])}


def _abs(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {0: b.op("Mul", g[0], b.op("Sign", node.inputs[0]))}


def _neg(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {0: b.op("Neg", g[0])}


def _reciprocal(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    y = node.outputs[0]
    return {0: b.op("Neg", b.op("Mul", g[0], b.op("Mul", y, y)))}


def _clip(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    """Passes where the value is within the bounds, the bounds included."""
    if node.wants(1) or node.wants(2):
        raise node.refuse("its bounds depend on the input")
    x, result = node.inputs[0], g[0]
    for number, compare in ((1, "GreaterOrEqual"), (2, "LessOrEqual")):
        if node.has(number):
            result = b.op("Where", b.op(compare, x, node.inputs[number]), result, b.like(0, x))
    return {0: result}


def _identity(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {0: g[0]}


def _dropout(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    training = node.constant(2)
    if node.has(2) and (training is None or bool(training)):
        raise node.refuse("it is in training mode")
    return {0: g[0]}


def _nothing(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    """Piecewise constant: its derivative is 0 wherever there is one."""
    return {}


def _cast(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    if not {b.types[node.inputs[0]], b.types[node.outputs[0]]} <= FLOATS:
        raise node.refuse("it goes through a type that is not differentiated")
    return {0: b.op("Cast", g[0], to=b.types[node.inputs[0]])}


# Elementwise on two or more, with broadcasting


def _add(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {i: b.sum_to(g[0], node.inputs[i], node.outputs[0]) for i in node.wanted}


def _sub(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    signed = {0: lambda: g[0], 1: lambda: b.op("Neg", g[0])}
    return {i: b.sum_to(signed[i](), node.inputs[i], node.outputs[0]) for i in node.wanted}


def _mul(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {i: b.sum_to(b.op("Mul", g[0], node.inputs[1 - i]), node.inputs[i], node.outputs[0]) for i in node.wanted}


def _div(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    (x, divisor), y = node.inputs, node.outputs[0]
    quotient = b.op("Div", g[0], divisor)
    found = {}
    if node.wants(0):
        found[0] = b.sum_to(quotient, x, y)
    if node.wants(1):
        found[1] = b.sum_to(b.op("Neg", b.op("Mul", quotient, y)), divisor, y)
    return found


def _pow(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    (x, exponent), y = node.inputs, node.outputs[0]
    if b.types[exponent] != b.types[x] and node.wants(1):
        raise node.refuse("its exponent depends on the input and has another type")
    power = b.cast(exponent, b.types[x])
    found = {}
    if node.wants(0):
        value = node.constant(1)
        if value is not None and np.all(value == 2):
            slope = b.op("Mul", b.like(2, x), x)
        else:
            lower = b.op("Mul", power, b.op("Pow", x, b.op("Sub", power, b.like(1, x))))
            # x to the 0 is 1 at 0 too, where 0 / 0 would be.
            slope = b.op("Where", b.op("Equal", power, b.like(0, x)), b.like(0, x), lower)
        found[0] = b.sum_to(b.op("Mul", g[0], slope), x, y)
    if node.wants(1):
        slope = b.op("Where", b.op("Equal", x, b.like(0, x)), b.like(0, x), b.op("Mul", y, b.op("Log", x)))
        found[1] = b.sum_to(b.op("Mul", g[0], slope), exponent, y)
    return found


def _where(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    condition, y = node.inputs[0], node.outputs[0]
    zero = b.like(0, y)
    chosen = {1: lambda: (condition, g[0], zero), 2: lambda: (condition, zero, g[0])}
    return {i: b.sum_to(b.op("Where", *chosen[i]()), node.inputs[i], y) for i in node.wanted}


def _extreme(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    """Max and Min: the first of equal inputs gets all."""
    y = node.outputs[0]
    masks = _first_equal(b, node.inputs, y)
    return {i: b.sum_to(b.op("Where", masks[i], g[0], b.like(0, y)), node.inputs[i], y) for i in sorted(node.wanted)}


def _first_equal(b: Builder, candidates: list[str], chosen: str) -> list[str]:
    """For each candidate where it is the first that equals `chosen`."""
    masks: list[str] = []
    free = ""
    for i, candidate in enumerate(candidates):
        mine = b.op("Equal", candidate, chosen)
        masks.append(b.op("And", mine, free) if free else mine)
        if i + 1 < len(candidates):
            others = b.op("Not", masks[-1])
            free = b.op("And", free, others) if free else others
    return masks


# Matrix products


def _matmul(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    (left, right), y = node.inputs, node.outputs[0]
    ranks = [b.rank(left), b.rank(right)]
    cotangent = g[0]
    # A vector is a matrix of one row or column, which the product leaves out again.
    if ranks[1] == 1:
        cotangent = b.op("Unsqueeze", cotangent, b.ints(-1))
    if ranks[0] == 1:
        cotangent = b.op("Unsqueeze", cotangent, b.ints(-2))
    wide_left = b.op("Unsqueeze", left, b.ints(0)) if ranks[0] == 1 else left
    wide_right = b.op("Unsqueeze", right, b.ints(1)) if ranks[1] == 1 else right
    found = {}
    if node.wants(0):
        product = b.op("MatMul", cotangent, _transposed(b, wide_right, max(2, ranks[1])))
        found[0] = _sum_batch(b, product, left, ranks, y, number=0)
    if node.wants(1):
        product = b.op("MatMul", _transposed(b, wide_left, max(2, ranks[0])), cotangent)
        found[1] = _sum_batch(b, product, right, ranks, y, number=1)
    return found


def _transposed(b: Builder, x: str, rank: int) -> str:
    order = list(range(rank))
    return b.op("Transpose", x, perm=[*order[:-2], order[-1], order[-2]])


def _sum_batch(b: Builder, product: str, target: str, ranks: list[int], y: str, *, number: int) -> str:
    """The product of a batch summed to the shape of `target`, whose batch was broadcast."""
    if max(ranks) <= 2:
        return b.reshape(product, target) if ranks[number] == 1 else product
    batch = b.shapes[y][: max(ranks) - 2]
    shape = b.shapes[target]
    if ranks[number] == 1:
        flat = b.op("ReduceSum", product, b.ints(*range(max(ranks) - 2)), keepdims=0)
        return b.reshape(flat, target)
    full = b.name("batch")
    b.shapes[full] = [*batch, *shape[-2:]]
    return b.sum_to(product, target, full)


def _gemm(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    trans_a, trans_b = node.attributes.get("transA", 0), node.attributes.get("transB", 0)
    a, w = node.inputs[:2]
    found = {}
    scaled = g[0] if alpha == 1 else b.op("Mul", g[0], b.like(alpha, node.outputs[0]))
    if node.wants(0):
        found[0] = (
            b.op("Gemm", w, scaled, transA=trans_b, transB=1)
            if trans_a
            else b.op("Gemm", scaled, w, transB=1 - trans_b)
        )
    if node.wants(1):
        found[1] = (
            b.op("Gemm", scaled, a, transA=1, transB=trans_a)
            if trans_b
            else b.op("Gemm", a, scaled, transA=1 - trans_a)
        )
    if node.wants(2):
        weighed = g[0] if beta == 1 else b.op("Mul", g[0], b.like(beta, node.outputs[0]))
        found[2] = b.sum_to(weighed, node.inputs[2], node.outputs[0])
    return found


# Shapes


def _reshape(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {0: b.reshape(g[0], node.inputs[0])}


def _transpose(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    rank = b.rank(node.inputs[0])
    if rank < 2:
        return {0: g[0]}
    order = node.attributes.get("perm", range(rank)[::-1])
    return {0: b.op("Transpose", g[0], perm=[int(i) for i in np.argsort(order)])}


def _expand(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {0: b.sum_to(g[0], node.inputs[0], node.outputs[0])}


def _concat(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    rank = b.rank(node.outputs[0])
    axis = node.attributes["axis"] % rank
    sizes = [b.shape(name, axis, axis + 1) for name in node.inputs]
    found, start = {}, b.ints(0)
    for i, size in enumerate(sizes):
        known = [b.shapes[name][axis] for name in node.inputs[: i + 1]]
        if all(isinstance(dim, int) for dim in known):
            end = b.ints(sum(dim for dim in known if isinstance(dim, int)))
        else:
            end = b.op("Add", start, size)
        if node.wants(i):
            found[i] = b.op("Slice", g[0], start, end, b.ints(axis))
        start = end
    return found


def _split(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    if "" in node.outputs:
        raise node.refuse("an output has no name")
    parts = [g[i] if i in g else _zeros(b, name) for i, name in enumerate(node.outputs)]
    return {0: b.op("Concat", *parts, axis=node.attributes.get("axis", 0))}


def _zeros(b: Builder, like: str) -> str:
    return b.op("Expand", b.like(0, like), b.shape(like))


def _pad(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    if node.wants(2):
        raise node.refuse("its value depends on the input")
    x, pads = node.inputs[:2]
    rank, mode = b.rank(x), node.attributes.get("mode", "constant")
    axes = _axes(node, rank, rank)
    known = node.constant(1)
    if mode == "constant":
        if known is not None and not np.any(known):
            return {0: g[0]}
        count, zero = len(axes), b.ints(0)
        before, after = (b.op("Slice", pads, b.ints(i * count), b.ints((i + 1) * count)) for i in range(2))
        # A negative pad crops.
        cropped, cropped_end = (b.op("Max", b.op("Neg", part), zero) for part in (before, after))
        start = b.op("Max", before, zero)
        inner = b.op("Gather", b.shape(x), b.ints(*axes))
        kept = b.op("Sub", inner, b.op("Add", cropped, cropped_end))
        result = b.op("Slice", g[0], start, b.op("Add", start, kept), b.ints(*axes))
        if known is None or np.any(known < 0):
            result = b.zero_pad(result, x, b.join(cropped, cropped_end), axes)
        return {0: result}
    if known is None:
        raise node.refuse(f"its pads are not constant and its mode is {mode}")
    result = g[0]
    for place, axis in enumerate(axes):
        begin, end = int(known[place]), int(known[place + len(axes)])
        if begin or end:
            padded = b.op("Pad", _eye(b, x, axis), b.ints(begin, 0, end, 0), mode=mode)
            result = _along(b, result, padded, axis, rank)
    return {0: result}


def _axes(node: Node, rank: int, count: int) -> list[int]:
    """The axes that input 3 names, not negative; without it the first ones."""
    axes = node.constant(3)
    if node.has(3) and axes is None:
        raise node.refuse("its axes are not constant")
    return list(range(count)) if axes is None else [int(axis) % rank for axis in axes]


def _slice(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    x, starts, ends = node.inputs[:3]
    rank = b.rank(x)
    first = node.constant(1)
    count = first.size if first is not None else b.shapes[starts][0]
    if not isinstance(count, int):
        raise node.refuse("the number of its axes is not known")
    axes = _axes(node, rank, count)
    steps = node.constant(4)
    if node.has(4) and (steps is None or np.any(steps != 1)):
        result = g[0]
        given = [b.cast(name, _INT64) for name in (starts, ends, node.inputs[4])]
        for place, axis in enumerate(axes):
            at = [b.op("Slice", name, b.ints(place), b.ints(place + 1)) for name in given]
            rows = b.op("Slice", _eye(b, x, axis), at[0], at[1], b.ints(0), at[2])
            result = _along(b, result, rows, axis, rank)
        return {0: result}
    size = b.op("Gather", b.shape(x), b.ints(*axes))
    length = b.op("Gather", b.shape(node.outputs[0]), b.ints(*axes))
    start = b.cast(starts, _INT64)
    if first is None or np.any(first < 0):
        start = b.op("Where", b.op("Less", start, b.ints(0)), b.op("Add", start, size), start)
        start = b.op("Max", start, b.ints(0))
    start = b.op("Min", start, size)
    rest = b.op("Sub", b.op("Sub", size, start), length)
    return {0: b.zero_pad(g[0], x, b.join(start, rest), axes)}


def _eye(b: Builder, x: str, axis: int) -> str:
    """The unit matrix of the length of that axis: what a linear operator makes of it is its matrix."""
    length = b.op("Squeeze", b.shape(x, axis, axis + 1))
    index = b.op("Range", b.constant(np.int64(0)), length, b.constant(np.int64(1)))
    equal = b.op("Equal", b.op("Unsqueeze", index, b.ints(0)), b.op("Unsqueeze", index, b.ints(1)))
    return b.op("Cast", equal, to=b.types[x])


def _along(b: Builder, g: str, matrix: str, axis: int, rank: int) -> str:
    """The transpose of `matrix` (out, in) applied along one axis of `g`, of length out."""
    if axis == rank - 1:
        return b.op("MatMul", g, matrix)
    if axis == rank - 2:
        return b.op("MatMul", b.op("Transpose", matrix, perm=[1, 0]), g)
    order = [i for i in range(rank) if i != axis] + [axis]
    moved = b.op("MatMul", b.op("Transpose", g, perm=order), matrix)
    return b.op("Transpose", moved, perm=[int(i) for i in np.argsort(order)])


def _resize(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    """Separable and linear, so the product with the matrices that the same Resize makes of unit matrices."""
    x, y, rank = node.inputs[0], node.outputs[0], b.rank(node.inputs[0])
    kept = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias")
    style = {name: node.attributes[name] for name in kept if name in node.attributes}
    if style.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise node.refuse("tf_crop_and_resize depends on a region")
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("it keeps the aspect ratio by itself")
    axes = [axis % rank for axis in node.attributes.get("axes", range(rank))]
    # Where sizes are given, some exporters add scales of no element.
    by_scale = not node.has(3)
    given = node.inputs[2] if by_scale else node.inputs[3]
    scales = node.constant(2) if by_scale else None
    result = g[0]
    for place, axis in enumerate(axes):
        before, after = b.shapes[x][axis], b.shapes[y][axis]
        same = scales[place] == 1 if scales is not None else before is not None and before == after
        if same:
            continue
        own = b.op("Slice", given, b.ints(place), b.ints(place + 1))
        if by_scale:
            arguments = [b.join(own, b.constant(np.ones(1, np.float32)))]
        else:
            arguments = ["", b.join(own, b.shape(x, axis, axis + 1))]
        matrix = b.op("Resize", _eye(b, x, axis), "", *arguments, **style)
        result = _along(b, result, matrix, axis, rank)
    return {0: result}


# Reductions


def _reduce_sum(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {0: _spread(b, node, g[0])}


def _reduce_mean(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {0: _spread(b, node, _per_element(b, node, g[0]))}


def _per_element(b: Builder, node: Node, g: str) -> str:
    """Divided by how many elements of the input stand for one of the output."""
    x, y = node.inputs[0], node.outputs[0]
    count = b.op("Div", b.op("Size", x), b.op("Max", b.op("Size", y), b.constant(np.int64(1))))
    return b.in_float32(lambda wide: b.op("Div", wide, b.op("Cast", count, to=b.wide(x))), g, x)


def _spread(b: Builder, node: Node, g: str) -> str:
    """A reduction's cotangent repeated to the shape of its input."""
    x = node.inputs[0]
    axes = node.constant(1)
    if not node.has(1) or (axes is not None and axes.size == 0):
        if node.attributes.get("noop_with_empty_axes", 0):
            return g
        g = b.op("Reshape", g, b.ints(*[1] * b.rank(x)))
    elif not node.attributes.get("keepdims", 1):
        g = b.op("Unsqueeze", g, node.inputs[1])
    return b.op("Expand", g, b.shape(x))


def _global_average(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    return {0: b.op("Expand", _per_element(b, node, g[0]), b.shape(node.inputs[0]))}


def _batch_normalization(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    if node.attributes.get("training_mode", 0):
        raise node.refuse("it is in training mode")
    if node.wanted - {0}:
        raise node.refuse("its parameters depend on the input")
    x, scale, _, _, variance = node.inputs
    epsilon = b.like(node.attributes.get("epsilon", 1e-5), variance)
    deviation = b.op("Sqrt", b.op("Add", variance, epsilon))
    factor = b.op("Div", b.cast(scale, b.types[variance]), deviation)
    if b.types[variance] != b.types[x]:
        factor = b.op("Cast", factor, to=b.types[x])
    columns = b.op("Reshape", factor, b.ints(1, -1, *[1] * (b.rank(x) - 2)))
    return {0: b.op("Mul", g[0], columns)}


# Convolution and pooling


@dataclass(frozen=True)
class _Window:
    """How a window of `kernel` moves over the spatial axes; `begin` None where padding depends on the size."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begin: list[int] | None
    end: list[int] | None
    auto: str

    @property
    def padded(self) -> bool:
        """Whether there is, or may be, anything beyond the border."""
        return self.begin is None or self.end is None or any(self.begin + self.end)

    @property
    def side_by_side(self) -> bool:
        """Whether windows neither overlap nor leave gaps nor reach over the border."""
        return self.strides == self.kernel and all(d == 1 for d in self.dilations) and not self.padded

    @property
    def reach(self) -> list[int]:
        """Pixels from a window's first to its last."""
        return [(k - 1) * d for k, d in zip(self.kernel, self.dilations, strict=True)]


def _window(b: Builder, node: Node, kernel: list[int]) -> _Window:
    count = len(kernel)
    strides = as_list(node.attributes.get("strides"), count, 1)
    dilations = as_list(node.attributes.get("dilations"), count, 1)
    auto = node.attributes.get("auto_pad", "NOTSET")
    begin: list[int] | None = None
    end: list[int] | None = None
    if auto in ("NOTSET", "VALID"):
        pads = as_list(node.attributes.get("pads") if auto == "NOTSET" else None, 2 * count, 0)
        begin, end = pads[:count], pads[count:]
    elif all(stride == 1 for stride in strides):
        total = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        less = [t // 2 for t in total]
        more = [t - t // 2 for t in total]
        begin, end = (less, more) if auto == "SAME_UPPER" else (more, less)
    return _Window(kernel, strides, dilations, begin, end, auto)


def _padding(b: Builder, node: Node, window: _Window) -> str:
    """Pixels added before the first, as a vector."""
    if window.begin is not None:
        return b.ints(*window.begin)
    total = b.op("Max", b.op("Sub", _covered(b, node, window), b.shape(node.inputs[0], 2)), b.ints(0))
    half = b.op("Div", total, b.ints(2))
    return half if window.auto == "SAME_UPPER" else b.op("Sub", total, half)


def _covered(b: Builder, node: Node, window: _Window) -> str:
    """Pixels from the first window's first to the last window's last, as a vector."""
    span = b.op("Mul", b.op("Sub", b.shape(node.outputs[0], 2), b.ints(1)), b.ints(*window.strides))
    return b.op("Add", span, b.ints(*[r + 1 for r in window.reach]))


def _kernel(b: Builder, node: Node, weights: str) -> list[int]:
    shape = node.attributes.get("kernel_shape") or b.shapes[weights][2:]
    if not all(isinstance(size, int) for size in shape):
        raise node.refuse("the size of its kernel is not known")
    return list(shape)


def _conv(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    x, weights = node.inputs[:2]
    window = _window(b, node, _kernel(b, node, weights))
    group, found = node.attributes.get("group", 1), {}
    if node.wants(0):
        found[0] = _conv_input(b, node, window, g[0], group)
    if node.wants(1):
        found[1] = _conv_weights(b, node, window, g[0], group)
    if node.wants(2):
        found[2] = b.op("ReduceSum", g[0], b.ints(0, *range(2, b.rank(x))), keepdims=0)
    return found


def _conv_input(b: Builder, node: Node, window: _Window, g: str, group: int) -> str:
    weights = node.inputs[1]
    if all(stride == 1 for stride in window.strides) and window.begin is not None and window.end is not None:
        pads = [r - p for r, p in zip(window.reach * 2, window.begin + window.end, strict=True)]
        if min(pads) >= 0:
            flipped = _flipped(b, node, window, group)
            return b.op("Conv", g, flipped, pads=pads, dilations=window.dilations, group=group)
    spread = b.op("ConvTranspose", g, weights, strides=window.strides, dilations=window.dilations, group=group)
    return _placed(b, spread, node, window)


def _flipped(b: Builder, node: Node, window: _Window, group: int) -> str:
    """The kernel of the transposed convolution: turned around, channels in and out exchanged."""
    weights, count = node.inputs[1], len(window.kernel)
    turned = weights
    if max(window.kernel) > 1:
        axes = b.ints(*range(2, 2 + count))
        ends = b.ints(*[_BEFORE_FIRST] * count)
        turned = b.op("Slice", weights, b.ints(*[-1] * count), ends, axes, b.ints(*[-1] * count))
    if group == 1:
        return b.op("Transpose", turned, perm=[1, 0, *range(2, 2 + count)])
    shape = b.shapes[weights]
    if not all(isinstance(size, int) for size in shape):
        raise node.refuse("it has groups and the shape of its kernel is not known")
    out, inner, *kernel = (int(size) for size in shape if isinstance(size, int))
    split = b.op("Reshape", turned, b.ints(group, out // group, inner, *kernel))
    swapped = b.op("Transpose", split, perm=[0, 2, 1, *range(3, 3 + count)])
    return b.op("Reshape", swapped, b.ints(group * inner, out // group, *kernel))


def _placed(b: Builder, spread: str, node: Node, window: _Window) -> str:
    """The windows' pixels cut to those of the input: without padding, and with zeros where no window came."""
    x, count = node.inputs[0], len(window.kernel)
    axes = b.ints(*range(2, 2 + count))
    size = b.shape(x, 2)
    begin = _padding(b, node, window)
    cut = b.op("Slice", spread, begin, b.op("Add", begin, size), axes)
    missing = b.op("Sub", size, b.op("Shape", cut, start=2))
    return b.zero_pad(cut, x, b.join(b.ints(*[0] * count), missing), range(2, 2 + count))


def _conv_weights(b: Builder, node: Node, window: _Window, g: str, group: int) -> str:
    """The input convolved with the cotangent, channels in the place of the batch (dilation and stride exchanged)."""
    x = node.inputs[0]
    if window.begin is None or window.end is None:
        raise node.refuse("its kernel depends on the input and its padding on the size")
    count = len(window.kernel)
    swap = [1, 0, *range(2, 2 + count)]
    axes = b.ints(*range(2, 2 + count))
    inputs = b.op_many("Split", group, x, axis=1, num_outputs=group) if group > 1 else [x]
    cotangents = b.op_many("Split", group, g, axis=1, num_outputs=group) if group > 1 else [g]
    parts = []
    for part, cotangent in zip(inputs, cotangents, strict=True):
        full = b.op(
            "Conv",
            b.op("Transpose", part, perm=swap),
            b.op("Transpose", cotangent, perm=swap),
            pads=window.begin + window.end,
            strides=window.dilations,
            dilations=window.strides,
        )
        cut = b.op("Slice", full, b.ints(*[0] * count), b.ints(*window.kernel), axes)
        parts.append(b.op("Transpose", cut, perm=swap))
    return parts[0] if group == 1 else b.op("Concat", *parts, axis=0)


def _max_pool(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    """Everything to the first of equal values of a window, in row order, as TensorFlow and PyTorch do."""
    x, y = node.inputs[0], node.outputs[0]
    window = _window(b, node, list(node.attributes["kernel_shape"]))
    if node.attributes.get("storage_order", 0):
        raise node.refuse("storage_order=1")
    square = len(window.kernel) == 2 and window.kernel[0] == window.kernel[1]
    if square and window.side_by_side and not node.attributes.get("ceil_mode", 0):
        return {0: _max_pool_tiles(b, x, y, g[0], window.kernel[0])}
    indices = b.op_many("MaxPool", 2, x, **dict(node.attributes))[1]
    places = b.op("Reshape", indices, b.ints(-1))
    length = b.op("Reshape", b.op("Size", x), b.ints(1))

    def scatter(wide: str) -> str:
        zero = b.op("Cast", b.like(0, x), to=b.wide(x))
        flat, values = b.op("Expand", zero, length), b.op("Reshape", wide, b.ints(-1))
        return b.op("ScatterElements", flat, places, values, axis=0, reduction="add")

    return {0: b.reshape(b.in_float32(scatter, g[0], x), x)}


def _max_pool_tiles(b: Builder, x: str, y: str, g: str, k: int) -> str:
    """Windows side by side: where a pixel equals its window's maximum, and is the first to do so."""
    axes = b.ints(2, 3)
    whole = b.op("Mul", b.shape(y, 2), b.ints(k))
    inside = b.op("Slice", x, b.ints(0, 0), whole, axes)
    largest = b.op("Cast", b.op("Equal", inside, _repeated(b, y, [k, k])), to=b.types[x])
    # Places in the window are numbered backwards, so the first of equal pixels has the largest number.
    numbers = b.constant(np.arange(k * k, 0, -1).reshape(1, 1, k, k), b.dtype(x))
    places = b.op("Tile", numbers, b.join(b.ints(1, 1), b.shape(y, 2)))
    numbered = b.op("Mul", largest, places)
    window = {"kernel_shape": [k, k], "strides": [k, k]}
    first = b.op("Equal", numbered, _repeated(b, b.op("MaxPool", numbered, **window), [k, k]))
    spread = b.op("Mul", b.op("Cast", first, to=b.types[x]), _repeated(b, g, [k, k]))
    # Rows and columns that fill no window.
    missing = b.op("Sub", b.shape(x, 2), whole)
    return b.zero_pad(spread, x, b.join(b.ints(0, 0), missing), (2, 3))


def _repeated(b: Builder, x: str, times: Sequence[int]) -> str:
    """(n, c, ...) with every pixel that many times along each spatial axis."""
    scales = b.constant(np.array([1, 1, *times], np.float32))
    style = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return b.op("Resize", x, "", scales, **style)


def _average_pool(b: Builder, node: Node, g: Cotangents) -> Cotangents:
    x, y = node.inputs[0], node.outputs[0]
    window = _window(b, node, list(node.attributes["kernel_shape"]))
    if window.auto.startswith("SAME") and any(d != 1 for d in window.dilations):
        raise node.refuse("runtimes disagree on auto_pad with dilations")
    ones = b.constant(np.ones((1, 1, *window.kernel), b.dtype(x)))
    ceil, inside = node.attributes.get("ceil_mode", 0), not node.attributes.get("count_include_pad", 0)
    if ceil or (window.padded and inside):
        divided = b.op("Div", g[0], _pooled_count(b, node, window, ones, include_pad=not inside))
    else:
        divided = b.op("Div", g[0], b.like(float(np.prod(window.kernel)), x))
    if window.side_by_side and not ceil:
        return {0: _placed(b, _repeated(b, divided, window.kernel), node, window)}
    # Channels as a batch: each is spread by the same window of ones.
    single = b.op("Reshape", divided, b.join(b.ints(-1, 1), b.shape(y, 2)))
    spread = b.op("ConvTranspose", single, ones, strides=window.strides, dilations=window.dilations)
    placed = _placed(b, spread, node, window)
    return {0: b.reshape(placed, x)}


def _pooled_count(b: Builder, node: Node, window: _Window, ones: str, *, include_pad: bool) -> str:
    """How many pixels each window averages, (1, 1, ...)."""
    x, count = node.inputs[0], len(window.kernel)
    zeros = b.ints(*[0] * count)
    size = b.shape(x, 2)
    begin = _padding(b, node, window)
    field = b.op("Expand", b.like(1, x), b.join(b.ints(1, 1), size))
    axes = range(2, 2 + count)
    needed = _covered(b, node, window)
    # Behind the input: padding, then what windows of ceil_mode hang over.
    end = b.op("Max", b.op("Sub", b.op("Sub", needed, size), begin), zeros)
    if include_pad:
        allowed = b.ints(*window.end) if window.end is not None else end
        counted = b.op("Min", end, allowed)
        field = b.op("Pad", field, b.join(begin, counted), b.like(1, x), b.ints(*axes))
        field = b.zero_pad(field, x, b.join(zeros, b.op("Sub", end, counted)), axes)
    else:
        field = b.zero_pad(field, x, b.join(begin, end), axes)
    return b.op("Conv", field, ones, strides=window.strides, dilations=window.dilations)


RULES: dict[str, Rule] = {
    "Abs": _abs,
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Ceil": _nothing,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _div,
    "Dropout": _dropout,
    "Exp": _exp,
    "Expand": _expand,
    "Flatten": _reshape,
    "Floor": _nothing,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "Identity": _identity,
    "LeakyRelu": _leaky_relu,
    "Log": _log,
    "MatMul": _matmul,
    "Max": _extreme,
    "MaxPool": _max_pool,
    "Min": _extreme,
    "Mul": _mul,
    "Neg": _neg,
    "Pad": _pad,
    "Pow": _pow,
    "Reciprocal": _reciprocal,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "Relu": _relu,
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _nothing,
    "Sigmoid": _sigmoid,
    "Sign": _nothing,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _sqrt,
    "Squeeze": _reshape,
    "Sub": _sub,
    "Sum": _add,
    "Tanh": _tanh,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
    "Where": _where,
}
