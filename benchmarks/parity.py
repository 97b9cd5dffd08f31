"""How far the engines are from the float64 reference, and from each other after 50 steps, as Markdown.

    python benchmarks/parity.py > docs/parity.md

Every engine that is installed runs in a process of its own. The cases are those of tests/parity.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

# Adding this much noise to the start stands for the rounding of another engine.
NUDGE = 1e-6
LOOK = {
    "style_loss": "wasserstein",
    "content_weight": 5.0,
    "tv_weight": 3.0,
    "style_layers": "block1_conv1=2500,block2_conv1=1250,block3_conv1=150,block4_conv1=4,block5_conv1=0.25",
}
RUNS: dict[str, dict[str, Any]] = {
    "Gram loss in balance with content, L-BFGS": {},
    "the same, Adam": {"optimizer": "adam"},
    "the default loss, L-BFGS": LOOK,
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", default="", help="with commas between; the default is all that are installed")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(*given.worker.split(","))
        return
    from stylekeras import engines

    names = given.engines.split(",") if given.engines else [name for name in engines.ORDER if not engines.missing(name)]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            command = [sys.executable, __file__, "--worker", f"{name},{folder}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
        pictures = {path.stem: np.load(path) for path in Path(folder).glob("*.npy")}
    print("# Parity of the engines\n")
    print("Made by `python benchmarks/parity.py`; VGG16 with the offline weights, float32.\n")
    print("## Against the float64 reference: relative error of the loss, of the gradient\n")
    print("| | " + " | ".join(f"{name} {found[name]['version']}" for name in names) + " |")
    print("|---|" + "---|" * len(names))
    for case in found[names[0]]["cases"]:
        cells = [found[name]["cases"][case] for name in names]
        print(f"| {case} | " + " | ".join(f"{loss:.0e}, {gradient:.0e}" for loss, gradient in cells) + " |")
    print("\n## After 50 steps at 96 px: the largest differences of any two engines\n")
    print(f"The last column is one engine ({names[0]}) against itself, its start changed by noise of {NUDGE:g}.\n")
    print("| | loss | picture, mean grey levels | against itself: loss | picture |")
    print("|---|---|---|---|---|")
    for number, title in enumerate(RUNS):
        losses = [found[name]["losses"][number] for name in names]
        finals = [pictures[f"{name}-{number}"] for name in names]
        parts = max(grey(a, b) for a in finals for b in finals)
        nudged, first = found[names[0]]["nudged"][number], found[names[0]]["losses"][number]
        own = grey(pictures[f"{names[0]}-{number}"], pictures[f"{names[0]}-{number}-nudged"])
        spread = (max(losses) - min(losses)) / min(losses)
        print(f"| {title} | {spread:.2%} | {parts:.2f} | {abs(nudged / first - 1):.2%} | {own:.2f} |")


def grey(a: np.ndarray, b: np.ndarray) -> float:
    """The mean difference of two pictures in grey levels."""
    return 255 * float(np.abs(a - b).mean())


def work(engine: str, folder: str) -> None:
    """One engine's part."""
    import parity

    import stylekeras as sk

    report: dict[str, Any] = {"cases": {}, "losses": [], "nudged": []}
    for case in parity.CASES:
        found = sk.loss_and_gradient(*parity.pictures(case), parity.settings(case, engine))
        right = parity.wanted(case)
        error = parity.gradient_error(found.gradient, right.gradient)
        report["cases"][str(case)] = [abs(found.loss / right.loss - 1), error]
        report["version"] = found.provenance["engine_version"]
    for number, changes in enumerate(RUNS.values()):
        for name, nudge in (("losses", 0.0), ("nudged", NUDGE)):
            loss, picture = parity.run(engine, nudge=nudge, **changes)
            report[name].append(loss)
            np.save(Path(folder) / f"{engine}-{number}{'-nudged' if nudge else ''}.npy", picture)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
