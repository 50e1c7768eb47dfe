"""Float32 vectors inside numba functions: 16 lanes for rows, 4 for interleaved pixels.

Numba leaves vectorisation to LLVM, which gives up or guards a loop with dozens of overlap tests when ten arrays are
updated in place. These types map to LLVM's `<16 x float>` and `<4 x float>`: one AVX-512 register, two AVX2 or four
NEON registers. Every operation is exact IEEE and the number of lanes (and with it every sum) is the same on all
machines.

`load(array, i)` and `store(array, i, v)` address a flat C-contiguous float32 array without bounds check.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending
from numba.core import cgutils, types
from numba.core.datamodel import models

from vidprep.flow.cpu.jit import intrinsic

LANES = 16

_FLOAT = ir.FloatType()
_I32 = ir.IntType(32)


class VectorType(types.Type):
    """`lanes` float32 numbers in a register."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"float32x{lanes}")


@extending.register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: VectorType) -> None:
        super().__init__(manager, vector, ir.VectorType(_FLOAT, vector.lanes))  # type: ignore[no-untyped-call]


_ROW, _PIXEL = VectorType(LANES), VectorType(4)


def _lane(i: int) -> ir.Constant:
    return ir.Constant(_I32, i)


def _lanes(numbers: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_I32, len(numbers)), numbers)


def _address(context: Any, builder: Any, array_type: Any, array: Any, i: Any, lanes: int) -> Any:
    pointer = builder.gep(context.make_array(array_type)(context, builder, array).data, [i])
    return builder.bitcast(pointer, ir.PointerType(ir.VectorType(_FLOAT, lanes)))


def emit_load(context: Any, builder: Any, array_type: Any, array: Any, i: Any, lanes: int = LANES) -> Any:
    """IR of a load, for intrinsics that handle many vectors."""
    value = builder.load(_address(context, builder, array_type, array, i, lanes))
    value.align = 4
    return value


def emit_store(context: Any, builder: Any, array_type: Any, array: Any, i: Any, value: Any) -> None:
    """IR of a store."""
    builder.store(value, _address(context, builder, array_type, array, i, value.type.count)).align = 4


def _make_load(vector: VectorType) -> Any:
    def load(typing_context: Any, array: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit_load(context, builder, signature.args[0], args[0], args[1], vector.lanes)

        return vector(array, i), generate

    return intrinsic(load)


def _make_store(vector: VectorType) -> Any:
    def store(typing_context: Any, array: Any, i: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit_store(context, builder, signature.args[0], *args)
            return context.get_dummy_value()

        return types.void(array, i, value), generate

    return intrinsic(store)


def _make_splat(vector: VectorType) -> Any:
    def splat(typing_context: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            empty = ir.Constant(ir.VectorType(_FLOAT, vector.lanes), ir.Undefined)
            first = builder.insert_element(empty, args[0], _lane(0))
            return builder.shuffle_vector(first, first, _lanes([0] * vector.lanes))

        return vector(types.float32), generate

    return intrinsic(splat)


def _call(builder: Any, name: str, args: Any) -> Any:
    """Call an LLVM intrinsic on vectors, such as llvm.fma."""
    kind = args[0].type
    declared = ir.FunctionType(kind, [kind] * len(args))
    insert: Any = cgutils.get_or_insert_function
    return builder.call(insert(builder.module, declared, f"llvm.{name}.v{kind.count}f32"), args)


def _make_call(name: str, arity: int) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, name, args)

    def one(typing_context: Any, a: Any) -> Any:
        return a(a), generate

    def three(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
        return a(a, b, c), generate

    return intrinsic(one if arity == 1 else three)


def _make_select(comparison: str) -> Any:
    """Minimum or maximum; the form that becomes one machine instruction."""

    def select(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered(comparison, *args), *args)

        return a(a, b), generate

    return intrinsic(select)


def _make_operator(symbol: Callable[[Any, Any], Any], instruction: str) -> None:
    def apply(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args)

        return a(a, b), generate

    code = intrinsic(apply)

    def chosen(a: Any, b: Any) -> Any:
        if isinstance(a, VectorType) and a == b:
            return lambda a, b: code(a, b)  # noqa: PLW0108  (numba wants a Python function)
        return None

    extending.overload(symbol, strict=False)(chosen)  # strict would compare annotations


def _subtract_product(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """c − a·b, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, "fma", [builder.fneg(args[0]), args[1], args[2]])

    return a(a, b, c), generate


def _sum_lanes(typing_context: Any, a: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, half = args[0], signature.args[0].lanes
        while half > 1:
            half //= 2
            low = builder.shuffle_vector(value, value, _lanes(list(range(half))))
            high = builder.shuffle_vector(value, value, _lanes(list(range(half, 2 * half))))
            value = builder.fadd(low, high)
        return builder.extract_element(value, _lane(0))

    return types.float32(a), generate


def _sum_pixels(typing_context: Any, a: Any) -> Any:
    """Sum of the four pixels in 16 lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[0]
        for half in (8, 4):
            low = builder.shuffle_vector(value, value, _lanes(list(range(half))))
            high = builder.shuffle_vector(value, value, _lanes(list(range(half, 2 * half))))
            value = builder.fadd(low, high)
        return value

    return _PIXEL(a), generate


def _store_whole(typing_context: Any, array: Any, i: Any, a: Any) -> Any:
    """Store whole numbers in an int32 array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = builder.fptosi(args[2], ir.VectorType(_I32, args[2].type.count))
        pointer = builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])
        builder.store(whole, builder.bitcast(pointer, ir.PointerType(whole.type))).align = 4
        return context.get_dummy_value()

    return types.void(array, i, a), generate


def _store_pixels(typing_context: Any, array: Any, i: Any, a: Any, b: Any, c: Any) -> Any:
    """Store 16 pixels (a, b, c, 0) one after the other."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n = args[2].type.count
        zero = ir.Constant(args[2].type, [0.0] * n)
        low = builder.shuffle_vector(args[2], args[3], _lanes(list(range(2 * n))))
        high = builder.shuffle_vector(args[4], zero, _lanes(list(range(2 * n))))
        pixels = builder.shuffle_vector(low, high, _lanes([k * n + x for x in range(n) for k in range(4)]))
        emit_store(context, builder, signature.args[0], args[0], args[1], pixels)
        return context.get_dummy_value()

    return types.void(array, i, a, b, c), generate


def _item(typing_context: Any, array: Any, i: Any) -> Any:
    """array[i] for i >= 0, without numba's test for negative numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(
            builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])
        )

    return array.dtype(array, i), generate


def _make_extract(i: int) -> Any:
    def extract(typing_context: Any, a: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.extract_element(args[0], _lane(i))

        return types.float32(a), generate

    return intrinsic(extract)


load, store, splat = _make_load(_ROW), _make_store(_ROW), _make_splat(_ROW)
sqrt, floor, fma = _make_call("sqrt", 1), _make_call("floor", 1), _make_call("fma", 3)
minimum, maximum = _make_select("<"), _make_select(">")
fnma = intrinsic(_subtract_product)
sum_lanes, sum_pixels = intrinsic(_sum_lanes), intrinsic(_sum_pixels)
store_whole, store_pixels, item = intrinsic(_store_whole), intrinsic(_store_pixels), intrinsic(_item)
lane0, lane1, lane2 = _make_extract(0), _make_extract(1), _make_extract(2)
for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _make_operator(_symbol, _instruction)
