"""`--checkpoint`, `resume` and `replay`: the same picture in the end, or a clear word on why not."""

import errno
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

import stylekeras as sk
from stylekeras import checkpoint, engines, layout, memory, recipe, transfer
from stylekeras.cli import checkpoints, demo, plot

# Two small scales, the first layers of a random network.
TINY = [
    *("--weights", "random", "--backbone", "vgg16", "--style-loss", "gram", "--tolerance", "0"),
    *("--content-layers", "block1_conv2", "--style-layers", "block1_conv1"),
    *("--size", "64", "--min-size", "48", "--steps", "4,3"),
]
KEEP = ["--checkpoint", "run.npz", "--checkpoint-every", "1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with inputs to work in."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    numbers = np.random.default_rng(5)
    for name, shape in {"photo.png": (48, 64, 3), "paint.png": (40, 40, 3), "other.png": (48, 40, 3)}.items():
        Image.fromarray(numbers.integers(0, 256, shape, np.uint8)).save(work / name)
    Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))).save(work / "mask.png")
    return work


@pytest.fixture
def stopping(monkeypatch):
    """Let a run raise an error after some steps, from its beginning or from where it is resumed."""
    iterate = sk.iterate

    def stopping(error, after):
        def stopped(*arguments, **options):
            for done, progress in enumerate(iterate(*arguments, **options)):
                if done == after:
                    raise error
                yield progress

        monkeypatch.setattr(sk, "iterate", stopped)

    yield stopping
    monkeypatch.setattr(sk, "iterate", iterate)


def restore(monkeypatch):
    from stylekeras import transfer

    monkeypatch.setattr(sk, "iterate", transfer.iterate)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def paint(*more, output="out.png", styles=("paint.png",)):
    return ["stylize", "photo.png", *styles, "-o", output, *TINY, *more]


def test_a_resumed_run_writes_its_picture_as_the_other_would_have(run, folder, monkeypatch, stopping):
    photo = Image.open("photo.png")
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    exif = Image.Exif()
    exif[271] = "Maker"
    photo.save("photo.png", exif=exif)
    more = ["--metadata", "keep", "--depth", "16", "--quiet"]
    assert run(*paint(*more, output="whole.png"))[0] == 0
    stopping(KeyboardInterrupt(), 5)
    assert run(*paint(*KEEP, *more))[0] == 130
    restore(monkeypatch)
    assert run("resume", "run.npz", "--quiet")[0] == 0
    for name in ("whole.png", "out.png"):
        with Image.open(name) as picture:
            assert picture.getexif()[271] == "Maker"
            assert picture.mode == "RGBA"
    assert np.array_equal(imagecodecs.imread("out.png"), imagecodecs.imread("whole.png"))
    assert recipe.read("out.png")["output"]["depth"] == 16


# --- when -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "every"),
    [("50", (50, 0)), ("3 steps", (3, 0)), ("5min", (0, 300)), ("0.5m", (0, 30)), ("90s", (0, 90)), ("1h", (0, 3600))],
)
def test_how_often(text, every):
    assert checkpoints.parse_every(text) == every


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "min", "0min", "5 days", "", "1e9", "nan", "9" * 99])
def test_how_often_not(run, folder, text):
    before = names(folder)
    code, out, err = run(*paint("--checkpoint", "run.npz", f"--checkpoint-every={text}"))
    assert (code, out) == (2, "")
    assert err.startswith("Error: --checkpoint-every")
    assert names(folder) == before


def test_steps_and_minutes(monkeypatch):
    saved, now = [], [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])

    class Keeper(checkpoints.Keeper):
        def save(self, done, progress):
            saved.append(done)
            self.done, self.since = done, now[0]

    for every, wanted in (("3", [3, 6, 9]), ("1min", [6])):
        saved.clear()
        keeper = Keeper("x", checkpoints.parse_every(every), {})
        for done in range(1, 10):
            now[0] += 10
            keeper.watch(done, None)
        assert saved == wanted


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--checkpoint-every", "5"], "needs --checkpoint"),
        (["--checkpoint", "run.png"], "picture's ending"),
        (["--checkpoint", "no/run.npz"], "no such folder"),
        (["--checkpoint", "."], "a folder"),
        (["--checkpoint", "notes.txt", "--overwrite"], "no checkpoint"),
    ],
)
def test_where_not(run, folder, more, message):
    (folder / "notes.txt").write_text("dear diary")
    before = names(folder)
    code, _, err = run(*paint(*more))
    assert code == 2
    assert message in err
    assert names(folder) == before


