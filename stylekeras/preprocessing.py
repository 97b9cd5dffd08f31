"""How a picture enters VGG, in numbers: the weight set's own range, and the scale that float16 needs."""

from __future__ import annotations

import numpy as np

from stylekeras.weights import Weights

# The largest value of a picture that enters a network in float16. Features grow from there by up to two orders of
# magnitude; float16 ends at 65,504.
_LARGEST = 8.0


def scale(weights: Weights, dtype: str) -> float:
    """The power of two at which the network runs, which keeps float16 from overflowing.

    Convolutions with their biases scaled likewise, ReLU and pooling give features at the same scale, to the last bit.
    """
    if dtype != "float16":
        return 1.0
    card = weights.card
    ends = [(end - mean) / std for end in (0.0, card.range) for mean, std in zip(card.mean, card.std, strict=True)]
    return float(2.0 ** np.floor(np.log2(_LARGEST / np.abs(ends).max())))


def affine(weights: Weights, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """What an image RGB in [0, 1] is multiplied by, and what is subtracted then, (3,) float32 each, for the weight
    set's own range times `scale`."""
    flip = -1 if weights.card.channel_order == "bgr" else 1
    std = np.asarray(weights.card.std[::flip])
    factor = np.asarray(scale * weights.card.range / std, np.float32)
    return factor, np.asarray(scale * np.asarray(weights.card.mean[::flip]) / std, np.float32)
