"""A convolution by Winograd's algorithm as machine code.

A block of tiles goes through three loops, and what one leaves for the next stays in the processor's cache:

    windows    each tile's window, for all channels, to 36 rows of matrices                      (B d B^T)
    products   36 products of matrices: (tiles, channels) times (channels, channels out)
    results    16 positions of each tile from its 36 products, plus a bias, at least a floor     (A m A^T)

In a gradient something may be added to the results, and they may be 0 wherever a mask is not positive: of the loop over
results that is little, where a pass of its own takes as long as some convolutions.

Channels come last everywhere and go through vector registers as they lie in memory. The products take most of the time:
their innermost loop keeps a small matrix of sums in registers, of `rows` tiles and `panel` channels out, and adds what
one channel gives to all of them (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from stylekeras.native import writer
from stylekeras.native.winograd import INPUT, OUTPUT, TILE, WINDOW
from stylekeras.native.writer import FLOAT, INT, POINTER, Function, Shape, once

# What a run is told, in this order: the sizes of picture and result; rows and columns of zeros before the picture; the
# tiles in a row; the first tile, the one after the last, and how many are done at a time; how many of the channels out
# are to be made; and how many products there are for them, in whole panels, and for all.
PLACES = (
    *("height", "width", "channels", "height_out", "width_out", "channels_out"),
    *("above", "left", "across", "first", "last", "block", "some", "made", "made_of_all"),
)
# Matrices that begin a power of two apart would get into each other's way in the cache: so many numbers are between.
APART = 16
# A panel of kernels of so many channels stays in the fastest cache while the tiles pass by.
_DEPTH = 256


class Code(NamedTuple):
    """Machine code and what it was made for.

    `run(picture, kernels, bias, floor, added, mask, result, windows, products, scratch, places)` takes addresses of
    float32, a number as the floor, and the address of 64 bit integers, `PLACES`. Kernels are (36, panels, channels,
    panel); windows and products have room for 36 matrices of `block` tiles' channels and products and `APART` numbers
    each, scratch for one window of either. The mask may be none, 0; only with it something is added, or none, 0.
    """

    run: Callable[..., None]
    shape: Shape


@once
def compiled(shape: Shape | None = None) -> Code:
    """The code for this processor, compiled when it is first asked for; another `shape` than its own is for tests."""
    shape = shape or writer.shape()
    kinds = (*[ctypes.c_void_p] * 3, ctypes.c_float, *[ctypes.c_void_p] * 7)
    return Code(writer.compiled(_module(shape), "run", *kinds), shape)


# Of opposite points, in both matrices one after the other.
_PAIRS = (1, 3)


def _ahead(f: Function, window: Sequence[Any]) -> list[Any]:
    """B d. Opposite points have the sums of even powers in common, and but for the sign those of odd ones."""
    found = [f.weighted(row, window) if i in (0, WINDOW - 1) else None for i, row in enumerate(INPUT)]
    for i in _PAIRS:
        even, odd = f.weighted(INPUT[i, ::2], window[::2]), f.weighted(INPUT[i, 1::2], window[1::2])
        found[i], found[i + 1] = f.write.fadd(even, odd), f.write.fsub(even, odd)
    return found


def _back(f: Function, made: Sequence[Any]) -> list[Any]:
    """A m, likewise."""
    parts = [(made[0], made[0]), (made[-1], made[-1])]
    parts += [(f.write.fadd(made[i], made[i + 1]), f.write.fsub(made[i], made[i + 1])) for i in _PAIRS]
    columns = (0, WINDOW - 1, *_PAIRS)
    return [f.weighted(row[list(columns)], [part[i % 2] for part in parts]) for i, row in enumerate(OUTPUT)]


def _module(shape: Shape) -> ir.Module:
    module = ir.Module("winograd")
    results = [_write_result(module, shape, masked=masked) for masked in (False, True)]
    _write_run(module, shape, _write_window(module, shape), _write_product(module, shape), *results)
    return module


def _write_window(module: ir.Module, shape: Shape) -> Any:
    """A window, whose rows and columns are `down` and `right` apart, to a row of each of 36 matrices."""
    kinds = {"picture": POINTER, "down": INT, "right": INT, "windows": POINTER, "apart": INT, "channels": INT}
    f = Function(module, shape, "window", kinds)
    given, write = f.given, f.write
    halfway = [[f.variable(f.vector) for _ in range(WINDOW)] for _ in range(WINDOW)]
    with f.loop(given["channels"], f.width) as channel:
        for j in range(WINDOW):
            places = [f.total(channel, f.times(i, given["down"]), f.times(j, given["right"])) for i in range(WINDOW)]
            for i, vector in enumerate(_ahead(f, [f.load(given["picture"], place) for place in places])):
                write.store(vector, halfway[i][j])
        for i in range(WINDOW):
            for j, vector in enumerate(_ahead(f, [f.read(each) for each in halfway[i]])):
                f.store(vector, given["windows"], f.total(channel, f.times(i * WINDOW + j, given["apart"])))
    write.ret_void()
    return f.function


def _masked(f: Function, value: Any, floor: Any, added: Any, mask: Any) -> Any:
    nothing = f.constant(0)
    value = f.at_least(f.write.fadd(value, added), floor)
    return f.write.select(f.write.fcmp_ordered(">", mask, nothing), value, nothing)


def _write_result(module: ir.Module, shape: Shape, *, masked: bool) -> Any:
    """A row of each of 36 matrices to a tile, whose rows and columns are `down` and `right` apart, as those of a mask;
    those of what is added are `added_down` and `added_right`."""
    kinds = {"products": POINTER, "apart": INT, "bias": POINTER, "floor": FLOAT, "result": POINTER}
    kinds |= {"down": INT, "right": INT, "channels": INT}
    if masked:
        kinds |= {"mask": POINTER, "added": POINTER, "added_down": INT, "added_right": INT}
    f = Function(module, shape, "masked_result" if masked else "result", kinds)
    given, write = f.given, f.write
    halfway = [[f.variable(f.vector) for _ in range(WINDOW)] for _ in range(TILE)]
    floor = f.spread(given["floor"])

    def place(channel: Any, i: int, j: int, which: str = "") -> Any:
        return f.total(channel, f.times(i, given[which + "down"]), f.times(j, given[which + "right"]))

    with f.loop(given["channels"], f.width) as channel:
        for j in range(WINDOW):
            places = [f.total(channel, f.times(i * WINDOW + j, given["apart"])) for i in range(WINDOW)]
            for i, vector in enumerate(_back(f, [f.load(given["products"], place) for place in places])):
                write.store(vector, halfway[i][j])
        bias = f.load(given["bias"], channel)
        for i in range(TILE):
            for j, vector in enumerate(_back(f, [f.read(each) for each in halfway[i]])):
                value, at = write.fadd(vector, bias), place(channel, i, j)
                if masked:
                    added = f.load(given["added"], place(channel, i, j, "added_"))
                    value = _masked(f, value, floor, added, f.load(given["mask"], at))
                else:
                    value = f.at_least(value, floor)
                f.store(value, given["result"], at)
    write.ret_void()
    return f.function


def _write_mask(module: ir.Module, shape: Shape) -> Any:
    """One position's channels, masked after something was added."""
    kinds = dict.fromkeys(("source", "mask", "added", "result"), POINTER) | {"floor": FLOAT, "channels": INT}
    f = Function(module, shape, "mask", kinds)
    given = f.given
    floor = f.spread(given["floor"])
    with f.loop(given["channels"], f.width) as channel:
        value, mask, added = (f.load(given[name], channel) for name in ("source", "mask", "added"))
        f.store(_masked(f, value, floor, added, mask), given["result"], channel)
    f.write.ret_void()
    return f.function


