"""Checkpoints: a run's `Progress.state` and what it was made from in one file, to go on from after an interruption.

An .npz without compression: an array for each field of the optimizer's state, and `checkpoint.json` with the rest. It
is written whole or not at all, one array after the other, never all of them in memory as bytes. A checkpoint may come
from a stranger: nothing in it is ever unpickled, sizes are checked before memory is taken, and values before use.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

import stylekeras
from stylekeras import arrays, files, lazy, optimizers, pyramid
from stylekeras.errors import CheckpointError, OutputError, RequestError, SettingsError
from stylekeras.settings import FIELDS, Settings, Style

FORMAT = 1

_ABOUT = "checkpoint.json"
# A few kilobytes; more is not ours, and is not handed to the JSON parser.
_MAX_ABOUT = 1 << 20
_MAX_MEMBERS = 64
# From this size on, a history stays in the file until it is read: such runs have it on disk, too.
_MAPPED = 1 << 30
_ALIGNED = 64
_DTYPES = ("float16", "float32", "float64", "bool", "uint16", "int32", "int64")
_PLACE = ("run", "scale", "step", "last", "terms", "moved", "tile")
# The year zip files begin with: the same state is the same file.
_DATE = (1980, 1, 1, 0, 0, 0)


def check_destination(
    path: str | os.PathLike[str], *, overwrite: bool = False, inputs: Sequence[str | os.PathLike[str]] = ()
) -> Path:
    """Where `save` will write; as `files.check_destination`, with any ending but a picture's.

    Raises: OutputError as that, and for an existing file that is no checkpoint, even with `overwrite`.
    """
    from stylekeras.images import ENDINGS

    ending = Path(path).suffix.lower()
    if ending in ENDINGS:
        raise OutputError(f"cannot write {path}: {ending} is a picture's ending; call a checkpoint run.npz, say")
    target = files.check_destination(path, (ending,), overwrite=True, inputs=inputs)
    if target.exists():
        try:
            read(target)
        except CheckpointError as error:
            raise OutputError(f"cannot write {path}: it exists, and is no checkpoint of this version") from error
        if not overwrite:
            raise OutputError(
                f"cannot write {path}: an interrupted run is in it; go on with it (stylekeras resume {path}), choose "
                "another name, or ask to overwrite it"
            )
    return target


def save(
    path: str | os.PathLike[str],
    state: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
    *,
    picture: np.ndarray | None = None,
) -> None:
    """Write a checkpoint, whole or not at all: until it is whole, one that was there before stays.

    Args:
        state: a `Progress.state`. Fields of its "optimizer" are read one after the other; one that is a sequence of
            arrays of one shape is written as one array.
        about: more to keep, JSON-able. `read` checks "settings" (all of them, where the state has only those that have
            to stay the same), "inputs" (a list of {"role", "sha256", "name", "path", "bytes", "weight", "scale",
            "style", "layers"}),
            "provenance" (a dict), "done" (steps over all scales), "seconds" (so far) and "output".
        picture: (h, w, 3), of the last step of a run that has nothing left to do but to save it.

    Raises: OSError, RequestError for a value that cannot be kept.
    """
    place = {name: value for name, value in state.items() if name != "optimizer"}
    whole = {"format": FORMAT, "stylekeras": stylekeras.__version__, **(about or {}), "state": place}
    try:
        text = json.dumps(whole).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the checkpoint cannot be written as JSON: {error}") from error
    with files.replacing(Path(path).resolve()) as stream, zipfile.ZipFile(stream, "w") as archive:
        with _member(archive, _ABOUT) as member:
            member.write(text)
        for name in state["optimizer"]:
            _write_array(archive, f"optimizer/{name}", state["optimizer"][name])
        if picture is not None:
            _write_array(archive, "picture", picture)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint says of its run, checked, without its arrays.

    Returns: what `save` was given as `about`, the state but for its "optimizer" as "state", and "settings", the run's
        `Settings`.
    Raises: CheckpointError if it is missing, damaged, no checkpoint, or another version's.
    """
    with _opened(path) as (about, _):
        return about


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any], np.ndarray | None]:
    """A whole checkpoint, checked.

    Returns: as `read`; the state, for `iterate(..., resume=state)`; the picture if it has one. A history of gigabytes
        is a tuple of pictures that are read from the file as they are needed, also once another has taken its name.
    Raises: as `read`.
    """
    with _opened(path) as (about, archive):
        headers = {item.filename: _header(archive, item) for item in archive.infolist() if item.filename != _ABOUT}
        picture = headers.pop("picture.npy", None)
        _check_arrays(about, headers, picture)
        fields = {_field(name): _read_array(archive, name) for name in headers}
        last = None if picture is None else _read_array(archive, "picture.npy")
    return about, {**about["state"], "optimizer": fields}, last


