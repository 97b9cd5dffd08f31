"""L-BFGS (Nocedal and Wright 2006, algorithm 7.4) for pictures, written so that every step is one evaluation.

The line search is spread over the steps: an evaluation that decreases the loss moves the picture, one that does not
shortens the trial and keeps the picture, which so is always the best one seen. Where we differ from the
textbook and from `torch.optim.LBFGS`:

- the start: until a pair is known, the step is along the gradient with a length in grey levels, not in units of the
  gradient, and doubles while that works, whatever the loss's scale;
- the curvature guard is relative, s.y > GUARD |s| |y|, not an absolute threshold;
- with `clip`, trial pictures are projected on [0, 1], and pixels held at a bound leave the direction (Bertsekas 1982);
- its first guess P of the inverse Hessian may depend on colour and frequency (`stylekeras/spectrum.py`), not only on
  the last pair;
- the two-loop recursion runs on inner products (after Chen, Wang and Zhou 2014). Of the changes y of the gradient only
  P y is kept: then a step passes over the history twice, for its inner products with the gradient and its change and
  for the direction, and applies P once (with `clip` twice).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stylekeras import spectrum

HISTORY = 12
# Of its own size that it holds at most while it updates, and those of them that may lie on disk.
PICTURES = 2 * HISTORY + 11
ON_DISK = 2 * HISTORY + 7
# The cosine of a pair's angle; of real ones it was never below 0.03 in hundreds of steps, of rounding noise in bfloat16
# up to 0.015.
GUARD = 0.02
# Root mean square change of the first step, in units of the picture's range: about one grey level.
FIRST_LENGTH = 0.004
# Rejected trials in a row after which the history is forgotten.
PATIENCE = 6


class State(NamedTuple):
    """What L-BFGS knows. A pair is a step s of the picture and the change y of the gradient that came with it.

    `image`, `base`, `gradient`, `direction` and `flat` = P gradient are (1, h, w, 3); `steps` and `flats`
    (history, 1, h, w, 3) the s and P y, oldest first, with NumPy a tuple of pictures; `steps_changes[i, j]` is
    s[i] . y[j] for i <= j, `flats_changes[i, j]` P y[i] . y[j]; `response` (2, h, w, 1) is P, or 0 where that is the
    unit matrix; the rest scalars. A pair whose curvature `steps_changes[i, i]` is 0 is empty.
    """

    image: Any
    loss: Any
    accepted: Any
    moved: Any
    base: Any
    gradient: Any
    flat: Any
    direction: Any
    length: Any
    first_length: Any
    rejections: Any
    steps: Any
    flats: Any
    steps_changes: Any
    flats_changes: Any
    response: Any
    clip: Any


def init(
    ops: Any,
    image: Any,
    *,
    clip: bool = False,
    history: int = HISTORY,
    curvature: spectrum.Curvature | None = None,
    toward: Any = None,
) -> State:
    """The state before the first evaluation.

    `clip` keeps every pixel in [0, 1]; `curvature` is what to start from; `toward` is a picture (1, h, w, 3) to try
    second, if the loss falls in its direction.
    """
    dtype = image.dtype
    zeros = ops.zeros_like(image)
    pairs = _no_history(ops, image, history)
    response = np.zeros((2, 1, 1, 1)) if curvature is None else curvature.response(*image.shape[1:3])
    return State(
        image=image,
        loss=ops.full((), float("inf"), dtype=dtype),
        accepted=ops.full((), False, dtype="bool"),
        moved=ops.zeros((), dtype=dtype),
        base=image,
        gradient=zeros,
        flat=zeros,
        direction=zeros if toward is None else toward - image,
        length=ops.ones((), dtype=dtype),
        first_length=ops.full((), FIRST_LENGTH, dtype=dtype),
        rejections=ops.zeros((), dtype=dtype),
        steps=pairs,
        flats=pairs,
        steps_changes=ops.zeros((history, history), dtype=dtype),
        flats_changes=ops.zeros((history, history), dtype=dtype),
        response=ops.cast(response, dtype),
        clip=ops.full((), clip, dtype="bool"),
    )


def update(ops: Any, state: State, loss: Any, gradient: Any) -> State:
    """Take or reject the trial `state.image`, given its loss and gradient, and set the next trial."""
    expected, length = _tried(ops, state)
    first = ops.logical_not(ops.isfinite(state.loss))
    finite = ops.logical_and(ops.isfinite(loss), ops.isfinite(ops.sum(ops.abs(gradient))))
    # Any decrease, not a share of the slope (Armijo): what is lower is never thrown away.
    accepted = ops.logical_and(finite, ops.logical_or(first, loss < state.loss))
    clear = ops.logical_and(ops.logical_not(accepted), state.rejections >= PATIENCE)
    fresh = ops.logical_or(accepted, clear)
    moved = ops.logical_and(accepted, ops.logical_not(first))
    now = _turned(ops, state, gradient, first, accepted, clear)
    # The minimum of the parabola through the base's loss and slope and the trial's loss, kept within [0.1, 0.5].
    rise = ops.where(finite, loss - state.loss - expected, 1.0)
    shorter = ops.where(finite, ops.clip(-0.5 * expected / ops.maximum(rise, 1e-30), 0.1, 0.5), 0.1)
    share = ops.where(fresh, 1.0, state.length * shorter)
    trial = now.base + share * now.direction
    return now._replace(
        image=ops.cond(state.clip, lambda: ops.clip(trial, 0.0, 1.0), lambda: trial),
        loss=ops.where(accepted, loss, state.loss),
        accepted=accepted,
        moved=ops.where(moved, length, 0.0),
        length=share,
        rejections=ops.where(fresh, 0.0, state.rejections + 1.0),
    )


# Pictures may be as large as memory: these functions end where what they hold is no longer needed.


def _tried(ops: Any, state: State) -> tuple[Any, Any]:
    """Of the step to the trial, what its slope promised of the loss, and its length (root mean square)."""
    step = state.image - state.base
    # Not above 0: the projection on [0, 1] may turn a trial uphill.
    return ops.minimum(_dot(ops, step, state.gradient), 0.0), _length(ops, step)


def _turned(ops: Any, state: State, gradient: Any, first: Any, accepted: Any, clear: Any) -> State:
    """The state with the base and the history after an evaluation, and the direction from there."""
    fresh, moved = ops.logical_or(accepted, clear), ops.logical_and(accepted, ops.logical_not(first))
    base = ops.where(accepted, state.image, state.base)
    base_gradient = ops.where(accepted, gradient, state.gradient)
    flat = ops.cond(accepted, lambda: _flatten(ops, state, gradient), lambda: state.flat)
    free = ops.cond(state.clip, lambda: _free(ops, base, base_gradient), lambda: ops.ones_like(base, dtype="bool"))

    def moving(picture: Any) -> Any:
        return ops.cond(state.clip, lambda: ops.where(free, picture, 0.0), lambda: picture)

    slope = moving(base_gradient)
    history, along = _remember(ops, state, gradient, flat, slope, moved, clear)
    any_pair = ops.max(history.steps_changes) > 0
    first_length = state.first_length * ops.where(ops.logical_and(moved, ops.logical_not(any_pair)), 2.0, 1.0)
    first_length = ops.where(clear, FIRST_LENGTH, first_length)
    now = history._replace(base=base, gradient=base_gradient, flat=flat, first_length=first_length)

    told = ops.cond(first, lambda: _dot(ops, state.direction, slope) < 0, lambda: first)
    keep = ops.logical_or(told, ops.logical_not(fresh))

    def turned() -> Any:
        # A pixel that is held stays, whatever the history says.
        return moving(_direction(ops, now, slope, along, any_pair))

    return now._replace(direction=ops.cond(keep, lambda: state.direction, turned))


def result(ops: Any, state: State) -> Any:
    """The best picture seen."""
    return state.base


def _free(ops: Any, image: Any, gradient: Any) -> Any:
    """Whether a pixel may move, and does not lie on a bound of [0, 1] and would be pushed out."""
    held = ops.logical_or(ops.logical_and(image <= 0.0, gradient > 0.0), ops.logical_and(image >= 1.0, gradient < 0.0))
    return ops.logical_not(held)


def _flatten(ops: Any, state: State, gradient: Any) -> Any:
    """P gradient."""
    if tuple(state.response.shape[1:3]) == (1, 1):
        return gradient
    shaped = ops.max(state.response) > 0
    return ops.cond(shaped, lambda: spectrum.flatten(ops, state.response, gradient), lambda: gradient)


def _remember(
    ops: Any, state: State, gradient: Any, flat: Any, slope: Any, moved: Any, clear: Any
) -> tuple[State, tuple[Any, Any]]:
    """Append the step to `state.image`, where the gradient is `gradient` and P times it `flat`, and what changed there,
    if the picture moved along positive curvature; forget all if `clear`.

    Returns: the state, and the inner products of its steps and of its flats with `slope`.
    """
    step, change = state.image - state.base, gradient - state.gradient
    curvature = _dot(ops, step, change)
    sizes = ops.sqrt(_dot(ops, step, step) * _dot(ops, change, change))
    good = ops.logical_and(moved, curvature > GUARD * sizes)

    steps, flats = _append(ops, state.steps, step, good), _append(ops, state.flats, flat - state.flat, good)
    above, steps_slope = _dots(ops, steps, change, slope)
    square, flats_slope = _dots(ops, flats, change, slope)
    steps_changes = _border(ops, state.steps_changes, above, ops.zeros_like(above))
    flats_changes = _border(ops, state.flats_changes, square, square)
    state = state._replace(
        steps=steps,
        flats=flats,
        steps_changes=ops.where(clear, 0.0, ops.where(good, steps_changes, state.steps_changes)),
        flats_changes=ops.where(good, flats_changes, state.flats_changes),
    )
    return state, (steps_slope, flats_slope)


def _direction(ops: Any, state: State, slope: Any, along: tuple[Any, Any], any_pair: Any) -> Any:
    """-H slope by the two-loop recursion on coefficients of the pairs; along -P slope while there is no pair.

    With q = slope - sum alpha y, all that the second loop needs of P q is y . P q = P y . slope - sum alpha (y . P y).
    """
    steps_slope, flats_slope = along
    count = state.steps_changes.shape[0]
    unit = ops.eye(count, dtype=slope.dtype)
    curvature = ops.sum(state.steps_changes * unit, axis=1)
    # An empty pair has curvature 0 and drops out of both loops.
    there = ops.cast(curvature > 0, slope.dtype)
    # Of the last pair, which is there if any is.
    square = state.flats_changes[count - 1, count - 1]
    scale = ops.where(any_pair, curvature[count - 1] / ops.where(any_pair, square, 1.0), 1.0)

    # Each loop is a triangular system.
    above = there[:, None] * state.steps_changes * there[None, :] + (1.0 - there)[:, None] * unit
    alphas = ops.solve_triangular(above, (there * steps_slope)[:, None])[:, 0]
    remaining = scale * (flats_slope - ops.sum(state.flats_changes * alphas[None, :], axis=1))
    known = remaining + ops.sum((above - curvature[:, None] * unit) * alphas[:, None], axis=0)
    betas = ops.solve_triangular(ops.transpose(above), (there * known)[:, None], lower=True)[:, 0]
    gammas = there * (alphas - betas)

    flat = ops.cond(state.clip, lambda: _flatten(ops, state, slope), lambda: state.flat)
    # Minus H slope; while there is no pair all other coefficients are 0 and this is -P slope.
    newton = _mix(ops, -scale, flat, ((scale * alphas, state.flats), (-gammas, state.steps)))
    downhill = ops.logical_and(any_pair, _dot(ops, newton, slope) < 0)
    return ops.cond(downhill, lambda: newton, lambda: _of_first_length(ops, state, ops.where(any_pair, -slope, newton)))


def _of_first_length(ops: Any, state: State, direction: Any) -> Any:
    """A direction, as long as the first step."""
    # The mean of nothing but zeros is no length.
    return direction * (state.first_length / ops.maximum(_length(ops, direction), 1e-30))


def _length(ops: Any, picture: Any) -> Any:
    """Root mean square of a picture's values."""
    if hasattr(ops, "inner_product"):
        return ops.sqrt(ops.inner_product(picture, picture) / picture.size)
    return ops.sqrt(ops.mean(ops.square(picture)))


