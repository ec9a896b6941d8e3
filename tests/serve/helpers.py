"""Servers on loopback for tests, and backends that they are made of."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from modelwright.chat import Reply, Request, Step
from modelwright.serve import Address, Served, app


@contextlib.contextmanager
def serving(served: Served, address: Address | None = None) -> Iterator[str]:
    """The URL of a server that runs in a thread until the block ends."""
    import uvicorn

    config = uvicorn.Config(
        app(served, address), host="127.0.0.1", port=0, log_level="error", access_log=False, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class Voice:
    """A backend that says what it is told, counts how often it is asked, and can be stopped half-way."""

    def __init__(self, text: str = "The answer is 4.", name: str = "voice", fails: Exception | None = None):
        self.text, self.model, self.fails = text, f"voice:{name}", fails
        self.requests: list[Request] = []
        self.gate: threading.Event | None = None  # waits after the first piece, or before a whole reply
        self.breaks_after: int | None = None

    async def ask(self, request: Request) -> Reply:
        self.requests.append(request)
        if self.gate is not None:
            await asyncio.to_thread(self.gate.wait, 20)
        if self.fails is not None:
            raise self.fails
        return self._reply()

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        from modelwright.chat import BrokenOffError

        self.requests.append(request)
        if self.fails is not None:
            raise self.fails
        for i, word in enumerate(self.text.split(" ")):
            if self.breaks_after == i:
                raise BrokenOffError("it broke off")
            if i == 1 and self.gate is not None:
                await asyncio.to_thread(self.gate.wait, 20)
            yield word if i == 0 else f" {word}"
        yield self._reply()

    def _reply(self) -> Reply:
        return Reply(self.text, 10, len(self.text.split()))

    async def close(self) -> None:
        """Nothing."""


def step(agent: str, text: str, purpose: str = "answer", value: Any = None, shown: Sequence[int] = ()) -> Step:
    return Step(agent, purpose, 0, Reply(text, 3, 5), value, tuple(shown))