# Writing


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    info = zipfile.ZipInfo(name, _DATE)
    # Padded as zipalign does it, so that an array lies in the file as it would in memory. Before its bytes come 30 of
    # the header, its name, 20 that say how large it is, and this.
    start = archive.start_dir + 30 + len(name) + 20 + 4
    info.extra = struct.pack("<HH", 0xD935, -start % _ALIGNED) + bytes(-start % _ALIGNED)
    # Larger ones than 4 GB need to be announced, since the size is not known before the end.
    with archive.open(info, "w", force_zip64=True) as stream:
        yield stream


def _write_array(archive: zipfile.ZipFile, name: str, value: Any) -> None:
    parts = list(value) if isinstance(value, list | tuple) else [value]
    first = lazy.whole(parts[0])
    if first.dtype.name not in _DTYPES:
        raise RequestError(f"{name}: a checkpoint has no arrays of {first.dtype}")
    shape = (len(parts), *first.shape) if isinstance(value, list | tuple) else first.shape
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    with _member(archive, f"{name}.npy") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for part in (piece for whole in parts for piece in lazy.whole(whole).parts()):
            stream.write(np.ascontiguousarray(part).view(np.uint8).data)


# Reading


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Any], zipfile.ZipFile]]:
    """The file's description, checked, and the archive, whose members are as large as they say."""
    try:
        with _existing(Path(path)) as stream, zipfile.ZipFile(stream) as archive:
            _check_members(archive, os.fstat(stream.fileno()).st_size)
            yield _about(archive), archive
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error.__cause__
    except MemoryError:
        raise
    except Exception as error:  # zipfile and NumPy raise nearly anything on a damaged file
        raise CheckpointError(f"{path}: not a checkpoint, or damaged or cut short ({_short(error)})") from error


def _existing(path: Path) -> BinaryIO:
    try:
        if not path.is_file():
            raise CheckpointError(f"{'not a file' if path.exists() else 'no such checkpoint'}")
        return path.open("rb")
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"cannot be read: {files.reason(error)}") from error


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    names = [item.filename for item in members]
    if _ABOUT not in names:
        raise CheckpointError("not a checkpoint of stylekeras")
    if len(members) > _MAX_MEMBERS or len(set(names)) < len(names):
        raise CheckpointError("damaged: not the parts that a checkpoint has")
    for item in members:
        # So nothing grows by being read, and 42 kB are not a terabyte.
        if item.compress_type != zipfile.ZIP_STORED or item.compress_size != item.file_size or item.flag_bits & 1:
            raise CheckpointError(f"{_short(item.filename)} is compressed; a checkpoint never is")
    if sum(item.file_size for item in members) > size:
        raise CheckpointError("damaged: its parts are larger than the file")


