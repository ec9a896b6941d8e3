"""DyLAN: does stopping at consensus save calls at no cost, and does importance tell which agents to keep?"""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.chat import DYLAN, Panel, agent_importance, best_team
from modelwright.studies._answerers import deviation, panel, questions, right, script, solved, spoken
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table

YES_NO = ("yes", "no")
#: A team whose agents are right at 0.7, wrong answers all different: how often it stops after 3 and after 4 first replies.
ALIKE = (0.7, 0.7, 0.7, 0.7)
AFTER_THREE, AFTER_FOUR = 0.7**3, 3 * 0.7**3 * 0.3
#: A pool in which one agent is weak.
POOL = {"a": 0.9, "b": 0.9, "c": 0.9, "weak": 0.3}
FAR = 4.5
#: Most that stopping at consensus may cost in accuracy.
MARGIN = 0.02
#: Blocks of pixels that the digits' agents see: rows of the image, of which some tell more.
ROWS: dict[str, tuple[int, ...]] = {
    "top": (0, 1),
    "upper": (2, 3),
    "lower": (4, 5),
    "bottom": (6, 7),
    "middle": (2, 3, 4, 5),
}


def experiment(setting: Setting) -> Findings:
    """Scripted teams against closed forms; then classifiers that see parts of digits."""
    measured = Measured()
    items = 120 if setting.smoke else 600
    for seed in setting.each_seed():
        _stopping(measured, seed, items)
        _importance(measured, seed, items)
        _digits(measured, seed, 60 if setting.smoke else 360)
    return Findings(
        parts=_parts(measured),
        figures=_figures(measured),
        tables=(_table(measured),),
        plots=(_plot(measured),),
        notes=(
            "Scripted agents give wrong answers that are all different, rate right replies 5 and wrong ones 1, and answer anew "
            "half of the time, else as most of what they are shown.",
            "Agents of the digits see some rows of the pixels each, rate a reply by the probability that they give to its answer, "
            "and answer anew by their own probabilities and the others' votes.",
            "Teams are chosen on the first half of the questions and judged on the second.",
        ),
    )


def _team(known: dict[str, str], shares: dict[str, float], seed: int) -> dict[str, Any]:
    return {name: script(known, name, seed, accuracy=p, follows=0.5) for name, p in shares.items()}


def _stopping(measured: Measured, seed: int, items: int) -> None:
    known = questions(items, YES_NO)
    asked = list(known)
    backends = _team(known, {f"agent {i}": p for i, p in enumerate(ALIKE)}, seed)
    stops = solved(panel(backends, DYLAN), asked)
    # As good as no consensus: all of four must agree.
    goes = solved(panel(backends, DYLAN, consensus=0.99), asked)
    for name, outcomes in (("stops", stops), ("goes on", goes)):
        measured.add(seed, ("accuracy", name), right(outcomes, known, asked))
        measured.add(seed, ("calls", name), [float(o.calls) for o in outcomes])
    first = np.array([o.calls for o in stops])
    three, four = float((first == 3).mean()), float((first == 4).mean())
    far = max(deviation(three, AFTER_THREE, items), deviation(four, AFTER_FOUR, items))
    measured.add(seed, "far", far)
    measured.add(seed, "after three", (first == 3).astype(float))
    measured.add(seed, "after four", (first == 4).astype(float))


def _chosen(
    measured: Measured, seed: int, about: str, whole: Panel, backends: dict[str, Any], known: Any, keep: int
) -> dict[str, float]:
    """Choose a team on half of the questions, and judge it and the whole pool on the other half; each agent's importance."""
    asked = list(known)
    half = len(asked) // 2
    seen = solved(whole, asked[:half])
    team = best_team(seen, keep)
    small = panel({name: backends[name] for name in team}, DYLAN)
    for name, work in (("pool", whole), ("team", small)):
        outcomes = solved(work, asked[half:])
        measured.add(seed, (about, name), float(right(outcomes, known, asked[half:]).mean()))
        measured.add(seed, (about, "calls", name), float(np.mean([o.calls for o in outcomes])))
    importance = agent_importance(seen)
    for name, score in importance.items():
        measured.add(seed, (about, "importance", name), score)
    measured.add(seed, (about, "dropped"), float(_worst(about, backends, known, asked[:half]) not in team))
    return importance


def _worst(about: str, backends: dict[str, Any], known: Any, asked: list[str]) -> str:
    """The agent that is right least often alone."""
    if about == "scripted":
        return "weak"
    alone = {
        name: np.mean([int(one.probabilities[q].argmax()) == int(known[q]) for q in asked])
        for name, one in backends.items()
    }
    return min(alone, key=alone.__getitem__)


