"""Where machine code is kept: MODELWRIGHT_CACHE, else XDG_CACHE_HOME/modelwright, else ~/.cache/modelwright.

What is there is run, so it is trusted as numba's own cache would be: it is a folder of the user's. Damage is another matter.
Each file begins with a hash of its contents and of all that they depend on, and what does not match is compiled anew.
"""

from __future__ import annotations

import functools
import json
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import xxhash

from modelwright.tensors.kernels._native import Code, processor


def _version() -> str:
    """What machine code depends on beside the processor: all sources, for kernels call kernels, and the compiler."""
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("NUMBA_"))
    digest = xxhash.xxh3_64(f"{version('numba')} {version('llvmlite')} {np.__version__} {settings}".encode())
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


#: The folder of these sources and this compiler, or None.
FOLDER = _folder()


@functools.cache
def _machine() -> str:
    return f"{FOLDER.name if FOLDER else ''} {processor()}"


def _path(label: str) -> Path | None:
    """A file for each kernel, types of arguments and processor: machines may share a home."""
    if FOLDER is None:
        return None
    about = xxhash.xxh3_64_hexdigest(f"{label} {_machine()}".encode())
    return FOLDER / f"{label.split('(', 1)[0]}-{about}.o"


def _digest(label: str, body: bytes) -> bytes:
    digest = xxhash.xxh3_128(f"{label} {_machine()}\n".encode())
    digest.update(body)
    return digest.digest()


def read(label: str) -> Code | None:
    """The code that was written under a label; None where it is missing, damaged or of another machine."""
    path = _path(label)
    try:
        raw = path.read_bytes() if path is not None else b""
    except OSError:
        return None
    digest, body = raw[:16], raw[16:]
    if digest != _digest(label, body):
        return None
    head, _, machine_code = body.partition(b"\n")
    return Code(**json.loads(head), machine_code=machine_code)


def write(label: str, code: Code) -> None:
    """Keep code for later runs. Several processes may write it at once; a reader sees all of a file or nothing."""
    path = _path(label)
    if path is None:
        return
    body = json.dumps({"entry": code.entry, "results": code.results}).encode() + b"\n" + code.machine_code
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError):  # a full disk costs time in the next run, and nothing in this one
        try:
            part.write_bytes(_digest(label, body) + body)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
