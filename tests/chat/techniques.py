"""A case for each technique: what is asked, what a scripted model says on the way, and what must come of it.

In each case the model is right only where it is shown, or told, what the technique brings; asked plainly it is wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelwright.chat import (
    CALCULATOR,
    PROGRAMS,
    Demonstration,
    Materials,
    Outcome,
    Panel,
    Parser,
    Passage,
    Piece,
    Reply,
    Request,
    Retriever,
    Sandbox,
    ScriptedBackend,
    Session,
    ThoughtTemplate,
    code,
    text,
    toolbox,
)

from .helpers import ANSWER, agent, solve

QUESTION = "What is 2 + 2?"
POOL = tuple(
    Demonstration(f"What is {i} + {i}, said {word}?", str(2 * i), f"{i} plus {i} is {2 * i}.")
    for i, word in enumerate(("loudly", "softly", "slowly", "quickly", "twice", "never"), 3)
)
PASSAGES = Retriever(
    [
        Passage("sums.md:1", "Two plus two is four: what is 2 + 2 was settled long ago."),
        Passage("sums.md:2", "What is needed for sums is patience."),
        Passage("birds.md:1", "Birds are what is heard in the morning."),
    ]
)


class Heard:
    """A backend that remembers what it was asked."""

    def __init__(self, inner: Any):
        self.inner, self.requests, self.model = inner, list[Request](), inner.model

    async def ask(self, request: Request) -> Reply:
        self.requests.append(request)
        return await self.inner.ask(request)

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        self.requests.append(request)
        async for piece in self.inner.stream(request):
            yield piece

    async def close(self) -> None:
        """Nothing."""

    @property
    def texts(self) -> list[str]:
        """What was asked, as whole texts."""
        return ["\n".join(m.content for m in r.messages) for r in self.requests]


@dataclass(frozen=True)
class Case:
    """One technique at work.

    Attributes:
        marker: In the request for the answer; without it the model is wrong.
        calls: For the question.
        replies: What the model says to what else it is asked.
        params: Of the technique.
        question: What is asked.
        answer: What is right.
        materials: What there is to work with.
        prepares: Calls before the first question.
        check: Of the outcome.
        plain: Whether a plain question is answered wrongly, which shows that the technique made the difference.
        parser: How answers are read.
        asked: Further texts that must have been in some request.
    """

    marker: str
    calls: int
    replies: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    question: str = QUESTION
    answer: str = "4"
    materials: Materials = field(default_factory=Materials)
    prepares: int = 0
    check: Callable[[Outcome], bool] = lambda _outcome: True
    plain: bool = True
    parser: Parser = ANSWER
    asked: Sequence[str] = ()

    def backend(self, replies: Mapping[str, str] | None = None) -> Heard:
        known = {self.question: self.answer, **{d.question: d.answer for d in self.materials.demonstrations}}
        accuracy = {self.marker: 1.0, "": 0.0} if self.plain else 1.0
        return Heard(ScriptedBackend(known, accuracy=accuracy, replies=self.replies if replies is None else replies))

    def panel(self, name: str, backend: Any, **more: Any) -> Panel:
        program = PROGRAMS[name]
        return Panel(
            "p",
            {"a": agent("a", backend)},
            program,
            program.params(**self.params),
            self.parser,
            materials=self.materials,
        )

    def run(self, name: str, backend: Any, session: Session | None = None) -> Outcome:
        [found] = solve(self.panel(name, backend), [self.question], session)
        return found


EDGES = "Is there a way from A to C?\nA -> B\nB -> C\nC -> D\nX -> D"
TABLE = "Who won most?\n\n| name | wins |\n|---|---|\n| Ann | 3 |\n| Bob | 12 |\n| Cid | 7 |"
EVENTS = "In which order did this happen?\n- the bread was eaten\n- the bread was baked"
CODE = Materials(code=Sandbox(seconds=20))
SHOWN = Materials(POOL)


def answer(text_: str) -> str:
    return f"The answer is {text_}."


CASES: dict[str, Case] = {
    "zero_shot": Case("What is 2 + 2?", 1, plain=False),
    "few_shot": Case("said loudly?\n\nThe answer is 6.", 1, materials=SHOWN, params={"shots": 2}, asked=["said softly?"]),
    "chain_of_thought": Case("Let's think step by step.", 1),
    "auto_cot": Case(
        "<example 3>", 1, {"Let's think step by step.": "I count. The answer is {answer}."}, {"clusters": 3},
        materials=SHOWN, prepares=3, plain=False, asked=["I count. The answer is"],
        check=lambda o: len(o.facts["shown"]) == 3 and o.facts["preparation"]["calls"] == 3,
    ),
    "self_consistency": Case("", 5, params={"samples": 5, "early_stop": False}, plain=False),
    "logicot": Case(
        "Two and two make four.", 9,
        {
            "Write the steps as a numbered list": "1. Two and two make five.\n2. So it is five.",
            "Suppose that this step is right": "Five fingers.",
            "Suppose that this step is wrong": "Count them: four.",
            "Two and two make five.\n</step>\n<thought 1>": "The second. [wrong]",
            "So it is four.\n</step>\n<thought 1>": "[right]",
            "Write this step anew": "1. Two and two make four.\n2. So it is four.",
        },
        check=lambda o: o.facts["steps"] == ["Two and two make four.", "So it is four."] and o.facts["revised"] == 1,
    ),
    "chain_of_symbol": Case("short symbols of your choice", 1),
    "tree_of_thoughts": Case(
        "<thought 2>\nthen halve", 7,
        {
            "then halve\n</thought 2>\n\nCan": "Surely. [sure]",
            "then shout\n</thought 2>": "[impossible]",
            "guess\n</thought 1>": "[impossible]",
            "double it\n</thought 1>\n\nPropose": "1. then shout\n2. then halve",
            "double it\n</thought 1>\n\nCan": "[likely]",
            "Propose up to 2": "1. guess\n2. double it",
        },
        {"branch": 2, "beam": 1, "depth": 2}, check=lambda o: o.facts["path"] == ["double it", "then halve"],
    ),
    "graph_of_thoughts": Case(
        "Join what is right in them", 10,
        {
            "The answer is 4.\n</thought>\n\nHow right": "[[9]]",
            "How right and how complete is it?": "[[2]]",
        },
        {"branch": 2, "keep": 2, "merges": 2, "rounds": 1},
        check=lambda o: sorted(o.facts["scores"]) == [2, 2, 2, 9, 9],
    ),
    "system_2_attention": Case(
        "Neutral: What is 2 + 2?", 2, {"Rewrite the text above": f"Neutral: What is 2 + 2?\n\n{QUESTION}"},
        check=lambda o: o.facts["rewritten"].startswith("Neutral"),
    ),
    "thread_of_thought": Case("Part one: two.", 2, {"Walk me through this": "Part one: two. Part two: two."}),
    "chain_of_table": Case(
        "1 | Bob | 12", 4,
        {
            "Done so far: nothing.": "[sort_by]",
            "Done so far: sort_by.": "[end]",
            "The next operation is sort_by.": '{"column": "wins", "descending": true}',
        },
        question=TABLE, answer="Bob", check=lambda o: o.facts["operations"] == ["sort_by"],
    ),
    "self_refine": Case(
        "Count again!", 4,
        {"The answer is 4.\n</draft>\n\nSay what is wrong": "[stop]", "An answer to this stands here": "Count again!"},
        check=lambda o: o.facts["rewritten"] == 1,
    ),
    "code_prompting": Case("two = 2", 2, {"Write this question as Python code": "```python\ntwo = 2\n```"}),
    "echo": Case(
        "<example 2>", 1, {"Let's think step by step.": "I count. The answer is {answer}."},
        {"clusters": 2, "rounds": 2}, materials=SHOWN, prepares=6, plain=False,
        check=lambda o: o.facts["preparation"]["calls"] == 6,
    ),
    "logic_of_thought": Case(
        "If it is odd, it is not two.", 3,
        {
            "Find the statements": "A: it is two\nB: it is even\nC: it is not odd\nA -> B\nB -> C",
            "Put each of these implications": "If it is odd, it is not two.",
        },
        asked=["~C -> ~A", "A -> C"], check=lambda o: o.facts["derived"][:2] == ["~B -> ~A", "~C -> ~B"],
    ),
    "instance_adaptive": Case("Carefully:", 3, params={"cues": ["Quickly:", "Carefully: one", "Carefully: two"]}),
    "end_to_end_dag_path": Case("A -> B -> C -> D", 1, question=EDGES, answer="yes", asked=["A: B"]),
    "layer_of_thoughts": Case(
        "<passage 1>\nsums.md:1: Two plus two is four", 5,
        {
            "Write 3 layers": "1. it is about sums; it has numbers\n2. it is about birds",
            "it is about sums\n</check>": "[1, 2]",
            "it has numbers\n</check>": "[1]",
            "it is about birds\n</check>": "[none]",
        },
        {"top_k": 3}, materials=Materials(documents=PASSAGES), plain=False, check=lambda o: o.facts["left"] == [3, 2, 2],
    ),
    "narrative_of_thought": Case(
        "Once there was bread", 2, {"Tell a short story": "Once there was bread, baked and eaten."}, question=EVENTS,
        answer="2,1", asked=["self.event_2 = 'the bread was baked'"],
    ),
    "buffer_of_thoughts": Case(
        "count both, join them", 3,
        {
            "Distil this problem": "A sum of two numbers.",
            "Distil from it a template": "1. Sums\n2. two numbers are added\n3. add the second to the first",
        },
        materials=Materials(templates=[
            ThoughtTemplate("sum", "a sum of numbers", "count both, join them"),
            ThoughtTemplate("race", "who runs fastest", "sort by time"),
            ThoughtTemplate("path", "a way through a maze", "search"),
        ]),
        check=lambda o: o.facts["template"] == "sum" and o.facts["learned"] and o.facts["known"] == 4,
    ),
    "contrastive_denoising": Case(
        "mended well", 4, {"Compare the two.": "It is mended well: The answer is {answer}."},
        {"shots": 2, "rephrasings": 2, "contexts": 2, "samples": 4},
        materials=Materials((POOL[0], *(Demonstration(d.question, d.answer, "Dogs bark.", noisy=True) for d in POOL[1:3]))),
        prepares=4, plain=False, asked=["mended well"], check=lambda o: o.facts["mended"] == [2, 2],
    ),
    "reverse_chain_of_thought": Case(
        "", 3,
        {
            "Describe the figure": "AB is 3. BC is 4. The angle at B is right.",
            "Derive results from it": "1. AC is 5, as 9 + 16 = 25.",
            "For each result write a question": "Q: How long is AC?\nA: 5",
        },
        question="A right triangle ABC with legs 3 and 4.", answer='[{"question": "How long is AC?", "answer": "5"}]',
        plain=False, parser=text(), asked=["AC is 5, as 9 + 16 = 25.", "The angle at B is right."],
    ),
    "chain_of_draft": Case("of 3 words at most", 1, params={"words": 3}),
    "rag": Case("<passage 1>\nsums.md:1", 1, params={"top_k": 2}, materials=Materials(documents=PASSAGES)),
    "react": Case(
        "<observation 1>\n4\n</observation 1>", 2,
        {"Think about what to do next. Then call a tool": 'I add.\nAction: calculator {"expression": "2 + 2"}'},
        {"rounds": 1}, materials=Materials(tools=toolbox([CALCULATOR])),
        asked=["- calculator(expression: str): Calculate"],
        check=lambda o: o.facts["tools"] == [{"name": "calculator", "arguments": {"expression": "2 + 2"}, "result": "4"}],
    ),
    "chain_of_verification": Case(
        "Is four even?\nYes.", 5,
        {"Which facts in it would have to be checked?": "1. Is four even?\n2. Is two even?", "<check>": "Yes."},
        check=lambda o: o.facts["checks"] == ["Is four even?", "Is two even?"],
    ),
    "chain_of_note": Case("First write a note on each passage", 1, materials=Materials(documents=PASSAGES)),
    "chain_of_knowledge": Case(
        "It is four, says the source.", 10,
        {
            "Which of them can hold what is needed?": "[2]",
            "Write a short query": "two plus two",
            "Correct the reasoning by the passages": "It is four, says the source.",
        },
        {"samples": 4, "rationales": 2}, materials=Materials(documents=PASSAGES),
        asked=["<passage 1>\nsums.md:1: Two plus two"], check=lambda o: o.facts["sources"] == ["sums.md"],
    ),
    "active_prompt": Case(
        "<example 2>", 1, params={"samples": 3, "shots": 2}, materials=SHOWN, prepares=18, plain=False,
        check=lambda o: len(o.facts["preparation"]["uncertainty"]) == 6 and len(o.facts["shown"]) == 2,
    ),
    "ape": Case(
        "Add with care.", 1,
        {"What was the instruction?": "Guess.", "Say the same in other words": "Add with care."},
        {"shown": 2, "scored": 3, "candidates": 2, "rounds": 1, "keep": 1}, materials=SHOWN, prepares=2 * 4 + 4,
        check=lambda o: o.facts["preparation"]["instructions"] == {"Guess.": 0.0, "Add with care.": 1.0},
    ),
    "art": Case(
        "<observation 1>\n4\n</observation 1>", 2,
        {"Think about what to do next. Then call a tool": 'Q1: add.\nAction: calculator {"expression": "2 + 2"}\n#1: 5'},
        {"rounds": 1, "shots": 1},
        materials=Materials(
            (Demonstration("What is 1 + 1?", "2", program='Q1: add.\nAction: calculator {"expression": "1 + 1"}'),),
            tools=toolbox([CALCULATOR]),
        ),
        asked=["Q1: add."], check=lambda o: o.facts["actions"] == 1,
    ),
    "contrastive_cot": Case(
        "<wrong 1>\n6 plus 6 is 3.", 1, params={"shots": 2}, materials=SHOWN, asked=["3 plus 3 is 6. The answer is 6."],
    ),
    "emotion_prompt": Case("My career depends on this.", 1, params={"stimulus": 2}),
    "scratchpad": Case(
        "between <scratch> and </scratch>", 1,
        {"between <scratch> and </scratch>": "<scratch>\nThe answer is 5.\n</scratch>\nThe answer is {answer}."},
        plain=False, check=lambda o: o.facts["scratch"] == "The answer is 5.",
    ),
    "program_of_thoughts": Case(
        "", 1, {"stores it in the variable `answer`": "```python\nanswer = sum([2, 2])\n```"}, materials=CODE, plain=False,
        check=lambda o: o.facts["error"] == "",
    ),
    "structured_cot": Case(
        "in: two numbers", 2,
        {
            "Do not write code yet": "in: two numbers; out: their sum",
            "Check the plan, and write the code": "```python\ndef add(a, b):\n    return a + b\n```",
        },
        plain=False, answer="def add(a, b):\n    return a + b", parser=code("python"), asked=["in: two numbers; out: their sum"],
    ),
    "chain_of_code": Case(
        "", 3,
        {
            "call as a function with a telling name": '```python\nanswer = how_many("hands") + how_many("feet")\n```',
            "how_many('hands')": "Two hands.\n2",
            "how_many('feet')": "2",
        },
        materials=CODE, plain=False,
        check=lambda o: o.facts["simulated"] == ["how_many('hands')", "how_many('feet')"],
    ),
    "opro": Case(
        "Add with care.", 1, {"Write a new instruction that is different": "Add with care."},
        {"shown": 2, "scored": 2, "candidates": 1, "rounds": 1}, materials=SHOWN, prepares=2 + 3,
        asked=["score of 1: 0"], check=lambda o: o.facts["preparation"]["instructions"]["Add with care."] == 1.0,
    ),
    "rephrase_and_respond": Case(
        "The sum of two and two?", 2, {"Say this question in your own words": "The sum of two and two?"}, {"two_step": True},
    ),
    "step_back": Case("Addition joins.", 2, {"Take a step back": "Addition joins."}),
}  # fmt: skip
