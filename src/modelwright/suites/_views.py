"""Digits seen in several ways: what the demo, the studies and the suite of digits make their tasks of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modelwright.evaluate._predictor import needs
from modelwright.tensors import Array

SIDE, CLASSES = 8, 10

View = Callable[[Array], Array]


def views(rng: np.random.Generator) -> dict[str, View]:
    """What each view does to images of shape (n, 8, 8); every one keeps all of their content.

    Args:
        rng: Draws the order of the pixels in `shuffle`.
    """
    order = rng.permutation(SIDE * SIDE)
    checks = np.indices((SIDE, SIDE)).sum(axis=0) % 2 == 1
    return {
        "rotate": lambda images: np.rot90(images, axes=(1, 2)),
        "mirror": lambda images: images[:, :, ::-1],
        "invert": lambda images: 1 - images,
        "roll": lambda images: np.roll(images, (SIDE // 2, SIDE // 2), axis=(1, 2)),
        "shuffle": lambda images: images.reshape(-1, SIDE * SIDE)[:, order].reshape(-1, SIDE, SIDE),
        "flip": lambda images: images[:, ::-1, :],
        "transpose": lambda images: images.transpose(0, 2, 1),
        "checker": lambda images: np.where(checks, 1 - images, images),
    }


def digit_images(what: str, most: int | None = None) -> tuple[Array, Array]:
    """scikit-learn's digits, upright: float32 in [0, 1] of shape (n, 8, 8), and their labels, int64 (n,).

    Args:
        what: Who asks for them, should scikit-learn be missing.
        most: So many only; None is all 1797.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    pixels, labels = needs("sklearn.datasets", what).load_digits(return_X_y=True)  # from 0 to 16
    images = (np.asarray(pixels[:most]) / 16).astype(np.float32).reshape(-1, SIDE, SIDE)
    return images, np.asarray(labels[:most], np.int64)
