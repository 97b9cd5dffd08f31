"""`Settings` and `Style`: everything a user can choose. Every default lives here, once.

The command line reads names, defaults and help texts from these fields; presets (stylekeras/presets/*.toml) override
defaults, and what the caller sets overrides presets.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from stylekeras import memory
from stylekeras.errors import SettingsError, nearest

BACKBONES = ("vgg19", "vgg16")
WEIGHTS = ("auto", "imagenet", "offline", "random")
CHOICES: dict[str, tuple[str, ...]] = {
    "loss_scale": ("relative", "absolute"),
    "style_loss": ("wasserstein", "gram", "moments", "covariance", "sliced"),
    "pooling": ("max", "average"),
    "padding": ("replicate", "zeros"),
    "optimizer": ("lbfgs", "adam"),
    "colors": ("style", "luminance", "match"),
    "engine": ("auto", "tensorflow", "onnx", "onnxruntime", "openvino", "jax", "torch"),
    "precision": ("auto", "float32", "winograd", "bfloat16", "float16"),
    "preprocessing": ("auto", "torchvision", "caffe", "unit"),
}
INITS = ("content", "noise", "style")

_STYLE_LAYERS = {
    "block1_conv1": 2500.0,
    "block2_conv1": 1250.0,
    "block3_conv1": 150.0,
    "block4_conv1": 4.0,
    "block5_conv1": 0.25,
}


def _option(default: Any, text: str) -> Any:
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that decides the picture, besides the images themselves. All fields are keyword only.

    Layer settings are mappings of tap name to weight; a sequence of names, or text such as `"block4_conv2"` or
    `"block1_conv1=2,block2_conv1=1"`, is accepted and normalised. `steps` is one number for every scale, or one per
    scale from coarse to fine (the last one repeats). `preset` fills in every field the caller leaves out.

    Raises: SettingsError for an unknown value, naming the nearest one that exists.
    """

    preset: str | None = _option(None, "Named defaults: painterly, subtle, poster, texture, or paper, as published.")
    size: int = _option(512, "Longest side of the picture, in pixels.")
    min_size: int | None = _option(128, "Longest side of the coarsest scale; 'none' for one scale only.")
    steps: tuple[int, ...] = _option((60, 40, 40, 30), "Most steps per scale, coarse to fine; the last repeats.")
    tolerance: float = _option(0.001, "End a scale when 20 steps change the picture by less (RMS, 1 = white).")
    strength: float = _option(0.9, "0 is the photo, 1 the painting's texture, as far as the photo allows.")
    content_weight: float = _option(5.0, "Weight of the content loss (alpha).")
    style_weight: float = _option(1.0, "Weight of the style loss (beta).")
    tv_weight: float = _option(3.0, "Weight of the total variation.")
    loss_scale: str = _option("relative", "'relative' divides each layer's loss by its target's size.")
    content_layers: Mapping[str, float] = _option({"block4_conv2": 1.0}, "Taps of the content loss, 'name=weight,...'.")
    style_layers: Mapping[str, float] = _option(_STYLE_LAYERS, "Taps of the style loss, 'name=weight,...'.")
    style_loss: str = _option("wasserstein", "The statistic that stands for a style.")
    pooling: str = _option("max", "The backbone's pooling.")
    padding: str = _option("replicate", "What lies beyond the picture's border for the first convolution.")
    margin: int = _option(8, "Pixels painted beyond each border, the photo mirrored, and cut away: no frame.")
    optimizer: str = _option("lbfgs", "What moves the picture.")
    learning_rate: float = _option(0.02, "Adam's step; L-BFGS finds its own.")
    clip: bool = _option(True, "Keep every pixel in [0, 1] while optimizing.")
    init: str = _option("content", "Start from 'content', 'noise', 'style' or a picture's path.")
    init_noise: float = _option(0.15, "Noise added to the starting picture, so that flat areas take the style too.")
    seed: int = _option(0, "Seed of the noise and of random weights.")
    colors: str = _option("style", "'luminance' keeps the photo's colours, 'match' moves the style's to them first.")
    color_amount: float = _option(1.0, "How much of 'luminance' or 'match' is applied; 0 is as colors=style.")
    backbone: str = _option("vgg19", "The network that looks; an .onnx file for any other.")
    preprocessing: str = _option("auto", "How pictures enter the network; 'auto' is as the weights were trained.")
    weights: str = _option("auto", "A weight set (auto, imagenet, offline, random) or a file.")
    engine: str = _option("auto", "What computes.")
    tile: str | int = _option("auto", "Pixels a side that are looked at at a time; 'none' for all.")
    devices: str | int = _option("auto", "Devices to spread tiles over (tensorflow, jax); 'auto' is all GPUs, or one.")
    memory: int | None = _option(None, "Most memory to take, such as 8GB; all that is free if not given.")
    precision: str = _option(
        "auto", "Arithmetic in the backbone; losses and picture are float32. winograd: float32, faster."
    )

    def __post_init__(self) -> None:
        for name in FIELDS:
            value = _CLEAN.get(name, _any)(name, getattr(self, name))
            object.__setattr__(self, name, value)
        if self.loss_scale == "absolute" and self.strength != FIELDS["strength"].default:
            raise SettingsError("strength dials relative losses; with loss_scale='absolute' set the weights themselves")
        if self.content_weight == self.style_weight == 0:
            raise SettingsError("content_weight and style_weight are both 0: nothing to optimize for")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types, every field present: what a recipe keeps and `Settings(**...)` reads."""
        plain = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


FIELDS: dict[str, dataclasses.Field[Any]] = {item.name: item for item in dataclasses.fields(Settings)}


@dataclass(frozen=True)
class Style:
    """One style image and how it enters.

    Args:
        image: a path, a PIL image or an array, as `load_image` takes them.
        weight: its share of the style loss (v_s of the contract), >= 0.
        scale: size of its longest side relative to the picture's, 1/16 to 16; larger means larger strokes. It is
            enlarged to twice its own size at most, and mirrored to fill the picture if it is still smaller.
        mask: where in the photo: an image as `load_image` takes them, of any size, laid over the whole photo. White
            is in this style, black is not, grey is in proportion; None: everywhere.
        region: what part of the style image counts, likewise over that; None: all of it.
        layers: what it is compared in, as `Settings.style_layers`, and instead of them; so strokes can come from one
            style and colours from another.
    """

    image: Any
    weight: float = 1.0
    scale: float = 1.0
    mask: Any = None
    region: Any = None
    layers: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _weight("style weight", self.weight))
        object.__setattr__(self, "scale", _scale("style scale", self.scale))
        if self.layers is not None:
            object.__setattr__(self, "layers", _layers("style layers", self.layers))


def preset_text(name: str) -> str:
    """The TOML file of a preset, to copy and edit. Raises: SettingsError if there is none of that name."""
    _preset("preset", name)
    return (resources.files("stylekeras.presets") / f"{name}.toml").read_text("utf-8")


@cache
def presets() -> dict[str, dict[str, Any]]:
    """The presets that ship with the package: name -> the fields it sets."""
    folder = resources.files("stylekeras.presets")
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".toml")), key=lambda item: item.name)
    return {item.name.removesuffix(".toml"): tomllib.loads(item.read_text("utf-8")) for item in files}


def read_config(path: str | Path) -> dict[str, Any]:
    """Read settings from a TOML file, fields as keys.

    Returns: the fields it sets, as they are there; each by itself is one that `Settings` takes.
    Raises: SettingsError, with the line, if it is not TOML or has an unknown key or an impossible value; if it cannot
        be read.
    """
    try:
        text = Path(path).read_text("utf-8-sig")  # with the mark that Windows puts first
        values = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"config {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"config {path}: not valid TOML: {error}") from None
    for name, value in values.items():
        try:
            Settings(**{name: value})
        except SettingsError as error:
            raise SettingsError(f"config {path}{_line(text, name)}: {error}") from None
    return values


def _line(text: str, key: str) -> str:
    """Where a key of a TOML file is, to be said; "" if it is written in a way that is not looked for."""
    wanted = re.compile(rf"""\s*\[?\s*(["']?){re.escape(key)}\1\s*[]=.]""")
    table = False
    for number, line in enumerate(text.splitlines(), 1):
        header = line.lstrip().startswith("[")
        table = table or header
        if wanted.match(line) and (header or not table):
            return f", line {number}"
    return ""


# Each cleaner takes (name, value) and returns the normalised value or raises SettingsError.


def _any(name: str, value: Any) -> Any:
    return value


def _fail(name: str, value: Any, wanted: str) -> SettingsError:
    return SettingsError(f"{name}={value!r}: expected {wanted}")


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise _fail(name, value, "a number") from None
    except OverflowError:
        number = math.inf
    if isinstance(value, bool) or not math.isfinite(number):
        raise _fail(name, value, "a finite number")
    return number


def _weight(name: str, value: Any) -> float:
    number = _number(name, value)
    if number < 0:
        raise _fail(name, value, "a number that is not negative")
    return number


def _positive(name: str, value: Any) -> float:
    number = _number(name, value)
    if number <= 0:
        raise _fail(name, value, "a number above 0")
    return number


def _scale(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 1 / 16 <= number <= 16:
        raise _fail(name, value, "a number from 1/16 to 16")
    return number


def _unit(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0 <= number <= 1:
        raise _fail(name, value, "a number from 0 to 1")
    return number


def _integer(low: int, high: int) -> Callable[[str, Any], int]:
    def clean(name: str, value: Any) -> int:
        number = _number(name, value)
        if number != int(number) or not low <= number <= high:
            raise _fail(name, value, f"a whole number from {low} to {high}")
        return int(number)

    return clean


def _min_size(name: str, value: Any) -> int | None:
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    return _integer(32, 65536)(name, value)


def _memory(name: str, value: Any) -> int | None:
    if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
        return None
    return memory.parse(value)


def _tile(name: str, value: Any) -> str | int:
    if isinstance(value, str) and value.strip().lower() in ("auto", "none"):
        return value.strip().lower()
    return "none" if value is None else _integer(16, 65536)(name, value)


def _devices(name: str, value: Any) -> str | int:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    return _integer(1, 1024)(name, value)


def _steps(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        value = value.split(",")
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not items:
        raise _fail(name, value, "at least one number")
    return tuple(_integer(1, 1_000_000)(name, item) for item in items)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _fail(name, value, "true or false")
    return value


def _choice(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in CHOICES[name]:
        raise SettingsError(f"{name}={value!r} is unknown{nearest(value, CHOICES[name])}")
    return value


def _text(name: str, value: Any) -> str:
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise _fail(name, value, "a name or a path")
    return value


def _backbone(name: str, value: Any) -> str:
    text = _text(name, value)
    if text not in BACKBONES and not text.lower().endswith(".onnx"):
        raise SettingsError(f"{name}={text!r} is unknown{nearest(text, BACKBONES)}")
    return text


def _preset(name: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or value not in presets()):
        raise SettingsError(f"{name}={value!r} is unknown{nearest(value, presets())}")
    return None if value is None else str(value)


def _layers(name: str, value: Any) -> dict[str, float]:
    if isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]
    if not isinstance(value, Mapping):
        try:
            pairs = [str(item).partition("=") for item in value]
        except TypeError:
            raise _fail(name, value, "tap names, or a mapping of tap name to weight") from None
        if any(equals and not weight.strip() for _, equals, weight in pairs):
            raise _fail(name, ",".join("".join(pair) for pair in pairs), "a number behind each '='")
        value = {tap.strip(): weight if equals else 1.0 for tap, equals, weight in pairs}
        if len(value) < len(pairs):
            raise _fail(name, ",".join("".join(pair) for pair in pairs), "each tap once")
    if not value:
        raise _fail(name, value, "at least one tap")
    return {str(tap): _weight(f"{name}: {tap}", weight) for tap, weight in value.items()}


_CLEAN: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(CHOICES, _choice),
    **dict.fromkeys(("content_weight", "style_weight", "tv_weight", "init_noise", "tolerance"), _weight),
    **dict.fromkeys(("content_layers", "style_layers"), _layers),
    **dict.fromkeys(("init", "weights"), _text),
    "preset": _preset,
    "size": _integer(32, 65536),
    "min_size": _min_size,
    "steps": _steps,
    "strength": _unit,
    "color_amount": _unit,
    "margin": _integer(0, 31),
    "learning_rate": _positive,
    "clip": _flag,
    "seed": _integer(0, 2**32 - 1),
    "backbone": _backbone,
    "tile": _tile,
    "devices": _devices,
    "memory": _memory,
}


def _with_preset(generated: Callable[..., None]) -> Callable[..., None]:
    # The generated __init__ cannot tell a default from the same value given on purpose, so presets go in before it.
    def __init__(self: Settings, /, *, preset: str | None = None, **values: Any) -> None:
        for name in values:
            if name not in FIELDS:
                raise SettingsError(f"unknown setting {name!r}{nearest(name, FIELDS)}")
        chosen = _preset("preset", preset)
        generated(self, **{"preset": chosen, **(presets()[chosen] if chosen else {}), **values})

    return __init__


Settings.__init__ = _with_preset(Settings.__init__)  # type: ignore[method-assign]
