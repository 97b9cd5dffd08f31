"""How steep a loss is by colour and spatial frequency, and pictures divided by that: a first guess for L-BFGS.

Networks trained on photographs see fine detail in brightness far better than in colour, and coarse brightness less than
coarse colour, so the curvature of a loss on their features differs many times between directions known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
        at = np.log(np.maximum(frequency, min(self.frequencies)))
        knots = np.log(self.frequencies)
        both = [np.interp(at, knots, -np.log(values)) for values in (self.brightness, self.colour)]
        return np.exp(both)[..., None].astype(np.float32)


def flatten(ops: Any, response: Any, image: Any) -> Any:
    """P image: an image (1, h, w, 3) filtered by a `Curvature.response`, linear, symmetric and positive."""
    gain = response[..., 0]
    real, imaginary = _transform(ops, image)
    real, imaginary = ops.ifft2((gain * real, gain * imaginary))
    opponent = ops.reshape(ops.stack([real[0], real[1], imaginary[1]]), (3, -1))
    colours = ops.matmul(ops.transpose(opponent), ops.cast(_OPPONENT.T, image.dtype))
    return ops.reshape(colours, ops.shape(image))


def energy(ops: Any, response: Any, image: Any) -> Any:
    """image . P image, with half the work (Parseval)."""
    real, imaginary = _transform(ops, image)
    # The mean over one plane's positions is the sum divided by their number.
    return 2 * ops.mean(response[..., 0] * (ops.square(real) + ops.square(imaginary)))


def _transform(ops: Any, image: Any) -> tuple[Any, Any]:
    """(1, h, w, 3) to the Fourier transforms of brightness and of both colour differences, (2, h, w)."""
    opponent = ops.transpose(ops.matmul(ops.reshape(image, (-1, 3)), ops.cast(_OPPONENT, image.dtype)))
    planes = ops.reshape(opponent, (3, ops.shape(image)[1], ops.shape(image)[2]))
    # Both differences are filtered alike, so one transform does, as real and imaginary part.
    found: tuple[Any, Any] = ops.fft2((planes[:2], ops.stack([ops.zeros_like(planes[2]), planes[2]])))
    return found
