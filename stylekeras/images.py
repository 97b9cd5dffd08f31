"""Image files: reading, resizing and writing. Everywhere else an image is float32 RGB in [0, 1], (h, w, 3)."""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from stylekeras import blocks, bombs, deep, frames, profiles
from stylekeras import recipe as recipes
from stylekeras.color import linear_to_srgb, srgb_to_linear
from stylekeras.errors import ImageError, OutputError, RequestError, RunError
from stylekeras.extras import Extras, exif_block, exif_fields, exif_of, xmp_of, xmp_packet
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

# Bits a channel that a file of each ending can have; the first if nothing is said.
DEPTHS = {".png": (8, 16), ".jpg": (8,), ".jpeg": (8,), ".tif": (16, 8), ".tiff": (16, 8), ".npy": (32,)}

# What `load_extras` looks for.
EXTRAS = ("profile", "metadata", "alpha")
NOTHING = Extras()

_JPEG = (".jpg", ".jpeg")
_GREY = ("1", "L", "LA", "La")

# Rounding noise of other people's resampling, not a wrong range.
_RANGE_SLACK = 1e-5
# How far out floats of a file of ours may be, which may hold a picture that was not clipped, and those that are to stay
# so: beyond that they are no picture of 0 to 1.
_BEYOND_FILE = 1.0
_BEYOND = 4.0


def load_image(source: ImageSource, *, name: str = "image", min_side: int = MIN_SIDE, clip: bool = True) -> Picture:
    """Read a picture as it is meant to be seen.

    source: a path (PNG, JPEG, TIFF, WebP, AVIF, BMP, GIF, PPM, JPEG 2000, .npy), a PIL image, or an array (h, w),
        (h, w, 1), (h, w, 3) or (h, w, 4) of bool, uint8, uint16, or float in [0, 1].
    name: what messages call it ("content image").
    min_side: the least height and width in pixels.
    clip: False keeps floats outside [0, 1], to -4 and 5, as the pictures of runs without `clip` have them; otherwise
        such an array is refused, and a .npy clipped, with a logged warning, if they are in [-1, 2].

    The EXIF orientation is applied; an embedded colour profile is converted to sRGB; grey becomes RGB; transparency is
    composited over white, in sRGB values as browsers do; of an animation the first frame is used, with a logged
    warning. 16 bits are kept of grey, of RGB without alpha in an uncompressed sRGB TIFF, as `save_image` writes it, and
    with the extra `deep` (tifffile, imagecodecs) of RGB in other PNGs and TIFFs; without it Pillow keeps the upper 8 of
    these, with a logged warning. More than 89 million pixels are read where the file itself is large (see `bombs`).

    Memory: the result and the decoded file, in 8 or 16 bit; an array or a .npy is not copied besides.

    Returns: (h, w, 3) float32 RGB, in [0, 1] unless `clip` is False, never a view of the source.
    Raises `ImageError` for whatever cannot be read or is not usable as it is.
    """
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):
            raise ImageError(f"{name}: the file name is empty")
        label = f"{name} {os.fspath(source)}"
        with _opened(Path(source), label) as (_, found):
            if isinstance(found, np.ndarray):
                pixels = _from_array(found, label, beyond=_BEYOND_FILE, clip=clip)
            else:
                pixels = _from_file(Path(source), found, label)
    elif isinstance(source, Image.Image):
        label = name
        pixels = _decode(source, label)
    elif hasattr(source, "__array__"):
        label = name
        pixels = _from_array(np.asarray(source), label, clip=clip)
    else:
        raise ImageError(f"{name}: expected a path, a PIL image or a NumPy array, not {type(source).__name__}")
    height, width = pixels.shape[:2]
    if min(height, width) < min_side:
        raise ImageError(f"{label}: {width} x {height} px is too small; at least {min_side} px a side are needed")
    return pixels


