"""The command line `stylekeras`: its commands, and the exit codes of the contract."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

import stylekeras as sk

from . import display
from .signals import terminable

FAILED, WRONG, INTERRUPTED = 1, 2, 130

# Click's base error, through a name that Typer has with Click beside it (until 0.15) and inside it (later).
_ClickError: Any = typer.BadParameter.__mro__[2]

# The commands in the order of the help, by group: each one's module and function. Importing one and describing its
# options to Typer takes time, so only what is asked for is.
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "": {
        name: (name, name)
        for name in ("stylize", "resume", "replay", "reconstruct", "evaluate", "plan", "sheet", "demo", "doctor")
    },
    "presets": {"list": ("presets", "list_presets"), "show": ("presets", "show")},
    "weights": {"list": ("weights", "list_sets"), "fetch": ("weights", "fetch"), "convert": ("weights", "convert")},
    "export": {"taps": ("export", "taps"), "step": ("export", "step")},
}
_GROUPS = {
    "presets": "Named settings: list, show.",
    "weights": "Weight sets: list, fetch, convert.",
    "export": "ONNX files for other programs: taps, step.",
}


def _version(value: bool) -> None:
    if value:
        display.text(f"stylekeras {sk.__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
]


def _root(context: typer.Context, version: Version = False) -> None:
    _help_if_alone(context)


def _group(context: typer.Context) -> None:
    _help_if_alone(context)


def _help_if_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        with contextlib.redirect_stdout(sys.stderr):  # rich help prints itself
            display.text(context.get_help())
        raise typer.Exit(WRONG)


def _interruptible(command: Callable[..., int]) -> Callable[..., int]:
    """Ctrl-C while a command loads or checks something."""

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> int:
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt:
            display.interrupted("nothing was written")
            return INTERRUPTED

    return run


def app(asked: str = "") -> typer.Typer:
    """The command line, if what is `asked` for is a command or a group with that alone."""
    made = typer.Typer(
        name="stylekeras",
        help="Neural style transfer after Gatys, Ecker and Bethge, on Keras VGG.",
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    made.callback(invoke_without_command=True)(_root)
    known = asked in COMMANDS[""] or asked in _GROUPS
    for name in [asked] if known else [*COMMANDS[""], *_GROUPS]:
        if name not in _GROUPS:
            _add(made, name, *COMMANDS[""][name])
            continue
        group = typer.Typer(rich_markup_mode="rich", help=_GROUPS[name])
        group.callback(invoke_without_command=True)(_group)
        for command, place in COMMANDS[name].items():
            _add(group, command, *place)
        made.add_typer(group, name=name)
    return made


def _add(group: typer.Typer, name: str, module: str, function: str) -> None:
    found = importlib.import_module(f".{module}", __package__)
    group.command(name)(_interruptible(getattr(found, function)))


def _usage(error: Any) -> int:
    message = error.format_message()
    option = getattr(error, "option_name", "")
    near = difflib.get_close_matches(option, getattr(error, "possibilities", None) or (), n=1)
    if near:
        message = f"{error.message}; did you mean {near[0]}?"
    context = getattr(error, "ctx", None)
    usage = "" if context is None else f"{' '.join(context.get_usage().split())}  (more: {context.command_path} --help)"
    display.error(" ".join(message.split()), usage)
    return int(error.exit_code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, without the program's name; None for the process's own.

    Returns: the exit code: 0 done, 1 it failed while running, 2 the request was wrong, 130 interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with terminable():
            code = app(given[0] if given else "")(args=given, prog_name="stylekeras", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except sk.RequestError as error:
        display.error(str(error).replace("ask to overwrite it", "pass --overwrite"))
        return WRONG
    except sk.StyleKerasError as error:
        display.error(str(error))
        return FAILED
    except MemoryError:
        display.error("out of memory: use a smaller --size")
        return FAILED
    except _ClickError as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        display.interrupted("nothing was written")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
