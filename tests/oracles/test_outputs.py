"""Combiners and calibrators against closed forms, slow truth, scikit-learn and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import _SigmoidCalibration
from sklearn.ensemble import VotingClassifier
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from modelwright.errors import InputError
from modelwright.methods.calibration import conformal_sets, quantile
from modelwright.methods.ensembling import (
    borda,
    dense_mean,
    majority_vote,
    maximum,
    mean,
    median,
    product,
    soft_vote,
    staple,
    staple_estimates,
    trimmed,
)
from modelwright.predictions import Predictions, combine, fit
from modelwright.tensors import softmax

RNG = np.random.default_rng(0)


def random(members: int = 5, samples: int = 200, classes: int = 4, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    labels[:classes] = np.arange(classes)
    logits = (
        2 * np.eye(classes)[labels]
        + rng.normal(size=(members, samples, classes)) * np.linspace(1, 3, members)[:, None, None]
    )
    return Predictions.of(logits, labels, scale="logits")


def loss(p: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(p[np.arange(len(labels)), labels]).mean())


# --- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "right"), [(3, 0.7), (5, 0.6), (9, 0.8)])
def test_the_majority_of_independent_members_is_condorcets(count: int, right: float) -> None:
    """Every pattern of right and wrong members once, weighted by its probability: no sampling."""
    patterns = np.array(list(itertools.product([0, 1], repeat=count))).T  # 1: this member is right
    votes = majority_vote(np.stack([patterns, 1 - patterns], axis=-1).astype(float))
    probability = (right**patterns * (1 - right) ** (1 - patterns)).prod(axis=0)
    wins = float(probability[votes.argmax(axis=-1) == 0].sum())
    assert wins == pytest.approx(stats.binom.sf(count // 2, count, right), abs=1e-12)


def test_shares_of_votes_are_exact_and_ties_are_settled_as_said() -> None:
    said = np.array([[[0.6, 0.4, 0.0]], [[0.1, 0.9, 0.0]], [[0.4, 0.0, 0.6]]])
    np.testing.assert_array_equal(majority_vote(said[:2].repeat(2, 0)[:3]), [[2 / 3, 1 / 3, 0]])
    assert majority_vote(said, tie="lowest")[0].tolist() == [1 / 3] * 3
    assert int(majority_vote(said)[0].argmax()) == 1  # means: 0.367, 0.433, 0.2
    np.testing.assert_allclose(majority_vote(said), 1 / 3, atol=2e-6)
    assert int(majority_vote(said, weight=[1.0, 1.0, 1.5])[0].argmax()) == 2
    near = majority_vote(said[[0, 1]], weight=[1.0, 1.0 + 1e-6])  # no tie: a nudge must not turn it
    assert int(near[0].argmax()) == 1


def test_soft_votes_are_settled_by_votes() -> None:
    said = np.array([[[0.5625, 0.4375]], [[0.5625, 0.4375]], [[0.375, 0.625]]])
    assert int(soft_vote(said)[0].argmax()) == 0
    np.testing.assert_array_equal(soft_vote(said, tie="lowest"), mean(said))


def test_equal_votes_agree_with_scikit_learn() -> None:
    x, y = RNG.normal(size=(90, 3)), np.arange(90) % 3
    models = [(str(i), LogisticRegression(C=c).fit(x[i::2], y[i::2])) for i, c in enumerate((0.1, 1.0, 10.0))]
    said = np.stack([model.predict_proba(x) for _, model in models])
    for voting, combiner in (("hard", majority_vote), ("soft", soft_vote)):
        theirs = VotingClassifier(models, voting=voting)
        theirs.estimators_ = [model for _, model in models]
        theirs.le_ = type("Labels", (), {"inverse_transform": staticmethod(lambda v: v)})()
        np.testing.assert_array_equal(combiner(said, tie="lowest").argmax(-1), theirs.predict(x))
    np.testing.assert_allclose(mean(said), said.mean(0))


def test_means_of_logits_and_of_log_probabilities_are_the_geometric_mean() -> None:
    bank = random()
    p = bank.probabilities()
    wanted = stats.gmean(p, axis=0)
    wanted /= wanted.sum(-1, keepdims=True)
    for space in ("logits", "log-probabilities"):
        np.testing.assert_allclose(combine(bank, "mean", space=space).values[0], wanted)
    np.testing.assert_allclose(combine(bank, "product", weight=[0.2] * 5).values[0], wanted)
    weights = [3.0, 0.0, 1.0, 0.5, 0.5]
    np.testing.assert_allclose(combine(bank, "mean", weight=weights).values[0], np.average(p, axis=0, weights=weights))


def test_robust_means_are_scipys() -> None:
    values = RNG.normal(size=(10, 50))
    np.testing.assert_allclose(median(values[:, :, None], space="values")[:, 0], np.median(values, axis=0))
    np.testing.assert_allclose(
        trimmed(values[:, :, None], space="values", trim=0.2)[:, 0], stats.trim_mean(values, 0.2)
    )
    p = random().probabilities()
    largest = p.max(0)
    np.testing.assert_allclose(maximum(p), largest / largest.sum(-1, keepdims=True))
    nothing = np.array([[[1.0, 0, 0]], [[0, 1.0, 0]], [[0, 0, 1.0]]])
    np.testing.assert_allclose(median(nothing), 1 / 3)  # every median is 0


@pytest.mark.parametrize("classes", [2, 5, 70])
def test_borda_counts_pairs(classes: int) -> None:
    said = np.round(softmax(RNG.normal(size=(3, 6, classes))), 2)
    points = np.zeros((6, classes))
    for member, sample, a, b in itertools.product(range(3), range(6), range(classes), range(classes)):
        if a != b:
            x, y = said[member, sample, a], said[member, sample, b]
            points[sample, a] += 1.0 if x > y else 0.5 if x == y else 0.0
    np.testing.assert_allclose(borda(said), points / points.sum(-1, keepdims=True))


def test_a_product_of_independent_evidence_is_bayes_rule() -> None:
    """Two coins of known bias seen by two members with even priors: their product is the posterior of both."""
    likelihood = np.array([[0.8, 0.3], [0.6, 0.5]])  # of what each saw, under each hypothesis
    posteriors = likelihood / likelihood.sum(1, keepdims=True)
    both = likelihood.prod(0) / likelihood.prod(0).sum()
    np.testing.assert_allclose(product(np.log(posteriors)[:, None])[0], both)


# --- what learns -----------------------------------------------------------------------------------------------------


def test_mixture_weights_are_optimal_and_proved_so() -> None:
    bank = random(members=4, samples=400)
    learnt = fit(bank, "weighted").learnt[0]
    right = bank.probabilities()[:, np.arange(400), bank.labels]
    weights = np.array(learnt["weights"])
    gradient = (right / (weights @ right)).mean(1)
    assert gradient.max() <= 1 + 1e-6
    assert learnt["gap"] < 1e-6
    best = -np.log(weights @ right).mean()
    for _ in range(200):
        other = RNG.dirichlet(np.ones(4))
        assert -np.log(other @ right).mean() >= best - 1e-7


def test_weights_of_logits_are_a_logistic_regressions() -> None:
    """Of two classes and one member it is logistic regression without intercept, which statsmodels knows."""
    import statsmodels.api as sm

    bank = random(members=2, samples=300, classes=2)
    weights = np.array(fit(bank, "weighted", space="logits").learnt[0]["weights"])
    logits = bank.values[..., 1] - bank.values[..., 0]
    theirs = sm.Logit(bank.labels, logits.T).fit(disp=0).params
    assert (theirs > 0).all()
    np.testing.assert_allclose(weights, theirs, rtol=1e-4)


def test_weights_of_values_have_a_closed_form() -> None:
    """Independent errors: the best weights are inverse to the variances of this sample's errors, covariances included."""
    truth = RNG.normal(size=5000)
    errors = RNG.normal(size=(3, 5000)) * np.array([[1.0], [2.0], [3.0]])
    bank = Predictions.of(truth + errors, truth, scale="values", kind="regression")
    weights = np.array(fit(bank, "weighted").learnt[0]["weights"])
    inverse = np.linalg.inv(errors @ errors.T) @ np.ones(3)
    np.testing.assert_allclose(weights, inverse / inverse.sum(), rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_stacking_is_scikit_learns(classes: int) -> None:
    train, test = random(classes=classes), random(classes=classes, seed=1)

    def features(bank: Predictions) -> np.ndarray:
        return np.concatenate(list(bank.probabilities()), axis=1)

    theirs = LogisticRegression(C=0.5, max_iter=10_000).fit(features(train), train.labels)
    ours = fit(train, "stacking", penalty=2.0).apply(test)
    np.testing.assert_allclose(ours.values[0], theirs.predict_proba(features(test)), atol=1e-10)


def test_stacking_of_values_recovers_a_linear_map() -> None:
    values = RNG.normal(size=(2, 100))
    bank = Predictions.of(values, 3 * values[0] - values[1] + 2, scale="values", kind="regression")
    fitted = fit(bank, "stacking", penalty=1e-9)
    np.testing.assert_allclose(fitted.apply(bank).values[0], bank.labels, atol=1e-6)


def test_stacking_needs_every_class() -> None:
    bank = random()
    some = bank.select(samples=bank.labels != 2)
    with pytest.raises(InputError, match="stacking needs labels of every class, and there are none of class 2"):
        fit(some, "stacking")


@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "brier"])
def test_selection_is_carauna_slowly(metric: str) -> None:
    bank = random(members=6, samples=80)
    p, labels = bank.probabilities(), bank.labels

    def judged(chosen: list[int]) -> float:
        together = p[chosen].mean(0)
        if metric == "log_loss":
            return loss(together, labels)
        if metric == "accuracy":
            return float((together.argmax(-1) != labels).mean())
        return float(((together - np.eye(4)[labels]) ** 2).sum(-1).mean())

    chosen = [min(range(6), key=lambda i: judged([i]))]
    seen = [list(chosen)]
    for _ in range(11):
        chosen = [*chosen, min(range(6), key=lambda i: judged([*chosen, i]))]
        seen.append(list(chosen))
    best = min(seen, key=judged)
    fitted = fit(bank, "greedy", metric=metric, rounds=12)
    np.testing.assert_allclose(fitted.learnt[0]["weights"], np.bincount(best, minlength=6) / len(best))
    assert fitted.learnt[0]["path"][0]["members"] == chosen


