"""The TensorFlow engine: what it compiles and how often, and a loop whose state can be taken out and put back."""

import numpy as np
import pytest
from engines_here import style_target

import stylekeras as sk
from stylekeras import engines, objective, optimizers, settings, style_losses
from stylekeras.errors import EngineError


def _no_taps(image):
    return {}


def _distance(ops, image, features, targets, weights):
    """mean((image - target)^2) for each target, with its weight."""
    terms = {name: ops.mean(ops.square(image - target)) for name, target in targets["pictures"].items()}
    return sum(weights[name] * value for name, value in terms.items()), terms


def _problem(engine, rng, shape, names=("a",)):
    pictures = {name: rng.random((1, *shape, 3)) for name in names}
    weights = {name: 0.5 + index for index, name in enumerate(names)}
    return engine.tensor({"pictures": pictures}), engine.tensor(weights)


def _image(engine, rng, shape):
    return engine.tensor(rng.random((1, *shape, 3)))


def test_evaluator_gives_loss_terms_and_gradient(engine, rng):
    targets, weights = _problem(engine, rng, (5, 4), ("a", "b"))
    image = _image(engine, rng, (5, 4))
    loss, terms, gradient = engine.array(engine.evaluator(_no_taps, _distance)(image, targets, weights))
    image, pictures = image.numpy(), engine.array(targets)["pictures"]
    wanted = {name: np.mean((image - picture) ** 2) for name, picture in pictures.items()}
    assert terms == pytest.approx(wanted, rel=1e-5)
    assert loss == pytest.approx(0.5 * wanted["a"] + 1.5 * wanted["b"], rel=1e-5)
    by_hand = (0.5 * (image - pictures["a"]) + 1.5 * (image - pictures["b"])) * 2 / image.size
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-4, atol=1e-7)


def test_other_pictures_and_sizes_do_not_retrace(engine, rng):
    evaluate = engine.evaluator(_no_taps, _distance)
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

    evaluate = engine.evaluator(taps, objective.Objective(module))
    losses = set()
    for shape, style_shape, strength in (((8, 6), (9, 9), 0.9), ((8, 6), (7, 12), 0.95), ((10, 12), (9, 9), 1.0)):
        content = taps(_image(engine, rng, shape))
        style = taps(_image(engine, rng, style_shape))
        targets = {
            "content": objective.content_target(engine.ops, content, {"one": 1.0}, relative=True),
            "styles": [style_target(engine, module, style, {"two": 1.0})],
        }
        chosen = sk.Settings(
            strength=strength, loss_scale="relative", content_layers={"one": 1.0}, style_layers={"two": 1.0}
        )
        weights = engine.tensor(objective.weights(chosen, [1.0]))
        losses.add(float(evaluate(_image(engine, rng, shape), targets, weights)[0]))
        assert engine.traces == 1
    assert len(losses) == 3


def test_a_loop_changes_size_without_a_new_trace(engine, rng):
    loop = engine.loop(_no_taps, _distance, optimizers.load("lbfgs"))
    for shape in ((4, 5), (8, 10), (3, 3)):
        targets, weights = _problem(engine, rng, shape)
        loop.start(optimizers.load("lbfgs").init(engine.ops, _image(engine, rng, shape)))
        losses = [loop.step(targets, weights)[1] for _ in range(40)]
        assert loop.image.shape == (1, *shape, 3)
        assert losses[-1] < 1e-4 * losses[0]
    assert engine.traces == 1


def test_keras_on_another_backend_is_an_error(monkeypatch):
    engines.load("tensorflow", "auto")
    with pytest.raises(EngineError, match=r"already loaded with its tensorflow backend.*set KERAS_BACKEND=jax"):
        engines.keras_on("jax")
    monkeypatch.setattr(engines, "missing", lambda name: [])
    monkeypatch.setattr(engines, "gpu_driver", lambda: False)
    assert engines.pick(("jax", "tensorflow", "torch")) == "tensorflow"
    assert engines.pick(("jax", "torch", "tensorflow")) == "torch"


def test_what_it_says_about_itself(engine):
    import tensorflow as tf

    assert (engine.name, engine.version, engine.precision) == ("tensorflow", tf.__version__, "float32")
    assert engine.device.startswith(("CPU (", "GPU ("))
    assert engines.load("auto", "bfloat16").precision == "bfloat16"
