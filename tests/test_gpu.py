"""`make test-gpu`: the same objective on a GPU as on the processor."""

import numpy as np
import pytest

import stylekeras as sk
from stylekeras.settings import CHOICES


@pytest.mark.gpu
@pytest.mark.parametrize("style_loss", CHOICES["style_loss"])
def test_the_gpu_agrees_with_the_processor(style_loss):
    import tensorflow as tf

    assert tf.config.list_physical_devices("GPU"), "this test needs a GPU that TensorFlow sees"
    image, photo, painting = np.random.default_rng(0).random((3, 96, 80, 3))
    settings = sk.Settings(weights="offline", style_loss=style_loss)
    on_gpu = sk.loss_and_gradient(image, photo, painting, settings)
    assert on_gpu.provenance["device"].startswith("GPU")
    with tf.device("CPU"):
        on_cpu = sk.loss_and_gradient(image, photo, painting, settings)
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-4)
    error = np.linalg.norm(on_gpu.gradient - on_cpu.gradient) / np.linalg.norm(on_cpu.gradient)
    assert error < 2e-3
