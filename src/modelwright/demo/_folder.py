"""The demo's folder: made new, or emptied of an earlier demo, never of anything else."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelwright.errors import InputError

#: Says that a folder was made by the demo, and so may be made again.
MARKER = ".modelwright-demo"
_OURS = ("models", "recipes", "merged", "report.html", "results.json")


def prepare(out: Path) -> None:
    """Make the folder, or remove from it what an earlier demo wrote. Files that others put there stay.

    Raises:
        InputError: Something is there that no demo made.
    """
    mend = "Choose another folder, such as mw demo -o demo-2."
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, and the demo writes a folder", mend)
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise InputError(f"{out} has files in it that mw demo did not make", mend)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("Made by `mw demo`, which replaces its own files here.\n", encoding="utf-8")
    for name in _OURS:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
