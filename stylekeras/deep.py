"""16 bits a channel in colour, which Pillow reads as 8: by tifffile and imagecodecs, the extra `deep`."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from stylekeras import bombs

INSTALL = "pip install 'stylekeras[deep]'"

# Compressions whose decoders are told how many bytes may come out: none, LZW, deflate (two codes), PackBits, Zstandard.
_COMPRESSIONS = (1, 5, 8, 32946, 32773, 50000)


def here() -> bool:
    """Whether the extra is installed; nothing is imported."""
    return all(util.find_spec(name) is not None for name in ("tifffile", "imagecodecs"))


def read(path: Path, image: Image.Image) -> npt.NDArray[np.uint16] | None:
    """The pixels of a PNG or TIFF as they are in the file, (h, w, 2|3|4) with alpha last, not multiplied into them.

    image: the same file opened by Pillow, its size checked. None for what is not 16-bit RGB or grey with alpha.
    Raises: what the decoders raise of a damaged file.
    """
    return _read_png(path, image) if image.format == "PNG" else _read_tiff(path, image)


def _read_png(path: Path, image: Image.Image) -> npt.NDArray[np.uint16] | None:
    import imagecodecs

    found = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    known = found.dtype == np.uint16 and found.ndim == 3 and found.shape[:2] == (image.height, image.width)
    return found if known else None


def _read_tiff(path: Path, image: Image.Image) -> npt.NDArray[np.uint16] | None:
    import tifffile

    with tifffile.TiffFile(path) as opened:
        page = opened.pages.first
        shape, planes = (page.imagelength, page.imagewidth), page.planarconfig == 2
        known = (
            shape == (image.height, image.width)
            and page.imagedepth == 1
            and (page.bitspersample, page.sampleformat, page.photometric) == (16, 1, 2)  # unsigned RGB
            and page.samplesperpixel == 3 + len(page.extrasamples)
            and tuple(page.extrasamples) in ((), (1,), (2,))
            and page.compression in _COMPRESSIONS
            and (
                not page.is_tiled or page.tilewidth * page.tilelength <= max(bombs.MAX_TILE, image.width * image.height)
            )
        )
        if not known:
            return None
        found: npt.NDArray[Any] = page.asarray(maxworkers=1)
        found = np.moveaxis(found, 0, -1) if planes else found
        if found.shape != (*shape, page.samplesperpixel):
            return None
        if tuple(page.extrasamples) == (1,):
            alpha = np.maximum(found[..., 3:].astype(np.float32), 1)
            found[..., :3] = np.rint(np.minimum(found[..., :3] / alpha, 1) * 65535)
    return np.asarray(found, np.uint16)


def turned(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """(h, w, c) as EXIF's orientation, 1 to 8, says that it is to be seen; a view."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def convert(pixels: npt.NDArray[np.float32], source: bytes, target: bytes) -> npt.NDArray[np.float32]:
    """Colours (h, w, 1|3) in [0, 1] from one ICC profile to another of RGB, in floats, clipped.

    By relative colorimetry with black point compensation, as `profiles` does. Raises: what LittleCMS does not like.
    """
    import imagecodecs

    grey = pixels.shape[2] == 1
    found = imagecodecs.cms_transform(
        np.ascontiguousarray(pixels[..., 0] if grey else pixels, np.float32),
        source,
        target,
        colorspace="gray" if grey else "rgb",
        outcolorspace="rgb",
        intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
        flags=imagecodecs.CMS.FLAGS.BLACKPOINTCOMPENSATION,
    )
    return np.clip(np.asarray(found, np.float32), 0, 1)
