"""The TensorFlow engine: what it compiles and how often, and a loop whose state can be taken out and put back."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest

import stylekeras as sk
from stylekeras import engines, objective, optimizers, settings, style_losses
from stylekeras.errors import EngineError


def _distance(image, targets, weights):
    """mean((image - target)^2) for each target, with its weight."""
    import keras

    terms = {name: keras.ops.mean(keras.ops.square(image - target)) for name, target in targets["pictures"].items()}
    return sum(weights[name] * value for name, value in terms.items()), terms


def _problem(engine, rng, shape, names=("a",)):
    pictures = {name: rng.random((1, *shape, 3)) for name in names}
    weights = {name: 0.5 + index for index, name in enumerate(names)}
    return engine.tensor({"pictures": pictures}), engine.tensor(weights)


def _image(engine, rng, shape):
    return engine.tensor(rng.random((1, *shape, 3)))


def test_only_the_engine_imports_its_framework():
    importers = set()
    for path in Path(sk.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
            if any(name.partition(".")[0] == "tensorflow" for name in names):
                importers.add(path.name)
    assert importers == {"tensorflow.py"}


def test_the_setting_knows_every_engine():
    assert settings.CHOICES["engine"] == ("auto", *engines.ORDER)


def test_tensors_and_arrays(engine):
    nested = {"a": [np.arange(3), 2], "b": {"c": np.zeros((1, 2), np.float64), "d": []}}
    back = engine.array(engine.tensor(nested))
    assert back["a"][0].tolist() == [0, 1, 2]
    assert back["a"][1] == 2
    assert back["b"]["d"] == []
    assert {value.dtype for value in (*back["a"], back["b"]["c"])} == {np.dtype("float32")}


def test_evaluator_gives_loss_terms_and_gradient(engine, rng):
    targets, weights = _problem(engine, rng, (5, 4), ("a", "b"))
    image = _image(engine, rng, (5, 4))
    loss, terms, gradient = engine.array(engine.evaluator(_distance)(image, targets, weights))
    image, pictures = image.numpy(), engine.array(targets)["pictures"]
    wanted = {name: np.mean((image - picture) ** 2) for name, picture in pictures.items()}
    assert terms == pytest.approx(wanted, rel=1e-5)
    assert loss == pytest.approx(0.5 * wanted["a"] + 1.5 * wanted["b"], rel=1e-5)
    by_hand = (0.5 * (image - pictures["a"]) + 1.5 * (image - pictures["b"])) * 2 / image.size
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-4, atol=1e-7)


def test_other_pictures_and_sizes_do_not_retrace(engine, rng):
    evaluate = engine.evaluator(_distance)
    losses = []
    for shape in ((5, 4), (5, 4), (9, 3), (1, 1), (5, 4)):
        targets, weights = _problem(engine, rng, shape)
        losses.append(float(evaluate(_image(engine, rng, shape), targets, weights)[0]))
        assert engine.traces == 1
    assert len(set(losses)) == 5
    targets, weights = _problem(engine, rng, (5, 4), ("a", "b"))
    evaluate(_image(engine, rng, (5, 4)), targets, weights)
    assert engine.traces == 2, "another structure is another function"


@pytest.mark.parametrize("style_loss", settings.CHOICES["style_loss"])
def test_targets_of_the_objective_are_arguments(engine, rng, style_loss):
    """The library's own objective: new content, styles, weights and sizes through one trace."""
    module = style_losses.load(style_loss)

    def taps(image):
        return {"one": image[:, ::2, ::2] ** 2, "two": image[:, :-1] * image[:, 1:]}

    def compute(image, targets, weights):
        sums = objective.measure(engine.ops, module, image, taps(image), targets)
        return objective.combine(engine.ops, module, sums, targets, weights)

    evaluate = engine.evaluator(compute)
    losses = set()
    for shape, style_shape, strength in (((8, 6), (9, 9), 0.5), ((8, 6), (7, 12), 0.5), ((10, 12), (9, 9), 0.7)):
        content = taps(_image(engine, rng, shape))
        sums = objective.style_sums(engine.ops, module, taps(_image(engine, rng, style_shape)), {"two": 1.0})
        targets = {
            "content": objective.content_target(engine.ops, content, {"one": 1.0}, relative=True),
            "styles": [engine.tensor(objective.style_target(module, engine.array(sums), relative=True))],
        }
        chosen = sk.Settings(
            strength=strength, loss_scale="relative", content_layers={"one": 1.0}, style_layers={"two": 1.0}
        )
        weights = engine.tensor(objective.weights(chosen, [1.0]))
        losses.add(float(evaluate(_image(engine, rng, shape), targets, weights)[0]))
        assert engine.traces == 1
    assert len(losses) == 3


