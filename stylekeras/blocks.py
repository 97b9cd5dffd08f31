"""A picture's rows a few at a time: what is computed from them on the way is never as large as the picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

# Float32 of 1 MB: half a dozen such temporaries fit into a processor's cache.
VALUES = 1 << 18


def rows(shape: Sequence[int]) -> Iterator[slice]:
    """Slices along the first axis of an array of that shape, in order: of at most `VALUES` values, or of one row."""
    step = max(1, VALUES // max(1, math.prod(shape[1:])))
    return (slice(top, min(top + step, shape[0])) for top in range(0, shape[0], step))
