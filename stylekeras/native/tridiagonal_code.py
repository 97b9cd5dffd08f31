"""Machine code that brings symmetric matrices to tridiagonal form, and inverts roots of that, in float64."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

from stylekeras.native.writer import DOUBLE, FLOAT, INT, POINTER, Function, Shape, once
from stylekeras.native.writer import compiled as machine_code
from stylekeras.native.writer import shape as this_shape

# Columns that stand in memory for both halves of a matrix, next to its diagonal; sizes are multiples of it.
BLOCK = 8
# Less than that is nothing: numbers that are almost too small for float64 take processors long.
_NOTHING = 1e-200


class Code(NamedTuple):
    """Functions of addresses and counts, each called with as many 64 bit integers.

    reduce(matrix, vectors, factors, diagonal, beside, work, count, size): to a tridiagonal matrix by Householder's
        reflections, each of which is I - factor v v^T: `diagonal` (count,), `beside` (count - 1,), `factors` (count,)
        and `vectors`, after a first row of zeros (1 + count, size), v_k 0 up to k and 1 at k + 1, or 0 where nothing
        is reflected, as in the last two. The matrix, (size, size) and zeros from `count` on, is worked in; `work` has
        room for 2 size.
    invert(diagonal, beside, shifts, weights, work, result, least, count, size, poles): the lower half, in zeros (count,
        size) of float32, of the sum of weight (T + shift I)^(-1), T the tridiagonal matrix of those numbers; for poles,
        a multiple of 8, so many shifts and weights. `work` has room for (2 count + size) poles. `least` (poles,): the
        smallest pivots. Where one is not above 0, T + shift I has an eigenvalue that is not, and the result says
        nothing.
    """

    reduce: Callable[..., None]
    invert: Callable[..., None]


@once
def compiled(shape: Shape | None = None) -> Code:
    """For this processor; another `shape` than its own is for tests."""
    word, address = ctypes.c_int64, ctypes.c_void_p
    shape = shape or this_shape()
    return Code(
        machine_code(_reduce(shape), "reduce", *[address] * 6, word, word),
        machine_code(_invert(shape), "invert", *[address] * 7, word, word, word),
    )


def _begun(module: ir.Module, shape: Shape, name: str, pointers: Sequence[str], counts: Sequence[str]) -> Function:
    kinds = dict.fromkeys(pointers, POINTER) | dict.fromkeys(counts, INT)
    return Function(module, shape, name, kinds, DOUBLE)


def _reduce(shape: Shape) -> ir.Module:
    """The update of a column's reflection is done where the next one's product reads the matrix: once for both."""
    module = ir.Module("reduce")
    # Registers have room for what belongs to so many columns.
    together = 2 if shape.width == 8 else 4
    columns = _columns(module, shape, together)
    pointers = ("matrix", "vectors", "factors", "diagonal", "beside", "work")
    f = _begun(module, shape, "reduce", pointers, ("count", "size"))
    given, write = f.given, f.write
    count, size, other = given["count"], given["size"], given["work"]
    product = f.at(other, size)
    sums = f.variable(ir.ArrayType(DOUBLE, together))
    f.copy(None, given["vectors"], size)
    f.copy(None, other, size)
    with f.loop(count) as k:
        last = f.at(given["vectors"], f.times(k, size))
        vector = f.at(last, size)
        f.copy(None, vector, size)
        # The column as the last reflection leaves it.
        start = write.and_(k, INT(-BLOCK))
        column = f.at(given["matrix"], f.times(k, size))
        mine = [f.spread(write.fneg(f.load(each, k, DOUBLE))) for each in (other, last)]
        with f.loop(write.sub(size, start), f.width) as i:
            at = f.total(start, i)
            changed = f.plus_product(f.load(column, at), f.load(last, at), mine[0])
            f.store(f.plus_product(changed, f.load(other, at), mine[1]), vector, at)
        f.store(f.load(vector, k, DOUBLE), given["diagonal"], k)
        f.store(DOUBLE(0), given["factors"], k)
        after = f.total(k, 1)
        with f.loop(write.sub(after, start)) as i:
            f.store(DOUBLE(0), vector, f.total(start, i))
        with write.if_then(f.all((after, "<", count))):
            first = f.load(vector, after, DOUBLE)
            f.store(first, given["beside"], k)
            f.store(DOUBLE(0), vector, after)
            rest = _inner(f, vector, vector, start, size)
            there = write.fcmp_ordered(">", rest, DOUBLE(0))
            with write.if_then(there):
                length = _called(f, "sqrt", write.fadd(rest, write.fmul(first, first)))
                beyond = write.fneg(_called(f, "copysign", length, first))
                f.store(beyond, given["beside"], k)
                factor = write.fdiv(write.fsub(beyond, first), beyond)
                f.store(factor, given["factors"], k)
                shrink = f.spread(write.fdiv(DOUBLE(1), write.fsub(first, beyond)))
                with f.loop(write.sub(size, start), f.width) as i:
                    at = f.total(start, i)
                    f.store(write.fmul(shrink, f.load(vector, at)), vector, at)
                f.store(DOUBLE(1), vector, after)
            first_block = write.and_(after, INT(-BLOCK))
            f.copy(None, product, size)
            with f.loop(write.sub(size, first_block), BLOCK) as i:
                block = f.total(first_block, i)
                below = f.total(block, BLOCK)
                with f.loop(INT(BLOCK), together) as j:
                    at = f.total(block, j)
                    own = [f.at(each, at) for each in (last, other, vector)]
                    for row, rows in ((block, INT(BLOCK)), (below, write.sub(size, below))):
                        seen = f.at(given["matrix"], f.total(f.times(at, size), row))
                        there = [f.at(each, row) for each in (last, other, vector, product)]
                        f.write.call(columns, [seen, *there, *own, sums, rows, size])
                    for n in range(together):
                        place = f.total(at, n)
                        total = write.fadd(f.load(product, place, DOUBLE), f.load(sums, INT(n), DOUBLE))
                        f.store(total, product, place)
            factor = f.load(given["factors"], k, DOUBLE)
            along = _inner(f, product, vector, first_block, size)
            back = write.fmul(write.fmul(factor, factor), write.fmul(along, DOUBLE(-0.5)))
            factors = f.spread(factor), f.spread(back)
            with f.loop(write.sub(size, first_block), f.width) as i:
                at = f.total(first_block, i)
                scaled = write.fmul(factors[0], f.load(product, at))
                f.store(f.plus_product(scaled, factors[1], f.load(vector, at)), other, at)
    write.ret_void()
    return module


def _columns(module: ir.Module, shape: Shape, together: int) -> Any:
    """Some columns of a symmetric matrix: less v w^T + w v^T, and, so changed, times the other half's x, which is added
    to a product; and the sums of each column times x."""
    pointers = ("matrix", "v", "w", "x", "product", "own_v", "own_w", "own_x", "sums")
    f = _begun(module, shape, "columns", pointers, ("rows", "size"))
    given, write = f.given, f.write
    own = {name: [f.load(given[f"own_{name}"], INT(n), DOUBLE) for n in range(together)] for name in ("v", "w", "x")}
    less = {name: [f.spread(write.fneg(each)) for each in own[name]] for name in ("v", "w")}
    times = [f.spread(each) for each in own["x"]]
    places = [f.variable(f.vector) for _ in range(together)]
    for place in places:
        write.store(f.constant(0), place)
    with f.loop(given["rows"], f.width) as i:
        v, w, x, total = (f.load(given[name], i) for name in ("v", "w", "x", "product"))
        for n in range(together):
            column = f.at(given["matrix"], f.times(n, given["size"]))
            found = f.plus_product(f.plus_product(f.load(column, i), v, less["w"][n]), w, less["v"][n])
            f.store(found, column, i)
            total = f.plus_product(total, found, times[n])
            write.store(f.plus_product(f.read(places[n]), found, x), places[n])
        f.store(total, given["product"], i)
    for n, place in enumerate(places):
        f.store(f.across(f.read(place)), given["sums"], INT(n))
    write.ret_void()
    return f.function


def _inner(f: Function, one: Any, other: Any, start: Any, size: Any) -> Any:
    """The inner product of two vectors from `start` on."""
    place = f.variable(f.vector)
    f.write.store(f.constant(0), place)
    with f.loop(f.write.sub(size, start), f.width) as i:
        at = f.total(start, i)
        f.write.store(f.plus_product(f.read(place), f.load(one, at), f.load(other, at)), place)
    return f.across(f.read(place))


def _invert(shape: Shape) -> ir.Module:
    """The inverse T of a tridiagonal matrix is that of two vectors, apart from its diagonal: T_ij = T_(i-1)j r_i for
    j < i, r_i from the pivots of an elimination from below."""
    pointers = ("diagonal", "beside", "shifts", "weights", "work", "result", "least")
    f = _begun(ir.Module("invert"), shape, "invert", pointers, ("count", "size", "poles"))
    given, write = f.given, f.write
    count, size, poles = given["count"], given["size"], given["poles"]
    pivots, ratios = given["work"], f.at(given["work"], f.times(count, poles))
    columns = f.at(ratios, f.times(count, poles))
    end = write.sub(count, INT(1))
    nothing, smallest = f.constant(0), f.constant(_NOTHING)
    f.copy(None, columns, f.times(poles, size))
    with f.loop(poles, f.width) as pole:
        shift, weight = f.load(given["shifts"], pole), f.load(given["weights"], pole)
        running, least = f.variable(f.vector), f.variable(f.vector)

        def entry(row: Any, shift: Any = shift) -> Any:
            return write.fadd(f.spread(f.load(given["diagonal"], row, DOUBLE)), shift)

        def place(row: Any, pole: Any = pole) -> Any:
            return f.total(f.times(row, poles), pole)

        def lower(pivot: Any, least: Any = least) -> None:
            # What is not a number is lower than all.
            write.store(write.select(write.fcmp_ordered(">=", pivot, f.read(least)), f.read(least), pivot), least)

        write.store(entry(end), running)
        write.store(f.read(running), least)
        f.store(f.read(running), pivots, place(end))
        with f.loop(end) as i:
            row = write.sub(end, i)
            above = write.sub(row, INT(1))
            beside = f.spread(f.load(given["beside"], above, DOUBLE))
            ratio = write.fdiv(write.fneg(beside), f.read(running))
            f.store(ratio, ratios, place(row))
            write.store(f.plus_product(entry(above), beside, ratio), running)
            lower(f.read(running))
            f.store(f.read(running), pivots, place(above))
        write.store(entry(INT(0)), running)
        with f.loop(count) as row:
            lower(f.read(running))
            both = write.fsub(write.fadd(f.read(running), f.load(pivots, place(row))), entry(row))
            f.store(write.fdiv(weight, both), pivots, place(row))
            with write.if_then(f.all((row, "<", end))):
                beside = f.spread(f.load(given["beside"], row, DOUBLE))
                down = write.fdiv(write.fneg(write.fmul(beside, beside)), f.read(running))
                write.store(write.fadd(entry(f.total(row, 1)), down), running)
        f.store(f.read(least), given["least"], pole)
    total = f.variable(f.vector)
    with f.loop(count) as row:
        result, own = f.byte(given["result"], f.times(row, size, 4)), f.times(row, poles)
        with f.loop(row, f.width) as i:
            write.store(nothing, total)
            with f.loop(poles) as pole:
                at = f.total(f.times(i, poles), f.times(pole, f.width))
                found = write.fmul(f.load(columns, at), f.spread(f.load(ratios, f.total(own, pole), DOUBLE)))
                there = write.fcmp_ordered(">", _called(f, "fabs", found), smallest)
                found = write.select(there, found, nothing)
                f.store(found, columns, at)
                write.store(write.fadd(f.read(total), found), total)
            narrow = write.fptrunc(f.read(total), ir.VectorType(FLOAT, f.width))
            write.store(narrow, f.byte(result, f.times(i, 4)), align=4)
        write.store(nothing, total)
        with f.loop(poles, f.width) as pole:
            write.store(write.fadd(f.read(total), f.load(pivots, f.total(own, pole))), total)
        write.store(write.fptrunc(f.across(f.read(total)), FLOAT), f.byte(result, f.times(row, 4)), align=4)
        inside = write.and_(row, INT(f.width - 1))
        first = f.total(f.times(write.sub(row, inside), poles), inside)
        with f.loop(poles) as pole:
            f.store(f.load(pivots, f.total(own, pole), DOUBLE), columns, f.total(first, f.times(pole, f.width)))
    write.ret_void()
    return f.function.module


def _called(f: Function, name: str, *numbers: Any) -> Any:
    """A function that processors have, of numbers or vectors."""
    kind = numbers[0].type
    name = f"llvm.{name}.f64" if kind == DOUBLE else f"llvm.{name}.v{kind.count}f64"
    module = f.function.module
    known = module.globals.get(name) or ir.Function(module, ir.FunctionType(kind, [kind] * len(numbers)), name)
    return f.write.call(known, numbers)
