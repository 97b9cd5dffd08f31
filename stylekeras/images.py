"""Image files: reading, resizing and writing. Everywhere else an image is float32 RGB in [0, 1], (h, w, 3)."""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from stylekeras import recipe as recipes
from stylekeras.color import linear_to_srgb, srgb_to_linear
from stylekeras.errors import ImageError, OutputError, RequestError, RunError
from stylekeras.files import check_destination, reason, write

logger = logging.getLogger("stylekeras")

Picture: TypeAlias = npt.NDArray[np.float32]
ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]

# VGG halves the image four times before its deepest usual tap: below this there is nothing left to take statistics of.
MIN_SIDE = 32

# A file of a few kilobytes can claim any size and fill the memory when decoded (a "decompression bomb"). This is where
# Pillow begins to warn: 1 GiB as float32. Larger pictures can still be passed as arrays.
MAX_PIXELS = 89_478_485

# What is tried on a file. Not all that Pillow knows: it hands EPS to Ghostscript, and rare decoders are rarely fuzzed.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "BMP", "GIF", "PPM", "JPEG2000")

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")

# Rounding noise of other people's resampling, not a wrong range.
_RANGE_SLACK = 1e-5


def load_image(source: ImageSource, *, name: str = "image", min_side: int = MIN_SIDE) -> Picture:
    """Read a picture as it is meant to be seen.

    source: a path (PNG, JPEG, TIFF, WebP, AVIF, BMP, GIF, PPM, JPEG 2000, .npy), a PIL image, or an array (h, w),
        (h, w, 1), (h, w, 3) or (h, w, 4) of bool, uint8, uint16, or float in [0, 1].
    name: what messages call it ("content image").
    min_side: the least height and width in pixels.

    The EXIF orientation is applied; an embedded colour profile is converted to sRGB; grey becomes RGB; transparency is
    composited over white, in sRGB values as browsers do; of an animation the first frame is used, with a logged
    warning. Grey keeps its 16 bits, but of 16-bit RGB files Pillow keeps the upper 8 (logged at level INFO; load them
    with another reader and pass the uint16 array to keep all).

    Returns: (h, w, 3) float32 RGB in [0, 1], never a view of the source.
    Raises `ImageError` for whatever cannot be read or is not usable as it is.
    """
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise ImageError(f"{name}: the file name is empty")
        label = f"{name} {os.fspath(source)}"
        pixels = _read_file(Path(source), label)
    elif isinstance(source, Image.Image):
        label = name
        pixels = _decode(source, label)
    elif hasattr(source, "__array__"):
        label = name
        pixels = _from_array(np.asarray(source), label)
    else:
        raise ImageError(f"{name}: expected a path, a PIL image or a NumPy array, not {type(source).__name__}")
    height, width = pixels.shape[:2]
    if min(height, width) < min_side:
        raise ImageError(f"{label}: {width} x {height} px is too small; at least {min_side} px a side are needed")
    return pixels


def fit_shape(height: int, width: int, longest: int) -> tuple[int, int]:
    """The (height, width) whose longest side is `longest`, of the same aspect ratio; halves round up, at least 1."""
    if min(height, width, longest) < 1:
        raise RequestError(f"cannot fit {width} x {height} px to {longest} px: sizes start at 1")
    side = max(height, width)
    return (
        max(1, (2 * height * longest + side) // (2 * side)),
        max(1, (2 * width * longest + side) // (2 * side)),
    )


def fit(image: Picture, longest: int) -> Picture:
    """`resize` (h, w, c) to the longest side `longest`, keeping the aspect ratio; see `fit_shape` and `resize`."""
    height, width = fit_shape(image.shape[0], image.shape[1], longest)
    return resize(image, height, width)


def resize(image: Picture, height: int, width: int, *, linear: bool = True) -> Picture:
    """Resize by Lanczos' filter, antialiased when the image shrinks.

    image: (h, w, c) floats in [0, 1], any number of channels. linear: average light, as a camera or an eye does,
    instead of sRGB values, so fine patterns keep their brightness; turn it off for masks and other non-colours.

    Returns: (height, width, c) float32, clipped to [0, 1] (the filter overshoots); an exact copy if the size is the
    same. Raises `RequestError` for a size below 1.
    """
    if min(height, width) < 1:
        raise RequestError(f"cannot resize to {width} x {height} px: sizes start at 1")
    image = np.array(image, dtype=np.float32)
    if image.shape[:2] == (height, width):
        return image
    light = srgb_to_linear(image) if linear else image
    resized = np.empty((height, width, image.shape[2]), np.float32)
    for channel in range(image.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(light[..., channel], dtype=np.float32))  # mode "F"
        resized[..., channel] = np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS))
    values = linear_to_srgb(resized) if linear else resized
    return np.clip(values, 0, 1).astype(np.float32, copy=False)


