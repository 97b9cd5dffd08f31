"""Every engine against the float64 reference on VGG16 with real weights, and against each other along a run.

`python benchmarks/parity.py` prints the figures that are compared here.
"""

import functools

import numpy as np
import parity
import pytest
from engines_here import ENGINES

import stylekeras as sk


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", parity.CASES, ids=str)
def test_loss_terms_and_gradient(engine, case):
    found = sk.loss_and_gradient(*parity.pictures(case), parity.settings(case, engine))
    wanted = parity.wanted(case)
    assert found.gradient.shape == (*case.shape, 3)
    assert found.gradient.dtype == np.float32
    assert found.loss == pytest.approx(wanted.loss, rel=1e-4)
    assert found.terms == pytest.approx(wanted.terms, rel=2e-4)
    assert parity.gradient_error(found.gradient, wanted.gradient) < 2e-3


@functools.cache
def _run(engine, optimizer):
    return parity.run(engine, optimizer)


@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_after_fifty_steps(engine, optimizer):
    """Rounding grows along a run, as any change of the start does; within these bounds under these settings."""
    (loss, picture), (other, other_picture) = _run(ENGINES[0], optimizer), _run(engine, optimizer)
    assert loss == pytest.approx(other, rel=0.02)
    assert 255 * np.abs(picture - other_picture).mean() < 2
