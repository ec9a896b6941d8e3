"""Model soups: is the average of a sweep's models as good as the best of them, and better where data shift?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modelwright.api import merge
from modelwright.evaluate import Classification, Items, greedy_soup, validation_score
from modelwright.studies._digits import digits, digits_task, hits
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.suites._views import CLASSES, SIDE
from modelwright.tensors import Array
from modelwright.train import MlpPredictor, Training, Weights, random_mlp, train_mlp

HIDDEN, SMALL_HIDDEN = (128, 128), (24, 24)
MODELS = 8
#: The sweep: each model draws one value of each, beside its own order of images.
RATES, DECAYS, NOISES = (1e-3, 3e-3, 1e-2), (0.0, 0.01, 0.1), (0.0, 0.1, 0.2)
PRE_EPOCHS, FINE_EPOCHS = 10, 15
#: Test images that are not like those that were learnt from: with noise of this size, and one pixel to the right.
NOISE = 0.3
SHIFTED = ("noisy", "moved")
#: How far below the best single model still counts as within noise; what counts as clearly better; and as near chance.
WITHIN, CLEARLY, CHANCE = 0.01, 0.01, 0.30


def experiment(setting: Setting) -> Findings:
    """One start, eight fine-tuned models, their soups; and eight models that were started apart."""
    measured = Measured()
    for seed in setting.each_seed():
        tasks, learnt = _data(seed, 500 if setting.smoke else None)
        hidden, effort = (SMALL_HIDDEN, 0.3) if setting.smoke else (HIDDEN, 1.0)
        tuned = _sweep(seed, learnt, hidden, effort)
        _soups(measured, seed, tasks, tuned)
        _apart(measured, seed, tasks, learnt, hidden, effort)
    return Findings(
        parts=_parts(measured),
        figures=_figures(measured),
        tables=(_table(measured), _apart_table(measured)),
        plots=(_trace_plot(measured),),
        notes=(
            "Digits and a small perceptron; the paper tunes CLIP and ViT models on ImageNet. The start has learnt from half "
            "of the training images, the eight models are tuned on the other half.",
            f"Shifted images: the test images with Gaussian noise of {NOISE:g} (of a range of 1), and moved by one pixel; "
            "the mean of both.",
            "The greedy soup and the best single model are chosen on the validation images. That the soup is never worse "
            "there, and no step makes it so, is how it is made: a check of the study.",
            "The claim is the paper's title. The statement that the greedy soup is better than the best single model was added "
            "after the first runs, because the title says no less.",
        ),
    )


def _data(seed: int, most: int | None) -> tuple[dict[str, Classification], tuple[Items, Items]]:
    """The test as it is and shifted, as tasks; and the two halves of the training images, both stratified."""
    from sklearn.model_selection import train_test_split

    parts = digits(seed, most)
    rng = np.random.default_rng((seed, 50))
    tasks = {"digits": digits_task("digits", parts, lambda images: images)}
    for name, shift in _shifts(rng).items():
        tasks[name] = digits_task(name, {"test": parts["test"]}, shift)
    tune = tasks["digits"].items("tune")
    first, second = train_test_split(np.arange(len(tune)), test_size=0.5, stratify=tune.targets, random_state=seed)
    return tasks, (tune.take(list(first)), tune.take(list(second)))


def _shifts(rng: np.random.Generator) -> Mapping[str, Callable[[Array], Array]]:
    def moved(images: Array) -> Array:
        return np.pad(images, ((0, 0), (0, 0), (1, 0)))[:, :, :-1]

    return {
        "noisy": lambda images: images + rng.normal(0, NOISE, images.shape).astype(images.dtype),
        "moved": moved,
    }


def _sweep(seed: int, learnt: tuple[Items, Items], hidden: Sequence[int], effort: float) -> list[Weights]:
    """Models tuned from one start, head included."""
    first, second = learnt
    start = random_mlp(SIDE * SIDE, hidden, CLASSES, np.random.default_rng((seed, 51)))
    pre = Training(_epochs(PRE_EPOCHS, effort), 1e-3, optimiser="adam")
    start = train_mlp(start, *_arrays(first), pre, np.random.default_rng((seed, 52)))
    rng = np.random.default_rng((seed, 53))
    tuned: list[Weights] = []
    for i in range(MODELS):
        training = Training(
            _epochs(FINE_EPOCHS, effort),
            rate=float(rng.choice(RATES)),
            optimiser="adam",
            weight_decay=float(rng.choice(DECAYS)),
            noise=float(rng.choice(NOISES)),
        )
        tuned.append(train_mlp(start, *_arrays(second), training, np.random.default_rng((seed, 60 + i))))
    return tuned


def _apart(
    measured: Measured,
    seed: int,
    tasks: Mapping[str, Classification],
    learnt: tuple[Items, Items],
    hidden: Sequence[int],
    effort: float,
) -> None:
    """The control: eight models from starts of their own, trained on all that the others have seen."""
    inputs, labels = (np.concatenate(side) for side in zip(*map(_arrays, learnt), strict=True))
    training = Training(_epochs(PRE_EPOCHS + FINE_EPOCHS, effort), 1e-3, optimiser="adam")
    models: list[Weights] = []
    for i in range(MODELS):
        start = random_mlp(SIDE * SIDE, hidden, CLASSES, np.random.default_rng((seed, 70 + i)))
        models.append(train_mlp(start, inputs, labels, training, np.random.default_rng((seed, 80 + i))))
    singles = [hits(weights, tasks["digits"], "test") for weights in models]
    measured.add(seed, "apart, mean single", np.mean(singles, axis=0))
    measured.add(seed, "apart, uniform soup", hits(merge(models, method="linear").arrays(), tasks["digits"], "test"))


def _epochs(count: int, effort: float) -> int:
    return max(1, round(count * effort))


def _arrays(items: Items) -> tuple[Array, Array]:
    return np.asarray(items.inputs), np.asarray(items.targets)


def _soups(measured: Measured, seed: int, tasks: Mapping[str, Classification], tuned: Sequence[Weights]) -> None:
    score = validation_score([tasks["digits"]], lambda weights: MlpPredictor("soup", weights=weights.arrays()))
    soup = greedy_soup(tuned, score)
    measured.add(seed, "gain", soup.trace[-1] - max(soup.singles))
    measured.add(seed, "least step", min([*np.diff(soup.trace), 0.0]))
    measured.add(seed, "ingredients", len(soup.ingredients))
    for i in range(MODELS):
        measured.add(seed, ("trace", i), soup.trace[min(i, len(soup.trace) - 1)])
        measured.add(seed, ("alone", i), soup.singles[soup.order[i]])
    systems = {
        "best single": [tuned[soup.order[0]]],
        "mean single": tuned,
        "greedy soup": [soup.weights.arrays()],
        "uniform soup": [merge(tuned, method="linear").arrays()],
    }
    for name, models in systems.items():
        right = {test: np.mean([hits(w, task, "test") for w in models], axis=0) for test, task in tasks.items()}
        for test, scores in right.items():
            measured.add(seed, (name, test), scores)
        measured.add(seed, (name, "shifted"), np.mean([right[test] for test in SHIFTED], axis=0))


_SYSTEMS = ("best single", "mean single", "greedy soup", "uniform soup")


def _parts(measured: Measured) -> Sequence[Part]:
    def gain(first: str, second: str, test: str) -> Any:
        return measured.interval(lambda mean: mean((first, test)) - mean((second, test)))

    return (
        Part(
            "greedy on validation",
            "On the images it was chosen with the greedy soup is never worse than the best single model",
            measured.range(lambda mean: mean("gain")),
            ">=",
            0.0,
            decides=False,  # it cannot come out otherwise
        ),
        Part(
            "greedy steps",
            "No step makes the greedy soup worse",
            measured.range(lambda m: m("least step")),
            ">=",
            0.0,
            decides=False,  # nor can this
        ),
        Part(
            "greedy on test",
            "On test images the greedy soup is at most 1 point below the best single model",
            gain("greedy soup", "best single", "digits"),
            ">",
            -WITHIN,
        ),
        Part(
            "greedy improves",
            "On test images the greedy soup is better than the best single model",
            gain("greedy soup", "best single", "digits"),
            ">",
            0.0,
        ),
        Part(
            "uniform on test",
            "The uniform soup is better than a single model is on average",
            gain("uniform soup", "mean single", "digits"),
            ">",
            0.0,
        ),
        Part(
            "uniform on shifted",
            "On shifted images it is better by more than 1 point",
            gain("uniform soup", "mean single", "shifted"),
            ">",
            CLEARLY,
        ),
        Part(
            "one start",
            "A uniform soup of models that were started apart is near chance",
            measured.interval(lambda mean: mean("apart, uniform soup")),
            "<",
            CHANCE,
        ),
        Part(
            "uniform over best",
            "On shifted images the uniform soup is better than the best single model",
            gain("uniform soup", "best single", "shifted"),
            ">",
            0.0,
            decides=False,
        ),
    )


def _figures(measured: Measured) -> dict[str, Figure]:
    figures = {
        f"{name}, {test}": Figure(
            f"accuracy on {'the test images' if test == 'digits' else 'shifted test images'}: {name}",
            measured.interval(lambda mean, k=(name, test): mean(k)),
        )
        for name in _SYSTEMS
        for test in ("digits", "shifted")
    }
    count = measured.interval(lambda mean: mean("ingredients"))
    figures["ingredients"] = Figure(f"models in the greedy soup, of {MODELS}", count, unit="")
    return figures


def _table(measured: Measured) -> Table:
    tests = ("digits", *SHIFTED, "shifted")
    rows = [(name, *(measured.interval(lambda mean, k=(name, t): mean(k)) for t in tests)) for name in _SYSTEMS]
    columns = ("", "test images", "with noise", "moved", "mean of both")
    return Table("Accuracy on test images, as they are and shifted", columns, tuple(rows))


def _apart_table(measured: Measured) -> Table:
    rows = [
        (name, measured.interval(lambda mean, n=name: mean(f"apart, {n}"))) for name in ("mean single", "uniform soup")
    ]
    return Table("The control: models that were started apart", ("", "test images"), tuple(rows))


def _trace_plot(measured: Measured) -> Plot:
    lines = {
        title: [(i + 1.0, measured.interval(lambda mean, k=(key, i): mean(k))) for i in range(MODELS)]
        for title, key in (("greedy soup so far", "trace"), ("the model alone", "alone"))
    }
    return Plot("How greedy soups grow", "models, best first", "validation accuracy", lines)


MODEL_SOUPS = Study(
    id="model-soups",
    title="Model soups",
    paper="arXiv:2203.05482",
    claim="Averaging weights of multiple fine-tuned models improves accuracy without increasing inference time.",
    experiment=experiment,
    seeds=10,
)
