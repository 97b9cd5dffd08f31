"""Seconds of one update of L-BFGS alone, its history full: in NumPy (ONNX Runtime), with machine code (OpenVINO) and in
TensorFlow.

    python benchmarks/update.py --size 512

With the Gram loss's curvature and without, on a quadratic function whose own evaluation is not in the figures.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from turns import machine

from stylekeras import arrays, spectrum
from stylekeras.engines import cores
from stylekeras.native.pictures import Pictures
from stylekeras.optimizers import lbfgs
from stylekeras.style_losses import gram
from stylekeras.threads import Threads


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=25)
    given = parser.parse_args()
    kind = machine()
    print(f"{kind['processor']}, {kind['cores']} cores; {given.size} px, median of {given.repeat}\n")
    print("| | curvature | ms an update |\n|---|---|---|")
    steppers = {
        "NumPy": partial(numpy_stepper, arrays),
        "NumPy, machine code": partial(numpy_stepper, Pictures(Threads(cores()))),
        "TensorFlow": tensorflow_stepper,
    }
    for name, stepper in steppers.items():
        for curvature in (gram.CURVATURE, None):
            step = stepper(given.size, curvature)
            for _ in range(lbfgs.HISTORY + 3):
                step()
            taken = [step() for _ in range(given.repeat)]
            print(f"| {name} | {'yes' if curvature else 'no'} | {1e3 * statistics.median(taken):.0f} |")


def numpy_stepper(ops: Any, size: int, curvature: spectrum.Curvature | None) -> Callable[[], float]:
    """A function that makes one update and returns its seconds."""
    image, slopes = problem(size)
    state = lbfgs.init(ops, image, curvature=curvature)

    def step() -> float:
        nonlocal state
        gradient = slopes * (state.image - 0.5)
        loss = np.float32(0.5 * np.sum(gradient * (state.image - 0.5)))
        began = time.perf_counter()
        state = lbfgs.update(ops, state, loss, gradient)
        return time.perf_counter() - began

    return step


def tensorflow_stepper(size: int, curvature: spectrum.Curvature | None) -> Callable[[], float]:
    """The same, compiled, the state in variables as in the engine."""
    from stylekeras.engines.tensorflow import keras, tf

    image, slopes = (tf.constant(array) for array in problem(size))
    variables = tf.nest.map_structure(tf.Variable, lbfgs.init(keras.ops, image, curvature=curvature))

    @tf.function
    def update(loss: Any, gradient: Any) -> Any:
        before = tf.nest.map_structure(tf.convert_to_tensor, variables)
        after = lbfgs.update(keras.ops, before, loss, gradient)
        for variable, old, new in zip(variables, before, after, strict=True):
            if new is not old:
                variable.assign(new)
        return after.loss

    def step() -> float:
        gradient = slopes * (variables.image - 0.5)
        loss = 0.5 * tf.reduce_sum(gradient * (variables.image - 0.5))
        began = time.perf_counter()
        update(loss, gradient).numpy()
        return time.perf_counter() - began

    return step


def problem(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture, and how steep the function is at every pixel."""
    random = np.random.default_rng(0)
    image, slopes = random.random((2, 1, size, size, 3), dtype=np.float32)
    return image, 1 + 9 * slopes


if __name__ == "__main__":
    main()
