"""Panels as systems under test."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from modelwright.chat._cache import Cache
from modelwright.chat._ledger import Ledger, cost
from modelwright.chat._panel import Panel
from modelwright.chat._session import Session, together
from modelwright.chat._talk import Outcome
from modelwright.chat._transcript import Transcript
from modelwright.evaluate import Generated, Predictor, Sampling

T = TypeVar("T")


class Loop:
    """An event loop in a thread of its own, so that panels work in scripts, notebooks and other loops alike."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns or raises; when the wait is interrupted it is cancelled."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Conversations:
    """A panel at work: its session, on a loop of its own. Use it in a `with` block, or close it.

    Args:
        panel: Who answers, and how. Its backends belong to one of these at a time.
        budget: Most money; None is what the panel says.
        cache: File of replies; None is what the panel says.
        transcript: A file that all is written down in.
        replay: A transcript that answers instead of the backends.

    Raises:
        InputError: A file cannot be read or written, or the budget is negative.

    Example:
        >>> from modelwright.chat import Agent, Conversations, Panel, ScriptedBackend
        >>> agent = Agent("one", ScriptedBackend({"2 + 2?": "4"}))
        >>> with Conversations(Panel("sums", {"one": agent})) as work:
        ...     work.solve(["2 + 2?"])[0].value
        'The answer is 4.'
    """

    def __init__(
        self,
        panel: Panel,
        budget: float | None = None,
        cache: str | Path | None = None,
        transcript: str | Path | None = None,
        replay: str | Path | None = None,
    ):
        self.panel = panel
        ledger = Ledger(panel.budget if budget is None else budget)
        kept = Cache(panel.cache if cache is None else cache) if replay is None else None
        written = None if transcript is None else Transcript(transcript)
        self.session = Session(kept, ledger, written, replay)
        self._loop = Loop()

    def solve(self, questions: Sequence[str]) -> list[Outcome]:
        """What the panel says to questions, asked together.

        When one fails, calls under way are waited for, so that what they cost is not spent again.

        Raises:
            BudgetError: The next call could exceed the budget.
            InputError: A backend refuses.
            RunError: A backend fails.
        """
        return self._loop.run(self._solve(questions))

    def spent(self) -> str:
        """What was spent so far, for progress."""
        ledger = self.session.ledger
        of = "" if ledger.budget is None else f" of {ledger.budget:g}"
        return f"{ledger.total.money:.4g}{of} spent"

    async def _solve(self, questions: Sequence[str]) -> list[Outcome]:
        try:
            return await together([self.panel.solve(self.session, question) for question in questions])
        except Exception:
            await self.session.settle()
            raise

    def close(self) -> None:
        """Let go of connections, files and the thread."""
        self._loop.run(self._close())
        self._loop.close()

    async def _close(self) -> None:
        await self.session.close()
        for backend in {id(agent.backend): agent.backend for agent in self.panel.agents.values()}.values():
            await backend.close()

    def __enter__(self) -> Conversations:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@dataclass
class PanelPredictor(Predictor):
    """A panel as a system under test: its answers to prompts, with the calls and tokens of all its agents.

    The text is that of the reply which the program chose; empty where it has none. Agents' own sampling holds, and not the
    task's. Calls, tokens and money count replies from the cache too: they are what an answer takes, whoever paid for it
    before. The confidence is the outcome's, such as the answer's share of the votes.

    Attributes:
        work: The panel at work.
    """

    work: Conversations = field(kw_only=True)
    _notes: list[str] = field(default_factory=list, init=False, repr=False)
    _unanswered: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        panel = self.work.panel
        self.fingerprint = self.fingerprint or panel.fingerprint
        kind = "ensemble" if panel.calls[1] > 1 else "single"
        self.made = {"kind": kind, "panel": dict(panel.said), "agents": list(panel.agents), **self.made}

    def texts(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Generated]:
        """The panel's answers, in the order of the prompts.

        Raises:
            BudgetError: The next call could exceed the budget.
            InputError: A backend refuses.
            RunError: A backend fails.
        """
        found = self.work.solve(prompts)
        self._notes += [note for outcome in found for note in outcome.notes]
        self._unanswered += sum(outcome.value is None for outcome in found)
        return [self._generated(outcome) for outcome in found]

    def _generated(self, outcome: Outcome) -> Generated:
        agents = self.work.panel.agents
        prices = {name: agent.price for name, agent in agents.items()}
        priced = any(any(vars(price).values()) for price in prices.values())
        money = math.fsum(cost(prices[step.agent], step.reply) for step in outcome.steps) if priced else None
        return Generated(
            outcome.text,
            outcome.tokens_in,
            outcome.tokens_out,
            outcome.calls,
            money=money,
            confidence=outcome.confidence,
        )

    def remarks(self) -> list[str]:
        """What was spent, and what a reader of the figures should know."""
        spent = self.work.session.ledger.total
        texts = [
            f"'{self.label}': {spent.calls:,} calls and {spent.cached:,} replies from the cache, "
            f"{spent.tokens_in:,} tokens read and {spent.tokens_out:,} written, {spent.money:.4g} spent"
        ]
        if self._unanswered:
            texts.append(f"'{self.label}': {self._unanswered:,} questions without an answer that could be read")
        if self._notes:
            texts.append(f"'{self.label}': {len(self._notes):,} remarks, the first: {self._notes[0]}")
        return texts


def panel_predictor(panel: Panel, label: str | None = None, **options: Any) -> PanelPredictor:
    """A panel as a system that `mw.eval` can ask.

    Args:
        panel: Who answers, and how.
        label: How tables call it; default the panel's name.
        options: Of `Conversations`: budget, cache, transcript, replay.
    """
    return PanelPredictor(label or panel.name, work=Conversations(panel, **options))
