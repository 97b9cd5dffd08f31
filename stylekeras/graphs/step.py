"""The step graph: picture, targets and weights in; loss, terms and the gradient in the picture out.

The losses come from `stylekeras/objective.py`, called once with tensors that stand for values (trace.py); the gradient
from reverse-mode differentiation of what was written (gradient.py). Heights and widths stay open, and everything that
belongs to a picture is an input, so one file serves every picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from stylekeras.graphs.builder import Builder
from stylekeras.graphs.gradient import append_gradient
from stylekeras.graphs.trace import Ops, Tensor


def build(
    taps: onnx.ModelProto, objective: Any, targets: Any, weights: Any, metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """The step of an objective on a taps model.

    Args:
        taps: from "image" (1, h, w, 3) to features by name, as `stylekeras.graphs.taps` makes them.
        objective: `objective(ops, image, features, targets, weights) -> loss, terms`.
        targets: nested arrays of the structure and shapes that the step will be given; of those with four axes, height
            and width stay open. The values do not matter.
        weights: likewise.

    Returns: a model with the inputs "image", "targets/..." and "weights/..." (named by `trees.leaves`), the outputs
        "loss" (), "terms/..." () each and "gradient/image" (1, h, w, 3), all float32.
    """
    ops = Ops(Builder())
    inputs = {"image": ops.input("image", (1, "height", "width", 3))}
    given = {name: _stand_ins(ops, tree, name, inputs) for name, tree in (("targets", targets), ("weights", weights))}
    features = ops.splice(taps, {"image": inputs["image"]}, prefix="taps/")
    loss, terms = objective(ops, inputs["image"], features, given["targets"], given["weights"])
    outputs = {"loss": loss, **{f"terms/{name}": value for name, value in terms.items()}}
    model = ops.model("style_transfer_step", inputs, outputs, metadata)
    return append_gradient(model, "loss", ["image"])


def _stand_ins(ops: Ops, tree: Any, name: str, inputs: dict[str, Tensor]) -> Any:
    """The tree with an input of the graph for every leaf; they are added to `inputs`."""
    if isinstance(tree, Mapping):
        return {key: _stand_ins(ops, item, f"{name}/{key}", inputs) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_stand_ins(ops, item, f"{name}/{i}", inputs) for i, item in enumerate(tree)]
    shape: list[Any] = list(np.shape(tree))
    if len(shape) == 4:
        shape[1:3] = f"{name}_height", f"{name}_width"
    inputs[name] = ops.input(name, shape)
    return inputs[name]
