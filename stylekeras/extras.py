"""What a photo's file holds besides its colours, and what of it a picture painted from it may keep."""

from __future__ import annotations

import io
import logging
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from stylekeras.files import reason
from stylekeras.frames import EXIF_POINTER, GPS_POINTER, SIZES, Field, Fields, directory, longs, shorts

logger = logging.getLogger("stylekeras")

# What a JPEG's marker can hold, less a little; a camera's EXIF is smaller but for maker notes and thumbnail.
MAX_METADATA = 60_000
_MAX_ENTRIES = 512

# The picture's description, make, model, date, artist, copyright.
_ABOUT = (270, 271, 272, 306, 315, 33432)
# Not true of the picture: compression, maker's note (opaque, with addresses in it), colour space, size, sound, other
# directories, where the subject is in pixels, resolution of the focal plane, colour filter, unique number, gamma.
_NOT = {0x9101, 0x9102, 0x927C, 0xA001, 0xA002, 0xA003, 0xA004, 0xA005, 0x9214, 0xA214}
_NOT |= {0xA20E, 0xA20F, 0xA210, 0xA302, 0xA420, 0xA500}
_COLOR_SPACE, _WIDTH, _HEIGHT = 0xA001, 0xA002, 0xA003

# In XMP, as attributes and as elements.
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[0-9]+")
_XMP_WIDTH = re.compile(rb"((?:tiff:ImageWidth|exif:PixelXDimension)\s*(?:=\s*[\"']|>)\s*)[0-9]+")
_XMP_HEIGHT = re.compile(rb"((?:tiff:ImageLength|exif:PixelYDimension)\s*(?:=\s*[\"']|>)\s*)[0-9]+")
_XMP_THUMBNAILS = (b"<xmp:Thumbnails>", b"</xmp:Thumbnails>")


@dataclass(frozen=True)
class Extras:
    """What `save_image` puts into a file besides the picture.

    Attributes:
        profile: An ICC profile of RGB; the picture is converted from sRGB into it.
        exif: EXIF directories, "about" (the picture), "exif" and "gps", see `exif_of`; no thumbnail, no orientation.
        xmp: An XMP packet.
        alpha: Opacity (h, w) float32 in [0, 1], resized to the picture.
    """

    profile: bytes | None = None
    exif: Mapping[str, Fields] | None = None
    xmp: bytes | None = None
    alpha: npt.NDArray[np.float32] | None = None


def exif_of(image: Image.Image, stream: BinaryIO, label: str) -> dict[str, Fields] | None:
    """The EXIF of an opened file as far as it stays true of a picture painted from it, None if it has none.

    Kept are texts on the picture as a whole, how it was taken, and where (GPS). Not kept: thumbnail, maker's notes, and
    whatever tells of pixels. Values are copied byte by byte and not looked into; at most `MAX_METADATA` bytes.
    Broken EXIF is logged and left out.
    """
    raw = image.info.get("exif")
    if image.format != "TIFF" and not isinstance(raw, bytes):
        return None
    source = stream if image.format == "TIFF" else io.BytesIO(re.sub(rb"^(Exif\0\0){1,2}", b"", raw or b""))
    try:
        found = _directories(source)
    except (OSError, ValueError, struct.error) as error:
        logger.warning("%s: its EXIF data cannot be read and is not kept (%s)", label, reason(error))
        return None
    size = sum(len(field.data) + 12 for fields in found.values() for field in fields.values())
    if size > MAX_METADATA:
        logger.warning("%s: its EXIF data is not kept: %d bytes, at most %d are", label, size, MAX_METADATA)
        return None
    return found if any(found.values()) else None


def xmp_of(image: Image.Image, label: str) -> bytes | None:
    """The XMP packet of an opened file, None if it has none; one that is too large is logged and left out."""
    found: Any = image.info.get("xmp")
    if not isinstance(found, bytes):
        return None
    opening, closing = _XMP_THUMBNAILS
    before, _, rest = found.strip(b"\0").partition(opening)
    found = before + rest.partition(closing)[2] if closing in rest else before + opening * bool(rest) + rest
    if len(found) > MAX_METADATA:
        logger.warning("%s: its XMP data is not kept: %d bytes, at most %d are", label, len(found), MAX_METADATA)
        return None
    return found or None


