"""Convolutions from and to a picture's few planes, beside sums of products in float64."""

import numpy as np
import pytest
from machine_code import SHAPES

from stylekeras.native.colours import FromPlanes, ToPlanes, least_across
from stylekeras.threads import Threads


def convolved(picture, weights):
    """(c, h + 2, w + 2) and (out, c, 3, 3) to (out, h, w)."""
    down, across = picture.shape[1] - 2, picture.shape[2] - 2
    found = 0
    for i, j in np.ndindex(3, 3):
        seen = picture[:, i : i + down, j : j + across].astype(np.float64)
        found = found + np.einsum("chw,oc->ohw", seen, weights[:, :, i, j].astype(np.float64))
    return found


def random(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("planes", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 6), (2, 7), (9, 13), (33, 40)])
@pytest.mark.parametrize("out", [32, 80])
def test_features_of_planes(rng, size, out, planes, threads, shape):
    """Positions that are no multiple of those at a time, and panels of channels that are not full."""
    picture, weights, bias = (
        random(rng, planes, size[0] + 2, size[1] + 2),
        random(rng, out, planes, 3, 3),
        random(rng, out),
    )
    around = np.full((3, *size, out), 7, np.float32)
    FromPlanes(Threads(threads), weights, bias, 0.25, shape)(picture, around[1])
    wanted = np.maximum(convolved(picture, weights).transpose(1, 2, 0) + bias, 0.25)
    np.testing.assert_allclose(around[1], wanted, rtol=0, atol=2e-5)
    assert (around[::2] == 7).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("planes", [1, 2, 3, 4])
@pytest.mark.parametrize("pads", [(0, 0), (1, 1), (2, 2), (0, 2), (3, 1)])
@pytest.mark.parametrize("size", [(3, 3), (4, 9), (13, 37)])
def test_planes_of_features(rng, size, pads, planes, shape):
    """Rows of features shorter than the positions at a time, no multiple of them, and more zeros around than needed."""
    features, weights = random(rng, *size, 48), random(rng, planes, 48, 3, 3)
    wide = np.pad(features.transpose(2, 0, 1), ((0, 0), (pads[0],) * 2, (pads[1],) * 2))
    wanted = convolved(wide, weights)
    around = np.full((3, *wanted.shape), 7, np.float32)
    ToPlanes(Threads(2), weights, pads, shape)(features, around[1])
    np.testing.assert_allclose(around[1], wanted, rtol=0, atol=2e-4)
    assert (around[::2] == 7).all()


def test_what_is_not_a_number_stays_that_where_it_is(rng):
    picture = random(rng, 3, 12, 14)
    picture[1, 5, 6] = np.nan
    found = np.zeros((10, 12, 64), np.float32)
    FromPlanes(Threads(1), random(rng, 64, 3, 3, 3), random(rng, 64), 0.0)(picture, found)
    wrong = np.isnan(found).all(2)
    assert wrong[3:6, 4:7].all()
    assert wrong.sum() == np.isnan(found).any(2).sum() == 9
    back = np.zeros((3, 12, 14), np.float32)
    found[3:6, 4:7] = 0
    found[9, 11, 40] = np.nan
    ToPlanes(Threads(1), random(rng, 3, 64, 3, 3), (2, 2))(found, back)
    assert np.isnan(back[:, 9:, 11:]).all()
    assert np.isnan(back).sum() == 27


def test_what_does_not_fit_is_an_error(rng):
    """Machine code would read on."""
    from_planes = FromPlanes(Threads(1), random(rng, 64, 3, 3, 3), random(rng, 64), 0.0)
    picture, features = random(rng, 3, 10, 12), np.zeros((8, 10, 64), np.float32)
    narrow = least_across() - 1
    for planes, result in (
        (picture[:2], features),
        (picture[:, :9], features),
        (picture.astype(np.float64), features),
        (picture, features[:, :, :48]),
        (picture, features.transpose(1, 0, 2)),
        (random(rng, 3, 10, narrow + 2), features[:, :narrow].copy()),
    ):
        with pytest.raises(ValueError, match=r"wanted|across"):
            from_planes(planes, result)
    with pytest.raises(ValueError, match="channels"):
        ToPlanes(Threads(1), random(rng, 3, 50, 3, 3), (2, 2))
    to_planes = ToPlanes(Threads(1), random(rng, 3, 64, 3, 3), (2, 2))
    for given, result in (
        (features[:, :, :48], picture),
        (features.astype(np.float64), picture),
        (features, picture[:2]),
        (features, picture[:, :, ::2]),
    ):
        with pytest.raises(ValueError, match="wanted"):
            to_planes(given, result)
