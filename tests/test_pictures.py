"""Machine code for an optimizer's history: what float64 NumPy makes of the same numbers."""

import numpy as np
import pytest

from stylekeras import arrays
from stylekeras.native import picture_code
from stylekeras.native.pictures import Pictures
from stylekeras.native.writer import Shape
from stylekeras.optimizers import lbfgs
from stylekeras.style_losses import gram
from stylekeras.threads import Threads

# Less than a vector, no multiple of one, and more than two threads take at a time, with a rest.
SIZES = [(1, 1, 1, 3), (1, 5, 7, 3), (1, 97, 203, 3), (1, 211, 389, 3)]
# Whatever the processor: vectors that it has no registers for are compiled to several instructions each.
VECTORS = [None, Shape(4, 4, 8), Shape(8, 6, 16), Shape(16, 12, 32)]


@pytest.fixture(params=VECTORS, ids=str)
def ops(request):
    return Pictures(Threads(2), picture_code.compiled(request.param))


@pytest.fixture(params=SIZES, ids=str)
def pictures(request, rng):
    return list(rng.normal(size=(13, *request.param)).astype("f4"))


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("count", [1, 4, 11])
def test_inner_products(ops, pictures, count, columns):
    history, others = pictures[:count], pictures[11 : 11 + columns]
    found = ops.inner_products(history, others)
    assert len(found) == columns
    for column, other in zip(found, others, strict=True):
        assert (column.dtype, column.shape) == (np.float32, (count,))
        wanted = [np.sum(row.astype("f8") * other) for row in history]
        size = max(np.sum(np.abs(row.astype("f8") * other)) for row in history)
        np.testing.assert_allclose(column, wanted, rtol=0, atol=2e-7 * size)


@pytest.mark.parametrize("count", [1, 3, 4, 13])
def test_a_weighted_sum(ops, pictures, rng, count):
    weights = rng.normal(size=count).astype("f4")
    before = np.array(pictures)
    found = ops.weighted_sum(weights, pictures[:count])
    assert (found.dtype, found.shape) == (np.float32, pictures[0].shape)
    wanted = sum(weight * picture.astype("f8") for weight, picture in zip(weights, pictures[:count], strict=True))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(np.array(pictures), before)


def test_results_do_not_depend_on_threads(pictures, rng):
    one, other = (Pictures(Threads(count)) for count in (1, 3))
    weights = rng.normal(size=13).astype("f4")
    both = pictures[:2]
    np.testing.assert_array_equal(one.inner_products(pictures, both), other.inner_products(pictures, both))
    np.testing.assert_array_equal(one.weighted_sum(weights, pictures), other.weighted_sum(weights, pictures))


def test_what_it_is_not_for_is_numpys(pictures, rng):
    ops, weights = Pictures(Threads(2)), rng.normal(size=3).astype("f4")
    double = [picture.astype("f8") for picture in pictures[:3]]
    for some in (double, [picture[..., ::-1] for picture in pictures[:3]]):
        np.testing.assert_array_equal(ops.inner_products(some, some[:2]), arrays.inner_products(some, some[:2]))
        np.testing.assert_array_equal(ops.weighted_sum(weights, some), arrays.weighted_sum(weights, some))
    wide = weights.astype("f8")
    np.testing.assert_array_equal(ops.weighted_sum(wide, pictures[:3]), arrays.weighted_sum(wide, pictures[:3]))
    assert ops.relu is arrays.relu


def test_pictures_of_another_size_are_refused(pictures):
    other = np.zeros((1, 2, 2, 3), np.float32)
    ops = Pictures(Threads(2))
    with pytest.raises(ValueError, match="was wanted"):
        ops.inner_products([*pictures, other], pictures[:2])
    with pytest.raises(ValueError, match="was wanted"):
        ops.inner_products(pictures, [pictures[0], other])
    with pytest.raises(ValueError, match="was wanted"):
        ops.weighted_sum(np.ones(14, "f4"), [*pictures, other])
    with pytest.raises(ValueError, match="12 weights for 13 pictures"):
        ops.weighted_sum(np.ones(12, "f4"), pictures)


def test_what_is_not_finite_in_one_picture_is_in_the_sum(ops, pictures):
    pictures[0][..., 1] = np.inf
    found = ops.weighted_sum(np.float32([2, 1, 1, 1, 1]), pictures[:5])
    assert np.isposinf(found[..., 1]).all()
    assert np.isfinite(found[..., [0, 2]]).all()


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("curvature", [None, gram.CURVATURE])
def test_lbfgs_goes_where_numpys_goes(rng, clip, curvature):
    start, steep = rng.random((2, 1, 40, 50, 3), np.float32)

    def steps(ops):
        state = lbfgs.init(ops, start, clip=clip, curvature=curvature)
        for _ in range(10):
            away = state.image - np.float32(0.3)
            state = lbfgs.update(ops, state, np.sum((1 + 9 * steep) * away**2) / 2, (1 + 9 * steep) * away)
        return state

    ours, numpys = steps(Pictures(Threads(2))), steps(arrays)
    assert ours.accepted
    np.testing.assert_allclose(ours.image, numpys.image, atol=1e-5)
    assert ours.loss < 0.2 * np.sum((1 + 9 * steep) * (start - 0.3) ** 2) / 2
