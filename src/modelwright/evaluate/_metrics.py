"""What is measured: a score for each item, and how scores come to one figure."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.predictions.measures import brier_scores, nll_scores

Scores = Callable[[Any, Any], np.ndarray]


@dataclass(frozen=True)
class Whole:
    """The columns of one system's records that a figure over a whole set is made from.

    Attributes:
        answers: Text (n,).
        targets: Text (n,).
        scores: float64 (n,).
        weights: float64 (n,).
        probabilities: float64 (n, classes) or None.
        classes: Names of the classes; empty where there are none.
    """

    answers: np.ndarray
    targets: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    probabilities: np.ndarray | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metric:
    """One way to judge answers.

    Attributes:
        name: How tasks, tables and gates call it.
        title: In words, with its unit or range.
        asks: Which kind of answer it judges: `probabilities`, `values`, `loglikelihoods` or `texts`. `figures` were judged
            elsewhere.
        score: Scores of n items from (answers, targets), float64 (n,).
        total: The figure for a set; None is the mean of the scores, weighted by the items' weights.
        higher_is_better: Which of two figures is the better one.
        bounded: Whether the figure is a share in [0, 1], so that tables show it in per cent.
    """

    name: str
    title: str
    asks: str
    score: Scores
    total: Callable[[Whole], float] | None = None
    higher_is_better: bool = True
    bounded: bool = True

    @property
    def flips(self) -> bool:
        """Whether a score of 1 says that an answer is right, so that systems can be compared by what they have wrong."""
        return self.higher_is_better and self.asks != "values"

    def figure(self, whole: Whole) -> float:
        """The figure for a set of items."""
        if self.total is not None:
            return float(self.total(whole))
        return _weighted(whole)

    def of_probabilities(self, probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Scores of class probabilities (n, C) against class indices (n,)."""
        self._must_ask("probabilities")
        return self.score(probabilities, targets)

    def of_values(self, values: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Scores of numbers (n,) against numbers (n,)."""
        self._must_ask("values")
        return self.score(values, targets)

    def of_loglikelihoods(self, totals: np.ndarray, amounts: np.ndarray) -> np.ndarray:
        """Scores of log-likelihoods in nats (n,) of so many tokens or bytes (n,)."""
        self._must_ask("loglikelihoods")
        return self.score(totals, amounts)

    def of_texts(self, answers: Sequence[str], targets: Sequence[tuple[str, ...]]) -> np.ndarray:
        """Scores of texts against the texts that are accepted."""
        self._must_ask("texts")
        return self.score(answers, targets)

    def _must_ask(self, asks: str) -> None:
        if self.asks != asks:
            raise InputError(f"the metric '{self.name}' judges {self.asks}, and the task gives {asks}")


def _weighted(whole: Whole) -> float:
    """The mean of the scores by the items' weights; NaN where all of them are 0."""
    return float(np.average(whole.scores, weights=whole.weights)) if whole.weights.any() else float("nan")


def _hits(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return (probabilities.argmax(axis=1) == targets).astype(np.float64)


def _macro_f1(whole: Whole) -> float:
    from sklearn.metrics import f1_score

    return f1_score(whole.targets, whole.answers, average="macro", zero_division=0)  # type: ignore[reportArgumentType]


def _balanced(whole: Whole) -> float:
    return float(np.mean([whole.scores[whole.targets == name].mean() for name in np.unique(whole.targets)]))


def _mcc(whole: Whole) -> float:
    from sklearn.metrics import matthews_corrcoef

    return matthews_corrcoef(whole.targets, whole.answers)


def _numbers(whole: Whole) -> tuple[np.ndarray, np.ndarray]:
    return whole.answers.astype(np.float64), whole.targets.astype(np.float64)


def _r2(whole: Whole) -> float:
    from sklearn.metrics import r2_score

    answers, targets = _numbers(whole)
    return float(r2_score(targets, answers))


def _pearson(whole: Whole) -> float:
    from scipy.stats import pearsonr

    return float(pearsonr(*_numbers(whole))[0])  # type: ignore[reportArgumentType]


def _spearman(whole: Whole) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(*_numbers(whole))[0])  # type: ignore[reportArgumentType]


def _squared(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return (values - targets) ** 2


def _absolute(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.abs(values - targets)


def _nats(values: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Mean negative log-likelihood per token, from log-likelihoods in nats."""
    return -values / tokens


def _bits(values: np.ndarray, nbytes: np.ndarray) -> np.ndarray:
    return -values / np.log(2) / nbytes


def _perplexity(whole: Whole) -> float:
    return float(np.exp(_weighted(whole)))


def _any_target(judge: Callable[[str, str], float]) -> Scores:
    """The best score of an answer among the targets that are accepted; targets are tuples of texts."""

    def scores(answers: Any, targets: Any) -> np.ndarray:
        each = [max(judge(a, t) for t in accepted) for a, accepted in zip(answers, targets, strict=True)]
        return np.array(each, dtype=np.float64)

    return scores


#: A sign belongs to a number where no word or number stands before it ("10-12" has none), a comma where three digits follow.
_NUMBER = re.compile(r"(?:(?<![\w.)\]])[-+])?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def number_in(text: str) -> float | None:
    """The last number in a text, commas between thousands left out; None where there is none."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def near(answer: str, target: str, tolerance: float = 1e-6) -> float:
    """Whether two texts' last numbers differ by at most `tolerance` times the larger of 1 and the target."""
    a, t = number_in(answer), number_in(target)
    return float(a is not None and t is not None and abs(a - t) <= tolerance * max(1.0, abs(t)))


def normalised(text: str) -> str:
    """A text as SQuAD compares it: lower case, without punctuation and English articles, one space between words."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _token_f1(answer: str, target: str) -> float:
    a, t = normalised(answer).split(), normalised(target).split()
    if not a or not t:
        return float(a == t)
    shared = sum((Counter(a) & Counter(t)).values())
    return 2 * shared / (len(a) + len(t))


def _custom(answers: Any, targets: Any) -> np.ndarray:
    raise InputError("the metric 'custom' needs the function that judges", "Write function: module:name.")


def _given(answers: Any, targets: Any) -> np.ndarray:
    return np.asarray(answers, dtype=np.float64)


_ALL = (
    Metric("accuracy", "share of right answers", "probabilities", _hits),
    Metric("balanced_accuracy", "mean over classes of the share of right answers", "probabilities", _hits, _balanced),
    Metric("macro_f1", "mean over classes of F1", "probabilities", _hits, _macro_f1),
    Metric("mcc", "Matthews correlation, in [-1, 1]", "probabilities", _hits, _mcc, bounded=False),
    Metric("log_loss", "negative log-likelihood in nats", "probabilities", nll_scores, None, False, False),
    Metric("brier", "Brier score summed over classes, in [0, 2]", "probabilities", brier_scores, None, False, False),
    Metric("squared_error", "mean squared error", "values", _squared, None, False, False),
    Metric("absolute_error", "mean absolute error", "values", _absolute, None, False, False),
    Metric("r2", "coefficient of determination", "values", _squared, _r2, bounded=False),
    Metric("pearson", "Pearson correlation", "values", _squared, _pearson, bounded=False),
    Metric("spearman", "Spearman rank correlation", "values", _squared, _spearman, bounded=False),
    Metric("perplexity", "exp of the mean nats per token", "loglikelihoods", _nats, _perplexity, False, False),
    Metric("bits_per_byte", "bits per byte of text", "loglikelihoods", _bits, None, False, False),
    Metric("exact_match", "share of answers that are the target", "texts", _any_target(lambda a, t: float(a == t))),
    Metric("contains", "share of answers that contain the target", "texts", _any_target(lambda a, t: float(t in a))),
    Metric("number_match", "share of answers whose last number is the target's", "texts", _any_target(near)),
    Metric(
        "normalised_match",
        "share of answers that are the target but for case, punctuation and articles",
        "texts",
        _any_target(lambda a, t: float(normalised(a) == normalised(t))),
    ),
    Metric("token_f1", "mean F1 of the answer's words and the target's", "texts", _any_target(_token_f1)),
    Metric("custom", "mean score by a function of yours", "texts", _custom, bounded=False),
    Metric("figure", "as its source gave it, the higher the better", "figures", _given, bounded=False),
    Metric("loss", "as its source gave it, the lower the better", "figures", _given, None, False, False),
)
#: Every metric by its name.
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}


def metric(name: str | Metric) -> Metric:
    """A metric by its name.

    Raises:
        InputError: There is none of that name.
    """
    if isinstance(name, Metric):
        return name
    if name not in METRICS:
        raise InputError(f"there is no metric '{name}'", did_you_mean(name, METRICS))
    return METRICS[name]
