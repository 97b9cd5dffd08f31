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

from stylekeras import trees
from stylekeras.graphs.builder import Builder
from stylekeras.graphs.gradient import append_gradient
from stylekeras.graphs.split import split
from stylekeras.graphs.trace import Ops, Tensor
from stylekeras.objective import parts


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
    image, features = _picture(ops, taps)
    inputs = {"image": image}
    given = {name: _stand_ins(ops, tree, name, inputs) for name, tree in (("targets", targets), ("weights", weights))}
    loss, terms = objective(ops, image, features, given["targets"], given["weights"])
    outputs = {"loss": loss, **{f"terms/{name}": value for name, value in terms.items()}}
    model = ops.model("style_transfer_step", inputs, outputs, metadata)
    return append_gradient(model, "loss", ["image"])


def measure(taps: onnx.ModelProto, measure: Any, targets: Any) -> onnx.ModelProto:
    """The sums of a picture.

    Args: `taps` and `targets` as for `build`; `measure(ops, image, features, targets) -> sums`, nested.
    Returns: a model with the inputs "image" and "targets/..." and the outputs "sums/...", named by `trees.leaves`.
    """
    ops = Ops(Builder())
    image, features = _picture(ops, taps)
    inputs = {"image": image}
    sums = measure(ops, image, features, _stand_ins(ops, targets, "targets", inputs))
    return ops.model("style_transfer_sums", inputs, trees.leaves(sums, "sums"))


def halves(taps: onnx.ModelProto, measure: Any, targets: Any) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The sums of a picture, and the gradient in it of their product with given numbers.

    Args: as for `measure`.
    Returns: the model of `measure`, with outputs "kept/..." besides; and one with these as inputs, of the first one's
        inputs what it needs, and "cotangents/sums/..." (all sums but counts), and the output "gradient/image".
    """
    ops = Ops(Builder())
    image, features = _picture(ops, taps)
    inputs = {"image": image}
    sums = measure(ops, image, features, _stand_ins(ops, targets, "targets", inputs))
    found = trees.leaves(sums, "sums")
    products = []
    for name, value in parts(sums).items():
        key = f"cotangents/{name}"
        inputs[key] = ops.input(key, value.shape)
        products.append(ops.sum(value * inputs[key]))
    outputs = {"product": sum(products[1:], products[0]), **found}
    whole = append_gradient(ops.model("style_transfer_sums", inputs, outputs), "product", ["image"])
    return split(whole, list(found), ["gradient/image"])


def combine(combine: Any, sums: Any, targets: Any, weights: Any) -> onnx.ModelProto:
    """The loss of a picture's sums, and its gradient in them.

    Args: `combine(ops, sums, targets, weights) -> loss, terms`, and nested arrays as those of `build`.
    Returns: a model with the inputs "sums/...", "targets/..." and "weights/...", and the outputs "loss" (), "terms/..."
        () each and "gradient/sums/...".
    """
    ops = Ops(Builder())
    inputs: dict[str, Tensor] = {}
    trio = (("sums", sums), ("targets", targets), ("weights", weights))
    loss, terms = combine(ops, *(_stand_ins(ops, tree, name, inputs) for name, tree in trio))
    outputs = {"loss": loss, **{f"terms/{name}": value for name, value in terms.items()}}
    return append_gradient(ops.model("style_transfer_loss", inputs, outputs), "loss", list(trees.leaves(sums, "sums")))


def _picture(ops: Ops, taps: onnx.ModelProto) -> tuple[Tensor, dict[str, Tensor]]:
    """The input "image" and its features."""
    image = ops.input("image", (1, "height", "width", 3))
    return image, ops.splice(taps, {"image": image}, prefix="taps/")


def _stand_ins(ops: Ops, tree: Any, name: str, inputs: dict[str, Tensor]) -> Any:
    """The tree with an input of the graph for every leaf; they are added to `inputs`."""

    def stand_in(path: str) -> Tensor:
        shape: list[Any] = list(np.shape(found[path]))
        if len(shape) == 4:
            shape[1:3] = f"{path}_height", f"{path}_width"
        inputs[path] = ops.input(path, shape)
        return inputs[path]

    found = trees.leaves(tree, name)
    return trees.transform(stand_in, trees.names(tree, name))
