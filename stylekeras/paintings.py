"""The styles of a run: read, checked, and as they enter the objective.

Styles with masks share the picture by a density: where in the photo, and how much. That of a painting is the sum over
the styles it is the image of, f = sum of weight * mask. Its statistics are over f, normalised by their own area, so
that they do not depend on how large its region is, and count as much as the mean of f over the photo, so that within
the region the balance with the content is as it would be without a mask: a small region gets as strong a style as a
large one. As only the sum matters, masks that add up to white, or weights that add up, are one painting without a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stylekeras import color, images, masks, pyramid
from stylekeras.errors import SettingsError
from stylekeras.settings import Style

# Enlarged more, a painting has no strokes left that a network would know, only blur.
LARGEST = 2.0
# Masks that add up to 1 but for this are 1: a tenth of what 16 bits can tell.
_ROUNDING = 2e-6


@dataclass(frozen=True)
class Painting:
    """A style image, (h, w, 3), and how it enters.

    `weight` is the mean of its density over the photo; `mask` the density, over the photo, relative to its largest
    value; `region` the part of the image that counts, (h, w); `layers` its own, if it has any.
    """

    image: np.ndarray
    weight: float = 1.0
    scale: float = 1.0
    mask: np.ndarray | None = None
    region: np.ndarray | None = None
    layers: Mapping[str, float] | None = None

    @property
    def density(self) -> Any:
        """Over the photo, (h, w); a number if it is the same everywhere."""
        return self.weight if self.mask is None else self.mask * np.float32(self.weight / self.mask.mean(dtype=float))

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        return sum(array.nbytes for array in (self.image, self.mask, self.region) if array is not None)

    def side(self, longest: int) -> int:
        """The longest side that its scale asks for in a picture whose longest side is that."""
        return max(round(longest * self.scale), pyramid.smallest_longest(self.image.shape[:2]))

    def fit(self, longest: int) -> Painting:
        """As it enters a picture whose longest side is that: never squashed; enlarged up to `LARGEST` times.

        Where that is too small it is mirrored at its right and lower border until it is as large as the picture, or as
        its scale asks for: its statistics stay what they are, without more border in them.
        """
        return replace(self, image=self.fit_image(longest), region=self.fit_region(longest))

    def fit_image(self, longest: int) -> np.ndarray:
        """The image of `fit`."""
        inner, more = self._fit(longest)
        return np.pad(images.resize(self.image, *inner), (*more, (0, 0)), mode="reflect")

    def fit_region(self, longest: int) -> np.ndarray | None:
        """The region of `fit`."""
        inner, more = self._fit(longest)
        return None if self.region is None else np.pad(masks.resize(self.region, *inner), more, mode="reflect")

    def _fit(self, longest: int) -> tuple[tuple[int, int], tuple[tuple[int, int], tuple[int, int]]]:
        """The size to resize to, and what is mirrored on each side of it."""
        shape, asked = self.image.shape[:2], self.side(longest)
        inner = pyramid.shape_at(shape, min(asked, round(LARGEST * max(shape))))
        outer = pyramid.shape_at(shape, max(*inner, min(asked, longest)))
        return inner, ((0, outer[0] - inner[0]), (0, outer[1] - inner[1]))

    def reduce(self, longest: int) -> Painting:
        """As `fit`, if that is smaller."""
        return self.fit(longest) if max(self.image.shape) > self.side(longest) else self

    def small(self, longest: int) -> str | None:
        """What is to be said of it if it is too small for a picture whose longest side is that."""
        height, width = self.image.shape[:2]
        times = self.side(longest) / max(height, width)
        if times <= LARGEST:
            return None
        mirrored = " and mirrored" if LARGEST * max(height, width) < longest else ""
        return (
            f"{width}x{height} is small for a picture of {longest} px: enlarged {LARGEST:g} times{mirrored}, not "
            f"{times:.1f}; its strokes are finer than asked for"
        )


def load(styles: Sequence[Style], photo: tuple[int, int] | None, longest: int) -> tuple[list[Painting], list[str]]:
    """Read and check styles.

    Args: photo: its shape (h, w), None if there is none; longest: side of the picture, which masks become as large as.
    Returns: the paintings, and what is not as it was given. Raises: RequestError.
    """
    found, notes = [], []
    for i, style in enumerate(styles):
        name = f"style {i + 1}"
        image = images.load_image(style.image, name=name)
        mask, region = style.mask, style.region
        if mask is not None:
            if photo is None:
                raise SettingsError(f"{name}: a mask is over the photo, and there is none; leave it out")
            mask, note = _mask(mask, f"{name}: mask", photo, pyramid.shape_at(photo, longest), "photo")
            notes += note
        if region is not None:
            region, note = _mask(region, f"{name}: region", image.shape[:2], image.shape[:2], "style image")
            notes += note
        found.append(Painting(image, style.weight, style.scale, mask, region, style.layers))
        if (small := found[-1].small(longest)) is not None:
            notes.append(f"{name}: {small}")
    return found, notes


def merge(paintings: Sequence[Painting]) -> list[Painting]:
    """Each painting once, with the sum of its densities, in the order in which they come first.

    Args: `weight` and `mask` of each are as the user gave them.
    """
    groups: list[list[Painting]] = []
    for painting in paintings:
        group = next((group for group in groups if _same(group[0], painting)), None)
        if group is None:
            groups.append([painting])
        else:
            group.append(painting)
    return [_sum(group) for group in groups]


def coverage(paintings: Sequence[Painting]) -> np.ndarray | None:
    """How much of the picture is in any style, (h, w); None if all of it is, or there is no style.

    Args: as for `merge`.
    """
    covering = [painting.mask for painting in paintings if painting.weight]
    if not covering or any(mask is None for mask in covering):
        return None
    found = np.minimum(np.sum([mask for mask in covering if mask is not None], axis=0, dtype=np.float32), 1)
    return None if found.min() >= 1 - _ROUNDING else found


def recolour(painting: Painting, photo: np.ndarray, amount: float) -> Painting:
    """The painting in the colours of the photo (h, w, 3), where its mask is; what its region leaves out stays.

    Args: amount: of `color.match`.
    """
    where = None if painting.mask is None else masks.resize(painting.mask, *photo.shape[:2])
    return replace(painting, image=_matched(painting.image, painting.region, masks.pixels(photo, where), amount))


def colour(
    picture: np.ndarray, paintings: Sequence[Painting], resized: Sequence[np.ndarray | None], amount: float = 1.0
) -> np.ndarray:
    """The picture (h, w, 3) in the paintings' colours, mixed as their densities are, and as it is where there are none.

    Args: resized: the paintings' masks, as large as the picture; amount: of `color.match`.
    """
    first = paintings[0]
    if len(paintings) == 1 and first.mask is None:
        return color.match(picture, masks.pixels(first.image, first.region), amount)
    colours, densities = np.zeros(picture.shape, np.float32), np.zeros((*picture.shape[:2], 1), np.float32)
    for painting, mask in zip(paintings, resized, strict=True):
        density = replace(painting, mask=mask).density
        if painting.weight:
            matched = _matched(picture, mask, masks.pixels(painting.image, painting.region), amount)
            density = np.broadcast_to(density, picture.shape[:2])[..., None]
            colours += density * matched
            densities += density
    return np.where(densities > 0, colours / np.where(densities > 0, densities, 1), picture)


def _matched(image: np.ndarray, where: np.ndarray | None, reference: np.ndarray, amount: float = 1.0) -> np.ndarray:
    """The image with the colours of a reference, both (h, w, 3), where a mask (h, w) is not 0."""
    if where is None:
        return color.match(image, reference, amount)
    found, inside = image.copy(), where > 0
    found[inside] = color.match(image[inside][:, None], reference, amount)[:, 0]
    return found


def _mask(
    source: Any, name: str, over: tuple[int, int], shape: tuple[int, int], what: str
) -> tuple[np.ndarray | None, list[str]]:
    """A mask over a picture of a size as one of `shape`, None if it is white everywhere, and what is to be said."""
    mask, notes = masks.load(source, name), []
    height, width = mask.shape
    if (height, width) != over:
        stretched = "" if pyramid.shape_at(over, max(height, width)) == (height, width) else ", and so stretched"
        notes.append(f"{name}: {width}x{height}, resized to the {what}'s {over[1]}x{over[0]}{stretched}")
    return None if mask.min() == 1 else masks.resize(mask, *shape), notes


def _same(one: Painting, other: Painting) -> bool:
    """Whether two paintings are one, but for weights and masks."""
    if one.scale != other.scale or one.layers != other.layers or (one.region is None) != (other.region is None):
        return False
    if one.region is not None and not np.array_equal(one.region, other.region):  # type: ignore[arg-type]
        return False
    return np.array_equal(one.image, other.image)


def _sum(group: Sequence[Painting]) -> Painting:
    """One painting for all of a group."""
    first = group[0]
    if all(painting.mask is None for painting in group):
        return replace(first, weight=sum(painting.weight for painting in group))
    density = np.zeros(next(painting.mask.shape for painting in group if painting.mask is not None), np.float32)
    for painting in group:
        density += np.float32(painting.weight) * (1 if painting.mask is None else painting.mask)
    most = float(density.max())
    if density.min() >= most * (1 - _ROUNDING):
        return replace(first, weight=most, mask=None)
    return replace(first, weight=float(density.mean(dtype=np.float64)), mask=density / np.float32(most))