def _border(ops: Any, matrix: Any, column: Any, row: Any) -> Any:
    """An (m, m) matrix without its first row and column, with a last column and row (m,) that agree at their end."""
    wide = ops.concatenate([matrix[1:, 1:], column[:-1, None]], axis=1)
    return ops.concatenate([wide, ops.concatenate([row[:-1], column[-1:]])[None]])


# How pictures and a history are used; a namespace that has a better way says so.


def _dot(ops: Any, x: Any, y: Any) -> Any:
    """(...) . (...) -> ()."""
    return ops.inner_product(x, y) if hasattr(ops, "inner_product") else ops.sum(x * y)


def _no_history(ops: Any, image: Any, count: int) -> Any:
    """Zeros."""
    if hasattr(ops, "no_history"):
        return ops.no_history(image, count)
    return ops.zeros((count, *image.shape), dtype=image.dtype)


def _append(ops: Any, pairs: Any, picture: Any, wanted: Any) -> Any:
    """Without the oldest and with a new one, if that is wanted."""
    if hasattr(ops, "remember"):
        return ops.remember(pairs, picture, wanted)
    # A condition, not a choice: the history is most of the memory, and is not copied where it stays as it is.
    return ops.cond(wanted, lambda: ops.concatenate([pairs[1:], picture[None]]), lambda: pairs)