def test_selection_never_loses_against_its_members_where_it_looks() -> None:
    bank = random(members=6)
    p = fit(bank, "greedy").apply(bank).values[0]
    assert loss(p, bank.labels) <= min(loss(one, bank.labels) for one in bank.probabilities()) + 1e-12
    bags = fit(bank, "greedy", bags=5, share=0.5, start=2)
    assert bags == fit(bank, "greedy", bags=5, share=0.5, start=2)
    assert sum(bags.learnt[0]["weights"]) == pytest.approx(1)
    assert all(len(set(path["members"])) <= 3 for path in bags.learnt[0]["path"])
    with pytest.raises(InputError, match="start must be at most rounds, got 60 and 50"):
        fit(bank, "greedy", start=60)
    with pytest.raises(InputError, match="squared_error does not judge probabilities"):
        fit(bank, "greedy", metric="squared_error")


def test_members_without_weight_need_not_be_asked() -> None:
    bank = random(members=6)
    fitted = fit(bank, "greedy", rounds=3)
    pruned = fitted.pruned()
    assert 0 < len(pruned.members) <= 3
    np.testing.assert_allclose(pruned.apply(bank.select(pruned.members)).values, fitted.apply(bank).values)
    assert fit(bank, "mean").pruned().members == bank.names


def test_posterior_probabilities_are_exact() -> None:
    bank = random(members=3, samples=6)
    p = bank.probabilities()
    joint = np.array([math.prod(p[m, i, bank.labels[i]] for i in range(6)) for m in range(3)])
    learnt = fit(bank, "bayes").learnt[0]
    np.testing.assert_allclose(learnt["weights"], joint / joint.sum())
    np.testing.assert_allclose(np.exp(learnt["log_evidence"]), joint)
    tempered = np.sqrt(joint) / np.sqrt(joint).sum()
    np.testing.assert_allclose(fit(bank, "bayes", power=0.5).learnt[0]["weights"], tempered)


