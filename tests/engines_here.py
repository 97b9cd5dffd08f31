"""The engines that can be tested in this process: those without Keras, and the one that Keras is on."""

import os

from stylekeras import engines

ENGINES = [os.environ["KERAS_BACKEND"], "onnxruntime", "openvino"]

_loaded = {}


def load(name, precision="float32"):
    """The engine of that name; an engine that compiles keeps it for the next test."""
    key = (name, precision)
    if key not in _loaded:
        _loaded[key] = engines.load(name, precision)
    return _loaded[key]
