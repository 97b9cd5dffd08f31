"""A convolution by Winograd's algorithm as machine code for this processor, written and compiled with llvmlite.

A block of tiles goes through three loops, and what one leaves for the next stays in the processor's cache:

    windows    each tile's window, for all channels, to 36 rows of matrices                      (B d B^T)
    products   36 products of matrices: (tiles, channels) times (channels, channels out)
    results    16 positions of each tile from its 36 products, plus a bias, at least a floor     (A m A^T)

Channels come last everywhere and go through vector registers as they lie in memory. The products take most of the time:
their innermost loop keeps a small matrix of sums in registers, of `rows` tiles and `panel` channels out, and adds what
one channel gives to all of them (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008).
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from stylekeras.winograd import INPUT, OUTPUT, TILE, WINDOW

# What a run is told, in this order: the sizes of picture and result; rows and columns of zeros before the picture; the
# tiles in a row; the first tile, the one after the last, and the tiles that there is memory for; and how many of the
# channels out are to be made.
PLACES = (
    *("height", "width", "channels", "height_out", "width_out", "channels_out"),
    *("above", "left", "across", "first", "last", "block", "some"),
)
# Matrices that begin a power of two apart would get into each other's way in the cache: so many numbers are between.
APART = 16
# A panel of kernels of so many channels stays in the fastest cache while the tiles pass by.
_DEPTH = 256

_FLOAT, _INT, _POINTER = ir.FloatType(), ir.IntType(64), ir.PointerType()
_INDEX = ir.IntType(32)


class Shape(NamedTuple):
    """Numbers to a vector, and what is kept in registers: sums of `rows` tiles by `panel` channels out."""

    width: int
    rows: int
    panel: int


_AVX512, _AVX, _NEON, _OTHER = Shape(16, 12, 32), Shape(8, 6, 16), Shape(4, 6, 16), Shape(4, 4, 8)


class Code(NamedTuple):
    """Machine code and what it was made for.

    `run(picture, kernels, bias, floor, result, windows, products, scratch, places)` takes addresses of float32, a
    number as the floor, and the address of 64 bit integers, `PLACES`. Kernels are (36, channels out / panel, channels,
    panel); windows and products have room for 36 matrices of `block` tiles' channels (in, out) and `APART` numbers
    each, scratch for one window.
    """

    run: Callable[..., None]
    shape: Shape


@functools.cache
def compiled(shape: Shape | None = None) -> Code:
    """The code for this processor, compiled when it is first asked for; another `shape` than its own is for tests."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
    )
    shape = shape or _fitting(features)
    module = llvm.parse_assembly(str(_module(shape)))
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    pointer = ctypes.c_void_p
    run: Any = ctypes.CFUNCTYPE(None, *[pointer] * 3, ctypes.c_float, *[pointer] * 5)(
        engine.get_function_address("run")
    )
    # The code lives as long as what compiled it.
    run.engine = engine
    return Code(run, shape)


def _fitting(features: Mapping[str, bool]) -> Shape:
    """By the vectors and registers that a processor has."""
    if features.get("avx512f"):
        return _AVX512
    if features.get("avx"):
        return _AVX
    return _NEON if platform.machine().lower() in ("arm64", "aarch64") else _OTHER


