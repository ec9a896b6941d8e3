"""Sparse model soups: is the average of models retrained from one pruned model better than they are, and as sparse?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.api import merge
from modelwright.evaluate import Classification
from modelwright.studies._digits import digits, digits_task, hits, pooled
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.suites._views import CLASSES, SIDE
from modelwright.tensors import Array
from modelwright.train import Training, Weights, mlp_probabilities, random_mlp, train_mlp

HIDDEN, SMALL_HIDDEN = (256, 256), (32, 32)
SPARSITY, CYCLES, REPLICAS = 0.95, 3, 3
DENSE_EPOCHS, RETRAIN_EPOCHS, RATE = 20, 5, 0.02
#: Gaussian noise on the test images that are not like those that were learnt from, of a range of 1.
NOISE = 0.3
Masks = Mapping[str, Array]


def experiment(setting: Setting) -> Findings:
    """Prune, retrain three times, average, and again; beside it the same without averages, and runs of their own."""
    measured = Measured()
    for seed in setting.each_seed():
        _one_seed(measured, seed, setting.smoke)
    return Findings(
        parts=_parts(measured),
        figures={
            f"{system}, {test}": Figure(
                f"accuracy on {_TESTS[test]}: {system}", measured.interval(lambda mean, s=system, t=test: mean((s, t)))
            )
            for test in _TESTS
            for system in _SYSTEMS
        },
        tables=(_table(measured), _cycle_table(measured)),
        plots=(_plot(measured),),
        notes=(
            f"Digits and a perceptron of {HIDDEN[0]} and {HIDDEN[1]} hidden units, pruned to {SPARSITY:.0%} zeros in {CYCLES} cycles by "
            f"one ranking of the magnitudes of all weight matrices; {REPLICAS} retrainings of {RETRAIN_EPOCHS} epochs a cycle, which differ "
            "in the order of the images. The paper prunes networks of convolutions on CIFAR and ImageNet, and transformers.",
            "Averages are made with `merge_method: sparse_soup`, which refuses models whose zeros differ. The learning rate of retraining is "
            "constant here; the paper's falls linearly.",
            "Pruning alone has the same cycles with one retraining each; pruning alone, longer has as many epochs in each as the soup's "
            "models together. The average of runs of their own is of models that were pruned alone from one dense model, each in "
            "its own way, and is pruned again to the same number of weights.",
            "The ensemble averages the probabilities of the last cycle's three models, at three times the cost.",
        ),
    )


def _one_seed(measured: Measured, seed: int, smoke: bool) -> None:
    parts = digits(seed, 400 if smoke else None)
    rng = np.random.default_rng((seed, 90))
    noisy = digits_task("noisy", {"test": parts["test"]}, lambda x: x + rng.normal(0, NOISE, x.shape).astype(x.dtype))
    tasks = {"digits": digits_task("digits", parts, lambda images: images), "noisy": noisy}
    learnt = pooled({"digits": tasks["digits"]})
    hidden, effort = (SMALL_HIDDEN, 0.4) if smoke else (HIDDEN, 1.0)

    def trained(weights: Weights, epochs: int, stream: tuple[int, ...], masks: Masks | None = None) -> Weights:
        training = Training(max(1, round(epochs * effort)), RATE)
        return train_mlp(weights, *learnt, training, np.random.default_rng((seed, *stream)), masks=masks)

    start = random_mlp(SIDE * SIDE, hidden, CLASSES, np.random.default_rng((seed, 91)))
    dense = trained(start, DENSE_EPOCHS, (92,))
    planned = _planned(dense)
    soup, alone, longer, models = dense, dense, dense, [dense]
    off = 0
    for cycle, alive in enumerate(planned):
        masks = _pruned(soup, alive)
        models = [trained(_masked(soup, masks), RETRAIN_EPOCHS, (93, cycle, i), masks) for i in range(REPLICAS)]
        soup = merge(models, method="sparse_soup").arrays()
        off = max(off, abs(_alive(soup) - alive))
        masks = _pruned(alone, alive)
        alone = trained(_masked(alone, masks), RETRAIN_EPOCHS, (94, cycle), masks)
        masks = _pruned(longer, alive)
        longer = trained(_masked(longer, masks), RETRAIN_EPOCHS * REPLICAS, (95, cycle), masks)
        _keep(measured, seed, ("cycle", cycle, "soup"), tasks, [soup])
        _keep(measured, seed, ("cycle", cycle, "its models"), tasks, models)
        _keep(measured, seed, ("cycle", cycle, "pruning alone"), tasks, [alone])
    runs = [_own_run(dense, planned, trained, number) for number in range(REPLICAS)]
    mixed = merge(runs, method="linear").arrays()
    again = _masked(mixed, _pruned(mixed, planned[-1]))
    measured.add(seed, "off", float(off))
    measured.add(
        seed, "kept by averaging runs of their own", _alive(mixed) / sum(mixed[name].size for name in _matrices(mixed))
    )
    systems: dict[str, Sequence[Weights]] = {
        "dense": [dense], "soup": [soup], "its models": models, "pruning alone": [alone], "pruning alone, longer": [longer],
        "average of runs of their own": [again],
    }  # fmt: skip
    for name, several in systems.items():
        _keep(measured, seed, name, tasks, several)
    for test, task in tasks.items():
        items = task.items("test")
        mean = np.mean([mlp_probabilities(model, np.asarray(items.inputs)) for model in models], axis=0)
        measured.add(seed, ("ensemble", test), mean.argmax(axis=1) == np.asarray(items.targets))


def _own_run(dense: Weights, planned: Sequence[int], trained: Any, number: int) -> Weights:
    """Pruning alone, with an order of images of its own from the dense model on, so that masks differ."""
    model = trained(dense, RETRAIN_EPOCHS, (96, number))
    for cycle, alive in enumerate(planned):
        masks = _pruned(model, alive)
        model = trained(_masked(model, masks), RETRAIN_EPOCHS, (97, number, cycle), masks)
    return model


def _keep(
    measured: Measured, seed: int, name: Any, tasks: Mapping[str, Classification], models: Sequence[Weights]
) -> None:
    """Keep in what share of some models each test image is classified rightly."""
    for test, task in tasks.items():
        measured.add(seed, (name, test), np.mean([hits(model, task, "test") for model in models], axis=0))


# --- pruning -------------------------------------------------------------------------------------------------------


def _matrices(weights: Weights) -> list[str]:
    return [name for name, array in weights.items() if array.ndim == 2]


def _alive(weights: Weights) -> int:
    """How many weights are not zero."""
    return sum(int(np.count_nonzero(weights[name])) for name in _matrices(weights))


def _planned(weights: Weights) -> list[int]:
    """How many weights are left after each cycle: each takes the same share of what is left."""
    share = 1 - (1 - SPARSITY) ** (1 / CYCLES)
    left = sum(weights[name].size for name in _matrices(weights))
    found: list[int] = []
    for _ in range(CYCLES):
        left -= round(share * left)
        found.append(left)
    return found


def _pruned(weights: Weights, alive: int) -> dict[str, Array]:
    """Masks that leave so many weights: the largest of all matrices together, ties to the first."""
    names = _matrices(weights)
    magnitude = np.concatenate([np.abs(weights[name]).reshape(-1) for name in names])
    kept = np.zeros(magnitude.size, np.float32)
    kept[np.argsort(-magnitude, kind="stable")[:alive]] = 1
    cuts = np.cumsum([weights[name].size for name in names])[:-1]
    return {name: part.reshape(weights[name].shape) for name, part in zip(names, np.split(kept, cuts), strict=True)}


def _masked(weights: Weights, masks: Masks) -> dict[str, Array]:
    return {name: array * masks[name] if name in masks else array for name, array in weights.items()}


# --- what came of it -----------------------------------------------------------------------------------------------

_TESTS = {"digits": "test images", "noisy": "test images with noise"}
_SYSTEMS = (
    "dense", "soup", "its models", "ensemble", "pruning alone", "pruning alone, longer", "average of runs of their own",
)  # fmt: skip


def _parts(measured: Measured) -> Sequence[Part]:
    def gain(other: str, test: str = "digits") -> Any:
        return measured.interval(lambda mean: mean(("soup", test)) - mean((other, test)))

    return (
        Part(
            "as sparse",
            "In every cycle the soup has exactly the planned number of weights",
            measured.range(lambda mean: mean("off")),
            "<=",
            0.0,
            unit="",
        ),
        Part("over its models", "The soup is better than its models are on average", gain("its models"), ">", 0.0),
        Part("with noise", "So it is on images with noise", gain("its models", "noisy"), ">", 0.0),
        Part("over pruning", "It is better than pruning alone", gain("pruning alone"), ">", 0.0),
        Part(
            "over runs of their own",
            "It is better than the average of models that were pruned each in its own way, pruned again",
            gain("average of runs of their own"),
            ">",
            0.0,
        ),
        Part(
            "over longer pruning",
            "It is better than pruning alone with as much retraining in all",
            gain("pruning alone, longer"),
            ">",
            0.0,
            decides=False,
        ),
        Part(
            "masks of runs of their own",
            "The plain average of these has more than twice the weights",
            measured.range(lambda mean: mean("kept by averaging runs of their own")),
            ">",
            2 * (1 - SPARSITY),
            decides=False,
        ),
    )


def _table(measured: Measured) -> Table:
    rows = [
        (system, *(measured.interval(lambda mean, s=system, t=t: mean((s, t))) for t in _TESTS)) for system in _SYSTEMS
    ]
    return Table(f"Accuracy at {SPARSITY:.0%} zeros", ("system", *_TESTS.values()), tuple(rows))


_LINES = ("soup", "its models", "pruning alone")


def _cycle_table(measured: Measured) -> Table:
    rows = [
        (name, *(measured.interval(lambda m, n=name, c=c: m((("cycle", c, n), "digits"))) for c in range(CYCLES)))
        for name in _LINES
    ]
    columns = [f"{1 - (1 - SPARSITY) ** ((c + 1) / CYCLES):.0%} zeros" for c in range(CYCLES)]
    return Table("Accuracy on test images after each cycle", ("system", *columns), tuple(rows))


def _plot(measured: Measured) -> Plot:
    lines = {
        name: [
            (c + 1.0, measured.interval(lambda m, n=name, c=c: m((("cycle", c, n), "noisy")))) for c in range(CYCLES)
        ]
        for name in _LINES
    }
    return Plot("With noise, cycle by cycle", "cycle of pruning", "accuracy on images with noise", lines)


SPARSE_MODEL_SOUPS = Study(
    id="sparse-model-soups",
    title="Sparse model soups",
    paper="arXiv:2306.16788",
    claim="The average of models retrained from one pruned model is as sparse as they are and better, with and without a shift of the "
    "data, and so is pruning that goes on from it.",
    experiment=experiment,
)
