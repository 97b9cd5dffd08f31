"""VGG16 and VGG19 (Simonyan and Zisserman 2015) from `keras.applications`, cut after the deepest tap.

Needs Keras: import this only once the engine has fixed Keras' backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from stylekeras.preprocessing import affine, scale
from stylekeras.weights import Weights, deepest

_FAMILY = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}


def _network(name: str) -> keras.Model:
    """Keras' own model, channels last whatever the user's Keras is set to."""
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        return _FAMILY[name](include_top=False, weights=None, input_shape=(None, None, 3))
    finally:
        keras.config.set_image_data_format(before)


class Preprocess(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Image (1, h, w, 3) RGB in [0, 1] to the weight set's own range, channels still in RGB order.

    Written out because `keras.applications.*.preprocess_input` changes a float array in place.
    """

    def __init__(self, weights: Weights, *, scale: float = 1.0, **options: Any) -> None:
        """`scale` is what that range is multiplied by."""
        super().__init__(trainable=False, **options)
        self._factor, self._shift = affine(weights, scale)

    def call(self, image: Any) -> Any:
        """(1, h, w, 3) in [0, 1] to (1, h, w, 3) in the network's range."""
        return keras.ops.subtract(keras.ops.multiply(image, self._factor), self._shift)


class InTwoParts(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """A picture in a low precision and, as further channels, what that leaves over.

    bfloat16 alone has steps of half a grey level: too coarse for the small changes of a picture that is nearly done.
    """

    def call(self, image: Any) -> Any:
        """(1, h, w, c) float32 to (1, h, w, 2 c) in the layer's precision; the gradient is that of the first c."""
        high = keras.ops.cast(image, self.compute_dtype)
        left_over = keras.ops.stop_gradient(image - keras.ops.cast(high, image.dtype))
        return keras.ops.concatenate([high, keras.ops.cast(left_over, self.compute_dtype)], axis=-1)


class Widen(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Features in a low precision as float32, divided by the scale that the network ran at."""

    def __init__(self, scale: float, **options: Any) -> None:
        super().__init__(trainable=False, dtype="float32", autocast=False, **options)
        self._scale = scale

    def call(self, features: Any) -> Any:
        """(1, h, w, c) to (1, h, w, c) float32."""
        return keras.ops.cast(features, "float32") / self._scale


class ReplicateEdge(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
    """Repeat the outermost pixels once on every side.

    Zeros beyond the border of the first convolution draw a coloured frame; as in Crowson's style-transfer-pytorch it is
    enough to replicate there.
    """

    def call(self, image: Any) -> Any:
        """(1, h, w, c) to (1, h + 2, w + 2, c)."""
        image = keras.ops.concatenate([image[:, :1], image, image[:, -1:]], axis=1)
        return keras.ops.concatenate([image[:, :, :1], image, image[:, :, -1:]], axis=2)


def build(weights: Weights, taps: Iterable[str], *, pooling: str, padding: str, dtype: str) -> keras.Model:
    """The frozen network as image -> {tap: features}, each tap after its ReLU.

    Args:
        weights: kernels and preprocessing.
        taps: any `blockB_convN`.
        pooling: "max" or "average". Averages are not rescaled: relative losses divide the change of scale out.
        padding: "replicate" or "zeros" around the picture; deeper convolutions pad with zeros as the network was
            trained to.
        dtype: arithmetic and kernels inside; taps come out as float32. In float16, gradients need loss scaling.

    Returns: a model from (1, h, w, 3) float32 in [0, 1], any h and w from 32 up, to {tap: (1, h', w', c) float32}.
    Raises: SettingsError for an unknown tap.
    """
    taps = list(dict.fromkeys(taps))
    last = deepest(weights.backbone, taps)
    network = _network(weights.backbone)
    image = keras.Input((None, None, 3), batch_size=1, dtype="float32", name="image")
    factor = scale(weights, dtype)
    x = Preprocess(weights, scale=factor, dtype="float32")(image)
    if dtype != "float32":
        x = InTwoParts(dtype=dtype, autocast=False)(x)
    outputs = {}
    for layer in network.layers[1:]:
        if isinstance(layer, keras.layers.Conv2D):
            config = {**layer.get_config(), "dtype": dtype, "trainable": False, "data_format": "channels_last"}
            # Repeated in deeper convolutions too, edges draw a weave of horizontal and vertical lines inwards.
            if padding == "replicate" and layer.name == "block1_conv1":
                config["padding"] = "valid"
                x = ReplicateEdge(dtype=dtype)(x)
            convolution = keras.layers.Conv2D.from_config(config)
            x = convolution(x)
            kernel, bias = weights.layers[layer.name]
            if layer.name == "block1_conv1" and weights.card.channel_order == "bgr":
                kernel = kernel[:, :, ::-1]
            if layer.name == "block1_conv1" and dtype != "float32":
                kernel = np.concatenate([kernel, kernel], axis=2)
            convolution.set_weights([kernel, factor * bias])
        else:
            kind = keras.layers.AveragePooling2D if pooling == "average" else keras.layers.MaxPooling2D
            x = kind(2, name=layer.name, dtype=dtype, data_format="channels_last")(x)
        if layer.name in taps:
            outputs[layer.name] = x if dtype == "float32" else Widen(factor)(x)
        if layer.name == last:
            break
    return keras.Model(image, outputs, name=f"{weights.backbone}_taps", trainable=False)
