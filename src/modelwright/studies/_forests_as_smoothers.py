"""Forests as smoothers: how many effective parameters tree ensembles have on what they saw and on what they did not."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from modelwright.evaluate._predictor import needs
from modelwright.predictions import refit_parts, smoothing
from modelwright.studies._evidence import Interval, Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.tensors import Array

INPUTS = 5
SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)
SHARE = 1 / 3
OFFSETS = (0.0, 0.05, 0.1, 0.2, 0.3)
TREES = 50
#: Where effective parameters on unseen inputs are called far fewer; how exact exact is.
FIFTH, EXACT = 0.2, 1e-9


def experiment(setting: Setting) -> Findings:
    """Forests on MARSadd and on scikit-learn's diabetes data; refits without noise."""
    measured = Measured()
    trees, n, refits = (12, 60, 4) if setting.smoke else (TREES, 500, 20)
    for seed in setting.each_seed():
        rng = np.random.default_rng((seed, 0))
        train, test = rng.random((2, n, INPUTS))
        labels = mars_add(train) + rng.normal(size=n)
        _trees(measured, seed, (train, labels), (test, mars_add(test)), trees)
        _shares(measured, seed, (train, labels), test, trees)
        _offsets(measured, seed, (train, labels), trees)
        _boosting(measured, seed, (train, labels), test, setting.smoke)
        _refits(measured, seed, (train, mars_add(train)), (test, mars_add(test)), refits, trees)
        _diabetes(measured, seed, trees, 120 if setting.smoke else None)
    sizes = sorted({1, 2, 5, 10, 20, trees} - set(range(trees + 1, 100)))
    return Findings(
        parts=_parts(measured, n, trees, sizes),
        figures=_figures(measured, trees),
        tables=(_share_table(measured), _refit_table(measured, trees)),
        plots=(_tree_plot(measured, sizes), _offset_plot(measured)),
        notes=(
            "Effective parameters are n times the mean squared norm of the weights of the training labels, n being the number of "
            "training labels for unseen inputs too. They depend on the labels, by which trees split.",
            "MARSadd with noise of standard deviation 1, 500 training and 500 test inputs, 50 fully grown trees, as in the paper; "
            "refits are 20 where the paper has 50, without noise, on the same data.",
            "Forests split among a third of the inputs unless said otherwise; of five inputs that is one.",
            "Intervals are over seeds, each with its own data.",
        ),
    )


def mars_add(inputs: Array) -> Array:
    """Friedman's additive function of five inputs in [0, 1], without noise."""
    x1, x2, x3, x4, x5 = inputs.T
    return 0.1 * np.exp(4 * x1) + 4 / (1 + np.exp(-20 * (x2 - 0.5))) + 3 * x3 + 2 * x4 + x5


def _forest(trees: int, seed: int, share: float = SHARE, bootstrap: bool = False) -> Any:
    ensemble = needs("sklearn.ensemble", "a study")
    return ensemble.RandomForestRegressor(trees, max_features=share, bootstrap=bootstrap, random_state=seed)


def _trees(measured: Measured, seed: int, seen: tuple[Array, Array], unseen: tuple[Array, Array], trees: int) -> None:
    """After each tree, with bootstrap samples and without; and the error of one tree and of all."""
    for name, bootstrap in (("all", False), ("bootstrap", True)):
        model = _forest(trees, seed, bootstrap=bootstrap).fit(*seen)
        found = smoothing(model, *seen, unseen[0], each=True)
        for t in range(trees):
            measured.add(seed, ("train", name, t + 1), float(found.train[t]))
            measured.add(seed, ("test", name, t + 1), float(found.test[t]))
        measured.add(seed, ("off", name), float(np.abs(found.train - len(seen[1])).max()))
        errors = [(estimator.predict(unseen[0]) - unseen[1]) ** 2 for estimator in (model.estimators_[0], model)]
        for t, error in zip((1, trees), errors, strict=True):
            measured.add(seed, ("error", name, t), float(error.mean()))


def _shares(measured: Measured, seed: int, seen: tuple[Array, Array], unseen: Array, trees: int) -> None:
    for share in SHARES:
        found = smoothing(_forest(trees, seed, share).fit(*seen), *seen, unseen)
        measured.add(seed, ("share", share), float(found.test[-1]))


