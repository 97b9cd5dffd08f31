"""Output files: checked before the work begins, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from stylekeras.errors import OutputError


def check_destination(
    path: str | os.PathLike[str],
    endings: Iterable[str],
    *,
    overwrite: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> Path:
    """Where `write` will put a file of that name: through symbolic links, so that a link stays one. Writes nothing.

    Raises: OutputError for an ending that is not one of `endings`, an existing file (unless `overwrite`), one of
        `inputs` (always), a folder, a missing or unwritable parent folder.
    """
    ending = Path(path).suffix.lower()
    if ending not in endings:
        what = f"unknown ending {ending!r}" if ending else "no ending"
        raise OutputError(f"cannot write {path}: {what}; use one of {', '.join(endings)}")
    try:
        target = Path(path).resolve()
        if target.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder; give a file name in it")
        if target.exists() and not target.is_file():
            raise OutputError(f"cannot write {path}: it exists and is not a regular file")
        for source in inputs:
            if target.exists() and os.path.exists(source) and target.samefile(source):
                raise OutputError(f"cannot write {path}: it is one of the inputs; choose another name")
        if target.exists() and not overwrite:
            raise OutputError(f"cannot write {path}: it exists; choose another name, or ask to overwrite it")
        if not target.parent.is_dir():
            raise OutputError(f"cannot write {path}: no such folder: {target.parent}; create it first")
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write {path}: no permission to write in the folder {target.parent}")
    except OutputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a null byte, a loop of links
        raise OutputError(f"cannot write {path}: {reason(error)}") from error
    return target


def write(target: Path, *parts: bytes) -> None:
    """Write a file whole or not at all: to a temporary file beside it, which is then renamed.

    Raises: OSError.
    """
    with replacing(target) as stream:
        for part in parts:
            stream.write(part)


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """As `write`, for what is too large to be in memory as bytes: a stream that becomes the file at the end.

    If an exception leaves the context, an old file stays as it is. Raises: OSError.
    """
    temporary = target.with_name(f"{_mark(target)}{secrets.token_hex(8)}.tmp")
    try:
        # Opened plainly, not by `tempfile`, so that the file gets the permissions the user's umask asks for.
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # a rename must not overtake the data, and a network disk reports "full" here
        temporary.replace(target)
    finally:  # also on Ctrl-C; after the rename there is nothing left to remove
        temporary.unlink(missing_ok=True)


def sweep(target: Path) -> None:
    """Remove the temporary files that processes which were killed left behind while they wrote `target`."""
    for temporary in target.parent.glob(f"{_mark(target)}*.tmp"):
        with contextlib.suppress(OSError):
            temporary.unlink()


def _mark(target: Path) -> str:
    """How the names of the temporary files of `target` begin: short, since its own name may be as long as can be."""
    return f".stylekeras-{hashlib.sha256(target.name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}-"


def reason(error: BaseException) -> str:
    """What went wrong, in words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
