"""Roots of symmetric matrices: machine code and products of matrices beside NumPy's eigenvectors."""

import numpy as np
import pytest
from machine_code import SHAPES

from stylekeras.native import roots, tridiagonal_code

SIZES = [1, 2, 3, 7, 8, 9, 17, 64, 130]


@pytest.fixture(params=SHAPES)
def code(request):
    return tridiagonal_code.compiled(SHAPES[request.param])


def _symmetric(rng, size, *, span=1e3):
    """A matrix with eigenvalues from 1 to `span`, in no order."""
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    return (basis * np.geomspace(1, span, size)) @ basis.T


def _tridiagonal(form):
    return np.diag(form.diagonal) + np.diag(form.beside, 1) + np.diag(form.beside, -1)


def _reflections(form):
    """U, each reflection written out."""
    count = len(form.diagonal)
    whole = np.eye(count)
    for vector, factor in zip(form.vectors[:, :count], form.factors, strict=True):
        whole = whole @ (np.eye(count) - factor * np.outer(vector, vector))
    return whole


@pytest.mark.parametrize("size", SIZES)
def test_reflections_bring_a_matrix_to_tridiagonal_form(rng, code, size):
    matrix = _symmetric(rng, size)
    # The lower half is read, but for what stands next to the diagonal.
    below = np.where(np.tri(size, dtype=bool), matrix, np.nan)
    form = roots.reduced(below, code)
    turned = _reflections(form)
    np.testing.assert_allclose(turned @ turned.T, np.eye(size), atol=1e-13)
    np.testing.assert_allclose(turned @ _tridiagonal(form) @ turned.T, matrix, atol=1e-13 * 1e3)
    assert form.diagonal.shape == (size,)
    assert form.beside.shape == (size - 1,)
    for k, vector in enumerate(form.vectors[:, :size]):
        assert not vector[: k + 1].any()
        assert not vector.any() or vector[k + 1] == 1


def test_what_is_tridiagonal_stays_that(code):
    matrix = np.diag(np.arange(1.0, 12)) + np.diag(np.full(10, 0.25), 1) + np.diag(np.full(10, 0.25), -1)
    form = roots.reduced(matrix, code)
    np.testing.assert_array_equal(_tridiagonal(form), matrix)
    assert not form.factors.any()
    np.testing.assert_array_equal(roots.turn(form, matrix), matrix)


@pytest.mark.parametrize("size", [2, 9, 64, 65, 67, 130, 200])
def test_a_matrix_is_turned_as_by_each_reflection(rng, size):
    form = roots.reduced(_symmetric(rng, size))
    matrix = rng.standard_normal((size, 5))
    np.testing.assert_allclose(roots.turn(form, matrix), _reflections(form).T @ matrix, atol=1e-12)
    narrow = roots.turn(form, matrix.astype(np.float32))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, _reflections(form).T @ matrix, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_inverse_root_of_a_tridiagonal_matrix(rng, code, size):
    form = roots.reduced(_symmetric(rng, size, span=1e6))
    values, basis = np.linalg.eigh(_tridiagonal(form))
    found, trace = roots.inverse_root(form.diagonal, form.beside, code)
    assert trace == pytest.approx(np.sum(np.sqrt(values)), rel=2e-7)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found, (basis / np.sqrt(values)) @ basis.T, atol=3e-7)


def test_fractions_sum_up_to_a_root():
    numbers = np.geomspace(1e-14, 1, 3000)
    shifts, weights = roots._poles()
    assert np.min(shifts) > 0
    np.testing.assert_allclose((weights / (numbers[:, None] + shifts)).sum(1), numbers**-0.5, rtol=1.1e-7)


