"""`make test-gpu`: on a GPU the objective is the same, in float64 NumPy's eyes, and so is the picture.

`KERAS_BACKEND` says which engine is tested, as everywhere.
"""

import os
from dataclasses import replace

import numpy as np
import parity
import pytest

import stylekeras as sk
from stylekeras import engines

pytestmark = pytest.mark.gpu
ENGINE = os.environ["KERAS_BACKEND"]
# What a loss may be off by, and a gradient.
WITHIN = {"float32": (1e-4, 2e-3), "bfloat16": (0.01, 0.1), "float16": (0.002, 0.05)}


@pytest.mark.parametrize("precision", WITHIN)
@pytest.mark.parametrize("case", parity.CASES, ids=str)
def test_loss_and_gradient_are_the_references(case, precision):
    image, content, styles = parity.pictures(case)
    settings = replace(parity.settings(case, ENGINE), precision=precision)
    found = sk.loss_and_gradient(image, content, styles, settings)
    assert found.provenance["device"].startswith("GPU")
    wanted, (loss, gradient) = parity.wanted(case), WITHIN[precision]
    assert found.loss == pytest.approx(wanted.loss, rel=loss)
    assert parity.gradient_error(found.gradient, wanted.gradient) < gradient


@pytest.mark.parametrize("style_loss", ["gram", "wasserstein"])
def test_the_picture_is_the_processors(style_loss):
    loss, picture = parity.run(ENGINE, style_loss=style_loss)
    wanted, other = parity.run("onnxruntime", style_loss=style_loss)
    assert loss == pytest.approx(wanted, rel=0.02)
    assert 255 * np.abs(picture - other).mean() < 2


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_picture_in_low_precision_is_as_good(precision):
    """Judged in float32."""
    photo, painting, settings = parity.job(ENGINE)
    exact, _ = parity.run(ENGINE)
    _, picture = parity.run(ENGINE, precision=precision)
    assert sk.loss_and_gradient(picture, photo, painting, settings).loss == pytest.approx(exact, rel=0.03)


def test_steps_that_are_kept_stay_what_they_were_and_can_be_gone_on_from():
    job = parity.job(ENGINE, steps=16)
    seen = [step.image.copy() for step in sk.iterate(*job)]
    kept = list(sk.iterate(*job))
    for image, step in zip(seen, kept, strict=True):
        np.testing.assert_allclose(step.image, image, atol=2e-3)
    *_, last = sk.iterate(*job, resume=kept[7].state)
    assert last.step == 16
    np.testing.assert_allclose(last.image, kept[-1].image, atol=2e-3)


def test_auto_is_what_its_matrix_units_compute_in():
    engine = engines.load(ENGINE, "auto")
    assert engine.device.startswith("GPU")
    assert engine.precision in ("bfloat16", "float16", "float32")
