"""Diversity of thought: do different approaches, voted over, beat one approach asked several times?"""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash

from modelwright.chat import (
    DIV_SE,
    IDIV_SE,
    SELF_CONSISTENCY,
    Agent,
    Outcome,
    Panel,
    Program,
    Reply,
    Request,
    ScriptedBackend,
    Session,
    pattern,
    together,
)
from modelwright.evaluate import Sampling
from modelwright.studies._digits import digits
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.tensors import Array

#: How often one approach is right, and how many there are.
RIGHT, WAYS = 0.7, ("algebra", "drawing", "elimination", "trial", "working backwards")
#: A vote of five independent ones with two possible answers.
EXPECTED = sum(math.comb(5, k) * RIGHT**k * (1 - RIGHT) ** (5 - k) for k in (3, 4, 5))
TOLERANCE = 0.02
QUESTIONS, AT_ONCE = 4000, 500
#: How probably an answer in one call repeats the one before it.
COPIES = (0.0, 0.25, 0.5, 0.75, 1.0)
VIEWS = ("raw", "rows", "columns", "PCA", "gradients")
GAIN = 0.01
ANSWER = pattern(r"The answer is (\S+?)\.")
COLD = Sampling(max_tokens=512, temperature=0.0)


def experiment(setting: Setting) -> Findings:
    """Scripted approaches against closed forms; one call whose answers copy each other; classifiers of digits on five views."""
    measured, seen = Measured(), Measured()
    for seed in setting.each_seed():
        known = {f"Question {i}?": ("yes", "no")[i % 2] for i in range(200 if setting.smoke else QUESTIONS)}
        _scripted(measured, seed, known)
        for copies in COPIES:
            outcomes = _solved(_panel(_Copying(known, copies, seed), IDIV_SE), list(known))
            measured.add(seed, ("copies", copies), _right(outcomes, known))
        _digits(seen, seed, smoke=setting.smoke)
    return Findings(
        parts=_parts(measured, seen),
        figures=_figures(measured, seen),
        tables=(_table(measured), _views_table(seen)),
        plots=(_plot(measured),),
        notes=(
            f"Scripted: each of five approaches is right on {RIGHT:.0%} of questions with two answers, independently of the others; "
            "that real approaches are so independent is the paper's claim, and not shown here.",
            "One prompt is asked five times at temperature 0 by as many agents of one model, whose replies are one and the same.",
            "In one call, an answer repeats the one before it with a given probability, and is drawn anew otherwise.",
            "Digits: small networks on five views of the images stand for approaches, and five seeds on the raw view for one "
            "approach asked five times; all vote by plurality.",
        ),
    )


def _panel(backend: object, program: Program) -> Panel:
    given: dict[str, Any] = {"approaches": list(WAYS), "validation_size": 0}
    agents = {"model": Agent("model", backend, sampling=COLD)}  # type: ignore[reportArgumentType]
    return Panel(program.name, agents, program, program.params(**given), ANSWER)


def _solved(work: Panel, asked: Sequence[str]) -> list[Outcome]:
    async def go() -> list[Outcome]:
        session, found = Session(), list[Outcome]()
        for start in range(0, len(asked), AT_ONCE):
            found += await together([work.solve(session, question) for question in asked[start : start + AT_ONCE]])
        await session.close()
        return found

    return asyncio.run(go())


def _right(outcomes: Sequence[Outcome], known: Mapping[str, str]) -> Array:
    return np.array([float(o.value == answer) for o, answer in zip(outcomes, known.values(), strict=True)])


def _scripted(measured: Measured, seed: int, known: Mapping[str, str]) -> None:
    backend = ScriptedBackend(known, accuracy=RIGHT, options=("yes", "no"), seed=seed)
    measured.add(seed, "diverse", _right(_solved(_panel(backend, DIV_SE), list(known)), known))
    agents = {f"agent {i}": Agent(f"agent {i}", backend, sampling=COLD) for i in range(len(WAYS))}
    for name, count in (("single", 1), ("repeated", len(WAYS))):
        some = dict(list(agents.items())[:count])
        given: dict[str, Any] = {"samples": 1, "early_stop": False}
        work = Panel(name, some, SELF_CONSISTENCY, SELF_CONSISTENCY.params(**given), ANSWER)
        measured.add(seed, name, _right(_solved(work, list(known)), known))


class _Copying:
    """Says five answers in one reply, each of which may repeat the one before."""

    def __init__(self, known: Mapping[str, str], copies: float, seed: int):
        self._known, self._copies, self._seed = known, copies, seed
        self.model = f"copying {copies:g} {seed}"

    async def ask(self, request: Request) -> Reply:
        question = request.messages[-1].content.split("\n\n")[0]
        right = self._known[question]
        wrong = "no" if right == "yes" else "yes"
        parts: list[str] = []
        answer = ""
        for i, way in enumerate(WAYS, 1):
            copy, draw = (self._draw(f"{question} {i} {what}") for what in ("copy", "right"))
            if i == 1 or copy >= self._copies:
                answer = right if draw < RIGHT else wrong
            parts.append(f"Approach {i}: {way}\nThe answer is {answer}.")
        return Reply("\n\n".join(parts))

    def _draw(self, text: str) -> float:
        return xxhash.xxh3_64_intdigest(f"{self._seed} {text}".encode()) / 2**64

    async def close(self) -> None:
        """It holds nothing."""


