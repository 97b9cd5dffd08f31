"""The README and the docs say what is there: examples run, options and settings exist."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import stylekeras as sk
from stylekeras import settings, transfer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
OBJECTIVE = (ROOT / "docs" / "objective.md").read_text("utf-8")
TINY = {"size": 48, "min_size": None, "steps": 1, "weights": "random", "backbone": "vgg16"}


def test_the_python_examples_run(tmp_path, monkeypatch):
    # As they stand, but small: with tiny settings in the place of the defaults and of those the examples name.
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)
    for name in ["photo.jpg", "painting.jpg", "a.jpg", "b.jpg"]:
        Image.fromarray(noise.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(name)
    for function in (transfer.stylize, transfer.iterate, transfer.loss_and_gradient):
        monkeypatch.setattr(function, "__defaults__", (settings.Settings(**TINY),))
    monkeypatch.setattr(sk, "Settings", lambda **given: settings.Settings(**{**given, **TINY}), raising=False)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    namespace: dict = {}
    ran = [block for block in blocks if "!pip" not in block]
    assert len(ran) >= 2
    for block in ran:
        exec(block, namespace)
    assert sk.load_image("picture.png").shape == (36, 48, 3)
    assert np.isfinite(namespace["evaluation"].gradient).all()


def test_every_option_it_names_exists():
    from stylekeras.cli.main import app

    commands = ["stylize", "resume", "replay", "reconstruct", "evaluate", "sheet", "export taps", "export step"]
    commands += ["doctor", "demo"]
    helps = [CliRunner().invoke(app(), [*name.split(), "--help"], env={"COLUMNS": "200"}).output for name in commands]
    known = set(re.findall(r"--[a-z][a-z-]+", " ".join(helps)))
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README + OBJECTIVE)):
        assert option in known, option


def test_every_command_it_names_exists():
    from stylekeras.cli.main import app

    shown = CliRunner().invoke(app(), ["--help"], env={"COLUMNS": "200"}).output
    for command in set(re.findall(r"`stylekeras ([a-z]+)", README)):
        assert re.search(rf"\b{command}\b", shown), command


@pytest.mark.parametrize("text", [README, OBJECTIVE], ids=["README", "objective"])
def test_every_file_it_links_exists(text):
    folder = ROOT if text is README else ROOT / "docs"
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    for link in links:
        assert (folder / link).exists(), link


def test_the_paper_row_of_the_weights_table_is_the_preset():
    paper = settings.Settings(preset="paper")
    channels = {"block1_conv1": 64, "block2_conv1": 128, "block3_conv1": 256, "block4_conv1": 512, "block5_conv1": 512}
    assert paper.style_layers == {tap: 1 / count**2 for tap, count in channels.items()}
    assert (paper.content_weight, paper.style_weight, paper.loss_scale) == (5.0, 100.0, "absolute")
