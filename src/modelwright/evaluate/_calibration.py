"""Whether the confidence in records can be believed; the measures themselves are those of predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelwright.errors import InputError
from modelwright.evaluate._metrics import METRICS
from modelwright.evaluate._records import Part
from modelwright.predictions.measures import DEFAULT, Convention, calibration_error, top_label_error


@dataclass(frozen=True)
class Calibration:
    """How well a system knows what it knows.

    Attributes:
        error: The calibration error, by the convention.
        brier: Brier score, summed over classes, in [0, 2]; None without probabilities of all classes.
        nll: Negative log-likelihood in nats; None likewise.
        convention: Which error.
    """

    error: float
    brier: float | None
    nll: float | None
    convention: Convention = DEFAULT


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
        return Calibration(top_label_error(confidences, right, convention), None, None, convention)
    targets = class_indices(part)
    error = (
        top_label_error(confidences, right, convention)
        if convention.of == "top_label"
        else calibration_error(probabilities, targets, convention)
    )
    brier = METRICS["brier"].of_probabilities(probabilities, targets).mean()
    nll = METRICS["log_loss"].of_probabilities(probabilities, targets).mean()
    return Calibration(error, float(brier), float(nll), convention)


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
