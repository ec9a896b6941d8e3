"""A family that is trained in a blink: a network of numpy on three views of scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import modelwright as mw
from modelwright.api import content_hash
from modelwright.checkpoint import Checkpoint
from modelwright.evaluate import Classification, FunctionPredictor, Items, Predictor, Size, Splits, metric
from modelwright.methods import METHODS
from modelwright.suites import Family

VIEWS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "upright": lambda x: x,
    "mirrored": lambda x: x[:, :, ::-1],
    "negative": lambda x: 1 - x,
}
NAMES = tuple("0123456789")
Weights = dict[str, np.ndarray]


def merging(count: int) -> set[str]:
    """The methods of the library that can merge so many models with nothing else."""
    fitting = {name: record.models for name, record in METHODS.items() if not record.needs and record.parts is None}
    return {name for name, (least, most) in fitting.items() if least <= count <= (most or count)}


def logits(weights: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    hidden = np.maximum(x.reshape(len(x), -1) @ weights["in.weight"] + weights["in.bias"], 0)
    return hidden @ weights["out.weight"] + weights["out.bias"]


def trained(start: Weights, x: np.ndarray, y: np.ndarray, steps: int) -> Weights:
    """Gradient descent with momentum on the log-loss, all items at a time."""
    weights = {name: value.copy() for name, value in start.items()}
    speed = {name: np.zeros_like(value) for name, value in start.items()}
    flat, wanted = x.reshape(len(x), -1), np.eye(10, dtype=np.float32)[y]
    for _ in range(steps):
        hidden = np.maximum(flat @ weights["in.weight"] + weights["in.bias"], 0)
        out = hidden @ weights["out.weight"] + weights["out.bias"]
        powers = np.exp(out - out.max(axis=1, keepdims=True))
        error = (powers / powers.sum(axis=1, keepdims=True) - wanted) / len(x)
        back = (error @ weights["out.weight"].T) * (hidden > 0)
        slopes = {
            "in.weight": flat.T @ back, "in.bias": back.sum(axis=0),
            "out.weight": hidden.T @ error, "out.bias": error.sum(axis=0),
        }  # fmt: skip
        for name, slope in slopes.items():
            speed[name] = 0.9 * speed[name] - 0.3 * slope
            weights[name] = (weights[name] + speed[name]).astype(np.float32)
    return weights


@dataclass(frozen=True, kw_only=True)
class TinyFamily(Family):
    """What it was asked: (label, task) of each batch."""

    asked: list[tuple[str, int]]
    heads: str = "none"

    @property
    def fingerprint(self) -> str:
        return self.heads

    def system(self, weights: Checkpoint, label: str, *, device: str = "cpu") -> Predictor:
        arrays = weights.arrays()

        def answer(x: Any) -> np.ndarray:
            self.asked.append((label, len(x)))
            return logits(arrays, x)

        return FunctionPredictor(
            label, function=answer, outputs="logits", fingerprint=content_hash(weights),
            size=Size(sum(a.size for a in arrays.values()), weights.nbytes),
        )  # fmt: skip


@cache
@threadpool_limits.wrap(limits=1)  # processes that share the cores train the same bits as one that has them all
def _family(seed: int) -> TinyFamily:
    digits = load_digits()
    rng = np.random.default_rng(seed)
    order = np.random.default_rng(0).permutation(
        len(digits.target)
    )  # as in all suites, splits are the same for all seeds
    x, y = (digits.images[order] / 16).astype(np.float32), digits.target[order]
    ids = [f"digit-{i}" for i in order]
    parts = {"tune": slice(0, 600), "validation": slice(600, 900), "test": slice(900, 1300)}

    def items(view: str, part: slice) -> Items:
        return Items.of(VIEWS[view](x[part]), y[part], [f"{view}-{i}" for i in ids[part]])

    tasks = {
        view: Classification(
            name=view, names=NAMES, metric=metric("accuracy"),
            splits=Splits({split: items(view, part) for split, part in parts.items()}),
        )
        for view in VIEWS
    }  # fmt: skip
    scale = {"in.weight": (64, 48), "in.bias": (48,), "out.weight": (48, 10), "out.bias": (10,)}
    start = {n: (rng.normal(size=s) * (0.15 if len(s) > 1 else 0)).astype(np.float32) for n, s in scale.items()}
    base = trained(start, np.concatenate([view(x[1300:]) for view in VIEWS.values()]), np.tile(y[1300:], 3), 15)
    tune = parts["tune"]
    experts = {view: trained(base, VIEWS[view](x[tune]), y[tune], 60) for view in VIEWS}
    together = trained(base, np.concatenate([v(x[tune]) for v in VIEWS.values()]), np.tile(y[tune], 3), 60)
    return TinyFamily(
        name="tiny", seed=seed, base=mw.open(base), experts={n: mw.open(w) for n, w in experts.items()},
        multitask=mw.open(together), tasks=tasks, seconds={"base": 0.1, **dict.fromkeys(VIEWS, 0.2)}, asked=[],
    )  # fmt: skip


class TinySuite:
    name = "tiny"

    def fingerprint(self, budget: str) -> str:
        return "tiny"

    def family(self, seed: int, *, cache: Path | None = None, device: str = "cpu", budget: str = "full") -> TinyFamily:
        return _family(seed)
