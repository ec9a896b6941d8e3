"""What a function's answers depend on, as far as that can be seen: its source, and the values that it refers to."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import xxhash


def content(values: Any) -> bytes:
    """Bytes that are equal for equal inputs: an array's own, or the text of a sequence."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return f"{values.dtype}{values.shape}".encode() + np.ascontiguousarray(values).tobytes()
    parts = xxhash.xxh3_128()
    for value in values:
        text = content(value) if isinstance(value, np.ndarray) else repr(plain(value)).encode()
        parts.update(len(text).to_bytes(8, "little") + text)
    return parts.digest()


def plain(value: Any) -> Any:
    """A scalar of numpy as Python's, whose text does not depend on numpy's version or the width of the number."""
    return value.item() if isinstance(value, np.generic) else value


def source_hash(made: Callable[..., Any]) -> str:
    """A hash of the file that a function is written in, and its name; empty where there is none, as in a notebook."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(made))
    except TypeError:
        return ""
    if path is None or not Path(path).is_file():
        return ""
    name = f"{getattr(made, '__qualname__', '')}\n".encode()
    return xxhash.xxh3_128_hexdigest(name + Path(path).read_bytes())


def function_hash(function: Callable[..., Any]) -> tuple[str, tuple[str, ...]]:
    """A hash of a function, and what its answers may depend on beside.

    It is of the file the function is written in, or of its bytecode where there is none; of defaults, and of the variables
    around it and in its module that it uses, where these are numbers, texts, tuples or arrays. Functions of the same module
    that it uses count in the same way. What it imports counts by name only, and what it reads from disk not at all.

    Returns:
        The hash, and the names of variables that are something else, such as a model or a list, which may change.
    """
    seen = _Seen()
    seen.function(function, getattr(function, "__name__", type(function).__name__))
    return seen.digest.hexdigest(), tuple(dict.fromkeys(seen.unknown))


class _Seen:
    """What was looked at so far."""

    def __init__(self) -> None:
        self.digest = xxhash.xxh3_128()
        self.unknown: list[str] = []
        self._known: set[int] = set()

    def function(self, function: Any, name: str) -> None:
        """A function with all that it uses."""
        if isinstance(function, functools.partial):
            self.function(function.func, name)
            self._values({**{f"argument {i}": a for i, a in enumerate(function.args)}, **function.keywords}, "")
            return
        if isinstance(function, MethodType):
            self.unknown.append(name)  # of its object
            function = function.__func__
        if _is_elsewhere(function):
            self._said(f"{getattr(function, '__module__', None)}.{function.__name__}")
            return
        if not isinstance(function, FunctionType):
            self.unknown.append(name)  # an object that can be called
            self._said(source_hash(type(function)))
            return
        if id(function) in self._known:
            return
        self._known.add(id(function))
        self._said(source_hash(function) or repr(list(_parts(function.__code__))))
        self._values(_used(function), function.__module__)

    def _values(self, values: Mapping[str, Any], module: str) -> None:
        for name, value in sorted(values.items()):
            self._said(name)
            self._value(value, name, module)

    def _value(self, value: Any, name: str, module: str) -> None:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
            self.digest.update(content([value]))
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self.digest.update(content(value))
        elif isinstance(value, tuple):
            self._said(f"{len(value)} values")
            for one in value:
                self._value(one, name, module)
        elif isinstance(value, ModuleType):
            self._said(value.__name__)
        elif isinstance(value, FunctionType) and value.__module__ == module:
            self.function(value, name)
        elif isinstance(value, (FunctionType, type)) or _is_elsewhere(value):
            home = getattr(value, "__module__", None)
            self._said(
                f"{'' if home == module else home}.{getattr(value, '__qualname__', None) or getattr(value, '__name__', '')}"
            )
        else:
            self.unknown.append(name)

    def _said(self, text: str) -> None:
        self.digest.update(f"{len(text)}:{text}".encode())


def _is_elsewhere(value: Any) -> bool:
    """Whether it is compiled code of a package, and no method of an object."""
    if isinstance(value, BuiltinFunctionType):
        return value.__self__ is None or isinstance(value.__self__, ModuleType)
    return isinstance(value, np.ufunc)


def _used(function: FunctionType) -> dict[str, Any]:
    """Defaults, and variables by name; an attribute's name that is a variable's too counts with them."""
    names = set(_names(function.__code__))
    found = {name: value for name, value in function.__globals__.items() if name in names}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not set yet: it fails when it is called
            continue
    found |= {f"default {i}": value for i, value in enumerate(function.__defaults__ or ())}
    return found | (function.__kwdefaults__ or {})


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _parts(code: CodeType) -> Iterator[Any]:
    """What bytecode is made of, with that of the functions in it, and without places in memory."""
    yield from (code.co_code, code.co_names, code.co_varnames)
    for value in code.co_consts:
        yield list(_parts(value)) if isinstance(value, CodeType) else value
