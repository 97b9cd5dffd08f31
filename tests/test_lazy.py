"""Pictures on disk and computed ones are what NumPy makes of arrays."""

import resource
import tempfile

import numpy as np
import pytest

from stylekeras import arrays, lazy, spectrum
from stylekeras.errors import RunError
from stylekeras.host import HostOnDisk
from stylekeras.objective import content_scale

# Of more values than are looked at at a time, and no multiple of anything.
SHAPE = (1, 331, 277, 3)


@pytest.fixture
def pair(rng):
    return rng.normal(size=(2, *SHAPE)).astype(np.float32)


def test_an_expression_is_numpys(pair):
    x, y = pair
    a, b = lazy.store(x), lazy.store(y)
    found = np.float32(0.3) * (a - y) / (2.0 + abs(b)) + np.sqrt(np.square(a))
    assert isinstance(found, lazy.Computed)
    assert (found.shape, found.dtype, found.size, found.ndim) == (SHAPE, np.float32, x.size, 4)
    np.testing.assert_array_equal(found, np.float32(0.3) * (x - y) / (2.0 + abs(y)) + np.sqrt(np.square(x)))
    np.testing.assert_array_equal(np.logical_and(a <= 0.0, b > a), (x <= 0) & (y > x))
    assert (a <= 0.0).dtype == bool


def test_what_is_no_function_of_values_is_refused(pair):
    stored = lazy.store(pair[0])
    with pytest.raises(ValueError, match="different shapes"):
        stored + pair[1][:, 1:]
    with pytest.raises(TypeError):
        np.add.reduce(stored)
    with pytest.raises(TypeError):
        np.add(stored, 1.0, out=pair[0])


def test_reductions_are_those_in_memory_to_the_last_bit(pair):
    x, y = pair
    ops, stored = HostOnDisk().ops, [lazy.store(picture) for picture in pair]
    assert ops.sum(stored[0]) == arrays.sum(x)
    assert ops.mean(stored[0] * y) == arrays.mean(x * y)
    assert ops.max(stored[0]) == x.max()
    np.testing.assert_allclose(arrays.sum(x), x.astype("f8").sum(), atol=1e-2)
    np.testing.assert_allclose(arrays.mean(x), x.astype("f8").mean(), atol=1e-7)
    assert ops.inner_product(*stored) == arrays.inner_product(x, y)
    np.testing.assert_array_equal(ops.inner_products(stored, [x, stored[1]]), arrays.inner_products(pair, [x, y]))
    shares = np.float32([0.3, -2])
    np.testing.assert_array_equal(ops.weighted_sum(shares, stored), arrays.weighted_sum(shares, pair))
    expected = sum(float(value) ** 2 for value in x.ravel()[::-1]) / x.size
    np.testing.assert_allclose(content_scale(stored[0], relative=True), expected, rtol=1e-12)


def test_choices_and_bounds(pair):
    x, y = pair
    ops, a = HostOnDisk().ops, lazy.store(x)
    assert ops.where(np.True_, a, y) is a
    np.testing.assert_array_equal(ops.where(a > 0, a, 0.0), np.where(x > 0, x, np.float32(0)))
    np.testing.assert_array_equal(ops.clip(a, 0.0, 1.0), np.clip(x, 0, 1))
    np.testing.assert_array_equal(ops.ones_like(a, dtype="bool"), np.ones(SHAPE, bool))
    np.testing.assert_array_equal(ops.zeros_like(a), np.zeros_like(x))


@pytest.mark.parametrize("shape", [(331, 277), (64, 80), (1, 33), (33, 2)])
def test_flatten_is_that_in_memory(rng, shape):
    curvature = spectrum.Curvature([0.01, 0.1], [1.0, 9.0], [3.0, 2.0])
    response, x = curvature.response(*shape), rng.normal(size=(1, *shape, 3)).astype(np.float32)
    found = HostOnDisk().ops.flatten(lazy.store(response), lazy.store(x))
    np.testing.assert_array_equal(found, spectrum.flatten(arrays, response, x))


def test_windows(pair):
    x, y = pair
    stored = lazy.Stored(SHAPE, np.float32)
    assert not np.asarray(stored).any()
    x[:] = 0
    for rows, columns in [(slice(3, 40), slice(0, 277)), (slice(300, 331), slice(5, 9)), (slice(2, 2), slice(0, 3))]:
        stored[:, rows, columns] = y[:, rows, columns]
        x[:, rows, columns] = y[:, rows, columns]
        np.testing.assert_array_equal(stored[:, rows, columns], y[:, rows, columns])
    np.testing.assert_array_equal(stored, x)
    np.testing.assert_array_equal(stored[:, 1:7, 200:400], x[:, 1:7, 200:400])
    with pytest.raises(TypeError):
        stored[:, ::2, 1:2]
    with pytest.raises(ValueError, match="a window of"):
        stored[:, 1:2, 1:2] = y


def test_files_go_with_their_pictures(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stored = lazy.store(pair[0])
    assert lazy.store(stored) is stored
    file = stored._file
    del stored
    assert file.closed
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error(pair):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(RunError, match=r"a picture cannot be kept in .*: File too large; set TMPDIR"):
            lazy.store(pair[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("lower", [True, False])
def test_a_triangular_system_is_solved_without_looking_across_the_diagonal(lower):
    rng = np.random.default_rng(4)
    matrix, right = rng.normal(size=(7, 7)) + 4 * np.eye(7), rng.normal(size=(7, 2))
    wanted = np.linalg.solve(np.tril(matrix) if lower else np.triu(matrix), right)
    np.testing.assert_allclose(arrays.solve_triangular(matrix, right, lower=lower), wanted)
