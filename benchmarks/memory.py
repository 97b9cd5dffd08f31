"""Peak memory of a few steps, each in a process of its own: `python benchmarks/memory.py PHOTO PAINTING`.

Prints a line for each engine, size and tile: the resident memory at its highest, less what the process had before
anything was computed, and what `stylekeras.plan` says beforehand.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import turns

import stylekeras as sk


def main() -> None:
    """Run every combination."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo")
    parser.add_argument("painting")
    parser.add_argument("--engines", default="openvino,tensorflow,onnxruntime")
    parser.add_argument("--sizes", default="256,512,1024")
    parser.add_argument("--tiles", default="none")
    parser.add_argument("--style-loss", default="wasserstein")
    parser.add_argument("--optimizer", default="lbfgs")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        _one(chosen)
        return
    print(turns.machine())
    for engine in chosen.engines.split(","):
        for size in chosen.sizes.split(","):
            for tile in chosen.tiles.split(","):
                command = [sys.executable, __file__, chosen.photo, chosen.painting, "--one", "--engines", engine]
                command += ["--sizes", size, "--tiles", tile, "--steps", str(chosen.steps)]
                command += ["--style-loss", chosen.style_loss, "--optimizer", chosen.optimizer]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                said = done.stdout.strip() or done.stderr.strip().splitlines()[-1]
                print(f"{engine:12} {size:>5} px, tile {tile:>5}: {said}", flush=True)


def _one(chosen: argparse.Namespace) -> None:
    settings = sk.Settings(
        size=int(chosen.sizes),
        min_size=None,
        steps=chosen.steps,
        engine=chosen.engines,
        tile=chosen.tiles,
        style_loss=chosen.style_loss,
        optimizer=chosen.optimizer,
        weights="random",
        precision="float32",
    )
    seconds = [step.seconds for step in sk.iterate(chosen.photo, chosen.painting, settings)]
    each = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, {each:.2f} s a step")


if __name__ == "__main__":
    main()
