"""The survey of prompt engineering: do its 41 techniques run, at the calls they are said to take?"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelwright.chat import (
    CALCULATOR,
    SELF_CONSISTENCY,
    TECHNIQUES,
    Agent,
    Demonstration,
    Materials,
    Outcome,
    Panel,
    Passage,
    Program,
    Reply,
    Request,
    Retriever,
    Sandbox,
    ScriptedBackend,
    Session,
    ThoughtTemplate,
    pattern,
    together,
    toolbox,
)
from modelwright.evaluate import Sampling
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table

COUNT, RIGHT, TOLERANCE = 41, 0.7, 0.02
SAMPLES = (1, 3, 5, 9)
QUESTIONS, PROGRAMS, ARITHMETIC = 4000, 60, 0.5
#: How much oftener programs are right than the model's own arithmetic.
GAIN = 0.2
ANSWER = pattern(r"The answer is (\S+?)\.")
WARM = Sampling(max_tokens=512, temperature=0.7)

#: What techniques that look into the question must find there.
ASKED = {
    "chain_of_table": "Who won most?\n\n| name | wins |\n|---|---|\n| Ann | 3 |\n| Bob | 12 |",
    "narrative_of_thought": "In which order?\n- the bread was eaten\n- the bread was baked",
    "end_to_end_dag_path": "Is there a way from A to C?\nA -> B\nB -> C",
}
#: What is said to everything: something of each form that is asked for.
SAID = "1. First, A -> B.\n2. Then halve it.\n3. Done.\nA: it rains\nB: it is wet\n[[5]] [likely] [right] [1, 2]\nThe answer is 4."


def experiment(setting: Setting) -> Findings:
    """Every technique against a model that says something of each form; votes and programs against what is computed."""
    measured, programs = Measured(), Measured()
    rows: list[tuple[Any, ...]] = []
    for seed in setting.each_seed():
        found = {name: _calls(record) for name, record in TECHNIQUES.items()}
        inside = [least <= calls <= most for calls, least, most in found.values()]
        measured.add(seed, "techniques", float(len(found)))
        measured.add(seed, "inside", float(np.mean(inside)))
        rows = [(TECHNIQUES[name].title, *(str(n) for n in numbers)) for name, numbers in found.items()]
        known = {f"Question {i}?": ("yes", "no")[i % 2] for i in range(200 if setting.smoke else QUESTIONS)}
        for samples in SAMPLES:
            measured.add(seed, ("vote", samples), _votes(known, samples, seed))
        _programs(programs, seed, 4 if setting.smoke else PROGRAMS)
    return Findings(
        parts=_parts(measured, programs),
        figures=_figures(measured, programs),
        tables=(Table("Calls for one question", ("technique", "calls", "fewest", "most"), tuple(rows), unit=""),),
        plots=(_plot(measured),),
        notes=(
            "The survey measures nothing itself; what is put to the test is that each of its techniques is a program that runs at the "
            "calls its formula says. How much a technique helps a real model is not measured here.",
            "The model says the same to everything, a text that has something of each form that is asked for, so loops run to "
            "their bounds or end at once. Demonstrations, documents and tools are made up.",
            f"Votes are over replies that are right with probability {RIGHT:g}, independently, with two possible answers.",
            "Programs: the model's own sums are right half of the time, and the programs that it writes are right; they are run in a "
            "process of their own.",
        ),
    )


class _Ready:
    """Says the same to everything."""

    model = "ready"

    async def ask(self, request: Request) -> Reply:
        return Reply("```python\nanswer = 4\n```" if "fence of code" in request.messages[-1].content else SAID)

    async def close(self) -> None:
        """It holds nothing."""


def _materials() -> Materials:
    shown = [
        Demonstration(f"What is {i} + {i}, {w}?", str(2 * i), f"{i} plus {i} is {2 * i}.", noisy=i > 8, program="Add.")
        for i, w in enumerate(
            ("loud", "soft", "slow", "quick", "twice", "never", "now", "then", "here", "there", "up"), 1
        )
    ]
    return Materials(
        shown,
        Retriever(
            [Passage("notes.md:1", "What is 2 + 2? It is four."), Passage("notes.md:2", "What is known of sums.")]
        ),
        toolbox([CALCULATOR]),
        [ThoughtTemplate("sum", "a sum", "Add."), ThoughtTemplate("race", "a race", "Sort.")],
        Sandbox(seconds=30, network=True),  # what is run here is written here
    )


def _calls(record: Program) -> tuple[int, int, int]:
    params = record.params()
    agents = {"model": Agent("model", _Ready(), sampling=WARM)}
    work = Panel(record.name, agents, record, params, ANSWER, materials=_materials())
    [outcome] = _solved(work, [ASKED.get(record.name, "What is 2 + 2?")])
    least, most = record.calls(params, ["model"])
    return outcome.calls, least, most


def _solved(work: Panel, asked: Sequence[str]) -> list[Outcome]:
    async def go() -> list[Outcome]:
        session, found = Session(), list[Outcome]()
        for start in range(0, len(asked), 500):
            found += await together([work.solve(session, question) for question in asked[start : start + 500]])
        await session.close()
        return found

    return asyncio.run(go())


def _votes(known: dict[str, str], samples: int, seed: int) -> Any:
    backend = ScriptedBackend(known, accuracy=RIGHT, options=("yes", "no"), seed=seed)
    given: dict[str, Any] = {"samples": samples}
    params = SELF_CONSISTENCY.params(**given)
    work = Panel("vote", {"model": Agent("model", backend, sampling=WARM)}, SELF_CONSISTENCY, params, ANSWER)
    return np.array([float(o.value == a) for o, a in zip(_solved(work, list(known)), known.values(), strict=True)])


def majority(samples: int) -> float:
    """How often most of an odd number of replies are right."""
    return sum(
        math.comb(samples, k) * RIGHT**k * (1 - RIGHT) ** (samples - k) for k in range(samples // 2 + 1, samples + 1)
    )


def _programs(measured: Measured, seed: int, count: int) -> None:
    rng = np.random.default_rng((seed, 81))
    pairs = [(int(a), int(b)) for a, b in rng.integers(100, 1000, size=(count, 2))]
    known = {f"What is {a} * {b}?": str(a * b) for a, b in dict.fromkeys(pairs)}
    write = {f"{q}\n\nWrite a Python program": f"```python\nanswer = {q[8:-1]}\n```" for q in known}
    backend = ScriptedBackend(known, accuracy=ARITHMETIC, replies=write, seed=seed)
    for name in ("zero_shot", "program_of_thoughts"):
        record = TECHNIQUES[name]
        agents = {"model": Agent("model", backend, sampling=WARM)}
        work = Panel(name, agents, record, record.params(), ANSWER, materials=_materials())
        found: list[Outcome] = []
        for question in known:  # one process at a time
            found += _solved(work, [question])
        measured.add(seed, name, np.array([float(o.value == a) for o, a in zip(found, known.values(), strict=True)]))


def _parts(measured: Measured, programs: Measured) -> Sequence[Part]:
    return (
        Part("all there", "All 41 techniques run", measured.range(lambda mean: mean("techniques")), ">=", COUNT, unit=""),
        Part(
            "calls", "Each takes as many calls as its formula says, for every seed",
            measured.range(lambda mean: mean("inside")), ">=", 1.0,
        ),
        Part(
            "votes", "Votes of 1, 3, 5 and 9 are right as often as computed, within 2 points for every seed",
            measured.range(lambda mean: np.max([np.abs(mean(("vote", n)) - majority(n)) for n in SAMPLES])), "<=", TOLERANCE,
        ),
        Part(
            "programs", "Programs that are run mend sums that the model gets wrong, by more than 20 points",
            programs.interval(lambda mean: mean("program_of_thoughts") - mean("zero_shot")), ">", GAIN,
        ),
    )  # fmt: skip


def _figures(measured: Measured, programs: Measured) -> dict[str, Figure]:
    figures = {
        f"vote of {n}": Figure(
            f"accuracy of a vote of {n}; computed {100 * majority(n):.1f} %",
            measured.interval(lambda mean, n=n: mean(("vote", n))),
        )
        for n in SAMPLES
    }
    for name in ("zero_shot", "program_of_thoughts"):
        figures[name] = Figure(f"accuracy on products: {name}", programs.interval(lambda mean, n=name: mean(n)))
    figures["inside"] = Figure(
        "share of techniques at the calls of their formula", measured.range(lambda mean: mean("inside"))
    )
    return figures


def _plot(measured: Measured) -> Plot:
    line = [(float(n), measured.interval(lambda mean, n=n: mean(("vote", n)))) for n in SAMPLES]
    return Plot("Self-consistency over a prompt that is right 7 times in 10", "replies", "accuracy", {"vote": line})


PROMPT_ENGINEERING_SURVEY = Study(
    id="prompt-engineering-survey",
    title="Prompt engineering survey",
    paper="arXiv:2402.07927",
    claim="41 named techniques can each be run as a program over the same few pieces, at known numbers of calls.",
    experiment=experiment,
    needs=("sklearn", "bm25s", "jinja2"),
    seeds=3,
)
