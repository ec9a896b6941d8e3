"""Weights for every sample: a small network that learns on held-out data whom to believe when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.predictions._predictions import Predictions
from modelwright.predictions._scales import log, softmax
from modelwright.predictions.cascades._fit import check_apart
from modelwright.predictions.measures import answers_of, brier_scores, confidence, nll_scores

Features = Literal["probabilities", "summaries", "given"]
VERSION = 1
_ADAM = (0.9, 0.999, 1e-8)
_STOP_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Gate:
    """A gating network: what a sample looks like to the members, one hidden layer, a softmax over members.

    Attributes:
        members: Names, in the order of the weights.
        classes: How many there are.
        features: What it looks at; see `fit_gate`.
        arrays: `center` and `scale` (D,), `hidden.weight` (H, D) and `hidden.bias` (H,) if there is a hidden layer,
            `output.weight` (M, H or D), `output.bias` (M,); float64.
        best: The member with the lowest log-loss on the data it was fitted on.
        losses: Log-loss on the part that decided when to stop, before each epoch and after the last; the first is that of
            equal weights.
    """

    members: tuple[str, ...]
    classes: int
    features: Features
    arrays: Mapping[str, np.ndarray]
    best: str = ""
    losses: tuple[float, ...] = field(default=(), repr=False)

    def weights(self, bank: Predictions, inputs: Any = None) -> np.ndarray:
        """How much each member is believed for each sample: (N, M), at least 0, rows sum to 1.

        Args:
            bank: Predictions of its members at least, in any order.
            inputs: (N, D), where its features are `given`.

        Raises:
            InputError: A member is missing, or classes or inputs do not fit.
        """
        bank = self._ordered(bank)
        return self._weights(bank, inputs, slice(0, len(bank)))

    def __call__(self, bank: Predictions, inputs: Any = None) -> np.ndarray:
        """Probabilities by these weights: float64 (N, C).

        Args:
            bank: As in `weights`.
            inputs: As in `weights`.

        Raises:
            InputError: As in `weights`.
        """
        bank = self._ordered(bank)
        found = np.empty((len(bank), self.classes))
        for rows in bank.parts():
            weights = self._weights(bank, inputs, rows)
            found[rows] = np.einsum("nm,mnc->nc", weights, bank.block(rows, "probabilities"))
        return found

    def _ordered(self, bank: Predictions) -> Predictions:
        if len(bank.classes) != self.classes:
            raise InputError(f"the gate is for {self.classes} classes, and the bank has {len(bank.classes)}")
        return bank.select(list(self.members))

    def _weights(self, bank: Predictions, inputs: Any, rows: slice) -> np.ndarray:
        looked = _features(bank, self.features, inputs, rows)
        if looked.shape[1] != len(self.arrays["center"]):
            raise InputError(f"the gate takes {len(self.arrays['center'])} inputs a sample, got {looked.shape[1]}")
        scaled = (looked - self.arrays["center"]) / self.arrays["scale"]
        return softmax(_forward(self.arrays, scaled)[-1])

    def as_json(self) -> dict[str, Any]:
        """What it is beside its arrays, as plain data."""
        return {
            "version": VERSION,
            "members": list(self.members),
            "classes": self.classes,
            "features": self.features,
            "best": self.best,
        }

    @staticmethod
    def from_json(data: str | Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Gate:
        """What `as_json` has written, with its arrays.

        Raises:
            InputError: It is something else, of another version, or arrays are missing or do not fit.
        """
        try:
            said = json.loads(data) if isinstance(data, str) else data
        except ValueError as error:
            raise InputError(f"a gate must be JSON: {error}") from None
        read = dict(said) if isinstance(said, Mapping) else {}
        if read.get("version") != VERSION or not {"members", "classes", "features"} <= set(read):
            raise InputError(f"a gate must have version {VERSION}, members, classes and features, got {sorted(read)}")
        gate = Gate(
            tuple(read["members"]), int(read["classes"]), read["features"], dict(arrays), str(read.get("best", ""))
        )
        gate._check()
        return gate

    def _check(self) -> None:
        wanted = {"center", "scale", "output.weight", "output.bias"}
        found = set(self.arrays)
        if not wanted <= found or found - wanted not in (set(), {"hidden.weight", "hidden.bias"}):
            raise InputError(
                f"a gate's arrays are {sorted(wanted)}, with or without a hidden layer, got {sorted(found)}"
            )
        if self.features not in get_args(Features):
            raise InputError(
                f"a gate cannot look at '{self.features}'", did_you_mean(self.features, get_args(Features))
            )
        inputs = len(self.arrays["center"])
        width = len(self.arrays["hidden.bias"]) if "hidden.bias" in found else inputs
        shapes = {
            "center": (inputs,), "scale": (inputs,), "hidden.weight": (width, inputs), "hidden.bias": (width,),
            "output.weight": (len(self.members), width), "output.bias": (len(self.members),),
        }  # fmt: skip
        for name, array in self.arrays.items():
            if array.shape != shapes[name] or not np.isfinite(array).all():
                raise InputError(f"a gate's '{name}' must be finite numbers of shape {shapes[name]}, got {array.shape}")


def _forward(arrays: Mapping[str, np.ndarray], inputs: np.ndarray) -> list[np.ndarray]:
    """The input of each layer, and scores of the members (N, M)."""
    values = [inputs]
    if "hidden.weight" in arrays:
        values.append(np.tanh(inputs @ arrays["hidden.weight"].T + arrays["hidden.bias"]))
    return [*values, values[-1] @ arrays["output.weight"].T + arrays["output.bias"]]


def _features(bank: Predictions, features: Features, inputs: Any, rows: slice) -> np.ndarray:
    """What the gate looks at, (n, D)."""
    if features == "given":
        if inputs is None:
            raise InputError("a gate on given features needs inputs", "Pass inputs=, one row a sample.")
        array = np.asarray(inputs, dtype=np.float64)
        if array.ndim != 2 or len(array) != len(bank) or not np.isfinite(array).all():
            raise InputError(f"inputs must be finite, of shape (N, D) with N = {len(bank):,}, got {array.shape}")
        return array[rows]
    if inputs is not None:
        raise InputError(f"a gate on {features} takes no inputs", "Use features='given'.")
    block = bank.block(rows, "probabilities")
    if features == "probabilities":
        return block.transpose(1, 0, 2).reshape(block.shape[1], -1)
    logits = log(block)
    shared = block.mean(axis=0).argmax(axis=1)
    agreed = block[:, np.arange(block.shape[1]), shared]
    return np.concatenate([confidence(logits, "msp"), confidence(logits, "entropy"), agreed]).T


def gate_loss(
    arrays: Mapping[str, np.ndarray], inputs: np.ndarray, of_target: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """Mean log-loss of the weighted mean of probabilities in nats, and its gradients by the arrays' names.

    Args:
        arrays: As in `Gate`.
        inputs: Scaled features, (n, D).
        of_target: The probability that each member gives the right class, above 0, (n, M).
    """
    values = _forward(arrays, inputs)
    weights = softmax(values[-1])
    parts = weights * of_target
    total = parts.sum(axis=1, keepdims=True)
    slope = (weights - parts / total) / len(inputs)
    gradients = {"output.weight": slope.T @ values[-2], "output.bias": slope.sum(axis=0)}
    if "hidden.weight" in arrays:
        slope = (slope @ arrays["output.weight"]) * (1 - values[1] ** 2)
        gradients |= {"hidden.weight": slope.T @ inputs, "hidden.bias": slope.sum(axis=0)}
    return float(-np.log(total).mean()), gradients


def fit_gate(
    held_out: Predictions,
    *,
    features: Features = "probabilities",
    inputs: Any = None,
    hidden: int = 16,
    epochs: int = 200,
    rate: float = 0.01,
    weight_decay: float = 1e-3,
    batch: int = 128,
    seed: int = 0,
) -> Gate:
    """Learn on held-out data how much to believe each member for each sample.

    It starts at equal weights. A fifth of the data, drawn by the seed, decides after which epoch to stop: where nothing
    can be learnt the weights stay equal.

    Args:
        held_out: Labelled predictions on data that no member was trained on: on training data members look better than
            they are, and the gate believes the one that has memorised most.
        features: `probabilities`: all that the members say, M C numbers; `summaries`: for each member its confidence,
            its entropy, and its probability of what the mean would answer, 3 M numbers; `given`: `inputs`.
        inputs: (N, D), with `given`.
        hidden: Width of the hidden layer, tanh; 0 for none.
        epochs: Most passes over the data.
        rate: Adam's learning rate, above 0.
        weight_decay: Share of the weight matrices that is taken off a step, times the rate, at least 0.
        batch: Samples a step, at least 1.
        seed: Decides the split, the start and the order.

    Raises:
        InputError: There are no labels, fewer than 10 samples, or a number is out of its range.

    Differs:
        The network looks at what members say, or at features that are given, and not at a deep network's inputs; members
        are not trained with it, as in mixtures of experts.

    Source:
        Jacobs et al. 1991, Neural Computation 3, for the loss; on held-out data, as stacking: Wolpert 1992, Neural
        Networks 5.
    """
    if held_out.kind not in ("classes", "binary"):
        raise InputError(f"a gate is for classes, and these predictions are of the kind '{held_out.kind}'")
    if features not in get_args(Features):
        raise InputError(f"a gate cannot look at '{features}'", did_you_mean(str(features), get_args(Features)))
    if rate <= 0 or batch < 1 or min(hidden, epochs, weight_decay) < 0:
        raise InputError("a gate needs rate > 0, batch >= 1, and hidden, epochs and weight_decay of at least 0")
    if len(held_out) < 10:
        raise InputError(f"a gate needs at least 10 held-out samples, got {len(held_out)}")
    labels = held_out.need_labels("learning weights")
    looked = _features(held_out, features, inputs, slice(0, len(held_out)))
    of_target = np.empty((len(held_out), len(held_out.members)))
    for rows, block in held_out.blocks("probabilities"):
        of_target[rows] = np.exp(-np.stack([nll_scores(member, labels[rows]) for member in block])).T
    best = held_out.names[int(-np.log(of_target).mean(axis=0).argmin())]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(looked))
    stop, learn = np.split(order, [max(1, round(_STOP_SHARE * len(order)))])
    center, scale = looked[learn].mean(axis=0), looked[learn].std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    scaled = (looked - center) / scale
    arrays = _start(scaled.shape[1], hidden, of_target.shape[1], rng)
    found, losses = _learn(
        arrays,
        (scaled[learn], of_target[learn]),
        (scaled[stop], of_target[stop]),
        epochs,
        rate,
        weight_decay,
        batch,
        rng,
    )
    gate = Gate(
        held_out.names,
        len(held_out.classes),
        features,
        {"center": center, "scale": scale, **found},
        best,
        tuple(losses),
    )
    gate._check()
    return gate


def _start(inputs: int, hidden: int, members: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random hidden weights, and an output of zeros, which is equal weights."""
    arrays = {"output.weight": np.zeros((members, hidden or inputs)), "output.bias": np.zeros(members)}
    if hidden:
        arrays["hidden.weight"] = rng.normal(0, 1 / np.sqrt(inputs), (hidden, inputs))
        arrays["hidden.bias"] = np.zeros(hidden)
    return arrays


