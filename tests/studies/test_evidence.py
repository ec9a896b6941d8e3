"""Intervals and verdicts: against closed forms, and with synthetic figures for each verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modelwright.errors import RunError
from modelwright.studies import VERDICTS, Interval, Measured, Part, whole_verdict

AROUND = Interval(0.5, 0.4, 0.6)


def part(relation: str, bound: float, *, decides: bool = True, interval: Interval = AROUND) -> Part:
    return Part("p", "a statement", interval, relation, bound, decides)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("relation", "bound", "verdict"),
    [
        (">", 0.3, "holds"),
        (">", 0.5, "inconclusive"),
        (">", 0.7, "does not hold"),
        ("<", 0.7, "holds"),
        ("<", 0.5, "inconclusive"),
        ("<", 0.3, "does not hold"),
        (">", 0.4, "inconclusive"),  # its lower end is not above the bound
        (">=", 0.4, "holds"),
        ("<=", 0.6, "holds"),
        ("<", 0.6, "inconclusive"),
        (">", 0.6, "does not hold"),
        (">=", 0.6, "inconclusive"),
    ],
)
def test_a_part_is_judged_by_both_ends(relation: str, bound: float, verdict: str) -> None:
    assert part(relation, bound).verdict == verdict


def test_the_whole_is_judged_by_the_parts_that_decide() -> None:
    holds, open_, fails = part(">", 0.3), part(">", 0.5), part(">", 0.7)
    assert whole_verdict([holds, holds]) == "holds"
    assert whole_verdict([holds, open_]) == "inconclusive"
    assert whole_verdict([holds, open_, fails]) == "does not hold"
    assert whole_verdict([holds, part(">", 0.7, decides=False)]) == "holds"
    assert whole_verdict([]) == "inconclusive"
    assert whole_verdict([part(">", 0.3, decides=False)]) == "inconclusive"
    assert {part(">", bound).verdict for bound in (0.3, 0.5, 0.7)} == set(VERDICTS)


def test_a_figure_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RunError, match="a study came to a figure that is not finite: nan, 0 to 1"):
        Interval(math.nan, 0, 1)


def test_the_interval_of_a_mean_is_that_of_normal_theory() -> None:
    """One seed: resampling items only, so the interval is close to mean ± 1.96 sd / sqrt(n)."""
    scores = np.random.default_rng(0).random(500)
    measured = Measured()
    measured.add(0, "a", scores)
    found = measured.interval(lambda mean: mean("a"))
    half = 1.96 * scores.std() / math.sqrt(500)
    assert found.value == pytest.approx(scores.mean())
    assert found.low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(scores.mean() + half, abs=0.1 * half)


def test_one_number_of_one_seed_has_no_interval() -> None:
    """Whatever it is, it decides nothing; made of items, or of two seeds, it has one."""
    measured = Measured()
    measured.add(0, "scale", 0.7)
    measured.add(0, "hits", [0.0, 1.0, 1.0, 1.0])
    for found in (measured.interval(lambda mean: mean("scale")), measured.range(lambda mean: mean("hits"))):
        assert found.single
        assert found.low == found.value == found.high
        assert part(">", 0.3, interval=found).verdict == "inconclusive"
        assert part("<", 0.3, interval=found).verdict == "inconclusive"
    both = measured.interval(lambda mean: mean("hits") - mean("scale"))
    assert not both.single
    assert both.low < both.value < both.high
    measured.add(1, "scale", 0.8)
    for found in (measured.interval(lambda mean: mean("scale")), measured.range(lambda mean: mean("scale"))):
        assert not found.single
        assert part(">", 0.3, interval=found).verdict == "holds"


def test_differences_are_paired_by_item() -> None:
    """Two systems that differ by a constant have a difference without spread, however much the items differ."""
    scores = np.random.default_rng(1).random(50)
    measured = Measured()
    for seed in (0, 1):
        measured.add(seed, "a", scores)
        measured.add(seed, "b", scores + 0.25)
    found = measured.interval(lambda mean: mean("b") - mean("a"))
    assert (found.low, found.value, found.high) == pytest.approx((0.25, 0.25, 0.25))
    alone = measured.interval(lambda mean: mean("a"))
    assert alone.high - alone.low > 0.1


def test_the_spread_over_seeds_counts() -> None:
    """Figures of a seed: the bootstrap of a mean of n numbers has the standard error sd / sqrt(n)."""
    values = np.random.default_rng(2).normal(size=40)
    measured = Measured()
    for seed, value in enumerate(values):
        measured.add(seed, "a", float(value))
    found = measured.interval(lambda mean: mean("a"))
    half = 1.96 * values.std() / math.sqrt(40)
    assert found.low == pytest.approx(values.mean() - half, abs=0.12 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.12 * half)
    reach = measured.range(lambda mean: mean("a"))
    assert (reach.low, reach.value, reach.high) == pytest.approx((values.min(), values.mean(), values.max()))


def test_ratios_and_maxima_are_made_within_each_seed() -> None:
    measured = Measured()
    for seed, (a, b) in enumerate([(1.0, 2.0), (3.0, 4.0)]):
        measured.add(seed, "a", a)
        measured.add(seed, "b", b)
    assert measured.interval(lambda mean: mean("a") / mean("b")).value == pytest.approx((0.5 + 0.75) / 2)
    assert measured.interval(lambda mean: np.max([mean("a"), mean("b")], axis=0)).value == pytest.approx(3)


def test_intervals_cover_what_they_should() -> None:
    """Of 20 intervals around the mean of 60 items of 6 seeds nearly all contain the truth; one that is half as wide misses many."""
    inside = 0
    for trial in range(20):
        rng = np.random.default_rng(trial)
        measured = Measured()
        for seed in range(6):
            measured.add(seed, "a", rng.normal(rng.normal(0, 0.05), 1, 60))
        found = measured.interval(lambda mean: mean("a"))
        inside += found.low <= 0 <= found.high
    assert inside >= 16


def test_what_was_measured_wrongly() -> None:
    measured = Measured()
    measured.add(0, "a", [0.0, 1.0])
    with pytest.raises(ValueError, match=r"scores of seed 0 must be of the same items, got \[2, 3\] of them"):
        measured.add(0, "b", [0.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="a was measured already for seed 0"):
        measured.add(0, "a", [0.0, 1.0])
