"""`stylekeras stylize`: the picture and its recipe, JSON, what is refused, and what is left when it ends early."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys

import fakes
import numpy as np
import pytest
from PIL import Image

import stylekeras as sk
from stylekeras import engines, files, recipe

# Two small scales, the first layers of a random network.
TINY = [
    *("--weights", "random", "--backbone", "vgg16", "--style-loss", "gram"),
    *("--content-layers", "block1_conv2", "--style-layers", "block1_conv1"),
    *("--size", "64", "--min-size", "48", "--steps", "3,2"),
]


fake_iterate = functools.partial(fakes.iterate, notes=["weights: not as asked for"])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with inputs, good and bad, to work in."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    random = np.random.default_rng(5)
    for name, shape in {"photo.png": (48, 64, 3), "paint.png": (40, 40, 3), "other.png": (48, 40, 3)}.items():
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(work / name)
    Image.new("RGB", (1, 1)).save(work / "dot.png")
    Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))).save(work / "mask.png")
    Image.new("L", (20, 20)).save(work / "black.png")
    (work / "empty.png").touch()
    (work / "cut.png").write_bytes((work / "photo.png").read_bytes()[:1500])
    (work / "text.png").write_text("not a picture")
    (work / "folder.png").mkdir()
    (work / "old.png").write_bytes(b"an old picture")
    (work / "bad.toml").write_text("size = = 3")
    (work / "unknown.toml").write_text("sise = 3")
    (work / "wrong.toml").write_text("strength = 0.5\nsize = true")
    return work


@pytest.fixture
def quick(monkeypatch):
    """No network is run."""
    monkeypatch.setattr(sk, "plan", fakes.plan)
    monkeypatch.setattr(sk, "iterate", fake_iterate)


@pytest.fixture
def stopping(monkeypatch):
    """Let `iterate` raise an error after some steps."""

    def stopping(error, after):
        def stopped(*arguments):
            for done, progress in enumerate(fake_iterate(*arguments)):
                if done == after:
                    raise error
                yield progress

        monkeypatch.setattr(sk, "plan", fakes.plan)
        monkeypatch.setattr(sk, "iterate", stopped)

    return stopping


def contents(folder):
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def size_of(path):
    with Image.open(path) as image:
        image.load()
        return image.size


def test_a_picture_with_its_recipe(run, folder):
    code, out, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", *TINY)
    assert (code, out) == (0, "")
    assert size_of("out.png") == (64, 48)
    lines = err.splitlines()
    assert lines[1].startswith("plan: 64x48 in 2 scales, at most 5 steps, about ")
    assert engines.pick(engines.ORDER) in lines[2]
    assert "vgg16, weights random" in lines[2]
    assert lines[3].startswith("scale 1/2, 48x36: 3 steps, loss ")
    assert lines[4].startswith("scale 2/2, 64x48: 2 steps, loss ")
    assert lines[5].startswith("wrote out.png (64x48, ")
    made = recipe.read("out.png")
    assert sk.Settings(**made["settings"]) == sk.Settings(
        weights="random",
        backbone="vgg16",
        style_loss="gram",
        content_layers="block1_conv2",
        style_layers="block1_conv1",
        size=64,
        min_size=48,
        steps=(3, 2),
    )
    assert [(entry["role"], entry["name"]) for entry in made["inputs"]] == [
        ("content", "photo.png"),
        ("style", "paint.png"),
    ]
    assert made["provenance"]["weights"] == "random"
    assert made["provenance"]["steps_done"] == made["provenance"]["steps_total"] == 5
    assert list(folder.glob(".*")) == []


def test_json_lines_and_save_every(run, folder):
    arguments = [
        "stylize",
        "photo.png",
        "paint.png",
        "other.png",
        "--style-weights",
        "0.7,0.3",
        "--style-scales",
        "1,2",
    ]
    code, out, err = run(*arguments, "-o", "out.tif", "--json", "--quiet", "--save-every", "2", *TINY)
    assert (code, err) == (0, "")
    events = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    names = [event["event"] for event in events]
    assert names == ["start", "scale", "step", "step", "step", "scale", "step", "step", "done"]
    start, first, last, done = events[0], events[1], events[-2], events[-1]
    assert start["settings"]["size"] == 64
    assert start["provenance"]["backbone"] == "vgg16"
    assert [(entry["role"], entry.get("weight"), entry.get("scale")) for entry in start["inputs"]] == [
        ("content", None, None),
        ("style", 0.7, 1.0),
        ("style", 0.3, 2.0),
    ]
    assert first == {"event": "scale", "scale": 0, "scales": 2, "size": [36, 48], "steps": 3}
    assert {"event", "step", "last", "scale", "size", "loss", "terms", "seconds"} == set(last)
    assert (last["step"], last["scale"], last["size"]) == (2, 1, [48, 64])
    assert {"content", "style", "tv", "style/block1_conv1"} <= set(last["terms"])
    told = {key: last[key] for key in ("loss", "terms", "seconds")}
    assert done == {"event": "done", "output": "out.tif", **told}
    assert sorted(name for name in contents(folder) if name.startswith("out")) == [
        "out-0002.tif",
        "out-0004.tif",
        "out.tif",
    ]
    assert recipe.read("out-0002.tif")["provenance"]["steps_done"] == 2


def test_masks_and_regions(run, folder):
    """What is white stays what it was, and the recipe says whose mask is which."""
    options = ["--style-masks", "none, mask.png", "--style-regions", "mask.png,", "--style-weights", "0,1"]
    arguments = ["photo.png", "paint.png", "other.png", "-o", "out.npy", *TINY]
    code, out, err = run("stylize", *arguments, *options, "--json")
    assert code == 0
    assert "Warning: style 1: region: 64x48, resized to the style image's 40x40, and so stretched" in err.splitlines()
    start = json.loads(out.splitlines()[0])
    assert [(entry["role"], entry["name"], entry.get("style")) for entry in start["inputs"]] == [
        ("content", "photo.png", None),
        ("style", "paint.png", None),
        ("style", "other.png", None),
        ("region", "mask.png", 1),
        ("mask", "mask.png", 2),
    ]
    picture, photo = np.load("out.npy"), sk.load_image("photo.png")
    # The mask is a slope from black to white.
    changed = np.abs(picture - photo).mean(axis=(0, 2))
    assert changed[0] == 0
    assert changed[1:21].mean() < changed[-21:].mean() / 2
    code, out, _ = run(
        "evaluate", "photo.png", "photo.png", "paint.png", "--style-masks", "mask.png", "--json", *TINY[:-6]
    )
    terms = json.loads(out.splitlines()[-1])["terms"]
    assert code == 0
    chosen = sk.Settings(
        weights="random",
        backbone="vgg16",
        style_loss="gram",
        content_layers="block1_conv2",
        style_layers="block1_conv1",
    )
    wanted = sk.loss_and_gradient("photo.png", "photo.png", sk.Style("paint.png", mask="mask.png"), chosen)
    assert terms == pytest.approx(dict(wanted.terms))
    assert run("plan", "photo.png", "paint.png", "--style-masks", "mask.png", "--style-regions", "black.png")[0] == 2


def test_an_existing_output_is_kept_unless_overwrite(run, folder, quick):
    code, out, err = run("stylize", "photo.png", "paint.png", "-o", "old.png", *TINY)
    assert (code, out) == (2, "")
    assert err == "Error: cannot write old.png: it exists; choose another name, or pass --overwrite\n"
    assert (folder / "old.png").read_bytes() == b"an old picture"
    (folder / "new-0004.png").write_bytes(b"an old picture")
    code, _, err = run("stylize", "photo.png", "paint.png", "-o", "new.png", "--save-every", "4", *TINY)
    assert code == 2
    assert "new-0004.png" in err
    assert not (folder / "new.png").exists()
    arguments = ["--overwrite", "--save-every", "4", *TINY]
    assert run("stylize", "photo.png", "paint.png", "-o", "new.png", *arguments)[0] == 0
    assert size_of("new-0004.png") == size_of("new.png") == (64, 48)


def test_settings_reach_the_library_in_the_right_order(run, folder, monkeypatch):
    seen = []

    def iterate(content, styles, settings):
        seen.append((content, styles, settings))
        raise sk.RunError("seen")

    monkeypatch.setattr(sk, "plan", fakes.plan)
    monkeypatch.setattr(sk, "iterate", iterate)
    (folder / "my.toml").write_text('preset = "paper"\nsize = 100\nsteps = 7\n')
    options = ["--config", "my.toml", "--size", "64", "--no-clip", "--style-weight", "3"]
    code, _, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", *options)
    assert (code, err.splitlines()[-1]) == (1, "Error: seen")
    content, styles, settings = seen[0]
    assert settings == sk.Settings(preset="paper", size=64, steps=7, clip=False, style_weight=3)
    assert content.shape == (48, 64, 3)
    assert [(style.weight, style.scale) for style in styles] == [(1, 1)]
    assert not (folder / "out.png").exists()


BAD = {
    "content missing": (["no.png", "paint.png"], "no such file"),
    "style missing": (["photo.png", "no.png"], "style no.png: no such file"),
    "second style missing": (["photo.png", "paint.png", "no.png"], "style 2 no.png"),
    "0 bytes": (["empty.png", "paint.png"], "empty"),
    "cut short": (["cut.png", "paint.png"], "cut short"),
    "not a picture": (["photo.png", "text.png"], "not a picture"),
    "1x1": (["dot.png", "paint.png"], "too small"),
    "a folder": (["folder.png", "paint.png"], "is a folder"),
    "output is a folder": (["photo.png", "paint.png", "-o", "folder.png"], "is a folder"),
    "output in no folder": (["photo.png", "paint.png", "-o", "no/out.png"], "no such folder"),
    "output of unknown kind": (["photo.png", "paint.png", "-o", "out.gif"], "unknown ending"),
    "output exists": (["photo.png", "paint.png", "-o", "old.png"], "--overwrite"),
    "layer": (["photo.png", "paint.png", "--style-layers", "block1_conv11"], "did you mean 'block1_conv1'?"),
    "content layer": (["photo.png", "paint.png", "--content-layers", "block9_conv9"], "block9_conv9"),
    "engine": (["photo.png", "paint.png", "--engine", "tensorflaw"], "did you mean 'tensorflow'?"),
    "optimizer": (["photo.png", "paint.png", "--optimizer", "adan"], "did you mean 'adam'?"),
    "backbone": (["photo.png", "paint.png", "--backbone", "vgg"], "did you mean"),
    "preset": (["photo.png", "paint.png", "--preset", "papr"], "did you mean 'paper'?"),
    "init": (["photo.png", "paint.png", "--init", "nois"], "did you mean 'noise'?"),
    "init of a long name": (["photo.png", "paint.png", "--init", "x" * 300], "no such file"),
    "init picture of a long name": (["photo.png", "paint.png", "--init", "x" * 300 + ".png"], "name too long"),
    "init picture": (["photo.png", "paint.png", "--init", "no.png"], "no such file"),
    "size": (["photo.png", "paint.png", "--size", "big"], "size='big'"),
    "size too small": (["photo.png", "paint.png", "--size", "33"], "use at least size="),
    "strength": (["photo.png", "paint.png", "--strength", "nan"], "strength='nan'"),
    "too few weights": (["photo.png", "paint.png", "other.png", "--style-weights", "1"], "1 number for 2 styles"),
    "weights of no number": (["photo.png", "paint.png", "--style-weights", "much"], "--style-weights much"),
    "negative weight": (["photo.png", "paint.png", "--style-weights", "-1"], "not negative"),
    "scales": (["photo.png", "paint.png", "--style-scales", "1,2"], "2 numbers for 1 style"),
    "own layers of nobody": (["photo.png", "paint.png", "--layers-of", "2:block1_conv1"], "style's number, 1, a colon"),
    "own layer": (["photo.png", "paint.png", "--layers-of", "1:block1_conv11"], "did you mean 'block1_conv1'?"),
    "own layer's weight": (["photo.png", "paint.png", "--layers-of", "1:block1_conv1=x"], "style layers: block1_conv1"),
    "masks": (["photo.png", "paint.png", "--style-masks", "mask.png,mask.png"], "2 files for 1 style"),
    "regions": (["photo.png", "paint.png", "other.png", "--style-regions", "mask.png"], "1 file for 2 styles"),
    "mask missing": (["photo.png", "paint.png", "--style-masks", "no.png"], "style: mask no.png: no such file"),
    "black mask": (["photo.png", "paint.png", "--style-masks", "black.png"], "mask black.png: black everywhere"),
    "black region": (
        ["photo.png", "paint.png", "other.png", "--style-regions", "none,black.png"],
        "style 2: region black.png: black everywhere",
    ),
    "mask of text": (["photo.png", "paint.png", "--style-masks", "text.png"], "not a picture"),
    "output is a mask": (
        ["photo.png", "paint.png", "--style-masks", "mask.png", "-o", "mask.png", "--overwrite"],
        "one of the inputs",
    ),
    "no config": (["photo.png", "paint.png", "--config", "no.toml"], "no.toml"),
    "bad config": (["photo.png", "paint.png", "--config", "bad.toml"], "not valid TOML"),
    "unknown key": (["photo.png", "paint.png", "--config", "unknown.toml"], "did you mean 'size'?"),
    "plot of another kind": (["photo.png", "paint.png", "--plot", "p.jpg"], "unknown ending '.jpg'; use one of .png"),
    "plot exists": (["photo.png", "paint.png", "--plot", "old.png"], "--overwrite"),
    "plot is the picture": (["photo.png", "paint.png", "-o", "a.png", "--plot", "./a.png"], "another output"),
    "plot is an input": (["photo.png", "paint.png", "--plot", "paint.png", "--overwrite"], "one of the inputs"),
    "plot in no folder": (["photo.png", "paint.png", "--plot", "no/p.png"], "no such folder"),
    "time-lapse of another kind": (["photo.png", "paint.png", "--timelapse", "t.avi"], "use one of .gif, .webp, .mp4"),
    "frames of no time-lapse": (["photo.png", "paint.png", "--timelapse-every", "3"], "needs --timelapse"),
    "too many frames": (
        ["photo.png", "paint.png", "--timelapse", "t.gif", "--timelapse-every", "1", "--steps", "9999"],
        "at most 1000",
    ),
    "time-lapse is the checkpoint": (
        ["photo.png", "paint.png", "--timelapse", "t.gif", "--checkpoint", "t.gif"],
        "another output",
    ),
    "bad value in a config": (
        ["photo.png", "paint.png", "--config", "wrong.toml"],
        "config wrong.toml, line 2: size=True",
    ),
}


@pytest.mark.parametrize(("arguments", "expected"), BAD.values(), ids=BAD)
def test_a_wrong_request_is_exit_code_2_and_changes_nothing(run, folder, monkeypatch, arguments, expected):
    def iterate(*_):
        pytest.fail("found too late")

    monkeypatch.setattr(sk, "plan", fakes.plan)
    monkeypatch.setattr(sk, "iterate", iterate)
    before = contents(folder)
    output = [] if "-o" in arguments else ["-o", "out.png"]
    code, out, err = run("stylize", *arguments, *output, "--json")
    assert (code, out) == (2, "")
    assert 1 <= len(err.splitlines()) <= 2
    assert err.startswith("Error: ")
    assert expected in err
    assert contents(folder) == before


BESIDE = ["--plot", "curves.png", "--timelapse", "film.gif", "--timelapse-every", "2"]


def test_curves_and_a_time_lapse(run, folder, quick):
    code, out, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", "--json", *BESIDE, *TINY)
    assert code == 0
    assert err.splitlines()[-3:-1] == [
        "wrote curves.png (loss curves from step 1 to 5)",
        "wrote film.gif (4 frames, 64x48)",  # of steps 1, 2, 4 and 5
    ]
    done = json.loads(out.splitlines()[-1])
    assert (done["event"], done["plot"], done["timelapse"]) == ("done", "curves.png", "film.gif")
    assert size_of("film.gif") == (64, 48)
    assert size_of("curves.png")[0] == 1100
    assert [name for name in contents(folder) if name.startswith(".")] == []


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (sk.DivergedError("nan"), 1)])
def test_what_there_is_of_curves_and_time_lapse_is_kept(run, folder, stopping, error, code):
    stopping(error, after=4)
    found, _, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", *BESIDE, *TINY)
    assert found == code
    assert "wrote curves.png (loss curves from step 1 to 4)" in err
    assert "wrote film.gif (3 frames, 64x48)" in err


def test_nothing_is_beside_no_picture(run, folder, stopping):
    stopping(KeyboardInterrupt(), after=0)
    before = contents(folder)
    assert run("stylize", "photo.png", "paint.png", "-o", "out.png", *BESIDE, *TINY)[0] == 130
    assert contents(folder) == before


def test_files_that_appear_meanwhile_are_kept_and_so_are_ours(run, folder, monkeypatch):
    def late(*arguments):
        yield from fake_iterate(*arguments)
        (folder / "curves.png").write_bytes(b"someone else's")

    monkeypatch.setattr(sk, "plan", fakes.plan)
    monkeypatch.setattr(sk, "iterate", late)
    assert run("stylize", "photo.png", "paint.png", "-o", "out.png", *BESIDE, *TINY)[0] == 0
    assert (folder / "curves.png").read_bytes() == b"someone else's"
    assert size_of("curves-2.png")[0] == 1100


@pytest.mark.parametrize("after", [None, 3])
def test_a_disk_too_full_for_the_curves(run, folder, monkeypatch, stopping, quick, after):
    def full(target, *_):
        raise OSError(28, "No space left on device")

    if after is not None:
        stopping(KeyboardInterrupt(), after)
    monkeypatch.setattr(files, "write", full)
    code, _, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", *BESIDE[:2], *TINY)
    assert size_of("out.png")
    told = "could not write curves.png: No space left on device"
    if after is None:
        assert (code, err.splitlines()[-1]) == (1, f"Error: {told}; the picture is in out.png")
    else:
        assert code == 130
        assert err.splitlines()[-2:] == [f"Warning: {told}", "interrupted; the picture so far is in out.png"]


def test_a_time_lapse_that_needs_a_package_says_so_first(run, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    before = contents(folder)
    code, out, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", "--timelapse", "film.mp4", *TINY)
    assert (code, out) == (2, "")
    assert err == (
        "Error: a time-lapse as MP4 needs imageio-ffmpeg: pip install 'stylekeras[video]', or name a .gif or .webp\n"
    )
    assert contents(folder) == before


def test_an_unwritable_folder(run, folder, monkeypatch):
    (folder / "closed").mkdir()
    # Root may write everywhere, so the answer is forced.
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path) and access(path, mode))
    code, _, err = run("stylize", "photo.png", "paint.png", "-o", "closed/out.png")
    assert code == 2
    assert "no permission" in err


def test_divergence_leaves_the_last_good_picture(run, folder, stopping):
    stopping(sk.DivergedError("the loss became nan"), after=4)
    code, out, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", "--json", *TINY)
    assert code == 1
    assert err.splitlines()[-2:] == [
        "it failed; the last good picture is in out.png",
        "Error: the loss became nan",
    ]
    assert [json.loads(line)["event"] for line in out.splitlines()][-1] == "step"
    assert size_of("out.png") == (64, 48)
    provenance = recipe.read("out.png")["provenance"]
    assert (provenance["steps_done"], provenance["steps_total"]) == (4, 5)


def test_a_run_that_really_diverges(run, folder):
    # Adam's average is beyond float32 one step before the loss says so.
    options = ["--optimizer", "adam", "--no-clip", "--learning-rate", "3e38"]
    code, _, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", *TINY, *options)
    assert code == 1
    assert err.splitlines()[-1].startswith("Error: the loss became ")
    saved = (folder / "out.png").exists()
    assert saved == ("the last good picture is in out.png" in err)


def test_what_is_not_as_asked_for_is_a_warning(run, folder, quick):
    code, _, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", *TINY)
    assert code == 0
    assert "Warning: weights: not as asked for" in err.splitlines()
    assert recipe.read("out.png")["provenance"]["notes"] == ["weights: not as asked for"]
    assert run("stylize", "photo.png", "paint.png", "-o", "other.jpg", "--quiet", *TINY) == (0, "", "")


def test_divergence_at_the_first_step_leaves_nothing(run, folder, stopping):
    stopping(sk.DivergedError("the loss became nan"), after=0)
    code, out, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", "--json", *TINY)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "Error: the loss became nan"
    assert not (folder / "out.png").exists()


def test_a_bug_leaves_the_last_good_picture_too(run, folder, stopping):
    stopping(ZeroDivisionError(), after=2)
    with pytest.raises(ZeroDivisionError):
        run("stylize", "photo.png", "paint.png", "-o", "out.png", *TINY)
    assert size_of("out.png") == (48, 36)


def test_out_of_memory_is_one_line_and_leaves_the_last_good_picture(run, folder, stopping):
    stopping(MemoryError(), after=2)
    code, _, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", *TINY)
    assert code == 1
    assert err.splitlines()[-1] == "Error: out of memory: use a smaller --size"
    assert size_of("out.png") == (48, 36)


def test_a_recipe_tells_no_folder(run, folder, monkeypatch):
    def iterate(*arguments):
        for progress in fake_iterate(*arguments):
            provenance = {**progress.provenance, "weights_source": str(folder / "my.h5")}
            yield dataclasses.replace(progress, provenance=provenance)

    monkeypatch.setattr(sk, "plan", fakes.plan)
    monkeypatch.setattr(sk, "iterate", iterate)
    options = ["--init", folder / "other.png", "--weights", folder / "my.h5"]
    assert run("stylize", folder / "photo.png", "paint.png", "-o", "out.png", *TINY, *options)[0] == 0
    made = recipe.read("out.png")
    assert (made["settings"]["init"], made["settings"]["weights"]) == ("other.png", "my.h5")
    assert made["provenance"]["weights_source"] == "my.h5"
    assert [entry["name"] for entry in made["inputs"]] == ["photo.png", "paint.png", "other.png"]
    assert str(folder) not in json.dumps(made)


@pytest.mark.parametrize("target", ["photo.png", "paint.png"])
def test_an_input_is_never_overwritten(run, folder, target):
    before = (folder / target).read_bytes()
    code, _, err = run("stylize", "photo.png", "paint.png", "-o", target, "--overwrite", *TINY)
    assert code == 2
    assert "one of the inputs" in err
    assert (folder / target).read_bytes() == before


@pytest.mark.parametrize("after", [0, 2])
def test_an_interruption_keeps_the_picture_so_far(run, folder, stopping, after):
    stopping(KeyboardInterrupt(), after)
    code, _, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", *TINY)
    assert code == 130
    left = "the picture so far is in out.png" if after else "nothing was written"
    assert err.splitlines()[-1] == f"interrupted; {left}"
    assert (folder / "out.png").exists() == bool(after)


def test_sigterm_is_an_interruption(run, folder, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def terminated(*arguments):
        steps = fake_iterate(*arguments)
        yield next(steps)
        os.kill(os.getpid(), signal.SIGTERM)
        yield from steps

    monkeypatch.setattr(sk, "plan", fakes.plan)
    monkeypatch.setattr(sk, "iterate", terminated)
    assert run("stylize", "photo.png", "paint.png", "-o", "out.png", *TINY)[0] == 130
    assert size_of("out.png") == (48, 36)
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c(folder):
    command = [sys.executable, "-m", "stylekeras", "stylize", "photo.png", "paint.png", "-o", "out.png", "--json"]
    process = subprocess.Popen(
        [*command, *TINY, "--steps", "1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in process.stdout:
            if json.loads(line)["event"] == "step":
                break
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert json.loads(rest.splitlines()[-1]) == {"event": "interrupted", "path": "out.png"}
    assert err.splitlines()[-1] == "interrupted; the picture so far is in out.png"
    assert "Traceback" not in err
    assert "absl" not in err
    assert size_of("out.png") == (48, 36)


def test_ctrl_c_that_a_framework_swallows(run, folder, monkeypatch):
    def swallowing(*arguments):
        for progress in fake_iterate(*arguments):
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            yield progress

    monkeypatch.setattr(sk, "plan", fakes.plan)
    monkeypatch.setattr(sk, "iterate", swallowing)
    code, _, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", *TINY)
    assert code == 130
    assert err.splitlines()[-1] == "interrupted; the picture so far is in out.png"


def test_a_file_that_appears_meanwhile_is_kept_and_so_is_the_picture(run, folder, monkeypatch):
    def late(*arguments):
        yield from fake_iterate(*arguments)
        (folder / "out.png").write_bytes(b"someone else's")

    monkeypatch.setattr(sk, "plan", fakes.plan)
    monkeypatch.setattr(sk, "iterate", late)
    code, _, err = run("stylize", "photo.png", "paint.png", "-o", "out.png", *TINY)
    assert code == 0
    assert err.splitlines()[-1].startswith("wrote out-2.png")
    assert (folder / "out.png").read_bytes() == b"someone else's"
    assert size_of("out-2.png") == (64, 48)
