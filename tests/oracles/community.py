"""The community's methods once more: float64, plain loops, from their descriptions, sharing no code with src."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from .truth import Flat, angle, by_size, elected, flat, rows, sign, summed, task_vectors, with_l1_norm_of


def sce(models: Sequence[Any], base: Any, share: float, floor: float) -> Flat:
    taus = task_vectors(models, base)
    if share < 1:
        spread = [statistics.pvariance(column) for column in zip(*taus, strict=True)]
        chosen = by_size(spread, range(len(spread)))[: int(share * sum(v > 0 for v in spread))]
        taus = [[x if i in set(chosen) else 0.0 for i, x in enumerate(tau)] for tau in taus]
    energy = [math.fsum(x * x for x in tau) / max(1, len(tau)) for tau in taus]
    total = math.fsum(energy)
    weights = [e / total for e in energy] if total >= floor and total > 0 else [1 / len(taus)] * len(taus)
    result = flat(base)
    for i, s in enumerate(elected(taus, "sum", "positive")):
        agreeing = [(w, tau[i]) for w, tau in zip(weights, taus, strict=True) if sign(tau[i]) == s]
        divisor = max(1e-6, math.fsum(w for w, _ in agreeing))
        result[i] += math.fsum(w * x for w, x in agreeing) / divisor
    return result


def nearswap(model: Any, base: Any, t: float) -> Flat:
    """As an interpolation, the way the community writes it."""
    result: Flat = []
    for m, b in zip(flat(model), flat(base), strict=True):
        share = 1.0 if m == b else min(1.0, t / abs(m - b))
        result.append(share * m + (1 - share) * b)
    return result


def multislerp(vectors: list[Flat], weights: Sequence[float], normalize: bool) -> Flat:
    """By way of the tangent space at the weighted mean, as its inventor describes it."""
    if normalize:
        weights = [w / math.fsum(weights) for w in weights]
    units = [[x / math.hypot(*vector) for x in vector] for vector in vectors]
    mean = [math.fsum(w * x for w, x in zip(weights, column, strict=True)) for column in zip(*units, strict=True)]
    centre = [x / math.hypot(*mean) for x in mean]
    tangent = [0.0] * len(centre)
    for w, unit in zip(weights, units, strict=True):
        along = math.fsum(x * y for x, y in zip(unit, centre, strict=True))
        tangent = [t + w * (x - along * y) for t, x, y in zip(tangent, unit, centre, strict=True)]
    size = math.hypot(*tangent) or 1e-300
    radius = math.fsum(w * math.hypot(*vector) for w, vector in zip(weights, vectors, strict=True))
    steps = zip(centre, tangent, strict=True)
    return [radius * (math.cos(size) * c + math.sin(size) / size * t) for c, t in steps]


def pull(centre: Flat, units: list[Flat]) -> Flat:
    """The mean of the logarithms of unit vectors at a unit vector."""
    result = [0.0] * len(centre)
    for unit in units:
        theta = angle(unit, centre)
        if theta == 0:
            continue
        side = [x - math.cos(theta) * c for x, c in zip(unit, centre, strict=True)]
        result = [r + theta / math.sin(theta) * x / len(units) for r, x in zip(result, side, strict=True)]
    return result


def karcher(vectors: list[Flat], steps: int) -> Flat:
    """So many steps of the iteration, on the vectors themselves."""
    units = [[x / math.hypot(*vector) for x in vector] for vector in vectors]
    centre = [math.fsum(column) for column in zip(*units, strict=True)]
    centre = [x / math.hypot(*centre) for x in centre]
    for _ in range(steps):
        step = pull(centre, units)
        size = math.hypot(*step)
        if size == 0:
            break
        centre = [math.cos(size) * c + math.sin(size) / size * s for c, s in zip(centre, step, strict=True)]
    radius = math.fsum(math.hypot(*vector) for vector in vectors) / len(vectors)
    return [radius * x for x in centre]


def ram(models: Sequence[Any], base: Any, epsilon: float, r: float, alpha: float) -> Flat:
    taus, result = task_vectors(models, base), flat(base)
    owners = [[m for m, tau in enumerate(taus) if abs(tau[i]) > epsilon] for i in range(len(result))]
    for i, who in enumerate(owners):
        if len(who) == 1:
            (m,) = who
            shared = sum(m in others and len(others) > 1 for others in owners)
            unique = sum(others == [m] for others in owners)
            result[i] += (1 + r * min(shared / unique, alpha)) * taus[m][i]
        elif who:
            result[i] += math.fsum(taus[m][i] for m in who) / len(who)
    return result


def arcee_fusion(model: Any, base: Any) -> Flat:
    theta, start, importance = flat(model), flat(base), [0.0] * len(flat(base))
    for row in rows(base.shape):
        p, q = ([math.exp(values[i] - max(values[j] for j in row)) for i in row] for values in (theta, start))
        p, q = ([x / math.fsum(values) + 1e-8 for x in values] for values in (p, q))
        divergence = math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        for i in row:
            importance[i] = abs(theta[i] - start[i]) * divergence
    rising = sorted(importance)
    first, median, third = (rising[int(share * (len(rising) - 1))] for share in (0.25, 0.5, 0.75))
    return [t if x >= median + 1.5 * (third - first) else b for t, b, x in zip(theta, start, importance, strict=True)]


def della_probabilities(tau: Flat, shape: tuple[int, ...], density: float, epsilon: float) -> Flat:
    result = [density] * len(tau)
    for row in rows(shape):
        for rank, i in enumerate(reversed(by_size(tau, row))):
            if len(row) > 1:
                result[i] = density - epsilon + 2 * epsilon * rank / (len(row) - 1)
    return result


def della(models: Sequence[Any], base: Any, masks: Sequence[Any], p: dict[str, Any], elect: bool) -> Flat:
    taus = []
    for tau, mask, density, epsilon in zip(task_vectors(models, base), masks, p["density"], p["epsilon"], strict=True):
        kept = [x if m else 0.0 for x, m in zip(tau, mask.reshape(-1), strict=True)]
        if density >= 1:
            kept = tau
        elif density <= 0:
            kept = [0.0] * len(tau)
        elif p["rescale"] == "expectation":
            shares = della_probabilities(tau, base.shape, density, epsilon)
            kept = [x / share for x, share in zip(kept, shares, strict=True)]
        elif p["rescale"]:
            kept = with_l1_norm_of(tau, kept)
        taus.append(kept)
    return summed(base, taus, p, elect)
