"""Pools of 2x2 positions and their gradients, in float32 or bfloat16 with channels last, as machine code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from stylekeras.native import writer
from stylekeras.native.writer import FLOAT, HALF, INT, POINTER, Function, once

# Of the parameters of functions.
_C = {"ptr": ctypes.c_void_p, "float": ctypes.c_float, "i64": ctypes.c_int64}
_WINDOW = ((0, 0), (0, 1), (1, 0), (1, 1))
# By what share features in float32 differ at most that are the same but for rounding.
_SAME = 1e-5


class Code:
    """Machine code of pools and their gradients, of numbers of `size` bytes: 4, float32, or 2, bfloat16.

    Each is called with addresses and with 64 bit integers: `rows` and columns (`across`) of the pool's result to do,
    `channels`, a multiple of `step`, and how many bytes rows of the features are apart (`down`).

    largest, mean: `(features, result, rows, across, channels, down)`.
    winners: `(features, gradient, result, least, rows, across, channels, down)`. Of the gradient of `largest` that in
        the features, as many as it looks at: it goes to the first of the largest of a window, if that is larger than
        `least`, a float32.
    repeated: `(gradient, result, rows, across, channels, down)`: to all of a window; `down` says nothing here.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.step = writer.shape().width
        self.largest = self._pool(_most)
        self.mean = self._pool(_mean)
        self.winners = self._winners()
        self.repeated = self._repeated()

    def _pool(self, of: Callable[[Function, list[Any]], Any]) -> Callable[..., None]:
        f = self._begun("features", "result")
        with self._loops(f) as (row, column, channel):
            found = of(f, self._window(f, row, column, channel))
            bits = f.bits(found) if self.size == 2 else found
            f.write.store(bits, f.byte(f.given["result"], self._pooled(f, row, column, channel)), align=self.size)
        return _done(f)

    def _winners(self) -> Callable[..., None]:
        f = self._begun("features", "gradient", "result", "least")
        write, nothing, least = f.write, ir.Constant(self._kind, [0] * self.step), f.spread(f.given["least"])
        with self._loops(f) as (row, column, channel):
            window = self._window(f, row, column, channel)
            most = _most(f, window)
            gradient = self._loaded(f, "gradient", self._pooled(f, row, column, channel))
            gradient = write.select(write.fcmp_ordered(">", most, least), gradient, nothing)
            wins = _first_but_for_rounding(f, window) if self.size == 4 else _first(f, window, most)
            for place, mine in zip(_WINDOW, wins, strict=True):
                self._store(f, write.select(mine, gradient, nothing), row, column, channel, *place)
        return _done(f)

    def _repeated(self) -> Callable[..., None]:
        f = self._begun("gradient", "result")
        with self._loops(f) as (row, column, channel):
            gradient = self._loaded(f, "gradient", self._pooled(f, row, column, channel))
            for place in _WINDOW:
                self._store(f, gradient, row, column, channel, *place)
        return _done(f)

    @property
    def _kind(self) -> Any:
        return ir.VectorType(HALF if self.size == 2 else FLOAT, self.step)

    def _begun(self, *names: str) -> Function:
        kinds: dict[str, Any] = {name: FLOAT if name == "least" else POINTER for name in names}
        kinds |= dict.fromkeys(("rows", "across", "channels", "down"), INT)
        return Function(ir.Module("pool"), writer.shape(), "run", kinds)

    @contextmanager
    def _loops(self, f: Function) -> Iterator[tuple[Any, Any, Any]]:
        ends = (f.given[name] for name in ("rows", "across", "channels"))
        with f.loop(next(ends)) as row, f.loop(next(ends)) as column, f.loop(next(ends), self.step) as channel:
            yield row, column, channel

    def _window(self, f: Function, row: Any, column: Any, channel: Any) -> list[Any]:
        """The features that a position of the pool looks at, in float32."""
        found = []
        for i, j in _WINDOW:
            position = f.times(f.total(f.times(2, column), j), f.given["channels"])
            start = f.times(f.total(f.times(2, row), i), f.given["down"])
            place = f.total(start, f.times(self.size, f.total(position, channel)))
            found.append(self._loaded(f, "features", place))
        return [f.numbers(each) for each in found] if self.size == 2 else found

    def _pooled(self, f: Function, row: Any, column: Any, channel: Any) -> Any:
        """Where a position of the pool is, in bytes."""
        position = f.total(f.times(row, f.given["across"]), column)
        return f.times(self.size, f.total(f.times(position, f.given["channels"]), channel))

    def _store(self, f: Function, value: Any, row: Any, column: Any, channel: Any, i: int, j: int) -> None:
        """In the result, at one of the positions that a position of the pool looks at."""
        wide = f.times(2, f.given["across"])
        position = f.total(f.times(f.total(f.times(2, row), i), wide), f.times(2, column), j)
        to = f.times(self.size, f.total(f.times(position, f.given["channels"]), channel))
        f.write.store(value, f.byte(f.given["result"], to), align=self.size)

    def _loaded(self, f: Function, name: str, place: Any) -> Any:
        return f.write.load(f.byte(f.given[name], place), align=self.size, typ=self._kind)


