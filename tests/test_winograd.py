"""Winograd's convolutions: the algorithm in NumPy, and OpenVINO's graphs that are rewritten with it."""

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import openvino
import pytest
from machine_code import SHAPES, needed
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13, passes

import stylekeras as sk
from stylekeras import engines
from stylekeras.engines import openvino as engine
from stylekeras.graphs import channels_last, gradient
from stylekeras.native import convolution, convolution_code, winograd
from stylekeras.native.convolution import Convolver
from stylekeras.threads import Threads


def _direct(image, weights, pads=(1, 1, 1, 1)):
    """(h, w, c) and (out, c, 3, 3) to (h', w', out), in float64."""
    top, left, bottom, right = pads
    image = np.pad(np.asarray(image, np.float64), ((top, bottom), (left, right), (0, 0)))
    height, width = image.shape[0] - 2, image.shape[1] - 2
    return sum(
        image[i : i + height, j : j + width] @ np.asarray(weights[:, :, i, j], np.float64).T
        for i in range(3)
        for j in range(3)
    )


def _close(found, wanted, error):
    assert found.shape == wanted.shape
    assert np.sqrt(np.mean(np.square(found - wanted))) < error * np.sqrt(np.mean(np.square(wanted)))


def test_a_tile_is_the_convolution_of_its_window(rng):
    window, weights = rng.standard_normal((6, 6, 8)), rng.standard_normal((5, 8, 3, 3))
    seen = np.einsum("ai,bj,ijc->abc", winograd.INPUT, winograd.INPUT, window).reshape(36, 1, 8)
    made = (seen @ winograd.kernels(weights)).reshape(6, 6, 5)
    _close(
        np.einsum("ai,bj,ijk->abk", winograd.OUTPUT, winograd.OUTPUT, made),
        _direct(window, weights, (0, 0, 0, 0)),
        2e-6,
    )


# --- machine code ---------------------------------------------------------------------------------------------------


