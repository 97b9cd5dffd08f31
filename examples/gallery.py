"""Every photo of a folder in the style of every painting of another, on one labelled sheet.

    python examples/gallery.py --samples SAMPLES [--looks LOOKS] [--size 512] [--out out/gallery] [--sheet SHEET.jpg]

SAMPLES has the folders `content` and `style`. LOOKS may have pictures `target_<photo>_<painting>.png` by another
program, shown in the first columns beside ours. A picture that is already in OUT is not made again if its recipe says
the same inputs, settings and version, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

import stylekeras as sk
from stylekeras import recipe

LABEL = 22
GAP = 8


def pictures(folder: Path) -> list[Path]:
    """The image files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})


def find_target(looks: Path | None, photo: Path, painting: Path) -> Path | None:
    """The other program's picture of this pair; its name may leave words of the painting's name out."""
    for path in sorted(looks.glob(f"target_{photo.stem}_*.png")) if looks else []:
        words = path.stem.removeprefix(f"target_{photo.stem}_").split("_")
        if all(word in painting.stem.split("_") for word in words):
            return path
    return None


def make(path: Path, photo: Path, painting: Path, settings: sk.Settings) -> bool:
    """Paint the photo into the file `path`, unless it is there, made of the same. Returns: whether it was made."""
    wanted = recipe.build(settings.to_dict(), [("content", photo), ("style", painting)], {})
    if path.exists():
        try:
            found = recipe.read(path)
        except sk.RequestError:  # it has no recipe, or is no picture
            found = {}
        if all(found.get(key) == wanted[key] for key in (recipe.KEY, "settings", "inputs")):
            return False
    provenance: dict[str, Any] = {}
    picture = sk.stylize(photo, painting, settings, callback=lambda step: provenance.update(step.provenance))
    made = {**recipe.build(wanted["settings"], None, provenance), "inputs": wanted["inputs"]}
    sk.save_image(path, picture, overwrite=True, recipe=made)
    return True


def cell(image: Image.Image, label: str, width: int) -> Image.Image:
    """A picture of that width under its label."""
    height = round(image.height * width / image.width)
    tile = Image.new("RGB", (width + GAP, height + LABEL + GAP), "white")
    tile.paste(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), (GAP // 2, LABEL))
    ImageDraw.Draw(tile).text((GAP // 2, 3), label, "black", ImageFont.load_default(14))
    return tile


def join(tiles: list[Image.Image], *, down: bool) -> Image.Image:
    """Tiles side by side, or one below the other."""
    width, height = (max(t.width for t in tiles), max(t.height for t in tiles))
    if down:
        height = sum(t.height for t in tiles)
    else:
        width = sum(t.width for t in tiles)
    sheet, offset = Image.new("RGB", (width, height), "white"), 0
    for tile in tiles:
        sheet.paste(tile, (0, offset) if down else (offset, 0))
        offset += tile.height if down else tile.width
    return sheet


def main() -> None:
    """Make the pictures, then the sheet."""
    parser = argparse.ArgumentParser(description="A contact sheet of photos x paintings.")
    parser.add_argument("--samples", type=Path, required=True, help="folder with the folders content and style")
    parser.add_argument("--looks", type=Path, help="folder of target_<photo>_<painting>.png to show beside ours")
    parser.add_argument("--size", type=int, default=512, help="longest side (default: 512)")
    parser.add_argument("--width", type=int, default=360, help="width of a cell of the sheet (default: 360)")
    parser.add_argument("--weights", default="offline", help="weight set (default: offline)")
    parser.add_argument("--precision", default="auto", help="precision (default: auto)")
    parser.add_argument("--out", type=Path, default=Path("out/gallery"), help="folder of the single pictures")
    parser.add_argument("--sheet", type=Path, help="the sheet's file (default: OUT/sheet-SIZE.jpg)")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    settings = sk.Settings(size=args.size, weights=args.weights, precision=args.precision)
    rows = []
    for photo in pictures(args.samples / "content"):
        row = [cell(Image.open(photo), photo.stem, args.width)]
        for painting in pictures(args.samples / "style"):
            path = args.out / f"{photo.stem}_{painting.stem}_{args.size}.png"
            began = time.perf_counter()
            if make(path, photo, painting, settings):
                print(f"{path} {time.perf_counter() - began:.0f} s", flush=True)
            target = find_target(args.looks, photo, painting)
            if target is not None:
                row.append(cell(Image.open(target), "target (style-transfer-pytorch)", args.width))
            row.append(cell(Image.open(path), f"{painting.stem}, {args.size} px", args.width))
        rows.append(join(row, down=False))
    sheet = args.sheet or args.out / f"sheet-{args.size}.jpg"
    join(rows, down=True).save(sheet, quality=88)
    print(sheet)


if __name__ == "__main__":
    main()