def load_extras(source: str | os.PathLike[str], *, only: Container[str] = EXTRAS, name: str = "image") -> Extras:
    """Read what a photo's file holds besides its colours, for `save_image` to put beside the picture.

    only: what to look for, of "profile", "metadata" (EXIF and XMP) and "alpha".

    Returns: what there is of it. A profile of sRGB is none; so is transparency that is opaque everywhere. Metadata is
    what stays true of a picture painted from the photo, see `stylekeras.extras`; what is broken or too large is logged
    and left out.
    Raises `ImageError` as `load_image` does.
    """
    path, label = Path(source), f"{name} {os.fspath(source)}"
    with _opened(path, label) as (stream, found):
        if isinstance(found, np.ndarray):
            is_there = found.ndim == 3 and found.shape[2] == 4 and "alpha" in only
            return Extras(alpha=_not_opaque(_scaled(found[..., 3])) if is_there else None)
        profile = found.info.get("icc_profile") if "profile" in only else None
        about = "metadata" in only
        return Extras(
            profile=None if not profile or profiles.is_srgb(profile) else profile,
            exif=exif_of(found, stream, label) if about else None,
            xmp=xmp_of(found, label) if about else None,
            alpha=_alpha(path, found, label) if "alpha" in only else None,
        )


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


def check_extras(path: str | os.PathLike[str], extras: Extras = NOTHING, depth: int | None = None) -> int:
    """What `save_image` would find wrong with them for that ending, which is known; writes nothing.

    Returns: the bits a channel of the file. Raises `RequestError`.
    """
    ending = Path(path).suffix.lower()
    known = DEPTHS[ending]
    if depth is not None and depth not in known:
        bits = " or ".join(map(str, known))
        raise RequestError(f"{ending} has {bits} bits a channel, not {depth}; .png and .tif have 8 or 16")
    if ending == ".npy" and (extras.profile, extras.exif, extras.xmp) != (None, None, None):
        raise RequestError(".npy has no room for a colour profile or metadata; use .png, .jpg or .tif")
    chosen = known[0] if depth is None else depth
    if extras.profile is not None:
        profiles.from_srgb(extras.profile, chosen)
    return chosen


def save_image(
    path: str | os.PathLike[str],
    image: npt.NDArray[Any],
    *,
    overwrite: bool = False,
    recipe: Mapping[str, Any] | None = None,
    quality: int = 95,
    depth: int | None = None,
    extras: Extras = NOTHING,
) -> None:
    """Write a picture whole or not at all: to a temporary file beside it, which is then renamed.

    path: the ending decides: .png (8 bit, or 16), .jpg/.jpeg (8 bit), .tif/.tiff (16 bit, or 8, uncompressed; a BigTIFF
        if it would exceed 4 GiB), all clipped to [0, 1] and rounded, and saying that they are sRGB unless `extras` has
        another profile; .npy (float32, neither clipped nor rounded).
    image: (h, w, 3) RGB, finite floats (or uint8, uint16, bool, which are scaled to [0, 1]).
    recipe: a JSON-able dict that goes into the file (see `stylekeras.recipe`), except into .npy.
    quality: of a JPEG, 1 to 100.
    depth: bits a channel, where the format has a choice.
    extras: what else goes into the file, see `load_extras`. With alpha, colours are stored such that over white they
        are those of `image`, as far as there are such; JPEG and .npy have no transparency: `image` stays as it is.
        Metadata is kept as that of an upright picture of this size.

    The picture is converted and written a few rows at a time; for JPEG and PNG of 8 bits it is held in 8 bit besides.

    Raises `OutputError` as `check_output` does and for sides that a JPEG cannot have, `ImageError` for another shape,
    NaN or infinity, `RequestError` for a quality or depth out of range or a profile that cannot be used (see
    `check_extras`), and `RunError` if the writing fails (a full disk); then an old file is still there, intact.
    """
    check_output(path, overwrite=overwrite)
    if not 1 <= quality <= 100:
        raise RequestError(f"quality is {quality}, must be 1 to 100")
    pixels, ending, bits = np.asarray(image), Path(path).suffix.lower(), check_extras(path, extras, depth)
    _check_dtype(pixels, "image to save")
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError(f"image to save: expected shape (h, w, 3), not {pixels.shape}")
    _range(pixels, "image to save")
    if ending in _JPEG and max(pixels.shape) > MAX_JPEG_SIDE:
        raise OutputError(f"cannot write {path}: a side of a JPEG has at most {MAX_JPEG_SIDE} px; use .png or .tif")
    text = None if recipe is None else recipes.dumps(recipe)
    if ending in _JPEG and text is not None and len(text) > 65533:  # a marker's length has 16 bits
        logger.warning("%s: the recipe is too long for a JPEG comment and is left out; PNG and TIFF hold it", path)
        text = None
    alpha = None
    if extras.alpha is not None and ending not in (*_JPEG, ".npy"):
        alpha = resize(extras.alpha[..., None], *pixels.shape[:2], linear=False)
    convert = None if extras.profile is None else profiles.from_srgb(extras.profile, bits)
    try:
        with replacing(Path(path).resolve()) as stream:
            if ending == ".npy":
                _write_array(stream, pixels)
            elif ending in (".tif", ".tiff"):
                _write_tiff(
                    stream, pixels.shape, _bands(pixels, alpha, convert), bits, text, replace(extras, alpha=alpha)
                )
            elif bits == 16:
                _write_deep_png(stream, pixels.shape, _bands(pixels, alpha, convert), text, extras)
            else:
                picture = Image.new("RGB" if alpha is None else "RGBA", (pixels.shape[1], pixels.shape[0]))
                for top, band in _bands(pixels, alpha, convert):
                    picture.paste(Image.fromarray(to_uint8(band)), (0, top))
                if ending in _JPEG:
                    _write_jpeg(stream, picture, text, extras, quality)
                else:
                    _write_png(stream, picture, text, extras, pixels.shape)
    except OSError as error:
        raise RunError(f"could not write {path}: {reason(error)}") from error


