"""Window-based early exits: the second member only where it can change what is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from modelwright.predictions import Predictions
from modelwright.predictions.cascades import Aim, CascadeOutput, apply_cascade, fit_cascade
from modelwright.predictions.measures import coverage_at_risk
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.suites._views import CLASSES, SIDE, digit_images
from modelwright.tensors import Array
from modelwright.train import Training, mlp_probabilities, random_mlp, train_mlp

#: Standard deviation of the noise on pixels in [0, 1]; members are right on some 80 %.
NOISE = 0.4
#: Noisy versions of each validation and test image.
DRAWS = 5
RISK = 0.05
WIDTH = 0.1
WIDTHS = tuple(step / 40 for step in range(0, 21, 2))
#: How far the window may stay behind the whole ensemble, in coverage; and what it may cost, in answers of one member.
BEHIND = 0.01
COST = 1.25


def experiment(setting: Setting) -> Findings:
    """Pairs of networks on noisy digits; windows from validation images, judged on test images."""
    measured = Measured()
    for seed in setting.each_seed():
        validation, test = _banks(seed, setting.smoke)
        _measure(measured, seed, validation, test)
    return Findings(
        parts=_parts(measured),
        figures={
            f"{what}, {name}": Figure(f"{words}: {name}", measured.interval(lambda mean, k=(name, what): mean(k)))
            for what, words in (("coverage", "coverage at a risk of 5 %"), ("accuracy", "accuracy on all images"))
            for name in _SYSTEMS
        },
        tables=(_table(measured),),
        plots=(_plot(measured),),
        notes=(
            "Members are two small networks of different initial weights, trained on the same 539 images under fresh noise; the "
            "paper's are EfficientNets on ImageNet, and its savings are multiply-adds, which here are answers.",
            "An image is shown five times under different noise, in one split only. Intervals are over seeds, each with its own "
            "split, noise and networks.",
            "The single threshold and the random choice pass on as many of the validation images as the window does.",
        ),
    )


_SYSTEMS = ("one member", "window", "single threshold", "random", "ensemble")


def _banks(seed: int, small: bool) -> tuple[Predictions, Predictions]:
    """Predictions of two members on validation and on test images."""
    from sklearn.model_selection import train_test_split

    images, labels = digit_images("a study", 300 if small else None)
    pixels = images.reshape(-1, SIDE * SIDE)
    tune, rest = train_test_split(np.arange(len(labels)), train_size=0.3, stratify=labels, random_state=seed)
    halves = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=seed)
    training = Training(20 if small else 150, rate=0.02, noise=NOISE)
    members = []
    for member in range(2):
        start = random_mlp(SIDE * SIDE, (32,), CLASSES, np.random.default_rng((seed, 1, member)))
        members.append(train_mlp(start, pixels[tune], labels[tune], training, np.random.default_rng((seed, 2, member))))
    rng = np.random.default_rng((seed, 3))
    banks = []
    for half in halves:
        rows = np.repeat(half, DRAWS)
        shown = pixels[rows] + rng.normal(0, NOISE, (len(rows), SIDE * SIDE)).astype(np.float32)
        said = np.stack([mlp_probabilities(weights, shown) for weights in members])
        ids = [f"{row}/{i % DRAWS}" for i, row in enumerate(rows.tolist())]
        banks.append(Predictions.of(said, labels[rows], scale="probabilities", ids=ids))
    return banks[0], banks[1]


def _measure(measured: Measured, seed: int, validation: Predictions, test: Predictions) -> None:
    aim = Aim("coverage_at_risk", RISK)
    window = fit_cascade(validation, aim=aim, width=WIDTH)
    share = float((apply_cascade(window, validation).stages > 0).mean())
    drawn = np.random.default_rng((seed, 4)).random(len(test)) >= share
    outputs: Mapping[str, CascadeOutput] = {
        "one member": apply_cascade(fit_cascade(validation, aim=aim, width=0.0), test),
        "window": apply_cascade(window, test),
        "single threshold": apply_cascade(fit_cascade(validation, policy="single_threshold", width=share), test),
        "random": apply_cascade(window, test, exits=lambda stage, scores: drawn),
        "ensemble": apply_cascade(fit_cascade(validation, aim=aim, width=0.5), test),
    }
    for name, output in outputs.items():
        _keep(measured, seed, name, output, test)
    for width in WIDTHS:
        output = apply_cascade(fit_cascade(validation, aim=aim, width=width), test)
        _keep(measured, seed, ("window", width), output, test)
        threshold = fit_cascade(validation, policy="single_threshold", width=min(2 * width, 1.0))
        _keep(measured, seed, ("single threshold", width), apply_cascade(threshold, test), test)


def _keep(measured: Measured, seed: int, name: Any, output: CascadeOutput, test: Predictions) -> None:
    wrong: Array = output.probabilities.argmax(axis=1) != test.labels
    measured.add(seed, (name, "coverage"), coverage_at_risk(output.scores, wrong, RISK))
    measured.add(seed, (name, "accuracy"), float(1 - wrong.mean()))
    measured.add(seed, (name, "cost"), output.mean_cost)


def _parts(measured: Measured) -> tuple[Part, ...]:
    def gain(first: str, second: str, what: str = "coverage") -> Any:
        return measured.interval(lambda mean: mean((first, what)) - mean((second, what)))

    return (
        Part(
            "over one member",
            "At a risk of 5 % the window answers more than its first member alone",
            gain("window", "one member"),
            ">",
            0.0,
        ),
        Part(
            "like the ensemble",
            "It answers at most one point less than both members on everything",
            gain("ensemble", "window"),
            "<",
            BEHIND,
        ),
        Part(
            "cost",
            "It costs at most 1.25 answers a sample, where the ensemble costs 2",
            measured.interval(lambda mean: mean(("window", "cost"))),
            "<",
            COST,
            unit="",
        ),
        Part(
            "over a single threshold",
            "It answers more than a single threshold that passes on as many",
            gain("window", "single threshold"),
            ">",
            0.0,
        ),
        Part("over chance", "It answers more than passing on as many at random", gain("window", "random"), ">", 0.0),
        Part(
            "accuracy",
            "On plain accuracy the single threshold is at least as good as the window",
            gain("single threshold", "window", "accuracy"),
            ">=",
            0.0,
            decides=False,
        ),
    )


def _table(measured: Measured) -> Table:
    rows = [
        (
            name,
            measured.interval(lambda mean, n=name: mean((n, "coverage"))),
            measured.interval(lambda mean, n=name: mean((n, "accuracy"))),
            measured.interval(lambda mean, n=name: mean((n, "cost")) - 1),
        )
        for name in _SYSTEMS
    ]
    columns = ("system", "coverage at a risk of 5 %", "accuracy", "passed on")
    return Table("Two members on noisy digits", columns, tuple(rows))


def _plot(measured: Measured) -> Plot:
    lines = {
        policy: [
            (
                measured.interval(lambda mean, p=policy, w=width: mean(((p, w), "cost"))).value,
                measured.interval(lambda mean, p=policy, w=width: mean(((p, w), "coverage"))),
            )
            for width in WIDTHS
        ]
        for policy in ("window", "single threshold")
    }
    return Plot(
        "What is answered at a risk of 5 %, for what it costs", "answers of members a sample", "coverage", lines
    )


WINDOW_EARLY_EXIT = Study(
    id="window-early-exit",
    title="Window-based early exits",
    paper="arXiv:2303.08010",
    claim="A second member that is asked only near the threshold of accepting gives most of an ensemble's coverage for a fifth of its cost.",
    experiment=experiment,
    seeds=10,
)
