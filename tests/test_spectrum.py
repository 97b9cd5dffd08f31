"""The filter by colour and frequency: a matrix that is symmetric and positive, with the curvatures that were given."""

import numpy as np
import pytest
from reference import numpy_ops

from stylekeras import arrays, spectrum
from stylekeras.style_losses import gram

SHAPE = (1, 7, 10, 3)
CURVATURE = spectrum.Curvature((0.1, 0.2, 0.4), brightness=(0.5, 1.0, 4.0), colour=(2.0, 0.5, 0.125))


def _matrix(response):
    units = np.eye(int(np.prod(SHAPE))).reshape(-1, *SHAPE)
    return np.array([spectrum.flatten(numpy_ops, response, unit).ravel() for unit in units])


@pytest.mark.parametrize("curvature", [CURVATURE, gram.CURVATURE])
def test_it_is_symmetric_and_positive(curvature, rng):
    response = curvature.response(*SHAPE[1:3])
    matrix = _matrix(response)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    values = np.linalg.eigvalsh(matrix)
    steepest, flattest = (f(f(curvature.brightness), f(curvature.colour)) for f in (max, min))
    assert 1 / steepest - 1e-5 <= values.min() < values.max() <= 1 / flattest + 1e-5


@pytest.mark.parametrize(
    ("colour", "waves", "curvature"),
    [
        ((1, 1, 1), 0, 0.5),
        ((1, -1, 0), 0, 2.0),
        ((1, 1, -2), 1, 2.0),
        ((1, 1, 1), 2, 1.0),
        ((0, 1, -1), 2, 0.5),
        ((1, 1, 1), 3, 4 ** (np.log(1.5) / np.log(2))),
        ((1, 1, 1), 5, 4.0),
        ((2, -1, -1), 5, 0.125),
    ],
)
def test_a_wave_is_divided_by_its_curvature(colour, waves, curvature):
    wave = np.cos(2 * np.pi * waves * np.arange(10) / 10)[None, None, :, None] * np.ones(SHAPE) * colour
    np.testing.assert_allclose(
        spectrum.flatten(numpy_ops, CURVATURE.response(*SHAPE[1:3]), wave), wave / curvature, atol=1e-6
    )


def test_keras_and_numpy_agree(rng):
    import keras

    image = rng.normal(size=SHAPE).astype(np.float32)
    response = CURVATURE.response(*SHAPE[1:3])
    wanted = spectrum.flatten(numpy_ops, response, image.astype(float))
    for ops in (arrays, keras.ops):
        found = spectrum.flatten(ops, ops.convert_to_tensor(response), ops.convert_to_tensor(image))
        assert "float32" in str(found.dtype)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found), wanted, atol=1e-5)


def test_a_sum_over_a_large_picture_keeps_its_digits(rng):
    pairs = rng.normal(size=(2, 3 * 1024 * 1024)).astype(np.float32)
    (found,) = arrays.inner_products(pairs, [pairs[0]])
    wanted = pairs.astype(float) @ pairs[0].astype(float)
    assert abs(found[0] / wanted[0] - 1) < 1e-5
    assert abs(found[1] - wanted[1]) < 1e-5 * wanted[0]
