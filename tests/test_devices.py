"""Tiles spread over several devices: logical ones of this processor."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from engines_here import ENGINES
from fakes import scene

import stylekeras as sk
from stylekeras import engines

_LAYERS = {"content_layers": "block2_conv2=1", "style_layers": "block1_conv1=1,block3_conv1=0.5"}
_OPTIONS = {"backbone": "vgg16", "weights": "random", "precision": "float32", "tile": 16, "style_loss": "sliced"}
_OPTIONS |= _LAYERS
# Four of them, so that the tiles do not come out even. A process of its own: devices are made before anything else.
_PROGRAM = """
import sys, json
sys.path.insert(0, sys.argv[2])
if sys.argv[1] == "tensorflow":
    import tensorflow as tf
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [one] * 4)
import numpy as np
import stylekeras as sk
from test_devices import problem
found = {}
for devices in (1, 4):
    image, content, style, options = problem()
    chosen = sk.Settings(engine=sys.argv[1], devices=devices, **options)
    at = sk.loss_and_gradient(image, content, style, chosen)
    run = list(sk.iterate(content, style, sk.Settings(**{**chosen.to_dict(), "size": 90, "steps": 2})))
    found[devices] = {
        "loss": at.loss, "device": at.provenance["device"], "gradient": at.gradient.tolist(),
        "losses": [step.loss for step in run], "tiles": run[-1].provenance["tiles"],
    }
print(json.dumps(found))
"""


def problem():
    """A picture to judge, a photo, paintings of all kinds and settings."""
    rng = np.random.default_rng(7)
    mask = np.tile(np.linspace(0, 1, 90, dtype=np.float32), (75, 1))
    styles = [sk.Style(scene(rng, 64, 64), mask=mask), sk.Style(scene(rng, 64, 64), layers="block2_conv1=1")]
    return scene(rng, 75, 90), scene(rng, 75, 90), styles, _OPTIONS


@pytest.mark.skipif(ENGINES[0] not in engines.SPREADING, reason="the engine has one device")
def test_several_devices_are_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", _PROGRAM, ENGINES[0], os.path.dirname(__file__)]  # noqa: PTH120
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **flags}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, four = json.loads(done.stdout.splitlines()[-1]).values()
    assert four["device"] == f"4 x {one['device']}"
    assert one["tiles"] == four["tiles"] > 4
    assert four["tiles"] % 4 != 0
    assert four["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert four["losses"] == pytest.approx(one["losses"], rel=1e-3)
    gradients = [np.array(found["gradient"]) for found in (one, four)]
    assert np.linalg.norm(gradients[1] - gradients[0]) < 1e-5 * np.linalg.norm(gradients[0])


def test_more_devices_than_there_are():
    image, content, style, options = problem()
    for engine in ENGINES:
        if engine in engines.SPREADING:
            expected = f"devices=3: engine {engine} has 1 CPU"
        else:
            expected = f"engine {engine} has one device at a time; engines with several are tensorflow and jax"
        with pytest.raises(sk.EngineError, match=expected):
            sk.loss_and_gradient(image, content, style, sk.Settings(engine=engine, devices=3, **options))


@pytest.mark.parametrize("devices", [0, -1, 1.5, "many", True])
def test_devices_that_cannot_be(devices):
    with pytest.raises(sk.SettingsError, match="devices="):
        sk.Settings(devices=devices)
