"""Votes, and when they can no longer change."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from modelwright.chat import Decision, Ties, chosen, least_more, near, plurality, settled, verified, weighted
from modelwright.errors import InputError

from .helpers import STEADY

ANSWERS = st.lists(st.one_of(st.none(), st.sampled_from("abc")), max_size=9)
TIES = st.sampled_from(["first", "abstain", "random"])


def outcome(decision: Decision) -> tuple[Any, int | None]:
    return decision.value, decision.index


def test_plurality_and_its_ties() -> None:
    assert outcome(plurality(["b", "a", "a", None])) == ("a", 1)
    tie = ["b", "a", "a", "b"]
    assert outcome(plurality(tie)) == ("b", 0)
    assert outcome(plurality(tie, ties="abstain")) == (None, None)
    assert plurality(tie, ties="abstain").tied
    found = {plurality(tie, ties="random", key=str(i)).value for i in range(40)}
    assert found == {"a", "b"}
    assert plurality(tie, ties="random", key="x") == plurality(tie, ties="random", key="x")
    assert outcome(plurality([None, None])) == (None, None)
    assert outcome(plurality([])) == (None, None)
    assert plurality(["a", None, "b", "a"]).abstained == 1
    assert plurality(["a", None, "b", "a"]).share == pytest.approx(2 / 3)
    assert plurality(["1", "1.0", "2"], same=near()).value == "1"


def test_weights() -> None:
    assert weighted(["a", "b", "b"], [0.9, 0.3, 0.4]).value == "a"
    assert weighted(["a", "b", "b"], [0.9, 0.5, 0.5]).value == "b"
    assert weighted(["a", "b", "b"], [0.3, 0.1, 0.2]).tied  # 0.1 + 0.2 is not 0.3 in binary
    assert weighted(["a"], [0.0]).value is None
    assert weighted([None, "a"], [9.0, 1.0]).value == "a"


@given(ANSWERS, TIES)
@settings(**STEADY)
def test_a_vote_of_one_each_is_a_plurality(answers: list[Any], ties: Ties) -> None:
    assert plurality(answers, ties=ties) == weighted(answers, [1.0] * len(answers), ties=ties)


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=9).flatmap(
        lambda x: st.tuples(st.just(x), st.permutations(x))
    )
)
@settings(**STEADY)
def test_the_order_of_a_vote_without_a_tie_changes_nothing(both: tuple[list[str], list[str]]) -> None:
    first, second = plurality(both[0]), plurality(both[1])
    assert first.tied == second.tied
    if not first.tied:
        assert first.value == second.value


@given(ANSWERS, TIES)
@settings(max_examples=400, **STEADY)
def test_stopping_early_changes_nothing_and_wastes_nothing(answers: list[Any], ties: Ties) -> None:
    """The decision on the answers that were asked for is that on all; and waves ask for no more than one by one."""
    n = len(answers)
    shortest = next(k for k in range(n + 1) if settled(answers[:k], n - k, ties=ties))
    assert outcome(plurality(answers[:shortest], ties=ties)) == outcome(plurality(answers, ties=ties))
    asked = 0
    while size := least_more(answers[:asked], n - asked, ties=ties):
        asked += size
    assert asked == shortest


@given(st.lists(st.one_of(st.none(), st.sampled_from("ab")), max_size=4), st.integers(0, 3), TIES)
@settings(max_examples=300, **STEADY)
def test_settled_is_exactly_that_no_continuation_decides_otherwise(seen: list[Any], left: int, ties: Ties) -> None:
    """By all continuations; random ties take every key, so a tie of several is not settled."""
    found = set()
    for rest in itertools.product([None, "a", "b", "c"], repeat=left):
        decision = plurality([*seen, *rest], ties="abstain" if ties == "random" else ties)
        found.add("tie" if ties != "first" and decision.tied else outcome(decision))
    if left:
        assert settled(seen, left, ties=ties) == (len(found) == 1 and found != {"tie"})
    else:
        assert settled(seen, left, ties=ties)


def test_how_many_more() -> None:
    assert least_more([], 5) == 3
    assert least_more([], 4) == 2  # two equal ones came first, so a tie goes to them
    assert least_more([], 4, ties="abstain") == 3
    assert least_more(["a", "b"], 3) == 2
    assert least_more(["a", "a", "a"], 2) == 0
    assert least_more(["a", "a", "b"], 1) == 0  # a tie would go to a
    assert least_more(["b", "a", "a"], 1) == 1  # and here to b
    assert least_more([None, None], 1) == 1


def test_judges_decide() -> None:
    assert outcome(chosen(["a", None, "b"], [1, 2, 0])) == ("b", 2)
    assert outcome(chosen([None], [0])) == (None, None)
    assert outcome(verified(["a", "b", "b"], [False, None, True])) == ("b", 2)
    assert outcome(verified(["a", "b"], [False])) == (None, None)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (
            lambda: plurality(["a"], ties="last"),
            r"ties cannot be 'last'. (Did you mean .*)?Valid: abstain, first, random",
        ),  # type: ignore[arg-type]
        (lambda: weighted(["a"], [-1]), "a weight must be a number of at least 0, got -1 for answer 0"),
        (lambda: weighted(["a"], []), "1 answers need as many weights, got 0"),
        (lambda: chosen(["a"], [1]), r"ranks must be positions in \[0, 0\], got 1"),
        (lambda: verified([], [True]), "0 answers need at most as many verdicts, got 1"),
        (lambda: least_more([], -1), "remaining must be at least 0, got -1"),
    ],
)
def test_refusals(call: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        call()
