"""DIV-SE, IDIV-SE and self-ensembled in-context learning, against closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from modelwright.chat import (
    DIV_SE,
    IDIV_SE,
    SELF_ENSEMBLED_ICL,
    Demonstration,
    Materials,
    Panel,
    ScriptedBackend,
    batch_calibrated,
    combine_variants,
    label_probabilities,
)
from modelwright.chat.prompts._diverse import blocks_of, most_frequent, normal
from modelwright.chat.prompts._self_ensembled import drawn
from modelwright.errors import InputError

from .helpers import ANSWER, STEADY, accuracy, agent, close, majority, majority_of, plurality_first, questions, solve
from .techniques import POOL, Heard

N = 600
YES_NO = ("yes", "no")
WAYS = ["algebra", "drawing", "elimination", "guessing", "working backwards"]


def div(backend: Any, program: Any = DIV_SE, materials: Materials | None = None, **params: Any) -> Panel:
    made = program.params(**params)
    return Panel("p", {"a": agent("a", backend, 0.0)}, program, made, ANSWER, materials=materials or Materials())


@pytest.mark.parametrize(
    ("shares", "expected"), [((0.7,) * 5, majority(5, 0.7)), ((0.8, 0.7, 0.6), majority_of((0.8, 0.7, 0.6)))]
)
def test_div_se_is_the_vote_of_its_approaches(shares: tuple[float, ...], expected: float) -> None:
    known = questions(N, YES_NO)
    ways = WAYS[: len(shares)]
    backend = ScriptedBackend(known, accuracy=dict(zip(ways, shares, strict=True)), options=YES_NO)
    found = solve(div(backend, approaches=ways, validation_size=0, ensemble_size=len(ways)), list(known))
    assert close(accuracy(found, known), expected, N)
    assert {o.calls for o in found} <= set(range(len(ways) // 2 + 1, len(ways) + 1))


def test_a_plurality_of_four_options_by_five_approaches() -> None:
    known = questions(N, tuple("abcd"))
    backend = ScriptedBackend(known, accuracy=0.6, options=tuple("abcd"))
    found = solve(div(backend, approaches=WAYS, validation_size=0, early_stop=False), list(known))
    assert close(accuracy(found, known), plurality_first(5, 0.6, 4), N)
    assert {o.calls for o in found} == {5}


def test_one_way_is_that_prompt_and_all_prompts_differ() -> None:
    known = questions(40, YES_NO)
    backend = Heard(ScriptedBackend(known, accuracy=0.6, options=YES_NO))
    found = solve(div(backend, approaches=WAYS, personas=["a judge"], validation_size=0, early_stop=False), list(known))
    first = solve(
        div(backend, approaches=WAYS[:1], personas=["a judge"], validation_size=0, ensemble_size=1), list(known)
    )
    assert [o.value for o in first] == [o.steps[0].value for o in found]
    asked = [request.text for request in backend.requests[:5]]
    assert len(set(asked)) == 5
    assert all("You are a judge." in text for text in asked)


def test_ways_are_collected_chosen_on_validation_and_demonstrations_rewritten() -> None:
    known = {"Q?": "4", **{d.question: d.answer for d in POOL}}
    backend = Heard(
        ScriptedBackend(
            known,
            accuracy={"<instruction>\nElimination": 1.0, "a baker": 0.0, "": 0.0},
            replies={
                "Name up to 3 different approaches": "1. Elimination.\n2. drawing\n3. the elimination",
                "Who would be good": "1. a baker\n2. a judge",
                "Solve this step by step": "In that way. The answer is {answer}.",
            },
        )
    )
    params = {"num_queries": 4, "approaches_per_query": 3, "validation_size": 4, "shots": 2, "ensemble_size": 2}
    work = div(backend, materials=Materials(POOL), **params)
    [found] = solve(work, ["Q?"])
    kept = found.facts["ways"]
    assert kept[0]["approach"].casefold() == "elimination"
    assert kept[0]["accuracy"] >= kept[1]["accuracy"]
    least, most = DIV_SE.prepares(work.params, ["a"], 6)  # type: ignore[misc]
    assert least <= found.facts["preparation"]["calls"] <= most
    assert sum("Name up to 3" in text for text in backend.texts) >= 1


def test_approaches_are_not_chosen_on_questions_that_are_asked() -> None:
    backend = ScriptedBackend({d.question: d.answer for d in POOL})
    work = div(backend, materials=Materials(POOL), approaches=WAYS, personas=["x"], ensemble_size=2, validation_size=3)
    with pytest.raises(InputError, match="is one that approaches are chosen on"):
        solve(work, [POOL[1].question])
    with pytest.raises(InputError, match="div_se needs 19 demonstrations, and there are 0"):
        div(backend)


def test_weights_by_accuracy_on_validation() -> None:
    """One way that is always right outvotes two that never were."""
    known = {"Q?": "yes", **{d.question: d.answer for d in POOL}}
    backend = ScriptedBackend(known, accuracy={"algebra": 1.0, "": 0.0}, options=())
    work = div(
        backend, materials=Materials(POOL), approaches=WAYS[:4], ensemble_size=3, validation_size=4, combine="weighted"
    )
    [found] = solve(work, ["Q?"])
    assert (found.value, found.calls) == ("yes", 3)
    assert found.facts["ways"][0] == {"persona": "", "approach": "algebra", "accuracy": 1.0}


def test_idiv_se_votes_over_the_blocks_that_are_there() -> None:
    def asked(reply: str) -> Any:
        backend = ScriptedBackend({"Q?": "4"}, replies={"Solve this in 3 ways": reply})
        work = div(backend, IDIV_SE, approaches=WAYS[:3], validation_size=0, ensemble_size=3)
        [found] = solve(work, ["Q?"])
        assert found.calls == 1
        return found

    whole = asked(
        "Approach 1: algebra\nThe answer is 5.\nApproach 2: drawing\nThe answer is 4.\n**Approach 3**\nThe answer is 4."
    )
    assert (whole.value, whole.facts["answers"], whole.notes) == ("4", ["5", "4", "4"], ())
    part = asked("Approach 1: algebra\nThe answer is 5.\nApproach 2: I am not sure.")
    assert (part.value, part.notes) == ("5", ("idiv_se: 2 of 3 approaches could be read",))
    none = asked("The answer is 4.")
    assert (none.value, none.text) == (None, "")
    assert blocks_of("nothing") == []


def test_names_of_approaches() -> None:
    assert normal("Working Backwards!") == normal("to work backwards") == normal("by working backwards")
    assert most_frequent(["Drawing", "to draw", "Algebra", "draw.", "using algebra", "guess"], 2) == [
        "Drawing",
        "Algebra",
    ]


# Self-ensembled in-context learning


def probabilities(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    return label_probabilities(np.random.default_rng(seed).normal(size=shape) * 2)


@given(st.integers(0, 50), st.sampled_from(["majority", "mean_prob", "max_prob"]))
@settings(max_examples=30, **STEADY)
def test_laws_of_combining_variants(seed: int, rule: Any) -> None:
    p = probabilities(seed, (5, 7, 3))
    made, labels = combine_variants(p, rule)
    np.testing.assert_allclose(made.sum(axis=1), 1)
    same, _ = combine_variants(np.repeat(p[:1], 4, axis=0), rule)
    np.testing.assert_allclose(same, p[0])
    turned, again = combine_variants(p[::-1], rule)
    np.testing.assert_allclose(turned, made)
    np.testing.assert_array_equal(again, labels)
    order = [2, 0, 1]
    np.testing.assert_allclose(combine_variants(p[:, :, order], rule)[0], made[:, order])


def test_rules_by_a_slow_oracle() -> None:
    p = probabilities(1, (6, 9, 4))
    for i in range(9):
        own = p[:, i]
        tally = [sum(max(row) for row in own if row.argmax() == label) for label in range(4)]
        winner = int(np.argmax(tally))
        agreeing = [row for row in own if row.argmax() == winner]
        made, labels = combine_variants(p, "majority")
        assert labels[i] == winner
        np.testing.assert_allclose(made[i], sum(agreeing) / len(agreeing))
        largest = [max(row[label] for row in own) for label in range(4)]
        np.testing.assert_allclose(combine_variants(p, "max_prob")[0][i], np.array(largest) / sum(largest))
    few = combine_variants(np.array([[[0.6, 0.4]], [[0.3, 0.7]]]), "majority", 2)[1]
    assert few.tolist() == [-1]


def test_batch_calibration() -> None:
    z = np.random.default_rng(0).normal(size=(50, 3)) + np.array(
        [5.0, 0.0, -5.0]
    )  # a prompt that prefers the first label
    made = batch_calibrated(z)
    np.testing.assert_allclose(made, label_probabilities((z - z.mean(0)) / z.std(0)))
    assert np.bincount(made.argmax(1), minlength=3).min() > 5
    for call, complaint in (
        (lambda: batch_calibrated(z[:1]), "needs two items or more"),
        (lambda: combine_variants(z[None], "mean_prob"), "must be at least 0 and sum to 1"),
        (lambda: combine_variants(made[None], "mean"), "there is no rule 'mean'"),  # type: ignore[arg-type]
        (lambda: combine_variants(made, "mean_prob"), r"must be of shape \(variants, items, labels\)"),
        (lambda: combine_variants(made[None], "majority", 2), r"min_votes must be in \[1, 1\], got 2"),
        (lambda: label_probabilities(np.array([np.inf, 0])), "must be finite"),
    ):
        with pytest.raises(InputError, match=complaint):
            call()


@pytest.mark.parametrize(("variation", "calls"), [("demonstrations", 5), ("template", 4), ("both", 5)])
def test_variants_are_asked_and_combined(variation: str, calls: int) -> None:
    labels = ["yes", "no"]
    pool = [Demonstration(f"Shown {i}?", labels[i % 2]) for i in range(12)]
    known = {"Q?": "yes", **{d.question: d.answer for d in pool}}
    backend = Heard(ScriptedBackend(known, options=labels, sure_right=(0.5, 1.0)))
    params = SELF_ENSEMBLED_ICL.params(labels=labels, variation=variation, num_variants=5, combine="mean_prob")
    work = Panel("p", {"a": agent("a", backend)}, SELF_ENSEMBLED_ICL, params, ANSWER, materials=Materials(pool))
    [found] = solve(work, ["Q?"])
    assert (found.value, found.calls) == ("yes", calls)
    assert len(set(backend.texts)) == calls  # every variant is another prompt
    assert found.facts["probabilities"]["yes"] == pytest.approx(np.mean(found.facts["variants"], axis=0)[0])
    assert all("Shown" in text and "Q?" in text for text in backend.texts)


def test_demonstrations_are_drawn_without_the_question() -> None:
    pool = [Demonstration(f"Fish {i} swims?", "ab"[i % 2]) for i in range(8)]
    for how in ("random", "balanced", "bm25"):
        pytest.importorskip("bm25s")
        sets = [tuple(d.question for d in drawn(pool, pool[3].question, 4, draw, how)) for draw in range(3)]
        assert len(set(sets)) == 3
        assert all(len(one) == 4 and pool[3].question not in one for one in sets)
    both = [d.answer for d in drawn(pool, "?", 4, 0, "balanced")]
    assert sorted(both) == ["a", "a", "b", "b"]
