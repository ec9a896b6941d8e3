"""The suite that needs nothing: scikit-learn's digits in several views, a perceptron in numpy, one head for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from modelwright.api import content_hash
from modelwright.checkpoint import Checkpoint
from modelwright.errors import InputError, did_you_mean
from modelwright.evaluate import Classification, Items, Predictor, Size, Splits, metric
from modelwright.suites._cache import Cache, Trained, code_of, data_of, side_by_side
from modelwright.suites._family import Family
from modelwright.suites._packs import stratified
from modelwright.suites._schema import DigitsFile, EpochTuning
from modelwright.suites._views import CLASSES, SIDE, digit_images, views
from modelwright.tensors import Array
from modelwright.train import HEAD, MlpPredictor, Training, Weights, random_mlp, train_mlp
from modelwright.train._threads import one_blas_thread


def digits_tasks(names: list[str], images: int | None = None) -> dict[str, Classification]:
    """Telling digits from each of some views: 60 % `tune`, 20 % `validation`, 20 % `test`, stratified.

    An image is in the same split in all views, for the views share what there is to learn of it.

    Args:
        names: Of `views`.
        images: So many images only.

    Raises:
        InputError: There is no such view.
    """
    known = views(np.random.default_rng(0))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"tasks: no view of the digits is called '{unknown[0]}'", did_you_mean(unknown[0], known))
    shown, targets = digit_images("the suite 'digits'", images)
    count = len(targets)
    parts = dict(
        zip(("tune", "validation", "test"), stratified(targets, count * 3 // 5, count // 5, count // 5), strict=True)
    )

    def items(view: str, positions: Array) -> Items:
        rows = known[view](shown[positions]).reshape(len(positions), -1)
        return Items.of(np.ascontiguousarray(rows), targets[positions], [f"digit-{i}" for i in positions])

    return {
        name: Classification(
            name=name,
            splits=Splits({split: items(name, positions) for split, positions in parts.items()}),
            metric=metric("accuracy"),
            names=tuple(map(str, range(CLASSES))),
        )
        for name in names
    }


@dataclass(frozen=True, kw_only=True)
class DigitsFamily(Family):
    """Perceptrons on digits.

    Attributes:
        head: The head that all models share: it is the base's, frozen in tuning, and no part of the checkpoints.
    """

    head: Mapping[str, Array]

    @property
    def fingerprint(self) -> str:
        """Of the head."""
        return data_of(*self.head.values())

    def system(self, weights: Checkpoint, label: str, *, device: str = "cpu") -> Predictor:
        """A perceptron with these hidden layers and the head."""
        arrays = {**weights.arrays(), **self.head}
        size = Size(sum(a.size for a in arrays.values()), sum(a.nbytes for a in arrays.values()))
        return MlpPredictor(label, weights=arrays, fingerprint=content_hash(weights), size=size)


def digits_family(file: DigitsFile, seed: int, cache: Cache) -> DigitsFamily:
    """Train a base that has seen few images in all views, and one expert a view; or take them from the cache."""
    tasks = digits_tasks(file.tasks, file.images)
    tune = {name: task.items("tune") for name, task in tasks.items()}
    about = {
        "kind": file.kind, "seed": seed, "hidden": file.hidden, "base": file.base.model_dump(),
        "data": data_of(*tune.values()), "code": code_of("modelwright.suites._digits", "modelwright.suites._packs", "modelwright.suites._views", "modelwright.train._mlp"),
    }  # fmt: skip
    with one_blas_thread():
        base = cache.model(f"{file.name}-base", about, partial(_base, file, seed, tune))
        weights = base.open("base").arrays()
        head = {name: weights[name] for name in HEAD}

        def expert(name: str, names: list[str], number: int) -> Callable[[], Any]:
            said = {
                "base": base.key,
                "tasks": names,
                "tuning": file.experts.model_dump(),
                "number": number,
                "seed": seed,
            }
            train = partial(_tuned, weights, [tune[n] for n in names], file.experts, (seed, number))
            return partial(cache.model, f"{file.name}-{name}", said, train)

        body = cache.model(f"{file.name}-body", {"base": base.key, "part": "body"}, lambda: _trained(weights))
        jobs = {name: expert(name, [name], 10 + i) for i, name in enumerate(file.tasks)}
        kept = side_by_side({"multitask": expert("multitask", file.tasks, 4), **jobs})
    return DigitsFamily(
        name=file.name, seed=seed, base=body.open("base"), tasks=tasks, head=head,
        experts={name: kept[name].open(name) for name in file.tasks}, multitask=kept["multitask"].open("multitask"),
        seconds={"base": base.seconds, **{name: model.seconds for name, model in kept.items()}},
    )  # fmt: skip


def _base(file: DigitsFile, seed: int, tune: Mapping[str, Items]) -> Trained:
    start = random_mlp(SIDE * SIDE, file.hidden, CLASSES, np.random.default_rng((seed, 2)))
    inputs, labels = _pooled(list(tune.values()), file.base.images)
    training = Training(file.base.epochs, rate=file.base.rate)
    return _trained(train_mlp(start, inputs, labels, training, np.random.default_rng((seed, 3))), whole=True)


def _tuned(base: Weights, parts: list[Items], tuning: EpochTuning, stream: tuple[int, int]) -> Trained:
    training = Training(tuning.epochs, rate=tuning.rate, frozen=HEAD)
    return _trained(train_mlp(base, *_pooled(parts), training, np.random.default_rng(stream)))


def _pooled(parts: list[Items], most: int | None = None) -> tuple[Array, Array]:
    """Inputs and labels of the first items of each part."""
    inputs = [np.asarray(part.inputs)[:most] for part in parts]
    return np.concatenate(inputs), np.concatenate([np.asarray(part.targets)[:most] for part in parts])


def _trained(weights: Weights, whole: bool = False) -> Trained:
    """The hidden layers, which are merged; of the whole network the head too."""
    hidden = [value.size for name, value in weights.items() if name.endswith(".bias") and name not in HEAD]
    config = {"model_type": "digits-mlp", "num_hidden_layers": len(hidden), "hidden_size": hidden[0]}
    return Trained(config, {name: value for name, value in weights.items() if whole or name not in HEAD})
