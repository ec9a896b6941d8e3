"""An output behind a URL: made in a staging folder on local disk, and put into the store file by file.

Stores have no rename, so two small files say what a folder in them is. `manifest.json` is put last, and makes it a finished
output. `.modelwright-unfinished` is put first and removed last: modelwright is at work on the folder or was killed, from this
staging folder, with these files. Any other folder with something in it is somebody else's and never touched.

A weight file is uploaded when it is complete, while others are being merged, and its local bytes are given up when the journal
says that it is there. What the journal says is believed as long as the store shows the same state of the file.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

import xxhash

from modelwright.architectures import is_list, is_table
from modelwright.checkpoint import MANIFEST, Checkpoint, RemoteFolder, Stamp, cache_folder, user_path
from modelwright.engine._folder import MARKER, check_name, check_parents, check_partial, is_ours
from modelwright.engine._journal import Journal, Past, Uploaded
from modelwright.engine._lineage import CARD
from modelwright.errors import InputError, RunError

#: The file that makes a folder in a store an unfinished output.
UNFINISHED = ".modelwright-unfinished"


class StoreFolder:
    """An output behind a URL. See `Destination`.

    Args:
        url: The URL.
        staging: Where its staging folder is made; default in the cache.
        progress: Called as bytes are sent, once everything is merged.
    """

    def __init__(self, url: str, staging: str | Path | None, progress: Callable[[str, int, int], None] | None):
        self._remote = RemoteFolder(url)
        self._progress = progress
        self.out = self._remote.url
        name = re.sub(r"[^\w.-]", "_", self.out.rpartition("/")[2], flags=re.ASCII)[:60]
        above = user_path(staging) if staging is not None else cache_folder() / "staging"
        self.folder = above / f"{name}-{xxhash.xxh3_64_hexdigest(self.out.encode())}"
        self.steps = above / f"{self.folder.name}.steps"
        self._weights: frozenset[str] = frozenset()
        self._journal: Journal | None = None
        self._own: set[str] = set()  # files there that are ours to replace or remove
        self._replaces = False  # a finished output, which stays whole until everything is merged
        self._there: dict[str, Uploaded] = {}
        self._sent: dict[str, int] = {}  # of files on their way
        self._begun: set[str] = set()  # files that may be there, noted or not
        self._told = -1
        self._queue: SimpleQueue[tuple[str, Future[None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._early: list[Future[None]] = []
        self._lock = threading.Lock()
        self._closed = self._done = False

    def holds(self, model: Checkpoint) -> bool:
        """Whether a model lies in it."""
        return self._remote.holds(model.url)

    def kept(self) -> str:
        """In the staging folder, and in the store."""
        there = f" and, as far as it is uploaded, in '{self.out}'" if self._there else ""
        which = "both" if self._there else "that folder"
        return (
            f"What is done is kept in '{self.folder}'{there}: run the same command again to go on, or delete {which}."
        )

    # --- before anything is written ---------------------------------------------------------------------------------

    def check(self, *, overwrite: bool, restart: bool) -> None:
        """Refuse what is in the way, here and in the store."""
        out = self.out
        if out.startswith(("http://", "https://")):
            raise InputError(
                f"'{out}' cannot be an output: nothing is written over HTTP", "Choose a store or a folder."
            )
        check_name(out)
        check_parents(self.folder)
        check_partial(self.folder)
        try:
            there = self._remote.stamps()
            manifest, note = (self._text(name, there) for name in (MANIFEST, UNFINISHED))
        except RunError as error:  # nothing runs yet: it is the URL, the credentials or the network
            raise InputError(str(error)) from None
        if manifest and is_ours(manifest):
            if not overwrite and manifest != self._staged():
                raise InputError(
                    f"the output '{out}' exists", "Choose another folder, or pass --overwrite (overwrite=True)."
                )
        elif there and (manifest or not note):
            raise InputError(
                f"'{out}' holds files and was not made by modelwright, so it is not overwritten",
                "Choose another folder, or remove them yourself first.",
            )
        elif note and not (overwrite or restart or self._is_mine(note)):
            raise InputError(
                f"'{out}' holds an output that is not finished, begun on '{_note(note).get('host')}' with another "
                f"staging folder than '{self.folder}'",
                "Wait for it, go on with it there, or discard it: --restart (restart=True).",
            )

    def _text(self, name: str, there: Mapping[str, Stamp]) -> str:
        return self._remote.read_text(name) if name in there else ""

    def _staged(self) -> str:
        """The manifest of a merge that was killed after it was complete, for then it is this merge that is there."""
        path = self.folder / MANIFEST
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def _token(self) -> str:
        """A word that this staging folder alone knows; kept in its lock, which stays as long as the folder does."""
        with suppress(FileNotFoundError):
            return (self.folder / MARKER).read_text(encoding="utf-8")
        return ""

    def _is_mine(self, note: str) -> bool:
        return bool(self._token()) and _note(note).get("staging") == self._token()

    # --- while it is merged -----------------------------------------------------------------------------------------

    def begin(self, weights: Sequence[str], journal: Journal, past: Past | None) -> Collection[str]:
        """Mark the folder in the store; the weight files that are there already."""
        self._weights, self._journal = frozenset(weights), journal
        if not self._token():
            (self.folder / MARKER).write_text(uuid4().hex, encoding="utf-8")
        with _resumable():
            there = self._remote.stamps()
            manifest, note = (self._text(name, there) for name in (MANIFEST, UNFINISHED))
            self._own = there.keys() & (_files(manifest) | _files(note))
            self._replaces = MANIFEST in there
            files = {*self._own, *weights, *_listed(self.folder), CARD, MANIFEST}
            text = _unfinished(self._token(), files)
            if text != note:  # else this merge goes on
                (self.folder / UNFINISHED).write_text(text, encoding="utf-8")
                self._remote.put(self.folder / UNFINISHED, UNFINISHED)
        before = past.uploads if past is not None else {}
        self._there = {name: uploaded for name, uploaded in before.items() if there.get(name) == uploaded.stamp}
        return self._weights & self._there.keys()

    def complete(self, name: str) -> None:
        """Upload a weight file in the background. What goes wrong is tried again, and told, at the end."""
        if not self._replaces:
            self._early.append(self._send(name))

    def _send(self, name: str) -> Future[None]:
        sent: Future[None] = Future()
        with self._lock:
            if self._thread is None:  # a daemon, because Ctrl-C is not to wait for gigabytes
                self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
                self._thread.start()
        self._queue.put((name, sent))
        return sent

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            name, sent = item
            try:
                if not self._closed:
                    self._upload(name)
                sent.set_result(None)
            except Exception as error:  # for whoever waits
                sent.set_exception(error)

    def _upload(self, name: str) -> None:
        path = self.folder / name
        digest = self._digest(name)

        def tell(count: int) -> None:
            if self._closed:
                raise RunError(f"uploading '{name}' was given up")
            self._sent[name] = count

        self._begun.add(name)
        uploaded = Uploaded(self._remote.put(path, name, tell), digest)
        with self._lock:
            if self._closed or self._journal is None:
                return
            self._journal.put(name, uploaded)
            self._there[name] = uploaded
            if name in self._weights:
                os.truncate(path, 0)

    def _digest(self, name: str) -> str:
        return "" if name in self._weights else xxhash.xxh3_128_hexdigest((self.folder / name).read_bytes())

    # --- the end ----------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Upload what is not there yet, remove what is no longer part of it, and put the manifest last."""
        names = _listed(self.folder) - {MANIFEST}
        with _resumable():
            self._wait(self._early)
            if self._replaces:
                self._remote.delete([MANIFEST])
                self._replaces = False
            self._send_all(name for name in names if not self._is_there(name))
            there = self._remote.stamps()
            for name in sorted(names):
                if there.get(name) != self._there[name].stamp:
                    raise RunError(f"'{self.out}/{name}' is not as it was uploaded: something else writes there.")
            self._remote.delete((self._own & there.keys()) - names)
            self._send_all([MANIFEST])
        self._done = True
        try:
            self._remote.delete([UNFINISHED])
            shutil.rmtree(self.folder)
        except (OSError, RunError) as error:
            raise RunError(f"'{self.out}' is complete, but tidying up failed: {error}") from error

    def _is_there(self, name: str) -> bool:
        uploaded = self._there.get(name)
        return uploaded is not None and uploaded.digest == self._digest(name)

    def _send_all(self, names: Iterable[str]) -> None:
        sent = [self._send(name) for name in sorted(names)]
        self._wait(sent)
        for one in sent:
            one.result()

    def _wait(self, sent: Sequence[Future[None]]) -> None:
        while wait(sent, timeout=0.1).not_done:  # a wait without end would not let Ctrl-C through on every platform
            self._tick()
        self._tick()

    def _tick(self) -> None:
        if self._progress is None:
            return
        total = done = 0
        with self._lock:  # a file that is uploaded loses its bytes here
            for name in _listed(self.folder):
                there = self._there.get(name)
                size = there.stamp.size if there else (self.folder / name).stat().st_size
                total += size
                done += size if there else min(self._sent.get(name, 0), size)
        if done != self._told:
            self._told = done
            self._progress("uploading", done, total)

    # --- when it fails ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop uploading: what is on its way is given up at its next part, and not noted in the journal."""
        with self._lock:
            self._closed = True
        self._queue.put(None)

    def undo(self) -> None:
        """Remove what was put, as far as the store lets us."""
        self.close()
        if self._thread is not None:
            self._thread.join()
        if self._done or self._journal is None:
            return
        with suppress(RunError):
            self._remote.delete({*self._there, *self._begun})
            if self._replaces or not self._remote.stamps().keys() & self._own:
                self._remote.delete([UNFINISHED])  # else it says whose the rest is


def _listed(folder: Path) -> set[str]:
    """The files of an output in its staging folder."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def _unfinished(token: str, files: Iterable[str]) -> str:
    note = {"made_by": {"modelwright": version("modelwright")}, "staging": token, "host": platform.node()}
    return json.dumps(note | {"files": sorted(files)}, indent=1, ensure_ascii=False) + "\n"


def _note(text: str) -> dict[str, Any]:
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if is_table(found) else {}


def _files(text: str) -> set[str]:
    """The files that a manifest of ours, or the mark of an unfinished output, names as its own."""
    if not is_ours(text):
        return set()
    files: Any = _note(text).get("files")
    return {*map(str, files), MANIFEST} if is_table(files) or is_list(files) else set()


@contextmanager
def _resumable() -> Generator[None]:
    """A store that fails is one that may work later, so what is done is worth keeping."""
    try:
        yield
    except RunError as error:
        raise RunError(str(error), resumable=True) from error
