"""Programs against closed forms on scripted backends: how often they are right, and what they ask."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from modelwright.chat import (
    COMBINERS,
    MOA,
    SELF_CONSISTENCY,
    SELF_MOA_SEQ,
    Agent,
    Outcome,
    Panel,
    Reply,
    Request,
    Session,
    Transcript,
    plurality,
)
from modelwright.chat._forms import read_blocks
from modelwright.errors import InputError, RunError
from modelwright.evaluate import Sampling

from .helpers import (
    ANSWER,
    ENSEMBLES,
    accuracy,
    agent,
    close,
    majority,
    majority_of,
    panel,
    plurality_first,
    questions,
    script,
    solve,
)

N = 800
YES_NO = ("yes", "no")


class Recorder:
    """A scripted backend that remembers what it was asked."""

    def __init__(self, inner: Any):
        self.inner, self.requests = inner, []
        self.model = inner.model

    async def ask(self, request: Request) -> Reply:
        self.requests.append(request)
        return await self.inner.ask(request)

    async def close(self) -> None:
        """Nothing."""


def steps(outcome: Outcome, purpose: str) -> list[Any]:
    return [step for step in outcome.steps if step.purpose == purpose]


# Closed forms of the cards


def test_the_closed_forms_are_those_of_the_papers_cards() -> None:
    assert majority(5, 0.7) == pytest.approx(0.83692)
    assert majority(5, 0.8) == pytest.approx(0.94208)
    assert majority_of((0.8, 0.6, 0.6)) == pytest.approx(0.744)
    assert majority_of((0.8, 0.7, 0.6)) == pytest.approx(0.788)
    assert majority(3, 0.8) == pytest.approx(0.896)


@pytest.mark.parametrize(("n", "p"), [(1, 0.7), (3, 0.8), (5, 0.7)])
def test_self_consistency_is_the_binomial_majority(n: int, p: float) -> None:
    known = questions(N, YES_NO)
    work = panel({"one": script(known, accuracy=p, options=YES_NO)}, SELF_CONSISTENCY, samples=n, early_stop=False)
    found = solve(work, list(known))
    assert close(accuracy(found, known), majority(n, p), N)
    assert {outcome.calls for outcome in found} == {n}


def test_stopping_early_gives_the_same_answers_for_fewer_calls() -> None:
    known = questions(N, YES_NO)
    backend = script(known, accuracy=0.7, options=YES_NO)
    whole = solve(panel({"one": backend}, SELF_CONSISTENCY, samples=5, early_stop=False), list(known))
    early = solve(panel({"one": backend}, SELF_CONSISTENCY, samples=5), list(known))
    assert [o.value for o in early] == [o.value for o in whole]
    assert [o.text for o in early] == [o.text for o in whole]
    p, q = 0.7, 0.3
    three = p**3 + q**3
    four = 3 * (p**3 * q + q**3 * p)
    expected = 3 * three + 4 * four + 5 * (1 - three - four)
    deviation = math.sqrt(9 * three + 16 * four + 25 * (1 - three - four) - expected**2)
    mean = sum(o.calls for o in early) / N
    assert abs(mean - expected) < 4 * deviation / math.sqrt(N)
    assert {o.calls for o in early} == {3, 4, 5}


def test_a_vote_that_was_stopped_claims_no_more_than_all_votes_would() -> None:
    """Three of the three that were asked for are three of five, and not all."""
    known = questions(200, YES_NO)
    backend = script(known, accuracy=0.7, options=YES_NO)
    whole = solve(panel({"one": backend}, SELF_CONSISTENCY, samples=5, early_stop=False), list(known))
    early = solve(panel({"one": backend}, SELF_CONSISTENCY, samples=5), list(known))
    assert {o.confidence for o in whole} == {0.6, 0.8, 1.0}
    assert {o.confidence for o in early} == {0.6}
    assert {o.calls + o.facts.get("unasked", 0) for o in early} == {5}
    assert not any("unasked" in o.facts for o in whole)
    options = ("a", "b", "c", "d")
    known = questions(200, options)
    backend = script(known, accuracy=0.5, options=options)
    four, all_four = (
        solve(panel({"one": backend}, SELF_CONSISTENCY, samples=6, early_stop=stop), list(known))
        for stop in (True, False)
    )
    pairs = [(a.confidence, b.confidence) for a, b in zip(four, all_four, strict=True)]
    assert all(a is not None and b is not None and a <= b for a, b in pairs)
    assert any(a != b for a, b in pairs)
    [one] = solve(panel({"one": backend}, SELF_CONSISTENCY, samples=2), list(known)[:1])
    assert (one.calls, one.confidence) == (1, 0.5)  # of a tie the first would win
    [single] = solve(panel({"one": backend}, SELF_CONSISTENCY, samples=1), list(known)[:1])
    assert single.confidence is None


@pytest.mark.parametrize(("p", "n"), [(0.5, 5), (0.6, 4)])
def test_a_plurality_of_four_options(p: float, n: int) -> None:
    options = ("a", "b", "c", "d")
    known = questions(N, options)
    work = panel({"one": script(known, accuracy=p, options=options)}, SELF_CONSISTENCY, samples=n)
    assert close(accuracy(solve(work, list(known)), known), plurality_first(n, p, 4), N)


@pytest.mark.parametrize("correlation", [0.25, 1.0])
def test_correlated_agents_gain_less(correlation: float) -> None:
    known = questions(N, YES_NO)
    n, p, copy = 5, 0.7, math.sqrt(correlation)
    expected = 0.0
    for shared in range(n + 1):  # agents that take the question's shared draw
        chance = math.comb(n, shared) * copy**shared * (1 - copy) ** (n - shared)
        for right, weight in ((True, p), (False, 1 - p)):
            own = sum(
                math.comb(n - shared, k) * p**k * (1 - p) ** (n - shared - k)
                for k in range(n - shared + 1)
                if k + right * shared > n / 2
            )
            expected += chance * weight * own
    backends = {
        f"agent {i}": script(known, f"agent {i}", accuracy=p, correlation=correlation, options=YES_NO) for i in range(n)
    }
    found = solve(panel(backends, SELF_CONSISTENCY, samples=1), list(known))
    assert expected < majority(n, p)
    assert close(accuracy(found, known), expected, N)


def test_several_agents_take_turns() -> None:
    backends = {name: script({"Q?": "4"}, name) for name in ("a", "b")}
    [found] = solve(panel(backends, SELF_CONSISTENCY, samples=2, early_stop=False), ["Q?"])
    assert [(s.agent, s.sample) for s in found.steps] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_replies_without_an_answer_abstain() -> None:
    mute = script({"Q?": "4"}, "mute", says="I say {answer}.")
    backends = {"a": mute, "b": script({"Q?": "4"}, "b"), "c": mute}
    [found] = solve(panel(backends, SELF_CONSISTENCY, samples=1, early_stop=False), ["Q?"])
    assert found.value == "4"
    assert found.decision is not None
    assert found.decision.abstained == 2
    [silent] = solve(panel({"a": mute}, SELF_CONSISTENCY, samples=3), ["Q?"])
    assert (silent.value, silent.text, silent.calls) == (None, "", 3)


# Combiners that ask


def test_votes_weighted_by_probability() -> None:
    """One right voter that is sure against two wrong ones that are not."""
    sure = script({"Q?": "4"}, "sure", sure_right=(0.9, 0.9))
    unsure = {
        name: script({"Q?": "4"}, name, accuracy=0.0, options=("4", "5"), sure_wrong=(0.3, 0.3)) for name in ("b", "c")
    }
    for combine, value in (("plurality", "5"), ("probability", "4")):
        [found] = solve(panel({"a": sure, **unsure}, SELF_CONSISTENCY, samples=1, combine=combine), ["Q?"])
        assert found.value == value
    assert found.decision is not None
    assert dict(found.decision.counted) == pytest.approx({"4": 0.9, "5": 0.6})


def test_replies_without_probabilities_cannot_vote_by_them() -> None:
    class Without(Recorder):
        async def ask(self, request: Request) -> Reply:
            return Reply("The answer is 4.")

    with pytest.raises(RunError, match="'a' gave no log-probabilities, and its replies are to vote by them"):
        solve(panel({"a": Without(script({"Q?": "4"}))}, SELF_CONSISTENCY, samples=1, combine="probability"), ["Q?"])


@pytest.mark.parametrize(
    ("combine", "calls", "expected"),
    [
        ("select", 4, lambda p: majority(3, p)),
        ("merge", 4, lambda p: majority(3, p)),
        ("rank", 4, lambda p: 1 - (1 - p) ** 3),
    ],
)
def test_judges_decide_as_they_are_scripted(combine: str, calls: int, expected: Any) -> None:
    known = questions(700, YES_NO)
    work = panel({"one": script(known, accuracy=0.6, options=YES_NO)}, SELF_CONSISTENCY, samples=3, combine=combine)
    found = solve(work, list(known))
    assert {o.calls for o in found} == {calls}
    assert close(accuracy(found, known), expected(0.6), 700)
    assert work.calls == (4, 4)


def test_a_verifier_takes_the_first_that_it_accepts() -> None:
    """It is right where any of three is right, and where all are wrong they vote."""
    known = questions(700, YES_NO)
    work = panel({"one": script(known, accuracy=0.6, options=YES_NO)}, SELF_CONSISTENCY, samples=3, combine="verify")
    found = solve(work, list(known))
    assert close(accuracy(found, known), 1 - 0.4**3, 700)
    share = {k: sum(len(steps(o, "verify")) == k for o in found) / 700 for k in (1, 2, 3)}
    assert close(share[1], 0.6, 700)
    assert close(share[2], 0.24, 700)
    none = [o for o in found if o.value != known["Question 0?"] and o.notes]
    assert all("'one' accepted no reply, so they voted" in o.notes for o in none)


def test_a_judge_that_names_no_reply_leaves_it_to_plurality() -> None:
    class Mumbling(Recorder):
        async def ask(self, request: Request) -> Reply:
            return Reply("Hard to say.")

    backends = {"a": script({"Q?": "4"}, "a"), "judge": Mumbling(script({"Q?": "4"}))}
    work = panel(backends, SELF_CONSISTENCY, agents=["a"], samples=3, combine="select", judge="judge")
    [found] = solve(work, ["Q?"])
    assert found.value == "4"
    assert found.notes == ("'judge' was to select and named no reply",)


# Mixtures


@pytest.mark.parametrize("shares", [(0.8, 0.6, 0.6), (0.8, 0.7, 0.6)])
def test_a_mixture_of_weaker_models_can_hurt(shares: tuple[float, ...]) -> None:
    known = questions(N, YES_NO)
    backends = {f"m{i}": script(known, f"m{i}", accuracy=p, options=YES_NO) for i, p in enumerate(shares)}
    found = solve(panel(backends, MOA), list(known))
    assert close(accuracy(found, known), majority_of(shares), N)
    assert {o.calls for o in found} == {4}


def test_self_moa_with_the_best_one() -> None:
    known = questions(N, YES_NO)
    work = panel({"best": script(known, accuracy=0.8, options=YES_NO)}, MOA, samples=3)
    found = solve(work, list(known))
    assert close(accuracy(found, known), 0.896, N)
    assert work.calls == (4, 4)
    assert all(len({s.reply.text for s in steps(o, "answer")}) <= 2 for o in found)


def test_layers_and_what_each_call_sees() -> None:
    recorders = {name: Recorder(script({"Q?": "4"}, name, accuracy=0.0)) for name in ("a", "b")}
    recorders["sum"] = Recorder(script({"Q?": "4"}, "sum"))
    agents = {name: agent(name, one, system=f"You are {name}.") for name, one in recorders.items()}
    work = Panel("p", agents, MOA, MOA.params(proposers=["a", "b"], layers=2, aggregator="sum"), ANSWER)
    [found] = solve(work, ["Q?"])
    assert [(s.agent, s.purpose) for s in found.steps] == [
        ("a", "answer"), ("b", "answer"), ("a", "merge"), ("b", "merge"), ("sum", "merge"),
    ]  # fmt: skip
    first = [s.reply.text for s in found.steps[:2]]
    asked = recorders["b"].requests[1].messages
    assert asked[1].content == recorders["b"].requests[0].messages[1].content  # the user's turn is untouched
    assert asked[0].content.startswith("You are b.\n\n")
    assert read_blocks(asked[0].content) == first  # in the order of the proposers, without their names
    second = [s.reply.text for s in found.steps[2:4]]
    assert read_blocks(recorders["sum"].requests[0].messages[0].content) == second
    assert found.facts["layers"][0] == [ANSWER(text) for text in first]
    assert work.calls == (5, 5)


def test_one_proposal_and_a_voting_aggregator_is_that_proposal() -> None:
    known = questions(50)
    backend = script(known, accuracy=0.5)
    alone = solve(panel({"a": backend}, SELF_CONSISTENCY, samples=1), list(known))
    assert [o.value for o in solve(panel({"a": backend}, MOA), list(known))] == [o.value for o in alone]


def test_proposers_that_fail() -> None:
    backends = {"a": script({"Q?": "4"}, "a"), "b": script({"Q?": "4"}, "b", fails=1.0)}
    with pytest.raises(RunError, match="the scripted backend 'b' fails"):
        solve(panel(backends, MOA), ["Q?"])
    [found] = solve(panel(backends, MOA, quorum=1), ["Q?"])
    assert found.value == "4"
    assert found.notes == ("a proposal is missing: the scripted backend 'b' fails, as it is told to",)
    gone = {"b": script({"Q?": "4"}, "b", fails=1.0)}
    with pytest.raises(RunError, match="the scripted backend 'b' fails"):
        solve(panel(gone, MOA, quorum=1), ["Q?"])


@pytest.mark.parametrize(("samples", "merges"), [(1, 1), (6, 1), (7, 2), (9, 2), (30, 9)])
def test_self_moa_seq_calls(samples: int, merges: int) -> None:
    work = panel({"a": Recorder(script({"Q?": "4"}, accuracy=0.0))}, SELF_MOA_SEQ, samples=samples)
    [found] = solve(work, ["Q?"])
    assert len(steps(found, "merge")) == merges
    assert found.calls == samples + merges
    assert work.calls == (samples + merges, samples + merges)
    assert len(found.facts["merged"]) == merges


def test_self_moa_seq_reserves_places_for_what_was_merged() -> None:
    recorder = Recorder(script({"Q?": "4"}, accuracy=0.0))
    [found] = solve(panel({"a": recorder}, SELF_MOA_SEQ, samples=8), ["Q?"])
    texts = [s.reply.text for s in steps(found, "answer")]
    windows = [read_blocks(r.messages[0].content) for r in recorder.requests if r.messages[0].role == "system"]
    first = steps(found, "merge")[0].reply.text
    assert windows == [texts[:6], [first] * 3 + texts[6:8]]
    assert found.value == ANSWER(first)  # three copies outvote two new ones


# What all programs have


def test_the_same_whatever_the_concurrency_and_the_order() -> None:
    known = questions(40)
    for program in ENSEMBLES.values():
        backends = {n: script(known, n, accuracy=0.5, options=YES_NO, delay=0.001) for n in ("a", "b", "c", "d")}
        work = panel(backends, program)
        together = {o.steps[0].agent + str(i): o for i, o in enumerate(solve(work, list(known)))}
        alone = [solve(work, [q])[0] for q in list(known)[:10]]
        for one, other in zip(alone, together.values(), strict=False):
            assert (one.value, one.steps) == (other.value, other.steps)


@pytest.mark.parametrize("program", ENSEMBLES.values(), ids=list(ENSEMBLES))
def test_calls_stay_between_what_the_record_says(program: Any) -> None:
    known = questions(60)
    backends = {n: script(known, n, accuracy=0.6, options=YES_NO) for n in ("a", "b", "c", "d")}
    work = panel(backends, program)
    least, most = work.calls
    found = solve(work, list(known))
    assert least <= min(o.calls for o in found)
    assert max(o.calls for o in found) <= most
    assert all(o.tokens_in > 0 and o.tokens_out > 0 for o in found)
    assert program.paper.startswith("arXiv:")
    assert program.summary.endswith(".")


@pytest.mark.parametrize(
    ("program", "params", "temperature", "complaint"),
    [
        (
            SELF_CONSISTENCY,
            {},
            0.0,
            "agent 'a' is asked for 5 replies at temperature 0, which are one and the same. Set its",
        ),
        (MOA, {"samples": 2}, 0.0, "agent 'a' is asked for 2 replies at temperature 0"),
        (SELF_MOA_SEQ, {}, 0.0, "agent 'a' is asked for 12 replies at temperature 0"),
        (MOA, {"aggregator": "b"}, 0.7, "aggregator: there is no agent 'b'. (Did you mean .*)?Valid: a"),
        (SELF_CONSISTENCY, {"agents": ["x"]}, 0.7, "agents: there is no agent 'x'"),
        (SELF_CONSISTENCY, {"combine": "rank", "judge": "x"}, 0.7, "judge: there is no agent 'x'"),
    ],
)
def test_refusals(program: Any, params: dict[str, Any], temperature: float, complaint: str) -> None:
    agents = {"a": agent("a", script({"Q?": "4"}), temperature)}
    with pytest.raises(InputError, match=complaint):
        Panel("p", agents, program, program.params(**params))


def test_parameters_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="reserved must be below window, got 6 and 6"):
        SELF_MOA_SEQ.params(reserved=6)
    with pytest.raises(ValueError, match=r"there is no combiner 'vote'. Valid: merge,"):
        SELF_CONSISTENCY.params(combine="vote")
    with pytest.raises(ValueError, match="quorum must be at most the 1 proposals of a layer, got 2"):
        MOA.params(proposers=["a"], quorum=2)
    assert all(record.summary.endswith(".") for record in COMBINERS.values())
    assert COMBINERS["plurality"].function is plurality


def test_one_answer_of_each_at_temperature_0_is_fine() -> None:
    agents = {n: Agent(n, script({"Q?": "4"}, n), sampling=Sampling(temperature=0)) for n in ("a", "b")}
    [found] = solve(Panel("p", agents, SELF_CONSISTENCY, SELF_CONSISTENCY.params(samples=1), ANSWER), ["Q?"])
    assert found.value == "4"


def test_a_transcript_replays_a_program_without_its_backends(tmp_path: Any) -> None:
    known = questions(20)
    backends = {n: script(known, n, accuracy=0.5, options=YES_NO) for n in ("a", "b", "c", "d")}
    for program in ENSEMBLES.values():
        work = panel(backends, program)
        path = tmp_path / f"{program.name}.jsonl"
        written = Transcript(path)
        first = solve(work, list(known), Session(transcript=written))
        written.close()
        dumb = {n: Recorder(b) for n, b in backends.items()}
        again = solve(panel(dumb, program), list(known), Session(replay=path))
        assert [(o.value, o.steps) for o in again] == [(o.value, o.steps) for o in first]
        assert not any(r.requests for r in dumb.values())


def test_calls_under_way_are_shared() -> None:
    """200 questions at once, each asked twice at the same time: none is lost, and none is paid for twice."""
    known = questions(200)
    recorder = Recorder(script(known, accuracy=0.5, delay=0.01))
    session = Session()
    work = panel({"a": recorder}, SELF_CONSISTENCY, samples=1)

    async def go() -> list[Outcome]:
        return list(await asyncio.gather(*[work.solve(session, q) for q in [*known, *known]]))

    found = asyncio.run(go())
    assert len(recorder.requests) == 200
    assert [o.value for o in found[:200]] == [o.value for o in found[200:]]
    total = session.ledger.total
    assert (total.calls, total.cached) == (200, 200)
    assert total.tokens_in == sum(o.tokens_in for o in found[:200])
