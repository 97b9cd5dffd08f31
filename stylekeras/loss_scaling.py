"""Loss scaling (Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2), for networks in float16.

Derivatives of a loss in features are too small for float16, so they are multiplied before they enter the network's
backward pass and its result is divided. Where we differ: the factor is not a guess that is corrected after a step was
lost to it, but found anew from the derivatives of every pass, and the loss itself is not scaled, since all of it
outside the network is in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# What the largest derivative in a feature becomes. It leaves a factor of 1000 below float16's largest number: inside
# VGG, derivatives were seen to grow by a factor of 15 at most.
LARGEST = 64.0


def factor(ops: Any, cotangents: Sequence[Any], scale: float) -> Any:
    """The power of two that makes the largest of all `cotangents` (any shapes, float32), divided by the power of two
    that the network's features are `scale`d by, `LARGEST` at most and no less than half of that; `scale` where they are
    all zero or one of them is not finite. A float32 scalar."""
    largest = ops.max(ops.stack([ops.max(ops.abs(each)) for each in cotangents]))
    usable = ops.logical_and(largest > 0, ops.isfinite(largest))
    # Within what float32 has, the inverse included.
    usual = ops.clip(ops.where(usable, largest, LARGEST), 1e-35, 1e35)
    return ops.power(ops.cast(2.0, largest.dtype), ops.floor(math.log2(LARGEST * scale) - ops.log2(usual)))