def test_a_folder_that_cannot_be_written_to_is_found_before_the_run(run, folder, monkeypatch):
    (folder / "locked").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and access(path, mode))
    code, _, err = run(*paint("--checkpoint", "locked/run.npz"))
    assert (code, "no permission" in err) == (2, True)
    assert not (folder / "out.png").exists()


# --- resumed is uninterrupted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "engine"), [("lbfgs", "onnxruntime"), ("adam", "onnxruntime"), ("lbfgs", "tensorflow")]
)
def test_resumed_is_uninterrupted(run, folder, monkeypatch, stopping, optimizer, engine):
    """From mid-scale, from the end of a scale and from the second scale, one after the other: bit for bit."""
    options = ["--optimizer", optimizer, "--engine", engine, "--style-weights", "0.7,0.3", "--style-scales", "1,2"]
    options += ["--init", "other.png", "--style-masks", "none,mask.png", "--style-regions", "mask.png,none"]
    options += ["--layers-of", "2:block1_conv2=2"]
    arguments = functools.partial(paint, *options, styles=("paint.png", "other.png"))
    assert run(*arguments(output="whole.tif"))[0] == 0
    stopping(KeyboardInterrupt(), after=2)
    code, _, err = run(*arguments(*KEEP[:2], "--checkpoint-every", "5", output="out.tif"))
    assert code == 130
    assert err.splitlines()[-1] == (
        "interrupted; the picture so far is in out.tif; step 2 is kept in run.npz; "
        "go on with: stylekeras resume run.npz"
    )
    assert checkpoint.read("run.npz")["done"] == 2
    for done in (4, 6):
        code, _, err = run("resume", "run.npz")
        assert (code, f"step {done} is kept" in err) == (130, True)
    restore(monkeypatch)
    code, out, err = run("resume", "run.npz", "--json")
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == ["start", "scale", "step", "done"]
    assert events[0]["resumed"] == 6
    assert (folder / "out.tif").read_bytes() == (folder / "whole.tif").read_bytes(), "the recipe too"
    assert not (folder / "run.npz").exists()
    assert [name for name in names(folder) if name.startswith(".")] == []


def test_a_history_that_stays_in_the_file(run, folder, monkeypatch, stopping):
    """While checkpoints take the file's name, one after the other."""
    options = ["--tile", "32", "--memory", "8GB"]
    monkeypatch.setattr(layout, "peak", lambda need, chosen: 0.0 if chosen.on_disk else 1e15)
    assert run(*paint("--engine", "onnxruntime", *options, output="whole.png"))[0] == 0
    interrupted(run, monkeypatch, stopping, *options, after=3)
    monkeypatch.setattr(checkpoint, "_MAPPED", 0)
    assert isinstance(checkpoint.load("run.npz")[1]["optimizer"]["steps"], tuple) == (os.name != "nt")
    assert run("resume", "run.npz")[0] == 0
    assert (folder / "out.png").read_bytes() == (folder / "whole.png").read_bytes()


def test_a_run_that_ends_leaves_no_checkpoint(run, folder):
    code, _, err = run(*paint(*KEEP))
    assert (code, err.splitlines()[-1].startswith("wrote out.png")) == (0, True)
    assert names(folder) == ["mask.png", "other.png", "out.png", "paint.png", "photo.png"]


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_only_the_picture_is_missing(run, folder, monkeypatch, optimizer):
    """The disk was full when it was to be written; the run is not run again."""
    assert run(*paint("--optimizer", optimizer, output="whole.png"))[0] == 0
    save = sk.save_image

    def full(path, *arguments, **options):
        raise sk.RunError(f"could not write {path}: No space left on device")

    monkeypatch.setattr(sk, "save_image", full)
    code, _, err = run(*paint("--optimizer", optimizer, "--checkpoint", "run.npz"))
    assert code == 1
    assert err.splitlines()[-1].endswith("step 7 is kept in run.npz; go on with: stylekeras resume run.npz -o FILE")
    monkeypatch.setattr(sk, "save_image", save)
    monkeypatch.setattr(sk, "iterate", None)
    assert run("resume", "run.npz", "-o", "new.png")[0] == 0
    assert (folder / "new.png").read_bytes() == (folder / "whole.png").read_bytes()
    assert not (folder / "run.npz").exists()