def to_uint8(image: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """Finite floats of any shape to uint8: clipped to [0, 1], times 255, rounded to the nearest."""
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), dtype=np.uint8)


def check_output(
    path: str | os.PathLike[str], *, overwrite: bool = False, inputs: Iterable[str | os.PathLike[str]] = ()
) -> None:
    """Raise `OutputError` if `save_image` could not write there; writes nothing.

    Found: an unknown ending, an existing file (unless `overwrite`), one of `inputs` (always), a folder, a missing or
    unwritable parent folder.
    """
    check_destination(path, ENDINGS, overwrite=overwrite, inputs=inputs)


def save_image(
    path: str | os.PathLike[str],
    image: npt.NDArray[Any],
    *,
    overwrite: bool = False,
    recipe: Mapping[str, Any] | None = None,
    quality: int = 95,
) -> None:
    """Write a picture whole or not at all: to a temporary file beside it, which is then renamed.

    path: the ending decides: .png or .jpg/.jpeg (8 bit), .tif/.tiff (16 bit, uncompressed), all clipped to [0, 1] and
        rounded, sRGB; .npy (float32, neither clipped nor rounded).
    image: (h, w, 3) RGB, finite floats (or uint8, uint16, bool, which are scaled to [0, 1]).
    recipe: a JSON-able dict that goes into the file (see `stylekeras.recipe`), except into .npy.
    quality: of a JPEG, 1 to 100.

    Raises `OutputError` as `check_output` does, `ImageError` for another shape, NaN or infinity, `RequestError` for a
    quality out of range, and `RunError` if the writing fails (a full disk); then an old file is still there, intact.
    """
    check_output(path, overwrite=overwrite)
    if not 1 <= quality <= 100:
        raise RequestError(f"quality is {quality}, must be 1 to 100")
    pixels = _scaled(np.asarray(image), "image to save").astype(np.float32)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError(f"image to save: expected shape (h, w, 3), not {pixels.shape}")
    _check_finite(pixels, "image to save")
    try:
        write(Path(path).resolve(), _encode(Path(path), pixels, recipe, quality))
    except OSError as error:
        raise RunError(f"could not write {path}: {reason(error)}") from error


# Reading


def _read_file(path: Path, label: str) -> Picture:
    Image.init()  # so that AVIF can be asked about: it is not in every build of Pillow
    try:
        if path.is_dir():
            raise ImageError(f"{label}: is a folder; give a picture in it")
        if path.exists() and not path.is_file():
            raise ImageError(f"{label}: is not a regular file")
        with path.open("rb") as stream:
            if not stream.read(1):
                raise ImageError(f"{label}: the file is empty (0 bytes)")
            stream.seek(0)
            if path.suffix.lower() == ".npy":
                return _from_array(_clipped(_open_array(path, label), label), label)
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)  # not two lines more on stderr
                opened = Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
            with opened as image:
                _check_header(image, label)
                return _decode(image, label)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{label}: no such file") from error
    except PermissionError as error:
        raise ImageError(f"{label}: no permission to read it") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise ImageError(f"{label}: not a picture that can be read, or damaged; formats: {known}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{label}: more than {MAX_PIXELS} pixels; make it smaller first") from error
    except Exception as error:  # Pillow's plug-ins raise nearly anything on a damaged file
        raise ImageError(f"{label}: cannot be opened: {reason(error)}") from error


def _open_array(path: Path, label: str) -> npt.NDArray[Any]:
    """What `save_image` wrote, or any array as `_from_array` takes it; mapped, so a false header claims no memory."""
    try:
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ImageError(f"{label}: not an array of numbers, or cut short: {reason(error)}") from error
    if array.ndim >= 2 and array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(f"{label}: {array.shape} is more than {MAX_PIXELS} pixels; make it smaller first")
    return array


def _clipped(array: npt.NDArray[Any], label: str) -> npt.NDArray[Any]:
    """A file of ours may hold a picture that was not clipped: what lies a little out of [0, 1] is brought back."""
    if array.dtype.kind == "f" and array.size and -1 <= np.min(array) <= np.max(array) <= 2:
        clipped: npt.NDArray[Any] = np.clip(array, 0, 1)
        if not np.array_equal(clipped, array):
            logger.warning("%s: values outside [0, 1] are clipped", label)
        return clipped
    return array


