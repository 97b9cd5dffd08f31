"""How pictures are written: --profile, --metadata, --alpha, --depth, and that resume and replay write them so too."""

from pathlib import Path

import fakes
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from test_fidelity import P3, camera_file, transparent

import stylekeras as sk
from stylekeras import deep, recipe
from stylekeras.cli import outputs

SMALL = ["--size", "64", "--min-size", "none", "--steps", "2", "--quiet"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with inputs, and no network is run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sk, "plan", fakes.plan)
    monkeypatch.setattr(sk, "iterate", fakes.iterate)
    camera_file("camera.jpg", icc_profile=P3)
    transparent("glass.png", 48, 64)
    for name in ("plain.png", "paint.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(name)
    Image.new("CMYK", (64, 48)).save("press.jpg", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 400)
    return tmp_path


def read(path):
    with Image.open(path) as found:
        found.load()
        return found


def test_by_default_srgb_transparency_and_nothing_else(run):
    assert run("stylize", "camera.jpg", "paint.png", "-o", "out.jpg", *SMALL)[0] == 0
    found = read("out.jpg")
    assert found.info["icc_profile"] != P3
    assert "exif" not in found.info
    assert run("stylize", "glass.png", "paint.png", "-o", "out.png", *SMALL)[0] == 0
    assert read("out.png").mode == "RGBA"
    form = {"profile": "srgb", "metadata": "drop", "alpha": "keep", "depth": None}
    assert recipe.read("out.png")["output"] == form


@pytest.mark.parametrize(("name", "depth"), [("out.jpg", None), ("out.png", 8), ("out.png", 16), ("out.tif", None)])
def test_what_is_asked_for(run, name, depth):
    more = [] if depth is None else ["--depth", depth]
    arguments = ["--profile", "photo", "--metadata", "keep", "--save-every", "1", *more, *SMALL]
    assert run("stylize", "camera.jpg", "paint.png", "-o", name, *arguments)[0] == 0
    stem, _, ending = name.partition(".")
    for path in (name, f"{stem}-0001.{ending}"):
        found = read(path)
        assert found.info["icc_profile"] == P3
        assert found.getexif()[271] == "Maker"
        stored = tifffile.imread(path) if ending == "tif" else imagecodecs.imread(path)
        assert stored.dtype == (np.uint16 if depth == 16 or ending == "tif" else np.uint8)
    # The fake's picture is the photo.
    photo = sk.load_image("camera.jpg")
    np.testing.assert_allclose(sk.load_image(name)[5:-5, 5:-5].mean(), photo[5:-5, 5:-5].mean(), atol=0.02)


def test_transparency_can_be_dropped_and_is_said_where_there_is_none(run):
    assert run("stylize", "glass.png", "paint.png", "-o", "out.png", "--alpha", "drop", *SMALL)[0] == 0
    assert read("out.png").mode == "RGB"
    code, _, err = run("stylize", "glass.png", "paint.png", "-o", "out.jpg", *SMALL[:-1])
    assert code == 0
    assert "glass.png has transparency, .jpg has none: laid over white" in err
    assert "transparency" not in run("stylize", "glass.png", "paint.png", "-o", "two.jpg", "--alpha", "drop", *SMALL)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["camera.jpg", "-o", "out.png", "--profile", "foto"], "--profile foto is unknown; did you mean 'photo'?"),
        (["camera.jpg", "-o", "out.png", "--metadata", "all"], "--metadata all is unknown; known: drop, keep"),
        (["camera.jpg", "-o", "out.png", "--alpha", "white"], "--alpha white is unknown"),
        (["camera.jpg", "-o", "out.png", "--depth", "12"], "--depth 12: expected 8 or 16"),
        (["camera.jpg", "-o", "out.jpg", "--depth", "16"], ".jpg has 8 bits a channel, not 16"),
        (["camera.jpg", "-o", "out.npy", "--depth", "8"], ".npy has 32 bits"),
        (["camera.jpg", "-o", "out.npy", "--profile", "photo"], ".npy has no room"),
        (["plain.png", "-o", "out.npy", "--metadata", "keep"], ".npy has no room"),
        (["press.jpg", "-o", "out.png", "--profile", "photo"], "is for CMYK, a picture is RGB: leave it sRGB"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(run, folder, monkeypatch, arguments, message):
    monkeypatch.setattr(sk, "iterate", lambda *arguments, **options: pytest.fail("computed"))
    before = sorted(folder.iterdir())
    photo, *rest = arguments
    code, out, err = run("stylize", photo, "paint.png", *rest, *SMALL)
    assert (code, out) == (2, "")
    assert message in err
    assert sorted(folder.iterdir()) == before


def test_16_bits_in_the_photos_profile_need_the_extra(run, monkeypatch):
    monkeypatch.setattr(deep, "here", lambda: False)
    code, _, err = run("stylize", "camera.jpg", "paint.png", "-o", "out.tif", "--profile", "photo", *SMALL)
    assert code == 2
    assert "pip install 'stylekeras[deep]'" in err


def test_replay_writes_it_so_too(run):
    arguments = ["--profile", "photo", "--metadata", "keep", "--depth", "16"]
    assert run("stylize", "camera.jpg", "paint.png", "-o", "out.png", *arguments, *SMALL)[0] == 0
    assert run("replay", "out.png", "-o", "again.png", "--quiet")[0] == 0
    assert np.array_equal(imagecodecs.imread("again.png"), imagecodecs.imread("out.png"))
    assert recipe.read("again.png")["output"] == recipe.read("out.png")["output"]
    assert read("again.png").info["icc_profile"] == P3
    code, _, err = run("replay", "out.png", "-o", "again.jpg")
    assert code == 0
    assert "without --depth 16, for which .jpg has no place" in err
    assert read("again.jpg").info["icc_profile"] == P3
    code, _, err = run("replay", "out.png", "-o", "again.npy")
    assert code == 0
    assert "without --profile photo" in err


@pytest.mark.parametrize(
    "changed",
    [3, {"depth": True}, {"profile": "x\n" * 50}, {"metadata": ["keep"]}, {"overwrite": True}, {"depth": 1e9}],
)
def test_a_recipe_that_was_changed_is_refused(run, changed):
    assert run("stylize", "plain.png", "paint.png", "-o", "out.png", *SMALL)[0] == 0
    made = recipe.read("out.png")
    sk.save_image("changed.png", sk.load_image("out.png"), recipe={**made, "output": changed})
    code, out, err = run("replay", "changed.png", "-o", "again.png", *SMALL[-1:])
    assert (code, out) == (2, "")
    assert "how the picture was written is not known to this version" in err


def test_without_a_form_it_is_over_white():
    assert outputs.recorded(None) == outputs.Form(alpha="drop")


def test_a_run_without_a_photo_has_nothing_to_keep(run):
    arguments = ["reconstruct", "camera.jpg", "--of", "style", "--layers", "block1_conv1", "-o", "out.png", *SMALL]
    assert run(*arguments)[0] == 0
    assert "output" not in recipe.read("out.png")


def test_replay_of_a_picture_without_such_options_has_none(run):
    """A reconstruction is over white, and so is what a version without them has made."""
    made = ["reconstruct", "glass.png", "--of", "content", "--layers", "block1_conv1", "-o", "out.png", *SMALL]
    assert run(*made)[0] == 0
    assert read("out.png").mode == "RGB"
    assert "the same picture as out.png" in run("replay", "out.png", "-o", "again.png")[2]


def test_replay_compares_tiffs(run):
    assert run("stylize", "plain.png", "paint.png", "-o", "out.tif", *SMALL)[0] == 0
    assert "the same picture as out.tif" in run("replay", "out.tif", "-o", "again.tif")[2]


def test_an_amount_of_what(run):
    """Said where it does nothing, unless that was chosen."""
    made = ["stylize", "plain.png", "paint.png", "-o", "out.png", *SMALL]
    code, _, err = run(*made, "--color-amount", "0.5")
    assert (code, "color_amount dials colors=luminance or colors=match" in err) == (2, True)
    Path("mine.toml").write_text('colors = "luminance"\ncolor_amount = 0.5\n')
    assert run(*made, "--config", "mine.toml", "--colors", "style")[0] == 0
    sheet = ["sheet", "-c", "plain.png", "-s", "paint.png", "-o", "sheet.png", *SMALL]
    assert run(*sheet, "--vary", "colors=style,luminance", "--color-amount", "0.5")[0] == 0
