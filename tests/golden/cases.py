"""The merges whose results are compared with mergekit's: needs numpy alone, so that both sides can import it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MATRIX, VECTOR, CONV, SHORT = (12, 20), (33,), (5, 4, 3), (3,)


@dataclass(frozen=True)
class Case:
    """One merge of small random tensors.

    Attributes:
        method: Its name, the same here and there.
        parameters: By recipe name; lists have one value per model that is not the base.
        count: Number of models beside the base.
        base: Whether a base is given.
        shape: Shape of each tensor.
        coarse: Round to sixteenths, so that magnitudes are equal, and differences exact.
    """

    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    count: int = 3
    base: bool = True
    shape: tuple[int, ...] = MATRIX
    coarse: bool = False

    @property
    def label(self) -> str:
        values = ",".join(f"{name}={value}" for name, value in self.parameters.items())
        notes = [f"{self.count} models", "x".join(map(str, self.shape)), "" if self.base else "no base"]
        notes += ["coarse"] * self.coarse
        return f"{self.method}({values}) {' '.join(note for note in notes if note)}"

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(f"{purpose} {self.label}".encode()))

    def tensors(self) -> tuple[list[np.ndarray], np.ndarray]:
        """The models and the base, in float32."""
        rng = self._rng("tensors")
        base = rng.standard_normal(self.shape).astype(np.float32)
        deltas = [rng.standard_normal(self.shape) * 0.5 for _ in range(self.count)]
        if self.coarse:
            base, *deltas = [np.round(array * 16) / 16 for array in (base, *deltas)]
            base = base.astype(np.float32)
        return [(base + delta).astype(np.float32) for delta in deltas], base

    def masks(self) -> list[np.ndarray]:
        """What DARE and DELLA keep of each model."""
        rng = self._rng("masks")
        return [rng.random(self.shape) < density for density in self.parameters["density"]]


def _linear() -> list[Case]:
    return [
        *(Case("linear", {"weight": w}, base=False) for w in ([1, 1, 1], [0.2, 0.5, 0.3], [2, -0.5, 1])),
        *(Case("linear", {"weight": [0.4, 0.1, 0.3], "normalize": n}, base=False) for n in (True, False)),
        *(Case("linear", {"weight": [3, 1]}, 2, False, shape) for shape in (VECTOR, CONV, SHORT)),
        *(Case("passthrough", {"scale": scale}, 1, False) for scale in (None, 1.0, 0.25, -3)),
    ]


def _arcs() -> list[Case]:
    mixed: list[dict[str, Any]] = [
        {"nuslerp_flatten": True},
        {"nuslerp_flatten": False},
        {"nuslerp_flatten": False, "nuslerp_row_wise": True},
    ]
    return [
        *(Case("slerp", {"t": t}, 1) for t in (0, 0.25, 0.5, 0.9, 1, 1.5)),
        *(Case("slerp", {"t": 0.3}, 1, shape=shape) for shape in (VECTOR, CONV, SHORT)),
        *(
            Case("nuslerp", {"weight": [1, 3], **p}, 2, b, s)
            for p in mixed
            for b in (True, False)
            for s in (MATRIX, CONV)
        ),
        *(Case("nuslerp", {"weight": w}, 2, b) for w in ([0.5, -0.5], [1, 0], [2, 1]) for b in (True, False)),
        Case("nuslerp", {"weight": [0.6, 0.4], "nuslerp_flatten": False}, 2, True, VECTOR),
        *(
            Case("model_stock", {"filter_wise": f}, n, shape=s)
            for f in (False, True)
            for n in (2, 4)
            for s in (MATRIX, VECTOR)
        ),
    ]


def _sums(method: str, variants: list[dict[str, Any]]) -> list[Case]:
    weights = [0.7, 0.5, 0.9]
    return [
        *(Case(method, {"weight": weights, **variant}) for variant in variants),
        *(Case(method, {"weight": weights, **variants[-1]}, shape=shape) for shape in (VECTOR, CONV, SHORT)),
        Case(method, {"weight": [1, -0.5, 0.25], **variants[-1], "normalize": True}),
        Case(method, {"weight": weights, **variants[-1], "lambda": 0.3, "normalize": False}),
    ]


def _kept(*shares: float) -> list[dict[str, Any]]:
    return [{"density": [share, min(1, share * 1.5), share]} for share in shares]


def _task_vectors() -> list[Case]:
    outliers = [{**p, "gamma": g} for p in _kept(0.2, 0.5) for g in ([0.01, 0.1, 0.2], [0, 0, 0], [0.3, 0.4, 0.6])]
    coarse = {"weight": [1, 1, 1], "density": [0.3, 0.5, 0.4]}
    return [
        *_sums("task_arithmetic", [{}]),
        *_sums("ties", [{}, *_kept(0, 0.05, 0.2, 0.5), {**_kept(0.3)[0], "rescale": True}]),
        *_sums("breadcrumbs", [{}, *outliers, {**outliers[0], "rescale": True}]),
        *_sums("breadcrumbs_ties", [{}, *outliers[::2], {**outliers[0], "rescale": True}]),
        *_sums("dare_linear", [{**p, "rescale": r} for p in _kept(0.1, 0.5, 0.8) for r in (True, False)]),
        *_sums("dare_ties", [{**p, "rescale": r} for p in _kept(0.1, 0.5, 0.8) for r in (True, False)]),
        Case("ties", coarse, coarse=True),
        Case("breadcrumbs", {**coarse, "gamma": [0.1, 0.2, 0.05]}, coarse=True),
    ]


def _community() -> list[Case]:
    shapes = (VECTOR, CONV, SHORT)
    weights = [0.7, 0.5, 0.9]
    return [
        *(Case("sce", {"select_topk": share}) for share in (1.0, 0.5, 0.1, 0.0)),
        *(Case("sce", {"select_topk": 0.4}, count, shape=shape) for count in (2, 5) for shape in shapes),
        Case("sce", {}, 1),
        *(Case("nearswap", {"t": t}, 1) for t in (0, 1e-4, 0.3, 10)),
        *(Case("nearswap", {"t": 0.3}, 1, shape=shape) for shape in shapes),
        *(
            Case("multislerp", {"weight": weights, "normalize_weights": n}, 3, b)
            for n in (True, False)
            for b in (True, False)
        ),
        *(Case("multislerp", {"weight": [1, -0.2]}, 2, b, shape) for b in (True, False) for shape in shapes),
        *(Case("multislerp", {"weight": [2]}, 1, b) for b in (True, False)),
        *(Case("karcher", {}, count, False) for count in (1, 2, 5)),
        *(Case("karcher", {"max_iter": 1, "tol": tol}, 3, False, shape) for tol in (1e-5, 0.1) for shape in shapes),
        *(Case("ram", {"epsilon": epsilon}, count) for epsilon in (1e-5, 0.3) for count in (1, 2, 4)),
        *(Case("ramplus_tl", {"epsilon": 0.4, "r": r, "alpha": a}) for r, a in ((0.1, 0.2), (2, 0.5), (1, 100))),
        *(Case("ramplus_tl", {"epsilon": 0.4, "r": 1}, shape=shape) for shape in shapes),
        *(Case("arcee_fusion", {}, 1, shape=shape) for shape in (MATRIX, *shapes)),
        *_sums("della", [{**p, "rescale": r} for p in _kept(0.3, 0.5) for r in (True, False)]),
        *_sums(
            "della_linear",
            [{**p, "epsilon": [0.1, 0.05, 0.2], "rescale": r} for p in _kept(0.3, 0.5) for r in (True, False)],
        ),
    ]


#: Whose probabilities of keeping an entry are compared too.
RANKED = Case("della_linear", {"weight": [1, 1, 1], "density": [0.3, 0.45, 0.8], "epsilon": [0.1, 0.4, 0.15]})

CASES = [*_linear(), *_arcs(), *_task_vectors(), *_community(), RANKED]
