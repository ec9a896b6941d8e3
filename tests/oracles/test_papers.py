"""Methods of single papers against their formulas, element by element, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import modelwright as mw
from modelwright.errors import InputError
from modelwright.methods import METHODS, PerTensor, Position, merging
from modelwright.tensors import NoiseKey

from . import truth

QUICK = settings(max_examples=60, deadline=None)


def tuned(count: int, size: int, seed: int = 0, coarse: bool = False) -> tuple[list[Any], Any, list[Any]]:
    """Models, their base and their task vectors; coarse ones have equal magnitudes and zeros."""
    rng = np.random.default_rng(seed)
    base = np.round(rng.standard_normal(size), 2)
    deltas = [rng.standard_normal(size) for _ in range(count)]
    if coarse:
        base, deltas = np.round(base), [np.round(delta) for delta in deltas]
    return [base + delta for delta in deltas], base, deltas


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


# --- PCB -------------------------------------------------------------------------------------------------------------


def limited(values: list[float], low: int, high: int) -> list[float]:
    """Cut to the values at two places of the sorted list."""
    rising = sorted(values)
    return [min(max(x, rising[low]), rising[high]) for x in values]


def unit(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(x - low) / (high - low) if high > low else 0.0 for x in values]


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def pcb_shares(deltas: list[list[float]], density: float, clip: float, balance: str) -> tuple[list[Any], list[Any]]:
    """The cut task vectors and the scores in [0, 1], as the official scripts have them."""
    n, d = len(deltas), len(deltas[0])
    low = int(d * clip)
    cut = [limited([abs(x) for x in delta], low, max(low, int(d * (1 - clip) - 1))) for delta in deltas]
    sizes = [unit(a) for a in cut]
    scores = []
    for i, delta in enumerate(deltas):
        row = []
        for e, x in enumerate(delta):
            if balance == "sum":
                inter = math.tanh(x * sum(other[e] for other in deltas))
            elif balance == "signs":
                inter = math.tanh(x * sum(sign(deltas[j][e]) * sizes[j][e] for j in range(n)))
            else:
                own = sign(x) * sizes[i][e]
                inter = sum(math.tanh(own * sign(deltas[j][e]) * sizes[j][e]) for j in range(n))
            row.append(math.exp(n * sizes[i][e] ** 2) * inter)
        scores.append(unit(limited(row, min(int(d * (1 - density)), d - 1), d - 1)))
    return [
        [sign(x) * a for x, a in zip(delta, row, strict=True)] for delta, row in zip(deltas, cut, strict=True)
    ], scores


def pcb(base: Any, deltas: Any, p: dict[str, Any]) -> list[float]:
    rows = [[float(x) for x in delta] for delta in deltas]
    cut, shares = pcb_shares(rows, p["density"], p["clip"], p["balance"])
    merged = []
    for e, b in enumerate(base):
        top = sum(w * c[e] * s[e] for w, c, s in zip(p["weight"], cut, shares, strict=True))
        merged.append(b + p["lambda_"] * top / max(sum(s[e] for s in shares), 1e-12))
    return merged


@QUICK
@given(
    count=st.integers(1, 4), size=st.sampled_from([1, 2, 3, 7, 40]), seed=st.integers(0, 99), coarse=st.booleans(),
    density=st.sampled_from([0.05, 0.3, 0.5, 1.0]), clip=st.sampled_from([0.0, 0.01, 0.2]),
    balance=st.sampled_from(["sum", "signs", "pairs"]), scope=st.sampled_from(["model", "tensor"]),
)  # fmt: skip
def test_pcb(
    count: int, size: int, seed: int, coarse: bool, density: float, clip: float, balance: Any, scope: Any
) -> None:
    models, base, deltas = tuned(count, size, seed, coarse)
    p = {"weight": [1.0, 0.5, 2.0, 1.5][:count], "density": density, "clip": clip, "balance": balance, "lambda_": 0.8}
    close(merging.pcb(models, base=base, scope=scope, **p), pcb(base, deltas, p))


SHAPES = {"embed": (6, 5), "norm": (5,), "empty": (0, 4), "scalar": (), "conv": (2, 3, 2), "head": (3, 5)}


def joined(tensors: dict[str, Any]) -> Any:
    return np.concatenate([np.reshape(tensors[name], -1) for name in SHAPES]).astype(np.float64)


def share_of(facts: Any, name: str) -> dict[str, Any]:
    return {key: value[name] if isinstance(value, PerTensor) else value for key, value in facts.items()}


def by_rounds(method: str, models: list[dict[str, Any]], base: dict[str, Any], p: dict[str, Any]) -> Any:
    """The whole model, tensor by tensor, as the engine does it; sums are taken from the last tensor to the first."""
    record, facts = METHODS[method], dict[str, Any]()
    for step in record.rounds(p):
        found = {n: step.collect([m[n] for m in models], base[n], p, share_of(facts, n)) for n in SHAPES}
        facts |= step.reduce(sum(reversed(list(found.values()))) if step.fold == "sum" else found, p, facts)
    merged = {n: record.run([m[n] for m in models], base[n], p, NoiseKey(), share_of(facts, n)) for n in SHAPES}
    return joined(merged)


def whole_models(count: int, seed: int, step: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Named float32 tensors on a grid, so that magnitudes tie within and across tensors."""
    rng = np.random.default_rng(seed)
    grid = [
        {n: np.asarray(np.round(rng.standard_normal(s) / step) * step, np.float32) for n, s in SHAPES.items()}
        for _ in range(count + 1)
    ]
    return grid[:-1], grid[-1]


