"""Writes machine code for this processor and compiles it."""

from __future__ import annotations

import ctypes
import functools
import inspect
import platform
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

FLOAT, DOUBLE, INT, POINTER = ir.FloatType(), ir.DoubleType(), ir.IntType(64), ir.PointerType()
BYTE, HALF, WORD = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_INDEX = WORD

P = ParamSpec("P")
T = TypeVar("T")


class Shape(NamedTuple):
    """Numbers to a vector, and the matrix of sums that products of matrices keep in registers, `rows` by `panel`."""

    width: int
    rows: int
    panel: int


_AVX512, _AVX, _NEON, _OTHER = Shape(16, 6, 64), Shape(8, 6, 16), Shape(4, 6, 16), Shape(4, 4, 8)


@functools.cache
def shape() -> Shape:
    """By the vectors and registers that this processor has."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return _AVX512
    if features.get("avx"):
        return _AVX
    return _NEON if platform.machine().lower() in ("arm64", "aarch64") else _OTHER


def once(make: Callable[P, T]) -> Callable[P, T]:
    """Makes code when it is first asked for with these arguments; whoever asks meanwhile waits."""
    lock, made, form = threading.Lock(), dict[tuple[Any, ...], T](), inspect.signature(make)

    @functools.wraps(make)
    def of(*given: P.args, **named: P.kwargs) -> T:
        bound = form.bind(*given, **named)
        bound.apply_defaults()
        key = tuple(bound.arguments.values())
        with lock:
            if key not in made:
                made[key] = make(*given, **named)
            return made[key]

    return of


def compiled(module: ir.Module, name: str, *kinds: Any) -> Callable[..., None]:
    """A function of a module, ready to be called with arguments of those C types; it returns nothing."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    read = llvm.parse_assembly(str(module))
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(read, builder)
    engine = llvm.create_mcjit_compiler(read, machine)
    engine.finalize_object()
    function: Any = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address(name))
    # The code lives as long as what compiled it.
    function.engine = engine
    return function  # type: ignore[no-any-return]


