"""Measures against closed forms, slow definitions, scikit-learn, statsmodels and scipy; laws; what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modelwright.errors import InputError
from modelwright.predictions import Member, Predictions
from modelwright.predictions.measures import (
    MEASURES,
    Convention,
    ambiguity,
    answers_of,
    aurc,
    auroc,
    brier,
    brier_parts,
    by_lineage,
    calibration_error,
    cohen_kappa,
    compatibility,
    confidence,
    coverage_at_risk,
    double_fault,
    e_aurc,
    error_correlation,
    expected_flips,
    fleiss_kappa,
    fpr_at_tpr,
    graded_compatibility,
    kinship,
    mean_of_pairs,
    measure,
    mutual_information,
    nll,
    oracle_gain,
    pairwise_disagreement,
    q_statistic,
    risk_at_coverage,
    risk_coverage,
    top_label_error,
    variation_ratio,
)
from modelwright.predictions.measures._calibration import classwise_error, even_places


def bank(members: int = 3, n: int = 200, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    logits = rng.normal(size=(members, n, classes)) + 1.5 * np.eye(classes)[targets]
    powers = np.exp(logits)
    return powers / powers.sum(axis=-1, keepdims=True), targets


# --- proper scores and calibration -----------------------------------------------------------------------------------


def test_brier_and_nll_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    (probabilities, *_), targets = bank()
    assert nll(probabilities, targets) == pytest.approx(metrics.log_loss(targets, probabilities))
    two = np.stack([1 - probabilities[:, 0], probabilities[:, 0]], axis=1)
    binary = (targets == 0).astype(int)
    assert brier(two, binary) == pytest.approx(2 * metrics.brier_score_loss(binary, two[:, 1]))


def test_brier_of_certainty() -> None:
    assert brier(np.eye(3), np.arange(3)) == 0
    assert brier(np.eye(3), np.array([1, 2, 0])) == 2
    assert nll(np.eye(2), np.array([1, 0])) == pytest.approx(-math.log(np.finfo(float).tiny))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["equal_width", "equal_mass"]), st.integers(1, 12))
def test_brier_is_the_sum_of_its_parts(seed: int, bins: str, count: int) -> None:
    (probabilities, *_), targets = bank(1, 60, 3, seed)
    parts = brier_parts(probabilities, targets, Convention(count, bins))  # type: ignore[arg-type]
    whole = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert whole == pytest.approx(parts.brier, abs=1e-12)
    assert parts.brier == pytest.approx(brier(probabilities, targets), abs=1e-12)
    assert min(parts.reliability, parts.resolution, parts.uncertainty) >= 0


def test_brier_parts_of_few_forecasts_leave_nothing_within_bins() -> None:
    """Two forecasts, 0.2 and 0.8, right as often as 0.25 and 0.75: Murphy's parts by hand."""
    positive = np.repeat([0.2, 0.8], 8)
    happened = np.array([1, 1, 0, 0, 0, 0, 0, 0] + [1] * 6 + [0] * 2)
    parts = brier_parts(np.stack([1 - positive, positive], 1), happened)
    assert parts.reliability == pytest.approx(2 * 0.05**2)
    assert parts.resolution == pytest.approx(2 * 0.25**2)
    assert parts.uncertainty == pytest.approx(2 * 0.25)
    assert parts.within == pytest.approx(0, abs=1e-15)


def test_debiased_l2_is_what_the_paper_says() -> None:
    rng = np.random.default_rng(0)
    confidences = np.repeat([0.3, 0.5, 0.9], [5, 7, 1])
    right = rng.random(13) < 0.5
    total = 0.0
    for level in (0.3, 0.5, 0.9):
        inside = confidences == level
        k, rate = inside.sum(), right[inside].mean()
        total += k / 13 * ((level - rate) ** 2 - (rate * (1 - rate) / (k - 1) if k > 1 else 0))
    own = top_label_error(confidences, right, Convention(10, norm="l2", debiased=True))
    assert own == pytest.approx(math.sqrt(max(total, 0)))