def _write_product(module: ir.Module, shape: Shape) -> Any:
    """Tiles' windows (tiles, channels) times a panel of a kernel (channels, panel), added to what is there if told."""
    kinds = {"windows": POINTER, "kernel": POINTER, "products": POINTER, "channels": INT, "channels_out": INT}
    f = Function(module, shape, "product", kinds | {"tiles": INT, "depth": INT, "more": ir.IntType(1)})
    given, write = f.given, f.write
    places = [(row, column) for row in range(shape.rows) for column in range(0, shape.panel, f.width)]
    with f.loop(given["tiles"], shape.rows) as tile:
        rows = [f.total(tile, row) for row in range(shape.rows)]
        windows = [f.at(given["windows"], f.times(row, given["channels"])) for row in rows]
        products = [f.at(given["products"], f.times(row, given["channels_out"])) for row in rows]
        sums = {place: f.variable(f.vector) for place in places}
        with write.if_else(given["more"]) as (more, first):
            with more:
                for (row, column), total in sums.items():
                    write.store(f.load(products[row], INT(column)), total)
            with first:
                for total in sums.values():
                    write.store(f.constant(0), total)
        with f.loop(given["depth"]) as channel:
            line = f.times(channel, shape.panel)
            kernel = {at: f.load(given["kernel"], f.total(line, at)) for at in range(0, shape.panel, f.width)}
            window = [f.spread(f.load(each, channel, FLOAT)) for each in windows]
            for (row, column), total in sums.items():
                before = f.read(total)
                write.store(f.plus_product(before, window[row], kernel[column]), total)
        for (row, column), total in sums.items():
            f.store(f.read(total), products[row], INT(column))
    write.ret_void()
    return f.function


