"""Image files: reading, resizing and writing. Everywhere else an image is float32 RGB in [0, 1], (h, w, 3)."""

from __future__ import annotations

import io
import logging
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from stylekeras import blocks, bombs
from stylekeras import recipe as recipes
from stylekeras.color import linear_to_srgb, srgb_to_linear
from stylekeras.errors import ImageError, OutputError, RequestError, RunError
from stylekeras.files import check_destination, reason, replacing

logger = logging.getLogger("stylekeras")

Picture: TypeAlias = npt.NDArray[np.float32]
ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]

# VGG halves the image four times before its deepest usual tap: below this there is nothing left to take statistics of.
MIN_SIDE = 32

# What is tried on a file. Not all that Pillow knows: it hands EPS to Ghostscript, and rare decoders are rarely fuzzed.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "BMP", "GIF", "PPM", "JPEG2000")

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")

# The longest side of a JPEG: libjpeg's own limit.
MAX_JPEG_SIDE = 65_500

# Above it a TIFF is a BigTIFF: offsets in the classic one have 32 bits.
MAX_CLASSIC_TIFF = 2**32 - 1

# Bytes of a TIFF's strip: what a reader has to hold at once.
_STRIP = 1 << 20

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
    warning. Grey keeps its 16 bits, and so does RGB in an uncompressed TIFF without a profile, as `save_image` writes
    it; of other 16-bit RGB files Pillow keeps the upper 8 (logged at level INFO; load them with another reader and pass
    the uint16 array to keep all). More than 89 million pixels are read where the file itself is large (see `bombs`).

    Memory: the result and the decoded file, in 8 or 16 bit; an array or a .npy is not copied besides.

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
    same. Besides it, memory for one channel of (h, width) is taken. Raises `RequestError` for a size below 1.
    """
    if min(height, width) < 1:
        raise RequestError(f"cannot resize to {width} x {height} px: sizes start at 1")
    if image.shape[:2] == (height, width):
        return np.array(image, dtype=np.float32)
    resized = np.empty((height, width, image.shape[2]), np.float32)
    wide = np.empty((image.shape[0], width), np.float32)
    # Pillow resizes every row and then every column, with float32 between: so the values are those of the whole plane.
    for channel in range(image.shape[2]):
        for rows in blocks.rows((image.shape[0], max(image.shape[1], width))):
            plane = image[rows, :, channel].astype(np.float32)
            wide[rows] = _lanczos(srgb_to_linear(plane) if linear else plane, wide[rows].shape)
        for columns in blocks.rows((width, max(image.shape[0], height))):
            plane = _lanczos(wide[:, columns], (height, columns.stop - columns.start))
            resized[:, columns, channel] = np.clip(linear_to_srgb(plane) if linear else plane, 0, 1)
    return resized


def _lanczos(plane: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """A single channel resized by Pillow, in its mode "F"."""
    height, width = shape
    resized = Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)


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

    path: the ending decides: .png or .jpg/.jpeg (8 bit), .tif/.tiff (16 bit, uncompressed; a BigTIFF if it would
        exceed 4 GiB), all clipped to [0, 1] and rounded, sRGB; .npy (float32, neither clipped nor rounded).
    image: (h, w, 3) RGB, finite floats (or uint8, uint16, bool, which are scaled to [0, 1]).
    recipe: a JSON-able dict that goes into the file (see `stylekeras.recipe`), except into .npy.
    quality: of a JPEG, 1 to 100.

    The picture is converted and written a few rows at a time; for PNG and JPEG it is held in 8 bit besides.

    Raises `OutputError` as `check_output` does and for sides that a JPEG cannot have, `ImageError` for another shape,
    NaN or infinity, `RequestError` for a quality out of range, and `RunError` if the writing fails (a full disk); then
    an old file is still there, intact.
    """
    check_output(path, overwrite=overwrite)
    if not 1 <= quality <= 100:
        raise RequestError(f"quality is {quality}, must be 1 to 100")
    pixels, ending = np.asarray(image), Path(path).suffix.lower()
    _check_dtype(pixels, "image to save")
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError(f"image to save: expected shape (h, w, 3), not {pixels.shape}")
    _range(pixels, "image to save")
    if ending in (".jpg", ".jpeg") and max(pixels.shape) > MAX_JPEG_SIDE:
        raise OutputError(f"cannot write {path}: a side of a JPEG has at most {MAX_JPEG_SIDE} px; use .png or .tif")
    text = None if recipe is None else recipes.dumps(recipe)
    if ending in (".jpg", ".jpeg") and text is not None and len(text) > 65533:  # a marker's length has 16 bits
        logger.warning("%s: the recipe is too long for a JPEG comment and is left out; PNG and TIFF hold it", path)
        text = None
    try:
        with replacing(Path(path).resolve()) as stream:
            _encode(stream, ending, pixels, text, quality)
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
                return _from_array(_open_array(path, label), label, clip=True)
            with bombs.open_image(stream, [name for name in FORMATS if name in Image.OPEN]) as image:
                _check_header(image, label, bombs.limit(stream))
                deep = _map_deep_colour(path, image, label)
                if deep is not None:
                    return _from_array(deep, label)
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
    except Image.DecompressionBombError as error:
        raise ImageError(f"{label}: {error}") from error
    except Exception as error:  # Pillow's plug-ins raise nearly anything on a damaged file
        raise ImageError(f"{label}: cannot be opened: {reason(error)}") from error