def _offsets(measured: Measured, seed: int, seen: tuple[Array, Array], trees: int) -> None:
    model = _forest(trees, seed).fit(*seen)
    moves = np.random.default_rng((seed, 1)).uniform(-1, 1, seen[0].shape)
    for offset in OFFSETS:
        measured.add(seed, ("gap", offset), smoothing(model, *seen, seen[0] + offset * moves).gap)


def _boosting(measured: Measured, seed: int, seen: tuple[Array, Array], unseen: Array, small: bool) -> None:
    """Boosted trees of 20 leaves from zero: effective parameters after each of four stages."""
    stages = (5, 10, 15, 20) if small else (25, 50, 100, 200)
    boosting = needs("sklearn.ensemble", "a study").GradientBoostingRegressor
    model = boosting(
        n_estimators=stages[-1], learning_rate=0.05, max_leaf_nodes=20, max_depth=None, init="zero",
        max_features=SHARE, random_state=seed,
    ).fit(*seen)  # fmt: skip
    found = smoothing(model, *seen, unseen, each=True)
    for place, stage in enumerate(stages):
        measured.add(seed, ("boosting", "train", place), float(found.train[stage - 1]))
        measured.add(seed, ("boosting", "test", place), float(found.test[stage - 1]))


def _refits(
    measured: Measured, seed: int, seen: tuple[Array, Array], unseen: tuple[Array, Array], count: int, trees: int
) -> None:
    for size in (1, trees):
        said = np.stack([_forest(size, 1000 * seed + r).fit(*seen).predict(unseen[0]) for r in range(count)])
        found = refit_parts(said, unseen[1])
        measured.add(seed, ("best", size), found.best_error)
        measured.add(seed, ("variability", size), found.variability)


def _diabetes(measured: Measured, seed: int, trees: int, most: int | None) -> None:
    inputs, labels = needs("sklearn.datasets", "a study").load_diabetes(return_X_y=True)
    order = np.random.default_rng((seed, 2)).permutation(len(labels))[:most]
    half = len(order) // 2
    seen, unseen = order[:half], order[half:]
    model = _forest(trees, seed).fit(inputs[seen], labels[seen])
    found = smoothing(model, inputs[seen], labels[seen], inputs[unseen], each=True)
    measured.add(seed, ("diabetes", "train"), float(found.train[-1]) / half)
    measured.add(seed, ("diabetes", "test"), float(found.test[-1]) / half)


def _parts(measured: Measured, n: int, trees: int, sizes: list[int]) -> tuple[Part, ...]:
    def over(figure: Any) -> Interval:
        return measured.interval(figure)

    falls = [(a, b) for a, b in itertools.pairwise(sizes)]
    return (
        Part(
            "interpolation",
            "Without bootstrap, fully grown forests of any size have n effective parameters on training inputs",
            measured.range(lambda mean: mean(("off", "all"))),
            "<=",
            EXACT * n,
            unit="",
        ),
        Part(
            "far fewer on unseen inputs",
            f"On test inputs {trees} trees have less than a fifth of them",
            over(lambda mean: mean(("test", "all", trees)) / n),
            "<",
            FIFTH,
        ),
        Part(
            "fewer with trees",
            f"Each step from {', '.join(map(str, sizes[:-1]))} to {sizes[-1]} trees lowers them",
            over(lambda mean: np.min([mean(("test", "all", a)) - mean(("test", "all", b)) for a, b in falls], axis=0)),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "fewer with randomness",
            "Splits among a fifth of the inputs leave fewer than splits among all",
            over(lambda mean: mean(("share", 1.0)) - mean(("share", 0.2))),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "none at the training inputs",
            "There is no gap at inputs that have not moved",
            measured.range(lambda mean: np.abs(mean(("gap", 0.0)))),
            "<=",
            EXACT * n,
            unit="",
        ),
        Part(
            "more with distance",
            "The gap grows with each offset of test inputs from training inputs",
            over(
                lambda mean: np.min(
                    [mean(("gap", b)) - mean(("gap", a)) for a, b in itertools.pairwise(OFFSETS)], axis=0
                )
            ),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "bootstrap",
            "Bootstrap samples lower effective parameters on training inputs too",
            over(lambda mean: mean(("train", "all", trees)) - mean(("train", "bootstrap", trees))),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "error",
            f"{trees} trees have a lower test error than one",
            over(lambda mean: mean(("error", "all", 1)) - mean(("error", "all", trees))),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "more than noise: bias",
            "Without noise, the best of refitted forests is nearer to the truth than the best of refitted trees",
            over(lambda mean: mean(("best", 1)) - mean(("best", trees))),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "more than noise: variability",
            "Without noise, refitted forests lie nearer to the best of them than refitted trees do",
            over(lambda mean: mean(("variability", 1)) - mean(("variability", trees))),
            ">",
            0.0,
            unit="",
        ),
        Part(
            "boosting",
            "Boosted trees, too, have fewer effective parameters on unseen inputs, at the last stage",
            over(lambda mean: mean(("boosting", "train", 3)) - mean(("boosting", "test", 3))),
            ">",
            0.0,
            decides=False,
            unit="",
        ),
        Part(
            "diabetes",
            "On the diabetes data they have less than a fifth on test inputs",
            over(lambda mean: mean(("diabetes", "test"))),
            "<",
            FIFTH,
            decides=False,
        ),
    )


