"""OpenVINO's graph of a network with channels last, and its 3x3 convolutions by Winograd's algorithm.

OpenVINO convolves directly. In float32, where processors have no matrix units, a quarter of the multiplications
(stylekeras/native) is worth more than its own layouts, and our code wants channels last, as statistics do. So every
tensor of the network that comes after such a convolution or before it is computed with channels last, and what has no
form for that gets it transposed.

A model is given with its `opset` (openvino.opset13) and what makes a node of our code: only `engines/openvino`
imports the framework.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from stylekeras.native.winograd import TILE

# (1, c, h, w) to (1, h, w, c) and back; where an axis of the one is in the other.
_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_AXES = (0, 3, 1, 2)
# Convolutions with fewer channels, or tiles, than these gain nothing.
_CHANNELS = 32
_TILES = 8
# The most channels that a convolution takes as a picture's.
_COLOURS = 4
# By what share features differ at most that are the same but for rounding.
_SAME = 1e-5
# Of OpenVINO's operators, those of one and of two tensors of equal size, and our names for them in the opset.
_UNARY = {"Relu": "relu", "Negative": "negative", "Sqrt": "sqrt", "Abs": "abs"}
_BINARY = {
    name: name.lower() for name in ("Add", "Subtract", "Multiply", "Divide", "Equal", "Greater", "Maximum", "Minimum")
}


class Layer(NamedTuple):
    """What our code does of a convolution and the nodes after it, besides the products."""

    bias: np.ndarray
    # The least that its results are: 0 with ReLU.
    floor: float
    # Rows of zeros above the picture, columns at its left.
    pads: tuple[int, int]
    # Height, width and channels of the result.
    size: tuple[int, int, int]


class Convolutions(Protocol):
    """What makes nodes of `stylekeras.native.convolution`."""

    @property
    def multiple(self) -> int:
        """What channels in and out have to be multiples of."""
        ...

    def convolution(self, picture: Any, weights: np.ndarray, layer: Layer) -> Any:
        """The result (1, h', w', c') of a tensor (1, h, w, c), for weights (c', c, 3, 3)."""
        ...


def rewrite(model: Any, opset: Any, convolutions: Convolutions) -> int:
    """Change a model of known sizes, constants folded, in place.

    Returns: how many convolutions our code now does. If there are none the model is as it was.
    """
    multiple = convolutions.multiple
    if not any(_is_worth_it(node, multiple) for node in model.get_ops()):
        return 0
    _drop_broadcasts(model)
    writer = Writer(opset, convolutions)
    for node in model.get_ordered_ops():
        writer.visit(node)
    model.validate_nodes_and_infer_types()
    return writer.count


class Writer:
    """Writes nodes with channels last. `_last` has, for tensors by name, what they are then.

    Args: ours: what makes nodes of our code (`Convolutions`).
    """

    def __init__(self, opset: Any, ours: Any) -> None:
        self.count = 0
        self._opset = opset
        self._ours = ours
        self._last: dict[tuple[str, int], Any] = {}
        self._first: dict[tuple[str, int], Any] = {}

    def visit(self, node: Any) -> None:
        """Write a node with channels last if that can be, otherwise give it its inputs as it knows them."""
        kind = node.get_type_name()
        if kind in ("Constant", "Parameter") or (node.get_output_size() and place_of(node.output(0)) in self._last):
            return
        found = None
        if kind != "Result" and len(shape_of(node.output(0))) == 4:
            found = self._written(node, kind)
        if found is not None:
            self._last[place_of(node.output(0))] = found
            return
        for i, tensor in enumerate(node.input_values()):
            if place_of(tensor) in self._last and constant(tensor) is None:
                node.set_argument(i, self._with_channels_first(tensor))

    def _written(self, node: Any, kind: str) -> Any:
        """The node's output with channels last, or None."""
        inputs, (_, channels, height, width) = node.input_values(), node.get_output_shape(0)
        if kind == "Convolution":
            if _is_worth_it(node, self._ours.multiple):
                return self._convolution(node)
            return self._first_convolution(node) if _is_first(node) else None
        if kind == "Transpose":
            return self._transpose(node)
        if kind in _BINARY and any(place_of(each) in self._last for each in inputs):
            return self._binary(node, kind)
        x = self._last.get(place_of(inputs[0])) if inputs else None
        if x is None:
            return None
        if kind in _UNARY:
            return getattr(self._opset, _UNARY[kind])(x).output(0)
        if kind == "Convert":
            pooled = looked_at(node)
            if pooled is not None and place_of(pooled) in self._last:
                return self._winners(self._last[place_of(pooled)])
            return self._opset.convert(x, node.get_attributes()["destination_type"]).output(0)
        if kind in ("MaxPool", "AvgPool"):
            return self._pool(node, kind, x)
        if kind == "Interpolate":
            return self._doubled(node, x)
        if kind == "Slice" and len(inputs) > 4 and constant(inputs[4]) is not None:
            steps = constant(inputs[3])
            if tuple(x.get_shape()) == (1, height, width, channels) and steps is not None and (steps == 1).all():
                return x  # all of it
            axes = self._ints(*(_AXES[axis] for axis in constant(inputs[4])))
            return self._opset.slice(x, *inputs[1:4], axes).output(0)
        return self._padded(node, x) if kind == "Pad" else None

    def _padded(self, node: Any, x: Any) -> Any:
        given = [constant(each) for each in node.input_values()[1:3]]
        if node.get_attributes()["pad_mode"] != "constant" or any(each is None for each in given):
            return None
        if not any(each.any() for each in given):
            return x
        ends = (self._ints(*each[list(_LAST)]) for each in given)
        return self._opset.pad(x, *ends, "constant", node.input_value(3)).output(0)

    def _transpose(self, node: Any) -> Any:
        tensor, order = node.input_value(0), tuple(constant(node.input_value(1)))
        if order == _FIRST:
            return tensor
        if order == _LAST and place_of(tensor) in self._last:
            node.output(0).replace(self._last[place_of(tensor)])
        return None

    def _binary(self, node: Any, kind: str) -> Any:
        given = []
        for tensor in node.input_values():
            shape = shape_of(tensor)
            if len(shape) == 4:
                given.append(self._with_channels_last(tensor))
            elif np.prod(shape, dtype=int) == 1 and tensor.get_partial_shape().is_static:
                given.append(self._shaped(tensor, 1, 1, 1, 1))
            else:
                return None
        return getattr(self._opset, _BINARY[kind])(*given).output(0)

    def _pool(self, node: Any, kind: str, x: Any) -> Any:
        if pools(node) != kind:
            return None
        o, (_, _, height, width) = self._opset, node.get_output_shape(0)
        parts = self._quarters(x, height, width)
        if kind == "MaxPool":
            return o.maximum(o.maximum(*parts[:2]), o.maximum(*parts[2:])).output(0)
        return o.multiply(o.add(o.add(*parts[:2]), o.add(*parts[2:])), o.constant(np.float32(0.25))).output(0)

    def _quarters(self, x: Any, height: int, width: int) -> list[Any]:
        """Every second position of every second row, four times: what a pool of 2x2 looks at, row by row."""
        ends, steps, axes = self._ints(2 * height, 2 * width), self._ints(2, 2), self._ints(1, 2)
        return [self._opset.slice(x, self._ints(i, j), ends, steps, axes) for i in range(2) for j in range(2)]

    def _winners(self, x: Any) -> Any:
        """1 at the largest of each window of 2x2, at the first of equal ones, 0 elsewhere.

        The positions of a tile round differently. Which of equal features is the largest would be chance, in flat areas
        everywhere, where other engines take the first. So columns that are the same in both rows, but for rounding,
        count as equal, and so do rows; by chance that is as good as never so.
        """
        o, (_, height, width, channels) = self._opset, x.get_shape()
        high, wide = height // 2, width // 2
        a, b, c, d = self._quarters(x, high, wide)
        above, below = o.maximum(a, b), o.maximum(c, d)
        off = o.multiply(o.maximum(above, below), o.constant(np.float32(_SAME)))

        def same(one: Any, other: Any) -> Any:
            return o.less_equal(o.abs(o.subtract(one, other)), off)

        columns, rows = o.logical_and(same(a, b), same(c, d)), o.logical_and(same(a, c), same(b, d))
        first_row = o.logical_or(o.greater_equal(above, below), rows)
        larger = o.select(first_row, o.greater_equal(a, b), o.greater_equal(c, d))
        first_column = o.logical_or(larger, columns)
        other_row, other_column = o.logical_not(first_row), o.logical_not(first_column)
        lines = []
        for row in (first_row, other_row):
            pair = (o.logical_and(row, column) for column in (first_column, other_column))
            line = o.concat([self._shaped(each, 1, high, wide, 1, channels) for each in pair], 3)
            lines.append(self._shaped(line, 1, high, 1, width, channels))
        found = self._shaped(o.concat(lines, 2), 1, height, width, channels)
        return o.convert(found, np.float32).output(0)

    def _doubled(self, node: Any, x: Any) -> Any:
        """Every position four times, as the gradient of pooling wants it."""
        o, (_, height, width, channels) = self._opset, x.get_shape()
        if not repeats(node) or tuple(node.get_output_shape(0)) != (1, channels, 2 * height, 2 * width):
            return None
        wide = o.concat([self._shaped(x, 1, height, width, 1, channels)] * 2, 3)
        wide = self._shaped(wide, 1, height, 1, 2 * width, channels)
        return self._shaped(o.concat([wide, wide], 2), 1, 2 * height, 2 * width, channels)

    def _convolution(self, node: Any) -> Any:
        """By our code, with the bias and the ReLU that follow; what is between them and not wanted is None."""
        _, out, height, width = node.get_output_shape(0)
        bias, floor, last = np.zeros(out, np.float32), -np.inf, node
        after = only_one_after(last)
        if after is not None and after.get_type_name() == "Add":
            added = next((each for each in map(constant, after.input_values()) if each is not None), None)
            if added is not None and added.size == out and added.shape[-3:] == (out, 1, 1):
                bias, last = np.ascontiguousarray(added, np.float32).ravel(), after
                after = only_one_after(last)
        if after is not None and after.get_type_name() == "Relu":
            floor, last = 0.0, after
        above, left = node.get_attributes()["pads_begin"]
        layer = Layer(bias, floor, (above, left), (height, width, out))
        picture, weights = node.input_values()
        made = self._ours.convolution(self._with_channels_last(picture), constant(weights), layer)
        self.count += 1
        self._last[place_of(last.output(0))] = made
        return made if last is node else None

    def _first_convolution(self, node: Any) -> Any:
        """As a product of matrices. OpenVINO convolves faster than that, but then copies each number for itself to have
        the channels last, which takes several times as long."""
        o, (_, out, height, width) = self._opset, node.get_output_shape(0)
        tensor, weights = node.input_value(0), constant(node.input_value(1))
        x = self._with_channels_first(tensor) if place_of(tensor) in self._last else tensor
        given = node.get_attributes()
        ends = (self._ints(0, 0, *given[name]) for name in ("pads_begin", "pads_end"))
        x = o.pad(x, *ends, "constant", o.constant(np.float32(0)))
        ones, axes = self._ints(1, 1), self._ints(2, 3)
        seen = [
            o.slice(x, self._ints(i, j), self._ints(i + height, j + width), ones, axes)
            for i, j in np.ndindex(weights.shape[2:])
        ]
        kernel = np.ascontiguousarray(weights.transpose(2, 3, 1, 0).reshape(-1, out))
        planes = self._shaped(o.concat(seen, 1), len(kernel), height * width)
        return self._shaped(o.matmul(planes, o.constant(kernel), True, False), 1, height, width, out)

    def _with_channels_last(self, tensor: Any) -> Any:
        key, value = place_of(tensor), constant(tensor)
        if key not in self._last:
            if value is not None:
                made = self._constant_like(np.ascontiguousarray(value.transpose(_LAST)), tensor)
            else:
                made = self._opset.transpose(tensor, self._ints(*_LAST))
            self._last[key] = made.output(0)
        return self._last[key]

    def _constant_like(self, value: np.ndarray, tensor: Any) -> Any:
        """Of a constant's type."""
        return self._opset.constant(value)

    def _with_channels_first(self, tensor: Any) -> Any:
        key = place_of(tensor)
        if key not in self._first:
            self._first[key] = self._opset.transpose(self._last[key], self._ints(*_FIRST)).output(0)
        return self._first[key]

    def _shaped(self, tensor: Any, *shape: int) -> Any:
        return self._opset.reshape(tensor, self._ints(*shape), False).output(0)

    def _ints(self, *values: int) -> Any:
        return self._opset.constant(np.array(values, np.int64))


