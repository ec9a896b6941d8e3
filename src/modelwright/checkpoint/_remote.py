"""Models behind URLs: `s3://`, `gs://`, `hf://` and whatever else fsspec knows.

Opening copies configuration, tokenizer, code and indices to a cache folder, and reads of each safetensors file the header
alone. Weights stay where they are: each tensor is read, as a whole or in parts, by range requests for exactly its bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from modelwright.checkpoint._checkpoint import Checkpoint
from modelwright.checkpoint._files import (
    ADAPTER_FILES,
    CONNECTIONS,
    SMALL_FILES,
    WEIGHT_SUFFIXES,
    Folder,
    RemoteFile,
    from_file,
    from_folder,
)
from modelwright.checkpoint._fsspec import Place, Stamp, explained, place_of
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.checkpoint._safetensors import header_length, parse_header
from modelwright.errors import InputError, Problem, RunError

_WEIGHTS = WEIGHT_SUFFIXES
#: Files that say that a folder's subfolders belong to the model.
_OF_SEVERAL = ("model_index.json", "modules.json")
#: Bytes of one range request at most: what has to come again when the line breaks.
_PIECE = 64 << 20


def open_url(url: str, label: str) -> Checkpoint:
    """The model in a remote folder, or in a single remote weight file.

    Raises:
        InputError: It does not exist, cannot be reached or read, or holds no model.
        MissingExtraError: fsspec, or its package for the scheme, is not installed.
    """
    place = place_of(url)
    if PurePosixPath(place.path).suffix in _WEIGHTS:
        with explained(place.url, InputError):
            stamp = place.stamp()
        if stamp is not None:
            return _open_file(place, stamp, label)
    if place.url.startswith(("http://", "https://")):  # fsspec would follow the links of a page
        raise InputError(
            f"there is no weight file at '{place.url}', and folders are not read over HTTP",
            "Name a .safetensors file; for a model on the Hub write owner/name.",
        )
    return _open_folder(place, label)


def adapter_at(url: str) -> tuple[Path, str]:
    """A local copy of the adapter in a remote folder, for adapters are small, and the URL in its usual spelling.

    Raises:
        InputError: It does not exist, or cannot be reached or read.
    """
    place = place_of(url)
    files = {name: stamp for name, stamp in _listed(place).items() if name in ADAPTER_FILES}
    return _copied(place, files), place.url


def exists(url: str) -> bool:
    """Whether a file or folder is there, as far as one is allowed to see."""
    place = place_of(url)
    with explained(place.url, InputError):
        try:
            return bool(place.fs.exists(place.path))
        except (FileNotFoundError, PermissionError):
            return False


@contextmanager
def named(root: Path, url: str) -> Generator[None]:
    """What is wrong with a copy is wrong with its original: messages name the URL."""
    try:
        yield
    except InputError as error:
        raise InputError(
            Problem(*(text.replace(str(root), url) for text in (problem.what, problem.mend, problem.where)))
            for problem in error.problems
        ) from None


def _listed(place: Place) -> dict[str, Stamp]:
    with explained(place.url, InputError):
        files = place.files()
    if not files:
        raise InputError(f"there is nothing at '{place.url}'", "Check bucket and path.")
    return files


def _open_folder(place: Place, label: str) -> Checkpoint:
    files = _listed(place)
    several = any(name in files for name in _OF_SEVERAL)
    own = {name: stamp for name, stamp in files.items() if several or "/" not in name}
    small = [name for name in own if any(fnmatch(name, pattern) for pattern in SMALL_FILES)]
    weights = [name for name in files if PurePosixPath(name).suffix in _WEIGHTS]
    root = _copied(place, {name: files[name] for name in small}, [own[name] for name in weights if name in own])
    remote: dict[Path, RemoteFile] = {
        root / name: _RemoteFile(place.child(name), files[name], root / name) for name in weights
    }
    with named(root, place.url):
        return _renamed(from_folder(Folder(root, remote, url=place.url), label), root, place.url)


def _open_file(place: Place, stamp: Stamp, label: str) -> Checkpoint:
    root = _copied(place, {}, [stamp])
    path = root / PurePosixPath(place.path).name
    folder = Folder(root, {path: _RemoteFile(place, stamp, path)}, url=place.url)
    above = place.url.rpartition("/")[0]
    with named(root, above):
        return _renamed(from_file(path, label, folder), root, above)


def _renamed(opened: Checkpoint, root: Path, url: str) -> Checkpoint:
    opened.notes = tuple(note.replace(str(root), url) for note in opened.notes)
    return opened


# --- the cache -----------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where copies of remote files are kept: `$MODELWRIGHT_CACHE`, or `modelwright` in the user's cache folder."""
    own, shared = os.environ.get("MODELWRIGHT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(own).expanduser() if own else Path(shared or Path.home() / ".cache") / "modelwright"
    except RuntimeError:  # a user without a home, as in many containers
        raise InputError(
            "there is no home folder to keep copies of remote files in", "Set MODELWRIGHT_CACHE to a folder."
        ) from None


def _copied(place: Place, small: Mapping[str, Stamp], weights: Iterable[Stamp] = ()) -> Path:
    """The local folder for one state of a remote one, with its small files.

    The state is in the folder's name, so a file that changes is never served from an old copy; and the folder is renamed into
    place when it is whole, so that neither a break nor a second process leaves half of it.
    """
    state = [place.url, [[name, stamp.size, stamp.version] for name, stamp in sorted(small.items())]]
    state.append([[stamp.size, stamp.version] for stamp in weights])
    root = cache_folder() / "remote" / hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]
    if root.is_dir():
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=root.parent))
        try:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                list(pool.map(partial(_copy, place, folder), small.items()))
            try:
                folder.rename(root)
            except OSError:
                if not root.is_dir():  # else another process has made it meanwhile
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{root.parent} cannot be written ({error.strerror or error})",
            "It keeps copies of small remote files; set MODELWRIGHT_CACHE to another folder.",
        ) from None
    return root


