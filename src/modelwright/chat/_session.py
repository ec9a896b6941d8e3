"""What stands between programs and backends: cache, ledger, transcript, and one call for equal requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from modelwright.chat._cache import Cache
from modelwright.chat._ledger import Ledger
from modelwright.chat._messages import Agent, Piece, Reply, Request, stream_of
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
        self._flows: dict[str, _Flow] = {}
        self._made: dict[str, asyncio.Task[Any]] = {}
        self._shared: dict[str, Any] = {}

    async def ask(self, agent: Agent, request: Request) -> Reply:
        """The reply to a request, from the cache where it is there.

        Raises:
            BudgetError: It could exceed the budget.
            InputError: The backend cannot answer it, or a transcript that is replayed does not have it.
            RunError: The backend failed.
        """
        return (await self.told(agent, request))[0]

    async def told(
        self, agent: Agent, request: Request, listener: Callable[[str], None] | None = None
    ) -> tuple[Reply, bool]:
        """The reply to a request, as `ask` gives it, and whether it was there already, or on its way for somebody else.

        Args:
            agent: Who is asked.
            request: What is asked.
            listener: Told the pieces of the reply as they come.
        """
        key = request.key(agent.backend.model)
        reply = self._known(key, agent, request)
        if reply is not None:
            return reply, True
        task = self._current(key)
        if listener is not None:
            async for piece in self.stream(agent, request):
                if isinstance(piece, Reply):
                    return piece, task is not None
                listener(piece)
            raise AssertionError("a stream ends with its reply")
        if task is None:
            return await asyncio.shield(self._begin(key, self._call(key, agent, request))), False
        reply = await asyncio.shield(task)
        self.ledger.from_cache(agent)
        return reply, True

    async def stream(self, agent: Agent, request: Request) -> AsyncIterator[Piece]:
        """The reply to a request while it comes: pieces of its text, and at the end the whole reply.

        What is asked by several at one time is one call, and each of them gets all pieces; who comes late, those that were
        there at once. Who stops listening does not end the call. A reply that is there already is one piece.

        Raises:
            BudgetError: It could exceed the budget.
            BrokenOffError: It broke off after some pieces; nothing of it is kept.
            InputError: The backend cannot answer it, or a transcript that is replayed does not have it.
            RunError: The backend failed.
        """
        key = request.key(agent.backend.model)
        reply = self._known(key, agent, request)
        if reply is None:
            task, flow, first = self._current(key), self._flows.get(key), False
            if task is None:
                flow, first = _Flow(), True
                self._flows[key] = flow
                task = self._begin(key, self._call(key, agent, request, flow))
                own = flow
                task.add_done_callback(lambda _done: self._flows.pop(key) if self._flows.get(key) is own else None)
            if flow is not None:
                async for piece in flow.read():
                    yield piece
            reply = await asyncio.shield(task)
            if not first:
                self.ledger.from_cache(agent)
            if flow is not None:
                yield reply
                return
        if reply.text:
            yield reply.text
        yield reply

    async def once(self, key: str, make: Callable[[], Awaitable[T]]) -> T:
        """What a function makes, made once for a key however many ask at a time; a failure is not kept.

        Args:
            key: All that the result depends on.
            make: Makes it.
        """
        task = self._made.get(key)
        if task is None:
            task = asyncio.ensure_future(make())
            self._made[key] = task
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._made.get(key) is task:
                del self._made[key]
            raise

    def kept(self, key: str, make: Callable[[], T]) -> T:
        """Something of this session that programs share and change; made when it is first asked for."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def _known(self, key: str, agent: Agent, request: Request) -> Reply | None:
        """The reply, where it need not be asked for."""
        if self._replayed is not None:
            return self._from_transcript(key, agent)
        reply = self.cache.get(key)
        if reply is not None:
            self.ledger.from_cache(agent)
            self._note(agent, request, reply, cached=True)
        return reply

    def _current(self, key: str) -> asyncio.Task[Reply] | None:
        """The call under way for a key; one that has just failed is none, though its callbacks have yet to run."""
        task = self._under_way.get(key)
        return None if task is None or task.done() else task

    def _begin(self, key: str, call: Coroutine[Any, Any, Reply]) -> asyncio.Task[Reply]:
        task = asyncio.create_task(call)
        self._under_way[key] = task
        task.add_done_callback(lambda done: self._under_way.pop(key) if self._under_way.get(key) is done else None)
        return task

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

    async def _call(self, key: str, agent: Agent, request: Request, flow: _Flow | None = None) -> Reply:
        try:
            async with self.ledger.call(agent, request) as replies:
                reply = await (agent.backend.ask(request) if flow is None else flow.take(agent, request))
                replies.append(reply)
                self.cache.put(key, reply)
        finally:
            if flow is not None:
                flow.end()
        self._note(agent, request, reply, cached=False)
        return reply

    def _note(self, agent: Agent, request: Request, reply: Reply, *, cached: bool) -> None:
        if self._transcript is not None:
            self._transcript.add(agent, request, reply, cached=cached)

    async def settle(self) -> None:
        """Wait for calls that are under way, whoever waits for them; their failures are theirs."""
        while pending := [*self._under_way.values(), *(task for task in self._made.values() if not task.done())]:
            await asyncio.gather(*pending, return_exceptions=True)
            await asyncio.sleep(0)  # callbacks run

    async def close(self) -> None:
        """Wait for what is under way, and let go of files."""
        await self.settle()
        self.cache.close()
        if self._transcript is not None:
            self._transcript.close()


class _Flow:
    """The pieces of one reply, for as many readers as there are."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._ended = False
        self._news = asyncio.Event()

    async def take(self, agent: Agent, request: Request) -> Reply:
        """Hand on what a backend says; its reply."""
        reply: Reply | None = None
        async for piece in stream_of(agent.backend, request):
            if isinstance(piece, Reply):
                reply = piece
            elif piece:
                self._pieces.append(piece)
                self._wake()
        assert reply is not None, "a stream ends with its reply"
        return reply

    def end(self) -> None:
        """No more comes."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def read(self) -> AsyncIterator[str]:
        """All pieces from the first, until there are no more."""
        seen = 0
        while True:
            news = self._news
            while seen < len(self._pieces):
                yield self._pieces[seen]
                seen += 1
            if self._ended:
                return
            if news is self._news:  # nothing came while the reader was busy
                await news.wait()


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
