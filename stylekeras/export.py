"""ONNX files that stand alone: the taps model, and the step (loss, terms and gradient) of any picture.

They run in ONNX Runtime, OpenVINO, a browser or C#, without this package. Both are of open height and width, and carry
what made them in their metadata. `examples/onnx_style_transfer.py` is a whole style transfer on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stylekeras import arrays, backbones, objective, style_losses
from stylekeras.errors import SettingsError
from stylekeras.settings import Settings
from stylekeras.weights import Weights

if TYPE_CHECKING:
    import onnx

DEFAULTS = Settings()


def taps(settings: Settings = DEFAULTS) -> onnx.ModelProto:
    """The network of the settings, cut after the deepest of their layers.

    Returns: a model from "image" (1, h, w, 3) float32 RGB in [0, 1], any h and w from 32 up, to one output
        (1, h', w', c) for each of the content and style layers, under its name, after its ReLU.
    Raises: RequestError for an unknown layer, or weights that cannot be had.
    """
    return _taps(settings, _network(settings), settings.style_layers)


def step(
    settings: Settings = DEFAULTS,
    *,
    styles: int = 1,
    masks: bool = False,
    layers: Sequence[Mapping[str, float] | None] = (),
) -> onnx.ModelProto:
    """One step of the optimization: loss, terms and gradient.

    Args: styles: how many style images there are; masks: whether each has a region of the picture; layers: those of
        each style, where it has its own (then their weights are "weights/style_layers/<i>/<tap>").
    Returns: a model with the inputs
        "image" (1, h, w, 3) float32 RGB in [0, 1],
        "targets/content/<tap>/features" (1, h', w', c): the photo's, of the size of the image's own,
        "targets/content/<tap>/scale" (): what that layer's loss is divided by,
        "targets/styles/<i>/<tap>/target/..." and "targets/styles/<i>/<tap>/scale": of a style image, see
        `stylekeras/style_losses/`, and with style_loss=sliced "targets/styles/<i>/<tap>/frame/...",
        "targets/styles/<i>/<tap>/mask" (1, h', w', 1), with `masks`: the weight in [0, 1], not 0 everywhere, of each
        position of that tap for that style,
        "weights/...": the scalars of the loss,
        and the outputs "loss" (), "terms/..." () each and "gradient/image" (1, h, w, 3), all float32. The metadata
        "weights" has the weights of these settings as JSON, by input name.
    The file serves every strength: below 0.9 what it is given as targets is part of the way from the photo's to the
    style image's (`objective.strength`, `objective.between`), and above that, a weight.
    Raises: RequestError as `taps`.
    """
    if not 1 <= styles <= 64:
        raise SettingsError(f"styles={styles}: expected a whole number from 1 to 64")
    from stylekeras import trees
    from stylekeras.graphs import step as graphs

    own = [settings.style_layers if given is None else given for given in layers or [None] * styles]
    if len(own) != styles:
        raise SettingsError(f"layers of {len(own)} styles, and there are {styles}; None stands for the settings'")
    loaded = _network(settings, *own)
    module = style_losses.load(settings.style_loss)
    model = _taps(settings, loaded, *own)
    # Only the shapes of these matter; two by two positions give every array its channels.
    features = {
        item.name: np.ones((1, 2, 2, item.type.tensor_type.shape.dim[3].dim_value), np.float32)
        for item in model.graph.output
    }
    style_targets = []
    for taken in own:
        frames = objective.style_frames(module, objective.style_sums(arrays, module, features, taken))
        sums = objective.style_sums(arrays, module, features, taken, frames=frames)
        style_targets.append(objective.style_target(module, sums, frames, relative=False))
        for target in style_targets[-1].values() if masks else ():
            target["mask"] = np.ones((1, 2, 2, 1), np.float32)
    targets = {
        "content": objective.content_target(arrays, features, settings.content_layers, relative=False),
        "styles": style_targets,
    }
    weights = objective.weights(settings, [1.0] * styles, layers)
    one = all(dict(taken) == dict(own[0]) for taken in own)
    metadata = _metadata(replace(settings, style_layers=own[0]) if one else settings, loaded)
    metadata["weights"] = json.dumps(trees.leaves(weights, "weights"))
    return graphs.build(model, objective.Objective(module), targets, weights, metadata=metadata)


def _taps(settings: Settings, loaded: Weights | backbones.NetworkFile, *styles: Mapping[str, float]) -> onnx.ModelProto:
    """The network to the content layers and those of styles."""
    from stylekeras.graphs import taps as graphs

    names, metadata = _names(settings, *styles), _metadata(settings, loaded)
    return graphs.build(loaded, names, pooling=settings.pooling, padding=settings.padding, metadata=metadata)


def _names(settings: Settings, *styles: Mapping[str, float]) -> list[str]:
    return list(dict.fromkeys((*settings.content_layers, *(tap for layers in styles for tap in layers))))


def _network(settings: Settings, *styles: Mapping[str, float]) -> Weights | backbones.NetworkFile:
    names = _names(settings, *(styles or [settings.style_layers]))
    return backbones.load(
        settings.backbone, settings.weights, names, preprocessing=settings.preprocessing, seed=settings.seed
    )


def _metadata(settings: Settings, loaded: Weights | backbones.NetworkFile) -> dict[str, str]:
    from stylekeras import __version__

    card = loaded.card
    kept = ("style_loss", "loss_scale", "strength", "content_layers", "style_layers")
    chosen = settings.to_dict()
    return {
        "stylekeras": __version__,
        "settings": json.dumps({name: chosen[name] for name in kept}),
        "backbone": loaded.backbone,
        "pooling": settings.pooling,
        "padding": settings.padding,
        "weights_set": card.name,
        "weights_sha256": loaded.sha256,
        "weights_licence": card.licence,
    }
