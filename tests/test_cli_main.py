"""The command line as a whole: help, its cost, options from `Settings`, usage errors, exit codes."""

import json
import os
import subprocess
import sys

import pytest

import stylekeras as sk
from stylekeras.cli import display, evaluate, options
from stylekeras.settings import FIELDS, preset_text, presets

COMMANDS = ["stylize", "resume", "replay", "reconstruct", "evaluate", "sheet", "demo", "doctor", "presets", "weights"]
HEAVY = ("tensorflow", "keras", "numpy", "PIL", "skimage", "h5py")


@pytest.mark.parametrize("arguments", [["--help"], ["stylize", "--help"], ["--version"]])
def test_help_is_quick_and_loads_no_framework(arguments):
    code = (
        "import resource, sys\n"
        "from stylekeras.cli.main import main\n"
        f"code = main({arguments!r})\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(code, used.ru_utime + used.ru_stime, *loaded, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    status, seconds, *loaded = done.stderr.split()
    assert (status, loaded) == ("0", [])
    assert float(seconds) < 0.7


def test_help_names_every_command(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for command in COMMANDS:
        assert f" {command} " in out


def test_presets_are_listed_and_shown(run):
    code, out, err = run("presets", "list")
    assert (code, err) == (0, "")
    events = [json.loads(line) for line in run("presets", "list", "--json")[1].splitlines()]
    assert [event["name"] for event in events] == sorted(presets())
    for event in events:
        assert event["name"] in out
        assert event["purpose"][:30] in out
        assert event["settings"] == presets()[event["name"]]
        assert run("presets", "show", event["name"]) == (0, preset_text(event["name"]), "")
    code, out, err = run("presets", "show", "papr")
    assert (code, out) == (2, "")
    assert "did you mean 'paper'?" in err


def test_version(run):
    assert run("--version") == (0, f"stylekeras {sk.__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["weights"]])
def test_nothing_to_do_shows_the_help_on_stderr(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Usage:" in err


def test_every_setting_is_an_option_with_its_help_and_default(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("TERMINAL_WIDTH", "250")
    for command in ("stylize", "evaluate", "sheet", "demo"):
        code, out, _ = run(command, "--help")
        assert code == 0
        for name, field in FIELDS.items():
            if command == "evaluate" and name in evaluate.UNUSED:
                assert f"--{name.replace('_', '-')} " not in out
                continue
            assert f"--{name.replace('_', '-')} " in out, (command, name)
            assert field.metadata["help"] in out, (command, name)
    assert "(default: 384)" in out  # the demo's own
    _, out, _ = run("reconstruct", "--help")
    assert "--content-layers" not in out
    assert "(default: noise)" in out


def test_a_default_that_is_a_mapping_is_shown_as_it_is_typed():
    settings = sk.Settings()
    shown = options._shown("style_layers", settings.style_layers)
    assert sk.Settings(style_layers=shown) == settings


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stylise", "a", "b"], "stylise"),
        (["stylize", "a.png", "b.png", "-o", "c.png", "--sise", "3"], "did you mean --size?"),
        (["stylize", "a.png", "b.png"], "--output"),
        (["stylize", "a.png", "-o", "c.png"], "STYLE"),
        (["stylize", "a.png", "b.png", "-o", "c.png", "--save-every", "0"], "--save-every"),
        (["stylize", "a.png", "b.png", "-o", "c.png", "--size"], "--size"),
        (["sheet", "--content", "a.png", "-o", "c.png"], "--style"),
        (["weights", "fetch"], "NAME"),
    ],
)
def test_a_usage_error_is_two_plain_lines(run, arguments, expected):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) in (1, 2)
    assert lines[0].startswith("Error: ")
    assert expected in lines[0]
    for line in lines[1:]:
        assert line.startswith("Usage: stylekeras ")
        assert line.endswith(" --help)")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (sk.SettingsError("wrong"), 2),
        (sk.WeightsError("wrong"), 2),
        (sk.RunError("failed"), 1),
        (MemoryError(), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_codes_and_lines(run, monkeypatch, error, code):
    def fail():
        raise error

    monkeypatch.setattr("stylekeras.weights.catalogue", fail)
    found, out, err = run("weights", "list")
    assert (found, out) == (code, "")
    assert err.startswith("interrupted; " if code == 130 else "Error: ")
    assert len(err.splitlines()) == 1


def test_a_bug_is_a_traceback_and_exit_code_1(tmp_path):
    code = (
        "import sys\n"
        "import stylekeras.weights\n"
        "from stylekeras.cli.main import main\n"
        "stylekeras.weights.catalogue = lambda: 1 / 0\n"
        "sys.exit(main(['weights', 'list']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_a_reader_that_goes_away_is_quiet():
    code = "import sys; from stylekeras.cli.main import main; sys.exit(main(['weights', 'list', '--json']))"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_m_stylekeras_is_the_command_line(tmp_path):
    command = [sys.executable, "-m", "stylekeras", "stylize", "no.png", "no.png", "-o", "o.png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: content no.png: no such file\n"


# Settings from three places


def test_the_command_line_wins_over_the_config_file_and_that_over_the_preset(tmp_path):
    config = tmp_path / "my.toml"
    config.write_text('preset = "paper"\nsize = 100\nsteps = [7, 8]\nclip = true\n')
    settings = options.settings({"steps": "9"}, str(config), {"size": 1, "init": "style", "seed": 4})
    assert settings.preset == "paper"
    assert settings.steps == (9,)  # command line
    assert (settings.size, settings.clip) == (100, True)  # config file
    assert (settings.init, settings.style_loss) == ("noise", "gram")  # preset
    assert settings.seed == 4  # the command's own default
    assert settings.learning_rate == FIELDS["learning_rate"].default
    assert options.settings({"preset": "paper"}, None) == sk.Settings(preset="paper")


def test_what_there_is_of_each_style():
    nothing = (None,) * 5
    assert options.painted(["a", "b"], *nothing) == [("a", 1, 1, None, None, None), ("b", 1, 1, None, None, None)]
    found = options.painted(["a", "b"], "0.7, .3", "1,2", "m.png, None", ",r.png", ["2: one=1,two:0=2"])
    assert found == [("a", 0.7, 1, "m.png", None, None), ("b", 0.3, 2, None, "r.png", "one=1,two:0=2")]
    assert [style.paths for style in found] == [["a", "m.png"], ["b", "r.png"]]
    with pytest.raises(sk.SettingsError, match="--style-weights 1,2,3: 3 numbers for 2 styles; give one for each"):
        options.painted(["a", "b"], "1,2,3", *nothing[1:])
    with pytest.raises(sk.SettingsError, match=r"--style-masks a\.png: 1 file for 2 styles; .*; 'none' for all of it"):
        options.painted(["a", "b"], None, None, "a.png", None, None)
    for text in ("one=1", "0:one", "3:one", "1:", ":one", "x:one", "-1:one", f"{9**99}:one", "٣:one"):
        with pytest.raises(sk.SettingsError, match="expected a style's number, 1 to 2, a colon and its layers"):
            options.layers_of([text], 2)
    with pytest.raises(sk.SettingsError, match="style 1 has its layers already"):
        options.layers_of(["1:one", "1:two"], 2)


# What is printed


def test_json_is_strict():
    value = {"a": float("nan"), "b": [1, (2.5, float("-inf"))], 3: None, "c": {1, 2}.__class__}
    text = json.dumps(display.strict(value), allow_nan=False)
    assert json.loads(text) == {"a": None, "b": [1, [2.5, None]], "3": None, "c": "<class 'set'>"}


def test_control_characters_are_not_printed(capsys):
    display.error("a\x1b[31mb\nc")
    assert capsys.readouterr().err == "Error: a?[31mb\nc\n"


def test_the_library_s_log_is_lines_on_stderr(capsys, caplog):
    import logging

    logger = logging.getLogger("stylekeras.something")
    level = logging.getLogger("stylekeras").level
    with display.Display() as shown:
        logger.warning("first\nsecond")
        logger.info("detail")
        shown.notes(["first second", "third"])
    with display.Display(verbose=True):
        logger.info("detail")
    with display.Display(quiet=True):
        logger.warning("unseen")
    assert logging.getLogger("stylekeras").level == level
    assert logging.getLogger("stylekeras").handlers == []
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["Warning: first second", "Warning: third", "detail"]


def test_bars_on_a_terminal(capsys):
    import io

    from rich.console import Console

    stream = io.StringIO()
    shown = display.Display(json=True)
    shown._console = Console(file=stream, force_terminal=True, width=80)
    terms = {"content": 0.25, "style": 0.125, "tv": 0.5}
    with shown.progress([(32, 32, 2), (64, 64, 3)], "title") as run:
        for step in (1, 2):
            run.step(
                sk.Progress(
                    step=step,
                    steps=2,
                    last=step == 2,
                    size=(32, 32),
                    scale=0,
                    scales=2,
                    loss=0.375,
                    terms=terms,
                    seconds=1.0,
                    provenance={},
                    _image=lambda: None,
                    _state=dict,
                )
            )
        (task,) = run._bars.tasks
        assert (task.completed, task.total) == (2 * 32 * 32, 2 * 32 * 32 + 3 * 64 * 64)
        shown.event("step", step=2)
    text = stream.getvalue()
    assert "title: scale 1/2, 32x32, step 2/2" in text
    assert "loss 0.375 (content 0.25, style 0.125, tv 0.5)" in text
    assert max(len(line) for line in Console(width=80).render_str(text).plain.splitlines()) < 1000
    assert capsys.readouterr().out == '{"event": "step", "step": 2}\n'


def test_only_chatter_is_dropped_from_stderr():
    code = (
        "import os, sys\n"
        "from stylekeras.cli.chatter import filtered\n"
        "with filtered():\n"
        "    os.write(2, b'WARNING: All log messages before absl::InitializeLog() is called are written\\n')\n"
        "    os.write(2, b'I0000 00:00:1795430219.943109    7536 port.cc:153] oneDNN custom operations are on.\\n')\n"
        "    os.write(2, b'2025-01-01 10:00:00.123456: W tensorflow/x.cc:1] slow\\n')\n"
        "    os.write(2, b'E0000 00:00:1795430219.943109 7536 x.cc:1] failed call to cuInit: 303\\n')\n"
        "    os.write(2, b'E0000 00:00:1795430219.943109 7536 x.cc:1] a real error\\n')\n"
        "    print('from Python', file=sys.stderr)\n"
        "os.write(2, b'I0000 00:00:00 after\\n')\n"
        "with filtered():\n"
        "    os.write(2, b'F0000 last words\\n')\n"
        "    os.abort()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode < 0
    lines = done.stderr.splitlines()
    assert sorted(lines) == sorted(
        [
            "E0000 00:00:1795430219.943109 7536 x.cc:1] a real error",
            "from Python",
            "I0000 00:00:00 after",
            "F0000 last words",
        ]
    )
