"""The gallery's script, small."""

import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
QUICK = ["--steps", "1", "--weights", "random", "--backbone", "vgg16", "--engine", "onnxruntime"]


@pytest.fixture
def showcase(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import showcase

    render = showcase.render
    monkeypatch.setattr(showcase, "render", lambda size, seed: render(96, seed))
    return showcase


def test_sheets_are_made(showcase, tmp_path, monkeypatch, capsys):
    only = ["--size", "48", "--only", "colors,styles", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["showcase.py", *only, *QUICK])
    showcase.main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colors.jpg", "styles.jpg"]
    for path in tmp_path.iterdir():
        with Image.open(path) as sheet:
            assert min(sheet.size) > 48
    assert (
        "stylekeras sheet -c chelsea.png -s brushwork.jpg --vary colors=style,luminance,match"
        in capsys.readouterr().out
    )


def test_the_gallery_shows_every_sheet(showcase, tmp_path):
    names = {name for name, command in showcase.commands(tmp_path, 64) if command[0] != "stylize"} | {"styles"}
    shown = (ROOT / "docs" / "gallery.md").read_text("utf-8")
    for name in names:
        assert f"(gallery/{name}.jpg)" in shown
        assert (ROOT / "docs" / "gallery" / f"{name}.jpg").is_file()
