"""OpenVINO's graph of a network in bfloat16 with channels last, its convolutions and pools by our machine code.

For processors that multiply matrices (Intel's AMX). What `channels_last` does for float32, for all of a network or none
of it: OpenVINO has features with channels last in memory by itself, but only where it convolves itself, and with
channels first wherever our code stands between.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stylekeras.graphs import channels_last
from stylekeras.graphs.channels_last import Layers

_LOW = "bf16"


def rewrite(model: Any, opset: Any, layers: Layers) -> int:
    """Change a model of known sizes, constants folded, in place.

    Returns: how many convolutions our code now does: all or none, and in that case the model is as it was.
    """
    nodes = model.get_ordered_ops()
    known = all(_is_known(node, layers) for node in nodes)
    return _Writer(opset, layers).write(model) if known and any(map(_is_convolution, nodes)) else 0


def _is_convolution(node: Any) -> bool:
    return bool(node.get_type_name() == "Convolution")


def _is_known(node: Any, layers: Layers) -> bool:
    """Whether a node is none that only OpenVINO's own layouts are for."""
    kind = node.get_type_name()
    if kind == "Convolution":
        weights = channels_last.plain_kernel(node, _LOW)
        return weights is not None and not any(each % 2 for each in weights.shape[:2])
    if kind in ("MaxPool", "AvgPool"):
        plain = channels_last.pools(node) == kind and node.get_output_element_type(0).get_type_name() == _LOW
        return plain and int(node.get_output_shape(0)[1]) % layers.multiple == 0
    return kind not in ("GroupConvolution", "ConvolutionBackpropData")


class _Writer(channels_last.Writer):
    kind, group = _LOW, 32

    def _is_ours(self, node: Any) -> bool:
        return _is_convolution(node)

    def _written(self, node: Any, kind: str) -> Any:
        if kind in ("MaxPool", "AvgPool"):
            return self._resized(node, kind, self._with_channels_last(node.input_value(0)))
        return super()._written(node, kind)

    def _constant_like(self, value: np.ndarray, tensor: Any) -> Any:
        made = super()._constant_like(value, tensor)
        return self._opset.convert(made, _LOW) if tensor.get_element_type().get_type_name() == _LOW else made
