"""The output folder: made beside its place, put there in one step, and set right after a kill at any moment.

OUT.partial is being written and carries a marker that its process holds locked, and a journal of what is finished. An
overwrite renames OUT, marked too, to OUT.old, then OUT.partial to OUT, then deletes OUT.old. What has no marker is the
user's own and is never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from modelwright.checkpoint import MANIFEST, Checkpoint, user_path
from modelwright.engine._identity import first_difference
from modelwright.engine._journal import NAME as JOURNAL, Journal, Past, read_journal
from modelwright.engine._output import flush
from modelwright.errors import InputError, RunError

MARKER = ".modelwright-partial"
_REPLACED = ".modelwright-replaced"
_ASSEMBLY = ".modelwright-assembly"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


class Destination(Protocol):
    """Where an output goes. It is made in a folder of its own on local disk, and then becomes what it is to be in one step.

    Attributes:
        out: Its name, for users.
        folder: Where it is made; what lies there after a kill is gone on with.
        steps: Where results of earlier steps are kept.
    """

    folder: Path
    steps: Path

    @property
    def out(self) -> Path | str:  # read-only, so that each kind may say which of them it is
        ...

    def holds(self, model: Checkpoint) -> bool:
        """Whether the output would replace a model that it is made from."""
        ...

    def check(self, *, overwrite: bool, restart: bool) -> None:
        """Refuse what is in the way, with an InputError."""
        ...

    def begin(self, weights: Sequence[str], journal: Journal, past: Past | None) -> Collection[str]:
        """Get ready for files of these names, side files being in the folder; which are complete and not needed there."""
        ...

    def complete(self, name: str) -> None:
        """Take note of a weight file that is complete."""
        ...

    def commit(self) -> None:
        """Make what is in the folder the output, and remove the folder."""
        ...

    def undo(self) -> None:
        """Set right what was begun, the folder being removed."""
        ...

    def close(self) -> None:
        """Stop what goes on in the background; the journal is closed next."""
        ...

    def kept(self) -> str:
        """Where what is done is kept, after a failure, and how to go on."""
        ...


class LocalFolder:
    """An output on this machine: made beside its place, put there by a rename. See `Destination`."""

    def __init__(self, out: Path):
        self.out = out
        self.folder = partial_of(out)
        self.steps = out.with_name(out.name + ".steps")
        self._overwrite = False

    def holds(self, model: Checkpoint) -> bool:
        """Whether it is or holds a model."""
        return model.path is not None and self.out.exists() and model.path.resolve().is_relative_to(self.out.resolve())

    def check(self, *, overwrite: bool, restart: bool) -> None:
        """Refuse what is in the way; what another merge left is found when it is read."""
        if not self.out.is_dir():
            check_name(str(self.out))
        check_free(self.out, overwrite=overwrite)
        self._overwrite = overwrite

    def begin(self, weights: Sequence[str], journal: Journal, past: Past | None) -> Collection[str]:
        """Every file is needed in the folder."""
        return ()

    def complete(self, name: str) -> None:
        """It is where it belongs."""

    def commit(self) -> None:
        """Bring it to the disk, then rename; what has come in the way meanwhile is not touched."""
        _sync(self.folder)
        try:
            check_free(self.out, overwrite=self._overwrite)
        except InputError as error:
            raise RunError(f"All is merged, but {error}", resumable=True) from None
        try:
            _put(self.folder, self.out)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """End a half-made overwrite."""
        with suppress(OSError):  # the next run tries again; the error that brought us here is the one to show
            _undo_overwrite(self.out)

    def close(self) -> None:
        """Nothing goes on."""

    def kept(self) -> str:
        """In the partial folder."""
        return f"What is done is kept in '{self.folder}': run the same command again to go on, or delete that folder."


def partial_of(out: Path) -> Path:
    """Where an output is made."""
    return out.with_name(out.name + ".partial")


def _old(out: Path) -> Path:
    return out.with_name(out.name + ".old")


def settled(out: str | Path) -> Path:
    """The output's path with `~` and links resolved, after an overwrite that was killed half-way is undone or ended."""
    path = user_path(out)
    if path.is_symlink() or path.name in ("", ".."):
        path = path.resolve()
    if not path.name:
        raise InputError(f"'{path}' cannot be the output", "Give a folder that can be made.")
    recover(path)
    return path


