"""Traced functions against NumPy, and the objective traced against the objective computed."""

import numpy as np
import pytest
from onnx import checker
from onnx.reference import ReferenceEvaluator
from reference import numpy_ops

from stylekeras import objective, style_losses
from stylekeras.errors import GraphError
from stylekeras.graphs.builder import Builder
from stylekeras.graphs.gradient import append_gradient
from stylekeras.graphs.trace import Ops


def model_of(ops, inputs, outputs):
    """A model of what was traced."""
    model = ops.model("traced", inputs, outputs)
    checker.check_model(model, full_check=True)
    return model


def run(function, *arrays, open_sizes=False):
    """The result of a function of `ops` and tensors, by way of a graph."""
    ops = Ops(Builder())
    inputs = {}
    for i, array in enumerate(arrays):
        shape = [f"d{i}{axis}" for axis in range(array.ndim)] if open_sizes else array.shape
        inputs[f"x{i}"] = ops.input(f"x{i}", shape, array.dtype)
    result = function(ops, *inputs.values())
    model = model_of(ops, inputs, {"y": result})
    (value,) = ReferenceEvaluator(model).run(None, dict(zip(inputs, arrays, strict=True)))
    return value, result


X = np.random.default_rng(3).normal(size=(3, 4))
Y = np.random.default_rng(4).normal(size=(4,))
SQUARE = np.random.default_rng(5).normal(size=(4, 4))

