"""Routers and cascades: learned on records, and what they ask."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelwright.chat import (
    CASCADE,
    ROUTE,
    SELF_CONSISTENCY,
    Agent,
    Panel,
    Router,
    fit_cascade,
    fit_router,
    panel_predictor,
)
from modelwright.chat._routing import features, ridge
from modelwright.errors import InputError
from modelwright.evaluate import Generation, Items, Price, Sampling, Splits, metric, run
from modelwright.evaluate._run import Plan

from .helpers import ANSWER, accuracy, close, questions, script, solve

YES_NO = ("yes", "no")
N = 800


def cascade(stages: dict[str, float], **params: Any) -> tuple[Panel, dict[str, str]]:
    known = questions(N, YES_NO)
    agents = {
        name: Agent(name, script(known, name, accuracy=p, options=YES_NO, sure_right=(0.9, 1.0), sure_wrong=(0.3, 0.5)),
                    sampling=Sampling(max_tokens=64, temperature=0.7), price=Price(call=1.0))
        for name, p in stages.items()
    }  # fmt: skip
    return Panel("cascade", agents, CASCADE, CASCADE.params(**params), ANSWER), known


def test_agreement_decides_who_is_asked() -> None:
    """Three samples agree with probability p^3 + q^3; else the second agent answers."""
    p, second = 0.7, 0.9
    work, known = cascade({"cheap": p, "dear": second}, threshold=1.0)
    found = solve(work, list(known))
    agree = p**3 + (1 - p) ** 3
    assert close(sum(o.facts["agent"] == "cheap" for o in found) / N, agree, N)
    assert close(accuracy(found, known), p**3 + (1 - agree) * second, N)
    assert {o.calls for o in found} == {3, 4}
    assert work.calls == (3, 4)
    assert {o.confidence for o in found if o.facts["agent"] == "cheap"} == {1.0}


def test_probability_decides_who_is_asked() -> None:
    """Replies of six words whose last is unsure: right ones at 0.9 and above, wrong ones below."""
    p, second = 0.7, 0.9
    threshold = 0.85 ** (1 / 4)  # the mean of four tokens, of which one is unsure
    work, known = cascade({"cheap": p, "dear": second}, confidence="probability", threshold=threshold)
    found = solve(work, list(known))
    assert close(accuracy(found, known), p + (1 - p) * second, N)
    assert close(sum(o.calls == 1 for o in found) / N, p, N)


def test_verification_decides_who_is_asked() -> None:
    work, known = cascade({"cheap": 0.6, "dear": 0.9}, confidence="verify", samples=1, threshold=0.5)
    found = solve(work, list(known))
    assert close(accuracy(found, known), 0.6 + 0.4 * 0.9, N)
    assert {o.calls for o in found} == {2, 3}
    assert work.calls == (2, 3)


def test_an_answer_that_cannot_be_read_is_never_stopped_at() -> None:
    mute = Agent("mute", script({"Q?": "4"}, "mute", says="I say {answer}."))
    work = Panel(
        "c", {"mute": mute, "b": Agent("b", script({"Q?": "4"}))}, CASCADE, CASCADE.params(threshold=0.0), ANSWER
    )
    [found] = solve(work, ["Q?"])
    assert (found.value, found.calls) == ("4", 4)


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({"threshold": 80.0}, r"threshold must be in \[0, 1\], got 80; for 80 % write 0.8"),
        ({"samples": 1}, "agreement needs samples of at least 2, got 1"),
        ({"threshold": [0.5, 0.5]}, "a cascade of 2 agents needs 1 thresholds, got 2"),
        ({"agents": ["cheap", "other"]}, "agents: there is no agent 'other'"),
    ],
)
def test_what_a_cascade_cannot_be(params: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        cascade({"cheap": 0.5, "dear": 0.9}, **params)


# --- learned on records ------------------------------------------------------------------------------------------------


def sums_and_verbs() -> dict[str, str]:
    kinds = ("Add the numbers {} and {}.", "Conjugate the verb number {} of list {}.")
    return {kinds[i % 2].format(i, i + 1): YES_NO[(i // 2) % 2] for i in range(240)}


def task(known: dict[str, str]) -> Generation:
    names = [f"q{i}" for i in range(len(known))]
    half = len(known) // 2

    def items(start: int, end: int) -> Items:
        return Items(
            tuple(names[start:end]), list(known)[start:end], np.array(list(known.values())[start:end], dtype=object)
        )

    splits = Splits({"validation": lambda: items(0, half), "test": lambda: items(half, len(known))})
    return Generation(name="qa", splits=splits, metric=metric("exact_match"), extract=r"answer is (\S+)\.")


def experts(known: dict[str, str]) -> dict[str, Agent]:
    """One that can add, one that can conjugate and costs more, and one that can do both at a high price."""
    skills = {"adds": {"Add": 1.0, "": 0.5}, "verbs": {"verb": 1.0, "": 0.5}, "both": {"": 1.0}}
    prices = {"adds": 0.01, "verbs": 0.02, "both": 1.0}
    warm = Sampling(max_tokens=64, temperature=0.7)
    return {
        name: Agent(
            name, script(known, name, accuracy=skill, options=YES_NO), sampling=warm, price=Price(call=prices[name])
        )
        for name, skill in skills.items()
    }


def records_of(known: dict[str, str], samples: int = 1, split: Any = "validation") -> Any:
    predictors = [
        panel_predictor(
            Panel(
                name,
                {name: agent},
                SELF_CONSISTENCY,
                SELF_CONSISTENCY.params(samples=samples, early_stop=False),
                ANSWER,
            )
        )
        for name, agent in experts(known).items()
    ]
    found = run(predictors, [task(known)], None, Plan(split=split))
    for one in predictors:
        one.work.close()
    return found


def test_a_router_learns_who_can_do_what(tmp_path: Path) -> None:
    known = sums_and_verbs()
    router = fit_router(records_of(known), task(known), ["adds", "verbs", "both"], worth=0.1)
    assert router.money.tolist() == pytest.approx([0.01, 0.02, 1.0])
    held_out = list(known)[120:]
    chosen = router.choose(held_out)
    right = ["adds" if question.startswith("Add") else "verbs" for question in held_out]
    assert np.mean([a == b for a, b in zip(chosen, right, strict=True)]) > 0.95
    router.save(tmp_path / "router.npz")
    again = Router.load(tmp_path / "router.npz")
    assert again.fingerprint == router.fingerprint
    work = Panel("routed", experts(known), ROUTE, ROUTE.params(router=again), ANSWER)
    found = solve(work, held_out)
    assert accuracy(found, dict(list(known.items())[120:])) > 0.95
    assert {o.calls for o in found} == {1}
    assert work.calls == (1, 1)
    free = Panel("free", experts(known), ROUTE, ROUTE.params(router=again, worth=0.0), ANSWER)
    assert {o.facts["agent"] for o in solve(free, held_out[:20])} == {"adds"}  # the cheapest


def test_what_a_router_is_not_learned_on(tmp_path: Path) -> None:
    known = sums_and_verbs()
    records = records_of(known, split="test")
    with pytest.raises(InputError, match="a router learned on the split test cannot be judged on it"):
        fit_router(records, task(known), ["adds"], split="test")
    with pytest.raises(InputError, match="the records of 'adds' are not of the split 'validation'"):
        fit_router(records, task(known), ["adds"])
    with pytest.raises(InputError, match="thresholds chosen on the split test cannot be judged on it"):
        fit_cascade(records, "qa", ["adds", "both"], worth=1.0)
    (tmp_path / "r.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="not a router"):
        Router.load(tmp_path / "r.npz")


def test_ridge_against_the_normal_equations() -> None:
    """The penalty is the one whose leave-one-out error, computed by leaving each one out, is least."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 6)), rng.normal(size=(20, 2))
    weights, means = ridge(x, y)

    def fitted(inputs: np.ndarray, outputs: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        centre, mean = inputs.mean(axis=0), outputs.mean(axis=0)
        a = inputs - centre
        found = np.linalg.solve(a.T @ a + penalty * np.eye(6), a.T @ (outputs - mean))
        return found, mean - centre @ found

    errors = {}
    for k in range(-3, 4):
        left = []
        for i in range(20):
            rest = np.arange(20) != i
            w, m = fitted(x[rest], y[rest], 10.0**k)
            left.append(y[i] - x[i] @ w - m)
        errors[10.0**k] = float(np.mean(np.square(left)))
    # What is left out shifts the mean too, so the closed form agrees to the order of 1 / n.
    expected, constant = fitted(x, y, min(errors, key=errors.__getitem__))
    np.testing.assert_allclose(weights, expected, atol=1e-9)
    np.testing.assert_allclose(means, constant, atol=1e-9)


def test_features_have_length_one() -> None:
    found = features(["a b a", "", "B, a?"])
    assert np.linalg.norm(found, axis=1).tolist() == pytest.approx([1, 0, 1])
    assert found[0].max() == pytest.approx(math.sqrt(2 / 5))


def test_thresholds_are_learned_on_records() -> None:
    """With three samples, one that always agrees is right; thresholds between 2/3 and 1 ask the dear one where needed."""
    known = sums_and_verbs()
    records = records_of(known, samples=3)
    found = fit_cascade(records, "qa", ["adds", "both"], worth=100.0)
    assert found.values[0] == pytest.approx(1.0)
    assert found.score > 0.9
    cheap = fit_cascade(records, "qa", ["adds", "both"], budget=0.031)
    assert cheap.asked == (1.0, 0.0)
    assert cheap.money == pytest.approx(0.03)
    assert cheap.score == pytest.approx(float(np.mean(records.part("qa", "adds").column("score"))))
    with pytest.raises(InputError, match=r"no cascade of adds, both costs at most 0.001 an item; the cheapest is 0.03"):
        fit_cascade(records, "qa", ["adds", "both"], budget=0.001)
    with pytest.raises(InputError, match="thresholds need either a worth or a budget"):
        fit_cascade(records, "qa", ["adds", "both"])


def test_records_of_panels_tell_money_and_confidence() -> None:
    known = sums_and_verbs()
    part = records_of(known, samples=3).part("qa", "both")
    assert part.column("money").tolist() == pytest.approx([3.0] * 120)
    assert set(part.column("confidence").tolist()) == {1.0}
