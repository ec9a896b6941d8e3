"""`module:function` and `file.py:function`: things that the user's own code makes."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from modelwright.errors import InputError, did_you_mean

_NAMED = re.compile(r"(?P<module>[^:]+):(?P<name>[A-Za-z_][\w.]*)")


def is_named(text: str, folder: Path = Path()) -> bool:
    """Whether a reference is `module:function` or `file.py:function`, and not a path."""
    match = _NAMED.fullmatch(text)
    if match is None or "://" in text or (folder / text).exists():
        return False
    module = match["module"]
    return module.endswith(".py") or all(part.isidentifier() for part in module.split("."))


def function(reference: str, folder: Path = Path()) -> Callable[..., Any]:
    """The function that a reference names.

    Modules are looked for in the working directory too, and files in the folder.

    Raises:
        InputError: There is no such module or function, or importing it fails.
    """
    match = _NAMED.fullmatch(reference)
    if match is None:
        raise InputError(f"a function is named as module:function or file.py:function, got '{reference}'")
    module = _module(match["module"], folder)
    found: Any = module
    for part in match["name"].split("."):
        if not hasattr(found, part):
            known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            raise InputError(f"'{match['module']}' has no function '{match['name']}'", did_you_mean(part, known))
        found = getattr(found, part)
    if not callable(found):
        raise InputError(
            f"'{reference}' is a {type(found).__name__}, not a function", "Name a function that returns it."
        )
    return found


def called(reference: str, folder: Path = Path(), *arguments: Any, **keywords: Any) -> Any:
    """What the function that a reference names returns.

    Raises:
        InputError: It cannot be found or fails; the text says where.
    """
    return guarded(reference, function(reference, folder), *arguments, **keywords)


def guarded(reference: str, made: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """A user's function called; what it raises is said with its file and line."""
    try:
        inspect.signature(made).bind(*arguments, **keywords)
    except TypeError as error:
        raise InputError(f"'{reference}' cannot be called with {_said(arguments, keywords)}: {error}") from None
    except ValueError:  # a builtin without a signature
        pass
    try:
        return made(*arguments, **keywords)
    except InputError:
        raise
    except Exception as error:  # whatever the user's own code raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        what = f"'{reference}' fails: {type(error).__name__}: {error}"
        raise InputError(what, where=f"{last.filename}:{last.lineno}") from error


def _said(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
    words = [f"{len(arguments)} argument{'s' * (len(arguments) != 1)}"] if arguments or not keywords else []
    return " and ".join([*words, *(f"{name}=" for name in keywords)])


def _module(name: str, folder: Path) -> Any:
    try:
        if name.endswith(".py"):
            return _file(folder / Path(name).expanduser())
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)  # as `python -m` does; the command line's own start folder is not the user's
        importlib.invalidate_caches()
        return importlib.import_module(name)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            mend = "It must be installed, or lie in the working directory; a file is named as file.py:function."
            raise InputError(f"there is no module '{name}'", mend) from None
        raise InputError(f"importing '{name}' fails: {error}") from error
    except Exception as error:  # whatever the user's own code raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename}:{last.lineno}"
        raise InputError(f"importing '{name}' fails: {type(error).__name__}: {error}", where=where) from error


def _file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"there is no file '{path}'")
    path = path.resolve()
    known = f"modelwright_user_{path.stem}_{xxhash.xxh3_64_hexdigest(str(path).encode())}"
    if known in sys.modules and getattr(sys.modules[known], "__file__", None) == str(path):
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, path)
    if spec is None or spec.loader is None:
        raise InputError(f"'{path}' is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
    return module
