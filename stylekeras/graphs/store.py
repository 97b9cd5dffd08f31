"""Built graphs on disk, so that the next run does not build them again.

A graph is kept under the hash of everything it is made of: the weights' hash, the settings that shape it, and the text
of the code that writes it. A file is written whole or not at all, and read only if its own hash is right.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stylekeras import files

_logger = logging.getLogger("stylekeras")

# The code that graphs come from.
_SOURCES = ("objective", "losses", "trees", "weights", "graphs", "style_losses")
_MAGIC = b"stylekeras graph 1\n"
_DIGEST = hashlib.sha256().digest_size
# What ONNX files may have, and what all of them together may take; the ones not used for longest go first.
_LARGEST = 2**31 - 1
_ROOM = 1 << 30


def load_or_build(key: Mapping[str, Any], build: Callable[[], bytes]) -> bytes:
    """The graph of that key from disk, or built and kept there.

    Args: key: plain JSON values; `build` is called if there is no whole file. A folder that cannot be written to only
        costs the time of building.
    """
    try:
        path = folder() / f"{_name(key)}.graph"
    except OSError as error:  # no source files, as in a frozen program
        _logger.info("graphs are not kept: %s", error)
        return build()
    found = _read(path)
    if found is not None:
        return found
    graph = build()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(path, _MAGIC, hashlib.sha256(graph).digest(), graph)
        _make_room(path)
    except OSError as error:
        _logger.info("the graph is not kept: %s", error)
    return graph


def folder() -> Path:
    """Where graphs are kept: `$STYLEKERAS_CACHE`, or "stylekeras" in the user's cache folder."""
    given = os.environ.get("STYLEKERAS_CACHE")
    if given:
        return Path(given)
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "stylekeras"


def _name(key: Mapping[str, Any]) -> str:
    text = json.dumps({"key": key, "code": code(*_SOURCES), "onnx": importlib.metadata.version("onnx")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def code(*names: str) -> str:
    """A hash of modules and folders of this package.

    Raises: OSError where they are not files, as in a frozen program.
    """
    package, digest = Path(__file__).parent.parent, hashlib.sha256()
    for name in names:
        path = package / name
        for part in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
            digest.update(part.name.encode() + part.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > _LARGEST:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + _DIGEST
    graph = memoryview(content)[start:]
    if not content.startswith(_MAGIC) or hashlib.sha256(graph).digest() != content[len(_MAGIC) : start]:
        _logger.info("a damaged graph is built again: %s", path)
        return None
    with contextlib.suppress(OSError):
        path.touch()  # it was used
    return bytes(graph)


def _make_room(kept: Path) -> None:
    """Delete the graphs that were not used for longest, until the rest fits."""
    found = [(item.stat(), item) for item in kept.parent.glob("*.graph") if item != kept]
    room = _ROOM - kept.stat().st_size
    for status, item in sorted(found, key=lambda pair: pair[0].st_mtime, reverse=True):
        room -= status.st_size
        if room < 0:
            item.unlink(missing_ok=True)
