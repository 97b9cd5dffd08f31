"""`plan` against measurement, each run in a process of its own: `python benchmarks/memory.py PHOTO PAINTING`.

Prints a table row for each engine, size and tile: resident memory at its highest and the median seconds of a step
without the first, and what `stylekeras.plan` had said of both.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import numpy as np
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
    parser.add_argument("--memory", help="as the command line's, such as 6GB")
    parser.add_argument("--style-loss", default="wasserstein")
    parser.add_argument("--optimizer", default="lbfgs")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        _one(chosen)
        return
    print(f"{turns.machine()}\n\n| engine | size | tiles | memory, plan | measured | | a step, plan | measured | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for engine in chosen.engines.split(","):
        for size in chosen.sizes.split(","):
            for tile in chosen.tiles.split(","):
                command = [sys.executable, __file__, chosen.photo, chosen.painting, "--one", "--engines", engine]
                command += ["--sizes", size, "--tiles", tile, "--steps", str(chosen.steps)]
                command += ["--style-loss", chosen.style_loss, "--optimizer", chosen.optimizer]
                command += ["--precision", chosen.precision]
                command += ["--memory", chosen.memory] if chosen.memory else []
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                said = done.stdout.strip() or done.stderr.strip().splitlines()[-1]
                print(f"| {engine} | {size} {said}", flush=True)


def _one(chosen: argparse.Namespace) -> None:
    settings = sk.Settings(
        size=int(chosen.sizes),
        min_size=None,
        steps=chosen.steps,
        engine=chosen.engines,
        tile=int(chosen.tiles) if chosen.tiles.isdecimal() else chosen.tiles,
        memory=chosen.memory,
        style_loss=chosen.style_loss,
        optimizer=chosen.optimizer,
        weights="random",
        precision=chosen.precision,
    )
    plan = sk.plan(chosen.photo, chosen.painting, settings)
    scale = plan.scales[0]
    steps = [(step.seconds, step.provenance) for step in sk.iterate(chosen.photo, chosen.painting, settings)]
    seconds, held = [each for each, _ in steps], steps[-1][1].get("held")
    each = float(np.median(np.diff(seconds)))
    # What the calibration took is in the highest too, but that was a small picture's.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    more = [f", {held} held" if held else "", ", disk" if scale.on_disk else ""]
    tiles = f"{scale.tiles} of {scale.tile}{''.join(more)}" if scale.tile else "whole"
    said = [(f"{(scale.memory or 0) / 1e9:.2f} GB", f"{peak / 1e9:.2f} GB", (scale.memory or 0) / peak)]
    said += [(f"{scale.seconds_per_step:.2f} s", f"{each:.2f} s", (scale.seconds_per_step or 0) / each)]
    print(f"| {tiles} | {' | '.join(f'{plan} | {found} | {ratio - 1:+.0%}' for plan, found, ratio in said)} |")


if __name__ == "__main__":
    main()
