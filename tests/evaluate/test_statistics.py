"""Resampling and paired tests, against slow oracles, closed forms and libraries."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modelwright.evaluate import METRICS, Metric, Whole, _statistics as stats, holm, mcnemar, pareto
from modelwright.evaluate._statistics import Sampled, mean_of, sample, swap, swap_all
from modelwright.evaluate._sums import names_of, sums_of, take

scipy_stats = pytest.importorskip("scipy.stats")
pytest.importorskip("sklearn")

ADDITIVE = ("accuracy", "log_loss", "balanced_accuracy", "macro_f1", "mcc", "squared_error", "r2", "pearson")
NUMBERS = {"squared_error", "absolute_error", "r2", "pearson", "spearman"}


def whole(name: str, n: int, seed: int, *, weighted: bool = False, skill: float = 0.7) -> Whole:
    """What a system says about n items; the items are the same for each seed."""
    items, own = np.random.default_rng(n), np.random.default_rng([n, seed])
    weights = items.integers(1, 9, n).astype(float) if weighted else np.ones(n)
    if name in NUMBERS:
        targets = items.normal(1e3, 1, n)
        answers = targets + own.normal(size=n) * (1 - skill)
        texts = [np.array([repr(float(v)) for v in values], dtype=object) for values in (answers, targets)]
        return Whole(*texts, METRICS[name].of_values(answers, targets), weights)
    targets = items.integers(0, 4, n)
    answers = np.where(own.random(n) < skill, targets, own.integers(0, 4, n))
    names = np.array(["ant", "bee", "cat", "dog"], dtype=object)
    scores = own.exponential(size=n) if name == "log_loss" else (answers == targets).astype(float)
    return Whole(names[answers], names[targets], scores, weights)


def ids(n: int) -> list[str]:
    return [f"item-{i:05d}" for i in range(n)]


# --- figures as sums -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADDITIVE)
@pytest.mark.parametrize("weighted", [False, True])
def test_resampled_figures_are_those_of_the_metric(name: str, weighted: bool) -> None:
    """The oracle takes the rows of each resample and asks the metric itself."""
    judged, found = METRICS[name], whole(name, 40, 1, weighted=weighted)
    form = sums_of(judged, found, names_of(judged, [found, whole(name, 40, 2)]))
    assert form is not None
    (counts,) = stats.resampled(40, 25, np.random.default_rng(0))
    for row, figure in zip(counts, form.finish(np.asarray(counts @ form.terms)), strict=True):
        rows = np.repeat(np.arange(40), row.astype(int))
        assert figure == pytest.approx(judged.figure(take(found, rows)), rel=1e-9, abs=1e-9)


def test_a_metric_of_the_same_name_but_another_figure_is_not_taken_for_ours() -> None:
    theirs = replace(METRICS["macro_f1"], total=lambda whole: 0.5)
    found = whole("macro_f1", 30, 1)
    assert sums_of(theirs, found, names_of(theirs, [found])) is None
    assert sample(theirs, [found], ids(30), seed=0, count=100)[0].draws.tolist() == [0.5] * 100


def test_resamples_have_n_items_each_drawn_equally_often() -> None:
    blocks = list(stats.resampled(50, 4000, np.random.default_rng(0)))
    counts = np.concatenate(blocks)
    assert counts.shape == (4000, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert np.abs(counts.mean(axis=0) - 1).max() < 5 * math.sqrt(1 / 4000)
    assert counts.var() == pytest.approx(1 - 1 / 50, rel=0.03), "binomial(n, 1/n)"


def test_the_slow_way_has_the_figures_of_the_fast_one() -> None:
    """An accuracy that says it is of the whole set is asked row by row."""
    slow = Metric("mine", "", "probabilities", METRICS["accuracy"].score, total=lambda w: float(w.scores.mean()))
    systems = [whole("accuracy", 30, seed) for seed in (1, 2)]
    fast = sample(METRICS["accuracy"], systems, ids(30), seed=3, count=200)
    same = sample(slow, systems, ids(30), seed=3, count=200)
    for a, b in zip(fast, same, strict=True):
        np.testing.assert_allclose(a.draws, b.draws)
        np.testing.assert_allclose(a.influence, b.influence, atol=1e-15)
    pair = [(systems[0], systems[1])]
    (quick,) = swap(METRICS["accuracy"], pair, ids(30), seed=3, count=2000)
    (long,) = swap(slow, pair, ids(30), seed=3, count=2000)
    assert len(long.first) == 200, "a tenth of them"
    np.testing.assert_allclose(quick.first[:200], long.first)
    np.testing.assert_allclose(quick.second[:200], long.second)


# --- intervals -----------------------------------------------------------------------------------------------------


def test_influence_of_a_mean_has_a_closed_form() -> None:
    found = whole("log_loss", 60, 1)
    (figure,) = sample(METRICS["log_loss"], [found], ids(60), seed=0, count=100)
    np.testing.assert_allclose(figure.influence, (found.scores - found.scores.mean()) / 60, atol=1e-15)


def test_the_spread_of_the_draws_is_the_standard_error() -> None:
    found = whole("log_loss", 500, 1)
    (figure,) = sample(METRICS["log_loss"], [found], ids(500), seed=0, count=4000)
    assert figure.draws.std() == pytest.approx(found.scores.std() / math.sqrt(500), rel=0.05)
    assert figure.draws.mean() == pytest.approx(figure.value, abs=4 * found.scores.std() / math.sqrt(500 * 4000))


@pytest.mark.parametrize("kind", ["bca", "percentile"])
def test_intervals_are_those_of_scipy(kind: Any) -> None:
    values = np.random.default_rng(0).exponential(size=40)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method=kind, rng=np.random.default_rng(1), vectorized=True
    )
    influence = (values - values.mean()) / len(values)
    own = Sampled(float(values.mean()), theirs.bootstrap_distribution, influence).interval(0.95, kind)
    assert (own.low, own.high) == pytest.approx(tuple(theirs.confidence_interval), rel=1e-9)


def test_intervals_of_means_over_tasks_are_those_of_scipy() -> None:
    x, y = np.random.default_rng(0).exponential(size=30), np.random.default_rng(1).exponential(size=70)
    theirs = scipy_stats.bootstrap(
        (x, y), lambda a, b, axis: (a.mean(axis=axis) + b.mean(axis=axis)) / 2, n_resamples=3000, method="bca",
        rng=np.random.default_rng(1),
    )  # fmt: skip
    parts = [Sampled(float(v.mean()), np.zeros(3000), (v - v.mean()) / len(v), key=str(len(v))) for v in (x, y)]
    mean = replace(mean_of(parts), draws=theirs.bootstrap_distribution)
    own = mean.interval(0.95)
    assert (own.low, own.high) == pytest.approx(tuple(theirs.confidence_interval), rel=1e-9)


def test_intervals_cover_what_they_say() -> None:
    """300 samples of 60 items of which 80 % are right in truth."""
    truth, covered = 0.8, 0
    for seed in range(300):
        scores = (np.random.default_rng(seed).random(60) < truth).astype(float)
        one = np.array(["x"] * 60, dtype=object)
        (figure,) = sample(METRICS["accuracy"], [Whole(one, one, scores, np.ones(60))], ids(60), seed=seed, count=400)
        found = figure.interval(0.9)
        covered += found.low <= truth <= found.high
    assert 0.84 < covered / 300 < 0.96, "0.9, give or take three standard errors and what discreteness does"


def test_a_perfect_system_is_not_certain_to_be_perfect() -> None:
    """The limit of Clopper and Pearson, as scipy has it."""
    one = np.array(["x"] * 25, dtype=object)
    for hits in (0, 25):
        scores = np.full(25, float(hits > 0))
        (figure,) = sample(METRICS["accuracy"], [Whole(one, one, scores, np.ones(25))], ids(25), seed=0, count=200)
        found = figure.interval(0.95)
        assert (found.low, found.high) == pytest.approx(tuple(scipy_stats.binomtest(hits, 25).proportion_ci(0.95)))


def test_systems_that_no_item_tells_apart_may_still_differ() -> None:
    found = whole("accuracy", 20, 1)
    first, second = sample(METRICS["accuracy"], [found, found], ids(20), seed=0, count=200)
    interval = (first - second).interval(0.95)
    reach = 1 - 0.025 ** (1 / 20)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0, -reach, reach))


def test_one_item_gives_no_interval() -> None:
    one = np.array(["x"], dtype=object)
    (figure,) = sample(METRICS["accuracy"], [Whole(one, one, np.ones(1), np.ones(1))], ids(1), seed=0, count=100)
    assert math.isnan(figure.interval().low)
    assert math.isnan(mean_of([figure, figure]).interval().low)


def test_tasks_with_the_same_items_are_resampled_together() -> None:
    """Two views of the same items tell no more than one; other items do."""
    found = whole("accuracy", 200, 1)
    draws = {
        name: sample(METRICS["accuracy"], [found], [f"{name}{i}" for i in range(200)], seed=0, count=2000)[0]
        for name in ("a", "b")
    }
    alone = draws["a"].interval()
    same = mean_of([draws["a"], draws["a"]]).interval()
    other = mean_of([draws["a"], draws["b"]]).interval()
    assert (same.low, same.high) == pytest.approx((alone.low, alone.high))
    np.testing.assert_allclose(mean_of([draws["a"], draws["a"]]).influence, draws["a"].influence)
    assert other.high - other.low == pytest.approx((alone.high - alone.low) / math.sqrt(2), rel=0.08)


def test_bare_numbers_are_no_names_of_items() -> None:
    """Two tasks whose items are called 0, 1, .. share nothing, unless their targets say so: then it may be two views."""
    first, second = whole("accuracy", 100, 1), whole("accuracy", 100, 2)
    other = replace(first, targets=first.targets[::-1].copy())
    numbers, named = [str(i) for i in range(100)], ids(100)

    def drawn(found: Whole, names: list[str]) -> list[float]:
        return sample(METRICS["accuracy"], [found], names, seed=0, count=100)[0].draws.tolist()

    assert first.targets.tolist() == second.targets.tolist()
    assert stats.names_for(numbers, first.targets) == stats.names_for(numbers, second.targets)
    assert stats.names_for(numbers, first.targets) != stats.names_for(numbers, other.targets)
    assert stats.names_for(named, first.targets) == stats.names_for(named, other.targets) == named
    assert drawn(first, numbers) != drawn(other, numbers)  # the scores are the same
    assert drawn(first, named) == drawn(other, named)
    pair = (first, second), (other, replace(second, targets=other.targets))
    swaps = [stats.swap(METRICS["accuracy"], [one], numbers, seed=0, count=100)[0].first.tolist() for one in pair]
    assert swaps[0] != swaps[1]


def test_a_ratio_is_that_of_the_draws() -> None:
    first, second = sample(METRICS["accuracy"], [whole("accuracy", 80, s) for s in (1, 2)], ids(80), seed=0, count=500)
    ratio = first.over(second)
    assert ratio.value == first.value / second.value
    np.testing.assert_allclose(ratio.draws, first.draws / second.draws)
    assert ratio.influence is not None
    # the first-order spread is that of the resamples
    assert math.sqrt((ratio.influence**2).sum()) == pytest.approx(ratio.draws.std(), rel=0.1)
    assert math.isnan(first.over(replace(second, value=-0.1)).value)


# --- paired tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_mcnemar_is_a_binomial_test_of_the_items_that_differ(seed: int) -> None:
    first, second = (whole("accuracy", 60, s).scores for s in (seed, seed + 10))
    better, apart = int((first > second).sum()), int((first != second).sum())
    assert mcnemar(first, second) == pytest.approx(scipy_stats.binomtest(better, apart).pvalue)
    assert mcnemar(first, second) == pytest.approx(mcnemar(second, first))


@pytest.mark.slow
def test_mcnemar_and_holm_are_those_of_statsmodels() -> None:
    """Slow to import, nothing else."""
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for seed in range(10):
        first, second = (whole("accuracy", 60, s).scores for s in (seed, seed + 20))
        table = [[((first == a) & (second == b)).sum() for b in (1, 0)] for a in (1, 0)]
        assert mcnemar(first, second) == pytest.approx(tables.mcnemar(table, exact=True).pvalue)
        values = np.random.default_rng(seed).random(7) ** 3
        np.testing.assert_allclose(holm(values.tolist()), multitest.multipletests(values, method="holm")[1])


def test_mcnemar_without_a_difference() -> None:
    assert mcnemar(np.ones(5), np.ones(5)) == 1.0


def test_all_swaps_of_a_mean_are_the_sign_flips_of_scipy() -> None:
    first, second = whole("log_loss", 9, 1), whole("log_loss", 9, 2)
    swaps = swap_all(METRICS["log_loss"], (first, second))
    assert swaps is not None
    assert len(swaps.first) == 2**9
    observed = first.scores.mean() - second.scores.mean()
    theirs = scipy_stats.permutation_test(
        (first.scores, second.scores), lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        permutation_type="samples", n_resamples=np.inf, alternative="two-sided",
    )  # fmt: skip
    assert stats.p_value(observed, swaps.first - swaps.second, complete=True) == pytest.approx(theirs.pvalue)


def test_swaps_of_right_and_wrong_are_mcnemars() -> None:
    first, second = whole("accuracy", 25, 3), whole("accuracy", 25, 8)
    swaps = swap_all(METRICS["accuracy"], (first, second))
    assert swaps is not None
    observed = first.scores.mean() - second.scores.mean()
    p = stats.p_value(observed, swaps.first - swaps.second, complete=True)
    assert p == pytest.approx(mcnemar(first.scores, second.scores))


@pytest.mark.parametrize("name", ["macro_f1", "mcc", "r2", "balanced_accuracy"])
def test_swaps_of_a_figure_of_the_whole_set(name: str) -> None:
    """The oracle swaps the rows themselves, in every way there is."""
    n, judged = 7, METRICS[name]
    first, second = whole(name, n, 1, skill=0.3), whole(name, n, 2, skill=0.3)
    swaps = swap_all(judged, (first, second))
    assert swaps is not None
    expected = sorted(
        judged.figure(_mixed(first, second, mask)) - judged.figure(_mixed(second, first, mask))
        for mask in _ways(first, second)
    )
    np.testing.assert_allclose(sorted(swaps.first - swaps.second), expected, atol=1e-9)


def _ways(first: Whole, second: Whole) -> list[np.ndarray]:
    """Swaps of the items on which the two differ."""
    apart = np.flatnonzero((first.answers != second.answers) | (first.scores != second.scores))
    ways = itertools.product((False, True), repeat=len(apart))
    return [np.isin(np.arange(len(first.scores)), apart[list(way)]) for way in ways]


def _mixed(first: Whole, second: Whole, mask: np.ndarray) -> Whole:
    columns = ("answers", "targets", "scores", "weights")
    return Whole(**{c: np.where(mask, getattr(second, c), getattr(first, c)) for c in columns})


def test_sampled_swaps_come_near_to_all_of_them() -> None:
    first, second = whole("log_loss", 12, 1), whole("log_loss", 12, 5)
    every = swap_all(METRICS["log_loss"], (first, second))
    (some,) = swap(METRICS["log_loss"], [(first, second)], ids(12), seed=0, count=20_000)
    assert every is not None
    observed = first.scores.mean() - second.scores.mean()
    exact = stats.p_value(observed, every.first - every.second, complete=True)
    assert stats.p_value(observed, some.first - some.second) == pytest.approx(exact, abs=0.015)


def test_too_many_differences_to_try_them_all() -> None:
    assert swap_all(METRICS["log_loss"], (whole("log_loss", 14, 1), whole("log_loss", 14, 2))) is None


def test_equal_systems_are_rarely_called_different() -> None:
    """Two systems of one skill, 300 times; p below 0.05 happens less than once in twenty."""
    found = [mcnemar(whole("accuracy", 80, 2 * s).scores, whole("accuracy", 80, 2 * s + 1).scores) for s in range(300)]
    assert np.mean(np.array(found) < 0.05) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_p_of_a_sample_is_never_zero() -> None:
    assert stats.p_value(10.0, np.zeros(99)) == 0.01
    assert stats.p_value(10.0, np.zeros(99), complete=True) == 0.0
    assert math.isnan(stats.p_value(math.nan, np.zeros(9)))


# --- several tests, and fronts ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_procedure_rejects(values: list[float], alpha: float) -> None:
    """As Holm wrote it: from the smallest p on, reject while it is at most alpha over the number that is left."""
    rejected: set[int] = set()
    for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        if values[i] * (len(values) - rank) > alpha:
            break
        rejected.add(i)
    adjusted = holm(values)
    equal = {i for i in range(len(values)) if any(values[i] == values[j] for j in rejected)}
    assert {i for i, p in enumerate(adjusted) if p <= alpha} in (rejected, rejected | equal)


def test_holm_leaves_out_what_was_not_tested() -> None:
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9))
def test_front(points: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    expected = [not any(beats(other, point) for other in points) for point in points]
    assert pareto(np.array(points, dtype=float)).tolist() == expected


def test_a_thing_of_unknown_cost_is_not_on_the_front() -> None:
    assert pareto(np.array([[math.nan, 1.0], [2.0, 2.0]])).tolist() == [False, True]
