"""Where a cascade's windows lie: thresholds from validation data, and quantiles around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.predictions._predictions import Predictions
from modelwright.predictions.cascades._rule import CascadeRule, Combine, ScoreOf, Unit, Window, costs_of
from modelwright.predictions.cascades._stages import apply_cascade, stage_scores
from modelwright.predictions.measures._selective import place_at_coverage, place_at_risk, risk_coverage
from modelwright.predictions.measures._shift import threshold_at_tpr

Goal = Literal["coverage_at_risk", "risk_at_coverage", "fpr_at_tpr", "threshold"]
Policy = Literal["window", "single_threshold"]
_PASS_ALL = Window(-np.inf, np.inf)
#: Widths that are tried for a budget, as in the paper's plots.
WIDTHS = tuple(step / 40 for step in range(21))


@dataclass(frozen=True)
class Aim:
    """What the accepted samples are to be, which decides where the threshold of accepting lies.

    Attributes:
        goal: `coverage_at_risk`: answer as much as is possible at a risk; `risk_at_coverage`: answer a share; `fpr_at_tpr`:
            accept a share of what is in the distribution, as detecting what is not asks for; `threshold`: a score.
        level: The risk, the coverage or the share, as fractions; or the score.

    Raises:
        InputError: There is no such goal, or the level is out of its range.
    """

    goal: Goal = "coverage_at_risk"
    level: float = 0.1

    def __post_init__(self) -> None:
        if self.goal not in get_args(Goal):
            raise InputError(f"cascade: there is no goal '{self.goal}'", did_you_mean(str(self.goal), get_args(Goal)))
        if self.goal == "threshold":
            if not np.isfinite(self.level):
                raise InputError(f"a threshold must be finite, got {self.level}")
        elif not 0 < self.level <= 1:
            raise InputError(
                f"the level of {self.goal} must be in (0, 1], got {self.level}", "It is a share; for 10 % write 0.1."
            )

    def __str__(self) -> str:
        return f"{self.goal.replace('_', ' ')} {self.level:g}"


def threshold(scores: np.ndarray, losses: np.ndarray, aim: Aim, skip: int) -> float:
    """The score above which samples are accepted.

    Args:
        scores: Of one stage on validation data, (N,).
        losses: Whether its answers are wrong there, (N,).
        aim: What is wanted of the accepted.
        skip: Shares of at most so many samples are no candidates for a risk.

    Returns:
        Where k samples are accepted, the (k+1)-th largest score; the smallest where all are. As the authors' code has it.
    """
    if aim.goal == "threshold":
        return aim.level
    if aim.goal == "fpr_at_tpr":
        return threshold_at_tpr(scores, aim.level)
    curve = risk_coverage(scores, losses)
    if aim.goal == "risk_at_coverage":
        place: int | None = place_at_coverage(curve, aim.level)
    else:
        place = place_at_risk(curve, aim.level, "closest", skip)
    assert place is not None  # something is always closest
    return float(curve.threshold[min(place + 1, len(curve.threshold) - 1)])


def window_around(scores: np.ndarray, tau: float, width: float) -> Window:
    """The window of quantiles around a threshold: from the threshold's rank less `width` to its rank plus `width`.

    Args:
        scores: Of one stage on validation data, (N,).
        tau: The threshold.
        width: Share of the samples on each side, in [0, 0.5]; from 0.5 on all are passed on.
    """
    if width >= 0.5:
        return _PASS_ALL
    ordered = np.sort(scores)
    below, up_to = (int(np.searchsorted(ordered, tau, side)) for side in ("left", "right"))
    rank = (below + up_to + (below < up_to)) / (2 * len(scores))  # scipy.stats.percentileofscore's
    if not width:
        return Window(np.inf, np.inf)
    low, high = np.quantile(ordered, [max(rank - width, 0.0), min(rank + width, 1.0)])
    return Window(float(low), float(high))


def _lowest(scores: np.ndarray, share: float) -> Window:
    """The window of one threshold: the least confident share is passed on."""
    if not share:
        return Window(np.inf, np.inf)
    return Window(-np.inf, float(np.quantile(scores, share)) if share < 1 else np.inf)


def fit_cascade(
    validation: Predictions,
    *,
    members: Sequence[str] | None = None,
    aim: Aim | None = None,
    width: float | Sequence[float] | None = None,
    most_cost: float | None = None,
    policy: Policy = "window",
    score: str = "msp",
    combine: Combine = "running",
    score_of: ScoreOf = "mean_of_scores",
    costs: Sequence[float] | None = None,
    unit: Unit = "answers",
    skip: int | None = None,
) -> CascadeRule:
    """A cascade whose windows come from validation data.

    Only samples near the threshold of accepting can change sides by what a later member says; a window around it sends
    these on, where a single threshold would also send the hopeless.

    Args:
        validation: Labelled predictions of classes. They must be of data that nothing is reported on.
        members: Names in the order of asking; default the bank's.
        aim: What the threshold is for; default coverage at a risk of 0.1. Each stage has its own threshold.
        width: With `window`, the share of samples on each side of the threshold that goes on, in [0, 0.5], default 0.1;
            with `single_threshold`, the share of the least confident that goes on, in [0, 1], default 0.2. One number,
            or one for each stage but the last.
        most_cost: In place of a width: the widest of 21 evenly spread ones whose mean cost on the validation data is at
            most this.
        policy: `window` or `single_threshold`.
        score: As in `CascadeRule`.
        combine: As in `CascadeRule`.
        score_of: As in `CascadeRule`.
        costs: What each member costs for one sample; default what the bank says.
        unit: Of the costs.
        skip: Shares of at most so many samples are no candidates for the threshold at a risk, for they rest on few; default
            500, or a tenth of the samples if that is less.

    Returns:
        The rule: plain data, with `as_json`.

    Raises:
        InputError: There are no labels, a width is out of range, a cost is unknown, or no width is as cheap as asked.

    Differs:
        1. The authors read the threshold for a share t of in-distribution data from a curve against random stand-in
           scores; here it is the quantile of the confidences, which is what that curve gives.
        2. A share of equal confidences is answered as a whole or not at all, and its risk is that of the whole.
        3. The authors skip 500 samples whatever the size, which small sets do not have.
        4. A width of 0 passes nobody on, and one of 0.5 everybody.

    Source:
        Xia and Bouganis 2023, arXiv:2303.08010.
    """
    if policy not in get_args(Policy):
        raise InputError(f"cascade: there is no policy '{policy}'", did_you_mean(str(policy), get_args(Policy)))
    if aim is not None and not isinstance(aim, Aim):
        raise InputError(f"aim must be an Aim, got {aim!r}", 'Such as Aim("coverage_at_risk", 0.1).')
    names = tuple(members or validation.names)
    bank = validation.select(list(names))
    aim = aim or Aim()
    paid = tuple(map(float, costs)) if costs is not None else costs_of(bank.members, unit)
    open_ = CascadeRule(
        names, (_PASS_ALL,) * (len(names) - 1), score, combine, score_of, paid, unit
    )  # fmt: skip
    fit = _Fit(open_, bank, aim, policy, skip)
    if most_cost is not None:
        if width is not None:
            raise InputError("a cascade is fitted to a width or to a cost, got both", "Leave one out.")
        return fit.at_most(most_cost)
    return fit.rule(width if width is not None else {"window": 0.1, "single_threshold": 0.2}[policy])


class _Fit:
    """Thresholds of every stage, found once; windows of any width from them."""

    def __init__(self, rule: CascadeRule, bank: Predictions, aim: Aim, policy: Policy, skip: int | None):
        self.open, self.bank, self.aim, self.policy = rule, bank, aim, policy
        self.scores = stage_scores(rule, bank)
        self.taus: list[float] = []
        if policy == "window":
            few = min(500, len(bank) // 10) if skip is None else skip
            self.taus = [threshold(s, e, aim, few) for s, e in zip(self.scores[:-1], self._errors(), strict=False)]

    def _errors(self) -> list[np.ndarray]:
        """Whether answers after each stage are wrong, of all samples."""
        if self.aim.goal in ("threshold", "fpr_at_tpr"):
            return [np.zeros(len(self.bank))] * len(self.scores)
        labels = self.bank.need_labels("fitting a cascade")
        found = []
        for stage in range(len(self.scores)):
            part = apply_cascade(self.open, self.bank, exits=lambda at, s, to=stage: np.full(len(s), at >= to))
            found.append((part.probabilities.argmax(axis=1) != labels).astype(np.float64))
        return found

    def rule(self, width: float | Sequence[float]) -> CascadeRule:
        """The rule of one width."""
        count = len(self.open.members) - 1
        several = [width] * count if isinstance(width, int | float | str) else list(width)
        try:
            widths = [float(one) for one in several if not isinstance(one, str)]
        except TypeError:
            widths = []
        if len(widths) != len(several):
            raise InputError(f"widths must be numbers, got {width!r}")
        most = 0.5 if self.policy == "window" else 1.0
        if len(widths) != count:
            raise InputError(f"a cascade of {count + 1} members takes {count} widths, got {len(widths)}")
        if not all(0 <= one <= most for one in widths):
            raise InputError(f"widths of the policy {self.policy} must be in [0, {most:g}], got {width}")
        if self.policy == "window":
            windows = [window_around(s, t, w) for s, t, w in zip(self.scores, self.taus, widths, strict=False)]
            how = f"window of {listed(widths)} around {self.aim}"
        else:
            windows = [_lowest(s, w) for s, w in zip(self.scores, widths, strict=False)]
            how = f"the lowest {listed(widths)} passed on"
        windows, taus = tuple(windows), tuple(self.taus)
        return replace(
            self.open, windows=windows, thresholds=taus, fitted=f"{how}, on {len(self.bank):,} validation samples"
        )

    def at_most(self, cost: float) -> CascadeRule:
        """The widest that costs no more."""
        factor = 1 if self.policy == "window" else 2
        for step in reversed(WIDTHS):
            rule = self.rule(step * factor)
            if apply_cascade(rule, self.bank).mean_cost <= cost + 1e-12 * abs(cost):
                return rule
        first = self.open.costs[0]
        raise InputError(
            f"no cascade costs at most {cost:g} {self.open.unit} a sample: its first member alone costs {first:g}",
            "Allow more, or begin with a cheaper member.",
        )


def listed(widths: Sequence[float]) -> str:
    """One width, or several."""
    return " and ".join(f"{one:g}" for one in dict.fromkeys(widths))


def check_apart(validation: Predictions, test: Predictions, what: str) -> None:
    """Refuse to judge on samples that something was fitted on.

    Raises:
        InputError: A sample is in both.
    """
    both = set(validation.ids) & set(test.ids)
    if both:
        raise InputError(
            f"{what} would be judged on {len(both):,} samples that it was fitted on, such as '{min(both)}'",
            "Fit on validation data, and judge on others.",
        )


def refit_shifted(rule: CascadeRule, shifted: Predictions, width: float = 0.1) -> CascadeRule:
    """The same thresholds with windows of quantiles of unlabelled data from where the cascade is used.

    Under a shift of the distribution the windows of validation data pass on more or fewer than was meant.

    Args:
        rule: A cascade that was fitted with the policy `window`.
        shifted: Predictions of its members on unlabelled data, such as a mixture of what will come.
        width: As in `fit_cascade`.

    Raises:
        InputError: The rule has no thresholds, or the width is out of range.
    """
    if not rule.thresholds:
        raise InputError("windows lie around thresholds, and this rule has none", "Fit it with the policy window.")
    if not 0 <= width <= 0.5:
        raise InputError(f"widths of the policy window must be in [0, 0.5], got {width}")
    scores = stage_scores(rule, shifted)
    windows = tuple(window_around(s, t, width) for s, t in zip(scores, rule.thresholds, strict=False))
    return replace(rule, windows=windows, fitted=f"{rule.fitted}; windows of {len(shifted):,} unlabelled samples")