def _is_worth_it(node: Any, multiple: int) -> bool:
    """Whether a node is a convolution that Winograd's algorithm is for, and large enough to gain."""
    weights = plain_kernel(node)
    if weights is None or min(weights.shape[:2]) < _CHANNELS or any(each % multiple for each in weights.shape[:2]):
        return False
    _, _, height, width = shape_of(node.output(0))
    return -(-height // TILE) * -(-width // TILE) >= _TILES


def only_one_after(node: Any) -> Any:
    """The one node that takes what a node makes, None if there are several."""
    after = {each.get_node().get_friendly_name(): each.get_node() for each in node.output(0).get_target_inputs()}
    return next(iter(after.values())) if len(after) == 1 else None


def _is_first(node: Any) -> bool:
    """Whether a node is a convolution of as few channels as pictures have, to many."""
    weights = plain_kernel(node)
    return weights is not None and weights.shape[1] <= _COLOURS and weights.shape[0] >= _CHANNELS


def plain_kernel(node: Any, kind: str = "f32") -> Any:
    """The weights of a convolution of 3x3 positions of one picture in that type, in steps of one; None of others."""
    if node.get_type_name() != "Convolution" or node.get_output_element_type(0).get_type_name() != kind:
        return None
    weights, given, shape = constant(node.input_value(1)), node.get_attributes(), shape_of(node.output(0))
    plain = list(given["strides"]) == list(given["dilations"]) == [1, 1] and shape and shape[0] == 1
    return weights if plain and weights is not None and weights.shape[2:] == (3, 3) else None


def pools(node: Any) -> str | None:
    """Which pool of 2x2 positions a node is; None if it is none that we write."""
    kind = node.get_type_name()
    if kind not in ("MaxPool", "AvgPool"):
        return None
    given = node.get_attributes()
    window = (list(given["kernel"]), list(given["strides"]), list(given.get("dilations", [1, 1])))
    pads = [*given["pads_begin"], *given["pads_end"]]
    before, after = shape_of(node.input_value(0)), shape_of(node.output(0))
    # Nor one that rounds its size up.
    floored = len(before) == len(after) == 4 and all(before[i] // 2 == after[i] for i in (2, 3))
    # Where the maxima are may be asked for too.
    positions = any(output.get_target_inputs() for output in node.outputs()[1:])
    plain = window == ([2, 2], [2, 2], [1, 1]) and not any(pads) and floored and not positions
    return str(kind) if plain else None


def repeats(node: Any) -> bool:
    """Whether a node repeats positions, as `rules.py` writes that."""
    if node.get_type_name() != "Interpolate":
        return False
    given = node.get_attributes()
    how = (given["mode"], given["coordinate_transformation_mode"], given["nearest_mode"])
    return bool(how == ("nearest", "asymmetric", "floor"))


def looked_at(node: Any) -> Any:
    """The features whose largest in each window of 2x2 a node marks, as `rules.py` writes that; None if it does not."""

    def inputs(tensor: Any, kind: str) -> Any:
        before = tensor.get_node()
        return before.input_values() if before.get_type_name() == kind else None

    def repeated(tensor: Any) -> Any:
        """What a pool made and was then repeated."""
        given = inputs(tensor, "Interpolate") if repeats(tensor.get_node()) else None
        pool = given and given[0].get_node()
        return pool.input_value(0) if pool and pools(pool) == "MaxPool" else None

    first = inputs(node.input_value(0), "Equal")
    numbered = repeated(first[1]) if first else None
    if numbered is None or place_of(numbered) != place_of(first[0]):
        return None
    product = inputs(numbered, "Multiply")
    marked = product and inputs(product[0], "Convert")
    largest = marked and inputs(marked[0], "Equal")
    return largest[0] if largest and repeated(largest[1]) is not None else None


def _drop_broadcasts(model: Any) -> None:
    """Leave out what arithmetic does by itself."""
    for node in model.get_ordered_ops():
        if node.get_type_name() not in _BINARY:
            continue
        for i in range(2):
            before, other = node.input_value(i).get_node(), node.input_value(1 - i)
            if before.get_type_name() != "Broadcast" or before.get_attributes()["mode"] == "explicit":
                continue
            if shape_of(other) and shape_of(other) == shape_of(node.output(0)):
                node.set_argument(i, before.input_value(0))


def shape_of(tensor: Any) -> tuple[int, ...]:
    """A tensor's sizes; () too where they are not known."""
    if not tensor.get_partial_shape().is_static:
        return ()
    shape = tensor.get_shape()
    # To go through it as one takes ten times as long.
    return tuple(shape[i] for i in range(len(shape)))


def place_of(tensor: Any) -> tuple[str, int]:
    """Which tensor of a graph it is: the node that makes it, by name, and which of that one's."""
    return tensor.get_node().get_friendly_name(), tensor.get_index()


def constant(tensor: Any) -> Any:
    """The numbers of a constant, those of bfloat16 in float32; None of anything else."""
    node = tensor.get_node()
    if node.get_type_name() != "Constant":
        return None
    found = node.get_data()
    if tensor.get_element_type().get_type_name() != "bf16":
        return found
    return (np.array(found).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
