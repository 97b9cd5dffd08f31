"""Masks against plain loops and numbers by hand: reading, resizing, and what a layer's positions make of them."""

import itertools

import numpy as np
import pytest
from PIL import Image

import stylekeras as sk
from stylekeras import backbones, masks
from stylekeras.tiling import Field

_THREE = Field().through(3, 1, 1, 1)
_VGG = backbones.vgg_anatomy("vgg19", [f"block{i}_conv1" for i in range(1, 6)]).fields
# Of an ONNX file: strides in convolutions, no padding, a kernel narrower than the stride.
_OTHER = {
    "strided": Field().through(5, 2, 2, 2).through(3, 2, 1, 1),
    "unpadded": Field().through(3).through(2, 2).through(3),
    "narrow": Field().through(1, 3),
}


def _disk(height, width):
    y, x = np.mgrid[0:height, 0:width]
    return (np.hypot(y - height / 3, x - width / 2) < height / 4).astype(np.float32)


# --- reading --------------------------------------------------------------------------------------------------------


def test_white_counts_and_colours_by_their_mean(tmp_path):
    grey = np.array([[0, 51, 255], [102, 204, 128]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "mask.png")
    for source in (tmp_path / "mask.png", str(tmp_path / "mask.png"), Image.fromarray(grey), grey, grey / 255):
        found = masks.load(source, "mask")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, (grey / np.float32(255)).astype(np.float32))
    colours = np.zeros((1, 2, 3), np.uint8)
    colours[0, 1] = 255, 0, 51
    np.testing.assert_allclose(masks.load(colours, "mask"), [[0, 0.4]], rtol=1e-6)


@pytest.mark.parametrize("source", [np.zeros((40, 40), np.uint8), Image.new("RGB", (3, 3))])
def test_a_black_mask_is_refused(source):
    with pytest.raises(sk.ImageError, match="style 2: mask: black everywhere; white is where"):
        masks.load(source, "style 2: mask")


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.png").write_text("white")
    for source, message in ((tmp_path / "text.png", "not a picture"), (3, "expected a path"), (["a"], "expected")):
        with pytest.raises(sk.ImageError, match=message):
            masks.load(source, "mask")


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (5, 3), (6, 7)])
def test_smaller_is_the_mean_of_what_is_covered(rng, shape):
    mask = rng.random((6, 10)).astype(np.float32)
    # Each pixel in as many as make both sizes whole.
    fine = np.kron(mask, np.ones(shape))
    wanted = fine.reshape(shape[0], 6, shape[1], 10).mean(axis=(1, 3))
    np.testing.assert_allclose(masks.resize(mask, *shape), wanted, atol=2e-7)


def test_larger_is_a_straight_line():
    np.testing.assert_allclose(masks.resize(np.array([[0, 1]], np.float32), 1, 4), [[0, 0.25, 0.75, 1]])
    np.testing.assert_allclose(
        masks.resize(np.array([[0.5], [0.25]], np.float32), 4, 2)[:, 0], [0.5, 0.4375, 0.3125, 0.25]
    )
    np.testing.assert_array_equal(masks.resize(np.full((1, 1), 0.3, np.float32), 3, 2), np.float32(0.3))


@pytest.mark.parametrize("shape", [(5, 31), (40, 9), (33, 44)])
def test_masks_that_add_up_still_do(rng, shape):
    mask = rng.random((17, 23)).astype(np.float32)
    np.testing.assert_allclose(masks.resize(mask, *shape) + masks.resize(1 - mask, *shape), 1, atol=3e-7)
    np.testing.assert_array_equal(masks.resize(np.ones_like(mask), *shape), 1)


# --- taps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*_VGG, *_OTHER])
@pytest.mark.parametrize("shape", [(64, 96), (97, 83)])
def test_ones_and_even_grey_are_ones(name, shape):
    fields = _VGG.get(name) or (_OTHER[name],) * 2
    for level in (1.0, 0.3):
        found = masks.at_tap(np.full(shape, level, np.float32), fields)
        assert found.shape == (1, *(field.positions(n) for field, n in zip(fields, shape, strict=True)), 1)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, 1, atol=1e-6 if level < 1 else 0)


def test_a_hard_edge_by_hand():
    """A position of a 3 x 3 convolution at the edge sees two columns of three inside, which count squared."""
    mask = np.zeros((5, 8), np.float32)
    mask[:, :4] = 1
    np.testing.assert_allclose(
        masks.at_tap(mask, (_THREE, _THREE))[0, :, :, 0], np.tile([1, 1, 1, 4 / 9, 0, 0, 0, 0], (5, 1)), rtol=1e-6
    )
    # Grey is a lower step: on its side nothing is lost, since what it sees beyond is whiter.
    mask[:, 4:] = 0.5
    np.testing.assert_allclose(
        masks.at_tap(mask, (_THREE, _THREE))[0, 2, :, 0], [1, 1, 1, (5 / 6) ** 2, 0.5, 0.5, 0.5, 0.5], rtol=1e-6
    )


