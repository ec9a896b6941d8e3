"""MUSCLE's measures: what an update that is better on average breaks."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.predictions.measures import compatibility, error_correlation, expected_flips
from modelwright.studies._digits import digits
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.suites._views import CLASSES, SIDE
from modelwright.tensors import Array
from modelwright.train import Training, mlp_probabilities, random_mlp, train_mlp

#: Images that each version sees, and the widths of their hidden layers.
IMAGES, OLD_WIDTH, NEW_WIDTH = 300, 16, 64
CORRELATIONS = (0.0, 0.25, 0.5, 0.75)
#: Of a new version's errors, the least share that the old one had right for the claim to hold; how far scripted systems may
#: lie from the closed form; how exact exact is.
REGRESSIONS, NEAR, EXACT = 0.2, 0.01, 1e-12


def experiment(setting: Setting) -> Findings:
    """A small network and its wider successor on digits; scripted systems whose flips are known."""
    measured = Measured()
    for seed in setting.each_seed():
        _update(measured, seed, setting.smoke)
        _scripted(measured, seed, 20_000 if setting.smoke else 200_000)
    return Findings(
        parts=_parts(measured),
        figures={
            name: Figure(words, measured.interval(lambda mean, n=name: mean(n))) for name, words in _FIGURES.items()
        },
        tables=(_table(measured),),
        plots=(_plot(measured),),
        notes=(
            "This is the first half of the paper: what is measured. Training a compatible adapter, which is the other half and the "
            "source of its headline figures, is not part of this study, and the verdict says nothing about it.",
            "The old version is a network of 16 hidden units on 300 images, the new one of 64 on 300 others; the paper's are "
            "language models of successive generations.",
            "A warm start tunes the old version's weights on the new images; the pair answers by the mean of both versions' "
            "probabilities. Neither is the paper's method.",
        ),
    )


_FIGURES = {
    "old": "accuracy of the old version",
    "new": "accuracy of the new version",
    "negative flips": "right before and wrong now",
    "positive flips": "wrong before and right now",
    "inconsistency": "wrong now and not as before",
    "warm start": "right before and wrong now, after a warm start",
    "pair": "right before and wrong now, of both versions together",
    "accuracy of warm start": "accuracy after a warm start",
    "accuracy of pair": "accuracy of both versions together",
}


def _update(measured: Measured, seed: int, small: bool) -> None:
    parts = digits(seed, 400 if small else None)
    images = {name: np.asarray(items.inputs).reshape(len(items), -1) for name, items in parts.items()}
    labels = {name: np.asarray(items.targets) for name, items in parts.items()}
    count, epochs = (80, 20) if small else (IMAGES, 60)
    training = Training(epochs, rate=0.02)

    def trained(start: Any, rows: slice, stream: int) -> Any:
        rng = np.random.default_rng((seed, stream))
        return train_mlp(start, images["tune"][rows], labels["tune"][rows], training, rng)

    first, second = slice(0, count), slice(count, 2 * count)
    old = trained(random_mlp(SIDE * SIDE, (OLD_WIDTH,), CLASSES, np.random.default_rng((seed, 1))), first, 2)
    new = trained(random_mlp(SIDE * SIDE, (NEW_WIDTH,), CLASSES, np.random.default_rng((seed, 3))), second, 4)
    warm = trained(old, second, 5)
    said = {name: mlp_probabilities(w, images["test"]) for name, w in (("old", old), ("new", new), ("warm", warm))}
    said["pair"] = (said["old"] + said["new"]) / 2
    answers = {name: found.argmax(axis=1) for name, found in said.items()}
    targets = labels["test"]
    right = {name: found == targets for name, found in answers.items()}
    for name in ("old", "new"):
        measured.add(seed, name, right[name])
    measured.add(seed, "negative flips", right["old"] & ~right["new"])
    measured.add(seed, "positive flips", ~right["old"] & right["new"])
    measured.add(seed, "inconsistency", ~right["new"] & (answers["new"] != answers["old"]))
    for name, label in (("warm", "warm start"), ("pair", "pair")):
        measured.add(seed, label, right["old"] & ~right[name])
        measured.add(seed, f"accuracy of {label}", right[name])
    _identities(measured, seed, answers, targets)


def _identities(measured: Measured, seed: int, answers: dict[str, Array], targets: Array) -> None:
    """How far the library's figures are from what they must be of each other."""
    found = compatibility(answers["old"], answers["new"], targets)
    rho = error_correlation(np.stack([answers["old"] == targets, answers["new"] == targets]))[0, 1]
    a, b = found.old_accuracy, found.new_accuracy
    off = (
        found.negative_flips - expected_flips(a, b, float(rho)),
        found.positive_flips - found.negative_flips - (b - a),
        found.trust - (1 - found.negative_flips / a),
    )
    measured.add(seed, "off", float(np.abs(off).max()))


