"""Styles that share a picture: masks, parts of paintings, and what a run makes of them."""

import numpy as np
import pytest
from engines_here import ENGINES
from fakes import scene
from onnx import TensorProto, helper

import stylekeras as sk
from stylekeras import images, machines, masks, paintings
from stylekeras.paintings import Painting
from stylekeras.settings import CHOICES

BASE = {
    "backbone": "vgg16",
    "weights": "random",
    "engine": "onnxruntime",
    "precision": "float32",
    "content_layers": "block2_conv2=1",
    "style_layers": "block1_conv1=1,block2_conv1=2,block3_conv1=0.5",
    "size": 64,
    "min_size": 45,
    "steps": 3,
}
SHAPE = (48, 64)


def _settings(**changes):
    return sk.Settings(**{**BASE, **changes})


_rng = np.random.default_rng(3)
PHOTO, STYLE, OTHER = scene(_rng, *SHAPE), scene(_rng, 60, 50), scene(_rng, 40, 70)
LEFT = np.zeros(SHAPE, np.uint8)
LEFT[:, :30] = 255
RIGHT = 255 - LEFT
SLOPE = np.tile(np.linspace(0, 255, SHAPE[1]), (SHAPE[0], 1)).astype(np.uint8)


def _evaluate(*styles, **changes):
    return sk.loss_and_gradient(PHOTO, PHOTO, list(styles), _settings(**changes))


def _error(found, right):
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def _alike(one, other, tolerance=1e-5):
    assert one.loss == pytest.approx(other.loss, rel=tolerance)
    assert one.terms == pytest.approx(dict(other.terms), rel=tolerance)
    assert _error(one.gradient, other.gradient) < 10 * tolerance


# --- what changes nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mask_of_ones_is_no_mask_exactly(engine):
    ones = np.ones((5, 9), np.float32)
    whole, masked = (
        _evaluate(style, engine=engine) for style in (STYLE, sk.Style(STYLE, mask=ones, region=np.ones((7, 3), bool)))
    )
    assert (whole.loss, whole.terms) == (masked.loss, masked.terms)
    np.testing.assert_array_equal(whole.gradient, masked.gradient)


def test_a_run_with_masks_of_ones_is_one_without(tmp_path):
    images.save_image(tmp_path / "white.png", np.ones((*SHAPE, 3)))
    plain = sk.stylize(PHOTO, [STYLE, OTHER], _settings())
    styles = [sk.Style(STYLE, mask=np.ones(SHAPE)), sk.Style(OTHER, mask=tmp_path / "white.png")]
    np.testing.assert_array_equal(sk.stylize(PHOTO, styles, _settings()), plain)


@pytest.mark.parametrize("mask", [LEFT, SLOPE, np.full((3, 3), 77, np.uint8)], ids=["left", "slope", "grey"])
def test_masks_that_partition_the_picture_are_no_mask(mask):
    """The same painting twice, here and there: once, everywhere."""
    parts = [sk.Style(STYLE, mask=mask), sk.Style(STYLE.copy(), mask=255 - mask)]
    _alike(_evaluate(*parts), _evaluate(STYLE))
    _alike(_evaluate(*parts, OTHER, colors="match"), _evaluate(OTHER, STYLE, colors="match"))
    found = sk.stylize(PHOTO, parts, _settings())
    assert np.abs(found - sk.stylize(PHOTO, STYLE, _settings())).max() < 1e-3


