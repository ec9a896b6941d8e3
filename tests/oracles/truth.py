"""The methods once more, slow and obvious: float64, plain loops, from the papers' text, sharing no code with src.

Tensors are numpy float64 arrays; task vectors, masks and results are flat lists in row-major order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Flat = list[float]


def flat(array: Any) -> Flat:
    return [float(x) for x in np.asarray(array, dtype=np.float64).reshape(-1)]


def rows(shape: tuple[int, ...]) -> list[list[int]]:
    """Flat indices of each vector along the last axis."""
    size = math.prod(shape)
    if not shape or not size:
        return [list(range(size))]
    return [list(range(start, start + shape[-1])) for start in range(0, size, shape[-1])]


def by_size(values: Flat, among: Iterable[int]) -> list[int]:
    """Indices by falling magnitude, equal ones by rising index."""
    return sorted(among, key=lambda i: (-abs(values[i]), i))


def task_vectors(models: Sequence[Any], base: Any) -> list[Flat]:
    return [[m - b for m, b in zip(flat(model), flat(base), strict=True)] for model in models]


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def with_l1_norm_of(whole: Flat, kept: Flat) -> Flat:
    before, after = math.fsum(map(abs, whole)), math.fsum(map(abs, kept))
    return [x * before / after for x in kept] if min(before, after) >= 1e-7 else kept


def linear(models: Sequence[Any], weight: Sequence[float], normalize: bool) -> Flat:
    divisor = math.fsum(weight) if normalize else 1.0
    return [
        math.fsum(w * x for w, x in zip(weight, column, strict=True)) / divisor
        for column in zip(*map(flat, models), strict=True)
    ]


def added(base: Any, taus: list[Flat], weight: Sequence[float], normalize: bool, lambda_: float) -> Flat:
    """The base plus lambda times the weighted sum of the task vectors."""
    divisor = math.fsum(weight) if normalize else 1.0
    return [
        b + lambda_ * math.fsum(w * tau[i] for w, tau in zip(weight, taus, strict=True)) / divisor
        for i, b in enumerate(flat(base))
    ]


def ties_trim(tau: Flat, groups: list[list[int]], density: float, count: str) -> Flat:
    """Step 1: the largest entries of each group stay."""
    if density >= 1:
        return tau
    kept: set[int] = set()
    for group in groups if density > 0 else []:
        n = len(group)
        if not n:
            continue
        if count == "official":  # the (n - int(n K))-th smallest is the threshold, and what reaches it stays
            rising = sorted(abs(tau[i]) for i in group)
            threshold = rising[n - int(n * density) - 1]
            kept |= {i for i in group if abs(tau[i]) >= threshold}
        else:
            kept |= set(by_size(tau, group)[: max(1, int(density * n))])
    return [x if i in kept else 0.0 for i, x in enumerate(tau)]


def elected(taus: list[Flat], sign_method: str, zero_sign: str) -> list[int]:
    """Step 2: one sign per element."""
    votes = taus if sign_method == "sum" else [[sign(x) for x in tau] for tau in taus]
    signs = [sign(sum(column)) for column in zip(*votes, strict=True)]
    even = 1 if zero_sign == "positive" or sum(signs) > 0 else -1
    return [s or even for s in signs]


def disjoint(
    taus: list[Flat], signs: list[int], weight: Sequence[float], normalize: bool, merge_func: str = "mean"
) -> Flat:
    """Step 3: entries with the elected sign are joined. The task vectors are weighted already."""
    result: Flat = []
    for i, s in enumerate(signs):
        agreeing = [(tau[i], w) for tau, w in zip(taus, weight, strict=True) if tau[i] != 0 and sign(tau[i]) == s]
        if merge_func == "max":
            result.append(s * max((abs(x) for x, _ in agreeing), default=0.0))
            continue
        total, divisor = sum(x for x, _ in agreeing), sum(w for _, w in agreeing)
        result.append(total / divisor if normalize and merge_func == "mean" and divisor else total)
    return result


def ties(models: Sequence[Any], base: Any, p: dict[str, Any], groups: list[list[int]]) -> Flat:
    taus = []
    for tau, density, w in zip(task_vectors(models, base), p["density"], p["weight"], strict=True):
        kept = ties_trim(tau, groups, density, p["count"])
        if p["rescale"] and density < 1:
            kept = with_l1_norm_of(tau, kept)
        taus.append([w * x for x in kept])
    signs = elected(taus, p["sign_method"], p["zero_sign"])
    merged = disjoint(taus, signs, p["weight"], p["normalize"], p["merge_func"])
    return [b + p["lambda"] * m for b, m in zip(flat(base), merged, strict=True)]


def breadcrumbs_middle(tau: Flat, shape: tuple[int, ...], p: dict[str, Any], density: float, gamma: float) -> Flat:
    """Without the largest int(gamma n) and, of what is left, all but the largest int(density n)."""
    if density >= 1 and p["order"] == "remove_first":
        return tau
    kept: set[int] = set()
    for group in rows(shape) if p["scope"] == "row" else [list(range(len(tau)))]:
        order, n = by_size(tau, group), len(group)
        if p["order"] == "keep_first":
            kept |= set(order[: int(density * n)]) - set(order[: int(gamma * n)])
            continue
        outliers, middle = int(gamma * n), int(density * n)
        while outliers + middle > n:  # density has precedence
            outliers -= 1
        kept |= set(order[outliers : outliers + middle])
    result = [x if i in kept else 0.0 for i, x in enumerate(tau)]
    return with_l1_norm_of(tau, result) if p["rescale"] else result


def breadcrumbs(models: Sequence[Any], base: Any, p: dict[str, Any], elect: bool) -> Flat:
    taus = [
        breadcrumbs_middle(tau, np.shape(base), p, density, gamma)
        for tau, density, gamma in zip(task_vectors(models, base), p["density"], p["gamma"], strict=True)
    ]
    return summed(base, taus, p, elect)


def dare(models: Sequence[Any], base: Any, masks: Sequence[Any], p: dict[str, Any], elect: bool) -> Flat:
    taus = []
    for tau, mask, density in zip(task_vectors(models, base), masks, p["density"], strict=True):
        kept = [x if m else 0.0 for x, m in zip(tau, mask.reshape(-1), strict=True)]
        if density >= 1:
            kept = tau
        elif p["rescale"] == "expectation":
            kept = [x / density for x in kept] if density > 0 else kept
        elif p["rescale"] == "l2":
            before, after = math.sqrt(math.fsum(x * x for x in tau)), math.sqrt(math.fsum(x * x for x in kept))
            kept = [x * before / after for x in kept] if min(before, after) >= 1e-7 else kept
        elif p["rescale"]:
            kept = with_l1_norm_of(tau, kept)
        taus.append(kept)
    return summed(base, taus, p, elect)


def summed(base: Any, taus: list[Flat], p: dict[str, Any], elect: bool) -> Flat:
    """The last step that breadcrumbs and DARE share: a plain sum, or TIES' election and sum."""
    if not elect:
        return added(base, taus, p["weight"], p["normalize"], p["lambda"])
    weighted = [[w * x for x in tau] for w, tau in zip(p["weight"], taus, strict=True)]
    merged = disjoint(weighted, elected(weighted, "sum", "positive"), p["weight"], p["normalize"])
    return [b + p["lambda"] * m for b, m in zip(flat(base), merged, strict=True)]


