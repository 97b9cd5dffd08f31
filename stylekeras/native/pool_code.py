"""Pools of 2x2 positions and their gradients, in bfloat16 with channels last, as machine code."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from stylekeras.native import writer
from stylekeras.native.tiles import HALF, ROWS, TileFunction
from stylekeras.native.writer import FLOAT, INT, POINTER

# Channels at a time.
STEP = ROWS
_HALVES = ir.VectorType(HALF, STEP)
# Of the parameters of functions.
_C = {"ptr": ctypes.c_void_p, "float": ctypes.c_float, "i64": ctypes.c_int64}
_WINDOW = ((0, 0), (0, 1), (1, 0), (1, 1))


class Code:
    """Machine code of pools and their gradients.

    Each is called with addresses and with 64 bit integers: `rows` and columns (`across`) of the pool's result to do,
    `channels`, a multiple of `STEP`, and how many bytes rows of the features are apart (`down`).

    largest, mean: `(features, result, rows, across, channels, down)`.
    winners: `(features, gradient, result, least, rows, across, channels, down)`. Of the gradient of `largest` that in
        the features, as many as it looks at: it goes to the first of the largest of a window, if that is larger than
        `least`, a float32.
    repeated: `(gradient, result, rows, across, channels, down)`: to all of a window; `down` says nothing here.
    """

    def __init__(self) -> None:
        self.largest = _pool(_most)
        self.mean = _pool(_mean)
        self.winners = _winners()
        self.repeated = _repeated()


@functools.cache
def compiled() -> Code:
    """The code for this processor, compiled when it is first asked for."""
    return Code()


def _pool(of: Callable[[TileFunction, list[Any]], Any]) -> Callable[..., None]:
    f = _begun("features", "result")
    with _loops(f) as (row, column, channel):
        window = [f.numbers(each) for each in _window(f, row, column, channel)]
        f.write.store(f.bits(of(f, window)), f.byte(f.given["result"], _pooled(f, row, column, channel)), align=2)
    return _done(f)


def _winners() -> Callable[..., None]:
    f = _begun("features", "gradient", "result", "least")
    write, nothing, least = f.write, ir.Constant(_HALVES, [0] * STEP), f.spread(f.given["least"])
    with _loops(f) as (row, column, channel):
        window = [f.numbers(each) for each in _window(f, row, column, channel)]
        most = _most(f, window)
        gradient = _loaded(f, "gradient", _pooled(f, row, column, channel))
        gradient = write.select(write.fcmp_ordered(">", most, least), gradient, nothing)
        taken: Any = None
        for place, value in zip(_WINDOW, window, strict=True):
            equal = write.fcmp_ordered("==", value, most)
            wins = equal if taken is None else write.and_(equal, write.not_(taken))
            taken = equal if taken is None else write.or_(taken, equal)
            _store(f, write.select(wins, gradient, nothing), row, column, channel, *place)
    return _done(f)


def _repeated() -> Callable[..., None]:
    f = _begun("gradient", "result")
    with _loops(f) as (row, column, channel):
        gradient = _loaded(f, "gradient", _pooled(f, row, column, channel))
        for place in _WINDOW:
            _store(f, gradient, row, column, channel, *place)
    return _done(f)


def _begun(*names: str) -> TileFunction:
    kinds: dict[str, Any] = {name: FLOAT if name == "least" else POINTER for name in names}
    kinds |= dict.fromkeys(("rows", "across", "channels", "down"), INT)
    return TileFunction(ir.Module("pool"), "run", kinds, imitated=False)


def _done(f: TileFunction) -> Callable[..., None]:
    f.write.ret_void()
    kinds = [_C[str(each.type)] for each in f.function.args]
    return writer.compiled(f.function.module, "run", *kinds)


@contextmanager
def _loops(f: TileFunction) -> Iterator[tuple[Any, Any, Any]]:
    given = f.given
    with f.loop(given["rows"]) as row, f.loop(given["across"]) as column, f.loop(given["channels"], STEP) as channel:
        yield row, column, channel


def _window(f: TileFunction, row: Any, column: Any, channel: Any) -> list[Any]:
    """The features that a position of the pool looks at."""
    found = []
    for i, j in _WINDOW:
        position = f.times(f.total(f.times(2, column), j), f.given["channels"])
        start = f.times(f.total(f.times(2, row), i), f.given["down"])
        found.append(_loaded(f, "features", f.total(start, f.times(2, f.total(position, channel)))))
    return found


def _pooled(f: TileFunction, row: Any, column: Any, channel: Any) -> Any:
    """Where a position of the pool is, in bytes."""
    position = f.total(f.times(row, f.given["across"]), column)
    return f.times(2, f.total(f.times(position, f.given["channels"]), channel))


def _store(f: TileFunction, value: Any, row: Any, column: Any, channel: Any, i: int, j: int) -> None:
    """In the result, at one of the positions that a position of the pool looks at."""
    wide = f.times(2, f.given["across"])
    position = f.total(f.times(f.total(f.times(2, row), i), wide), f.times(2, column), j)
    to = f.times(2, f.total(f.times(position, f.given["channels"]), channel))
    f.write.store(value, f.byte(f.given["result"], to), align=2)


def _loaded(f: TileFunction, name: str, place: Any) -> Any:
    return f.write.load(f.byte(f.given[name], place), align=2, typ=_HALVES)


def _most(f: TileFunction, values: list[Any]) -> Any:
    """The largest of each place; what is not a number stays that."""
    found = values[0]
    for value in values[1:]:
        # What is not a number is not ordered with itself either.
        larger = f.write.or_(f.write.fcmp_ordered(">", value, found), f.write.fcmp_unordered("uno", value, value))
        found = f.write.select(larger, value, found)
    return found


def _mean(f: TileFunction, values: list[Any]) -> Any:
    write = f.write
    total = write.fadd(write.fadd(*values[:2]), write.fadd(*values[2:]))
    return write.fmul(total, ir.Constant(total.type, [0.25] * STEP))
