"""Machine code as a Python function: loaded by llvmlite, called by ctypes, which lets go of the GIL.

Arguments go as numba passes them between compiled functions: numbers as they are, tuples item by item, and of an array
(memory's keeper, parent, elements, bytes of one, address, shape, strides). `_compile.py` checks that numba still does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

#: The types of arguments: one letter of numpy's for a number, a letter and the axes for an array, brackets for a tuple.
Kinds = tuple[str, ...]
#: What is none of these.
OTHER = "other"

#: Of each type of numbers its letter, and what makes of it a number that ctypes takes.
_NUMBERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bool: ("?", int), np.bool_: ("?", int), int: ("l", int), np.int64: ("l", int), np.uint32: ("I", int),
    np.float32: ("f", float), float: ("d", float), np.float64: ("d", float),
}  # fmt: skip
_C_TYPES: dict[str, Any] = {
    "?": ctypes.c_uint8, "l": ctypes.c_int64, "I": ctypes.c_uint32, "f": ctypes.c_float, "d": ctypes.c_double,
}  # fmt: skip
_address, _first_byte = ctypes.addressof, ctypes.c_char.from_buffer


@dataclass(frozen=True)
class Code:
    """A compiled kernel.

    Attributes:
        entry: The name of its function.
        results: What it returns: nothing (`none`), `bool`, `int`, or so many ints (`2`).
        machine_code: An object file.
    """

    entry: str
    results: str
    machine_code: bytes


def flattened(args: Sequence[Any]) -> tuple[Kinds, list[Any]]:
    """The types of arguments, and the arguments as machine code takes them."""
    kinds: list[str] = []
    words: list[Any] = []
    _flatten(args, kinds, words)
    return tuple(kinds), words


def _flatten(args: Sequence[Any], kinds: list[str], words: list[Any]) -> None:
    for arg in args:
        kind = arg.__class__
        if kind is np.ndarray:
            if not arg.flags.carray:  # contiguous, aligned and writable
                kinds.append(OTHER)
                continue
            kinds.append(f"{arg.dtype.char}{arg.ndim}")
            words += (None, None, arg.size, arg.itemsize, _place(arg), *arg.shape, *arg.strides)
        elif kind is tuple:
            kinds.append("(")
            _flatten(arg, kinds, words)
            kinds.append(")")
        else:
            letter, plain = _NUMBERS.get(kind, (OTHER, None))
            kinds.append(letter)
            words.append(plain(arg) if plain is not None else arg)


def _place(array: Any) -> int:
    """An array's address; `array.ctypes` takes five times as long."""
    return _address(_first_byte(array)) if array.size else 0


def c_types(kinds: Kinds) -> list[Any]:
    """The C types of flattened arguments."""
    listed: list[Any] = []
    for kind in kinds:
        if len(kind) > 1:
            axes = int(kind[1:])
            listed += [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
            listed += [ctypes.c_int64] * (2 * axes)
        elif kind not in "()":
            listed.append(_C_TYPES[kind])
    return listed


def processor() -> str:
    """The processor that this runs on, as compilers call it, with all that it can do."""
    llvm = _llvm()
    return f"{llvm.get_default_triple()} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


def _llvm() -> Any:
    llvm: Any = import_module("llvmlite.binding")

    with suppress(RuntimeError):  # newer versions do it themselves, and refuse to
        llvm.initialize()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def function(code: Code, kinds: Kinds) -> Callable[[Sequence[Any], list[Any]], Any] | None:
    """What runs machine code on arguments, which it takes as they are and flattened; None where it cannot be loaded."""
    llvm = _llvm()
    try:
        target = llvm.Target.from_default_triple().create_target_machine(jit=True)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code.machine_code))
        engine.finalize_object()
        address = engine.get_function_address(code.entry)
    except (RuntimeError, OSError):
        return None
    if not address:
        return None
    entry = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *c_types(kinds))(address)
    count = int(code.results) if code.results.isdigit() else 1
    room = ctypes.c_int64 * (count + 1)

    def run(_args: Sequence[Any], words: list[Any], _engine: Any = engine) -> Any:  # the engine owns the code
        results = room()
        status = entry(results, _address(results) + 8 * count, *words)
        if status not in (0, -2):  # -2: None
            raise RuntimeError(f"a kernel failed ({code.entry}: {status})")
        if code.results == "none":
            return None
        if code.results == "bool":
            return bool(results[0] & 0xFF)
        return results[0] if code.results == "int" else tuple(results[:count])

    return run
