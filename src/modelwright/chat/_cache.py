"""Replies that were paid for once are not paid for again."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path

from modelwright.chat._messages import Reply
from modelwright.errors import InputError, RunError

#: Of the table's layout; sqlite keeps it as user_version.
_VERSION = 1
#: Seconds that a writer waits for another process's write.
_PATIENCE = 60.0


class Cache:
    """Replies in a sqlite file, by the hash of model, messages, sampling and sample index.

    Each reply is committed when it comes, so that a killed run loses only what was under way. Threads and processes may
    share a file: a reply that two of them got at once is kept as the first wrote it.

    Args:
        path: The file, made where it is missing; None keeps replies in memory.

    Raises:
        InputError: It is a folder, in no folder, or no such cache.
    """

    def __init__(self, path: str | Path | None = None):
        self._lock = threading.Lock()
        self.path = None if path is None else Path(path).expanduser()
        if self.path is not None and (self.path.is_dir() or not self.path.absolute().parent.is_dir()):
            found = "it is a folder" if self.path.is_dir() else f"there is no folder '{self.path.parent}'"
            raise InputError(f"a cache must be a file, and {found}", where=str(path))
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            raise InputError(f"not a cache of replies: {error}", "Name another file.", str(path)) from error

    def _open(self) -> None:
        where = ":memory:" if self.path is None else self.path
        self._file = sqlite3.connect(where, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        self._file.execute(f"PRAGMA busy_timeout={int(_PATIENCE * 1000)}")
        version = self._file.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            self._file.close()
            raise InputError(f"the cache is of version {version}, and this is {_VERSION}", where=str(self.path))
        if not version:
            self._file.execute("PRAGMA journal_mode=WAL")  # readers do not wait for a writer
            self._file.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
            self._file.execute(f"PRAGMA user_version={_VERSION}")
        self._file.execute("PRAGMA synchronous=NORMAL")  # what is committed survives a kill, if not a power cut

    def get(self, key: str) -> Reply | None:
        """The reply of a key, if there is one."""
        with self._lock:
            row = self._file.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else Reply.from_json(json.loads(row[0]))

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; one that is there already stays.

        Raises:
            RunError: The disk is full, or the file cannot be written.
        """
        text = json.dumps(reply.as_json(), ensure_ascii=True)
        try:
            with self._lock:
                self._file.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, text))
        except sqlite3.DatabaseError as error:
            raise RunError(f"the cache '{self.path}' cannot be written: {error}", resumable=True) from error

    def __len__(self) -> int:
        with self._lock:
            return self._file.execute("SELECT COUNT(*) FROM replies").fetchone()[0]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