@pytest.mark.parametrize("place", ["before", "after", "both"])
def test_temperatures_of_an_ensemble_are_the_best_of_a_grid(place: str) -> None:
    bank = random(members=3, samples=150)
    fitted = fit(bank, "tempered_mean", place=place)
    best = loss(fitted.apply(bank).values[0], bank.labels)
    for before, after in itertools.product(np.geomspace(0.2, 5, 21), repeat=2):
        if (place == "before" and after != 1) or (place == "after" and before != 1):
            after, before = (1.0, before) if place == "before" else (after, 1.0)
        p = softmax(bank.values / before).mean(0)
        assert loss(softmax(np.log(p) / after), bank.labels) >= best - 1e-9


# --- calibration -----------------------------------------------------------------------------------------------------


def test_the_temperature_of_a_constant_confidence_has_a_closed_form() -> None:
    """Logits (a, 0) with a share r of right answers: the optimum has confidence r, so T = a / log(r / (1 - r))."""
    labels = np.array([0] * 75 + [1] * 25)
    bank = Predictions.of(np.tile([4.0, 0.0], (1, 100, 1)), labels, scale="logits")
    fitted = fit(bank, "temperature")
    assert fitted.learnt[0]["temperature"] == pytest.approx(4 / math.log(3), rel=1e-9)
    np.testing.assert_allclose(fitted.apply(bank).values[0, :, 0], 0.75)