def recover(out: Path) -> None:
    """Undo or end what was killed while an output was put in its place; what is still going on is left alone."""
    if not any((folder / mark).exists() for folder, mark in ((_old(out), _REPLACED), (out, MARKER), (out, _REPLACED))):
        return
    handle = _held_by_nobody(out)
    if handle is None:
        return
    try:
        _undo_overwrite(out)
    finally:
        os.close(handle)


def _held_by_nobody(out: Path) -> int | None:
    """A lock on the marker of a killed merge, wherever that got to; None while its process lives."""
    for path in (partial_of(out) / MARKER, out / MARKER, _old(out) / _REPLACED, out / _REPLACED):
        with suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return None
            except OSError:  # a file system without locks
                pass
            return handle
    return None


def _undo_overwrite(out: Path) -> None:
    old = _old(out)
    if (old / _REPLACED).exists():
        if out.exists():  # the new one is in place
            _remove_replaced(old)
        else:
            old.rename(out)
    for mark in (JOURNAL, MARKER, _REPLACED):
        (out / mark).unlink(missing_ok=True)


def _remove_replaced(old: Path) -> None:
    """Delete a replaced output, its mark last: a kill in between leaves it marked."""
    for path in old.iterdir():
        if path.name == _REPLACED:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (old / _REPLACED).unlink()
    old.rmdir()


def check_name(out: str) -> None:
    """Refuse an output that is named like a weight file."""
    suffix = next((suffix for suffix in _WEIGHTS if out.endswith(suffix)), "")
    if suffix == ".gguf":
        raise InputError(
            f"the output is a folder, and '{out}' is named like a weight file",
            "Add --gguf f16, bf16 or q8_0 (gguf=) for a single GGUF file.",
        )
    if suffix:
        raise InputError(
            f"the output is a folder, and '{out}' is named like a weight file",
            f"Choose '{out.removesuffix(suffix)}': it will hold model.safetensors and what belongs to it.",
        )


def check_free(out: Path, *, overwrite: bool) -> None:
    """Refuse what is in the way of the output.

    Raises:
        InputError: It exists and is not to be, or may not be, overwritten; or its neighbours are in the way.
    """
    if out.exists() and not overwrite:
        raise InputError(f"the output '{out}' exists", "Choose another folder, or pass --overwrite (overwrite=True).")
    if out.exists() and not _was_made_here(out) and not _is_empty(out):
        raise InputError(f"'{out}' was not made by modelwright, so it is not overwritten", "Remove it yourself first.")
    check_parents(out)
    if (_old(out) / _REPLACED).exists():  # not by a dead one, which was set right before
        raise InputError(f"another merge is just replacing '{out}'", "Wait for it, or choose another folder.")
    if overwrite and out.exists() and _old(out).exists() and not _is_empty(_old(out)):
        raise InputError(f"'{_old(out)}' is in the way: an overwrite puts '{out}' there for a moment", "Move it away.")
    check_partial(partial_of(out))


def _is_empty(path: Path) -> bool:
    """Whether a folder has nothing in it, or has just gone."""
    try:
        return not any(path.iterdir())
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


def check_parents(out: Path) -> None:
    """Refuse a folder below a file."""
    above = next(path for path in out.absolute().parents if path.exists())
    if not above.is_dir():
        raise InputError(f"the output '{out}' cannot be made, because '{above}' is a file", "Choose another folder.")


def check_partial(partial: Path) -> None:
    """Refuse a folder that is the user's own where the output is to be made."""
    if partial.exists() and not _left_behind(partial):
        raise InputError(f"'{partial}' is in the way and was not left by a killed merge", "Move it away.")