def _open_array(path: Path, label: str) -> npt.NDArray[Any]:
    """What `save_image` wrote, or any array as `_from_array` takes it; mapped, so a false header claims no memory."""
    try:
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ImageError(f"{label}: not an array of numbers, or cut short: {reason(error)}") from error
    return array


def _check_header(image: Image.Image, label: str, most: int) -> None:
    """What has to be known before the pixels are decoded, or is forgotten then."""
    width, height = image.size
    if width * height > most:
        raise ImageError(f"{label}: {width} x {height} is {bombs.refusal(most)}")
    # A phone's MPO file is a JPEG with a preview or a depth map behind it: the first frame is the picture.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        logger.warning("%s: has several frames; the first is used", label)
    # Pillow takes these for 0 to 65535, black to white.
    tags = dict(getattr(image, "tag_v2", {}))
    if image.mode.startswith("I;16") and (tags.get(258, (16,)) != (16,) or tags.get(262, 1) != 1):
        raise ImageError(f"{label}: grey TIFF of an unusual kind (12 bit or inverted); save it as plain 8 or 16 bit")
    if tags.get(284, 1) == 2 and max(tags.get(258, (8,))) > 8:  # Pillow reads noise from these, without an error
        raise ImageError(f"{label}: 16-bit TIFF with its channels in planes; save it with them interleaved")


def _map_deep_colour(path: Path, image: Image.Image, label: str) -> npt.NDArray[np.uint16] | None:
    """The pixels of a 16-bit RGB TIFF where they are in the file, if they lie there plainly, as `save_image` puts them.

    None for everything that takes more than reading: compression, strips in another order, a profile, an orientation.
    """
    tiles = getattr(image, "tile", [])
    if image.mode not in ("RGB", "RGBA") or ";16" not in str(tiles):
        return None
    width, height = image.size
    start, order = tiles[0].offset, {"RGB;16L": "<u2", "RGB;16B": ">u2"}.get(tiles[0].args[0])
    plain = all(
        (tile.codec_name, tile.args[0]) == ("raw", tiles[0].args[0])
        and (tile.extents[0], tile.extents[2]) == (0, width)
        and tile.offset == start + tile.extents[1] * width * 6
        for tile in tiles
    )
    tags = dict(getattr(image, "tag_v2", {}))
    if image.format == "TIFF" and order and plain and tags.get(274, 1) == 1 and 34675 not in tags:
        return np.memmap(path, order, "r", offset=start, shape=(height, width, 3))
    logger.info("%s: 16 bit per channel, of which Pillow reads 8", label)
    return None


def _decode(image: Image.Image, label: str) -> Picture:
    """A PIL image of any mode to (h, w, 3) float32 in [0, 1]."""
    try:
        image.load()
    except Exception as error:  # see above
        raise ImageError(f"{label}: damaged or cut short: {reason(error)}") from error
    profile = image.info.get("icc_profile")
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # a broken EXIF block is common, and no viewer gives up on it
        logger.warning("%s: its EXIF data cannot be read, so its orientation is not applied (%s)", label, error)
    if image.mode == "F":
        return _from_array(np.asarray(image), label)
    if image.mode == "I" or image.mode.startswith("I;16"):
        convert = _deep_grey(image, label)
    else:
        convert = _shallow(image, profile, label)
    pixels = np.empty((image.height, image.width, 3), np.float32)
    for rows in blocks.rows(pixels.shape):
        pixels[rows] = convert(image.crop((0, rows.start, image.width, rows.stop)))
    return pixels


