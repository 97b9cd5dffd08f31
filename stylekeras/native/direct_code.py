"""A convolution of 3x3 in bfloat16 as machine code for processors that multiply matrices (`tiles`).

Some rows of the picture are laid out so that all a tile takes lies in one piece, and stay in the second cache:

    fill        rows, with zeros around them, in groups of 32 channels: (groups, rows, columns, 32)
    products    for 32 channels out, of 32 positions one after the other, nine shifts of each group of channels
    finish      plus a bias and perhaps what is there to be added, at least a floor, 0 where a mask is not positive,
                rounded to bfloat16

Positions run on over the ends of rows, two columns more than the result has: those are left out when it is written. So
few of them are wasted however narrow a picture is. Four tiles hold sums, and two each the factors. Positions are
finished while the products of the next ones are made.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from llvmlite import ir

from stylekeras.native import writer
from stylekeras.native.tiles import BYTES, DEPTH, ROWS, TILE, TileFunction
from stylekeras.native.writer import FLOAT, HALF, INT, POINTER, WORD, once

# Channels at a time, in and out, and positions.
GROUP = DEPTH
STEP = 2 * ROWS
SIDE = 3
# What a run is told, in this order: height, width and channels of the picture, and channels out, both even numbers; the
# first row of the picture that it needs, and the column, both perhaps before its beginning; rows and columns that are
# laid out, and positions from one group of channels to the next; positions to be made, a multiple of STEP; the first
# group of channels out and the one after the last.
PLACES = (
    *("height", "width", "channels", "channels_out", "top", "left"),
    *("rows", "columns", "apart", "positions", "first", "last"),
)
# Tiles: of the sums, two by two, and of the factors.
_SUMS, _LEFT, _RIGHT = range(4), (4, 5), (6, 7)
_HALVES = ir.VectorType(HALF, ROWS)


class _Rounded(ir.types.Type):  # type: ignore[misc]
    """LLVM's name for bfloat16, which llvmlite has none for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rounded)

    def __hash__(self) -> int:
        return hash(_Rounded)


@once
def compiled(*, imitated: bool = False) -> Callable[..., None]:
    """`run(picture, kernels, bias, floor, added, mask, result, scratch, offsets, places)`: addresses, a float32 and,
    for `PLACES`, the address of 64 bit integers.

    Picture (height, width, channels) and result, (positions, channels out) somehow, are bfloat16; of each position that
    is computed `offsets` says where in the result it begins, in bytes, or -1. What is added and the mask are as the
    result, or nowhere, at 0; channels out are a multiple of 32 then. Kernels are (channels out / 32, channels
    / 32, 9, 2, 16, 16, 2): of each shift two tiles of 16 channels out, in which channels in are next to each other by
    twos.
    """
    module = ir.Module("direct")
    _write_run(module, _write_fill(module), imitated=imitated)
    kinds = (*[ctypes.c_void_p] * 3, ctypes.c_float, *[ctypes.c_void_p] * 6)
    return writer.compiled(module, "run", *kinds)


def _write_fill(module: ir.Module) -> Any:
    """A row of all channels, those of a column in groups of 32, `between` bytes apart; zeros up to a whole group, and
    where there is no column. All of a column at a time: memory is read in one go."""
    kinds = {"row": POINTER, "to": POINTER, "inside": ir.IntType(1), "width": INT, "left": INT, "columns": INT}
    f = TileFunction(module, "fill", kinds | {"channels": INT, "between": INT}, imitated=False)
    given, write = f.given, f.write
    whole, nothing = write.sdiv(given["channels"], INT(GROUP)), ir.Constant(f.vector, [0.0] * f.width)
    rest = write.srem(given["channels"], INT(GROUP))
    groups = write.sdiv(f.total(given["channels"], GROUP - 1), INT(GROUP))
    with f.loop(given["columns"]) as column:
        at = f.total(given["left"], column)
        source = f.byte(given["row"], f.times(at, given["channels"], 2))
        to = f.byte(given["to"], f.times(column, BYTES))
        there = write.and_(given["inside"], f.all((at, ">=", 0), (at, "<", given["width"])))
        with write.if_else(there) as (some, none):
            with some:
                with f.loop(whole) as group:
                    found = write.load(f.byte(source, f.times(group, BYTES)), align=2, typ=f.vector)
                    write.store(found, f.byte(to, f.times(group, given["between"])), align=4)
                with write.if_then(write.icmp_signed(">", rest, INT(0))):
                    last = f.byte(to, f.times(whole, given["between"]))
                    write.store(nothing, last, align=4)
                    _copy(f, f.byte(source, f.times(whole, BYTES)), last, rest)
            with none, f.loop(groups) as group:
                write.store(nothing, f.byte(to, f.times(group, given["between"])), align=4)
    write.ret_void()
    return f.function


