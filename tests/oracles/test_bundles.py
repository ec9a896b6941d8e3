"""Methods whose outcome is a bundle, against their formulas on whole models, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.methods import METHODS

SHAPES = {"a.weight": (7, 5), "a.bias": (7,), "kernel": (4, 3, 2, 2), "scalar": (), "none": (0, 3)}
BUNDLING = sorted(name for name, record in METHODS.items() if record.parts is not None)
Arrays = dict[str, Any]


def tuned(count: int, seed: int = 0) -> tuple[list[Arrays], Arrays]:
    """Experts and their base in float64; some entries were not tuned."""
    rng = np.random.default_rng(seed)
    base = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    experts = [
        {n: v + rng.standard_normal(v.shape) * (rng.uniform(size=v.shape) < 0.8) for n, v in base.items()}
        for _ in range(count)
    ]
    return experts, base


def flat(model: Arrays) -> Any:
    return np.concatenate([np.ravel(model[name]) for name in SHAPES])


def agrees(found: Any, expected: Any, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-12)


def models(experts: list[Arrays], base: Arrays, method: str, **parameters: Any) -> list[Any]:
    """The tasks' models, each laid end to end."""
    bundle = mw.merge(experts, base=base, method=method, **parameters)
    return [flat(bundle.task(name).arrays()) for name in bundle.tasks]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_emr(count: int) -> None:
    experts, base = tuned(count)
    deltas = [flat(expert) - flat(base) for expert in experts]
    unified = np.zeros_like(deltas[0])
    for j in range(unified.size):
        sign = np.sign(sum(delta[j] for delta in deltas))
        unified[j] = sign * max([abs(delta[j]) for delta in deltas if delta[j] * sign > 0], default=0.0)
    agrees(flat(mw.merge(experts, base=base, method="emr").shared.arrays()), flat(base) + unified)
    for delta, found in zip(deltas, models(experts, base, "emr"), strict=True):
        mask = delta * unified > 0
        scale = np.abs(delta).sum() / np.abs(unified[mask]).sum()
        agrees(found, flat(base) + scale * mask * unified)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_tall_mask(count: int) -> None:
    experts, base = tuned(count)
    strict = [0.2 + 0.1 * i for i in range(count)]
    deltas = [flat(expert) - flat(base) for expert in experts]
    total = 0.7 * sum(deltas)
    for delta, factor, found in zip(
        deltas, strict, models(experts, base, "tall_mask", strictness=strict, lambda_=0.7), strict=True
    ):
        mask = np.abs(delta) > factor * np.abs(total - delta)
        agrees(found, flat(base) + mask * total)


@pytest.mark.parametrize("settings", [{"density": 0.4}, {"rank": 2}, {"rank": 99}, {"density": 1e-9}])
def test_twin_merging(settings: dict[str, Any]) -> None:
    experts, base = tuned(3)
    bundle = mw.merge(experts, base=base, method="twin_merging", lambda_=0.5, **settings)
    for name, expert in zip(bundle.tasks, experts, strict=True):
        found = bundle.task(name).arrays()
        for tensor, shape in SHAPES.items():
            shared = base[tensor] + 0.5 * sum(one[tensor] - base[tensor] for one in experts)
            if len(shape) < 2 or 0 in shape:
                agrees(found[tensor], expert[tensor])
                continue
            matrix = (expert[tensor] - shared).reshape(shape[0], -1)
            u, s, vt = np.linalg.svd(matrix, full_matrices=False)
            count = max(1, min(len(s), settings.get("rank") or int(settings.get("density", 0.1) * len(s))))
            if count * sum(matrix.shape) >= matrix.size:
                agrees(found[tensor], expert[tensor])
                continue
            agrees(
                found[tensor].reshape(matrix.shape),
                shared.reshape(matrix.shape) + (u[:, :count] * s[:count]) @ vt[:count],
                1e-9,
            )
            lost = np.linalg.norm(
                found[tensor] - expert[tensor]
            )  # Eckart and Young: what is lost are the values left out
            np.testing.assert_allclose(lost, np.linalg.norm(s[count:]), rtol=1e-9)


def test_twin_merging_closes_the_gap_with_rank_and_mixes_by_weights() -> None:
    experts, base = tuned(3)
    gaps: list[float] = []
    for rank in (1, 2, 3, 5):
        found = models(experts, base, "twin_merging", rank=rank)
        gaps.append(sum(np.linalg.norm(one - flat(expert)) for one, expert in zip(found, experts, strict=True)))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] == 0
    bundle = mw.merge(experts, base=base, method="twin_merging", density=1.0)
    a, b, _ = bundle.tasks
    shared = flat(bundle.shared.arrays())
    mixed = flat(bundle.task({a: 0.7, b: 0.3}).arrays())
    agrees(mixed, shared + 0.7 * (flat(experts[0]) - shared) + 0.3 * (flat(experts[1]) - shared))
    agrees(flat(bundle.task({a: 0.0}).arrays()), shared)


@pytest.mark.parametrize("method", BUNDLING)
def test_one_expert_comes_back(method: str) -> None:
    (expert,), base = tuned(1)
    settings = {"density": 1.0} if method == "twin_merging" else {}
    (found,) = models([expert], base, method, **settings)
    agrees(found, flat(expert))


@pytest.mark.parametrize("method", BUNDLING)
def test_equal_experts_come_back_whatever_task_is_told(method: str) -> None:
    (expert,), base = tuned(1)
    settings = {"density": 1.0} if method == "twin_merging" else {}
    if method == "tall_mask":
        settings = {"lambda_": 1 / 3}
    for found in models([dict(expert) for _ in range(3)], base, method, **settings):
        agrees(found, flat(expert))


@pytest.mark.parametrize("method", BUNDLING)
def test_the_order_of_experts_changes_nothing(method: str) -> None:
    experts, base = tuned(3)
    ahead, back = models(experts, base, method), models(experts[::-1], base, method)
    for one, other in zip(ahead, back[::-1], strict=True):
        agrees(one, other, 1e-9)


@pytest.mark.parametrize("method", BUNDLING)
def test_base_models_give_the_base(method: str) -> None:
    _, base = tuned(1)
    for found in models([dict(base), dict(base)], base, method):
        agrees(found, flat(base))