def _learn(
    arrays: dict[str, np.ndarray],
    learn: tuple[np.ndarray, np.ndarray],
    stop: tuple[np.ndarray, np.ndarray],
    epochs: int,
    rate: float,
    weight_decay: float,
    batch: int,
    rng: np.random.Generator,
) -> tuple[dict[str, np.ndarray], list[float]]:
    """The arrays of the epoch with the lowest loss on `stop`, and the losses."""
    arrays = {name: array.copy() for name, array in arrays.items()}
    moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in arrays.items()}
    losses = [gate_loss(arrays, *stop)[0]]
    best, taken = {name: array.copy() for name, array in arrays.items()}, 0
    for _ in range(epochs):
        order = rng.permutation(len(learn[0]))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            _, gradients = gate_loss(arrays, learn[0][rows], learn[1][rows])
            taken += 1
            for name, array in arrays.items():
                if array.ndim == 2:
                    array *= 1 - rate * weight_decay
                array -= rate * _adam(gradients[name], *moments[name], taken)
        losses.append(gate_loss(arrays, *stop)[0])
        if losses[-1] <= min(losses):
            best = {name: array.copy() for name, array in arrays.items()}
    return best, losses


def _adam(gradient: np.ndarray, mean: np.ndarray, square: np.ndarray, taken: int) -> np.ndarray:
    first, second, least = _ADAM
    mean[...] = first * mean + (1 - first) * gradient
    square[...] = second * square + (1 - second) * gradient**2
    return (mean / (1 - first**taken)) / (np.sqrt(square / (1 - second**taken)) + least)


