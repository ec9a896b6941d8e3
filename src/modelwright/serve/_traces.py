"""What happened to requests, for whoever looks later: the last ones, in memory."""

from __future__ import annotations

import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from modelwright.chat import Agent, Outcome, cost

Status = Literal["waiting", "running", "done", "failed", "cancelled"]


@dataclass
class Trace:
    """One request.

    Attributes:
        panel: Which panel was asked.
        question: The last turn.
        turns: How many messages stood before it.
        id: Given back with the answer, in the header `x-request-id`.
        begun: When it came, in seconds since 1970.
        seconds: How long it took, waiting included.
        status: What became of it.
        outcome: What the panel came to; None before it is done.
        error: Why it failed.
        paid: What was spent on it now.
        worth: What it would have cost with no reply in the cache.
    """

    panel: str
    question: str
    turns: int = 0
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    begun: float = field(default_factory=time.time)
    seconds: float = 0.0
    status: Status = "waiting"
    outcome: Outcome | None = None
    error: str = ""
    paid: float = 0.0
    worth: float = 0.0
    _start: float = field(default_factory=time.perf_counter, repr=False)

    def finish(self, outcome: Outcome, agents: Mapping[str, Agent]) -> None:
        """It is answered."""
        costs = [(step.cached, cost(agents[step.agent].price, step.reply)) for step in outcome.steps]
        self.paid = math.fsum(money for cached, money in costs if not cached)
        self.worth = math.fsum(money for _, money in costs)
        self.outcome = outcome
        self.end("done")

    def end(self, status: Status, error: str = "") -> None:
        """It is over."""
        self.status, self.error = status, error
        self.seconds = time.perf_counter() - self._start

    def as_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        outcome = self.outcome
        said: dict[str, Any] = {
            "version": 1, "id": self.id, "panel": self.panel, "question": self.question, "turns": self.turns,
            "status": self.status, "error": self.error, "begun": self.begun, "seconds": self.seconds,
            "paid": self.paid, "worth": self.worth,
        }  # fmt: skip
        if outcome is not None:
            votes = [] if outcome.decision is None else [[str(v), n] for v, n in outcome.decision.counted]
            said |= {
                "answer": _plain(outcome.value),
                "text": outcome.text,
                "votes": votes,
                "notes": list(outcome.notes),
            }
            said["replies"] = [
                {"agent": s.agent, "purpose": s.purpose, "sample": s.sample, "answer": _plain(s.value),
                 "shown": list(s.shown), "cached": s.cached, "seconds": s.seconds, **s.reply.as_json()}
                for s in outcome.steps
            ]  # fmt: skip
        return said


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


class Traces:
    """The last requests.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int):
        self._most = most
        self._kept: OrderedDict[str, Trace] = OrderedDict()

    def add(self, trace: Trace) -> None:
        """Keep one, and let go of the oldest."""
        self._kept[trace.id] = trace
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def get(self, name: str) -> Trace | None:
        """One by its id."""
        return self._kept.get(name)

    def __iter__(self) -> Iterator[Trace]:
        """The newest first."""
        return reversed(self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)
