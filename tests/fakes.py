"""Stand-ins that several test files share."""

import numpy as np

import stylekeras as sk
from stylekeras import images, pyramid

PROVENANCE = {
    "engine": "none",
    "engine_version": "0",
    "device": "a device",
    "precision": "float32",
    "backbone": "vgg16",
    "weights": "random",
}


def iterate(content, styles, settings, notes=()):
    """`iterate` without a network: the content's picture at every step of the schedule, its loss falling."""
    picture = styles[0].image if content is None else content
    sizes = pyramid.sizes(picture.shape[:2], settings.size, settings.min_size)
    for scale, size in enumerate(sizes):
        steps, (height, width) = pyramid.steps_at(settings.steps, scale), pyramid.shape_at(picture.shape[:2], size)
        image = images.resize(picture, height, width)
        for step in range(1, steps + 1):
            yield sk.Progress(
                step=step,
                steps=steps,
                last=step == steps,
                size=(height, width),
                scale=scale,
                scales=len(sizes),
                loss=1 / step,
                terms={"content": 0.25 / step, "style": 0.75 / step, "tv": 0.5},
                seconds=0.5,
                provenance={**PROVENANCE, "notes": list(notes)},
                _image=lambda image=image: image,
                _state=dict,
            )


def plan(content, styles, settings, *, calibrate):
    """A plan in words, of nothing."""
    assert not calibrate
    return f"{settings.size} px"


def scene(rng, height, width):
    """Blobs, an edge and grain: closer to a picture than noise, with flat and busy places."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    picture = np.zeros((height, width, 3))
    for channel in range(3):
        for _ in range(4):
            fx, fy, phase = rng.uniform(1, 9), rng.uniform(1, 9), rng.uniform(0, 6)
            picture[..., channel] += 0.1 * np.sin(6.28 * (fx * x + fy * y) + phase)
    picture += 0.3 * (x > rng.uniform(0.3, 0.7))[..., None] + 0.35 + 0.05 * rng.standard_normal(picture.shape)
    return np.clip(picture, 0, 1).astype(np.float32)