def test_debiased_l1_is_the_mean_over_draws_of_the_labels() -> None:
    """Kumar et al. draw bins' accuracies from normal distributions; the closed form is their mean."""
    rng = np.random.default_rng(1)
    confidences = np.repeat([0.25, 0.55, 0.85], [40, 60, 50])
    right = rng.random(150) < np.repeat([0.3, 0.5, 0.7], [40, 60, 50])
    gaps, drawn = [], []
    for level, k in ((0.25, 40), (0.55, 60), (0.85, 50)):
        rate = right[confidences == level].mean()
        gaps.append(k / 150 * abs(level - rate))
        draws = rng.normal(rate, math.sqrt(rate * (1 - rate) / k), 400_000)
        drawn.append(k / 150 * np.abs(level - draws).mean())
    plain = sum(gaps)
    own = top_label_error(confidences, right, Convention(10, debiased=True))
    assert own == pytest.approx(plain - (sum(drawn) - plain), abs=3e-4)
    assert own < plain


def test_debiasing_takes_off_what_is_chance() -> None:
    """Perfectly calibrated: the plain error is chance alone, and grows with bins; the debiased one does not."""
    rng = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(40):
        confidences = rng.uniform(0.5, 1, 400)
        right = rng.random(400) < confidences
        plain.append(top_label_error(confidences, right, Convention(40, "equal_mass", norm="l2")) ** 2)
        debiased.append(
            top_label_error(confidences, right, Convention(40, "equal_mass", norm="l2", debiased=True)) ** 2
        )
    assert np.mean(plain) > 0.015
    assert np.mean(debiased) < np.mean(plain) / 5


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.lists(st.floats(0, 1), max_size=20))
def test_places_of_equal_width_are_those_of_a_search(count: int, more: list[float]) -> None:
    edges = np.linspace(0, 1, count + 1)
    values = np.concatenate([edges, np.nextafter(edges, 0).clip(0), np.nextafter(edges, 1).clip(0, 1), more])
    expected = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, count - 1)
    np.testing.assert_array_equal(even_places(values, edges), expected)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_blocks_give_the_classwise_error_of_the_whole(norm: str) -> None:
    (probabilities,), targets = bank(1, 500, 5)
    convention = Convention(10, of="classwise", norm=norm)  # type: ignore[arg-type]
    parts = [(probabilities[rows], targets[rows]) for rows in (slice(0, 1), slice(1, 333), slice(333, 500))]
    assert classwise_error(parts, convention) == pytest.approx(calibration_error(probabilities, targets, convention))


def test_conventions_say_what_they_are() -> None:
    assert str(Convention(norm="l2", debiased=True)) == "15 equal-width bins, top label, l2, debiased"
    with pytest.raises(InputError, match=r"the largest gap cannot be debiased"):
        Convention(norm="max", debiased=True)


# --- selective -------------------------------------------------------------------------------------------------------


def slow_aurc(confidences: np.ndarray, losses: np.ndarray) -> float:
    """The mean over all orders of equal confidences, of small sets."""
    n, areas = len(losses), []
    for order in itertools.permutations(range(n)):
        if all(confidences[a] >= confidences[b] for a, b in itertools.pairwise(order)):
            sorted_ = losses[list(order)]
            areas.append(np.mean([sorted_[:k].mean() for k in range(1, n + 1)]))
    return float(np.mean(areas))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=6))
def test_aurc_is_the_mean_over_orders_of_equals(pairs: list[tuple[float, bool]]) -> None:
    confidences, losses = (np.array(column, float) for column in zip(*pairs, strict=True))
    assert aurc(confidences, losses) == pytest.approx(slow_aurc(confidences, losses))


def test_aurc_in_closed_form() -> None:
    """A perfect order of n samples with e errors: mean over k of max(0, k - (n - e)) / k. No order: the error rate."""
    n, errors = 1000, 200
    losses = np.r_[np.zeros(n - errors), np.ones(errors)]
    best = sum(max(0, k - (n - errors)) / k for k in range(1, n + 1)) / n
    assert aurc(-np.arange(n), losses) == pytest.approx(best)
    assert e_aurc(-np.arange(n), losses) == pytest.approx(0, abs=1e-15)
    assert best == pytest.approx(0.2 + 0.8 * math.log(0.8), abs=1e-3), "the approximation of Geifman et al."
    assert aurc(np.zeros(n), losses) == pytest.approx(0.2)
    rng = np.random.default_rng(0)
    assert np.mean([aurc(rng.random(n), losses) for _ in range(50)]) == pytest.approx(0.2, abs=0.01)


def test_the_curve_does_not_depend_on_the_order_of_the_data() -> None:
    rng = np.random.default_rng(0)
    confidences, losses = rng.integers(0, 5, 60) / 5, rng.random(60)
    order = rng.permutation(60)
    np.testing.assert_allclose(
        risk_coverage(confidences, losses).risk, risk_coverage(confidences[order], losses[order]).risk
    )


