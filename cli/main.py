"""The command line `stylekeras`: its commands, and the exit codes of the contract."""

from __future__ import annotations

import contextlib
import difflib
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

import stylekeras as sk

from . import demo, display, doctor, evaluate, export, plan, reconstruct, replay, resume, sheet, stylize, weights
from .signals import terminable

FAILED, WRONG, INTERRUPTED = 1, 2, 130

# Click's base error, through a name that Typer has with Click beside it (until 0.15) and inside it (later).
_ClickError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="stylekeras",
    help="Neural style transfer after Gatys, Ecker and Bethge, on Keras VGG.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
weights_app = typer.Typer(rich_markup_mode="rich", help="Weight sets: list, fetch, convert.")
export_app = typer.Typer(rich_markup_mode="rich", help="ONNX files for other programs: taps, step.")


def _version(value: bool) -> None:
    if value:
        display.text(f"stylekeras {sk.__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, version: Version = False) -> None:
    _help_if_alone(context)


@export_app.callback(invoke_without_command=True)
@weights_app.callback(invoke_without_command=True)
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


for _command in (
    stylize.stylize,
    resume.resume,
    replay.replay,
    reconstruct.reconstruct,
    evaluate.evaluate,
    plan.plan,
    sheet.sheet,
    demo.demo,
    doctor.doctor,
):
    app.command()(_interruptible(_command))
for _name, _command in (("list", weights.list_sets), ("fetch", weights.fetch), ("convert", weights.convert)):
    weights_app.command(_name)(_interruptible(_command))
for _command in (export.taps, export.step):
    export_app.command()(_interruptible(_command))
app.add_typer(weights_app, name="weights")
app.add_typer(export_app, name="export")


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
    try:
        with terminable():
            code = app(args=arguments, prog_name="stylekeras", standalone_mode=False)
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
