"""Everything that artists ask for, with everything else: every pair of choices is in one of the runs here at least."""

import itertools

import numpy as np
import pytest
from engines_here import ENGINES
from fakes import scene

import stylekeras as sk
from stylekeras.settings import CHOICES

SHAPE = (40, 56)
BASE = {
    "backbone": "vgg16",
    "weights": "random",
    "precision": "float32",
    "content_layers": "block2_conv2=1",
    "style_layers": "block1_conv1=1,block2_conv1=2,block3_conv1=0.5",
    "size": 56,
    "min_size": 40,
    "steps": 2,
}
CHOSEN = {
    "mask": (False, True),
    "styles": (1, 2),
    "colors": CHOICES["colors"],
    "style_loss": CHOICES["style_loss"],
    "strength": (0.3, 0.9),
    "engine": tuple(ENGINES),
}

_rng = np.random.default_rng(11)
PHOTO, IMAGE, FIRST, SECOND = (scene(_rng, *shape) for shape in (SHAPE, (45, 61), (50, 40), (44, 60)))
MASK = np.linspace(0, 1, SHAPE[1], dtype=np.float32)[None] * np.ones((SHAPE[0], 1), np.float32)


def _pairs(row):
    """The choices of a row by twos."""
    return set(itertools.combinations(row.items(), 2))


def _rows():
    """Few rows with a choice of each, such that every pair of choices is in one: of all rows always the one with most
    pairs that no row has yet."""
    every = [dict(zip(CHOSEN, values, strict=True)) for values in itertools.product(*CHOSEN.values())]
    missing, rows = set().union(*map(_pairs, every)), []
    while missing:
        rows.append(max(every, key=lambda row: len(_pairs(row) & missing)))
        missing -= _pairs(rows[-1])
    return rows


ROWS = _rows()


def _given(row):
    """A row's styles, and its settings in tiles and as a whole."""
    mask = MASK if row["mask"] else None
    styles = [sk.Style(FIRST, mask=mask), sk.Style(SECOND, weight=0.5, scale=0.8, layers={"block2_conv1": 1.0})]
    changes = {name: value for name, value in row.items() if name not in ("mask", "styles")}
    return styles[: row["styles"]], [sk.Settings(**BASE, **changes, tile=tile) for tile in (16, "none")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(map(str, row.values())))
def test_tiled_is_whole(row):
    styles, chosen = _given(row)
    tiled, whole = (sk.loss_and_gradient(IMAGE, PHOTO, styles, settings) for settings in chosen)
    assert tiled.loss == pytest.approx(whole.loss, rel=1e-5)
    assert tiled.terms == pytest.approx(dict(whole.terms), rel=1e-4, abs=1e-7)
    difference = np.linalg.norm(tiled.gradient - whole.gradient)
    assert 0 < difference < 1e-4 * np.linalg.norm(whole.gradient)
    pictures = [sk.stylize(PHOTO, styles, settings) for settings in chosen]
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.5 / 255
    # It painted something.
    assert np.abs(pictures[1] - PHOTO).mean() > 2 / 255


def test_every_pair_is_there():
    found = set().union(*map(_pairs, ROWS))
    for (one, ones), (other, others) in itertools.combinations(CHOSEN.items(), 2):
        for value, another in itertools.product(ones, others):
            assert ((one, value), (other, another)) in found
