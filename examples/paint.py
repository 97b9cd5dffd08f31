"""Paint a procedural "oil painting" to use as a style image; no other picture goes into it.

A landscape (sun, swirling sky, hills, furrowed field, cypresses) is laid out as maps of shape, tone and direction;
several thousand brush strokes, large ones first, follow those maps, and the paint's relief is lit at the end.

    python examples/paint.py OUT.jpg [--size 768] [--seed 7]
"""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

Array = NDArray[np.float64]
COLOURS = """night #141628  ultramarine #1e3084  cobalt #3264b4  teal #1a7c84  seafoam #86bcaa  cream #f2e4bc
yellow #f0c038  ochre #cc8a2a  vermilion #d44626  crimson #86202e  violet #5a3c7a  olive #5e742c"""
PALETTE = {name: ImageColor.getrgb("#" + code) for name, code in re.findall(r"(\w+) #(\w+)", COLOURS)}
# Each shape has its own ramp from tone 0 to tone 1; shared neighbours keep the whole coherent.
RAMPS = [
    "night ultramarine ultramarine cobalt teal cobalt seafoam cream",  # 0 sky
    "crimson vermilion vermilion ochre yellow yellow cream cream",  # 1 sun and its halo
    "night violet ultramarine violet teal cobalt seafoam",  # 2 far hills
    "night ultramarine teal olive teal olive ochre seafoam",  # 3 near hills
    "crimson olive vermilion ochre vermilion ochre yellow cream",  # 4 field
    "night night teal night olive ultramarine olive",  # 5 cypresses
]
ACCENTS = ["vermilion", "yellow", "teal", "violet"]
# Width and length as fractions of the longest side, and how many times over each layer covers the canvas.
LAYERS = [(0.062, 0.22, 6.0), (0.036, 0.17, 2.4), (0.023, 0.12, 1.7), (0.013, 0.08, 0.7)]
OVERSAMPLE = 2  # painting larger and shrinking keeps bristles fine without jagged edges


class Scene(NamedTuple):
    """What to paint: per pixel the shape's number, a tone in 0..1 and a unit direction (x, y)."""

    shape: NDArray[np.int64]
    tone: Array
    flow: Array

    def at(self, point: Array) -> tuple[int, int]:
        """Row and column of the pixel nearest to a point (x, y), which may lie off the canvas."""
        height, width = self.shape.shape
        return min(max(int(point[1]), 0), height - 1), min(max(int(point[0]), 0), width - 1)


def noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Array:
    """Smooth noise of about -1..1 with `cells` bumps along the width: random numbers enlarged bicubically."""
    grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)


