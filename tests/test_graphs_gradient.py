"""Gradients of ONNX graphs against finite differences in float64, against TensorFlow, and in ONNX Runtime."""

import dataclasses
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from stylekeras.errors import GraphError
from stylekeras.graphs.gradient import append_gradient
from stylekeras.graphs.rules import RULES

SEED = 20261123


@dataclasses.dataclass
class Case:
    """One operator on inputs of some shapes; `wrt` are those it is differentiated in, the others are constants."""

    kind: str
    inputs: list
    attributes: dict = dataclasses.field(default_factory=dict)
    wrt: tuple = (0,)
    low: float = -1.0
    high: float = 1.0
    outputs: int = 1
    title: str = ""

    def __str__(self):
        return f"{self.kind}-{self.title}" if self.title else self.kind


def ints(*values):
    return np.array(values, np.int64)


def floats(*values):
    return np.array(values, np.float32)


def case(kind, *inputs, title="", wrt=(0,), low=-1.0, high=1.0, outputs=1, **attributes):
    return Case(kind, list(inputs), attributes, wrt, low, high, outputs, title)


# Derivative 0 wherever there is one.
FLAT = ("Ceil", "Floor", "Round", "Sign")

CASES = [
    case("Relu", (2, 3, 5)),
    case("LeakyRelu", (2, 3, 5), alpha=0.2),
    case("Sigmoid", (3, 4)),
    case("Tanh", (3, 4)),
    case("Sqrt", (3, 4), low=0.5, high=2.0),
    case("Exp", (3, 4)),
    case("Log", (3, 4), low=0.5, high=2.0),
    case("Abs", (3, 4)),
    case("Neg", (3, 4)),
    case("Reciprocal", (3, 4), low=0.5, high=2.0),
    case("Identity", (3, 4)),
    case("Dropout", (3, 4)),
    case("Cast", (3, 4), to=TensorProto.DOUBLE),
    case("Clip", (4, 5), np.array(-0.4), np.array(0.3), title="both"),
    case("Clip", (4, 5), "", np.array(0.3), title="above"),
    case("Add", (2, 3), (2, 3), wrt=(0, 1)),
    case("Add", (2, 1, 3), (4, 1), wrt=(0, 1), title="broadcast"),
    case("Add", (3,), (2, 4, 3), wrt=(0, 1), title="lead"),
    case("Add", (), (2, 3), wrt=(0, 1), title="scalar"),
    case("Sub", (2, 3), (1, 3), wrt=(0, 1)),
    case("Sub", (2, 1), (4, 2, 3), wrt=(0, 1), title="broadcast"),
    case("Mul", (2, 3), (2, 1), wrt=(0, 1)),
    case("Mul", (2, 3, 1), (1, 3, 4), wrt=(0, 1), title="broadcast"),
    case("Div", (2, 3), (3,), wrt=(0, 1), low=0.5, high=2.0),
    case("Div", (1, 3), (2, 3), wrt=(0, 1), low=0.5, high=2.0, title="broadcast"),
    case("Pow", (3, 4), np.array(2.0), title="square"),
    case("Pow", (3, 4), np.array(3, np.int64), title="whole"),
    case("Pow", (3, 4), np.array([0.0, 0.5, 1.0, -1.5]), low=0.5, high=2.0, title="mixed"),
    case("Pow", (3, 4), (3, 1), wrt=(0, 1), low=0.5, high=2.0, title="exponent"),
    case("Sum", (2, 3), (3,), (1, 1), wrt=(0, 1, 2)),
    case("Max", (2, 3), (3,), (2, 1), wrt=(0, 1, 2)),
    case("Min", (2, 3), (3,), (2, 1), wrt=(0, 1, 2)),
    case("Where", np.array([[True], [False]]), (2, 3), (3,), wrt=(1, 2)),
    case("MatMul", (3, 4), (4, 2), wrt=(0, 1)),
    case("MatMul", (2, 3, 4), (4, 5), wrt=(0, 1), title="batch"),
    case("MatMul", (2, 1, 3, 4), (5, 4, 2), wrt=(0, 1), title="batches"),
    case("MatMul", (4,), (4, 2), wrt=(0, 1), title="row"),
    case("MatMul", (3, 4), (4,), wrt=(0, 1), title="column"),
    case("MatMul", (2, 3, 4), (4,), wrt=(0, 1), title="batch-column"),
    case("MatMul", (4,), (2, 4, 3), wrt=(0, 1), title="row-batch"),
    case("MatMul", (4,), (4,), wrt=(0, 1), title="dot"),
    case("Gemm", (3, 4), (4, 2), (2,), wrt=(0, 1, 2), alpha=0.7, beta=1.3),
    case("Gemm", (4, 3), (4, 2), (3, 1), wrt=(0, 1, 2), transA=1, title="ta"),
    case("Gemm", (3, 4), (2, 4), (1,), wrt=(0, 1, 2), transB=1, title="tb"),
    case("Gemm", (4, 3), (2, 4), wrt=(0, 1), transA=1, transB=1, alpha=0.5, title="tatb"),
    case("Reshape", (2, 3, 4), ints(4, -1)),
    case("Flatten", (2, 3, 4), axis=2),
    case("Squeeze", (2, 1, 3), ints(1)),
    case("Unsqueeze", (2, 3), ints(0, 3)),
    case("Transpose", (2, 3, 4), perm=[1, 2, 0]),
    case("Transpose", (2, 3, 4), title="default"),
    case("Expand", (3, 1), ints(2, 3, 4)),
    case("Concat", (2, 3), (2, 1), (2, 4), wrt=(0, 1, 2), axis=-1),
    case("Concat", (2, 3), (1, 3), wrt=(1,), axis=0, title="one"),
    case("Split", (2, 7), ints(3, 4), outputs=2, axis=1),
    case("Pad", (2, 3, 4), ints(0, 1, 2, 1, 0, 3)),
    case("Pad", (2, 3, 4), ints(1, 2), np.array(0.5), ints(1), title="axes"),
    case("Pad", (2, 5, 6), ints(0, 2, 1, 0, 1, 3), mode="reflect", title="reflect"),
    case("Pad", (2, 5, 6), ints(0, 2, 1, 0, 1, 0), mode="edge", title="edge"),
    case("Slice", (4, 5), ints(1, 0), ints(3, 4)),
    case("Slice", (4, 5), ints(-3), ints(2**62), ints(1), title="tail"),
    case("Slice", (4, 5), ints(-100), ints(-1), ints(0), title="clamped"),
    case("Slice", (4, 7), ints(1), ints(7), ints(1), ints(2), title="step"),
    case("Slice", (4, 7), ints(-1, 3), ints(-(2**62), 0), ints(1, 0), ints(-2, -1), title="backwards"),
    case("Resize", (1, 2, 3, 4), "", floats(1, 1, 2, 2), mode="nearest", title="nearest"),
    case(
        "Resize",
        (1, 2, 3, 5),
        "",
        "",
        ints(1, 2, 7, 4),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        title="nearest-sizes",
    ),
    case("Resize", (1, 2, 3, 4), "", floats(1, 1, 2, 1.5), mode="linear", title="linear"),
    case(
        "Resize",
        (1, 1, 5, 6),
        "",
        "",
        ints(1, 1, 3, 11),
        mode="linear",
        coordinate_transformation_mode="align_corners",
        title="linear-sizes",
    ),
    case("ReduceSum", (2, 3, 4), ints(1), keepdims=0),
    case("ReduceSum", (2, 3, 4), title="all"),
    case("ReduceSum", (2, 3, 4), ints(-1, 0), keepdims=1, title="kept"),
    case("ReduceSum", (2, 3), ints(), noop_with_empty_axes=1, title="none"),
    case("ReduceMean", (2, 3, 4), ints(1, 2), keepdims=0),
    case("ReduceMean", (2, 3, 4), keepdims=0, title="all"),
    case("GlobalAveragePool", (2, 3, 4, 5)),
    case("BatchNormalization", (2, 3, 4, 5), np.array([1.0, -2, 0.5]), np.zeros(3), np.ones(3), np.array([0.5, 1, 2])),
    *(case(kind, (3, 4)) for kind in FLAT),
]

