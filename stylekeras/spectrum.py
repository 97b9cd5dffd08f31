"""How steep a loss is by colour and spatial frequency, and pictures divided by that: a first guess for L-BFGS.

Networks trained on photographs see fine detail in brightness far better than in colour, and coarse brightness less than
coarse colour, so the curvature of a loss on their features differs many times between directions known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from stylekeras import blocks

# Brightness and two differences of colours, orthonormal.
_OPPONENT = np.linalg.qr(np.array([[1.0, 1, 1], [1, -1, 0], [1, 1, -2]]).T)[0]


@dataclass(frozen=True)
class Curvature:
    """Relative curvature (> 0) of brightness and of colour differences at some frequencies, in cycles per pixel.

    Between them it is interpolated in logarithms, beyond them constant.
    """

    frequencies: Sequence[float]
    brightness: Sequence[float]
    colour: Sequence[float]

    def response(self, height: int, width: int) -> np.ndarray:
        """1 / curvature for brightness and colour, (2, height, width, 1) float32, in the order of `fft2`."""
        down, across = np.fft.fftfreq(height), np.fft.fftfreq(width)
        knots = np.log(self.frequencies)
        found = np.empty((2, height, width, 1), np.float32)
        for rows in blocks.rows((height, width)):
            frequency = np.hypot(down[rows, None], across[None])
            at = np.log(np.maximum(frequency, min(self.frequencies)))
            for i, values in enumerate((self.brightness, self.colour)):
                found[i, rows, :, 0] = np.exp(np.interp(at, knots, -np.log(values)))
        return found


def flatten(ops: Any, response: Any, image: Any) -> Any:
    """P image: an image (1, h, w, 3) filtered by a `Curvature.response`, linear, symmetric and positive."""
    if hasattr(ops, "flatten"):
        return ops.flatten(response, image)
    height, width = ops.shape(image)[1:3]
    planes = ops.reshape(opponent(ops, ops.reshape(ops.transpose(image, (3, 0, 1, 2)), (3, -1))), (3, height, width))
    # Some namespaces have transforms for real planes, all for complex ones.
    filtered = (ops.filter if hasattr(ops, "filter") else partial(_filter, ops))(response[..., 0], planes)
    found = ops.reshape(colours(ops, ops.reshape(filtered, (3, -1))), (3, 1, height, width))
    return ops.stack([found[0], found[1], found[2]], axis=-1)


def opponent(ops: Any, colours: Any) -> Any:
    """Brightness and two differences of colours from red, green and blue, (3, n)."""
    return ops.matmul(ops.cast(_OPPONENT.T, colours.dtype), colours)


def colours(ops: Any, opponent: Any) -> Any:
    """Red, green and blue from brightness and differences, (3, n)."""
    return ops.matmul(ops.cast(_OPPONENT, opponent.dtype), opponent)


def _filter(ops: Any, gain: Any, planes: Any) -> Any:
    """Three planes (3, h, w), the Fourier transform of the first times gain[0], those of the others times gain[1]."""
    # The others are filtered alike, so one transform does, as real and imaginary part.
    real, imaginary = ops.fft2((planes[:2], ops.stack([ops.zeros_like(planes[2]), planes[2]])))
    real, imaginary = ops.ifft2((gain * real, gain * imaginary))
    return ops.stack([real[0], real[1], imaginary[1]])
