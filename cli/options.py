"""`Settings` fields as command line options, and the options that several commands share.

Names, help texts and defaults come from the library's fields; every option is None unless given, so that the order
preset < config file < command line is kept by `Settings` itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

import stylekeras as sk
from stylekeras.settings import BACKBONES, CHOICES, FIELDS, INITS, WEIGHTS, presets, read_config

Output = Annotated[
    str,
    typer.Option("--output", "-o", metavar="FILE", help="The picture: .png, .jpg, .tif or .npy.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Also the library's and the frameworks' own messages.")]
Config = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="Settings from a TOML file.", show_default=False)
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices", metavar="auto|N", help="Other devices than then to spread tiles over.", show_default=False
    ),
]
Content = Annotated[str, typer.Argument(metavar="CONTENT", help="The photo.", show_default=False)]
Styles = Annotated[list[str], typer.Argument(metavar="STYLE", help="The painting, or several.", show_default=False)]

StyleWeights = Annotated[
    str | None,
    typer.Option(
        "--style-weights", metavar="X,X,...", help="The share of each style, in their order.", show_default=False
    ),
]
StyleScales = Annotated[
    str | None,
    typer.Option(
        "--style-scales", metavar="X,X,...", help="The size of each style; larger strokes above 1.", show_default=False
    ),
]
StyleMasks = Annotated[
    str | None,
    typer.Option(
        "--style-masks",
        metavar="FILE,FILE,...",
        help="Where each style is in the photo: white; 'none' for everywhere. What none covers stays the photo.",
        show_default=False,
    ),
]
StyleRegions = Annotated[
    str | None,
    typer.Option(
        "--style-regions",
        metavar="FILE,FILE,...",
        help="What part of each STYLE counts: white; 'none' for all of it.",
        show_default=False,
    ),
]
StyleLayers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers-of",
        metavar="N:TAPS",
        help="The layers of STYLE number N alone, such as '2:block1_conv1=1,block2_conv1=1'; repeat it for others.",
        show_default=False,
    ),
]

_PANELS = {
    "Picture": (
        "preset",
        "size",
        "min_size",
        "steps",
        "tolerance",
        "init",
        "init_noise",
        "seed",
        "colors",
        "color_amount",
    ),
    "Loss": (
        "strength",
        "content_weight",
        "style_weight",
        "tv_weight",
        "loss_scale",
        "content_layers",
        "style_layers",
        "style_loss",
    ),
}
_PANEL = {name: panel for panel, names in _PANELS.items() for name in names}
_METAVARS = {
    **{name: "|".join(choices) for name, choices in CHOICES.items()},
    "backbone": "|".join((*BACKBONES, "FILE.onnx")),
    "content_layers": "TAPS",
    "devices": "auto|N",
    "init": "|".join((*INITS, "FILE")),
    "min_size": "N",
    "memory": "SIZE",
    "preset": "NAME",
    "steps": "N,N,...",
    "style_layers": "TAPS",
    "tile": "auto|none|N",
    "weights": "|".join((*WEIGHTS, "FILE")),
}


def with_settings(
    *, without: Collection[str] = (), defaults: Mapping[str, object] | None = None
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command an option for every field of `Settings`.

    The command has a parameter `given` and gets there what was given, field -> text or bool; `Settings` checks it.

    Args:
        without: Fields that the command sets itself.
        defaults: Where the command's defaults are not the library's, for the help text.
    """
    options = [_option(name, dict(defaults or {})) for name in FIELDS if name not in without]

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != "given"
        ]

        @functools.wraps(command)
        def run(**values: Any) -> int:
            given = {option.name: values.pop(option.name) for option in options}
            return command(**values, given={name: value for name, value in given.items() if value is not None})

        parameters = [*own, *options]
        run.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def settings(given: Mapping[str, Any], config: str | None, defaults: Mapping[str, Any] | None = None) -> sk.Settings:
    """The settings of a command: `defaults` < preset < config file < what was given on the command line.

    Raises: SettingsError for an unknown name or an impossible value.
    """
    filed = {} if config is None else read_config(config)
    values = {**filed, **given}
    preset = values.pop("preset", None)
    named = presets().get(preset, {}) if isinstance(preset, str) else {}
    first = {name: value for name, value in (defaults or {}).items() if name not in named}
    chosen = sk.Settings(preset=preset, **{**first, **values})
    if "color_amount" in given and "colors" not in values and chosen.colors == "style":
        raise sk.SettingsError("color_amount dials colors=luminance or colors=match; say which")
    return chosen


