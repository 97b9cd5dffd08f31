"""The curvature of the objective by colour and spatial frequency: where a style loss's CURVATURE comes from.

    python benchmarks/curvature.py photo.png painting.jpg [--set content_weight=1 ...]

At a picture that is half done, the second derivative along noise of one band of frequencies in brightness, red against
green, and yellow against blue, from differences of gradients; in each row divided by the largest of brightness.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import numpy as np

import stylekeras as sk

BANDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.71)
COLOURS = {"brightness": (1, 1, 1), "red-green": (1, -1, 0), "yellow-blue": (1, 1, -2)}
# Length of the change in all: at 256 px about a quarter of a grey level a pixel.
LENGTH = 0.5
DRAWS = 3


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo")
    parser.add_argument("painting")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60, help="steps before it is measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings after preset=paper")
    given = parser.parse_args()
    options: dict[str, Any] = {"preset": "paper", "init": "content", "clip": True, "weights": "offline"}
    options |= dict(item.split("=", 1) for item in given.set)
    settings = sk.Settings(**options, size=given.size, steps=given.steps, tolerance=0, margin=0)
    picture = None
    for progress in sk.iterate(given.photo, given.painting, settings):
        picture = progress.image
    print("| cycles per pixel | " + " | ".join(COLOURS) + " |\n|---|---|---|---|")
    found = np.array([row(given, settings, picture, *band) for band in itertools.pairwise(BANDS)])
    for (low, high), values in zip(itertools.pairwise(BANDS), found / found[:, 0].max(), strict=True):
        print(f"| {low} to {high} | " + " | ".join(f"{value:.3f}" for value in values) + " |")


def row(given: argparse.Namespace, settings: sk.Settings, picture: Any, low: float, high: float) -> list[float]:
    """The mean curvature of one band in each colour."""
    rng = np.random.default_rng(given.seed)
    height, width, _ = picture.shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    band = (frequency >= low) & (frequency < high)

    def gradient(image: Any) -> Any:
        return sk.loss_and_gradient(image, given.photo, given.painting, settings).gradient.astype(float)

    # Pictures are in [0, 1]: what is next to a bound stays where it is.
    free = np.min(np.minimum(picture, 1 - picture), axis=-1, keepdims=True) > 0.05
    values = []
    for colour in COLOURS.values():
        sums = 0.0
        for _ in range(DRAWS):
            noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(height, width))) * band).real
            along = noise[..., None] * np.array(colour) * free
            along *= LENGTH / np.linalg.norm(along)
            sums += np.sum(along * (gradient(picture + along) - gradient(picture - along))) / (2 * LENGTH**2)
        values.append(sums / DRAWS)
    return values


if __name__ == "__main__":
    main()