class _Function:
    """A function that is being written; its parameters by name in `given`."""

    def __init__(self, module: ir.Module, shape: Shape, name: str, given: Mapping[str, Any]) -> None:
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), list(given.values())), name)
        self.given = dict(zip(given, self.function.args, strict=True))
        for each in self.function.args:
            if each.type == _POINTER:
                each.add_attribute("noalias")
        self.width = shape.width
        self.vector = ir.VectorType(_FLOAT, shape.width)
        self._entry = ir.IRBuilder(self.function.append_basic_block())
        body = self.function.append_basic_block()
        self._entry.branch(body)
        self.write = ir.IRBuilder(body)

    def variable(self, kind: Any) -> Any:
        """A place on the stack; what fits is kept in registers."""
        self._entry.position_at_start(self._entry.block)
        return self._entry.alloca(kind)

    @contextmanager
    def loop(self, stop: Any, step: int = 1) -> Iterator[Any]:
        """From 0 on, while less than `stop`."""
        write, place = self.write, self.variable(_INT)
        check, body, after = (self.function.append_basic_block() for _ in range(3))
        write.store(_INT(0), place)
        write.branch(check)
        write.position_at_end(check)
        index = write.load(place, typ=_INT)
        write.cbranch(write.icmp_signed("<", index, stop), body, after)
        write.position_at_end(body)
        yield index
        write.store(write.add(index, _INT(step)), place)
        write.branch(check)
        write.position_at_end(after)

    def total(self, *numbers: Any) -> Any:
        """The sum of integers."""
        return functools.reduce(self.write.add, (_int(each) for each in numbers))

    def times(self, *numbers: Any) -> Any:
        """The product of integers."""
        return functools.reduce(self.write.mul, (_int(each) for each in numbers))

    def all(self, *conditions: tuple[Any, str, Any]) -> Any:
        """Whether all comparisons of integers hold."""
        found = (self.write.icmp_signed(how, one, _int(other)) for one, how, other in conditions)
        return functools.reduce(self.write.and_, found)

    def at(self, address: Any, index: Any) -> Any:
        """The address of a number further on."""
        return self.write.gep(address, [index], source_etype=_FLOAT)

    def load(self, address: Any, index: Any, kind: Any = None) -> Any:
        """A vector; or a number, if that is its kind."""
        return self.write.load(self.at(address, index), align=4, typ=kind or self.vector)

    def store(self, vector: Any, address: Any, index: Any) -> None:
        """Into memory, from there on."""
        self.write.store(vector, self.at(address, index), align=4)

    def copy(self, source: Any, target: Any, count: Any) -> None:
        """So many numbers; zeros if there is no source."""
        with self.loop(count, self.width) as i:
            self.store(self.constant(0) if source is None else self.load(source, i), target, i)

    def constant(self, number: float) -> Any:
        """A vector of that number."""
        return ir.Constant(self.vector, [float(np.float32(number))] * self.width)

    def spread(self, number: Any) -> Any:
        """A vector of a number that is known when the code runs."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.write.insert_element(nothing, number, _INDEX(0))
        zeros = ir.Constant(ir.VectorType(_INDEX, self.width), [0] * self.width)
        return self.write.shuffle_vector(first, nothing, zeros)

    def plus_product(self, vector: Any, one: Any, other: Any) -> Any:
        """`vector` + `one` `other`: in one instruction where there is one."""
        module, name = self.function.module, f"llvm.fmuladd.v{self.width}f32"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        known = module.globals.get(name) or ir.Function(module, kind, name)
        return self.write.call(known, [one, other, vector])

    def weighted(self, weights: Iterable[float], vectors: Sequence[Any]) -> Any:
        """The sum of vectors times known numbers, those of 1 first and those of 0 left out."""
        found: Any = None
        for weight, vector in sorted(zip(weights, vectors, strict=True), key=lambda pair: pair[0] != 1):
            if weight == 0:
                continue
            if found is None:
                found = vector if weight == 1 else self.write.fmul(self.constant(weight), vector)
            elif weight == 1:
                found = self.write.fadd(found, vector)
            else:
                found = self.plus_product(found, self.constant(weight), vector)
        return found


def _int(number: Any) -> Any:
    return _INT(number) if isinstance(number, int) else number


# Of opposite points, in both matrices one after the other.
_PAIRS = (1, 3)


def _ahead(f: _Function, window: Sequence[Any]) -> list[Any]:
    """B d. Opposite points have the sums of even powers in common, and but for the sign those of odd ones."""
    found = [f.weighted(row, window) if i in (0, WINDOW - 1) else None for i, row in enumerate(INPUT)]
    for i in _PAIRS:
        even, odd = f.weighted(INPUT[i, ::2], window[::2]), f.weighted(INPUT[i, 1::2], window[1::2])
        found[i], found[i + 1] = f.write.fadd(even, odd), f.write.fsub(even, odd)
    return found


def _back(f: _Function, made: Sequence[Any]) -> list[Any]:
    """A m, likewise."""
    parts = [(made[0], made[0]), (made[-1], made[-1])]
    parts += [(f.write.fadd(made[i], made[i + 1]), f.write.fsub(made[i], made[i + 1])) for i in _PAIRS]
    columns = (0, WINDOW - 1, *_PAIRS)
    return [f.weighted(row[list(columns)], [part[i % 2] for part in parts]) for i, row in enumerate(OUTPUT)]


def _module(shape: Shape) -> ir.Module:
    module = ir.Module("winograd")
    _write_run(module, shape, _write_window(module, shape), _write_product(module, shape), _write_result(module, shape))
    return module


def _write_window(module: ir.Module, shape: Shape) -> Any:
    """A window, whose rows and columns are `down` and `right` apart, to a row of each of 36 matrices."""
    kinds = {"picture": _POINTER, "down": _INT, "right": _INT, "windows": _POINTER, "apart": _INT, "channels": _INT}
    f = _Function(module, shape, "window", kinds)
    given, write = f.given, f.write
    halfway = [[f.variable(f.vector) for _ in range(WINDOW)] for _ in range(WINDOW)]
    with f.loop(given["channels"], f.width) as channel:
        for j in range(WINDOW):
            places = [f.total(channel, f.times(i, given["down"]), f.times(j, given["right"])) for i in range(WINDOW)]
            for i, vector in enumerate(_ahead(f, [f.load(given["picture"], place) for place in places])):
                write.store(vector, halfway[i][j])
        for i in range(WINDOW):
            for j, vector in enumerate(_ahead(f, [write.load(each, typ=f.vector) for each in halfway[i]])):
                f.store(vector, given["windows"], f.total(channel, f.times(i * WINDOW + j, given["apart"])))
    write.ret_void()
    return f.function


def _write_result(module: ir.Module, shape: Shape) -> Any:
    """A row of each of 36 matrices to a tile, whose rows and columns are `down` and `right` apart."""
    kinds = {"products": _POINTER, "apart": _INT, "bias": _POINTER, "floor": _FLOAT}
    kinds |= {"result": _POINTER, "down": _INT, "right": _INT, "channels": _INT}
    f = _Function(module, shape, "result", kinds)
    given, write = f.given, f.write
    halfway = [[f.variable(f.vector) for _ in range(WINDOW)] for _ in range(TILE)]
    floor = f.spread(given["floor"])
    with f.loop(given["channels"], f.width) as channel:
        for j in range(WINDOW):
            places = [f.total(channel, f.times(i * WINDOW + j, given["apart"])) for i in range(WINDOW)]
            for i, vector in enumerate(_back(f, [f.load(given["products"], place) for place in places])):
                write.store(vector, halfway[i][j])
        bias = f.load(given["bias"], channel)
        for i in range(TILE):
            for j, vector in enumerate(_back(f, [write.load(each, typ=f.vector) for each in halfway[i]])):
                value = write.fadd(vector, bias)
                # What is not a number stays that.
                value = write.select(write.fcmp_ordered("<", value, floor), floor, value)
                place = f.total(channel, f.times(i, given["down"]), f.times(j, given["right"]))
                f.store(value, given["result"], place)
    write.ret_void()
    return f.function


def _write_product(module: ir.Module, shape: Shape) -> Any:
    """Tiles' windows (tiles, channels) times a panel of a kernel (channels, panel), added to what is there if told."""
    kinds = {"windows": _POINTER, "kernel": _POINTER, "products": _POINTER, "channels": _INT, "channels_out": _INT}
    f = _Function(module, shape, "product", kinds | {"tiles": _INT, "depth": _INT, "more": ir.IntType(1)})
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
                    write.store(f.load(products[row], _INT(column)), total)
            with first:
                for total in sums.values():
                    write.store(f.constant(0), total)
        with f.loop(given["depth"]) as channel:
            line = f.times(channel, shape.panel)
            kernel = {at: f.load(given["kernel"], f.total(line, at)) for at in range(0, shape.panel, f.width)}
            window = [f.spread(f.load(each, channel, _FLOAT)) for each in windows]
            for (row, column), total in sums.items():
                before = write.load(total, typ=f.vector)
                write.store(f.plus_product(before, window[row], kernel[column]), total)
        for (row, column), total in sums.items():
            f.store(write.load(total, typ=f.vector), products[row], _INT(column))
    write.ret_void()
    return f.function


