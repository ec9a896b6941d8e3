"""DyLAN against closed forms, and its importances against the paper's definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from modelwright.chat import (
    DYLAN,
    Outcome,
    Reply,
    Request,
    Round,
    agent_importance,
    best_team,
    edge_weights,
    importances,
)
from modelwright.chat._forms import FORMS, read_blocks
from modelwright.errors import InputError

from .helpers import STEADY, accuracy, close, panel, questions, script, solve

N = 800
NAMES = ("a", "b", "c", "d")


def team(known: dict[str, str], shares: tuple[float, ...], **more: Any) -> dict[str, Any]:
    """Wrong answers are all distinct, as on the method's card."""
    return {n: script(known, n, accuracy=p, **more) for n, p in zip(NAMES, shares, strict=True)}


def first_round(outcome: Outcome) -> int:
    return sum(step.purpose == "answer" for step in outcome.steps)


def stopped(outcome: Outcome) -> bool:
    return len(outcome.facts["rounds"]) == 1


def test_where_it_stops() -> None:
    known = questions(N)
    found = solve(panel(team(known, (0.7,) * 4), DYLAN), list(known))
    three = sum(stopped(o) and first_round(o) == 3 for o in found) / N
    four = sum(stopped(o) and first_round(o) == 4 for o in found) / N
    assert close(three, 0.343, N)
    assert close(four, 0.3087, N)
    calls = sum(first_round(o) for o in found) / N
    assert abs(calls - 3.657) < 4 * math.sqrt(0.343 * 0.657 / N)
    assert accuracy(found, known) > 0.9


def test_later_rounds_rank_and_keep_two() -> None:
    known = questions(300)
    work = panel(team(known, (0.3,) * 4), DYLAN)
    found = solve(work, list(known))
    long = [o for o in found if len(o.facts["rounds"]) == 3]
    assert len(long) > 50
    for outcome in long:
        names = outcome.facts["rounds"]
        assert sorted(names[0]) == sorted(names[1]) == list(NAMES)
        assert len(names[2]) == 2
        assert sum(s.purpose == "rank" for s in outcome.steps) == 1
        # The ranker puts right ones first, so those who were right in round 1 are kept.
        middle = {s.agent: s.value for s in [s for s in outcome.steps if s.purpose == "revise"][:4]}
        right = [n for n, v in middle.items() if v in ("yes", "no")]
        assert set(right[:2]) <= set(names[2]) or len(right) > 2
        assert outcome.calls == 4 + 4 + 1 + 2
    assert work.calls == (3, 11)


def test_identical_agents_stop_at_once() -> None:
    for size, needed in ((1, 1), (2, 2), (3, 3), (4, 3), (7, 5)):
        names = [f"agent {i}" for i in range(size)]
        backends = {n: script({"Q?": "4"}, n) for n in names}
        [found] = solve(panel(backends, DYLAN), ["Q?"])
        assert (found.calls, found.value) == (needed, "4")


def test_agents_that_abstain_are_no_consensus() -> None:
    backends = {n: script({"Q?": "4"}, n, says="I say {answer}.") for n in NAMES}
    [found] = solve(panel(backends, DYLAN), ["Q?"])
    assert found.value is None
    assert found.text == ""
    assert len(found.facts["rounds"]) == 3
    assert sum(found.facts["importance"].values()) == pytest.approx(3.0)


def test_every_agent_sees_all_replies_once_and_rates_them() -> None:
    known = questions(40)
    asked: list[Request] = []

    class Watched:
        def __init__(self, inner: Any):
            self.inner, self.model = inner, inner.model

        async def ask(self, request: Request) -> Reply:
            asked.append(request)
            return await self.inner.ask(request)

        async def close(self) -> None:
            """Nothing."""

    backends = {n: Watched(b) for n, b in team(known, (0.4,) * 4).items()}
    found = solve(panel(backends, DYLAN, rounds=2), list(known))
    orders = set()
    rated = [read_blocks(r.messages[-1].content) for r in asked if FORMS["rate"] in r.text]
    for outcome in (o for o in found if not stopped(o)):
        texts = sorted(s.reply.text for s in outcome.steps if s.purpose == "answer")
        mine = [tuple(map(texts.index, shown)) for shown in rated if sorted(shown) == texts]
        assert mine  # all four, each once
        orders |= set(mine)
    assert len(orders) > 5  # shuffled anew for each call


def test_the_weak_agent_has_the_least_importance() -> None:
    known = questions(300)
    found = solve(panel(team(known, (0.9, 0.9, 0.9, 0.3)), DYLAN), list(known))
    scores = agent_importance(found)
    assert min(scores, key=scores.__getitem__) == "d"
    assert best_team(found, 3) == ["a", "b", "c"]


def test_importances_sum_to_1_in_each_round() -> None:
    known = questions(200)
    for outcome in solve(panel(team(known, (0.5,) * 4), DYLAN), list(known)):
        for nodes in outcome.facts["nodes"]:
            assert sum(nodes.values()) == pytest.approx(1.0)
        assert sum(outcome.facts["importance"].values()) == pytest.approx(len(outcome.facts["rounds"]))


def rounds_of(ratings: list[list[int]]) -> list[Round]:
    """Two rounds of as many agents as there are ratings; row i rates the first round's agents."""
    names = [str(i) for i in range(len(ratings))]
    steps: Any = dict.fromkeys(names)
    weights = {i: edge_weights(dict(zip(names, row, strict=True))) for i, row in zip(names, ratings, strict=True)}
    return [Round(steps), Round(steps, weights)]


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(st.lists(st.integers(-2, 9), min_size=n, max_size=n), min_size=n, max_size=n)
    )
)
@settings(max_examples=60, **STEADY)
def test_back_propagation_by_hand(ratings: list[list[int]]) -> None:
    n = len(ratings)
    agrees = ["0"] if n < 3 else ["0", "2"]
    last = [1 / len(agrees) if str(i) in agrees else 0.0 for i in range(n)]
    first = [0.0] * n
    for i, row in enumerate(ratings):
        clipped = [min(max(r, 0), 5) / 5 for r in row]
        total = sum(clipped)
        for j in range(n):
            first[j] += last[i] * (clipped[j] / total if total else 1 / n)
    found = importances(rounds_of(ratings), agrees)
    assert list(found[1].values()) == pytest.approx(last)
    assert list(found[0].values()) == pytest.approx(first)


def test_equal_ratings_are_uniform_importance() -> None:
    assert importances(rounds_of([[3] * 4] * 4), ["1"])[0] == pytest.approx({str(i): 0.25 for i in range(4)})
    assert edge_weights({"a": 0, "b": -3}) == {"a": 0.5, "b": 0.5}


def test_refusals() -> None:
    with pytest.raises(InputError, match="importance needs a round with a reply"):
        importances([], [])
    with pytest.raises(InputError, match="importance of agents comes from outcomes of dylan"):
        agent_importance([Outcome("", None, ())])
    [found] = solve(panel(team({"Q?": "4"}, (1.0,) * 4), DYLAN), ["Q?"])
    with pytest.raises(InputError, match=r"a team of 4 agents has best ones in \[1, 4\], got 5"):
        best_team([found], 5)
    with pytest.raises(ValueError, match="rounds"):
        DYLAN.params(rounds=1)