def shown(images: Array, view: str, components: Array | None = None) -> Array:
    """Images of 8 x 8 as one view has them, shape (images, features)."""
    grid = images.reshape(len(images), 8, 8)
    if view == "rows":
        return np.concatenate([grid.mean(axis=2), grid.std(axis=2)], axis=1)
    if view == "columns":
        return np.concatenate([grid.mean(axis=1), grid.std(axis=1)], axis=1)
    if view == "PCA":
        assert components is not None
        return images.reshape(len(images), -1) @ components.T
    if view == "gradients":
        down, across = np.gradient(grid, axis=(1, 2))
        return np.concatenate([down.reshape(len(grid), -1), across.reshape(len(grid), -1)], axis=1)
    return images.reshape(len(images), -1)


def _digits(seen: Measured, seed: int, *, smoke: bool) -> None:
    from sklearn.decomposition import PCA
    from sklearn.neural_network import MLPClassifier

    parts = digits(seed, 400 if smoke else None)
    tune, test = (np.asarray(parts[name].inputs).reshape(-1, 64) for name in ("tune", "test"))
    targets, labels = np.asarray(parts["tune"].targets), np.asarray(parts["test"].targets)
    components = PCA(12, random_state=0).fit(tune).components_

    def answers(view: str, which: int) -> Array:
        network = MLPClassifier((16,), max_iter=10 if smoke else 60, random_state=100 * seed + which)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small networks, not trained to the end
            network.fit(shown(tune, view, components), targets)
        return network.predict(shown(test, view, components))

    diverse = np.stack([answers(view, 0) for view in VIEWS])
    same = np.stack([answers("raw", i) for i in range(len(VIEWS))])
    for view, found in zip(VIEWS, diverse, strict=True):
        seen.add(seed, ("view", view), (found == labels).astype(float))
    seen.add(seed, "diverse", (_vote(diverse) == labels).astype(float))
    seen.add(seed, "same", (_vote(same) == labels).astype(float))


def _vote(answers: Array) -> Array:
    """The most frequent answer of each column, of equal ones the one that came first."""
    counts = (answers[:, None, :] == answers[None, :, :]).sum(axis=1)
    return answers[counts.argmax(axis=0), np.arange(answers.shape[1])]


def _parts(measured: Measured, seen: Measured) -> Sequence[Part]:
    steps = list(pairwise(COPIES))
    return (
        Part(
            "closed form", "Scripted: the vote of five approaches is right as often as computed, within 2 points for every seed",
            measured.range(lambda mean: np.abs(mean("diverse") - EXPECTED)), "<=", TOLERANCE,
        ),
        Part(
            "beats one", "Scripted: it is right more than 10 points more often than one approach",
            measured.interval(lambda mean: mean("diverse") - mean("single")), ">", 0.1,
        ),
        Part(
            "repeating gains nothing", "Scripted: one prompt asked five times at temperature 0 is that prompt",
            measured.range(lambda mean: np.abs(mean("repeated") - mean("single"))), "<=", 0.0,
        ),
        Part(
            "copying costs", "In one call: the more answers copy each other, the less they are right together",
            measured.interval(
                lambda mean: np.min([mean(("copies", a)) - mean(("copies", b)) for a, b in steps], axis=0)
            ), ">", 0.0,
        ),
        Part(
            "digits", "Digits: five views vote better than one view with five seeds, by more than a point",
            seen.interval(lambda mean: mean("diverse") - mean("same")), ">", GAIN,
        ),
    )  # fmt: skip


def _figures(measured: Measured, seen: Measured) -> dict[str, Figure]:
    names = {"diverse": "five approaches", "single": "one approach", "repeated": "one approach, asked five times"}
    figures = {
        name: Figure(f"accuracy of {text}", measured.interval(lambda mean, n=name: mean(n)))
        for name, text in names.items()
    }
    for copies in COPIES:
        found = measured.interval(lambda mean, c=copies: mean(("copies", c)))
        figures[f"copies {copies:g}"] = Figure(
            f"accuracy in one call, answers copied with probability {copies:g}", found
        )
    for name in ("diverse", "same"):
        figures[f"digits, {name}"] = Figure(
            f"accuracy of {name} classifiers of digits", seen.interval(lambda mean, n=name: mean(n))
        )
    return figures


def _table(measured: Measured) -> Table:
    rows = [
        (text, measured.interval(lambda mean, n=name: mean(n)))
        for name, text in (
            ("single", "one approach"),
            ("repeated", "the same, five times"),
            ("diverse", "five approaches"),
        )
    ]
    rows += [(f"one call, copying {c:g}", measured.interval(lambda mean, c=c: mean(("copies", c)))) for c in COPIES]
    return Table(
        f"Scripted: accuracy; computed for five approaches: {100 * EXPECTED:.1f}",
        ("who answers", "accuracy"),
        tuple(rows),
    )


def _views_table(seen: Measured) -> Table:
    rows = [(view, seen.interval(lambda mean, v=view: mean(("view", v)))) for view in VIEWS]
    rows += [
        ("all five views", seen.interval(lambda mean: mean("diverse"))),
        ("raw, five seeds", seen.interval(lambda mean: mean("same"))),
    ]
    return Table("Digits: accuracy", ("classifier", "accuracy"), tuple(rows))


def _plot(measured: Measured) -> Plot:
    line = [(c, measured.interval(lambda mean, c=c: mean(("copies", c)))) for c in COPIES]
    return Plot("Five answers in one call", "probability of copying the answer before", "accuracy", {"IDIV-SE": line})


DIVERSITY_OF_THOUGHT = Study(
    id="diversity-of-thought",
    title="Diversity of thought",
    paper="arXiv:2310.07088",
    claim="Different approaches to a question, voted over at temperature 0, are right more often than one approach; all in one "
    "call they gain less, as early answers pull later ones.",
    experiment=experiment,
    needs=("sklearn", "jinja2"),
    seeds=3,
)