def _shallow(image: Image.Image, profile: bytes | None, label: str) -> Callable[[Image.Image], Picture]:
    """How some rows of an 8-bit image become floats."""
    grey = image.mode in ("1", "L", "LA", "La")
    mode = image.mode if image.mode in ("CMYK", "LAB") else "L" if grey else "RGB"
    # LAB says by itself what its numbers mean.
    to_srgb = _to_srgb(mode, profile, label) if profile and mode != "LAB" else None

    def convert(band: Image.Image) -> Picture:
        alpha: Picture | None = None
        if band.has_transparency_data:
            band = band.convert("LA" if grey else "RGBA")
            alpha = np.asarray(band.getchannel("A"), dtype=np.float32)[..., None] / np.float32(255)
        band = band.convert(mode)
        if to_srgb is not None:
            band = to_srgb.apply(band)
        pixels = np.asarray(band.convert("RGB"), dtype=np.float32) / np.float32(255)
        return pixels if alpha is None else _over_white(pixels, alpha)

    return convert


def _deep_grey(image: Image.Image, label: str) -> Callable[[Image.Image], Picture]:
    """How some rows of Pillow's integer grey modes above 8 bit become floats: "I;16", and "I" from 16-bit files."""
    if image.mode == "I":
        low, high = (int(value) for value in np.ravel(image.getextrema()))
        if low < 0 or high > 65535:
            raise ImageError(f"{label}: grey values {low} to {high}; expected 16 bit, 0 to 65535")
    transparent = image.info.get("transparency")

    def convert(band: Image.Image) -> Picture:
        values = np.asarray(band)[..., None]
        pixels = _scaled(values.astype(np.uint16))
        if isinstance(transparent, int):
            pixels[values == transparent] = 1
        return pixels

    return convert


def _to_srgb(mode: str, profile: bytes, label: str) -> ImageCms.ImageCmsTransform | None:
    """From an embedded profile in L, RGB or CMYK to sRGB; None if it is sRGB already or cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (ImageCms.getProfileDescription(source) or ""):
            return None
        return ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except Exception as error:  # a wrong or broken profile; Pillow without LittleCMS
        logger.warning("%s: its colour profile cannot be used, taken as sRGB (%s)", label, error)
        return None


def _from_array(array: npt.NDArray[Any], label: str, *, clip: bool = False) -> Picture:
    """(h, w), (h, w, 1), (h, w, 3) or (h, w, 4) of a supported dtype to (h, w, 3) float32 in [0, 1], a copy.

    clip: bring back what lies a little out of [0, 1]: a file of ours may hold a picture that was not clipped.
    """
    _check_dtype(array, label)
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.size == 0:
        hint = "; channels go last" if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) else ""
        hint = "; pass one image, without the batch axis" if pixels.ndim == 4 else hint
        raise ImageError(f"{label}: expected shape (h, w), (h, w, 3) or (h, w, 4), not {array.shape}{hint}")
    low, high = _range(pixels, label)
    if clip and -1 <= low <= high <= 2:
        if low < 0 or high > 1:
            logger.warning("%s: values outside [0, 1] are clipped", label)
    elif low < -_RANGE_SLACK or high > 1 + _RANGE_SLACK:
        hint = "; divide by 255?" if low >= -_RANGE_SLACK and 2 < high <= 255 else ""
        raise ImageError(f"{label}: floats must be in [0, 1], these are in [{low:.8g}, {high:.8g}]{hint}")
    result = np.empty((*pixels.shape[:2], 3), np.float32)
    for rows in blocks.rows(pixels.shape):
        band = np.clip(_scaled(pixels[rows]), 0, 1)
        result[rows] = band if band.shape[2] < 4 else _over_white(band[..., :3], band[..., 3:])
    return result


def _check_dtype(array: npt.NDArray[Any], label: str) -> None:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if not (kind in "fb" or (kind == "u" and size <= 2)):  # in either byte order
        raise ImageError(f"{label}: dtype {array.dtype} is not supported; use uint8, uint16 or floats in [0, 1]")


def _scaled(array: npt.NDArray[Any]) -> Picture:
    """bool, uint8 and uint16 to [0, 1]; floats as they are."""
    values = array.astype(np.float32, copy=False)
    return values / np.float32(np.iinfo(array.dtype).max) if array.dtype.kind == "u" else values


def _range(array: npt.NDArray[Any], label: str) -> tuple[float, float]:
    """The least and the largest of the floats in (h, w, c); (0, 1) for integers, which cannot be out of range."""
    if array.dtype.kind != "f":
        return 0.0, 1.0
    low, high, bad = math.inf, -math.inf, 0
    for rows in blocks.rows(array.shape):
        band = array[rows]
        low, high = min(low, float(band.min())), max(high, float(band.max()))
        bad += band.size - int(np.count_nonzero(np.isfinite(band)))
    if bad:
        raise ImageError(f"{label}: {bad} of {array.size} values are NaN or infinite")
    return low, high


def _over_white(pixels: Picture, alpha: Picture) -> Picture:
    return pixels * alpha + (1 - alpha)


# Writing


class _Sink(io.RawIOBase):
    """A stream without its file descriptor: writing to that, Pillow overlooks what a full disk has cut short."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._stream.write(data)


