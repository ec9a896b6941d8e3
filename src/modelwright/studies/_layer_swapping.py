"""Layer swapping: do the outer layers of one expert around the middle layers of another do both things at once?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.api import merge
from modelwright.evaluate import METRICS, Classification, Items, Splits
from modelwright.studies._digits import SCALES, digits, hits
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.suites._views import CLASSES, SIDE
from modelwright.tensors import Array
from modelwright.train import HEAD, Training, Weights, random_mlp, train_mlp

DEPTH, WIDTH, SMALL_WIDTH = 6, 128, 24
BASE_EPOCHS, EXPERT_EPOCHS, RATE = 30, 40, 1e-3
#: Images that a base which knows the language has seen in it.
SEEN = 200
#: What the task makes of a digit: this much more, beginning again at 0.
ADDED = 3
#: Layers that are the language's. The method's own defaults are shares of the paper's 32.
ZONES: dict[str, dict[str, Any]] = {
    "layer swap": {"bottom": 2, "top": 1, "transition_bottom": 0, "transition_top": 0},
    "with transitions": {"bottom": 1, "top": 1, "transition_bottom": 1, "transition_top": 1},
}
#: Which layers each expert tunes where the changes are kept apart.
OUTER = tuple(f"layers.{i}.{part}" for i in (0, 1, DEPTH - 1) for part in ("weight", "bias")) + HEAD
MIDDLE = tuple(f"layers.{i}.{part}" for i in range(2, DEPTH - 1) for part in ("weight", "bias"))
#: What the swap must come to where nothing is lost in putting the changes together.
KEPT = 0.8


def experiment(setting: Setting) -> Findings:
    """A base, an expert in a task and one in a language, tuned freely and apart; and what is made of the two."""
    measured = Measured()
    for seed in setting.each_seed():
        world = _world(seed, 400 if setting.smoke else None)
        for kind in _KINDS:
            _measure(measured, seed, kind, world, _experts(seed, world, kind, setting.smoke))
    return Findings(
        parts=_parts(measured),
        figures={
            f"{system}, {kind}": Figure(
                f"accuracy on the task in the language, {_KINDS[kind]}: {system}",
                measured.interval(lambda mean, s=system, k=kind: mean((k, s, "both"))),
            )
            for kind in _KINDS
            for system in _SYSTEMS
        },
        tables=tuple(_table(measured, kind) for kind in _KINDS),
        plots=(_plot(measured),),
        notes=(
            f"A perceptron of {DEPTH} hidden layers on digits stands for a language model. The base names digits. The task is to name "
            f"the digit {ADDED} further on; the language is another order of the pixels and other names, both drawn for each seed. "
            "Nothing is trained on the task in the language.",
            "Experts tuned freely change all layers, as in the paper. Where changes are kept apart, the language's expert tunes the first "
            f"two layers, the last and the head, the task's the {DEPTH - 3} between: then the swap has all of both.",
            "The scale of task arithmetic is chosen on validation images of the task in the language, which the other rules never "
            "see: it is favoured.",
            f"A base that knows the language has learnt to name digits in it from {SEEN} images beside all the others. This was added after the "
            "first full run, in which no merge had come above chance, so that it is reported and decides nothing: the paper's base has read "
            "all of its languages.",
            "The paper merges Llama-3.1-8B models and asks for mathematics in four languages.",
        ),
    )


@dataclass(frozen=True)
class _World:
    """The same images, asked about in four ways: `base`, `task`, `language`, `both`."""

    tasks: Mapping[str, Classification]


def _world(seed: int, most: int | None) -> _World:
    parts = digits(seed, most)
    rng = np.random.default_rng((seed, 70))
    order, names = rng.permutation(SIDE * SIDE), rng.permutation(CLASSES)

    def clean(images: Array) -> Array:
        return images.reshape(len(images), -1)

    def written(images: Array) -> Array:
        return clean(images)[:, order]

    def further(labels: Array) -> Array:
        return (labels + ADDED) % CLASSES

    asked: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
        "base": (clean, lambda labels: labels),
        "task": (clean, further),
        "language": (written, lambda labels: names[labels]),
        "both": (written, lambda labels: names[further(labels)]),
    }
    return _World({name: _task(name, parts, *sides) for name, sides in asked.items()})


def _task(
    name: str, parts: Mapping[str, Items], inputs: Callable[[Array], Array], labels: Callable[[Array], Array]
) -> Classification:
    shown = {
        split: Items(items.ids, inputs(np.asarray(items.inputs)), labels(np.asarray(items.targets)))
        for split, items in parts.items()
    }
    words = tuple(str(i) for i in range(CLASSES))
    return Classification(name=name, splits=Splits(shown), metric=METRICS["accuracy"], names=words)


@dataclass(frozen=True)
class _Experts:
    base: Weights
    task: Weights
    language: Weights


def _experts(seed: int, world: _World, kind: str, smoke: bool) -> _Experts:
    width, effort = (SMALL_WIDTH, 0.2) if smoke else (WIDTH, 1.0)

    def trained(
        start: Weights, task: str, epochs: int, stream: int, frozen: tuple[str, ...] = (), seen: int = 0
    ) -> Weights:
        sets = [world.tasks[task].items("tune")]
        sets += [world.tasks["language"].items("tune").take(range(seen))] if seen else []
        inputs, labels = (
            np.concatenate([np.asarray(getattr(s, side)) for s in sets]) for side in ("inputs", "targets")
        )
        training = Training(max(1, round(epochs * effort)), RATE, optimiser="adam", frozen=frozen)
        return train_mlp(start, inputs, labels, training, np.random.default_rng((seed, stream)))

    start = random_mlp(SIDE * SIDE, [width] * DEPTH, CLASSES, np.random.default_rng((seed, 71)))
    base = trained(start, "base", BASE_EPOCHS, 72, seen=SEEN if kind == "known" else 0)
    apart = kind == "apart"
    return _Experts(
        base,
        task=trained(base, "task", EXPERT_EPOCHS, 73, OUTER if apart else ()),
        language=trained(base, "language", EXPERT_EPOCHS, 74, MIDDLE if apart else ()),
    )


def _measure(measured: Measured, seed: int, kind: str, world: _World, experts: _Experts) -> None:
    pair = [experts.task, experts.language]
    zones = ZONES["layer swap"]

    def along(scale: float) -> Weights:
        return merge(pair, base=experts.base, method="task_arithmetic", lambda_=scale).arrays()

    search = world.tasks["both"].for_search()
    scores = [float(hits(along(scale), search, "validation").mean()) for scale in SCALES]
    systems: dict[str, Weights] = {
        "base": experts.base,
        "task expert": experts.task,
        "language expert": experts.language,
        **{name: merge(pair, method="layer_swap", **chosen).arrays() for name, chosen in ZONES.items()},
        "middle swapped": merge(pair[::-1], method="layer_swap", **zones).arrays(),
        "averaging": merge(pair, method="linear").arrays(),
        "task arithmetic": along(SCALES[int(np.argmax(scores))]),
    }
    for system, weights in systems.items():
        for asked, task in world.tasks.items():
            measured.add(seed, (kind, system, asked), hits(weights, task, "test"))
    for bottom in range(DEPTH):
        chosen: dict[str, Any] = {**zones, "bottom": bottom}
        swapped = merge(pair, method="layer_swap", **chosen).arrays()
        measured.add(seed, (kind, "bottom", bottom), hits(swapped, world.tasks["both"], "test"))


_KINDS = {
    "free": "experts tuned freely",
    "apart": "changes kept apart",
    "known": "experts tuned freely from a base that knows the language",
}
_SYSTEMS = (
    "base", "task expert", "language expert", *ZONES, "middle swapped", "averaging", "task arithmetic",
)  # fmt: skip


def _parts(measured: Measured) -> Sequence[Part]:
    def gain(kind: str, other: str, first: str = "layer swap") -> Any:
        return measured.interval(lambda mean: mean((kind, first, "both")) - mean((kind, other, "both")))

    return (
        Part(
            "construction",
            "Where the changes are kept apart, the swap does the task in the language with at least 80 %",
            measured.interval(lambda mean: mean(("apart", "layer swap", "both"))),
            ">=",
            KEPT,
        ),
        *(
            Part(
                f"over the {expert}",
                f"The swap of freely tuned experts is better than the {expert}",
                gain("free", expert),
                ">",
                0.0,
            )
            for expert in ("task expert", "language expert")
        ),
        *(
            Part(f"over {rule}", f"It is better than {rule} of the two", gain("free", rule), ">", 0.0)
            for rule in ("averaging", "task arithmetic")
        ),
        Part(
            "which layers",
            "It matters which: with the middle layers swapped instead it is worse",
            gain("free", "middle swapped"),
            ">",
            0.0,
        ),
        *(
            Part(
                f"over {rule}, language known",
                f"From a base that knows the language the swap is better than {said}",
                gain("known", rule),
                ">",
                0.0,
                decides=False,
            )
            for rule, said in {
                "task expert": "the task expert",
                "language expert": "the language expert",
                "averaging": "averaging",
                "task arithmetic": "task arithmetic",
                "middle swapped": "swapping the middle instead",
            }.items()
        ),
        Part(
            "transitions",
            "Averaged layers between the zones make no difference of more than 2 points",
            measured.interval(
                lambda mean: np.abs(mean(("free", "with transitions", "both")) - mean(("free", "layer swap", "both")))
            ),
            "<",
            0.02,
            decides=False,
        ),
    )


def _table(measured: Measured, kind: str) -> Table:
    asked = {"base": "naming", "task": "the task", "language": "the language", "both": "both"}
    rows = [
        (system, *(measured.interval(lambda mean, s=system, a=a: mean((kind, s, a))) for a in asked))
        for system in _SYSTEMS
    ]
    return Table(f"Accuracy on the test images, {_KINDS[kind]}", ("system", *asked.values()), tuple(rows))


def _plot(measured: Measured) -> Plot:
    lines = {
        said: [
            (float(bottom), measured.interval(lambda mean, k=kind, b=bottom: mean((k, "bottom", b))))
            for bottom in range(DEPTH)
        ]
        for kind, said in _KINDS.items()
    }
    return Plot(
        "How many of the first layers are the language's",
        "layers of the language expert at the bottom",
        "accuracy on both",
        lines,
    )


LAYER_SWAPPING = Study(
    id="layer-swapping",
    title="Layer swapping",
    paper="arXiv:2410.01335",
    claim="The outer layers of a language's expert around the middle layers of a task's do the task in the language better than "
    "either expert, and than other merges of the two.",
    experiment=experiment,
)