def test_a_style_in_two_halves_of_its_weight_is_the_style():
    whole = _evaluate(sk.Style(STYLE, weight=0.8, mask=LEFT), OTHER)
    _alike(_evaluate(sk.Style(STYLE, weight=0.4, mask=LEFT), OTHER, sk.Style(STYLE, weight=0.4, mask=LEFT)), whole)
    # Half the weight everywhere and half in the middle grey of twice as much.
    grey = (LEFT // 255 * 102).astype(np.uint8)
    _alike(_evaluate(sk.Style(STYLE, weight=0.4, mask=LEFT), OTHER, sk.Style(STYLE, weight=1.0, mask=grey)), whole)


def test_the_order_of_styles_does_not_matter():
    styles = [sk.Style(STYLE, mask=LEFT), sk.Style(OTHER, mask=SLOPE), sk.Style(PHOTO, weight=0.3)]
    _alike(_evaluate(*styles), _evaluate(*styles[::-1]))
    pictures = [sk.stylize(PHOTO, given, _settings()) for given in (styles, styles[::-1])]
    assert np.abs(pictures[0] - pictures[1]).max() < 1e-3


def test_the_same_painting_at_another_scale_of_another_region_or_in_other_layers_is_another():
    given = [Painting(STYLE), Painting(STYLE, scale=2.0), Painting(STYLE, region=masks.load(LEFT, "mask"))]
    given.append(Painting(STYLE, layers={"block1_conv1": 1.0}))
    assert len(paintings.merge([*given, *given])) == 4


def test_all_of_this_between_the_photo_and_the_painting_too():
    """Where the photo's own statistics count, over the same masks."""
    half = {"strength": 0.4}
    ones = sk.Style(STYLE, mask=np.ones((5, 9), np.float32))
    _alike(_evaluate(ones, **half), _evaluate(STYLE, **half), 1e-9)
    _alike(_evaluate(sk.Style(STYLE, mask=SLOPE), sk.Style(STYLE, mask=255 - SLOPE), **half), _evaluate(STYLE, **half))
    styles = [sk.Style(STYLE, mask=LEFT), sk.Style(OTHER, mask=SLOPE), sk.Style(OTHER, layers="block1_conv2=1")]
    _alike(_evaluate(*styles, **half), _evaluate(*styles[::-1], **half))


def test_the_photo_counts_where_the_mask_is():
    """Half way, the left half of the photo alone is as far from its region's target as if there were no right one."""
    for place, same in ((LEFT, True), (RIGHT, False)):
        found = [
            sk.loss_and_gradient(photo, photo, sk.Style(STYLE, mask=place), _settings(strength=0.4)).terms["style"]
            for photo in (PHOTO, np.concatenate([PHOTO[:, :45], OTHER[:, :19].mean() + 0 * PHOTO[:, 45:]], axis=1))
        ]
        assert (found[0] == pytest.approx(found[1], rel=1e-5)) is same


@pytest.mark.parametrize("engine", ENGINES)
def test_strokes_of_one_and_colours_of_another(engine):
    """Each in its own layers; together they are what each is alone, and the settings' layers are nobody's."""
    strokes = sk.Style(STYLE, layers={"block2_conv1": 2.0, "block3_conv1": 0.5})
    colours = sk.Style(OTHER, weight=0.6, layers="block1_conv1=1")
    changes = {"engine": engine, "style_layers": "block1_conv2"}
    both, first, second = (
        _evaluate(*given, content_weight=0.0, tv_weight=0.0, **changes)
        for given in ([strokes, colours], [strokes], [colours])
    )
    assert {name for name in both.terms if name.startswith("style/")} == {
        "style/block1_conv1",
        "style/block2_conv1",
        "style/block3_conv1",
    }
    assert both.loss == pytest.approx(first.loss + second.loss, rel=1e-5)
    assert _error(both.gradient, first.gradient + second.gradient) < 1e-4
    # Without layers of its own a style has the settings'.
    mixed = _evaluate(strokes, OTHER, **changes)
    assert "style/block1_conv2" in mixed.terms
    same = _evaluate(sk.Style(STYLE, layers=_settings().style_layers), OTHER)
    _alike(same, _evaluate(STYLE, OTHER))


# --- where a mask acts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"init": "noise", "optimizer": "adam"}, {"colors": "luminance"}, {"style_loss": "gram"}]
)
def test_uncovered_parts_keep_the_photo(changes):
    steps = list(sk.iterate(PHOTO, sk.Style(STYLE, mask=LEFT), _settings(**changes)))
    for progress in (steps[0], steps[-1]):
        photo = images.resize(PHOTO, *progress.size)
        edge = -(-30 * progress.size[1] // 64)
        np.testing.assert_array_equal(progress.image[:, edge:], photo[:, edge:])
        assert np.abs(progress.image[:, : edge - 1] - photo[:, : edge - 1]).mean() > 0.02


def test_no_style_statistic_acts_far_from_its_mask():
    found = _evaluate(sk.Style(STYLE, mask=LEFT), content_weight=0, tv_weight=0).gradient
    # The deepest layer sees 10 px before and 13 behind.
    assert (found[:, 30 + 13 :] == 0).all()
    assert (np.abs(found[:, :30]).max(axis=2) > 0).mean() > 0.9


def test_a_small_region_gets_as_strong_a_style_as_a_large_one():
    """The style's gradient in a small region is what it would be if the picture were that region alone."""
    strip = PHOTO[:, :32]
    wide = np.concatenate([strip, PHOTO[:, 32:], PHOTO[:, ::-1]], axis=1)
    mask = np.zeros(wide.shape[:2])
    mask[:, :32] = 1
    chosen = _settings(content_weight=0, tv_weight=0, style_layers="block1_conv1=1")
    style = sk.Style(STYLE)
    alone = sk.loss_and_gradient(strip, strip, style, chosen)
    scale = max(strip.shape) / max(wide.shape)
    within = sk.loss_and_gradient(wide, wide, sk.Style(STYLE, mask=mask, scale=scale), chosen)
    # The loss and the gradient are means over the picture.
    share = strip.size / wide.size
    assert within.loss == pytest.approx(share * alone.loss, rel=0.1)
    assert _error(within.gradient[:, :28], share * alone.gradient[:, :28]) < 0.15


def test_a_region_of_the_style_image_is_that_part_alone():
    painting = np.concatenate([STYLE, OTHER.mean() * np.ones_like(STYLE)], axis=1)
    region = np.zeros(painting.shape[:2])
    region[:, :50] = 1
    scale = max(painting.shape) / 64
    layers = {"style_layers": "block1_conv1=1"}
    alone = _evaluate(sk.Style(STYLE, scale=60 / 64), **layers)
    part = _evaluate(sk.Style(painting, scale=scale, region=region), **layers)
    whole = _evaluate(sk.Style(painting, scale=scale), **layers)
    assert part.terms["style"] == pytest.approx(alone.terms["style"], rel=0.03)
    assert abs(whole.terms["style"] / alone.terms["style"] - 1) > 0.1


def test_styles_enter_where_they_are_white():
    """What L-BFGS tries first: the photo in the colours of each, in its place, and the photo where there is none."""
    red, blue = (np.full((40, 40, 3), colour) for colour in ((0.9, 0.1, 0.1), (0.1, 0.1, 0.9)))
    left, right = (masks.load(mask, "mask") for mask in (LEFT, RIGHT))
    given = [Painting(red, 0.5, mask=left), Painting(blue, 0.5, mask=right)]
    found = paintings.colour(PHOTO, given, [left, right])
    np.testing.assert_allclose(found[:, :30].mean(axis=(0, 1)), red[0, 0], atol=0.01)
    np.testing.assert_allclose(found[:, 30:].mean(axis=(0, 1)), blue[0, 0], atol=0.01)
    np.testing.assert_array_equal(
        paintings.colour(PHOTO, [*given[:1], Painting(red, 0.0)], [left, None])[:, 30:], PHOTO[:, 30:]
    )


def test_coverage():
    left, right = (Painting(STYLE, mask=masks.load(mask, "mask")) for mask in (LEFT, RIGHT))
    np.testing.assert_array_equal(paintings.coverage([left]), LEFT / 255)
    assert paintings.coverage([left, right]) is None
    assert paintings.coverage([left, Painting(OTHER)]) is None
    assert paintings.coverage([]) is None
    without = Painting(OTHER, weight=0.0)
    np.testing.assert_array_equal(paintings.coverage([left, without]), LEFT / 255)


# --- engines, tiles, states -----------------------------------------------------------------------------------------


def _shared(shape):
    """Two styles of a picture of that shape: one with a mask and of a region, one with a slope and its own layers."""
    random = np.random.default_rng(8)
    hole = np.ones((30, 40), np.float32)
    hole[10:20, 5:30] = 0
    slope = np.tile(np.linspace(0.2, 1, 9, dtype=np.float32), (4, 1))
    region = np.tile(np.linspace(1, 0, 20), (20, 1))
    first = sk.Style(scene(random, shape[1], shape[0]), mask=hole, region=region)
    return [
        first,
        sk.Style(scene(random, *shape), weight=0.5, scale=0.7, mask=slope, layers="block1_conv2=1,block2_conv1=0.2"),
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("style_loss", CHOICES["style_loss"])
def test_tiled_is_whole_and_every_engine_agrees(engine, style_loss):
    random, shape = np.random.default_rng(9), (75, 91)
    image, photo = scene(random, *shape), scene(random, *shape)
    found = []
    for changes in ({"engine": engine, "tile": "none"}, {"engine": engine, "tile": 16}, {"tile": "none"}):
        chosen = _settings(style_loss=style_loss, **changes)
        found.append(sk.loss_and_gradient(image, photo, _shared(shape), chosen))
    whole, tiled, other = found
    for one, tolerance in ((tiled, 1e-5), (other, 1e-4)):
        assert one.loss == pytest.approx(whole.loss, rel=tolerance)
        assert one.terms == pytest.approx(dict(whole.terms), rel=1e-4)
        assert _error(one.gradient, whole.gradient) < 1e-4 * (1 if one is tiled else 10)
    assert not np.array_equal(tiled.gradient, whole.gradient)


def test_a_run_in_tiles_paints_the_same_picture(monkeypatch):
    pictures, layout = [], machines.layout
    for tile, on_disk in (("none", False), (16, False), (16, True)):
        monkeypatch.setattr(
            machines, "layout", lambda *a, on_disk=on_disk, **b: layout(*a, **b)._replace(on_disk=on_disk)
        )
        pictures.append(sk.stylize(PHOTO, _shared(SHAPE), _settings(tile=tile)))
    assert np.abs(pictures[1] - pictures[0]).mean() < 1 / 255
    np.testing.assert_array_equal(pictures[2], pictures[1])


@pytest.mark.parametrize("after", [1, 4])
def test_resumed_is_uninterrupted(after):
    given = [sk.Style(STYLE, mask=LEFT), sk.Style(OTHER, mask=SLOPE, region=SLOPE)]
    steps = list(sk.iterate(PHOTO, given, _settings()))
    resumed = list(sk.iterate(PHOTO, given, _settings(), resume=steps[after].state))
    assert [step.loss for step in resumed] == [step.loss for step in steps[after + 1 :]]
    np.testing.assert_array_equal(resumed[-1].image, steps[-1].image)
    with pytest.raises(sk.SettingsError, match="state is of another run: its styles"):
        sk.iterate(PHOTO, [STYLE, OTHER], _settings(), resume=steps[after].state)


def test_a_plan_with_masks():
    plain, masked = (
        sk.plan(PHOTO, given, _settings(), calibrate=False) for given in ([STYLE], [sk.Style(STYLE, mask=LEFT)])
    )
    # The mask and the coverage, and their taps.
    assert masked.memory - plain.memory == pytest.approx(4 * 48 * 64 * (2 + 1 + 1 / 4 + 1 / 16), rel=0.01)
    assert masked.scales[0].tiles == 1


# --- small paintings ------------------------------------------------------------------------------------------------


def test_a_painting_is_never_squashed_and_enlarged_twice_at_most():
    painting = Painting(OTHER, region=masks.load(OTHER, "mask"))  # 70 x 40
    np.testing.assert_array_equal(painting.fit(140).image, images.fit(OTHER, 140))
    small = painting.fit(500)
    assert small.image.shape == (286, 500, 3)
    assert small.region.shape == (286, 500)
    inner = images.fit(OTHER, 140)
    np.testing.assert_array_equal(small.image[:80, :140], inner)
    np.testing.assert_array_equal(small.image[:80, 139 : 139 + 140], inner[:, ::-1])
    np.testing.assert_array_equal(small.image[79 : 79 + 80, :140], inner[::-1])
    np.testing.assert_array_equal(small.region[:80, 139 : 139 + 140], small.region[:80, 139::-1])
    # Not larger than the picture, nor than its scale asks for.
    assert Painting(OTHER, scale=4.0).fit(200).image.shape == (114, 200, 3)
    assert Painting(OTHER, scale=4.0).fit(100).image.shape == (80, 140, 3)
    assert Painting(OTHER, scale=0.5).fit(400).image.shape == (114, 200, 3)


def test_a_small_painting_is_said():
    assert Painting(OTHER).small(140) is None
    assert Painting(OTHER, scale=0.25).small(500) is None
    (note,) = _evaluate(sk.Style(OTHER, scale=4.0)).provenance["notes"]
    assert note.startswith("style 1: 70x40 is small for a picture of 64 px: enlarged 2 times, not 3.7; its strokes are")
    (note,) = paintings.load([sk.Style(OTHER)], SHAPE, 350)[1]
    assert "enlarged 2 times and mirrored, not 5.0" in note


# --- what is said and what is refused -------------------------------------------------------------------------------


def test_what_is_resized_is_said():
    found = _evaluate(sk.Style(STYLE, mask=np.eye(64), region=np.ones((30, 25))), sk.Style(OTHER, mask=LEFT))
    assert found.provenance["notes"] == [
        "style 1: mask: 64x64, resized to the photo's 64x48, and so stretched",
        "style 1: region: 25x30, resized to the style image's 50x60",
    ]
    steps = list(sk.iterate(PHOTO, sk.Style(STYLE, mask=np.eye(64)), _settings(steps=1)))
    assert steps[-1].provenance["notes"] == found.provenance["notes"][:1]


@pytest.mark.parametrize(
    ("content", "style", "message"),
    [
        (PHOTO, {"mask": np.zeros(SHAPE)}, "style 1: mask: black everywhere"),
        (PHOTO, {"region": np.zeros(SHAPE)}, "style 1: region: black everywhere"),
        (PHOTO, {"mask": "gone.png"}, r"style 1: mask gone\.png: no such file"),
        (PHOTO, {"mask": 3}, "style 1: mask: expected a path, a PIL image or a NumPy array, not int"),
        (PHOTO, {"mask": np.full(SHAPE, 2.0)}, r"style 1: mask: floats must be in \[0, 1\]"),
        (None, {"mask": LEFT}, "style 1: a mask is over the photo, and there is none"),
    ],
)
def test_what_cannot_be(content, style, message):
    changes = {} if content is not None else {"init": "noise"}
    with pytest.raises(sk.RequestError, match=message):
        sk.iterate(content, sk.Style(STYLE, **style), _settings(**changes))


def test_a_network_that_sees_all_of_a_picture_has_no_masks(tmp_path, rng):
    kernel = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], rng.normal(size=108).astype("f4"))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["mean"], name="squeeze"),
        helper.make_node("Mul", ["c", "mean"], ["y"]),
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, "h", "w"])
    graph = helper.make_graph(nodes, "g", [entry], [out], [kernel])
    path = tmp_path / "squeeze.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())
    changes = {"backbone": str(path), "weights": "auto", "content_layers": "y", "style_layers": "y"}
    assert _evaluate(STYLE, **changes).loss > 0
    for given in ({"mask": LEFT}, {"region": LEFT}):
        with pytest.raises(sk.SettingsError, match=r"GlobalAveragePool \(squeeze\).*masks and regions cannot be"):
            _evaluate(sk.Style(STYLE, **given), **changes)