def test_a_slope_counts_as_it_is():
    slope = np.tile(np.linspace(0, 1, 192, dtype=np.float32), (64, 1))
    for field in _VGG.values():
        stride = field[0].stride
        middle = slice(96 // stride - 1, 112 // stride)
        found = masks.at_tap(slope, field)[0, 64 // stride // 2, middle, 0]
        own = slope[0].reshape(-1, stride).mean(axis=1)[middle]
        np.testing.assert_allclose(found / found[0], own / own[0], rtol=1e-5)


@pytest.mark.parametrize("name", _VGG)
@pytest.mark.parametrize("shape", [(64, 96), (97, 83)])
def test_a_position_stands_for_its_stride(monkeypatch, name, shape):
    """Without feathering a tap has the means over strides; pixels beyond the last whole one are the last position's."""
    monkeypatch.setattr(masks, "FEATHER", 0)
    mask, stride = _disk(*shape), _VGG[name][0].stride
    edges = [[*range(0, n - stride + 1, stride), n] for n in shape]
    wanted = np.array(
        [[mask[a:b, c:d].mean() for c, d in itertools.pairwise(edges[1])] for a, b in itertools.pairwise(edges[0])]
    )
    np.testing.assert_allclose(masks.at_tap(mask, _VGG[name])[0, :, :, 0], wanted / wanted.max(), atol=1e-6)


def _means(mask, field):
    """The share of what each position sees that is in the mask, layer by layer in plain loops."""
    weight, value = np.ones(len(mask)), np.asarray(mask, float)
    for kernel, stride, before, after in field.layers:
        pad = (np.zeros(before), np.zeros(after))
        weight, value = (np.concatenate([pad[0], given, pad[1]]) for given in (weight, value))
        starts = range(0, len(value) - kernel + 1, stride)
        weight, value = (np.array([given[i : i + kernel].sum() for i in starts]) for given in (weight, value))
    return value / weight


@pytest.mark.parametrize("name", ["block3_conv1", "block5_conv1", *_OTHER])
def test_what_a_position_sees(rng, name):
    """Along one axis, since the other is the same: own cell times the share inside, squared."""
    field = _OTHER[name] if name in _OTHER else _VGG[name][0]
    line = (rng.random(90) < 0.6).astype(np.float32)
    found = masks.at_tap(np.tile(line, (90, 1)), (field, field))[0, 5 // field.stride, :, 0]
    fine = np.repeat(line, 2)
    middles = np.arange(field.positions(90)) * field.stride + (field.high - field.low) / 2
    own = []
    for i, middle in enumerate(middles):
        start, stop = int(2 * middle + 1 - field.stride), int(2 * middle + 1 + field.stride)
        start, stop = min(start, 0) if i == 0 else start, max(stop, 180) if i == len(middles) - 1 else stop
        own.append(np.pad(fine, 200, mode="edge")[200 + start : 200 + stop].mean())
    own = np.array(own)
    inside = np.minimum(1, _means(line, field) / np.where(own > 0, own, 1))
    wanted = own * inside**2
    np.testing.assert_allclose(found, wanted / wanted.max(), atol=1e-6)


@pytest.mark.parametrize("name", [*_VGG, *_OTHER])
def test_no_region_is_lost_however_small(name):
    fields = _VGG.get(name) or (_OTHER[name],) * 2
    for place in ((0, 0), (96, 82), (40, 1), (95, 31), (50, 82)):
        mask = np.zeros((97, 83), np.float32)
        mask[place] = 1 / 255
        found = masks.at_tap(mask, fields)
        assert found.max() == 1
        assert np.isfinite(found).all()


def test_deep_positions_near_an_edge_count_less():
    """What sees much of the other side has little to say: at the edge a quarter, two deviations inside all."""
    mask = np.zeros((64, 256), np.float32)
    mask[:, :128] = 1
    found = masks.at_tap(mask, _VGG["block5_conv1"])[0, 2, :, 0]
    assert found[7] < 0.5
    assert found[5] > 0.9
    assert (found[8:] == 0).all()


# --- pictures -------------------------------------------------------------------------------------------------------


def test_blend_is_exact_at_both_ends(rng):
    below, above = rng.random((2, 4, 3, 3)).astype(np.float32)
    mask = np.array([[0, 0.5, 1]] * 4, np.float32)
    found = masks.blend(below, above, mask)
    np.testing.assert_array_equal(found[:, 0], below[:, 0])
    np.testing.assert_array_equal(found[:, 2], above[:, 2])
    np.testing.assert_allclose(found[:, 1], (below[:, 1] + above[:, 1]) / 2, rtol=1e-6)


def test_pixels_of_a_mask(rng):
    image = rng.random((2, 2, 3))
    found = masks.pixels(image, np.array([[0.1, 0.5], [0.2, 0.26]]))
    np.testing.assert_array_equal(found, [[image[0, 1]], [image[1, 1]]])
    assert masks.pixels(image, None) is image
