"""The Gram matrix loss: Gatys, Ecker and Bethge (2016), eq. 3 to 5.

With G = F F^T summed over M pixels and A the same of the style image over its own M' pixels, C channels each,

    compare = mean((G / M - A / M')^2)                     (over the C x C entries)

Where we differ: eq. 4 is 1 / (4 C^2 M^2) sum((G - A)^2) with both images of one size; dividing each Gram matrix by its
own pixel count lets the sizes differ, and the factor 1/4 belongs to the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stylekeras.spectrum import Curvature

Arrays = dict[str, Any]

# What `benchmarks/curvature.py` found on VGG19 at a picture half done from its photo, relative to the steepest in
# brightness; alike for other pictures.
CURVATURE = Curvature(
    frequencies=(0.015, 0.03, 0.06, 0.12, 0.24, 0.5),
    brightness=(0.055, 0.06, 0.13, 0.45, 1.0, 0.22),
    colour=(1.8, 1.8, 1.9, 1.3, 0.14, 0.05),
)


def gram(ops: Any, features: Any, mask: Any = None) -> Any:
    """Channel products summed over pixels, not normalised.

    Args: features (1, h, w, c); mask (1, h, w, 1), each pixel's weight. Returns: (c, c). Its gradient is exact in
        whatever depends on it in a symmetric way, as losses do.
    """
    channels = features.shape[-1]
    flat = ops.reshape(features, (-1, channels))
    weighted = flat if mask is None else ops.reshape(mask * features, (-1, channels))
    weighted = ops.stop_gradient(weighted)
    # A namespace that knows where the features come from may have a faster way that is as exact.
    if mask is None and hasattr(ops, "products"):
        products = ops.products(weighted, flat)
    else:
        products = ops.matmul(ops.transpose(weighted), flat)
    # Both factors have the same gradient: one of them, twice, takes one product where both take two and a transpose.
    return 2 * products - ops.stop_gradient(products)


def measure(ops: Any, features: Any, mask: Any = None) -> Arrays:
    """Sums of features (1, h, w, c), weighted with a mask (1, h, w, 1) if given: {"gram": (c, c)}."""
    return {"gram": gram(ops, features, mask)}


def target(sums: Arrays, count: Any) -> Arrays:
    """{"gram": (c, c)} per pixel, from sums over `count` pixels."""
    return {"gram": sums["gram"] / count}


def scale(target: Arrays) -> Any:
    """mean((A / M')^2), as the contract has it."""
    return np.mean(np.square(target["gram"]))


def compare(ops: Any, sums: Arrays, count: Any, target: Arrays) -> Any:
    """Mean squared difference of the Gram matrices per pixel; a scalar."""
    return ops.mean(ops.square(sums["gram"] / count - target["gram"]))
