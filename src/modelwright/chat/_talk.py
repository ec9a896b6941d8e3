"""One question and all that is said about it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from modelwright.chat._combine import Decision, chosen, plurality, verified, weighted
from modelwright.chat._equality import Same, exact
from modelwright.chat._forms import blocks, read_ranks, read_verdict, render, unmarked
from modelwright.chat._materials import Materials
from modelwright.chat._messages import Agent, Message, Reply, user, with_system
from modelwright.chat._parsers import Parser, text as whole_text
from modelwright.chat._session import Session
from modelwright.errors import InputError, RunError

T = TypeVar("T")

#: Purposes whose replies judge others, and hold no answer of their own.
_JUDGING = ("select", "rank", "verify", "score")

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
        shown: Which earlier replies stood in what it was asked, as positions in the outcome's steps.
        cached: Whether the reply was there already, so that nothing was paid for it.
        seconds: How long it took.
    """

    agent: str
    purpose: str
    sample: int
    reply: Reply
    value: Any = None
    shown: tuple[int, ...] = field(default=(), compare=False)
    cached: bool = field(default=False, compare=False)
    seconds: float = field(default=0.0, compare=False)


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
    def confidence(self) -> float | None:
        """How sure the program is of its answer, in [0, 1].

        It is what the program says itself (`facts["confidence"]`), else the answer's share of all votes, abstentions among
        them, where several could vote; None where neither is known. Where a vote was stopped early, replies that were not
        asked for (`facts["unasked"]`) count as votes for something else: that is the share which a full vote would give
        it at least. Of the replies that were asked for, the winner's share is high because it was the winner's that ended
        the vote. As the bound hardly tells one settled vote from another, calibration wants full votes.
        """
        told = self.facts.get("confidence")
        if told is not None:
            return float(told)
        votes = self.decision
        if votes is None or not votes.voters:
            return None
        all_votes = votes.voters + self.facts.get("unasked", 0)
        return votes.share * (votes.voters - votes.abstained) / all_votes if all_votes > 1 else None

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
        before: What was said before the question: turns of user and assistant, perhaps a system message first. It stands
            before whatever an agent is asked.
        listener: Told pieces of the answer's text as they are written, where a program ends in one call that writes it
            (`final`); whoever listens gets the whole text in any case, in the outcome.
        materials: What programs may work with beside agents.

    Raises:
        InputError: A system message is not the first of what was said before.
    """

    def __init__(
        self,
        session: Session,
        question: str,
        agents: Mapping[str, Agent],
        parser: Parser | None = None,
        same: Same = exact,
        before: Sequence[Message] = (),
        listener: Callable[[str], None] | None = None,
        materials: Materials | None = None,
    ):
        if any(message.role == "system" for message in before[1:]):
            raise InputError("a system message must be the first of a conversation")
        self.question, self.agents, self.same = question, agents, same
        self._before, self._listener = tuple(before), listener
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
        other = Talk(self._session, question, self.agents, self.parser, self.same, materials=self.materials)
        other.notes, other.facts, other._steps = self.notes, self.facts, self._steps
        return other

    async def once(self, what: str, make: Callable[[Talk], Awaitable[T]]) -> T:
        """What is prepared for all questions of a session, once; what it took stands in the facts, and not among the steps.

        Args:
            what: Its name, with all parameters that it depends on.
            make: Makes it, in a talk of its own.
        """

        async def go() -> tuple[T, Outcome]:
            inner = Talk(self._session, "", self.agents, self.parser, self.same, materials=self.materials)
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
        final: bool = False,
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
            final: Whether the reply is the program's answer, whatever it says: whoever listens is told it as it is written.
            reads: Whether the reply has an answer to the question.
            options: Replies to be scored instead of writing one.

        Raises:
            BudgetError: It could exceed the budget.
            RunError: The backend failed.
        """
        place = len(self._steps)
        self._steps.append(None)
        whom = self.agents[agent]
        shown = self._shown(messages)
        start = time.perf_counter()
        request = whom.request(self._after(messages), sample, temperature, options)
        reply, cached = await self._session.told(whom, request, self._listener if final else None)
        value = self.parser(reply.text) if reads and purpose not in _JUDGING else None
        step = Step(agent, purpose, sample, reply, value, shown, cached, time.perf_counter() - start)
        self._steps[place] = step
        return step

    def _after(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with what was said before them; their system message joins the conversation's own."""
        if not self._before:
            return list(messages)
        first = messages[0].role == "system"
        return with_system([*self._before, *messages[first:]], messages[0].content if first else "")

    def _shown(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Which replies stand in messages: as blocks, or as whole lines."""
        sent = "".join(f"\n{message.content}\n" for message in messages)
        return tuple(
            place
            for place, step in enumerate(self._steps)
            if step is not None and step.reply.text and f"\n{unmarked(step.reply.text)}\n" in sent
        )

    async def answer(self, agent: str, sample: int = 0, *, final: bool = False) -> Step:
        """An agent's own answer."""
        return await self.ask(agent, user(self.asked), "answer", sample, final=final)

    async def merge(
        self,
        judge: str,
        texts: Sequence[str],
        sample: int = 0,
        temperature: float | None = None,
        *,
        final: bool = False,
    ) -> Step:
        """A new reply, made from others: they go into the system message, and the question stays as it is."""
        shown = render("merge", replies=blocks(texts))
        return await self.ask(judge, with_system(user(self.asked), shown), "merge", sample, temperature, final=final)

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
                weights = [probability(step, mean=combine != "probability") for step in steps]
                decision = weighted(answers, weights, same=self.same, ties=ties, key=self.question)
            case "merge":
                step = await self.merge(judge, texts, final=True)
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
        places = [place for place, step in enumerate(self._steps) if step is not None]
        order = {place: i for i, place in enumerate(places)}
        steps = tuple(
            replace(step, shown=tuple(order[j] for j in step.shown)) for step in self._steps if step is not None
        )
        return Outcome(text, value, steps, decision, {**self.facts, **(facts or {})}, tuple(self.notes))


def probability(step: Step, *, mean: bool) -> float:
    """The probability of a reply; with `mean` the geometric mean of its tokens' probabilities.

    Raises:
        RunError: It came without log-probabilities.
    """
    values = step.reply.logprobs
    if values is None:
        raise RunError(f"'{step.agent}' gave no log-probabilities, and its replies are to vote by them")
    total = math.fsum(values)
    return math.exp(total / len(values) if mean and values else total)
