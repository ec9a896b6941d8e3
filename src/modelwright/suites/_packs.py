"""The data packs behind `MODELWRIGHT_DATA`: images of one shape, corpora, and their splits."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError
from modelwright.evaluate import Items
from modelwright.tensors import Array

VARIABLE = "MODELWRIGHT_DATA"
#: Splits are the same for every seed of training, so that seeds can be compared item by item.
_SPLIT_SEED = 0


def pack(*parts: str) -> Path:
    """A file of the packs.

    Raises:
        InputError: The variable is not set, or the file is not there.
    """
    root = os.environ.get(VARIABLE)
    if not root:
        raise InputError(
            f"this suite needs the data packs, and {VARIABLE} is not set",
            f"Set {VARIABLE} to their folder. The suite 'digits' needs no data but scikit-learn's.",
        )
    path = Path(root).expanduser().joinpath(*parts)
    if not path.is_file():
        raise InputError(f"there is no file '{'/'.join(parts)}' in the data packs", where=f"{VARIABLE}={root}")
    return path


@dataclass(frozen=True)
class Images:
    """A set of labelled images, all of one shape.

    Attributes:
        train: uint8 (n, side, side, 3), with its labels.
        train_labels: Class indices (n,).
        test: Likewise.
        test_labels: Likewise.
        classes: The classes' names.
    """

    train: Array
    train_labels: Array
    test: Array
    test_labels: Array
    classes: tuple[str, ...]


def images(name: str, side: int = 32) -> Images:
    """A set of the packs, `images/NAME.npz`.

    Raises:
        InputError: It is not there, or not laid out as the packs are.
    """
    path = pack("images", f"{name}.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = [file[key] for key in ("x_train", "y_train", "x_test", "y_test")]
            classes = tuple(str(label) for label in file["classes"])
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"not a set of images as the packs have them: {error}", where=str(path)) from error
    train, train_labels, test, test_labels = parts
    return Images(
        to_shape(train, side),
        train_labels.astype(np.int64),
        to_shape(test, side),
        test_labels.astype(np.int64),
        classes,
    )


def to_shape(pixels: Array, side: int = 32) -> Array:
    """Images as uint8 (n, side, side, 3), whatever their size up to that and whether grey or coloured.

    They are enlarged by the largest whole factor that fits, each pixel repeated; what is missing is added evenly around
    them by repeating the outermost pixels; grey goes into all three channels. So no value is changed or made up.

    Args:
        pixels: uint8 (n, h, w) or (n, h, w, 3).
        side: Pixels along each side of what comes out.

    Raises:
        InputError: They are larger than that, or have another number of channels.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] != 3):
        raise InputError(f"images must be uint8 (n, h, w) or (n, h, w, 3), got {pixels.dtype} {pixels.shape}")
    height, width = pixels.shape[1:3]
    if max(height, width) > side:
        raise InputError(f"images must be at most {side} pixels along each side, got {height} x {width}")
    factor = side // max(height, width)
    large = pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    around = [((side - n) // 2, side - n - (side - n) // 2) for n in large.shape[1:3]]
    large = np.pad(large, [(0, 0), *around, *[(0, 0)] * (pixels.ndim - 3)], mode="edge")
    return np.repeat(large[..., None], 3, axis=3) if pixels.ndim == 3 else large


def stratified(labels: Array, *sizes: int) -> list[Array]:
    """Positions of disjoint parts that have each class in its share, to one item, in rising order; the same each time.

    The items of a class, shuffled, are laid out at equal distances along a line from 0 to 1, and the parts are cut off
    the line one after another.

    Args:
        labels: Classes (n,).
        sizes: Most items of each part. Where there are too few items, all parts shrink in proportion.
    """
    labels = np.asarray(labels)
    rng = np.random.default_rng(_SPLIT_SEED)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        place[own] = (np.arange(len(own)) + rng.uniform()) / len(own)
    line = np.argsort(place, kind="stable")
    share = min(1.0, len(labels) / sum(sizes))
    ends = np.cumsum([int(size * share) for size in sizes])
    return [np.sort(part) for part in np.split(line[: ends[-1]], ends[:-1])]


def image_splits(found: Images, tune: int, validation: int, test: int) -> dict[str, Items]:
    """Items of a set: `tune` and `validation` from its training images, `test` from its test images."""
    learn, choose = stratified(found.train_labels, tune, validation)
    (judge,) = stratified(found.test_labels, test)

    def items(kind: str, pixels: Array, labels: Array, positions: Array) -> Items:
        return Items.of(pixels[positions], labels[positions], [f"{kind}-{i}" for i in positions])

    return {
        "tune": items("train", found.train, found.train_labels, learn),
        "validation": items("train", found.train, found.train_labels, choose),
        "test": items("test", found.test, found.test_labels, judge),
    }


def text(name: str) -> str:
    """A corpus of the packs, `text/NAME.txt.gz`, with line ends as one character."""
    path = pack("text", f"{name}.txt.gz")
    try:
        with gzip.open(path, "rt", encoding="utf-8", errors="strict", newline=None) as file:
            return file.read()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise InputError(f"not a corpus as the packs have them: {error}", where=str(path)) from error


def rows(name: str) -> Sequence[dict[str, Any]]:
    """A set of the packs with one JSON object an item, `text/NAME.jsonl.gz`."""
    path = pack("text", f"{name}.jsonl.gz")
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"not a set of texts as the packs have them: {error}", where=str(path)) from error
