"""The perceptron that demo and studies train: its gradients, its two optimisers, what it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.errors import InputError
from modelwright.evaluate import Items
from modelwright.train import (
    HEAD,
    MlpPredictor,
    Training,
    mlp_gradients,
    mlp_probabilities,
    random_mlp,
    save_mlp,
    train_mlp,
)

RNG = np.random.default_rng


def net(*hidden: int, seed: int = 0) -> dict[str, np.ndarray]:
    weights = random_mlp(5, hidden or (7, 6), 3, RNG(seed))
    return {name: array + RNG(9).normal(0, 0.1, array.shape).astype(np.float32) for name, array in weights.items()}


def data(n: int = 30) -> tuple[np.ndarray, np.ndarray]:
    inputs = RNG(1).normal(size=(n, 5)).astype(np.float32)
    return inputs, inputs[:, :3].argmax(axis=1)


def loss(weights: dict[str, np.ndarray], inputs: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(mlp_probabilities(weights, inputs)[np.arange(len(labels)), labels]).mean())


def test_gradients_are_those_of_finite_differences() -> None:
    weights = {name: array.astype(np.float64) for name, array in net().items()}
    inputs, labels = data()
    gradients = mlp_gradients(weights, inputs.astype(np.float64), labels)
    for name, array in weights.items():
        for at in np.ndindex(*array.shape):
            moved = []
            for step in (1e-6, -1e-6):
                other = {key: value.copy() for key, value in weights.items()}
                other[name][at] += step
                moved.append(loss(other, inputs, labels))
            assert gradients[name][at] == pytest.approx((moved[0] - moved[1]) / 2e-6, abs=1e-7), (name, at)


def test_one_step_of_momentum_and_of_adam_by_hand() -> None:
    inputs, labels = data(8)
    weights = net()
    slope = mlp_gradients(weights, inputs, labels)
    plain = train_mlp(weights, inputs, labels, Training(1, 0.1, batch=8), RNG(0))
    adam = train_mlp(weights, inputs, labels, Training(1, 0.1, batch=8, optimiser="adam"), RNG(0))
    for name in weights:
        np.testing.assert_allclose(plain[name], weights[name] - 0.1 * slope[name], rtol=1e-5, atol=1e-7)
        # After one step both averages, corrected, are the gradient and its square.
        expected = weights[name] - 0.1 * slope[name] / (np.abs(slope[name]) + 1e-8)
        np.testing.assert_allclose(adam[name], expected, rtol=1e-3, atol=1e-5)


def test_the_second_step_has_momentum() -> None:
    inputs, labels = data(8)
    weights = net()
    one = train_mlp(weights, inputs, labels, Training(1, 0.1, batch=8), RNG(0))
    two = train_mlp(weights, inputs, labels, Training(2, 0.1, batch=8), RNG(0))
    first, second = mlp_gradients(weights, inputs, labels), mlp_gradients(one, inputs, labels)
    for name in weights:
        expected = one[name] - 0.1 * (0.9 * first[name] + second[name])
        np.testing.assert_allclose(two[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimiser", ["momentum", "adam"])
def test_it_learns_and_leaves_its_arguments_alone(optimiser: Any) -> None:
    inputs, labels = data(200)
    weights = net(16)
    before = {name: array.copy() for name, array in weights.items()}
    tuned = train_mlp(weights, inputs, labels, Training(40, 0.02, optimiser=optimiser), RNG(2))
    assert loss(tuned, inputs, labels) < 0.5 * loss(weights, inputs, labels)
    assert all(np.array_equal(before[name], weights[name]) for name in weights)
    assert list(tuned) == list(weights)
    assert {array.dtype for array in tuned.values()} == {np.dtype(np.float32)}
    again = train_mlp(weights, inputs, labels, Training(40, 0.02, optimiser=optimiser), RNG(2))
    assert all(np.array_equal(again[name], tuned[name]) for name in tuned)


def test_frozen_tensors_decay_and_noise() -> None:
    inputs, labels = data(64)
    weights = net()
    frozen = train_mlp(weights, inputs, labels, Training(2, 0.1, frozen=HEAD), RNG(0))
    assert {name for name in weights if np.array_equal(frozen[name], weights[name])} == set(HEAD)
    plain = train_mlp(weights, inputs, labels, Training(1, 0.1, batch=64), RNG(0))
    decayed = train_mlp(weights, inputs, labels, Training(1, 0.1, batch=64, weight_decay=0.5), RNG(0))
    for name, array in weights.items():
        np.testing.assert_allclose(decayed[name], plain[name] - 0.05 * array * (array.ndim == 2), rtol=1e-4, atol=1e-6)
    noisy = train_mlp(weights, inputs, labels, Training(1, 0.1, batch=64, noise=0.3), RNG(0))
    assert not np.array_equal(noisy["layers.0.weight"], plain["layers.0.weight"])


def test_what_cannot_be_trained() -> None:
    inputs, labels = data(4)
    with pytest.raises(InputError, match="rate must be above 0, batch at least 1, the rest at least 0, got"):
        Training(1, rate=0)
    with pytest.raises(InputError, match=r"there is no tensor 'heat\.bias' to freeze"):
        train_mlp(net(), inputs, labels, Training(1, frozen=("heat.bias",)), RNG(0))


def test_a_saved_one_is_opened_and_asked(tmp_path: Path) -> None:
    weights = net(7)
    save_mlp(weights, tmp_path / "net")
    opened = mw.open(tmp_path / "net")
    assert opened.config is not None
    assert (opened.config["num_hidden_layers"], opened.config["hidden_size"], opened.config["num_labels"]) == (1, 7, 3)
    inputs, labels = data()
    predictor = MlpPredictor("net", weights=opened.arrays())
    flat = predictor.checked_probabilities(Items.of(inputs, labels), 3)
    deep = predictor.probabilities(inputs.reshape(-1, 5, 1), 3)
    np.testing.assert_allclose(flat, mlp_probabilities(weights, inputs), rtol=1e-5)
    np.testing.assert_array_equal(deep, mlp_probabilities(weights, inputs))
