"""Code that a model wrote, run apart from everything: only where the user allows it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from modelwright.errors import InputError, RunError

#: Characters of a program's output that are kept.
_MOST_OUTPUT = 20_000
_MOST_CODE = 100_000


@dataclass(frozen=True)
class Ran:
    """What came of code.

    Attributes:
        output: What it printed; where it printed nothing, what the variable `answer` holds, if there is one.
        error: Why it ended before its end; empty where it did not.
        asks: The call of an undefined function that ended it: name and arguments, as texts. None where there was none.
    """

    output: str
    error: str = ""
    asks: tuple[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Sandbox:
    """Runs Python in a process of its own: within limits of time and memory, without a network, without your files.

    On Linux the process has namespaces of its own for network, processes and users, an empty folder as its whole file system,
    no privileges, no environment variables, and limits on processor time, memory, open files and processes. It is what the
    kernel gives, and no virtual machine: a hole in the kernel is a hole here. Elsewhere there are limits of time and memory
    only, and it refuses to run, unless `network` says that this will do.

    Attributes:
        seconds: Most time.
        memory: Most bytes of address space.
        network: Whether code is run even where its network cannot be cut off.

    Raises:
        InputError: A limit is out of its range.
    """

    seconds: float = 5.0
    memory: int = 512 << 20
    network: bool = False
    _why: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 3600:
            raise InputError(f"code runs for seconds in (0, 3600], got {self.seconds:g}")
        if self.memory < 64 << 20:
            raise InputError(f"Python needs 64 MiB of memory at least, got {self.memory:,} bytes")

    async def run(self, code: str, known: Sequence[Mapping[str, Any]] = (), *, semantic: bool = False) -> Ran:
        """Run code.

        Args:
            code: Python.
            known: Results of earlier calls of undefined functions, in the order of the calls: `{"result": ..}`.
            semantic: Whether a call of an undefined function ends it with `asks`, instead of an error.

        Raises:
            InputError: The network cannot be cut off here.
            RunError: The process cannot be started.
        """
        if len(code) > _MOST_CODE:
            return Ran("", f"the code has more than {_MOST_CODE:,} characters")
        said = await self._talk({"code": code, "known": list(known), "semantic": semantic})
        if "refused" in said:
            raise InputError(
                f"code that a model writes cannot be run here: its network cannot be cut off ({said['refused']})",
                "With --allow-network it is run nevertheless, within limits of time and memory.",
            )
        asks = said.get("asks")
        return Ran(said.get("output", ""), said.get("error", ""), None if asks is None else (asks[0], tuple(asks[1])))

    async def check(self) -> tuple[str, ...]:
        """What keeps code apart here, in words.

        Raises:
            InputError: The network cannot be cut off here.
        """
        await self.run("")
        return tuple(self._why)

    async def _talk(self, job: dict[str, Any]) -> dict[str, Any]:
        job |= {"seconds": self.seconds, "memory": self.memory, "network": self.network, "most": _MOST_OUTPUT}
        runner = (files("modelwright.chat") / "_jail.py").read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory(prefix="mw-code-", ignore_cleanup_errors=True) as empty:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-I", "-S", "-c", runner,
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                    cwd=empty, env={}, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise RunError(f"a process for code cannot be started: {error.strerror}", resumable=True) from error
            try:
                async with asyncio.timeout(self.seconds + 5):  # starting takes time too; the process has its own clock
                    data = await _exchanged(process, json.dumps(job).encode())
            except TimeoutError:
                return {"error": f"it took more than {self.seconds:g} s"}
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        try:
            said = json.loads(data)
            assert isinstance(said, dict)
        except (ValueError, AssertionError):
            return {"error": "it ended without a result: out of memory, time or processes"}
        if "kept" in said:
            self._why[:] = said["kept"]
        return said


async def _exchanged(process: asyncio.subprocess.Process, job: bytes) -> bytes:
    """What the process says to its job, up to so much."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(job)
        await process.stdin.drain()
    process.stdin.close()
    found = b""
    while len(found) < 8 * _MOST_OUTPUT and (data := await process.stdout.read(1 << 16)):
        found += data
    return found
