"""Files that others wrote, opened without trust: of the right kind, of a sane size, JSON that is not a bomb."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from modelwright.architectures import is_list, is_table
from modelwright.errors import InputError

#: The limit that safetensors sets its headers. Real configurations, indices and tokenizers stay far below it.
MAX_SMALL = 100_000_000
#: What is copied or written back goes through recursive functions of Python's.
_MOST_LEVELS = 100
_KINDS = (
    (stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)  # fmt: skip


@contextmanager
def open_regular(path: Path) -> Generator[tuple[BinaryIO, int]]:
    """A file, and its size. Opening a pipe would wait for ever, and a device has no end.

    Raises:
        InputError: It is no regular file, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = next((kind for holds, kind in _KINDS if holds(status.st_mode)), "special file")
            raise InputError(f"{path} is a {kind}, not a file", "Put the file itself there.")
        with path.open("rb") as file:
            yield file, status.st_size
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            target = os.readlink(path)  # noqa: PTH115  # as it is written
            raise InputError(
                f"{path} is a link to '{target}', where nothing is", "Copy or download it again."
            ) from None
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where there is no file.

    Raises:
        InputError: The file is not a JSON object.
    """
    if not os.path.lexists(path):
        return None
    value = load_json(path)
    if not is_table(value):
        raise InputError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def load_json(path: Path, *, strict: bool = False) -> Any:
    """Any JSON value from a file; with `strict`, no name may stand twice in an object.

    Raises:
        InputError: The file is not JSON, or larger or nested deeper than any that is meant.
    """
    raw = read_small(path)
    try:
        return parse_json(raw, strict=strict)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error})") from None


def read_small(path: Path) -> bytes:
    """A file that lies beside weights, whole.

    Raises:
        InputError: It is larger than any that is meant.
    """
    with open_regular(path) as (file, size):
        if size > MAX_SMALL:
            raise InputError(
                f"{path} has {size:,} bytes; what lies beside weights is read up to {MAX_SMALL:,}",
                "Copy or download it again.",
            )
        return file.read(MAX_SMALL)  # files of /proc say that they are empty


def parse_json(raw: bytes, *, strict: bool) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is none, or nested too deep, or has a number that is too long.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates if strict else None)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise ValueError(str(error).partition("; use sys.")[0]) from None  # Python's advice on how to lift its limit
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(_MOST_LEVELS):
        inner = [entry.values() if is_table(entry) else entry for entry in level if is_table(entry) or is_list(entry)]
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {_MOST_LEVELS} levels deep")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the name '{twice}' stands twice")
    return result