def compose(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Lay out the landscape; x and y are in units of the width."""
    y, x = np.mgrid[:height, :width] / width
    wave, fine = noise(rng, height, width, 5), noise(rng, height, width, 11)

    # The sky's flow is mostly the curl of a stream function, so strokes run side by side: drift, eddies, sun, noise.
    sun = np.hypot(x - 0.735, y - 0.185)
    stream = 0.35 * y + 0.035 * wave + 0.008 * fine + 0.16 * np.exp(-((sun / 0.15) ** 2))
    tone = 0.40 + 0.16 * wave + 0.12 * fine
    inward = np.zeros((2, height, width))
    for cx, cy, radius, turn in [(0.31, 0.18, 0.115, 1.0), (0.50, 0.33, 0.085, -1.0), (0.05, 0.36, 0.09, -0.9)]:
        rx, ry = x - cx - rng.uniform(-0.02, 0.02), 1.3 * (y - cy - rng.uniform(-0.02, 0.02))
        distance = np.hypot(rx, ry)
        bump = np.exp(-((distance / radius) ** 2))
        stream += 0.13 * turn * bump
        inward -= 0.45 * bump * np.stack([rx, ry]) / (distance + 1e-6)  # makes spirals of the rings
        # Spiral arms of light and dark make the eddy readable in colour as well as in direction.
        tone += bump**0.7 * (0.26 + 0.34 * np.sin(distance * 55 - 2 * turn * np.arctan2(ry, rx)))
    dy, dx = np.gradient(stream, 1 / width)
    flow = np.stack([dy, -dx]) + inward

    halo = sun < 0.165 + 0.012 * fine
    shape = halo.astype(np.int64)
    tone[halo] = (1.05 - sun / 0.165 + 0.14 * np.sin(sun * 150))[halo]

    # Hills from back to front; strokes run along each ridge and tip downhill below it.
    for number, (base, swell, phase) in {2: (0.475, 0.045, 0.6), 3: (0.545, 0.05, 3.4), 4: (0.605, 0.022, 5.2)}.items():
        ridge = base + swell * np.sin(7.5 * x + phase) + 0.4 * swell * np.sin(17 * x + 2 * phase)
        depth, inside = y - ridge, y > ridge
        shape[inside] = number
        tone[inside] = (0.85 - 5.0 * depth + 0.25 * wave + 0.25 * fine)[inside]
        fall = np.gradient(ridge, 1 / width, axis=1) + 6 * depth + 0.5 * fine
        flow[:, inside] = np.stack([np.ones_like(x), fall])[:, inside]

    # Furrows fan out from a point behind the field and alternate in tone.
    field, bearing = shape == 4, np.arctan2(x - 0.62 + 0.05 * wave, y - 0.47)
    tone[field] = (0.50 + 0.32 * np.sin(bearing * 15) + 0.2 * fine)[field]
    flow[:, field] = np.stack([np.sin(bearing) + 0.25 * fine, np.cos(bearing)])[:, field]

    # Cypresses: flames that narrow to a wavering tip.
    for cx, top, foot, girth in [(0.135, 0.10, 0.70, 0.060), (0.235, 0.36, 0.68, 0.036)]:
        rise = np.clip((foot - y) / (foot - top), 0, 1)
        across = x - cx - 0.016 * np.sin(9 * rise + 20 * cx)
        across /= girth * np.sqrt(rise) * (1 - rise) * 2.2 + 1e-6
        inside = np.abs(across) < 1
        shape[inside] = 5
        tone[inside] = (0.40 - 0.30 * across + 0.35 * fine)[inside]
        flow[:, inside] = np.stack([0.35 * np.sin(30 * rise) - 0.3 * across, -np.ones_like(x)])[:, inside]

    flow /= np.linalg.norm(flow, axis=0) + 1e-9
    return Scene(shape, np.clip(tone, 0, 1), np.moveaxis(flow, 0, -1))


def trace(scene: Scene, start: Array, length: float, step: float) -> Array:
    """Follow the flow both ways from `start` (x, y) until `length` is used up or the shape ends."""
    halves = []
    for sign in (-step, step):
        half = [start]
        while len(half) <= length / 2 / step and scene.shape[scene.at(half[-1])] == scene.shape[scene.at(start)]:
            # Midpoint steps: plain Euler steps drift out of the eddies and leave their centres bare.
            middle = half[-1] + sign / 2 * scene.flow[scene.at(half[-1])]
            half.append(half[-1] + sign * scene.flow[scene.at(middle)])
        halves.append(half)
    return np.array(halves[0][:0:-1] + halves[1])


def choose(rng: np.random.Generator, ramp: list[str], tone: float) -> Array:
    """Two colours for one loaded brush: neighbours on the ramp, or now and then an accent, a little off-hue."""
    first = round(np.clip(tone + rng.normal(0, 0.09), 0, 1) * (len(ramp) - 1))
    second = min(max(first + rng.choice([-1, 1]), 0), len(ramp) - 1)
    name = str(rng.choice(ACCENTS)) if rng.random() < 0.035 else ramp[first]
    colours = np.array([PALETTE[name], PALETTE[ramp[second]]], dtype=np.float64)
    return np.clip(colours * rng.uniform(0.84, 1.10) + rng.normal(0, 7, 3), 4, 250)


def lay(rng: np.random.Generator, paint: Array, relief: Array, path: Array, width: float, colours: Array) -> None:
    """Drag one brush along `path`, changing the colours in `paint` and the paint's thickness in `relief`."""
    corner = (paint.shape[1], paint.shape[0])
    low = np.clip(np.floor(path.min(axis=0) - width / 2), 0, corner).astype(int)
    high = np.clip(np.ceil(path.max(axis=0) + width / 2), 0, corner).astype(int)
    box = np.s_[low[1] : high[1], low[0] : high[0]]
    # Each pixel's nearest segment gives its place along the stroke (0..1) and across it (-1..1).
    y, x = np.mgrid[box].astype(np.float32)
    nearest, along, side = np.full(x.shape, np.inf, np.float32), np.zeros_like(x), np.zeros_like(x)
    for k, ((px, py), (qx, qy)) in enumerate(zip(path[:-1].tolist(), path[1:].tolist(), strict=True)):
        dx, dy, rx, ry = qx - px, qy - py, x - px, y - py
        part = np.clip((rx * dx + ry * dy) / (dx * dx + dy * dy), 0, 1)
        gap = (rx - part * dx) ** 2 + (ry - part * dy) ** 2
        closer = gap < nearest
        nearest[closer], along[closer] = gap[closer], ((k + part) / (len(path) - 1))[closer]
        side[closer] = ((rx * dy - ry * dx) / np.hypot(dx, dy))[closer]
    across = np.clip(side * 2 / width + 0.06 * np.sin(5 * along + rng.uniform(0, 6)), -1, 1)

    # Bristles are noise across the brush only, so they draw lines along it; each runs dry at its own place.
    knots = np.linspace(-1, 1, max(5, round(width / 2 / OVERSAMPLE**0.5)))
    bristle, mix, reach = (np.interp(across, knots, rng.uniform(0, 1, len(knots))) for _ in range(3))
    alpha = np.clip((1 - np.sqrt(nearest) * 2 / width) / max(0.12, 2.4 / width), 0, 1)
    alpha *= np.clip((0.80 + 0.30 * reach - along) / 0.06, 0, 1) * np.clip((along + 0.08 - 0.12 * mix) / 0.04, 0, 1)
    alpha *= np.clip(1.25 - 0.9 * along * (bristle < 0.35), 0, 1)

    blend = 0.75 * np.clip(1.3 * mix**2 + 0.15 * along, 0, 1)[..., None]
    colour = (colours[0] * (1 - blend) + colours[1] * blend) * (0.88 + 0.20 * bristle[..., None])
    paint[box] += alpha[..., None] * (colour - paint[box])
    # Paint piles up at the brush's rims and where the stroke ends, and older strokes show through a little.
    body = 0.55 * bristle + 0.6 * np.abs(across) ** 3 + 0.4 * along**4 + 0.35
    relief[box] += alpha * (0.35 * relief[box] + np.sqrt(width) * body - relief[box])


def render(size: int, seed: int) -> Image.Image:
    """Paint the picture with `size` pixels on its longest side."""
    rng = np.random.default_rng(seed)
    width, height = OVERSAMPLE * size, OVERSAMPLE * round(size * 0.77)
    scene = compose(rng, height, width)
    paint = np.full((height, width, 3), PALETTE["crimson"], dtype=np.float64)
    relief = np.zeros((height, width))
    for brush, reach, coverage in (layer for layer in LAYERS if layer[0] * size > 1.5):  # none as thin as a pixel
        # Some strokes begin off the canvas, or its corners would stay bare; back to front keeps the shapes whole.
        count, rim = round(coverage * height / width / (brush * reach)), 0.04 * width
        starts = rng.uniform(-rim, (width + rim, height + rim), (count, 2))
        for start in sorted(starts, key=lambda point: scene.shape[scene.at(point)]):
            thick, spot = width * brush * rng.uniform(0.7, 1.3), scene.at(start)
            path = trace(scene, start, width * reach * rng.uniform(0.6, 1.3), max(1.0, thick / 5))
            thick *= min(1.0, len(path) / 7)  # a dab squeezed into a corner is made with the brush's tip
            colours = choose(rng, RAMPS[scene.shape[spot]].split(), scene.tone[spot])
            lay(rng, paint, relief, path[:: rng.choice([-1, 1])], thick, colours)

    # Light from the upper left: slopes facing it brighten, the steepest of them glint.
    light = np.clip(sum(np.gradient(relief)) * 0.2, -0.7, 0.7)[..., None]
    lit = paint * (1 + 0.6 * light) + 80 * np.clip(light - 0.12, 0, 1)
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)).reduce(OVERSAMPLE)


def main() -> None:
    """Read the command line, paint, save."""
    parser = argparse.ArgumentParser(description="Paint a procedural oil painting.")
    parser.add_argument("out", type=Path, help="image file to write")
    parser.add_argument("--size", type=int, default=768, help="pixels on the longest side (default: 768)")
    parser.add_argument("--seed", type=int, default=7, help="another seed, another painting (default: 7)")
    args = parser.parse_args()
    render(args.size, args.seed).save(args.out, quality=90)


if __name__ == "__main__":
    main()
