"""Every engine against the float64 reference on VGG16 with real weights, and against each other along a run.

`python benchmarks/parity.py` prints the figures that are compared here.
"""

import numpy as np
import pytest
import reference
from engines_here import ENGINES
from fakes import scene
from reference import Setup

import stylekeras as sk
from stylekeras import weights as weight_sets

VGG_STYLE_LAYERS = {
    "block1_conv1": 1.0,
    "block2_conv1": 0.8,
    "block3_conv1": 0.6,
    "block4_conv1": 0.4,
    "block5_conv1": 0.2,
}


_known = {}


def _wanted(image, setup):
    """The reference's answer, which takes seconds, once for all engines."""
    key = repr((setup.style_loss, setup.relative, setup.network[0].edge, image.shape))
    if key not in _known:
        _known[key] = reference.objective(image, setup)
    return _known[key]


@pytest.fixture(scope="module")
def offline():
    return weight_sets.load("offline", "vgg16", last="block5_conv1")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("style_loss", "pooling", "padding", "loss_scale", "shape", "last"),
    [
        ("gram", "max", "replicate", "relative", (96, 80), 5),
        ("gram", "average", "zeros", "absolute", (80, 96), 4),
        ("wasserstein", "max", "zeros", "relative", (97, 81), 5),
        ("wasserstein", "average", "replicate", "absolute", (96, 80), 3),
    ],
)
def test_vgg16_with_real_weights(engine, offline, style_loss, pooling, padding, loss_scale, shape, last):
    """One style down to block5, or two (SciPy's square roots of 512 channels are slow) down to block `last`."""
    rng = np.random.default_rng(11)
    image, content = scene(rng, *shape), scene(rng, *shape)
    style_layers = {name: weight for name, weight in VGG_STYLE_LAYERS.items() if int(name[5]) <= last}
    longest = max(shape)
    # Styles already have the size they enter at, so nothing is resized: the second at half the picture's.
    styles = [sk.Style(scene(rng, longest - 20, longest), weight=0.7)]
    if last < 5:
        styles.append(sk.Style(scene(rng, round(longest / 2), 40), weight=0.4, scale=0.5))
    settings = sk.Settings(
        **({"strength": 0.5} if loss_scale == "relative" else {}),
        content_weight=0.9,
        style_weight=1.4,
        tv_weight=0.3,
        content_layers={"block2_conv2": 0.3, "block4_conv2": 1.2},
        style_layers=style_layers,
        style_loss=style_loss,
        pooling=pooling,
        padding=padding,
        loss_scale=loss_scale,
        backbone="vgg16",
        weights="offline",
        precision="float32",
        engine=engine,
        colors="style",
        size=512,
        init="content",
    )
    evaluation = sk.loss_and_gradient(image, content, styles, settings)
    setup = Setup(
        reference.vgg(offline.layers, "block5_conv1", pooling=pooling, padding=padding),
        content,
        [(style.image, style.weight) for style in styles],
        dict(settings.content_layers),
        style_layers,
        style_loss,
        loss_scale == "relative",
        0.9,
        1.4,
        0.3,
        {"order": "bgr", "scale": 255.0, "mean": [103.939, 116.779, 123.68], "std": [1.0, 1.0, 1.0]},
    )
    wanted = _wanted(image, setup)
    assert evaluation.gradient.shape == (*shape, 3)
    assert evaluation.gradient.dtype == np.float32
    assert evaluation.loss == pytest.approx(wanted.loss, rel=1e-4)
    assert evaluation.terms == pytest.approx(wanted.terms, rel=2e-4)
    error = np.linalg.norm(evaluation.gradient - wanted.gradient) / np.linalg.norm(wanted.gradient)
    assert error < 2e-3
