import hashlib
import json
import platform
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from stylekeras import images, recipe
from stylekeras.errors import RequestError


def test_build_lists_what_made_the_picture(tmp_path):
    photo = tmp_path / "secret folder" / "photo.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"not really a photo")
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    pil = Image.fromarray(array)
    built = recipe.build(
        {"size": np.int64(512), "layers": ("a", "b"), "init": Path("noise.png")},
        [("content", photo), ("style", str(photo)), ("style", array), ("style", pil)],
        {"seed": 7},
    )
    in_file = hashlib.sha256(b"not really a photo").hexdigest()
    in_memory = hashlib.sha256(bytes(range(12))).hexdigest()
    assert built["settings"] == {"size": 512, "layers": ["a", "b"], "init": "noise.png"}
    assert built["inputs"] == [
        {"role": "content", "name": "photo.jpg", "sha256": in_file},
        {"role": "style", "name": "photo.jpg", "sha256": in_file},
        {"role": "style", "name": None, "sha256": in_memory},
        {"role": "style", "name": None, "sha256": in_memory},
    ]
    assert built["provenance"] == {"seed": 7}
    assert list(built) == ["stylekeras", "settings", "inputs", "provenance", "versions"]
    assert list(built["versions"]) == ["python", "numpy", "pillow", "keras", "tensorflow", "processor"]
    assert built["versions"]["python"] == platform.python_version()
    assert built["versions"]["numpy"] == np.__version__
    assert built["versions"]["processor"]
    assert "secret folder" not in json.dumps(built)


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        ("/home/me/w.h5", "w.h5"),
        (Path("folder") / "w.h5", "w.h5"),
        ("w.h5", "w.h5"),
        ("auto", "auto"),
        ("https://example.org/w.h5", "https://example.org/w.h5"),
    ],
)
def test_build_keeps_folders_to_itself(value, recorded):
    built = recipe.build({"init": value, "weights": value}, None, {"weights_source": value})
    assert built["settings"] == {"init": recorded, "weights": recorded}
    assert built["provenance"] == {"weights_source": recorded}


def test_build_without_inputs_and_a_missing_package(monkeypatch):
    def version(name):
        raise recipe.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(recipe.importlib.metadata, "version", version)
    built = recipe.build({}, None, {})
    assert built["inputs"] == []
    assert built["stylekeras"] is None
    assert built["versions"]["tensorflow"] is None


def test_build_refuses_what_it_cannot_record(tmp_path):
    with pytest.raises(RequestError, match=r"gone\.png: cannot be read: No such file"):
        recipe.build({}, [("content", tmp_path / "gone.png")], {})
    with pytest.raises(RequestError, match="cannot be written as JSON"):
        recipe.build({"loss": float("nan")}, None, {})
    with pytest.raises(RequestError, match="type ndarray"):
        recipe.build({"mask": np.zeros(3)}, None, {})


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg"])
def test_a_recipe_survives_the_file(tmp_path, ending):
    path = tmp_path / f"picture{ending}"
    wanted = recipe.build({"note": 'Ünïcödé "quotes" \n 🎨', "size": 512}, None, {"loss": 0.1})
    images.save_image(path, np.zeros((8, 9, 3), np.float32), recipe=wanted)
    assert recipe.read(path) == wanted


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg"])
def test_a_picture_without_a_recipe(tmp_path, ending):
    path = tmp_path / f"picture{ending}"
    images.save_image(path, np.zeros((8, 9, 3), np.float32))
    with pytest.raises(RequestError, match=r"no recipe in it"):
        recipe.read(path)


def write(path, text):
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_text("stylekeras", text)
        Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    elif path.suffix == ".jpg":
        Image.new("RGB", (4, 4)).save(path, comment=text.encode())
    else:
        Image.new("RGB", (4, 4)).save(path, description=text)
    return path


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Created with GIMP", "not JSON"),
        ('{"stylekeras": "1", "settings": {"size": NaN}}', "NaN is not JSON"),
        ("[" * 40_000, "not JSON"),
        ("[1, 2]", "not written by stylekeras"),
        ('{"settings": {}}', "not written by stylekeras"),
        ('{"stylekeras": "1", "settings": []}', "not written by stylekeras"),
        ('{"stylekeras": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_strangers_text_is_refused(tmp_path, ending, text, message):
    with pytest.raises(RequestError, match=f"no readable recipe in it.*{message}"):
        recipe.read(write(tmp_path / f"picture{ending}", text))


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_too_much_text_is_refused(tmp_path, ending):
    text = '{"stylekeras": "1", "settings": {"x": "' + "x" * recipe.MAX_TEXT + '"}}'
    with pytest.raises(RequestError, match="at most 1048576"):
        recipe.read(write(tmp_path / f"picture{ending}", text))


def test_a_compressed_bomb_of_text_is_refused(tmp_path):
    path = tmp_path / "picture.png"
    info = PngImagePlugin.PngInfo()
    info.add_text("stylekeras", "x" * (1 << 26), zip=True)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    assert path.stat().st_size < 100_000
    with pytest.raises(RequestError):
        recipe.read(path)


def test_files_that_are_no_pictures(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("hello")
    with pytest.raises(RequestError, match=r"not a PNG, TIFF or JPEG that can be read"):
        recipe.read(text)
    with pytest.raises(RequestError, match="no such file"):
        recipe.read(tmp_path / "gone.png")
    with pytest.raises(RequestError, match="not a file"):
        recipe.read(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.gif")
    with pytest.raises(RequestError, match=r"not a PNG, TIFF or JPEG"):
        recipe.read(tmp_path / "picture.gif")
