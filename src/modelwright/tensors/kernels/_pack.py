"""Bringing together the elements that pass a test, a vector at a time: the one step that compilers do not vectorise."""

from __future__ import annotations

from typing import Any

import llvmlite.ir  # type: ignore[reportMissingTypeStubs]
import numba.core.cgutils
import numba.extending
import numba.types

# None of them has types.
ir: Any = llvmlite.ir
cgutils: Any = numba.core.cgutils
types: Any = numba.types
intrinsic: Any = numba.extending.intrinsic

#: Elements that are looked at together: a vector of the widest CPUs.
WIDTH = 16

_WORD = ir.IntType(32)
_VECTOR = ir.VectorType(_WORD, WIDTH)
_MASK = ir.VectorType(ir.IntType(1), WIDTH)


@intrinsic
def pack(typing: Any, source: Any, start: Any, low: Any, span: Any, out: Any, at: Any) -> Any:
    """Of `WIDTH` bits from `start` on, copy those in [low, low + span] to `out` from place `at` on; the place after the last.

    All `WIDTH` places of `out` are written. LLVM makes one instruction of it where the CPU has one, else as many
    stores as a loop has.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, start, low, span, out, at = args
        values = builder.load(_place(context, builder, signature.args[0], source, start), align=4)
        inside = builder.icmp_unsigned("<=", builder.sub(values, _all(builder, low)), _all(builder, span))
        kind = ir.FunctionType(_VECTOR, [_VECTOR, _MASK, _VECTOR])
        name = f"llvm.experimental.vector.compress.v{WIDTH}i32"
        compress = cgutils.get_or_insert_function(builder.module, kind, name)
        packed = builder.call(compress, [values, inside, ir.Constant(_VECTOR, ir.Undefined)])
        builder.store(packed, _place(context, builder, signature.args[4], out, at), align=4)
        count = builder.ctpop(builder.bitcast(inside, ir.IntType(WIDTH)))
        return builder.add(at, builder.zext(count, at.type))

    return types.int64(source, types.int64, types.uint32, types.uint32, out, types.int64), generate


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Where the vector from element `at` of an array on lies."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _VECTOR.as_pointer())


def _all(builder: Any, value: Any) -> Any:
    """A vector of one value."""
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_WORD, WIDTH), [0] * WIDTH))