def angle(a: Flat, b: Flat) -> float:
    """From the lengths of the sum and the difference of the unit vectors, which is exact at every angle."""
    na, nb = math.hypot(*a), math.hypot(*b)
    plus = math.hypot(*(x / na + y / nb for x, y in zip(a, b, strict=True)))
    minus = math.hypot(*(x / na - y / nb for x, y in zip(a, b, strict=True)))
    return 2 * math.atan2(minus, plus)


def arc(a: Flat, b: Flat, t: float) -> Flat:
    """Shoemake's formula."""
    theta = angle(a, b)
    one, two = math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)
    return [one * x + two * y for x, y in zip(a, b, strict=True)]


def nuslerp(a: Any, b: Any, t: float, axis: int | None) -> Any:
    """Arcs of the whole (axis None) or of every vector along an axis."""
    if axis is None or a.ndim < 2:
        return np.array(arc(flat(a), flat(b), t)).reshape(a.shape)
    result = np.empty(a.shape)
    others = [range(n) for i, n in enumerate(a.shape) if i != axis % a.ndim]
    for place in itertools.product(*others):
        index: list[Any] = list(place)
        index.insert(axis % a.ndim, slice(None))
        result[tuple(index)] = arc(flat(a[tuple(index)]), flat(b[tuple(index)]), t)
    return result


def model_stock(models: Sequence[Any], base: Any, filter_wise: bool) -> Flat:
    """t = N cos / (1 + (N - 1) cos) for each group of elements."""
    result, taus, start = flat(base), task_vectors(models, base), flat(base)
    by_row = filter_wise and np.ndim(base) >= 2
    for group in rows(np.shape(base)) if by_row else [list(range(len(start)))]:
        cosines = [
            math.fsum(a[i] * b[i] for i in group)
            / (math.hypot(*(a[i] for i in group)) * math.hypot(*(b[i] for i in group)))
            for a, b in itertools.combinations(taus, 2)
        ]
        cosine, n = math.fsum(cosines) / len(cosines), len(taus)
        t = n * cosine / (1 + (n - 1) * cosine)
        for i in group:
            average = math.fsum(flat(model)[i] for model in models) / n
            result[i] = t * average + (1 - t) * start[i]
    return result
