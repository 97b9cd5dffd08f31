"""ONNX graphs: building them, and differentiating them. Needs the package `onnx` (the extra `onnx`)."""

from importlib import util

from stylekeras.errors import EngineError

if util.find_spec("onnx") is None:
    raise EngineError("ONNX graphs need the package onnx: pip install 'stylekeras[onnx]'")

# How tensors are named where a function begins and ends: APART, its module and its name, a number if there are several,
# then "/" and the number of an argument, or "/" and RESULT and the number of a result.
APART, RESULT = "apart/", "result/"
