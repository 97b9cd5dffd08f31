"""Picture files that claim far more pixels than they hold ("decompression bombs"), told from files that are large."""

from __future__ import annotations

import os
import threading
import warnings
from typing import BinaryIO

from PIL import Image

# A file of a few kilobytes can claim any size and fill the memory when decoded. This is where Pillow begins to warn:
# 1 GiB as float32. Larger pictures can still be passed as arrays.
MAX_PIXELS = 89_478_485

# A file that is itself large is no bomb: a photograph has 1 to 30 pixels a byte in a JPEG, less than 2 in a PNG; bombs
# have hundreds.
PIXELS_PER_BYTE = 32

# Pixels of a TIFF's tile, which may reach over the picture's edge.
MAX_TILE = 1 << 24

_changing = threading.Lock()


def limit(stream: BinaryIO) -> int:
    """The most pixels that a file may claim."""
    return max(MAX_PIXELS, PIXELS_PER_BYTE * os.fstat(stream.fileno()).st_size)


def refusal(most: int | None) -> str:
    """What is said of a file that claims more."""
    return f"more than {most} pixels, too many for a file of its size; make it smaller first, or save it uncompressed"


def open_image(stream: BinaryIO, formats: list[str]) -> Image.Image:
    """`PIL.Image.open` of a file, with `limit` in place of Pillow's own, unless the program has set one itself.

    Raises: Image.DecompressionBombError from the limit on, where Pillow begins to warn; whatever `Image.open` raises.
    """
    with _changing, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # not two lines more on stderr
        before = Image.MAX_IMAGE_PIXELS
        most = limit(stream) if before == MAX_PIXELS else before
        Image.MAX_IMAGE_PIXELS = most
        try:
            return Image.open(stream, formats=formats)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise Image.DecompressionBombError(refusal(most)) from error
        finally:
            Image.MAX_IMAGE_PIXELS = before
