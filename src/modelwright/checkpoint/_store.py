"""Folders in object stores as places for outputs: put file by file, finished by their manifest.

A store has neither rename nor half a file: an object is there as a whole or not at all. So shards are made and checked on
local disk and put one by one, `manifest.json` last. A folder without it is an unfinished output, and whoever goes on with it
asks which of its files are there as they were recorded (`finished`).
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from modelwright.checkpoint._fsspec import Place, Stamp, explained, is_inside, patiently, place_of
from modelwright.errors import RunError

#: The file that makes an output a finished one.
MANIFEST = "manifest.json"
#: The file that makes a folder a bundle of several members, and no checkpoint.
BUNDLE = "bundle.json"
#: Bytes per part of an upload: stores want 5 MiB at least, and several parts are in memory at a time.
PART = 16 << 20
#: Parts that S3 takes for one file.
_MOST_PARTS = 10_000


class RemoteFolder:
    """A folder behind a URL that an output is put into. Nothing is asked of the network before a method is called.

    All methods raise `RunError`, with the URL, if the store does not do as asked.

    Attributes:
        url: The URL in its usual spelling.
    """

    def __init__(self, url: str):
        self._place = place_of(url)
        self.url = self._place.url

    def __repr__(self) -> str:
        return f"RemoteFolder({self.url!r})"

    def holds(self, url: str | None) -> bool:
        """Whether a URL, such as an input's, is this folder or lies in it."""
        return url is not None and (url == self.url or url.startswith(f"{self.url}/"))

    def exists(self) -> bool:
        """Whether there is any file in it: stores have no empty folders."""
        return bool(self.stamps())

    def names(self) -> dict[str, int]:
        """Its files, at any depth: name relative to the folder -> bytes."""
        return {name: stamp.size for name, stamp in self.stamps().items()}

    def stamps(self) -> dict[str, Stamp]:
        """The state of each of its files, for `finished`."""
        with explained(self.url, RunError):
            return self._place.files()

    def finished(self, recorded: Mapping[str, Stamp]) -> set[str]:
        """Which files are there exactly as `put` left them, so that they need not be made again."""
        there = self.stamps()
        return {name for name, stamp in recorded.items() if there.get(name) == stamp}

    def put(self, file: Path, name: str, progress: Callable[[int], None] | None = None) -> Stamp:
        """Upload a local file, a big one in parts, and replace what has its name.

        Args:
            file: The local file.
            name: Its name relative to the folder.
            progress: Called with the bytes of the file sent so far; they start anew where an upload has to be repeated.

        Returns:
            Its state in the store, to be recorded for `finished`.

        Raises:
            RunError: The upload failed, or what has arrived is not as long as the file.
        """
        place = self._file(name)
        size = file.stat().st_size
        options = _put_options(place.fs, size)
        fsspec: Any = importlib.import_module("fsspec")

        def told(_size: int | None, sent: int, **_: Any) -> None:
            if progress is not None:
                progress(sent)

        def once() -> None:
            callback = fsspec.Callback(hooks={"progress": told})
            place.fs.put_file(str(file), place.path, callback=callback, **options)

        with explained(place.url, RunError):
            if not place.fs.async_impl:  # those that are have no folders, and s3fs would make a missing bucket
                place.fs.makedirs(place.path.rpartition("/")[0], exist_ok=True)
            patiently(once)
            stamp = place.stamp()
        if stamp is None or stamp.size != size:
            found = "nothing" if stamp is None else f"{stamp.size} bytes"
            raise RunError(f"'{place.url}' was sent {size} bytes and has {found}. Check the store, then run it again.")
        return stamp

    def read_text(self, name: str) -> str:
        """The text of a small file.

        Raises:
            RunError: It is not there, or not UTF-8.
        """
        place = self._file(name)
        with explained(place.url, RunError):
            return patiently(lambda: bytes(place.fs.cat_file(place.path))).decode("utf-8")

    def read(self, name: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file, and no others."""
        place = self._file(name)
        with explained(place.url, RunError):
            return place.read(start, stop)

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; those that are not there are no error.

        The manifest goes first, so that a folder with files missing never looks like a finished output.
        """
        for name in sorted(names, key=lambda name: (name != MANIFEST, name)):
            place = self._file(name)
            with explained(place.url, RunError):
                try:
                    patiently(lambda place=place: place.fs.rm_file(place.path))
                except FileNotFoundError:
                    continue

    def _file(self, name: str) -> Place:
        if not is_inside(name):
            raise RunError(
                f"'{name}' is no name for a file in '{self.url}'. Names are relative and stay in the folder."
            )
        return self._place.child(name)


def _put_options(fs: Any, size: int) -> dict[str, Any]:
    """What this file system's upload can be told: the size of parts, and that files may be replaced."""
    known = inspect.signature(getattr(fs, "_put_file", fs.put_file)).parameters
    options = {"chunksize": max(PART, math.ceil(size / _MOST_PARTS)), "overwrite": True}
    return {key: value for key, value in options.items() if key in known}