def test_true_probabilities_need_a_temperature_of_one_and_multiples_their_factor() -> None:
    """Every label as often as its probability says: the truth is the optimum, exactly."""
    p = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])
    logits = np.log(np.repeat(p, 8, axis=0))
    labels = np.concatenate([np.repeat(np.arange(3), (8 * row).astype(int)) for row in p])
    for factor in (1.0, 0.1, 7.0):
        bank = Predictions.of(factor * logits[None], labels, scale="logits")
        assert fit(bank, "temperature").learnt[0]["temperature"] == pytest.approx(factor, rel=1e-9)


def test_a_temperature_stays_in_its_range() -> None:
    sure = Predictions.of(np.eye(2)[[[0, 1]]], [0, 1], scale="logits")
    assert fit(sure, "temperature").learnt[0]["temperature"] == pytest.approx(0.01)
    wrong = Predictions.of(np.eye(2)[[[1, 0]]], [0, 1], scale="logits")
    assert fit(wrong, "temperature").learnt[0]["temperature"] == 100.0


def test_each_member_has_its_own_temperature() -> None:
    bank = random(members=3)
    learnt = fit(bank, "temperature").learnt
    alone = [fit(bank.select([i]), "temperature").learnt[0] for i in range(3)]
    assert list(learnt) == alone


def test_vector_scaling_is_a_regression() -> None:
    """Of two classes only the difference of logits counts: w1 z1 - w0 z0 + b is a logistic regression on both."""
    import statsmodels.api as sm

    bank = random(members=1, samples=400, classes=2).to("log-probabilities")
    ours = fit(bank, "vector").apply(bank)
    theirs = sm.Logit(bank.labels, sm.add_constant(bank.values[0])).fit(disp=0)
    np.testing.assert_allclose(ours.values[0, :, 1], theirs.predict(), atol=1e-5)


def test_matrix_scaling_without_penalty_is_multinomial_regression() -> None:
    bank = random(members=1, samples=600, classes=3).to("log-probabilities")
    ours = fit(bank, "matrix", off_diagonal=0.0, bias=0.0).apply(bank)
    theirs = LogisticRegression(C=np.inf, max_iter=10_000, tol=1e-8).fit(bank.values[0], bank.labels)
    np.testing.assert_allclose(ours.values[0], theirs.predict_proba(bank.values[0]), atol=1e-4)
    held = fit(bank, "matrix", off_diagonal=1e6, bias=1e6).learnt[0]
    np.testing.assert_allclose(np.array(held["weights"]) * (1 - np.eye(3)), 0, atol=1e-4)


