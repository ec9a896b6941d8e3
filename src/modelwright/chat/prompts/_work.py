"""What techniques are made of: a formula for their calls, one agent at work, and readers of what it was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field

from modelwright.chat._combine import plurality
from modelwright.chat._forms import render
from modelwright.chat._materials import Demonstration
from modelwright.chat._messages import user, with_system
from modelwright.chat._programs import Count as Count, ProgramParams, known
from modelwright.chat._retrieval import Passage
from modelwright.chat._session import together
from modelwright.chat._talk import Outcome, Step, Talk
from modelwright.chat._tools import Call, arithmetic, read_call

T = TypeVar("T")
Temperature = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Formula:
    """Fewest and most calls as arithmetic in the parameters' names, so that help, tables and checks say the same.

    Attributes:
        least: An expression; lists stand for their lengths, and `pool` for the number of demonstrations.
        most: Another; empty is the same.
    """

    least: str
    most: str = ""

    def __call__(self, params: Any, agents: Sequence[str] = (), pool: int = 0) -> tuple[int, int]:
        """The two numbers."""
        said = {name: getattr(params, name) for name in type(params).model_fields}
        names = {
            name: len(v) if isinstance(v, list) else v for name, v in said.items() if isinstance(v, (int, float, list))
        }
        names = {**names, "agents": len(agents), "pool": pool}
        return int(arithmetic(self.least, names)), int(arithmetic(self.most or self.least, names))

    def __str__(self) -> str:
        return f"{self.least} to {self.most}" if self.most and self.most != self.least else self.least


class TechniqueParams(ProgramParams):
    """What all techniques' parameters have."""

    agent: str = Field("", description="Who is asked; empty is the panel's first agent.")

    def asked(self, agents: Sequence[str]) -> list[tuple[str, int]]:
        """The one agent, for as many samples as the technique draws of one prompt."""
        name = (known([self.agent], agents, "agent") if self.agent else agents)[0]
        return [(name, self.sampled)]

    @property
    def sampled(self) -> int:
        """Most replies to one and the same prompt."""
        return 1