class Painted(NamedTuple):
    """A style as the command line has it: files, and how they enter.

    `mask` and `region` are None for all of it; `layers` as `sk.Style` takes them.
    """

    path: str
    weight: float = 1.0
    scale: float = 1.0
    mask: str | None = None
    region: str | None = None
    layers: Any = None

    @property
    def paths(self) -> list[str]:
        """Its files."""
        return [path for path in (self.path, self.mask, self.region) if path is not None]


def painted(
    styles: Sequence[str],
    weights: str | None,
    scales: str | None,
    masks: str | None,
    regions: str | None,
    layers: Sequence[str] | None,
) -> list[Painted]:
    """The styles with what the options of those names say of each. Raises: SettingsError."""
    count = len(styles)
    columns = (
        _numbers("--style-weights", weights, count),
        _numbers("--style-scales", scales, count),
        _files("--style-masks", masks, count),
        _files("--style-regions", regions, count),
        layers_of(layers, count),
    )
    return [Painted(*row) for row in zip(styles, *columns, strict=True)]


def _numbers(option: str, text: str | None, count: int) -> list[float]:
    """One number per style, separated by commas; ones if the option was not given."""
    if text is None:
        return [1.0] * count
    try:
        values = [float(item) for item in text.split(",")]
    except ValueError:
        raise sk.SettingsError(f"{option} {text}: expected numbers with commas between, such as 0.7,0.3") from None
    _check_count(option, text, len(values), "number", count)
    return values


def _files(option: str, text: str | None, count: int) -> list[str | None]:
    """One file per style, separated by commas; None where nothing or 'none' is, or the option was not given."""
    if text is None:
        return [None] * count
    names = [name.strip() for name in text.split(",")]
    _check_count(option, text, len(names), "file", count, "; 'none' for all of it")
    return [None if name.lower() in ("", "none") else name for name in names]


def layers_of(texts: Sequence[str] | None, count: int) -> list[Any]:
    """What `--layers-of` says of each style, as text. Raises: SettingsError."""
    found: list[Any] = [None] * count
    for text in texts or ():
        number, colon, layers = (part.strip() for part in text.partition(":"))
        if not (colon and layers and number.isdecimal() and len(number) < 5 and 1 <= int(number) <= count):
            numbers = "1" if count == 1 else f"1 to {count}"
            raise sk.SettingsError(f"--layers-of {text}: expected a style's number, {numbers}, a colon and its layers")
        if found[int(number) - 1] is not None:
            raise sk.SettingsError(f"--layers-of {text}: style {number} has its layers already; give them at once")
        found[int(number) - 1] = layers
    return found


def _check_count(option: str, text: str, have: int, what: str, count: int, hint: str = "") -> None:
    if have != count:
        plural, styles = "s" * (have != 1), "1 style" if count == 1 else f"{count} styles"
        raise sk.SettingsError(f"{option} {text}: {have} {what}{plural} for {styles}; give one for each style{hint}")


def _option(name: str, defaults: Mapping[str, object]) -> inspect.Parameter:
    field = FIELDS[name]
    default = field.default_factory() if callable(field.default_factory) else field.default
    default = defaults.get(name, default)
    kebab = name.replace("_", "-")
    text = str(field.metadata["help"])
    shown = _shown(name, default)
    if shown:
        text = f"{text} (default: {shown})"
    kind: Any
    if isinstance(default, bool):
        kind, flags, metavar = bool | None, f"--{kebab}/--no-{kebab}", None
    else:
        kind, flags, metavar = str | None, f"--{kebab}", _METAVARS.get(name) or ("N" if type(default) is int else "X")
    option = typer.Option(
        flags,
        help=text.replace("[", "\\["),  # not markup
        metavar=metavar,
        show_default=False,
        rich_help_panel=_PANEL.get(name, "Network, optimizer, engine"),
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _shown(name: str, default: object) -> str:
    if isinstance(default, Mapping):
        return ", ".join(f"{tap}={weight:g}" for tap, weight in default.items())
    if isinstance(default, list | tuple):
        return ",".join(map(str, default))
    if isinstance(default, bool):
        return name if default else f"no-{name}"
    return "" if default is None else str(default)