def _convolver(threads=2, shape=None, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr(convolution_code, "compiled", functools.partial(convolution_code.compiled, shape))
    return Convolver(Threads(threads))


def _convolved(convolver, picture, weights, *, bias=None, pads=(1, 1, 1, 1), **given):
    top, left, bottom, right = pads
    size = (picture.shape[0] + top + bottom - 2, picture.shape[1] + left + right - 2)
    result = np.full((*size, len(weights)), np.nan, np.float32)
    bias = np.zeros(len(weights), np.float32) if bias is None else bias
    convolver(picture, convolver.kernels(weights), result, bias=bias, pads=(top, left), **given)
    return result


def _picture(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_code_for_every_processor_convolves(rng, monkeypatch, shape):
    convolver = _convolver(2, shape, monkeypatch)
    (weights,) = _kernels(rng, 64, 96)
    picture, bias = _picture(rng, 30, 41, 64), _picture(rng, 96)
    found = _convolved(convolver, picture, weights, bias=bias, floor=0.0)
    _close(found, np.maximum(_direct(picture, weights) + bias, 0), 2e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("threads", [1, 7])
@pytest.mark.parametrize("given", [("mask",), ("added", "mask")])
@pytest.mark.parametrize("size", [(5, 6), (29, 42)])
def test_what_is_added_and_what_is_masked(rng, monkeypatch, size, given, threads, shape):
    """One panel of kernels is not full; where channels are shared out among the threads another one is the last."""
    (weights,) = _kernels(rng, 32, 176)
    picture, bias = _picture(rng, *size, 32), _picture(rng, 176)
    others = {name: _picture(rng, *size, 176) for name in given}
    found = _convolved(_convolver(threads, shape, monkeypatch), picture, weights, bias=bias, floor=-0.5, **others)
    wanted = np.maximum(_direct(picture, weights) + bias + others.get("added", 0), -0.5)
    _close(found, np.where(others["mask"] > 0, wanted, 0), 2e-6)
    assert (found[others["mask"] <= 0] == 0).all()


def test_nothing_that_the_code_would_read_beyond(rng):
    (weights,) = _kernels(rng, 32, 64)
    convolver = _convolver(1)
    kernels, bias, result = convolver.kernels(weights), np.zeros(64, np.float32), np.zeros((8, 8, 64), np.float32)
    picture = _picture(rng, 8, 8, 32)
    for given in (
        {"picture": picture[:, :, :17]},
        {"picture": picture.astype(np.float64)},
        {"picture": picture.transpose(1, 0, 2)},
        {"result": result[:, :, :40]},
        {"kernels": kernels[:-1]},
        {"bias": bias[:-1]},
        {"added": result},
        {"added": result[:7], "mask": result},
        {"mask": result.astype(np.float64)},
    ):
        with pytest.raises(ValueError, match=r"wanted|channels"):
            convolver(**{"picture": picture, "kernels": kernels, "result": result, "bias": bias, **given})


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (0, 1, 2, 1), (5, 9, 7, 3)])
@pytest.mark.parametrize("size", [(3, 3), (4, 4), (5, 70), (32, 48), (33, 37), (34, 31), (130, 141)])
def test_any_size_margin_and_number_of_threads(rng, size, pads, threads):
    """One tile, whose channels are shared out, up to several shares of several blocks for each thread."""
    (weights,) = _kernels(rng, 32, 96)
    picture = _picture(rng, *size, 32)
    _close(_convolved(_convolver(threads), picture, weights, pads=pads), _direct(picture, weights, pads), 2e-6)


@pytest.mark.parametrize("channels", [(32, 512), (512, 32), (544, 64), (288, 288)])
def test_many_channels(rng, channels):
    """More than are multiplied at a time."""
    (weights,) = _kernels(rng, *channels)
    picture = _picture(rng, 15, 18, channels[0])
    _close(_convolved(_convolver(), picture, weights), _direct(picture, weights), 3e-6)


def test_large_kernels_with_more_tiles_at_a_time(rng, monkeypatch):
    monkeypatch.setattr(convolution, "_LARGE", 0)
    (weights,) = _kernels(rng, 32, 48)
    picture = _picture(rng, 66, 70, 32)
    _close(_convolved(_convolver(1), picture, weights), _direct(picture, weights), 2e-6)


def test_it_rounds_a_little_more_than_a_direct_convolution(rng):
    """And less than half as much as with the usual points."""
    picture = np.maximum(_picture(rng, 40, 40, 256), 0)
    weights = (rng.standard_normal((256, 256, 3, 3)) / 48).astype(np.float32)
    _close(_convolved(_convolver(), picture, weights), _direct(picture, weights), 1.6e-6)


def test_the_floor_keeps_what_is_not_a_number(rng):
    (weights,) = _kernels(rng, 32, 32)
    picture = _picture(rng, 12, 12, 32)
    picture[5, 5, 3] = np.nan
    found = _convolved(_convolver(), picture, weights, floor=0.0)
    assert np.isnan(found[4:7, 4:7]).all()
    assert not np.isnan(found[:, 8:]).any()
    assert found[:, 8:].min() == 0


def test_the_next_numbers_in_memory_are_left_alone(rng):
    (weights,) = _kernels(rng, 32, 32)
    convolver = _convolver()
    around = np.full((3, 13, 15, 32), 7, np.float32)
    kernels, bias = convolver.kernels(weights), np.zeros(32, np.float32)
    convolver(_picture(rng, 13, 15, 32), kernels, around[1], bias=bias, pads=(1, 1))
    assert (around[::2] == 7).all()


def test_several_threads_may_convolve_at_once(rng):
    convolver = _convolver(3)
    layers = [_kernels(rng, 32, out)[0] for out in (32, 64, 96, 128)]
    picture = _picture(rng, 37, 50, 32)
    alone = [_convolved(convolver, picture, weights) for weights in layers]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for one, other in zip(pool.map(lambda w: _convolved(convolver, picture, w), layers), alone, strict=True):
                np.testing.assert_array_equal(one, other)
    convolver.rest()
    np.testing.assert_array_equal(_convolved(convolver, picture, layers[0]), alone[0])


def test_kernels_are_transformed_once_for_all_layers(rng):
    (weights,) = _kernels(rng, 32, 64)
    convolver = _convolver()
    assert convolver.kernels(weights) is convolver.kernels(weights.copy())
    assert convolver.kernels(weights) is not convolver.kernels(2 * weights)
    same = np.ones((2, 64, 32, 3, 3), np.float32)
    assert convolver.kernels(same[0]) is not convolver.kernels(same[1].reshape(32, 64, 3, 3))


# --- graphs ---------------------------------------------------------------------------------------------------------


def _network(weights, *, pads, pooling, tail=(), image=(1, 3, "h", "w")):
    """Convolutions with ReLU, a pool before each but the first, and further nodes; the outputs are what none reads."""
    nodes, constants, x = [], [], "image"
    for i, kernel in enumerate(weights):
        if i:
            nodes.append(helper.make_node(pooling, [x], [f"p{i}"], kernel_shape=[2, 2], strides=[2, 2]))
            x = f"p{i}"
        constants.append(numpy_helper.from_array(kernel, f"w{i}"))
        constants.append(numpy_helper.from_array(np.linspace(-0.1, 0.1, len(kernel), dtype=np.float32), f"b{i}"))
        nodes.append(helper.make_node("Conv", [x, f"w{i}", f"b{i}"], [f"c{i}"], kernel_shape=[3, 3], pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i}"]))
        x = f"x{i}"
    nodes += [node for node, _ in tail]
    constants += [constant for _, several in tail for constant in several]
    read = {name for node in nodes for name in node.input}
    outputs = [onnx.ValueInfoProto(name=node.output[0]) for node in nodes if node.output[0] not in read]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("image", image),)]
    graph = helper.make_graph(nodes, "g", info, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def _run(model, image, *, rewritten, left=None):
    """The outputs by name, and how many convolutions were rewritten; the kinds of nodes that results need, and of how
    many dimensions they are, go to `left`."""
    core = openvino.Core()
    graph = core.read_model(model.SerializeToString())
    graph.reshape({"image": list(image.shape)})
    count = 0
    if rewritten:
        manager = passes.Manager()
        manager.register_pass(passes.ConstantFolding())
        manager.run_passes(graph)
        nodes = engine.Nodes(engine.Native(2))
        count = channels_last.rewrite(graph, opset13, engine.FloatLayers(nodes))
        if left is not None:
            left.update((node.get_type_name(), len(node.get_output_partial_shape(0))) for node in needed(graph))
    found = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"image": image})
    return {name: np.array(value) for output, value in found.items() for name in output.names}, count


