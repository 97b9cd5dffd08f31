"""Products with features in bfloat16 that need nothing wider than these.

A Gram matrix G = F^T F is float32's, but its factors are bfloat16, whose products and sums a matrix unit makes in
float32: there is nothing to be gained from factors in float32. The gradient in features is F times what the loss says
of G, and is added to a gradient in bfloat16 and rounded to it: so it is made of factors in it too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openvino
from openvino import opset13

from stylekeras.graphs.channels_last import only_one_after

_LOW = openvino.Type.bf16


def narrow(model: openvino.Model, gram: Callable[[openvino.Output], openvino.Output] | None = None) -> int:
    """Change a model in place.

    Args: gram: makes a node that computes F^T F in float32 of features (positions, channels) in bfloat16, channels a
        multiple of 32. Returns: how many products it was.
    """
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    return sum(_narrow(node) or (gram is not None and _is_gram(node, gram)) for node in products)


def _is_gram(product: openvino.Node, gram: Callable[[openvino.Output], openvino.Output]) -> bool:
    """matmul(transpose(features), features)."""
    turned = product.get_attributes()
    sources = [_source(value) for value in product.input_values()]
    if sources[0] is None or sources[0] != sources[1] or not turned["transpose_a"] or turned["transpose_b"]:
        return False
    features = _rounded(product.input_value(1))
    if features is None:
        return False
    channels = product.output(0).get_shape()
    if len(channels) != 2 or channels[0] % 32:
        return False
    product.output(0).replace(gram(features.output(0) if isinstance(features, openvino.Node) else features))
    return True


def _source(output: openvino.Output) -> Any:
    """What features come from, by name and form; None if not from another type."""
    node, form = output.get_node(), []
    while node.get_type_name() in ("Reshape", "Transpose"):
        how = node.input_value(1).get_node()
        if how.get_type_name() != "Constant":
            return None
        form.append((node.get_type_name(), tuple(how.get_vector()), tuple(node.output(0).get_shape())))
        node = node.input_value(0).get_node()
    return (node.get_friendly_name(), *form) if node.get_type_name() == "Convert" else None


def _narrow(product: openvino.Node) -> bool:
    """matmul(features, matrix), reshaped, perhaps plus another part of the gradient, transposed and rounded."""
    features = _rounded(product.input_value(0))
    reshaped = _only(product, "Reshape")
    added = reshaped and _only(reshaped, "Add")
    turned = (added or reshaped) and _only(added or reshaped, "Transpose")
    rounded = turned and _only(turned, "Convert")
    if features is None or not rounded or rounded.output(0).get_element_type() != _LOW:
        return False
    transposed = product.get_attributes()
    matrix = opset13.convert(product.input_value(1), "bf16")
    found = opset13.matmul(features, matrix, transposed["transpose_a"], transposed["transpose_b"])
    found = _again(reshaped, found)
    if added:
        other = next(each for each in added.input_values() if each.get_node() != reshaped)
        spread = other.get_node()
        # A vector that was spread over all positions is rounded before.
        is_spread = spread.get_type_name() == "Broadcast" and spread.get_attributes()["mode"] != "explicit"
        found = opset13.add(found, opset13.convert(spread.input_value(0) if is_spread else other, "bf16"))
    rounded.output(0).replace(_again(turned, found).output(0))
    return True


def _rounded(output: openvino.Output) -> Any:
    """What features are before they become float32, in the same form; None if they never were anything else."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        return node.input_value(0) if node.input_value(0).get_element_type() == _LOW else None
    if node.get_type_name() not in ("Reshape", "Transpose"):
        return None
    before = _rounded(node.input_value(0))
    return None if before is None else _again(node, before)


def _again(node: openvino.Node, given: Any) -> openvino.Node:
    """A reshape or a transpose of something else."""
    if node.get_type_name() == "Transpose":
        return opset13.transpose(given, node.input_value(1))
    return opset13.reshape(given, node.input_value(1), node.get_attributes()["special_zero"])


def _only(node: openvino.Node, kind: str) -> Any:
    """The one node that reads another's result, if it is of that kind."""
    after = only_one_after(node)
    return after if after is not None and after.get_type_name() == kind else None
