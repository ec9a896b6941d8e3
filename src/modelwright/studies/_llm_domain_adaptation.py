"""SLERP of a general and a specialised model: is it worth more than its parents, and is the arc more than a line?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.api import merge
from modelwright.evaluate import Classification
from modelwright.studies._digits import SMALL, Scale, digits, digits_task, hits, pooled
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.suites._views import CLASSES, SIDE, views
from modelwright.train import Training, Weights, random_mlp, train_mlp

#: Where between the parents: 0 is the general model.
TS = tuple(i / 10 for i in range(11))
#: The paper's schedules over depth: for attention, and for MLPs.
SCHEDULES: dict[str, tuple[float, ...]] = {
    "rising schedule": (0.0, 0.5, 0.3, 0.7, 1.0),
    "falling schedule": (1.0, 0.5, 0.7, 0.3, 0.0),
}
#: Ways between the parents.
WAYS = ("SLERP", "line", "SLERP of task vectors")
#: Where the community's SLERP takes the line.
STRAIGHT = 0.9995
NEAR, SAME = 0.005, 1e-6


def experiment(setting: Setting) -> Findings:
    """One start, a general and a specialised model, and everything between them."""
    measured = Measured()
    for seed in setting.each_seed():
        family = _family(seed, SMALL if setting.smoke else Scale())
        _between(measured, seed, family)
    return Findings(
        parts=_parts(measured),
        figures={
            system: Figure(
                f"accuracy on the mix of both kinds of images: {system}",
                measured.interval(lambda mean, s=system: mean((s, "mixed"))),
            )
            for system in _SYSTEMS
        }
        | {
            "cosine": Figure(
                "mean cosine between the parents' tensors", measured.range(lambda m: m("cosine")), unit=""
            ),
            "arc": Figure("share of the tensors on which SLERP takes the arc", measured.range(lambda m: m("arc"))),
        },
        tables=(_table(measured),),
        plots=(_plot(measured),),
        notes=(
            "Digits: the general model knows upright images, the specialised one turned ones; both are tuned from one start, which has "
            "seen few images of both kinds. The paper adapts models of 1.7 to 8 billion parameters to materials science.",
            "How far to go is chosen on validation images of both kinds, for each way alike; the schedules choose nothing. A "
            "perceptron has no attention, so that each of the paper's two schedules is applied to all layers.",
            "The paper finds that merges exceed both parents with 7 and 8 billion parameters and not with 1.7 billion, so that here "
            "exceeding both is reported and decides nothing.",
        ),
    )


@dataclass(frozen=True)
class _Family:
    tasks: Mapping[str, Classification]
    base: Weights
    general: Weights
    special: Weights


def _family(seed: int, scale: Scale) -> _Family:
    parts, shown = digits(seed, scale.images), views(np.random.default_rng((seed, 1)))
    tasks = {
        "general": digits_task("general", parts, lambda images: images),
        "special": digits_task("special", parts, shown["rotate"]),
    }
    start = random_mlp(SIDE * SIDE, scale.hidden, CLASSES, np.random.default_rng((seed, 2)))
    training = Training(scale.base_epochs, rate=0.05)
    base = train_mlp(start, *pooled(tasks, scale.base_images), training, np.random.default_rng((seed, 3)))
    tuning = Training(scale.expert_epochs, rate=0.01)
    general, special = (
        train_mlp(base, *pooled({name: task}), tuning, np.random.default_rng((seed, 80 + i)))
        for i, (name, task) in enumerate(tasks.items())
    )
    return _Family(tasks, base, general, special)


def _at(family: _Family, way: str, t: float | Sequence[float]) -> Weights:
    """The model at t; a sequence is spread over the depth."""
    if way == "SLERP":
        return merge([family.special], base=family.general, method="slerp", t=t).arrays()
    pair = [family.general, family.special]
    if way == "line":
        return merge(pair, method="linear", weight=[1 - float(t), float(t)]).arrays()  # type: ignore[arg-type]
    return merge(pair, base=family.base, method="nuslerp", weight=[1 - float(t), float(t)]).arrays()  # type: ignore[arg-type]


def _between(measured: Measured, seed: int, family: _Family) -> None:
    search = {name: task.for_search() for name, task in family.tasks.items()}

    def keep(name: str, weights: Weights) -> None:
        right = {task: hits(weights, family.tasks[task], "test") for task in family.tasks}
        for task, scores in right.items():
            measured.add(seed, (name, task), scores)
        measured.add(seed, (name, "mixed"), np.mean(list(right.values()), axis=0))

    keep("general parent", family.general)
    keep("special parent", family.special)
    apart = 0.0
    for way in WAYS:
        models = [_at(family, way, t) for t in TS]
        scores = [np.mean([hits(w, task, "validation").mean() for task in search.values()]) for w in models]
        for t, score, weights in zip(TS, scores, models, strict=True):
            measured.add(seed, ("validation", way, t), float(score))
            measured.add(
                seed, ("at", way, t), np.mean([hits(weights, task, "test") for task in family.tasks.values()], axis=0)
            )
        inner = 1 + int(np.argmax(scores[1:-1]))  # a parent is no merge
        keep(way, models[inner])
        measured.add(seed, ("t", way), TS[inner])
        if way != "SLERP of task vectors":
            apart = max(apart, _distance(models[0], family.general), _distance(models[-1], family.special))
    for name, anchors in SCHEDULES.items():
        keep(name, _at(family, "SLERP", list(anchors)))
    measured.add(seed, "ends", apart)
    cosines = [_cosine(family.general[name], family.special[name]) for name in family.base]
    measured.add(seed, "cosine", float(np.mean(cosines)))
    measured.add(seed, "arc", float(np.mean([abs(cosine) <= STRAIGHT for cosine in cosines])))


def _distance(one: Weights, other: Weights) -> float:
    return max(float(np.abs(one[name] - other[name]).max()) for name in other)


def _cosine(one: Any, other: Any) -> float:
    a, b = (np.asarray(x, np.float64).reshape(-1) for x in (one, other))
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))


_SYSTEMS = ("general parent", "special parent", *WAYS, *SCHEDULES)


def _parts(measured: Measured) -> Sequence[Part]:
    def mixed(mean: Any, name: str) -> Any:
        return mean((name, "mixed"))

    def over_parents(name: str) -> Any:
        return measured.interval(
            lambda mean: mixed(mean, name) - (mixed(mean, "general parent") + mixed(mean, "special parent")) / 2
        )

    return (
        Part(
            "ends",
            "At 0 and 1 the parents come out, to rounding",
            measured.range(lambda mean: mean("ends")),
            "<=",
            SAME,
            unit="",
        ),
        Part("synergy", "On the mix the SLERP is better than its parents on average", over_parents("SLERP"), ">", 0.0),
        Part(
            "schedules",
            "So is each of the two schedules over depth: the worse of them",
            measured.interval(
                lambda mean: (
                    np.minimum(*(mixed(mean, name) for name in SCHEDULES))
                    - (mixed(mean, "general parent") + mixed(mean, "special parent")) / 2
                )
            ),
            ">",
            0.0,
        ),
        Part(
            "arc and line",
            "Arc and line are within half a point of each other, at every tenth of the way",
            measured.interval(
                lambda mean: np.max([np.abs(mean(("at", "SLERP", t)) - mean(("at", "line", t))) for t in TS], axis=0)
            ),
            "<",
            NEAR,
        ),
        Part(
            "above both",
            "The SLERP is better than the better parent",
            measured.interval(
                lambda mean: (
                    mixed(mean, "SLERP") - np.maximum(mixed(mean, "general parent"), mixed(mean, "special parent"))
                )
            ),
            ">",
            0.0,
            decides=False,
        ),
    )


def _table(measured: Measured) -> Table:
    asked = ("general", "special", "mixed")
    rows = [
        (system, *(measured.interval(lambda mean, s=system, a=a: mean((s, a))) for a in asked)) for system in _SYSTEMS
    ]
    return Table("Accuracy on the test images", ("system", "upright", "turned", "mix"), tuple(rows))


def _plot(measured: Measured) -> Plot:
    lines = {way: [(t, measured.interval(lambda mean, w=way, t=t: mean(("at", w, t)))) for t in TS] for way in WAYS}
    return Plot("From the general to the specialised model", "t", "accuracy on the mix", lines)


LLM_DOMAIN_ADAPTATION = Study(
    id="llm-domain-adaptation",
    title="SLERP of a general and a specialised model",
    paper="arXiv:2409.03444",
    claim="The SLERP of a general and a specialised model is worth more than its parents on average, with and without schedules over "
    "depth.",
    experiment=experiment,
)
