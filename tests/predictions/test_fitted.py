"""Fitting and applying: what is refused, what is kept, and binary banks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from modelwright.errors import InputError
from modelwright.methods import CALIBRATORS, COMBINERS, METHODS as MERGING
from modelwright.predictions import METHODS, Fitted, Member, MemberCost, Predictions, combine, fit

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 2


def binary() -> Predictions:
    return Predictions.of(2.0 * LABELS - 1 + RNG.normal(size=(3, 60)), LABELS, scale="logits", kind="binary")


def two(bank: Predictions) -> Predictions:
    return Predictions.of(bank.block(slice(None), "logits"), bank.labels, scale="logits")


@pytest.mark.parametrize("name", sorted(name for name, record in METHODS.items() if "classes" in record.takes))
def test_binary_banks_are_those_of_two_classes(name: str) -> None:
    bank = binary()
    ours, theirs = fit(bank, name), fit(two(bank), name)
    if ours.how.gives == "sets":
        np.testing.assert_array_equal(ours.sets(bank), theirs.sets(two(bank)))
        return
    found = ours.apply(bank)
    assert (found.kind, found.scale) == ("binary", "probabilities")
    np.testing.assert_allclose(found.values, theirs.apply(two(bank)).values[..., 1], atol=1e-7)


@pytest.mark.parametrize("name", sorted(name for name, record in METHODS.items() if "classes" in record.takes))
def test_what_was_learnt_survives_json_to_the_bit(name: str) -> None:
    bank = two(binary())
    fitted = fit(bank, name)
    again = Fitted.of(json.loads(json.dumps(fitted.as_dict(), allow_nan=False)))
    assert again.as_dict() == fitted.as_dict()
    if fitted.how.gives == "probabilities":
        np.testing.assert_array_equal(again.apply(bank).values, fitted.apply(bank).values)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("meen", {}, r"unknown method on outputs 'meen'\. Did you mean 'mean'"),
        ("mean", {"spcae": "logits"}, r"mean has no parameter 'spcae'\. Did you mean 'space'"),
        (
            "mean",
            {"space": "odds"},
            r"mean: space must be one of 'probabilities', 'logits', 'log-probabilities', got 'odds'",
        ),
        ("mean", {"weight": [1.0]}, "mean: weight has 1 values for 3 members"),
        ("mean", {"weight": -1.0}, r"mean: weight must be in \[0, inf\), got -1"),
        ("mean", {"weight": [0.0, 0.0, 0.0]}, "mean: the weights must not all be 0"),
        ("trimmed", {"trim": 20}, r"trimmed: trim must be in \[0, 0\.5\), got 20"),
        ("borda", {"x": 1}, r"borda has no parameter 'x'\. It has none"),
        ("greedy", {}, r"greedy learns from labels\. Use fit\(validation, 'greedy'\)\.apply\(bank\)"),
        ("temperature", {}, r"temperature combines nothing, it calibrates"),
        ("staple", {}, r"staple takes no predictions of the kind 'classes'\. Those that do: bayes, borda"),
    ],
)
def test_combining_refuses_by_name(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        combine(two(binary()), method, **options)


@pytest.mark.parametrize(
    "name", sorted(name for name, r in METHODS.items() if r.fit and r.right_only(r.resolve({}, 3)))
)
@pytest.mark.parametrize("kind", ["classes", "binary"])
def test_the_right_classes_alone_teach_the_same(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 7000) if kind == "classes" else np.arange(7000) % 2
    skill = np.array([1, 2, 0.5, 1.5])[:, None, None]
    logits = rng.normal(size=(4, 7000, 5)) + skill * np.eye(5)[labels]
    values = logits if kind == "classes" else logits[..., 1] - logits[..., 0]
    bank = Predictions.of(values, labels, scale="logits", kind=kind)  # type: ignore[arg-type]
    record = METHODS[name]
    assert record.fit
    whole = record.fit(bank.block(slice(None), "probabilities"), labels, **record.resolve({}, 4))
    asked = list[int]()
    block = Predictions.block

    def counted(self: Predictions, samples: slice, scale: Any = None) -> np.ndarray:
        found = block(self, samples, scale)
        asked.append(found.shape[1])
        return found

    monkeypatch.setattr("modelwright.predictions._predictions._CHUNK", 1 << 12)
    monkeypatch.setattr(Predictions, "block", counted)
    learnt = fit(bank, name).learnt[0]
    assert sum(asked) == 7000
    assert max(asked) < 3000
    assert learnt.keys() == whole.keys()
    np.testing.assert_allclose(learnt["weights"], whole["weights"], rtol=1e-12, atol=1e-15)


def test_fitting_refuses_by_name() -> None:
    bank = two(binary())
    with pytest.raises(InputError, match="fitting temperature needs labels, and these predictions have none"):
        fit(bank.with_labels(None), "temperature")
    one = bank.select(samples=bank.labels == 1)
    for name in ("weighted", "greedy", "bayes", "stacking", "tempered_mean", *CALIBRATORS):
        record = METHODS[name]
        if "classes" in record.takes and record.gives == "probabilities":
            with pytest.raises(InputError, match="needs labels of at least two classes, and all 30 are of class 1"):
                fit(one, name)
    with pytest.raises(InputError, match=r"conformal_sets gives sets, no predictions\. Use \.sets\(bank\)"):
        fit(bank, "conformal_sets").apply(bank)
    with pytest.raises(InputError, match=r"mean gives probabilities, no sets\. Use \.apply\(bank\)"):
        fit(bank, "mean").sets(bank)


def test_a_fitted_method_refuses_other_banks() -> None:
    bank = two(binary())
    fitted = fit(bank, "temperature")
    with pytest.raises(InputError, match=r"members that this bank has not: member 3\. It has member 1, member 2"):
        fitted.apply(bank.select([0, 1]))
    with pytest.raises(InputError, match="was fitted on classes of 2 classes, and this bank is of binary of 2 classes"):
        fitted.apply(binary())
    np.testing.assert_array_equal(fitted.apply(bank.select([2, 0, 1])).values, fitted.apply(bank).values)
    for change, message in (
        ({"version": 2}, "has layout 2, and this version reads 1"),
        ({"method": "nothing"}, "unknown method on outputs 'nothing'"),
        ({"learnt": []}, "it has learnt 0 times for 3"),
        ({"parameters": {"x": 1}}, "temperature has no parameter 'x'"),
        ({"members": None}, "this is no fitted method"),
    ):
        with pytest.raises(InputError, match=message):
            Fitted.of(fitted.as_dict() | change)


def test_an_answer_of_several_costs_what_they_cost() -> None:
    members = [Member(name, MemberCost(milliseconds=2.0, parameters=5), {"seed": i}) for i, name in enumerate("abc")]
    bank = two(binary()).with_members(members)
    answer = combine(bank, "median", name="together").members[0]
    assert (answer.name, answer.cost.milliseconds, answer.cost.parameters) == ("together", 6.0, 15)
    assert answer.lineage["members"] == ["a", "b", "c"]
    chosen = fit(bank, "greedy", rounds=1)
    assert chosen.apply(bank).members[0].cost.milliseconds == 2.0


def test_dense_and_numbers_go_through_the_same_combiners() -> None:
    values = RNG.normal(size=(4, 7, 5, 5))
    maps = Predictions.of(values, scale="values", kind="dense")
    np.testing.assert_allclose(combine(maps, "mean").values[0], values.mean(0))
    np.testing.assert_allclose(combine(maps, "median").values[0], np.median(values, axis=0))
    masks = Predictions.of(1 / (1 + np.exp(-values)), scale="probabilities", kind="dense")
    assert combine(masks, "mean").scale == "probabilities"
    assert combine(masks, "staple").values.shape == (1, 7, 5, 5)
    logits = Predictions.of(values, scale="logits", kind="dense")
    np.testing.assert_allclose(combine(logits, "mean").values, combine(masks, "mean").values)
    with pytest.raises(InputError, match="values cannot become probabilities"):
        combine(maps, "staple")
    numbers = Predictions.of(values[:, :, 0, 0], values[0, :, 0, 0], scale="values", kind="regression")
    assert fit(numbers, "greedy", rounds=5).learnt[0]["weights"] == [1.0, 0, 0, 0]
    assert np.allclose(fit(numbers, "weighted").learnt[0]["weights"], [1, 0, 0, 0], atol=1e-6)


def test_names_are_of_one_kind_only() -> None:
    assert not set(COMBINERS) & set(CALIBRATORS)
    assert not (set(COMBINERS) | set(CALIBRATORS)) & set(MERGING)
