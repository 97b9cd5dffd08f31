"""Contact sheets: pictures in a grid, each with a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from stylekeras.images import fit, to_uint8

Cell: TypeAlias = tuple[npt.NDArray[Any] | None, str]

_PAPER, _INK, _MISSING = (255, 255, 255), (32, 32, 32), (226, 226, 226)


def compose(rows: Sequence[Sequence[Cell]], longest: int) -> npt.NDArray[np.uint8]:
    """Draw a grid of pictures, each in a box of its own with its caption below.

    Args:
        rows: Rows of the same length of (picture, caption). A picture is (h, w, 3), uint8 or floats in [0, 1]; one that
            is None is drawn as a grey box, with an empty caption too nothing is. Captions may have several lines.
        longest: The longest side of every picture; others are resized to it.

    Returns: (h, w, 3) uint8.
    """
    pictures = [[None if picture is None else _fitted(picture, longest) for picture, _ in row] for row in rows]
    known = [picture for row in pictures for picture in row if picture is not None]
    width = max((picture.width for picture in known), default=longest)
    heights = [max((picture.height for picture in row if picture is not None), default=longest) for row in pictures]
    size = min(28, max(9, width // 14))
    font, gap, line = ImageFont.load_default(size), size, round(1.3 * size)
    below = [round(0.3 * size) + line * max(caption.count("\n") + 1 for _, caption in row) for row in rows]
    whole = (gap + (width + gap) * len(rows[0]), gap + sum(heights) + sum(below) + gap * len(rows))
    sheet, top = Image.new("RGB", whole, _PAPER), gap
    draw = ImageDraw.Draw(sheet)
    for row, drawn, height, room in zip(rows, pictures, heights, below, strict=True):
        for j, ((_, caption), picture) in enumerate(zip(row, drawn, strict=True)):
            left = gap + (width + gap) * j
            if picture is not None:
                sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
            elif caption:
                draw.rectangle((left, top, left + width - 1, top + height - 1), fill=_MISSING)
            for i, text in enumerate(caption.split("\n")):
                shown = shortened(text, font, width)
                middle = left + (width - font.getlength(shown)) / 2
                draw.text((middle, top + height + 0.2 * size + line * i), shown, fill=_INK, font=font)
        top += height + room + gap
    return np.asarray(sheet)


def _fitted(picture: npt.NDArray[Any], longest: int) -> Image.Image:
    values = picture / np.float32(255) if picture.dtype == np.uint8 else np.clip(picture, 0, 1)
    return Image.fromarray(to_uint8(fit(values.astype(np.float32, copy=False), longest)))


def shortened(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """A caption without control characters, cut to a width in pixels."""
    caption = "".join(character if character.isprintable() else "?" for character in caption)
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(f"{caption}...") > width:
        caption = caption[:-1]
    return f"{caption}..."
