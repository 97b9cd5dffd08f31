"""Stand-ins that several test files share."""

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