def test_save_every_goes_on(run, folder, monkeypatch, stopping):
    assert run(*paint("--save-every", "2", output="whole.png"))[0] == 0
    stopping(ZeroDivisionError(), after=5)
    with pytest.raises(ZeroDivisionError):
        run(*paint("--save-every", "2", *KEEP[:2], "--checkpoint-every", "3"))
    assert checkpoint.read("run.npz")["done"] == 3
    restore(monkeypatch)
    assert run("resume", "run.npz")[0] == 0
    for name in ("-0002", "-0004", "-0006", ""):
        assert (folder / f"out{name}.png").read_bytes() == (folder / f"whole{name}.png").read_bytes()


def interrupted(run, monkeypatch, stopping, *more, after=2, **options):
    stopping(KeyboardInterrupt(), after)
    assert run(*paint("--engine", "onnxruntime", *more, *KEEP, **options))[0] == 130
    restore(monkeypatch)


def test_curves_are_of_the_whole_run_and_a_time_lapse_of_its_rest(run, folder, monkeypatch, stopping):
    seen = []
    draw = plot.draw
    monkeypatch.setattr(plot, "draw", lambda curve, *more: seen.append(curve) or draw(curve, *more))
    assert run(*paint("--engine", "onnxruntime", "--plot", "whole.png", output="whole.tif"))[0] == 0
    interrupted(run, monkeypatch, stopping, after=3)
    more = ["--plot", "curves.png", "--timelapse", "film.gif", "--timelapse-every", "2"]
    assert run("resume", "run.npz", *more, "--plot", "out.png")[0] == 2
    code, _, err = run("resume", "run.npz", *more)
    assert code == 0
    assert "the time-lapse begins at step 4: a checkpoint holds no frames" in err
    assert "wrote curves.png (loss curves from step 1 to 7)" in err
    assert "wrote film.gif (3 frames, 64x48)" in err
    whole, again = seen
    assert [(one.step, one.size) for one in again.points] == [(one.step, one.size) for one in whole.points]
    np.testing.assert_allclose(
        [[one.loss, *one.terms.values()] for one in again.points],
        [[one.loss, *one.terms.values()] for one in whole.points],
        rtol=1e-5,
    )


def test_curves_that_a_checkpoint_does_not_hold(run, folder, monkeypatch, stopping):
    interrupted(run, monkeypatch, stopping)
    about, state, _ = checkpoint.load("run.npz")
    kept = {key: about[key] for key in ("inputs", "provenance", "output", "done", "versions")}
    checkpoint.save("run.npz", state, {**kept, "curve": {"terms": [3], "rows": "all"}})
    code, _, err = run("resume", "run.npz", "--plot", "curves.png")
    assert code == 0
    assert "Warning: the loss curves begin at step 3: the checkpoint does not hold those before" in err
    assert "wrote curves.png (loss curves from step 3 to 7)" in err


def test_sigterm_saves_both(run, folder, monkeypatch):
    iterate = sk.iterate

    def terminated(*arguments):
        for done, progress in enumerate(iterate(*arguments), start=1):
            if done == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield progress

    monkeypatch.setattr(sk, "iterate", terminated)
    code, out, _ = run(*paint("--checkpoint", "run.npz", "--json"))
    assert code == 130
    event = json.loads(out.splitlines()[-1])
    assert event == {"event": "interrupted", "path": "out.png", "checkpoint": "run.npz"}
    assert checkpoint.read("run.npz")["done"] in (2, 3)
    assert (folder / "out.png").exists()


def test_an_interruption_before_the_first_step_loses_nothing(run, folder, monkeypatch, stopping):
    interrupted(run, monkeypatch, stopping)
    before = (folder / "run.npz").read_bytes()
    stopping(KeyboardInterrupt(), after=0)
    code, _, err = run("resume", "run.npz")
    assert code == 130
    assert err.splitlines()[-1].startswith("interrupted; nothing was written; step 2 is kept in run.npz")
    assert (folder / "run.npz").read_bytes() == before


