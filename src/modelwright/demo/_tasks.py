"""The data: scikit-learn's bundled digits, seen through five fixed transforms of the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modelwright.suites._views import SIDE as SIDE, View, digit_images, views
from modelwright.tensors import Array


@dataclass(frozen=True)
class Split:
    """Images with their labels.

    Attributes:
        images: float32 in [0, 1], shape (n, 8, 8), upright.
        labels: Digits, shape (n,).
    """

    images: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Split:
        """The first images only."""
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Tasks:
    """Five tasks over one set of images. An image is in one split only, whichever way it is shown.

    Attributes:
        transforms: What each task does to the images, by its name.
        train: What the models learn from.
        validation: What scales are chosen on.
        test: What the table reports.
    """

    transforms: Mapping[str, View]
    train: Split
    validation: Split
    test: Split

    def inputs(self, task: str, split: Split) -> Array:
        """The images as this task shows them, one row of 64 pixels each."""
        return self.transforms[task](split.images).reshape(len(split), SIDE * SIDE)

    def pooled(self, split: Split) -> tuple[Array, Array]:
        """Every image in every task's view, and the labels."""
        views = [self.inputs(task, split) for task in self.transforms]
        return np.concatenate(views), np.tile(split.labels, len(views))


#: What each task does, in words.
MEANING = {
    "rotate": "turned by a quarter",
    "mirror": "left and right swapped",
    "invert": "light and dark swapped",
    "roll": "shifted by half the image, wrapping round",
    "shuffle": "pixels in one fixed random order",
}


def load(seed: int) -> Tasks:
    """The bundled digits in three stratified splits: 60 % train, 20 % validation, 20 % test."""
    from sklearn.model_selection import train_test_split

    images, labels = digit_images("mw demo")
    train, rest = train_test_split(np.arange(len(labels)), test_size=0.4, stratify=labels, random_state=seed)
    validation, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=seed)
    parts = [Split(images[index], labels[index]) for index in (train, validation, test)]
    shown = views(np.random.default_rng((seed, 1)))
    return Tasks({name: shown[name] for name in MEANING}, *parts)