def _kernels(rng, *channels):
    pairs = itertools.pairwise(channels)
    return [(rng.standard_normal((out, c, 3, 3)) / np.sqrt(9 * c)).astype(np.float32) for c, out in pairs]


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [0, 1, 2, 1]])
@pytest.mark.parametrize("shape", [(32, 48), (33, 37), (34, 31), (35, 42)])
def test_a_convolution_of_any_size(rng, shape, pads):
    (weights,) = _kernels(rng, 32, 64)
    model = _network([weights], pads=pads, pooling="MaxPool", image=(1, 32, "h", "w"))
    image = rng.standard_normal((1, 32, *shape)).astype(np.float32)
    found, count = _run(model, image, rewritten=True)
    assert count == 1
    bias = np.linspace(-0.1, 0.1, 64)
    wanted = np.maximum(_direct(image[0].transpose(1, 2, 0), weights, pads) + bias, 0)
    _close(found["x0"][0].transpose(1, 2, 0), wanted, 2e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 2, 1]])
def test_a_first_convolution_of_few_channels(rng, pads, channels):
    """It is a product of matrices, the second one Winograd's."""
    model = _network(_kernels(rng, channels, 32, 64), pads=pads, pooling="MaxPool", image=(1, channels, "h", "w"))
    image = rng.standard_normal((1, channels, 67, 70)).astype(np.float32)
    wanted, _ = _run(model, image, rewritten=False)
    found, count = _run(model, image, rewritten=True)
    assert count == 1
    _close(found["x1"], wanted["x1"], 3e-6)


