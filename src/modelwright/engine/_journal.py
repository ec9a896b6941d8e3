"""The journal of a partial output: what is finished, so that a killed merge goes on instead of starting again.

One JSON object a line, only ever appended. The first line says which merge it is; the others which ranges of tensors were
written, with hashes of what was read for them, which chunks of files are complete, with their hashes, BLAKE3 of whole files where
it is asked for, and which files are in a store, with their state there. A resumed merge believes a chunk only when its bytes still have that hash, so the journal need
not be flushed in step with the data; but it is before the local bytes of an uploaded file are given up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from modelwright.checkpoint import Stamp

NAME = ".modelwright-journal"


@dataclass(frozen=True)
class RangeDone:
    """A range of a tensor that was written.

    Attributes:
        digests: xxh3-128 of the bytes that were read for it, by source.
        changed: Whether the merged values differ from the base's.
        differs: Labels of models whose buffer differs from the one that was kept.
        odd: How many values of each source are not finite, by model's label, where that is allowed.
    """

    digests: tuple[str, ...]
    changed: bool = False
    differs: tuple[str, ...] = ()
    odd: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Uploaded:
    """A file that was put into a store.

    Attributes:
        stamp: Its state there.
        digest: xxh3-128 of its bytes; empty for weight files, whose chunks tell.
    """

    stamp: Stamp
    digest: str


@dataclass
class Past:
    """What a journal tells.

    Attributes:
        about: Its first line.
        ranges: (tensor, range) -> what was done.
        chunks: (file, chunk) -> hash.
        uploads: Files in the store, by name.
        audits: BLAKE3 of whole weight files, by name.
        resumes: How often the merge was taken up again.
        size: Bytes of the journal that can be read.
    """

    about: dict[str, Any] = field(default_factory=dict[str, Any])
    ranges: dict[tuple[int, int], RangeDone] = field(default_factory=dict[tuple[int, int], RangeDone])
    chunks: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    uploads: dict[str, Uploaded] = field(default_factory=dict[str, Uploaded])
    audits: dict[str, str] = field(default_factory=dict[str, str])
    resumes: int = 0
    size: int = 0


def read_journal(folder: Path) -> Past | None:
    """The journal in a partial folder, up to the first line that a crash left unfinished; None where there is none."""
    try:
        raw = (folder / NAME).read_bytes()
    except FileNotFoundError:
        return None
    past = Past()
    for line in raw.splitlines(keepends=True):
        if not line.endswith(b"\n") or not _take(past, line):
            break
        past.size += len(line)
    return past if past.about else None


def _take(past: Past, line: bytes) -> bool:
    """Note one line; false where it is not one of ours."""
    try:
        entry: Any = json.loads(line)
        if not past.about:
            past.about = dict(entry["merge"])
        elif "range" in entry:
            odd = tuple((str(label), int(count)) for label, count in entry.get("odd", ()))
            done = RangeDone(tuple(entry["read"]), bool(entry.get("changed")), tuple(entry.get("differs", ())), odd)
            tensor, number = entry["range"]
            past.ranges[tensor, number] = done
        elif "chunk" in entry:
            file, number = entry["chunk"]
            past.chunks[file, number] = str(entry["xxh3_128"])
        elif "put" in entry:
            size, state = entry["stamp"]
            past.uploads[entry["put"]] = Uploaded(Stamp(size, state), str(entry["xxh3_128"]))
        elif "blake3" in entry:
            past.audits[entry["file"]] = str(entry["blake3"])
        elif "resumed" in entry:
            past.resumes += 1
        else:
            return False
    except (ValueError, KeyError, TypeError):
        return False
    return True


class Listener(Protocol):
    """Who is told of what is finished."""

    def range(self, tensor: int, number: int, done: RangeDone) -> None:
        """Note a range that was written."""
        ...

    def chunk(self, file: int, number: int, digest: str) -> None:
        """Note a complete chunk."""
        ...


class Journal:
    """A journal being written; safe to use from several threads, because each line is one write.

    Attributes:
        begun: Whether any chunk is complete, so that there is something to resume.
    """

    def __init__(self, folder: Path, about: dict[str, Any], past: Past | None = None):
        self._handle = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.begun = past is not None and bool(past.chunks)
        if past is None:
            os.ftruncate(self._handle, 0)
            self._write({"merge": about})
        else:
            os.ftruncate(self._handle, past.size)
            self._write({"resumed": past.resumes + 1})

    def range(self, tensor: int, number: int, done: RangeDone) -> None:
        """Note a range that was written."""
        extra: dict[str, Any] = {"changed": True} if done.changed else {}
        extra |= {"differs": done.differs} if done.differs else {}
        extra |= {"odd": done.odd} if done.odd else {}
        self._write({"range": [tensor, number], "read": done.digests, **extra})

    def chunk(self, file: int, number: int, digest: str) -> None:
        """Note a complete chunk."""
        self._write({"chunk": [file, number], "xxh3_128": digest})
        self.begun = True

    def audit(self, name: str, digest: str) -> None:
        """Note BLAKE3 of a whole file; before it is put into a store, for after that its bytes are not here any more."""
        self._write({"file": name, "blake3": digest})

    def put(self, name: str, uploaded: Uploaded) -> None:
        """Note a file that is in the store, and bring the journal to the disk: the file's local bytes go next."""
        stamp = uploaded.stamp
        self._write({"put": name, "stamp": [stamp.size, stamp.version], "xxh3_128": uploaded.digest})
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":"), default=_listed).encode() + b"\n"
        if os.write(self._handle, line) != len(line):  # a full disk takes part of it: the line does not count
            raise OSError(28, os.strerror(28), NAME)


def _listed(value: Sequence[Any]) -> list[Any]:
    return list(value)
