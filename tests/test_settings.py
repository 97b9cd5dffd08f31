"""Settings and Style: what is accepted, what is refused and how, presets, files."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from stylekeras import Settings, SettingsError, Style
from stylekeras.settings import BACKBONES, CHOICES, FIELDS, INITS, WEIGHTS, preset_text, presets, read_config

TAPS = {"block1_conv1": 2.0, "block4_conv2": 1.0}


def _refused(**values):
    with pytest.raises(SettingsError) as caught:
        Settings(**values)
    return str(caught.value)


# --- fields ---------------------------------------------------------------------------------------------------------


def test_the_contracts_fields_are_there():
    wanted = """size min_size steps strength content_weight style_weight tv_weight loss_scale content_layers
    style_layers style_loss pooling optimizer init seed colors backbone weights engine precision"""
    assert set(wanted.split()) <= set(FIELDS)


def test_every_field_says_what_it_is_and_defaults_pass_their_own_check():
    defaults = Settings()
    for name, item in FIELDS.items():
        assert item.metadata["help"].endswith((".", ")")), name
        default = item.default if item.default is not dataclasses.MISSING else item.default_factory()
        assert getattr(defaults, name) == default, name
        assert type(getattr(defaults, name)) is type(default), name


def test_it_is_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().size = 3
    with pytest.raises(TypeError):
        Settings("paper")
    assert Settings(size=300) == Settings(size=300.0) != Settings(size=301)


def test_layers_are_not_shared_between_settings():
    Settings().style_layers["block1_conv1"] = 7777.0
    assert Settings().style_layers["block1_conv1"] != 7777.0
    mine = dict(TAPS)
    chosen = Settings(style_layers=mine)
    mine["block1_conv1"] = 9.0
    assert chosen.style_layers == TAPS


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("size", "256", 256),
        ("size", 256.0, 256),
        ("size", np.int64(256), 256),
        ("min_size", "none", None),
        ("min_size", " None ", None),
        ("min_size", None, None),
        ("min_size", "64", 64),
        ("steps", 7, (7,)),
        ("steps", "150, 60,50", (150, 60, 50)),
        ("steps", [3, 4.0], (3, 4)),
        ("strength", "0.25", 0.25),
        ("strength", 0, 0.0),
        ("strength", 1, 1.0),
        ("content_weight", "1e3", 1000.0),
        ("tv_weight", np.float32(0.5), 0.5),
        ("clip", False, False),
        ("seed", 2**32 - 1, 2**32 - 1),
        ("init", Path("a/b.png"), str(Path("a/b.png"))),
        ("weights", "my.npz", "my.npz"),
        ("preset", None, None),
    ],
)
def test_accepted(name, value, wanted):
    found = getattr(Settings(**{name: value}), name)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("size", 31, "a whole number from 32"),
        ("size", 65537, "a whole number from 32 to 65536"),
        ("size", 100.5, "a whole number"),
        ("size", None, "a number"),
        ("size", "big", "a number"),
        ("size", math.inf, "a finite number"),
        ("size", 10**400, "a finite number"),
        ("size", True, "a finite number"),
        ("size", [256], "a number"),
        ("min_size", 31, "a whole number from 32"),
        ("min_size", "no", "a number"),
        ("steps", 0, "a whole number from 1"),
        ("steps", (), "at least one number"),
        ("steps", "", "a number"),
        ("steps", "10,,20", "a number"),
        ("steps", [10, -1], "a whole number from 1"),
        ("steps", 2_000_000, "a whole number from 1 to 1000000"),
        ("strength", -0.1, "a number from 0 to 1"),
        ("strength", 1.1, "a number from 0 to 1"),
        ("strength", math.nan, "a finite number"),
        ("content_weight", -1, "a number that is not negative"),
        ("style_weight", math.inf, "a finite number"),
        ("tv_weight", "much", "a number"),
        ("learning_rate", 0, "a number above 0"),
        ("learning_rate", -0.1, "a number above 0"),
        ("clip", "yes", "true or false"),
        ("clip", 1, "true or false"),
        ("init", "", "a name or a path"),
        ("init", 3, "a name or a path"),
        ("weights", None, "a name or a path"),
        ("backbone", None, "a name or a path"),
        ("seed", -1, "a whole number from 0"),
        ("seed", 2**32, "a whole number from 0"),
        ("seed", 0.5, "a whole number"),
        ("content_layers", {}, "at least one tap"),
        ("style_layers", "", "at least one tap"),
        ("style_layers", "block1_conv1=", "a number behind each"),
        ("style_layers", "block1_conv1,block1_conv1=2", "each tap once"),
        ("style_layers", 5, "tap names, or a mapping"),
        ("style_layers", None, "tap names, or a mapping"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_refused(name, value, wanted):
    message = _refused(**{name: value})
    assert message.startswith(f"{name}=")
    assert f"expected {wanted}" in message


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_every_choice_is_accepted_and_no_other(name):
    for value in CHOICES[name]:
        assert getattr(Settings(**{name: value}), name) == value
    for wrong in ("nonesuch-at-all", None, 3, [], True):
        message = _refused(**{name: wrong})
        assert message.startswith(f"{name}={wrong!r} is unknown")
    typo = CHOICES[name][0][:-1] + "_"
    assert f"did you mean {CHOICES[name][0]!r}?" in _refused(**{name: typo})
    assert f"known: {', '.join(CHOICES[name])}" in _refused(**{name: "#"})


@pytest.mark.parametrize(
    ("values", "nearest"),
    [
        ({"backbone": "vgg18"}, "vgg1"),
        ({"backbone": "resnet"}, "known: vgg19, vgg16"),
        ({"preset": "papr"}, "did you mean 'paper'?"),
        ({"preset": ["paper"]}, "is unknown"),
        ({"style_wieght": 3}, "unknown setting 'style_wieght'; did you mean 'style_weight'?"),
        ({"colours": "match"}, "did you mean 'colors'?"),
    ],
)
def test_the_nearest_is_named(values, nearest):
    assert nearest in _refused(**values)


def test_names_the_rest_of_the_package_uses():
    assert [Settings(backbone=name).backbone for name in BACKBONES] == list(BACKBONES)
    assert [Settings(weights=name).weights for name in WEIGHTS] == list(WEIGHTS)
    assert [Settings(init=name).init for name in INITS] == list(INITS)


@pytest.mark.parametrize(
    "value",
    [
        TAPS,
        "block1_conv1=2,block4_conv2=1",
        " block1_conv1 = 2 , block4_conv2 ,",
        ["block1_conv1=2", "block4_conv2"],
        ("block1_conv1=2.0", "block4_conv2=1e0"),
        {"block1_conv1": "2", "block4_conv2": 1},
    ],
    ids=str,
)
def test_layers(value):
    assert Settings(content_layers=value).content_layers == TAPS
    assert list(Settings(style_layers=value).style_layers) == list(TAPS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("block1_conv1=-1", "style_layers: block1_conv1='-1': expected a number that is not negative"),
        ("block1_conv1=much", "style_layers: block1_conv1='much': expected a number"),
        ({"block1_conv1": math.nan}, "style_layers: block1_conv1=nan: expected a finite number"),
    ],
)
def test_layers_with_bad_weights(value, message):
    assert message in _refused(style_layers=value)


def test_settings_that_contradict_each_other():
    assert "set the weights themselves" in _refused(loss_scale="absolute", strength=0.123)
    assert "nothing to optimize for" in _refused(content_weight=0, style_weight=0)
    assert Settings(loss_scale="absolute", style_weight=3).style_weight == 3


# --- presets and files ----------------------------------------------------------------------------------------------


def test_a_preset_overrides_defaults_and_is_overridden():
    paper = presets()["paper"]
    chosen = Settings(preset="paper")
    assert chosen.preset == "paper"
    for name, value in paper.items():
        assert getattr(chosen, name) == getattr(Settings(**{name: value}), name), name
    assert chosen.style_loss == "gram"
    assert chosen.loss_scale == "absolute"
    assert Settings(preset="paper", pooling="max", size=300).pooling == "max"
    assert Settings(preset="paper", size=300).size == 300


@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"preset"}))
def test_an_explicit_value_wins_even_if_it_is_the_default(name):
    default = getattr(Settings(), name)
    assert getattr(Settings(preset="paper", **{name: default}), name) == default


@pytest.mark.parametrize("name", sorted(presets()))
def test_a_copy_of_a_preset_is_the_preset(name, tmp_path):
    (tmp_path / "my.toml").write_text(preset_text(name), "utf-8")
    chosen = Settings(**read_config(tmp_path / "my.toml"))
    assert dataclasses.replace(chosen, preset=name) == Settings(preset=name)
    assert chosen != Settings()
    # What `stylekeras presets list` shows of it.
    assert re.match(r"# [A-Z][^\n]{20,90}\.\n", preset_text(name))


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_has_known_fields_and_values(name):
    assert set(presets()[name]) <= set(FIELDS)
    assert Settings(preset=name).preset == name


@pytest.mark.parametrize(
    "chosen",
    [
        Settings(),
        Settings(preset="paper"),
        Settings(preset="paper", size=333, style_weight=2, min_size=64),
        Settings(steps=(1, 2), style_layers=TAPS, min_size=None, init="a.png", clip=False, seed=9),
    ],
    ids=["default", "paper", "changed paper", "changed"],
)
def test_to_dict_comes_back_through_json(chosen):
    plain = chosen.to_dict()
    assert set(plain) == set(FIELDS)
    assert Settings(**json.loads(json.dumps(plain))) == chosen
    assert dataclasses.replace(chosen) == chosen
    assert dataclasses.replace(chosen, size=77).size == 77
    plain["style_layers"]["block1_conv1"] = 4321.0
    assert chosen.style_layers["block1_conv1"] != 4321.0


def test_read_config(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'size = 300\nmin_size = "none"\nsteps = [5, 6]\n[style_layers]\nblock1_conv1 = 2\nblock4_conv2 = 1\n'
    )
    values = read_config(file)
    assert values == {"size": 300, "min_size": "none", "steps": [5, 6], "style_layers": {**TAPS}}, "as they are there"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_config(file) == values
    chosen = Settings(**values)
    assert (chosen.size, chosen.min_size, chosen.steps, chosen.style_layers) == (300, None, (5, 6), TAPS)
    assert read_config(str(file)) == values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"size = \nseed = 1", "not valid TOML: .*line 1"),
        (b"size = 3\nsize = 4\nseed = 1", "not valid TOML: .*line 2"),
        (b"\xff\xfe", "not valid TOML"),
        (b"sise = 3", "line 1: unknown setting 'sise'; did you mean 'size'?"),
        (b"# size = 0\nseed = 1\n  size=true", "line 3: size=True: expected a finite number"),
        (b'seed = 1\n"size" = 1', "line 2: size=1: expected a whole number"),
        (b"seed = 1\n\n[ style_layers ]\nfirst = -1", "line 3: style_layers: first=-1"),
        (b"[style_layers]\nsize = 1\n[content_layers]\nx = -1", "line 3: content_layers: x=-1"),
        (b"self = 1", "line 1: unknown setting 'self'"),
        (b"style_layers.first = -1", "line 1: style_layers: first=-1"),
        (b"size = 64\npreset = 'papier'", "line 2: preset='papier' is unknown; did you mean 'paper'"),
        (b'"s\\u0069ze" = 0', "(?<!line 1): size=0"),
        (None, "No such file"),
    ],
)
def test_read_config_refuses(tmp_path, content, message):
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"config .*mine.toml.*{message}"):
        read_config(file)
    with pytest.raises(SettingsError, match=r"Is a directory|Permission denied"):
        read_config(tmp_path)


# --- styles ---------------------------------------------------------------------------------------------------------


def test_style():
    style = Style("a.png", weight="0.5", scale=2)
    assert (style.image, style.weight, style.scale) == ("a.png", 0.5, 2.0)
    assert (style.mask, style.region, style.layers) == (None, None, None)
    assert Style("a.png", layers="one=2, two").layers == Style("a.png", layers={"one": "2", "two": 1}).layers
    assert Style("a.png", 0).weight == 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        style.weight = 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": -1}, "style weight=-1: expected a number that is not negative"),
        ({"weight": math.nan}, "style weight=nan: expected a finite number"),
        ({"scale": 0}, "style scale=0: expected a number from 1/16 to 16"),
        ({"scale": "wide"}, "style scale='wide': expected a number"),
        ({"layers": {}}, "style layers={}: expected at least one tap"),
        ({"layers": "one=-1"}, "style layers: one='-1': expected a number that is not negative"),
        ({"layers": 3}, "style layers=3: expected tap names"),
    ],
)
def test_style_refuses(values, message):
    with pytest.raises(SettingsError, match=message):
        Style("a.png", **values)