def _copy(f: TileFunction, source: Any, to: Any, count: Any) -> None:
    """An even number of bfloat16."""
    with f.loop(f.times(count, 2), 4) as i:
        f.write.store(f.write.load(f.byte(source, i), align=2, typ=WORD), f.byte(to, i), align=2)


def _write_run(module: ir.Module, fill: Any, *, imitated: bool) -> None:
    names = ("picture", "kernels", "bias", "floor", "added", "mask", "result", "scratch", "offsets", "places")
    kinds = {name: FLOAT if name == "floor" else POINTER for name in names}
    f = TileFunction(module, "run", kinds, imitated=imitated)
    given, write = f.given, f.write
    told = f.told(given["places"], PLACES)
    groups = write.sdiv(f.total(told["channels"], GROUP - 1), INT(GROUP))
    _lay_out(f, fill, told)
    # Sums of the positions at hand and of those before, by turns.
    sums, narrow = f.memory(2 * STEP * 2 * BYTES), f.memory(BYTES)
    floor = f.spread(given["floor"])
    # How many positions are finished with each shift, so that all are at the last.
    shifts = f.times(groups, SIDE * SIDE)
    share = write.sdiv(f.total(shifts, STEP - 1), shifts)
    with f.laid_out(), f.loop(write.sub(told["last"], told["first"])) as number:
        out = f.total(told["first"], number)
        kernel = f.byte(given["kernels"], f.times(out, groups, SIDE * SIDE * 2 * TILE))
        some = f.least(write.sub(told["channels_out"], f.times(out, GROUP)), INT(GROUP))
        bias = [f.load(given["bias"], f.total(f.times(out, GROUP), i * ROWS)) for i in range(2)]
        group_out = _Finish(sums, narrow, bias, floor, some, f.times(out, 2 * GROUP))
        finish = partial(_finish, f, group_out, imitated=imitated)
        with f.loop(told["positions"], STEP) as position:
            before = write.sub(position, INT(STEP))
            there = write.select(write.icmp_signed(">", position, INT(0)), INT(STEP), INT(0))
            for i in _SUMS:
                f.clear_tile(i)
            with f.loop(groups) as group, f.loop(INT(SIDE)) as row:
                start = f.total(f.times(group, told["apart"]), position, f.times(row, told["columns"]))
                source = f.byte(given["scratch"], f.times(start, BYTES))
                strip = f.total(f.times(group, SIDE), row)
                factor = f.byte(kernel, f.times(strip, SIDE * 2 * TILE))
                for shift in range(SIDE):
                    left = f.byte(source, INT(shift * BYTES))
                    _add_products(f, left, f.byte(factor, INT(shift * 2 * TILE)))
                    first = f.times(f.total(f.times(strip, SIDE), shift), share)
                    last = f.least(f.total(first, share), there)
                    with f.loop(write.sub(last, first)) as i:
                        finish(before, f.total(first, i))
            for i in _SUMS:
                row = f.total(_row(f, position), i // 2 * ROWS)
                f.store_tile(i, f.byte(sums, f.total(f.times(row, 2 * BYTES), i % 2 * BYTES)), INT(2 * BYTES))
        with f.loop(INT(STEP)) as i:
            finish(write.sub(told["positions"], INT(STEP)), i)
    write.ret_void()


class _Finish(NamedTuple):
    """Memory of the sums, and for what is not a whole group of channels; by half groups what is added; the least that
    results are; how many channels of the group there are, and how far on in bytes the group is."""

    sums: Any
    narrow: Any
    bias: list[Any]
    floor: Any
    some: Any
    further: Any


def _row(f: TileFunction, position: Any) -> Any:
    """Where the sums of the positions from there on begin."""
    return f.write.and_(position, INT(STEP))


def _finish(f: TileFunction, given: _Finish, position: Any, i: Any, *, imitated: bool) -> None:
    """From sums to the result, at one of the positions from there on."""
    write = f.write
    there = {name: write.icmp_unsigned("!=", write.ptrtoint(f.given[name], INT), INT(0)) for name in ("added", "mask")}
    whole = f.all((given.some, "==", GROUP))
    offset = write.load(f.byte(f.given["offsets"], f.times(f.total(position, i), 8)), align=8, typ=INT)
    with write.if_then(write.icmp_signed(">=", offset, INT(0))):
        start = f.total(offset, given.further)
        to = f.byte(f.given["result"], start)
        place = write.select(whole, to, given.narrow)
        sums = f.byte(given.sums, f.times(f.total(_row(f, position), i), 2 * BYTES))
        for half in range(2):
            at = f.total(start, half * 2 * ROWS)
            value = write.fadd(f.load(sums, INT(half * ROWS)), given.bias[half])
            value = _if(f, there["added"], value, partial(_plus, f, at))
            value = f.at_least(value, given.floor)
            value = _if(f, there["mask"], value, partial(_masked, f, at))
            write.store(_rounded(f, value, imitated=imitated), f.byte(place, INT(half * 2 * ROWS)), align=2)
        with write.if_then(write.not_(whole)):
            _copy(f, given.narrow, to, given.some)


def _add_products(f: TileFunction, left: Any, right: Any) -> None:
    """Of all pairs of two tiles from those addresses on, to the sums."""
    for registers, address in ((_LEFT, left), (_RIGHT, right)):
        for i, register in enumerate(registers):
            f.load_tile(register, f.byte(address, INT(i * TILE)), INT(BYTES))
            f.pause()
    # Of the right tiles of the shift after next, a line of the cache at a time.
    lines = [f.byte(right, INT(4 * TILE + i * BYTES)) for i in range(2 * ROWS)]
    for i in _SUMS:
        f.add_product(i, _LEFT[i // 2], _RIGHT[i % 2])
        for line in lines[i :: len(_SUMS)]:
            f.fetch(line)


def _if(f: TileFunction, condition: Any, value: Any, change: Callable[[Any], Any]) -> Any:
    """A vector, changed where a condition holds."""
    before = f.write.block
    with f.write.if_then(condition):
        changed, within = change(value), f.write.block
    found = f.write.phi(value.type)
    found.add_incoming(value, before)
    found.add_incoming(changed, within)
    return found


def _halves(f: TileFunction, name: str, place: Any) -> Any:
    return f.write.load(f.byte(f.given[name], place), align=2, typ=_HALVES)


def _plus(f: TileFunction, place: Any, value: Any) -> Any:
    return f.write.fadd(value, f.numbers(_halves(f, "added", place)))


def _masked(f: TileFunction, place: Any, value: Any) -> Any:
    # As bfloat16, whole numbers of 16 bits are positive or not (but for what is not a number, which may be either).
    positive = f.write.icmp_signed(">", _halves(f, "mask", place), ir.Constant(_HALVES, [0] * ROWS))
    return f.write.select(positive, value, ir.Constant(value.type, [0.0] * ROWS))


def _rounded(f: TileFunction, value: Any, *, imitated: bool) -> Any:
    """A vector in bfloat16. Processors without it would call a function of the compiler's that is not there."""
    return f.bits(value) if imitated else f.write.fptrunc(value, ir.VectorType(_Rounded(), ROWS))


def _lay_out(f: TileFunction, fill: Any, told: dict[str, Any]) -> None:
    write, between = f.write, f.times(told["apart"], BYTES)
    with f.loop(told["rows"]) as row:
        at = f.total(told["top"], row)
        inside = f.all((at, ">=", 0), (at, "<", told["height"]))
        # Of a row that is not there the address is never used.
        start = f.byte(f.given["picture"], f.times(at, told["width"], told["channels"], 2))
        to = f.byte(f.given["scratch"], f.times(row, told["columns"], BYTES))
        columns = [told[name] for name in ("width", "left", "columns", "channels")]
        write.call(fill, [start, to, inside, *columns, between])