def _write_run(module: ir.Module, shape: Shape, window: Any, product: Any, result: Any, masked_result: Any) -> None:
    """`Code.run`. Tiles at an edge go through `scratch`: their windows reach beyond the picture, or they do."""
    kinds = {"picture": POINTER, "kernels": POINTER, "bias": POINTER, "floor": FLOAT}
    kinds |= dict.fromkeys(("added", "mask", "result", "windows", "products", "scratch", "places"), POINTER)
    f = Function(module, shape, "run", kinds)
    given, write = f.given, f.write
    at = f.told(given["places"], PLACES)
    channels, made = at["channels"], at["made"]
    apart, apart_out = (f.total(f.times(at["block"], each), APART) for each in (channels, made))
    mask = _write_mask(module, shape)
    is_masked, is_added = (write.icmp_unsigned("!=", given[name], POINTER(None)) for name in ("mask", "added"))
    # Where nothing is added it is a row of zeros, again and again.
    zeros = f.at(given["scratch"], f.times(WINDOW * WINDOW, f.most(channels, at["channels_out"])))
    f.copy(None, zeros, at["channels_out"])

    def place(tile: Any) -> tuple[Any, Any]:
        """Of a tile in the result."""
        return f.times(write.sdiv(tile, at["across"]), TILE), f.times(write.srem(tile, at["across"]), TILE)

    def pixel(address: Any, row: Any, column: Any, width: Any, channels: Any) -> Any:
        return f.at(address, f.times(f.total(f.times(row, width), column), channels))

    def windows_of(first: Any, tiles: Any) -> None:
        with f.loop(tiles) as tile:
            row, column = place(f.total(first, tile))
            row, column = write.sub(row, at["above"]), write.sub(column, at["left"])
            target = f.at(given["windows"], f.times(tile, channels))
            rest = (target, apart, channels)
            ends = (f.total(row, WINDOW), "<=", at["height"]), (f.total(column, WINDOW), "<=", at["width"])
            with write.if_else(f.all((row, ">=", 0), (column, ">=", 0), *ends)) as (inside, edge):
                with inside:
                    source = pixel(given["picture"], row, column, at["width"], channels)
                    write.call(window, [source, f.times(at["width"], channels), channels, *rest])
                with edge:
                    with f.loop(INT(WINDOW)) as i, f.loop(INT(WINDOW)) as j:
                        y, x = f.total(row, i), f.total(column, j)
                        copy = pixel(given["scratch"], i, j, WINDOW, channels)
                        there = f.all((y, ">=", 0), (x, ">=", 0), (y, "<", at["height"]), (x, "<", at["width"]))
                        with write.if_else(there) as (inside, outside):
                            with inside:
                                f.copy(pixel(given["picture"], y, x, at["width"], channels), copy, channels)
                            with outside:
                                f.copy(None, copy, channels)
                    write.call(window, [given["scratch"], f.times(channels, WINDOW), channels, *rest])

    def products_of(tiles: Any) -> None:
        with f.loop(INT(WINDOW * WINDOW)) as n:
            windows, products = (
                f.at(given[name], f.times(n, size)) for name, size in (("windows", apart), ("products", apart_out))
            )
            kernel = f.at(given["kernels"], f.times(n, channels, at["made_of_all"]))
            with f.loop(made, shape.panel) as panel, f.loop(channels, _DEPTH) as start:
                rest_of = write.sub(channels, start)
                depth = f.least(rest_of, INT(_DEPTH))
                part = f.at(kernel, f.total(f.times(panel, channels), f.times(start, shape.panel)))
                sizes = [channels, made, tiles, depth, f.all((start, ">", 0))]
                write.call(product, [f.at(windows, start), part, f.at(products, panel), *sizes])

    def results_of(first: Any, tiles: Any) -> None:
        right, wanted = at["channels_out"], at["some"]
        down = f.times(at["width_out"], right)
        added_down, added_right = (write.select(is_added, each, INT(0)) for each in (down, right))

        def masked(row: Any, column: Any) -> list[Any]:
            """The mask there, and what is added."""
            added = pixel(given["added"], row, column, at["width_out"], right)
            return [pixel(given["mask"], row, column, at["width_out"], right), write.select(is_added, added, zeros)]

        with f.loop(tiles) as tile:
            row, column = place(f.total(first, tile))
            source = [f.at(given["products"], f.times(tile, made)), apart_out, given["bias"]]
            target = [pixel(given["result"], row, column, at["width_out"], right), down, right, wanted]
            ends = (f.total(row, TILE), "<=", at["height_out"]), (f.total(column, TILE), "<=", at["width_out"])
            with write.if_else(f.all(*ends)) as (inside, edge):
                with inside, write.if_else(is_masked) as (has_mask, has_none):
                    with has_mask:
                        further = [*masked(row, column), added_down, added_right]
                        write.call(masked_result, [*source, given["floor"], *target, *further])
                    with has_none:
                        write.call(result, [*source, given["floor"], *target])
                with edge:
                    floor = write.select(is_masked, FLOAT(-np.inf), given["floor"])
                    write.call(result, [*source, floor, given["scratch"], f.times(wanted, TILE), wanted, wanted])
                    with f.loop(INT(TILE)) as i, f.loop(INT(TILE)) as j:
                        y, x = f.total(row, i), f.total(column, j)
                        with write.if_then(f.all((y, "<", at["height_out"]), (x, "<", at["width_out"]))):
                            left = pixel(given["scratch"], i, j, TILE, wanted)
                            to = pixel(given["result"], y, x, at["width_out"], right)
                            with write.if_else(is_masked) as (has_mask, has_none):
                                with has_mask:
                                    write.call(mask, [left, *masked(y, x), to, given["floor"], wanted])
                                with has_none:
                                    f.copy(left, to, wanted)

    with f.loop(write.sub(at["last"], at["first"]), at["block"]) as start:
        first = f.total(at["first"], start)
        tiles = f.least(at["block"], write.sub(at["last"], first))
        windows_of(first, tiles)
        products_of(tiles)
        results_of(first, tiles)
    write.ret_void()
