"""Code for processors that multiply matrices of bfloat16 (Intel's AMX): what a function writes to use their tiles.

A product of two tiles takes 16 rows of 32 numbers and 16 columns of 32, next to each other by twos, and adds 16 x 16
sums to a third tile in float32. Products of two bfloat16 are exact there.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from stylekeras.engines import has_matrix_unit
from stylekeras.native.writer import BYTE, FLOAT, HALF, INT, POINTER, WORD, Function, Shape

# Rows of a tile, its bytes in a row and altogether, and the numbers in a row of a factor.
ROWS, BYTES = 16, 64
TILE = ROWS * BYTES
DEPTH = BYTES // 2
# How many there are.
REGISTERS = 8
# How they are laid out: palette 1, of each the bytes in a row and the rows.
_LAYOUT = [1, *[0] * 15, *[BYTES, 0] * REGISTERS, *[0] * 16, *[ROWS] * REGISTERS, *[0] * 8]
# Vectors as long as a tile's rows, on any processor.
_SHAPE = Shape(ROWS, 0, 0)
# Where the other thread of a core works too only few tiles are under way at once, and whatever asks for more of them
# waits far longer than those take. A product and a load then took 25 ns; with as many instructions as this after both,
# 15. To a thread that has its core to itself they make no difference: 6 ns.
_EMPTY = 8
# The compiler's names for what the code takes: tiles, their products, and rounding to bfloat16.
_FEATURES = ("amx-tile", "amx-bf16", "avx512bf16")
# arch_prctl and what is asked of it, by number, as Linux has them: its processes may use large registers if they ask.
_SYSTEM_CALL, _PERMISSION, _TILE_DATA = 158, 0x1023, 18


@functools.cache
def available() -> bool:
    """Whether this processor has them and rounds to bfloat16, and the system lets this process use them."""
    # What the compiler knows of the processor counts too: it ends the process where it cannot write an instruction.
    known = llvm.get_host_cpu_features()
    if sys.platform != "linux" or not has_matrix_unit() or not all(known.get(name) for name in _FEATURES):
        return False
    return int(ctypes.CDLL(None).syscall(_SYSTEM_CALL, _PERMISSION, _TILE_DATA)) == 0


class TileFunction(Function):
    """A function with tiles, by number; those of an imitation lie in memory, for tests on any processor."""

    def __init__(self, module: ir.Module, name: str, given: dict[str, Any], *, imitated: bool) -> None:
        super().__init__(module, _SHAPE, name, given)
        self._imitations = [self.memory(TILE) for _ in range(REGISTERS)] if imitated else []

    def memory(self, size: int) -> Any:
        """The address of so many bytes on the stack, that many times whole vectors."""
        place = self.variable(ir.ArrayType(ir.VectorType(FLOAT, ROWS), size // BYTES))
        # An address of vectors is none of anything else, in the eyes of what writes the code.
        self._entry.position_before(self._entry.block.terminator)
        return self._entry.inttoptr(self._entry.ptrtoint(place, INT), POINTER)

    @contextmanager
    def laid_out(self) -> Iterator[None]:
        """Within it tiles may be used. A thread's layout of them belongs to whoever comes next there, who may rely on
        it: it is what it was before."""
        if self._imitations:
            yield
            return
        module, kind = self.function.module, ir.ArrayType(BYTE, BYTES)
        layout = ir.GlobalVariable(module, kind, "layout")
        layout.initializer, layout.global_constant, layout.linkage = ir.Constant(kind, _LAYOUT), True, "internal"
        before = self.memory(BYTES)
        self._call("sttilecfg", before)
        self._call("ldtilecfg", self.write.inttoptr(self.write.ptrtoint(layout, INT), POINTER))
        yield
        self._call("ldtilecfg", before)

    def clear_tile(self, tile: int) -> None:
        """Zeros."""
        if not self._imitations:
            self._call("tilezero", BYTE(tile))
            return
        with self.loop(INT(TILE), 4) as i:
            self.write.store(WORD(0), self.byte(self._imitations[tile], i))

    def load_tile(self, tile: int, address: Any, apart: Any) -> None:
        """From rows so many bytes apart."""
        if self._imitations:
            self._copy(address, apart, self._imitations[tile], BYTES)
        else:
            self._call("tileloadd64", BYTE(tile), address, apart)

    def store_tile(self, tile: int, address: Any, apart: Any) -> None:
        """To rows so many bytes apart."""
        if self._imitations:
            self._copy(self._imitations[tile], BYTES, address, apart)
        else:
            self._call("tilestored64", BYTE(tile), address, apart)

    def add_product(self, sums: int, left: int, right: int) -> None:
        """Of two tiles, to a third."""
        if not self._imitations:
            self._call("tdpbf16ps", BYTE(sums), BYTE(left), BYTE(right))
            return
        with self.loop(INT(ROWS)) as i, self.loop(INT(ROWS)) as j:
            place = self.byte(self._imitations[sums], self.total(self.times(i, BYTES), self.times(j, 4)))
            with self.loop(INT(DEPTH)) as k:
                pair, which = self.write.sdiv(k, INT(2)), self.write.srem(k, INT(2))
                one = self._number(left, self.total(self.times(i, BYTES), self.times(k, 2)))
                other = self._number(right, self.total(self.times(pair, BYTES), self.times(j, 4), self.times(which, 2)))
                sum_ = self.write.fadd(self.write.load(place, typ=FLOAT), self.write.fmul(one, other))
                self.write.store(sum_, place)

    def pause(self) -> None:
        """Some empty instructions: see `_EMPTY`."""
        kind = ir.FunctionType(ir.VoidType(), [])
        self.write.call(ir.InlineAsm(kind, "; ".join(["nop"] * _EMPTY), "", side_effect=True), [])

    def _call(self, name: str, *given: Any) -> None:
        self.intrinsic(f"x86.{name}", *given)

    def _number(self, tile: int, place: Any) -> Any:
        half = self.write.load(self.byte(self._imitations[tile], place), typ=HALF)
        return self.write.bitcast(self.write.shl(self.write.zext(half, WORD), WORD(16)), FLOAT)

    def _copy(self, source: Any, apart: Any, target: Any, apart_there: Any) -> None:
        with self.loop(INT(ROWS)) as i, self.loop(INT(BYTES), 4) as j:
            word = self.write.load(self.byte(source, self.total(self.times(i, apart), j)), align=4, typ=WORD)
            self.write.store(word, self.byte(target, self.total(self.times(i, apart_there), j)), align=4)
