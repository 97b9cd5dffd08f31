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
# Columns that are changed together.
_CHANGED = 4
# Less than that is nothing: numbers that are almost too small for float64 take processors long.
_NOTHING = 1e-200


class Code(NamedTuple):
    """Functions of addresses and counts, each called with as many 64 bit integers.

    reduce(matrix, vectors, factors, diagonal, beside, work, count, size): to a tridiagonal matrix by Householder's
        reflections, each of which is I - factor v v^T: `diagonal` (count,), `beside` (count - 1,), `factors` (count,)
        and `vectors` (count, size), v_k 0 up to k and 1 at k + 1, or 0 where nothing is reflected, as in the last two.
        The matrix, (size, size) and zeros from `count` on, is worked in; `work` has room for (BLOCK + 1) size.
    invert(diagonal, beside, shifts, weights, work, result, least, count, size, poles): the lower half, in zeros (count,
        size) of float32, of the sum of weight (T + shift I)^(-1), T the tridiagonal matrix of those numbers; for poles,
        a multiple of 8, so many shifts and weights. `work` has room for (2 count + size) poles, and begins with weight
        times the diagonals of the inverses (count, poles). `least` (poles,): the smallest of the pivots and of 1 over
        those diagonals. Where that is not above 0, T + shift I has an eigenvalue that is not, but for rounding, and the
        result says nothing.
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
    """The matrix is changed for BLOCK reflections at a time: until then what each changes is kept apart, as v and w of
    v w^T + w v^T (Dongarra, Hammarling and Sorensen 1989)."""
    module = ir.Module("reduce")
    multiply, change = _multiply(module, shape), _change(module, shape)
    pointers = ("matrix", "vectors", "factors", "diagonal", "beside", "work")
    f = _begun(module, shape, "reduce", pointers, ("count", "size"))
    given, write = f.given, f.write
    count, size, others = given["count"], given["size"], given["work"]
    product = f.at(others, f.times(BLOCK, size))
    sums = f.variable(ir.ArrayType(DOUBLE, BLOCK))
    with f.loop(count, BLOCK) as start:
        known = f.at(given["vectors"], f.times(start, size))
        with f.loop(f.least(INT(BLOCK), write.sub(count, start))) as j:
            k, after = f.total(start, j), f.total(start, j, 1)
            vector, other = (f.at(each, f.times(j, size)) for each in (known, others))
            f.copy(None, vector, size)
            # The column as the reflections before leave it.
            column = f.at(given["matrix"], f.times(k, size))
            f.copy(f.at(column, start), f.at(vector, start), write.sub(size, start))
            with f.loop(j) as before:
                v, w = (f.at(each, f.times(before, size)) for each in (known, others))
                less = [write.fneg(f.load(each, k, DOUBLE)) for each in (w, v)]
                _add(f, vector, start, less, (v, w))
            f.store(f.load(vector, k, DOUBLE), given["diagonal"], k)
            f.store(DOUBLE(0), given["factors"], k)
            with f.loop(f.total(j, 1)) as i:
                f.store(DOUBLE(0), vector, f.total(start, i))
            with write.if_then(f.all((after, "<", count))):
                first = f.load(vector, after, DOUBLE)
                f.store(first, given["beside"], k)
                f.store(DOUBLE(0), vector, after)
                rest = _inner(f, vector, vector, start, size)
                with write.if_then(write.fcmp_ordered(">", rest, DOUBLE(0))):
                    length = f.called("sqrt", write.fadd(rest, write.fmul(first, first)))
                    beyond = write.fneg(f.called("copysign", length, first))
                    f.store(beyond, given["beside"], k)
                    f.store(write.fdiv(write.fsub(beyond, first), beyond), given["factors"], k)
                    shrink = f.spread(write.fdiv(DOUBLE(1), write.fsub(first, beyond)))
                    with f.loop(write.sub(size, start), f.width) as i:
                        at = f.total(start, i)
                        f.store(write.fmul(shrink, f.load(vector, at)), vector, at)
                    f.store(DOUBLE(1), vector, after)
                f.copy(None, product, size)
                block = write.and_(after, INT(-BLOCK))
                with f.loop(write.sub(size, block), BLOCK) as i:
                    here = f.total(block, i)
                    below = f.total(here, BLOCK)
                    own = f.at(given["matrix"], f.total(f.times(here, size), here))
                    # Next to the diagonal both halves are there, and the second call's sums are those that count.
                    for rows, step in ((INT(BLOCK), 0), (write.sub(size, below), BLOCK)):
                        there = [f.at(each, f.total(here, step)) for each in (vector, product)]
                        seen = f.at(own, INT(step))
                        f.write.call(multiply, [seen, *there, f.at(vector, here), sums, rows, size])
                    for n in range(BLOCK):
                        place = f.total(here, n)
                        total = write.fadd(f.load(product, place, DOUBLE), f.load(sums, INT(n), DOUBLE))
                        f.store(total, product, place)
                with f.loop(j) as before:
                    v, w = (f.at(each, f.times(before, size)) for each in (known, others))
                    along = [write.fneg(_inner(f, each, vector, block, size)) for each in (w, v)]
                    _add(f, product, block, along, (v, w))
                factor = f.load(given["factors"], k, DOUBLE)
                along = _inner(f, product, vector, block, size)
                back = write.fmul(write.fmul(factor, factor), write.fmul(along, DOUBLE(-0.5)))
                f.copy(None, other, size)
                _add(f, other, block, (factor, back), (product, vector))
        after = f.total(start, BLOCK)
        with write.if_then(f.all((after, "<", count))), f.loop(write.sub(size, after), _CHANGED) as i:
            here = f.total(after, i)
            rows = write.and_(here, INT(-BLOCK))
            seen = f.at(given["matrix"], f.total(f.times(here, size), rows))
            there = [f.at(each, rows) for each in (known, others)]
            own = [f.at(each, here) for each in (known, others)]
            f.write.call(change, [seen, *there, *own, write.sub(size, rows), size])
    write.ret_void()
    return module


def _multiply(module: ir.Module, shape: Shape) -> Any:
    """BLOCK columns of a symmetric matrix times the other half's x, added to a product; and the sums of each column
    times x."""
    pointers = ("matrix", "x", "product", "own", "sums")
    f = _begun(module, shape, "multiply", pointers, ("rows", "size"))
    given, write = f.given, f.write
    # As many as registers have room for.
    together = BLOCK if shape.width == 16 else BLOCK // 2
    for first in range(0, BLOCK, together):
        times = [f.spread(f.load(given["own"], INT(first + n), DOUBLE)) for n in range(together)]
        places = [f.variable(f.vector) for _ in range(together)]
        for place in places:
            write.store(f.constant(0), place)
        with f.loop(given["rows"], f.width) as i:
            x, total = (f.load(given[name], i) for name in ("x", "product"))
            for n, (factor, place) in enumerate(zip(times, places, strict=True)):
                found = f.load(f.at(given["matrix"], f.times(first + n, given["size"])), i)
                total = f.plus_product(total, found, factor)
                write.store(f.plus_product(f.read(place), found, x), place)
            f.store(total, given["product"], i)
        for n, place in enumerate(places):
            f.store(f.across(f.read(place)), given["sums"], INT(first + n))
    write.ret_void()
    return f.function


def _change(module: ir.Module, shape: Shape) -> Any:
    """Some columns of a matrix less the v w^T + w v^T of BLOCK reflections."""
    f = _begun(module, shape, "change", ("matrix", "v", "w", "own_v", "own_w"), ("rows", "size"))
    given, write, size = f.given, f.write, f.given["size"]
    with f.loop(given["rows"], f.width) as i:
        columns = [f.at(given["matrix"], f.times(n, size)) for n in range(_CHANGED)]
        found = [f.load(column, i) for column in columns]
        for k in range(BLOCK):
            for one, other in (("v", "own_w"), ("w", "own_v")):
                row, own = f.load(given[one], f.total(i, f.times(k, size))), f.at(given[other], f.times(k, size))
                for n in range(_CHANGED):
                    factor = f.spread(write.fneg(f.load(own, INT(n), DOUBLE)))
                    found[n] = f.plus_product(found[n], row, factor)
        for column, vector in zip(columns, found, strict=True):
            f.store(vector, column, i)
    write.ret_void()
    return f.function


def _add(f: Function, to: Any, start: Any, factors: Sequence[Any], vectors: Sequence[Any]) -> None:
    """To a vector, from `start` on: others times numbers."""
    spread = [f.spread(each) for each in factors]
    with f.loop(f.write.sub(f.given["size"], start), f.width) as i:
        at = f.total(start, i)
        total = f.load(to, at)
        for factor, vector in zip(spread, vectors, strict=True):
            total = f.plus_product(total, factor, f.load(vector, at))
        f.store(total, to, at)


def _inner(f: Function, one: Any, other: Any, start: Any, size: Any) -> Any:
    """The inner product of two vectors from `start` on."""
    place = f.variable(f.vector)
    f.write.store(f.constant(0), place)
    with f.loop(f.write.sub(size, start), f.width) as i:
        at = f.total(start, i)
        f.write.store(f.plus_product(f.read(place), f.load(one, at), f.load(other, at)), place)
    return f.across(f.read(place))


def _invert(shape: Shape) -> ir.Module:
    """The inverse A of a tridiagonal matrix is that of two vectors, apart from its diagonal: A_ij = A_(i-1)j r_i for
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
            lower(both)
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
                there = write.fcmp_ordered(">", f.called("fabs", found), smallest)
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