def _with_gradient(model, output):
    """With the sum of squares of `output` and its gradient in the image."""
    model.graph.node.append(helper.make_node("Mul", [output, output], ["squares"]))
    model.graph.node.append(helper.make_node("ReduceSum", ["squares"], ["loss"], keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
    return gradient.append_gradient(onnx.shape_inference.infer_shapes(model), "loss", ["image"])


@pytest.mark.parametrize("pooling", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("shape", [(64, 64), (67, 70), (70, 65)])
def test_a_network_and_its_gradient(rng, shape, pooling):
    """Sizes that pools do not divide among them."""
    layers = _kernels(rng, 3, 32, 64, 96)
    model = _with_gradient(_network(layers, pads=[1, 1, 1, 1], pooling=pooling), "x2")
    image = rng.standard_normal((1, 3, *shape)).astype(np.float32)
    wanted, none = _run(model, image, rewritten=False)
    left = set()
    found, count = _run(model, image, rewritten=True, left=left)
    assert (none, count) == (0, 4)
    # The picture's own convolutions, pools and their gradients are ours too, and what comes after any of them.
    done = {"Convolution", "Relu", "MaxPool", "AvgPool", "Interpolate", "Equal", "Convert"}
    assert not {kind for kind, dimensions in left if dimensions == 4} & done
    assert float(found["loss"]) == pytest.approx(float(wanted["loss"]), rel=3e-6)
    _close(found["gradient/image"], wanted["gradient/image"], 1e-5)


def test_in_a_flat_picture_the_first_of_equal_maxima_is_still_the_one(rng):
    layers = _kernels(rng, 3, 32, 64)
    model = _with_gradient(_network(layers, pads=[1, 1, 1, 1], pooling="MaxPool"), "x1")
    image = np.full((1, 3, 64, 72), 0.3, np.float32)
    image[:, :, 40:] = 0.7
    image[:, :, :, 50:] *= np.float32(0.5)
    wanted, _ = _run(model, image, rewritten=False)
    found, count = _run(model, image, rewritten=True)
    assert count == 2
    _close(found["gradient/image"], wanted["gradient/image"], 1e-5)


def _tail(*nodes, constants=()):
    made = [(helper.make_node(kind, ins, [out], **given), []) for kind, ins, out, given in nodes]
    return [(made[0][0], [numpy_helper.from_array(np.asarray(v), n) for n, v in constants]), *made[1:]]


def _weights(rng, name, *channels):
    return [numpy_helper.from_array(_kernels(rng, *channels)[0], name)]


def _convolution(x, weights, y, constants):
    return helper.make_node("Conv", [x, weights], [y], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), constants


def _branches(rng):
    """What reads a tensor "x0" of 64 channels, or the image, twice."""
    pools = [
        (helper.make_node(kind, ["x0"], [kind], kernel_shape=[2, 2], strides=[2, 2]), [])
        for kind in ("MaxPool", "AveragePool")
    ]
    one, other = (_convolution("x0", name, f"y{name}", _weights(rng, name, 64, 64)) for name in ("a", "b"))
    first = _convolution("image", "a", "z", _weights(rng, "a", 3, 32))
    shrunk = (helper.make_node("MaxPool", ["ya"], ["sa"], kernel_shape=[2, 2], strides=[2, 2]), [])
    return {
        "two pools": pools,
        "a pool and a convolution": [pools[0], one],
        "a pool and a convolution, added": [
            pools[0],
            one,
            shrunk,
            (helper.make_node("Add", ["MaxPool", "sa"], ["y"]), []),
        ],
        "two convolutions": [one, other],
        "two convolutions, added": [one, other, (helper.make_node("Add", ["ya", "yb"], ["y"]), [])],
        "two first convolutions": [first],
        "two that are the same": [
            pools[0],
            (helper.make_node("MaxPool", ["x0"], ["y"], kernel_shape=[2, 2], strides=[2, 2]), []),
        ],
    }


@pytest.mark.parametrize("name", _branches(np.random.default_rng(0)))
def test_what_reads_the_same_tensor_is_not_the_same(rng, name):
    """OpenVINO takes operators for one that look alike to it."""
    tail = _branches(rng)[name]
    model = _network(
        _kernels(rng, 3, 64), pads=[1, 1, 1, 1], pooling="MaxPool", tail=[(each, made) for each, made in tail]
    )
    image = _picture(rng, 1, 3, 36, 44)
    wanted, _ = _run(model, image, rewritten=False)
    found, _ = _run(model, image, rewritten=True)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        _close(found[key], value, 3e-6)


@pytest.mark.parametrize("joined", ["Add", "Concat"])
def test_two_gradients_that_come_together(rng, joined):
    """At the output of a ReLU: of their sum, masked, one convolution does all, and nothing is left to OpenVINO."""
    given = {"axis": 1} if joined == "Concat" else {}
    tail = [
        *(_convolution("x0", name, f"y{name}", _weights(rng, name, 64, 64)) for name in ("a", "b")),
        (helper.make_node(joined, ["ya", "yb"], ["y"], **given), []),
    ]
    model = _with_gradient(_network(_kernels(rng, 3, 64), pads=[1, 1, 1, 1], pooling="MaxPool", tail=tail), "y")
    image = _picture(rng, 1, 3, 36, 44)
    wanted, _ = _run(model, image, rewritten=False)
    left = set()
    found, count = _run(model, image, rewritten=True, left=left)
    assert count == 4
    assert "Convolution" not in {kind for kind, _ in left}
    _close(found["gradient/image"], wanted["gradient/image"], 1e-5)


@pytest.mark.parametrize("kind", ["LeakyRelu", "Tanh", "Sigmoid", "Clip"])
def test_other_activations_and_their_gradients(rng, kind):
    if kind == "Clip":
        ends = [numpy_helper.from_array(np.float32(value), name) for name, value in (("low", -0.1), ("high", 0.4))]
        node = (helper.make_node("Clip", ["ya", "low", "high"], ["act"]), ends)
    else:
        node = (helper.make_node(kind, ["ya"], ["act"]), [])
    tail = [
        _convolution("x0", "a", "ya", _weights(rng, "a", 64, 64)),
        node,
        (helper.make_node("AveragePool", ["act"], ["p"], kernel_shape=[2, 2], strides=[2, 2]), []),
        _convolution("p", "b", "y", _weights(rng, "b", 64, 96)),
    ]
    model = _network(_kernels(rng, 3, 64), pads=[1, 1, 1, 1], pooling="MaxPool", tail=tail)
    model = _with_gradient(model, "y")
    image = _picture(rng, 1, 3, 36, 44)
    wanted, _ = _run(model, image, rewritten=False)
    found, count = _run(model, image, rewritten=True)
    assert count == 4
    _close(found["gradient/image"], wanted["gradient/image"], 1e-5)


TAILS = {
    "several pictures": _tail(
        ("Add", ["x0", "more"], "s", {}),
        ("MaxPool", ["s"], "y", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        constants=[("more", np.linspace(-1, 1, 192, dtype=np.float32).reshape(3, 64, 1, 1))],
    ),
    "transposed": _tail(("Transpose", ["x0"], "y", {"perm": [0, 2, 3, 1]})),
    "otherwise transposed": _tail(("Transpose", ["x0"], "y", {"perm": [0, 3, 1, 2]})),
    "cut": _tail(
        ("Slice", ["x0", "from", "to", "axes", "steps"], "y", {}),
        constants=[("from", [3, 1]), ("to", [20, 30]), ("axes", [2, 1]), ("steps", [2, 3])],
    ),
    "padded": _tail(("Pad", ["x0", "ends"], "y", {}), constants=[("ends", [0, 1, 2, 3, 0, 4, 5, 6])]),
    "mirrored": _tail(
        ("Pad", ["x0", "ends"], "y", {"mode": "reflect"}), constants=[("ends", [0, 0, 2, 3, 0, 0, 5, 6])]
    ),
    "reduced": _tail(("ReduceMax", ["x0", "axes"], "y", {"keepdims": 0}), constants=[("axes", [1])]),
    "another pool": _tail(("MaxPool", ["x0"], "y", {"kernel_shape": [3, 3], "strides": [2, 2]})),
    "scaled by channel": _tail(
        ("Mul", ["x0", "by"], "y", {}),
        constants=[("by", np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 64, 1, 1))],
    ),
    "of its own": _tail(("Sub", ["x0", "c0"], "s", {}), ("Abs", ["s"], "y", {})),
    "in another order": _tail(
        ("Transpose", ["x0"], "t", {"perm": [0, 2, 3, 1]}),
        ("Mul", ["t", "t"], "u", {}),
        ("Transpose", ["u"], "v", {"perm": [0, 3, 1, 2]}),
        ("Add", ["v", "x0"], "y", {}),
    ),
    "enlarged": _tail(
        ("Resize", ["x0", "", "scales"], "y", {"mode": "linear"}),
        constants=[("scales", np.array([1, 1, 2, 2], np.float32))],
    ),
    "flipped": _tail(
        ("Slice", ["x0", "from", "to", "axes", "steps"], "y", {}),
        constants=[("from", [-1, -1]), ("to", [-999, -999]), ("axes", [1, 3]), ("steps", [-1, -1])],
    ),
    "moved": _tail(("Pad", ["x0", "ends"], "y", {}), constants=[("ends", [0, 0, 1, -2, 0, 0, -1, 2])]),
    "a dilated pool": _tail(("MaxPool", ["x0"], "y", {"kernel_shape": [2, 2], "strides": [2, 2], "dilations": [2, 2]})),
    "a pool that rounds up": _tail(
        ("Slice", ["x0", "from", "to", "axes"], "s", {}),
        ("MaxPool", ["s"], "y", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        constants=[("from", [0, 0]), ("to", [23, 39]), ("axes", [2, 3])],
    ),
    **{
        f"doubled, {mode}, {rounding}": _tail(
            (
                "Resize",
                ["x0", "", "scales"],
                "y",
                {"mode": "nearest", "coordinate_transformation_mode": mode, "nearest_mode": rounding},
            ),
            constants=[("scales", np.array([1, 1, 2, 2], np.float32))],
        )
        for mode in ("asymmetric", "half_pixel")
        for rounding in ("floor", "ceil", "round_prefer_floor")
    },
    "with indices": _tail(
        ("MaxPool", ["x0"], "p", {"kernel_shape": [2, 2], "strides": [2, 2]}), ("Relu", ["p"], "y", {})
    ),
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_whatever_comes_after_a_convolution(rng, tail):
    (weights,) = _kernels(rng, 32, 64)
    model = _network([weights], pads=[1, 1, 1, 1], pooling="MaxPool", tail=tail, image=(1, 32, "h", "w"))
    image = rng.standard_normal((1, 32, 24, 40)).astype(np.float32)
    wanted, _ = _run(model, image, rewritten=False)
    found, count = _run(model, image, rewritten=True)
    assert count == 1
    name = model.graph.output[0].name
    _close(found[name], wanted[name], 3e-6)


@pytest.mark.parametrize(
    "given",
    [
        {"strides": [2, 2]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"group": 2},
        {"kernel_shape": [1, 1], "pads": [0, 0, 0, 0]},
    ],
)
def test_other_convolutions_stay_as_they_are(rng, given):
    kernel = given.get("kernel_shape", [3, 3])
    weights = rng.standard_normal((64, 64 // given.get("group", 1), *kernel)).astype(np.float32)
    node = helper.make_node("Conv", ["image", "w"], ["y"], **{"kernel_shape": kernel, "pads": [1, 1, 1, 1], **given})
    info = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 64, 32, 32])
    graph = helper.make_graph(
        [node], "g", [info], [onnx.ValueInfoProto(name="y")], [numpy_helper.from_array(weights, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    image = rng.standard_normal((1, 64, 32, 32)).astype(np.float32)
    found, count = _run(model, image, rewritten=True)
    assert count == 0
    np.testing.assert_array_equal(found["y"], _run(model, image, rewritten=False)[0]["y"])


# --- in the engine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pooling", "error"), [("average", 2e-5), ("max", 5e-3)])
@pytest.mark.parametrize("style_loss", ["gram", "wasserstein", "sliced"])
def test_the_objective_is_float32s(rng, style_loss, pooling, error):
    """A maximum that turns over moves all that comes through it to the next pixel."""
    image, photo, painting = (np.clip(rng.random((96, 88, 3)) * 0.3 + tone, 0, 1) for tone in (0.2, 0.4, 0.6))
    options = {"backbone": "vgg16", "weights": "random", "engine": "openvino", "pooling": pooling}
    options |= {"style_loss": style_loss, "content_layers": "block3_conv2", "style_layers": "block1_conv1,block3_conv1"}
    found, wanted = (
        sk.loss_and_gradient(image, photo, painting, sk.Settings(precision=precision, **options))
        for precision in ("winograd", "float32")
    )
    assert found.provenance["precision"] == "winograd"
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert found.terms == pytest.approx(wanted.terms, rel=1e-4)
    assert 0 < np.linalg.norm(found.gradient - wanted.gradient) < error * np.linalg.norm(wanted.gradient)


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_tiles_are_the_whole(rng, pooling):
    photo, painting = rng.random((2, 160, 144, 3))
    options = {"backbone": "vgg16", "weights": "random", "engine": "openvino", "pooling": pooling, "margin": 0}
    options |= {"content_layers": "block2_conv2", "style_layers": "block1_conv1,block2_conv1"}
    options |= {"size": 160, "min_size": None, "steps": 4, "precision": "winograd", "init_noise": 0.0}
    whole, tiled = (list(sk.iterate(photo, painting, sk.Settings(tile=tile, **options))) for tile in ("none", 64))
    assert tiled[0].provenance["tiles"] > 1
    assert tiled[0].loss == pytest.approx(whole[0].loss, rel=1e-5)
    assert tiled[-1].loss == pytest.approx(whole[-1].loss, rel=1e-3)
    assert 255 * np.abs(tiled[-1].image - whole[-1].image).mean() < 0.5


def test_in_tiles_the_gradient_is_that_of_the_whole(rng):
    """Tiles begin at other positions, and round otherwise; no maximum turns over."""
    image, photo, painting = (np.clip(rng.random((120, 104, 3)) * 0.3 + tone, 0, 1) for tone in (0.2, 0.4, 0.6))
    options = {"backbone": "vgg16", "weights": "random", "engine": "openvino", "pooling": "average"}
    options |= {"content_layers": "block2_conv2", "style_layers": "block1_conv1,block2_conv1", "precision": "winograd"}
    whole, tiled = (
        sk.loss_and_gradient(image, photo, painting, sk.Settings(tile=tile, **options)) for tile in ("none", 48)
    )
    assert tiled.loss == pytest.approx(whole.loss, rel=1e-5)
    assert 0 < np.linalg.norm(tiled.gradient - whole.gradient) < 2e-5 * np.linalg.norm(whole.gradient)


def test_a_run_repeats_to_the_last_bit(rng):
    photo, painting = rng.random((2, 64, 64, 3))
    options = {"backbone": "vgg16", "weights": "random", "size": 64, "min_size": None, "steps": 5}
    settings = sk.Settings(engine="openvino", precision="winograd", **options)
    np.testing.assert_array_equal(sk.stylize(photo, painting, settings), sk.stylize(photo, painting, settings))


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ({"avx2"}, "winograd"),
        ({"avx2", "avx512f", "avx512_bf16"}, "winograd"),
        ({"avx2", "avx512f", "amx_bf16"}, "bfloat16"),
        ((), "float32"),
    ],
)
def test_auto_is_winograd_where_it_was_measured_to_be_faster(monkeypatch, flags, chosen):
    monkeypatch.setattr(engines, "processor_flags", lambda: frozenset(flags))
    assert engines.native_precisions()[0] == chosen
    if chosen != "bfloat16":
        assert engine.Engine("auto").precision == chosen
    assert engine.Engine("float32").precision == "float32"


def test_other_engines_do_not_have_it():
    with pytest.raises(sk.EngineError, match="engine onnxruntime computes in float32, not in winograd"):
        sk.loss_and_gradient(
            np.zeros((32, 32, 3)), np.zeros((32, 32, 3)), [], sk.Settings(engine="onnxruntime", precision="winograd")
        )
