"""One interface to everything that answers: modules, estimators, functions, recipes, servers."""

from __future__ import annotations

import pickle
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from modelwright.errors import InputError, RunError, needs as needs
from modelwright.evaluate._items import Items
from modelwright.predictions import (
    SUM_TOLERANCE,
    Scale,
    as_rows,
    evaluating as evaluating,
    function_hash,
    state_hash as state_hash,
)
from modelwright.tensors import softmax as softmax

Outputs = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class Size:
    """What a system costs to keep.

    Attributes:
        parameters: Numbers in its weights; None where unknown.
        nbytes: Bytes of its weights; None where unknown.
    """

    parameters: int | None = None
    nbytes: int | None = None


@dataclass(frozen=True)
class Likelihood:
    """How probable a text is after another.

    Attributes:
        total: Sum of its tokens' log-probabilities, in nats.
        tokens: How many tokens that are.
        context_tokens: Tokens before it.
        greedy: Whether each of its tokens is the most probable one at its place; None where that is unknown.
        calls: How often the system was asked.
    """

    total: float
    tokens: int
    context_tokens: int = 0
    greedy: bool | None = None
    calls: int = 1


@dataclass(frozen=True)
class Rolling:
    """How texts are read that may be longer than a model can see at once: in windows of tokens.

    A window is of up to `length` tokens, of which the last `stride` are scored with the others as their context; the first
    window scores all it holds. Each token of a text is scored exactly once.

    Attributes:
        length: Tokens of a window; None is as many as the model can read.
        stride: Tokens that a window scores, in [1, length]; None is `length`, windows that do not overlap.

    Raises:
        InputError: A number is out of its range.
    """

    length: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 2:
            raise InputError(f"length must be at least 2 tokens, got {self.length}")
        most = self.length or self.stride
        if self.stride is not None and most is not None and not 1 <= self.stride <= most:
            raise InputError(
                f"stride must be in [1, length], got {self.stride} for the length {self.length}",
                "It is how many tokens each window scores.",
            )


