"""The wheel, not the checkout: what it installs, and that it works from another folder."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent


def _run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # A copy, since setuptools leaves build/ and egg-info behind in the tree it builds.
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    names = ["stylekeras", "cli", "models", "pyproject.toml", "README.md", "LICENSE"]
    _run("cp", "-r", *(ROOT / name for name in names), tree, cwd=ROOT)
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, tree, cwd=tree)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_adds_one_top_level_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"stylekeras"}
    for part in ["cli/main.py", "models/offline_vgg16.toml", "presets/paper.toml", "data/brushwork.jpg", "py.typed"]:
        assert f"stylekeras/{part}" in names


def test_an_installed_wheel_runs_the_demo_elsewhere(wheel, tmp_path):
    venv = tmp_path / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    site = next((venv / "lib").glob("python*/site-packages"))
    # Third-party packages come from the running environment; a .pth of a .pth is not read, so its editable install of
    # this checkout stays out.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = venv / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    home = _run(python, "-c", "import stylekeras; print(stylekeras.__file__)", cwd=tmp_path)
    assert Path(home.strip()).is_relative_to(os.path.realpath(venv)) or Path(home.strip()).is_relative_to(venv)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [venv / "bin" / "stylekeras", "demo", "--size", "48", "--min-size", "none", "--steps", "2", "-o", "a.png"]
    printed = _run(*command, cwd=elsewhere)
    assert "a.png" in printed
    with Image.open(elsewhere / "a.png") as picture:
        assert max(picture.size) == 48
