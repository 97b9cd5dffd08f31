"""3x3 convolutions from and to the few planes of a picture, in float32, as machine code.

Of so few channels on one side Winograd's algorithm, and any copy of the other side, costs more than it saves. Features
have their channels last, the picture's planes lie one after the other:

    features    as a product of matrices: the nine neighbours of some positions, of each plane, times kernels that stay
                in the fastest cache; the sums are in registers as in `convolution_code`
    planes      the gradient: sums over a vector of channels each, for some positions and all planes, whose numbers are
                added up at the end
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from stylekeras.native import writer
from stylekeras.native.writer import FLOAT, INT, POINTER, Function, Shape, once

SIDE = 3
# What a run is told, in this order. Of features: positions of the planes' rows and altogether, those of the result's
# rows, its channels and those that there are kernels for, the planes, and which rows to do. Of planes: the sizes of
# features and result, rows and columns of zeros before the features, and which rows to do.
FEATURES = ("across_planes", "plane", "across", "channels", "made", "planes", "first", "last")
PLANES = ("height", "width", "channels", "height_out", "width_out", "above", "left", "first", "last")


def positions(shape: Shape, planes: int) -> int:
    """How many positions `planes` takes at a time: as many as registers have room for, but no more than a few."""
    return max(1, min(8, shape.rows * shape.panel // shape.width // planes))


@once
def features(shape: Shape | None = None) -> Callable[..., None]:
    """`run(planes, kernels, bias, floor, result, places)`: addresses of float32, a number as the floor, and the address
    of 64 bit integers, `FEATURES`.

    Planes have the zeros around them, result is (rows, across, channels), channels a multiple of a vector, and across
    at least `shape.rows`; kernels and bias are (panels, planes, 3, 3, panel) and (panels, panel).
    """
    shape = shape or writer.shape()
    module = ir.Module("features")
    _write_features(module, shape, _write_group(module, shape))
    kinds = (*[ctypes.c_void_p] * 3, ctypes.c_float, *[ctypes.c_void_p] * 2)
    return writer.compiled(module, "run", *kinds)


@once
def planes(count: int, shape: Shape | None = None) -> Callable[..., None]:
    """`run(features, kernels, result, places)`: addresses of float32 and of 64 bit integers, `PLANES`.

    Features are (height, width, channels), channels a multiple of a vector, the result `count` planes; kernels are
    (3, 3, channels / vector, planes, vector).
    """
    shape = shape or writer.shape()
    module = ir.Module("planes")
    some = positions(shape, count)
    sums = {each: _write_sums(module, shape, count, each) for each in {1, some}}
    _write_planes(module, shape, count, sums[some], some, sums[1])
    return writer.compiled(module, "run", *[ctypes.c_void_p] * 4)


def _write_group(module: ir.Module, shape: Shape) -> Any:
    """A panel of channels of `shape.rows` positions, of which at most `left` channels are wanted."""
    kinds = {"planes": POINTER, "kernel": POINTER, "bias": POINTER, "floor": FLOAT, "result": POINTER}
    f = Function(module, shape, "group", kinds | dict.fromkeys(("across", "plane", "count", "channels", "left"), INT))
    given, write = f.given, f.write
    columns = range(0, shape.panel, f.width)
    sums = {(row, column): f.variable(f.vector) for row in range(shape.rows) for column in columns}
    for (_, column), total in sums.items():
        write.store(f.load(given["bias"], INT(column)), total)
    with f.loop(given["count"]) as plane, f.loop(INT(SIDE)) as i:
        line = f.at(given["planes"], f.total(f.times(plane, given["plane"]), f.times(i, given["across"])))
        kernel = f.at(given["kernel"], f.times(f.total(f.times(plane, SIDE), i), SIDE * shape.panel))
        for j in range(SIDE):
            weights = {column: f.load(kernel, INT(j * shape.panel + column)) for column in columns}
            for row in range(shape.rows):
                number = f.spread(f.load(line, INT(j + row), FLOAT))
                for column in columns:
                    total = sums[row, column]
                    write.store(f.plus_product(f.read(total), number, weights[column]), total)
    floor = f.spread(given["floor"])
    for column in columns:
        with write.if_then(f.all((given["left"], ">", column))):
            for row in range(shape.rows):
                value = f.at_least(f.read(sums[row, column]), floor)
                f.store(value, given["result"], f.total(f.times(row, given["channels"]), column))
    write.ret_void()
    return f.function


def _write_features(module: ir.Module, shape: Shape, group: Any) -> None:
    kinds = {"planes": POINTER, "kernels": POINTER, "bias": POINTER, "floor": FLOAT, "result": POINTER}
    f = Function(module, shape, "run", kinds | {"places": POINTER})
    given, write, at = f.given, f.write, f.told(f.given["places"], FEATURES)
    sizes = [at["across_planes"], at["plane"], at["planes"], at["channels"]]
    with f.loop(write.sub(at["last"], at["first"])) as down, f.loop(at["across"], shape.rows) as start:
        row = f.total(at["first"], down)
        # The last ones again, where there are not as many left.
        column = f.least(start, write.sub(at["across"], INT(shape.rows)))
        seen = f.at(given["planes"], f.total(f.times(row, at["across_planes"]), column))
        to = f.at(given["result"], f.times(f.total(f.times(row, at["across"]), column), at["channels"]))
        with f.loop(at["made"], shape.panel) as panel:
            kernel = f.at(given["kernels"], f.times(panel, at["planes"], SIDE * SIDE))
            left = write.sub(at["channels"], panel)
            call = [seen, kernel, f.at(given["bias"], panel), given["floor"], f.at(to, panel), *sizes, left]
            write.call(group, call)
    write.ret_void()


def _write_sums(module: ir.Module, shape: Shape, count: int, some: int) -> Any:
    """Of `some` positions next to each other, in all planes; from neighbours `top` to `bottom`, `start` to `stop`."""
    kinds = {"features": POINTER, "kernels": POINTER, "result": POINTER}
    kinds |= dict.fromkeys(("down", "channels", "plane", "top", "bottom", "start", "stop"), INT)
    f = Function(module, shape, f"sums{some}", kinds)
    given, write = f.given, f.write
    sums = {(place, plane): f.variable(f.vector) for place in range(some) for plane in range(count)}
    for total in sums.values():
        write.store(f.constant(0), total)
    rows, columns = (write.sub(given[end], given[begin]) for begin, end in (("top", "bottom"), ("start", "stop")))
    with f.loop(rows) as down, f.loop(columns) as right:
        i, j = f.total(given["top"], down), f.total(given["start"], right)
        seen = f.at(given["features"], f.total(f.times(i, given["down"]), f.times(j, given["channels"])))
        kernel = f.at(given["kernels"], f.times(f.total(f.times(i, SIDE), j), given["channels"], count))
        with f.loop(given["channels"], f.width) as channel:
            weights = [f.load(kernel, f.total(f.times(channel, count), plane * f.width)) for plane in range(count)]
            for place in range(some):
                vector = f.load(seen, f.total(f.times(place, given["channels"]), channel))
                for plane in range(count):
                    total = sums[place, plane]
                    write.store(f.plus_product(f.read(total), vector, weights[plane]), total)
    # By a loop: written out, it took the compiler longer than all else.
    kept = f.variable(ir.ArrayType(f.vector, count * some))
    for (place, plane), total in sums.items():
        write.store(f.read(total), write.gep(kept, [INT(0), INT(plane * some + place)]))
    with f.loop(INT(count)) as plane, f.loop(INT(some)) as place:
        vector = write.load(write.gep(kept, [INT(0), f.total(f.times(plane, some), place)]))
        to = f.at(given["result"], f.total(f.times(plane, given["plane"]), place))
        write.store(f.across(vector), to, align=4)
    write.ret_void()
    return f.function


def _write_planes(module: ir.Module, shape: Shape, count: int, several: Any, some: int, one: Any) -> None:
    kinds = dict.fromkeys(("features", "kernels", "result", "places"), POINTER)
    f = Function(module, shape, "run", kinds)
    given, write, at = f.given, f.write, f.told(f.given["places"], PLANES)
    down, plane = f.times(at["width"], at["channels"]), f.times(at["height_out"], at["width_out"])

    # Positions all of whose neighbours are columns of the features.
    begin = f.least(at["left"], at["width_out"])
    end = f.least(at["width_out"], write.sub(f.total(at["width"], at["left"]), INT(SIDE - 1)))
    end = f.most(begin, end)
    with f.loop(write.sub(at["last"], at["first"])) as index:
        y = f.total(at["first"], index)
        row = write.sub(y, at["above"])
        top = f.most(INT(0), write.sub(INT(0), row))
        bottom = f.most(top, f.least(INT(SIDE), write.sub(at["height"], row)))

        def call(
            function: Any, x: Any, start: Any, stop: Any, y: Any = y, row: Any = row, ends: Any = (top, bottom)
        ) -> None:
            column = write.sub(x, at["left"])
            seen = f.at(given["features"], f.total(f.times(row, down), f.times(column, at["channels"])))
            to = f.at(given["result"], f.total(f.times(y, at["width_out"]), x))
            write.call(function, [seen, given["kernels"], to, down, at["channels"], plane, *ends, start, stop])

        def single(first: Any, last: Any) -> None:
            with f.loop(write.sub(last, first)) as index:
                x = f.total(first, index)
                column = write.sub(x, at["left"])
                start = f.most(INT(0), write.sub(INT(0), column))
                call(one, x, start, f.most(start, f.least(INT(SIDE), write.sub(at["width"], column))))

        with write.if_else(f.all((write.sub(end, begin), "<", some))) as (few, enough):
            with few:
                single(INT(0), at["width_out"])
            with enough:
                single(INT(0), begin)
                with f.loop(write.sub(end, begin), some) as start:
                    # The last ones again, where there are not as many left.
                    call(several, f.least(f.total(begin, start), write.sub(end, INT(some))), INT(0), INT(SIDE))
                single(end, at["width_out"])
    write.ret_void()
