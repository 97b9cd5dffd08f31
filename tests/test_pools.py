"""Pools and their gradients, in float32 and bfloat16."""

import numpy as np
import pytest

from stylekeras.native.pool import Pool
from stylekeras.threads import Threads


def bits(values, size):
    """Numbers as a pool of so many bytes each takes them; those of bfloat16 are all exact here, or rounded down."""
    wide = np.asarray(values, np.float32)
    return wide if size == 4 else (wide.view(np.uint32) >> 16).astype(np.uint16)


def numbers(found):
    return (found if found.itemsize == 4 else (found.astype(np.uint32) << 16).view(np.float32)).astype(np.float64)


def empty(shape, size):
    return bits(np.full(shape, 7), size)


def windows_of(features, height, width):
    """Of a pool of that size: (height, width, 4, channels)."""
    channels = features.shape[-1]
    windows = features[: 2 * height, : 2 * width].reshape(height, 2, width, 2, channels).transpose(0, 2, 1, 3, 4)
    return windows.reshape(height, width, 4, channels)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("shape", [(2, 2, 16), (7, 9, 32), (12, 8, 64), (1, 6, 16)])
@pytest.mark.parametrize("least", [-np.inf, 0.0])
def test_a_pool_and_its_gradient(rng, shape, least, size):
    """Many are equal."""
    height, width, channels = shape[0] // 2, shape[1] // 2, shape[2]
    features = bits(rng.integers(-3, 4, shape), size)
    pool, found = Pool(Threads(2), size), empty((height, width, channels), size)
    pool.largest(features, found)
    windows = windows_of(numbers(features), height, width)
    np.testing.assert_array_equal(numbers(found), windows.max(2))

    pool.mean(features, found)
    np.testing.assert_allclose(numbers(found), windows.mean(2), rtol=2**-8 if size == 2 else 0)

    gradient = bits(rng.standard_normal(found.shape), size)
    result = empty((2 * height, 2 * width, channels), size)
    pool.winners(features, gradient, result, least=least)
    wanted = np.zeros(windows.shape)
    there = np.where(windows.max(2) > least, numbers(gradient), 0)
    np.put_along_axis(wanted, windows.argmax(2)[:, :, None], there[:, :, None], 2)
    wanted = wanted.reshape(height, width, 2, 2, channels).transpose(0, 2, 1, 3, 4).reshape(result.shape)
    np.testing.assert_array_equal(numbers(result), wanted)
    pool.repeated(gradient, result)
    np.testing.assert_array_equal(result, gradient.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("size", [2, 4])
def test_what_is_not_a_number_is_the_largest_of_a_window(size):
    for place in range(4):
        features = np.ones((2, 2, 16), np.float32)
        features[place // 2, place % 2, 3] = np.nan
        found = empty((1, 1, 16), size)
        Pool(Threads(1), size).largest(bits(features, size), found)
        assert np.isnan(numbers(found)).nonzero()[2].tolist() == [3]


def test_columns_and_rows_that_are_the_same_but_for_rounding_are_equal():
    """The first of them gets the gradient. By chance a single pair is as good as never the same: it is compared."""
    less, more = 1 - 2e-6, 1 + 2e-6
    windows = {
        "columns": ([[1, more], [0.5, 0.5 * less]], 0),
        "rows": ([[1, 0.25], [more, 0.25 * less]], 0),
        "rows, right": ([[0.25, 1], [0.25, more]], 1),
        "all": ([[1, more], [more, 1]], 0),
        "columns, below": ([[0.5, 0.5], [1, more]], 2),
        "one pair of columns": ([[1, more], [0.5, 0.4]], 1),
        "one pair of rows": ([[1, 0.3], [more, 0.4]], 2),
        "none": ([[1, 1.1], [0.9, 1.2]], 3),
    }
    features = np.array([window for window, _ in windows.values()], np.float32)
    # A window for each, one to the right of the other, the same in all channels.
    features = np.repeat(np.concatenate(list(features), 1)[:, :, None], 16, 2)
    result = np.full(features.shape, 7, np.float32)
    gradient = np.full((1, len(windows), 16), 3, np.float32)
    Pool(Threads(1), 4).winners(features, gradient, result)
    wanted = np.zeros((1, len(windows), 4, 16))
    for i, (_, place) in enumerate(windows.values()):
        wanted[0, i, place] = 3
    np.testing.assert_array_equal(windows_of(result, 1, len(windows)), wanted)


@pytest.mark.parametrize("size", [2, 4])
def test_what_does_not_fit_is_an_error(size):
    """Machine code would read on."""
    pool = Pool(Threads(1), size)
    narrow = pool.multiple + pool.multiple // 2
    for features, pooled in (((4, 4, narrow), (2, 2, narrow)), ((4, 4, 16), (2, 1, 16))):
        with pytest.raises(ValueError, match=r"channels|wanted"):
            pool.largest(empty(features, size), empty(pooled, size))
    with pytest.raises(ValueError, match="wanted"):
        pool.largest(empty((4, 4, 16), 6 - size), empty((2, 2, 16), size))
    with pytest.raises(ValueError, match="wanted"):
        pool.winners(empty((5, 4, 16), size), empty((2, 2, 16), size), empty((5, 4, 16), size))
