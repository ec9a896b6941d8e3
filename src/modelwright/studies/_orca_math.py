"""Orca-Math: how far is one call from a vote over k, which training is to make unnecessary?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelwright.chat import SELF_CONSISTENCY, Outcome
from modelwright.studies._answerers import Classifier, deviation, panel, questions, right, script, solved, spoken
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.tensors import Array

#: Samples that vote.
VOTERS = (1, 3, 5, 9, 17)
#: Scripted solvers: options, accuracy, samples, and what the vote must come to.
CLOSED = {
    "two answers": (("yes", "no"), 0.7, 5, 0.83692),
    "four answers": (("a", "b", "c", "d"), 0.5, 5, 0.673611),
}
FAR = 4.5
#: Training images of a small and of a larger classifier.
SEEN = (60, 600)


def pass_at(n: int, c: int, k: int) -> float:
    """How probably at least one of k samples is right, from n samples of which c are: 1 - C(n - c, k) / C(n, k).

    Example:
        >>> pass_at(4, 1, 2)
        0.5
    """
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def experiment(setting: Setting) -> Findings:
    """Scripted solvers against closed forms; then classifiers that answer by drawing from their probabilities."""
    measured = Measured()
    for seed in setting.each_seed():
        _scripted(measured, seed, 150 if setting.smoke else 1000)
        _digits(measured, seed, 60 if setting.smoke else 360)
    return Findings(
        parts=_parts(measured),
        figures=_figures(measured),
        tables=(_table(measured),),
        plots=(_plot(measured),),
        notes=(
            "The paper's own claim is that preference learning brings one call to where others need a vote. Its training is not "
            "here; this measures the gap that it is to close, and what closes it for a classifier: more data.",
            "A classifier's sample is drawn from its own probabilities; `greedy` takes the most probable answer, as a model that "
            "has learned its own vote would.",
            "pass@k is the unbiased estimate from 17 samples.",
        ),
    )


def _scripted(measured: Measured, seed: int, items: int) -> None:
    far = 0.0
    for name, (options, accuracy, samples, expected) in CLOSED.items():
        known = questions(items, options)
        asked = list(known)
        solver = script(known, name, seed, accuracy=accuracy, options=options)
        scores = right(solved(panel({"solver": solver}, SELF_CONSISTENCY, samples=samples), asked), known, asked)
        measured.add(seed, ("scripted", name), scores)
        far = max(far, deviation(float(scores.mean()), expected, items))
    measured.add(seed, "far", far)


def _digits(measured: Measured, seed: int, items: int) -> None:
    from sklearn.linear_model import LogisticRegression

    data = spoken(seed, items)
    pixels, targets = data.train
    asked = list(data.known)
    for seen in SEEN:
        solver = data.classifier("solver", LogisticRegression(max_iter=300).fit(pixels[:seen], targets[:seen]), seed)
        outcomes: list[Outcome] = []  # of the most voters, in the end
        for samples in VOTERS:
            work = panel({"solver": solver}, SELF_CONSISTENCY, samples=samples, early_stop=False)
            outcomes = solved(work, asked)
            measured.add(seed, (seen, "vote", samples), float(right(outcomes, data.known, asked).mean()))
        counts = [sum(step.value == data.known[q] for step in o.steps) for o, q in zip(outcomes, asked, strict=True)]
        for k in VOTERS:
            measured.add(seed, (seen, "pass", k), float(np.mean([pass_at(VOTERS[-1], c, k) for c in counts])))
        measured.add(seed, (seen, "greedy"), float(_greedy(solver, data.known).mean()))


def _greedy(solver: Classifier, known: Any) -> Array:
    return np.array([float(int(solver.probabilities[q].argmax()) == int(a)) for q, a in known.items()])


def _parts(measured: Measured) -> tuple[Part, ...]:
    small, large = SEEN

    def difference(first: Any, second: Any) -> Any:
        return measured.interval(lambda mean: mean(first) - mean(second))

    return (
        Part(
            "closed forms", f"Votes of scripted solvers are their closed forms, within {FAR} standard errors for every seed",
            measured.range(lambda mean: mean("far")), "<=", FAR, unit="",
        ),
        Part(
            "voting helps", "A vote over 5 samples is better than one call", difference((small, "vote", 5), (small, "vote", 1)), ">", 0.0,
        ),
        Part(
            "less and less", "From 9 to 17 samples a vote wins less than from 1 to 5",
            measured.interval(
                lambda mean: (mean((small, "vote", 17)) - mean((small, "vote", 9))) - (mean((small, "vote", 5)) - mean((small, "vote", 1)))
            ), "<", 0.0,
        ),
        Part(
            "one call is enough", "One greedy call reaches the vote over 17, within 2 points",
            difference((small, "greedy"), (small, "vote", 17)), ">", -0.02,
        ),
        Part(
            "learning closes the gap", "The better trained classifier has less to win by a vote over 5",
            measured.interval(
                lambda mean: (mean((large, "vote", 5)) - mean((large, "vote", 1))) - (mean((small, "vote", 5)) - mean((small, "vote", 1)))
            ), "<", 0.0,
        ),
    )  # fmt: skip


def _figures(measured: Measured) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for name, (_, accuracy, samples, expected) in CLOSED.items():
        what = f"vote of {samples}, {name} at {accuracy}; computed {100 * expected:.4g} %"
        found[name] = Figure(what, measured.interval(lambda mean, n=("scripted", name): mean(n)))
    for seen in SEEN:
        for samples in VOTERS:
            what = f"vote of {samples}, a classifier of {seen} images"
            found[f"{seen}, vote of {samples}"] = Figure(what, _of(measured, (seen, "vote", samples)))
    return found


def _of(measured: Measured, name: Any) -> Any:
    return measured.interval(lambda mean: mean(name))


def _table(measured: Measured) -> Table:
    def row(seen: int, kind: str, counts: Sequence[int]) -> tuple[Any, ...]:
        return (f"{kind}, {seen} images", *(_of(measured, (seen, kind, k)) for k in counts))

    rows = [row(seen, kind, VOTERS) for seen in SEEN for kind in ("vote", "pass")]
    return Table(
        "A vote over k samples, and whether any of k is right", ("", *(f"k = {k}" for k in VOTERS)), tuple(rows)
    )


def _plot(measured: Measured) -> Plot:
    lines = {f"{seen} images: vote": [(float(k), _of(measured, (seen, "vote", k))) for k in VOTERS] for seen in SEEN}
    for seen in SEEN:
        lines[f"{seen} images: greedy"] = [(float(k), _of(measured, (seen, "greedy"))) for k in (1, VOTERS[-1])]
    return Plot("Votes over samples of a classifier", "samples", "accuracy", lines, log_x=True)


ORCA_MATH = Study(
    id="orca-math",
    title="Orca-Math: one call against a vote",
    paper="arXiv:2402.14830",
    claim="A vote over several samples beats one call by ever less per sample, and a model that has learned needs the vote less.",
    experiment=experiment,
)
