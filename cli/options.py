"""`Settings` fields as command line options, and the options that several commands share.

Names, help texts and defaults come from the library's fields; every option is None unless given, so that the order
preset < config file < command line is kept by `Settings` itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, get_type_hints

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
Content = Annotated[str, typer.Argument(metavar="CONTENT", help="The photo.", show_default=False)]
Styles = Annotated[list[str], typer.Argument(metavar="STYLE", help="The painting, or several.", show_default=False)]

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
    for name, value in filed.items():
        try:
            sk.Settings(**{name: value})
        except sk.SettingsError as error:
            raise sk.SettingsError(f"config {config}: {error}") from None
    values = {**filed, **given}
    preset = values.pop("preset", None)
    named = presets().get(preset, {}) if isinstance(preset, str) else {}
    first = {name: value for name, value in (defaults or {}).items() if name not in named}
    chosen = sk.Settings(preset=preset, **{**first, **values})
    if "color_amount" in values and chosen.colors == "style":
        raise sk.SettingsError("color_amount dials colors=luminance or colors=match; say which")
    return chosen


def numbers(option: str, text: str | None, count: int) -> list[float]:
    """Parse one number per style, separated by commas; ones if the option was not given."""
    if text is None:
        return [1.0] * count
    try:
        values = [float(item) for item in text.split(",")]
    except ValueError:
        raise sk.SettingsError(f"{option} {text}: expected numbers with commas between, such as 0.7,0.3") from None
    if len(values) != count:
        have = "1 number" if len(values) == 1 else f"{len(values)} numbers"
        want = "1 style" if count == 1 else f"{count} styles"
        raise sk.SettingsError(f"{option} {text}: {have} for {want}; give one for each style")
    return values


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