def _write_run(module: ir.Module, shape: Shape, window: Any, product: Any, result: Any) -> None:
    """`Code.run`. Tiles at an edge go through `scratch`: their windows reach beyond the picture, or they do."""
    kinds = {"picture": _POINTER, "kernels": _POINTER, "bias": _POINTER, "floor": _FLOAT, "result": _POINTER}
    kinds |= dict.fromkeys(("windows", "products", "scratch", "places"), _POINTER)
    f = _Function(module, shape, "run", kinds)
    given, write = f.given, f.write
    places = (write.gep(given["places"], [_INT(i)], source_etype=_INT) for i in range(len(PLACES)))
    at = {name: write.load(place, typ=_INT) for name, place in zip(PLACES, places, strict=True)}
    channels, wanted, tiles = at["channels"], at["some"], write.sub(at["last"], at["first"])
    apart, apart_out = (f.total(f.times(at["block"], each), APART) for each in (channels, wanted))

    def place(tile: Any) -> tuple[Any, Any]:
        """Of a tile in the result."""
        tile = f.total(tile, at["first"])
        return f.times(write.sdiv(tile, at["across"]), TILE), f.times(write.srem(tile, at["across"]), TILE)

    def pixel(address: Any, row: Any, column: Any, width: Any, channels: Any) -> Any:
        return f.at(address, f.times(f.total(f.times(row, width), column), channels))

    with f.loop(tiles) as tile:
        row, column = place(tile)
        row, column = write.sub(row, at["above"]), write.sub(column, at["left"])
        target = f.at(given["windows"], f.times(tile, channels))
        rest = (target, apart, channels)
        ends = (f.total(row, WINDOW), "<=", at["height"]), (f.total(column, WINDOW), "<=", at["width"])
        with write.if_else(f.all((row, ">=", 0), (column, ">=", 0), *ends)) as (inside, edge):
            with inside:
                source = pixel(given["picture"], row, column, at["width"], channels)
                write.call(window, [source, f.times(at["width"], channels), channels, *rest])
            with edge:
                with f.loop(_INT(WINDOW)) as i, f.loop(_INT(WINDOW)) as j:
                    y, x = f.total(row, i), f.total(column, j)
                    copy = pixel(given["scratch"], i, j, WINDOW, channels)
                    there = f.all((y, ">=", 0), (x, ">=", 0), (y, "<", at["height"]), (x, "<", at["width"]))
                    with write.if_else(there) as (inside, outside):
                        with inside:
                            f.copy(pixel(given["picture"], y, x, at["width"], channels), copy, channels)
                        with outside:
                            f.copy(None, copy, channels)
                write.call(window, [given["scratch"], f.times(channels, WINDOW), channels, *rest])

    with f.loop(_INT(WINDOW * WINDOW)) as n:
        windows, products = (
            f.at(given[name], f.times(n, size)) for name, size in (("windows", apart), ("products", apart_out))
        )
        kernel = f.at(given["kernels"], f.times(n, channels, at["channels_out"]))
        with f.loop(wanted, shape.panel) as panel, f.loop(channels, _DEPTH) as start:
            rest_of = write.sub(channels, start)
            depth = write.select(f.all((rest_of, "<", _DEPTH)), rest_of, _INT(_DEPTH))
            part = f.at(kernel, f.total(f.times(panel, channels), f.times(start, shape.panel)))
            sizes = [channels, wanted, tiles, depth, f.all((start, ">", 0))]
            write.call(product, [f.at(windows, start), part, f.at(products, panel), *sizes])

    with f.loop(tiles) as tile:
        row, column = place(tile)
        source = (f.at(given["products"], f.times(tile, wanted)), apart_out, given["bias"], given["floor"])
        ends = (f.total(row, TILE), "<=", at["height_out"]), (f.total(column, TILE), "<=", at["width_out"])
        with write.if_else(f.all(*ends)) as (inside, edge):
            with inside:
                target = pixel(given["result"], row, column, at["width_out"], at["channels_out"])
                down = f.times(at["width_out"], at["channels_out"])
                write.call(result, [*source, target, down, at["channels_out"], wanted])
            with edge:
                write.call(result, [*source, given["scratch"], f.times(wanted, TILE), wanted, wanted])
                with f.loop(_INT(TILE)) as i, f.loop(_INT(TILE)) as j:
                    y, x = f.total(row, i), f.total(column, j)
                    with write.if_then(f.all((y, "<", at["height_out"]), (x, "<", at["width_out"]))):
                        target = pixel(given["result"], y, x, at["width_out"], at["channels_out"])
                        f.copy(pixel(given["scratch"], i, j, TILE, wanted), target, wanted)
    write.ret_void()
