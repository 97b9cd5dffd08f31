"""Adam (Kingma and Ba 2015, algorithm 1) with iterate averaging (section 7.2, with the same bias correction).

The picture is the average of the iterates, as in Crowson's style-transfer-pytorch, which is where the defaults of the
averages come from; pixels may be kept in [0, 1] after each step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_FIRST, _SECOND, _EPSILON = 0.9, 0.99, 1e-8
_AVERAGE = 0.99
# Of its own size that it holds at most while it updates, and those of them that may lie on disk.
PICTURES = 8
ON_DISK = 4


class State(NamedTuple):
    """`mean`, `square` and `average` are (1, h, w, 3) like `image`, the rest scalars."""

    image: Any
    loss: Any
    accepted: Any
    moved: Any
    mean: Any
    square: Any
    average: Any
    step: Any
    learning_rate: Any
    clip: Any


def init(ops: Any, image: Any, *, clip: bool = False, learning_rate: float = 0.02) -> State:
    """The state before the first evaluation; `clip` keeps every pixel in [0, 1]."""
    zeros = ops.zeros_like(image)
    return State(
        image=image,
        loss=ops.full((), float("inf"), dtype=image.dtype),
        accepted=ops.full((), False, dtype="bool"),
        moved=ops.zeros((), dtype=image.dtype),
        mean=zeros,
        square=zeros,
        average=zeros,
        step=ops.zeros((), dtype=image.dtype),
        learning_rate=ops.full((), learning_rate, dtype=image.dtype),
        clip=ops.full((), clip, dtype="bool"),
    )


def update(ops: Any, state: State, loss: Any, gradient: Any) -> State:
    """One step of Adam from loss and gradient at `state.image`."""
    step = state.step + 1.0
    mean = _FIRST * state.mean + (1 - _FIRST) * gradient
    square = _SECOND * state.square + (1 - _SECOND) * ops.square(gradient)
    corrected = mean / (1 - _FIRST**step)
    spread = ops.sqrt(square / (1 - _SECOND**step))
    image = state.image - state.learning_rate * corrected / (spread + _EPSILON)
    image = ops.where(state.clip, ops.clip(image, 0.0, 1.0), image)
    # A picture that is not finite must not pass for one with a finite loss.
    finite = ops.isfinite(ops.sum(ops.abs(image)))
    new = state._replace(
        image=image,
        loss=ops.where(finite, loss, float("nan")),
        accepted=ops.ones_like(state.accepted),
        mean=mean,
        square=square,
        average=_AVERAGE * state.average + (1 - _AVERAGE) * image,
        step=step,
    )
    return new._replace(moved=ops.sqrt(ops.mean(ops.square(result(ops, new) - result(ops, state)))))


def result(ops: Any, state: State) -> Any:
    """The average of the iterates so far; before the first step, the starting picture."""
    weight = 1 - _AVERAGE**state.step
    average = state.average / ops.maximum(weight, 1 - _AVERAGE)
    # The division may round an average of ones up.
    average = ops.where(state.clip, ops.clip(average, 0.0, 1.0), average)
    return ops.where(state.step > 0, average, state.image)
