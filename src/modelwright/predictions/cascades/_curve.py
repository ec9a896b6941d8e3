"""What a cascade gains for what it costs, for windows of every width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelwright.errors import InputError
from modelwright.predictions._predictions import Predictions
from modelwright.predictions.cascades._fit import WIDTHS, check_apart, fit_cascade
from modelwright.predictions.cascades._rule import CascadeRule
from modelwright.predictions.cascades._stages import CascadeOutput, apply_cascade
from modelwright.predictions.measures._selective import aurc, coverage_at_risk, risk_at_coverage
from modelwright.predictions.measures._shift import auroc, fpr_at_tpr


@dataclass(frozen=True)
class CascadePoint:
    """One cascade on test data.

    Attributes:
        width: Of its windows.
        cost: Mean cost of a sample, in the rule's unit.
        passed_on: Share of the samples that the first stage passed on.
        accuracy: Share of right answers.
        coverage: Largest share that can be answered at the risk asked for.
        risk: Risk of answering the coverage asked for.
        aurc: Area under the risk-coverage curve.
        auroc: Of scores, for telling test samples from those out of the distribution; None without such.
        fpr: False-positive rate at 95 % of the test samples; None likewise.
        rule: The cascade.
    """

    width: float
    cost: float
    passed_on: float
    accuracy: float
    coverage: float
    risk: float
    aurc: float
    auroc: float | None
    fpr: float | None
    rule: CascadeRule


def cascade_curve(
    validation: Predictions,
    test: Predictions,
    *,
    widths: Sequence[float] = WIDTHS,
    risk: float = 0.05,
    coverage: float = 0.8,
    out: Predictions | None = None,
    **options: Any,
) -> tuple[CascadePoint, ...]:
    """Cascades of several widths, fitted on validation data and judged on test data.

    Args:
        validation: Labelled predictions that windows are fitted on.
        test: Labelled predictions of the same members on other samples.
        widths: As in `fit_cascade`, one cascade each; 0 is the first member alone, and the largest the whole ensemble.
        risk: For the coverage.
        coverage: For the risk.
        out: Predictions of the same members on samples out of the distribution.
        **options: As in `fit_cascade`.

    Raises:
        InputError: A sample is in both; test data have no labels; or as in `fit_cascade`.
    """
    check_apart(validation, test, "the cascade")
    labels = test.need_labels("a cascade's curve")
    if not widths:
        raise InputError("a curve needs at least one width")
    points = []
    for width in widths:
        rule = fit_cascade(validation, width=width, **options)
        found = apply_cascade(rule, test)
        beyond = apply_cascade(rule, out).scores if out is not None else None
        points.append(_point(width, rule, found, labels, risk, coverage, beyond))
    return tuple(points)


def _point(
    width: float, rule: CascadeRule, found: CascadeOutput, labels: Any, risk: float, coverage: float, beyond: Any
) -> CascadePoint:
    wrong = found.probabilities.argmax(axis=1) != labels
    return CascadePoint(
        width=width,
        cost=found.mean_cost,
        passed_on=float((found.stages > 0).mean()),
        accuracy=float(1 - wrong.mean()),
        coverage=coverage_at_risk(found.scores, wrong, risk),
        risk=risk_at_coverage(found.scores, wrong, coverage),
        aurc=aurc(found.scores, wrong),
        auroc=None if beyond is None else auroc(found.scores, beyond),
        fpr=None if beyond is None else fpr_at_tpr(found.scores, beyond),
        rule=rule,
    )
