"""The laws of methods on outputs: every record keeps those that it names, and no other is found to hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelwright.methods import OUTPUT_LAWS, OutputMethod
from modelwright.predictions import METHODS, Fitted, Predictions, fit

NAMES = sorted(METHODS)
#: Which laws are of several members, and which of one.
MEMBERS = ("single", "identity", "permutation", "duplicates")


def banks(record: OutputMethod, seed: int, members: int = 4) -> Predictions:
    rng = np.random.default_rng(seed)
    if "classes" in record.takes:
        labels = np.arange(120) % 3
        logits = 2 * np.eye(3)[labels] + rng.normal(size=(members, 120, 3)) * np.arange(1, members + 1)[:, None, None]
        return Predictions.of(logits, labels, scale="logits")
    if "regression" in record.takes:
        return Predictions.of(rng.normal(size=(members, 120)), rng.normal(size=120), scale="values", kind="regression")
    truth = rng.random((6, 5, 4)) < 0.4
    if record.name == "staple":
        noisy = np.abs(
            truth - 0.8 * (rng.random((members, 6, 5, 4)) < np.linspace(0.05, 0.3, members)[:, None, None, None])
        )
        return Predictions.of(noisy, truth.astype(float), scale="probabilities", kind="dense")
    return Predictions.of(rng.uniform(1, 9, (members, 6, 5, 4)), scale="values", kind="dense")


def result(fitted: Fitted, bank: Predictions) -> np.ndarray:
    if fitted.how.gives == "sets":
        return fitted.sets(bank)
    if fitted.how.gives == "intervals":
        return fitted.intervals(bank)
    return fitted.apply(bank).block(slice(None), None if bank.kind in ("regression", "dense") else "probabilities")


def parameters(record: OutputMethod, seed: int, members: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.5, 2, members).tolist() for name, entry in record.fields.items() if entry.per_model}


def holds(record: OutputMethod, law: str, seed: int) -> bool:
    bank = banks(record, seed)
    apart = banks(record, seed + 1000)
    per_member = parameters(record, seed, 4) if law in ("permutation", "duplicates") else {}
    fitted = fit(apart, record, **per_member)

    def close(found: np.ndarray, wanted: np.ndarray) -> bool:
        return bool(np.allclose(found, wanted, rtol=1e-6, atol=1e-7))

    def probabilities(one: Predictions) -> np.ndarray:
        return one.block(slice(None), "probabilities") if one.classes else np.asarray(one.values)

    if law == "single":
        one = bank.select([1])
        return close(result(fit(apart.select([1]), record), one), probabilities(one))
    if law == "identity":
        same = Predictions.of(
            np.repeat(bank.values[1:2], 4, axis=0), bank.labels, scale=bank.scale, kind=bank.kind, classes=bank.classes
        )
        other = same.with_labels(bank.labels)
        return close(result(fit(other, record), same), probabilities(bank.select([1])))
    if law == "permutation":
        order = [2, 0, 3, 1]
        moved = {name: [values[i] for i in order] for name, values in per_member.items()}
        return close(result(fit(apart.select(order), record, **moved), bank.select(order)), result(fitted, bank))
    if law == "duplicates":

        def twice(one: Predictions) -> Predictions:
            return Predictions.of(
                np.concatenate([one.values] * 2), one.labels, scale=one.scale, kind=one.kind, classes=one.classes
            )

        doubled = fit(twice(apart), record, **{name: values * 2 for name, values in per_member.items()})
        return close(result(doubled, twice(bank)), result(fitted, bank))
    if law == "classes":
        order = [2, 0, 1]

        def renamed(one: Predictions) -> Predictions:
            return Predictions.of(one.values[..., order], np.argsort(order)[one.labels], scale=one.scale)

        return close(result(fit(renamed(apart), record), renamed(bank)), result(fitted, bank)[..., order])
    if law == "shift":
        by = np.random.default_rng(seed + 1).normal(size=(*bank.values.shape[:2], 1)) * 5
        return close(
            result(fitted, Predictions.of(bank.values + by, bank.labels, scale="logits")), result(fitted, bank)
        )
    if law == "scaling":
        kind = "regression" if "regression" in record.takes else "dense"
        values = np.random.default_rng(seed).uniform(1, 9, (4, 6) if kind == "regression" else (4, 6, 5))
        numbers = Predictions.of(values, values[0], scale="values", kind=kind)
        scaled = Predictions.of(values * 4, values[0], scale="values", kind=kind)
        found = fit(numbers, record)
        return close(result(found, scaled), 4 * result(found, numbers))
    assert law == "answer"
    return bool((result(fitted, bank).argmax(-1) == probabilities(bank).argmax(-1)).all())


def speaks_of(record: OutputMethod, law: str) -> bool:
    """Whether a law says anything of a method: those that learn are free to use the members' order and number."""
    if law in MEMBERS:
        return record.kind == "ensembling" and record.fit is None
    if law == "scaling":
        return (
            record.fit is None
            and bool({"regression", "dense"} & record.takes)
            and record.space({"space": ""}) != "probabilities"
        )
    if "classes" not in record.takes or (law == "answer" and record.kind != "calibration"):
        return False
    return law == "answer" or record.gives == "probabilities" or law == "shift"


CASES = [(name, law) for name in NAMES for law in OUTPUT_LAWS if speaks_of(METHODS[name], law)]


@pytest.mark.parametrize(("name", "law"), CASES)
def test_a_record_names_the_laws_that_hold(name: str, law: str) -> None:
    record = METHODS[name]
    kept = [holds(record, law, seed) for seed in range(3)]
    assert all(kept) == (law in record.laws), f"{name}: {law} holds for {sum(kept)} of {len(kept)} banks"


@pytest.mark.parametrize("name", NAMES)
def test_no_record_names_a_law_that_says_nothing_of_it(name: str) -> None:
    assert all(speaks_of(METHODS[name], law) for law in METHODS[name].laws)


@pytest.mark.parametrize("name", NAMES)
def test_records_are_complete(name: str) -> None:
    record = METHODS[name]
    assert record.title
    assert record.summary.endswith(".")
    assert (record.function.__doc__ or "").count("Returns:") == 1
    assert set(record.fields) <= set(record.function.__annotations__)


@pytest.mark.parametrize("name", NAMES)
def test_results_depend_neither_on_threads_nor_on_the_members_order_in_the_bank(name: str) -> None:
    record = METHODS[name]
    few = banks(record, 0)
    fitted = fit(few, record)
    copies = 700 if "classes" in record.takes else 1
    wide = Predictions.of(
        np.tile(few.values, (1, copies, *[1] * (few.values.ndim - 2))),
        scale=few.scale,
        kind=few.kind,
        classes=few.classes,
    )
    if fitted.how.gives != "probabilities":
        return
    one = fitted.apply(wide, threads=1).values
    np.testing.assert_array_equal(fitted.apply(wide, threads=3).values, one)
    order = [3, 1, 0, 2]
    back = fitted.apply(wide.select(order), threads=1).values
    np.testing.assert_array_equal(back, one)
