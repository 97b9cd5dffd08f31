"""What engines are compared under, on VGG16 with real weights; the tests and benchmarks/parity.py share it."""

from __future__ import annotations

import functools
from collections import deque
from typing import Any, NamedTuple

import numpy as np
import reference
from fakes import scene
from reference import Setup

import stylekeras as sk
from stylekeras import weights as weight_sets

_STYLE_LAYERS = {f"block{i}_conv1": weight for i, weight in enumerate((1.0, 0.8, 0.6, 0.4, 0.2), start=1)}


class Case(NamedTuple):
    """Settings that change the objective; styles down to block `last`, one if that is 5 (SciPy's square roots of 512
    channels are slow), otherwise two."""

    style_loss: str
    pooling: str
    padding: str
    loss_scale: str
    shape: tuple[int, int]
    last: int

    def __str__(self) -> str:
        styles = "1 style" if self.last == 5 else "2 styles"
        height, width = self.shape
        return f"{self.style_loss}, {self.pooling}, {self.padding}, {self.loss_scale}, {styles}, {width}x{height}"


CASES = [
    Case("gram", "max", "replicate", "relative", (96, 80), 5),
    Case("gram", "average", "zeros", "absolute", (80, 96), 4),
    Case("wasserstein", "max", "zeros", "relative", (97, 81), 5),
    Case("wasserstein", "average", "replicate", "absolute", (96, 80), 3),
    Case("moments", "max", "replicate", "absolute", (96, 80), 4),
    Case("covariance", "average", "zeros", "relative", (80, 96), 4),
    Case("sliced", "max", "replicate", "relative", (96, 80), 4),
]


@functools.cache
def pictures(case: Case) -> tuple[np.ndarray, np.ndarray, list[sk.Style]]:
    """Picture, content and styles, which already have the size they enter at, so that nothing is resized."""
    rng = np.random.default_rng(11)
    image, content = scene(rng, *case.shape), scene(rng, *case.shape)
    longest = max(case.shape)
    styles = [sk.Style(scene(rng, longest - 20, longest), weight=0.7)]
    if case.last < 5:
        styles.append(sk.Style(scene(rng, round(longest / 2), 40), weight=0.4, scale=0.5))
    return image, content, styles


def settings(case: Case, engine: str) -> sk.Settings:
    """The settings of a case."""
    return sk.Settings(
        content_weight=0.9,
        style_weight=1.4,
        tv_weight=0.3,
        content_layers={"block2_conv2": 0.3, "block4_conv2": 1.2},
        style_layers={name: weight for name, weight in _STYLE_LAYERS.items() if int(name[5]) <= case.last},
        style_loss=case.style_loss,
        pooling=case.pooling,
        padding=case.padding,
        loss_scale=case.loss_scale,
        backbone="vgg16",
        weights="offline",
        precision="float32",
        engine=engine,
    )


@functools.cache
def wanted(case: Case) -> Any:
    """The reference's loss, terms and gradient."""
    image, content, styles = pictures(case)
    chosen = settings(case, "auto")
    loaded = weight_sets.load("offline", "vgg16", last="block5_conv1")
    card = loaded.card
    setup = Setup(
        reference.vgg(loaded.layers, "block5_conv1", pooling=case.pooling, padding=case.padding),
        content,
        [(style.image, style.weight) for style in styles],
        dict(chosen.content_layers),
        dict(chosen.style_layers),
        case.style_loss,
        case.loss_scale == "relative",
        chosen.content_weight,
        chosen.style_weight,
        chosen.tv_weight,
        {"order": card.channel_order, "scale": card.range, "mean": card.mean, "std": card.std},
    )
    return reference.objective(image, setup)


def gradient_error(found: np.ndarray, right: np.ndarray) -> float:
    """The length of the difference over the length of what is right."""
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def job(engine: str, nudge: float = 0.0, **changes: Any) -> tuple[np.ndarray, np.ndarray, sk.Settings]:
    """A photo-like scene, a painting and settings for 50 steps.

    Args: nudge: noise added to the start; changes: of the settings, which are Gram matrices in balance with content.
    """
    rng = np.random.default_rng(5)
    photo, painting = scene(rng, 96, 96), scene(rng, 96, 96)
    start = np.clip(photo + nudge * rng.standard_normal(photo.shape), 0, 1).astype(np.float32)
    fixed = {"backbone": "vgg16", "weights": "offline", "precision": "float32", "engine": engine, "size": 96}
    fixed |= {"min_size": None, "steps": 50, "margin": 0, "init_noise": 0.0}
    balanced = {"style_loss": "gram", "content_weight": 1.0, "style_layers": dict.fromkeys(_STYLE_LAYERS, 0.2)}
    return start, painting, sk.Settings(**{**fixed, **balanced, "tv_weight": 0.0, **changes})


def run(engine: str, optimizer: str = "lbfgs", nudge: float = 0.0, **changes: Any) -> tuple[float, np.ndarray]:
    """Loss and picture of a `job`."""
    (last,) = deque(sk.iterate(*job(engine, nudge, optimizer=optimizer, **changes)), maxlen=1)
    return last.loss, last.image
