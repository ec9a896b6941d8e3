"""A multi-layer perceptron in numpy, with its weights as named tensors: what demo and studies train in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from modelwright.checkpoint import lay_out
from modelwright.errors import InputError
from modelwright.evaluate import Predictor
from modelwright.tensors import Array, dtype

#: Named tensors, in the order of the network: layers.0.weight, layers.0.bias, ..., head.weight, head.bias.
Weights = Mapping[str, Array]

HEAD = ("head.weight", "head.bias")
_MOMENTUM = 0.9
_ADAM = (0.9, 0.999, 1e-8)  # the decay of both averages, and what keeps the quotient finite


def random_mlp(inputs: int, hidden: Sequence[int], classes: int, rng: np.random.Generator) -> dict[str, Array]:
    """A network to start from: He initialisation, biases zero.

    Args:
        inputs: Numbers an item has.
        hidden: Width of each hidden layer.
        classes: How many classes there are.
        rng: Decides the weights.
    """
    widths = (inputs, *hidden, classes)
    blocks = [f"layers.{i}" for i in range(len(hidden))] + ["head"]
    weights: dict[str, Array] = {}
    for block, fan_in, fan_out in zip(blocks, widths, widths[1:], strict=False):
        scale = np.sqrt(2 / fan_in)
        weights[f"{block}.weight"] = rng.normal(0, scale, (fan_out, fan_in)).astype(np.float32)
        weights[f"{block}.bias"] = np.zeros(fan_out, np.float32)
    return weights


def mlp_probabilities(weights: Weights, inputs: Array) -> Array:
    """Class probabilities, shape (n, classes), of inputs of shape (n, inputs)."""
    return _softmax(_activations(weights, inputs)[-1])


def _activations(weights: Weights, inputs: Array) -> list[Array]:
    """The input of every block, then the logits."""
    blocks = _blocks(weights)
    values = [inputs]
    for block in blocks:
        value = values[-1] @ weights[f"{block}.weight"].T + weights[f"{block}.bias"]
        values.append(value if block == blocks[-1] else np.maximum(value, 0))
    return values


def _blocks(weights: Weights) -> list[str]:
    return [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def mlp_gradients(weights: Weights, inputs: Array, labels: Array) -> dict[str, Array]:
    """Gradients of the mean cross-entropy, by the tensors' names.

    Args:
        weights: The network.
        inputs: Shape (n, inputs).
        labels: Classes, whole numbers of shape (n,).
    """
    values = _activations(weights, inputs)
    slope = _softmax(values[-1])
    slope[np.arange(len(labels)), labels] -= 1
    slope /= len(labels)
    gradients: dict[str, Array] = {}
    for block, value in reversed(list(zip(_blocks(weights), values, strict=False))):
        gradients[f"{block}.weight"] = slope.T @ value
        gradients[f"{block}.bias"] = slope.sum(axis=0)
        slope = (slope @ weights[f"{block}.weight"]) * (value > 0)
    return gradients


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        epochs: How often each item is seen, at least 0.
        rate: Learning rate, above 0.
        batch: Items a step.
        optimiser: `momentum`: gradient descent with momentum 0.9; or `adam`.
        weight_decay: Share of the weight matrices that is taken off a step, times the rate; biases have none.
        noise: Standard deviation of Gaussian noise on the inputs, drawn anew each time.
        frozen: Tensors that keep their values.

    Raises:
        InputError: A number is out of its range.
    """

    epochs: int
    rate: float = 0.02
    batch: int = 64
    optimiser: Literal["momentum", "adam"] = "momentum"
    weight_decay: float = 0.0
    noise: float = 0.0
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.batch < 1 or min(self.epochs, self.weight_decay, self.noise) < 0:
            raise InputError(f"training: rate must be above 0, batch at least 1, the rest at least 0, got {self}")


def train_mlp(
    weights: Weights,
    inputs: Array,
    labels: Array,
    training: Training,
    rng: np.random.Generator,
    masks: Weights | None = None,
) -> dict[str, Array]:
    """The network after some epochs; the given weights stay as they are.

    Args:
        weights: Where to start.
        inputs: Shape (n, inputs).
        labels: Classes, whole numbers of shape (n,).
        training: How.
        rng: Decides the order of the items, and their noise.
        masks: Of tensors that are sparse, ones and zeros: what they are multiplied with after every step.

    Returns:
        New weights under the same names, in the same order.

    Raises:
        InputError: A tensor that is to be frozen is not there.
    """
    unknown = [name for name in training.frozen if name not in weights]
    if unknown:
        raise InputError(f"training: there is no tensor '{unknown[0]}' to freeze")
    result = {name: array.copy() for name, array in weights.items()}
    steps = {name: _STEPS[training.optimiser](array) for name, array in result.items() if name not in training.frozen}
    for _ in range(training.epochs):
        order = rng.permutation(len(labels))
        for start in range(0, len(labels), training.batch):
            chosen = order[start : start + training.batch]
            gradients = mlp_gradients(result, _noisy(inputs[chosen], training.noise, rng), labels[chosen])
            for name, step in steps.items():
                if training.weight_decay and result[name].ndim == 2:
                    result[name] *= np.float32(1 - training.rate * training.weight_decay)
                result[name] -= np.float32(training.rate) * step(gradients[name])
                if masks is not None and name in masks:
                    result[name] *= masks[name]
    return result


def _noisy(inputs: Array, noise: float, rng: np.random.Generator) -> Array:
    return inputs + rng.normal(0, noise, inputs.shape).astype(inputs.dtype) if noise else inputs


def _momentum(array: Array) -> Callable[[Array], Array]:
    speed = np.zeros_like(array)

    def step(gradient: Array) -> Array:
        np.multiply(speed, speed.dtype.type(_MOMENTUM), out=speed)
        np.add(speed, gradient, out=speed)
        return speed

    return step


def _adam(array: Array) -> Callable[[Array], Array]:
    mean, square = np.zeros_like(array), np.zeros_like(array)
    first, second, least = _ADAM
    taken = 0

    def step(gradient: Array) -> Array:
        nonlocal taken
        taken += 1
        mean[...] = first * mean + (1 - first) * gradient
        square[...] = second * square + (1 - second) * gradient**2
        return (mean / (1 - first**taken)) / (np.sqrt(square / (1 - second**taken)) + least)

    return step


_STEPS: dict[str, Callable[[Array], Callable[[Array], Array]]] = {"momentum": _momentum, "adam": _adam}


@dataclass
class MlpPredictor(Predictor):
    """A multi-layer perceptron under test. Inputs of more than two axes are flattened to one row an item."""

    weights: Weights = field(kw_only=True)

    def probabilities(self, inputs: Any, classes: int) -> Array:
        """Class probabilities of n inputs."""
        return mlp_probabilities(self.weights, np.reshape(inputs, (len(inputs), -1)))


def save_mlp(weights: Weights, folder: Path) -> None:
    """Write a checkpoint folder as everyone has them: config.json and model.safetensors."""
    folder.mkdir(parents=True)
    hidden = [weights[f"{block}.bias"].size for block in _blocks(weights)[:-1]]
    config: dict[str, Any] = {
        "model_type": "digits-mlp",
        "num_hidden_layers": len(hidden),
        "hidden_size": hidden[0],
        "hidden_act": "relu",
        "num_labels": weights["head.bias"].size,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    layout = [(name, dtype(array.dtype), array.shape) for name, array in weights.items()]
    (shard,) = lay_out(layout, "model", limit=2**40, metadata={"format": "pt"})
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in weights.values())
    (folder / shard.file).write_bytes(shard.header + content)
