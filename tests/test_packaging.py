"""The wheel, not the checkout: what it installs, and that it works from another folder."""

import importlib.metadata
import os
import re
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


def _closure(*packages):
    """Installed packages and all that they need."""
    found, waiting = {}, list(packages)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        for line in found[name].requires or ():
            if "extra ==" not in line and "win32" not in line and "Windows" not in line:
                waiting.append(re.match(r"[\w.-]+", line)[0])
    return found


def test_the_onnx_engine_needs_neither_tensorflow_nor_keras(wheel, tmp_path):
    """As after `pip install --no-deps` of the wheel, and numpy, pillow, typer, onnx and onnxruntime."""
    site = tmp_path / "site"
    packages = _closure("numpy", "pillow", "typer", "onnx", "onnxruntime")
    assert not {"tensorflow", "keras", "h5py"} & set(packages)
    site.mkdir()
    for package in packages.values():
        for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(package.locate_file(top))
    zipfile.ZipFile(wheel).extractall(site)
    for name in ("photo", "painting"):
        Image.effect_noise((64, 48), 90).convert("RGB").save(tmp_path / f"{name}.png")
    weights = tmp_path / "vgg16.npz"
    _run(sys.executable, "-m", "stylekeras", "weights", "convert", "offline", weights, cwd=tmp_path)

    def stylekeras(*arguments):
        environment = {"PYTHONPATH": str(site), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        command = [sys.executable, "-S", "-m", "stylekeras", *arguments]
        return subprocess.run(
            [str(part) for part in command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

    small = ["--size", "48", "--min-size", "none", "--steps", "2", "--backbone", "vgg16"]
    made = stylekeras(
        "stylize", "photo.png", "painting.png", "-o", "out.png", *small, "--weights", weights, "--engine", "onnx"
    )
    assert made.returncode == 0, made.stderr
    assert "onnxruntime" in made.stderr
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (48, 36)
    told = stylekeras("evaluate", "out.png", "photo.png", "painting.png", "--backbone", "vgg16", "--weights", weights)
    assert told.returncode == 0, "auto is the engine that is there: " + told.stderr
    missing = stylekeras("evaluate", "out.png", "photo.png", "painting.png", "--engine", "tensorflow")
    assert missing.returncode == 2
    assert missing.stderr.strip() == "Error: engine tensorflow needs tensorflow and keras: pip install tensorflow keras"
