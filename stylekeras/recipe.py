"""The recipe of a picture: what made it, as a plain JSON-able dict that travels inside the file.

Where it lives: a PNG's iTXt chunk "stylekeras", a TIFF's ImageDescription, a JPEG's comment; `.npy` has no room for it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from stylekeras.engines import processor_name
from stylekeras.errors import RequestError

# The PNG text chunk's keyword, and the key that tells our JSON from another program's.
KEY = "stylekeras"

# A recipe is a few kilobytes; more is not ours, and is not handed to the JSON parser.
MAX_TEXT = 1 << 20


def build(
    settings: Mapping[str, Any],
    inputs: Iterable[tuple[str, Any]] | None,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The recipe of a run.

    settings, provenance: dicts of JSON-able values; NumPy numbers, paths and tuples become plain ones.
    inputs: (role, image) pairs, e.g. ("content", "photo.jpg"), ("style", array); an image is a path, a PIL image or
        an array. A file is recorded by its name without the folder and the SHA-256 of its bytes, anything else by
        the SHA-256 of its pixels' bytes. None: nothing is recorded.
    Of a path in the settings `init`, `weights` and `backbone` and in the provenance's `weights_source`, too, only the
        name is kept.

    Returns: {"stylekeras": version, "settings", "inputs": [{"role", "name", "sha256"}], "provenance", "versions"};
        a version is None where the package is not installed. Among the versions is the processor's: others round
        differently.
    Raises `RequestError` for an input file that cannot be read or a value that JSON has no word for.
    """
    recipe = {
        KEY: _version("stylekeras"),
        "settings": _named(settings, "init", "weights", "backbone"),
        "inputs": [{"role": role, **fingerprint(image)} for role, image in inputs or ()],
        "provenance": _named(provenance, "weights_source"),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("numpy", "pillow", "keras", "tensorflow")},
            "processor": processor_name(),
        },
    }
    plain: dict[str, Any] = json.loads(dumps(recipe))
    return plain


def dumps(recipe: Mapping[str, Any]) -> str:
    """A recipe as one line of JSON in ASCII, which PNG, TIFF and JPEG can all hold.

    Raises `RequestError` for a value that JSON has no word for (NaN, infinity, an arbitrary object).
    """
    try:
        return json.dumps(dict(recipe), default=_plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the recipe cannot be written as JSON: {error}") from error


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The recipe inside a PNG, TIFF or JPEG written by `save_image`.

    A recipe may come from a stranger: the text is bounded by `MAX_TEXT` and only parsed as JSON. The values in it are
    not checked here.

    Returns: a dict with at least "stylekeras" and a dict "settings".
    Raises `RequestError` where the file cannot be read or holds no readable recipe.
    """
    text = _embedded_text(Path(path))
    if text is None:
        raise RequestError(f"{path}: no recipe in it; only a PNG, TIFF or JPEG that stylekeras wrote has one")
    if len(text) > MAX_TEXT:
        raise RequestError(
            f"{path}: no readable recipe in it: {len(text)} characters of text, at most {MAX_TEXT} are read"
        )
    try:
        recipe = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: no readable recipe in it: its text is not JSON ({error})") from error
    if not isinstance(recipe, dict) or KEY not in recipe or not isinstance(recipe.get("settings"), dict):
        raise RequestError(f"{path}: no readable recipe in it: its text was not written by stylekeras")
    return recipe


def fingerprint(image: Any) -> dict[str, str | None]:
    """What `build` records of an input, see there: {"name", "sha256"}.

    Raises `RequestError` for a file that cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        try:
            with path.open("rb") as stream:
                return {"name": path.name, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
        except (OSError, ValueError) as error:
            raise RequestError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    pixels = image.tobytes() if isinstance(image, Image.Image) else np.asarray(image).tobytes()
    return {"name": None, "sha256": hashlib.sha256(pixels).hexdigest()}


def _embedded_text(path: Path) -> str | None:
    if not path.is_file():
        raise RequestError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    try:
        # Only the header is read: the pixels are never decoded.
        with path.open("rb") as stream, Image.open(stream, formats=("PNG", "TIFF", "JPEG")) as image:
            if image.format == "PNG":
                text: Any = image.info.get(KEY)
            elif image.format == "TIFF":
                text = dict(getattr(image, "tag_v2", {})).get(270)
            else:
                text = image.info.get("comment")
    except Exception as error:  # Pillow's plug-ins raise nearly anything on a damaged file
        raise RequestError(f"{path}: not a PNG, TIFF or JPEG that can be read ({error})") from error
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="replace")
    return text if isinstance(text, str) else None


def _named(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A copy in which a path under one of the keys is a file name: where a folder is, is nobody else's business."""
    named = dict(values)
    for key in keys:
        value = named.get(key)
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        if isinstance(text, str) and os.sep in text and "://" not in text:
            named[key] = Path(text).name
    return named


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    """What `json` asks for when it meets a type it does not know."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a value of type {type(value).__name__} is not JSON")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
