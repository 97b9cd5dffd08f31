"""From the command to a picture after one step, for every engine that is installed.

    python benchmarks/startup.py

The engines take turns; "first" is the first time of all, when an ONNX engine builds its graph and keeps it. "import" is
what Python takes to import the engine's framework and nothing else, and what share of the whole that is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from turns import machine

SIZE = 256
FRAMEWORKS = {"tensorflow": "tensorflow, keras", "jax": "jax, keras"}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="", help="with commas between; the default is all that are installed")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--weights", default="offline")
    given = parser.parse_args()
    from stylekeras import engines

    names = given.engines.split(",") if given.engines else [name for name in engines.ORDER if not engines.missing(name)]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    imports: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STYLEKERAS_CACHE"] = folder
        pictures = [str(Path(folder) / f"{name}.png") for name in ("photo", "painting", "out")]
        random = np.random.default_rng(0)
        for path in pictures[:2]:
            Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(path)
        arguments = [*pictures[:2], "-o", pictures[2], "--overwrite", "--quiet", "--size", str(SIZE)]
        arguments += ["--min-size", "none", "--steps", "1", "--backbone", "vgg16", "--weights", given.weights]
        for _ in range(1 + given.rounds):
            for name in names:
                command = [sys.executable, "-m", "stylekeras", "stylize", *arguments, "--engine", name]
                seconds[name].append(timed(command))
                alone = [sys.executable, "-c", f"import {FRAMEWORKS.get(name, name)}"]
                imports[name].append(timed(alone, KERAS_BACKEND=name) if name in FRAMEWORKS else timed(alone))
    kind = machine()
    print(f"`stylekeras stylize`, {SIZE} px, 1 step, on {kind['processor']}, {kind['cores']} cores\n")
    print("| engine | first | again, median | of TensorFlow's | import | its share |")
    print("|---|---|---|---|---|---|")
    base = statistics.median(seconds["tensorflow"][1:]) if "tensorflow" in seconds else None
    for name in names:
        median = statistics.median(seconds[name][1:])
        ratio = "" if base is None else f"{median / base:.2f}"
        alone = statistics.median(imports[name][1:])
        row = [name, f"{seconds[name][0]:.1f} s", f"{median:.1f} s", ratio, f"{alone:.1f} s", f"{alone / median:.0%}"]
        print(f"| {' | '.join(row)} |")


def timed(command: list[str], **environment: str) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env={**os.environ, **environment})
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
