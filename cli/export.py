"""`stylekeras export`: ONNX files for ONNX Runtime, OpenVINO, a browser, C#."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

import stylekeras as sk

from .evaluate import UNUSED
from .options import Config, Json, Overwrite, Quiet, StyleLayers, layers_of, settings, with_settings

Output = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Ends in .onnx.", show_default=False)]
Count = Annotated[int, typer.Option("--styles", metavar="N", min=1, max=64, help="How many style images.")]
Masks = Annotated[bool, typer.Option("--masks", help="Each style has a region: one mask more for each layer.")]

# What a graph does not depend on; the seed is that of random weights.
_WITHOUT = (*UNUSED, "tv_weight", "colors", "color_amount", "engine", "precision", "tile", "memory", "devices")
_TAPS_WITHOUT = (*_WITHOUT, "strength", "content_weight", "style_weight", "loss_scale", "style_loss")


@with_settings(without=_TAPS_WITHOUT)
def taps(
    output: Output,
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    given: dict[str, Any],
) -> int:
    """Write the network: a picture in, the features of the content and style layers out."""
    return _export("taps", given, config, output, overwrite=overwrite, as_json=as_json, quiet=quiet)


@with_settings(without=tuple(name for name in _WITHOUT if name != "tv_weight"))
def step(
    output: Output,
    styles: Count = 1,
    masks: Masks = False,
    own_layers: StyleLayers = None,
    config: Config = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    *,
    given: dict[str, Any],
) -> int:
    """Write a step: picture, targets and weights in; loss, terms and the gradient in the picture out."""
    own = [None if text is None else sk.Style(None, layers=text).layers for text in layers_of(own_layers, styles)]
    options = {"styles": styles, "masks": masks, "layers": own}
    return _export("step", given, config, output, overwrite=overwrite, as_json=as_json, quiet=quiet, **options)


def _export(
    what: str,
    given: dict[str, Any],
    config: str | None,
    output: str,
    *,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    from stylekeras import export, files

    from . import runs
    from .chatter import filtered
    from .display import Display

    chosen = settings(given, config)
    sources = [os.path.expanduser(name) for name in (chosen.backbone, chosen.weights)]  # noqa: PTH111
    target = files.check_destination(output, (".onnx",), overwrite=overwrite, inputs=sources)
    with Display(json=as_json, quiet=quiet) as display, filtered():
        runs.check_layers(chosen)
        model = getattr(export, what)(chosen, **options)
        content = model.SerializeToString()
        try:
            files.write(target, content)
        except OSError as error:
            raise sk.RunError(f"could not write {output}: {files.reason(error)}") from error
        ports = {"inputs": [item.name for item in model.graph.input], "outputs": [x.name for x in model.graph.output]}
        display.event("done", output=output, bytes=len(content), **ports)
        counts = f"{len(ports['inputs'])} inputs, {len(ports['outputs'])} outputs"
        display.message(f"wrote {output} ({len(content) / 1e6:.0f} MB, {counts})")
    return 0
