"""How kernels are compiled: without the GIL, with strict arithmetic, and kept on the disk for the next run.

Numba would keep machine code beside the source or where NUMBA_CACHE_DIR points; neither is ours to fill. The place is
MODELWRIGHT_CACHE, else XDG_CACHE_HOME/modelwright, else ~/.cache/modelwright. Where none can be written, kernels are
compiled in every process, and `uncached` says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import xxhash

F = TypeVar("F", bound=Callable[..., Any])


def _version() -> str:
    """What compiled code depends on. Numba looks at the file of a function alone, not at those it calls."""
    digest = xxhash.xxh3_64(f"{numba.__version__} {np.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _folder() -> Path | None:
    """A folder that can be written, or None."""
    try:
        stated = os.environ.get("MODELWRIGHT_CACHE")
        home = os.environ.get("XDG_CACHE_HOME")
        folder = Path(stated) if stated else (Path(home) if home else Path.home() / ".cache") / "modelwright"
        folder = folder.expanduser() / "kernels" / _version()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


_CACHE = _folder()

#: What to tell the user where compiled kernels cannot be kept; else empty.
uncached = "" if _CACHE else (
    "no folder for compiled kernels can be written, so they are compiled in every run; set MODELWRIGHT_CACHE to one"
)  # fmt: skip


def kernel(function: F) -> F:
    """Compile a function of numbers and arrays when it is first called.

    No fast-math: sums keep their order, and nothing is contracted, so that a kernel gives the bits of its reference.
    """
    before = numba.config.CACHE_DIR  # type: ignore[reportAttributeAccessIssue]
    numba.config.CACHE_DIR = str(_CACHE or "")  # type: ignore[reportAttributeAccessIssue]  # read while decorating
    try:
        compiled: Any = numba.njit(nogil=True, cache=_CACHE is not None, error_model="numpy")(function)
    finally:
        numba.config.CACHE_DIR = before  # type: ignore[reportAttributeAccessIssue]
    return compiled
