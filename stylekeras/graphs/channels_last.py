"""OpenVINO's graph of a network with channels last, its 3x3 convolutions by Winograd's algorithm.

OpenVINO convolves directly. In float32, where processors have no matrix units, a quarter of the multiplications
(stylekeras/native) is worth more than its own layouts, and our code wants channels last, as statistics do. So every
tensor of the network that comes after such a convolution or before it is computed with channels last, and what has no
form for that gets it transposed. Beside such fast convolutions whatever passes over all features once more takes its
time: they do what comes after them too, bias and ReLU, in a gradient another part of it and the mask, and pools are
ours with their gradients.

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
# The most channels that are taken as a picture's.
_COLOURS = 4
# What features are multiplied by, cut to between 0 and 1, where a gradient passes if they are positive (`rules.py`).
_STEEP = np.float32(1e38)
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


class Layers(Protocol):
    """What makes nodes of our code, of pictures (1, h, w, c), all in the network's precision."""

    @property
    def multiple(self) -> int:
        """What channels have to be multiples of in a pool."""
        ...

    def convolution(
        self, picture: Any, weights: np.ndarray, layer: Layer, *, added: Any = None, mask: Any = None
    ) -> Any:
        """The result (1, h', w', c'), for weights (c', c, 3, 3) of float32. What is added comes to it before the floor;
        where the mask is not positive it is 0."""
        ...

    def largest(self, picture: Any) -> Any:
        """The largest of 2x2 positions each."""
        ...

    def mean(self, picture: Any) -> Any:
        """The mean of 2x2 positions each."""
        ...

    def repeated(self, gradient: Any) -> Any:
        """Each position four times, (1, 2 h, 2 w, c)."""
        ...

    def winners(self, picture: Any, gradient: Any, least: float) -> Any:
        """The gradient of `largest`, from that of its result, for all that it looks at; 0 where the largest is not more
        than `least`."""
        ...


class FloatLayers(Layers, Protocol):
    """In float32, where convolutions are Winograd's: the channels of those are multiples of `multiple` too."""

    @property
    def across(self) -> int:
        """How many columns a result `from_planes` has at least."""
        ...

    def from_planes(self, planes: Any, weights: np.ndarray, layer: Layer) -> Any:
        """The result (1, h', w', c') of the few planes of a picture (1, c, h, w), which is padded already."""
        ...

    def to_planes(self, features: Any, weights: np.ndarray, layer: Layer) -> Any:
        """The few planes (1, c', h', w') of features (1, h, w, c), without bias or floor."""
        ...


def rewrite(model: Any, opset: Any, layers: FloatLayers) -> int:
    """Change a model of known sizes, constants folded, in place.

    Returns: how many convolutions our code now does. If there are none the model is as it was.
    """
    if not any(_is_worth_it(node, layers.multiple) for node in model.get_ops()):
        return 0
    _drop_broadcasts(model)
    return _FloatWriter(opset, layers).write(model)


class _Masked(NamedTuple):
    """A gradient that is 0 where features are not positive: what a convolution made of it, perhaps plus something."""

    end: Any
    features: Any
    convolution: Any
    added: Any


