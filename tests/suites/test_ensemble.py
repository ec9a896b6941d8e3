"""The output ensemble, against its definition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from modelwright.evaluate import (
    Classification,
    EnsemblePredictor,
    FunctionPredictor,
    Items,
    Likelihood,
    Predictor,
    Rolling,
    Size,
    Splits,
    metric,
    run,
)

A = np.array([[0.9, 0.1], [0.2, 0.8]])
B = np.array([[0.3, 0.7], [0.4, 0.6]])


def given(label: str, values: np.ndarray, **more: object) -> FunctionPredictor:
    return FunctionPredictor(label, function=lambda x: values[np.asarray(x)], **more)  # type: ignore[arg-type]


def test_probabilities_are_averaged_and_cost_is_added_up() -> None:
    size = Size(10, 40)
    parts = [given("a", A, size=size, fingerprint="1"), given("b", B, size=size, fingerprint="2")]
    both = EnsemblePredictor("both", parts=parts)
    np.testing.assert_allclose(both.probabilities(np.arange(2), 2), (A + B) / 2)
    assert both.size == Size(20, 80)
    task = Classification(
        name="t", names=("x", "y"), metric=metric("accuracy"), splits=Splits({"test": Items.of(np.arange(2), [0, 1])})
    )
    part = run([both], [task]).part("t", "both")
    assert part.column("calls").tolist() == [2, 2]
    assert part.head.parameters == 20
    assert part.figure == 1.0


def test_its_fingerprint_depends_on_every_part() -> None:
    a, b, c = (given(n, A, fingerprint=n) for n in "abc")
    prints = {EnsemblePredictor("e", parts=parts).fingerprint for parts in ([a, b], [a, c], [b, a], [a])}
    assert len(prints) == 4
    unknown = Reader("unknown", total=0.0, unseen=("weights",))
    assert EnsemblePredictor("e", parts=[a, unknown]).fingerprint == ""
    assert EnsemblePredictor("e", parts=[a, unknown]).unseen == ("weights",)
    assert EnsemblePredictor("e", parts=[a, given("other", B)]).size == Size(None, None)


@dataclass
class Reader(Predictor):
    total: float = field(kw_only=True)

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]], rolling: Rolling | None = None) -> Sequence[Likelihood]:
        return [Likelihood(self.total, 3, 2) for _ in pairs]


def test_texts_are_as_likely_as_under_the_mixture() -> None:
    both = EnsemblePredictor("both", parts=[Reader("a", total=np.log(0.5)), Reader("b", total=np.log(0.1))])
    (found,) = both.loglikelihoods([("a", "b")])
    assert found.total == pytest.approx(np.log(0.3))
    assert (found.tokens, found.context_tokens) == (3, 2)
    far = EnsemblePredictor("both", parts=[Reader("a", total=-2000.0), Reader("b", total=-2000.0)])
    assert far.loglikelihoods([("a", "b")])[0].total == pytest.approx(-2000.0)


def test_values_are_averaged() -> None:
    one, two = (
        FunctionPredictor(n, function=lambda x, k=k: np.asarray(x)[:, None] * k) for n, k in (("1", 1), ("2", 3))
    )
    assert EnsemblePredictor("both", parts=[one, two]).values(np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
