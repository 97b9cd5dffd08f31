"""Changes of OpenVINO's graphs: each result as before, and what is no longer there."""

import numpy as np
import openvino
import pytest
from openvino import opset13

import stylekeras as sk
from stylekeras import machines, trees
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


def _sums(form, size):
    """Sums over the positions of features (1, size, size, 32), or of features whose channels come first."""
    shape = [1, 32, size, size] if "first" in form else [1, size, size, 32]
    given = opset13.parameter(shape, np.float32)
    features = opset13.transpose(given, _ints(0, 2, 3, 1)) if "first" in form else given
    rows = opset13.reduce_sum(features, _ints(2), "kept" in form)
    if "reshaped" in form:
        rows = opset13.reshape(rows, _ints(size, 32), special_zero=False)
    columns = opset13.reduce_sum(rows, _ints(0) if "reshaped" in form else _ints(0, 1), "kept" in form)
    results = [columns, opset13.negative(columns), *([rows] if "read" in form else [])]
    return openvino.Model(results, [given])


@pytest.mark.parametrize("form", ["last", "first", "last, kept", "last, reshaped", "last, read otherwise"])
def test_sums_keep_their_digits(rng, form):
    """Of equal numbers, where rounding goes in one direction, and of others."""
    size = 384
    model = _sums(form, size)
    layouts.sum_first(model)
    layouts.keep_sums_apart(model)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    shape = model.inputs[0].get_shape()
    for given in (np.full(shape, 0.3, np.float32), rng.random(shape, np.float32) + np.float32(0.2)):
        sums, negative, *_ = (np.array(each).ravel() for each in compiled([given]).values())
        wanted = given.sum((2, 3) if "first" in form else (1, 2), dtype=np.float64).ravel()
        np.testing.assert_allclose(sums, wanted, rtol=2e-5)
        np.testing.assert_array_equal(negative, -sums)


def test_sums_of_whole_numbers_and_of_unknown_sizes_are_left():
    """A mean of whole numbers would be one."""
    given, open_ = opset13.parameter([2, 3], np.int64), opset13.parameter([-1, 3], np.float32)
    twice = [opset13.reduce_sum(opset13.reduce_sum(each, _ints(0), False), _ints(0), False) for each in (given, open_)]
    model = openvino.Model(twice, [given, open_])
    layouts.keep_sums_apart(model)
    assert "ReduceMean" not in _kinds(model)
    found = openvino.Core().compile_model(model, "CPU")([np.arange(6).reshape(2, 3), np.full((2, 3), 0.5, np.float32)])
    assert [float(each) for each in found.values()] == [15, 3]


@pytest.mark.parametrize("precision", ["float32", "winograd"])
def test_means_of_a_flat_picture_keep_their_digits(precision):
    """Else its covariance has negative eigenvalues."""
    settings = sk.Settings(
        backbone="vgg16", weights="random", engine="openvino", precision=precision, style_layers="block2_conv1"
    )
    machine = machines.machine(settings, ("block2_conv1",))
    picture = np.full((1, 640, 640, 3), 0.9, np.float32)
    features = np.asarray(machine.extract(picture)["block2_conv1"], np.float64)
    target = {"mean": np.zeros(128), "widen": 1.0, "basis": np.eye(128), "values": np.ones(128), "scale": 1.0}
    target = {name: np.asarray(value, np.float32) for name, value in target.items()}
    sums = machine.measure(picture, {"content": {}, "styles": [{"block2_conv1": target}]})
    found = trees.leaves(sums, "sums")
    (mean,) = (value for name, value in found.items() if name.endswith("/mean"))
    wanted = features.sum((0, 1, 2))
    np.testing.assert_allclose(mean, wanted, atol=1e-5 * wanted.max())


@pytest.mark.parametrize("size", [96, 512])
@pytest.mark.parametrize("precision", ["float32", "winograd"])
def test_the_distance_of_pictures_of_one_colour(precision, size):
    """Products of equal numbers add up to sums from which rounding takes more than there is variance."""
    white, grey = np.ones((size, size, 3), np.float32), np.full((size, size, 3), 0.5, np.float32)
    settings = {
        "backbone": "vgg16",
        "weights": "random",
        "content_layers": "block1_conv1",
        "style_layers": "block1_conv1,block2_conv1,block3_conv1",
        "content_weight": 0.0,
        "tv_weight": 0.0,
        "strength": 0.05,
        "size": size,
    }
    found, wanted = (
        sk.loss_and_gradient(white, white, grey, sk.Settings(**settings, engine=engine, precision=kind))
        for engine, kind in (("openvino", precision), ("tensorflow", "float32"))
    )
    assert found.loss == pytest.approx(wanted.loss, rel=2e-3)
    assert np.linalg.norm(found.gradient - wanted.gradient) < 2e-2 * np.linalg.norm(wanted.gradient)
