"""Machine code for what an optimizer does with its history: each of its pictures is read once, from memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir

from stylekeras.native.writer import FLOAT, INT, POINTER, Function, Shape, once
from stylekeras.native.writer import compiled as machine_code
from stylekeras.native.writer import shape as this_shape

# Numbers at a time: that many of two pictures stay in a core's cache while a history's go past them, and sums keep
# their digits.
BLOCK = 2**14
# Pictures that are added up at a time, a power of two: more are read more slowly.
TOGETHER = 4
# Vectors of sums: one alone would wait for itself.
_SUMS = 4


class Code(NamedTuple):
    """Functions of addresses and counts; `rows` is the address of addresses, everything else of float32.

    products(rows, count, one, other, size, results): so many rows of that size times `one` and times `other`, a result
        (count, 2) for each block of them.
    sums(rows, weights, count, size, result): the sum of so many rows of that size, each times its weight.
    """

    products: Callable[..., None]
    sums: Callable[..., None]


@once
def compiled(shape: Shape | None = None) -> Code:
    """For this processor; another `shape` than its own is for tests."""
    word, address = ctypes.c_int64, ctypes.c_void_p
    shape = shape or this_shape()
    return Code(
        machine_code(_products(shape), "products", address, word, address, address, word, address),
        machine_code(_sums(shape), "sums", address, address, word, word, address),
    )


def _products(shape: Shape) -> ir.Module:
    kinds = {"rows": POINTER, "count": INT, "one": POINTER, "other": POINTER, "size": INT, "results": POINTER}
    f = Function(ir.Module("products"), shape, "products", kinds)
    given, write, step = f.given, f.write, _SUMS * f.width
    sums = [[f.variable(f.vector) for _ in range(_SUMS)] for _ in range(2)]
    with f.loop(given["size"], BLOCK) as start:
        block = f.least(INT(BLOCK), write.sub(given["size"], start))
        whole = write.and_(block, INT(-step))
        columns = [f.at(given[name], start) for name in ("one", "other")]
        with f.loop(given["count"]) as row:
            numbers = f.at(_entry(f, given["rows"], row), start)
            for place in (each for places in sums for each in places):
                write.store(f.constant(0), place)
            with f.loop(whole, step) as i:
                for j in range(_SUMS):
                    vector = f.load(numbers, f.total(i, j * f.width))
                    for column, places in zip(columns, sums, strict=True):
                        other = f.load(column, f.total(i, j * f.width))
                        write.store(f.plus_product(f.read(places[j]), vector, other), places[j])
            totals = []
            for places in sums:
                one, two, three, four = map(f.read, places)
                totals.append(f.variable(FLOAT))
                write.store(f.across(write.fadd(write.fadd(one, two), write.fadd(three, four))), totals[-1])
            with f.loop(write.sub(block, whole)) as i:
                at = f.total(whole, i)
                number = f.load(numbers, at, FLOAT)
                for column, total in zip(columns, totals, strict=True):
                    product = write.fmul(number, f.load(column, at, FLOAT))
                    write.store(write.fadd(write.load(total, typ=FLOAT), product), total)
            for j, total in enumerate(totals):
                to = f.total(f.times(f.total(f.times(write.sdiv(start, INT(BLOCK)), given["count"]), row), 2), j)
                f.store(write.load(total, typ=FLOAT), given["results"], to)
    write.ret_void()
    return f.function.module


def _sums(shape: Shape) -> ir.Module:
    kinds = {"rows": POINTER, "weights": POINTER, "count": INT, "size": INT, "result": POINTER}
    f = Function(ir.Module("sums"), shape, "sums", kinds)
    given, write, result = f.given, f.write, f.given["result"]
    whole = write.and_(given["size"], INT(-f.width))
    rest = write.sub(given["size"], whole)
    with f.loop(given["size"]) as i:
        f.store(FLOAT(0), result, i)

    def add(first: Any, number: int) -> None:
        """So many rows from the first on."""
        rows = [_entry(f, given["rows"], f.total(first, j)) for j in range(number)]
        weights = [f.load(given["weights"], f.total(first, j), FLOAT) for j in range(number)]
        vectors = [f.spread(weight) for weight in weights]
        with f.loop(whole, f.width) as i:
            total = f.load(result, i)
            for row, weight in zip(rows, vectors, strict=True):
                total = f.plus_product(total, weight, f.load(row, i))
            f.store(total, result, i)
        with f.loop(rest) as i:
            at = f.total(whole, i)
            total = f.load(result, at, FLOAT)
            for row, weight in zip(rows, weights, strict=True):
                total = write.fadd(total, write.fmul(weight, f.load(row, at, FLOAT)))
            f.store(total, result, at)

    together = write.and_(given["count"], INT(-TOGETHER))
    with f.loop(together, TOGETHER) as first:
        add(first, TOGETHER)
    with f.loop(write.sub(given["count"], together)) as i:
        add(f.total(together, i), 1)
    write.ret_void()
    return f.function.module


def _entry(f: Function, addresses: Any, index: Any) -> Any:
    """An address from among several."""
    return f.write.load(f.write.gep(addresses, [index], source_etype=POINTER), align=8, typ=POINTER)
