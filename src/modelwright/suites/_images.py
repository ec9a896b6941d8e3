"""Families of networks for small images: one body, and a head for each task that is fixed before any expert is tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from modelwright.api import content_hash
from modelwright.checkpoint import Checkpoint, open as open_checkpoint
from modelwright.errors import InputError, did_you_mean
from modelwright.evaluate import Classification, Items, Predictor, Size, Splits, metric
from modelwright.evaluate._predictor import needs, softmax
from modelwright.suites._cache import Cache, Kept, Trained, code_of, data_of, key_of, side_by_side
from modelwright.suites._family import Family
from modelwright.suites._packs import Images, image_splits, images
from modelwright.suites._schema import ImagesBase, ImagesFile, ImageTuning, Tuning
from modelwright.tensors import Array
from modelwright.train import Head, LinearHead, build, head_of

#: All code that trained weights depend on.
_CODE = tuple(
    f"modelwright.{name}"
    for name in ("suites._images", "suites._packs", "train._build", "train._vit", "train._cnn", "train._pixels", "train._trainer", "train._heads")
)  # fmt: skip


@dataclass
class BodyPredictor(Predictor):
    """What makes features of inputs, and heads; `for_task` chooses among them.

    Attributes:
        see: From a batch of inputs to features (n, width).
        heads: By the task's name.
        chosen: The task whose head answers; empty for none yet.
    """

    see: Callable[[Any], Array] = field(kw_only=True)
    heads: Mapping[str, Head] = field(kw_only=True)
    chosen: str = field(default="", kw_only=True)

    def for_task(self, task: Any) -> Predictor:
        """The same with the task's own head.

        Raises:
            InputError: There is no head for it.
        """
        if task.name not in self.heads:
            raise InputError(
                f"'{self.label}' has no head for the task '{task.name}'", did_you_mean(task.name, self.heads)
            )
        return replace(self, chosen=task.name)

    def probabilities(self, inputs: Any, classes: int) -> Array:
        """Class probabilities (n, classes) of n inputs.

        Raises:
            InputError: No task was chosen.
        """
        if not self.chosen:
            raise InputError(f"'{self.label}' has a head for each task", "Ask for_task(task) first.")
        return softmax(self.heads[self.chosen].logits(self.see(inputs)))


@dataclass(frozen=True, kw_only=True)
class ImagesFamily(Family):
    """Networks for images.

    Attributes:
        network: The configuration of the body.
        heads: By task: a linear probe of the base, the same for all models.
    """

    network: Mapping[str, Any]
    heads: Mapping[str, Head]

    @property
    def fingerprint(self) -> str:
        """Of the network's configuration and the heads."""
        return key_of({"network": dict(self.network), "heads": hashes_of(self.heads)})

    def system(self, weights: Checkpoint, label: str, *, device: str = "cpu") -> Predictor:
        """A body with these weights."""
        from modelwright.train._trainer import features, load

        body = load(build(self.network), weights.arrays(), device)
        return BodyPredictor(
            label, see=lambda pixels: features(body, np.asarray(pixels), device), heads=self.heads,
            fingerprint=key_of({"body": content_hash(weights), "beside": self.fingerprint}),
            size=Size(sum(ref.size for ref in weights.values()), weights.nbytes),
        )  # fmt: skip

    def reestimated(self, weights: Checkpoint, *, items: int = 256, device: str = "cpu") -> Checkpoint:
        """The same weights with the running statistics of batch normalisation taken anew, from `tune` items of all tasks.

        A post-step to name in tables: it needs inputs of the tasks, which averaging weights does not. Networks without
        batch normalisation come back as they are.

        Args:
            weights: Of a merged model.
            items: How many of each task.
            device: Where it is done.
        """
        from modelwright.train._trainer import arrays_of, load, reestimate_statistics

        body = load(build(self.network), weights.arrays(), device)
        parts = [np.asarray(task.items("tune").inputs)[:items] for task in self.tasks.values()]
        least = min(map(len, parts))
        mixed = [np.concatenate([part[i::8] for part in parts]) for i in range(min(8, least))]
        if not reestimate_statistics(body, mixed, device):
            return weights
        return open_checkpoint(arrays_of(body), label=f"{weights.label}, statistics taken anew")


def hashes_of(heads: Mapping[str, Head]) -> dict[str, str]:
    """A hash of each task's head."""
    return {name: data_of(*head.tensors().values()) for name, head in heads.items()}


