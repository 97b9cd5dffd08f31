"""Content loss and total variation, as sums over pixels so that tiles and devices add up.

`ops` is any namespace with NumPy's names: `keras.ops` in the engines, `numpy` in the tests.
"""

from __future__ import annotations

from typing import Any


def content_sum(ops: Any, features: Any, target: Any) -> Any:
    """Sum of squared differences of a tap's features, Gatys et al. (2016) eq. 1 without its factor 1/2.

    Args: features and target (1, h, w, c). Returns: a scalar.
    """
    return ops.sum(ops.square(features - target))


def total_variation_sum(ops: Any, image: Any) -> Any:
    """Sum over pixels and channels of the squared differences to the right and lower neighbours.

    Squared (Mahendran and Vedaldi 2015, eq. 7, beta = 2), not absolute differences. Args: image (1, h, w, 3) in [0, 1].
    Returns: a scalar.
    """
    right = image[:, :, 1:] - image[:, :, :-1]
    down = image[:, 1:] - image[:, :-1]
    return ops.sum(ops.square(right)) + ops.sum(ops.square(down))
