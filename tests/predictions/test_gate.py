"""Weights for every sample: gradients, where there is something to learn and where there is nothing, storage."""

from __future__ import annotations

import json

import numpy as np
import pytest

from modelwright.errors import InputError
from modelwright.predictions import Gate, Predictions, compare_gate, fit_gate
from modelwright.predictions._gate import gate_loss


def specialists(n: int, seed: int, prefix: str = "s") -> tuple[Predictions, np.ndarray]:
    """Two members, each good on its half of the samples; which half it is shows in the first of two inputs."""
    rng = np.random.default_rng(seed)
    labels, half = rng.integers(0, 4, n), rng.integers(0, 2, n)
    logits = rng.normal(size=(2, n, 4))
    for member in (0, 1):
        logits[member] += np.where(half == member, 4.0, 0.0)[:, None] * np.eye(4)[labels]
    inputs = np.stack([half + rng.normal(0, 0.1, n), rng.normal(size=n)], axis=1)
    ids = [f"{prefix}{i}" for i in range(n)]
    return Predictions.of(logits, labels, scale="logits", ids=ids, members=["a", "b"]), inputs


@pytest.mark.parametrize("hidden", [0, 5])
def test_gradients_are_those_of_finite_differences(hidden: int) -> None:
    rng = np.random.default_rng(0)
    inputs, of_target = rng.normal(size=(20, 4)), rng.uniform(0.05, 1, (20, 3))
    arrays = {"output.weight": rng.normal(size=(3, hidden or 4)), "output.bias": rng.normal(size=3)}
    if hidden:
        arrays |= {"hidden.weight": rng.normal(size=(hidden, 4)), "hidden.bias": rng.normal(size=hidden)}
    _, gradients = gate_loss(arrays, inputs, of_target)
    assert gradients.keys() == arrays.keys()
    for name, array in arrays.items():
        for place in np.ndindex(array.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = {key: value.copy() for key, value in arrays.items()}
                moved[name][place] += step
                sides.append(gate_loss(moved, inputs, of_target)[0])
            assert gradients[name][place] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-7)


def test_it_finds_who_is_to_be_believed() -> None:
    held_out, inputs = specialists(600, 0)
    test, test_inputs = specialists(600, 1, "t")
    gate = fit_gate(held_out, features="given", inputs=inputs, epochs=60)
    weights = gate.weights(test, test_inputs)
    assert weights.shape == (600, 2)
    np.testing.assert_allclose(weights.sum(1), 1)
    first = test_inputs[:, 0] < 0.5
    assert weights[first, 0].mean() > 0.9
    assert weights[~first, 1].mean() > 0.9
    ways = compare_gate(gate, held_out, test, inputs=test_inputs)
    assert ways["gate"].accuracy > ways["uniform"].accuracy > ways["best single"].accuracy
    assert ways["gate"].nll < ways["uniform"].nll


@pytest.mark.parametrize("features", ["probabilities", "summaries"])
def test_it_looks_at_what_members_say(features: str) -> None:
    held_out, _ = specialists(600, 0)
    test, _ = specialists(600, 1, "t")
    gate = fit_gate(held_out, features=features, epochs=60)  # type: ignore[arg-type]
    ways = compare_gate(gate, held_out, test)
    assert ways["gate"].nll < ways["uniform"].nll
    assert gate.losses[0] > min(gate.losses)


def test_equal_members_are_believed_equally() -> None:
    data, _ = specialists(200, 0)
    twice = Predictions.of(np.repeat(data.values[:1], 2, 0), data.labels, scale="logits")
    gate = fit_gate(twice, epochs=5)
    np.testing.assert_allclose(gate.weights(twice), 0.5)
    np.testing.assert_allclose(gate(twice), twice.probabilities()[0], atol=1e-12)


def test_weights_belong_to_names() -> None:
    held_out, inputs = specialists(200, 0)
    gate = fit_gate(held_out, features="given", inputs=inputs, epochs=10)
    turned = held_out.select(["b", "a"])
    np.testing.assert_array_equal(gate.weights(turned, inputs), gate.weights(held_out, inputs))
    np.testing.assert_array_equal(gate(turned, inputs), gate(held_out, inputs))


def test_it_is_the_same_again_and_plain_data() -> None:
    held_out, _ = specialists(200, 0)
    first, second = fit_gate(held_out, epochs=10), fit_gate(held_out, epochs=10)
    back = Gate.from_json(json.dumps(first.as_json()), {name: array.copy() for name, array in first.arrays.items()})
    for other in (second, back):
        np.testing.assert_array_equal(first(held_out), other(held_out))
    assert back.members == ("a", "b")
    broken = dict(first.arrays) | {"output.bias": np.zeros(3)}
    with pytest.raises(InputError, match=r"'output.bias' must be finite numbers of shape \(2,\), got \(3,\)"):
        Gate.from_json(first.as_json(), broken)
    with pytest.raises(InputError, match=r"a gate's arrays are"):
        Gate.from_json(first.as_json(), {})
    for data in ({"version": 2}, "[]"):
        with pytest.raises(InputError, match=r"a gate must have version 1"):
            Gate.from_json(data, {})
    with pytest.raises(InputError, match=r"a gate must be JSON"):
        Gate.from_json("{", {})


def test_what_is_refused() -> None:
    data, inputs = specialists(100, 0)
    for options, what in (
        ({"features": "given"}, "a gate on given features needs inputs. Pass inputs="),
        ({"features": "given", "inputs": inputs[:5]}, r"inputs must be finite, of shape \(N, D\) with N = 100"),
        ({"inputs": inputs}, "a gate on probabilities takes no inputs"),
        ({"features": "probs"}, "a gate cannot look at 'probs'"),
        ({"rate": 0.0}, "a gate needs rate > 0"),
    ):
        with pytest.raises(InputError, match=what):
            fit_gate(data, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"learning weights needs labels"):
        fit_gate(data.with_labels(None))
    with pytest.raises(InputError, match=r"a gate needs at least 10 held-out samples, got 5"):
        fit_gate(data.select(samples=slice(0, 5)))
    gate = fit_gate(data, epochs=1)
    with pytest.raises(InputError, match=r"the gate would be judged on 100 samples that it was fitted on"):
        compare_gate(gate, data, data)
    with pytest.raises(InputError, match=r"the gate is for 4 classes, and the bank has 2"):
        gate(Predictions.of(np.full((2, 3, 2), 0.5), scale="probabilities", members=["a", "b"]))
