"""Data packs in small: the same files as the real ones, with patterns instead of pictures and made-up sentences."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

#: Name -> (side, colour, classes).
IMAGES = {
    "mnist": (28, False, 3), "kmnist": (28, False, 3), "notmnist": (28, False, 3), "kannada_mnist": (28, False, 3),
    "sign_digits": (32, False, 3), "gtsrb": (32, True, 4), "cifar10": (32, True, 3), "quickdraw3": (28, False, 2),
    "cifar100_20": (32, True, 4), "omniglot_small1": (28, False, 4), "fashion_mnist_mini": (28, False, 3),
    "bccd_cells": (32, True, 3), "usps": (16, False, 3),
}  # fmt: skip
WORDS = {
    "en": "the a small ship sails over cold water and men look at stars while birds cry above old towers of stone",
    "de": "das ein kleines schiff segelt auf kaltem wasser und leute sehen sterne über alten türmen aus stein",
    "fr": "le un petit bateau vogue sur eau froide et les gens regardent étoiles près des vieilles tours de pierre",
}


def write_packs(root: Path) -> Path:
    """Write all packs that the bundled suites name."""
    (root / "images").mkdir(parents=True)
    (root / "text").mkdir()
    for number, (name, (side, colour, classes)) in enumerate(IMAGES.items()):
        write_images(root / "images" / f"{name}.npz", side, colour, classes, number)
    for number, name in enumerate(("author_charlotte_bronte", "author_darwin", "tiny_shakespeare", "wikitext2_valid")):
        with gzip.open(root / "text" / f"{name}.txt.gz", "wt", encoding="utf-8") as file:
            file.write("".join(line + "\r\n" for line in sentences("en", 600, number)))
    write_rows(root, "multi30k", {k: sentences(k, 600, 7) for k in ("de", "fr")}, ("train", "dev", "test"))
    write_rows(
        root, "gsm8k", {"question": sentences("en", 900, 8), "answer": sentences("en", 900, 9)}, ("train", "test")
    )
    for number, name in enumerate(("ag_news", "subj", "trec")):
        write_rows(root, name, {"text": sentences("en", 120, 20 + number)}, ("train", "test"))
    write_rows(root, "ntrex_parallel", {"deu": sentences("de", 120, 30), "fra": sentences("fr", 120, 31)}, ())
    return root


def write_images(path: Path, side: int, colour: bool, classes: int, seed: int) -> None:
    """Noise around one pattern a class."""
    rng = np.random.default_rng(seed)
    shape = (side, side, 3) if colour else (side, side)
    patterns = rng.integers(0, 200, (classes, *shape))
    parts: dict[str, Any] = {}
    for part, count in (("train", 36 * classes), ("test", 12 * classes)):
        labels = np.arange(count) % classes
        parts[f"x_{part}"] = (patterns[labels] + rng.integers(0, 56, (count, *shape))).astype(np.uint8)
        parts[f"y_{part}"] = labels.astype(np.uint8)
    np.savez(path, classes=np.array([f"class {i}" for i in range(classes)]), **parts)


def sentences(language: str, count: int, seed: int) -> list[str]:
    """Made-up sentences."""
    rng, words = np.random.default_rng(seed), WORDS[language].split()
    return [" ".join(rng.choice(words, size=int(rng.integers(5, 11)))) + "." for _ in range(count)]


def write_rows(root: Path, name: str, columns: dict[str, list[str]], splits: tuple[str, ...]) -> None:
    """Items of several texts; the first 80 % are of the first split."""
    count = len(next(iter(columns.values())))
    with gzip.open(root / "text" / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
        for i in range(count):
            row: dict[str, Any] = {key: values[i] for key, values in columns.items()}
            if splits:
                row["split"] = splits[0] if i < count * 8 // 10 else splits[1 + i % (len(splits) - 1)]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
