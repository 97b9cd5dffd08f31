"""Colour profiles (ICC): which are sRGB, and the way from others to it and back."""

from __future__ import annotations

import functools
import io
import logging
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, features

from stylekeras import deep
from stylekeras.errors import RequestError
from stylekeras.files import reason

logger = logging.getLogger("stylekeras")

Convert = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]

# A table for a press has 3 MB, one for a screen a few kilobytes.
MAX_BYTES = 8 << 20


@functools.cache
def srgb() -> bytes:
    """LittleCMS' profile of sRGB, 600 bytes; none where Pillow was built without it."""
    if not features.check("littlecms2"):
        return b""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # Without the time it was made, so that the same picture is the same file.
    return profile[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + profile[36:]


def is_srgb(profile: bytes) -> bool:
    """Whether a profile says that it is sRGB; False for one that cannot be read."""
    try:
        return "sRGB" in (ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))) or "")
    except Exception:  # damaged, or Pillow without LittleCMS
        return False


def to_srgb(mode: str, profile: bytes, label: str) -> ImageCms.ImageCmsTransform | None:
    """From an embedded profile in L, RGB or CMYK to sRGB, 8 bits; None if it is sRGB already or cannot be used."""
    try:
        return None if is_srgb(profile) else _transform(profile, srgb(), mode)
    except Exception as error:  # a wrong or broken profile; Pillow without LittleCMS
        logger.warning("%s: its colour profile cannot be used, taken as sRGB (%s)", label, reason(error))
        return None


def to_srgb_deep(profile: bytes, channels: int, label: str) -> Convert | None:
    """As `to_srgb`, of floats (h, w, 1) or (h, w, 3); the extra `deep` has to be here."""
    convert = functools.partial(deep.convert, source=profile, target=srgb())
    try:
        if is_srgb(profile):
            return None
        convert(np.zeros((1, 1, channels), np.float32))
        return convert
    except Exception as error:
        logger.warning("%s: its colour profile cannot be used, taken as sRGB (%s)", label, reason(error))
        return None


def from_srgb(profile: bytes, depth: int) -> Convert:
    """The way of a picture (h, w, 3), floats in [0, 1], from sRGB into a profile, for that many bits a channel.

    With the extra `deep` in floats, else in 8 bits.
    Raises: RequestError for a profile that is not one of RGB or cannot be used, and for 16 bits without the extra.
    """
    name = {b"CMYK": "CMYK", b"GRAY": "grey"}.get(profile[16:20], "another kind")
    if profile[16:20] != b"RGB " or len(profile) > MAX_BYTES:
        what = f"is for {name}" if profile[16:20] != b"RGB " else f"has {len(profile)} bytes"
        raise RequestError(f"the photo's colour profile {what}, a picture is RGB: leave it sRGB")
    if depth > 8 and not deep.here():
        raise RequestError(f"16 bits in the photo's colour profile need tifffile and imagecodecs: {deep.INSTALL}")
    try:
        if deep.here():
            convert: Convert = functools.partial(deep.convert, source=srgb(), target=profile)
        else:
            convert = functools.partial(_in_bytes, _transform(srgb(), profile, "RGB"))
        convert(np.zeros((1, 1, 3), np.float32))
    except Exception as error:
        raise RequestError(f"the photo's colour profile cannot be used ({reason(error)}): leave it sRGB") from error
    return convert


def _transform(source: bytes, target: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(source)),
        ImageCms.ImageCmsProfile(io.BytesIO(target)),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _in_bytes(transform: ImageCms.ImageCmsTransform, pixels: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    rounded = Image.fromarray(np.asarray(np.rint(np.clip(pixels, 0, 1) * 255), np.uint8))
    return np.asarray(transform.apply(rounded), np.float32) / np.float32(255)
