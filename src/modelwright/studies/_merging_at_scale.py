"""What matters for merging at scale: four rules over the number of experts and the width of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modelwright.studies._digits import SCALES, SMALL, VIEWS, Experts, Scale, experts, hits
from modelwright.studies._evidence import Interval, Means, Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.tensors import Array
from modelwright.train import Weights

#: Tasks that have experts, and tasks that only the base has seen.
HELD_IN, HELD_OUT = VIEWS[:6], VIEWS[6:]
WIDTHS, SMALL_WIDTHS = (32, 128, 512), (8, 16, 32)
COUNTS = (2, 4, 6)
#: So many random subsets of the experts for each number of them; of all six there is one.
SUBSETS = 3
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "averaging": ("linear", {}),
    "task arithmetic": ("task_arithmetic", {}),
    "DARE-TIES": ("dare_ties", {"density": 0.5, "rescale": "expectation"}),  # what is advised for small models
    "TIES": ("ties", {"semantics": "paper"}),
}
#: A single expert, nine in ten of its changes dropped.
DROPPED: dict[str, Any] = {"with rescaling": "expectation", "without rescaling": False}
KEPT, CLOSE = 0.1, 0.03
#: How much accuracy the other order of two sums may cost: an image that is on the edge, in one of the merged tasks.
ROUNDING = 0.005
#: The base of comparison, and one that has learnt from four times as many images.
BASE_IMAGES, STRONG_IMAGES = 48, 192


def experiment(setting: Setting) -> Findings:
    """Six experts of three widths, merged by two, four and six."""
    measured = Measured()
    widths = SMALL_WIDTHS if setting.smoke else WIDTHS
    for seed in setting.each_seed():
        for width in widths:
            family = _family(seed, width, BASE_IMAGES, setting)
            _merge_all(measured, seed, width, family)
            if width == widths[-1]:
                _drop(measured, seed, family)
        strong = _family(seed, widths[1], STRONG_IMAGES, setting)
        strong.measure(measured, seed, ("strong", COUNTS[-1], 0, "averaging"), strong.merged("linear"))
        _own(measured, seed, ("strong", COUNTS[-1], 0), strong, HELD_IN)
    return Findings(
        parts=_parts(measured, widths),
        figures=_figures(measured, widths),
        tables=(_held_in_table(measured, widths), _held_out_table(measured, widths), _dropped_table(measured)),
        plots=(_plot(measured, widths),),
        notes=(
            "Width stands for size: two hidden layers of 32, 128 or 512, all trained in the same way. The paper's models "
            "have 1 to 64 billion parameters.",
            "Held-in scores are shares of the accuracy that the tasks' own experts reach together, averaged over three random "
            "subsets of experts (all six once). Held-out scores are shares of the base's accuracy on two views that no "
            "expert has seen.",
            "Scales are chosen on the validation images of the merged tasks, from the same values for every rule that has "
            "one; 1/n is among them. TIES keeps 20 %, DARE-TIES drops half.",
            "The spread is a difference of a largest and a smallest of four, which noise alone makes larger.",
        ),
    )


def _family(seed: int, width: int, images: int, setting: Setting) -> Experts:
    scale = SMALL if setting.smoke else Scale()
    return experts(seed, HELD_IN, replace(scale, hidden=(width, width), base_images=images), HELD_OUT)


def subsets(seed: int, count: int) -> list[tuple[str, ...]]:
    """Which experts are merged: three random choices of so many, or all of them once."""
    if count == len(HELD_IN):
        return [HELD_IN]
    rng = np.random.default_rng((seed, 40, count))
    return [tuple(HELD_IN[i] for i in sorted(rng.permutation(len(HELD_IN))[:count])) for _ in range(SUBSETS)]


def _merge_all(measured: Measured, seed: int, width: int, family: Experts) -> None:
    measured.add(seed, (width, "base"), _held_out(family, family.base))
    for count in COUNTS:
        scales = sorted({*SCALES, 1 / count})
        for i, names in enumerate(subsets(seed, count)):
            _own(measured, seed, (width, count, i), family, names)
            scores: dict[str, float] = {}
            for rule, (method, parameters) in RULES.items():
                if method == "linear":
                    merged = family.merged(method, names)
                    scores[rule] = family.for_search().validation(merged, names)
                else:
                    along = family.along(method, names, **parameters)
                    chosen, tried = family.best_scale(along, names, scales)
                    merged, scores[rule] = along(chosen), max(tried)
                family.measure(measured, seed, (width, count, i, rule), merged, names)
                measured.add(seed, (width, count, i, rule, "held out"), _held_out(family, merged))
            measured.add(seed, (width, count, i, "gain"), scores["task arithmetic"] - scores["averaging"])


def _own(measured: Measured, seed: int, key: tuple[Any, ...], family: Experts, names: Sequence[str]) -> None:
    """For each test image in what share of the tasks their own experts are right."""
    right = [hits(family.tuned[name], family.tasks[name], "test") for name in names]
    measured.add(seed, (*key, "own"), np.mean(right, axis=0))


def _held_out(family: Experts, weights: Weights) -> Array:
    return np.mean([hits(weights, family.tasks[name], "test") for name in HELD_OUT], axis=0)


def _drop(measured: Measured, seed: int, family: Experts) -> None:
    """DARE on each expert alone, judged on its own task."""
    _own(measured, seed, ("dropped",), family, HELD_IN)
    for how, rescale in DROPPED.items():
        right: list[Array] = []
        for name in HELD_IN:
            thinned = family.merged("dare_linear", [name], density=KEPT, rescale=rescale, seed=seed)
            right.append(hits(thinned, family.tasks[name], "test"))
        measured.add(seed, ("dropped", how), np.mean(right, axis=0))


def _held_in_score(mean: Means, width: Any, count: int, rule: str) -> Array:
    """Accuracy as a share of the experts' own, over the subsets."""
    sets = range(_sets(count))
    return np.mean([mean((width, count, i, rule)) / mean((width, count, i, "own")) for i in sets], axis=0)


