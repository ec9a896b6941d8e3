"""The question is put in other words, in code, in logic or as a graph, and answered from there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from modelwright.chat._programs import Acquisition, Program, Technique
from modelwright.chat._talk import Outcome, Talk
from modelwright.chat.prompts._work import Count, Formula, TechniqueParams, Work, code_of
from modelwright.errors import InputError


class RephraseParams(TechniqueParams):
    """Parameters of `rephrase_and_respond`."""

    two_step: bool = Field(False, description="Whether rephrasing and answering are two calls.")


class LogicParams(TechniqueParams):
    """Parameters of `logic_of_thought`."""

    derived: Count = Field(20, description="Most derived implications that are put into words.")


class PathParams(TechniqueParams):
    """Parameters of `end_to_end_dag_path`."""

    paths: Count = Field(30, description="Most paths that are written down, the longest first.")


def _restating(first: str, second: str, mark: str, make: Callable[[str], str] = str) -> Callable[[Talk, Any], Any]:
    """A technique whose first reply is shown to the second call."""

    async def run(talk: Talk, params: TechniqueParams) -> Outcome:
        work = Work(talk, params)
        said = make(await work.say(first, mark))
        return work.outcome(await work.last(second, said=said), **{mark: said})

    return run


async def rephrase_and_respond(talk: Talk, params: RephraseParams) -> Outcome:
    """The model says the question in its own words, and answers it.

    Source:
        Deng et al. 2023, arXiv:2311.04205.
    """
    work = Work(talk, params)
    if not params.two_step:
        return work.outcome(await work.last("rephrase_and_respond"))
    said = await work.say("rephrase", "rephrase")
    return work.outcome(await work.last("rephrased", said=said), rephrased=said)


# Logic of thought


@dataclass(frozen=True)
class Rule:
    """An implication between two propositions, each a letter, `~` before it where it is negated."""

    premise: str
    conclusion: str

    def __str__(self) -> str:
        return f"{self.premise} -> {self.conclusion}"


def negated(literal: str) -> str:
    """The opposite; two negations are none."""
    return literal[1:] if literal.startswith("~") else f"~{literal}"


def extended(rules: Sequence[Rule], most: int = 20) -> list[Rule]:
    """What follows by contraposition and transitivity and was not given, in the order of derivation.

    Args:
        rules: Those that were given.
        most: How many are derived at most.

    Example:
        >>> [str(rule) for rule in extended([Rule("A", "B"), Rule("B", "C")])]
        ['~B -> ~A', '~C -> ~B', 'A -> C', '~C -> ~A']
    """
    known = list(dict.fromkeys(rules))
    given = len(known)
    new = known
    while new and len(known) - given < most:
        turned = [Rule(negated(rule.conclusion), negated(rule.premise)) for rule in new]
        joined = [
            Rule(first.premise, second.conclusion)
            for pair in ((a, b) for a in known for b in new)
            for first, second in (pair, pair[::-1])
            if first.conclusion == second.premise and first.premise != second.conclusion
        ]
        new = [rule for rule in dict.fromkeys([*turned, *joined]) if rule not in known]
        known += new
    return known[given : given + most]


_PROPOSITION = re.compile(r"^\W*([A-Z])\s*[:=]\s*(\S.*)$", re.MULTILINE)
_IMPLIES = re.compile(
    r"((?:not|~|\u00ac|!)?\s*\b[A-Z])\b\s*(?:->|=>|\u2192|\u21d2)\s*((?:not|~|\u00ac|!)?\s*\b[A-Z]\b)"
)


def read_logic(text: str) -> tuple[dict[str, str], list[Rule]]:
    """Propositions by their letters, and implications between those."""
    propositions = dict(_PROPOSITION.findall(text))
    pairs = [(_literal(a), _literal(b)) for a, b in _IMPLIES.findall(text)]
    return propositions, [Rule(a, b) for a, b in pairs if a[-1] in propositions and b[-1] in propositions and a != b]


def _literal(text: str) -> str:
    return f"~{text[-1]}" if len(text.strip()) > 1 else text.strip()


async def logic_of_thought(talk: Talk, params: LogicParams) -> Outcome:
    """Propositions and implications are extracted, extended by the laws of logic, and added to the question in words.

    Source:
        Liu et al. 2024, arXiv:2409.17539.
    """
    work = Work(talk, params)
    propositions, rules = read_logic(await work.say("logic_extract", "extract"))
    derived = extended(rules, params.derived)
    if not derived:
        talk.notes.append("logic_of_thought: nothing could be derived")
        return work.outcome(await work.last("zero_shot"), derived=[])
    lines = [f"{letter}: {meaning}" for letter, meaning in propositions.items()]
    told = await work.say("logic_translate", "translate", propositions=lines, rules=[str(rule) for rule in derived])
    return work.outcome(await work.last("logic_answer", said=told), derived=[str(rule) for rule in derived])


# Narratives


_EVENT = re.compile(r"^[ \t]*[-*\u2022][ \t]+(\S.*)$", re.MULTILINE)


def as_class(events: Sequence[str]) -> str:
    """Events as attributes of a Python class."""
    lines = [f"        self.event_{i} = {event!r}" for i, event in enumerate(events, 1)]
    return "\n".join(["class Scenario:", "    def __init__(self):", *lines])


async def narrative_of_thought(talk: Talk, params: TechniqueParams) -> Outcome:
    """Events become a class, the model tells a story of them in their order, and answers from the story.

    Raises:
        InputError: The question has no list of events.

    Source:
        Zhang et al. 2024, arXiv:2410.05558.
    """
    events = _EVENT.findall(talk.question)
    if len(events) < 2:
        raise InputError(
            "narrative_of_thought needs events in the question", "List them in lines that begin with a dash."
        )
    work = Work(talk, params)
    written = as_class(events)
    story = await work.say("narrative_story", "story", code=written)
    return work.outcome(await work.last("narrative_answer", code=written, story=story), story=story)


# Graphs

_EDGE = re.compile(r"(?<![\w-])(\w+)\s*(<?->?|<?-->?|\u2192|\u2014)\s*(\w+)(?![\w-])")


@dataclass
class Graph:
    """Nodes and edges, in the order that they are named.

    Attributes:
        edges: From, to.
        directed: Whether each goes one way.
    """

    edges: list[tuple[str, str]] = field(default_factory=list)
    directed: bool = False

    @classmethod
    def read(cls, text: str) -> Graph:
        """The edges that a text names, as `A -> B` or `A -- B`; `A - B` is one too."""
        found = [(a, b) for a, _, b in _EDGE.findall(text) if a != b]
        return cls(
            list(dict.fromkeys(found)), any(">" in mark or mark == "\u2192" for _, mark, _ in _EDGE.findall(text))
        )

    @property
    def neighbours(self) -> dict[str, list[str]]:
        """Of each node, those that an edge leads to."""
        found: dict[str, list[str]] = {node: [] for edge in self.edges for node in edge}
        for start, end in self.edges:
            found[start].append(end)
            if not self.directed:
                found[end].append(start)
        return found

    def acyclic(self) -> dict[str, list[str]]:
        """The same without the edges that close a cycle, met by depth-first search; each edge once where they go both ways."""
        around, state = self.neighbours, dict[str, int]()
        kept: dict[str, list[str]] = {node: [] for node in around}
        entered = (
            {end for _, end in self.edges} if self.directed else {n for n, others in around.items() if len(others) > 1}
        )
        for start in [*[node for node in around if node not in entered], *around]:
            stack = [(start, "", iter(around[start]))] if start not in state else []
            state.setdefault(start, 1)
            while stack:
                node, parent, others = stack[-1]
                for other in others:
                    if other == parent and not self.directed:
                        continue
                    if state.get(other) == 1 or (not self.directed and node in kept[other]):
                        continue
                    kept[node].append(other)
                    if other not in state:
                        state[other] = 1
                        stack.append((other, node, iter(around[other])))
                        break
                else:
                    state[node] = 2
                    stack.pop()
        return kept

    def paths(self, most: int) -> list[list[str]]:
        """Paths from nodes that nothing leads to, to nodes that lead nowhere, in the acyclic graph; the longest first."""
        after = self.acyclic()
        entered = {end for ends in after.values() for end in ends}
        found: list[list[str]] = []
        stack = [[node] for node in reversed(list(after)) if node not in entered]
        while stack and len(found) < 10 * most:  # a graph can have more paths than anybody can write down
            path = stack.pop()
            if after[path[-1]]:
                stack += [[*path, end] for end in reversed(after[path[-1]])]
            elif len(path) > 1:
                found.append(path)
        return sorted(found, key=len, reverse=True)[:most]


async def end_to_end_dag_path(talk: Talk, params: PathParams) -> Outcome:
    """The graph of the question as its main paths from end to end, beside the neighbours of each node.

    Raises:
        InputError: The question names no edges.

    Source:
        Hong et al. 2024, arXiv:2409.14880.
    """
    graph = Graph.read(talk.question)
    if not graph.edges:
        raise InputError("end_to_end_dag_path needs a graph in the question", "Write its edges as A -> B or A -- B.")
    work = Work(talk, params)
    arrow = " -> " if graph.directed else " -- "
    paths = [arrow.join(path) for path in graph.paths(params.paths)]
    near = [f"{node}: {', '.join(others) or 'none'}" for node, others in graph.neighbours.items()]
    return work.outcome(await work.last("end_to_end_dag_path", paths=paths, near=near), paths=paths)


def _record(
    number: int, name: str, title: str, paper: str, section: str, summary: str, run: Callable[[Talk, Any], Any],
    calls: Formula, params: type[TechniqueParams] = TechniqueParams, differs: Sequence[str] = (),
    acquisition: Acquisition = "model", aliases: tuple[str, ...] = (),
) -> Program:  # fmt: skip
    technique = Technique(number, section, acquisition, "one" if str(calls) == "1" else "several", aliases)
    return Program(name, title, paper, summary, params, run, calls, tuple(differs), technique=technique)


_REASONING = "Reasoning and logic"

SYSTEM_2_ATTENTION = _record(
    10, "system_2_attention", "System 2 attention", "arXiv:2311.11829", _REASONING,
    "The question is rewritten without opinions and what does not belong, and answered from that alone.",
    _restating("system_2_attention_rewrite", "system_2_attention_answer", "rewritten"), Formula("2"), aliases=("s2a",),
)  # fmt: skip
THREAD_OF_THOUGHT = _record(
    11, "thread_of_thought", "Thread-of-thought", "arXiv:2311.08734", _REASONING,
    "A long, chaotic context is walked through in parts, each summarised, before the answer is drawn.",
    _restating("thread_of_thought_walk", "thread_of_thought_answer", "analysis"), Formula("2"), acquisition="manual",
)  # fmt: skip
CODE_PROMPTING = _record(
    14, "code_prompting", "Code prompting", "arXiv:2401.10065", _REASONING,
    "The question becomes code with its conditions, which is read and not run.",
    _restating("code_prompting_write", "code_prompting_answer", "code", code_of), Formula("2"),
)  # fmt: skip
LOGIC_OF_THOUGHT = _record(
    16, "logic_of_thought", "Logic-of-thought", "arXiv:2409.17539", _REASONING,
    "Implications are extracted, extended by the laws of logic, and added to the question.",
    logic_of_thought, Formula("2", "3"), LogicParams,
    ("Where nothing can be derived the question is put as it is, in two calls.",),
)  # fmt: skip
END_TO_END_DAG_PATH = _record(
    18, "end_to_end_dag_path", "End-to-end DAG-path", "arXiv:2409.14880", _REASONING,
    "A graph in the question is written as its paths from end to end, for questions about what is far apart.",
    end_to_end_dag_path, Formula("1"), PathParams,
    (
        "Paths are written out; the paper shortens what they share.",
        "Edges that close a cycle are left out of paths in the order of depth-first search.",
    ),
    "manual", ("eedp",),
)  # fmt: skip
NARRATIVE_OF_THOUGHT = _record(
    20, "narrative_of_thought", "Narrative-of-thought", "arXiv:2410.05558", _REASONING,
    "Events become a class in code and a story told in order of time, from which their order is read.",
    narrative_of_thought, Formula("2"),
    differs=("Story and answer are two calls, and no story is shown as an example.",),
)  # fmt: skip
REPHRASE_AND_RESPOND = _record(
    40, "rephrase_and_respond", "Rephrase and respond", "arXiv:2311.04205", "Understanding intent",
    "The model says in its own words what is asked, and answers that.", rephrase_and_respond,
    Formula("1 + two_step"), RephraseParams, aliases=("rar",),
)  # fmt: skip
STEP_BACK = _record(
    41, "step_back", "Step-back prompting", "arXiv:2310.06117", "Metacognition and self-reflection",
    "The principle behind the question is asked for first, and applied.",
    _restating("step_back_principle", "step_back_answer", "principle"), Formula("2"),
    differs=("No demonstrations of principles are shown; the paper shows one or a few.",),
)  # fmt: skip
