"""Tasks for language models: perplexity of texts, multiple choice by likelihood, and generate-and-match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from modelwright.errors import InputError, RunError, did_you_mean
from modelwright.evaluate import _named
from modelwright.evaluate._items import Items
from modelwright.evaluate._metrics import Scores, near
from modelwright.evaluate._predictor import Likelihood, Predictor, Rolling, Sampling, softmax
from modelwright.evaluate._records import Part
from modelwright.evaluate._task import Scored, Task
from modelwright.predictions import source_hash

#: What a choice's log-likelihood is divided by, or what is subtracted from it, before choices are compared.
Normalisation = Literal["none", "token", "byte", "character", "unconditional"]
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)


class Passage(NamedTuple):
    """A stretch of a document, and what stands before it there."""

    before: str
    text: str


class Question(NamedTuple):
    """A context, and the texts of which one should follow it."""

    context: str
    choices: tuple[str, ...]


def _nbytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _check_finite(predictor: Predictor, found: Sequence[Likelihood], names: Sequence[str]) -> None:
    for answer, name in zip(found, names, strict=True):
        if not np.isfinite(answer.total):
            raise RunError(f"'{predictor.label}' gave a log-likelihood that is not finite for item '{name}'")


def _must_be_one_of(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise InputError(f"{what} cannot be '{name}'", did_you_mean(name, known))


@dataclass(frozen=True, kw_only=True)
class Perplexity(Task):
    """How well texts are predicted, token by token.

    Items are passages of documents (`passages`), cut in the text and not in its tokens, so that systems with different
    tokenizers have the same items. The metric `perplexity` has mean nats per token as its scores, tokens as its weights,
    and exp of their weighted mean as its figure; figures of different tokenizers do not compare. `bits_per_byte` does:
    its weights are the passage's bytes in UTF-8, which are the same for all. Answers are log-likelihoods in nats and
    targets are bytes, so that one can be had from the records of the other.

    Attributes:
        rolling: The windows of tokens in which a passage is read, what stands before it included.

    Raises:
        InputError: The metric is another one.
    """

    rolling: Rolling = field(default_factory=Rolling)
    asks: str = "loglikelihoods"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What, beside the items, the score depends on."""
        return {**super().settings, "length": self.rolling.length, "stride": self.rolling.stride}

    def check(self, items: Items, split: str) -> None:
        """Passages must have a text."""
        for name, passage in zip(items.ids, items.inputs, strict=True):
            if not Passage(*passage).text:
                raise InputError(f"{split}: a passage must have a text, and that of item '{name}' is empty")

    def score(self, predictor: Predictor, items: Items) -> Scored:
        """The log-likelihood of each passage after what stands before it."""
        found = predictor.loglikelihoods([(p[0], p[1]) for p in items.inputs], self.rolling)
        _check_finite(predictor, found, items.ids)
        totals = np.array([f.total for f in found], dtype=np.float64)
        tokens = np.array([f.tokens for f in found])
        nbytes = np.array([_nbytes(p[1]) for p in items.inputs])
        weights = (tokens if self.metric.name == "perplexity" else nbytes).astype(np.float64)
        return Scored(
            answers=[repr(float(t)) for t in totals],
            targets=[str(n) for n in nbytes],
            scores=self.metric.of_loglikelihoods(totals, weights),
            weights=weights,
            calls=np.array([f.calls for f in found]),
            tokens_in=tokens + [f.context_tokens for f in found],
        )


def bits_per_byte(part: Part) -> float:
    """Bits per byte from the records of a `Perplexity` task, whichever its metric.

    Raises:
        InputError: The records are of another kind of task.
    """
    if part.head.metric not in ("perplexity", "bits_per_byte"):
        raise InputError(f"bits per byte come from records of perplexity, and these are of '{part.head.metric}'")
    nats = -part.column("answer").astype(np.float64).sum()
    return float(nats / np.log(2) / part.column("target").astype(np.float64).sum())


def passages(documents: Mapping[str, str], piece: int | None = 2048, before: int = 0) -> Items:
    """Documents cut into passages: the items of a `Perplexity` task.

    Args:
        documents: Texts by their names.
        piece: Most characters of a passage; None leaves documents whole. A passage ends after a line, else before white
            space, where its second half has one, so that words stay whole.
        before: Most characters of the same document that a passage is read after.

    Returns:
        Items whose ids are `name:offset` in characters; every character of a document is in exactly one of them.

    Raises:
        InputError: A number is out of its range, or the documents are empty.
    """
    if piece is not None and piece < 1:
        raise InputError(f"piece must be at least 1 character, got {piece}")
    if before < 0:
        raise InputError(f"before must be at least 0 characters, got {before}")
    ids: list[str] = []
    inputs: list[Passage] = []
    for name, text in documents.items():
        for start, end in _pieces(text, piece or max(len(text), 1)):
            ids.append(f"{name}:{start}")
            inputs.append(Passage(text[max(0, start - before) : start], text[start:end]))
    return Items(tuple(ids), inputs, [_nbytes(p.text) for p in inputs])


