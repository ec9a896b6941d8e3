"""One question and all that is said about it."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from modelwright.chat._combine import Decision, chosen, plurality, verified, weighted
from modelwright.chat._equality import Same, exact
from modelwright.chat._forms import blocks, read_ranks, read_verdict, render
from modelwright.chat._materials import Materials
from modelwright.chat._messages import Agent, Message, Reply, user, with_system
from modelwright.chat._parsers import Parser, text as whole_text
from modelwright.chat._session import Session
from modelwright.errors import RunError

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One reply.

    Attributes:
        agent: Whose.
        purpose: What it was asked for: `answer`, `revise`, `merge`, `select`, `rank`, `verify`, or another word of a program.
        sample: Which of several to the same messages.
        reply: What was said.
        value: The answer in it; None where it has none, or was not asked for one.
    """

    agent: str
    purpose: str
    sample: int
    reply: Reply
    value: Any = None


@dataclass(frozen=True)
class Outcome:
    """What a program came to.

    Attributes:
        text: The reply that stands for it; empty where it has no answer.
        value: The answer; None where it has none.
        steps: All replies that were asked for, in the order of asking.
        decision: The vote, where there was one.
        facts: What else the program found, such as agents' importance.
        notes: What a reader should know, such as that a judge's reply could not be read.
    """

    text: str
    value: Any
    steps: tuple[Step, ...]
    decision: Decision | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def calls(self) -> int:
        """Replies, those from the cache among them."""
        return len(self.steps)

    @property
    def tokens_in(self) -> int:
        """Tokens read, for all replies."""
        return sum(step.reply.tokens_in for step in self.steps)

    @property
    def tokens_out(self) -> int:
        """Tokens written, in all replies."""
        return sum(step.reply.tokens_out for step in self.steps)


