"""The pictures of docs/gallery.md: `python examples/showcase.py [--size 192] [--only strengths,colors,...]`.

Photographs are scikit-image's (pip install 'stylekeras[demo]'), paintings the project's own: the one that comes with
the package, and one of examples/paint.py in other colours. Each sheet is one run of the command line, which is printed;
other options, such as --steps, go to all of them.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from collections.abc import Iterator
from importlib import resources, util
from pathlib import Path

import numpy as np
from gallery import cell, join
from paint import render
from PIL import Image

from stylekeras.cli.main import main as stylekeras

LOSSES = "wasserstein,gram,covariance,sliced,moments"
CELL = 280


def photo(name: str) -> str:
    """The file of one of scikit-image's photographs."""
    spec = util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the photographs come with scikit-image: pip install 'stylekeras[demo]'")
    return str(Path(spec.submodule_search_locations[0]) / "data" / name)


def paintings(folder: Path) -> tuple[str, str]:
    """The files of the project's own painting, and of another one with its colours exchanged."""
    first, second = folder / "brushwork.jpg", folder / "other.png"
    first.write_bytes((resources.files("stylekeras.data") / "brushwork.jpg").read_bytes())
    red, green, blue = render(512, 20).split()
    Image.merge("RGB", (green, blue, red)).save(second)
    return str(first), str(second)


def masks(folder: Path) -> tuple[str, str]:
    """Files of two masks for the astronaut: her, roughly, and all else."""
    y, x = np.mgrid[:512, :512] / 512
    head = ((x - 0.44) / 0.17) ** 2 + ((y - 0.24) / 0.25) ** 2
    body = ((x - 0.42) / 0.42) ** 2 + ((y - 0.95) / 0.52) ** 2
    inside = np.clip(8 * (1 - np.minimum(head, body)) + 0.5, 0, 1)
    files = []
    for name, mask in (("in.png", inside), ("out.png", 1 - inside)):
        Image.fromarray((255 * mask).round().astype(np.uint8)).save(folder / name)
        files.append(str(folder / name))
    return files[0], files[1]


def run(*arguments: str) -> None:
    """One command, printed with the names of files alone."""
    names = (",".join(part.rpartition("/")[2] for part in item.split(",")) for item in arguments)
    print("stylekeras", shlex.join(names), flush=True)
    if stylekeras([*arguments, "--overwrite", "--quiet"]):
        raise SystemExit(1)


def commands(folder: Path, size: int) -> Iterator[tuple[str, list[str]]]:
    """The name of each sheet, and the command that makes it."""
    first, second = paintings(folder)
    cat, portrait, coffee = photo("chelsea.png"), photo("astronaut.png"), photo("coffee.png")
    small = ["--size", str(size)]
    yield "strengths", ["sheet", "-c", cat, "-c", coffee, "-s", first, "--vary", "strength=0,0.25,0.5,0.75,1", *small]
    yield "colors", ["sheet", "-c", cat, "-s", first, "--vary", "colors=style,luminance,match", *small]
    yield "losses", ["sheet", "-c", cat, "-s", first, "--vary", f"style_loss={LOSSES}", *small]
    presets = "preset=none,painterly,subtle,poster,texture"
    yield "presets", ["sheet", "-c", cat, "-s", first, "--vary", presets, *small]
    yield "reconstructions", ["reconstruct", "--of", "both", coffee, first, *small]
    inside, outside = masks(folder)
    both = ["stylize", portrait, first, second, *small]
    yield "regions", [*both, "--style-masks", f"{inside},{outside}"]
    yield "mixed", [*both]
    large, fine = "1:block3_conv1=150,block4_conv1=4,block5_conv1=0.25", "2:block1_conv1=2500,block2_conv1=1250"
    yield "layers", [*both, "--layers-of", large, "--layers-of", fine]


def styles(folder: Path, found: dict[str, Path]) -> Image.Image:
    """Photo, paintings, mask and what two paintings make together."""
    shown = [
        (Path(photo("astronaut.png")), "photo"),
        (folder / "brushwork.jpg", "first"),
        (folder / "other.png", "second"),
    ]
    shown += [(found["mixed"], "both"), (found["layers"], "strokes of the first, colours of the second")]
    shown += [(folder / "in.png", "mask of the first"), (found["regions"], "each in its region")]
    cells = [cell(Image.open(path), label, CELL) for path, label in shown]
    return join([join(cells[:4], down=False), join(cells[4:], down=False)], down=True)


def main() -> None:
    """Make the sheets that are asked for."""
    parser = argparse.ArgumentParser(description="The pictures of docs/gallery.md.")
    parser.add_argument("--size", type=int, default=192, help="longest side of each picture (default: 192)")
    parser.add_argument("--only", help="sheets to make, with commas between (default: all)")
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"), help="folder (default: docs/gallery)")
    chosen, options = parser.parse_known_args()
    options = options if "--weights" in options else [*options, "--weights", "offline"]
    only = chosen.only.split(",") if chosen.only else None
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder, found = Path(temporary), {}
        for name, command in commands(folder, chosen.size):
            part = command[0] == "stylize"
            if only is None or ("styles" if part else name) in only:
                found[name] = folder / f"{name}.png"
                run(*command, *options, "-o", str(found[name]))
                if not part:
                    Image.open(found[name]).convert("RGB").save(chosen.out / f"{name}.jpg", quality=85)
        if "regions" in found:
            styles(folder, found).save(chosen.out / "styles.jpg", quality=85)


if __name__ == "__main__":
    main()