def _figures(measured: Measured, trees: int) -> dict[str, Figure]:
    words = {"train": "training", "test": "test"}
    forests = {
        f"{side}, {name}": Figure(
            f"effective parameters on {words[side]} inputs, {trees} trees of {'bootstrap samples' if name != 'all' else 'all data'}",
            measured.interval(lambda mean, s=side, n=name: mean((s, n, trees))),
            "",
        )
        for side in ("train", "test")
        for name in ("all", "bootstrap")
    }
    diabetes = {
        f"diabetes, {side}": Figure(
            f"effective parameters by training labels on {words[side]} inputs of the diabetes data",
            measured.interval(lambda mean, s=side: mean(("diabetes", s))),
        )
        for side in ("train", "test")
    }
    return forests | diabetes


def _share_table(measured: Measured) -> Table:
    rows = [
        (f"{share:.0%} of the inputs", measured.interval(lambda mean, s=share: mean(("share", s)))) for share in SHARES
    ]
    boosted = [
        (
            f"boosting, stage {place + 1} of 4, {side}",
            measured.interval(lambda mean, s=side, p=place: mean(("boosting", s, p))),
        )
        for place in range(4)
        for side in ("train", "test")
    ]
    return Table(
        "Effective parameters on test inputs", ("splits among", "effective parameters"), (*rows, *boosted), unit=""
    )


def _refit_table(measured: Measured, trees: int) -> Table:
    rows = [
        (
            f"{size} tree{'s' if size > 1 else ''}",
            *(measured.interval(lambda mean, w=what, s=size: mean((w, s))) for what in ("best", "variability")),
        )
        for size in (1, trees)
    ]
    return Table(
        "Refits without noise", ("forest", "error of the best", "distance from the best"), tuple(rows), unit=""
    )


def _tree_plot(measured: Measured, sizes: list[int]) -> Plot:
    lines = {
        f"{side}, {name}": [(t, measured.interval(lambda mean, s=side, n=name, t=t: mean((s, n, t)))) for t in sizes]
        for side in ("train", "test")
        for name in ("all", "bootstrap")
    }
    return Plot("Effective parameters and trees", "trees", "effective parameters", lines, unit="", log_x=True)


def _offset_plot(measured: Measured) -> Plot:
    line = [(offset, measured.interval(lambda mean, o=offset: mean(("gap", o)))) for offset in OFFSETS]
    return Plot(
        "More on what was seen", "offset from training inputs", "gap in effective parameters", {"gap": line}, unit=""
    )


FORESTS_AS_SMOOTHERS = Study(
    id="forests-as-smoothers",
    title="Forests as smoothers",
    paper="arXiv:2402.01502",
    claim="Forests smooth more on unseen inputs than on seen ones, the more so the more random and the farther away, and help by more than less noise.",
    experiment=experiment,
    needs=("sklearn",),
    seeds=5,
)