def _was_made_here(out: Path) -> bool:
    """Whether modelwright made it."""
    try:
        return is_ours((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def is_ours(manifest: str) -> bool:
    """Whether a manifest says that modelwright made it; other programs call files manifest.json too."""
    try:
        return "modelwright" in json.loads(manifest)["made_by"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _left_behind(partial: Path) -> bool:
    """Whether a folder is what a killed merge leaves: marked, or not yet anything."""
    return (partial / MARKER).exists() or _is_empty(partial)


def check_disk(folder: Path, needed: int) -> None:
    """Refuse a disk that is too full for what is to be made in a folder; what a killed merge left there counts as free.

    Raises:
        InputError: It is.
    """
    parent = next(path for path in folder.absolute().parents if path.exists())
    free = shutil.disk_usage(parent).free
    if folder.is_dir():
        with suppress(FileNotFoundError):  # another merge has just renamed it, or removed it
            free += sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
    if free < needed + (1 << 20):
        raise InputError(
            f"the output needs {needed + (1 << 20):,} bytes, and '{parent}' has {free:,} free",
            "Free space, or choose another disk.",
        )


@dataclass
class Partial:
    """The folder that is being written.

    Attributes:
        path: Where it is.
        past: What an earlier run of the same merge left in it, or None.
        journal: The journal, once there is one.
    """

    path: Path
    past: Past | None
    journal: Journal | None = None

    @property
    def resumes(self) -> int:
        """How often the merge was taken up again."""
        return self.past.resumes + 1 if self.past else 0

    @property
    def worth_keeping(self) -> bool:
        """Whether anything in it is finished."""
        return self.journal is not None and self.journal.begun


@contextmanager
def partial_folder(place: Destination, about: dict[str, Any], *, restart: bool) -> Generator[Partial]:
    """The folder that an output is made in, and that becomes it in one step.

    What can be gone on with is kept when the disk fails or the process is stopped; anything else that goes wrong removes it.

    Args:
        place: The output.
        about: Which merge it is; what an earlier run left must agree.
        restart: Discard what an earlier run left.

    Raises:
        InputError: Another merge is writing there, or was left unfinished.
        RunError: The disk fails.
        KeyboardInterrupt: With what was kept, as text.
    """
    folder = place.folder
    handle, ours = -1, False  # until then it may belong to another process, or to a merge that is not this one
    partial = Partial(folder, None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(folder, place)
        partial.past = _past(folder, about, restart=restart)
        ours = True
        _emptied(folder, resumed=partial.past is not None)
        yield partial
        place.commit()
    except InputError:
        _discard(partial, place, mine=ours)
        raise
    except RunError as error:
        if not error.resumable or not _kept(partial, about):
            _discard(partial, place, mine=ours)
            raise
        raise RunError(f"{error} {place.kept()}") from error
    except OSError as error:
        at = f" ({error.filename})" if error.filename else ""
        what = f"writing '{place.out}' failed: {error.strerror or error}{at}."
        if not _kept(partial, about):
            _discard(partial, place, mine=ours)
            raise RunError(f"{what} Nothing was kept.") from error
        raise RunError(f"{what} {place.kept()}") from error
    except BaseException as error:
        if not _kept(partial, about):
            _discard(partial, place, mine=ours)
        elif isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(place.kept() if folder.exists() else f"'{place.out}' is complete.") from None
        raise
    finally:
        place.close()
        if partial.journal is not None:
            partial.journal.close()
        if handle >= 0:
            os.close(handle)


@contextmanager
def assembled(place: LocalFolder, about: dict[str, Any], *, restart: bool) -> Generator[Path]:
    """A folder put together of outputs, each of which is made in it by a run of its own; it becomes its place's in one step.

    What is finished in it is kept when the disk fails or the process is stopped, as `partial_folder` keeps what a run has done,
    and the runs find it there.

    Args:
        place: The output.
        about: What it depends on, as `identity` tells it; what an earlier run left must agree.
        restart: Discard what an earlier run left.

    Raises:
        InputError: Another process is writing there, or something else was left unfinished.
    """
    folder = place.folder
    folder.mkdir(parents=True, exist_ok=True)
    handle = _locked(folder, place)
    ours = False
    try:
        _take_up(folder, about, restart=restart)
        ours = True
        yield folder
        (folder / _ASSEMBLY).unlink()
        (folder / JOURNAL).touch()  # which is removed last
        place.commit()
    except BaseException as error:
        gone_on_with = isinstance(error, RunError | OSError | KeyboardInterrupt) and about["resumable"]
        if ours and not (gone_on_with and any(path.is_dir() for path in folder.glob("*"))):
            shutil.rmtree(folder, ignore_errors=True)
            place.undo()
        raise
    finally:
        os.close(handle)


def _take_up(folder: Path, about: dict[str, Any], *, restart: bool) -> None:
    """Keep what an earlier run of the same has finished; empty the folder of anything else that a run has left."""
    note = folder / _ASSEMBLY
    said = json.dumps(about, sort_keys=True)
    if not restart and note.is_file():
        same = note.read_text(encoding="utf-8") == said
        if same and about["resumable"]:
            return
        if not same and any(path.is_dir() for path in folder.glob("*")):
            raise InputError(
                f"'{folder}' holds a bundle that was not finished, and it is not this one, or its inputs have changed",
                "Finish that one, choose another folder, or discard it: --restart (restart=True).",
            )
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()
    note.write_text(said, encoding="utf-8")


def _kept(partial: Partial, about: dict[str, Any]) -> bool:
    return partial.worth_keeping and about["resumable"]


def _past(folder: Path, about: dict[str, Any], *, restart: bool) -> Past | None:
    """What an earlier run left of this merge; None where it left nothing.

    Raises:
        InputError: It left another merge unfinished.
    """
    past = None if restart else read_journal(folder)
    if past is None or not past.chunks or not past.about.get("resumable"):
        return None
    changed = first_difference(about["inputs"], dict(past.about.get("inputs", {})))
    different = [key for key in ("version", "recipe", "layout") if past.about.get(key) != about[key]]
    if changed:
        different.insert(0, "inputs")
    if not different:
        return past
    words = {
        "version": f"modelwright {past.about.get('version')}, and this is {about['version']}",
        "inputs": f"'{changed}' has changed since, or is another input",
        "recipe": "its recipe, options or method are other ones",
        "layout": "its weight files have another size (--shard-size)",
    }
    raise InputError(
        f"'{folder}' holds a merge that was not finished, and it is not this one: {words[different[0]]}",
        "Finish that one, choose another folder, or discard it: --restart (restart=True).",
    )


def _discard(partial: Partial, place: Destination, *, mine: bool) -> None:
    if mine:
        shutil.rmtree(partial.path, ignore_errors=True)
        place.undo()


def _locked(folder: Path, place: Destination) -> int:
    """The marker, locked for as long as this process lives."""
    handle = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(f"another merge is writing '{place.out}'", "Wait for it, or choose another folder.") from None
    except OSError:  # a file system without locks
        pass
    if not _same_file(handle, folder / MARKER):  # the merge that held it has ended meanwhile, and renamed the folder
        os.close(handle)
        raise InputError(f"another merge has just written '{place.out}'", "Look at it, or choose another folder.")
    return handle


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _emptied(folder: Path, *, resumed: bool) -> None:
    """Remove what an earlier run left; if this one goes on with it, all but the weights."""
    for path in folder.rglob("*"):
        kept = path.name == MARKER or (resumed and (path.name == JOURNAL or path.suffix == ".safetensors"))
        if path.is_file() and not kept:
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):  # the deepest first
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _put(folder: Path, out: Path) -> None:
    old = _old(out)
    if out.exists():
        (out / _REPLACED).touch()
        out.rename(old)
    folder.rename(out)
    try:
        try:
            flush(out.parent)
            if (old / _REPLACED).exists():
                _remove_replaced(old)
        finally:  # last: until then others see that this is going on
            (out / JOURNAL).unlink()
            (out / MARKER).unlink()
    except OSError as error:  # the output is whole and in its place: that must not read as a failed merge
        at = f" ({error.filename})" if error.filename else ""
        raise RunError(f"'{out}' is complete, but tidying up failed: {error.strerror or error}{at}.") from error


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        flush(path)
