"""The output folder: made beside its place, put there in one step, and set right after a kill at any moment.

OUT.partial is being written and carries a marker that its process holds locked. An overwrite renames OUT, marked too, to
OUT.old, then OUT.partial to OUT, then deletes OUT.old. What has no marker is the user's own and is never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from modelwright.errors import InputError, RunError

_MARKER = ".modelwright-partial"
_REPLACED = ".modelwright-replaced"


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _old(out: Path) -> Path:
    return out.with_name(out.name + ".old")


def recover(out: Path) -> None:
    """Undo or end an overwrite that was killed between its renames."""
    old = _old(out)
    if not (old / _REPLACED).exists():
        return
    if out.exists():  # the new one is in place
        shutil.rmtree(old)
    else:
        old.rename(out)
        (out / _REPLACED).unlink()


def check_free(out: Path, *, overwrite: bool) -> None:
    """Refuse what is in the way of the output.

    Raises:
        InputError: It exists and is not to be, or may not be, overwritten; or its neighbours are in the way.
    """
    if out.exists() and not overwrite:
        raise InputError(f"the output '{out}' exists", "Choose another folder, or pass --overwrite (overwrite=True).")
    if out.exists() and not _is_ours(out) and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"'{out}' was not made by modelwright, so it is not overwritten", "Remove it yourself first.")
    above = next(path for path in out.absolute().parents if path.exists())
    if not above.is_dir():
        raise InputError(f"the output '{out}' cannot be made, because '{above}' is a file", "Choose another folder.")
    if overwrite and out.exists() and _old(out).exists():
        raise InputError(f"'{_old(out)}' is in the way: an overwrite puts '{out}' there for a moment", "Move it away.")
    partial = _partial(out)
    if partial.exists() and not _left_behind(partial):
        raise InputError(f"'{partial}' is in the way and was not left by a killed merge", "Move it away.")


def _is_ours(out: Path) -> bool:
    """Whether its manifest says that modelwright made it; other programs call files manifest.json too."""
    try:
        return "modelwright" in json.loads((out / "manifest.json").read_text(encoding="utf-8"))["made_by"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _left_behind(partial: Path) -> bool:
    """Whether a folder is what a killed merge leaves: marked, or not yet anything."""
    return partial.is_dir() and ((partial / _MARKER).exists() or not any(partial.iterdir()))


def check_disk(out: Path, needed: int) -> None:
    """Refuse a disk that is too full; what a killed merge left counts as free, because it goes first.

    Raises:
        InputError: It is.
    """
    parent = next(path for path in out.absolute().parents if path.exists())
    free, partial = shutil.disk_usage(parent).free, _partial(out)
    if partial.is_dir():
        free += sum(path.stat().st_blocks * 512 for path in partial.rglob("*") if path.is_file())
    if free < needed + (1 << 20):
        raise InputError(
            f"the output needs {needed + (1 << 20):,} bytes, and '{parent}' has {free:,} free",
            "Free space, or choose another disk.",
        )


@contextmanager
def partial_folder(out: Path) -> Generator[Path]:
    """A folder beside the output that replaces it in one step; removed if anything goes wrong.

    Raises:
        InputError: Another merge is writing there.
        RunError: The disk fails.
    """
    folder = _partial(out)
    handle = -1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(folder, out)
        _emptied(folder)
        yield folder
        _sync(folder)
        _put(folder, out)
    except OSError as error:
        _undo(folder, out, mine=handle >= 0)
        at = f" ({error.filename})" if error.filename else ""
        raise RunError(f"writing '{out}' failed: {error.strerror or error}{at}. Nothing was kept.") from error
    except BaseException:
        _undo(folder, out, mine=handle >= 0)
        raise
    finally:
        if handle >= 0:
            os.close(handle)


def _undo(folder: Path, out: Path, *, mine: bool) -> None:
    if mine:  # else it belongs to another process
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # the next run tries again; the error that brought us here is the one to show
            recover(out)


def _locked(folder: Path, out: Path) -> int:
    """The marker, locked for as long as this process lives."""
    handle = os.open(folder / _MARKER, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(f"another merge is writing '{out}'", "Wait for it, or choose another folder.") from None
    except OSError:  # a file system without locks
        pass
    return handle


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == _MARKER:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _put(folder: Path, out: Path) -> None:
    old = _old(out)
    if out.exists():
        (out / _REPLACED).touch()
        out.rename(old)
    folder.rename(out)
    try:
        (out / _MARKER).unlink()
        _flush(out.parent)
        if (old / _REPLACED).exists():
            shutil.rmtree(old)
    except OSError as error:  # the output is whole and in its place: that must not read as a failed merge
        at = f" ({error.filename})" if error.filename else ""
        raise RunError(f"'{out}' is complete, but tidying up failed: {error.strerror or error}{at}.") from error


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _flush(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
