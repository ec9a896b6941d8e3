"""Everything that was said, line by line, and backends that say it again without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelwright.chat._messages import Agent, Reply, Request
from modelwright.errors import InputError, RunError

_VERSION = 1


class Transcript:
    """A jsonl file of requests with their replies, added to as they come.

    A line has the version, the request's key, the agent's name, what its backend calls the model, messages, sampling,
    sample index, whether the reply came from the cache, and the reply. Keys of servers are in none of these.

    Args:
        path: The file; what is there already stays.

    Raises:
        InputError: It cannot be written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        try:
            self._file = self.path.open("a+b")
            self._file.seek(0, 2)
            if self._file.tell():
                self._file.seek(-1, 2)
                if self._file.read(1) != b"\n":  # a run was killed while it wrote
                    self._file.write(b"\n")
        except OSError as error:
            raise InputError(f"the transcript cannot be written: {error.strerror}", where=str(path)) from error

    def add(self, agent: Agent, request: Request, reply: Reply, *, cached: bool) -> None:
        """Write a line, at once.

        Raises:
            RunError: The disk is full.
        """
        line = {
            "version": _VERSION,
            "key": request.key(agent.backend.model),
            "agent": agent.name,
            "model": agent.backend.model,
            "cached": cached,
            "request": json.loads(request.text),
            "reply": reply.as_json(),
        }
        try:
            self._file.write(json.dumps(line, ensure_ascii=True).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise RunError(f"the transcript '{self.path}' cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read_transcript(path: str | Path) -> dict[str, Reply]:
    """The replies of a transcript by their requests' keys, the first of each.

    A line that is cut off, by a kill while it was written, is left out.

    Raises:
        InputError: There is no such file, or a line is none of a transcript.
    """
    try:
        lines = Path(path).expanduser().read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"the transcript cannot be read: {error.strerror}", where=str(path)) from error
    found: dict[str, Reply] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            said: Any = json.loads(line)
        except ValueError:
            if not line.endswith(b"}"):
                continue  # cut off
            said = None
        if not isinstance(said, Mapping) or said.get("version") != _VERSION:
            raise InputError(f"not a line of a transcript of version {_VERSION}", "Was it edited?", f"{path}:{number}")
        found.setdefault(str(said["key"]), Reply.from_json(said["reply"]))
    return found
