"""Model Breadcrumbs: does dropping both tails of task vectors make settings carry over to more tasks?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from modelwright.studies._digits import SCALES, SMALL, VIEWS, Experts, Scale, experts, hits
from modelwright.studies._evidence import Means, Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.studies._vectors import vectors
from modelwright.tensors import Array
from modelwright.train import HEAD, Weights

#: Of the generated vectors: outliers in each, the rule, its settings, and the error that was computed before.
GENERATED: tuple[tuple[int, str, str, dict[str, Any], float], ...] = (
    (20, "task arithmetic", "task_arithmetic", {}, 2.57),
    (20, "largest 5 %", "breadcrumbs", {"density": 0.05, "gamma": 0.0}, 2.57),
    (20, "Breadcrumbs", "breadcrumbs", {"density": 0.05, "gamma": 0.002}, 0.16),
    (0, "largest 5 %", "breadcrumbs", {"density": 0.05, "gamma": 0.0}, 0.05),
    (0, "Breadcrumbs", "breadcrumbs", {"density": 0.05, "gamma": 0.002}, 0.22),
)
#: How far the errors may be from those, as a share of them or as they are, whichever is more. Planned was 0.02 as it is; the
#: share came after a first run had shown that errors of 2.6 spread by that much between seeds. So that part is only reported.
TOLERANCE = 0.02

#: One candidate of a search: the method's name and its settings, the scale among them.
Candidate = tuple[str, dict[str, Any]]
#: Eighteen candidates for either rule; the shares kept and dropped span what the authors search.
SEARCHED: dict[str, tuple[Candidate, ...]] = {
    "task arithmetic": tuple(("task_arithmetic", {"lambda_": scale}) for scale in SCALES),
    "Breadcrumbs": tuple(
        ("breadcrumbs", {"density": density, "gamma": gamma, "lambda_": scale})
        for density, gamma in ((0.05, 0.01), (0.15, 0.006), (0.2, 0.001))
        for scale in (0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
    ),
}
#: Where the experts are corrupted, the authors' starting point, and scales alone are chosen.
PLAIN: dict[str, Candidate] = {
    "task arithmetic": ("task_arithmetic", {}),
    "Breadcrumbs": ("breadcrumbs", {"density": 0.15, "gamma": 0.006}),
}
#: A corrupted expert: in each hidden weight matrix this share of the task vector becomes plus or minus so many times its
#: largest entry. The share and the first height are those of the generated outliers, and what was planned. The greater heights
#: came after a first run had shown that 20-fold harms neither rule; what is said of them is only reported.
CORRUPTED, PLANNED, HEIGHTS = 0.001, 20.0, (20.0, 100.0, 500.0)
KEEPS, COLLAPSES, REGRET = 0.03, 0.10, 0.03
FEW, COUNTS = 2, (2, 4, 6, 8)


def experiment(setting: Setting) -> Findings:
    """Generated outliers; one corrupted expert on digits; settings chosen on two tasks, used for eight."""
    measured = Measured()
    for seed in setting.each_seed():
        _generated(measured, seed)
        family = experts(seed, VIEWS, SMALL if setting.smoke else Scale())
        _corrupted(measured, seed, family)
        _carried_over(measured, seed, family)
    return Findings(
        parts=_parts(measured),
        figures=_figures(measured),
        tables=(_generated_table(measured), _corrupted_table(measured), _carried_table(measured)),
        plots=(_carried_plot(measured), _corrupted_plot(measured)),
        notes=(
            "Digits are eight fixed views of one set of images, with one frozen head; the paper merges image and text "
            "models, tuned on different data sets.",
            f"One expert of five, another one for each seed, has {CORRUPTED:.1%} of its task vector in each hidden weight "
            "matrix replaced by plus or minus a multiple of the largest entry there. The other four tasks are judged, at "
            "the scale chosen with sound experts; the last column chooses it again.",
            f"Planned was {PLANNED:g}-fold. The greater multiples, and the tolerance on generated vectors as a share, came after "
            "a first run; what is said of them is reported and decides nothing.",
            "Settings are chosen on the validation images of two tasks, with 18 candidates for either rule, and used for "
            "those two and the next ones; four pairs a seed. Scores are shares of what the tasks' own experts reach together.",
        ),
    )


def _generated(measured: Measured, seed: int) -> None:
    for outliers, rule, method, parameters, expected in GENERATED:
        made = vectors(np.random.default_rng((seed, 31)), outliers)
        error = made.error(made.merged(method, **parameters))
        measured.add(seed, ("error", outliers, rule), error)
        measured.add(seed, ("off", outliers, rule), abs(error - expected) / max(1, expected))


def _corrupted(measured: Measured, seed: int, family: Experts) -> None:
    names = VIEWS[:5]
    clean = Experts(family.tasks, family.base, {name: family.tuned[name] for name in names})
    broken = names[seed % len(names)]
    others = [name for name in names if name != broken]
    chosen = {rule: clean.best_scale(clean.along(method, **fixed))[0] for rule, (method, fixed) in PLAIN.items()}
    for rule, (method, fixed) in PLAIN.items():
        clean.measure(measured, seed, (rule, 0.0), clean.along(method, **fixed)(chosen[rule]), others)
    for height in HEIGHTS:
        rng = np.random.default_rng((seed, 21))  # the same entries at every height
        spoilt = corrupted(clean.tuned[broken], clean.base, height, rng)
        family = Experts(clean.tasks, clean.base, {**clean.tuned, broken: spoilt})
        for rule, (method, fixed) in PLAIN.items():
            along = family.along(method, **fixed)
            family.measure(measured, seed, (rule, height), along(chosen[rule]), others)
            if height == HEIGHTS[-1]:
                family.measure(measured, seed, (rule, "again"), along(family.best_scale(along)[0]), others)


def corrupted(weights: Weights, base: Weights, height: float, rng: np.random.Generator) -> dict[str, Array]:
    """A model with a few huge entries in the task vector of each hidden weight matrix."""
    result = {name: array.copy() for name, array in weights.items()}
    for name, array in result.items():
        if array.ndim == 2 and name not in HEAD:
            at = rng.permutation(array.size)[: max(1, int(CORRUPTED * array.size))]
            most = np.abs(weights[name] - base[name]).max()
            array.reshape(-1)[at] = base[name].reshape(-1)[at] + height * most * rng.choice([-1, 1], len(at))
    return result


def _carried_over(measured: Measured, seed: int, family: Experts) -> None:
    for pair, few in enumerate(_pairs()):
        for count in COUNTS:
            own = [hits(family.tuned[name], family.tasks[name], "test") for name in _used(pair, count)]
            measured.add(seed, ("own", pair, count), np.mean(own, axis=0))
        for rule in SEARCHED:
            chosen = _best(family, rule, few)
            measured.add(seed, ("scale", rule, FEW, pair), chosen[1]["lambda_"])
            for count in COUNTS:
                _score(measured, seed, (rule, pair, count), family, chosen, _used(pair, count))
    for rule in SEARCHED:
        chosen = _best(family, rule, VIEWS)
        measured.add(seed, ("scale", rule, len(VIEWS)), chosen[1]["lambda_"])
        _score(measured, seed, (rule, "all", len(VIEWS)), family, chosen, VIEWS)


def _used(pair: int, count: int) -> list[str]:
    """A pair of tasks and those that come after it."""
    return [VIEWS[(FEW * pair + i) % len(VIEWS)] for i in range(count)]


def _pairs() -> Iterator[tuple[str, ...]]:
    return (VIEWS[i : i + FEW] for i in range(0, len(VIEWS), FEW))


def _best(family: Experts, rule: str, names: Sequence[str]) -> Candidate:
    """The candidate with the highest validation accuracy on these tasks, the first of several."""
    search, scores = family.for_search(), list[float]()
    made: dict[str, Callable[[float], Weights]] = {}
    for method, parameters in SEARCHED[rule]:
        plain = {name: value for name, value in parameters.items() if name != "lambda_"}
        if str(plain) not in made:
            made[str(plain)] = family.along(method, names, **plain)
        scores.append(search.validation(made[str(plain)](parameters["lambda_"]), names))
    return SEARCHED[rule][int(np.argmax(scores))]


def _score(
    measured: Measured, seed: int, key: tuple[Any, ...], family: Experts, chosen: Candidate, names: Sequence[str]
) -> None:
    method, parameters = chosen
    family.measure(measured, seed, key, family.merged(method, names, **parameters), names)


def _share(mean: Means, rule: str, count: int) -> Array:
    """Accuracy as a share of what the tasks' own experts reach together, over the pairs that settings were chosen on."""
    pairs = range(len(VIEWS) // FEW)
    return np.mean([mean((rule, pair, count)) / mean(("own", pair, count)) for pair in pairs], axis=0)


def _share_of_all(mean: Means, rule: str) -> Array:
    """The same with settings chosen on all eight tasks."""
    return mean((rule, "all", len(VIEWS))) / mean(("own", 0, len(VIEWS)))


def _parts(measured: Measured) -> Sequence[Part]:
    most = COUNTS[-1]

    def loss(rule: str, height: float) -> Any:
        return measured.interval(lambda mean: mean((rule, 0.0)) - mean((rule, height)))

    def error(first: tuple[int, str], second: tuple[int, str]) -> Any:
        return measured.range(lambda mean: mean(("error", *first)) - mean(("error", *second)))

    return (
        Part(
            "construction",
            "On generated vectors errors are as computed before, within 2 % for every seed",
            measured.range(lambda mean: np.max([mean(("off", n, rule)) for n, rule, *_ in GENERATED], axis=0)),
            "<=",
            TOLERANCE,
            decides=False,
            unit="",
        ),
        Part(
            "outliers",
            "With outliers Breadcrumbs has less error than the largest entries alone",
            error((20, "largest 5 %"), (20, "Breadcrumbs")),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "no outliers",
            "Without outliers it has more: what it drops is signal then",
            error((0, "Breadcrumbs"), (0, "largest 5 %")),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "survives",
            f"With one expert corrupted {PLANNED:g}-fold Breadcrumbs loses less than 3 points on the other tasks",
            loss("Breadcrumbs", PLANNED),
            "<",
            KEEPS,
        ),
        Part("collapses", "Task arithmetic loses more than 10", loss("task arithmetic", PLANNED), ">", COLLAPSES),
        Part(
            "survives more",
            f"Corrupted {HEIGHTS[-1]:g}-fold Breadcrumbs loses less than 3 points",
            loss("Breadcrumbs", HEIGHTS[-1]),
            "<",
            KEEPS,
            decides=False,
        ),
        Part(
            "collapses at more",
            f"Corrupted {HEIGHTS[-1]:g}-fold task arithmetic loses more than 10",
            loss("task arithmetic", HEIGHTS[-1]),
            ">",
            COLLAPSES,
            decides=False,
        ),
        Part(
            "more tasks",
            "Chosen on two tasks and used for eight, Breadcrumbs is better than task arithmetic",
            measured.interval(lambda mean: _share(mean, "Breadcrumbs", most) - _share(mean, "task arithmetic", most)),
            ">",
            0.0,
        ),
        Part(
            "carries over",
            "Breadcrumbs chosen on two tasks comes within 3 points of Breadcrumbs chosen on all eight",
            _regret(measured, "Breadcrumbs"),
            "<",
            REGRET,
        ),
    )


def _regret(measured: Measured, rule: str) -> Any:
    return measured.interval(lambda mean: _share_of_all(mean, rule) - _share(mean, rule, len(VIEWS)))


def _figures(measured: Measured) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for rule in SEARCHED:
        for count in COUNTS:
            what = f"mean share of the experts' accuracy on {count} tasks, settings chosen on {FEW}: {rule}"
            found = measured.interval(lambda mean, r=rule, n=count: _share(mean, r, n))
            figures[f"{rule}, {count} tasks"] = Figure(what, found)
        pairs = [("scale", rule, FEW, pair) for pair in range(len(VIEWS) // FEW)]
        found = measured.interval(lambda mean, p=pairs: np.mean([mean(key) for key in p], axis=0))
        figures[f"{rule}, scale for {FEW}"] = Figure(f"scale chosen on {FEW} tasks: {rule}", found, unit="")
        found = measured.interval(lambda mean, r=rule: mean(("scale", r, len(VIEWS))))
        figures[f"{rule}, scale for {len(VIEWS)}"] = Figure(f"scale chosen on all eight tasks: {rule}", found, unit="")
        what = f"lost on eight tasks by choosing on {FEW} of them: {rule}"
        figures[f"{rule}, regret"] = Figure(what, _regret(measured, rule))
    return figures


def _generated_table(measured: Measured) -> Table:
    rows = [
        (f"{rule}, {n or 'no'} outliers", measured.range(lambda mean, n=n, r=rule: mean(("error", n, r))))
        for n, rule, *_ in GENERATED
    ]
    title = "Generated vectors: distance from the sum of all signals, relative to it"
    return Table(title, ("rule", "error"), tuple(rows), unit="")


def _corrupted_table(measured: Measured) -> Table:
    columns: dict[Any, str] = {0.0: "sound"} | {h: f"{h:g}-fold" for h in HEIGHTS} | {"again": "scale chosen again"}
    rows = [
        (rule, *(measured.interval(lambda mean, r=rule, c=column: mean((r, c))) for column in columns))
        for rule in PLAIN
    ]
    title = "Digits: mean accuracy on the four tasks whose experts are sound, over how corrupted the fifth is"
    return Table(title, ("rule", *columns.values()), tuple(rows))


def _carried_table(measured: Measured) -> Table:
    most = COUNTS[-1]
    rows = [
        (
            rule,
            *(measured.interval(lambda mean, r=rule, n=n: _share(mean, r, n)) for n in COUNTS),
            measured.interval(lambda mean, r=rule: _share_of_all(mean, r)),
        )
        for rule in SEARCHED
    ]
    columns = ("rule", *(f"{n} tasks" for n in COUNTS), f"{most}, chosen on {most}")
    return Table(f"Digits: mean share of the experts' accuracy, settings chosen on {FEW} tasks", columns, tuple(rows))


def _carried_plot(measured: Measured) -> Plot:
    lines = {
        rule: [(n, measured.interval(lambda mean, r=rule, n=n: _share(mean, r, n))) for n in COUNTS]
        for rule in SEARCHED
    }
    title = f"Settings chosen on {FEW} tasks, used for more"
    return Plot(title, "merged tasks", "share of the experts' accuracy", lines)


def _corrupted_plot(measured: Measured) -> Plot:
    lines = {rule: [(h, measured.interval(lambda mean, r=rule, h=h: mean((r, h)))) for h in HEIGHTS] for rule in PLAIN}
    title = "One corrupted expert of five, and what the others keep"
    return Plot(
        title, "outliers, as multiples of the largest entry", "mean accuracy on the other tasks", lines, log_x=True
    )


MODEL_BREADCRUMBS = Study(
    id="model-breadcrumbs",
    title="Model Breadcrumbs",
    paper="arXiv:2312.06795",
    claim="Keeping only the middle of each task vector makes settings chosen on few tasks work for many, whatever outliers there are.",
    experiment=experiment,
)