def _encode(stream: BinaryIO, ending: str, image: npt.NDArray[Any], text: str | None, quality: int) -> None:
    """Write the file of that ending, with a recipe's text."""
    if ending == ".npy":
        header = {"descr": "<f4", "fortran_order": False, "shape": image.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for _, band in _bands(image):
            stream.write(band.astype("<f4").tobytes())
    elif ending in (".tif", ".tiff"):
        before, after = _tiff_frame(image.shape[0], image.shape[1], text)
        stream.write(before)
        for _, band in _bands(image):
            stream.write(np.rint(np.clip(band, 0, 1) * 65535).astype("<u2").tobytes())
        stream.write(after)
    else:
        picture = Image.new("RGB", (image.shape[1], image.shape[0]))
        for top, band in _bands(image):
            picture.paste(Image.fromarray(to_uint8(band)), (0, top))
        if ending == ".png":
            info = PngImagePlugin.PngInfo()
            if text is not None:
                info.add_itxt(recipes.KEY, text)
            picture.save(stream, "PNG", pnginfo=info)
        else:
            comment = {} if text is None else {"comment": text.encode("ascii")}
            # Full chroma resolution: paint is not photographic, and halved chroma bleeds at strokes.
            picture.save(cast("BinaryIO", _Sink(stream)), "JPEG", quality=quality, subsampling=0, **comment)


def _bands(image: npt.NDArray[Any]) -> Iterator[tuple[int, Picture]]:
    """Rows of the image as floats, and where they begin."""
    return ((rows.start, _scaled(image[rows])) for rows in blocks.rows(image.shape))


def _tiff_frame(height: int, width: int, description: str | None) -> tuple[bytes, bytes]:
    """What stands before and behind the pixels of a TIFF of 16-bit RGB, which Pillow cannot write.

    Baseline TIFF 6.0, little-endian, not compressed, or BigTIFF, whose offsets have 64 bits instead of 32. Layout:
    header, pixels in strips, the values that do not fit into an entry, directory.
    """
    row, text = 6 * width, None if description is None else description.encode("ascii") + b"\0"
    rows = min(height, max(1, _STRIP // row))  # of a strip
    strips = -(-height // rows)
    large = row * height + 16 * strips + len(text or b"") + 1024 > MAX_CLASSIC_TIFF  # 1024: the rest, rounded up
    word, start = ("Q", 16) if large else ("I", 8)
    field = struct.calcsize(word)
    end = start + row * height
    short, long, rational, ascii_, offset = 3, 4, 5, 2, 16 if large else 4
    outside = bytearray()

    def entry(tag: int, kind: int, count: int, values: bytes) -> bytes:
        if len(values) > field:
            place = end + len(outside)
            outside.extend(values + b"\0" * (len(values) % 2))  # offsets are even
            values = struct.pack(f"<{word}", place)
        return struct.pack(f"<HH{word}", tag, kind, count) + values.ljust(field, b"\0")

    def shorts(*values: int) -> bytes:
        return struct.pack(f"<{len(values)}H", *values)

    def longs(*values: int) -> bytes:
        return struct.pack(f"<{len(values)}I", *values)

    starts = (start + row * rows * np.arange(strips, dtype=np.uint64)).astype("<u8" if large else "<u4")
    sizes = [row * rows] * (strips - 1) + [row * (height - rows * (strips - 1))]
    entries = [  # in ascending order of tags
        entry(256, long, 1, longs(width)),
        entry(257, long, 1, longs(height)),
        entry(258, short, 3, shorts(16, 16, 16)),  # bits per sample
        entry(259, short, 1, shorts(1)),  # not compressed
        entry(262, short, 1, shorts(2)),  # RGB
        *([] if text is None else [entry(270, ascii_, len(text), text)]),
        entry(273, offset, strips, starts.tobytes()),
        entry(277, short, 1, shorts(3)),  # samples per pixel
        entry(278, long, 1, longs(rows)),  # rows per strip
        entry(279, long, strips, longs(*sizes)),
        entry(282, rational, 1, longs(1, 1)),  # resolution: the baseline asks for it
        entry(283, rational, 1, longs(1, 1)),
        entry(284, short, 1, shorts(1)),  # RGBRGB...
        entry(296, short, 1, shorts(1)),  # the resolution has no unit
        entry(339, short, 3, shorts(1, 1, 1)),  # unsigned integers
    ]
    directory = end + len(outside)
    header = struct.pack("<2s3HQ", b"II", 43, 8, 0, directory) if large else struct.pack("<2sHI", b"II", 42, directory)
    count = struct.pack("<Q" if large else "<H", len(entries))
    return header, b"".join([outside, count, *entries, bytes(field)])
