"""What a run reports: `Progress` after each step, `Evaluation` of one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Evaluation:
    """The objective at one picture.

    Attributes:
        loss: the weighted sum.
        terms: unweighted "content", "style", "tv", and "content/<tap>", "style/<tap>".
        gradient: (h, w, 3) float32, d loss / d image with the image in [0, 1].
        provenance: engine, device, precision, backbone and weights that computed it, and every fallback.
    """

    loss: float
    terms: Mapping[str, float]
    gradient: np.ndarray
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Progress:
    """One step done. `image` and `state` are fetched from the device when they are asked for.

    Until then the object holds the optimizer's whole state (L-BFGS: about 30 pictures in float32), so keep what you
    need of it, not the objects of a whole run.

    Attributes:
        step: 1-based, within the scale.
        steps: at most that many at this scale.
        size: (h, w) of the picture at this scale.
        last: whether the scale ends with this step: the last of `steps`, or the picture has stopped changing.
        scale: index of the scale, 0 the coarsest.
        scales: number of scales.
        loss: of the best picture so far at this scale (L-BFGS) or of the last iterate (Adam).
        terms: that loss's unweighted terms, as in `Evaluation`.
        seconds: since the start of the run, the part before a resume not counted.
        provenance: engine, device, precision, backbone and weights that compute it, and every fallback.
    """

    step: int
    steps: int
    last: bool
    size: tuple[int, int]
    scale: int
    scales: int
    loss: float
    terms: Mapping[str, float]
    seconds: float
    provenance: Mapping[str, Any]
    _image: Callable[[], np.ndarray] = field(repr=False)
    _state: Callable[[], Mapping[str, Any]] = field(repr=False)

    @property
    def image(self) -> np.ndarray:
        """The picture so far, (h, w, 3) float32 RGB; within [0, 1] with `clip`."""
        return self._image()

    @property
    def state(self) -> Mapping[str, Any]:
        """Enough to go on from here with `iterate(..., resume=state)`: NumPy arrays and plain numbers.

        The arrays, under "optimizer", are copied when they are asked for, one by one; a history may be a tuple of them.
        """
        return self._state()
