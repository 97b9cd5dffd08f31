"""The input files of a run that is gone on with or made again: found by what they are, not by what they are called."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import stylekeras as sk
from stylekeras import engines, memory, recipe
from stylekeras.backbones import is_file
from stylekeras.settings import CHOICES, INITS, WEIGHTS
from stylekeras.weights import cards

from .options import Painted

# The roles of input files that are pictures; some of them lie over one of the styles, or over the photo for it.
_OVER = ("mask", "region")
PICTURES = ("content", "style", *_OVER, "init")

# Whoever asks for one picture of a folder does not want a disk to be read.
_MOST_FILES = 10_000
_MOST_BYTES = 2 << 30
# As much as `memory.budget` leaves for others.
_VARIES = 0.1


class Found(NamedTuple):
    """What is needed to compute what was computed before.

    `settings` has what was chosen then in the place of "auto", and paths as they are now; `pictures` are all input
    files but the network's; `notes` is what cannot be as it was.
    """

    settings: sk.Settings
    content: str | None
    styles: list[Painted]
    pictures: list[str]
    notes: list[str]


class Files:
    """Finds files by their SHA-256, each read at most once."""

    def __init__(self, places: Sequence[Path], hint: str) -> None:
        """`hint`: what to do where a file is not found."""
        self._places = places
        self._hint = hint
        self._hashes: dict[Path, str | None] = {}

    def find(self, entry: Mapping[str, Any], first: Path | None = None) -> Path:
        """The file of an input's entry: `first`, one of its name in one of the places, or any other there.

        Raises: RequestError.
        """
        role, name = entry["role"], entry.get("name")
        if first is not None and self._is(first, entry):
            return first
        if name is None:
            raise sk.RequestError(f"{role}: was not a file, so it cannot be found again; use the Python interface")
        named = [path for path in self._files() if path.name == name]
        others = [path for path in self._files() if path.name != name]
        for path in (*named, *others):
            if self._is(path, entry):
                return path
        changed = next((path for path in (first, *named) if path is not None and path.is_file()), None)
        where = ", ".join(map(str, self._places))
        if changed is not None:
            raise sk.RequestError(
                f"{role} {changed}: is not the file it was, its SHA-256 differs; put the old one back, or beside it"
            )
        missing = str(first or name)[:300]
        raise sk.RequestError(f"{role} {missing}: not found, nor a file with its SHA-256 in {where}; {self._hint}")

    def _files(self) -> Iterator[Path]:
        for place in self._places:
            if place.is_file():
                yield place
            elif place.is_dir():
                with contextlib.suppress(OSError):  # no permission to look into it
                    inside = sorted(path for path in place.iterdir() if not path.name.startswith("."))
                    yield from [path for path in inside[:_MOST_FILES] if path.is_file()]

    def _is(self, path: Path, entry: Mapping[str, Any]) -> bool:
        try:
            size = path.stat().st_size if path.is_file() else None
        except (OSError, ValueError):
            return False
        if size is None or size > _MOST_BYTES or size != entry.get("bytes", size):
            return False
        if path not in self._hashes:
            try:
                self._hashes[path] = recipe.fingerprint(path)["sha256"]
            except sk.RequestError:
                self._hashes[path] = None
        return bool(self._hashes[path] == entry["sha256"])


def network_file(settings: sk.Settings) -> list[tuple[str, Path]]:
    """(setting, file) of the network, if it comes from one."""
    if is_file(settings.backbone):
        return [("backbone", Path(settings.backbone).expanduser())]
    if settings.weights not in WEIGHTS and settings.weights not in cards():
        return [("weights", Path(settings.weights).expanduser())]
    return []


def again(
    settings: sk.Settings,
    entries: Sequence[Mapping[str, Any]],
    made_by: Mapping[str, Any],
    find: Callable[[Mapping[str, Any]], Path],
    devices: str | None = None,
) -> Found:
    """What is needed to compute what was computed before.

    Args:
        entries: The inputs; one of the role "weights" or "backbone" is the network's file.
        made_by: The provenance.
        find: The file of an entry.
        devices: Other ones than then, as `Settings` takes them.

    Raises: RequestError.
    """
    roles = [entry["role"] for entry in entries]
    unknown = next((role for role in roles if role not in (*PICTURES, "weights", "backbone")), None)
    if unknown is not None:
        raise sk.RequestError(f"unknown kind of input {unknown!r}: of another version?")
    several = ("style", *_OVER)
    if not {"content", "style"} & set(roles) or any(roles.count(role) > 1 for role in set(roles) - set(several)):
        raise sk.RequestError("the inputs are not those of one picture")
    found = [find(entry) for entry in entries]
    by_role = {role: str(path) for role, path in zip(roles, found, strict=True)}
    changes: dict[str, Any] = {}
    if (settings.init not in INITS) != ("init" in by_role):
        raise sk.RequestError(f"init={settings.init!r} does not fit the inputs: of another version?")
    if "init" in by_role:
        changes["init"] = by_role["init"]
    for role, file in network_file(settings):
        if role not in by_role:
            raise sk.RequestError(f"{role} {file.name}: its SHA-256 is not known, so it cannot be found again")
        changes[role] = by_role[role]
    if settings.engine in ("auto", "onnx") and made_by.get("engine") in CHOICES["engine"]:
        changes["engine"] = made_by["engine"]
    if settings.precision == "auto" and made_by.get("precision") in CHOICES["precision"]:
        changes["precision"] = made_by["precision"]
    notes, taken, here = [], made_by.get("memory"), memory.budget()
    if settings.memory is None and isinstance(taken, int):
        # What is free varies by less, and an engine that is not loaded yet has none.
        if here is None or here > (1 - _VARIES) * taken:
            changes["memory"] = taken
        else:
            notes.append(f"memory: it was {memory.text(taken)}, here {memory.text(here)} are free")
    if devices is not None:
        changes["devices"] = devices
    if settings.weights == "auto" and not is_file(settings.backbone) and made_by.get("weights") in cards():
        changes["weights"] = made_by["weights"]
    engine = changes.get("engine", settings.engine)
    if engine not in ("auto", "onnx") and engines.missing(engine):
        raise sk.EngineError(f"it was made by engine {engine}, which is not here: {engines.INSTALL[engine]}")
    pictures = [str(path) for role, path in zip(roles, found, strict=True) if role in PICTURES]
    styles = _styles(entries, found)
    return Found(dataclasses.replace(settings, **changes), by_role.get("content"), styles, pictures, notes)


def _styles(entries: Sequence[Mapping[str, Any]], found: Sequence[Path]) -> list[Painted]:
    """The styles of a recipe's entries, with the masks that say whose they are. Raises: RequestError."""
    styles = [
        Painted(str(path), entry.get("weight", 1.0), entry.get("scale", 1.0), layers=entry.get("layers"))
        for entry, path in zip(entries, found, strict=True)
        if entry["role"] == "style"
    ]
    for entry, path in zip(entries, found, strict=True):
        role, number = entry["role"], entry.get("style", 0)
        if role in _OVER:
            if not 1 <= number <= len(styles) or getattr(styles[number - 1], role) is not None:
                raise sk.RequestError(f"a {role} that is of no style: of another version?")
            mine = styles[number - 1]
            styles[number - 1] = mine._replace(mask=str(path)) if role == "mask" else mine._replace(region=str(path))
    return styles


def differences(before: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """A line for each of the names under which two provenances differ."""
    return [
        f"{name.replace('_', ' ')}: it was {_short(before.get(name))}, here it is {_short(now.get(name))}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
