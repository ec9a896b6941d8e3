"""LoRA-LEGO: are adapters better merged rank by rank than factor by factor?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.adapters import lora_lego, weighted_sum
from modelwright.studies._digits import SMALL, VIEWS, Experts, Scale, experts, hits, pooled
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.tensors import Array, NoiseKey, Product, product_distance, product_norm, product_svd
from modelwright.train import HEAD, Training, mlp_gradients

#: Four tasks, and the rank of their adapters.
TASKS, RANK = VIEWS[:4], 8
#: Ranks that a merged adapter is given.
RANKS = (2, 4, 8, 16, 24)
#: On generated adapters: largest relative error of LEGO, and least of the others.
FOUND, LOST = 0.05, 0.5
PLAIN: Mapping[str, Any] = {"parameter_reweight": "off", "output_reweight": False}

Adapter = dict[str, Product]


def experiment(setting: Setting) -> Findings:
    """Generated adapters that share ranks; then adapters for four views of digits."""
    measured = Measured()
    for seed in setting.each_seed():
        _generated(measured, seed)
        _on_digits(measured, seed, setting.smoke)
    systems = ("base", "experts", *_SYSTEMS)
    return Findings(
        parts=_parts(measured),
        figures={
            n: Figure(f"mean accuracy on four tasks: {n}", measured.interval(lambda mean, n=n: mean(n)))
            for n in systems
        },
        tables=(
            Table(
                "Digits: mean accuracy on the test images of four tasks",
                ("system", "accuracy"),
                tuple((n, measured.interval(lambda mean, n=n: mean(n))) for n in systems),
            ),
            Table(
                "Generated adapters that share half their ranks: relative error of the merged one",
                ("rule", "error"),
                tuple((n, measured.range(lambda mean, n=n: mean(("generated", n)))) for n in _GENERATED),
                unit="",
            ),
        ),
        plots=(
            Plot(
                "How many ranks does a merged adapter take?",
                "rank k of the merged adapter",
                "mean accuracy",
                {
                    "LEGO": [(k, measured.interval(lambda mean, k=k: mean(("lego", k)))) for k in RANKS],
                    "sum, best of rank k": [(k, measured.interval(lambda mean, k=k: mean(("svd", k)))) for k in RANKS],
                },
            ),
        ),
        notes=(
            "Adapters of rank 8 on the hidden layers of a network of 0.3 million weights, from one base, with one frozen head; the paper "
            "merges adapters of Llama-2-7B, tuned on different data sets.",
            "Nothing is tuned: every rule has its published settings. `A and B apart` averages the factors, which is what the paper compares "
            "with; `mean of products` is what that stands for, brought to the same rank.",
            "k-means is scikit-learn's, on ranks whose two parts have length 1.",
        ),
    )


# --- generated -----------------------------------------------------------------------------------------------------------

_GENERATED = ("LEGO", "A and B apart", "mean of products", "sum")


def _generated(measured: Measured, seed: int) -> None:
    """Three adapters of rank 4: two ranks that all have, with 2 % noise, and two of their own, in any order."""
    rng = np.random.default_rng((seed, 40))
    shared, own = rng.standard_normal((2, 56)), rng.standard_normal((3, 2, 56))
    products: list[Product] = []
    for mine in own:
        units = np.concatenate([shared * (1 + 0.02 * rng.standard_normal(shared.shape)), mine])[rng.permutation(4)]
        products.append((units[:, 32:].T, units[:, :32]))
    everything = np.concatenate([shared, own.reshape(-1, 56)])
    wanted: Product = everything[:, 32:].T, everything[:, :32]
    rules: dict[str, Product] = {
        "LEGO": lora_lego(products, k=8, key=NoiseKey(seed, "generated"), **PLAIN),
        "A and B apart": _apart(products),
        "mean of products": weighted_sum(products, weight=[1 / 3] * 3),
        "sum": weighted_sum(products, weight=[1.0] * 3),
    }
    for name, product in rules.items():
        measured.add(seed, ("generated", name), product_distance(product, wanted) / product_norm(wanted))


# --- digits --------------------------------------------------------------------------------------------------------------


def _on_digits(measured: Measured, seed: int, smoke: bool) -> None:
    scale = SMALL if smoke else Scale()
    family = experts(
        seed, TASKS, Scale(scale.hidden, scale.images, scale.base_images, scale.base_epochs, expert_epochs=0)
    )
    rank, epochs = (4, 4) if smoke else (RANK, 30)
    adapters = [
        _tuned(family, name, rank, epochs, np.random.default_rng((seed, 50 + i))) for i, name in enumerate(TASKS)
    ]
    family.measure(measured, seed, "base", family.base)
    own = [_hits(family, name, _with(family, adapter)) for name, adapter in zip(TASKS, adapters, strict=True)]
    measured.add(seed, "experts", np.mean(own, axis=0))
    for name, rule in _SYSTEMS.items():
        family.measure(measured, seed, name, _with(family, _merged(adapters, rule, rank, seed)))
    for k in RANKS:
        for name, rule in (("lego", _lego()), ("svd", _best_of_rank(1.0))):
            family.measure(measured, seed, (name, k), _with(family, _merged(adapters, rule, k, seed)))


def _hits(family: Experts, task: str, weights: Mapping[str, Array]) -> Array:
    return hits(weights, family.tasks[task], "test")


def _tuned(family: Experts, task: str, rank: int, epochs: int, rng: np.random.Generator) -> Adapter:
    """An adapter for one view: gradient descent with momentum on A and B alone, B from zero."""
    inputs, labels = pooled({task: family.tasks[task]})
    layers = [name for name in family.base if name.endswith(".weight") and name not in HEAD]
    factors = {
        name: [
            np.zeros((family.base[name].shape[0], rank), np.float32),
            rng.normal(0, 0.1, (rank, family.base[name].shape[1])).astype(np.float32),
        ]
        for name in layers
    }
    speeds = {name: [np.zeros_like(part) for part in pair] for name, pair in factors.items()}
    training = Training(epochs, rate=0.05)
    for _ in range(training.epochs):
        order = rng.permutation(len(labels))
        for start in range(0, len(labels), training.batch):
            chosen = order[start : start + training.batch]
            weights = dict(family.base) | {name: family.base[name] + up @ down for name, (up, down) in factors.items()}
            gradients = mlp_gradients(weights, inputs[chosen], labels[chosen])
            for name, (up, down) in factors.items():
                steps = gradients[name] @ down.T, up.T @ gradients[name]
                for part, speed, step in zip(factors[name], speeds[name], steps, strict=True):
                    speed *= np.float32(0.9)
                    speed += step
                    part -= np.float32(training.rate) * speed
    return {name: (up, down) for name, (up, down) in factors.items()}


def _with(family: Experts, adapter: Adapter) -> dict[str, Array]:
    added = {name: family.base[name] + (up @ down).astype(np.float32) for name, (up, down) in adapter.items()}
    return dict(family.base) | added


#: (products, rank, seed and layer) -> the merged product.
Rule = Callable[[Sequence[Product], int, NoiseKey], Product]


def _merged(adapters: Sequence[Adapter], rule: Rule, rank: int, seed: int) -> Adapter:
    return {name: rule([adapter[name] for adapter in adapters], rank, NoiseKey(seed, name)) for name in adapters[0]}


def _apart(products: Sequence[Product]) -> Product:
    ups, downs = zip(*products, strict=True)
    return np.mean(ups, axis=0), np.mean(downs, axis=0)


def _lego(**options: Any) -> Rule:
    return lambda products, rank, key: lora_lego(products, k=rank, key=key, **options)


def _best_of_rank(weight: float) -> Rule:
    def rule(products: Sequence[Product], rank: int, _key: NoiseKey) -> Product:
        u, s, vt = product_svd(weighted_sum(products, weight=[weight] * len(products)))
        return u[:, :rank] * s[:rank], vt[:rank]

    return rule


_SYSTEMS: dict[str, Rule] = {
    "LEGO": _lego(),
    "LEGO, raw ranks": _lego(features="raw"),
    "LEGO, no reweighting": _lego(**PLAIN),
    "LEGO, signs aligned": _lego(align_signs=True),
    "A and B apart": lambda products, _rank, _key: _apart(products),
    "mean of products": _best_of_rank(1 / len(TASKS)),
    "sum of products": _best_of_rank(1.0),
}


def _parts(measured: Measured) -> tuple[Part, ...]:
    def gain(first: Any, second: Any) -> Any:
        return measured.interval(lambda mean: mean(first) - mean(second))

    def error(name: str) -> Any:
        return measured.range(lambda mean: mean(("generated", name)))

    return (
        Part("shared ranks", "On generated adapters LEGO finds shared ranks, for every seed", error("LEGO"), "<=", FOUND, unit=""),
        Part("not by averaging", "Averaging A and B apart loses them, for every seed", error("A and B apart"), ">=", LOST, unit=""),
        Part("over factors", "At the adapters' own rank LEGO is better than averaging A and B apart", gain("LEGO", "A and B apart"), ">", 0.0),
        Part("reweighting", "The two reweightings help", gain("LEGO", "LEGO, no reweighting"), ">", 0.0),
        Part("over products", "LEGO is better than the mean of the products at the same rank", gain("LEGO", "mean of products"), ">", 0.0, decides=False),
        Part("over the sum", "LEGO is better than the sum of the products at the same rank", gain("LEGO", "sum of products"), ">", 0.0, decides=False),
    )  # fmt: skip


LORA_LEGO = Study(
    id="lora-lego",
    title="LoRA-LEGO",
    paper="arXiv:2409.16167",
    claim="Clustering the single ranks of LoRAs merges them better than averaging their factors, and two reweightings help.",
    experiment=experiment,
)
