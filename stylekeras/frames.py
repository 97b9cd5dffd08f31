"""What stands around the pixels in the files that Pillow cannot write: TIFF and PNG with 16 bits a channel."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Above it a TIFF is a BigTIFF: offsets in the classic one have 32 bits.
MAX_CLASSIC_TIFF = 2**32 - 1

# Bytes of a TIFF's strip: what a reader has to hold at once.
STRIP = 1 << 20

# Bytes of a PNG's IDAT chunk.
_CHUNK = 1 << 20

# TIFF's types of values, and the bytes of one; of a rational's or a complex type's halves, as they are swapped.
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 1, 2, 3, 4, 5, 7, 16
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

EXIF_POINTER, GPS_POINTER = 34665, 34853


class Field(NamedTuple):
    """A value of a TIFF directory: its type, how many there are, and their bytes, little-endian."""

    kind: int
    number: int
    data: bytes


Fields = Mapping[int, Field]


def ascii_field(text: bytes) -> Field:
    """A text, without the zero that ends it."""
    return Field(ASCII, len(text) + 1, text + b"\0")


def shorts(*values: int) -> Field:
    """Numbers of 16 bits."""
    return Field(SHORT, len(values), struct.pack(f"<{len(values)}H", *values))


def longs(*values: int) -> Field:
    """Numbers of 32 bits."""
    return Field(LONG, len(values), struct.pack(f"<{len(values)}I", *values))


def directory(fields: Fields, start: int, inner: Mapping[int, Fields] | None = None, *, large: bool = False) -> bytes:
    """A directory of TIFF 6.0 that stands at `start` of its file, behind it the values that do not fit into entries.

    inner: directories that are behind it too, by the tag that points there. large: as in a BigTIFF.
    """
    pointers = {tag: Field(LONG8 if large else LONG, 1, bytes(8 if large else 4)) for tag in inner or {}}
    end = start + len(_directory({**fields, **pointers}, start, large))
    behind = b""
    for tag, inside in (inner or {}).items():
        pointers[tag] = pointers[tag]._replace(data=struct.pack("<Q" if large else "<I", end + len(behind)))
        behind += _directory(inside, end + len(behind), large)
    return _directory({**fields, **pointers}, start, large) + behind


def _directory(fields: Fields, start: int, large: bool) -> bytes:
    word, many = ("Q", "Q") if large else ("I", "H")
    room = struct.calcsize(word)
    place = start + struct.calcsize(f"<{many}") + len(fields) * struct.calcsize(f"<HH{word}{room}s") + room
    entries, outside = [], bytearray()
    for tag, field in sorted(fields.items()):
        data = field.data
        if len(data) > room:
            data = struct.pack(f"<{word}", place + len(outside))
            outside.extend(field.data + b"\0" * (len(field.data) % 2))  # offsets are even
        entries.append(struct.pack(f"<HH{word}", tag, field.kind, field.number) + data.ljust(room, b"\0"))
    return b"".join([struct.pack(f"<{many}", len(fields)), *entries, bytes(room), outside])


def tiff(
    height: int, width: int, channels: int, depth: int, more: Fields, inner: Mapping[int, Fields]
) -> tuple[bytes, bytes]:
    """What stands before and behind the pixels of a TIFF of RGB, or RGB and alpha.

    Baseline TIFF 6.0, little-endian, not compressed, or BigTIFF, whose offsets have 64 bits instead of 32. Layout:
    header, pixels in strips, directory, the values that do not fit into an entry.

    depth: bits a channel, 8 or 16. more, inner: further fields, and directories that they point to; see `directory`.
    """
    row = width * channels * depth // 8
    rows = min(height, max(1, STRIP // row))  # of a strip
    strips = -(-height // rows)
    rest = sum(len(field.data) + 32 for fields in (more, *inner.values()) for field in fields.values())
    large = row * height + 16 * strips + rest + 1024 > MAX_CLASSIC_TIFF  # 1024: what is below, rounded up
    start = 16 if large else 8
    starts = (start + row * rows * np.arange(strips, dtype=np.uint64)).astype("<u8" if large else "<u4")
    sizes = [row * rows] * (strips - 1) + [row * (height - rows * (strips - 1))]
    fields: dict[int, Field] = {
        256: longs(width),
        257: longs(height),
        258: shorts(*[depth] * channels),  # bits per sample
        259: shorts(1),  # not compressed
        262: shorts(2),  # RGB
        273: Field(LONG8 if large else LONG, strips, starts.tobytes()),
        277: shorts(channels),  # samples per pixel
        278: longs(rows),  # rows per strip
        279: longs(*sizes),
        282: Field(RATIONAL, 1, struct.pack("<2I", 1, 1)),  # resolution: the baseline asks for it
        283: Field(RATIONAL, 1, struct.pack("<2I", 1, 1)),
        284: shorts(1),  # RGBRGB...
        296: shorts(1),  # the resolution has no unit
        339: shorts(*[1] * channels),  # unsigned integers
    }
    if channels == 4:
        fields[338] = shorts(2)  # alpha, by which the colours are not multiplied
    end = start + row * height
    place = end + end % 2
    header = struct.pack("<2s3HQ", b"II", 43, 8, 0, place) if large else struct.pack("<2sHI", b"II", 42, place)
    return header, bytes(end % 2) + directory({**more, **fields}, place, inner, large=large)


def png(height: int, width: int, extra: Iterable[bytes], bands: Iterable[npt.NDArray[np.uint16]]) -> Iterator[bytes]:
    """The parts of a PNG with 16 bits a channel, RGB or with alpha.

    extra: whole chunks that stand before the pixels. bands: (rows, width, 3|4) each, at least one, of the same
    number of channels. Every row is told as its difference to the one above (filter 2): of pictures, smaller than as
    it is, and one subtraction.
    """
    compressor, above, begun = zlib.compressobj(6), None, False
    waiting = bytearray()
    for band in bands:
        rows = band.astype(">u2").view(np.uint8).reshape(band.shape[0], -1)
        if not begun:
            header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[band.shape[2]], 0, 0, 0)
            yield b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *extra])
            above, begun = np.zeros_like(rows[:1]), True
        told = np.empty((rows.shape[0], 1 + rows.shape[1]), np.uint8)
        told[:, 0] = 2
        np.subtract(rows, np.concatenate([above, rows[:-1]]), out=told[:, 1:])  # modulo 256
        above = rows[-1:].copy()
        waiting += compressor.compress(told.tobytes())
        if len(waiting) >= _CHUNK:
            yield chunk(b"IDAT", bytes(waiting))
            waiting.clear()
    yield chunk(b"IDAT", bytes(waiting) + compressor.flush()) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG: its length, kind, data and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Of a whole PNG: the kind of each chunk, and all of its bytes."""
    place = 8
    while place < len(data):
        end = place + 12 + struct.unpack_from(">I", data, place)[0]
        yield data[place + 4 : place + 8], data[place:end]
        place = end
