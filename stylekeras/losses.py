"""Content loss and total variation, as sums over pixels so that tiles and devices add up.

`ops` is any namespace with NumPy's names: the engines' own, `numpy` in the tests.
"""

from __future__ import annotations

from typing import Any


def content_sum(ops: Any, features: Any, target: Any, mask: Any = None) -> Any:
    """Sum of squared differences of a tap's features, Gatys et al. (2016) eq. 1 without its factor 1/2.

    Args: features and target (1, h, w, c); mask (1, h, w, 1), each position's weight. Returns: a scalar.
    """
    differences = ops.square(features - target)
    return total(ops, differences if mask is None else mask * differences)


def channel_sums(ops: Any, features: Any, mask: Any = None) -> Any:
    """Each channel summed over pixels.

    Args: features (1, h, w, c); mask (1, h, w, 1), each pixel's weight. Returns: (c,).
    """
    weighted = features if mask is None else mask * features
    # As in `total`.
    return ops.sum(ops.sum(weighted, axis=2), axis=(0, 1))


def total_variation_sum(ops: Any, image: Any, mask: Any = None) -> Any:
    """Sum over pixels and channels of the squared differences to the right and lower neighbours.

    Squared (Mahendran and Vedaldi 2015, eq. 7, beta = 2), not absolute differences. Args: image (1, h, w, 3) in [0, 1];
    mask (1, h, w, 1), the weight of each pixel's differences. Returns: a scalar.
    """
    right = ops.square(image[:, :, 1:] - image[:, :, :-1])
    down = ops.square(image[:, 1:] - image[:, :-1])
    if mask is not None:
        right, down = right * mask[:, :, :-1], down * mask[:, :-1]
    return total(ops, right) + total(ops, down)


def total(ops: Any, values: Any) -> Any:
    """All of (1, h, w, c) added up.

    Row by row: sums over many rows at once lose as many times more digits in some engines.
    """
    return ops.sum(ops.sum(values, axis=(2, 3)))