class Writer:
    """Writes nodes with channels last. `_last` has, for tensors by name, what they are then."""

    # The type of the network's numbers, and what channels are a multiple of where something is added to a convolution's
    # result or it is masked.
    kind, group = "f32", 1

    def __init__(self, opset: Any, layers: Any) -> None:
        self._count = 0
        self._opset = opset
        self._ours = layers
        self._last: dict[tuple[str, int], Any] = {}
        self._first: dict[tuple[str, int], Any] = {}
        # Nodes whose work is done with that of a later one, and what nodes are to mask that is masked, by their names.
        self._later: dict[str, _Masked] = {}
        self._masked: dict[str, Any] = {}

    def write(self, model: Any) -> int:
        """All of a model; returns how many convolutions our code now does."""
        for node in model.get_ordered_ops():
            found = self._mask_after(node) if self._is_ours(node) else None
            if found is not None:
                nodes = [node, found.end] if found.added is None else [node, only_one_after(node), found.end]
                self._later |= {each.get_friendly_name(): found for each in nodes}
            late = self._later.get(node.get_friendly_name())
            if late is None or late.end.get_friendly_name() == node.get_friendly_name():
                self._visit(node)
        model.validate_nodes_and_infer_types()
        return self._count

    def _is_ours(self, node: Any) -> bool:
        """Whether a node is a convolution for our code."""
        raise NotImplementedError

    def _visit(self, node: Any) -> None:
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
        name = node.get_friendly_name()
        if kind == "Convolution":
            return self._convolution(node) if self._is_ours(node) else None
        if name in self._later:
            return self._masked_convolution(self._later[name])
        if name in self._masked:
            return self._with_channels_last(self._masked[name])
        if kind == "Transpose":
            return self._transpose(node)
        if kind == "Multiply":
            found = self._gradient_of_pool(node)
            if found is not None:
                return found
        if kind in _BINARY and any(place_of(each) in self._last for each in inputs):
            return self._binary(node, kind)
        x = self._last.get(place_of(inputs[0])) if inputs else None
        if x is None:
            return None
        if kind in _UNARY:
            return getattr(self._opset, _UNARY[kind])(x).output(0)
        if kind == "Select":
            return self._select(node)
        if kind == "Convert":
            # Marks of the largest are not looked at, where the gradient of a pool is ours.
            return self._opset.convert(x, node.get_attributes()["destination_type"]).output(0)
        if kind in ("MaxPool", "AvgPool", "Interpolate"):
            return self._resized(node, kind, x)
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

    def _select(self, node: Any) -> Any:
        inputs = node.input_values()
        if any(len(shape) != 4 and np.prod(shape, dtype=int) != 1 for shape in map(shape_of, inputs)):
            return None
        wide = (self._with_channels_last(each) if len(shape_of(each)) == 4 else each for each in inputs)
        return self._opset.select(*wide).output(0)

    def _is_picture(self, tensor: Any) -> bool:
        """Whether it is one picture as our pools take it."""
        shape, kind = shape_of(tensor), tensor.get_element_type().get_type_name()
        return len(shape) == 4 and shape[0] == 1 and shape[1] % self._ours.multiple == 0 and kind == self.kind

    def _resized(self, node: Any, kind: str, x: Any) -> Any:
        """A pool, or every position four times, as the gradient of pooling wants it."""
        tensor = node.input_value(0)
        if not self._is_picture(tensor):
            return None
        if kind == "Interpolate":
            return self._ours.repeated(x) if repeats(node) and _is_twice(node.output(0), tensor) else None
        if pools(node) != kind:
            return None
        return self._ours.largest(x) if kind == "MaxPool" else self._ours.mean(x)

    def _gradient_of_pool(self, node: Any) -> Any:
        """Of the pool's gradient, repeated, times marks where the largest are; None if it is something else."""
        marks, repeated = (each.get_node() for each in node.input_values())
        features = _looked_at(marks) if marks.get_type_name() == "Convert" else None
        if features is None or not repeats(repeated):
            return None
        # Of sizes that are odd pooling leaves out the end.
        cut = features.get_node()
        whole = cut.input_value(0) if cut.get_type_name() == "Slice" and _is_zero(cut.input_value(1)) else features
        gradient = repeated.input_value(0)
        if place_of(whole) not in self._last or not self._is_picture(whole) or not self._is_picture(gradient):
            return None
        if not _is_twice(node.output(0), gradient) or _half(shape_of(whole)) != shape_of(gradient):
            return None
        masked, after = node, only_one_after(node)
        if after is not None and after.get_type_name() == "Pad" and _is_zero(after.input_value(1)):
            masked, after = after, only_one_after(after)
        by = after and _features_of_mask(after)
        least = -np.inf
        if by is not None and place_of(by) == place_of(whole):
            self._masked[after.get_friendly_name()] = masked.output(0)
            least = 0.0
        return self._ours.winners(self._with_channels_last(whole), self._with_channels_last(gradient), least)

    def _mask_after(self, node: Any) -> _Masked | None:
        """What a convolution's result is masked by, if that is all it is for."""
        after, added = only_one_after(node), None
        if after is not None and after.get_type_name() == "Add":
            # Of two convolutions whose sum is masked the first one is what is done later.
            if after.get_friendly_name() in self._later:
                return None
            added = next((each for each in after.input_values() if place_of(each) != place_of(node.output(0))), None)
            if added is None or shape_of(added) != shape_of(node.output(0)):
                return None
            after = only_one_after(after)
        features = after and _features_of_mask(after)
        if features is None or node.get_output_shape(0)[1] % self.group:
            return None
        same = shape_of(features) == shape_of(node.output(0))
        return _Masked(after, features, node, added) if same else None

    def _masked_convolution(self, found: _Masked) -> Any:
        node = found.convolution
        _, out, height, width = node.get_output_shape(0)
        pads = tuple(node.get_attributes()["pads_begin"])
        layer = Layer(np.zeros(out, np.float32), -np.inf, pads, (height, width, out))
        added = None if found.added is None else self._with_channels_last(found.added)
        picture, weights = node.input_values()
        given = {"added": added, "mask": self._with_channels_last(found.features)}
        self._count += 1
        return self._ours.convolution(self._with_channels_last(picture), constant(weights), layer, **given)

    def _convolution(self, node: Any) -> Any:
        """By our code, with the bias and the ReLU that follow; what is between them and not wanted is None."""
        layer, last = self._followed(node)
        picture, weights = node.input_values()
        made = self._ours.convolution(self._with_channels_last(picture), constant(weights), layer)
        self._count += 1
        return self._made(node, last, made)

    def _followed(self, node: Any) -> tuple[Layer, Any]:
        """What comes after a convolution, and the last node of that."""
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
        return Layer(bias, floor, (above, left), (height, width, out)), last

    def _made(self, node: Any, last: Any, made: Any) -> Any:
        """What was made of all from a node to the last one; None if that is not the node's output."""
        self._last[place_of(last.output(0))] = made
        return made if last is node else None

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


