"""The engines that are tested in this process: those on ONNX graphs, and the one that KERAS_BACKEND names."""

import os

from stylekeras import engines, objective

ENGINES = [os.environ["KERAS_BACKEND"], "onnxruntime", "openvino"]

_loaded = {}


def load(name, precision="float32"):
    """The engine of that name; an engine that compiles keeps it for the next test."""
    key = (name, precision)
    if key not in _loaded:
        _loaded[key] = engines.load(name, precision)
    return _loaded[key]


def style_target(engine, module, features, layers):
    """The relative target of a style image's features, as `machines` makes it."""

    def measured(frames):
        return engine.array(objective.style_sums(engine.ops, module, features, layers, frames=engine.tensor(frames)))

    found = measured({})
    frames = objective.style_frames(module, found)
    found = measured(frames) if frames else found
    return engine.tensor(objective.style_target(module, found, frames, relative=True))
