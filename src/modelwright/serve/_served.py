"""Panels at work for many clients: a bounded queue before them, one session for each, and what became of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelwright.chat import Cache, Ledger, Message, Outcome, Panel, Session, Spent, Transcript
from modelwright.errors import InputError, did_you_mean
from modelwright.serve._predicting import Predicting
from modelwright.serve._traces import Trace, Traces


class FullError(Exception):
    """As many requests wait as may."""


class ClosedError(Exception):
    """The server is going down, and takes no more requests."""


class Served:
    """Panels by name.

    Args:
        panels: With different names.
        predicting: Systems that answer about inputs, by name; their names are not those of panels.
        concurrency: Most requests that are answered at a time, of all panels.
        queue: Most that wait beside them; one more is refused.
        quorum: Fewest replies that a program goes on with when backends fail; None leaves it to the panels.
        budget: Most money of each panel while it is served; None is what each says.
        transcript: A file that all is written down in.
        keep: How many requests are kept to be looked at.

    Raises:
        InputError: There are no panels, two have one name, a number is out of its range, or a program knows no quorum.
    """

    def __init__(
        self,
        panels: Sequence[Panel],
        *,
        concurrency: int = 64,
        queue: int = 256,
        quorum: int | None = None,
        budget: float | None = None,
        transcript: Path | None = None,
        keep: int = 200,
        predicting: Mapping[str, Predicting] | None = None,
    ):
        for name, value, least in (("concurrency", concurrency, 1), ("queue", queue, 0), ("keep", keep, 0)):
            if value < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        self.predicting = dict(predicting or {})
        names = [*(panel.name for panel in panels), *self.predicting]
        twice = [name for name in names if names.count(name) > 1]
        if not names or twice:
            found = f"two are called '{twice[0]}'" if twice else "there is none"
            raise InputError(f"a server needs panels with different names, and {found}", "Write NAME=PANEL.yml.")
        self.panels: Mapping[str, Panel] = {
            panel.name: panel if quorum is None else with_quorum(panel, quorum) for panel in panels
        }
        self.traces = Traces(keep)
        self.waiting = self.running = self.refused = 0
        self.ended: Callable[[Trace], None] = lambda _trace: None
        self._most, self._queue = concurrency, queue
        self._places = asyncio.Semaphore(concurrency)
        self._closing = False
        written = None if transcript is None else Transcript(transcript)
        self._sessions = {
            name: Session(Cache(panel.cache), Ledger(panel.budget if budget is None else budget), written)
            for name, panel in self.panels.items()
        }

    def panel(self, name: str) -> Panel:
        """One panel.

        Raises:
            InputError: There is none of that name.
        """
        if name not in self.panels:
            raise InputError(f"there is no model '{name}'", did_you_mean(name, self.panels))
        return self.panels[name]

    @property
    def open(self) -> bool:
        """Whether requests are taken."""
        return not self._closing

    def spent(self) -> dict[tuple[str, str], Spent]:
        """What the calls of each agent came to, by panel and agent."""
        return {(p, a): spent for p, session in self._sessions.items() for a, spent in session.ledger.agents.items()}

    async def answer(
        self, trace: Trace, before: Sequence[Message], listener: Callable[[str], None] | None = None
    ) -> Outcome:
        """What the trace's panel says to its question.

        When the wait is given up, calls under way go on, so that what is paid for reaches the cache.

        Raises:
            FullError: Too many wait.
            ClosedError: No more are taken.
            BudgetError: The budget is spent.
            InputError: A backend refuses.
            RunError: A backend fails.
        """
        panel = self.panels[trace.panel]
        try:
            async with self._place():
                trace.status = "running"
                outcome = await panel.solve(self._sessions[trace.panel], trace.question, before, listener)
            trace.finish(outcome, panel.agents)
        except asyncio.CancelledError:
            trace.end("cancelled", "the client went away")
            raise
        except BaseException as error:
            trace.end("failed", str(error))
            raise
        finally:
            self.ended(trace)
        return outcome

    async def predict(self, name: str, inputs: Any) -> dict[str, Any]:
        """What a system says of inputs.

        Raises:
            FullError: Too many wait.
            ClosedError: No more are taken.
            InputError: There is no such system, or inputs do not fit it.
            RunError: It gave answers that are none.
        """
        if name not in self.predicting:
            raise InputError(f"there is no model '{name}' that predicts", did_you_mean(name, self.predicting))
        async with self._place():
            return await self.predicting[name].answer(inputs)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._closing:
            raise ClosedError("the server is going down")
        if self.running + self.waiting >= self._most + self._queue:
            self.refused += 1
            raise FullError(
                f"{self.running} requests are being answered and {self.waiting} wait, which is all that may"
            )
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._places.release()

    def stop(self) -> None:
        """Take no more requests; those that came go on."""
        self._closing = True

    async def close(self) -> None:
        """Wait for calls under way, so that no reply is lost that was paid for, and let go of everything."""
        self.stop()
        for session in self._sessions.values():
            await session.close()
        backends = {
            id(agent.backend): agent.backend for panel in self.panels.values() for agent in panel.agents.values()
        }
        for backend in backends.values():
            await backend.close()


def with_quorum(panel: Panel, quorum: int) -> Panel:
    """The panel with the fewest replies that its program goes on with when backends fail.

    Raises:
        InputError: Its program knows no quorum, or never has so many replies.
    """
    assert panel.params is not None
    if "quorum" not in type(panel.params).model_fields:
        raise InputError(
            f"the program '{panel.program.name}' of the panel '{panel.name}' knows no quorum", "Leave it out."
        )
    most = sum(count for _, count in panel.params.asked(list(panel.agents)))
    if not 1 <= quorum <= most:
        raise InputError(f"quorum must be in [1, {most}], the replies of '{panel.name}', got {quorum}")
    said = {**panel.said, "params": {**panel.params.model_dump(), "quorum": quorum}}
    return replace(panel, params=panel.params.model_copy(update={"quorum": quorum}), said=said)
