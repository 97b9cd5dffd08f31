"""Neural style transfer after Gatys, Ecker and Bethge (2016), on Keras VGG19.

    import stylekeras as sk
    picture = sk.stylize("photo.jpg", "painting.jpg", sk.Settings(size=512))
    sk.save_image("picture.png", picture)

Importing this package imports no framework: TensorFlow and Keras load on the first call that computes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylekeras.errors import (
        CheckpointError,
        DivergedError,
        EngineError,
        GraphError,
        ImageError,
        OutputError,
        RequestError,
        RunError,
        SettingsError,
        StyleKerasError,
        WeightsError,
    )
    from stylekeras.extras import Extras
    from stylekeras.forecast import Plan, plan
    from stylekeras.images import load_extras, load_image, save_image
    from stylekeras.progress import Evaluation, Progress
    from stylekeras.settings import Settings, Style
    from stylekeras.transfer import iterate, loss_and_gradient, stylize

__version__ = "0.1.0"

_HOMES = {
    "errors": (
        "CheckpointError",
        "DivergedError",
        "EngineError",
        "GraphError",
        "ImageError",
        "OutputError",
        "RequestError",
        "RunError",
        "SettingsError",
        "StyleKerasError",
        "WeightsError",
    ),
    "extras": ("Extras",),
    "forecast": ("Plan", "plan"),
    "images": ("load_extras", "load_image", "save_image"),
    "progress": ("Evaluation", "Progress"),
    "settings": ("Settings", "Style"),
    "transfer": ("iterate", "loss_and_gradient", "stylize"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CheckpointError",
    "DivergedError",
    "EngineError",
    "Evaluation",
    "Extras",
    "GraphError",
    "ImageError",
    "OutputError",
    "Plan",
    "Progress",
    "RequestError",
    "RunError",
    "Settings",
    "SettingsError",
    "Style",
    "StyleKerasError",
    "WeightsError",
    "iterate",
    "load_extras",
    "load_image",
    "loss_and_gradient",
    "plan",
    "save_image",
    "stylize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"stylekeras.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
