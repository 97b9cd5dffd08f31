"""Changes of OpenVINO's graphs: each result as before, and what is no longer there."""

import numpy as np
import openvino
import pytest
from openvino import opset13

from stylekeras.engines.openvino import layouts

LAST = -(2**63)


def _ints(*numbers):
    return opset13.constant(np.array(numbers, np.int64))


def _results(model):
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [np.array(each) for each in compiled({}).values()]


def _kinds(model):
    return {node.get_type_name() for node in model.get_ordered_ops()}


@pytest.mark.parametrize("kind", ["f32", "bf16", "i64"])
def test_constants_are_turned(rng, kind):
    """Kernels as the gradient has them, and slices with all that is allowed in them."""
    kernels = opset13.constant(rng.integers(-9, 9, (4, 5, 3, 2)).astype(np.float32), getattr(openvino.Type, kind))
    back = opset13.slice(kernels, _ints(-1, -1), _ints(LAST, LAST), _ints(-1, -1), _ints(2, 3))
    turned = opset13.transpose(back, _ints(1, 0, 2, 3))
    cut = opset13.slice(turned, _ints(-100, 1), _ints(2**63 - 1, -1), _ints(2, 1))
    # From before the first, backwards: the first; read turned further and as it is.
    first = opset13.slice(kernels, _ints(-100), _ints(-200), _ints(-1), _ints(1))
    twice = opset13.transpose(first, _ints(3, 2, 1, 0))
    found = [opset13.convert(each, "f32") for each in (turned, cut, first, twice)]
    model = openvino.Model(found, [])
    wanted = _results(model)
    layouts.turn_constants(model)
    assert not _kinds(model) & {"Slice", "Transpose"}
    for one, other in zip(_results(model), wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert wanted[0].shape == (5, 4, 3, 2)
    assert wanted[2].shape == (4, 1, 3, 2)


def test_what_an_input_decides_is_left():
    given = opset13.parameter([2, 3], np.float32)
    places = opset13.parameter([2], np.int64)
    other = opset13.transpose(opset13.constant(np.ones((2, 3), np.float32)), places)
    model = openvino.Model([opset13.transpose(given, _ints(1, 0)), other], [given, places])
    layouts.turn_constants(model)
    assert [node.get_type_name() for node in model.get_ordered_ops()].count("Transpose") == 2


def test_what_is_packed_or_has_no_order(rng):
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    packed = opset13.transpose(opset13.constant(given.astype(np.int8), openvino.Type.i4), _ints(1, 0))
    around = opset13.transpose(opset13.constant(given), opset13.constant(np.zeros(0, np.int64)))
    model = openvino.Model([opset13.convert(packed, "f32"), opset13.convert(around, "f32")], [])
    layouts.turn_constants(model)
    assert [node.get_type_name() for node in model.get_ordered_ops()].count("Transpose") == 1
    for found in _results(model):
        np.testing.assert_array_equal(found, given.T)
