"""What is trained: a base that has seen little, one expert per task, and one model on all tasks at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modelwright.demo._tasks import SIDE, Tasks
from modelwright.tensors import Array
from modelwright.train import HEAD, Training, Weights, random_mlp, save_mlp, train_mlp

#: Widths of the hidden layers, and how many digits there are.
HIDDEN, CLASSES = (384, 384, 384), 10

#: The base learns from so many images, in all five views.
BASE_IMAGES, BASE_EPOCHS, BASE_RATE = 48, 60, 0.05
#: The experts are tuned from it on all training images, each in its own view, the head frozen.
EXPERT_EPOCHS, EXPERT_RATE = 10, 0.01


def train(tasks: Tasks, folder: Path, *, seed: int, effort: float = 1.0) -> dict[str, float]:
    """Train and save every model of the demo.

    Args:
        tasks: The data; only its training split is used.
        folder: Where the checkpoint folders go.
        seed: Decides initial weights and the order of images.
        effort: Share of the epochs.

    Returns:
        Seconds of training by model: `base`, each task's name, `joint`.
    """
    seconds: dict[str, float] = {}

    def keep(name: str, learn: Callable[[], Weights]) -> Weights:
        start = time.perf_counter()
        weights = learn()
        seconds[name] = time.perf_counter() - start
        save_mlp(weights, folder / name)
        return weights

    base = keep("base", lambda: _base(tasks, seed, effort))
    for i, task in enumerate(tasks.transforms):
        inputs = tasks.inputs(task, tasks.train)
        keep(task, lambda i=i, inputs=inputs: _tuned(base, inputs, tasks.train.labels, (seed, 10 + i), effort))
    keep("joint", lambda: _tuned(base, *tasks.pooled(tasks.train), (seed, 4), effort))
    return seconds


def _base(tasks: Tasks, seed: int, effort: float) -> Weights:
    inputs, labels = tasks.pooled(tasks.train.first(BASE_IMAGES))
    start = random_mlp(SIDE * SIDE, HIDDEN, CLASSES, np.random.default_rng((seed, 2)))
    training = Training(_share(BASE_EPOCHS, effort), BASE_RATE)
    return train_mlp(start, inputs, labels, training, np.random.default_rng((seed, 3)))


def _tuned(base: Weights, inputs: Array, labels: Array, stream: tuple[int, int], effort: float) -> Weights:
    training = Training(_share(EXPERT_EPOCHS, effort), EXPERT_RATE, frozen=HEAD)
    return train_mlp(base, inputs, labels, training, np.random.default_rng(stream))


def _share(epochs: int, effort: float) -> int:
    return max(1, round(epochs * effort))