@once
def compiled(size: int) -> Code:
    """The code for this processor, compiled when it is first asked for."""
    return Code(size)


def _done(f: Function) -> Callable[..., None]:
    f.write.ret_void()
    kinds = [_C[str(each.type)] for each in f.function.args]
    return writer.compiled(f.function.module, "run", *kinds)


def _first(f: Function, window: list[Any], most: Any) -> list[Any]:
    """Whether each of a window's numbers is the first that is the largest."""
    found: list[Any] = []
    taken: Any = None
    for value in window:
        equal = f.write.fcmp_ordered("==", value, most)
        found.append(equal if taken is None else f.write.and_(equal, f.write.not_(taken)))
        taken = equal if taken is None else f.write.or_(taken, equal)
    return found


def _first_but_for_rounding(f: Function, window: list[Any]) -> list[Any]:
    """Likewise, of features whose positions round differently, as those of a tile of Winograd's algorithm do.

    Which of equal features is the largest would be chance, in flat areas everywhere, where other engines take the
    first. So columns that are the same in both rows, but for rounding, count as equal, and so do rows; by chance that
    is as good as never so.
    """
    write, (a, b, c, d) = f.write, window

    def at_least(one: Any, other: Any) -> Any:
        return write.fcmp_ordered(">=", one, other)

    def larger(one: Any, other: Any) -> Any:
        return write.select(at_least(one, other), one, other)

    above, below = larger(a, b), larger(c, d)
    off = write.fmul(larger(above, below), f.constant(_SAME))

    def same(one: Any, other: Any) -> Any:
        return write.and_(at_least(off, write.fsub(one, other)), at_least(off, write.fsub(other, one)))

    columns, rows = write.and_(same(a, b), same(c, d)), write.and_(same(a, c), same(b, d))
    first_row = write.or_(at_least(above, below), rows)
    # Of the row that has it.
    left_first = write.select(first_row, at_least(a, b), at_least(c, d))
    first_column = write.or_(left_first, columns)
    other_row, other_column = write.not_(first_row), write.not_(first_column)
    return [write.and_(row, column) for row in (first_row, other_row) for column in (first_column, other_column)]


def _most(f: Function, values: list[Any]) -> Any:
    """The largest of each place; what is not a number stays that."""
    found = values[0]
    for value in values[1:]:
        # What is not a number is not ordered with itself either.
        larger = f.write.or_(f.write.fcmp_ordered(">", value, found), f.write.fcmp_unordered("uno", value, value))
        found = f.write.select(larger, value, found)
    return found


def _mean(f: Function, values: list[Any]) -> Any:
    write = f.write
    return write.fmul(write.fadd(write.fadd(*values[:2]), write.fadd(*values[2:])), f.constant(0.25))
