"""Fixtures that several test files share."""

import os
import tempfile

# Before anything imports NumPy or Keras.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On a busy machine two BLAS threads wait for each other, and the reference takes ten times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

from stylekeras import engines

# Figures and tolerances are float32's, whatever auto would choose on this processor.
_flags = engines.processor_flags() - {"amx_bf16"}
engines.processor_flags = lambda: _flags
engines.processor_vendor = lambda: ""

# Graphs that are built in tests do not go where a user's are.
_cache = tempfile.TemporaryDirectory(prefix="stylekeras-tests-")
os.environ["STYLEKERAS_CACHE"] = _cache.name


@pytest.fixture
def float64():
    """Keras in float64, and its setting put back."""
    import keras

    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


@pytest.fixture
def engine():
    """A fresh TensorFlow engine, its traces not counted yet."""
    return engines.load("tensorflow", "float32")


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def run(capsys):
    """The command line in this process: arguments -> exit code, stdout, stderr."""
    from stylekeras.cli.main import main

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run