def exif_fields(exif: Mapping[str, Fields], height: int, width: int, *, srgb: bool) -> tuple[Fields, dict[int, Fields]]:
    """The directory of a picture of that size, and those that it points to, for `frames.directory`."""
    taken = {_WIDTH: longs(width), _HEIGHT: longs(height), _COLOR_SPACE: shorts(1 if srgb else 0xFFFF)}
    inner: dict[int, Fields] = {EXIF_POINTER: {**exif.get("exif", {}), **taken}}
    if exif.get("gps"):
        inner[GPS_POINTER] = exif["gps"]
    return exif.get("about", {}), inner


def exif_block(exif: Mapping[str, Fields], height: int, width: int, *, srgb: bool) -> bytes:
    """As a JPEG holds it behind "Exif" and two zeros, and a PNG in its chunk."""
    about, inner = exif_fields(exif, height, width, srgb=srgb)
    return b"II*\0\x08\0\0\0" + directory(about, 8, inner)


def xmp_packet(xmp: bytes, height: int, width: int) -> bytes:
    """The packet of an upright picture of that size."""
    for pattern, number in ((_XMP_ORIENTATION, 1), (_XMP_WIDTH, width), (_XMP_HEIGHT, height)):
        xmp = pattern.sub(rb"\g<1>%d" % number, xmp)
    return xmp


def _directories(stream: BinaryIO) -> dict[str, Fields]:
    """What is kept of the directories of a TIFF, a BigTIFF or an EXIF block."""
    stream.seek(0)
    head = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise ValueError("no TIFF header")
    large = struct.unpack(f"{order}H", head[2:4])[0] == 43
    start = struct.unpack(f"{order}{'Q' if large else 'I'}", head[8:16] if large else head[4:8])[0]
    first = _read_directory(stream, start, order, large)
    found: dict[str, Fields] = {"about": {tag: first[tag] for tag in _ABOUT if tag in first and first[tag].kind == 2}}
    for name, pointer in (("exif", EXIF_POINTER), ("gps", GPS_POINTER)):
        if pointer in first and first[pointer].number == 1 and first[pointer].kind in (4, 13, 16, 18):
            place = int.from_bytes(first[pointer].data, "little")
            inside = _read_directory(stream, place, order, large)
            # Types above 12 are a BigTIFF's.
            found[name] = {tag: field for tag, field in inside.items() if tag not in _NOT and field.kind <= 12}
    return found


def _read_directory(stream: BinaryIO, start: int, order: str, large: bool) -> dict[int, Field]:
    """The fields of a directory, but for those that are damaged, or too large to be kept."""
    many, word = (f"{order}Q", f"{order}HHQ8s") if large else (f"{order}H", f"{order}HHI4s")
    stream.seek(start)
    count = struct.unpack(many, stream.read(struct.calcsize(many)))[0]
    if count > _MAX_ENTRIES:
        raise ValueError(f"{count} entries")
    entries = stream.read(count * struct.calcsize(word))
    found: dict[int, Field] = {}
    for tag, kind, number, value in struct.iter_unpack(word, entries):
        size = number * SIZES.get(kind, MAX_METADATA)
        if size > len(value):
            if size > MAX_METADATA:
                continue
            stream.seek(struct.unpack(f"{order}{'Q' if large else 'I'}", value)[0])
            value = stream.read(size)
        if 0 < size <= len(value):
            found[tag] = Field(kind, number, _little(value[:size], kind, order))
    return found


def _little(data: bytes, kind: int, order: str) -> bytes:
    """Values of a type in the other byte order; the halves of a rational on their own."""
    part = 4 if kind in (5, 10) else SIZES[kind]
    return data if order == "<" or part == 1 else np.frombuffer(data, f">u{part}").astype(f"<u{part}").tobytes()
