"""A whole style transfer with NumPy and ONNX Runtime alone, on two files that stylekeras exported:

stylekeras export taps -o taps.onnx
stylekeras export step -o step.onnx
python examples/onnx_style_transfer.py taps.onnx step.onnx photo.jpg painting.jpg picture.png
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image

SMALLEST_SCALE = 1e-12  # relative losses are divided by a target's size, which may be 0


def read(path: str, longest: int, like: np.ndarray | None = None) -> np.ndarray:
    """(1, h, w, 3) float32 in [0, 1], its longest side as given, or of the shape of another picture."""
    image = Image.open(path).convert("RGB")
    factor = longest / max(image.size)
    size = [max(32, round(side * factor)) for side in image.size] if like is None else like.shape[2:0:-1]
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32)[None] / 255


def style_target(features: np.ndarray, kind: str) -> tuple[dict, float]:
    """What the picture's statistics are compared with, as in stylekeras/style_losses/; and its size."""
    flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
    gram, mean = flat.T @ flat / len(flat), flat.mean(axis=0)
    if kind == "gram":
        return {"gram": gram}, np.mean(gram**2)
    assert kind == "wasserstein", f"the targets of {kind} are made in stylekeras/style_losses/{kind}.py, not here"
    values, basis = np.linalg.eigh(gram - np.outer(mean, mean))
    widen = 1e-3 * max(values.mean(), 1e-12)
    found = {"mean": mean, "widen": widen, "basis": basis, "values": np.maximum(values, 0) + widen}
    return found, np.mean(mean**2 + np.maximum(values, 0))


def main() -> None:
    """Go from a coarse scale to the fine one, with Adam."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("taps", "step", "photo", "painting", "output"):
        parser.add_argument(name)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=120, help="at each scale")
    given = parser.parse_args()
    taps, step = (onnxruntime.InferenceSession(path) for path in (given.taps, given.step))
    about = step.get_modelmeta().custom_metadata_map
    settings, weights = json.loads(about["settings"]), json.loads(about["weights"])
    relative = settings["loss_scale"] == "relative"
    assert not relative or settings["strength"] >= 0.9, "less has targets nearer to the photo's: see docs/objective.md"
    image = None
    for size in sorted({max(64, round(given.size / 2**i)) for i in range(2)}):
        photo, painting = read(given.photo, size), read(given.painting, size)
        names = [output.name for output in taps.get_outputs()]
        content, style = (dict(zip(names, taps.run(None, {"image": x}), strict=True)) for x in (photo, painting))
        feeds = dict(weights)
        for tap in settings["content_layers"]:
            scale = np.mean(content[tap] ** 2) if relative else 1.0
            feeds |= {f"targets/content/{tap}/features": content[tap], f"targets/content/{tap}/scale": scale}
        for tap in settings["style_layers"]:
            target, scale = style_target(style[tap], settings["style_loss"])
            feeds |= {f"targets/styles/0/{tap}/target/{name}": value for name, value in target.items()}
            feeds[f"targets/styles/0/{tap}/scale"] = max(scale, SMALLEST_SCALE) if relative else 1.0
        inputs = [item.name for item in step.get_inputs() if item.name != "image"]
        feeds = {name: np.asarray(feeds[name], np.float32) for name in inputs}
        start = photo if image is None else read(given.output, size, photo)
        image, mean, square = start, 0.0, 0.0
        for i in range(1, given.steps + 1):
            loss, gradient = step.run(["loss", "gradient/image"], {"image": image, **feeds})
            mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
            move = mean / (1 - 0.9**i) / (np.sqrt(square / (1 - 0.99**i)) + 1e-8)
            image = np.clip(image - 0.02 * move, 0, 1).astype(np.float32)
        print(f"{image.shape[2]}x{image.shape[1]}: loss {loss:.4g}")
        Image.fromarray(np.round(image[0] * 255).astype(np.uint8)).save(given.output)


if __name__ == "__main__":
    main()