@dataclass(frozen=True)
class Generated:
    """A text that was generated, the tokens it took, and how often the system was asked for it.

    Attributes:
        text: What was written.
        tokens_in: Tokens read.
        tokens_out: Tokens written.
        calls: How often the system was asked.
        money: What it cost, where the system knows its prices.
        confidence: How probably the answer is right, in [0, 1], where the system says.
        logprobs: Log-probabilities of the tokens in nats, the one that ended it among them; None where they are unknown.
        cut: Whether it ended only because max_tokens was reached.
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 1
    money: float | None = field(default=None, kw_only=True)
    confidence: float | None = field(default=None, kw_only=True)
    logprobs: tuple[float, ...] | None = field(default=None, compare=False)
    cut: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Sampling:
    """How text is generated.

    Attributes:
        max_tokens: Most tokens of an answer.
        stop: Texts at which it ends; they are not part of it.
        temperature: 0 takes the most probable token each time.
        seed: For temperatures above 0.
    """

    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature must be at least 0, got {self.temperature}")
        if "" in self.stop:
            raise InputError("a stop must be a text, got an empty one", "It would end every answer before it begins.")


@dataclass
class Predictor(ABC):
    """A system under test. A subclass answers in one or more of the four ways.

    Attributes:
        label: How tables and records call it.
        fingerprint: A hash of what its answers depend on; empty where that cannot be told.
        size: What it costs to keep.
        members: How many models answer together; records count the calls and tokens of all.
        made: What else its records should say of it: how it was made, from what, how long that took.
        unseen: What its answers may depend on beside what the fingerprint is of, such as variables of a function. Answers of
            an earlier run are gone on with all the same, and a note says so.
    """

    label: str
    fingerprint: str = field(default="", kw_only=True)
    size: Size = field(default_factory=Size, kw_only=True)
    members: int = field(default=1, kw_only=True)
    made: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    unseen: tuple[str, ...] = field(default=(), kw_only=True)

    def probabilities(self, inputs: Any, classes: int) -> np.ndarray:
        """Class probabilities (n, classes) of n inputs."""
        raise self._cannot("classify")

    @property
    def scale(self) -> Scale:
        """What `scores` are."""
        return "probabilities"

    def scores(self, inputs: Any, classes: int) -> np.ndarray:
        """What it says of n inputs and every class before anything is lost: logits where it has them, (n, classes)."""
        return self.probabilities(inputs, classes)

    def values(self, inputs: Any) -> np.ndarray:
        """Numbers (n,) for n inputs."""
        raise self._cannot("give numbers")

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]], rolling: Rolling | None = None) -> Sequence[Likelihood]:
        """Log-likelihoods of continuations after their contexts; with `rolling`, of texts of any length."""
        raise self._cannot("give likelihoods of texts")

    def texts(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Generated]:
        """Texts that follow the prompts."""
        raise self._cannot("generate text")

    def for_task(self, task: Any) -> Predictor:
        """What answers for one task: itself, unless a system has parts of its own for tasks, such as heads."""
        return self

    def calls(self, count: int) -> np.ndarray | int:
        """How often models were asked about each of the `count` inputs of the last batch."""
        return self.members

    def remarks(self) -> list[str]:
        """What happened while it answered that its figures should be read with, such as contexts that were cut."""
        return []

    def _cannot(self, what: str) -> InputError:
        return InputError(f"'{self.label}' cannot {what}: it is a {type(self).__name__}")

    def checked_probabilities(self, items: Items, classes: int) -> np.ndarray:
        """Class probabilities as float64, refused by name where they are none.

        Raises:
            RunError: They are not finite, not in [0, 1], do not sum to 1, or have another shape.
        """
        found = np.asarray(self.probabilities(items.inputs, classes), dtype=np.float64)
        if found.shape != (len(items), classes):
            raise RunError(f"'{self.label}' gave probabilities of shape {found.shape}, not {(len(items), classes)}")
        self._check_finite(found, items, "a probability")
        sums = found.sum(axis=1)
        wrong = np.flatnonzero((found.min(axis=1) < 0) | (np.abs(sums - 1) > SUM_TOLERANCE))
        if wrong.size:
            raise RunError(
                f"'{self.label}': probabilities must be at least 0 and sum to 1, got the sum {sums[wrong[0]]:.4g} for "
                f"item '{items.ids[wrong[0]]}'. If these are logits, say outputs='logits'"
            )
        return found / sums[:, None]

    def checked_values(self, items: Items) -> np.ndarray:
        """Values as float64 (n,), refused by name where they are not finite."""
        found = np.asarray(self.values(items.inputs), dtype=np.float64)
        if found.shape == (len(items), 1):
            found = found[:, 0]
        if found.shape != (len(items),):
            raise RunError(f"'{self.label}' gave values of shape {found.shape}, not {(len(items),)}")
        self._check_finite(found, items, "a value")
        return found

    def _check_finite(self, found: np.ndarray, items: Items, what: str) -> None:
        wrong = np.flatnonzero(~np.isfinite(found.reshape(len(items), -1)).all(axis=1))
        if wrong.size:
            raise RunError(
                f"'{self.label}' gave {what} that is not finite for item '{items.ids[wrong[0]]}' "
                f"({wrong.size:,} of {len(items):,} items in this batch)"
            )


@dataclass
class FunctionPredictor(Predictor):
    """Any function from a batch of inputs to class probabilities (n, C) or values (n,).

    Its fingerprint, unless one is given, is of its source and of the plain values that it refers to.

    Attributes:
        function: What answers.
        outputs: What it gives for classes.
    """

    function: Callable[[Any], Any] = field(kw_only=True)
    outputs: Outputs = field(default="probabilities", kw_only=True)

    def __post_init__(self) -> None:
        if not self.fingerprint:
            code, self.unseen = function_hash(self.function)
            self.fingerprint = f"{code}-{self.outputs}"

    def probabilities(self, inputs: Any, classes: int) -> np.ndarray:
        """What the function gives."""
        found = np.asarray(self.function(inputs))
        return softmax(found) if self.outputs == "logits" else found

    def values(self, inputs: Any) -> np.ndarray:
        """What the function gives."""
        return np.asarray(self.function(inputs))


@dataclass
class EstimatorPredictor(Predictor):
    """A fitted scikit-learn estimator: `predict_proba` for classes, `predict` for numbers.

    Inputs of more than two axes are flattened to one row an item.

    Attributes:
        estimator: The estimator.
        path: The file that it was read from; None of one in memory.
    """

    estimator: Any = field(kw_only=True)
    path: Path | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted

        try:
            check_is_fitted(self.estimator)
        except NotFittedError as error:
            raise InputError(f"'{self.label}' is not fitted yet", "Call its fit first.") from error
        self.fingerprint = self.fingerprint or xxhash.xxh3_128_hexdigest(pickle.dumps(self.estimator))

    def probabilities(self, inputs: Any, classes: int) -> np.ndarray:
        """`predict_proba`, its columns put where the estimator's classes belong; classes it never saw get 0."""
        if not hasattr(self.estimator, "predict_proba"):
            raise self._cannot("give probabilities")
        found = np.zeros((len(inputs), classes))
        known = np.asarray(self.estimator.classes_)
        if known.dtype.kind not in "iub" or known.min() < 0 or known.max() >= classes:
            raise InputError(
                f"'{self.label}': its classes must be indices in [0, {classes - 1}], got {list(known)[:8]}"
            )
        found[:, known.astype(np.intp)] = self.estimator.predict_proba(as_rows(inputs))
        return found

    def values(self, inputs: Any) -> np.ndarray:
        """`predict`."""
        return self.estimator.predict(as_rows(inputs))


