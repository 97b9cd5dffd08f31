"""A graph cut in two computes what the whole does, and nothing twice."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper

from stylekeras.graphs.gradient import append_gradient
from stylekeras.graphs.split import split


def _graph(rng):
    """x -> convolution -> y, its sum `sums` and `product`, the sum of y times the input `cotangent`."""
    kernel = numpy_helper.from_array(rng.normal(size=(2, 3, 3, 3)).astype("f4"), "kernel")
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
        helper.make_node("ReduceSum", ["y"], ["sums"], keepdims=0),
        helper.make_node("Mul", ["y", "y"], ["squares"]),
        helper.make_node("Mul", ["squares", "cotangent"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted"], ["product"], keepdims=0),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, "h", "w"])
        for name, count in (("x", 3), ("cotangent", 2))
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("sums", "product")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [kernel])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return append_gradient(model, "product", ["x"])


def _run(model, given):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    taken = {item.name: given[item.name] for item in session.get_inputs()}
    return dict(zip(names, session.run(names, taken), strict=True))


def test_halves_are_the_whole(rng):
    whole = _graph(rng)
    first, second = split(whole, ["sums"], ["gradient/x"])
    given = {name: rng.normal(size=(1, count, 5, 7)).astype("f4") for name, count in (("x", 3), ("cotangent", 2))}
    expected = _run(whole, given)
    for half in (first, second):
        checker.check_model(half, full_check=True)
    found = _run(first, given)
    assert found["sums"] == expected["sums"]
    back = _run(second, {**given, **found})
    np.testing.assert_array_equal(back["gradient/x"], expected["gradient/x"])
    # The first half knows nothing of the cotangent, the second of the picture.
    assert [item.name for item in first.graph.input] == ["x"]
    assert "x" not in [item.name for item in second.graph.input]
    assert [node.op_type for node in first.graph.node if node.op_type != "Identity"][:2] == ["Conv", "Relu"]
    kept = [item.name for item in first.graph.output][1:]
    assert kept == [item.name for item in second.graph.input if item.name.startswith("kept/")]
    assert "kept/y" in kept


def test_shapes_are_handed_over_not_what_they_are_of(rng):
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("ReduceSum", ["y"], ["sums"], keepdims=0),
        helper.make_node("Shape", ["y"], ["shape"]),
        helper.make_node("Expand", ["one", "shape"], ["late"]),
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["h", "w"])
    outputs = [
        helper.make_tensor_value_info("sums", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("late", TensorProto.FLOAT, ["h", "w"]),
    ]
    one = numpy_helper.from_array(np.ones((), "f4"), "one")
    model = helper.make_model(helper.make_graph(nodes, "g", [entry], outputs, [one]), ir_version=8)
    first, second = split(onnx.shape_inference.infer_shapes(model), ["sums"], ["late"])
    assert [item.name for item in first.graph.output] == ["sums", "kept/shape"]
    assert [item.name for item in second.graph.input] == ["kept/shape"]
