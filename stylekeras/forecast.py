"""`plan`: what a run will cost, before it runs: memory, tiles, seconds.

Memory comes from a model (stylekeras/layout.py), time from a short calibration on this machine, which is kept: a step
takes some seconds however small the picture, and some for each pixel of what is looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stylekeras import engines, files, machines, memory, pyramid, transfer
from stylekeras import layout as layouts
from stylekeras.errors import GraphError
from stylekeras.graphs import store
from stylekeras.layout import Layout
from stylekeras.settings import Settings, Style

DEFAULTS = Settings()
# Longest sides of the pictures that are timed: with a step of overhead, and with many pixels.
_SIDES = (96, 320)
_REPEATS = 3
# What a kept calibration may hold.
_MOST_TEXT = 10_000


# The code that a step is in.
_SOURCES = (
    *("arrays", "engines", "graphs", "host", "losses", "native", "objective", "optimizers", "spectrum", "style_losses"),
    *("threads", "transfer", "trees"),
)


class Speed(NamedTuple):
    """Seconds: of each step, of each step and pixel, and to prepare each scale."""

    step: float
    pixel: float
    scale: float


class Kind(NamedTuple):
    """Of a style, what changes a step's time."""

    masked: bool = False
    layers: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Scale:
    """One scale of a plan.

    Attributes:
        size: (h, w) of the picture.
        steps: at most.
        tile: the side of its tiles, None if it is looked at as a whole.
        tiles: how many.
        on_disk: whether the optimizer's pictures are.
        disk: bytes of temporary files at the highest.
        memory: bytes at the highest, None if that is not known.
        seconds_per_step: None without a calibration.
    """

    size: tuple[int, int]
    steps: int
    tile: int | None
    tiles: int
    on_disk: bool
    disk: int
    memory: int | None
    seconds_per_step: float | None


@dataclass(frozen=True)
class Plan:
    """What a run will need.

    Attributes:
        scales: coarse to fine.
        memory: bytes at the highest, None if that is not known.
        budget: bytes that may be taken, None if that is not known.
        seconds: of all steps and their preparation, None without a calibration.
        provenance: engine, device, precision, backbone and weights that would compute it.
    """

    scales: tuple[Scale, ...]
    memory: int | None
    budget: int | None
    seconds: float | None
    provenance: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        scales = [{**vars(scale), "size": list(scale.size)} for scale in self.scales]
        return {**vars(self), "scales": scales, "provenance": dict(self.provenance)}

    def __str__(self) -> str:
        """A line for people."""
        last, steps = self.scales[-1], sum(scale.steps for scale in self.scales)
        height, width = last.size
        parts = [f"{width}x{height} in {len(self.scales)} scales, at most {steps} steps"]
        if last.tile is not None:
            parts.append(f"{last.tiles} tiles of {last.tile} px{' with the optimizer on disk' if last.on_disk else ''}")
        if self.memory is not None:
            parts.append(f"about {memory.text(self.memory)} of memory")
        if any(scale.disk for scale in self.scales):
            parts.append(f"{memory.text(max(scale.disk for scale in self.scales))} of temporary files")
        if self.seconds is not None:
            parts.append(f"about {duration(self.seconds)}")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan(content: Any, styles: Any, settings: Settings = DEFAULTS, *, calibrate: bool = True) -> Plan:
    """What `stylize` with these arguments would need. Nothing is painted.

    Args:
        content, styles, settings: as for `stylize`; of the images only the shapes matter.
        calibrate: whether to time a few steps on this machine, if that has not been done (seconds); without, the plan
            has no times unless there is a calibration.

    Raises: RequestError as `stylize`, and if the picture does not fit into the memory there is.
    """
    problem, sizes = transfer.problem(content, styles, settings)
    machine = problem.machine
    kinds = [Kind(style.mask is not None, style.layers) for style in problem.styles]
    speed = _speed(machine, settings, kinds, calibrate=calibrate)
    scales = [
        _scale(problem, pyramid.shape_at(problem.shape, size), layout, pyramid.steps_at(settings.steps, i), speed)
        for i, (size, layout) in enumerate(zip(sizes, problem.layouts, strict=True))
    ]
    peaks = [scale.memory for scale in scales if scale.memory is not None]
    times = [scale.steps * scale.seconds_per_step for scale in scales if scale.seconds_per_step is not None]
    return Plan(
        scales=tuple(scales),
        memory=max(peaks) if len(peaks) == len(scales) else None,
        budget=problem.memory,
        seconds=sum(times) + len(scales) * speed.scale if speed is not None else None,
        provenance=problem.provenance,
    )