def _sets(count: int) -> int:
    return len(subsets(0, count))


def _over(mean: Means, widths: Sequence[int], counts: Sequence[int]) -> Array:
    """The held-in score over all rules and some widths and numbers of experts."""
    return np.mean([_held_in_score(mean, w, n, rule) for w in widths for n in counts for rule in RULES], axis=0)


def _gain_on_test(mean: Means, widths: Sequence[int]) -> Array:
    """How much better task arithmetic is than averaging."""
    scores = [
        _held_in_score(mean, w, n, "task arithmetic") - _held_in_score(mean, w, n, "averaging")
        for w in widths
        for n in COUNTS
    ]
    return np.mean(scores, axis=0)


def _spread(mean: Means, width: int) -> Array:
    """How far the best of the four rules is from the worst, over the numbers of experts."""
    scores = [np.mean([_held_in_score(mean, width, n, rule) for n in COUNTS], axis=0) for rule in RULES]
    return np.max(scores, axis=0) - np.min(scores, axis=0)


def _held_out_gain(mean: Means, width: int, count: int) -> Array:
    """Held-out accuracy over the rules and subsets, as a share of the base's."""
    keys = [(width, count, i, rule, "held out") for i in range(_sets(count)) for rule in RULES]
    return np.mean([mean(key) for key in keys], axis=0) / mean((width, "base"))