CONVOLUTIONS = [
    {"pads": [1, 1, 1, 1]},
    {},
    {"pads": [0, 1, 2, 1]},
    {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"strides": [3, 2]},
    {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
    {"dilations": [2, 2], "strides": [2, 1], "pads": [1, 2, 0, 1]},
    {"auto_pad": "SAME_UPPER"},
    {"auto_pad": "SAME_LOWER"},
    {"auto_pad": "VALID"},
]
for number, options in enumerate(CONVOLUTIONS):
    CASES.append(case("Conv", (2, 2, 6, 5), (3, 2, 3, 3), (3,), wrt=(0, 1, 2), title=str(number), **options))
CASES += [
    case("Conv", (1, 2, 6, 7), (3, 2, 3, 2), wrt=(0,), auto_pad="SAME_UPPER", strides=[2, 3], title="same-strided"),
    case("Conv", (1, 2, 6, 7), (3, 2, 3, 2), wrt=(0,), auto_pad="SAME_LOWER", strides=[2, 2], title="same-lower"),
    case("Conv", (1, 2, 5, 6), (3, 2, 1, 1), wrt=(0, 1), title="pointwise"),
    case("Conv", (1, 2, 5, 6), (3, 2, 1, 1), wrt=(0,), pads=[1, 0, 0, 1], title="pointwise-padded"),
    case("Conv", (1, 4, 5, 6), (6, 2, 3, 3), wrt=(0, 1), group=2, pads=[1, 1, 1, 1], title="groups"),
    case("Conv", (1, 4, 5, 6), (4, 1, 3, 3), wrt=(0, 1), group=4, strides=[2, 2], title="depthwise"),
    case("Conv", (2, 3, 9), (4, 3, 3), wrt=(0, 1), pads=[1, 1], title="1d"),
    case("Conv", (1, 2, 4, 5, 6), (2, 2, 2, 3, 1), wrt=(0, 1), title="3d"),
]
POOLS = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [3, 3]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 2], "strides": [1, 1]},
    {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
]
for kind in ("MaxPool", "AveragePool"):
    for number, options in enumerate(POOLS):
        CASES.append(case(kind, (1, 2, 7, 9), title=str(number), **options))
