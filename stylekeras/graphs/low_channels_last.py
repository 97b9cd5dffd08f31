"""OpenVINO's graph of a network in bfloat16 with channels last, its convolutions and pools by our machine code.

For processors that multiply matrices (Intel's AMX). What `channels_last` does for float32, and more: pools, since
OpenVINO has features with channels last in memory by itself, but only where it convolves itself, and with channels
first wherever our code stands between; and what comes to a gradient after a convolution, since beside such fast
products whatever passes over all features once more takes its time.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from stylekeras.graphs import channels_last
from stylekeras.graphs.channels_last import Layer, constant, looked_at, only_one_after, place_of

_LOW = "bf16"
# What channels are a multiple of in a pool, and where something is added to a convolution's result or it is masked.
_POOLED, _GROUP = 16, 32


class Layers(Protocol):
    """What makes nodes of our code, all in bfloat16, of pictures (1, h, w, c)."""

    def convolution(
        self, picture: Any, weights: np.ndarray, layer: Layer, *, added: Any = None, mask: Any = None
    ) -> Any:
        """The result (1, h', w', c'), for weights (c', c, 3, 3) of float32 that were rounded. What is added comes to it
        before the floor; where the mask is not positive it is 0."""
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


def rewrite(model: Any, opset: Any, layers: Layers) -> int:
    """Change a model of known sizes, constants folded, in place.

    Returns: how many convolutions our code now does: all or none, and in that case the model is as it was.
    """
    nodes = model.get_ordered_ops()
    if not all(map(_is_known, nodes)) or not any(node.get_type_name() == "Convolution" for node in nodes):
        return 0
    writer = _Writer(opset, layers)
    for node in model.get_ordered_ops():
        writer.visit(node)
    model.validate_nodes_and_infer_types()
    return writer.count


def _is_known(node: Any) -> bool:
    """Whether a node is none that only OpenVINO's own layouts are for."""
    kind = node.get_type_name()
    if kind == "Convolution":
        weights = channels_last.plain_kernel(node, _LOW)
        return weights is not None and not any(each % 2 for each in weights.shape[:2])
    if kind in ("MaxPool", "AvgPool"):
        plain = channels_last.pools(node) == kind and node.get_output_element_type(0).get_type_name() == _LOW
        return plain and int(node.get_output_shape(0)[1]) % _POOLED == 0
    return kind not in ("GroupConvolution", "ConvolutionBackpropData")


class _Masked(NamedTuple):
    """A gradient that is 0 where features are not positive: what a convolution made of it, perhaps plus something."""

    select: Any
    features: Any
    convolution: Any
    added: Any


