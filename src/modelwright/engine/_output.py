"""The weight files of an output: reserved before the first byte, written in ranges, hashed in chunks as they fill up."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import xxhash

from modelwright.checkpoint import NumpyArray, Shard
from modelwright.engine._journal import Listener
from modelwright.engine._work import Program, run_programs

#: Bytes of a file that have a hash of their own.
CHUNK = 4 << 20


#: What file systems that cannot reserve answer, where the C library does not write zeros instead (musl).
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)
#: Of Linux; Python's `os` does not have it. fsync stays what makes bytes safe, so failing or missing does no harm.
_sync_file_range: Any = getattr(ctypes.CDLL(None), "sync_file_range", None)
_WRITE = 2
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class Output(Protocol):
    """Where merged bytes go."""

    def write(self, name: str, start: int, data: NumpyArray) -> None:
        """Take bytes of a tensor, from byte `start` of it on."""
        ...

    def done(self, name: str, start: int, stop: int) -> None:
        """Know that these bytes of a tensor are all written."""
        ...


@dataclass(frozen=True)
class _Place:
    file: int
    offset: int


class WeightFiles:
    """The safetensors files of a partial folder.

    Args:
        folder: The partial folder.
        shards: The files by the prefix of their part.
        journal: Is told of every chunk that is complete.
        on_complete: Is told the name of every file that is complete and on the disk.
    """

    def __init__(
        self,
        folder: Path,
        shards: Mapping[str, Sequence[Shard]],
        journal: Listener,
        on_complete: Callable[[str], None] = lambda name: None,
    ):
        listed = [(prefix, shard) for prefix, files in shards.items() for shard in files]
        self.names = [prefix + shard.file for prefix, shard in listed]
        self.hashes: list[list[str]] = [[""] * -(-shard.nbytes // CHUNK) for _, shard in listed]
        self._paths = [folder / name for name in self.names]
        self.folder, self.shards = folder, shards
        self._shards = [shard for _, shard in listed]
        self._journal = journal
        self._on_complete = on_complete
        self._elsewhere: Collection[str] = ()
        self._where = {
            prefix + name: _Place(file, offset)
            for file, (prefix, shard) in enumerate(listed)
            for name, (offset, _) in shard.tensors.items()
        }
        self._left = [
            [self._size(file, chunk) for chunk in range(len(chunks))] for file, chunks in enumerate(self.hashes)
        ]
        self._open = [len(chunks) for chunks in self.hashes]
        self._lock = threading.Lock()

    def _size(self, file: int, chunk: int) -> int:
        return min(CHUNK, self._shards[file].nbytes - chunk * CHUNK)

    def create(self, elsewhere: Collection[str] = ()) -> None:
        """Make the files at their full size, with their headers: what the disk cannot hold fails here.

        Args:
            elsewhere: Files that are complete in a store and need no bytes here.
        """
        self._elsewhere = elsewhere
        for name, path, shard in zip(self.names, self._paths, self._shards, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in elsewhere:
                path.touch()  # tensors without elements are written again
                continue
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _reserve(handle, shard.nbytes)
                _write(handle, memoryview(shard.header), 0)
            finally:
                os.close(handle)

    def start(self) -> None:
        """Count the headers as written, which `create` has done."""
        for file, shard in enumerate(self._shards):
            self._fill(file, 0, len(shard.header))

    def recall(
        self,
        chunks: Mapping[tuple[int, int], str],
        workers: int,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Take chunks of an earlier run as complete where their bytes still have their hashes, or are elsewhere."""
        known = {place: digest for place, digest in chunks.items() if self._has(*place)}
        total, done = sum(self._size(*place) for place in known), 0

        def check(file: int, chunk: int, digest: str) -> None:
            nonlocal done
            elsewhere = self.names[file] in self._elsewhere
            if elsewhere or self._hash(file, chunk) == digest:
                self.hashes[file][chunk] = digest
                self._left[file][chunk] = 0
                self._close(file, told=not elsewhere)
            with self._lock:
                done += self._size(file, chunk)

        def tick() -> None:
            if progress is not None:
                progress("checking what is done", done, total)

        def program() -> Program:
            yield [partial(check, *place, digest) for place, digest in known.items()]

        run_programs([program()], workers, tick)  # not a pool, which would let Ctrl-C wait for all of them

    def _has(self, file: int, chunk: int) -> bool:
        return 0 <= file < len(self.hashes) and 0 <= chunk < len(self.hashes[file])

    def complete(self, name: str, start: int, stop: int) -> bool:
        """Whether all chunks that hold these bytes of a tensor are complete."""
        place = self._where[name]
        first, last = (place.offset + start) // CHUNK, (place.offset + max(stop - 1, start)) // CHUNK
        return all(self._left[place.file][chunk] == 0 for chunk in range(first, last + 1) if stop > start)

    def write(self, name: str, start: int, data: NumpyArray) -> None:
        """Write bytes of a tensor at their place."""
        place = self._where[name]
        handle = os.open(self._paths[place.file], os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write(handle, memoryview(data), place.offset + start)  # type: ignore[reportArgumentType]
        finally:
            os.close(handle)

    def done(self, name: str, start: int, stop: int) -> None:
        """Note that these bytes of a tensor are written; hash the chunks that are complete with them."""
        place = self._where[name]
        self._fill(place.file, place.offset + start, place.offset + stop)

    def _fill(self, file: int, start: int, stop: int) -> None:
        for chunk in range(start // CHUNK, -(-stop // CHUNK)):
            with self._lock:
                if self._left[file][chunk] == 0:  # complete since an earlier run: the same bytes were written again
                    continue
                self._left[file][chunk] -= min(stop, (chunk + 1) * CHUNK) - max(start, chunk * CHUNK)
                if self._left[file][chunk]:
                    continue
            digest = self._hash(file, chunk)
            self._send(file, chunk)
            self._completed(file, chunk, digest)

    def _completed(self, file: int, chunk: int, digest: str) -> None:
        self.hashes[file][chunk] = digest
        self._journal.chunk(file, chunk, digest)
        self._close(file)

    def take(self, chunks: Mapping[tuple[int, int], str]) -> None:
        """Take chunks as complete that another process has written as a whole, and hashed."""
        for (file, chunk), digest in chunks.items():
            with self._lock:
                known, self._left[file][chunk] = self._left[file][chunk] == 0, 0
            if not known:
                self._completed(file, chunk, digest)

    def flush(self, names: Iterable[str]) -> None:
        """Bring to the disk what this machine holds of the files that these tensors are in."""
        for file in sorted({self._where[name].file for name in names}):
            flush(self._paths[file])

    def _close(self, file: int, *, told: bool = True) -> None:
        """Count one more chunk of a file as complete; with the last, so is the file."""
        with self._lock:
            self._open[file] -= 1
            last = self._open[file] == 0
        if last and told:
            flush(self._paths[file])  # while other files are being written
            self._on_complete(self.names[file])

    def _hash(self, file: int, chunk: int) -> str:
        with self._paths[file].open("rb", buffering=0) as opened:
            opened.seek(chunk * CHUNK)
            return xxhash.xxh3_128_hexdigest(opened.read(self._size(file, chunk)))

    def _send(self, file: int, chunk: int) -> None:
        """Let the system bring a chunk to the disk while others are computed, so that the last fsync waits for little."""
        if _sync_file_range is not None:
            handle = os.open(self._paths[file], os.O_RDONLY | os.O_CLOEXEC)
            _sync_file_range(handle, chunk * CHUNK, self._size(file, chunk), _WRITE)
            os.close(handle)

    def table(self) -> dict[str, dict[str, Any]]:
        """Sizes and hashes for the manifest."""
        return {
            name: {"bytes": shard.nbytes, "xxh3_128": hashes}
            for name, shard, hashes in zip(self.names, self._shards, self.hashes, strict=True)
        }


class Memory:
    """An output that keeps one tensor in memory."""

    def __init__(self, array: NumpyArray):
        self._bytes = array.reshape(-1).view("u1")

    def write(self, name: str, start: int, data: NumpyArray) -> None:
        """Take bytes."""
        self._bytes[start : start + len(data)] = data

    def done(self, name: str, start: int, stop: int) -> None:
        """Nothing is to be done."""


def _reserve(handle: int, size: int) -> None:
    if os.fstat(handle).st_size == size:
        return
    os.ftruncate(handle, 0)
    allocate: Callable[[int, int, int], None] | None = getattr(os, "posix_fallocate", None)
    if allocate is None or size == 0:  # macOS has none
        os.ftruncate(handle, size)
        return
    try:
        allocate(handle, 0, size)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        os.ftruncate(handle, size)  # then a full disk is noticed when it is full


def _write(handle: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(handle, data, offset)
        data, offset = data[count:], offset + count


def flush(path: Path) -> None:
    """Bring a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
