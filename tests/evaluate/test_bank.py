"""Banks of systems and of records, both ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

import modelwright as mw
from modelwright.errors import InputError
from modelwright.evaluate import predictions, predictions_of, records_of, with_ensemble
from modelwright.predictions import combine

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = ["abc"[i] for i in (X @ RNG.normal(size=(3, 3))).argmax(axis=1)]
CODES = ["abc".index(y) for y in Y]
MODELS = {f"c{c}": LogisticRegression(C=c).fit(X, CODES) for c in (0.01, 1.0)}


def test_records_and_banks_hold_the_same() -> None:
    records = mw.eval(MODELS, (X, Y))
    bank = predictions_of(records)
    asked = predictions(MODELS, (X, Y), split="test")
    assert (bank.names, bank.ids, bank.classes) == (asked.names, asked.ids, asked.classes)
    np.testing.assert_allclose(bank.values, asked.values, atol=1e-7)
    np.testing.assert_array_equal(bank.labels, asked.labels)
    assert asked.scale == "probabilities"
    back = records_of(bank, (X, Y))
    for name in MODELS:
        one, other = records.part("data", name), back.part("data", name)
        assert other.figure == one.figure
        np.testing.assert_allclose(other.probabilities, one.probabilities, atol=1e-7)
    np.testing.assert_allclose(predictions_of(back).values, bank.values, atol=1e-7)


def test_the_ensemble_of_records_is_the_banks() -> None:
    records = mw.eval(MODELS, (X, Y))
    for space in ("probabilities", "logits"):
        part = with_ensemble(records, list(MODELS), space=space).part("data", "ensemble")
        np.testing.assert_allclose(
            part.probabilities, combine(predictions_of(records), space=space).values[0], atol=1e-6
        )


def test_an_ensemble_is_compared_like_any_system() -> None:
    bank = predictions(MODELS, (X, Y), split="test")
    records = records_of(combine(bank, "mean", name="both"), (X, Y))
    assert records.systems == ["both"]
    assert records.part("data", "both").figure == np.mean(bank.values.mean(0).argmax(-1) == CODES)
    some = records_of(bank.select(samples=slice(7)), (X, Y))
    assert len(some.part("data", "c1.0").ids) == 7
    with pytest.raises(InputError, match="the task 'data' has no item 'x' in its split 'test'"):
        records_of(type(bank).of(bank.values[:, :1], scale="probabilities", ids=["x"], classes="abc"), (X, Y))
    with pytest.raises(InputError, match="other classes than the task 'data'"):
        records_of(type(bank).of(bank.values, scale="probabilities", ids=bank.ids), (X, Y))


def test_numbers_come_and_go() -> None:
    model = LinearRegression().fit(X, X[:, 0])
    task = mw.task((X, X[:, 0].astype(float)), kind="regression", name="data")
    bank = predictions({"line": model}, task, split="test")
    assert (bank.kind, bank.scale) == ("regression", "values")
    records = mw.eval({"line": model}, task)
    np.testing.assert_allclose(predictions_of(records).values, bank.values, atol=1e-6)
    assert records_of(bank, task).part("data", "line").figure == pytest.approx(0, abs=1e-10)


def test_modules_give_logits_and_a_file_is_gone_on_with(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Linear(3, 3).eval()
    out = tmp_path / "bank.safetensors"
    bank = predictions({"net": module}, (X, Y), split="test", out=out)
    assert bank.scale == "logits"
    with torch.inference_mode():
        np.testing.assert_array_equal(bank.values[0], module(torch.from_numpy(X)).numpy())
    told: list[object] = []
    again = predictions({"net": module, **MODELS}, (X, Y), split="test", out=out, progress=lambda *s: told.append(s[0]))
    assert "net" not in told
    assert again.names == ("net", "c0.01", "c1.0")


def test_tasks_of_texts_are_refused() -> None:
    from modelwright.evaluate import Items, Scored, Splits, Task, metric

    class Texts(Task):
        asks = "texts"

        def check(self, items: object, split: str) -> None:
            pass

        def score(self, predictor: object, items: object) -> Scored:
            raise AssertionError

    task = Texts(
        name="words", splits=Splits({"test": Items.of(["a"], ["b"])}), metric=metric("exact_match"), asks="texts"
    )
    with pytest.raises(InputError, match="'words' asks for texts, which are no predictions of classes or numbers"):
        predictions(MODELS, task, split="test")