def test_coverage_and_risk_are_read_from_the_curve() -> None:
    confidences, losses = np.array([0.9, 0.8, 0.7, 0.7, 0.5]), np.array([0, 0, 1, 0, 1])
    assert coverage_at_risk(confidences, losses, 0.0) == 0.4
    assert coverage_at_risk(confidences, losses, 0.25) == 0.8
    assert coverage_at_risk(confidences, losses, 0.2) == 0.4, "equal confidences are answered together"
    assert coverage_at_risk(confidences, losses, 0.2, rule="closest") == 0.8
    assert coverage_at_risk(confidences, 1 - losses, 0.3) == 0.0, "nothing can be answered at that risk"
    assert risk_at_coverage(confidences, losses, 1.0) == 0.4
    assert risk_at_coverage(confidences, losses, 0.4) == 0
    with pytest.raises(InputError, match=r"coverage must be in \(0, 1\], got 80. It is a share; for 80 % write 0.8"):
        risk_at_coverage(confidences, losses, 80)
    with pytest.raises(InputError, match=r"there is no rule 'atmost'. Did you mean 'at_most'"):
        coverage_at_risk(confidences, losses, 0.1, rule="atmost")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"skip must be in \[0, N\), got 5 for 5 samples"):
        coverage_at_risk(confidences, losses, 0.1, skip=5)


# --- out of the distribution -----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_auroc_and_fpr_are_those_of_scikit_learn(positives: list[int], negatives: list[int]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, scores = [1] * len(positives) + [0] * len(negatives), positives + negatives
    assert auroc(np.array(positives), np.array(negatives)) == pytest.approx(metrics.roc_auc_score(truth, scores))
    fpr, tpr, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    expected = fpr[np.flatnonzero(tpr >= 0.8 - 1e-12)[0]]
    assert fpr_at_tpr(np.array(positives), np.array(negatives), 0.8) == pytest.approx(expected)


def test_auroc_of_separated_and_equal_scores() -> None:
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert auroc(np.ones(5), np.ones(7)) == 0.5
    assert fpr_at_tpr(np.arange(1, 101), np.array([5, 6, 7, 200])) == 0.75, "95 of 100 are accepted from 6 up"
    with pytest.raises(InputError, match=r"negatives must be one number a sample"):
        auroc(np.ones(2), np.array([]))
    with pytest.raises(InputError, match=r"positives must be finite, got nan for sample 1"):
        auroc(np.array([1.0, np.nan]), np.ones(2))


def test_confidences_in_words() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(30, 5)) * 30
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    special = pytest.importorskip("scipy.special")
    np.testing.assert_allclose(confidence(logits), p.max(1))
    np.testing.assert_allclose(confidence(logits, "entropy"), special.xlogy(p, p).sum(1), atol=1e-12)
    np.testing.assert_allclose(confidence(logits, "energy"), special.logsumexp(logits, axis=1))
    np.testing.assert_allclose(confidence(logits, "max_logit"), logits.max(1))
    np.testing.assert_allclose(confidence(logits, "margin"), np.sort(p, 1)[:, -1] - np.sort(p, 1)[:, -2])
    shifted = logits + 7.0
    for score in ("msp", "entropy", "margin"):
        np.testing.assert_allclose(confidence(shifted, score), confidence(logits, score), atol=1e-12)
    np.testing.assert_allclose(confidence(shifted, "energy"), confidence(logits, "energy") + 7)
    with np.errstate(divide="ignore"):
        certain = confidence(np.log(np.eye(3)), "entropy")
    np.testing.assert_array_equal(certain, np.zeros(3))
    with pytest.raises(InputError, match=r"logits must be finite, those of sample 1 are not"):
        confidence(np.array([[0.0, 1.0], [np.nan, 1.0]]))
    with pytest.raises(InputError, match=r"there is no confidence score 'mps'. Did you mean 'msp'"):
        confidence(logits, "mps")


# --- disagreement ----------------------------------------------------------------------------------------------------


