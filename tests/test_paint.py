"""`examples/paint.py` is deterministic, and the picture it made ships with the package."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def paint(out: Path, seed: int) -> bytes:
    command = [sys.executable, str(ROOT / "examples" / "paint.py"), str(out), "--size", "96", "--seed", str(seed)]
    subprocess.run(command, check=True, timeout=60)
    return out.read_bytes()


def test_a_seed_fixes_the_painting(tmp_path):
    first = paint(tmp_path / "first.jpg", 3)
    assert paint(tmp_path / "again.jpg", 3) == first
    assert paint(tmp_path / "other.jpg", 4) != first
    with Image.open(tmp_path / "first.jpg") as image:
        assert (image.mode, image.size) == ("RGB", (96, 74))


def test_the_shipped_painting_is_a_small_rgb_jpeg():
    path = ROOT / "stylekeras" / "data" / "brushwork.jpg"
    assert path.stat().st_size < 400_000
    with Image.open(path) as image:
        image.load()
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (768, 591))
        # A canvas with flat areas or few colours would make a poor style: ask for contrast in every tile.
        for left in range(0, 768 - 95, 96):
            for top in range(0, 591 - 95, 96):
                tile = image.crop((left, top, left + 96, top + 96)).convert("L")
                low, high = tile.getextrema()
                assert high - low > 60, (left, top)


def test_the_command_line_needs_an_output_file():
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "paint.py")], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 2
    assert "out" in result.stderr
