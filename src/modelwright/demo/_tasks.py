"""The data: scikit-learn's bundled digits, seen through five fixed transforms of the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from modelwright.tensors import Array

#: How many pixels an image has along each side.
SIDE = 8

Transform = Callable[[Array], Array]


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

    transforms: Mapping[str, Transform]
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


def transforms(seed: int) -> dict[str, Transform]:
    """The five tasks: what each does to images of shape (n, 8, 8)."""
    order = np.random.default_rng((seed, 1)).permutation(SIDE * SIDE)
    return {
        "rotate": lambda images: np.rot90(images, axes=(1, 2)),
        "mirror": lambda images: images[:, :, ::-1],
        "invert": lambda images: 1 - images,
        "roll": lambda images: np.roll(images, (SIDE // 2, SIDE // 2), axis=(1, 2)),
        "shuffle": lambda images: images.reshape(-1, SIDE * SIDE)[:, order].reshape(-1, SIDE, SIDE),
    }


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
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)  # from 0 to 16
    images = (np.asarray(pixels) / 16).astype(np.float32).reshape(-1, SIDE, SIDE)
    train, rest = train_test_split(np.arange(len(labels)), test_size=0.4, stratify=labels, random_state=seed)
    validation, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=seed)
    parts = [Split(images[index], labels[index]) for index in (train, validation, test)]
    return Tasks(transforms(seed), *parts)
