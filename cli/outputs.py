"""How a picture is written: what of the photo's file goes along with it, and how many bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import stylekeras as sk
from stylekeras.errors import nearest

if TYPE_CHECKING:
    from .display import Display
    from .runs import Job

Profile = Annotated[
    str, typer.Option("--profile", metavar="srgb|photo", help="The colour profile that the picture is stored in.")
]
Metadata = Annotated[
    str,
    typer.Option("--metadata", metavar="drop|keep", help="The photo's EXIF and XMP: when, where, with what, by whom."),
]
Alpha = Annotated[
    str, typer.Option("--alpha", metavar="keep|drop", help="The photo's transparency, or the picture over white.")
]
Depth = Annotated[
    int | None,
    typer.Option(
        "--depth",
        metavar="8|16",
        help="Bits a channel, of .png and .tif. (default: 8 for .png, 16 for .tif)",
        show_default=False,
    ),
]

CHOICES = {"profile": ("srgb", "photo"), "metadata": ("drop", "keep"), "alpha": ("keep", "drop")}


@dataclass(frozen=True)
class Form:
    """What the options say. Raises: SettingsError for an unknown choice."""

    profile: str = "srgb"
    metadata: str = "drop"
    alpha: str = "keep"
    depth: int | None = None

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise sk.SettingsError(f"--{name} {value} is unknown{nearest(value, known)}")
        if self.depth not in (None, 8, 16) or isinstance(self.depth, bool):
            raise sk.SettingsError(f"--depth {self.depth}: expected 8 or 16")

    @property
    def looks_for(self) -> tuple[str, ...]:
        """What is read of the photo, as `load_extras` has it."""
        wanted = {
            "profile": self.profile == "photo",
            "metadata": self.metadata == "keep",
            "alpha": self.alpha == "keep",
        }
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def recorded(value: Any) -> Form:
    """What `written_as` has put into a recipe or a checkpoint, which may be a stranger's; None for what has no form.

    Raises: RequestError.
    """
    if value is None:  # made by a command that has no such options
        return Form(alpha="drop")
    if not isinstance(value, dict) or not set(value) <= {field.name for field in dataclasses.fields(Form)}:
        raise sk.RequestError("how the picture was written is not known to this version")
    try:
        return Form(**value)
    except (sk.SettingsError, TypeError) as error:
        what = " ".join(str(error).split())[:200]
        raise sk.RequestError(f"how the picture was written is not known to this version: {what}") from error


def fitting(form: Form, output: str, display: Display) -> Form:
    """A form chosen for another file, without what the format of `output` has no place for, which is said."""
    from stylekeras.images import DEPTHS

    ending = Path(output).suffix.lower()
    lost: dict[str, Any] = {}
    if form.depth is not None and form.depth not in DEPTHS.get(ending, ()):
        lost["depth"] = None
    if ending == ".npy":
        lost |= {name: CHOICES[name][0] for name in ("profile", "metadata") if getattr(form, name) != CHOICES[name][0]}
    for name in lost:
        display.message(f"without --{name} {getattr(form, name)}, for which {ending} has no place")
    return dataclasses.replace(form, **lost)


def written_as(job: Job, form: Form, content: str | None, output: str, display: Display) -> Job:
    """A job whose pictures are written in that form, its recipe saying so.

    content: the photo's file.

    Raises: RequestError for what the format of `output` cannot hold, or the photo's profile does not allow.
    """
    from stylekeras.images import check_extras, load_extras

    ending = Path(output).suffix.lower()
    if ending == ".npy" and (form.profile, form.metadata) != ("srgb", "drop"):
        raise sk.RequestError(".npy has no room for a colour profile or metadata; use .png, .jpg or .tif")
    extras = sk.Extras() if content is None else load_extras(content, only=form.looks_for, name="content")
    check_extras(output, extras, form.depth)
    if extras.alpha is not None and ending not in (".png", ".tif", ".tiff"):
        display.message(f"{content} has transparency, {ending} has none: laid over white")
    made_of = {**job.recipe, "output": dataclasses.asdict(form)}
    return dataclasses.replace(job, recipe=made_of, writing={"depth": form.depth, "extras": extras})


def of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a recipe that says how the picture was written, if it does."""
    return {"output": recipe["output"]} if "output" in recipe else {}
