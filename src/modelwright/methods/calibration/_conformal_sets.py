"""Split conformal prediction: sets of classes that hold the right one as often as is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from modelwright.methods._method import Params
from modelwright.methods._outputs import CLASSES, NumpyArray, OutputMethod, fixed, of_labels, on_outputs
from modelwright.methods.calibration._conformal import quantile


class ConformalSetsParams(Params):
    """Parameters of `conformal_sets`."""

    coverage: float = Field(0.9, gt=0, lt=1, description="How often the set must hold the right class, at least.")
    score: Literal["lac", "aps"] = Field(
        "lac", description="lac: smallest sets on average; aps: sets that grow with how hard a sample is."
    )
    randomized: bool = Field(
        False, description="aps: include the last class by chance, for a coverage that is not above."
    )
    allow_empty: bool = Field(False, description="Leave sets empty; else the most probable class is always in.")
    seed: int = Field(0, ge=0, description="Of the draws of `randomized`, which go by the samples' ids.")


@on_outputs(ConformalSetsParams, axes=2)
def conformal_sets(
    outputs: NumpyArray,
    *,
    coverage: float = 0.9,
    score: str = "lac",
    randomized: bool = False,
    allow_empty: bool = False,
    seed: int = 0,
    threshold: float | None,
    noise: NumpyArray | None = None,
) -> NumpyArray:
    """All classes whose score is at most the threshold.

    Score of a class: `lac`: 1 - p; `aps`: the sum of the probabilities of all classes before it, the most probable first and
    lower indices first among equal ones, plus its own, of which with `randomized` only the share u is counted.

    Args:
        outputs: Probabilities (n, C).
        coverage: As for `fit_sets`; unused here.
        score: `lac` or `aps`.
        randomized: Whether `aps` draws.
        allow_empty: Whether a set may be empty.
        seed: What `noise` was drawn from; unused here.
        threshold: From `fit_sets`; None takes all classes.
        noise: u, in [0, 1), (n,), with `randomized`.

    Returns:
        bool (n, C).

    Differs:
        See `CONFORMAL_SETS.differs`.

    Source:
        Sadinle et al. 2019, "Least ambiguous set-valued classifiers", for lac; Romano et al. 2020, arXiv:2006.02544, for aps.
    """
    if threshold is None:
        return np.ones(outputs.shape, dtype=bool)
    sets = _scores(outputs, score, noise if randomized else None) <= threshold
    if not allow_empty:
        sets[np.arange(len(outputs)), outputs.argmax(axis=-1)] = True
    return sets


def fit_sets(
    outputs: NumpyArray,
    labels: NumpyArray,
    *,
    coverage: float = 0.9,
    score: str = "lac",
    randomized: bool = False,
    allow_empty: bool = False,
    seed: int = 0,
    noise: NumpyArray | None = None,
) -> dict[str, Any]:
    """The threshold: the ceil((n + 1) coverage)-th smallest score of the right classes of n samples.

    For samples that can be exchanged with these, sets then hold the right class with a probability of at least `coverage`, and
    with `lac`, or `randomized`, and `allow_empty`, of at most coverage + 1 / (n + 1) where scores do not coincide.

    Args:
        outputs: Probabilities (n, C).
        labels: Class indices (n,).
        coverage: In (0, 1).
        score: `lac` or `aps`.
        randomized: Whether `aps` draws.
        allow_empty: Unused here.
        seed: As for `conformal_sets`.
        noise: As for `conformal_sets`.

    Returns:
        `threshold`; None where n is below coverage / (1 - coverage), which no finite threshold is enough for.
    """
    scores = _scores(outputs, score, noise if randomized else None)
    return {"threshold": quantile(of_labels(scores, labels), coverage)}


def _scores(probabilities: NumpyArray, score: str, noise: NumpyArray | None) -> NumpyArray:
    """(n, C): how odd each class would be."""
    if score == "lac":
        return 1.0 - probabilities
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=-1)
    before = np.cumsum(ranked, axis=-1) - ranked
    found = np.empty_like(probabilities)
    own = ranked if noise is None else ranked * noise[:, None]
    np.put_along_axis(found, order, before + own, axis=-1)
    return found


def _draws(params: Mapping[str, Any]) -> bool:
    return params["score"] == "aps" and bool(params["randomized"])


CONFORMAL_SETS = OutputMethod(
    name="conformal_sets",
    title="Conformal sets",
    paper="arXiv:2006.02544",
    summary="Sets of classes that hold the right one as often as is asked for, whatever the model is.",
    kind="calibration",
    function=conformal_sets,
    params=ConformalSetsParams,
    takes=CLASSES,
    space=fixed("probabilities"),
    laws=frozenset({"shift"}),
    gives="sets",
    fit=fit_sets,
    noise=_draws,
    differs=(
        "APS draws in the paper; without `randomized` the whole of the last class counts, which covers more than is asked for.",
        "The most probable class is in every set unless `allow_empty` is said; that can only raise the coverage.",
    ),
)