FUNCTIONS = {
    "add": lambda ops, x, y: x + y + 1.5,
    "subtract": lambda ops, x, y: 2 - (x - y) - 1,
    "multiply": lambda ops, x, y: 3 * (x * y) * np.float64(0.5),
    "divide": lambda ops, x, y: 1 / (x / y / 2),
    "negative": lambda ops, x, y: -x,
    "square": lambda ops, x, y: ops.square(x),
    "relu": lambda ops, x, y: ops.relu(x),
    "abs-sqrt": lambda ops, x, y: ops.sqrt(ops.abs(x)),
    "maximum": lambda ops, x, y: ops.maximum(ops.maximum(x, 0.1), y),
    "where": lambda ops, x, y: ops.where(ops.isfinite(x / 0.0), x, y),
    "isfinite": lambda ops, x, y: ops.cast(ops.isfinite(x), "float64"),
    "max": lambda ops, x, y: ops.max(x) + ops.max(x, axis=1),
    "sum": lambda ops, x, y: ops.sum(x),
    "sum-axis": lambda ops, x, y: ops.sum(x, axis=(0,)),
    "mean": lambda ops, x, y: ops.mean(x) + ops.mean(x, axis=-1),
    "transpose": lambda ops, x, y: ops.transpose(x),
    "matmul": lambda ops, x, y: ops.matmul(x, ops.transpose(x)),
    "reshape": lambda ops, x, y: ops.reshape(x, (-1, 2)),
    "ones-like": lambda ops, x, y: ops.ones_like(x) + ops.zeros_like(y),
    "sizes": lambda ops, x, y: ops.cast(ops.shape(x)[0] * ops.shape(x)[1], "float64") * x,
    "slices": lambda ops, x, y: x[:, 1:] - x[:, :-1],
    "elements": lambda ops, x, y: x[1] + x[-1, 2],
    "new-axes": lambda ops, x, y: y[:, None] * y[None, :],
    "stop": lambda ops, x, y: ops.stop_gradient(x),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("open_sizes", [False, True], ids=["known", "open"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_numpy_s(name, open_sizes):
    function = FUNCTIONS[name]
    found, traced = run(function, X, Y, open_sizes=open_sizes)
    expected = function(numpy_ops, X, Y)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert found.dtype == expected.dtype == traced.dtype
    assert len(traced.shape) == expected.ndim
    assert all(dim == size for dim, size in zip(traced.shape, expected.shape, strict=True) if isinstance(dim, int))


def test_functions_of_square_matrices():
    found, _ = run(lambda ops, x: ops.trace(x) * ops.eye(4, dtype=x.dtype) + ops.ones((), x.dtype), SQUARE)
    np.testing.assert_allclose(found, np.trace(SQUARE) * np.eye(4) + 1, rtol=1e-14)


def test_what_cannot_be_traced():
    ops = Ops(Builder())
    x, whole = ops.input("x", (3, 4), np.float32), ops.input("n", (), np.int64)
    for wrong, message in (
        (lambda: x + whole, "operands of types float32 and int64"),
        (lambda: x + ops.input("z", (3, 5), np.float32), "do not fit"),
        (lambda: ops.matmul(x, whole), "matrix product"),
        (lambda: bool(x), "not known"),
        (lambda: x[::2], "step 1 only"),
        (lambda: x[..., 0], "ellipsis"),
        (lambda: ops.maximum(1, 2), "neither"),
    ):
        with pytest.raises(GraphError, match=message):
            wrong()


@pytest.mark.parametrize("relative", [True, False])
def test_the_objective_traced_is_the_objective_computed(relative):
    """Loss, terms and the gradients in image and features, for any size: one definition of the losses."""
    random = np.random.default_rng(8)
    gram = style_losses.load("gram")
    shapes = {"image": (1, 7, 9, 3), "one": (1, 7, 9, 4), "two": (1, 3, 4, 5)}
    values = {name: random.normal(size=shape) for name, shape in shapes.items()}
    weights = {
        "content": 1.3,
        "style": 2.1,
        "tv": 0.4,
        "content_layers": {"two": 2.0},
        "style_layers": {"one": 1.5, "two": 0.7},
        "styles": [0.6, 1.7],
    }
    styles = [{"one": random.normal(size=(1, 5, 6, 4)), "two": random.normal(size=(1, 2, 3, 5))} for _ in range(2)]
    content = {"two": random.normal(size=shapes["two"])}
    targets = {
        "content": objective.content_target(numpy_ops, content, weights["content_layers"], relative=relative),
        "styles": [
            objective.style_target(
                gram, objective.style_sums(numpy_ops, gram, style, weights["style_layers"]), relative=relative
            )
            for style in styles
        ],
    }

    ops, inputs, fed = Ops(Builder()), {}, {}

    def stand_in(value, name):
        if isinstance(value, dict):
            return {key: stand_in(item, f"{name}/{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [stand_in(item, f"{name}/{i}") for i, item in enumerate(value)]
        array = np.asarray(value, np.float64)
        shape = (1, f"{name}_h", f"{name}_w", array.shape[3]) if array.ndim == 4 else array.shape
        inputs[name], fed[name] = ops.input(name, shape, np.float64), array
        return inputs[name]

    def compute(namespace, image, features, targets, weights):
        sums = objective.measure(namespace, gram, image, features, targets)
        return objective.combine(namespace, gram, sums, targets, weights)

    def split(tensors):
        return tensors["image"], {name: tensors[name] for name in ("one", "two")}

    traced = compute(ops, *split(stand_in(values, "in")), stand_in(targets, "targets"), stand_in(weights, "weights"))
    loss, terms = traced
    made = append_gradient(model_of(ops, inputs, {"loss": loss, **terms}), "loss", [f"in/{name}" for name in values])
    names = [output.name for output in made.graph.output]
    found = dict(zip(names, ReferenceEvaluator(made).run(None, fed), strict=True))

    expected, expected_terms = compute(numpy_ops, *split(values), targets, weights)
    assert found["loss"] == pytest.approx(expected, rel=1e-14)
    assert {name: found[name] for name in terms} == pytest.approx(expected_terms, rel=1e-13)
    for name, value in values.items():
        direction = random.normal(size=value.shape)

        def moved(step, name=name, direction=direction):
            changed = {**values, name: values[name] + step * direction}
            return compute(numpy_ops, *split(changed), targets, weights)[0]

        slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
        assert np.sum(found[f"gradient/in/{name}"] * direction) == pytest.approx(slope, rel=1e-7)


def test_no_gradient_flows_through_a_stop():
    ops = Ops(Builder())
    x = ops.input("x", (3,), np.float64)
    made = append_gradient(model_of(ops, {"x": x}, {"loss": ops.sum(ops.stop_gradient(x) * x)}), "loss", ["x"])
    (gradient,) = ReferenceEvaluator(made).run(["gradient/x"], {"x": np.array([1.0, 2.0, 3.0])})
    assert gradient.tolist() == [1, 2, 3]