def _about(archive: zipfile.ZipFile) -> dict[str, Any]:
    if archive.getinfo(_ABOUT).file_size > _MAX_ABOUT:
        raise CheckpointError("damaged: its description is too long")
    about = json.loads(archive.read(_ABOUT))
    if not isinstance(about, dict) or not _whole(about.get("format"), 1):
        raise CheckpointError("not a checkpoint of stylekeras")
    version = about.get("stylekeras")
    if about["format"] > FORMAT or version != stylekeras.__version__:
        newer = "a newer version" if about["format"] > FORMAT else "another version"
        raise CheckpointError(
            f"of {newer}, stylekeras {_short(version)}, and this is {stylekeras.__version__}; go on with that one, or "
            "begin anew"
        )
    state = about.get("state")
    if not isinstance(state, dict) or any(name not in state for name in _PLACE):
        raise CheckpointError("damaged: it does not say where the run was")
    about["settings"] = _check_state(state, about.get("settings"))
    _check_rest(about)
    return about


def _check_state(state: dict[str, Any], chosen: Any) -> Settings:
    """Returns: the run's settings: those `chosen`, or else those that have to be the same. Raises: CheckpointError."""
    run = state["run"]
    if not isinstance(run, dict) or not isinstance(run.get("settings"), dict):
        raise CheckpointError("damaged: it does not say what run it is of")
    if not set(run["settings"]) <= set(FIELDS):
        raise CheckpointError("damaged, or of another version: it has unknown settings")
    try:
        settings = Settings(**(run["settings"] if chosen is None else chosen))
        shape = run.get("shape")
        if not isinstance(shape, list) or len(shape) != 2 or not all(_whole(side, 1, 1 << 20) for side in shape):
            raise CheckpointError("damaged: no size of the photo")
        if run.get("sizes") != pyramid.sizes((shape[0], shape[1]), settings.size, settings.min_size):
            raise CheckpointError("damaged: its scales are not those of its settings")
    except (SettingsError, TypeError) as error:
        raise CheckpointError(f"damaged: {_short(error)}") from error
    if not _whole(state["scale"], 0, len(run["sizes"]) - 1):
        raise CheckpointError(f"damaged: there is no scale {_short(state['scale'])}")
    if not _whole(state["step"], 1, pyramid.steps_at(settings.steps, state["scale"])):
        raise CheckpointError(f"damaged: there is no step {_short(state['step'])}")
    terms, moved = state["terms"], state["moved"]
    if not isinstance(terms, dict) or not all(isinstance(value, float) for value in terms.values()):
        raise CheckpointError("damaged: the loss's terms are no numbers")
    if (
        not isinstance(moved, list)
        or not all(isinstance(value, float) for value in moved)
        or not isinstance(state["last"], bool)
    ):
        raise CheckpointError("damaged: how the picture moved is missing")
    if state["tile"] is not None and not _whole(state["tile"], 16, 1 << 16):
        raise CheckpointError("damaged: there are no such tiles")
    return settings


def _check_rest(about: dict[str, Any]) -> None:
    """What the command line keeps, if it is there."""
    inputs = about.setdefault("inputs", [])
    about.setdefault("provenance", {})
    if not isinstance(inputs, list) or not isinstance(about["provenance"], dict):
        raise CheckpointError("damaged: no list of inputs")
    for entry in inputs:
        check_input(entry, "path")
    if not _whole(about.setdefault("done", about["state"]["step"]), 1):
        raise CheckpointError("damaged: no number of steps")
    seconds = about.setdefault("seconds", 0.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise CheckpointError("damaged: no time")
    if not isinstance(about.setdefault("output", ""), str):
        raise CheckpointError("damaged: no output")


def check_input(entry: Any, *texts: str) -> None:
    """Check what a file from a stranger says of an input; `texts` are its fields beside "name" that have to be text.

    Raises: CheckpointError.
    """
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("role", "sha256", *texts)):
        raise CheckpointError("damaged: an input without its file or hash")
    sha256 = entry["sha256"]
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise CheckpointError("damaged: an input's hash is none")
    if not isinstance(entry.get("name"), str | None) or not _whole(entry.get("bytes", 0), 0):
        raise CheckpointError("damaged: an input's name or size is none")
    if not _whole(entry.get("style", 1), 1):
        raise CheckpointError("damaged: an input's style is none")
    try:
        Style(None, entry.get("weight", 1.0), entry.get("scale", 1.0), layers=entry.get("layers"))
    except SettingsError as error:
        raise CheckpointError(f"damaged: {_short(error)}") from error