def _pieces(text: str, size: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        if end < len(text):
            middle = start + size // 2
            line = text.rfind("\n", middle, end)
            # White space goes to the passage that follows: tokens of most tokenizers begin with it.
            space = max((i for i in range(middle + 1, end + 1) if text[i].isspace()), default=-1)
            end = line + 1 if line >= 0 else space if space > start else end
        yield start, end
        start = end


@dataclass(frozen=True, kw_only=True)
class Choice(Task):
    """Multiple choice: which text is the most probable after a context.

    Items are `Question`s, targets are positions of the right choice. The answer is the position of the choice with the
    highest log-likelihood, normalised; the first of equal ones. Probabilities are the softmax over the choices of what
    they are compared by. Metrics: `accuracy`, `log_loss`, `brier`.

    Attributes:
        normalisation: `none`: the log-likelihood itself; `token`, `byte`, `character`: divided by the number of them in
            the choice; `unconditional`: minus the choice's log-likelihood after `unconditional` alone.
        delimiter: What stands between context and choice; scored with the choice, and not counted as its bytes.
        unconditional: The context that does not ask.
        choices: How many choices every item has; None where that differs.

    Raises:
        InputError: The metric or the normalisation is another one.
    """

    normalisation: Normalisation = "none"
    delimiter: str = " "
    unconditional: str = ""
    choices: int | None = None
    asks: str = "probabilities"

    def __post_init__(self) -> None:
        super().__post_init__()
        _must_be_one_of("the metric of a choice task", self.metric.name, ("accuracy", "log_loss", "brier"))
        _must_be_one_of("the normalisation", self.normalisation, NORMALISATIONS)

    @property
    def classes(self) -> tuple[str, ...]:
        """The positions of the choices, where every item has as many."""
        return tuple(str(i) for i in range(self.choices or 0))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What, beside the items, the score depends on."""
        own = {"normalisation": self.normalisation, "delimiter": self.delimiter, "unconditional": self.unconditional}
        return {**super().settings, **own}

    def check(self, items: Items, split: str) -> None:
        """Choices must be several texts, and the answer the position of one that is there once."""
        for name, (_, choices), target in zip(items.ids, items.inputs, items.targets, strict=True):
            where = f"{split}, item '{name}'"
            if len(choices) < 2 or (self.choices is not None and len(choices) != self.choices):
                raise InputError(f"{self.choices or 'several'} choices are needed, got {len(choices)}", where=where)
            if "" in choices:
                raise InputError(f"choices must not be empty, got {list(choices)}", where=where)
            if isinstance(target, bool) or not isinstance(target, (int, np.integer)):
                raise InputError(f"the answer must be the position of a choice, got {target!r}", where=where)
            if not 0 <= target < len(choices):
                raise InputError(
                    f"the answer must be in [0, {len(choices) - 1}] for {len(choices)} choices, got {target}",
                    "Positions count from 0.",
                    where,
                )
            if choices.count(choices[target]) > 1:
                raise InputError(
                    f"the right choice must be there once, got {choices[target]!r} more than once",
                    "Leave the item out; a task file does with ambiguous: drop.",
                    where,
                )

    def score(self, predictor: Predictor, items: Items) -> Scored:
        """Log-likelihoods of all choices of all items, asked for together."""
        pairs = [(context, self.delimiter + c) for context, choices in items.inputs for c in choices]
        names = [name for name, (_, choices) in zip(items.ids, items.inputs, strict=True) for _ in choices]
        found = list(predictor.loglikelihoods(pairs))
        _check_finite(predictor, found, names)
        alone: list[Likelihood] = []
        if self.normalisation == "unconditional":
            alone = list(predictor.loglikelihoods([(self.unconditional, text) for _, text in pairs]))
            _check_finite(predictor, alone, names)
        compared = self._compared([c for _, cs in items.inputs for c in cs], found, alone)
        ends = np.cumsum([len(choices) for _, choices in items.inputs])[:-1]
        rows = np.split(compared, ends)
        probabilities = [softmax(row) for row in rows]
        judged = [
            self.metric.of_probabilities(p[None], np.array([t]))
            for p, t in zip(probabilities, items.targets, strict=True)
        ]

        def summed(values: Iterable[int]) -> np.ndarray:
            return np.array([part.sum() for part in np.split(np.fromiter(values, np.int64), ends)])

        both = [(f, *alone[i : i + 1]) for i, f in enumerate(found)]
        return Scored(
            answers=[str(row.argmax()) for row in rows],
            targets=[str(t) for t in items.targets],
            scores=np.concatenate(judged),
            probabilities=probabilities,
            confidences=np.array([p.max() for p in probabilities]),
            calls=summed(sum(f.calls for f in each) for each in both),
            tokens_in=summed(sum(f.tokens + f.context_tokens for f in each) for each in both),
        )

    def _compared(self, choices: Sequence[str], found: Sequence[Likelihood], alone: Sequence[Likelihood]) -> np.ndarray:
        """What choices are compared by, float64 (all choices of all items,)."""
        totals = np.array([f.total for f in found], dtype=np.float64)
        match self.normalisation:
            case "none":
                return totals
            case "token":
                return totals / np.array([f.tokens for f in found])
            case "byte":
                return totals / np.array([_nbytes(c) for c in choices])
            case "character":
                return totals / np.array([len(c) for c in choices])
            case "unconditional":
                return totals - np.array([f.total for f in alone])


@dataclass(frozen=True, kw_only=True)
class Generation(Task):
    """Generate a text and compare it with the targets.

    Items' inputs are prompts, and their targets texts or tuples of texts of which any is right. Metrics: `exact_match`,
    `contains`, `number_match`, `normalised_match`, `token_f1`, and `custom`. Texts are compared without white space at
    their ends.

    Attributes:
        sampling: How text is generated.
        extract: A regular expression that finds the answer in the text: its first group, or the whole match. What
            matches nothing is an empty answer, and scores as one.
        which: Which of several matches is the answer.
        tolerance: For `number_match`: the largest difference, as a share of the larger of 1 and the target.
        function: For `custom`: `module:name` or `file.py:name` of a function from (answer, targets) to a score, the higher
            the better; targets are a tuple of texts.

    Raises:
        InputError: The metric is another one, the expression is none, or the function cannot be found.
    """

    sampling: Sampling = field(default_factory=Sampling)
    extract: str | None = None
    which: Literal["first", "last"] = "first"
    tolerance: float = 1e-6
    function: str | None = None
    asks: str = "texts"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tolerance < 0:
            raise InputError(f"tolerance must be at least 0, got {self.tolerance}")
        _must_be_one_of("which", self.which, ("first", "last"))
        if (self.function is None) == (self.metric.name == "custom"):
            raise InputError("the metric 'custom' and a function go together", "Write both, or neither.")
        try:
            re.compile(self.extract or "")
        except re.error as error:
            raise InputError(f"extract must be a regular expression, got {self.extract!r}: {error}") from error
        if self.function is not None:
            _named.function(self.function)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What, beside the items, the score depends on."""
        own = {name: getattr(self, name) for name in ("extract", "which", "tolerance", "function")}
        code = "" if self.function is None else source_hash(_named.function(self.function))
        return {**super().settings, **own, "code": code, "sampling": str(self.sampling)}

    def check(self, items: Items, split: str) -> None:
        """Prompts must be texts, and targets texts, at least one an item."""
        for name, prompt, target in zip(items.ids, items.inputs, items.targets, strict=True):
            where = f"{split}, item '{name}'"
            if not isinstance(prompt, str) or not prompt:
                raise InputError(f"a prompt must be a text that is not empty, got {prompt!r}", where=where)
            accepted = _accepted(target)
            if not accepted or not all(isinstance(t, str) for t in accepted):
                raise InputError(f"a target must be a text, or several, got {target!r}", where=where)
            if self.metric.name in ("contains", "number_match") and not all(t.strip() for t in accepted):
                raise InputError("a target must not be empty", "An empty text is in every answer.", where)

    def score(self, predictor: Predictor, items: Items) -> Scored:
        """Generate, extract, compare."""
        found = predictor.texts(list(items.inputs), self.sampling)
        answers = [self.answer(f.text) for f in found]
        targets = [tuple(t.strip() for t in _accepted(target)) for target in items.targets]
        scores = self._judge(answers, targets)
        wrong = np.flatnonzero(~np.isfinite(scores))
        if scores.shape != (len(items),) or wrong.size:
            name = items.ids[wrong[0]] if wrong.size else items.ids[0]
            raise RunError(f"'{self.function or self.metric.name}' gave a score that is no number for item '{name}'")
        return Scored(
            answers=answers,
            targets=[t[0] if len(t) == 1 else repr(t) for t in targets],
            scores=scores,
            calls=np.array([f.calls for f in found]),
            tokens_in=np.array([f.tokens_in for f in found]),
            tokens_out=np.array([f.tokens_out for f in found]),
            money=_all_known([f.money for f in found]),
            confidences=_all_known([f.confidence for f in found]),
        )

    def answer(self, text: str) -> str:
        """The answer in a text that was generated."""
        if self.extract is None:
            return text.strip()
        matches = list(re.finditer(self.extract, text))
        if not matches:
            return ""
        match = matches[0 if self.which == "first" else -1]
        return (match[1] or "" if match.re.groups else match[0]).strip()

    @cached_property
    def _judge(self) -> Scores:
        if self.function is not None:
            name, function = self.function, _named.function(self.function)
            return lambda answers, targets: np.array(
                [_named.guarded(name, function, a, t) for a, t in zip(answers, targets, strict=True)], dtype=np.float64
            )
        if self.metric.name == "number_match":
            judge = partial(near, tolerance=self.tolerance)
            return lambda answers, targets: np.array(
                [max(judge(a, t) for t in accepted) for a, accepted in zip(answers, targets, strict=True)]
            )
        return self.metric.of_texts


def _all_known(values: Sequence[float | None]) -> np.ndarray | None:
    known = [value for value in values if value is not None]
    return np.array(known, dtype=np.float64) if len(known) == len(values) else None


def _accepted(target: Any) -> tuple[Any, ...]:
    return tuple(target) if isinstance(target, (tuple, list)) else (target,)
