"""The taps models: shapes, values as `keras.applications` has them, and what they leave alone."""

import dataclasses
import pkgutil

import keras
import numpy as np
import pytest
import reference

from stylekeras import backbones, settings
from stylekeras import weights as weight_sets
from stylekeras.backbones import vgg
from stylekeras.errors import SettingsError

DEEPEST = "block5_conv1"
TAPS = ["block1_conv1", "block1_conv2", "block2_conv2", "block3_conv1", "block4_conv2", DEEPEST]


@pytest.fixture(scope="module")
def offline():
    """By backbone: the offline VGG16, and the VGG19 that computes the same taps."""
    loaded = weight_sets.load("offline", "vgg16")
    return {"vgg16": loaded, "vgg19": weight_sets.identity_vgg19(loaded)}


@pytest.fixture(scope="module")
def small():
    return weight_sets.load("random", "vgg16", last="block2_conv1")


@pytest.fixture
def image(rng):
    smooth = np.kron(rng.random((6, 5, 3)), np.ones((8, 8, 1)))
    return np.clip(smooth + 0.05 * rng.normal(size=smooth.shape), 0, 1).astype(np.float32)[None]


def _build(weights, taps, pooling="max", padding="zeros", dtype="float32"):
    return vgg.build(weights, taps, pooling=pooling, padding=padding, dtype=dtype)


def _run(model, image):
    return {name: np.asarray(value) for name, value in model(image, training=False).items()}


def _error(value, wanted):
    return np.linalg.norm(value - wanted) / np.linalg.norm(wanted)