class _FloatWriter(Writer):
    def _is_ours(self, node: Any) -> bool:
        return _is_worth_it(node, self._ours.multiple)

    def _written(self, node: Any, kind: str) -> Any:
        weights = None if self._is_ours(node) else plain_kernel(node)
        if weights is not None:
            out, channels = weights.shape[:2]
            wide = int(node.get_output_shape(0)[3]) >= self._ours.across
            if channels <= _COLOURS and out >= _CHANNELS and out % self._ours.multiple == 0 and wide:
                return self._first_convolution(node, weights)
            is_ours = place_of(node.input_value(0)) in self._last
            if is_ours and out <= _COLOURS and channels >= _CHANNELS and channels % self._ours.multiple == 0:
                return self._last_convolution(node, weights)
        return super()._written(node, kind)

    def _first_convolution(self, node: Any, weights: np.ndarray) -> Any:
        """Of a picture's planes. OpenVINO would copy each number for itself to have the channels last."""
        o, tensor = self._opset, node.input_value(0)
        x = self._with_channels_first(tensor) if place_of(tensor) in self._last else tensor
        layer, last = self._followed(node)
        # As many zeros at the end as the result asks for.
        before = (0, 0, *layer.pads)
        after = (0, 0, *(layer.size[i] + 2 - shape_of(tensor)[2 + i] - layer.pads[i] for i in range(2)))
        if any(before) or any(after):
            x = o.pad(x, self._ints(*before), self._ints(*after), "constant", o.constant(np.float32(0)))
        return self._made(node, last, self._ours.from_planes(x, weights, layer))

    def _last_convolution(self, node: Any, weights: np.ndarray) -> Any:
        """To the gradient in a picture's planes."""
        _, out, height, width = node.get_output_shape(0)
        above, left = node.get_attributes()["pads_begin"]
        layer = Layer(np.zeros(out, np.float32), -np.inf, (above, left), (height, width, out))
        planes = self._ours.to_planes(self._with_channels_last(node.input_value(0)), weights, layer)
        node.output(0).replace(planes)


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


def _is_twice(large: Any, small: Any) -> bool:
    """Whether a tensor has four positions for each of another."""
    return _half(shape_of(large)) == shape_of(small) and not any(size % 2 for size in shape_of(large)[2:])


def _half(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of pictures (n, c, h, w): after a pool of 2x2."""
    return *shape[:2], *(size // 2 for size in shape[2:])


def _is_zero(tensor: Any) -> bool:
    value = constant(tensor)
    return value is not None and not value.any()


def _looked_at(node: Any) -> Any:
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


def _features_of_mask(node: Any) -> Any:
    """Features, where a node is what is given where they are positive and 0 elsewhere, as `rules.py` writes that."""
    kind = node.get_type_name()
    if kind == "Multiply":
        return next((found for found in map(_steepened, node.input_values()) if found is not None), None)
    if kind != "Select":
        return None
    condition, _, other = node.input_values()
    given = condition.get_node().input_values() if condition.get_node().get_type_name() == "Greater" else []
    zeros = [constant(each) for each in (other, *given[1:])]
    plain = len(zeros) == 2 and all(each is not None and each.size == 1 and not each.any() for each in zeros)
    return given[0] if plain else None


def _steepened(tensor: Any) -> Any:
    """What of a tensor is 1 where it is positive and 0 elsewhere; None if it is something else."""
    for kind, number in (("Minimum", 1), ("Maximum", 0), ("Multiply", _STEEP)):
        node = tensor.get_node()
        if node.get_type_name() != kind:
            return None
        given = node.input_values()
        known = [constant(each) for each in given]
        rest = [each for each, value in zip(given, known, strict=True) if value is None]
        numbers = [value for value in known if value is not None]
        if len(rest) != 1 or numbers[0].size != 1 or numbers[0].item() != number:
            return None
        (tensor,) = rest
    return tensor


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