def images_tasks(file: ImagesFile) -> dict[str, Classification]:
    """The tasks of a suite, all of one shape."""
    side = int(file.network.get("image_size", 32))
    result: dict[str, Classification] = {}
    for name, pack in file.tasks.items():
        found = images(pack, side)
        splits = image_splits(found, file.items.tune, file.items.validation, file.items.test)
        result[name] = Classification(name=name, splits=Splits(splits), metric=metric("accuracy"), names=found.classes)
    return result


def images_family(file: ImagesFile, seed: int, cache: Cache, device: str) -> ImagesFamily:
    """Train base, heads, experts and the model of all tasks together; or take them from the cache."""
    needs("torch", f"the suite '{file.name}'", "torch")
    from modelwright.train._trainer import one_thread, steady

    build(file.network)  # what is wrong with it is said before anything is trained
    tasks = images_tasks(file)
    tune = {name: task.items("tune") for name, task in tasks.items()}
    sets = {
        name: images(name, int(file.network.get("image_size", 32))) for name in {*file.base.sets, *file.base.turned}
    }
    common = {"seed": seed, "network": file.network, "device": device.partition(":")[0], "code": code_of(*_CODE)}
    with steady(device):
        about = {
            **common, "base": file.base.model_dump(),
            "data": {name: data_of(one.train, one.train_labels) for name, one in sorted(sets.items())},
        }  # fmt: skip
        base = cache.model(f"{file.name}-base", about, lambda: _base(file, sets, seed, device))
        data = {name: data_of(items) for name, items in tune.items()}
        made = cache.model(
            f"{file.name}-heads", {"base": base.key, "head": file.head.model_dump(), "data": data},
            lambda: _heads(file, base, tasks, device),
        )  # fmt: skip
        heads = heads_in(made)

        def tuned(name: str, names: Sequence[str], tuning: ImageTuning, number: int) -> Callable[[], Kept]:
            said = {
                **common, "heads": made.key, "data": {n: data[n] for n in names}, "tuning": tuning.model_dump(), "number": number
            }  # fmt: skip
            parts = [(tune[n], heads[n]) for n in names]
            train = partial(_tuned, file.network, base, parts, tuning, (seed, number), device, name)
            return partial(cache.model, f"{file.name}-{name}", said, train)

        jobs = {"multitask": tuned("multitask", list(tasks), file.multitask, 4)}
        jobs |= {name: tuned(name, [name], file.experts, 10 + i) for i, name in enumerate(tasks)}
        kept = side_by_side(jobs, before=one_thread)
    return ImagesFamily(
        name=file.name, seed=seed, base=base.open("base"), tasks=tasks, network=file.network, heads=heads,
        experts={name: kept[name].open(name) for name in tasks}, multitask=kept["multitask"].open("multitask"),
        seconds={"base": base.seconds, **{name: model.seconds for name, model in kept.items()}},
    )  # fmt: skip


def _base(file: ImagesFile, sets: Mapping[str, Images], seed: int, device: str) -> Trained:
    """A body trained on other images, each set with a linear head that is thrown away."""
    import torch

    from modelwright.train._build import start
    from modelwright.train._trainer import Schedule, arrays_of, fit

    generator = torch.Generator().manual_seed(seed)
    body: Any = build(file.network)
    start(body, generator)
    sources = _sources(file.base, sets, np.random.default_rng((seed, 1)))
    heads = torch.nn.ModuleList(torch.nn.Linear(body.width, classes) for _, classes in sources)
    with torch.no_grad():
        for head in heads.parameters():
            head.normal_(0, body.width**-0.5, generator=generator)
    whole = torch.nn.ModuleList([body, heads]).to(device)

    def loss(_step: int) -> Any:
        parts = [draw() for draw, _ in sources]
        found = body(torch.as_tensor(np.concatenate([inputs for inputs, _ in parts])).to(device))
        pieces = found.split([len(labels) for _, labels in parts])
        losses = [
            torch.nn.functional.cross_entropy(head(piece), torch.as_tensor(labels).to(device))
            for head, piece, (_, labels) in zip(heads, pieces, parts, strict=True)
        ]
        return torch.stack(losses).mean()

    last = fit(whole, loss, _schedule(file.base, Schedule), what=f"{file.name}, base")
    return Trained(file.network, arrays_of(body), note={"loss": last})


Draw = Callable[[], tuple[Array, Array]]