CASES += [
    case("AveragePool", (1, 2, 7, 9), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 1], count_include_pad=1),
    case("MaxPool", (1, 2, 9), kernel_shape=[3], strides=[2], title="1d"),
]


def build(item, dtype=np.float64, *, dynamic=False):
    """The operator, then the sum of its outputs times weights that differ: a scalar that sees every element."""
    random = np.random.default_rng(SEED)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs, constants, names, values = [], [], [], {}
    for number, given in enumerate(item.inputs):
        name = f"in{number}"
        if isinstance(given, str):
            names.append("")
            continue
        names.append(name)
        if isinstance(given, tuple):
            # Far apart, so that finite differences step over no kink and no tie.
            count = int(np.prod(given, dtype=int))
            spread = (random.permutation(count) + 0.37 + 0.1 * number) / (count + 1)
            value = (item.low + (item.high - item.low) * spread).reshape(given).astype(dtype)
        else:
            value = given.astype(dtype) if given.dtype == np.float64 else given
        if number in item.wrt:
            # A kernel's shape has to be known: it says how many axes and what reach the convolution has.
            is_open = dynamic and not (item.kind == "Conv" and number > 0)
            shape = [f"d{number}_{axis}" for axis in range(value.ndim)] if is_open else value.shape
            inputs.append(helper.make_tensor_value_info(name, kind, shape))
            values[name] = value
        else:
            constants.append(numpy_helper.from_array(np.asarray(value), name))
    options = dict(item.attributes)
    if item.kind == "Cast":
        options["to"] = kind
    outputs = [f"out{number}" for number in range(item.outputs)]
    node = helper.make_node(item.kind, names, outputs, name="node", **options)
    first = helper.make_model(
        helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    results = ReferenceEvaluator(first).run(None, values)
    nodes, terms = [node], []
    for name, result in zip(outputs, results, strict=True):
        weights = random.normal(size=np.shape(result)).astype(dtype)
        constants.append(numpy_helper.from_array(weights, f"weights_{name}"))
        nodes.append(helper.make_node("Mul", [name, f"weights_{name}"], [f"weighed_{name}"]))
        nodes.append(helper.make_node("ReduceSum", [f"weighed_{name}"], [f"sum_{name}"], keepdims=0))
        terms.append(f"sum_{name}")
    nodes.append(helper.make_node("Sum", terms, ["loss"]))
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("loss", kind, [])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model, values


def run(model, outputs, values):
    """In float64: by ONNX' own NumPy, or, where MaxPool has indices, some of which that has wrong, ONNX Runtime."""
    if any(node.op_type == "MaxPool" and len(node.output) == 2 for node in model.graph.node):
        return onnxruntime.InferenceSession(model.SerializeToString()).run(outputs, values)
    return ReferenceEvaluator(model).run(outputs, values)


def differences(model, values, step=1e-6):
    """Central differences of the loss in every element of every input."""
    evaluator = ReferenceEvaluator(model)

    def loss(changed):
        return float(evaluator.run(["loss"], changed)[0])

    found = {}
    for name, value in values.items():
        result = np.zeros(value.shape)
        for index in np.ndindex(value.shape):
            moved = {key: item.copy() for key, item in values.items()}
            moved[name][index] = value[index] + step
            above = loss(moved)
            moved[name][index] = value[index] - step
            result[index] = (above - loss(moved)) / (2 * step)
        found[name] = result
    return found


@pytest.mark.parametrize("dynamic", [False, True], ids=["known", "open"])
@pytest.mark.parametrize("item", CASES, ids=str)
def test_rule_against_finite_differences(item, dynamic):
    model, values = build(item, dynamic=dynamic)
    if item.kind in FLAT:
        with pytest.raises(GraphError, match="does not depend"):
            append_gradient(model, "loss", list(values))
        return
    made = append_gradient(model, "loss", list(values))
    checker.check_model(made, full_check=True)
    shape_inference.infer_shapes(made, check_type=True, strict_mode=True)
    outputs = [f"gradient/{name}" for name in values]
    results = run(made, ["loss", *outputs], values)
    expected = differences(model, values)
    for (name, value), result in zip(values.items(), results[1:], strict=True):
        assert result.shape == value.shape
        assert result.dtype == value.dtype
        np.testing.assert_allclose(result, expected[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_every_rule_has_a_case():
    assert {item.kind for item in CASES} == set(RULES)


@pytest.mark.parametrize("item", [item for item in CASES if item.kind not in FLAT], ids=str)
def test_rule_runs_in_onnx_runtime(item):
    """In float32, with open sizes, and as in float64."""
    exact, exact_values = build(item)
    model, values = build(item, np.float32, dynamic=True)
    made = append_gradient(model, "loss", list(values))
    outputs = [f"gradient/{name}" for name in values]
    session = onnxruntime.InferenceSession(made.SerializeToString())
    expected = run(append_gradient(exact, "loss", list(exact_values)), outputs, exact_values)
    for name, result, wanted in zip(values, session.run(outputs, values), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=2e-5, atol=2e-5, err_msg=name)


def model_of(nodes, inputs, outputs, constants=(), opset=18, **options):
    """A float32 model; `inputs` and `outputs` are {name: shape}."""
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in group.items()]
        for group in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    graph = helper.make_graph(nodes, "g", *infos, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options)


def gradient_of(made, name, value):
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return session.run([f"gradient/{name}"], {name: value})[0]


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("padding", ["VALID", "SAME_UPPER"])
def test_max_pooling_with_ties_is_tensorflow_s(kernel, strides, padding):
    import tensorflow as tf

    random = np.random.default_rng(SEED)
    x = random.integers(0, 3, (2, 7, 8, 3)).astype(np.float32)
    options = {"kernel_shape": [kernel] * 2, "strides": [strides] * 2, "auto_pad": padding}
    nodes = [
        helper.make_node("MaxPool", ["x"], ["y"], **options),
        helper.make_node("Mul", ["y", "y"], ["square"]),
        helper.make_node("ReduceSum", ["square"], ["loss"], keepdims=0),
    ]
    model = model_of(nodes, {"x": ["n", 3, "h", "w"]}, {"loss": []})
    with tf.GradientTape() as tape:
        variable = tf.convert_to_tensor(x)
        tape.watch(variable)
        loss = tf.reduce_sum(tf.nn.max_pool2d(variable, kernel, strides, padding.split("_")[0]) ** 2)
    found = gradient_of(append_gradient(model, "loss", ["x"]), "x", x.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), tape.gradient(loss, variable), atol=1e-5)


def _spread(kernel):
    spread = np.zeros((5, 5, *kernel.shape[2:]), kernel.dtype)
    spread[::2, ::2] = kernel
    return spread


WINDOWS = {
    "conv": ("Conv", {"pads": [1, 1, 1, 1]}, lambda tf, x, w: tf.nn.conv2d(x, w, 1, "SAME")),
    "strided": ("Conv", {"strides": [2, 3]}, lambda tf, x, w: tf.nn.conv2d(x, w, (2, 3), "VALID")),
    # With zeros between the weights: not every build of TensorFlow has the dilated one's gradient on a processor.
    "dilated": ("Conv", {"dilations": [2, 2]}, lambda tf, x, w: tf.nn.conv2d(x, _spread(w), 1, "VALID")),
    "same": (
        "Conv",
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        lambda tf, x, w: tf.nn.conv2d(x, w, 2, "SAME"),
    ),
    "average": (
        "AveragePool",
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        lambda tf, x, w: tf.nn.avg_pool2d(x, 3, 2, "SAME"),
    ),
    "average-tiles": (
        "AveragePool",
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        lambda tf, x, w: tf.nn.avg_pool2d(x, 2, 2, "VALID"),
    ),
    "linear": ("Resize", {"mode": "linear"}, lambda tf, x, w: tf.image.resize(x, (14, 24), "bilinear")),
    "nearest": ("Resize", {"mode": "nearest"}, lambda tf, x, w: tf.image.resize(x, (14, 24), "nearest")),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_tensorflow_s(name):
    import tensorflow as tf

    kind, options, function = WINDOWS[name]
    random = np.random.default_rng(SEED)
    x = random.normal(size=(2, 7, 8, 3)).astype(np.float32)
    weights = random.normal(size=(3, 3, 3, 4)).astype(np.float32)
    inputs = {"Conv": ["x", "w"], "AveragePool": ["x"], "Resize": ["x", "", "scales"]}[kind]
    constants = {"w": weights.transpose(3, 2, 0, 1), "scales": floats(1, 1, 2, 3)}
    nodes = [
        helper.make_node(kind, inputs, ["y"], **options),
        helper.make_node("Mul", ["y", "y"], ["square"]),
        helper.make_node("ReduceSum", ["square"], ["loss"], keepdims=0),
    ]
    used = {key: value for key, value in constants.items() if key in inputs}
    model = model_of(nodes, {"x": ["n", 3, "h", "w"]}, {"loss": []}, used)
    with tf.GradientTape() as tape:
        variable = tf.convert_to_tensor(x)
        tape.watch(variable)
        loss = tf.reduce_sum(function(tf, variable, weights) ** 2)
    found = gradient_of(append_gradient(model, "loss", ["x"]), "x", x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    expected = tape.gradient(loss, variable).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def network(random, opset=18):
    """Two convolutions with a skip, pooling between, and the loss of a Gram matrix: what a style loss is made of."""
    constants = {
        "w1": random.normal(size=(4, 3, 3, 3)).astype(np.float32) / 3,
        "w2": random.normal(size=(4, 4, 3, 3)).astype(np.float32) / 4,
        "flat": ints(4, -1),
        "target": random.normal(size=(4, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "w2"], ["d"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["d", "c"], ["e"]),
        helper.make_node("Relu", ["e"], ["features"]),
        helper.make_node("Reshape", ["features", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["rows", "columns"], ["gram"]),
        helper.make_node("Sub", ["gram", "target"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["loss"], keepdims=0),
    ]
    return model_of(nodes, {"image": [1, 3, "h", "w"]}, {"loss": []}, constants, opset), constants


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_a_network_of_any_opset_and_size_is_tensorflow_s(opset):
    import tensorflow as tf

    model, constants = network(np.random.default_rng(SEED), opset)
    before = model.SerializeToString()
    made = append_gradient(model, "loss", ["image"])
    assert model.SerializeToString() == before
    checker.check_model(made, full_check=True)
    for height, width in ((9, 12), (8, 8), (13, 7)):
        image = np.random.default_rng(height).normal(size=(1, height, width, 3)).astype(np.float32)
        with tf.GradientTape() as tape:
            x = tf.convert_to_tensor(image)
            tape.watch(x)
            kernels = [constants[name].transpose(2, 3, 1, 0) for name in ("w1", "w2")]
            c = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, kernels[0], 1, "SAME")), 2, 2, "VALID")
            features = tf.reshape(tf.nn.relu(tf.nn.conv2d(c, kernels[1], 1, "SAME") + c), (-1, 4))
            gram = tf.matmul(features, features, transpose_a=True)
            loss = tf.reduce_mean((gram - constants["target"]) ** 2)
        found = gradient_of(made, "image", image.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
        expected = tape.gradient(loss, x).numpy()
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_gradient_of_a_stride_one_convolution_is_a_convolution():
    model, _ = network(np.random.default_rng(SEED))
    made = append_gradient(model, "loss", ["image"])
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("Conv") == 4
    assert "ConvTranspose" not in kinds


def test_a_gradient_of_several_inputs_and_of_one_used_twice():
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"]),
        helper.make_node("Mul", ["a", "y"], ["b"]),
        helper.make_node("ReduceSum", ["b"], ["loss"], keepdims=1),
    ]
    model = model_of(nodes, {"x": [2], "y": [2]}, {"loss": [1]})
    made = append_gradient(model, "loss", ["x", "y"])
    session = onnxruntime.InferenceSession(made.SerializeToString())
    x, y = np.array([2, 3], np.float32), np.array([5, 7], np.float32)
    by_x, by_y = session.run(["gradient/x", "gradient/y"], {"x": x, "y": y})
    assert by_x.tolist() == [20, 42]
    assert by_y.tolist() == [4, 9]


def test_nodes_in_any_order_and_local_functions():
    square = helper.make_function(
        "own", "Square", ["v"], ["s"], [helper.make_node("Mul", ["v", "v"], ["s"])], [helper.make_opsetid("", 18)]
    )
    nodes = [
        helper.make_node("ReduceSum", ["a"], ["loss"], keepdims=0),
        helper.make_node("Square", ["x"], ["a"], domain="own"),
    ]
    model = model_of(nodes, {"x": [2]}, {"loss": []})
    model.functions.append(square)
    model.opset_import.append(helper.make_opsetid("own", 1))
    made = append_gradient(model, "loss", ["x"])
    assert gradient_of(made, "x", np.array([2, 3], np.float32)).tolist() == [4, 6]


# Forms that exporters write


def both(model, values, name="x"):
    """The gradient, and the same by finite differences of what ONNX Runtime makes of the model itself."""
    made = append_gradient(model, "loss", [name])
    session, plain = (onnxruntime.InferenceSession(item.SerializeToString()) for item in (made, model))
    loss, found = session.run(["loss", f"gradient/{name}"], values)
    assert loss == pytest.approx(plain.run(["loss"], values)[0], rel=1e-5)
    expected = np.zeros(values[name].shape)
    for index in np.ndindex(expected.shape):
        ends = []
        for step in (0.01, -0.01):
            moved = values[name].copy()
            moved[index] += step
            ends.append(float(np.squeeze(plain.run(["loss"], {**values, name: moved})[0])))
        expected[index] = (ends[0] - ends[1]) / 0.02
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)
    return made


@pytest.mark.parametrize("opset", [7, 9, 10])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_old_resizing_is_kept_as_it_was(opset, mode):
    scales = floats(1, 1, 2, 1.5)
    kind, constants = ("Resize" if opset == 10 else "Upsample"), {}
    node = helper.make_node(kind, ["x", "scales"], ["y"], mode=mode)
    if opset == 7:
        node = helper.make_node(kind, ["x"], ["y"], mode=mode, scales=scales.tolist())
    else:
        constants["scales"] = scales
    nodes = [
        node,
        helper.make_node("Mul", ["y", "y"], ["z"]),
        helper.make_node("ReduceSum", ["z"], ["loss"], keepdims=0),
    ]
    model = model_of(nodes, {"x": [1, 1, 3, 4]}, {"loss": []}, constants, opset)
    both(model, {"x": np.random.default_rng(SEED).normal(size=(1, 1, 3, 4)).astype(np.float32)})


def test_constants_that_are_inputs_in_old_models_and_defaults_in_new_ones():
    nodes = [helper.make_node("Mul", ["x", "s"], ["y"]), helper.make_node("ReduceSum", ["y"], ["loss"], keepdims=0)]
    x = {"x": np.array([1, 2, 3], np.float32)}
    old = model_of(nodes, {"x": [3], "s": [1]}, {"loss": []}, {"s": floats(4)}, opset=8)
    old.ir_version = 3
    made = both(old, x)
    assert [item.name for item in made.graph.input] == ["x"]
    new = model_of(nodes, {"x": [3], "s": ["n"]}, {"loss": []}, {"s": floats(4)})
    made = append_gradient(new, "loss", ["x", "s"])
    session = onnxruntime.InferenceSession(made.SerializeToString())
    assert session.run(["gradient/s"], x)[0].tolist() == [6]
    assert session.run(["gradient/s"], {**x, "s": floats(1, 2, 3)})[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("node", "shape", "constants"),
    [
        (
            helper.make_node("Resize", ["x", "roi", "scales", "sizes"], ["y"], mode="linear"),
            [1, 1, 3, 4],
            {"roi": floats(), "scales": floats(), "sizes": ints(1, 1, 5, 6)},
        ),
        (
            helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"]),
            [3, 7],
            {
                name: np.array([value], np.int32)
                for name, value in {"starts": -1, "ends": -100, "axes": 1, "steps": -2}.items()
            },
        ),
        (helper.make_node("Transpose", ["x"], ["y"]), [], {}),
        (helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0), [2, -1], {}),
    ],
    ids=["empty-scales", "int32-slice", "scalar-transpose", "negative-size"],
)
def test_unusual_forms(node, shape, constants):
    nodes = [
        node,
        helper.make_node("Mul", ["y", "y"], ["z"]),
        helper.make_node("ReduceSum", ["z"], ["loss"], keepdims=0),
    ]
    value = np.random.default_rng(SEED).normal(size=[abs(size) * 3 if size < 0 else size for size in shape])
    made = append_gradient(model_of(nodes, {"x": shape}, {"loss": []}, constants), "loss", ["x"])
    assert gradient_of(made, "x", value.astype(np.float32)).shape == value.shape
    if -1 not in shape:
        both(model_of(nodes, {"x": shape}, {"loss": []}, constants), {"x": value.astype(np.float32)})


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_narrow_types_on_the_way(kind):
    """A network cast to a narrow type inside, overlapping pooling included, has nearly the gradient of the wide one."""
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=kind),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Mul", ["b", "b"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["d"], keepdims=0),
        helper.make_node("Cast", ["d"], ["loss"], to=TensorProto.FLOAT),
    ]
    if kind == TensorProto.BFLOAT16:  # which MaxPool does not take
        nodes[1] = helper.make_node("Relu", ["a"], ["b"])
    value = np.random.default_rng(SEED).normal(size=(1, 2, 7, 9)).astype(np.float32)
    made = append_gradient(model_of(nodes, {"x": [1, 2, "h", "w"]}, {"loss": []}, opset=21), "loss", ["x"])
    found = ReferenceEvaluator(made).run(["gradient/x"], {"x": value})[0]
    plain = [nodes[1], *nodes[2:4]]
    plain[0] = helper.make_node(
        plain[0].op_type, ["x"], ["b"], **{a.name: helper.get_attribute_value(a) for a in plain[0].attribute}
    )
    plain[2] = helper.make_node("ReduceMean", ["c"], ["loss"], keepdims=0)
    wide = append_gradient(model_of(plain, {"x": [1, 2, "h", "w"]}, {"loss": []}), "loss", ["x"])
    np.testing.assert_allclose(found, gradient_of(wide, "x", value), atol=0.02 * np.abs(found).max())
    assert np.abs(found).max() > 0


