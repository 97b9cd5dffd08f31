"""Colour: sRGB, linear light and OkLab, and two ways to keep or move the colours of a picture.

Pure functions on (h, w, 3) float arrays; float32 stays float32, float64 stays float64.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stylekeras import blocks
from stylekeras.errors import ImageError

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

# A standard deviation of 0.001, a quarter of an 8-bit step: directions of colour space that vary less than this are
# rounding noise in a grey or flat picture, and are not blown up to the reference's spread.
EPSILON = 1e-6

# Linear sRGB -> cone response, and its cube root -> OkLab (Ottosson 2020, https://bottosson.github.io/posts/oklab/).
_RGB_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_LMS_TO_RGB = np.linalg.inv(_RGB_TO_LMS)
_LAB_TO_LMS = np.linalg.inv(_LMS_TO_LAB)

# How far outside [0, 1] linear light may be and still count as displayable: below a third of an 8-bit step.
_GAMUT_SLACK = 1e-4


def srgb_to_linear(image: npt.ArrayLike) -> Floats:
    """sRGB values in [0, 1] to linear light in [0, 1] (IEC 61966-2-1), any shape; negative values stay linear."""
    x = _floats(image)
    return np.where(x <= 0.04045, x / 12.92, ((np.maximum(x, 0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(image: npt.ArrayLike) -> Floats:
    """Linear light in [0, 1] to sRGB values in [0, 1]: the inverse of `srgb_to_linear`, any shape."""
    x = _floats(image)
    return np.where(x <= 0.0031308, x * 12.92, 1.055 * np.maximum(x, 0) ** (1 / 2.4) - 0.055)


def linear_to_oklab(image: npt.ArrayLike) -> Floats:
    """Linear sRGB (..., 3) to OkLab (..., 3): lightness in [0, 1], a (green to red), b (blue to yellow)."""
    return _apply(_LMS_TO_LAB, np.cbrt(_apply(_RGB_TO_LMS, _floats(image))))


def oklab_to_linear(image: npt.ArrayLike) -> Floats:
    """OkLab (..., 3) to linear sRGB (..., 3), the inverse of `linear_to_oklab`; outside [0, 1] if not displayable."""
    return _apply(_LMS_TO_RGB, _cube(_apply(_LAB_TO_LMS, _floats(image))))


def match(image: npt.ArrayLike, reference: npt.ArrayLike, amount: float = 1.0) -> Floats:
    """Give `image` the colours of `reference`: the same mean and covariance of its sRGB values.

    Among the linear maps that do so, this is the one that moves colours least: the Monge-Kantorovich map
    T = S^-1/2 (S^1/2 R S^1/2)^1/2 S^-1/2 of Pitie and Kokaram, "The linear Monge-Kantorovitch linear colour mapping
    for example-based colour transfer" (2007), S and R being the two covariances. It differs from Gatys et al.,
    "Preserving color in neural artistic style transfer" (2016), who use R^1/2 S^-1/2 (which may rotate hues), and in
    the regularisation of both covariances by `EPSILON`.

    With an `amount` below 1 every colour goes that share of its way, (1 - amount) x + amount T(x): of all ways from the
    one distribution of colours to the other the shortest (McCann's interpolation), without a muddy mixture halfway.

    image: (h, w, 3) in [0, 1]; reference: (h', w', 3) in [0, 1]; amount: in [0, 1], 0 changes nothing.
    Returns: (h, w, 3) in [0, 1], clipped, so mean and covariance are exact only where nothing had to be clipped.
    Raises `ImageError` for other shapes.
    """
    x, y = _pictures(image, reference)
    if amount == 0:
        return x.copy()
    mean, covariance = _statistics(x)
    target_mean, target_covariance = _statistics(y)
    root = _matrix_power(covariance, 0.5)
    inverse_root = _matrix_power(covariance, -0.5)
    transform = inverse_root @ _matrix_power(root @ target_covariance @ root, 0.5) @ inverse_root
    transform = (1 - amount) * np.eye(3) + amount * transform
    target_mean = (1 - amount) * mean + amount * target_mean
    moved = np.empty(x.shape, x.dtype)
    for rows in blocks.rows(x.shape):
        colours = _apply(transform, x[rows] - mean.astype(x.dtype)) + target_mean.astype(x.dtype)
        np.clip(colours, 0, 1, out=moved[rows])
    return moved


def luminance(stylised: npt.ArrayLike, photo: npt.ArrayLike, amount: float = 1.0) -> Floats:
    """The lightness of `stylised` with the chroma and hue of `photo`, in OkLab (Ottosson 2020).

    Where the two do not fit into sRGB together, the chroma is reduced: lightness (the brush strokes) and hue stay.

    With an `amount` below 1 the chroma is that share of the photo's and the rest of `stylised`'s own, mixed in OkLab's
    a and b, where equal steps look equal.

    stylised, photo: (h, w, 3) in [0, 1], of the same shape. amount: in [0, 1], 0 changes nothing.
    Returns: (h, w, 3) in [0, 1]. Raises `ImageError` for other or different shapes.
    """
    x, y = _pictures(stylised, photo)
    if x.shape != y.shape:
        raise ImageError(
            f"colours of a {_size(y)} photo for a {_size(x)} picture: resize the photo to the picture first"
        )
    if amount == 0:
        return x.copy()
    result = np.empty(x.shape, x.dtype)
    for rows in blocks.rows(x.shape):
        lab, own = linear_to_oklab(srgb_to_linear(y[rows])), linear_to_oklab(srgb_to_linear(x[rows]))
        lab[..., 0] = np.clip(own[..., 0], 0, 1)
        lab[..., 1:] = (1 - amount) * own[..., 1:] + amount * lab[..., 1:]
        result[rows] = np.clip(linear_to_srgb(_displayable(lab)), 0, 1)
    return result


def _displayable(lab: Floats) -> Floats:
    """OkLab (h, w, 3) with lightness in [0, 1] to linear sRGB in [0, 1], by the largest chroma that fits."""
    linear = oklab_to_linear(lab)
    outside = ~_fits(np.moveaxis(linear, -1, 0))
    # In planes (3, n): reducing a last axis of length 3 would take most of the time.
    colours = lab[outside].T
    # The cube roots of the cone responses are linear in OkLab, and for a grey all three are its lightness.
    grey = colours[:1]
    chroma = _LAB_TO_LMS.astype(lab.dtype) @ colours - grey
    to_rgb = _LMS_TO_RGB.astype(lab.dtype)
    low = np.zeros_like(grey)  # a grey of that lightness always fits
    high = np.ones_like(grey)
    for _ in range(12):  # bisect the share of the chroma that is kept, to 1/4096
        middle = (low + high) / 2
        fits = _fits(to_rgb @ _cube(grey + middle * chroma))
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    linear[outside] = (to_rgb @ _cube(grey + low * chroma)).T
    return np.clip(linear, 0, 1)


def _fits(planes: Floats) -> npt.NDArray[np.bool_]:
    """Where linear light in planes (3, ...) can be displayed."""
    return np.asarray(((planes >= -_GAMUT_SLACK) & (planes <= 1 + _GAMUT_SLACK)).all(axis=0))


def _apply(matrix: npt.NDArray[np.float64], colours: Floats) -> Floats:
    """A 3x3 matrix times every colour of (..., 3); one matrix product, since one a row of pixels is slow."""
    return (colours.reshape(-1, 3) @ matrix.T.astype(colours.dtype)).reshape(colours.shape)


def _cube(x: Floats) -> Floats:
    return x * x * x  # `x**3` is a call of `pow`, ten times slower


def _statistics(image: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean (3,) and regularised covariance (3, 3) of an image's colours, in float64."""
    count = image.shape[0] * image.shape[1]
    total, products = np.zeros(3), np.zeros((3, 3))
    for rows in blocks.rows(image.shape):
        total += image[rows].reshape(-1, 3).astype(np.float64).sum(axis=0)
    mean = total / count
    for rows in blocks.rows(image.shape):
        centred = image[rows].reshape(-1, 3).astype(np.float64) - mean
        products += centred.T @ centred
    return mean, products / count + EPSILON * np.eye(3)


def _matrix_power(matrix: npt.NDArray[np.float64], power: float) -> npt.NDArray[np.float64]:
    """Power of a symmetric positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    # Positive by `EPSILON` already; the floor (of a product of two such) only guards against rounding.
    return np.asarray((vectors * np.maximum(values, EPSILON**2) ** power) @ vectors.T)


def _pictures(*images: npt.ArrayLike) -> tuple[Floats, ...]:
    arrays = tuple(_floats(image) for image in images)
    for array in arrays:
        if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
            raise ImageError(f"expected a picture of shape (h, w, 3), not {array.shape}")
    return arrays


def _floats(image: npt.ArrayLike) -> Floats:
    array = np.asarray(image)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _size(image: Floats) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
