"""Challenge sets: published sums, closed forms and invariants."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelwright.chat import (
    ACES_WEIGHTS,
    Agent,
    Pair,
    Reply,
    Request,
    Session,
    aces_category,
    challenge,
    combined,
    judge_pairs,
    read_pairs,
    read_spans,
    sensitivity,
    span_f1,
    span_preference,
    tau,
    weighted_score,
)
from modelwright.errors import InputError
from modelwright.evaluate import Sampling

#: One phenomenon of each category, in the order of the weights.
ONE_EACH = (
    "addition", "omission", "nonsense", "copy-source", "do-not-translate", "hyponym-replacement", "hypernym-replacement",
    "antonym-replacement", "similar-language-high", "punctuation:deletion_all",
)  # fmt: skip


@pytest.mark.parametrize(
    ("means", "score"),
    [
        ((0.790, 0.812, 0.489, -0.456, 0.760, 0.654, 0.528, 0.487, 0.306, 0.255), 17.49),
        ((0.748, 0.435, -0.229, 0.353, 0.600, -0.838, -0.856, -0.768, 0.661, 0.638), -2.79),
    ],
)
def test_published_scores_come_of_published_categories(means: tuple[float, ...], score: float) -> None:
    assert weighted_score(dict(zip(ACES_WEIGHTS, means, strict=True))) == pytest.approx(score, abs=0.006)


def test_the_ends_of_the_scale() -> None:
    assert challenge(np.ones(10), np.zeros(10), ONE_EACH).score == pytest.approx(29.1)
    tied = challenge(np.ones(10), np.ones(10), ONE_EACH)
    assert tied.score == pytest.approx(-29.1)
    assert set(tied.ties.values()) == {1.0}
    assert challenge(np.zeros(10), np.ones(10), ONE_EACH, higher_is_better=False).score == pytest.approx(29.1)


@pytest.mark.parametrize(("sigma", "members", "expected"), [(1.0, 1, 0.5205), (1.0, 4, 0.8427)])
def test_noisy_scores_have_their_closed_form(sigma: float, members: int, expected: float) -> None:
    """A gap of 1 and noise on both sides: tau is 2 Phi(1 / (s sqrt 2)) - 1, and the mean of m has s / sqrt m."""
    rng = np.random.default_rng(0)
    n = 20000
    good, bad = (
        (1 + sigma * rng.normal(size=(members, n))).mean(axis=0),
        sigma * rng.normal(size=(members, n)).mean(axis=0),
    )
    closed = math.erf(math.sqrt(members) / (2 * sigma))
    assert closed == pytest.approx(expected, abs=5e-5)
    assert tau(good, bad) == pytest.approx(closed, abs=4 * math.sqrt((1 - closed**2) / n))


def test_transforms_change_nothing() -> None:
    rng = np.random.default_rng(1)
    good, bad = rng.normal(size=50), rng.normal(size=50)
    assert tau(np.exp(good), np.exp(bad)) == tau(good, bad)


def test_ties_and_gaps() -> None:
    good, bad = [2, 2, 1, 0], [1, 2, 1, 1]
    assert tau(good, bad) == pytest.approx((1 - 3) / 4)
    assert tau(good, bad, ties="half") == pytest.approx((1 - 1) / 4)
    assert tau(good, bad, ties="drop") == pytest.approx((1 - 1) / 2)
    assert math.isnan(tau([1, math.nan], [0, 0]))
    assert math.isnan(tau([], []))
    scores = np.where(np.arange(10) == 2, math.nan, 1.0)
    gap = challenge(scores, np.zeros(10), ONE_EACH)
    assert math.isnan(gap.categories["mistranslation"])
    assert gap.score is not None
    assert math.isnan(gap.score)
    dropped = challenge(scores, np.zeros(10), ONE_EACH, missing="drop")
    assert (dropped.score, dropped.missing) == (None, ("mistranslation",))
    with pytest.raises(InputError, match="1 scores are missing, the first of pair 2"):
        challenge(scores, np.zeros(10), ONE_EACH, missing="raise")


def test_categories_weigh_phenomena_and_not_pairs() -> None:
    phenomena = ["nonsense"] * 9 + ["xnli-addition-contradiction"]
    found = challenge([*[1] * 9, 0], [*[0] * 9, 1], phenomena)
    assert found.categories == {"mistranslation": 0.0}
    assert found.counts == {"nonsense": 9, "xnli-addition-contradiction": 1}
    own = challenge([1, 1], [0, 0], ["a", "b"], category={"a": "x", "b": "x"}, weights={"x": 2.0})
    assert own.score == 2.0
    with pytest.raises(InputError, match="the phenomenon 'b' has no category"):
        challenge([1, 1], [0, 0], ["a", "b"], category={"a": "x"}, weights={"x": 2.0})
    with pytest.raises(InputError, match="the category 'y' has no weight"):
        challenge([1], [0], ["a"], category={"a": "y"}, weights={"x": 2.0})


@pytest.mark.parametrize(
    ("phenomenon", "category"),
    [
        ("real-world-knowledge-synonym-vs-antonym", "real-world knowledge"), ("punctuation:deletion_quotes", "punctuation"),
        ("modal_verb:substitution", "mistranslation"), ("anaphoric_group_it-they:deletion", "mistranslation"),
        ("untranslated-vs-synonym", "untranslated"), ("similar-language-low", "wrong language"),
    ],
)  # fmt: skip
def test_phenomena_have_categories(phenomenon: str, category: str) -> None:
    assert aces_category(phenomenon) == category


def test_an_unknown_phenomenon_is_named() -> None:
    with pytest.raises(InputError, match=r"'adition' is no phenomenon of ACES. Did you mean 'addition'"):
        aces_category("adition")


def test_scores_blind_to_different_errors_are_better_together() -> None:
    """One sees additions and the other omissions; the mean of both sees both."""
    rng = np.random.default_rng(2)
    phenomena = np.array(["addition", "omission"] * 300)
    weights = {"addition": 5.0, "omission": 5.0}

    def of(seen: str) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=600) + 3 * (phenomena == seen), rng.normal(size=600)

    pairs = [of("addition"), of("omission")]
    known = [np.concatenate(pair) for pair in pairs]
    both = [combined([pair[side] for pair in pairs], known) for side in (0, 1)]
    single = [challenge(*pair, phenomena.tolist(), weights=weights).score or 0 for pair in pairs]
    assert (challenge(*both, phenomena.tolist(), weights=weights).score or 0) > max(single)


def test_sensitivity_has_no_scale() -> None:
    good, bad = np.array([3.0, 4.0]), np.array([1.0, 2.0])
    ordinary = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    assert sensitivity(good, bad, ordinary) == pytest.approx(1.0)
    assert sensitivity(10 * good + 5, 10 * bad + 5, 10 * ordinary + 5) == pytest.approx(1.0)
    assert sensitivity(good, bad) == pytest.approx(0.4)
    with pytest.raises(InputError, match="interquartile range of 0"):
        sensitivity(good, bad, np.ones(5))


def test_spans() -> None:
    assert read_spans("a <v>b</v> c <v> d </v><v></v>") == ["b", "d"]
    assert span_f1([], []) == 1.0
    assert span_f1(["a"], []) == span_f1([], ["a"]) == span_f1(["a"], ["b"]) == 0.0
    assert span_f1(["a", "b"], [" a ", "c"]) == 0.5
    assert span_f1(["a"], ["a", "a"]) == 1.0
    good, bad = span_preference([[], ["x"]], [["y"], ["y"]])
    assert (good.tolist(), bad.tolist()) == ([60.0, 10.0], [50.0, 50.0])


def test_a_table_is_read_without_quotes(tmp_path: Path) -> None:
    path = tmp_path / "aces.tsv"
    head = "source\tgood-translation\tincorrect-translation\treference\tphenomena\tlangpair"
    path.write_text(f'{head}\nEr sagte "ja\tHe said "yes\tHe said "no\tr\tnonsense\tde-en\n', encoding="utf-8")
    assert read_pairs(path) == [Pair('Er sagte "ja', 'He said "yes', 'He said "no', "nonsense", "r", "de-en")]
    path.write_text(f"{head}\na\tb\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a row must have 6 columns, got 2. \[.*aces.tsv:2\]"):
        read_pairs(path)
    path.write_text("source\n", encoding="utf-8")
    with pytest.raises(InputError, match="lacks good-translation, incorrect-translation, phenomena"):
        read_pairs(path)


class Judge:
    """It gives 80 to what it takes for right and 20 to the others; of some it says nothing."""

    model = "judge"

    def __init__(self, p: float, ties: float):
        self.p, self.ties, self.requests = p, ties, []

    async def ask(self, request: Request) -> Reply:
        self.requests.append(request)
        text = request.messages[-1].content
        number = int(text.partition("pair ")[2].partition(" ")[0])
        good = "good" in text
        if number == 0:
            return Reply("I cannot tell.")
        if number % 100 < 100 * self.ties:
            return Reply("It has 3 errors. 50")
        prefers = number % 100 < 100 * (self.ties + self.p)
        return Reply("80" if good == prefers else "20")

    async def close(self) -> None:
        """Nothing."""


def test_a_judge_that_prefers_as_often_as_it_is_told() -> None:
    """tau = 2 p - 1, where ties are losses."""
    judge: Any = Judge(0.6, 0.1)
    agent = Agent("judge", judge, sampling=Sampling(max_tokens=16))
    pairs = [Pair("source", f"pair {i} good", f"pair {i} bad", "nonsense") for i in range(1, 401)]
    good, bad = asyncio.run(judge_pairs(Session(), agent, pairs))
    assert tau(good, bad) == pytest.approx(2 * 0.6 - 1)
    assert challenge(good, bad, ["nonsense"] * 400).ties["nonsense"] == pytest.approx(0.1)
    first, second = (request.messages[-1].content for request in judge.requests[:2])
    assert first.replace("good", "bad") == second  # identical wording
    unread, _ = asyncio.run(judge_pairs(Session(), agent, [Pair("s", "pair 0 good", "pair 0 bad", "nonsense")]))
    assert np.isnan(unread).all()
    with pytest.raises(InputError, match=r"a judge of pairs has temperature 0, got 0.7"):
        asyncio.run(judge_pairs(Session(), Agent("warm", judge), pairs))
