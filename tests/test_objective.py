"""The objective against the plain float64 reference: tiny networks to rounding, VGG16 with real weights in float32."""

import itertools

import numpy as np
import pytest
import reference
from reference import Conv, Pool, Setup, numerical_gradient, numpy_ops

import stylekeras as sk
from stylekeras import objective, style_losses
from stylekeras.settings import CHOICES

CONTENT_LAYERS = {"one": 0.5, "two": 2.0}
STYLE_LAYERS = {"one": 1.5, "three": 0.7}
WEIGHTS = {"content_weight": 1.3, "style_weight": 2.1, "tv_weight": 0.4}
STYLE_LOSSES = CHOICES["style_loss"]
COMBINATIONS = [
    *itertools.product(["gram", "wasserstein"], [True, False], [1, 2]),
    *((name, True, 2) for name in STYLE_LOSSES[2:]),
]


def _layer(rng, name, before, after, edge="zeros"):
    return Conv(name, rng.normal(0, 0.4, (3, 3, before, after)), rng.normal(0, 0.1, after), edge)


def _setup(rng, style_loss="gram", relative=True, count=2, kind="max", edge="replicate", **changes):
    """A network of three convolutions, a content image of the picture's size and styles of other sizes."""
    network = [
        _layer(rng, "one", 3, 4, edge),
        _layer(rng, "two", 4, 5),
        Pool(kind),
        _layer(rng, "three", 5, 6),
    ]
    pictures = [(rng.random((8, 6, 3)), 0.6), (rng.random((5, 9, 3)), 1.7)][:count]
    setup = Setup(network, rng.random((9, 7, 3)), pictures, CONTENT_LAYERS, STYLE_LAYERS, style_loss, relative)
    return setup._replace(**{**WEIGHTS, **changes})


def _scalars(setup):
    return {
        "content": setup.content_weight,
        "style": setup.style_weight,
        "tv": setup.tv_weight,
        "content_layers": setup.content_layers,
        "style_layers": setup.style_layers,
        "styles": [weight for _, weight in setup.styles],
    }


def _targets(ops, setup, extract, tensor, layers=None):
    module = style_losses.load(setup.style_loss)
    content = {}
    if setup.content is not None:
        features = extract(tensor(setup.content[None]))
        content = objective.content_target(ops, features, setup.content_layers, relative=setup.relative)
    styles = []
    for (picture, _), own in zip(setup.styles, layers or [setup.style_layers] * len(setup.styles), strict=True):
        features = extract(tensor(picture[None]))
        frames = objective.style_frames(module, objective.style_sums(ops, module, features, own))
        sums = objective.style_sums(ops, module, features, own, frames=tensor(frames))
        styles.append(tensor(objective.style_target(module, sums, frames, relative=setup.relative)))
    return {"content": content, "styles": styles}


def _objective(setup):
    return objective.Objective(style_losses.load(setup.style_loss))


def _as_it_is(value):
    return value


def _through_numpy(setup, image):
    """Loss and terms by stylekeras' own functions, `ops` being NumPy."""

    def extract(batch):
        return {name: features[None] for name, features in reference.forward(setup.network, batch[0])[0].items()}

    targets = _targets(numpy_ops, setup, extract, _as_it_is)
    return _objective(setup)(numpy_ops, image[None], extract(image[None]), targets, _scalars(setup))


def _through_tensorflow(engine, setup, image, layers=None):
    """Loss, terms and gradient by the engine's evaluator in float64; `layers` are each style's own."""
    import tensorflow as tf

    def extract(x):
        taps = {}
        for layer in setup.network:
            if isinstance(layer, Pool):
                pool = tf.nn.max_pool2d if layer.kind == "max" else tf.nn.avg_pool2d
                x = pool(x, 2, 2, "VALID")
                continue
            mode = "SYMMETRIC" if layer.edge == "replicate" else "CONSTANT"
            x = tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode), layer.kernel, 1, "VALID")
            x = taps[layer.name] = tf.nn.relu(x + layer.bias)
        return taps

    def tensor(value):
        return tf.nest.map_structure(lambda item: tf.convert_to_tensor(item, tf.float64), value)

    targets = _targets(engine.ops, setup, extract, tensor, layers)
    evaluate = engine.evaluator(extract, _objective(setup))
    scalars = _scalars(setup) if layers is None else {**_scalars(setup), "style_layers": layers}
    return engine.array(evaluate(tensor(image[None]), targets, tensor(scalars)))


def _relative_error(value, wanted):
    return float(np.linalg.norm(np.asarray(value, float) - wanted) / np.linalg.norm(wanted))


# --- the reference itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style_loss", STYLE_LOSSES)
@pytest.mark.parametrize(("kind", "edge"), [("max", "replicate"), ("average", "zeros")])
def test_the_references_gradient_is_its_values(rng, style_loss, kind, edge):
    preprocessing = {"order": "bgr", "scale": 2.0, "mean": [0.8, 0.9, 1.0], "std": [1.0, 1.1, 1.2]}
    setup = _setup(rng, style_loss, kind=kind, edge=edge, preprocessing=preprocessing)
    image = rng.random((9, 7, 3))
    wanted = numerical_gradient(lambda picture: reference.objective(picture, setup).loss, image, 1e-6)
    assert _relative_error(reference.objective(image, setup).gradient, wanted) < 1e-7