def _scale(problem: transfer.Problem, shape: tuple[int, int], layout: Layout, steps: int, speed: Speed | None) -> Scale:
    machine, settings = problem.machine, problem.settings
    canvas = (shape[0] + 2 * settings.margin, shape[1] + 2 * settings.margin)
    needed, work, tiles = None, 1.0, 1
    with contextlib.suppress(GraphError):
        needed = machines.need(machine, settings, canvas, settings.margin, **problem.looked_at)
        work = layouts.work(needed, layout)
        tiles = layouts.count(needed, layout)
    return Scale(
        size=shape,
        steps=steps,
        tile=layout.tile if tiles > 1 else None,
        tiles=tiles,
        on_disk=layout.on_disk,
        disk=0 if needed is None else int(layouts.disk(needed, layout)),
        memory=None if needed is None else int(layouts.peak(needed, layout)),
        seconds_per_step=None if speed is None else speed.step + speed.pixel * work * math.prod(canvas),
    )


def _speed(machine: machines.Machine, settings: Settings, kinds: Sequence[Kind], *, calibrate: bool) -> Speed | None:
    """The calibration of this machine for these settings and styles; None if there is none and none is to be made."""
    path = _path(machine, settings, kinds)
    with contextlib.suppress(OSError, ValueError, TypeError):
        if path is not None and path.stat().st_size <= _MOST_TEXT:
            found = Speed(**json.loads(path.read_text("utf-8")))
            if all(isinstance(value, float) and 0 <= value < 1e6 for value in found):
                return found
    if not calibrate:
        return None
    found = _calibrate(settings, kinds)
    with contextlib.suppress(OSError):  # it is made again next time
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write(path, json.dumps(found._asdict()).encode())
    return found


def _calibrate(settings: Settings, kinds: Sequence[Kind]) -> Speed:
    """Time a few steps of two sizes, of pictures and masks of noise."""
    random = np.random.default_rng(0)
    styles = [
        Style(
            random.random((128, 128, 3)).astype(np.float32),
            mask=random.random((64, 64)).astype(np.float32) if kind.masked else None,
            layers=kind.layers,
        )
        for kind in kinds
    ]
    seconds, first, pixels = [], 0.0, []
    for side in _SIDES:
        changes: dict[str, Any] = {"size": side, "min_size": None, "steps": 1 + _REPEATS, "tolerance": 0.0}
        # Without a style the photo has a loss of 0, where nothing is left to do.
        changes["init"] = "content" if kinds else "noise"
        changes |= {"colors": "style", "strength": DEFAULTS.strength, "tile": "none", "preset": None}
        chosen = Settings(**{**settings.to_dict(), **changes})
        began = time.perf_counter()
        photo = random.random((side, side, 3)).astype(np.float32)
        times = [began, *(time.perf_counter() for _ in transfer.iterate(photo, styles, chosen))]
        steps = np.diff(times)
        seconds.append(float(np.median(steps[1:])))
        first = float(steps[0] - seconds[-1])
        pixels.append((side + 2 * settings.margin) ** 2)
    pixel = max(0.0, (seconds[1] - seconds[0]) / (pixels[1] - pixels[0]))
    return Speed(step=max(0.0, seconds[0] - pixel * pixels[0]), pixel=pixel, scale=max(0.0, first))


def _path(machine: machines.Machine, settings: Settings, kinds: Sequence[Kind]) -> Path | None:
    """Where the calibration is kept: one for everything that changes a step's time."""
    by = machine.provenance
    kept = ("engine", "engine_version", "device", "precision", "backbone")
    names = ("style_loss", "optimizer", "pooling", "padding", "clip", "margin")
    key = {
        **{name: by[name] for name in kept},
        **{name: getattr(settings, name) for name in names},
        "layers": [sorted(settings.content_layers), sorted(settings.style_layers)],
        "styles": sorted([kind.masked, sorted(kind.layers or ())] for kind in kinds),
        "processor": sorted(engines.processor_flags()),
    }
    try:
        key["code"] = store.code(*_SOURCES)
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return store.folder() / f"{digest}.speed"
    except OSError:
        return None