# Reading


@contextmanager
def _opened(path: Path, label: str) -> Iterator[tuple[BinaryIO, Image.Image | npt.NDArray[Any]]]:
    """A picture's file and what is in it, opened by Pillow, its header checked, or the array of an .npy.

    Whatever is wrong with it, also if it is found within the context, is an `ImageError`.
    """
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
                yield stream, _open_array(path, label)
                return
            with bombs.open_image(stream, [name for name in FORMATS if name in Image.OPEN]) as image:
                _check_header(image, label, bombs.limit(stream))
                yield stream, image
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
    # A tile is decoded as a whole, however little of it the picture needs.
    tile = [value for tag in (322, 323) for value in np.ravel(tags.get(tag, ())).tolist()]
    if math.prod(tile) > max(bombs.MAX_TILE, width * height):
        raise ImageError(f"{label}: damaged: tiles of {tile[0]} x {tile[-1]} for a picture of {width} x {height}")


def _from_file(path: Path, image: Image.Image, label: str) -> Picture:
    """The picture in a file that has been opened."""
    found = _deep_colour(path, image)
    if found is None:
        if _is_deep(image):
            _refuse_planes(image, label)
            hint = "" if deep.here() else f"; for all of them: {deep.INSTALL}"
            logger.warning("%s: 16 bit per channel, of which Pillow reads 8%s", label, hint)
        return _decode(image, label)
    profile = image.info.get("icc_profile")
    channels = found.shape[2] - (found.shape[2] % 2 == 0)
    convert = profiles.to_srgb_deep(profile, channels, label) if profile and deep.here() else None
    return _in_rows(found, convert)


def _is_deep(image: Image.Image) -> bool:
    """Whether it has more than 8 bits a channel, of which Pillow keeps 8."""
    tags = dict(getattr(image, "tag_v2", {}))
    bits = tags.get(258, (8,)) if image.format == "TIFF" else ()
    deep_tiles = image.format == "PNG" and ";16" in str(getattr(image, "tile", []))
    return image.mode not in ("F", "I") and image.mode[:4] != "I;16" and (max(bits, default=8) > 8 or deep_tiles)


def _refuse_planes(image: Image.Image, label: str) -> None:
    """Pillow reads noise from these, without an error."""
    if dict(getattr(image, "tag_v2", {})).get(284, 1) == 2:
        hint = "" if deep.here() else f", or: {deep.INSTALL}"
        raise ImageError(f"{label}: 16-bit TIFF with its channels in planes; save it with them interleaved{hint}")


