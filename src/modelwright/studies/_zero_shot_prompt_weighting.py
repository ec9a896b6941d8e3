"""ZPE: do weights that are found without labels make prompts better than equal weights, and the naive score worse?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from modelwright.chat import Debias, embedding_logits, prompt_scores, weigh, weighted_logits, weights_of
from modelwright.studies._digits import digits
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.tensors import Array

#: Ways to score prompts.
WAYS: tuple[Debias, ...] = ("none", "test", "pretrain", "both")
#: Of the generated case: good and biased prompts, and what cosines are multiplied by.
GOOD, BIASED, SCALE = 5, 15, 100.0
#: Noise of the prompts about digits, from a prompt that fits to one that does not.
NOISE = (0.1, 0.3, 0.6, 1.0, 1.5, 2.0)
#: Prompts of each noise.
EACH = 3


def experiment(setting: Setting) -> Findings:
    """Generated embeddings with prompts that are known to be good; then a two-tower model of digits."""
    measured = Measured()
    for seed in setting.each_seed():
        _generated(measured, seed, 120 if setting.smoke else 500)
        _digits(measured, seed)
    return Findings(
        parts=_parts(measured),
        figures=_figures(measured),
        tables=(_table(measured),),
        plots=(_plot(measured),),
        notes=(
            "Generated: images point in a common direction and in that of their class; 5 prompts know the classes, and 15 know "
            "little more than the common direction, each in its own measure.",
            "Digits: images are their centred pixels through a fixed random layer; the texts of a prompt are the means of the "
            "classes with noise, more for worse prompts. Reference images are of pixels put in random order.",
            "Scores see test images without their labels, as in the paper. Labels choose the best single prompt, so that nothing "
            "that chooses one could do better.",
        ),
    )


def _unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _generated(measured: Measured, seed: int, n: int) -> None:
    rng = np.random.default_rng((seed, 40))
    d, classes = 64, 5
    g, mu = _unit(rng.normal(size=d)), _unit(rng.normal(size=(classes, d)))
    labels = rng.integers(classes, size=n)
    images = g + 0.6 * mu[labels] + 0.10 * rng.normal(size=(n, d))
    reference = g + 0.5 * _unit(rng.normal(size=(n, d))) + 0.10 * rng.normal(size=(n, d))
    good = mu + 0.25 * g + 0.05 * rng.normal(size=(GOOD, classes, d))
    common = 0.8 + 0.15 * rng.normal(size=(BIASED, classes, 1))
    biased = 0.1 * mu + common * g + 0.10 * rng.normal(size=(BIASED, classes, d))
    texts = np.concatenate([good, biased])
    _judge(measured, seed, "generated", images, reference, texts, labels)


def _judge(
    measured: Measured, seed: int, about: str, images: Array, reference: Array, texts: Array, labels: Array
) -> None:
    logits, other = (embedding_logits(rows, texts, SCALE) for rows in (images, reference))
    for way in WAYS:
        weights = weights_of(prompt_scores(logits, other, debias=way))
        found = weigh(logits, weights, labels)
        right = (weighted_logits(logits, weights).argmax(axis=1) == labels).mean()
        measured.add(seed, (about, way), float(right))
        measured.add(seed, (about, way, "mass"), float(weights[:GOOD].sum()))
        if way == "both":
            for name in ("uniform", "best_single", "mean_single", "chosen_single"):
                measured.add(seed, (about, name), float(getattr(found, name)))


def _digits(measured: Measured, seed: int) -> None:
    from scipy.stats import spearmanr

    parts = digits(seed)
    rng = np.random.default_rng((seed, 41))
    pixels, labels = (np.asarray(v, np.float64) for v in (parts["test"].inputs, parts["test"].targets))
    train, targets = (np.asarray(v, np.float64) for v in (parts["tune"].inputs, parts["tune"].targets))
    pixels, train = pixels.reshape(len(pixels), -1), train.reshape(len(train), -1)
    centre = train.mean(axis=0)
    layer = rng.normal(size=(train.shape[1], 128)) / math.sqrt(train.shape[1])

    def seen(rows: Array) -> Array:
        return np.maximum((rows - centre) @ layer, 0.0)

    means = np.stack([seen(train[targets == digit]).mean(axis=0) for digit in range(10)])
    spread = means.std()
    texts = np.concatenate([means + noise * spread * rng.normal(size=(EACH, *means.shape)) for noise in NOISE])
    shuffled = rng.permuted(train[: len(pixels)], axis=1)
    images, reference = seen(pixels), seen(shuffled)
    _judge(measured, seed, "digits", images, reference, texts, labels.astype(int))
    logits = embedding_logits(images, texts, SCALE)
    alone = (logits.argmax(axis=2) == labels[:, None]).mean(axis=0)
    scores = prompt_scores(logits, embedding_logits(reference, texts, SCALE))
    measured.add(seed, "order", float(spearmanr(alone, scores)[0]))  # type: ignore[reportArgumentType]
    for i, noise in enumerate(NOISE):
        measured.add(seed, ("alone", noise), float(alone[i * EACH : (i + 1) * EACH].mean()))
        measured.add(seed, ("weight", noise), float(weights_of(scores)[i * EACH : (i + 1) * EACH].sum()))


def _parts(measured: Measured) -> tuple[Part, ...]:
    def gain(about: str, first: str, second: str) -> Any:
        return measured.interval(lambda mean: mean((about, first)) - mean((about, second)))

    return (
        Part(
            "finds the good", "On generated embeddings more than 99 % of the weight is on the good prompts, for every seed",
            measured.range(lambda mean: mean(("generated", "both", "mass"))), ">", 0.99,
        ),
        Part("over uniform", "There ZPE is at least as good as equal weights", gain("generated", "both", "uniform"), ">=", 0.0),
        Part("naive is worse", "There the score without the subtraction is worse than equal weights", gain("generated", "none", "uniform"), "<", 0.0),
        Part(
            "order", "On digits, scores have the order of the prompts' own accuracies (Spearman above 0.7)",
            measured.interval(lambda mean: mean("order")), ">", 0.7, unit="",
        ),
        Part("over uniform, digits", "On digits ZPE is better than equal weights", gain("digits", "both", "uniform"), ">", 0.0),
        Part(
            "over the best single, digits", "On digits ZPE is better than the best single prompt, chosen with labels",
            gain("digits", "both", "best_single"), ">", 0.0, decides=False,
        ),
    )  # fmt: skip


_SYSTEMS = (*WAYS, "uniform", "best_single", "mean_single", "chosen_single")


def _figures(measured: Measured) -> dict[str, Figure]:
    return {
        f"{about}, {name}": Figure(f"accuracy, {about}: {name.replace('_', ' ')}", measured.interval(lambda mean, n=(about, name): mean(n)))
        for about in ("generated", "digits")
        for name in _SYSTEMS
    }  # fmt: skip


def _table(measured: Measured) -> Table:
    rows = [
        (
            name.replace("_", " "),
            *(measured.interval(lambda mean, n=(about, name): mean(n)) for about in ("generated", "digits")),
        )
        for name in _SYSTEMS
    ]
    return Table("Accuracy by how prompts are weighted", ("weights", "generated", "digits"), tuple(rows))


def _plot(measured: Measured) -> Plot:
    return Plot(
        "Prompts about digits, by their noise", "noise", "share",
        {
            "accuracy alone": [(n, measured.interval(lambda mean, n=n: mean(("alone", n)))) for n in NOISE],
            "weight of its three prompts": [(n, measured.interval(lambda mean, n=n: mean(("weight", n)))) for n in NOISE],
        },
    )  # fmt: skip


ZERO_SHOT_PROMPT_WEIGHTING = Study(
    id="zero-shot-prompt-weighting",
    title="Zero-shot prompt weighting",
    paper="arXiv:2302.06235",
    claim="Weights found without labels make an ensemble of prompts better than equal weights, if what is expected of every input is subtracted.",
    experiment=experiment,
    needs=("sklearn", "scipy"),
)