@dataclass
class ModulePredictor(Predictor):
    """A torch module from a batch of inputs to logits (n, C), probabilities, or values (n,) or (n, 1).

    Attributes:
        module: In evaluation mode; it is moved to the device.
        device: Where it runs.
        outputs: What it gives.
    """

    module: Any = field(kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    outputs: Outputs = field(default="logits", kw_only=True)

    def __post_init__(self) -> None:
        evaluating(self.module, self.label)
        self.module.to(self.device)
        state = self.module.state_dict()
        parameters = list(self.module.parameters())
        self.size = Size(sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters))
        self.fingerprint = self.fingerprint or f"{state_hash(state)}-{type(self.module).__qualname__}-{self.outputs}"

    def outputs_of(self, inputs: Any) -> np.ndarray:
        """What the module gives for n inputs, float64."""
        import torch

        with torch.inference_mode():
            found = self.module(torch.as_tensor(np.asarray(inputs)).to(self.device))
        found = getattr(found, "logits", found)  # what transformers' models return
        return found.to("cpu", torch.float64).numpy()

    @property
    def scale(self) -> Scale:
        """What the module gives."""
        return self.outputs

    def scores(self, inputs: Any, classes: int) -> np.ndarray:
        """The module's outputs."""
        return self.outputs_of(inputs)

    def probabilities(self, inputs: Any, classes: int) -> np.ndarray:
        """The module's outputs; logits go through a softmax in float64."""
        found = self.scores(inputs, classes)
        return softmax(found) if self.outputs == "logits" else found

    def values(self, inputs: Any) -> np.ndarray:
        """The module's outputs."""
        return self.outputs_of(inputs)


def predictor(system: Any, label: str | None = None, *, device: str = "cpu", outputs: Outputs = "logits") -> Predictor:
    """Anything that answers, as a `Predictor`.

    Args:
        system: A `Predictor`, an `nn.Module`, a fitted scikit-learn estimator, or a function of a batch of inputs.
        label: How tables call it; default the name of its type or function.
        device: Where modules run.
        outputs: What a module gives; functions give probabilities or values.

    Raises:
        InputError: It is none of these, not fitted, or in train mode.
    """
    if isinstance(system, Predictor):
        return system
    name = label or getattr(system, "__name__", type(system).__name__)
    if hasattr(system, "state_dict") and hasattr(system, "named_modules"):
        return ModulePredictor(name, module=system, device=device, outputs=outputs)
    if hasattr(system, "predict") and hasattr(system, "get_params"):
        return EstimatorPredictor(name, estimator=system)
    if callable(system):
        return FunctionPredictor(name, function=system)
    raise InputError(
        f"'{name}' cannot be evaluated: it is of the type {type(system).__name__}",
        "Give a model folder, a recipe, an nn.Module in evaluation mode, a fitted estimator, or a function.",
    )