def test_far_from_the_diagonal_an_inverse_comes_to_nothing(code):
    """Where each number is a millionth of the one before, 0 is reached by way of what float64 hardly tells from it."""
    found, trace = roots.inverse_root(np.full(120, 1.0), np.full(119, 1e-6), code)
    assert trace == pytest.approx(120, rel=2e-7)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.diag(found), 1, rtol=1e-6)
    np.testing.assert_allclose(np.diag(found, -1), -5e-7, rtol=1e-4)
    assert found[-1, 0] == 0


@pytest.mark.parametrize("size", [1, 2, 40])
def test_what_has_no_root_has_none(code, size):
    for least in (-1e-3, -1e-16, 0.0, np.nan):
        diagonal = np.full(size, 3.0)
        diagonal[size // 2] = least
        assert roots.inverse_root(diagonal, np.zeros(size - 1), code) is None
    # [[1, 2], [2, 1]] has -1, and [[9, 15], [15, 25]] nothing but 34.
    assert roots.inverse_root(np.array([9.0, 25.0]), np.full(1, 15.0), code) is None
    assert roots.inverse_root(np.ones(2), np.full(1, 2.0), code) is None
    assert roots.inverse_root(np.zeros(3), np.zeros(2), code) is None


def test_code_is_not_called_with_what_it_would_read_on_after(code):
    for diagonal, beside in ((5, 0), (5, 5), (5, 3)):
        with pytest.raises(ValueError, match="an array"):
            roots.inverse_root(np.ones(diagonal), np.full(beside, 0.1), code)


@pytest.mark.parametrize("shape", [(1, 1), (5, 2), (4, 7), (64, 33)])
def test_a_symmetric_product(rng, shape):
    one = rng.standard_normal(shape)
    other = _symmetric(rng, shape[0]) @ one
    np.testing.assert_allclose(roots.symmetric_product(one, other), one.T @ other, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 8, 100, 257])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_around_an_inverse_root(rng, size, kind):
    """Of a matrix whose eigenvalues span what those of two covariances do together."""
    matrix, outer = _symmetric(rng, size, span=1e10), rng.standard_normal((size, size)).astype(kind)
    values, basis = np.linalg.eigh(matrix)
    half = outer @ (basis / values**0.25)
    found, trace = roots.around_inverse_root(outer, matrix)
    assert trace == pytest.approx(np.sum(np.sqrt(values)), rel=2e-7)
    assert found.dtype == kind
    np.testing.assert_allclose(found, half @ half.T, atol=(1e-5 if kind == np.float32 else 1e-8) * size)


@pytest.mark.parametrize("size", [2, 3, 5, 40])
def test_of_a_matrix_that_is_nearly_singular_there_is_a_number(rng, size):
    """Rounding decides what is left of its smallest eigenvalues; exactly singular ones of whole numbers among them."""
    outer = np.eye(size, dtype=np.float32)
    for least in np.geomspace(1e-18, 1e-9, 40):
        matrix = _symmetric(rng, size, span=1 / least)
        factor = np.round(3 * rng.standard_normal((size, max(size // 2, 1))))
        factor[0] = 1
        for each in (matrix, factor @ factor.T):
            found, trace = roots.around_inverse_root(outer, each) or roots.around_eigenvectors(outer, each)
            assert np.isfinite(found).all()
            values = np.sqrt(np.maximum(np.linalg.eigvalsh(each), 0))
            assert trace == pytest.approx(values.sum(), rel=1e-5)


def test_an_eigenvalue_below_nothing_is_taken_for_what_float32_tells_from_it():
    """By hand: of 4 and -1, 1/2 and the root of 1 over eps^2 times 4."""
    outer = np.eye(2, dtype=np.float32)
    matrix = np.diag([4.0, -1.0]).astype(np.float32)
    assert roots.around_inverse_root(outer, matrix) is None
    found, trace = roots.around_eigenvectors(outer, matrix)
    assert trace == pytest.approx(2, rel=1e-6)
    np.testing.assert_allclose(found, np.diag([0.5, 0.5 / np.finfo(np.float32).eps]), rtol=1e-6)