def test_pairs_are_those_of_scikit_learn_and_statsmodels() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rates = pytest.importorskip("statsmodels.stats.inter_rater")
    probabilities, targets = bank(4, 150)
    answers = answers_of(probabilities)
    kappas, right = cohen_kappa(answers), answers == targets
    for i, j in itertools.combinations(range(4), 2):
        assert kappas[i, j] == pytest.approx(metrics.cohen_kappa_score(answers[i], answers[j]))
        assert pairwise_disagreement(answers)[i, j] == pytest.approx((answers[i] != answers[j]).mean())
        assert error_correlation(right)[i, j] == pytest.approx(np.corrcoef(right[i], right[j])[0, 1])
        assert double_fault(right)[i, j] == pytest.approx((~right[i] & ~right[j]).mean())
    table, _ = rates.aggregate_raters(answers.T)
    assert fleiss_kappa(answers) == pytest.approx(rates.fleiss_kappa(table))
    np.testing.assert_array_equal(kappas, kappas.T)
    np.testing.assert_allclose(kappas.diagonal(), 1)


def test_q_by_hand() -> None:
    """Both right on 3, only the first on 2, only the second on 1, neither on 4: (12 - 2) / (12 + 2)."""
    right = np.array([[1] * 5 + [0] * 5, [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]], bool)
    assert q_statistic(right)[0, 1] == pytest.approx(10 / 14)
    always = np.ones((2, 5), bool)
    assert np.isnan(q_statistic(always)).all()
    assert np.isnan(error_correlation(always)).all()
    assert math.isnan(mean_of_pairs(q_statistic(always)))


def test_variation_ratio_and_information_of_extremes() -> None:
    answers = np.array([[0, 1, 2], [0, 1, 1], [0, 2, 0]])
    np.testing.assert_allclose(variation_ratio(answers), [0, 1 / 3, 2 / 3])
    same = np.repeat([[[0.2, 0.8], [0.5, 0.5]]], 3, axis=0)
    np.testing.assert_allclose(mutual_information(same), 0, atol=1e-15)
    opposed = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(mutual_information(opposed), math.log(2))


def test_information_is_what_its_definition_says() -> None:
    stats = pytest.importorskip("scipy.stats")
    probabilities, _ = bank(5, 40)
    expected = stats.entropy(probabilities.mean(0), axis=1) - stats.entropy(probabilities, axis=2).mean(0)
    np.testing.assert_allclose(mutual_information(probabilities), expected, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(4)))
def test_the_order_of_members_does_not_matter(seed: int, order: list[int]) -> None:
    probabilities, targets = bank(4, 50, 3, seed)
    answers = answers_of(probabilities)
    np.testing.assert_allclose(variation_ratio(answers[order]), variation_ratio(answers))
    np.testing.assert_allclose(mutual_information(probabilities[order]), mutual_information(probabilities), atol=1e-12)
    assert fleiss_kappa(answers[order]) == pytest.approx(fleiss_kappa(answers))
    assert oracle_gain((answers == targets)[order]).oracle == oracle_gain(answers == targets).oracle


def test_duplicates_neither_disagree_nor_add_to_the_oracle() -> None:
    probabilities, targets = bank(1)
    twice = np.repeat(probabilities, 3, axis=0)
    answers = answers_of(twice)
    assert not pairwise_disagreement(answers).any()
    assert variation_ratio(answers).max() == 0
    found = oracle_gain(answers == targets)
    assert found.gain == 0
    assert found.all_right == found.best == found.mean


def test_kin_and_strangers() -> None:
    matrix = np.array([[0, 1, 5, np.nan], [1, 0, 7, 9], [5, 7, 0, 2], [np.nan, 9, 2, 0]], float)
    found = by_lineage(matrix, ["a", "a", "b", "b"])
    assert (found.within, found.across, found.pairs_within, found.pairs_across) == (1.5, 7.0, 2, 3)
    assert math.isnan(by_lineage(matrix, ["a"] * 4).across)
    assert by_lineage(matrix, [["a"], ["b"], ("a", "c"), {"b"}]).within == np.mean([5, 9])
    with pytest.raises(InputError, match=r"there must be one lineage for each member, got 3"):
        by_lineage(matrix, ["a", "a", "b"])


def test_kin_are_known_from_the_bank() -> None:
    probabilities, targets = bank(3)
    parents = [["base", "x"], ["base"], ["y"]]
    members = [Member(f"m{i}", lineage={"parents": one}) for i, one in enumerate(parents)]
    data = Predictions.of(probabilities, targets, scale="probabilities", members=members)
    matrix = pairwise_disagreement(answers_of(probabilities))
    assert kinship(data) == by_lineage(matrix, ["base", "base", "y"])
    with pytest.raises(InputError, match=r"nobody has said what 'm0' was made from. Give its lineage 'parents'"):
        kinship(data.with_members(["m0", "m1", "m2"]))