@dataclass(frozen=True)
class Judged:
    """One way of putting members together, on test data.

    Attributes:
        accuracy: Share of right answers.
        nll: Log-loss in nats.
        brier: Brier score, in [0, 2].
    """

    accuracy: float
    nll: float
    brier: float


def compare_gate(gate: Gate, held_out: Predictions, test: Predictions, *, inputs: Any = None) -> dict[str, Judged]:
    """A gate beside equal weights and the best single member, which was chosen on the held-out data.

    Args:
        gate: Fitted on `held_out`.
        held_out: What it was fitted on.
        test: Labelled predictions of the same members on other samples.
        inputs: Of the test samples, where the gate's features are `given`.

    Returns:
        `gate`, `uniform` and `best single`.

    Raises:
        InputError: A sample is in both, or the test data have no labels.
    """
    check_apart(held_out, test, "the gate")
    labels = test.need_labels("comparing")
    bank = test.select(list(gate.members))
    uniform = np.concatenate([block.mean(axis=0) for _, block in bank.blocks("probabilities")])
    single = np.concatenate([block[0] for _, block in bank.select([gate.best]).blocks("probabilities")])
    ways = {"gate": gate(bank, inputs), "uniform": uniform, "best single": single}
    return {name: _judged(probabilities, labels) for name, probabilities in ways.items()}


def _judged(probabilities: np.ndarray, labels: np.ndarray) -> Judged:
    hits = answers_of(probabilities) == labels
    return Judged(
        float(hits.mean()),
        float(nll_scores(probabilities, labels).mean()),
        float(brier_scores(probabilities, labels).mean()),
    )
