"""What tiles cost: `python benchmarks/tiles.py PAINTING --size 8192 --memory 8GB`.

Seconds per pixel of a step's loss and gradient in tiles, beside those of a smaller picture looked at as a whole. Of a
large picture only some tiles are looked at, evenly spread: all have windows of one size and take the same time. Both
take turns. Without a photo, whose loss is a sum and takes next to nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import numpy as np
import turns

import stylekeras as sk
from stylekeras import machines, memory, targets, transfer


def main() -> None:
    """Measure and print a table row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("painting")
    parser.add_argument("--engine", default="tensorflow")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--whole", type=int, default=1024, help="side of the picture that is not tiled")
    parser.add_argument("--tile", default="auto")
    parser.add_argument("--memory", default="8GB")
    parser.add_argument("--sample", type=int, default=4, help="tiles of each turn")
    parser.add_argument("--turns", type=int, default=3)
    chosen = parser.parse_args()
    tile = int(chosen.tile) if chosen.tile.isdecimal() else chosen.tile
    options = {"engine": chosen.engine, "weights": "random", "init": "noise", "min_size": None}
    options |= {"precision": chosen.precision}
    settings = sk.Settings(size=chosen.size, tile=tile, memory=chosen.memory, **options)
    style = sk.Style(chosen.painting, scale=max(1 / 16, 512 / chosen.size))
    problem, _ = transfer.problem(None, style, settings)
    painting = sk.load_image(chosen.painting)
    paintings = [targets.Reference(lambda: painting, settings.style_layers)]
    margin, random = settings.margin, np.random.default_rng(0)

    def look(side: int, layout: machines.Layout) -> tuple[machines.View, np.ndarray]:
        canvas = (side + 2 * margin,) * 2
        view = machines.view(problem.machine, settings, layout, canvas, margin, None, paintings)
        return view, random.random((1, *canvas, 3), np.float32)

    whole, small = look(chosen.whole, machines.Layout())
    canvas = (chosen.size + 2 * margin,) * 2
    layout = machines.layout(problem.machine, settings, canvas, margin, problem.memory, **problem.looked_at)
    tiled, large = look(chosen.size, layout._replace(held=0))
    count = len(tiled.tiles)
    some = [tiled.tiles[i] for i in np.linspace(0, count - 1, min(chosen.sample, count)).round().astype(int)]
    part = dataclasses.replace(tiled, tiles=some)
    owned = sum((t.rows.own_stop - t.rows.own_start) * (t.columns.own_stop - t.columns.own_start) for t in some)
    small_tensor = whole.host.tensor(small)

    def timed(view: machines.View, image: np.ndarray) -> float:
        began = time.perf_counter()
        problem.machine.engine.array(view.evaluate(image, problem.weights)[0])
        return time.perf_counter() - began

    for view, image in ((whole, small_tensor), (part, large)):  # traced, compiled, memory taken
        timed(view, image)
    found = [(timed(whole, small_tensor) / small[..., 0].size, timed(part, large) / owned) for _ in range(chosen.turns)]
    ratios = [tiles / one for one, tiles in found]
    one, tiles = (1e6 * np.median(column) for column in zip(*found, strict=True))
    print(f"{turns.machine()}\n")
    print(f"| picture | tiles | looked at | us a pixel | of the whole {chosen.whole} px, us | ratio |")
    print("|---|---|---|---|---|---|")
    spread = f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    text = f"{count} of {layout.tile} px in {memory.text(settings.memory or 0)}"
    print(f"| {chosen.size} | {text} | {len(some)} | {tiles:.1f} | {one:.1f} | {spread} |")


if __name__ == "__main__":
    main()
