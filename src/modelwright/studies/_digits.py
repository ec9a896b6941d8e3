"""The ground most studies stand on: scikit-learn's digits in several views, a base, and one expert a view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.api import merge
from modelwright.evaluate import METRICS, Classification, Items, Splits
from modelwright.studies._evidence import Measured
from modelwright.suites._views import CLASSES, SIDE, View, digit_images, views
from modelwright.tensors import Array
from modelwright.train import HEAD, MlpPredictor, Training, Weights, random_mlp, train_mlp

#: Every view of the digits that a study may use as a task.
VIEWS = ("rotate", "mirror", "invert", "roll", "shuffle", "flip", "transpose", "checker")
#: Scales that are tried for every method that has one: 18, up to the largest that TIES' authors try.
SCALES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5)


def digits(seed: int, most: int | None = None) -> dict[str, Items]:
    """The upright images in [0, 1] with their labels: 60 % `tune`, 20 % `validation`, 20 % `test`, stratified.

    Args:
        seed: Decides the splits.
        most: So many images only, for smoke runs.
    """
    from sklearn.model_selection import train_test_split

    everything = Items.of(*digit_images("a study", most))
    targets = np.asarray(everything.targets)
    tune, rest = train_test_split(np.arange(len(everything)), test_size=0.4, stratify=targets, random_state=seed)
    validation, test = train_test_split(rest, test_size=0.5, stratify=targets[rest], random_state=seed)
    parts = {"tune": tune, "validation": validation, "test": test}
    return {name: everything.take(list(index)) for name, index in parts.items()}


def digits_task(name: str, parts: Mapping[str, Items], view: View) -> Classification:
    """The task of telling digits from one view of them; an image is in one split whichever way it is shown."""
    shown = {
        split: Items(items.ids, view(np.asarray(items.inputs)).reshape(len(items), -1), items.targets)
        for split, items in parts.items()
    }
    names = tuple(str(i) for i in range(CLASSES))
    return Classification(name=name, splits=Splits(shown), metric=METRICS["accuracy"], names=names)


def hits(weights: Weights, task: Classification, split: str) -> Array:
    """Which items of a split are classified rightly: 0 or 1, in the order of the items."""
    return task.score(MlpPredictor("network", weights=weights), task.items(split)).scores


def pooled(tasks: Mapping[str, Classification], count: int | None = None) -> tuple[Array, Array]:
    """The first images of `tune` in every task's view, and their labels."""
    parts = [task.items("tune") for task in tasks.values()]
    inputs, labels = ([np.asarray(values)[:count] for values in side] for side in zip(*map(_sides, parts), strict=True))
    return np.concatenate(inputs), np.concatenate(labels)


def _sides(items: Items) -> tuple[Any, Any]:
    return items.inputs, items.targets


@dataclass(frozen=True)
class Scale:
    """How large an experiment is; by default the network and the training of `mw demo`.

    Attributes:
        hidden: Widths of the hidden layers.
        images: How many images there are in all; None for all 1797.
        base_images: So many are seen by the base, in all views.
        base_epochs: How often.
        expert_epochs: How often each expert sees the images of `tune` in its view.
    """

    hidden: tuple[int, ...] = (384, 384, 384)
    images: int | None = None
    base_images: int = 48
    base_epochs: int = 60
    expert_epochs: int = 10


#: The same in a second.
SMALL = Scale(hidden=(24, 24), images=400, base_epochs=20, expert_epochs=4)


@dataclass(frozen=True)
class Experts:
    """Models for one seed: a base that has seen few images in every view, and one expert tuned from it for each task.

    Heads stay frozen in tuning, so that one head serves all.

    Attributes:
        tasks: By name.
        base: The weights the experts were tuned from.
        tuned: The experts' weights by task.
    """

    tasks: Mapping[str, Classification]
    base: Weights
    tuned: Mapping[str, Weights]

    def deltas(self, names: Sequence[str] | None = None) -> list[Array]:
        """Task vectors as one long row each."""
        return [row(self.tuned[name]) - row(self.base) for name in names or self.tuned]

    def merged(self, method: str, names: Sequence[str] | None = None, **parameters: Any) -> Weights:
        """Some of the experts, or all, merged by the library."""
        models = [self.tuned[name] for name in names or self.tuned]
        base = None if method == "linear" else self.base
        return merge(models, base=base, method=method, **parameters).arrays()

    def along(self, method: str, names: Sequence[str] | None = None, **parameters: Any) -> Callable[[float], Weights]:
        """The same at any scale: the merged task vector is multiplied by it last, so that one merge serves all."""
        whole = self.merged(method, names, lambda_=1.0, **parameters)
        return lambda scale: {k: base + np.float32(scale) * (whole[k] - base) for k, base in self.base.items()}

    def for_search(self) -> Experts:
        """The same with tasks that have no `test`."""
        return Experts({name: task.for_search() for name, task in self.tasks.items()}, self.base, self.tuned)

    def validation(self, weights: Weights, names: Sequence[str] | None = None) -> float:
        """Mean accuracy on the validation images of some tasks, or of all: what choices are made by."""
        return float(np.mean([hits(weights, self.tasks[name], "validation").mean() for name in names or self.tuned]))

    def best_scale(
        self, along: Callable[[float], Weights], names: Sequence[str] | None = None, scales: Sequence[float] = SCALES
    ) -> tuple[float, list[float]]:
        """The scale with the highest validation accuracy, the smallest of several; and what each came to."""
        search = self.for_search()
        scores = [search.validation(along(scale), names) for scale in scales]
        return scales[int(np.argmax(scores))], scores

    def measure(
        self, into: Measured, seed: int, name: Any, weights: Weights, names: Sequence[str] | None = None
    ) -> None:
        """Keep, for each test image, in what share of some tasks it is classified rightly."""
        into.add(seed, name, np.mean([hits(weights, self.tasks[task], "test") for task in names or self.tuned], axis=0))


def row(weights: Weights) -> Array:
    """All weights in one row."""
    return np.concatenate([array.reshape(-1) for array in weights.values()])


def experts(seed: int, names: Sequence[str], scale: Scale, held_out: Sequence[str] = ()) -> Experts:
    """Train a base and one expert for each of some views.

    Args:
        seed: Decides splits, views, initial weights and the order of images.
        names: The tasks that have experts.
        scale: How large.
        held_out: Further tasks, which the base has seen too, and which have no expert.
    """
    parts, shown = digits(seed, scale.images), views(np.random.default_rng((seed, 1)))
    tasks = {name: digits_task(name, parts, shown[name]) for name in (*names, *held_out)}
    start = random_mlp(SIDE * SIDE, scale.hidden, CLASSES, np.random.default_rng((seed, 2)))
    training = Training(scale.base_epochs, rate=0.05)
    base = train_mlp(start, *pooled(tasks, scale.base_images), training, np.random.default_rng((seed, 3)))
    tuning = Training(scale.expert_epochs, rate=0.01, frozen=HEAD)
    tuned = {
        name: train_mlp(base, *pooled({name: tasks[name]}), tuning, np.random.default_rng((seed, 10 + i)))
        for i, name in enumerate(names)
    }
    return Experts(tasks, base, tuned)
