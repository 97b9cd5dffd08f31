"""Gram matrices of features in bfloat16 as machine code for processors that multiply matrices (`tiles`).

In F^T F both factors are the features of 32 positions. What one tile wants of them, neighbouring positions next to each
other for each channel, is the other's turned over, in units of two numbers:

    pack        32 positions, all channels: the right tiles, and turned over the left ones
    products    of every two groups of 32 channels, from some hundred positions whose tiles the cache holds

This Gram matrix is no less exact than that of float32's products. It is made above its diagonal only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from stylekeras.native import writer
from stylekeras.native.tiles import BYTES, DEPTH, ROWS, TILE, TileFunction
from stylekeras.native.writer import HALF, INT, POINTER, WORD, once

# Channels at a time, of either factor: four tiles of sums and two of each factor are all that there are.
STEP = 2 * ROWS
_SUMS = ((0, 0), (0, 1), (1, 0), (1, 1))
_ROW = ir.VectorType(WORD, ROWS)


@once
def compiled(*, imitated: bool = False) -> Callable[..., None]:
    """`run(features, groups, channels, sums, left, right, chunk)`: addresses and 64 bit integers.

    `groups` of `DEPTH` positions (positions, channels) are added to `sums` (channels, channels) in float32, above the
    diagonal. Left and right have room for the tiles of `chunk` groups, each. Channels are a multiple of `STEP`.
    """
    kinds = (ctypes.c_void_p, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 3, ctypes.c_int64)
    module = ir.Module("gram")
    _write_run(module, _write_pack(module), imitated=imitated)
    return writer.compiled(module, "run", *kinds)


def _write_run(module: ir.Module, pack: Any, *, imitated: bool) -> None:
    kinds = {"features": POINTER, "groups": INT, "channels": INT, "sums": POINTER, "left": POINTER, "right": POINTER}
    f = TileFunction(module, "run", kinds | {"chunk": INT}, imitated=imitated)
    given, write = f.given, f.write
    across = write.sdiv(given["channels"], INT(ROWS))
    # Bytes from one group to the next, and from one row of sums to the next.
    apart, down = f.times(across, TILE), f.times(given["channels"], 4)
    with f.laid_out(), f.loop(given["groups"], given["chunk"]) as first:
        left = write.sub(given["groups"], first)
        count = write.select(write.icmp_signed("<", left, given["chunk"]), left, given["chunk"])
        with f.loop(count) as group:
            features = f.byte(given["features"], f.times(f.total(first, group), given["channels"], 2 * DEPTH))
            to = f.times(group, apart)
            write.call(pack, [features, given["channels"], f.byte(given["left"], to), f.byte(given["right"], to)])
        with f.loop(across, 2) as row, f.loop(write.sub(across, row), 2) as further:
            column = f.total(row, further)
            corner = f.total(f.times(row, ROWS, down), f.times(column, BYTES))
            places = [f.byte(given["sums"], f.total(corner, f.times(i * ROWS, down), j * BYTES)) for i, j in _SUMS]
            for i, place in enumerate(places):
                f.load_tile(i, place, down)
            with f.loop(count) as group:
                for register, factor, tile in ((4, "left", row), (6, "right", column)):
                    for i in range(2):
                        place = f.total(f.times(group, apart), f.times(f.total(tile, i), TILE))
                        f.load_tile(register + i, f.byte(given[factor], place), INT(BYTES))
                        f.pause()
                for i, (one, other) in enumerate(_SUMS):
                    f.add_product(i, 4 + one, 6 + other)
                    f.pause()
            for i, place in enumerate(places):
                f.store_tile(i, place, down)
    write.ret_void()


def _write_pack(module: ir.Module) -> Any:
    """`DEPTH` positions (positions, channels) to their tiles: the right ones, and turned over the left ones."""
    kinds = {"features": POINTER, "channels": INT, "left": POINTER, "right": POINTER}
    f = TileFunction(module, "pack", kinds, imitated=False)
    given, write = f.given, f.write

    def half(position: int, channel: Any) -> Any:
        place = f.times(f.total(f.times(position, given["channels"]), channel), 2)
        found = write.load(f.byte(given["features"], place), align=2, typ=ir.VectorType(HALF, ROWS))
        return write.zext(found, _ROW)

    with f.loop(given["channels"], ROWS) as channel:
        rows = []
        for i in range(0, DEPTH, 2):
            upper = write.shl(half(i + 1, channel), ir.Constant(_ROW, [16] * ROWS))
            rows.append(write.or_(half(i, channel), upper))
        to = f.times(channel, TILE // ROWS)
        for factor, vectors in (("right", rows), ("left", _turned(f, rows))):
            for i, vector in enumerate(vectors):
                write.store(vector, f.byte(given[factor], f.total(to, i * BYTES)), align=4)
    write.ret_void()
    return f.function


def _turned(f: TileFunction, rows: list[Any]) -> list[Any]:
    """A square of 16 x 16 numbers, rows for columns: blocks of 1, 2, 4 and 8 are swapped across the diagonal."""
    found = list(rows)
    for size in (1, 2, 4, 8):
        for i in range(ROWS):
            if i & size:
                continue
            upper, lower = found[i], found[i + size]
            # Of both one after the other.
            one = [j if not j & size else ROWS + j - size for j in range(ROWS)]
            other = [j + size if not j & size else ROWS + j for j in range(ROWS)]
            for place, order in ((i, one), (i + size, other)):
                found[place] = f.write.shuffle_vector(upper, lower, ir.Constant(_ROW, order))
    return found
