"""Where answers are kept while a system is asked, so that a killed run goes on where it was."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from modelwright.errors import InputError, RunError, listing
from modelwright.evaluate._items import Items
from modelwright.evaluate._predictor import needs
from modelwright.evaluate._records import Head, Part, checked_part, read_part, schema, write_part

STREAM = ".arrows"


class Store:
    """The answers of one system to one task.

    Without a folder they are kept in memory. Else each batch is appended to a file beside the final one (`.NAME.parts`) as
    soon as it is answered: what a killed process has written stays, and a batch that was cut off is asked again. The lock
    is the system's, so it ends with the process.

    Args:
        head: What holds for all of them.
        items: What is asked.
        folder: Of records; None keeps them in memory.
        restart: Throw away what is there.

    Attributes:
        done: The ids of items that were answered before.
        unsure: Whether it cannot be told that the same system answered them, because no fingerprint is known of it.

    Raises:
        InputError: Another process is at it, or what is there is of another task, system or version.
    """

    def __init__(self, head: Head, items: Items, folder: Path | None, *, restart: bool = False):
        self._head, self._items = head, items
        self._kept: list[Any] = []
        self._complete = False
        self.unsure = False
        self._lock: int | None = None
        self._stream: Any = None
        self._file = None if folder is None else folder / head.file
        self._parts = None if self._file is None else self._file.with_name(f".{self._file.name}.parts")
        try:
            self._open(restart=restart)
        except BaseException:
            self._close()
            raise
        known = set(items.ids)
        self.done = {name for table in self._kept for name in table["item"].to_pylist()}
        if not self.done <= known:
            self._close()
            odd = listing(sorted(self.done - known), 3)
            raise InputError(f"the records of '{head.system}' hold items that '{head.task}' has not: {odd}", _OTHER)

    def _open(self, *, restart: bool) -> None:
        if self._file is None or self._parts is None:
            return
        if not self._unfinished() and self._file.is_file() and not restart:
            self._keep(read_part(self._file), self._file)
            self._complete = len(self._kept[0]) == len(self._items)
            if self._complete:
                return  # nothing is to be written, and the folder may be one that cannot be
        try:
            self._parts.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self._parts, self._head)
        except OSError as error:
            raise InputError(f"cannot write records: {error.strerror or error}", where=str(self._parts)) from error
        if restart:
            self._discard()
        self._load()

    def _unfinished(self) -> bool:
        return self._parts is not None and self._parts.is_dir()

    def _discard(self) -> None:
        assert self._file is not None
        assert self._parts is not None
        self._file.unlink(missing_ok=True)
        for path in self._parts.glob(f"[0-9]*{STREAM}"):
            path.unlink()

    def _load(self) -> None:
        assert self._file is not None
        assert self._parts is not None
        self._kept = []
        if self._file.is_file():
            self._keep(read_part(self._file), self._file)
        for path in sorted(self._parts.glob(f"[0-9]*{STREAM}")):
            table = _read_stream(path)
            if table is not None:
                self._keep(checked_part(table, str(path)), path)

    def _keep(self, part: Part, path: Path) -> None:
        found, mine = part.head, self._head
        there = f"there are records of '{mine.system}' on '{mine.task}'"
        if found.limit != mine.limit:
            asked = [f"{'all' if limit is None else f'{limit:,}'} items" for limit in (found.limit, mine.limit)]
            raise InputError(f"{there} of {asked[0]}, and now {asked[1]} are asked", _OTHER, str(path))
        if found.task_fingerprint != mine.task_fingerprint:
            raise InputError(
                f"{there}, and the task has changed since: {self._change(part, finished=path == self._file)}",
                _OTHER,
                str(path),
            )
        prints = {found.system_fingerprint, mine.system_fingerprint}
        self.unsure |= "" in prints
        if len(prints - {""}) > 1:
            raise InputError(f"{there}, and the system has changed since", _OTHER, str(path))
        self._kept.append(part.table)

    def _change(self, part: Part, *, finished: bool) -> str:
        if part.head.metric != self._head.metric:
            return f"its metric was {part.head.metric} and is {self._head.metric}"
        if part.head.classes != self._head.classes:
            return "its classes are others"
        recorded, known = set(part.ids), set(self._items.ids)
        if recorded - known:
            return f"items are gone, such as {listing(sorted(recorded - known), 3)}"
        if finished and recorded == known:
            return "its items have the same ids, and other inputs, targets, slices or settings"
        return "it has other items, inputs, targets, slices or settings"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._lock is not None:
            if self._parts is not None and not self._kept:
                _remove_empty(self._parts)
            os.close(self._lock)
            self._lock = None

    def add(self, table: Any) -> None:
        """Take a batch's records, and write them down."""
        if self._parts is not None:
            try:
                if self._stream is None:
                    self._stream = _Stream(self._parts, schema(self._head))
                self._stream.write(table)
            except OSError as error:
                raise RunError(
                    f"cannot write records to '{self._parts}': {error.strerror or error}", resumable=True
                ) from error
        self._kept.append(table)

    def finish(self) -> Part:
        """All records in the order of the items; written in one step."""
        pa = needs("pyarrow", "evaluation")
        form = schema(self._head)
        table = pa.concat_tables([t.cast(form) for t in self._kept])
        part = Part(self._head, table.replace_schema_metadata(form.metadata)).ordered(self._items.ids)
        if self._file is not None and self._parts is not None and not self._complete:
            write_part(part, self._file)
            shutil.rmtree(self._parts, ignore_errors=True)
        return part


_OTHER = "Use another label or another folder, or --restart to throw them away."


class _Stream:
    """A file of Arrow's stream format that grows by a batch at a time."""

    def __init__(self, folder: Path, form: Any):
        pa = needs("pyarrow", "evaluation")
        number = max((int(p.stem) for p in folder.glob(f"[0-9]*{STREAM}")), default=-1) + 1
        self._file = (folder / f"{number:06d}{STREAM}").open("xb")
        self._writer = pa.ipc.new_stream(self._file, form)

    def write(self, table: Any) -> None:
        self._writer.write_table(table)
        self._file.flush()  # to the system, which keeps it when this process is killed

    def close(self) -> None:
        with suppress(OSError, ValueError):
            self._writer.close()
            self._file.close()


def _read_stream(path: Path) -> Any:
    """The batches that are whole; None where not even the head is."""
    pa = needs("pyarrow", "evaluation")
    batches: list[Any] = []
    with path.open("rb") as file:
        try:
            reader = pa.ipc.open_stream(file)
        except (OSError, EOFError, pa.ArrowException):
            return None
        with suppress(OSError, EOFError, StopIteration, pa.ArrowException):
            while True:
                batch = reader.read_next_batch()
                batch.validate(full=True)
                batches.append(batch)
        return pa.Table.from_batches(batches, reader.schema) if batches else None


def _locked(parts: Path, head: Head) -> int:
    """A lock on the folder of parts, for as long as this process lives."""
    import fcntl

    handle = os.open(parts / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            f"another process is asking '{head.system}' about '{head.task}'",
            "Wait for it, or use another folder.",
            str(parts),
        ) from None
    except OSError:  # a file system without locks
        pass
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), (parts / "lock").stat()):
            return handle
    os.close(handle)
    raise InputError(f"another process has just finished '{head.system}' on '{head.task}'", "Run again.", str(parts))


def _remove_empty(parts: Path) -> None:
    """A folder that nothing was put into, such as where the system could not be asked at all."""
    if not any(parts.glob(f"[0-9]*{STREAM}")):
        shutil.rmtree(parts, ignore_errors=True)
        with suppress(OSError):
            parts.parent.rmdir()