def _importance(measured: Measured, seed: int, items: int) -> None:
    known = questions(items, YES_NO)
    backends = _team(known, POOL, seed)
    _chosen(measured, seed, "scripted", panel(backends, DYLAN), backends, known, 3)


def _digits(measured: Measured, seed: int, items: int) -> None:
    from scipy.stats import spearmanr
    from sklearn.linear_model import LogisticRegression

    data = spoken(seed, items)
    pixels, targets = data.train
    backends: dict[str, Any] = {}
    for name, rows in ROWS.items():
        columns = np.concatenate([np.arange(8 * row, 8 * row + 8) for row in rows])
        fitted = LogisticRegression(max_iter=300).fit(pixels[:400, columns], targets[:400])
        backends[name] = data.classifier(name, fitted, seed, columns, sharp=2.0)
    importance = _chosen(measured, seed, "digits", panel(backends, DYLAN), backends, data.known, 3)
    asked = list(data.known)
    alone = [
        np.mean([int(one.probabilities[q].argmax()) == int(data.known[q]) for q in asked]) for one in backends.values()
    ]
    measured.add(seed, "order", float(spearmanr(alone, [importance[name] for name in backends])[0]))  # type: ignore[reportArgumentType]


def _parts(measured: Measured) -> tuple[Part, ...]:
    def difference(first: Any, second: Any) -> Any:
        return measured.interval(lambda mean: mean(first) - mean(second))

    return (
        Part(
            "closed forms", f"It stops after 3 and after 4 replies as often as computed, within {FAR} standard errors",
            measured.range(lambda mean: mean("far")), "<=", FAR, unit="",
        ),
        Part(
            "saves calls", "Stopping at two thirds takes fewer calls than going on until all agree",
            difference(("calls", "stops"), ("calls", "goes on")), "<", 0.0, unit="",
        ),
        Part(
            "costs nothing", f"It costs at most {MARGIN:.0%} of accuracy",
            difference(("accuracy", "stops"), ("accuracy", "goes on")), ">", -MARGIN,
        ),
        Part(
            "finds the weak", "The weak agent of four has the least importance and is dropped, for every seed",
            measured.range(lambda mean: mean(("scripted", "dropped"))), ">=", 1.0,
        ),
        Part(
            "order", "On digits, importance has the order of the agents' own accuracies (Spearman above 0.7)",
            measured.interval(lambda mean: mean("order")), ">", 0.7, unit="",
        ),
        Part(
            "team", "On digits, the three most important of five agents are no worse than all, by 2 points",
            difference(("digits", "team"), ("digits", "pool")), ">", -MARGIN,
        ),
        Part(
            "team, scripted", "The team without the weak agent is better than the pool",
            difference(("scripted", "team"), ("scripted", "pool")), ">", 0.0, decides=False,
        ),
    )  # fmt: skip


def _figures(measured: Measured) -> dict[str, Figure]:
    def of(name: Any) -> Any:
        return measured.interval(lambda mean: mean(name))

    figures = {
        "after three": Figure(f"questions settled by 3 replies; computed {AFTER_THREE:.1%}", of("after three")),
        "after four": Figure(f"questions settled by 4 replies; computed {AFTER_FOUR:.1%}", of("after four")),
    }
    for name in ("stops", "goes on"):
        figures[f"accuracy, {name}"] = Figure(f"accuracy of four agents: {name}", of(("accuracy", name)))
        figures[f"calls, {name}"] = Figure(f"calls a question: {name}", of(("calls", name)), unit="")
    for about in ("scripted", "digits"):
        for name in ("pool", "team"):
            figures[f"{about}, {name}"] = Figure(f"accuracy, {about}: {name}", of((about, name)))
    return figures


def _table(measured: Measured) -> Table:
    rows = [
        (f"{about}: {name}", measured.interval(lambda mean, n=(about, "importance", name): mean(n)))
        for about, names in (("scripted", POOL), ("digits", ROWS))
        for name in names
    ]
    return Table("Importance of agents, summed over rounds", ("agent", "importance"), tuple(rows), unit="")


def _plot(measured: Measured) -> Plot:
    lines = {}
    for about in ("scripted", "digits"):
        points = [
            (
                float(measured.range(lambda mean, n=(about, "calls", name): mean(n)).value),
                measured.interval(lambda mean, n=(about, name): mean(n)),
            )
            for name in ("team", "pool")
        ]
        lines[about] = sorted(points, key=lambda point: point[0])
    return Plot("The three most important agents, and all", "calls a question", "accuracy", lines)


DYLAN_STUDY = Study(
    id="dylan",
    title="DyLAN",
    paper="arXiv:2310.02170",
    claim="Stopping at consensus saves calls at almost no cost, and importance, found without labels, tells which agents to keep.",
    experiment=experiment,
    needs=("sklearn", "scipy"),
)
