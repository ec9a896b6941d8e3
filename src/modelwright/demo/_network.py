"""A multi-layer perceptron in numpy, with its weights as named tensors: what is trained, and how it is saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.checkpoint import lay_out
from modelwright.tensors import Array, dtype

#: Named tensors, in the order of the network: layers.0.weight, layers.0.bias, ..., head.weight, head.bias.
Weights = Mapping[str, Array]

HIDDEN = (384, 384, 384)
CLASSES = 10
HEAD = ("head.weight", "head.bias")


def random_weights(inputs: int, rng: np.random.Generator) -> dict[str, Array]:
    """A network to start from: He initialisation, biases zero."""
    widths = (inputs, *HIDDEN, CLASSES)
    blocks = [f"layers.{i}" for i in range(len(HIDDEN))] + ["head"]
    weights: dict[str, Array] = {}
    for block, fan_in, fan_out in zip(blocks, widths, widths[1:], strict=False):
        scale = np.sqrt(2 / fan_in)
        weights[f"{block}.weight"] = rng.normal(0, scale, (fan_out, fan_in)).astype(np.float32)
        weights[f"{block}.bias"] = np.zeros(fan_out, np.float32)
    return weights


def probabilities(weights: Weights, inputs: Array) -> Array:
    """Class probabilities, shape (n, 10)."""
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


def _gradients(weights: Weights, inputs: Array, labels: Array) -> dict[str, Array]:
    """Gradients of the mean cross-entropy."""
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


def trained(
    weights: Weights,
    inputs: Array,
    labels: Array,
    *,
    epochs: int,
    rng: np.random.Generator,
    rate: float = 0.02,
    batch: int = 64,
    frozen: tuple[str, ...] = (),
) -> dict[str, Array]:
    """The network after some epochs of gradient descent with momentum 0.9; the given weights stay as they are.

    Args:
        weights: Where to start.
        inputs: Images, shape (n, 64).
        labels: Digits, shape (n,).
        epochs: How often each image is seen.
        rng: Decides the order of the images.
        rate: Learning rate.
        batch: Images per step.
        frozen: Tensors that keep their values.

    Returns:
        New weights under the same names, in the same order.
    """
    result = {name: array.copy() for name, array in weights.items()}
    velocity = {name: np.zeros_like(array) for name, array in result.items() if name not in frozen}
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        for start in range(0, len(labels), batch):
            chosen = order[start : start + batch]
            gradients = _gradients(result, inputs[chosen], labels[chosen])
            for name, speed in velocity.items():
                speed *= np.float32(0.9)
                speed += gradients[name]
                result[name] -= np.float32(rate) * speed
    return result


def save(weights: Weights, folder: Path) -> None:
    """Write a checkpoint folder as everyone has them: config.json and model.safetensors."""
    folder.mkdir(parents=True)
    config: dict[str, Any] = {
        "model_type": "digits-mlp",
        "num_hidden_layers": len(HIDDEN),
        "hidden_size": HIDDEN[0],
        "hidden_act": "relu",
        "num_labels": CLASSES,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    layout = [(name, dtype(array.dtype), array.shape) for name, array in weights.items()]
    (shard,) = lay_out(layout, "model", limit=2**40, metadata={"format": "pt"})
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in weights.values())
    (folder / shard.file).write_bytes(shard.header + content)
