"""The schedule: sizes, shapes and steps."""

import itertools

import pytest

from stylekeras import images, pyramid
from stylekeras.errors import SettingsError
from stylekeras.pyramid import MIN_SIDE, RATIO, shape_at, sizes, smallest_longest, steps_at

SHAPES = [(100, 100), (480, 640), (640, 480), (34, 60), (33, 1000), (1000, 37), (32, 32), (1, 3), (63, 126)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("longest", [1, 32, 100, 512, 4096])
def test_shape_has_the_longest_side_and_the_aspect(shape, longest):
    height, width = shape_at(shape, longest)
    assert max(height, width) == longest
    assert min(height, width) >= 1
    assert abs(height - shape[0] * longest / max(shape)) <= 0.5 or height == 1
    assert abs(width - shape[1] * longest / max(shape)) <= 0.5 or width == 1
    assert (height, width) == images.fit_shape(*shape, longest), "the same rule as for images"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_smallest_longest_is_the_smallest(shape):
    found = smallest_longest(shape)
    assert min(shape_at(shape, found)) >= MIN_SIDE
    assert min(shape_at(shape, found - 1)) < MIN_SIDE


def test_a_schedule_by_hand():
    assert sizes((100, 100), 512, 128) == [128, 181, 256, 362, 512]
    assert sizes((100, 100), 256, 128) == [128, 181, 256]
    assert sizes((100, 100), 512, None) == [512]
    assert sizes((100, 100), 512, 512) == [512]
    assert sizes((100, 100), 512, 4096) == [512]
    assert sizes((100, 100), 100, 90) == [100]


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (100, 800)], ids=str)
@pytest.mark.parametrize("size", [257, 300, 512, 1000, 2048])
@pytest.mark.parametrize("min_size", [None, 32, 64, 128, 255])
def test_any_schedule(shape, size, min_size):
    schedule = sizes(shape, size, min_size)
    assert schedule[-1] == size
    assert schedule == sorted(set(schedule))
    assert all(isinstance(item, int) for item in schedule)
    assert all(min(shape_at(shape, item)) >= MIN_SIDE for item in schedule)
    if min_size is None:
        assert len(schedule) == 1
    elif len(schedule) > 1:
        assert schedule[0] == max(min_size, smallest_longest(shape))
        assert all(RATIO / 1.25 < fine / coarse < RATIO * 1.25 for coarse, fine in itertools.pairwise(schedule))


def test_a_picture_too_small_for_the_network_is_refused():
    with pytest.raises(SettingsError, match=r"size=100 makes this picture 100x25; .* 32 px: use at least size=126"):
        sizes((40, 160), 100, None)
    assert sizes((40, 160), 126, 32) == [126]
    with pytest.raises(SettingsError, match="makes this picture 25x100"):
        sizes((160, 40), 100, 64)


def test_steps_per_scale():
    assert [steps_at((150, 60, 50), scale) for scale in range(5)] == [150, 60, 50, 50, 50]
    assert [steps_at((7,), scale) for scale in range(3)] == [7, 7, 7]


def test_the_smallest_side_is_that_of_images():
    assert pyramid.MIN_SIDE == images.MIN_SIDE