def test_the_error_of_the_mean_is_less_by_the_ambiguity() -> None:
    rng = np.random.default_rng(0)
    values, truth = rng.normal(size=(5, 40)), rng.normal(size=40)
    of_mean = (values.mean(0) - truth) ** 2
    np.testing.assert_allclose(of_mean, ((values - truth) ** 2).mean(0) - ambiguity(values))


def test_the_oracle() -> None:
    found = oracle_gain(np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool))
    assert (found.mean, found.best, found.oracle, found.all_right, found.gain) == (0.5, 0.5, 0.75, 0.25, 0.25)
    with pytest.raises(InputError, match=r"must be truth values, got int64. Compare: answers == targets"):
        oracle_gain(np.ones((2, 3), np.int64))


# --- updates ---------------------------------------------------------------------------------------------------------


def test_the_card_of_muscle() -> None:
    found = compatibility(list("ABCA"), list("ACDB"), list("ABAB"))
    assert (found.negative_flips, found.positive_flips) == (0.25, 0.25)
    assert (found.inconsistency, found.trust) == (0.5, 0.5)
    assert (found.old_accuracy, found.new_accuracy) == (0.5, 0.5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=30))
def test_flips_and_accuracies_belong_together(triples: list[tuple[int, int, int]]) -> None:
    old, new, targets = map(np.array, zip(*triples, strict=True))
    found = compatibility(old, new, targets)
    assert found.positive_flips - found.negative_flips == pytest.approx(found.new_accuracy - found.old_accuracy)
    assert (
        max(0, found.old_accuracy - found.new_accuracy) - 1e-12 <= found.negative_flips <= found.inconsistency + 1e-12
    )
    if found.old_accuracy:
        assert found.trust == pytest.approx(1 - found.negative_flips / found.old_accuracy)
    same = compatibility(old, old, targets)
    assert same.negative_flips == same.positive_flips == same.inconsistency == 0


def test_updates_are_joined_by_ids() -> None:
    found = compatibility([0, 1, 2], [2, 0, 1], [0, 1, 2], ids=["x", "y", "z"], new_ids=["z", "x", "y"])
    assert found.negative_flips == 0
    for ids, new, what in (
        (["x", "y", "z"], ["x", "y", "w"], "the new one lacks z"),
        (["x", "y", "z"], ["x", "y", "y"], "ids must be unique"),
        (["x", "y", "z"], None, "ids of one side say nothing"),
        (["x", "y"], ["x", "y", "z"], "the old one lacks z"),
    ):
        with pytest.raises(InputError, match=what):
            compatibility([0, 1, 2], [0, 1, 2], [0, 1, 2], ids=ids, new_ids=new)
    with pytest.raises(InputError, match=r"one value a sample"):
        compatibility([0, 1], [0, 1, 2], [0, 1, 2])


def test_graded_updates() -> None:
    found = graded_compatibility([0.5, 0.5, 0.5, 0.5], [0.9, 0.1, 0.4, 0.5])
    assert (found.gains, found.losses) == (0.25, 0.5)
    assert (found.mean_gain, found.mean_loss) == (pytest.approx(0.4), pytest.approx(0.25))
    assert graded_compatibility([0.5, 0.5], [0.9, 0.4], tolerance=0.2).losses == 0
    assert math.isnan(graded_compatibility([0.5], [0.5]).mean_loss)