class Talk:
    """Asks agents about one question, and remembers what they said.

    Args:
        session: What asks.
        question: As it was put.
        agents: Who can be asked, by name.
        parser: How answers are asked for, and read.
        same: When two answers are the same.
        materials: What programs may work with beside agents.
    """

    def __init__(
        self,
        session: Session,
        question: str,
        agents: Mapping[str, Agent],
        parser: Parser | None = None,
        same: Same = exact,
        materials: Materials | None = None,
    ):
        self.question, self.agents, self.same = question, agents, same
        self.parser = parser or whole_text()
        self.materials = materials or Materials()
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}
        self._session = session
        self._steps: list[Step | None] = []

    @property
    def asked(self) -> str:
        """The question with the form that answers should have."""
        return f"{self.question}\n\n{self.parser.form}" if self.parser.form else self.question

    def about(self, question: str) -> Talk:
        """The same talk about another question: what is said there is part of this one."""
        other = Talk(self._session, question, self.agents, self.parser, self.same, self.materials)
        other.notes, other.facts, other._steps = self.notes, self.facts, self._steps
        return other

    async def once(self, what: str, make: Callable[[Talk], Awaitable[T]]) -> T:
        """What is prepared for all questions of a session, once; what it took stands in the facts, and not among the steps.

        Args:
            what: Its name, with all parameters that it depends on.
            make: Makes it, in a talk of its own.
        """

        async def go() -> tuple[T, Outcome]:
            inner = Talk(self._session, "", self.agents, self.parser, self.same, self.materials)
            made = await make(inner)
            return made, inner.outcome("", None)

        agents = {name: agent.identity for name, agent in self.agents.items()}
        key = json.dumps([what, agents, self.parser.name, self.parser.form, self.materials.fingerprint])
        made, took = await self._session.once(key, go)
        self.facts["preparation"] = {
            "calls": took.calls, "tokens_in": took.tokens_in, "tokens_out": took.tokens_out, **took.facts,
        }  # fmt: skip
        self.notes += took.notes
        return made

    def kept(self, what: str, make: Callable[[], T]) -> T:
        """Something that all questions of a session share and may change, such as a store of what was learned."""
        return self._session.kept(what, make)

    async def ask(
        self,
        agent: str,
        messages: Sequence[Message],
        purpose: str,
        sample: int = 0,
        temperature: float | None = None,
        *,
        reads: bool = True,
        options: Sequence[str] = (),
    ) -> Step:
        """One agent's reply to a conversation; its answer is read unless it judges.

        Args:
            agent: Who.
            messages: What is asked.
            purpose: What for.
            sample: Which of several replies to the same messages.
            temperature: Instead of the agent's own.
            reads: Whether the reply has an answer to the question.
            options: Replies to be scored instead of writing one.

        Raises:
            BudgetError: It could exceed the budget.
            RunError: The backend failed.
        """
        place = len(self._steps)
        self._steps.append(None)
        whom = self.agents[agent]
        reply = await self._session.ask(whom, whom.request(messages, sample, temperature, options))
        value = self.parser(reply.text) if reads and purpose not in ("select", "rank", "verify") else None
        step = Step(agent, purpose, sample, reply, value)
        self._steps[place] = step
        return step

    async def answer(self, agent: str, sample: int = 0) -> Step:
        """An agent's own answer."""
        return await self.ask(agent, user(self.asked), "answer", sample)

    async def merge(self, judge: str, texts: Sequence[str], sample: int = 0, temperature: float | None = None) -> Step:
        """A new reply, made from others: they go into the system message, and the question stays as it is."""
        shown = render("merge", replies=blocks(texts))
        return await self.ask(judge, with_system(user(self.asked), shown), "merge", sample, temperature)

    async def order(self, judge: str, texts: Sequence[str], best: int, purpose: str = "rank") -> list[int] | None:
        """A judge's ranking of replies, as positions, best first; None where it cannot be read."""
        words = {"question": self.asked, "count": len(texts), "replies": blocks(texts)}
        text = render(purpose, **words) if purpose == "select" else render(purpose, best=best, **words)
        step = await self.ask(judge, user(text), purpose)
        ranks = read_ranks(step.reply.text, len(texts))
        if ranks is None:
            self.notes.append(f"'{judge}' was to {purpose} and named no reply")
        return ranks

    async def accepts(self, judge: str, text: str, sample: int = 0) -> bool | None:
        """Whether a judge takes a reply for right; None where that cannot be read."""
        asked = render("verify", question=self.asked, replies=blocks([text]))
        verdict = read_verdict((await self.ask(judge, user(asked), "verify", sample)).reply.text)
        if verdict is None:
            self.notes.append(f"'{judge}' was to verify and gave no verdict")
        return verdict

    async def decide(self, steps: Sequence[Step], combine: str, judge: str, ties: Any = "first") -> Outcome:
        """One answer from several replies, by a combiner's name.

        Raises:
            RunError: Replies are to vote by their probability and came without.
        """
        texts, answers = [s.reply.text for s in steps], [s.value for s in steps]
        vote = plurality(answers, same=self.same, ties=ties, key=self.question)
        match combine:
            case "plurality":
                decision = vote
            case "probability" | "normalised_probability":
                weights = [_probability(step, mean=combine != "probability") for step in steps]
                decision = weighted(answers, weights, same=self.same, ties=ties, key=self.question)
            case "merge":
                step = await self.merge(judge, texts)
                return self.outcome(step.reply.text, step.value, vote)
            case "verify":
                decision = await self._first_accepted(judge, texts, answers) or vote
            case _:
                ranks = await self.order(judge, texts, 1, combine) if len(texts) > 1 else [0]
                found = chosen(answers, ranks or [])
                decision = found if found.index is not None else vote
        return self.outcome("" if decision.index is None else texts[decision.index], decision.value, decision)

    async def _first_accepted(self, judge: str, texts: Sequence[str], answers: Sequence[Any]) -> Decision | None:
        verdicts: list[bool | None] = []
        for text, answer in zip(texts, answers, strict=True):
            verdicts.append(None if answer is None else await self.accepts(judge, text))
            if verdicts[-1]:
                return verified(answers, verdicts)
        self.notes.append(f"'{judge}' accepted no reply, so they voted")
        return None

    def outcome(
        self, text: str, value: Any, decision: Decision | None = None, facts: Mapping[str, Any] | None = None
    ) -> Outcome:
        """What it came to, with all that was said."""
        steps = tuple(step for step in self._steps if step is not None)
        return Outcome(text, value, steps, decision, {**self.facts, **(facts or {})}, tuple(self.notes))


def _probability(step: Step, *, mean: bool) -> float:
    values = step.reply.logprobs
    if values is None:
        raise RunError(f"'{step.agent}' gave no log-probabilities, and its replies are to vote by them")
    total = math.fsum(values)
    return math.exp(total / len(values) if mean and values else total)
