"""L-BFGS (Nocedal and Wright 2006, algorithm 7.4) for pictures, written so that every step is one evaluation.

The line search is spread over the steps: an evaluation that decreases the loss moves the picture, one that does not
shortens the trial and keeps the picture, which so is always the best one seen. Where we differ from the
textbook and from `torch.optim.LBFGS`:

- the start: until a pair is known, the step is along the gradient with a length in grey levels, not in units of the
  gradient, and doubles while that works, whatever the loss's scale;
- the curvature guard is relative, s.y > GUARD |s| |y|, not an absolute threshold;
- with `clip`, trial pictures are projected on [0, 1], and pixels held at a bound leave the direction (Bertsekas 1982);
- the two-loop recursion runs on inner products (after Chen, Wang and Zhou 2014): four matrix products a step;
- its first guess of the inverse Hessian may depend on colour and frequency (`stylekeras/spectrum.py`), not only on the
  last pair.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stylekeras import spectrum

HISTORY = 12
GUARD = 1e-4
# Root mean square change of the first step, in units of the picture's range: about one grey level.
FIRST_LENGTH = 0.004
# Rejected trials in a row after which the history is forgotten.
PATIENCE = 6


class State(NamedTuple):
    """`image`, `base`, `gradient`, `direction` are (1, h, w, 3); `steps` and `changes` (history, 1, h, w, 3), oldest
    first; `steps_changes[i, j]` = steps[i] . changes[j]; `response` (2, h, w, 1) is the first guess P of the inverse
    Hessian, up to the factor `scale`, or 0 where that is the unit matrix; the rest scalars. A pair whose curvature
    `steps_changes[i, i]` is 0 is empty."""

    image: Any
    loss: Any
    accepted: Any
    base: Any
    gradient: Any
    direction: Any
    length: Any
    first_length: Any
    rejections: Any
    steps: Any
    changes: Any
    steps_changes: Any
    scale: Any
    response: Any
    clip: Any


def init(
    ops: Any,
    image: Any,
    *,
    clip: bool = False,
    history: int = HISTORY,
    curvature: spectrum.Curvature | None = None,
) -> State:
    """The state before the first evaluation; `clip` keeps every pixel in [0, 1], `curvature` is what to start from."""
    dtype = image.dtype
    zeros = ops.zeros_like(image)
    pairs = ops.stack([zeros] * history)
    response = np.zeros((2, 1, 1, 1)) if curvature is None else curvature.response(*image.shape[1:3])
    return State(
        image=image,
        loss=ops.full((), float("inf"), dtype=dtype),
        accepted=ops.full((), False, dtype="bool"),
        base=image,
        gradient=zeros,
        direction=zeros,
        length=ops.ones((), dtype=dtype),
        first_length=ops.full((), FIRST_LENGTH, dtype=dtype),
        rejections=ops.zeros((), dtype=dtype),
        steps=pairs,
        changes=pairs,
        steps_changes=ops.zeros((history, history), dtype=dtype),
        scale=ops.ones((), dtype=dtype),
        response=ops.cast(response, dtype),
        clip=ops.full((), clip, dtype="bool"),
    )


def update(ops: Any, state: State, loss: Any, gradient: Any) -> State:
    """Take or reject the trial `state.image`, given its loss and gradient, and set the next trial."""
    step = state.image - state.base
    change = gradient - state.gradient
    # Not above 0: the projection on [0, 1] may turn a trial uphill.
    expected = ops.minimum(ops.sum(step * state.gradient), 0.0)
    first = ops.logical_not(ops.isfinite(state.loss))
    finite = ops.logical_and(ops.isfinite(loss), ops.isfinite(ops.sum(ops.abs(gradient))))
    # Any decrease, not a share of the slope (Armijo): what is lower is never thrown away.
    accepted = ops.logical_and(finite, ops.logical_or(first, loss < state.loss))

    def taken(new: Any, old: Any) -> Any:
        return ops.where(accepted, new, old)

    base, base_gradient = taken(state.image, state.base), taken(gradient, state.gradient)
    clear = ops.logical_and(ops.logical_not(accepted), state.rejections >= PATIENCE)
    history = _remember(ops, state, step, change, ops.logical_and(accepted, ops.logical_not(first)), clear)
    any_pair = ops.max(history.steps_changes) > 0
    first_length = state.first_length * ops.where(
        ops.logical_and(accepted, ops.logical_and(ops.logical_not(first), ops.logical_not(any_pair))), 2.0, 1.0
    )
    first_length = ops.where(clear, FIRST_LENGTH, first_length)

    free = _free(ops, base, base_gradient, state.clip)
    new_direction = _direction(ops, history, base_gradient * free, any_pair, first_length) * free
    fresh = ops.logical_or(accepted, clear)
    direction = ops.where(fresh, new_direction, state.direction)
    # The minimum of the parabola through the base's loss and slope and the trial's loss, kept within [0.1, 0.5].
    rise = ops.where(finite, loss - state.loss - expected, 1.0)
    shorter = ops.where(finite, ops.clip(-0.5 * expected / ops.maximum(rise, 1e-30), 0.1, 0.5), 0.1)
    length = ops.where(fresh, 1.0, state.length * shorter)
    trial = base + length * direction
    return history._replace(
        image=ops.where(state.clip, ops.clip(trial, 0.0, 1.0), trial),
        loss=taken(loss, state.loss),
        accepted=accepted,
        base=base,
        gradient=base_gradient,
        direction=direction,
        length=length,
        first_length=first_length,
        rejections=ops.where(fresh, 0.0, state.rejections + 1.0),
    )


def result(ops: Any, state: State) -> Any:
    """The best picture seen."""
    return state.base


def _free(ops: Any, image: Any, gradient: Any, clip: Any) -> Any:
    """1 where a pixel may move, 0 where it lies on a bound of [0, 1] and would be pushed out."""
    held = ops.logical_or(ops.logical_and(image <= 0.0, gradient > 0.0), ops.logical_and(image >= 1.0, gradient < 0.0))
    return ops.where(ops.logical_and(clip, held), 0.0, 1.0)


def _remember(ops: Any, state: State, step: Any, change: Any, moved: Any, clear: Any) -> State:
    """Append the pair (step, change) if the picture moved along positive curvature; forget all if `clear`."""
    curvature = ops.sum(step * change)
    sizes = ops.sqrt(ops.sum(ops.square(step)) * ops.sum(ops.square(change)))
    good = ops.logical_and(moved, curvature > GUARD * sizes)

    def appended() -> tuple[Any, ...]:
        steps = ops.concatenate([state.steps[1:], step[None]])
        changes = ops.concatenate([state.changes[1:], change[None]])
        column = _dot(ops, steps, change)
        row = _dot(ops, changes, step)
        scale = curvature / ops.cond(
            _shaped(ops, state),
            lambda: spectrum.energy(ops, state.response, change),
            lambda: ops.sum(ops.square(change)),
        )
        return steps, changes, _border(ops, state.steps_changes[1:, 1:], column, row), scale

    # A condition, not a choice: the history is most of the memory, and is not copied where it stays as it is.
    steps, changes, steps_changes, scale = ops.cond(
        good, appended, lambda: (state.steps, state.changes, state.steps_changes, state.scale)
    )
    return state._replace(
        steps=steps,
        changes=changes,
        steps_changes=ops.where(clear, 0.0, steps_changes),
        scale=scale,
    )


def _first_guess(ops: Any, state: State, image: Any) -> Any:
    """P image."""
    return ops.cond(_shaped(ops, state), lambda: spectrum.flatten(ops, state.response, image), lambda: image)


def _shaped(ops: Any, state: State) -> Any:
    """Whether P is not the unit matrix."""
    return ops.max(state.response) > 0


def _direction(ops: Any, state: State, gradient: Any, any_pair: Any, first_length: Any) -> Any:
    """-H gradient by the two-loop recursion on coefficients of the pairs; along -P gradient while there is no pair."""
    count = state.steps_changes.shape[0]
    curvature = [state.steps_changes[i, i] for i in range(count)]
    # An empty pair has curvature 0 and drops out of both loops.
    inverse = [ops.where(c > 0, 1.0 / ops.where(c > 0, c, 1.0), 0.0) for c in curvature]
    steps_gradient = _dot(ops, state.steps, gradient)

    zero = ops.zeros_like(state.scale)
    alpha = [zero] * count
    for i in reversed(range(count)):
        alpha[i] = inverse[i] * (steps_gradient[i] - ops.sum(ops.stack(alpha) * state.steps_changes[i]))
    guess = _first_guess(ops, state, gradient - _mix(ops, ops.stack(alpha), state.changes))
    newton = state.scale * guess
    remaining = _dot(ops, state.changes, newton)
    gamma = [zero] * count
    for i in range(count):
        beta = inverse[i] * (remaining[i] + ops.sum(ops.stack(gamma) * state.steps_changes[:, i]))
        gamma[i] = ops.where(inverse[i] > 0, alpha[i] - beta, 0.0)

    newton = newton + _mix(ops, ops.stack(gamma), state.steps)
    # Without a pair all coefficients are 0, and `guess` is P gradient.
    steepest = ops.where(any_pair, gradient, guess)
    norm = ops.sqrt(ops.sum(ops.square(steepest)))
    root_count = ops.sqrt(ops.sum(ops.ones_like(gradient)))
    steepest = steepest * (first_length * root_count / ops.maximum(norm, 1e-30))
    downhill = ops.sum(newton * gradient) > 0
    return -ops.where(ops.logical_and(any_pair, downhill), newton, steepest)


def _border(ops: Any, block: Any, column: Any, row: Any) -> Any:
    """The (m-1, m-1) block with a last column and row (m,) each, which agree in their last element."""
    wide = ops.concatenate([block, column[:-1, None]], axis=1)
    return ops.concatenate([wide, row[None]], axis=0)


def _dot(ops: Any, pairs: Any, vector: Any) -> Any:
    """(m, ...) . (...) -> (m,)."""
    count = pairs.shape[0]
    return ops.reshape(ops.matmul(ops.reshape(pairs, (count, -1)), ops.reshape(vector, (-1, 1))), (count,))


def _mix(ops: Any, coefficients: Any, pairs: Any) -> Any:
    """(m,) and (m, ...) -> (...)."""
    count = pairs.shape[0]
    mixed = ops.matmul(ops.reshape(coefficients, (1, count)), ops.reshape(pairs, (count, -1)))
    return ops.reshape(mixed, ops.shape(pairs)[1:])