def test_flips_of_systems_with_a_known_correlation() -> None:
    rng = np.random.default_rng(0)
    a, b, rho = 0.8, 0.7, 0.4
    both = a * b + rho * math.sqrt(a * (1 - a) * b * (1 - b))
    kind = rng.choice(4, 400_000, p=[both, a - both, b - both, 1 - a - b + both])
    old, new = np.isin(kind, (0, 1)).astype(int), np.isin(kind, (0, 2)).astype(int)
    assert compatibility(old, new, np.ones_like(old)).negative_flips == pytest.approx(
        expected_flips(a, b, rho), abs=3e-3
    )
    assert expected_flips(a, b) == pytest.approx(a * (1 - b))
    with pytest.raises(InputError, match=r"accuracies of 0.9 and 0.5 cannot have the correlation 1"):
        expected_flips(0.9, 0.5, 1.0)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probabilities", "targets", "what"),
    [
        ([[0.5, 0.6]], [0], "probabilities must sum to 1, those of sample 0 sum to 1.1. If these are logits"),
        ([[0.5, 0.5], [np.nan, 1.0]], [0, 0], "a probability of sample 1 is not finite"),
        ([[1.5, -0.5]], [0], "a probability of sample 0 is negative: -0.5"),
        ([[1.0]], [0], "probabilities must be of at least 2 classes, got 1"),
        ([[0.5, 0.5]], [2], r"targets must be in \[0, 2\), got 2 for sample 0"),
        ([[0.5, 0.5]], [-1], r"targets must be in \[0, 2\), got -1 for sample 0"),
        ([[0.5, 0.5]], [0.0], "targets must be indices of classes, whole numbers, got float64"),
        ([[0.5, 0.5]], [0, 1], "there must be one target for each of 1 samples"),
        (np.empty((0, 2)), [], "there are no samples"),
    ],
)
def test_bad_probabilities_are_refused_by_name(probabilities: list[list[float]], targets: list[int], what: str) -> None:
    with pytest.raises(InputError, match=what):
        brier(np.array(probabilities), np.array(targets))


def test_a_member_is_named() -> None:
    probabilities = np.full((2, 3, 2), 0.5)
    probabilities[1, 2] = 0.7
    with pytest.raises(InputError, match=r"those of sample 2 of member 1 sum to 1.4"):
        mutual_information(probabilities)


# --- by name ---------------------------------------------------------------------------------------------------------


def test_measures_of_a_bank_are_those_of_its_arrays() -> None:
    probabilities, targets = bank(3, 3000, 4)
    found = measure(Predictions.of(probabilities, targets, scale="probabilities"))
    assert set(found.members) | set(found.together) == set(MEASURES)
    answers = answers_of(probabilities)
    right = answers == targets
    for m, p in enumerate(probabilities):
        one = {name: values[f"member {m + 1}"] for name, values in found.members.items()}
        sure, wrong = p.max(1), ~right[m]
        assert one["accuracy"] == right[m].mean()
        assert one["brier"] == pytest.approx(brier(p, targets))
        assert one["nll"] == pytest.approx(nll(p, targets))
        assert one["ece"] == pytest.approx(calibration_error(p, targets))
        assert one["ece_classwise"] == pytest.approx(calibration_error(p, targets, Convention(of="classwise")))
        assert one["aurc"] == pytest.approx(aurc(sure, wrong))
        assert one["e_aurc"] == pytest.approx(e_aurc(sure, wrong))
        assert one["auroc_of_errors"] == pytest.approx(auroc(sure[~wrong], sure[wrong]))
    together = found.together
    assert together["disagreement"] == pytest.approx(mean_of_pairs(pairwise_disagreement(answers)))
    assert together["mutual_information"] == pytest.approx(mutual_information(probabilities).mean())
    assert together["oracle_gain"] == pytest.approx(oracle_gain(right).gain)


def test_measuring_is_refused_by_name() -> None:
    probabilities, targets = bank(1)
    one = Predictions.of(probabilities, targets, scale="probabilities")
    assert measure(one).together == {}
    assert measure(one, "ece") == measure(one, ["ece"])
    with pytest.raises(InputError, match=r"there is no measure 'eec'. Did you mean 'ece'"):
        measure(one, ["eec"])
    with pytest.raises(InputError, match=r"'kappa' is of members together, and there is one"):
        measure(one, ["kappa"])
    with pytest.raises(InputError, match=r"measuring needs labels"):
        measure(one.with_labels(None))
    values = Predictions.of(np.zeros((1, 4)), scale="values", kind="regression")
    with pytest.raises(InputError, match=r"of the kind 'regression'"):
        measure(values)


def test_binary_predictions_are_two_classes() -> None:
    positive, targets = np.random.default_rng(0).random((1, 300)), np.random.default_rng(1).integers(0, 2, 300)
    found = measure(Predictions.of(positive, targets, scale="probabilities", kind="binary"), ["brier", "accuracy"])
    assert found.members["brier"]["member 1"] == pytest.approx(2 * np.mean((positive[0] - targets) ** 2))
    assert found.members["accuracy"]["member 1"] == pytest.approx(((positive[0] > 0.5) == targets).mean())
