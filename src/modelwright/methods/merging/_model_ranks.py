"""Order statistics over the whole model, exact, in two streaming passes each.

Values are ranked in float32, whose bit patterns sort like the values once those of negative numbers are flipped. One pass
counts the upper 16 bits, a second the lower 16 within the buckets that hold the wanted ranks. Counts add up over tensors,
so the result does not depend on how they are dealt to threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.methods._method import PerTensor, Round
from modelwright.tensors import Array, keep_above, namespace, to_numpy

_BUCKETS = 1 << 16
_SIGN = np.uint32(1 << 31)

#: (models, base, parameters, facts) -> for each model the values that are ranked, of any shape.
Values = Callable[[Sequence[Array], Array, Mapping[str, Any], Mapping[str, Any]], Sequence[Array]]
#: (number of values, parameters, model) -> the wanted ranks of that model's values, 0 being the smallest.
Ranks = Callable[[int, Mapping[str, Any], int], Sequence[int]]


def order_statistics(fact: str, label: str, values: Values, ranks: Ranks, uniform: tuple[str, ...]) -> list[Round]:
    """Two rounds that find `facts[fact]`: for each model the values of the wanted ranks; of nothing, zeros.

    Args:
        fact: The name of what is found.
        label: What the user sees in the progress bar.
        values: What is ranked.
        ranks: Which ranks are wanted.
        uniform: Parameters that must have one value for all tensors.
    """
    place = f"{fact}, buckets"

    def upper(models: Sequence[Array], base: Array, p: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
        keys = [sortable(x) >> 16 for x in values(models, base, p, facts)]
        return np.stack([np.bincount(key, minlength=_BUCKETS) for key in keys])

    def find_buckets(counts: Any, p: Mapping[str, Any], _facts: Mapping[str, Any]) -> dict[str, Any]:
        size = int(counts[0].sum())
        return {place: [[_place(row, k) for k in ranks(size, p, i)] if size else None for i, row in enumerate(counts)]}

    def lower(models: Sequence[Array], base: Array, p: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
        rows: list[Any] = []
        for x, buckets in zip(values(models, base, p, facts), facts[place], strict=True):
            key = sortable(x)
            wanted = [bucket for bucket, _ in buckets or ()]
            rows += [np.bincount(key[key >> 16 == bucket] & 0xFFFF, minlength=_BUCKETS) for bucket in wanted]
        return np.stack(rows) if rows else np.zeros((1, _BUCKETS), np.int64)

    def find_values(counts: Any, p: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
        rows, found = iter(counts), list[list[float]]()
        for i, buckets in enumerate(facts[place]):
            if buckets is None:  # the model has no element
                found.append([0.0] * len(ranks(1, p, i)))
            else:
                found.append([_value((bucket << 16) | _place(next(rows), rest)[0]) for bucket, rest in buckets])
        return {fact: found}

    return [
        Round(f"{label}, upper bits", upper, find_buckets, uniform),
        Round(f"{label}, lower bits", lower, find_values, uniform),
    ]


def magnitude_edges(
    fact: str, wanted: Callable[[int, Mapping[str, Any], int], tuple[int, int] | None], uniform: tuple[str, ...]
) -> list[Round]:
    """Rounds that find what `between` takes, to keep the entries of task vectors that have a rank over the whole model.

    Args:
        fact: The name of what is found: for each model None (all are kept), or the edges.
        wanted: (number of entries, parameters, model) -> descending ranks [start, stop) that are kept, or None for all.
        uniform: Parameters that must have one value for all tensors.
    """
    found = f"{fact}, values"

    def ends(size: int, p: Mapping[str, Any], model: int) -> list[int]:
        """How many entries reach each edge: the last one that is kept, and the last one above."""
        ranks = wanted(size, p, model)
        return [] if ranks is None or ranks[1] <= ranks[0] else [min(ranks[1], size), *([ranks[0]] if ranks[0] else [])]

    def magnitudes(models: Sequence[Array], base: Array, _p: Any, _facts: Any) -> Sequence[Array]:
        return [namespace(base).abs(model - base) for model in models]

    def count(models: Sequence[Array], base: Array, _p: Any, facts: Mapping[str, Any]) -> Any:
        rows: list[Any] = []
        for model, values in zip(models, facts[found], strict=True):
            size = to_numpy(namespace(base).abs(model - base)).astype(np.float32)
            rows.append(
                [(np.count_nonzero(size > np.float32(v)), np.count_nonzero(size == np.float32(v))) for v in values]
            )
        return rows, int(np.size(to_numpy(base)))

    def deal(counts: Mapping[str, Any], p: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
        total = sum(size for _, size in counts.values())
        spare = [
            [end - sum(rows[i][e][0] for rows, _ in counts.values()) for e, end in enumerate(ends(total, p, i))]
            for i in range(len(facts[found]))
        ]
        edges = PerTensor()
        for name, (rows, _) in counts.items():  # ties go to the first tensors
            edges[name] = [None if wanted(total, p, i) is None else [] for i in range(len(spare))]
            for i, row in enumerate(rows):
                for e, (_, equal) in enumerate(row):
                    here = min(spare[i][e], equal)
                    spare[i][e] -= here
                    edges[name][i].append((facts[found][i][e], here))
        return {fact: edges}

    return [
        *order_statistics(found, "threshold", magnitudes, lambda n, p, i: [n - end for end in ends(n, p, i)], uniform),
        Round("ties at the threshold", count, deal, uniform, fold="list"),
    ]


def between(delta: Array, edges: Sequence[tuple[float, int]]) -> Array:
    """Which entries of a task vector lie between the edges that `magnitude_edges` found; without edges, none."""
    xp = namespace(delta)
    magnitude = xp.astype(xp.abs(delta), xp.float32)
    reached = [keep_above(magnitude, threshold, ties) for threshold, ties in edges]
    if not reached:
        return magnitude < 0
    return reached[0] if len(reached) == 1 else reached[0] & ~reached[1]


def sortable(x: Array) -> Any:
    """Unsigned integers that sort like the values do in float32, flat."""
    bits = to_numpy(x).astype(np.float32).reshape(-1).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _value(key: int) -> float:
    bits = key & ~int(_SIGN) if key & int(_SIGN) else ~key & 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))


def _place(counts: Any, rank: int) -> tuple[int, int]:
    """The bucket that holds a rank, and the rank within it."""
    below = np.cumsum(counts)
    bucket = int(np.searchsorted(below, rank, side="right"))
    return bucket, rank - int(below[bucket - 1] if bucket else 0)