def _deep_colour(path: Path, image: Image.Image) -> npt.NDArray[np.uint16] | None:
    """The pixels (h, w, 2|3|4) of a file with 16 bits a channel, as they are to be seen, alpha last.

    Mapped where they lie plainly in the file, as `save_image` puts them, and read by `deep` where it takes more:
    compression, strips in another order, a profile, an orientation. None if neither can.
    """
    if not _is_deep(image) or image.mode not in ("RGB", "RGBA"):
        return None
    tiles, tags = getattr(image, "tile", []), dict(getattr(image, "tag_v2", {}))
    profile = image.info.get("icc_profile")
    width, height = image.size
    start, order = tiles[0].offset, {"RGB;16L": "<u2", "RGB;16B": ">u2"}.get(tiles[0].args[0])
    plain = all(
        (tile.codec_name, tile.args[0]) == ("raw", tiles[0].args[0])
        and (tile.extents[0], tile.extents[2]) == (0, width)
        and tile.offset == start + tile.extents[1] * width * 6
        for tile in tiles
    )
    plain = plain and tags.get(274, 1) == tags.get(284, 1) == 1 and not (profile and not profiles.is_srgb(profile))
    if image.format == "TIFF" and order and plain:
        return np.memmap(path, order, "r", offset=start, shape=(height, width, 3))
    found = deep.read(path, image) if deep.here() else None
    return None if found is None else deep.turned(found, _orientation(image))


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 if it is not known, or broken."""
    with suppress(Exception):
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
        return found if found in range(1, 9) else 1
    return 1


def _alpha(path: Path, image: Image.Image, label: str) -> Picture | None:
    """The opacity (h, w) of a file that has been opened, None if it is opaque."""
    if not image.has_transparency_data:
        return None
    found = _deep_colour(path, image)
    if found is not None:
        return _not_opaque(_scaled(found[..., -1])) if found.shape[2] % 2 == 0 else None
    image = _upright(image, label)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _not_opaque((np.asarray(image) != image.info.get("transparency")).astype(np.float32))
    band = image.convert("LA" if image.mode in _GREY else "RGBA").getchannel("A")
    return _not_opaque(_scaled(np.asarray(band)))


def _not_opaque(alpha: Picture) -> Picture | None:
    return alpha if alpha.min() < 1 else None


def _decode(image: Image.Image, label: str) -> Picture:
    """A PIL image of any mode to (h, w, 3) float32 in [0, 1]."""
    profile = image.info.get("icc_profile")
    image = _upright(image, label)
    if image.mode == "F":
        return _from_array(np.asarray(image), label)
    if image.mode == "I" or image.mode.startswith("I;16"):
        convert = _deep_grey(image, profile, label)
    else:
        convert = _shallow(image, profile, label)
    pixels = np.empty((image.height, image.width, 3), np.float32)
    for rows in blocks.rows(pixels.shape):
        pixels[rows] = convert(image.crop((0, rows.start, image.width, rows.stop)))
    return pixels


def _upright(image: Image.Image, label: str) -> Image.Image:
    """An image, decoded, as its orientation says that it is to be seen."""
    try:
        image.load()
    except Exception as error:  # Pillow's plug-ins raise nearly anything on a damaged file
        raise ImageError(f"{label}: damaged or cut short: {reason(error)}") from error
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # a broken EXIF block is common, and no viewer gives up on it
        logger.warning("%s: its EXIF data cannot be read, so its orientation is not applied (%s)", label, error)
    return image


def _shallow(image: Image.Image, profile: bytes | None, label: str) -> Callable[[Image.Image], Picture]:
    """How some rows of an 8-bit image become floats."""
    grey = image.mode in _GREY
    mode = image.mode if image.mode in ("CMYK", "LAB") else "L" if grey else "RGB"
    # LAB says by itself what its numbers mean.
    to_srgb = profiles.to_srgb(mode, profile, label) if profile and mode != "LAB" else None

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


def _deep_grey(image: Image.Image, profile: bytes | None, label: str) -> Callable[[Image.Image], Picture]:
    """How some rows of Pillow's integer grey modes above 8 bit become floats: "I;16", and "I" from 16-bit files."""
    if image.mode == "I":
        low, high = (int(value) for value in np.ravel(image.getextrema()))
        if low < 0 or high > 65535:
            raise ImageError(f"{label}: grey values {low} to {high}; expected 16 bit, 0 to 65535")
    transparent, to_srgb = image.info.get("transparency"), None
    if profile and deep.here():
        to_srgb = profiles.to_srgb_deep(profile, 1, label)
    elif profile and not profiles.is_srgb(profile):
        logger.warning("%s: its colour profile is not applied to 16-bit grey; to have that: %s", label, deep.INSTALL)

    def convert(band: Image.Image) -> Picture:
        values = np.asarray(band)[..., None]
        pixels = _scaled(values.astype(np.uint16))
        pixels = pixels if to_srgb is None else to_srgb(pixels)
        if isinstance(transparent, int):
            pixels[values[..., 0] == transparent] = 1
        return pixels

    return convert