def test_a_full_disk_leaves_the_old_checkpoint_and_the_picture(run, folder, monkeypatch):
    save, calls = checkpoint.save, []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", full)
    code, _, err = run(*paint(*KEEP))
    assert code == 1
    assert "No space left on device" in err.splitlines()[-1]
    assert "step 2 is kept in run.npz" in err
    assert checkpoint.load("run.npz")[0]["done"] == 2
    assert recipe.read("out.png")["provenance"]["steps_done"] == 3


# --- what is refused ------------------------------------------------------------------------------------------------


def test_moved_inputs_are_found_and_changed_ones_are_refused(run, folder, monkeypatch, stopping):
    assert run(*paint("--engine", "onnxruntime", output="whole.png"))[0] == 0
    interrupted(run, monkeypatch, stopping)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for name, other in (("photo.png", "renamed.png"), ("paint.png", "paint.png")):
        shutil.move(folder / name, elsewhere / other)
    code, _, err = run("resume", "run.npz")
    assert (code, "photo.png: not found" in err) == (2, True)
    assert err.endswith("; put it beside the checkpoint\n")
    (folder / "photo.png").write_bytes((folder / "other.png").read_bytes())
    code, _, err = run("resume", "run.npz")
    assert (code, "photo.png: is not the file it was" in err) == (2, True)
    shutil.move(folder / "run.npz", elsewhere / "run.npz")
    assert run("resume", "elsewhere/run.npz")[0] == 0
    assert (folder / "out.png").read_bytes() == (folder / "whole.png").read_bytes()


def test_an_existing_picture_that_is_not_this_runs_is_kept(run, folder, monkeypatch, stopping):
    interrupted(run, monkeypatch, stopping)
    (folder / "out.png").write_bytes(b"an old picture")
    code, _, err = run("resume", "run.npz")
    assert (code, "pass --overwrite" in err) == (2, True)
    assert (folder / "out.png").read_bytes() == b"an old picture"
    code, _, err = run(*paint(*KEEP, output="new.png"))
    assert (code, "go on with it (stylekeras resume run.npz)" in err) == (2, True)
    assert run("resume", "run.npz", "--overwrite")[0] == 0


@pytest.mark.parametrize("name", ["engine_version", "weights_sha256"])
def test_another_machinery_is_refused(run, folder, monkeypatch, stopping, name):
    interrupted(run, monkeypatch, stopping)
    about, state, _ = checkpoint.load("run.npz")
    about["provenance"][name] = "another"
    kept = {key: about[key] for key in ("inputs", "provenance", "output", "done")}
    checkpoint.save("run.npz", state, kept)
    before = (folder / "run.npz").read_bytes()
    code, _, err = run("resume", "run.npz", "-o", "new.png")
    assert code == 2
    assert f"{name.replace('_', ' ')}: it was another, here it is" in err.splitlines()[-1]
    assert (folder / "run.npz").read_bytes() == before
    assert not (folder / "new.png").exists()


def test_another_numpy_is_said(run, folder, monkeypatch, stopping):
    interrupted(run, monkeypatch, stopping)
    about, state, _ = checkpoint.load("run.npz")
    about["versions"]["numpy"] = "1.0"
    kept = {key: about[key] for key in ("inputs", "provenance", "output", "done", "versions")}
    checkpoint.save("run.npz", state, kept)
    code, _, err = run("resume", "run.npz")
    assert code == 0
    assert f"numpy: it was 1.0, here it is {np.__version__}; the picture may differ in its last bits" in err


def test_an_engine_that_is_not_here_is_refused(run, folder, monkeypatch, stopping):
    interrupted(run, monkeypatch, stopping, "--engine", "auto")
    made_by = checkpoint.read("run.npz")["provenance"]["engine"]
    monkeypatch.setattr(engines, "missing", lambda name: ["it"] if name == made_by else [])
    code, _, err = run("resume", "run.npz")
    assert (code, f"made by engine {made_by}, which is not here" in err) == (2, True)