def _sources(base: ImagesBase, sets: Mapping[str, Images], rng: np.random.Generator) -> list[tuple[Draw, int]]:
    """What draws a batch of each set with its labels, or with the number of quarters it was turned by; and the classes."""
    from modelwright.train._trainer import batches

    each = max(1, base.batch // (len(base.sets) + len(base.turned)))

    def labelled(one: Images) -> Draw:
        positions = batches(len(one.train), each, rng)

        def draw() -> tuple[Array, Array]:
            chosen = next(positions)
            return one.train[chosen], one.train_labels[chosen]

        return draw

    def turned(one: Images) -> Draw:
        positions = batches(len(one.train), each, rng)

        def draw() -> tuple[Array, Array]:
            quarters = rng.integers(4, size=each)
            pictures = zip(one.train[next(positions)], quarters, strict=True)
            return np.stack([np.rot90(picture, k) for picture, k in pictures]), quarters

        return draw

    sources = [(labelled(sets[name]), len(sets[name].classes)) for name in base.sets]
    return sources + [(turned(sets[name]), 4) for name in base.turned]


def _heads(file: ImagesFile, base: Kept, tasks: Mapping[str, Classification], device: str) -> Trained:
    """The heads of all tasks: linear probes of the base on the first items of each class in `tune`."""
    from modelwright.train._trainer import features, load

    body = load(build(file.network), base.open("base").arrays(), device)
    tensors: dict[str, Array] = {}
    for name, task in tasks.items():
        head = _head(
            lambda pixels: features(body, pixels, device), task.items("tune"), len(task.names), file.head.shots
        )
        tensors |= {f"{name}.{part}": value for part, value in head.tensors().items()}
    return Trained({"model_type": "modelwright-heads", "tasks": list(tasks)}, tensors)


def _head(see: Callable[[Array], Array], items: Items, classes: int, shots: int) -> LinearHead:
    labels = np.asarray(items.targets)
    shown = np.concatenate([np.flatnonzero(labels == label)[:shots] for label in range(classes)])
    return LinearHead.probe(see(np.asarray(items.inputs)[shown]), labels[shown], classes)


def heads_in(made: Kept) -> dict[str, Head]:
    """The heads in a folder, by task."""
    by_task: dict[str, dict[str, Array]] = {}
    for name, value in made.open("heads").arrays().items():
        task, _, part = name.rpartition(".")
        by_task.setdefault(task, {})[part] = value
    return {task: head_of(parts) for task, parts in by_task.items()}


def _tuned(
    network: Mapping[str, Any], base: Kept, parts: Sequence[tuple[Items, Head]], tuning: ImageTuning,
    stream: tuple[int, int], device: str, what: str,
) -> Trained:  # fmt: skip
    """The base's body tuned on some tasks at once, each with its own head, which stays as it is."""
    import torch

    from modelwright.train._trainer import Schedule, arrays_of, batches, fit, load

    body = load(build(network), base.open("base").arrays(), device)
    rng = np.random.default_rng(stream)
    each = max(1, tuning.batch // len(parts))
    draws = [batches(len(items), each, rng) for items, _ in parts]
    logits = [_on_device(head, device) for _, head in parts]

    def loss(_step: int) -> Any:
        chosen = [next(draw) for draw in draws]
        shown = zip(parts, chosen, strict=True)
        inputs, labels = zip(
            *[(np.asarray(i.inputs)[at], np.asarray(i.targets)[at]) for (i, _), at in shown], strict=True
        )
        pieces = body(torch.as_tensor(np.concatenate(inputs)).to(device)).split(each)
        losses = [
            torch.nn.functional.cross_entropy(head(piece), torch.as_tensor(wanted).to(device))
            for head, piece, wanted in zip(logits, pieces, labels, strict=True)
        ]
        return torch.stack(losses).mean()

    last = fit(body, loss, _schedule(tuning, Schedule), what=what, statistics=tuning.statistics)
    return Trained(network, arrays_of(body), note={"loss": last})


def _on_device(head: Head, device: str) -> Callable[[Any], Any]:
    """A linear head as a function of torch features."""
    import torch

    tensors = head.tensors()
    weight, bias = torch.as_tensor(tensors["weight"]).to(device), torch.as_tensor(tensors["bias"]).to(device)
    return lambda found: found @ weight.T + bias


def _schedule(tuning: Tuning, kind: Any) -> Any:
    return kind(steps=tuning.steps, rate=tuning.rate, batch=tuning.batch, weight_decay=tuning.weight_decay)
