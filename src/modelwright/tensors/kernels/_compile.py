"""Kernels compiled by numba. Imported only where machine code is not on the disk yet."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.tensors.kernels import _native

if TYPE_CHECKING:  # numba's own annotations are partial
    from modelwright.tensors.kernels._jit import Kernel

    numba: Any
    ir: Any
    types: Any
    datamodel: Any
else:
    import numba
    from llvmlite import ir
    from numba.core import datamodel, types

#: No fast-math; and division by zero gives infinity, as numpy's does.
_STRICT = {"nogil": True, "error_model": "numpy"}
_ARRAY = ("meminfo", "parent", "nitems", "itemsize", "data", "shape", "strides")


def inner(function: Callable[..., Any]) -> Any:
    """A function for numba that is called by machine code alone. It may not allocate: there is nobody to count references."""
    return numba.njit(**_STRICT, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)(function)


def intrinsic(function: Callable[..., Any]) -> Any:
    """The type that numba gives to an intrinsic."""
    made = numba.extending.intrinsic(function)
    context = numba.core.registry.cpu_target.typing_context
    context.refresh()  # so that it knows what was made since it began to compile
    return context.resolve_value_type(made)


def plain(function: Callable[..., Any], folder: Path | None) -> Any:
    """A function that numba itself loads and calls, for what `machine_code` declines."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder or "")  # read while decorating
    try:
        return numba.njit(**_STRICT, cache=folder is not None)(function)
    finally:
        numba.config.CACHE_DIR = before


def machine_code(kernel: Kernel, args: Sequence[Any]) -> _native.Code | None:
    """A kernel compiled for arguments of these types; None where only numba can call it."""
    if numba.config.DISABLE_JIT:
        return None
    signature = tuple(numba.typeof(arg) for arg in args)
    kernel.compiler.compile(signature)
    compiled = kernel.compiler.overloads[signature]
    results = _results(compiled.fndesc.restype)
    if results is None or not _as_expected(compiled, _native.flattened(args)[0]):
        return None
    return _native.Code(compiled.fndesc.llvm_func_name, results, compiled.library._get_compiled_object())


def _results(restype: Any) -> str | None:
    if isinstance(restype, types.BaseTuple):
        return str(len(restype)) if all(types.unliteral(one) == types.int64 for one in restype) else None
    return {types.none: "none", types.boolean: "bool", types.int64: "int"}.get(restype)


def _as_expected(compiled: Any, kinds: _native.Kinds) -> bool:
    """Whether this version of numba passes arguments as `_native` does, and the code needs nothing of numba to run."""
    context, described = compiled.target_context, compiled.fndesc
    passed = context.call_conv.get_function_type(described.restype, described.argtypes).args
    wanted = [ctypes.c_void_p, ctypes.c_void_p, *_native.c_types(kinds)]
    arrays = datamodel.default_manager[types.uint8[::1]]
    return (
        len(passed) == len(wanted)
        and all(_matches(one, c_type) for one, c_type in zip(passed, wanted, strict=True))
        and tuple(arrays._fields) == _ARRAY
        and all(f.name.startswith("llvm.") for f in compiled.library._final_module.functions if f.is_declaration)
    )


def _matches(passed: Any, c_type: Any) -> bool:
    if c_type is ctypes.c_void_p:
        return isinstance(passed, ir.PointerType)
    if c_type in (ctypes.c_float, ctypes.c_double):
        return isinstance(passed, ir.FloatType if c_type is ctypes.c_float else ir.DoubleType)
    return isinstance(passed, ir.IntType) and passed.width == 8 * ctypes.sizeof(c_type)
