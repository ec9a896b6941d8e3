"""Bringing together the elements that pass a test, a vector at a time: the one step that compilers do not vectorise.

What writes the instructions is imported when they are written: whoever loads compiled kernels needs none of it.
"""

from __future__ import annotations

from typing import Any

from modelwright.tensors.kernels._jit import intrinsic

#: Elements that are looked at together: a vector of the widest CPUs.
WIDTH = 16


@intrinsic
def pack(typing: Any, source: Any, start: Any, low: Any, span: Any, out: Any, at: Any) -> Any:
    """Of `WIDTH` bits from `start` on, copy those in [low, low + span] to `out` from place `at` on; the place after the last.

    All `WIDTH` places of `out` are written. LLVM makes one instruction of it where the CPU has one, else as many
    stores as a loop has.
    """
    from numba.core import types

    int64: Any = types.int64
    uint32: Any = types.uint32
    return int64(source, int64, uint32, uint32, out, int64), _write_pack


def _write_pack(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    import llvmlite.ir  # type: ignore[reportMissingTypeStubs]
    from numba.core import cgutils

    ir: Any = llvmlite.ir
    tools: Any = cgutils
    word = ir.IntType(32)
    vector, mask = ir.VectorType(word, WIDTH), ir.VectorType(ir.IntType(1), WIDTH)

    def place(kind: Any, array: Any, at: Any) -> Any:
        """Where the vector from element `at` of an array on lies."""
        data = context.make_array(kind)(context, builder, array).data
        return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())

    def everywhere(value: Any) -> Any:
        """A vector of one value."""
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(word, 0))
        return builder.shuffle_vector(first, first, ir.Constant(vector, [0] * WIDTH))

    source, start, low, span, out, at = args
    values = builder.load(place(signature.args[0], source, start), align=4)
    inside = builder.icmp_unsigned("<=", builder.sub(values, everywhere(low)), everywhere(span))
    kind = ir.FunctionType(vector, [vector, mask, vector])
    compress = tools.get_or_insert_function(builder.module, kind, f"llvm.experimental.vector.compress.v{WIDTH}i32")
    packed = builder.call(compress, [values, inside, ir.Constant(vector, ir.Undefined)])
    builder.store(packed, place(signature.args[4], out, at), align=4)
    count = builder.ctpop(builder.bitcast(inside, ir.IntType(WIDTH)))
    return builder.add(at, builder.zext(count, at.type))