class Work:
    """One agent at work on a question, with templates and materials.

    Args:
        talk: The question, and who can be asked.
        params: Of the technique.
    """

    def __init__(self, talk: Talk, params: TechniqueParams):
        self.talk, self.agent = talk, params.asked(list(talk.agents))[0][0]
        self._params = params

    @property
    def materials(self) -> Any:
        """What there is to work with."""
        return self.talk.materials

    def about(self, question: str) -> Work:
        """The same work on another question."""
        return Work(self.talk.about(question), self._params)

    async def ask(
        self,
        template: str,
        purpose: str,
        sample: int = 0,
        *,
        reads: bool = False,
        persona: str = "",
        temperature: float | None = None,
        agent: str = "",
        final: bool = False,
        **values: Any,
    ) -> Step:
        """The reply to a template of `templates/prompts/`, which knows the question, its form, and the values."""
        said = {"question": self.talk.question, "asked": self.talk.asked, "form": self.talk.parser.form}
        text = render(f"prompts/{template}", **said, **values)
        messages = with_system(user(text), persona)
        whom = agent or self.agent
        return await self.talk.ask(whom, messages, purpose, sample, temperature, final=final, reads=reads)

    async def say(self, template: str, purpose: str, sample: int = 0, **values: Any) -> str:
        """The text of a reply that holds no answer."""
        return (await self.ask(template, purpose, sample, **values)).reply.text

    async def answer(self, template: str, sample: int = 0, **values: Any) -> Step:
        """A reply that holds an answer."""
        return await self.ask(template, "answer", sample, reads=True, **values)

    async def last(self, template: str, **values: Any) -> Step:
        """The reply that is the answer, whatever it says: whoever listens is told it as it is written."""
        return await self.ask(template, "answer", reads=True, final=True, **values)

    def outcome(self, step: Step, **facts: Any) -> Outcome:
        """What it comes to, when one reply is it."""
        return self.talk.outcome(step.reply.text, step.value, facts=facts)

    def vote(self, steps: Sequence[Step], **facts: Any) -> Outcome:
        """What it comes to, when replies vote."""
        found = plurality([step.value for step in steps], same=self.talk.same, key=self.talk.question)
        text = "" if found.index is None else steps[found.index].reply.text
        return self.talk.outcome(text, found.value, found, facts)

    async def samples(self, template: str, count: int, **values: Any) -> list[Step]:
        """Several answers to one prompt."""
        return await together([self.answer(template, i, **values) for i in range(count)])

    async def prepared(self, name: str, make: Callable[[Work], Awaitable[T]]) -> T:
        """What is prepared once for all questions of a session."""

        async def go(talk: Talk) -> T:
            return await make(Work(talk, self._params))

        return await self.talk.once(json.dumps([name, self._params.model_dump()]), go)

    # Materials

    def example(self, shown: Demonstration, reasoning: str | None = None) -> str:
        """A demonstration as it is shown: the question, how it is found, and the answer in the form that is asked for."""
        why = shown.reasoning if reasoning is None else reasoning
        return f"{shown.question}\n\n{f'{why} ' if why else ''}{self.talk.parser.write(shown.answer)}"

    def examples(self, count: int, *, reasoning: bool = True) -> list[str]:
        """The first demonstrations."""
        chosen = [d for d in self.materials.demonstrations if d.reasoning or not reasoning][:count]
        return [self.example(one, None if reasoning else "") for one in chosen]

    def right(self, value: Any, shown: Demonstration) -> bool:
        """Whether an answer is that of a demonstration."""
        if value is None:
            return False
        expected = self.talk.parser(self.talk.parser.write(shown.answer))
        return bool(self.talk.same(value, shown.answer if expected is None else expected))

    def found(self, query: str, count: int) -> list[Passage]:
        """Passages of the documents."""
        documents = self.materials.documents
        return [] if documents is None else documents.search(query, count)

    async def act(self, call: Call) -> str:
        """What a tool gives, noted among the facts."""
        tools = self.materials.toolbox
        if call.name in tools:
            result = await tools[call.name].call(call.arguments)
        else:
            result = f"error: there is no tool '{call.name}'; there are {', '.join(tools)}"
        said = {"name": call.name, "arguments": dict(call.arguments), "result": result}
        self.talk.facts.setdefault("tools", []).append(said)
        return result

    @property
    def tools(self) -> list[str]:
        """What the tools are, a line each."""
        return [tool.usage for tool in self.materials.toolbox.values()]


# Readers of what was asked for

_ITEM = re.compile(r"^[ \t*#]*(?:step[ \t]*)?(?:\d{1,3}[.):]|[-*\u2022])[ \t*]+(\S.*)$", re.IGNORECASE | re.MULTILINE)
_SCORE = re.compile(r"\[\[\s*(\d{1,3})\s*\]\]")
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)```", re.DOTALL)


def items(text: str, most: int) -> list[str]:
    r"""The items of a numbered or dashed list, up to so many.

    Example:
        >>> items("1. Add.\n2) Halve.", 5)
        ['Add.', 'Halve.']
    """
    return [item.strip() for item in _ITEM.findall(text)][:most]


def score(text: str, top: int = 10) -> int:
    """The last [[n]], at most `top`; 0 where there is none."""
    found = _SCORE.findall(text)
    return min(int(found[-1]), top) if found else 0


def word(text: str, words: Sequence[str]) -> str | None:
    """The last of some words in brackets; None where there is none."""
    found = re.findall(rf"\[\s*({'|'.join(map(re.escape, words))})\s*\]", text, re.IGNORECASE)
    return found[-1].lower() if found else None


def numbers(text: str, count: int) -> list[int]:
    """The numbers of the last [i, j, ..] that are in [1, count], as positions from 0."""
    found = re.findall(r"\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]", text)
    chosen = [int(part) - 1 for part in found[-1].split(",")] if found else []
    return [i for i in dict.fromkeys(chosen) if 0 <= i < count]


def code_of(text: str) -> str:
    """What the last fence holds, or the whole text where there is none."""
    found = _FENCE.findall(text)
    return (found[-1] if found else text).strip("\n")


def until_call(text: str) -> tuple[str, Call | None]:
    """A reply up to its first call, with it, and the call; the whole of it where there is none."""
    lines = text.rstrip().splitlines()
    for i, line in enumerate(lines):
        call = read_call(line)
        if call is not None:
            return "\n".join(lines[: i + 1]), call
    return text, None
