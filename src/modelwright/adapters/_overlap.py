"""What adapters have in common: whether they point the same way, and whether they use the same directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.checkpoint import AdaptedModule, Adapter, NumpyArray, open_adapter, user_path
from modelwright.errors import InputError
from modelwright.tensors import Product, product_dot, product_norm, product_svd


@dataclass(frozen=True)
class ModuleOverlap:
    """Two adapters at one module.

    Attributes:
        module: Its path.
        cosine: Of what they add, laid end to end, in [-1, 1].
        outputs: Share of the smaller column space that lies in the larger: mean squared cosine of the principal angles, in [0, 1].
        inputs: The same of row spaces.
        dot: Inner product of what they add.
        norms: Of what each adds.
    """

    module: str
    cosine: float
    outputs: float
    inputs: float
    dot: float
    norms: tuple[float, float]


@dataclass(frozen=True)
class PairOverlap:
    """Two adapters.

    Attributes:
        cosine: Of all that they add, modules that one of them lacks counting as zero there.
        modules: Where both add something.
    """

    cosine: float
    modules: tuple[ModuleOverlap, ...]


@dataclass(frozen=True)
class Overlap:
    """What several adapters have in common.

    Attributes:
        labels: What they are called.
        pairs: Every two of them, by number -> what they have in common.
    """

    labels: tuple[str, ...]
    pairs: dict[tuple[int, int], PairOverlap]

    def between(self, first: int, second: int) -> PairOverlap:
        """Two of them."""
        return self.pairs[(first, second)]

    def as_json(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        pairs = [{"adapters": [self.labels[i] for i in pair], **asdict(found)} for pair, found in self.pairs.items()]
        return {"version": 1, "ok": True, "adapters": list(self.labels), "pairs": pairs}


def overlap(adapters: Sequence[str | Path | Adapter]) -> Overlap:
    """Compare adapters of one base, from their factors alone.

    Args:
        adapters: At least two: folders of peft, LoRA files, or what `open_adapter` gives.

    Returns:
        For every two of them the cosine of what they add, and module by module how far their directions are the same.

    Raises:
        InputError: There is one, or one of them is no product of factors (IA3, DoRA), so that there is nothing to compare.

    Example:
        >>> from modelwright.adapters import overlap
        >>> overlap(["style", "subject"]).between(0, 1).cosine  # doctest: +SKIP
    """
    read = [each if isinstance(each, Adapter) else open_adapter(user_path(each)) for each in adapters]
    if len(read) < 2:
        raise InputError("an overlap is of at least two adapters")
    products = [{name: _product(each, module) for name, module in each.modules.items()} for each in read]
    norms = [{name: product_norm(product) for name, product in each.items()} for each in products]
    whole = [math.sqrt(sum(norm**2 for norm in each.values())) for each in norms]
    pairs: dict[tuple[int, int], PairOverlap] = {}
    for i, j in combinations(range(len(read)), 2):
        shared = [name for name in products[i] if name in products[j]]
        for name in shared:
            _check_shapes(name, products[i][name], products[j][name])
        found = tuple(_of_module(name, products[i][name], products[j][name]) for name in shared)
        dot = sum(module.dot for module in found)
        pairs[(i, j)] = PairOverlap(dot / (whole[i] * whole[j]) if whole[i] and whole[j] else 0.0, found)
    return Overlap(tuple(each.label for each in read), pairs)


def _product(adapter: Adapter, module: AdaptedModule) -> Product:
    if not module.linear:
        raise InputError(
            f"{adapter.label}: what it adds to '{module.module}' depends on the base",
            "Overlap is of LoRA, LoHa and LoKr.",
        )
    if module.rank is not None:
        return module.factors()
    u, s, vt = np.linalg.svd(module.delta().astype(np.float64), full_matrices=False)
    return u * s, vt


def _check_shapes(name: str, one: Product, other: Product) -> None:
    shapes = [(up.shape[0], down.shape[1]) for up, down in (one, other)]
    if shapes[0] != shapes[1]:
        raise InputError(f"the adapters differ in the shape of '{name}': {list(shapes[0])} and {list(shapes[1])}")


def _of_module(name: str, one: Product, other: Product) -> ModuleOverlap:
    norms = product_norm(one), product_norm(other)
    dot = product_dot(one, other)
    (u1, v1), (u2, v2) = _directions(one), _directions(other)
    cosine = dot / (norms[0] * norms[1]) if norms[0] and norms[1] else 0.0
    return ModuleOverlap(name, cosine, _shared(u1, u2), _shared(v1, v2), dot, norms)


def _directions(product: Product) -> tuple[NumpyArray, NumpyArray]:
    """Orthonormal columns that span what the product reaches, and what it looks at."""
    u, s, vt = product_svd(product)
    held = s > 1e-7 * s[0] if s.size and s[0] > 0 else np.zeros(s.shape, bool)
    return u[:, held], vt[held].T


def _shared(one: NumpyArray, other: NumpyArray) -> float:
    least = min(one.shape[1], other.shape[1])
    return float(np.sum((one.T @ other) ** 2) / least) if least else 0.0