def test_classes_that_never_mix_lose_nothing() -> None:
    easy = Predictions.of(5 * np.eye(3)[None, [0, 1, 2] * 20], [0, 1, 2] * 20, scale="logits")
    p = fit(easy, "matrix", off_diagonal=0.0, bias=0.0).apply(easy).values[0]
    assert loss(p, easy.labels) < 1e-6


def test_platt_is_scikit_learns() -> None:
    bank = random(members=1, samples=300, classes=2)
    p = bank.probabilities()[0]
    scores = np.log(p[:, 1] / p[:, 0])
    theirs = _SigmoidCalibration().fit(scores, bank.labels)
    np.testing.assert_allclose(fit(bank, "platt").apply(bank).values[0, :, 1], theirs.predict(scores), atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_isotonic_is_scikit_learns(classes: int) -> None:
    train, test = random(members=1, classes=classes), random(members=1, classes=classes, seed=3)
    p, q = train.probabilities()[0], test.probabilities()[0]
    curves = [
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p[:, c], train.labels == c).predict(q[:, c])
        for c in range(classes)
    ]
    wanted = np.stack([1 - curves[1], curves[1]], 1) if classes == 2 else np.stack(curves, 1)
    if classes > 2:
        empty = wanted.sum(1) == 0
        wanted[empty] = 1.0
        wanted /= wanted.sum(1, keepdims=True)
    np.testing.assert_allclose(fit(train, "isotonic").apply(test).values[0], wanted, atol=1e-12)


@pytest.mark.parametrize("bins", ["equal_width", "equal_mass"])
def test_histograms_say_what_was_seen(bins: str) -> None:
    from modelwright.evaluate import Convention, calibration_error

    bank = random(members=1, samples=500, classes=2)
    p = fit(bank, "histogram", bins=bins, count=10).apply(bank)
    error = calibration_error(p.values[0], bank.labels, Convention(count=1000, of="classwise"))
    assert error == pytest.approx(0, abs=1e-12)


# --- conformal -------------------------------------------------------------------------------------------------------


def test_the_quantile_is_that_of_finite_samples() -> None:
    scores = np.arange(1, 10) / 10
    assert quantile(scores, 0.9) == 0.9  # the 9th of 9
    assert quantile(scores, 0.91) is None  # it would be the 10th
    assert quantile(scores, 0.5) == 0.5
    assert quantile(np.arange(99.0), 0.9) == 89.0


@pytest.mark.parametrize("options", [{"score": "lac"}, {"score": "aps"}, {"score": "aps", "randomized": True}])
def test_sets_cover_exactly_as_often_as_ranks_say(options: dict) -> None:
    """Leave-one-out of exchangeable samples: the right class is covered by exactly k = ceil((n + 1) c) of n + 1 choices."""
    bank = random(members=1, samples=41, classes=5)
    covered = 0
    for i in range(41):
        rest = np.arange(41) != i
        fitted = fit(bank.select(samples=rest), "conformal_sets", coverage=0.8, allow_empty=True, **options)
        covered += int(fitted.sets(bank.select(samples=[i]))[0, 0, bank.labels[i]])
    assert covered == math.ceil(41 * 0.8)