class Function:
    """A function that is being written; its parameters by name in `given`. Its numbers are of one `kind`, FLOAT or
    DOUBLE, `width` to a vector."""

    def __init__(self, module: ir.Module, shape: Shape, name: str, given: Mapping[str, Any], kind: Any = FLOAT) -> None:
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), list(given.values())), name)
        # Written once, wherever it is called: what it does takes long, and so does compiling it.
        self.function.attributes.add("noinline")
        self.given = dict(zip(given, self.function.args, strict=True))
        for each in self.function.args:
            if each.type == POINTER:
                each.add_attribute("noalias")
        self.kind, self._size = (kind, 4) if kind == FLOAT else (kind, 8)
        self.width = shape.width * 4 // self._size
        self.vector = ir.VectorType(kind, self.width)
        self._entry = ir.IRBuilder(self.function.append_basic_block())
        body = self.function.append_basic_block()
        self._entry.branch(body)
        self.write = ir.IRBuilder(body)

    def variable(self, kind: Any) -> Any:
        """A place on the stack; what fits is kept in registers."""
        self._entry.position_at_start(self._entry.block)
        return self._entry.alloca(kind)

    @contextmanager
    def loop(self, stop: Any, step: Any = 1) -> Iterator[Any]:
        """From 0 on, while less than `stop`."""
        write, place = self.write, self.variable(INT)
        check, body, after = (self.function.append_basic_block() for _ in range(3))
        write.store(INT(0), place)
        write.branch(check)
        write.position_at_end(check)
        index = write.load(place, typ=INT)
        write.cbranch(write.icmp_signed("<", index, stop), body, after)
        write.position_at_end(body)
        yield index
        write.store(write.add(index, _int(step)), place)
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

    def least(self, one: Any, other: Any) -> Any:
        """The smaller of two integers."""
        return self.write.select(self.write.icmp_signed("<", one, other), one, other)

    def most(self, one: Any, other: Any) -> Any:
        """The larger of two integers."""
        return self.write.select(self.write.icmp_signed(">", one, other), one, other)

    def told(self, address: Any, names: Sequence[str]) -> dict[str, Any]:
        """64 bit integers that lie one after the other."""
        places = ((name, self.byte(address, INT(8 * i))) for i, name in enumerate(names))
        return {name: self.write.load(place, align=8, typ=INT) for name, place in places}

    def at(self, address: Any, index: Any) -> Any:
        """The address of a number further on."""
        return self.write.gep(address, [index], source_etype=self.kind)

    def byte(self, address: Any, index: Any) -> Any:
        """The address that many bytes further on."""
        return self.write.gep(address, [index], source_etype=BYTE)

    def load(self, address: Any, index: Any, kind: Any = None) -> Any:
        """A vector; or a number, if that is its kind."""
        return self.write.load(self.at(address, index), align=self._size, typ=kind or self.vector)

    def store(self, vector: Any, address: Any, index: Any) -> None:
        """Into memory, from there on."""
        self.write.store(vector, self.at(address, index), align=self._size)

    def fetch(self, address: Any) -> None:
        """Have the cache fetch what lies there; it may be nowhere."""
        # To read, into the first cache, data.
        self.intrinsic("prefetch.p0", address, WORD(0), WORD(3), WORD(1))

    def copy(self, source: Any, target: Any, count: Any) -> None:
        """So many numbers; zeros if there is no source."""
        with self.loop(count, self.width) as i:
            self.store(self.constant(0) if source is None else self.load(source, i), target, i)

    def constant(self, number: float) -> Any:
        """A vector of that number."""
        number = float(np.float32(number)) if self.kind == FLOAT else float(number)
        return ir.Constant(self.vector, [number] * self.width)

    def spread(self, number: Any) -> Any:
        """A vector of a number that is known when the code runs."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.write.insert_element(nothing, number, _INDEX(0))
        zeros = ir.Constant(ir.VectorType(_INDEX, self.width), [0] * self.width)
        return self.write.shuffle_vector(first, nothing, zeros)

    def read(self, place: Any) -> Any:
        """The vector in a `variable`."""
        return self.write.load(place, typ=self.vector)

    def bits(self, numbers: Any) -> Any:
        """A vector of float32 as bfloat16, rounded to the nearest, by its bits."""
        write = self.write
        wide = ir.VectorType(WORD, numbers.type.count)
        sixteen, one, half = (ir.Constant(wide, [each] * wide.count) for each in (16, 1, 0x7FFF))
        found = write.bitcast(numbers, wide)
        even = write.and_(write.lshr(found, sixteen), one)
        found = write.lshr(write.add(write.add(found, half), even), sixteen)
        return write.trunc(found, ir.VectorType(HALF, wide.count))

    def numbers(self, bits: Any) -> Any:
        """A vector of bfloat16, by its bits, in float32."""
        wide = ir.VectorType(WORD, bits.type.count)
        found = self.write.shl(self.write.zext(bits, wide), ir.Constant(wide, [16] * wide.count))
        return self.write.bitcast(found, ir.VectorType(FLOAT, wide.count))

    def at_least(self, vector: Any, floor: Any) -> Any:
        """The larger of two vectors; what is not a number in the first stays that."""
        return self.write.select(self.write.fcmp_ordered("<", vector, floor), floor, vector)

    def across(self, vector: Any) -> Any:
        """The sum of a vector's numbers: that of its halves, of theirs, and so on."""
        size = self.width
        while size > 1:
            size //= 2
            orders = (ir.Constant(ir.VectorType(_INDEX, size), list(range(i, i + size))) for i in (0, size))
            vector = self.write.fadd(*(self.write.shuffle_vector(vector, vector, order) for order in orders))
        return self.write.extract_element(vector, _INDEX(0))

    def plus_product(self, vector: Any, one: Any, other: Any) -> Any:
        """`vector` + `one` `other`: in one instruction where there is one."""
        return self.called("fmuladd", one, other, vector)

    def called(self, name: str, *given: Any) -> Any:
        """A function that processors have, of numbers or vectors of one kind."""
        kind, bits = given[0].type, f"f{8 * self._size}"
        suffix = bits if kind == self.kind else f"v{kind.count}{bits}"
        return self.intrinsic(f"{name}.{suffix}", *given, result=kind)

    def intrinsic(self, name: str, *given: Any, result: Any = None) -> Any:
        """One of the compiler's own functions, by its name after "llvm."; it returns nothing or what is said."""
        module, name = self.function.module, f"llvm.{name}"
        kind = ir.FunctionType(result or ir.VoidType(), [each.type for each in given])
        return self.write.call(module.globals.get(name) or ir.Function(module, kind, name), given)

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
    return INT(number) if isinstance(number, int) else number