def _scripted(measured: Measured, seed: int, count: int) -> None:
    """Systems that are right on 80 % and 85 %, with given correlations, on drawn items."""
    rng, a, b = np.random.default_rng((seed, 7)), 0.8, 0.85
    for rho in CORRELATIONS:
        both = a * b + rho * np.sqrt(a * (1 - a) * b * (1 - b))
        kind = rng.choice(4, count, p=[both, a - both, b - both, 1 - a - b + both])
        found = compatibility(np.isin(kind, (0, 1)), np.isin(kind, (0, 2)), np.ones(count, bool)).negative_flips
        measured.add(seed, ("scripted", rho), found)
        measured.add(seed, ("scripted off", rho), abs(found - expected_flips(a, b, rho)))


def _parts(measured: Measured) -> tuple[Part, ...]:
    return (
        Part(
            "better",
            "The new version is better than the old one",
            measured.interval(lambda mean: mean("new") - mean("old")),
            ">",
            0.0,
        ),
        Part(
            "regressions",
            "At least a fifth of its errors are on what the old version had right",
            measured.interval(lambda mean: mean("negative flips") / np.maximum(1 - mean("new"), 1e-9)),
            ">",
            REGRESSIONS,
        ),
        Part(
            "more than flips",
            "Inconsistency, which also counts changes from one wrong answer to another, is larger than negative flips",
            measured.interval(lambda mean: mean("inconsistency") - mean("negative flips")),
            ">",
            0.0,
        ),
        Part(
            "closed form",
            "Scripted systems flip as accuracies and correlation say, within 0.01 for every seed",
            measured.range(lambda mean: np.max([mean(("scripted off", rho)) for rho in CORRELATIONS], axis=0)),
            "<",
            NEAR,
            unit="",
        ),
        Part(
            "identities",
            "Flips, accuracies, trust and correlation fit each other to rounding",
            measured.range(lambda mean: mean("off")),
            "<",
            EXACT,
            unit="",
        ),
        Part(
            "warm start",
            "Starting from the old version's weights makes fewer negative flips",
            measured.interval(lambda mean: mean("negative flips") - mean("warm start")),
            ">",
            0.0,
            decides=False,
        ),
    )


def _table(measured: Measured) -> Table:
    rows = [(words, measured.interval(lambda mean, n=name: mean(n))) for name, words in _FIGURES.items()]
    return Table("An update on digits: shares of test images", ("measure", "share"), tuple(rows))


def _plot(measured: Measured) -> Plot:
    drawn = [(rho, measured.range(lambda mean, r=rho: mean(("scripted", r)))) for rho in CORRELATIONS]
    return Plot(
        "Negative flips of systems that are right on 80 % and 85 %", "correlation of being right", "negative flips",
        {"scripted systems": drawn},
    )  # fmt: skip


MUSCLE = Study(
    id="muscle",
    title="MUSCLE's compatibility measures",
    paper="arXiv:2407.09435",
    claim="An update that is better on average gets wrong what the old model had right, which average accuracy does not show.",
    experiment=experiment,
    seeds=10,
)