# --- tiny networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("style_loss", "relative", "count"), COMBINATIONS)
def test_tiny_network_in_float64(rng, float64, engine, style_loss, relative, count):
    setup = _setup(rng, style_loss, relative, count)
    image = rng.random((9, 7, 3))
    wanted = reference.objective(image, setup)
    loss, terms, gradient = _through_tensorflow(engine, setup, image)
    assert gradient.dtype == np.float64
    assert float(loss) == pytest.approx(wanted.loss, rel=1e-10)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(wanted.terms, rel=1e-10)
    assert _relative_error(gradient[0], wanted.gradient) < 1e-9


@pytest.mark.parametrize(("style_loss", "relative", "count"), COMBINATIONS)
def test_the_same_code_on_numpy(rng, style_loss, relative, count):
    setup = _setup(rng, style_loss, relative, count, kind="average")
    image = rng.random((9, 7, 3))
    wanted = reference.objective(image, setup)
    loss, terms = _through_numpy(setup, image)
    assert float(loss) == pytest.approx(wanted.loss, rel=1e-10)
    assert terms == pytest.approx(wanted.terms, rel=1e-10)


@pytest.mark.parametrize(
    "changes",
    [{"content": None}, {"styles": []}, {"tv_weight": 0.0}, {"content_weight": 0.0, "tv_weight": 50.0}],
    ids=["style only", "content only", "no total variation", "mostly total variation"],
)
def test_parts_may_be_missing(rng, float64, engine, changes):
    setup = _setup(rng, **changes)
    image = rng.random((9, 7, 3))
    wanted = reference.objective(image, setup)
    loss, terms, gradient = _through_tensorflow(engine, setup, image)
    assert float(loss) == pytest.approx(wanted.loss, rel=1e-10)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(wanted.terms, rel=1e-10)
    assert _relative_error(gradient[0], wanted.gradient) < 1e-9


@pytest.mark.parametrize("style_loss", STYLE_LOSSES)
def test_sums_of_rows_add_up_to_the_pictures(rng, style_loss):
    """What tiles rest on: everything that `measure` returns is a sum over positions."""
    setup = _setup(rng, style_loss)
    module = style_losses.load(style_loss)
    features = {name: value[None] for name, value in setup.taps(rng.random((9, 7, 3))).items()}
    whole = objective.style_sums(numpy_ops, module, features, {"one": 1.0})["one"]
    parts = [
        objective.style_sums(numpy_ops, module, {"one": features["one"][:, rows]}, {"one": 1.0})["one"]
        for rows in (slice(0, 4), slice(4, None))
    ]
    assert whole["count"] == parts[0]["count"] + parts[1]["count"] == 63
    for name, value in whole["sums"].items():
        np.testing.assert_allclose(parts[0]["sums"][name] + parts[1]["sums"][name], value, rtol=1e-12)


def _masked(setup, targets, masks):
    """The targets with masks for their styles, made for each tap by `masks(style, shape)`."""
    for i, style in enumerate(targets["styles"]):
        for tap in STYLE_LAYERS:
            height, width = {"one": (9, 7), "three": (4, 3)}[tap]
            mask = masks(i, (1, height, width, 1))
            if mask is not None:
                style[tap]["mask"] = mask
    return targets


def _extract(setup):
    def extract(batch):
        return {name: features[None] for name, features in reference.forward(setup.network, batch[0])[0].items()}

    return extract


@pytest.mark.parametrize("style_loss", STYLE_LOSSES)
def test_a_mask_of_ones_is_no_mask(rng, style_loss):
    setup, image = _setup(rng, style_loss), rng.random((1, 9, 7, 3))
    extract = _extract(setup)
    found = []
    for masks in (
        lambda i, shape: None,
        lambda i, shape: np.ones(shape),
        lambda i, shape: np.ones(shape) if i else None,
    ):
        targets = _masked(setup, _targets(numpy_ops, setup, extract, _as_it_is), masks)
        found.append(_objective(setup)(numpy_ops, image, extract(image), targets, _scalars(setup)))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("style_loss", STYLE_LOSSES)
