"""Whether the confidence in records can be believed; the measures themselves are those of predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelwright.errors import InputError
from modelwright.evaluate._metrics import METRICS
from modelwright.evaluate._records import Part
from modelwright.predictions.measures import (
    DEFAULT,
    Bin,
    Convention,
    aurc,
    calibration_error,
    reliability,
    risk_coverage,
    top_label_error,
)

#: Of a curve that a page shows.
_POINTS = 60


@dataclass(frozen=True)
class Calibration:
    """How well a system knows what it knows.

    Attributes:
        error: The calibration error, by the convention.
        brier: Brier score, summed over classes, in [0, 2]; None without probabilities of all classes.
        nll: Negative log-likelihood in nats; None likewise.
        convention: Which error.
        bins: Confidence against accuracy, bin by bin, those without items left out.
        risk: The share of wrong answers among the most confident items, for shares of them: (coverage, risk), thinned to at most
            `_POINTS` places that a threshold can produce.
        aurc: The area under all of that curve: the mean share of wrong answers over all coverages.
    """

    error: float
    brier: float | None
    nll: float | None
    convention: Convention = DEFAULT
    bins: tuple[Bin, ...] = ()
    risk: tuple[tuple[float, float], ...] = ()
    aurc: float | None = None


def calibration(part: Part, convention: Convention = DEFAULT) -> Calibration:
    """The calibration of one system's records on a task.

    Raises:
        InputError: They have no confidences, or no classes where the convention needs them.
    """
    head = part.head
    judged = part.metric.asks == "texts"  # where several answers may be right, the score tells
    right = part.column("score") == 1 if judged else part.column("answer") == part.column("target")
    confidences = part.column("confidence").astype(np.float64)
    if np.isnan(confidences).any():
        missing = int(np.isnan(confidences).sum())
        raise InputError(
            f"'{head.system}' has no confidence for {missing:,} of {len(confidences):,} items, which calibration needs",
            "Systems that give probabilities have one.",
            f"task {head.task}",
        )
    probabilities = part.probabilities
    if probabilities is None or not head.classes:
        if convention.of == "classwise":
            raise InputError(
                f"'{head.system}' has no probabilities of classes, which a classwise error needs",
                "Use the top label.",
                f"task {head.task}",
            )
        error = top_label_error(confidences, right, convention)
        return Calibration(error, None, None, convention, *_curves(confidences, right, convention))
    targets = class_indices(part)
    error = (
        top_label_error(confidences, right, convention)
        if convention.of == "top_label"
        else calibration_error(probabilities, targets, convention)
    )
    brier = METRICS["brier"].of_probabilities(probabilities, targets).mean()
    nll = METRICS["log_loss"].of_probabilities(probabilities, targets).mean()
    return Calibration(error, float(brier), float(nll), convention, *_curves(confidences, right, convention))


def _curves(
    confidences: np.ndarray, right: np.ndarray, convention: Convention
) -> tuple[tuple[Bin, ...], tuple[tuple[float, float], ...], float]:
    """The reliability table, the risk-coverage curve, and the area under it."""
    losses = 1.0 - np.asarray(right, np.float64)
    curve = risk_coverage(confidences, losses)
    places = curve.reachable
    if len(places) > _POINTS:
        places = places[np.linspace(0, len(places) - 1, _POINTS).round().astype(np.intp)]
    points = tuple((float(curve.coverage[i]), float(curve.risk[i])) for i in places)
    bins = tuple(line for line in reliability(confidences, right, convention) if line.items)
    return bins, points, float(aurc(confidences, losses))


def class_indices(part: Part) -> np.ndarray:
    """The targets as indices of the classes, (n,).

    Raises:
        InputError: A target is no class.
    """
    place = {name: i for i, name in enumerate(part.head.classes)}
    targets = part.column("target").tolist()
    unknown = [target for target in targets if target not in place]
    if unknown:
        raise InputError(
            f"the target '{unknown[0]}' is none of the classes of these records",
            "Evaluate again.",
            f"task {part.head.task}, system {part.head.system}",
        )
    return np.array([place[target] for target in targets], dtype=np.intp)