def test_names_of_the_user_are_left_alone():
    model, _ = network(np.random.default_rng(SEED))
    model.graph.node[0].name = "gradient/image"
    made = append_gradient(model, "loss", ["image"])
    onnxruntime.InferenceSession(made.SerializeToString())
    with pytest.raises(GraphError, match="has a tensor 'gradient/image' already"):
        append_gradient(made, "loss", ["image"])
    assert len(append_gradient(model, "loss", ["image", "image"]).graph.output) == 2


# What cannot be differentiated


def test_without_onnx_it_says_what_to_install():
    code = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "onnx" else find(name, *rest)
import stylekeras.graphs
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "pip install 'stylekeras[onnx]'" in ended.stderr.splitlines()[-1]


def sums(*nodes, inputs=None, **options):
    return model_of(
        [*nodes, helper.make_node("ReduceSum", ["y"], ["loss"], keepdims=0)],
        inputs or {"x": [3, 4]},
        {"loss": []},
        **options,
    )


def captured():
    """A choice between two bodies that read the input without its being an input of the node."""
    bodies = {
        name: helper.make_graph(
            [helper.make_node(kind, ["x"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4])],
        )
        for name, kind in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    return (
        helper.make_node("Constant", [], ["condition"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["condition"], ["i"], name="choice", **bodies),
        helper.make_node("Add", ["i", "x"], ["y"]),
    )


def external():
    model = sums(helper.make_node("Mul", ["x", "w"], ["y"]), constants={"w": floats(2)})
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="elsewhere.bin")
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sums(helper.make_node("Det", ["x"], ["y"], name="here"), inputs={"x": [2, 3, 3]}),
            r"Det \(here\): there is no rule",
        ),
        (lambda: sums(helper.make_node("Softsign", ["x"], ["y"])), r"Softsign \(y\): there is no rule"),
        (lambda: sums(*captured()), r"If \(choice\): there is no rule"),
        (
            lambda: sums(
                helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT8E4M3FN),
                helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
                helper.make_node("Add", ["x", "b"], ["y"]),
                opset=21,
            ),
            "type that is not differentiated",
        ),
        (
            lambda: sums(
                helper.make_node("SplitToSequence", ["x"], ["s"]),
                helper.make_node("SequenceAt", ["s", "zero"], ["y"]),
                constants={"zero": np.array(0)},
            ),
            r"SequenceAt \(y\): there is no rule",
        ),
        (external, "'w' lies in another file"),
        (lambda: sums(helper.make_node("Relu", ["x"], ["y"]), opset=99), "operator set 99"),
        (lambda: sums(helper.make_node("Relu", ["z"], ["y"]), helper.make_node("Tanh", ["y"], ["z"])), "cyclic"),
        (lambda: sums(helper.make_node("Relu", ["x", "x"], ["y"])), "not a valid ONNX graph"),
        (lambda: sums(helper.make_node("Nonsense", ["x"], ["y"])), "not a valid ONNX graph"),
        (lambda: sums(helper.make_node("Sign", ["x"], ["y"])), "does not depend on the input 'x'"),
        (
            lambda: sums(
                helper.make_node("Dropout", ["x", "", "training"], ["y"], name="drop"),
                constants={"training": np.array(True)},
            ),
            r"Dropout \(drop\): it is in training mode",
        ),
        (
            lambda: sums(
                helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], storage_order=1),
                inputs={"x": [1, 1, 4, 4]},
            ),
            "storage_order=1",
        ),
    ],
    ids=[
        "no-rule",
        "no-name",
        "if",
        "float8",
        "sequence",
        "external",
        "opset",
        "cycle",
        "arity",
        "operator",
        "independent",
        "training",
        "storage",
    ],
)
def test_refused(make, message):
    with pytest.raises(GraphError, match=message) as caught:
        append_gradient(make(), "loss", ["x"])
    assert "\n" not in str(caught.value)


def test_names_that_are_not_there_and_outputs_that_are_no_scalar():
    model, _ = network(np.random.default_rng(SEED))
    for output, inputs, message in (
        ("lost", ["image"], "no tensor 'lost'; did you mean 'loss'"),
        ("loss", ["imago"], "no input 'imago'; did you mean 'image'"),
        ("gram", ["image"], r"'gram' has shape \[4, 4\]: only a scalar"),
    ):
        with pytest.raises(GraphError, match=message):
            append_gradient(model, output, inputs)
    whole = model_of([helper.make_node("Size", ["x"], ["loss"])], {"x": [2]}, {})
    whole.graph.output.append(helper.make_tensor_value_info("loss", TensorProto.INT64, []))
    with pytest.raises(GraphError, match="'loss' is not of a floating type"):
        append_gradient(whole, "loss", ["x"])