def test_a_mask_is_the_part_of_the_picture_that_it_shows(rng, style_loss):
    """Each style against its own rows alone, over their own area; grey counts in proportion."""
    setup, image = _setup(rng, style_loss, content_weight=0.0, tv_weight=0.0), rng.random((1, 9, 7, 3))
    extract, module = _extract(setup), style_losses.load(style_loss)
    scalars, features = _scalars(setup), extract(image)

    def rows(i, shape):
        mask = np.zeros(shape)
        mask[:, : shape[1] // 2 if i else None] = 0.25
        return mask

    targets = _masked(setup, _targets(numpy_ops, setup, extract, _as_it_is), rows)
    loss, _ = _objective(setup)(numpy_ops, image, features, targets, scalars)
    wanted = 0.0
    for i, style in enumerate(targets["styles"]):
        for tap, weight in STYLE_LAYERS.items():
            shown = features[tap][:, : features[tap].shape[1] // 2 if i else None]
            frames = {tap: style[tap]["frame"]} if "frame" in style[tap] else {}
            sums = objective.style_sums(numpy_ops, module, {tap: shown}, [tap], frames=frames)[tap]
            distance = module.compare(numpy_ops, sums["sums"], sums["count"], style[tap]["target"])
            wanted += scalars["styles"][i] * weight * distance / style[tap]["scale"]
    assert loss == pytest.approx(scalars["style"] * wanted, rel=1e-12)


def test_the_loss_is_its_weighted_terms(rng):
    setup = _setup(rng)
    loss, terms = _through_numpy(setup, rng.random((9, 7, 3)))
    for part, layers in (("content", CONTENT_LAYERS), ("style", STYLE_LAYERS)):
        total = sum(weight * terms[f"{part}/{tap}"] for tap, weight in layers.items())
        assert terms[part] == pytest.approx(total, rel=1e-12)
    assert loss == pytest.approx(1.3 * terms["content"] + 2.1 * terms["style"] + 0.4 * terms["tv"], rel=1e-12)
    assert set(terms) == {"content", "style", "tv", "content/one", "content/two", "style/one", "style/three"}


@pytest.mark.parametrize("style_loss", STYLE_LOSSES)
def test_a_relative_loss_does_not_change_with_the_features_size(rng, style_loss):
    """Ten times as large features everywhere: the picture, the content and the styles."""
    setup = _setup(rng, style_loss, tv_weight=0.0)
    image = rng.random((9, 7, 3))

    def larger(batch):
        return {name: 10 * value[None] for name, value in reference.forward(setup.network, batch[0])[0].items()}

    loss, _ = _through_numpy(setup, image)
    targets = _targets(numpy_ops, setup, larger, _as_it_is)
    scaled, _ = _objective(setup)(numpy_ops, image[None], larger(image[None]), targets, _scalars(setup))
    assert scaled == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("style_loss", ["gram", "wasserstein"])
def test_each_style_in_its_own_layers(rng, float64, engine, style_loss):
    """Loss and gradient are the sums of those of each style alone, in its layers."""
    setup = _setup(rng, style_loss)
    image = rng.random((9, 7, 3))
    layers = [{"three": 0.9}, {"two": 0.2, "three": 0.4}]
    wanted = reference.objective(image, setup._replace(styles=[]))
    parts = [
        reference.objective(image, setup._replace(styles=[style], style_layers=own, content_weight=0.0, tv_weight=0.0))
        for style, own in zip(setup.styles, layers, strict=True)
    ]
    loss, terms, gradient = _through_tensorflow(engine, setup, image, layers)
    assert float(loss) == pytest.approx(wanted.loss + sum(part.loss for part in parts), rel=1e-10)
    for name in ("style", "style/two", "style/three"):
        assert float(terms[name]) == pytest.approx(sum(part.terms.get(name, 0.0) for part in parts), rel=1e-10)
    assert "style/one" not in terms
    assert _relative_error(gradient[0], wanted.gradient + sum(part.gradient for part in parts)) < 1e-9


def test_own_layers_that_are_the_settings():
    settings = sk.Settings(style_layers={"one": 2.0})
    assert objective.weights(settings, [1.0, 2.0], [None, None]) == objective.weights(settings, [1.0, 2.0])
    found = objective.weights(settings, [1.0, 2.0], [None, {"two": 3.0}])
    assert found["style_layers"] == [{"one": 2.0}, {"two": 3.0}]


def test_a_relative_loss_survives_a_target_without_features(rng):
    setup = _setup(rng, count=1)

    def nothing(batch):
        return {name: 0 * value[None] for name, value in reference.forward(setup.network, batch[0])[0].items()}

    for style_loss in STYLE_LOSSES:
        dead = setup._replace(style_loss=style_loss)
        targets = _targets(numpy_ops, dead, nothing, _as_it_is)
        loss, _ = _objective(dead)(
            numpy_ops, setup.content[None], nothing(setup.content[None]), targets, _scalars(dead)
        )
        assert np.isfinite(loss)


def test_strength_is_how_far_the_painting_is_gone_towards_and_then_how_loose_the_content():
    def three(**changes):
        settings = sk.Settings(content_weight=3.0, style_weight=5.0, tv_weight=7.0, **changes)
        weights = objective.weights(settings, [1.0])
        return [objective.strength(settings).amount, *(weights[name] for name in ("content", "style", "tv"))]

    assert three() == three(strength=0.9) == [1.0, 3.0, 5.0, 7.0]
    assert three(strength=0.0) == [0.0, 3.0, 0.0, 0.0]
    assert three(strength=0.45) == [0.5, 3.0, 5.0, 3.5]
    assert three(strength=0.95) == pytest.approx([1.0, 0.75, 5.0, 7.0])
    assert three(strength=1.0) == pytest.approx([1.0, 3 / 16, 5.0, 7.0])
    assert three(loss_scale="absolute") == [1.0, 3.0, 5.0, 7.0], "whatever the default strength is"