def _from_array(array: npt.NDArray[Any], label: str, *, beyond: float = _RANGE_SLACK, clip: bool = True) -> Picture:
    """(h, w), (h, w, 1), (h, w, 3) or (h, w, 4) of a supported dtype to (h, w, 3) float32 in [0, 1], a copy.

    beyond: how far outside [0, 1] floats may be, and are clipped; more, and kept, if `clip` is False.
    """
    _check_dtype(array, label)
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.size == 0:
        hint = "; channels go last" if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) else ""
        hint = "; pass one image, without the batch axis" if pixels.ndim == 4 else hint
        raise ImageError(f"{label}: expected shape (h, w), (h, w, 3) or (h, w, 4), not {array.shape}{hint}")
    low, high = _range(pixels, label)
    beyond = beyond if clip else _BEYOND
    if low < -beyond or high > 1 + beyond:
        hint = "; divide by 255?" if low >= -_RANGE_SLACK and 2 < high <= 255 else ""
        wanted = "[0, 1]" if clip else f"[{-beyond:g}, {1 + beyond:g}]"
        raise ImageError(f"{label}: floats must be in {wanted}, these are in [{low:.8g}, {high:.8g}]{hint}")
    if clip and (low < -_RANGE_SLACK or high > 1 + _RANGE_SLACK):
        logger.warning("%s: values outside [0, 1] are clipped", label)
    return _in_rows(pixels, clip=clip)


def _in_rows(pixels: npt.NDArray[Any], convert: profiles.Convert | None = None, *, clip: bool = True) -> Picture:
    """Grey or RGB, or either with alpha last, to (h, w, 3) float32, a copy; `convert` is of the colours."""
    result = np.empty((*pixels.shape[:2], 3), np.float32)
    for rows in blocks.rows(pixels.shape):
        band = _scaled(pixels[rows])
        colours, alpha = (band, None) if band.shape[2] % 2 else (band[..., :-1], np.clip(band[..., -1:], 0, 1))
        colours = np.clip(colours, 0, 1) if clip else colours
        colours = colours if convert is None else convert(colours)
        result[rows] = colours if alpha is None else _over_white(colours, alpha)
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


def _off_white(pixels: Picture, alpha: Picture) -> Picture:
    """The colours in [0, 1] that over white come nearest to `pixels`; where nothing is to be seen, `pixels`."""
    visible = np.maximum(alpha, np.float32(1 / 65535))
    return np.where(alpha > 0, np.clip((pixels - (1 - alpha)) / visible, 0, 1), pixels)


# Writing


