"""Loss curves: what is recorded of a run, where it is drawn, and what a checkpoint keeps of it."""

import json
import math

import fakes
import numpy as np
import pytest

import stylekeras as sk
from stylekeras.cli import plot

SETTINGS = sk.Settings(size=64, min_size=48, steps=(3, 2))


def curve(settings=SETTINGS):
    photo = np.zeros((48, 64, 3), np.float32)
    found = plot.Curve()
    for done, progress in enumerate(fakes.iterate(photo, [], settings), start=1):
        found.add(done, progress)
    return found


def point(step, loss, *, size=(48, 64), **terms):
    terms = {name.replace("__", "/"): value for name, value in terms.items()}
    return plot.Point(step, size, loss, {"content": 0.0, "style": loss, "tv": 0.0, **terms})


def has(image, colour):
    """Where in the picture a colour is, as (left, top, right, bottom) without legend."""
    drawn = np.asarray(image)[:, : plot._WIDTH - plot._LEGEND]
    rows, columns = np.nonzero((np.abs(drawn.astype(int) - colour) <= 6).all(axis=2))
    return (columns.min(), rows.min(), columns.max(), rows.max()) if len(rows) else None


def test_every_step_is_recorded():
    found = curve()
    assert [(one.step, one.size, one.loss) for one in found.points] == [
        (1, (36, 48), 1.0),
        (2, (36, 48), 1 / 2),
        (3, (36, 48), 1 / 3),
        (4, (48, 64), 1.0),
        (5, (48, 64), 1 / 2),
    ]
    assert [one.step for one in found.until(3).points] == [1, 2, 3]


def test_a_curve_survives_json():
    found = curve()
    again = plot.Curve.from_dict(json.loads(json.dumps(found.to_dict())))
    assert [(one.step, one.size) for one in again.points] == [(one.step, one.size) for one in found.points]
    for one, other in zip(again.points, found.points, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.terms == pytest.approx(other.terms, rel=1e-5)
    assert plot.Curve.from_dict(plot.Curve().to_dict()) == plot.Curve()


def test_a_long_curve_is_thinned():
    terms = {f"style/{i}": 1e-5 / 3 for i in range(20)}
    long = plot.Curve([plot.Point(step, (1000, 1000), 1e5 / 3, terms) for step in range(1, 100_001)])
    kept = long.to_dict()
    assert len(json.dumps(kept)) < 600_000  # a checkpoint's description may have a million
    assert kept["rows"][0][0] == 1
    assert len(kept["rows"]) > 1000


BAD = {
    "nothing": None,
    "text": "curve",
    "no rows": {"terms": []},
    "rows of numbers": {"terms": [], "rows": [3]},
    "a row too short": {"terms": [], "rows": [[1, 2]]},
    "a term too few": {"terms": ["style"], "rows": [[1, 48, 64, 0.5]]},
    "words": {"terms": [], "rows": [[1, 48, 64, "much"]]},
    "disorder": {"terms": [], "rows": [[2, 48, 64, 0.5], [1, 48, 64, 0.5]]},
    "no step": {"terms": [], "rows": [[0, 48, 64, 0.5]]},
    "endless": {"terms": [], "rows": [[10**300, 48, 64, 0.5]]},
    "infinite": {"terms": [], "rows": [[1e999, 48, 64, 0.5]]},
    "beyond floats": {"terms": [], "rows": [[1, 48, 64, 10**400]]},
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_a_curve_from_a_stranger(value):
    with pytest.raises(ValueError, match="not a curve"):
        plot.Curve.from_dict(value)


def test_a_loss_that_falls_tenfold_each_scale_lies_lower():
    points = [point(step, 10.0 ** (-(step > 10)), size=(48, 64)) for step in range(1, 21)]
    left, top, right, bottom = has(plot.draw(plot.Curve(points), SETTINGS, ""), plot._INK)
    assert right - left > 0.9 * (plot._WIDTH - plot._LEGEND - plot._LEFT)
    # A decade between them, of which 8 % is room.
    assert bottom - top > 0.85 * plot._LEAST


def test_what_is_drawn_is_weighted_and_nothing_that_is_zero():
    strong = sk.Settings(content_weight=1, style_weight=1, tv_weight=0)
    points = [point(step, 1.0, content=2.0, tv=5.0, style__block1_conv1=3.0) for step in range(1, 9)]
    image = plot.draw(plot.Curve(points), strong, "")
    assert has(image, plot._TERMS["tv"]) is None
    content, loss = has(image, plot._TERMS["content"]), has(image, plot._INK)
    assert content is not None
    assert loss is not None
    assert has(image, plot._LAYERS["style"][1]) is not None
    assert has(image, plot._LAYERS["content"][1]) is None


@pytest.mark.parametrize(
    "losses", [[1.0], [0.0], [math.nan, 1.0, math.inf], [1e-300, 1e300], [5e-324], [1.0, 1.0, 1.0], [-1.0, 2.0]]
)
def test_any_numbers_can_be_drawn(losses):
    points = [point(step, loss) for step, loss in enumerate(losses, start=7)]
    image = plot.draw(plot.Curve(points), SETTINGS, "\x1b[31m" + "long title " * 40)
    assert image.size[0] == 1100
    assert image.mode == "RGB"


def test_many_layers_make_a_higher_panel():
    few = plot.draw(plot.Curve([point(1, 1.0, style__a=1.0)]), SETTINGS, "")
    terms = {f"style__{i}": 1.0 for i in range(40)}
    assert plot.draw(plot.Curve([point(1, 1.0, **terms)]), SETTINGS, "").height > few.height + 400


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0.9, 11, 10, [1, 2, 5, 10]),
        (0.9, 11, 3, [1, 10]),
        (1e-3, 1e3, 8, [1e-3, 1e-2, 0.1, 1, 10, 100, 1000]),
        (1e-3, 1e3, 4, [1e-2, 1, 100]),
        (2.1, 4.9, 10, []),
        (1e-8, 1e8, 3, [1e-5, 1, 1e5]),
    ],
)
def test_ticks_of_a_logarithmic_axis(low, high, most, expected):
    assert plot.log_ticks(low, high, most) == expected


def test_ticks_of_steps():
    assert plot.step_ticks(1, 200) == [20, 40, 60, 80, 100, 120, 140, 160, 180, 200]
    assert plot.step_ticks(1, 2) == [1, 2]
    assert plot.step_ticks(61, 70) == list(range(61, 71))
    for end in (3, 17, 99, 1234, 10**9):
        assert 2 <= len(plot.step_ticks(1, end)) <= 10
