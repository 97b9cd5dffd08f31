"""Content loss and total variation, by hand."""

import numpy as np
import pytest
import reference
from reference import numpy_ops

from stylekeras import losses


def test_content_sum_by_hand():
    features = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    target = np.array([[[[1.0, 0.0], [0.0, 5.0]]]])
    assert losses.content_sum(numpy_ops, features, target) == 0 + 4 + 9 + 1
    assert losses.content_sum(numpy_ops, features, features) == 0
    assert reference.content_loss(features[0], target[0])[0] == 14 / 4


@pytest.mark.parametrize(
    ("rows", "columns", "differences"),
    [(2, 2, 4), (3, 3, 12), (4, 2, 10), (1, 5, 4)],
    ids=str,
)
def test_total_variation_of_a_checkerboard(rows, columns, differences):
    """Every neighbour differs by 1, in each of the three channels; a border pixel has no neighbour beyond it."""
    board = np.indices((rows, columns)).sum(axis=0) % 2
    image = np.repeat(board[..., None], 3, axis=2).astype(float)
    assert losses.total_variation_sum(numpy_ops, image[None]) == 3 * differences
    assert reference.total_variation(image)[0] == 3 * differences / (rows * columns)


def test_total_variation_of_one_bright_pixel():
    image = np.zeros((1, 3, 3, 3))
    image[0, 1, 1, 0] = 0.5
    assert losses.total_variation_sum(numpy_ops, image) == 4 * 0.25
    image[0, 0, 0, 2] = 1.0  # in a corner, in another channel: two neighbours
    assert losses.total_variation_sum(numpy_ops, image) == 4 * 0.25 + 2


def test_total_variation_of_a_ramp():
    ramp = np.broadcast_to(np.array([0.0, 0.1, 0.2, 0.3])[None, None, :, None], (1, 5, 4, 3))
    assert losses.total_variation_sum(numpy_ops, ramp) == pytest.approx(5 * 3 * 3 * 0.01)
    assert losses.total_variation_sum(numpy_ops, np.full((1, 4, 4, 3), 0.7)) == 0
