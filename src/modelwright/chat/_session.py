"""What stands between programs and backends: cache, ledger, transcript, and one call for equal requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from modelwright.chat._cache import Cache
from modelwright.chat._ledger import Ledger
from modelwright.chat._messages import Agent, Reply, Request
from modelwright.chat._transcript import Transcript, read_transcript
from modelwright.errors import InputError

T = TypeVar("T")


class Session:
    """Ask agents; no request is paid for twice.

    Equal requests that are under way at one time share a call. A call goes on when the program that waits for it gives up,
    so that what is paid for reaches the cache; `settle` waits for those.

    Args:
        cache: Where replies are kept; None keeps them in memory, for this session.
        ledger: What counts calls and holds the budget; None counts without a budget.
        transcript: Where all is written down.
        replay: A transcript that answers instead of the backends; what is not in it is refused.
    """

    def __init__(
        self,
        cache: Cache | None = None,
        ledger: Ledger | None = None,
        transcript: Transcript | None = None,
        replay: str | Path | None = None,
    ):
        self.cache = Cache() if cache is None else cache
        self.ledger = Ledger() if ledger is None else ledger
        self._transcript = transcript
        self._replayed: Mapping[str, Reply] | None = None if replay is None else read_transcript(replay)
        self._replay = replay
        self._under_way: dict[str, asyncio.Task[Reply]] = {}

    async def ask(self, agent: Agent, request: Request) -> Reply:
        """The reply to a request, from the cache where it is there.

        Raises:
            BudgetError: It could exceed the budget.
            InputError: The backend cannot answer it, or a transcript that is replayed does not have it.
            RunError: The backend failed.
        """
        return (await self.told(agent, request))[0]

    async def told(self, agent: Agent, request: Request) -> tuple[Reply, bool]:
        """The reply to a request, as `ask` gives it, and whether it was there already, or on its way for somebody else."""
        key = request.key(agent.backend.model)
        if self._replayed is not None:
            return self._from_transcript(key, agent), True
        reply = self.cache.get(key)
        if reply is not None:
            self.ledger.from_cache(agent)
            self._note(agent, request, reply, cached=True)
            return reply, True
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._call(key, agent, request))
            self._under_way[key] = task
            task.add_done_callback(lambda _done: self._under_way.pop(key, None))
            return await asyncio.shield(task), False
        reply = await asyncio.shield(task)
        self.ledger.from_cache(agent)
        return reply, True

    def _from_transcript(self, key: str, agent: Agent) -> Reply:
        assert self._replayed is not None
        reply = self._replayed.get(key)
        if reply is None:
            raise InputError(
                f"the transcript does not have what is asked of '{agent.name}'",
                "It is of other questions, or of a panel with other settings.",
                str(self._replay),
            )
        self.ledger.from_cache(agent)
        return reply

    async def _call(self, key: str, agent: Agent, request: Request) -> Reply:
        async with self.ledger.call(agent, request) as replies:
            reply = await agent.backend.ask(request)
            replies.append(reply)
            self.cache.put(key, reply)
        self._note(agent, request, reply, cached=False)
        return reply

    def _note(self, agent: Agent, request: Request, reply: Reply, *, cached: bool) -> None:
        if self._transcript is not None:
            self._transcript.add(agent, request, reply, cached=cached)

    async def settle(self) -> None:
        """Wait for calls that are under way, whoever waits for them; their failures are theirs."""
        while self._under_way:
            await asyncio.gather(*self._under_way.values(), return_exceptions=True)
            await asyncio.sleep(0)  # callbacks run

    async def close(self) -> None:
        """Wait for what is under way, and let go of files."""
        await self.settle()
        self.cache.close()
        if self._transcript is not None:
            self._transcript.close()


async def together(waited: Sequence[Awaitable[T]]) -> list[T]:
    """The results of all, in their order; the first failure cancels the others and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in waited]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(BaseException):
                await task
        raise
