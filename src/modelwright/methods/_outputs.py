"""Methods on what models say: combiners make one answer of several, calibrators make an answer's confidence true."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, cast

import numpy as np

from modelwright.errors import InputError, did_you_mean, listing
from modelwright.methods._method import Parameter, Params
from modelwright.tensors import SMALLEST, normalised, softmax

P = ParamSpec("P")
NumpyArray = np.ndarray[Any, Any]
OutputKind = Literal["ensembling", "calibration"]
#: Where answers meet. Log-probabilities differ from logits by one number for each member and sample, which a softmax takes
#: away, so that means of both give the same probabilities.
Space = Literal["probabilities", "logits", "log-probabilities"]
Gives = Literal["probabilities", "values", "sets", "intervals"]

#: The laws that tests/laws checks of methods on outputs; each record names those that hold for it, and leaves none out.
OUTPUT_LAWS: dict[str, str] = {
    "single": "one member gives that member, its probabilities summing to 1",
    "identity": "n equal members give that member",
    "permutation": "permuting the members together with their parameters changes nothing beyond rounding",
    "duplicates": "having every member twice changes nothing beyond rounding",
    "classes": "renaming the classes renames those of the result",
    "shift": "adding one number to all logits of a sample changes nothing",
    "scaling": "multiplying all values by a positive number multiplies the result by it",
    "answer": "the most probable class of every sample stays what it was",
}


@dataclass(frozen=True)
class OutputMethod:
    """The record of a method on outputs.

    Attributes:
        name: Its name in Python, in bundles and on the command line.
        title: Its name in prose.
        paper: A stable reference; empty where there is none.
        summary: When to use it and what it does, in one sentence.
        kind: `ensembling`: from (M, n, ...) of all members to (n, ...); `calibration`: from (n, ...) of one to as many.
        function: Called as `function(outputs, **parameters, **learnt)` with float64 arrays on the scale of `space`.
        params: The pydantic model of its parameters.
        takes: Which kinds of predictions: `classes` (binary ones come as two classes), `regression`, `dense`.
        space: (parameters) -> on which scale outputs of classes come; those of other kinds come as values.
        gives: What comes out: probabilities (values, of other kinds than classes), sets of classes or intervals.
        laws: Which of `OUTPUT_LAWS` hold.
        fit: Called as `fit(outputs, labels, **parameters)`: what is learnt from labelled data, as plain values that JSON can
            hold. None where nothing is.
        right_only: (parameters) -> whether `fit` looks, of outputs of classes, at nothing but the numbers of the right ones;
            then it need not be given the others.
        noise: Whether both take `noise`, one uniform number a sample, where the parameters ask for it.
        differs: What departs from the paper and from well-known implementations, and why.
        cite: A BibTeX entry.
    """

    name: str
    title: str
    paper: str
    summary: str
    kind: OutputKind
    function: Callable[..., NumpyArray]
    params: type[Params]
    takes: frozenset[str]
    space: Callable[[Mapping[str, Any]], str]
    laws: frozenset[str] = frozenset()
    gives: Gives = "probabilities"
    fit: Callable[..., dict[str, Any]] | None = None
    right_only: Callable[[Mapping[str, Any]], bool] = lambda _params: False
    noise: Callable[[Mapping[str, Any]], bool] = lambda _params: False
    differs: tuple[str, ...] = ()
    cite: str = ""

    def __post_init__(self) -> None:
        unknown = self.laws - set(OUTPUT_LAWS)
        assert not unknown, f"{self.name}: unknown laws {unknown}"

    @functools.cached_property
    def fields(self) -> dict[str, Parameter]:
        """Its parameters by name."""
        return {name: Parameter(self.name, name, entry) for name, entry in self.params.model_fields.items()}

    def resolve(self, given: Mapping[str, Any], members: int = 1) -> dict[str, Any]:
        """Every parameter's value, checked: what is given, else the default.

        Args:
            given: By name.
            members: How many values a parameter has that each member has its own of.

        Raises:
            InputError: A name is unknown, a value out of range or missing.
        """
        unknown = [name for name in given if name not in self.fields]
        if unknown:
            known = did_you_mean(unknown[0], self.fields) if self.fields else "It has none."
            raise InputError(f"{self.name} has no parameter '{unknown[0]}'", known)
        return {name: _value(entry, given, members) for name, entry in self.fields.items()}


def _value(entry: Parameter, given: Mapping[str, Any], members: int) -> Any:
    if entry.name not in given and entry.required:
        raise InputError(f"{entry.method} needs {entry.name}: {entry.help}")
    value = given.get(entry.name, entry.default)
    if not entry.per_model:
        return entry.check(value)
    several = isinstance(value, list | tuple | np.ndarray)
    values: list[Any] = list(cast("Sequence[Any]", value)) if several else [value] * members
    if len(values) != members:
        raise InputError(
            f"{entry.method}: {entry.name} has {len(values)} values for {members} members",
            "Give one number, or one for each member.",
        )
    return tuple(entry.check(float(one) if isinstance(one, int) else one) for one in values)


class OutputRegistry(dict[str, OutputMethod]):
    """Methods on outputs by name."""

    def find(self, name: str | OutputMethod) -> OutputMethod:
        """The method of this name; a record is itself.

        Raises:
            InputError: No method has it.
        """
        if isinstance(name, OutputMethod):
            return name
        if name not in self:
            raise InputError(f"unknown method on outputs '{name}'", did_you_mean(str(name), self, most=40))
        return self[name]


def on_outputs(params: type[Params], *, axes: int = 3) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Guard a function for direct use: outputs finite and of enough axes, in float64; parameters in range.

    Banks were checked already, and call the function below.

    Args:
        params: The parameters with their ranges.
        axes: Least number of axes of the outputs.
    """

    def wrap(function: Callable[P, Any]) -> Callable[P, Any]:
        name = function.__name__
        fields = {field: Parameter(name, field, entry) for field, entry in params.model_fields.items()}
        signature = inspect.signature(function)

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = bound.arguments
            outputs = np.asarray(values["outputs"], dtype=np.float64)
            if outputs.ndim < axes or not outputs.size:
                words = "(members, samples, ...)" if axes > 2 else "(samples, ...)"
                raise InputError(f"{name}: outputs must be of the shape {words}, got {outputs.shape}")
            if not np.isfinite(outputs).all():
                raise InputError(f"{name}: every output must be finite, found NaN or infinity")
            values["outputs"] = outputs
            for field_name, entry in fields.items():
                if field_name in values and not (field_name == "space" and str(values[field_name]) == "values"):
                    values[field_name] = _value(entry, values, len(outputs))
            return function(*bound.args, **bound.kwargs)

        return guarded

    return wrap


