"""Files that commands write what they found to."""

from __future__ import annotations

from pathlib import Path

from modelwright.errors import InputError

#: Where `--json -` writes to.
STDOUT = "-"


def check_writable(option: str, place: str | Path | None) -> None:
    """Refuse a file that cannot be written, before anything is computed.

    Raises:
        InputError: It is a folder, or in none.
    """
    if place is None or place == STDOUT:
        return
    path = Path(place)
    if path.is_dir():
        raise InputError(f"{option} must be a file, and '{path}' is a folder", "Give a file's name.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option}: there is no folder '{path.parent}'", "Make it first.")


def write_json(place: str, text: str) -> None:
    """Write a document to a file, whole or not at all, or to stdout."""
    if place == STDOUT:
        print(text)  # noqa: T201
        return
    from modelwright.report import write

    write(place, text + "\n")