class _Writer(channels_last.Writer):
    def __init__(self, opset: Any, layers: Layers) -> None:
        super().__init__(opset, layers)
        # Nodes whose work is done with that of a later one, by name; and masks that are in what they are to mask.
        self._later: dict[str, _Masked] = {}
        self._masked: set[str] = set()

    def visit(self, node: Any) -> None:
        """As every writer; nothing for what is done with a later one."""
        found = _masked(node) if node.get_type_name() == "Convolution" else None
        if found is not None:
            nodes = [node, found.select] if found.added is None else [node, only_one_after(node), found.select]
            self._later |= {each.get_friendly_name(): found for each in nodes}
        late = self._later.get(node.get_friendly_name())
        if late is None or late.select.get_friendly_name() == node.get_friendly_name():
            super().visit(node)

    def _written(self, node: Any, kind: str) -> Any:
        if kind == "Convolution":
            return self._convolution(node)
        if kind in ("MaxPool", "AvgPool"):
            pool = self._ours.largest if kind == "MaxPool" else self._ours.mean
            return pool(self._with_channels_last(node.input_value(0)))
        if kind == "Multiply":
            found = self._gradient_of_pool(node)
            if found is not None:
                return found
        if kind == "Select":
            return self._select(node)
        if kind == "Convert":
            # Marks of the largest are never looked at, where the gradient of a pool is ours.
            x = self._last.get(place_of(node.input_value(0)))
            return x and self._opset.convert(x, node.get_attributes()["destination_type"]).output(0)
        return super()._written(node, kind)

    def _select(self, node: Any) -> Any:
        name, inputs = node.get_friendly_name(), node.input_values()
        if name in self._later:
            return self._masked_convolution(self._later[name])
        if place_of(inputs[0]) not in self._last:
            return None
        if name in self._masked:
            return self._with_channels_last(inputs[1])
        if any(len(shape) != 4 and np.prod(shape, dtype=int) != 1 for shape in map(channels_last.shape_of, inputs)):
            return None
        return self._opset.select(*map(self._wide, inputs)).output(0)

    def _masked_convolution(self, found: _Masked) -> Any:
        node = found.convolution
        _, out, height, width = node.get_output_shape(0)
        pads = tuple(node.get_attributes()["pads_begin"])
        layer = Layer(np.zeros(out, np.float32), -np.inf, pads, (height, width, out))
        added = None if found.added is None else self._with_channels_last(found.added)
        picture, weights = node.input_values()
        given = {"added": added, "mask": self._with_channels_last(found.features)}
        self.count += 1
        return self._ours.convolution(self._with_channels_last(picture), constant(weights), layer, **given)

    def _gradient_of_pool(self, node: Any) -> Any:
        """Of the pool's gradient, repeated, times marks where the largest are; None if it is something else."""
        marks, repeated = (each.get_node() for each in node.input_values())
        features = looked_at(marks) if marks.get_type_name() == "Convert" else None
        if features is None or not channels_last.repeats(repeated):
            return None
        # Of sizes that are odd pooling leaves out the end.
        cut = features.get_node()
        whole = cut.input_value(0) if cut.get_type_name() == "Slice" else features
        after = only_one_after(node)
        if after is not None and after.get_type_name() == "Pad":
            after = only_one_after(after)
        by = after and _features_of_mask(after)
        least = -np.inf
        if by is not None and place_of(by) == place_of(whole):
            self._masked.add(after.get_friendly_name())
            least = 0.0
        gradient = self._with_channels_last(repeated.input_value(0))
        return self._ours.winners(self._with_channels_last(whole), gradient, least)

    def _doubled(self, node: Any, x: Any) -> Any:
        _, height, width, channels = x.get_shape()
        after = {each.get_node().get_type_name() for each in node.output(0).get_target_inputs()}
        # Those of `_gradient_of_pool` are never looked at.
        if not channels_last.repeats(node) or channels % _POOLED or after & {"Equal", "Multiply"}:
            return super()._doubled(node, x)
        whole = (1, channels, 2 * height, 2 * width)
        return self._ours.repeated(x) if tuple(node.get_output_shape(0)) == whole else None

    def _wide(self, tensor: Any) -> Any:
        """With channels last, or a number."""
        return self._with_channels_last(tensor) if len(tensor.get_partial_shape()) == 4 else tensor

    def _constant_like(self, value: np.ndarray, tensor: Any) -> Any:
        made = super()._constant_like(value, tensor)
        return self._opset.convert(made, _LOW) if tensor.get_element_type().get_type_name() == _LOW else made


def _masked(node: Any) -> _Masked | None:
    """What a convolution's result is masked by, if that is all it is for."""
    after, added = only_one_after(node), None
    if after is not None and after.get_type_name() == "Add":
        added = next((each for each in after.input_values() if place_of(each) != place_of(node.output(0))), None)
        if added is None or channels_last.shape_of(added) != channels_last.shape_of(node.output(0)):
            return None
        after = only_one_after(after)
    features = after and _features_of_mask(after)
    if features is None or node.get_output_shape(0)[1] % _GROUP:
        return None
    same = channels_last.shape_of(features) == channels_last.shape_of(node.output(0))
    return _Masked(after, features, node, added) if same else None


def _features_of_mask(node: Any) -> Any:
    """Features, where a node is what is given where they are positive and 0 elsewhere, as `rules.py` writes that."""
    if node.get_type_name() != "Select":
        return None
    condition, _, other = node.input_values()
    given = condition.get_node().input_values() if condition.get_node().get_type_name() == "Greater" else []
    zeros = [constant(each) for each in (other, *given[1:])]
    plain = len(zeros) == 2 and all(each is not None and each.size == 1 and not each.any() for each in zeros)
    return given[0] if plain else None