def _check_header(image: Image.Image, label: str) -> None:
    """What has to be known before the pixels are decoded, or is forgotten then."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{label}: {width} x {height} is more than {MAX_PIXELS} pixels; make it smaller first")
    # A phone's MPO file is a JPEG with a preview or a depth map behind it: the first frame is the picture.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        logger.warning("%s: has several frames; the first is used", label)
    # Pillow takes these for 0 to 65535, black to white.
    tags = dict(getattr(image, "tag_v2", {}))
    if image.mode.startswith("I;16") and (tags.get(258, (16,)) != (16,) or tags.get(262, 1) != 1):
        raise ImageError(f"{label}: grey TIFF of an unusual kind (12 bit or inverted); save it as plain 8 or 16 bit")
    if image.mode in ("RGB", "RGBA") and ";16" in str(getattr(image, "tile", "")):
        logger.info("%s: 16 bit per channel, of which Pillow reads 8", label)


def _decode(image: Image.Image, label: str) -> Picture:
    """A PIL image of any mode to (h, w, 3) float32 in [0, 1]."""
    try:
        image.load()
    except Exception as error:  # see above
        raise ImageError(f"{label}: damaged or cut short: {reason(error)}") from error
    profile = image.info.get("icc_profile")
    try:
        image = ImageOps.exif_transpose(image)
    except Exception as error:  # a broken EXIF block is common, and no viewer gives up on it
        logger.warning("%s: its EXIF data cannot be read, so its orientation is not applied (%s)", label, error)
    if image.mode == "F" or image.mode == "I" or image.mode.startswith("I;16"):
        return _decode_deep_grey(image, label)
    grey = image.mode in ("1", "L", "LA", "La")
    alpha: Picture | None = None
    if image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
        alpha = np.asarray(image.getchannel("A"), dtype=np.float32)[..., None] / np.float32(255)
    if image.mode not in ("CMYK", "LAB"):
        image = image.convert("L" if grey else "RGB")
    if profile and image.mode != "LAB":  # LAB says by itself what its numbers mean
        image = _to_srgb(image, profile, label)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)
    return pixels if alpha is None else _over_white(pixels, alpha)


def _decode_deep_grey(image: Image.Image, label: str) -> Picture:
    """Pillow's grey modes above 8 bit: "I;16", "I" (32-bit integers, from 16-bit files) and "F"."""
    values = np.asarray(image)
    if image.mode == "F":
        return _from_array(values, label)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{label}: grey values {values.min()} to {values.max()}; expected 16 bit, 0 to 65535")
    pixels = _from_array(values.astype(np.uint16), label)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[values == transparent] = 1
    return pixels


