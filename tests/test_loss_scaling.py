"""The factor that derivatives are multiplied by before they go through a network in float16."""

import numpy as np
import pytest

from stylekeras import arrays as ops
from stylekeras import loss_scaling


@pytest.mark.parametrize("scale", [1.0, 1 / 32, 2.0])
@pytest.mark.parametrize("largest", [1e-30, 3e-9, 0.5, 64.0, 65.0, 1e20])
def test_the_largest_becomes_a_number_in_the_upper_half_of_what_it_may_be(largest, scale):
    """In the network, whose features are scaled and so their derivatives divided by that."""
    cotangents = [np.array([[0.1, -0.3]], np.float32) * largest, np.array([0.2, -1.0], np.float32) * largest]
    factor = float(loss_scaling.factor(ops, cotangents, scale))
    assert np.log2(factor) == np.round(np.log2(factor))
    assert loss_scaling.LARGEST / 2 < factor * np.float32(largest) / scale <= loss_scaling.LARGEST


@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf])
def test_what_cannot_be_scaled_stays_as_it_is(odd):
    with np.errstate(all="raise"):
        assert loss_scaling.factor(ops, [np.full((2, 2), odd, np.float32)], 1.0) == 1.0


@pytest.mark.parametrize("tiny", [1e-44, 3e38])
def test_factor_and_inverse_are_numbers_that_float32_has(tiny):
    factor = np.float32(loss_scaling.factor(ops, [np.full(3, tiny, np.float32)], 1 / 32))
    assert np.isfinite(factor)
    assert np.isfinite(1 / factor)