def test_the_families_and_their_files():
    assert [module.name for module in pkgutil.iter_modules(backbones.__path__)] == ["vgg"]
    assert set(settings.BACKBONES) == set(vgg._FAMILY)


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("padding", ["replicate", "zeros"])
def test_shapes(pooling, padding):
    """Each pooling drops an odd last row or column; 32 px leave 2 x 2 positions in block5."""
    weights = weight_sets.load("random", "vgg16", last=DEEPEST)
    model = _build(weights, TAPS, pooling, padding)
    for height, width in ((32, 32), (33, 47), (64, 35)):
        taps = _run(model, np.full((1, height, width, 3), 0.5, np.float32))
        assert list(taps) == TAPS
        for name, value in taps.items():
            by = 2 ** (int(name[5]) - 1)
            assert value.shape == (1, height // by, width // by, weights.layers[name][1].size)
            assert value.dtype == np.float32
            assert value.min() >= 0


@pytest.mark.parametrize("backbone", ["vgg16", "vgg19"])
def test_values_are_keras_applications(backbone, offline, image):
    weights = offline[backbone]
    module = getattr(keras.applications, backbone)
    theirs = getattr(keras.applications, backbone.upper())(include_top=False, weights=None)
    for name, (kernel, bias) in weights.layers.items():
        theirs.get_layer(name).set_weights([kernel, bias])
    last = [name for name in weights.layers if name.startswith("block4")][-1]
    taps = [*TAPS[:-1], last]
    outputs = keras.Model(theirs.input, {name: theirs.get_layer(name).output for name in taps})
    wanted = _run(outputs, module.preprocess_input(image.copy() * 255))
    found = _run(_build(weights, taps), image)
    assert set(found) == set(taps)
    for name in taps:
        assert _error(found[name], wanted[name]) < 2e-6, name


@pytest.mark.parametrize(("pooling", "padding"), [("average", "replicate"), ("max", "replicate"), ("average", "zeros")])
def test_pooling_and_padding_are_the_references(offline, pooling, padding, image):
    weights = offline["vgg16"]
    found = _run(_build(weights, ["block1_conv1", "block3_conv1"], pooling, padding), image)
    caffe = {"order": "bgr", "scale": 255.0, "mean": [103.939, 116.779, 123.68], "std": [1.0, 1.0, 1.0]}
    network = reference.vgg(weights.layers, "block3_conv1", pooling=pooling, padding=padding)
    wanted, _ = reference.forward(network, reference.preprocess(image[0].astype(float), **caffe))
    for name, value in found.items():
        assert _error(value[0], wanted[name]) < 2e-6, name


def test_replicated_edges_see_no_frame(small):
    """A flat picture has flat features in the first layer; with zeros around it, its border stands out."""
    flat = np.full((1, 32, 40, 3), 0.8, np.float32)
    spread = {
        padding: np.ptp(_run(_build(small, ["block1_conv1"], padding=padding), flat)["block1_conv1"], axis=(1, 2)).max()
        for padding in ("replicate", "zeros")
    }
    assert spread["replicate"] < 1e-4
    assert spread["zeros"] > 10


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_preprocessing_is_the_cards(small, order, image):
    card = dataclasses.replace(
        small.card, channel_order=order, range=1.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    weights = dataclasses.replace(small, card=card)
    found = _run(_build(weights, ["block1_conv1"]), image)["block1_conv1"][0]
    like = {"order": order, "scale": 1.0, "mean": card.mean, "std": card.std}
    network = reference.vgg(weights.layers, "block1_conv1", pooling="max", padding="zeros")
    wanted, _ = reference.forward(network, reference.preprocess(image[0].astype(float), **like))
    assert _error(found, wanted["block1_conv1"]) < 1e-6


def test_the_image_and_the_weights_stay_as_they_are(small, image):
    before, kernel = image.copy(), small.layers["block1_conv1"][0].copy()
    _run(_build(small, ["block2_conv1"]), image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(small.layers["block1_conv1"][0], kernel)


def test_it_is_frozen_and_ends_with_the_deepest_tap(small):
    model = _build(small, ["block2_conv1", "block1_conv2", "block2_conv1"], padding="replicate")
    assert set(model.output) == {"block2_conv1", "block1_conv2"}
    assert model.trainable_weights == []
    assert len(model.non_trainable_weights) == 6
    convolutions = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert convolutions == ["block1_conv1", "block1_conv2", "block2_conv1"]
    assert not [layer.name for layer in model.layers if "block3" in layer.name or "block2_pool" in layer.name]


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        ("block4_conv5", "did you mean 'block4_conv3'"),
        ("block1_conv", "did you mean 'block1_conv"),
        ("block3_conv4", "did you mean 'block3_conv"),
        ("relu4_1", "did you mean 'block4_conv1'"),
        ("conv5_3", "did you mean 'block5_conv3'"),
        ("conv9_9", "known: block1_conv1, block1_conv2"),
        ("block1_pool", "block1_conv"),
    ],
)
def test_an_unknown_tap_is_named_with_the_nearest(small, tap, message):
    with pytest.raises(SettingsError, match=f"layer '{tap}' is not in vgg16.*{message}"):
        _build(small, ["block1_conv1", tap])
    assert vgg.deepest("vgg19", ["block1_conv1", "block3_conv4", "block2_conv1"]) == "block3_conv4"


def test_a_picture_in_bfloat16_loses_nothing_that_matters(image):
    layer = vgg.InTwoParts(dtype="bfloat16", autocast=False)
    grey = 255 * image - 123.68
    parts = keras.ops.convert_to_numpy(keras.ops.cast(layer(grey), "float32"))
    assert parts.shape[-1] == 2 * grey.shape[-1]
    alone = parts[..., :3]
    assert np.abs(alone - grey).max() > 0.1
    assert np.abs(alone + parts[..., 3:] - grey).max() < 1e-3


def test_bfloat16_is_close_and_comes_out_as_float32(offline, image):
    exact = _run(_build(offline["vgg16"], TAPS), image)
    rounded = _run(_build(offline["vgg16"], TAPS, dtype="bfloat16"), image)
    for name in TAPS:
        assert rounded[name].dtype == np.float32
        error = _error(rounded[name], exact[name])
        assert 0 < error < 0.03, name