def _parts(measured: Measured, widths: Sequence[int]) -> Sequence[Part]:
    narrow, middle, wide = widths
    gains = [(w, n, i, "gain") for w in widths for n in COUNTS for i in range(_sets(n))]

    def lost(mean: Means, how: str) -> Array:
        return mean(("dropped", "own")) - mean(("dropped", how))

    return (
        Part(
            "contains averaging",
            "With 1/n among its scales task arithmetic is not worse than averaging on what scales are chosen by, but for rounding",
            measured.range(lambda mean: np.min([mean(key) for key in gains], axis=0)),
            ">=",
            -ROUNDING,
            decides=False,  # it cannot come out otherwise: a check of the study, no evidence for the claim
        ),
        Part(
            "and on test",
            "On test images it is better than averaging, over all widths and numbers of experts",
            measured.interval(lambda mean: _gain_on_test(mean, widths)),
            ">",
            0.0,
            decides=False,
        ),
        Part(
            "more experts",
            "Held-in scores fall from two experts to six, over all rules and widths",
            measured.interval(lambda mean: _over(mean, widths, COUNTS[:1]) - _over(mean, widths, COUNTS[-1:])),
            ">",
            0.0,
        ),
        Part(
            "wider networks",
            f"Held-in scores rise from width {narrow} to {wide}, over all rules and numbers of experts",
            measured.interval(lambda mean: _over(mean, [wide], COUNTS) - _over(mean, [narrow], COUNTS)),
            ">",
            0.0,
        ),
        Part(
            "DARE rescales",
            f"Nine in ten changes of a single expert of width {wide} can be dropped for less than 3 points, with rescaling",
            measured.interval(lambda mean: lost(mean, "with rescaling")),
            "<",
            CLOSE,
        ),
        Part(
            "DARE without",
            "Without rescaling that costs more than 3 points",
            measured.interval(lambda mean: lost(mean, "without rescaling")),
            ">",
            CLOSE,
        ),
        Part(
            "rules alike",
            f"The spread between the four rules is smaller at width {wide} than at {narrow}",
            measured.interval(lambda mean: _spread(mean, narrow) - _spread(mean, wide)),
            ">",
            0.0,
            decides=False,
        ),
        Part(
            "held out",
            f"Merging six experts of width {wide} raises accuracy on views that no expert has seen above the base's",
            measured.interval(lambda mean: _held_out_gain(mean, wide, COUNTS[-1])),
            ">",
            1.0,
            decides=False,
        ),
        Part(
            "strong base",
            f"Averages of six experts of width {middle} come closer to the experts from a base that has learnt from four times as much",
            measured.interval(
                lambda mean: (
                    _held_in_score(mean, "strong", COUNTS[-1], "averaging")
                    - _held_in_score(mean, middle, COUNTS[-1], "averaging")
                )
            ),
            ">",
            0.0,
            decides=False,
        ),
    )


def _figures(measured: Measured, widths: Sequence[int]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for width in widths:
        for count in COUNTS:
            found = measured.interval(lambda mean, w=width, n=count: _over(mean, [w], [n]))
            what = f"share of the experts' accuracy, {count} experts of width {width}, over the four rules"
            figures[f"held in, width {width}, {count} experts"] = Figure(what, found)
        found = measured.interval(lambda mean, w=width: _spread(mean, w))
        figures[f"spread, width {width}"] = Figure(f"best rule minus worst at width {width}", found)
    for how in DROPPED:
        found = measured.interval(lambda mean, h=how: mean(("dropped", h)))
        figures[f"DARE {how}"] = Figure(f"accuracy of single experts, nine in ten changes dropped, {how}", found)
    return figures


def _cell(measured: Measured, width: int, rule: str, count: int) -> Interval:
    return measured.interval(lambda mean: _held_in_score(mean, width, count, rule))


def _held_in_table(measured: Measured, widths: Sequence[int]) -> Table:
    rows = [
        (f"width {width}, {count} experts", *(_cell(measured, width, rule, count) for rule in RULES))
        for width in widths
        for count in COUNTS
    ]
    return Table("Held in: share of the experts' accuracy", ("", *RULES), tuple(rows))


def _held_out_table(measured: Measured, widths: Sequence[int]) -> Table:
    rows = [
        (
            f"width {width}",
            *(measured.interval(lambda mean, w=width, n=count: _held_out_gain(mean, w, n)) for count in COUNTS),
        )
        for width in widths
    ]
    title = "Held out: share of the base's accuracy on views without an expert, over the four rules"
    return Table(title, ("", *(f"{count} experts" for count in COUNTS)), tuple(rows))


def _dropped_table(measured: Measured) -> Table:
    names = {"nothing dropped": "own", **{f"90 % dropped, {how}": how for how in DROPPED}}
    rows = [(name, measured.interval(lambda mean, k=key: mean(("dropped", k)))) for name, key in names.items()]
    return Table(
        "DARE on single experts of the widest network: accuracy on the own task", ("", "accuracy"), tuple(rows)
    )


def _plot(measured: Measured, widths: Sequence[int]) -> Plot:
    lines = {
        f"{count} experts": [
            (float(w), measured.interval(lambda mean, w=w, n=count: _over(mean, [w], [n]))) for w in widths
        ]
        for count in COUNTS
    }
    return Plot(
        "Merging over width and number of experts", "width", "share of the experts' accuracy", lines, log_x=True
    )


MERGING_AT_SCALE = Study(
    id="merging-at-scale",
    title="What matters for merging at scale",
    paper="arXiv:2410.03617",
    claim="More experts merge worse and larger models merge better; most of an expert's changes can go if the rest is rescaled.",
    experiment=experiment,
)
