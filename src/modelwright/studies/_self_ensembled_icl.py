"""Self-ensembled in-context learning: is one model under several prompts better calibrated, by mean and by maximum?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from modelwright.chat import combine_variants, label_probabilities
from modelwright.studies._digits import digits
from modelwright.studies._evidence import Interval, Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.tensors import Array

#: Ways to come from variants to one distribution; the first is one variant alone.
RULES = ("single", "mean_prob", "max_prob", "majority")
BINS = 10
VARIANTS = 20
COUNTS = (1, 2, 5, 10, 20)
#: Over-confident, noisy variants of what is known of each item.
ITEMS, LABELS, SPREAD, NOISE, SHARPNESS = 3000, 5, 1.5, 0.7, 3.0
#: Digits: images that a network is over-fitted on, and how far accuracy may fall.
FEW, KEEPS = 100, 0.02


def experiment(setting: Setting) -> Findings:
    """Generated distributions; and an over-fitted network that sees each image shifted in several ways."""
    made, seen = Measured(), Measured()
    for seed in setting.each_seed():
        rng = np.random.default_rng((seed, 71))
        known = rng.normal(0, SPREAD, size=(300 if setting.smoke else ITEMS, LABELS))
        labels = (label_probabilities(known).cumsum(axis=1) > rng.random((len(known), 1))).argmax(axis=1)
        noisy = known[None] + rng.normal(0, NOISE, size=(VARIANTS, *known.shape))
        _measure(made, seed, label_probabilities(SHARPNESS * noisy), labels)
        _measure(seen, seed, *_shifted(seed, smoke=setting.smoke))
    return Findings(
        parts=_parts(made, seen),
        figures=_figures({"generated": made, "digits": seen}),
        tables=tuple(_table(name, one) for name, one in (("Generated", made), ("Digits", seen))),
        plots=(_plot(made),),
        notes=(
            f"Generated: scores of {LABELS} labels, and {VARIANTS} over-confident, noisy variants of each item. Digits: a network "
            f"that is over-fitted on {FEW} images sees each test image under {VARIANTS} random shifts by up to a pixel; these stand "
            "for prompts, as the network is no language model.",
            "Single is the first variant. The calibration error has ten bins of the largest probability.",
            "Fine-tuning with demonstrations, the paper's third way, is not part of this.",
        ),
    )


def _shifted(seed: int, *, smoke: bool) -> tuple[Array, Array]:
    """Distributions of an over-fitted network under shifts, shape (variants, items, labels), and the labels."""
    from sklearn.neural_network import MLPClassifier

    parts = digits(seed, 400 if smoke else None)
    images, targets = np.asarray(parts["tune"].inputs)[:FEW], np.asarray(parts["tune"].targets)[:FEW]
    network = MLPClassifier((64,), alpha=0.0, max_iter=60 if smoke else 400, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is over-fitted on purpose, and not trained to the end
        network.fit(images.reshape(len(images), -1), targets)
    test = np.asarray(parts["test"].inputs)
    test = test.reshape(len(test), 8, 8)
    rng = np.random.default_rng((seed, 72))
    moves = rng.integers(-1, 2, size=(VARIANTS, 2))
    found = np.stack([network.predict_proba(np.roll(test, move, axis=(1, 2)).reshape(len(test), -1)) for move in moves])
    labels = np.searchsorted(network.classes_, np.asarray(parts["test"].targets))
    return found / found.sum(axis=2, keepdims=True), labels


def calibration_error(probabilities: Array, labels: Array) -> float:
    """The mean distance of accuracy from confidence over ten bins of equal width, weighted by their items."""
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    total = sum(abs(right[bins == b].sum() - sure[bins == b].sum()) for b in range(BINS))
    return float(total / len(labels))


def _measure(measured: Measured, seed: int, found: Array, labels: Array) -> None:
    for count in COUNTS:
        for rule in RULES[1:]:
            made, chosen = combine_variants(found[:count], rule)  # type: ignore[reportArgumentType]
            measured.add(seed, ("right", rule, count), (chosen == labels).astype(float))
            measured.add(seed, ("error", rule, count), calibration_error(made, labels))
    measured.add(seed, ("right", "single", VARIANTS), (found[0].argmax(axis=1) == labels).astype(float))
    measured.add(seed, ("error", "single", VARIANTS), calibration_error(found[0], labels))


def _less(measured: Measured, what: str, rule: str, than: str) -> Interval:
    """How much larger a figure is under one rule than under another."""
    return measured.interval(lambda mean: mean((what, rule, VARIANTS)) - mean((what, than, VARIANTS)))


def _parts(made: Measured, seen: Measured) -> Sequence[Part]:
    parts = [
        Part(f"{rule} calibrates", f"Generated: {rule} has less calibration error than one variant",
             _less(made, "error", "single", rule), ">", 0.0)
        for rule in ("mean_prob", "max_prob")
    ]  # fmt: skip
    parts += [
        Part(f"{rule} keeps accuracy", f"Generated: {rule} is right as often as one variant, or more often",
             _less(made, "right", rule, "single"), ">=", 0.0)
        for rule in RULES[1:]
    ]  # fmt: skip
    parts.append(
        Part("majority does not", "Generated: a majority has more calibration error than the mean",
             _less(made, "error", "majority", "mean_prob"), ">", 0.0)
    )  # fmt: skip
    parts.append(
        Part("max is best", "Generated: the maximum has no more calibration error than the mean",
             _less(made, "error", "mean_prob", "max_prob"), ">=", 0.0)
    )  # fmt: skip
    for rule in ("mean_prob", "max_prob"):
        parts.append(
            Part(f"{rule} calibrates digits", f"Digits: {rule} has less calibration error than one variant",
                 _less(seen, "error", "single", rule), ">", 0.0)
        )  # fmt: skip
        parts.append(
            Part(f"{rule} keeps digits", f"Digits: {rule} loses less than 2 points of accuracy",
                 _less(seen, "right", "single", rule), "<", KEEPS)
        )  # fmt: skip
    return parts


def _figures(measured: dict[str, Measured]) -> dict[str, Figure]:
    words = {"right": "accuracy", "error": "calibration error"}
    return {
        f"{name}, {rule}, {words[what]}": Figure(
            f"{words[what]} by {rule}, {name}", one.interval(lambda mean, k=(what, rule, VARIANTS): mean(k))
        )
        for name, one in measured.items()
        for rule in RULES
        for what in words
    }


def _table(name: str, measured: Measured) -> Table:
    rows = [
        (rule, *(measured.interval(lambda mean, k=(what, rule, VARIANTS): mean(k)) for what in ("right", "error")))
        for rule in RULES
    ]
    return Table(f"{name}: accuracy and calibration error", ("rule", "accuracy", "calibration error"), tuple(rows))


def _plot(measured: Measured) -> Plot:
    lines = {
        rule: [(float(n), measured.interval(lambda mean, k=("error", rule, n): mean(k))) for n in COUNTS]
        for rule in RULES[1:]
    }
    return Plot("Generated: calibration error over variants", "variants", "calibration error", lines)


SELF_ENSEMBLED_ICL_STUDY = Study(
    id="self-ensembled-icl",
    title="Self-ensembled in-context learning",
    paper="arXiv:2312.13772",
    claim="One model under several prompts is better calibrated by the mean and the maximum of its probabilities, at no cost in "
    "accuracy; a majority vote does not help.",
    experiment=experiment,
)