def _dots(ops: Any, pairs: Any, *pictures: Any) -> Any:
    """(m, ...) . (...) -> (m,), for each picture."""
    if hasattr(ops, "inner_products"):
        return ops.inner_products(pairs, pictures)
    rows = ops.reshape(pairs, (pairs.shape[0], -1))
    return tuple(ops.matmul(rows, ops.reshape(picture, (-1, 1)))[:, 0] for picture in pictures)


def _mix(ops: Any, weight: Any, picture: Any, histories: Sequence[tuple[Any, Any]]) -> Any:
    """() times (...), and (m,) times (m, ...) for each history: (...)."""
    if hasattr(ops, "weighted_sum"):
        weights = ops.concatenate([weight[None], *(each for each, _ in histories)])
        return ops.weighted_sum(weights, [picture, *(each for _, history in histories for each in history)])
    found = weight * picture
    for weights, history in histories:
        found = found + _combination(ops, weights, history)
    return found


def _combination(ops: Any, weights: Any, pairs: Any) -> Any:
    """(m,) and (m, ...) -> (...)."""
    if hasattr(ops, "combination"):
        return ops.combination(weights, pairs)
    count = pairs.shape[0]
    mixed = ops.matmul(ops.reshape(weights, (1, count)), ops.reshape(pairs, (count, -1)))
    return ops.reshape(mixed, ops.shape(pairs)[1:])