def finished(combined: NumpyArray, space: str) -> NumpyArray:
    """Probabilities from what came of them, of logits or of log-probabilities; values stay as they are."""
    if space == "values":
        return combined
    return normalised(combined) if space == "probabilities" else softmax(combined)


def weighted(outputs: NumpyArray, weights: Sequence[float]) -> NumpyArray:
    """Sum over members of weight times output, in their order; members of weight 0 are not looked at."""
    total = np.zeros(outputs.shape[1:])
    for member, weight in zip(outputs, weights, strict=True):
        if weight:
            total += member if weight == 1 else weight * member
    return total


def shares(method: str, weights: Sequence[float]) -> list[float]:
    """Weights that sum to 1.

    Raises:
        InputError: All are 0.
    """
    total = sum(weights)
    if total <= 0:
        raise InputError(f"{method}: the weights must not all be 0")
    return [weight / total for weight in weights]


def of_labels(outputs: NumpyArray, labels: NumpyArray) -> NumpyArray:
    """What outputs (..., n, C) say of the right classes (n,): (..., n)."""
    if outputs.strides[-1] == 0:  # one number stands in all classes' places, as for fits of `right_only`: no copy
        return outputs[..., 0]
    return outputs[..., np.arange(len(labels)), labels]


def check_fit(method: str, outputs: NumpyArray, labels: NumpyArray, *, every: bool = False) -> None:
    """Refuse labels that nothing can be learnt from.

    Args:
        method: For the message.
        outputs: (..., n, C).
        labels: Class indices (n,).
        every: Whether each class must be there.

    Raises:
        InputError: There is one class only, or one is missing where all are needed.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(
            f"{method} needs labels of at least two classes, and all {len(labels):,} are of class {present[0]}",
            "Fit on a sample of all classes.",
        )
    missing = sorted(set(range(outputs.shape[-1])) - set(present.tolist()))
    if every and missing:
        raise InputError(
            f"{method} needs labels of every class, and there are none of class {listing(missing, 5)}",
            "Fit on a sample of all classes.",
        )


def log_loss(likelihoods: NumpyArray) -> float:
    """Mean negative logarithm of the probabilities of what was right."""
    return float(-np.log(np.maximum(likelihoods, SMALLEST)).mean())


CLASSES = frozenset({"classes"})
VALUES = frozenset({"classes", "regression", "dense"})


class NoParams(Params):
    """A method without parameters."""


def fixed(space: str) -> Callable[[Mapping[str, Any]], str]:
    """A `space` that no parameter changes."""
    return lambda _params: space


def chosen(params: Mapping[str, Any]) -> str:
    """A `space` that the parameter of that name says."""
    return str(params["space"])