def test_adaptive_sets_add_up_by_hand() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])
    np.testing.assert_array_equal(conformal_sets(p, score="aps", threshold=0.8), [[1, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(conformal_sets(p, score="aps", threshold=0.45), [[1, 0, 0], [1, 0, 0]])
    empty = conformal_sets(p, score="aps", threshold=0.45, allow_empty=True)
    np.testing.assert_array_equal(empty, [[0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(conformal_sets(p, score="lac", threshold=0.6), [[1, 0, 0], [1, 1, 0]])
    half = conformal_sets(p, score="aps", randomized=True, threshold=0.65, noise=np.array([0.5, 0.5]))
    np.testing.assert_array_equal(half, [[1, 1, 0], [1, 1, 0]])
    assert conformal_sets(p, threshold=None).all()


def test_intervals_cover_exactly_as_often_as_ranks_say() -> None:
    truth = RNG.normal(size=31)
    bank = Predictions.of(truth[None] + RNG.normal(size=(1, 31)), truth, scale="values", kind="regression")
    covered = 0
    for i in range(31):
        ends = fit(bank.select(samples=np.arange(31) != i), "conformal_intervals").intervals(bank.select(samples=[i]))
        covered += int(ends[0, 0, 0] <= truth[i] <= ends[0, 0, 1])
    assert covered == math.ceil(31 * 0.9)
    few = fit(bank.select(samples=slice(5)), "conformal_intervals")
    assert few.learnt[0]["radius"] is None
    assert np.isinf(few.intervals(bank)).all()


# --- maps ------------------------------------------------------------------------------------------------------------


def test_maps_of_unknown_scales_are_one_map() -> None:
    depth = RNG.uniform(1, 5, size=(4, 6, 7))
    factors = np.array([0.5, 1.0, 3.0])
    for how in ("arithmetic", "geometric", "harmonic"):
        np.testing.assert_allclose(dense_mean(depth * factors[:, None, None, None], mean=how), depth)
    np.testing.assert_allclose(dense_mean(np.stack([depth, depth * 3]), align="none"), depth * 2)
    with pytest.raises(InputError, match=r"must be positive to be scaled, got -1 \(member 2, sample 1 of the block\)"):
        dense_mean(np.array([[[1.0]], [[-1.0]]]))


def slow_staple(d: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixel by pixel, member by member, as the paper writes it."""
    members, pixels = d.shape
    f, p, q = d.mean(), [0.99999] * members, [0.99999] * members
    for step in range(steps + 1):
        w = []
        for i in range(pixels):
            a = f * math.prod(p[j] if d[j, i] else 1 - p[j] for j in range(members))
            b = (1 - f) * math.prod(1 - q[j] if d[j, i] else q[j] for j in range(members))
            w.append(a / (a + b))
        if step == steps:
            break
        p = [sum(w[i] for i in range(pixels) if d[j, i]) / sum(w) for j in range(members)]
        q = [sum(1 - w[i] for i in range(pixels) if not d[j, i]) / (pixels - sum(w)) for j in range(members)]
    return np.array(w), np.array(p), np.array(q)


def test_staple_is_the_papers() -> None:
    truth = RNG.random(60) < 0.3
    flips = RNG.random((4, 60)) < np.array([[0.05], [0.1], [0.2], [0.4]])
    marked = truth ^ flips
    found = staple_estimates(marked.reshape(4, 6, 10), iterations=15, tolerance=1e-300)
    w, p, q = slow_staple(marked, 15)
    np.testing.assert_allclose(found.probabilities.reshape(-1), w, atol=1e-9)
    np.testing.assert_allclose(found.sensitivities, p, atol=1e-9)
    np.testing.assert_allclose(found.specificities, q, atol=1e-9)


def test_staple_finds_the_members_that_err() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(40_000) < 0.3
    p, q = np.array([0.95, 0.9, 0.85, 0.6, 0.55]), np.array([0.99, 0.95, 0.9, 0.7, 0.6])
    marked = np.where(truth, rng.random((5, 40_000)) < p[:, None], rng.random((5, 40_000)) >= q[:, None])
    found = staple_estimates(marked, prior=0.3)
    np.testing.assert_allclose(found.sensitivities, p, atol=0.015)
    np.testing.assert_allclose(found.specificities, q, atol=0.015)
    staple_wrong = ((found.probabilities > 0.5) != truth).mean()
    majority_wrong = ((marked.mean(0) > 0.5) != truth).mean()
    assert staple_wrong < majority_wrong


def test_staple_of_everything_and_of_nothing() -> None:
    blank = np.zeros((3, 2, 4, 4))
    blank[:, 1] = 1
    np.testing.assert_array_equal(staple(blank), blank[0])
    with pytest.raises(InputError, match="at most 62 members, got 63"):
        staple(np.zeros((63, 1, 2)))
