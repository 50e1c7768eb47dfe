"""5x5 and 3x3 median of a plane with replicated borders, as cv2.medianBlur.

The five values of every column are sorted once and shared by the five windows that contain it. A window is then a
5x5 matrix with sorted columns; sorting its rows keeps them sorted (Young tableau), after which 6 elements are
certainly below and 6 above the median, which is the median of the other 13. Minimum and maximum only: exact, no
branches.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types

from vidprep.flow.cpu.jit import intrinsic, kernel
from vidprep.flow.cpu.simd import LANES, emit_load, emit_store, load, store

EDGE = 16  # floats of padding left of a padded row; at least as many right of it


def _exchange(builder: Any, values: list[Any], i: int, j: int) -> None:
    """Put the smaller of values i, j at i and the larger at j, lane by lane."""
    a, b = values[i], values[j]
    less = builder.fcmp_ordered("<", a, b)
    greater = builder.fcmp_ordered(">", a, b)
    values[i], values[j] = builder.select(less, a, b), builder.select(greater, a, b)


def _sort(builder: Any, values: list[Any]) -> None:
    pairs = {
        3: ((0, 1), (1, 2), (0, 1)),
        5: ((0, 1), (3, 4), (2, 4), (2, 3), (1, 4), (0, 3), (0, 2), (1, 3), (1, 2)),
    }
    for i, j in pairs[len(values)]:
        _exchange(builder, values, i, j)


def _merge(builder: Any, a: list[Any], b: list[Any]) -> list[Any]:
    """Batcher's odd-even merge of two ascending lists."""
    if not a or not b:
        return a + b
    if len(a) == len(b) == 1:
        both = a + b
        _exchange(builder, both, 0, 1)
        return both
    even, odd = _merge(builder, a[0::2], b[0::2]), _merge(builder, a[1::2], b[1::2])
    merged = [value for pair in zip(even, [*odd, None], strict=False) for value in pair if value is not None]
    merged += even[len(odd) + 1 :] + odd[len(even) :]
    for i in range(1, len(merged) - 1, 2):
        _exchange(builder, merged, i, i + 1)
    return merged


def _median(builder: Any, chains: list[list[Any]]) -> Any:
    """Median of all values of ascending lists, an odd number of values."""
    while len(chains) > 2:
        chains = sorted(chains, key=len)
        chains = [_merge(builder, chains[0], chains[1]), *chains[2:]]
    a, b = chains
    rank = (len(a) + len(b)) // 2 + 1
    best = None
    for i in range(max(0, rank - len(b)), min(len(a), rank) + 1):
        # the rank-th of the union is the least maximum over all splits into i of a and rank − i of b
        both = [a[i - 1]] * (i > 0) + [b[rank - i - 1]] * (i < rank)
        if len(both) == 2:
            _exchange(builder, both, 0, 1)
        if best is not None:
            both = [both[-1], best]
            _exchange(builder, both, 0, 1)
            best = both[0]
        else:
            best = both[-1]
    return best


def _sort_column5(typing_context: Any, source: Any, i: Any, stride: Any, target: Any, j: Any, pitch: Any) -> Any:
    """Sort source[i + k·stride], k = 0..4, and store the k-th smallest at target[j + k·pitch]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at, to = args[1], args[4]
        values = []
        for _ in range(5):
            values.append(emit_load(context, builder, signature.args[0], args[0], at))
            at = builder.add(at, args[2])
        _sort(builder, values)
        for value in values:
            emit_store(context, builder, signature.args[3], args[3], to, value)
            to = builder.add(to, args[5])
        return context.get_dummy_value()

    return types.void(source, i, stride, target, j, pitch), generate


def _store_median5(typing_context: Any, ranks: Any, j: Any, pitch: Any, target: Any, i: Any) -> Any:
    """target[i] = median of the windows that begin at the sorted columns ranks[j + k·pitch]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        chains = []
        start = args[1]
        for kept in (slice(3, 5), slice(2, 5), slice(1, 4), slice(0, 3), slice(0, 2)):
            row = [
                emit_load(context, builder, signature.args[0], args[0], builder.add(start, ir.Constant(start.type, x)))
                for x in range(5)
            ]
            _sort(builder, row)
            chains.append(row[kept])
            start = builder.add(start, args[2])
        emit_store(context, builder, signature.args[3], args[3], args[4], _median(builder, chains))
        return context.get_dummy_value()

    return types.void(ranks, j, pitch, target, i), generate


def _store_median3(typing_context: Any, source: Any, j: Any, stride: Any, target: Any, i: Any) -> Any:
    """target[i] = median of the 3x3 windows that begin at source[j]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        chains = []
        start = args[1]
        for _ in range(3):
            row = [
                emit_load(context, builder, signature.args[0], args[0], builder.add(start, ir.Constant(start.type, x)))
                for x in range(3)
            ]
            _sort(builder, row)
            chains.append(row)
            start = builder.add(start, args[2])
        emit_store(context, builder, signature.args[3], args[3], args[4], _median(builder, chains))
        return context.get_dummy_value()

    return types.void(source, j, stride, target, i), generate


_sort_column = intrinsic(_sort_column5)
_median5 = intrinsic(_store_median5)
_median3 = intrinsic(_store_median3)


@kernel
def median(A: Any, at: int, stride: int, h: int, w: int, size: int, plane: Any, ranks: Any, valid: Any) -> None:
    """Median-filter the h x w plane at A[at + y·stride + x] in place; columns from w on become 0 up to whole vectors.

    Scratch: plane ((h + 4)·(width + 2·EDGE) floats), ranks (5·(width + 2·EDGE)), where width is w rounded up to whole
    vectors. `valid` is 1 in columns below w, then 0.
    """
    width = (w + LANES - 1) // LANES * LANES
    pitch = width + 2 * EDGE
    for y in range(-2, h + 2):
        row = at + min(max(y, 0), h - 1) * stride
        to = (y + 2) * pitch + EDGE
        for x in range(0, width, LANES):
            store(plane, to + x, load(A, row + x))
        for x in range(1, 3):
            plane[to - x] = plane[to]
            plane[to + w - 1 + x] = plane[to + w - 1]
    for y in range(h):
        row = y * pitch
        if size == 5:
            for x in range(0, width + 2 * EDGE - LANES + 1, LANES):
                _sort_column(plane, row + x, pitch, ranks, x, pitch)
        for x in range(0, width, LANES):
            if size == 5:
                _median5(ranks, EDGE - 2 + x, pitch, A, at + y * stride + x)
            else:
                _median3(plane, row + pitch + EDGE - 1 + x, pitch, A, at + y * stride + x)
        last = width - LANES
        store(A, at + y * stride + last, load(A, at + y * stride + last) * load(valid, last))
