"""Changes of OpenVINO's graphs that spare it bringing features from one layout into another.

It keeps features with channels last in memory wherever it convolves, whatever the order of their axes in the graph, and
a change of that order that nothing but a reshaping reads costs nothing. Read by sums too, it takes as long as some
convolutions.
"""

from __future__ import annotations

import math

import numpy as np
import openvino
from openvino import opset13

from stylekeras.graphs.channels_last import constant

_TURNS = ("Slice", "Transpose")
# Others may be packed.
_KINDS = ("f32", "f16", "bf16", "i32", "i64")
# Changes of form.
_FORMS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze")


def drop_identities(model: openvino.Model) -> None:
    """Leave out nodes that do nothing but hide what comes before them, in place; but for results of the model, of which
    two must not be one tensor, nor one the model's input."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Identity":
            readers = {each.get_node().get_type_name() for each in node.output(0).get_target_inputs()}
            if "Result" not in readers:
                node.output(0).replace(node.input_value(0))


def turn_constants(model: openvino.Model) -> None:
    """Transpose constants, and take slices of them, in place: the gradient has all kernels turned around, which takes
    OpenVINO several times as long as NumPy."""
    turned: dict[str, np.ndarray] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() not in _TURNS or node.get_output_element_type(0).get_type_name() not in _KINDS:
            continue
        source, *rest = node.input_values()
        before = source.get_node()
        value = turned.get(before.get_name()) if before.get_type_name() in _TURNS else constant(source)
        given = [constant(each) for each in rest]
        if value is None or any(each is None for each in given):
            continue
        if node.get_type_name() == "Slice":
            value = _slice(value, *given)
        else:
            # Without an order it is turned around.
            value = value.transpose(given[0] if given[0].size else None)
        turned[node.get_name()] = value
        # What is only turned further is not made.
        if {each.get_node().get_type_name() for each in node.output(0).get_target_inputs()} - set(_TURNS):
            found = opset13.constant(np.ascontiguousarray(value), node.get_output_element_type(0))
            node.output(0).replace(found.output(0))


def _slice(array: np.ndarray, *given: np.ndarray) -> np.ndarray:
    """By starts, ends and steps, and axes if there are others than the first ones."""
    starts, ends, steps, *axes = (each.ravel().tolist() for each in given)
    parts = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes[0] if axes else range(len(starts)), starts, ends, steps, strict=True):
        # What is before the first is the first, in either direction.
        parts[axis] = slice(max(start, -array.shape[axis]), end, step)
    return array[tuple(parts)]


def sum_first(model: openvino.Model) -> None:
    """Take sums before their order is changed, not after, in place."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ReduceSum":
            _sum_first(node)


def _sum_first(node: openvino.Node) -> None:
    """A sum of what was transposed: sum, and transpose the little that is left."""
    turned, axes = node.input_value(0).get_node(), constant(node.input_value(1))
    if turned.get_type_name() != "Transpose" or axes is None:
        return
    order = constant(turned.input_value(1))
    if order is None:
        return
    source = turned.input_value(0)
    summed = [int(axis) % len(order) for axis in axes.ravel()]
    left = [int(place) for axis, place in enumerate(order) if axis not in summed]
    keep = bool(node.get_attributes()["keep_dims"])
    found = opset13.reduce_sum(source, np.array([order[axis] for axis in summed], np.int64), keep)
    places = [int(place) for place in order] if keep else [sorted(left).index(place) for place in left]
    if places != sorted(places):
        found = opset13.transpose(found, np.array(places))
    node.output(0).replace(found.output(0))


def keep_sums_apart(model: openvino.Model) -> None:
    """Have sums of sums done one after the other, in place.

    OpenVINO makes one sum of two, which adds up all numbers in turn where channels come last, in float32 and in one
    thread: of a picture of 1024 px two to four digits of a channel's sum are left. A sum of means stays two.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ReduceSum" or not node.get_output_element_type(0).is_real():
            continue
        reader = node.input(0)
        inner = reader.get_source_output().get_node()
        while inner.get_type_name() in _FORMS and len(inner.output(0).get_target_inputs()) == 1:
            reader = inner.input(0)
            inner = reader.get_source_output().get_node()
        if inner.get_type_name() != "ReduceSum":
            continue
        source, axes = inner.input_values()
        if not (source.get_partial_shape().is_static and inner.get_output_partial_shape(0).is_static):
            continue
        count = math.prod(source.get_shape()) // math.prod(inner.get_output_shape(0))
        means = opset13.reduce_mean(source, axes, bool(inner.get_attributes()["keep_dims"]))
        reader.replace_source_output(means.output(0))
        readers = node.output(0).get_target_inputs()
        whole = opset13.multiply(node, opset13.constant(count, node.get_output_element_type(0)))
        for each in readers:
            each.replace_source_output(whole.output(0))
