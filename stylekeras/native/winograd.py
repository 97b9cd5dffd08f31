"""Winograd's minimal filtering for 3x3 convolutions: a quarter of the multiplications, in float32.

F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016): the picture is cut into
windows of 6x6 positions that overlap by two; each becomes 36 numbers a channel, which are multiplied with those of the
kernel (as matrices over channels, the same way for every window), and 16 positions of the result come of the 36
products. In one dimension, for a window d and a kernel g,

    y = A ((G g) * (B d))                                                    (F(4, 3): 6 products instead of 12)

Where we differ: the points that polynomials are evaluated at are 0, 2/3, -2/3, 3/2, -3/2 and infinity instead of 0, 1,
-1, 2, -2 and infinity. Rounding errors are less than half as large (after Barabasz et al., "Error Analysis and
Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020), and where numbers are multiplied and
added in one instruction it takes as many of them.
"""

from __future__ import annotations

import numpy as np

# Positions of the result to a side of a tile, and of what they are computed from.
TILE = 4
WINDOW = 6
_POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A (4, 6), G (6, 3) and B (6, 6), by interpolation of polynomials (Toom and Cook)."""
    points = np.array(_POINTS)
    a, g, b = np.zeros((TILE, WINDOW)), np.zeros((WINDOW, 3)), np.zeros((WINDOW, WINDOW))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        a[:, i] = point ** np.arange(TILE)
        g[i] = point ** np.arange(3) / np.prod(point - others)
        b[i, :-1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1.0
    b[-1] = np.poly(points)[::-1]
    # Of opposite points the odd powers cancel out, but for rounding.
    return a, g, np.where(np.abs(b) < 1e-12, 0.0, b)


OUTPUT, KERNEL, INPUT = _matrices()


def kernels(weights: np.ndarray) -> np.ndarray:
    """A convolution's kernels, ready to be multiplied with: (out, in, 3, 3) to (36, in, out), float32."""
    out, channels = weights.shape[:2]
    rows = weights.transpose(2, 3, 1, 0).reshape(9, channels * out)
    both = np.kron(KERNEL, KERNEL).astype(np.float32)
    transformed: np.ndarray = (both @ rows).reshape(WINDOW * WINDOW, channels, out)
    return transformed
