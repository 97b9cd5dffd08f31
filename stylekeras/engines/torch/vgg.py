"""VGG in PyTorch's own operators: the network that `backbones/vgg.py` builds in Keras, to the last bit on a processor.

Channels last all the way (Keras' layers bring each picture from there to channels first and back), bias and ReLU in the
convolution's own kernel, and the gradient as a convolution with the kernel turned by half a circle: the only one of
cuDNN's algorithms for it that is fast for all sizes in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from stylekeras import preprocessing
from stylekeras.weights import Weights, deepest

# Channels of a picture in two parts, for which GPUs' matrix units want a multiple of eight.
_PARTS = 8


def build(
    weights: Weights, taps: Iterable[str], *, pooling: str, padding: str, dtype: str, device: str
) -> Callable[[Any], dict[str, Any]]:
    """The frozen network; arguments, what it makes of a picture, and errors as in `backbones/vgg.py`.

    Returns: a function from (1, h, w, 3) float32 in [0, 1] to {tap: (1, h', w', c) float32}.
    """
    taps = list(dict.fromkeys(taps))
    last = deepest(weights.backbone, taps)
    factor, low = preprocessing.scale(weights, dtype), dtype != "float32"
    preparation = _preparation(weights, factor, padding, dtype, device)
    layers: list[tuple[str, _Layer | None]] = []
    for name, (kernel, bias) in weights.layers.items():
        if layers and name[:6] != layers[-1][0][:6]:
            layers.append((name[:6], None))
        first = name == "block1_conv1"
        if first and weights.card.channel_order == "bgr":
            kernel = kernel[:, :, ::-1]
        channels = kernel.shape[2]
        if first and low:
            none = np.zeros((3, 3, _PARTS - 2 * channels, kernel.shape[3]), kernel.dtype)
            kernel = np.concatenate([kernel, kernel, none], axis=2)
        pad = 0 if first and padding == "replicate" else 1
        layers.append((name, _layer(kernel, factor * bias, channels, pad, dtype, device)))
        if name == last:
            break

    def features(image: Any) -> dict[str, Any]:
        x, found = _Entry.apply(image, preparation), {}
        for name, layer in layers:
            if layer is None:
                x = _Average.apply(x) if pooling == "average" else functional.max_pool2d(x, 2)
                continue
            x = _Convolution.apply(x, layer)
            if name in taps:
                seen = x.permute(0, 2, 3, 1)
                found[name] = seen.float() / factor if factor != 1 else seen.float()
        return found

    return features


class _Layer(NamedTuple):
    """A convolution's kernel (o, i, 3, 3), bias (o,), padding, and the kernel turned, (i, o, 3, 3)."""

    kernel: Any
    bias: Any
    padding: int
    turned: Any


def _layer(kernel: np.ndarray, bias: np.ndarray, seen: int, padding: int, dtype: str, device: str) -> _Layer:
    """From (3, 3, i, o); only the first `seen` channels of what enters have a gradient."""

    def placed(array: np.ndarray) -> Any:
        tensor = torch.tensor(np.ascontiguousarray(array, np.float32)).to(device, getattr(torch, dtype))
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    turned = np.where(np.arange(kernel.shape[2])[:, None] < seen, kernel[::-1, ::-1], 0)
    return _Layer(placed(kernel.transpose(3, 2, 0, 1)), placed(bias), padding, placed(turned.transpose(2, 3, 0, 1)))


class _Convolution(torch.autograd.Function):  # type: ignore[misc]  # untyped where PyTorch is missing
    """A 3x3 convolution, bias and ReLU, (1, i, h, w) to (1, o, h', w')."""

    @staticmethod
    def forward(context: Any, x: Any, layer: _Layer) -> Any:
        kernel, bias, padding, _ = layer
        # cuDNN counts in 32 bits; PyTorch's own convolution knows what to do then.
        largest = max(x.numel(), x[0, 0].numel() * len(bias))
        if x.is_cuda and not torch.version.hip and torch.backends.cudnn.enabled and largest < 2**31:
            y = torch.cudnn_convolution_relu(x, kernel, bias, (1, 1), (padding, padding), (1, 1), 1)
        else:
            y = functional.conv2d(x, kernel, bias, padding=padding).relu_()
        context.layer = layer
        context.save_for_backward(y)
        return y

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        (y,) = context.saved_tensors
        layer = context.layer
        # Of a ReLU: 0 where it gave 0.
        gradient = torch.ops.aten.threshold_backward(gradient, y, 0)
        return functional.conv2d(gradient, layer.turned, padding=2 - layer.padding), None


class _Average(torch.autograd.Function):  # type: ignore[misc]  # untyped where PyTorch is missing
    """Averages over 2x2; PyTorch's own gradient of it takes several times as long on a GPU."""

    @staticmethod
    def forward(context: Any, x: Any) -> Any:
        context.shape = x.shape
        return functional.avg_pool2d(x, 2)

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        _, channels, height, width = context.shape
        rows, columns = gradient.shape[2:]
        quarter = (0.25 * gradient).permute(0, 2, 3, 1)[:, :, None, :, None]
        found = quarter.expand(1, rows, 2, columns, 2, channels).reshape(1, 2 * rows, 2 * columns, channels)
        if (height, width) != (2 * rows, 2 * columns):
            # What is left over at an odd end was not looked at.
            found = functional.pad(found, (0, 0, 0, width - 2 * columns, 0, height - 2 * rows))
        return found.permute(0, 3, 1, 2)


class _Preparation(NamedTuple):
    """What is done with a picture before the network: times `factor` (3,), less `shift` (3,), edges repeated or not."""

    factor: Any
    shift: Any
    repeated: bool
    dtype: Any


def _preparation(weights: Weights, scale: float, padding: str, dtype: str, device: str) -> _Preparation:
    factor, shift = (torch.tensor(value, device=device) for value in preprocessing.affine(weights, scale))
    return _Preparation(factor, shift, padding == "replicate", getattr(torch, dtype))


class _Entry(torch.autograd.Function):  # type: ignore[misc]  # untyped where PyTorch is missing
    """A picture (1, h, w, 3) to (1, channels, h', w') in the network's precision, in two parts if that is low."""

    @staticmethod
    def forward(context: Any, image: Any, done: _Preparation) -> Any:
        context.done = done
        x = image * done.factor - done.shift
        if done.repeated:
            x = torch.cat([x[:, :1], x, x[:, -1:]], 1)
            x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], 2)
        if done.dtype != torch.float32:
            high = x.to(done.dtype)
            left_over = (x - high.float()).to(done.dtype)
            none = high.new_zeros((*high.shape[:3], _PARTS - 2 * high.shape[3]))
            x = torch.cat([high, left_over, none], 3)
        return x.permute(0, 3, 1, 2)

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        done = context.done
        found = gradient[:, :3].permute(0, 2, 3, 1).float() * done.factor
        if done.repeated:
            # To the pixels that the repeated ones are copies of.
            for axis in (1, 2):
                inner = found.narrow(axis, 1, found.shape[axis] - 2).contiguous()
                inner.select(axis, 0).add_(found.select(axis, 0))
                inner.select(axis, -1).add_(found.select(axis, -1))
                found = inner
        return found, None