def _to_srgb(image: Image.Image, profile: bytes, label: str) -> Image.Image:
    """Convert an L, RGB or CMYK image from its embedded profile; as it is if that is sRGB or cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (ImageCms.getProfileDescription(source) or ""):
            return image
        converted = ImageCms.profileToProfile(
            image,
            source,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except Exception as error:  # a wrong or broken profile; Pillow without LittleCMS
        logger.warning("%s: its colour profile cannot be used, taken as sRGB (%s)", label, error)
        return image
    return image if converted is None else converted


def _from_array(array: npt.NDArray[Any], label: str) -> Picture:
    """(h, w), (h, w, 1), (h, w, 3) or (h, w, 4) of a supported dtype to (h, w, 3) float32 in [0, 1], a copy."""
    pixels = _scaled(array, label)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.size == 0:
        hint = "; channels go last" if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) else ""
        hint = "; pass one image, without the batch axis" if pixels.ndim == 4 else hint
        raise ImageError(f"{label}: expected shape (h, w), (h, w, 3) or (h, w, 4), not {array.shape}{hint}")
    _check_finite(pixels, label)
    low, high = float(pixels.min()), float(pixels.max())
    if low < -_RANGE_SLACK or high > 1 + _RANGE_SLACK:
        hint = "; divide by 255?" if low >= -_RANGE_SLACK and 2 < high <= 255 else ""
        raise ImageError(f"{label}: floats must be in [0, 1], these are in [{low:.8g}, {high:.8g}]{hint}")
    pixels = np.clip(pixels.astype(np.float32), 0, 1)
    if pixels.shape[2] == 4:
        return _over_white(pixels[..., :3], pixels[..., 3:])
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def _scaled(array: npt.NDArray[Any], label: str) -> npt.NDArray[np.floating[Any]]:
    """bool, uint8 and uint16 to floats in [0, 1]; floats as they are."""
    if array.dtype.kind == "f":
        return array
    if array.dtype == np.bool_:
        return array.astype(np.float32)
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:  # in either byte order
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    raise ImageError(f"{label}: dtype {array.dtype} is not supported; use uint8, uint16 or floats in [0, 1]")


def _check_finite(pixels: npt.NDArray[np.floating[Any]], label: str) -> None:
    bad = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
    if bad:
        raise ImageError(f"{label}: {bad} of {pixels.size} values are NaN or infinite")


def _over_white(pixels: Picture, alpha: Picture) -> Picture:
    return pixels * alpha + (1 - alpha)


# Writing


def _encode(path: Path, pixels: Picture, recipe: Mapping[str, Any] | None, quality: int) -> bytes:
    """The whole file, so that an encoder's error and a disk's are told apart and nothing is written before."""
    text = None if recipe is None else recipes.dumps(recipe)
    stream = io.BytesIO()
    ending = path.suffix.lower()
    if ending == ".npy":
        np.save(stream, pixels)
    elif ending in (".tif", ".tiff"):
        return _encode_tiff(np.rint(np.clip(pixels, 0, 1) * 65535).astype("<u2"), text)
    elif ending == ".png":
        info = PngImagePlugin.PngInfo()
        if text is not None:
            info.add_itxt(recipes.KEY, text)
        Image.fromarray(to_uint8(pixels)).save(stream, "PNG", pnginfo=info)
    else:
        if text is not None and len(text) > 65533:  # a JPEG marker's length has 16 bits, itself included
            logger.warning("%s: the recipe is too long for a JPEG comment and is left out; PNG and TIFF hold it", path)
            text = None
        comment = {} if text is None else {"comment": text.encode("ascii")}
        # Full chroma resolution: paint is not photographic, and halved chroma bleeds at strokes.
        Image.fromarray(to_uint8(pixels)).save(stream, "JPEG", quality=quality, subsampling=0, **comment)
    return stream.getvalue()


def _encode_tiff(pixels: npt.NDArray[np.uint16], description: str | None) -> bytes:
    """A baseline TIFF 6.0 of 16-bit RGB, which Pillow cannot write: little-endian, uncompressed, one strip.

    pixels: (h, w, 3) little-endian uint16. Layout: header, pixels, the values that do not fit into an entry, directory.
    """
    height, width = pixels.shape[:2]
    size = pixels.size * 2
    if size > 0xFFFF0000 - len(description or ""):
        raise OutputError("a TIFF holds less than 4 GiB of pixels; write .npy or .png instead")
    extra = bytearray()

    def outside(values: bytes) -> int:
        """The file offset of values behind the pixels; offsets are even (`size` and the header are)."""
        offset = 8 + size + len(extra)
        extra.extend(values + b"\0" * (len(values) % 2))
        return offset

    short, long, rational, ascii_ = 3, 4, 5, 2
    entries = [  # (tag, type, count, value or offset), in ascending order of tags
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, 3, outside(struct.pack("<3H", 16, 16, 16))),  # bits per sample
        (259, short, 1, 1),  # not compressed
        (262, short, 1, 2),  # RGB
        (273, long, 1, 8),  # the strip's offset
        (277, short, 1, 3),  # samples per pixel
        (278, long, 1, height),  # rows per strip
        (279, long, 1, size),
        (282, rational, 1, outside(struct.pack("<2I", 1, 1))),  # resolution: the baseline asks for it
        (283, rational, 1, outside(struct.pack("<2I", 1, 1))),
        (284, short, 1, 1),  # RGBRGB...
        (296, short, 1, 1),  # the resolution has no unit
        (339, short, 3, outside(struct.pack("<3H", 1, 1, 1))),  # unsigned integers
    ]
    if description is not None:
        text = description.encode("ascii").ljust(4) + b"\0"  # 4 bytes or less would have to stand in the entry itself
        entries.insert(5, (270, ascii_, len(text), outside(text)))
    # Little-endian SHORTs written as LONGs occupy the value field's first bytes, where readers look for them.
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    header = struct.pack("<2sHI", b"II", 42, 8 + size + len(extra))
    return b"".join([header, pixels.tobytes(), bytes(extra), directory, struct.pack("<I", 0)])
