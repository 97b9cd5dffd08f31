"""`stylekeras presets`: what the named settings are, and their files to copy and edit."""

from __future__ import annotations

from typing import Annotated

import typer

from stylekeras.settings import preset_text, presets

from .options import Json

Name = Annotated[str, typer.Argument(metavar="NAME", help="A preset's name.", show_default=False)]


def list_presets(as_json: Json = False) -> int:
    """Show every preset, and what it is for."""
    from .display import Display

    display = Display(json=as_json)
    rows = [(name, _purpose(name)) for name in presets()]
    if as_json:
        for name, purpose in rows:
            display.event("preset", name=name, purpose=purpose, settings=presets()[name])
        return 0
    display.table(("name", "what it is"), rows)
    return 0


def show(name: Name) -> int:
    """Print a preset's file: `stylekeras presets show NAME > my.toml`, and `--config my.toml` once it is edited."""
    from .display import Display

    text = preset_text(name)
    Display().result(text.rstrip("\n"))
    return 0


def _purpose(name: str) -> str:
    """The first line of the comment that its file begins with."""
    first = preset_text(name).partition("\n")[0].lstrip("# ")
    return first.rstrip(".")
