"""Backbones: the networks that look.

A family of our own has a file here with `build(weights, taps, *, pooling, padding, dtype) -> model`; the model maps an
image (1, h, w, 3) float32 RGB in [0, 1] to a dict of the named taps, float32. Adding a family is adding a file. Any
other network comes as an ONNX file, for the engines that run ONNX graphs (stylekeras/graphs/file.py).
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stylekeras import tiling
from stylekeras import weights as weight_sets
from stylekeras.errors import GraphError, SettingsError
from stylekeras.weights import Card, Weights

# How pictures become a network's input, beside the cards' own; each is the preprocessing of a card.
PREPROCESSING = {"torchvision": "torchvision_vgg19", "caffe": "imagenet_vgg19"}


@dataclass(frozen=True)
class NetworkFile:
    """A network in an ONNX file, not read yet. The attributes are as those of `Weights`."""

    path: Path
    card: Card
    backbone: str
    source: str
    sha256: str
    notes: tuple[str, ...] = ()


def is_file(backbone: str) -> bool:
    """Whether a `backbone` setting names an ONNX file."""
    return backbone.lower().endswith(".onnx")


def load(
    backbone: str, weights: str, taps: Iterable[str], *, preprocessing: str = "auto", seed: int = 0
) -> Weights | NetworkFile:
    """The network of the settings of these names, deep enough for the taps.

    Raises: SettingsError for an unknown tap or contradictory settings, WeightsError as `stylekeras.weights.load`,
        GraphError if a file is not there.
    """
    if is_file(backbone):
        return _load_file(Path(backbone).expanduser(), weights, preprocessing)
    loaded = weight_sets.load(weights, backbone, seed=seed, last=weight_sets.deepest(backbone, taps))
    if preprocessing == "auto":
        return loaded
    return dataclasses.replace(loaded, card=_preprocessed(loaded.card, preprocessing))


def anatomy(network: Weights | NetworkFile, taps: Iterable[str]) -> Callable[[], tiling.Anatomy]:
    """A function that gives a network's anatomy. It does not hold on to the weights.

    It raises: GraphError if a file's network has layers that look at all of a picture.
    """
    if isinstance(network, Weights):
        return functools.partial(vgg_anatomy, network.backbone, tuple(taps))
    return functools.partial(_file_anatomy, network, tuple(taps))


def vgg_anatomy(backbone: str, taps: Iterable[str]) -> tiling.Anatomy:
    """VGG's, cut after the deepest tap."""
    names = list(dict.fromkeys(taps))
    last = weight_sets.deepest(backbone, names)
    found, field, block, numbers, channels = {}, tiling.Field(), "block1", 0.0, 0
    for name, width in weight_sets.CHANNELS[backbone].items():
        if name[:6] != block:
            block = name[:6]
            field = field.through(2, 2)
            numbers += channels / field.stride**2
        field, channels = field.through(3, 1, 1, 1), width
        numbers += channels / field.stride**2
        found[name] = field, field
        if name == last:
            break
    densities = {tap: weight_sets.CHANNELS[backbone][tap] / found[tap][0].stride ** 2 for tap in names}
    return tiling.Anatomy({tap: found[tap] for tap in names}, densities, numbers)


def _file_anatomy(network: NetworkFile, taps: Iterable[str]) -> tiling.Anatomy:
    from stylekeras.graphs import file

    return file.anatomy(network.path, taps)


def _load_file(path: Path, weights: str, preprocessing: str) -> NetworkFile:
    if weights != "auto":
        raise SettingsError(f"weights={weights!r}: {path.name} has its own; leave weights out")
    if not path.is_file():
        raise GraphError(f"backbone {path}: {'not a file' if os.path.exists(path) else 'no such file'}")
    notes = []
    if preprocessing == "auto":
        preprocessing = "torchvision"
        notes.append(f"backbone: pictures go into {path.name} as torchvision's networks take them (see preprocessing)")
    blank = Card(
        name=path.name,
        backbone=path.name,
        title=path.name,
        source=path.name,
        licence="the file's own",
        channel_order="rgb",
        range=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        format="onnx",
    )
    sha256 = weight_sets.sha256(path)
    return NetworkFile(path, _preprocessed(blank, preprocessing), path.name, str(path), sha256, tuple(notes))


def _preprocessed(card: Card, preprocessing: str) -> Card:
    if preprocessing == "unit":
        return dataclasses.replace(card, channel_order="rgb", range=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    other = weight_sets.cards()[PREPROCESSING[preprocessing]]
    return dataclasses.replace(
        card, channel_order=other.channel_order, range=other.range, mean=other.mean, std=other.std
    )
