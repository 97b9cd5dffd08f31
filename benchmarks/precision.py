"""Whether low precision converges: the same runs in float32 and in it, judged in float32.

    python benchmarks/precision.py photos/ paintings/ --engine tensorflow --precision bfloat16 --sizes 256,512
    python benchmarks/precision.py photo.jpg painting.jpg --precision float16 --sizes 128 --sheet sheet.jpg

Every photo with every painting, from the photo and from noise, one scale. Both losses are what float32 says of the
picture, then by how much that of the low precision is more; "stall" is how many steps in a row found nothing better, at
most, of either run. With --sheet the pictures beside each other.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from turns import machine

import stylekeras as sk

ENDINGS = {".jpg", ".jpeg", ".png"}


@dataclass
class Made:
    """A run's end: its longest stall, its picture, and what computed it."""

    stall: int
    picture: np.ndarray
    precision: str
    engine: str


def main() -> None:
    """Run all, print a row of the table for each as it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a picture or a folder of them")
    parser.add_argument("paintings", type=Path, help="likewise")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto", help="what float32 is compared with")
    parser.add_argument("--sizes", default="256,512", help="with commas between")
    parser.add_argument("--starts", default="content,noise", help="with commas between")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--preset", default="paper", help="of the objective; `default` is the default settings'")
    parser.add_argument("--weights", default="offline")
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--sheet", type=Path, help="where to save the pictures, beside each other")
    given = parser.parse_args()
    runs = [
        (photo, painting, start, int(size))
        for size in given.sizes.split(",")
        for photo in pictures(given.photos)
        for painting in pictures(given.paintings)
        for start in given.starts.split(",")
    ]
    rows = []
    for i, (photo, painting, start, size) in enumerate(runs):
        exact = run(given, photo, painting, start, size, "float32")
        low = run(given, photo, painting, start, size, given.precision)
        if i == 0:
            kind = machine()
            print(
                f"{low.engine}, {low.precision}, on {kind['processor']}, {kind['cores']} cores; {given.steps} steps\n"
            )
            print("| px | photo | painting | from | float32 | in low precision | | stall, float32 | stall |")
            print("|---|---|---|---|---|---|---|---|---|")
        judge = settings(given, start, size, "float32")
        one, other = (sk.loss_and_gradient(made.picture, photo, painting, judge).loss for made in (exact, low))
        told = [f"{one:.4g}", f"{other:.4g}", f"{other / one - 1:+.1%}", f"{exact.stall}", f"{low.stall}"]
        print(f"| {size} | {photo.stem} | {painting.stem} | {start} | {' | '.join(told)} |", flush=True)
        rows.append([(exact.picture, f"float32: {one:.4g}"), (low.picture, f"{low.precision}: {other:.4g}")])
        if given.sheet:
            save(given.sheet, rows, size)


def pictures(path: Path) -> list[Path]:
    """The picture, or all of a folder by name."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)


def settings(given: argparse.Namespace, start: str, size: int, precision: str) -> sk.Settings:
    """One scale, all steps."""
    chosen = {"engine": given.engine, "precision": precision, "weights": given.weights, "backbone": given.backbone}
    chosen |= {"size": size, "min_size": None, "steps": given.steps, "tolerance": 0, "init": start}
    return sk.Settings(**chosen) if given.preset == "default" else sk.Settings(preset=given.preset, **chosen)


def run(given: argparse.Namespace, photo: Path, painting: Path, start: str, size: int, precision: str) -> Made:
    """All steps of one."""
    stall = longest = 0
    before, last = float("inf"), None
    for last in sk.iterate(photo, painting, settings(given, start, size, precision)):
        stall = 0 if last.loss < before else stall + 1
        longest, before = max(longest, stall), last.loss
        print(f"{photo.stem} x {painting.stem}: {precision} {last.step}", end="\r", file=sys.stderr)
    assert last is not None
    by = last.provenance
    return Made(longest, last.image, by["precision"], f"{by['engine']} {by['engine_version']}")


def save(path: Path, rows: list[Any], size: int) -> None:
    """The sheet so far."""
    from cli import contact

    sk.save_image(path, contact.compose(rows, size), overwrite=True)


if __name__ == "__main__":
    main()
