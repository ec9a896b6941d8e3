"""Questions, panels and closed forms."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck

from modelwright.chat import (
    DYLAN,
    MOA,
    SELF_CONSISTENCY,
    SELF_MOA_SEQ,
    Agent,
    Outcome,
    Panel,
    ScriptedBackend,
    Session,
    pattern,
    together,
)
from modelwright.evaluate import Sampling

#: For hypothesis: the same examples each time, however busy the machine is.
STEADY = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}
#: Programs that need nothing but agents, and vote or merge.
ENSEMBLES = {program.name: program for program in (SELF_CONSISTENCY, MOA, SELF_MOA_SEQ, DYLAN)}
ANSWER = pattern(r"The answer is (\S+?)\.")


def questions(count: int, options: Sequence[str] = ("yes", "no")) -> dict[str, str]:
    return {f"Question {i}?": options[i % len(options)] for i in range(count)}


def agent(name: str, backend: Any, temperature: float = 0.7, **more: Any) -> Agent:
    return Agent(name, backend, sampling=Sampling(max_tokens=1024, temperature=temperature), **more)


def panel(backends: Mapping[str, Any], program: Any, **params: Any) -> Panel:
    agents = {name: agent(name, backend) for name, backend in backends.items()}
    return Panel("panel", agents, program, program.params(**params), ANSWER)


async def solved(work: Panel, session: Session, asked: Sequence[str], at_once: int = 200) -> list[Outcome]:
    found: list[Outcome] = []
    for start in range(0, len(asked), at_once):
        found += await together([work.solve(session, question) for question in asked[start : start + at_once]])
    await session.settle()
    return found


def solve(work: Panel, asked: Sequence[str], session: Session | None = None) -> list[Outcome]:
    async def go() -> list[Outcome]:
        return await solved(work, session or Session(), asked)

    return asyncio.run(go())


def accuracy(outcomes: Sequence[Outcome], answers: Mapping[str, str]) -> float:
    right = [o.value == a for o, a in zip(outcomes, answers.values(), strict=True)]
    return sum(right) / len(right)


def close(found: float, expected: float, count: int, sigmas: float = 4.0) -> bool:
    """Within four standard errors of a share."""
    return abs(found - expected) <= sigmas * math.sqrt(max(expected * (1 - expected), 1e-12) / count) + 1e-12


def majority(n: int, p: float) -> float:
    """How often most of an odd number of independent voters are right, with two possible answers."""
    assert n % 2
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n // 2 + 1, n + 1))


def majority_of(shares: Sequence[float]) -> float:
    """The same for voters that differ, by all their outcomes."""
    total = 0.0
    for votes in itertools.product((0, 1), repeat=len(shares)):
        if sum(votes) * 2 > len(shares):
            total += math.prod(p if v else 1 - p for p, v in zip(shares, votes, strict=True))
    return total


def plurality_first(n: int, p: float, options: int) -> float:
    """How often a plurality is right where wrong answers are spread evenly and the first of equal ones wins."""
    total = 0.0
    for votes in itertools.product(range(options), repeat=n):
        counts = Counter(votes)
        best = max(counts, key=lambda v: (counts[v], -votes.index(v)))
        if best == 0:
            total += math.prod(p if v == 0 else (1 - p) / (options - 1) for v in votes)
    return total


def script(answers: Mapping[str, str], name: str = "script", **more: Any) -> ScriptedBackend:
    return ScriptedBackend(answers, name, **more)
