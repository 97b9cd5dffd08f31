"""The taps model as an ONNX graph: a picture in, the features of the tapped layers out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from stylekeras.backbones import NetworkFile
from stylekeras.errors import SettingsError
from stylekeras.graphs.builder import BFLOAT16_OPSET, Builder
from stylekeras.graphs.trace import Ops, Tensor
from stylekeras.weights import Card, Weights, deepest


def build(
    network: Weights | NetworkFile,
    taps: Iterable[str],
    *,
    pooling: str,
    padding: str,
    precision: str = "float32",
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The taps model of VGG's weights or of a network in a file.

    Args: `pooling`, `padding` and `precision` ("float32" or "bfloat16") as in `backbones/vgg.py`, a file has its own;
        `metadata` goes into the model's.
    Returns: a model from "image" (1, h, w, 3) float32 RGB in [0, 1], any h and w from 32 up, to one output
        (1, h', w', c) for each tap, under its name.
    Raises: SettingsError for an unknown tap, GraphError if a file cannot be used.
    """
    if isinstance(network, Weights):
        return vgg(network, taps, pooling=pooling, padding=padding, precision=precision, metadata=metadata)
    if pooling != "max":
        raise SettingsError(f"pooling={pooling!r}: the network in {network.path.name} has its own; leave it out")

    from stylekeras.graphs import file

    return file.taps(network.path, taps, network.card, metadata)


def vgg(
    weights: Weights,
    taps: Iterable[str],
    *,
    pooling: str,
    padding: str,
    precision: str = "float32",
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """VGG16 or VGG19 cut after the deepest tap, the same network as `backbones/vgg.py` builds in Keras; see `build`."""
    taps = list(dict.fromkeys(taps))
    last = deepest(weights.backbone, taps)
    ops = Ops(Builder())
    b = ops.builder
    image = ops.input("image", (1, "height", "width", 3))
    card = weights.card
    backwards = card.channel_order == "bgr"
    if backwards:
        # The kernels of the first layer are turned, not the picture: that would be copied, and so would its gradient.
        card = replace(card, channel_order="rgb", mean=card.mean[::-1], std=card.std[::-1])
    x = preprocessed(ops, image, card)
    dtype = _dtype(precision)
    if precision != "float32":
        b.opset = BFLOAT16_OPSET
        x = _in_two_parts(ops, x, dtype)
    block, outputs = "block1", {}
    for name, (kernel, bias) in weights.layers.items():
        if name[:6] != block:
            block = name[:6]
            x = b.op("MaxPool" if pooling == "max" else "AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
        pads = [1, 1, 1, 1]
        if padding == "replicate" and name == "block1_conv1":
            x, pads = _edges_repeated(b, x), [0, 0, 0, 0]
        if name == "block1_conv1" and backwards:
            kernel = kernel[:, :, ::-1]
        if name == "block1_conv1" and precision != "float32":
            kernel = np.concatenate([kernel, kernel], axis=2)
        parameters = [b.constant(kernel.transpose(3, 2, 0, 1), dtype), b.constant(bias, dtype)]
        x = b.op("Relu", b.op("Conv", x, *parameters, kernel_shape=[3, 3], pads=pads))
        if name in taps:
            size = (f"{name}_height", f"{name}_width")
            seen = x if precision == "float32" else b.op("Cast", x, to=int(onnx.TensorProto.FLOAT))
            outputs[name] = ops.tensor(b.op("Transpose", seen, perm=[0, 2, 3, 1]), (1, *size, len(bias)))
        if name == last:
            break
    return ops.model(f"{weights.backbone}_taps", {"image": image}, {name: outputs[name] for name in taps}, metadata)


def preprocessed(ops: Ops, image: Tensor, card: Card) -> str:
    """(1, h, w, 3) RGB in [0, 1] to (1, 3, h, w) as the network wants it."""
    b = ops.builder
    x = b.op("Transpose", image.name, perm=[0, 3, 1, 2])
    if card.channel_order == "bgr":
        x = b.op("Concat", *(b.op("Slice", x, b.ints(i), b.ints(i + 1), b.ints(1)) for i in (2, 1, 0)), axis=1)
    mean, std = np.asarray(card.mean), np.asarray(card.std)
    factor = b.constant((card.range / std).reshape(1, 3, 1, 1), np.float32)
    shift = b.constant((mean / std).reshape(1, 3, 1, 1), np.float32)
    return b.op("Sub", b.op("Mul", x, factor), shift)


def _dtype(precision: str) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, precision.upper().replace("32", ""))))


def _in_two_parts(ops: Ops, x: str, dtype: np.dtype[Any]) -> str:
    """(1, c, h, w) float32 to (1, 2 c, h, w) in a low precision (see `InTwoParts` in `backbones/vgg.py`)."""
    image = ops.tensor(x, (1, 3, "height", "width"))
    high = ops.cast(image, dtype)
    left_over = ops.stop_gradient(image - ops.cast(high, np.float32))
    return ops.builder.op("Concat", high.name, ops.cast(left_over, dtype).name, axis=1)


def _edges_repeated(b: Builder, x: str) -> str:
    """(1, c, h, w) with its outermost pixels once more on every side (see `backbones/vgg.py`)."""
    for axis in (2, 3):
        first = b.op("Slice", x, b.ints(0), b.ints(1), b.ints(axis))
        final = b.op("Slice", x, b.ints(-1), b.ints(np.iinfo(np.int64).max), b.ints(axis))
        x = b.op("Concat", first, x, final, axis=axis)
    return x