def test_a_damaged_one_is_one_line(run, folder):
    (folder / "run.npz").write_bytes(b"PK\x03\x04 nothing")
    code, out, err = run("resume", "run.npz")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "not a checkpoint" in err


# --- kill -9 --------------------------------------------------------------------------------------------------------


def written():
    try:
        return Path("run.npz").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def kills(folder, count, seed):
    """Kill a run at random instants, resume it each time, and compare."""
    command = [sys.executable, "-m", "stylekeras"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    more = ["--engine", "onnxruntime", "--steps", "40,20"]
    for output in ("whole.png", "out.png"):
        keep = [] if output == "whole.png" else KEEP
        arguments = [*command, *paint(*more, *keep, output=output)]
        if output == "whole.png":
            subprocess.run(arguments, check=True, capture_output=True, env=environment, timeout=120)
    times, killed = random.Random(seed), 0
    while killed < count:
        for name in ("out.png", "run.npz"):
            Path(name).unlink(missing_ok=True)
        next_one = arguments
        while True:
            process = subprocess.Popen(
                next_one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
            )
            try:
                if killed < count:
                    # Loading takes long; from when there is a checkpoint on, every instant is a different one.
                    deadline = time.monotonic() + 60
                    before = written()
                    while process.poll() is None and time.monotonic() < deadline:
                        if written() != before:
                            break
                        time.sleep(0.001)
                    time.sleep(times.uniform(0, 0.08))
                    process.kill()
                err = process.communicate(timeout=120)[1]
            finally:
                process.kill()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, err
            killed += 1
            if not Path("run.npz").exists():  # it had nothing left to do but to end
                break
            next_one = [*command, "resume", "run.npz"]
            checkpoint.load("run.npz")
        assert Path("out.png").read_bytes() == Path("whole.png").read_bytes()
        assert names(folder) == ["mask.png", "other.png", "out.png", "paint.png", "photo.png", "whole.png"]


def test_killed_at_any_instant(folder):
    kills(folder, 4, seed=1)


@pytest.mark.slow
def test_killed_at_any_instant_thirty_times(folder):
    kills(folder, 30, seed=2)


# --- replay ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(run, folder):
    """A picture, its inputs in another folder under other names."""
    options = ["--style-weights", "0.7,0.3", "--style-scales", "1,2", "--init", "other.png"]
    options += ["--style-masks", "mask.png,none", "--style-regions", "none,mask.png"]
    options += ["--layers-of", "1:block1_conv1=2,block1_conv2=1"]
    assert run(*paint(*options, styles=("paint.png", "other.png")))[0] == 0
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for number, name in enumerate(("photo.png", "paint.png", "other.png", "mask.png")):
        shutil.move(folder / name, elsewhere / f"{number}.png")
    return folder / "out.png"


def test_replay_makes_the_same_picture(run, folder, made):
    code, out, err = run("replay", "out.png", "elsewhere", "-o", "again.png")
    assert (code, out) == (0, "")
    assert "the same picture as out.png, pixel for pixel" in err
    assert (folder / "again.png").read_bytes() == made.read_bytes()
    assert run("replay", "again.png", *(f"elsewhere/{i}.png" for i in range(4)), "-o", "third.tif", "-q")[0] == 0
    assert recipe.read("third.tif") == recipe.read("out.png")


def test_replay_refuses_what_is_not_the_input(run, folder, made):
    code, _, err = run("replay", "out.png", "-o", "again.png")
    assert (code, "content photo.png: not found, nor a file with its SHA-256" in err) == (2, True)
    assert err.endswith("; give it, or its folder, behind PICTURE\n")
    shutil.copy(folder / "elsewhere/1.png", folder / "photo.png")
    code, _, err = run("replay", "out.png", "-o", "again.png")
    assert (code, "photo.png: is not the file it was" in err) == (2, True)
    assert run("replay", "out.png", "nowhere", "-o", "again.png")[0] == 2
    assert run("replay", "out.png", "elsewhere", "-o", "out.png", "--overwrite")[0] == 2
    assert run("replay", "photo.png", "elsewhere", "-o", "again.png")[0] == 2
    assert not (folder / "again.png").exists()


def test_replay_of_a_picture_so_far_stops_where_it_did(run, folder, monkeypatch, stopping):
    stopping(KeyboardInterrupt(), after=5)
    assert run(*paint())[0] == 130
    restore(monkeypatch)
    code, _, err = run("replay", "out.png", "-o", "again.png")
    assert (code, "the same picture" in err) == (0, True)
    assert recipe.read("again.png")["provenance"]["steps_done"] == 5
    np.testing.assert_array_equal(pixels("again.png"), pixels("out.png"))


def changed(source, target, change):
    """The picture with another recipe."""
    made = recipe.read(source)
    change(made)
    sk.save_image(target, sk.load_image(source), recipe=made)


def _set(*names, value):
    def change(made):
        inner = made
        for name in names[:-1]:
            inner = inner[name]
        inner[names[-1]] = value

    return change


def _mask(*styles):
    """Masks of these styles, which are the photo."""

    def change(made):
        made["inputs"] += [{**made["inputs"][0], "role": "mask", "style": style} for style in styles]

    return change


ENTRY = {"role": "content", "name": "photo.png", "sha256": "0" * 64}
HOSTILE = {
    "a setting": (_set("settings", "size", value="huge"), "size='huge'"),
    "an unknown setting": (_set("settings", "shell", value="x"), "unknown setting 'shell'"),
    "a path": (_set("settings", "init", value="/etc/passwd"), "does not fit the inputs"),
    "a path of weights": (_set("settings", "weights", value="/etc/passwd"), "weights passwd: not found"),
    "a path of a network": (_set("settings", "backbone", value="/etc/net.onnx"), "backbone net.onnx: not found"),
    "a name that is a path": (
        _set("inputs", value=[{"role": "content", "name": "/p", "sha256": "0" * 64}]),
        "not found",
    ),
    "inputs": (_set("inputs", value=3), "does not say what"),
    "an input": (_set("inputs", 0, value=3), "without its file"),
    "a role": (_set("inputs", 0, "role", value="palette"), "unknown kind of input"),
    "a mask of no style": (_set("inputs", 0, "role", value="mask"), "of no style"),
    "a mask of a style that is not there": (_mask(2), "of no style"),
    "two masks of a style": (_mask(1, 1), "of no style"),
    "a mask of a name": (_mask("paint"), "style is none"),
    "a hash": (_set("inputs", 0, "sha256", value="x"), "hash"),
    "no file": (_set("inputs", 0, "name", value=None), "was not a file"),
    "a long name": (_set("inputs", 0, value={**ENTRY, "name": "x" * 9999}), "not found"),
    "a long setting": (_set("settings", "size", value="9" * 9999), "size='999"),
    "two contents": (_set("inputs", 1, "role", value="content"), "not those of one picture"),
    "layers": (_set("inputs", 1, "layers", value={"x": [3]}), "style layers"),
    "a layer": (_set("inputs", 1, "layers", value={"x": 3}), "layer 'x' is not in vgg16"),
    "a weight": (_set("inputs", 1, "weight", value="x"), "style weight"),
    "provenance": (_set("provenance", value=None), "does not say what"),
    "other weights": (_set("provenance", "weights_sha256", value="0" * 64), "weights are not those"),
    "a sheet": (_set("provenance", "cells", value=[]), "stylekeras sheet"),
}


def test_hostile_recipes(run, folder):
    assert run(*paint())[0] == 0
    for number, (change, message) in enumerate(HOSTILE.values()):
        changed("out.png", f"{number}.png", change)
        code, out, err = run("replay", f"{number}.png", "-o", "again.png", "--quiet")
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        assert message in err
        assert len(err) < 1000
        assert not (folder / "again.png").exists()


def test_replay_says_what_differs(run, folder, monkeypatch):
    assert run(*paint("--engine", "auto"))[0] == 0

    def older(made):
        made["versions"]["pillow"] = "1.0"
        made["provenance"] |= {"engine": "onnxruntime", "engine_version": "0.1", "precision": "float32"}

    changed("out.png", "older.png", older)
    code, _, err = run("replay", "older.png", "-o", "again.png")
    assert code == 0
    lines = err.splitlines()
    assert any(line.startswith("pillow: it was 1.0, here it is ") for line in lines)
    assert any(line.startswith("engine version: it was 0.1, here it is ") for line in lines)
    assert recipe.read("again.png")["provenance"]["engine"] == "onnxruntime"
    monkeypatch.setattr(engines, "missing", lambda name: ["it"] if name == "onnxruntime" else [])
    code, _, err = run("replay", "older.png", "-o", "third.png")
    assert (code, "made by engine onnxruntime, which is not here" in err) == (2, True)
    assert run("replay", "older.png", "-o", "third.png", "--engine", "openvino")[0] == 0


@pytest.mark.parametrize("times", [1.05, 1000])
def test_less_memory_than_then_is_said_and_what_varies_is_not(run, folder, monkeypatch, stopping, times):
    """Of the memory that a run found free. Tiles are chosen by it, so what it was is kept if it can be."""
    most = int(times * memory.budget())
    said = f"memory: it was {memory.text(most)}, here "
    interrupted(run, monkeypatch, stopping)
    about, state, _ = checkpoint.load("run.npz")
    about["provenance"]["memory"] = most
    kept = {key: about[key] for key in ("inputs", "provenance", "output", "done", "versions")}
    checkpoint.save("run.npz", state, kept)
    plans, problem = [], transfer.problem
    monkeypatch.setattr(transfer, "problem", lambda *a: plans.append(a[2].memory) or problem(*a))
    code, _, err = run("resume", "run.npz")
    assert (code, said in err) == (0, times == 1000)
    assert plans == [None if times == 1000 else most]

    def older(made):
        made["provenance"]["memory"] = most

    changed("out.png", "older.png", older)
    code, _, err = run("replay", "older.png", "-o", "again.png")
    assert (code, said in err) == (0, times == 1000)
    assert recipe.read("again.png")["settings"]["memory"] is None, "what was asked for"


def test_other_devices_than_then(run, folder, monkeypatch, stopping):
    interrupted(run, monkeypatch, stopping)
    code, _, err = run("resume", "run.npz", "--devices", "many")
    assert (code, "devices='many': expected" in err) == (2, True)
    code, _, err = run("resume", "run.npz", "--devices", "3")
    assert (code, "devices" in err) == (2, True), "this engine has one"
    assert run("resume", "run.npz", "--devices", "1")[0] == 0
    assert run("replay", "out.png", "-o", "again.png", "--devices", "3")[0] == 2


def test_replay_of_reconstructions(run, folder):
    tiny = [*TINY[: TINY.index("--content-layers")], *TINY[TINY.index("--size") :], "--layers", "block1_conv1"]
    for of in ("content", "style"):
        assert run("reconstruct", "photo.png", "--of", of, "-o", f"{of}.png", *tiny)[0] == 0
        code, _, err = run("replay", f"{of}.png", "-o", f"{of}-2.png")
        assert (code, "pixel for pixel" in err) == (0, True)


def test_replay_of_the_demo(run, folder, monkeypatch):
    """Its inputs come along, wherever the picture is."""
    monkeypatch.setattr(demo, "photograph", lambda: folder.parent / "astronaut.png")
    shutil.move(folder / "photo.png", folder.parent / "astronaut.png")
    assert run("demo", "-o", "demo.png", *TINY)[0] == 0
    code, _, err = run("replay", "demo.png", "-o", "again.png")
    assert (code, "pixel for pixel" in err) == (0, True)


def test_weights_from_a_file(run, folder, monkeypatch, stopping):
    """Found by their hash, by resume and by replay."""
    from stylekeras import weights

    (folder / "net").mkdir()
    weights.save(weights.load("random", "vgg16", seed=3, last="block1_conv2"), folder / "net" / "my.npz")
    options = ["--weights", "net/my.npz", "--engine", "onnxruntime"]
    assert run(*paint(*options, output="whole.png"))[0] == 0
    interrupted(run, monkeypatch, stopping, *options)
    assert run("resume", "run.npz")[0] == 0
    assert (folder / "out.png").read_bytes() == (folder / "whole.png").read_bytes()
    code, _, err = run("replay", "out.png", "-o", "again.png")
    assert (code, "weights my.npz: not found" in err) == (2, True)
    code, _, err = run("replay", "out.png", "net", "-o", "again.png")
    assert (code, "pixel for pixel" in err) == (0, True)