@pytest.mark.parametrize("balance", ["sum", "signs", "pairs"])
@pytest.mark.parametrize("step", [0.5, 2.0**-12])
@pytest.mark.parametrize("seed", range(3))
def test_pcb_competes_over_the_whole_model(seed: int, step: float, balance: str) -> None:
    models, base = whole_models(3, seed, step)
    for tensors in (*models, base):  # so small that no hyperbolic tangent is 1 in float32
        tensors |= {name: tensor / np.float32(16) for name, tensor in tensors.items()}
    p = {"weight": (1.0, 0.5, 2.0), "density": 0.2, "lambda": 0.8, "clip": 0.05, "balance": balance, "scope": "model"}
    found = by_rounds("pcb", models, base, p)
    whole = joined(base)
    deltas = [joined(model) - whole for model in models]
    expected = pcb(whole, deltas, {**p, "lambda_": 0.8})
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    assert np.abs(found - whole).max() > 0.05


def test_pcb_in_the_known_cases() -> None:
    models, base, deltas = tuned(1, 400)
    found = merging.pcb(models * 3, base=base, density=0.25, lambda_=1.0, clip=0.0) - base
    kept = found != 0
    assert int(kept.sum()) == 99  # the entry at the quantile itself loses
    close(found[kept], deltas[0][kept])  # equal tasks have equal shares
    assert np.abs(deltas[0][kept]).min() > np.abs(deltas[0][~kept]).max()


def test_pcb_recovers_what_its_card_says() -> None:
    """Eight tasks of disjoint signals in noise: the figures that were measured with the official formulas."""
    rng = np.random.default_rng(0)
    size, support = 20_000, 1_000
    signals = np.zeros((8, size))
    for signal, place in zip(signals, rng.permutation(size)[: 8 * support].reshape(8, support), strict=True):
        signal[place] = rng.uniform(1, 1.2, support) * rng.choice([-1, 1], support)
    taus = signals + rng.normal(0, 0.05, signals.shape)
    for density, rms in ((0.05, 0.0), (0.1, 0.010)):
        merged = merging.pcb(list(taus), base=np.zeros(size), density=density, lambda_=1.0)
        share = np.mean((signals @ merged) / np.sum(signals**2, axis=1))
        rest = np.sqrt(np.mean(merged[~signals.any(axis=0)] ** 2))
        assert (share, rest) == pytest.approx((0.99, rms), abs=0.02)


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("step", [0.5, 2.0**-12])
@pytest.mark.parametrize("order", ["remove_first", "keep_first"])
@pytest.mark.parametrize("gamma", [(0.0, 0.05, 0.2), (0.3, 0.0, 0.9)])
def test_breadcrumbs_over_the_whole_model(method: str, step: float, order: str, gamma: tuple[float, ...]) -> None:
    """One ranking over all tensors, ties going to the first: as if the model were one tensor."""
    models, base = whole_models(3, 5, step)
    p: dict[str, Any] = {
        "weight": (1.0, 0.5, 2.0), "density": (0.2, 0.45, 1.0), "gamma": gamma, "normalize": False, "lambda": 1.0,
        "rescale": False, "scope": "model", "order": order, "overlap": "clip",
    }  # fmt: skip
    found = by_rounds(method, models, base, p)
    whole = joined(base)
    expected = truth.breadcrumbs([joined(m) for m in models], whole, p | {"scope": "tensor"}, method != "breadcrumbs")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