class _Sink(io.RawIOBase):
    """A stream without its file descriptor: writing to that, Pillow overlooks what a full disk has cut short."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._stream.write(data)


def _bands(
    image: npt.NDArray[Any], alpha: Picture | None, convert: profiles.Convert | None
) -> Iterator[tuple[int, Picture]]:
    """Rows of the image as floats in [0, 1], with alpha if there is any, in another profile; and where they begin."""
    for rows in blocks.rows(image.shape):
        band = np.clip(_scaled(image[rows]), 0, 1)
        if alpha is not None:
            band = _off_white(band, alpha[rows])
        if convert is not None:
            band = convert(band)
        yield rows.start, band if alpha is None else np.concatenate([band, alpha[rows]], axis=-1)


def _to_uint16(band: Picture) -> npt.NDArray[np.uint16]:
    return np.asarray(np.rint(band * 65535), np.uint16)


def _write_array(stream: BinaryIO, image: npt.NDArray[Any]) -> None:
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": image.shape})
    for rows in blocks.rows(image.shape):
        stream.write(_scaled(image[rows]).astype("<f4").tobytes())


def _write_tiff(
    stream: BinaryIO,
    shape: tuple[int, ...],
    bands: Iterator[tuple[int, Picture]],
    depth: int,
    text: str | None,
    extras: Extras,
) -> None:
    height, width = shape[:2]
    about: frames.Fields = {}
    inner: Mapping[int, frames.Fields] = {}
    if extras.exif is not None:
        about, inner = exif_fields(extras.exif, height, width, srgb=extras.profile is None)
    profile = profiles.srgb() if extras.profile is None else extras.profile
    fields = dict(about)
    if profile:
        fields[34675] = frames.Field(frames.UNDEFINED, len(profile), profile)
    if text is not None:
        fields[270] = frames.ascii_field(text.encode("ascii"))
    if extras.xmp is not None:
        xmp = xmp_packet(extras.xmp, height, width)
        fields[700] = frames.Field(frames.BYTE, len(xmp), xmp)
    before, after = frames.tiff(height, width, 3 if extras.alpha is None else 4, depth, fields, inner)
    stream.write(before)
    for _, band in bands:
        stream.write((to_uint8(band) if depth == 8 else _to_uint16(band).astype("<u2")).tobytes())
    stream.write(after)


def _write_deep_png(
    stream: BinaryIO, shape: tuple[int, ...], bands: Iterator[tuple[int, Picture]], text: str | None, extras: Extras
) -> None:
    # Pillow knows how these are written: it writes them around a single pixel.
    small = io.BytesIO()
    _write_png(small, Image.new("RGB", (1, 1)), text, extras, shape)
    chunks = [data for kind, data in frames.chunks(small.getvalue()) if kind not in (b"IHDR", b"IDAT", b"IEND")]
    for part in frames.png(shape[0], shape[1], chunks, (_to_uint16(band) for _, band in bands)):
        stream.write(part)


def _write_png(
    stream: BinaryIO, picture: Image.Image, text: str | None, extras: Extras, shape: tuple[int, ...]
) -> None:
    height, width = shape[:2]
    info, more = PngImagePlugin.PngInfo(), {}
    if extras.profile is None:
        info.add(b"sRGB", b"\x01")  # relative colorimetry
    else:
        more["icc_profile"] = extras.profile
    if text is not None:
        info.add_itxt(recipes.KEY, text)
    if extras.xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", xmp_packet(extras.xmp, height, width).decode("utf-8", "replace"))
    if extras.exif is not None:
        more["exif"] = exif_block(extras.exif, height, width, srgb=extras.profile is None)
    picture.save(stream, "PNG", pnginfo=info, **more)


def _write_jpeg(stream: BinaryIO, picture: Image.Image, text: str | None, extras: Extras, quality: int) -> None:
    more: dict[str, Any] = {} if text is None else {"comment": text.encode("ascii")}
    if extras.xmp is not None:
        more["xmp"] = xmp_packet(extras.xmp, picture.height, picture.width)
    if extras.exif is not None:
        block = exif_block(extras.exif, picture.height, picture.width, srgb=extras.profile is None)
        more["exif"] = b"Exif\0\0" + block
    profile = profiles.srgb() if extras.profile is None else extras.profile
    # Full chroma resolution: paint is not photographic, and halved chroma bleeds at strokes.
    options = {"quality": quality, "subsampling": 0, "icc_profile": profile, **more}
    picture.save(cast("BinaryIO", _Sink(stream)), "JPEG", **options)
