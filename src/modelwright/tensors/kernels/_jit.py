"""How kernels become machine code: by numba once, and from the disk ever after.

A kernel is a Python function of numbers, arrays and tuples of them. When it is first called with arguments of some types,
its machine code is looked for on the disk (`_cache.py`) and loaded by llvmlite alone (`_native.py`), which takes a tenth of
the time that importing numba does. Where there is none, numba compiles it (`_compile.py`) and it is kept for the next run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from modelwright.tensors.kernels import _cache, _native

#: What to tell the user where compiled kernels cannot be kept; else empty.
uncached = "" if _cache.FOLDER else (
    "no folder for compiled kernels can be written, so they are compiled in every run; set MODELWRIGHT_CACHE to one"
)  # fmt: skip

_lock = threading.RLock()


class Kernel:
    """A function that runs as machine code, without the GIL.

    Arithmetic is strict: sums keep their order, and nothing is contracted, so that a kernel gives the bits of its reference.
    A kernel may call kernels, and may not allocate.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        self._ready: dict[_native.Kinds, Callable[[Sequence[Any], list[Any]], Any]] = {}
        self._compiler: Any = None

    def __call__(self, *args: Any) -> Any:
        kinds, words = _native.flattened(args)
        run = self._ready.get(kinds)
        return run(args, words) if run is not None else self._prepare(kinds, args)(args, words)

    def _prepare(self, kinds: _native.Kinds, args: Sequence[Any]) -> Callable[[Sequence[Any], list[Any]], Any]:
        with _lock:
            if kinds not in self._ready:
                self._ready[kinds] = self._loaded(kinds) or self._compiled(kinds, args)
            return self._ready[kinds]

    def _loaded(self, kinds: _native.Kinds) -> Callable[[Sequence[Any], list[Any]], Any] | None:
        """From the disk; None where nothing is there, or not what is to run on this machine."""
        code = _cache.read(self._label(kinds)) if _native.OTHER not in kinds else None
        return _native.function(code, kinds) if code is not None else None

    def _compiled(self, kinds: _native.Kinds, args: Sequence[Any]) -> Callable[[Sequence[Any], list[Any]], Any]:
        """By numba; kept if it can be."""
        from modelwright.tensors.kernels import _compile

        code = _compile.machine_code(self, args) if _native.OTHER not in kinds else None
        run = _native.function(code, kinds) if code is not None else None
        if code is None or run is None:  # of unusual arguments, or by a numba that we do not know
            plain = _compile.plain(self.function, _cache.FOLDER)
            return lambda args, _words: plain(*args)
        _cache.write(self._label(kinds), code)
        return run

    def _label(self, kinds: _native.Kinds) -> str:
        return f"{self.function.__module__.rsplit('.', 1)[-1]}.{self.__name__}({' '.join(kinds)})"

    @property
    def compiler(self) -> Any:
        """Numba's view of the function, with what was compiled in this process."""
        if self._compiler is None:
            from modelwright.tensors.kernels import _compile

            self._compiler = _compile.inner(self.function)
        return self._compiler

    @property
    def _numba_type_(self) -> Any:
        """What numba takes a kernel for that a kernel calls."""
        return self.compiler._numba_type_


class Intrinsic:
    """What kernels call and LLVM has instructions for: a function of numba's kind, that numba is imported for when it compiles."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self._compiler: Any = None

    @property
    def _numba_type_(self) -> Any:
        if self._compiler is None:
            from modelwright.tensors.kernels import _compile

            self._compiler = _compile.intrinsic(self.function)
        return self._compiler


def intrinsic(function: Callable[..., Any]) -> Any:
    """As numba's `intrinsic`: of a typing context and types the signature, and what writes the instructions."""
    return Intrinsic(function)


def kernel(function: Callable[..., Any]) -> Kernel:
    """Make a kernel of a function."""
    return Kernel(function)
