"""Pooling by the largest of 2x2 positions, and its gradient, in bfloat16 with channels last, as machine code."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from stylekeras.native import writer
from stylekeras.native.tiles import HALF, ROWS, WORD, TileFunction
from stylekeras.native.writer import FLOAT, INT, POINTER

# Channels at a time.
STEP = ROWS
_WORDS, _HALVES, _FLOATS = (ir.VectorType(kind, STEP) for kind in (WORD, HALF, FLOAT))
_WINDOW = ((0, 0), (0, 1), (1, 0), (1, 1))


@functools.cache
def largest() -> Callable[..., None]:
    """`run(features, result, rows, across, channels, down)`: addresses and 64 bit integers.

    `rows` (across, channels) of the result, of twice as many rows of features, which are `down` bytes apart; channels
    are a multiple of `STEP`.
    """
    module, kinds = ir.Module("pool"), {"features": POINTER, "result": POINTER}
    f, write, at = _begun(module, kinds)
    with _loops(f) as (row, column, channel):
        window = [_number(f, _loaded(f, "features", at(row, column, channel, *each))) for each in _WINDOW]
        bits = write.lshr(write.bitcast(_most(f, window), _WORDS), ir.Constant(_WORDS, [16] * STEP))
        write.store(write.trunc(bits, _HALVES), f.byte(f.given["result"], _pooled(f, row, column, channel)), align=2)
    write.ret_void()
    return writer.compiled(module, "run", *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 4)


@functools.cache
def winners() -> Callable[..., None]:
    """`run(features, gradient, result, least, rows, across, channels, down)`: as `largest`.

    Of `rows` of the pool's gradient those of the features, as many as pooling looks at: it goes to the first of the
    largest of a window, if that is larger than `least`, a float32.
    """
    module, kinds = ir.Module("pool"), {"features": POINTER, "gradient": POINTER, "result": POINTER, "least": FLOAT}
    f, write, at = _begun(module, kinds)
    least = f.spread(f.given["least"])
    with _loops(f) as (row, column, channel):
        window = [_number(f, _loaded(f, "features", at(row, column, channel, *each))) for each in _WINDOW]
        gradient = _loaded(f, "gradient", _pooled(f, row, column, channel))
        most, nothing = _most(f, window), ir.Constant(_HALVES, [0] * STEP)
        gradient = write.select(write.fcmp_ordered(">", most, least), gradient, nothing)
        taken: Any = None
        wide = f.times(2, f.given["across"])
        for (i, j), value in zip(_WINDOW, window, strict=True):
            equal = write.fcmp_ordered("==", value, most)
            wins = equal if taken is None else write.and_(equal, write.not_(taken))
            taken = equal if taken is None else write.or_(taken, equal)
            position = f.total(f.times(f.total(f.times(2, row), i), wide), f.times(2, column), j)
            to = f.times(2, f.total(f.times(position, f.given["channels"]), channel))
            write.store(write.select(wins, gradient, nothing), f.byte(f.given["result"], to), align=2)
    write.ret_void()
    return writer.compiled(module, "run", *[ctypes.c_void_p] * 3, ctypes.c_float, *[ctypes.c_int64] * 4)


def _begun(module: ir.Module, kinds: dict[str, Any]) -> Any:
    """A function, what writes it, and where a position of a window is."""
    numbers = dict.fromkeys(("rows", "across", "channels", "down"), INT)
    f = TileFunction(module, "run", kinds | numbers, imitated=False)

    def at(row: Any, column: Any, channel: Any, i: int, j: int) -> Any:
        position = f.times(f.total(f.times(2, column), j), f.given["channels"])
        return f.total(f.times(f.total(f.times(2, row), i), f.given["down"]), f.times(2, f.total(position, channel)))

    return f, f.write, at


@contextmanager
def _loops(f: TileFunction) -> Iterator[tuple[Any, Any, Any]]:
    given = f.given
    with f.loop(given["rows"]) as row, f.loop(given["across"]) as column, f.loop(given["channels"], STEP) as channel:
        yield row, column, channel


def _pooled(f: TileFunction, row: Any, column: Any, channel: Any) -> Any:
    """Where a position of the pool is, in bytes."""
    position = f.total(f.times(row, f.given["across"]), column)
    return f.times(2, f.total(f.times(position, f.given["channels"]), channel))


def _loaded(f: TileFunction, name: str, place: Any) -> Any:
    return f.write.load(f.byte(f.given[name], place), align=2, typ=_HALVES)


def _number(f: TileFunction, bits: Any) -> Any:
    """bfloat16 in float32."""
    wide = f.write.shl(f.write.zext(bits, _WORDS), ir.Constant(_WORDS, [16] * STEP))
    return f.write.bitcast(wide, _FLOATS)


def _most(f: TileFunction, values: list[Any]) -> Any:
    """The largest of each place; what is not a number stays that."""
    found = values[0]
    for value in values[1:]:
        found = f.write.select(f.write.fcmp_unordered(">", value, found), value, found)
    return found