def _check_arrays(
    about: Mapping[str, Any], headers: Mapping[str, tuple[tuple[int, ...], str]], picture: Any | None
) -> None:
    """Whether these are the arrays of a state of that run: each field, in its shape and type."""
    settings, state = about["settings"], about["state"]
    height, width = pyramid.shape_at(tuple(state["run"]["shape"]), state["run"]["sizes"][state["scale"]])
    canvas = (1, height + 2 * settings.margin, width + 2 * settings.margin, 3)
    forms = _forms(settings.optimizer, canvas)
    if {_field(name) for name in headers} != set(forms):
        raise CheckpointError(f"damaged, or of another version: not the state of {settings.optimizer}")
    if headers["optimizer/image.npy"][0] != canvas:
        raise CheckpointError("damaged: the picture has another size than the run")
    for name, (shape, dtype) in headers.items():
        shapes, wanted = forms[_field(name)]
        if shape not in shapes:
            raise CheckpointError(f"damaged: {_field(name)} has the shape {_short(shape)}")
        if dtype != wanted:
            raise CheckpointError(f"damaged: {_field(name)} is {dtype}, not {wanted}")
    if picture is not None and (picture != ((height, width, 3), "float32") or not about["state"]["last"]):
        raise CheckpointError("damaged: the last picture is not as it should be")


def _forms(optimizer: str, canvas: tuple[int, ...]) -> dict[str, tuple[list[tuple[int, ...]], str]]:
    """The shapes and the type that each field of an optimizer's state may have, for pictures of that shape."""
    # Those of a small picture whose height and width are nothing else's.
    sides = {41: canvas[1], 43: canvas[2]}
    small = optimizers.load(optimizer).init(arrays, np.zeros((1, *sides, 3), np.float32))
    forms = {}
    for name, value in small._asdict().items():
        shape = tuple(sides.get(side, side) for side in np.shape(value))
        # What depends on the frequency may be one number for all of them.
        shapes = [shape, (2, *canvas[1:3], 1)] if shape == (2, 1, 1, 1) else [shape]
        forms[name] = shapes, np.asarray(value).dtype.name
    return forms


def _header(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of an array whose bytes are all there."""
    with archive.open(item) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise CheckpointError(f"damaged: {_short(item.filename)} is no array")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        header = stream.tell()
    if fortran or dtype.hasobject or dtype.name not in _DTYPES or min(shape, default=1) < 1:
        raise CheckpointError(f"damaged: {_short(item.filename)} is an array of {_short(dtype)}, which no state has")
    if header + math.prod(shape) * dtype.itemsize != item.file_size:
        raise CheckpointError(f"damaged: {_short(item.filename)} is not as long as it says")
    return shape, dtype.name


def _read_array(archive: zipfile.ZipFile, name: str) -> Any:
    item = archive.getinfo(name)
    # Windows does not replace a file that is mapped.
    if item.file_size >= _MAPPED and os.name != "nt":
        mapped = _map_history(archive, item)
        if mapped is not None:
            return mapped
    with archive.open(name) as stream:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):  # and at its end the checksum has been compared
            raise CheckpointError(f"damaged: {_short(name)} is not as long as it says")
    return array


def _map_history(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> tuple[np.ndarray, ...] | None:
    """The pictures of a history, in the file; None for another array, or one that is not aligned there."""
    file: Any = archive.fp
    file.seek(item.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    start = item.header_offset + 30 + name + extra
    with archive.open(item) as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        start += stream.tell()
        if len(shape) != 5 or start % _ALIGNED or not dtype.isnative:
            return None
        while stream.read(1 << 22):  # at its end the checksum is compared
            pass
    # Nothing is written back: who is given an array may write into it.
    return tuple(np.asarray(np.memmap(file, dtype, "c", start, shape)))


def _field(name: str) -> str:
    return name.removeprefix("optimizer/").removesuffix(".npy")


def _whole(value: Any, low: int, high: int = 1 << 40) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