# --- Consensus, MagMax, LiNeS ------------------------------------------------------------------------------------------


@QUICK
@given(
    count=st.integers(2, 4), seed=st.integers(0, 99), coarse=st.booleans(), least=st.integers(0, 4),
    strictness=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), min_size=4, max_size=4),
)  # fmt: skip
def test_consensus(count: int, seed: int, coarse: bool, least: int, strictness: list[float]) -> None:
    models, base, deltas = tuned(count, 12, seed, coarse)
    weights, strict, least = [1.0, 0.5, 2.0, -1.0][:count], strictness[:count], min(least, count)
    expected = []
    for e, b in enumerate(base):
        column = [float(w * delta[e]) for w, delta in zip(weights, deltas, strict=True)]
        total = sum(column)
        votes = sum(abs(x) > s * abs(total - x) for x, s in zip(column, strict, strict=True))
        expected.append(b + 0.7 * (total if votes >= least else 0.0))
    found = merging.consensus(models, base=base, weight=weights, strictness=strict, least=least, lambda_=0.7)
    close(found, expected)


def test_consensus_in_the_known_cases() -> None:
    models, base, _ = tuned(3, 50)
    arithmetic = merging.task_arithmetic(models, base=base, weight=0.4)
    close(merging.consensus(models, base=base, least=0, lambda_=0.4), arithmetic)
    counts = [np.count_nonzero(merging.consensus(models, base=base, least=k) - base) for k in range(4)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 50 > counts[2] > 0
    with pytest.raises(InputError, match="consensus: least must be at most the number of models, got 4 for 3"):
        merging.consensus(models, base=base, least=4)
    tensors = [{"w": model} for model in models]
    with pytest.raises(InputError, match=r"least must be at most the number of models, got 4 for 3\. No weight can be"):
        mw.merge(tensors, base={"w": base}, method="consensus", least=4).arrays()


@QUICK
@given(count=st.integers(1, 4), seed=st.integers(0, 99), coarse=st.booleans())
def test_magmax(count: int, seed: int, coarse: bool) -> None:
    models, base, deltas = tuned(count, 12, seed, coarse)
    weights = [1.0, 0.5, 2.0, -1.0][:count]
    expected = []
    for e, b in enumerate(base):
        column = [float(w * delta[e]) for w, delta in zip(weights, deltas, strict=True)]
        largest = max(abs(x) for x in column)
        expected.append(b + 0.7 * next(x for x in reversed(column) if abs(x) == largest))
    close(merging.magmax(models, base=base, weight=weights, lambda_=0.7), expected)


@pytest.mark.parametrize("alpha", [None, 0.1, 0.9])
@pytest.mark.parametrize("beta", [None, 0.0, 0.6])
@pytest.mark.parametrize(("number", "count"), [(0, 0), (0, 1), (0, 4), (1, 4), (3, 4)])
def test_lines(alpha: float | None, beta: float | None, number: int, count: int) -> None:
    models, base, deltas = tuned(4, 9)
    low = 0.25 if alpha is None else alpha
    high = low + (1 - low if beta is None else beta)
    scale = low if not count else high if count == 1 else low + (high - low) * number / (count - 1)
    found = merging.lines(models, base=base, alpha=alpha, beta=beta, position=Position("h", number, count))
    close(found, base + scale * np.sum(deltas, axis=0))


def layered(count: int, seed: int, prefix: str = "model.layers.") -> dict[str, Any]:
    """A model of `count` layers with what stands before and after them."""
    rng = np.random.default_rng(seed)
    names = ["model.embed_tokens.weight", *(f"{prefix}{i}.mlp.weight" for i in range(count)), "model.norm.weight"]
    return {name: rng.standard_normal((2, 3)).astype(np.float32) for name in names}


def test_lines_reads_the_depth_from_names() -> None:
    base, one, two = (layered(5, seed) for seed in range(3))
    found = mw.merge([one, two], base=base, method="lines", alpha=0.2, beta=0.4).arrays()
    same = mw.merge([one, two], base=base, method="task_arithmetic", **{"lambda_": [0.2, 0.6]}).arrays()
    for name, merged in found.items():
        layer = int(name.split(".")[2]) if "layers" in name else 0
        expected = base[name] + (0.2 + 0.1 * layer) * (one[name] + two[name] - 2 * base[name])
        np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(merged, same[name], rtol=1e-6, atol=1e-6)


# --- one model against its base, and the checkpoints of a run -----------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_wise_ft(alpha: float) -> None:
    (model,), base, _ = tuned(1, 9)
    close(merging.wise_ft([model], base=base, alpha=alpha), (1 - alpha) * base + alpha * model)


@pytest.mark.parametrize("most", [None, 0.01, 0.5, 100.0])
@pytest.mark.parametrize("lambda_", [0.0, 0.5, 2.0])
def test_negation(lambda_: float, most: float | None) -> None:
    (model,), base, (delta,) = tuned(1, 9)
    change = -lambda_ * delta
    if most is not None and np.linalg.norm(change) > most * np.linalg.norm(base):
        change *= most * np.linalg.norm(base) / np.linalg.norm(change)
    close(merging.negation([model], base=base, lambda_=lambda_, most=most), base + change)


def test_negation_leaves_a_base_of_zeros_where_changes_are_limited() -> None:
    np.testing.assert_array_equal(merging.negation([np.ones(3)], base=np.zeros(3), most=0.1), np.zeros(3))
    np.testing.assert_array_equal(merging.negation([np.zeros(3)], base=np.zeros(3), most=0.1), np.zeros(3))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_swa_is_the_running_mean_of_the_paper(count: int) -> None:
    models, _, _ = tuned(count, 9)
    average = models[0]
    for n, model in enumerate(models[1:], 1):
        average = (average * n + model) / (n + 1)
    close(merging.swa(models), average)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_ema_is_the_recursion(count: int, decay: float) -> None:
    models, _, _ = tuned(count, 9)
    average = models[0]
    for model in models[1:]:
        average = decay * average + (1 - decay) * model
    close(merging.ema(models, decay=decay), average)


# --- sparse soups ------------------------------------------------------------------------------------------------------


def test_a_sparse_soup_is_as_sparse_as_its_models() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((20, 30)) < 0.1
    models = [mask * rng.standard_normal((20, 30)) for _ in range(3)]
    models[0][np.argwhere(mask)[0][0], np.argwhere(mask)[0][1]] = 5.0
    found = merging.sparse_soup(models)
    np.testing.assert_array_equal(found != 0, mask)
    close(found, np.mean(models, axis=0))


def test_a_sparse_soup_refuses_other_masks_or_takes_what_is_common() -> None:
    one, two = np.array([[1.0, 2.0, 0.0, 0.0]]), np.array([[3.0, 0.0, 4.0, 0.0]])
    message = (
        "sparse_soup: models must be zero at the same places; they keep 2, 2 weights, and 1 of them in common. Retrain them "
        "from one pruned model, or set masks: common to prune what one of them lacks."
    )
    with pytest.raises(InputError) as caught:
        merging.sparse_soup([one, two])
    assert str(caught.value) == message
    np.testing.assert_array_equal(merging.sparse_soup([one, two], masks="common"), [[2.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(merging.sparse_soup([one[0], two[0]]), [2.0, 1.0, 2.0, 0.0])  # a bias is not pruned
    with pytest.raises(InputError, match=r"sparse_soup: models must be zero .* \[fc\.weight\]"):
        mw.merge([{"fc.weight": one}, {"fc.weight": two}], method="sparse_soup").arrays()


# --- layer swapping ----------------------------------------------------------------------------------------------------


def owners(count: int, bottom: int, low: int, high: int, top: int) -> list[str]:
    """Whose each layer is, from the card's rules."""
    names = []
    for i in range(count):
        if i < bottom or i >= count - top:
            names.append("language")
        elif i < bottom + low or i >= count - top - high:
            names.append("average")
        else:
            names.append("task")
    return names


@pytest.mark.parametrize(("bottom", "low", "high", "top"), itertools.product((0, 2), (0, 1), (0, 2), (0, 1, 3)))
def test_layer_swap_takes_each_layer_whole(bottom: int, low: int, high: int, top: int) -> None:
    task, language = layered(9, 1), layered(9, 2)
    merged = mw.merge(
        [task, language], method="layer_swap", bottom=bottom, top=top, transition_bottom=low, transition_top=high,
        transition_weight=0.25,
    ).arrays()  # fmt: skip
    for i, owner in enumerate(owners(9, bottom, low, high, top)):
        name = f"model.layers.{i}.mlp.weight"
        if owner == "average":
            np.testing.assert_allclose(merged[name], 0.75 * task[name] + 0.25 * language[name], rtol=1e-6)
        else:
            np.testing.assert_array_equal(merged[name], (task if owner == "task" else language)[name])
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        np.testing.assert_array_equal(merged[name], language[name])


def test_layer_swap_by_itself_scales_the_reported_zones() -> None:
    task, language = (dict.fromkeys(layered(32, 0), np.full((1, 1), value, np.float32)) for value in (0.0, 1.0))
    merged = mw.merge([task, language], method="layer_swap").arrays()
    found = [float(merged[f"model.layers.{i}.mlp.weight"].item()) for i in range(32)]
    assert found == [1.0] * 5 + [0.5] + [0.0] * 23 + [0.5] + [1.0] * 2


@pytest.mark.parametrize("embeddings", ["task", "language", "average"])
@pytest.mark.parametrize("head", ["task", "language", "average", "embeddings"])
def test_layer_swap_places_embeddings_and_head(embeddings: str, head: str) -> None:
    task, language = layered(4, 1), layered(4, 2)
    merged = mw.merge([task, language], method="layer_swap", embeddings=embeddings, head=head).arrays()
    of = {"task": task, "language": language}
    for name, owner in (
        ("model.embed_tokens.weight", embeddings),
        ("model.norm.weight", embeddings if head == "embeddings" else head),
    ):
        expected = (task[name] + language[name]) / 2 if owner == "average" else of[owner][name]
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6)


def test_layer_swap_without_zones_is_the_task_model_and_with_all_the_language_model() -> None:
    task, language = layered(4, 1), layered(4, 2)
    none = {"bottom": 0, "top": 0, "transition_bottom": 0, "transition_top": 0}
    merged = mw.merge([task, language], method="layer_swap", **none, embeddings="task").arrays()
    assert all(np.array_equal(merged[name], task[name]) for name in task)
    merged = mw.merge([task, language], method="layer_swap", **none | {"bottom": 4}).arrays()
    assert all(np.array_equal(merged[name], language[name]) for name in task)


def test_layer_swap_carries_over_changes_of_other_layers_completely() -> None:
    """Experts that were tuned in the middle and at the ends: the base plus both changes."""
    base = layered(6, 0)
    task, language = dict(base), dict(base)
    for i in range(6):
        tuned_one = task if 2 <= i < 4 else language
        tuned_one[f"model.layers.{i}.mlp.weight"] = base[f"model.layers.{i}.mlp.weight"] + np.float32(1 + i)
    zones = {"bottom": 2, "top": 2, "transition_bottom": 0, "transition_top": 0}
    merged = mw.merge([task, language], method="layer_swap", **zones).arrays()
    for name in base:
        np.testing.assert_array_equal(merged[name], task[name] + language[name] - base[name])


def test_layer_swap_refuses_what_does_not_fit_before_anything_is_read() -> None:
    def refused(models: list[Any], **parameters: Any) -> str:
        with pytest.raises(InputError) as caught:
            mw.merge(models, method="layer_swap", **parameters)
        return str(caught.value)

    small = [layered(3, seed) for seed in (1, 2)]
    assert (
        "layer_swap: bottom 2, transition_bottom 1, transition_top 1 and top 1 are 5 layers, and 'model.layers' has 3. "
        "Lower one of them." in refused(small, bottom=2)
    )
    two = [layered(4, s) | layered(4, s + 5, "encoder.layers.") for s in (1, 2)]
    text = refused(two)
    assert "layer_swap: the model has 2 stacks of layers: model.layers, encoder.layers. Name the one" in text
    assert "no stack of layers is called 'decoder'. Valid: model.layers, encoder.layers." in refused(
        two, stack="decoder"
    )
    flat = [{"w": np.ones((2, 2), np.float32)}] * 2
    assert "layer_swap: no tensor name tells of layers. It is for models with numbered layers." in refused(flat)
    merged = mw.merge(two, method="layer_swap", stack="model.layers", other_stacks="language").arrays()
    for name, value in merged.items():
        if name.startswith("encoder"):
            np.testing.assert_array_equal(value, two[1][name])