def _copy(place: Place, folder: Path, entry: tuple[str, Stamp]) -> None:
    name, stamp = entry
    file, source = folder / name, place.child(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with explained(source.url, InputError):
        file.write_bytes(source.read(0, stamp.size))
        if source.stamp() != stamp:
            raise _changed(source)


def _changed(place: Place) -> InputError:
    return InputError(f"'{place.url}' changed while it was read", "Open it again when nothing writes to it.")


# --- weights -------------------------------------------------------------------------------------------------------


class _RemoteFile:
    """A weight file behind a URL, in the state that it had when it was listed."""

    def __init__(self, place: Place, stamp: Stamp, path: Path):
        self._place, self._stamp, self._path = place, stamp, path
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:  # into another process, without the lock
        return _RemoteFile, (self._place, self._stamp, self._path)

    def header(self) -> tuple[dict[str, TensorRef], dict[str, str]]:
        """Its tensors and metadata, for which nothing but the header is transferred."""
        size = self._stamp.size
        with explained(self._place.url, InputError):
            length = header_length(self._place.read(0, min(8, size)), self._path, size)
            raw = self._place.read(8, 8 + length)
        offset = 8 + length
        tensors, metadata = parse_header(raw, self._path, size - offset, offset)
        for name, ref in tensors.items():  # in the order of their bytes, and without gaps
            fill = self._filling(offset, ref.nbytes)
            tensors[name] = replace(ref, load=_loading(ref, fill), fill=fill)
            offset += ref.nbytes
        return tensors, metadata

    def fetch(self) -> Path:
        """Download it to the cache, unless it has come meanwhile."""
        with self._lock, explained(self._place.url, InputError):
            if not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix=".partial-", dir=self._path.parent) as folder:
                    copy = Path(folder) / self._path.name
                    self._place.download(copy)
                    if copy.stat().st_size != self._stamp.size or self._place.stamp() != self._stamp:
                        raise _changed(self._place)
                    copy.replace(self._path)
        return self._path

    def _filling(self, offset: int, count: int) -> Callable[[NumpyArray, int], None]:
        def fill(buffer: NumpyArray, start: int) -> None:
            try:
                with explained(self._place.url, RunError):
                    for at in range(0, buffer.size, _PIECE):
                        piece = buffer[at : at + _PIECE]
                        first = offset + start + at
                        piece[:] = np.frombuffer(self._place.read(first, first + piece.size), np.uint8)
            except RunError:
                self._check()  # that it has changed is the better explanation
                raise
            if start + buffer.size == count:  # once for each tensor, after its bytes: then they were the old ones
                self._check()

        return fill

    def _check(self) -> None:
        with explained(self._place.url, RunError):
            now = self._place.stamp()
        if now != self._stamp:
            what = "is no longer there" if now is None else "has changed since it was opened"
            raise RunError(f"'{self._place.url}' {what}. Start again when nothing writes to it.")


def _loading(ref: TensorRef, fill: Callable[[NumpyArray, int], None]) -> Callable[[], NumpyArray]:
    def load() -> NumpyArray:
        raw = np.empty(ref.nbytes, np.uint8)
        fill(raw, 0)
        return raw.view(ref.dtype.numpy).reshape(ref.shape)

    return load