@pytest.mark.parametrize("name", settings.CHOICES["optimizer"])
def test_a_loop_goes_on_from_its_saved_state(engine, rng, name):
    optimizer = optimizers.load(name)
    targets, weights = _problem(engine, rng, (4, 5))
    image = _image(engine, rng, (4, 5))
    loop = engine.loop(_distance, optimizer)
    loop.start(optimizer.init(engine.ops, image, clip=True))
    steps = [loop.step(targets, weights) for _ in range(4)]
    state, terms = engine.array(loop.state)._asdict(), steps[-1][2]
    kept = {field: value.copy() for field, value in state.items()}
    rest = [loop.step(targets, weights) for _ in range(4)]
    for field, value in state.items():
        np.testing.assert_array_equal(value, kept[field], err_msg="a later step changed a state that was taken out")

    other = engine.loop(_distance, optimizer)
    other.restore(state, terms)
    assert [other.step(targets, weights) for _ in range(4)] == rest
    np.testing.assert_array_equal(other.image.numpy(), loop.image.numpy())


def test_a_loop_changes_size_without_a_new_trace(engine, rng):
    loop = engine.loop(_distance, optimizers.load("lbfgs"))
    for shape in ((4, 5), (8, 10), (3, 3)):
        targets, weights = _problem(engine, rng, shape)
        loop.start(optimizers.load("lbfgs").init(engine.ops, _image(engine, rng, shape)))
        losses = [loop.step(targets, weights)[1] for _ in range(40)]
        assert loop.image.shape == (1, *shape, 3)
        assert losses[-1] < 1e-4 * losses[0]
    assert engine.traces == 1


def test_a_steps_terms_are_the_kept_pictures(engine, rng):
    """A rejected trial changes neither the loss nor the terms that are reported."""
    targets, weights = _problem(engine, rng, (4, 5))
    loop = engine.loop(_distance, optimizers.load("lbfgs"))
    loop.start(optimizers.load("lbfgs").init(engine.ops, _image(engine, rng, (4, 5))))
    evaluated, loss, terms = loop.step(targets, weights)
    assert evaluated == loss == pytest.approx(0.5 * terms["a"])
    _, better, better_terms = loop.step(targets, weights)
    assert better < loss
    nothing = engine.tensor({"a": float("nan")})
    evaluated, loss, terms = loop.step(targets, nothing)
    assert math.isnan(evaluated)
    assert loss == better
    assert terms == better_terms


def test_an_engine_that_is_not_there():
    with pytest.raises(EngineError, match=r"engine nonesuch is not available: .*; pip install nonesuch"):
        engines.load("nonesuch", "auto")


def test_keras_on_another_backend_is_an_error(monkeypatch):
    import keras

    engines.load("auto", "auto")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(EngineError, match="Keras is already loaded with its jax backend"):
        engines.load("auto", "auto")


def test_what_it_says_about_itself(engine):
    import tensorflow as tf

    assert (engine.name, engine.version, engine.precision) == ("tensorflow", tf.__version__, "float32")
    assert engine.device.startswith(("CPU (", "GPU ("))
    assert engines.load("auto", "bfloat16").precision == "bfloat16"
