"""Debate on scripted backends: against closed forms, and what debaters are shown."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from modelwright.chat import DEBATE, Session
from modelwright.chat._forms import read_blocks
from modelwright.errors import InputError, RunError

from .helpers import accuracy, close, majority, panel, questions, script, solve
from .test_programs import Recorder

N = 800
YES_NO = ("yes", "no")


def expected(n: int, p: float, follows: float) -> float:
    """How often the vote after one round of debate is right: each debater takes the others' majority, the first of equal
    ones, as often as it follows, and else answers anew."""
    total = 0.0
    for first in itertools.product((1, 0), repeat=n):
        chance = 1.0
        for right in first:
            chance *= p if right else 1 - p
        if len(set(first)) == 1:  # all agree, and it ends
            total += chance * first[0]
            continue
        shares = []
        for i in range(n):
            others = [right for j, right in enumerate(first) if j != i]
            popular = max(dict.fromkeys(others), key=others.count)
            shares.append(follows * popular + (1 - follows) * p)
        for second in itertools.product((1, 0), repeat=n):
            if sum(second) * 2 > n:
                weight = 1.0
                for right, share in zip(second, shares, strict=True):
                    weight *= share if right else 1 - share
                total += chance * weight
    return total


@pytest.mark.parametrize(("n", "p", "follows"), [(3, 0.7, 0.0), (3, 0.7, 0.8), (5, 0.6, 0.5)])
def test_a_debate_is_its_closed_form(n: int, p: float, follows: float) -> None:
    known = questions(N, YES_NO)
    backends = {
        f"agent {i}": script(known, f"agent {i}", accuracy=p, options=YES_NO, follows=follows) for i in range(n)
    }
    found = solve(panel(backends, DEBATE), list(known))
    assert close(accuracy(found, known), expected(n, p, follows), N)
    agreed = p**n + (1 - p) ** n
    assert close(sum(o.calls == n for o in found) / N, agreed, N)
    assert {o.calls for o in found} == {n, 2 * n}


def test_without_following_a_debate_is_one_more_vote() -> None:
    """Who agrees at once is right as often as a vote; who does not votes anew, so nothing is won over one vote of three."""
    assert expected(3, 0.7, 0.0) == pytest.approx(0.7**3 + 3 * 0.7 * 0.3 * majority(3, 0.7))


def test_what_debaters_are_shown() -> None:
    recorders = {
        name: Recorder(script({"Q?": "4"}, name, says=f"{name} says: The answer is {{answer}}.")) for name in "abc"
    }
    [found] = solve(panel(recorders, DEBATE, rounds=3, early_stop=False), ["Q?"])
    assert found.calls == 9
    first, second, third = recorders["b"].requests
    assert [m.role for m in first.messages] == ["user"]
    assert [m.role for m in second.messages] == ["user", "assistant", "user"]
    assert second.messages[1].content.startswith("b says:")
    shown = read_blocks(second.messages[2].content)
    assert [text[0] for text in shown] == ["a", "c"]
    assert [m.role for m in third.messages] == ["user", "assistant"] * 2 + ["user"]
    assert found.steps[4].shown == (0, 1, 2)
    assert found.facts["rounds"] == [["4"] * 3] * 3


def test_who_fails_leaves_the_debate() -> None:
    class Once(Recorder):
        async def ask(self, request: Any) -> Any:
            if self.requests:
                raise RunError("it went down", resumable=True)
            return await super().ask(request)

    backends = {
        "a": script({"Q?": "4"}, "a"),
        "b": script({"Q?": "4"}, "b"),
        "c": Once(script({"Q?": "4"}, "c", accuracy=0.0)),
    }
    with pytest.raises(RunError, match="it went down"):
        solve(panel(backends, DEBATE), ["Q?"], Session())
    [found] = solve(panel({**backends, "c": Once(script({"Q?": "4"}, "c", accuracy=0.0))}, DEBATE, quorum=2), ["Q?"])
    assert found.value == "4"
    assert [s.agent for s in found.steps] == ["a", "b", "c", "a", "b"]
    assert found.notes == ("a reply is missing: it went down",)


def test_what_a_debate_cannot_be() -> None:
    one = {"a": script({"Q?": "4"}, "a")}
    with pytest.raises(InputError, match=r"a debate needs two debaters, got 1. Name more agents, or set samples"):
        panel(one, DEBATE)
    assert panel(one, DEBATE, samples=3, combine="rank").calls == (4, 7)
    with pytest.raises(ValueError, match="there is no combiner 'most'"):
        DEBATE.params(combine="most")
    with pytest.raises(ValueError, match="quorum must be at most the 2 debaters, got 3"):
        DEBATE.params(agents=["a", "b"], quorum=3)
