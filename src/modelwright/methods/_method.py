"""What a method is: a pure function, and a frozen record that tells everything else about it.

Command-line help, documentation, recipe validation, the law tests and `mw methods --cite` all read the record.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from modelwright.errors import InputError, Problem, RunError, did_you_mean
from modelwright.methods._lowered import Lower, Shape
from modelwright.tensors import Array, NoiseKey, all_finite, is_numpy, namespace, narrow, widen

P = ParamSpec("P")
R = TypeVar("R")

Scope = Literal["row", "tensor", "layer", "model"]
Base = Literal["required", "optional", "ignored"]

#: The laws that tests/laws checks; each record names those that hold for it, and no record leaves one out.
#: They speak of tensors whose norms are above the floors that guard divisions, and of any numbers in range. Options
#: stand at their defaults for identity, negation and single (an even vote, say, has no opposite), else at any value.
LAWS: dict[str, str] = {
    "identity": "n equal models (and that model as the base) give that model, within n + 1 units in the last place",
    "permutation": "permuting the models together with their parameters changes nothing beyond rounding",
    "base": "models equal to the base give the base",
    "scaling": "scaling every task vector by a power of two scales the merged task vector by it",
    "negation": "negating every task vector negates the merged task vector",
    "single": "one model (and any base) with default parameters, those without a default at 1, gives that model",
}


class PerModel:
    """Marks a parameter that each model has its own value of: `Annotated[float, PER_MODEL]`."""


PER_MODEL = PerModel()


class Fixed:
    """Marks a parameter that a sweep leaves where it stands, though it has bounds: `Annotated[float, FIXED]`."""


FIXED = Fixed()


@dataclass(frozen=True)
class Span:
    """Marks where a parameter is worth tuning: `Annotated[float, Span(0.05, 2, log=True)]`.

    Attributes:
        low: Smallest value that is tried.
        high: Largest value that is tried.
        log: Whether values are spread by their ratios; both ends are positive then.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        assert self.low < self.high, f"an empty span: {self}"
        assert self.low > 0 or not self.log, f"ratios need positive ends: {self}"

    def at(self, share: float) -> float:
        """The value at a share of the way, in [0, 1], to four digits."""
        ratio, width = self.high / self.low if self.log else 1, self.high - self.low
        value = self.low * ratio**share if self.log else self.low + width * share
        return min(max(float(f"{value:.4g}"), self.low), self.high)


class Params(BaseModel):
    """The parameters of a method: one field each with type, range, meaning and community default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=False)


@dataclass(frozen=True)
class Round:
    """One pass over the whole model that a model-wide statistic needs before anything can be merged.

    Attributes:
        name: What the user sees in the progress bar.
        collect: (models, base, parameters, facts) -> a numpy array of integers for one tensor.
        reduce: (results, parameters, facts) -> new facts. The results are the sum over all tensors where `fold` is
            `sum`, and a mapping from tensor name (in the order of the output) to its own where it is `list`.
            A fact is a value, or a `PerTensor` mapping from which each tensor gets its own entry.
        uniform: Parameters that must have one value for all tensors, because the statistic is one for all.
        fold: How the results of the tensors come together.
    """

    name: str
    collect: Callable[[Sequence[Array], Array, Mapping[str, Any], Mapping[str, Any]], Any]
    reduce: Callable[[Any, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
    uniform: tuple[str, ...]
    fold: Literal["sum", "list"] = "sum"


@dataclass(frozen=True)
class Position:
    """Where a tensor stands in its model, for methods whose arithmetic depends on it.

    Attributes:
        stack: The stack of layers that it belongs to, such as `model.layers`; empty outside the layers.
        number: Its layer, from 0; 0 outside the layers.
        count: How many layers the stack has.
        after: Outside the layers: whether it follows them (final norm, head) or comes before (embeddings).
        stacks: Every stack of the model.
    """

    stack: str = ""
    number: int = 0
    count: int = 0
    after: bool = False
    stacks: tuple[str, ...] = ()


class PerTensor(dict[str, Any]):
    """A fact that differs from tensor to tensor, by the output tensor's name."""


@dataclass(frozen=True)
class Parts:
    """What a method keeps of each task's model beside the merged one, and how that model comes back: what makes a bundle.

    Attributes:
        kinds: The arrays that may be kept of a tensor, by name: `bits` are truth values, stored as one bit each; `values`
            numbers in the format of the task's model; `sums` float64 numbers that are added up over all tensors of the task.
        shapes: (shape of the tensor, parameters) -> the shapes of those that are kept of it.
        split: (model, base=, shared=, parameters=) -> those arrays; `shared` is what the method's function merged, parameters
            are by recipe name, per-model ones the model's own.
        restore: (shared, base=, pieces=, facts=) -> the tensor of the task's model.
        reduce: (sums over all tensors, by name) -> facts.
        base: Whether a task's model takes the base to restore.
        mixes: Whether models of several tasks may be added up with weights, as a router would have it.
    """

    kinds: Mapping[str, Literal["bits", "values", "sums"]]
    shapes: Callable[[tuple[int, ...], Mapping[str, Any]], Mapping[str, tuple[int, ...]]]
    split: Callable[..., Mapping[str, Array]]
    restore: Callable[..., Array]
    reduce: Callable[[Mapping[str, np.ndarray[Any, Any]]], Mapping[str, float]] = lambda _sums: {}
    base: bool = True
    mixes: bool = False


@dataclass(frozen=True)
class Method:
    """The record of a merging method.

    Attributes:
        name: Its name in recipes, in Python and on the command line.
        title: Its name in prose.
        paper: `arXiv:2306.01708`, or another stable reference; empty where there is none.
        summary: When to use it and what it does, in one sentence.
        function: The array function, called as `function(models, base=..., key=..., facts=..., position=...,
            **parameters)`; of these, base, key, facts and position only where its signature has them.
        params: The pydantic model of its parameters.
        base: Whether a base model is required, optional or ignored.
        models: Least and greatest number of models that are not the base; None for no limit.
        laws: Which of `LAWS` hold.
        scope: (parameters) -> how much of a model one output element depends on.
        rounds: (parameters) -> passes over the whole model that come first.
        presets: Values that differ from the defaults, by semantics; only `paper` so far.
        ignored: Keys of the community's schema without any effect here -> the reason, printed as a note.
        differs: What departs from the paper and from well-known implementations, and why.
        copies: (parameters) -> whether the output is the only input, so that its bytes can be copied.
        check: (parameters) -> raises InputError where values that are fine alone do not go together.
        fits: (parameters, position, number of models) -> raises InputError where the parameters do not go with the model.
        random: Whether it draws noise, and so takes a `key`.
        differentiable: Whether finite gradients reach every input; singular vectors have none where values coincide.
        workspace: (number of models) -> bytes that it takes for each element of a tensor beside its inputs, where that is
            more than sums and masks take.
        reproducible: `bits` where the same recipe gives the same bytes on every CPU, else `tolerance`.
        needs: What it reads beside the models: statistics, data.
        tries: Most sets of parameters that a sweep tries, for methods that take long; None is the sweep's whole budget.
        lower: (parameters, shape) -> the same arithmetic for the fused kernels, with the same bits; or None to run the
            function tensor by tensor.
        parts: Of a method whose outcome is a bundle: what is kept for each task. Its function merges what the tasks share.
        cite: A BibTeX entry.
    """

    name: str
    title: str
    paper: str
    summary: str
    function: Callable[..., Array]
    params: type[Params]
    base: Base
    models: tuple[int, int | None]
    laws: frozenset[str]
    scope: Callable[[Mapping[str, Any]], Scope] = lambda _params: "tensor"
    rounds: Callable[[Mapping[str, Any]], Sequence[Round]] = lambda _params: ()
    presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict[str, Mapping[str, Any]])
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    differs: tuple[str, ...] = ()
    copies: Callable[[Mapping[str, Any]], bool] = lambda _params: False
    check: Callable[[Mapping[str, Any]], None] = lambda _params: None
    fits: Callable[[Mapping[str, Any], Position, int], None] = lambda _params, _position, _models: None
    random: bool = False
    differentiable: bool = True
    workspace: Callable[[int], float] = lambda _models: 0.0
    reproducible: Literal["bits", "tolerance"] = "bits"
    needs: tuple[str, ...] = ()
    tries: int | None = None
    lower: Lower | None = None
    parts: Parts | None = None
    cite: str = ""

    #: What it is a method on: weights.
    kind: ClassVar[str] = "merging"

    def __post_init__(self) -> None:
        unknown = self.laws - set(LAWS)
        assert not unknown, f"{self.name}: unknown laws {unknown}"
        assert self.tries is None or self.tries >= 1, f"{self.name}: a sweep must try at least 1 set of parameters"

    @functools.cached_property
    def fields(self) -> dict[str, Parameter]:
        """Its parameters, by the name that recipes use."""
        return {(f.alias or name): Parameter(self.name, name, f) for name, f in self.params.model_fields.items()}

    def defaults(self, semantics: str) -> dict[str, Any]:
        """Value of each parameter that has one, under `community` or `paper` semantics."""
        preset = self.presets.get(semantics, {})
        return {
            name: preset.get(name, parameter.default)
            for name, parameter in self.fields.items()
            if not parameter.required or name in preset
        }

    @functools.cached_property
    def spans(self) -> dict[str, Span]:
        """The parameters that are worth tuning, and where."""
        return {name: parameter.span for name, parameter in self.fields.items() if parameter.span is not None}

    def cost(self, semantics: str) -> tuple[int, float | None]:
        """What merging a large matrix costs.

        Args:
            semantics: Whose defaults. Parameters that are worth tuning stand in the middle of where they are, as at its end (a
                density of 1) a method often has nothing to do.

        Returns:
            How often the inputs are read, and bytes of memory for each element of the largest tensor, beside its inputs as they
            are stored; None where blocks are enough, so that memory does not depend on the model.
        """
        count = min(max(2, self.models[0]), self.models[1] or 3)
        required = {n: (1.0 if p.per_model else 0.5) for n, p in self.fields.items() if p.required}
        chosen = required | self.defaults(semantics) | {name: span.at(0.5) for name, span in self.spans.items()}
        values = {name: (value,) * count if self.fields[name].per_model else value for name, value in chosen.items()}
        shape = Shape(1 << 20, 1 << 24, 2, 1 << 10, count, self.base != "ignored")
        lowered = self.lower(values, shape) if self.lower is not None else None
        if lowered is not None or self.copies(values):
            return lowered.passes if lowered is not None else 1, None
        return 1 + len(self.rounds(values)), max(4.0 * (2 * count + 3), self.workspace(count))

    def run(
        self,
        models: Sequence[Array],
        base: Array | None,
        parameters: Mapping[str, Any],
        key: NoiseKey,
        facts: Mapping[str, Any],
        position: Position | None = None,
    ) -> Array:
        """Call the array function on tensors that are checked and wide already (what the engine does).

        Args:
            models: n arrays of one shape in float32 or float64.
            base: The same for the base model, or None.
            parameters: Values by recipe name; per-model ones as sequences of length n.
            key: Where its noise comes from.
            facts: What its rounds found, this tensor's share.
            position: Where the tensor stands in its model.

        Returns:
            The merged tensor in the format of the inputs.
        """
        raw: Callable[..., Array] = inspect.unwrap(self.function)
        extra = {"base": base, "key": key, "facts": facts, "position": position}
        takes = _signature(raw)
        arguments = {name: value for name, value in extra.items() if name in takes}
        arguments |= {self.fields[name].python_name: value for name, value in parameters.items()}
        return raw(models, **arguments)


@functools.cache
def _signature(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


class Parameter:
    """One parameter of a method: range, default, help and validation from its annotation alone."""

    def __init__(self, method: str, python_name: str, field: FieldInfo):
        self.method = method
        self.python_name = python_name
        self.name = field.alias or python_name
        self.field = field
        self.per_model = any(isinstance(mark, PerModel) for mark in field.metadata)
        self.required = field.is_required()
        self.default: Any = None if self.required else field.get_default()
        self.help = field.description or ""
        constraints = [mark for mark in field.metadata if not isinstance(mark, PerModel | Span | Fixed)]
        annotation: Any = field.annotation
        for mark in constraints:
            annotation = Annotated[annotation, mark]
        self.adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))

    def check(self, value: Any) -> Any:
        """The value, validated.

        Raises:
            InputError: With the rule, what was found and the mend; the caller adds where.
        """
        value = _plain(value)
        try:
            return self.adapter.validate_python(value)
        except ValidationError:
            pass
        shown = "nan" if isinstance(value, float) and math.isnan(value) else repr(value)
        shown = (
            {True: "true", False: "false", None: "nothing"}[value]
            if value is None or value is True or value is False
            else shown
        )
        mend = ""
        if self.is_fraction and isinstance(value, int | float) and 1 < value <= 100:
            mend = f"It is a fraction; for {value:g} % write {value / 100:g}."
        elif isinstance(value, list | tuple | dict):
            mend = "One value is expected here."
        raise InputError(Problem(f"{self.method}: {self.name} must be {self.rule}, got {shown}", mend))

    @functools.cached_property
    def span(self) -> Span | None:
        """Where it is worth tuning: what is marked, or the range of a number that has bounds on both sides and no mark."""
        marked = [mark for mark in self.field.metadata if isinstance(mark, Span)]
        if any(isinstance(mark, Fixed) for mark in self.field.metadata):
            return None
        if marked or self.field.annotation is not float:
            return marked[0] if marked else None
        low, high = _bounds(self.field.metadata, "ge", "gt"), _bounds(self.field.metadata, "le", "lt")
        if low is None or high is None:
            return None
        margin = (high[0] - low[0]) / 100  # an end that is itself out of range is kept away from
        return Span(low[0] + margin * low[1], high[0] - margin * high[1])

    @property
    def is_fraction(self) -> bool:
        """Whether it is a share in [0, 1]."""
        return any(getattr(mark, "le", getattr(mark, "lt", None)) == 1 for mark in self.field.metadata)

    @property
    def rule(self) -> str:
        """Its type and range in words: `a number in [0, 1]`."""
        return _rule(self.field.annotation, self.field.metadata)


def _bounds(metadata: Iterable[Any], closed: str, open: str) -> tuple[float, bool] | None:
    """One end of a range, and whether it is open; None where there is none."""
    for mark in metadata:
        for name in (closed, open):
            value = getattr(mark, name, None)
            if value is not None:
                return float(value), name == open
    return None


def _plain(value: Any) -> Any:
    """Numpy scalars as Python's own: np.float32(0.5) is as good as 0.5."""
    return value.item() if is_numpy(value) and value.ndim == 0 else value


def _rule(annotation: Any, metadata: Iterable[Any]) -> str:
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_rule(part, metadata) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(option) for option in get_args(annotation))
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        type(None): "absent",
        str: "a text",
    }
    text = words.get(annotation, str(annotation))
    if annotation in (int, float):
        low, high = "(-inf", "inf)"
        for mark in metadata:
            low = f"[{mark.ge:g}" if getattr(mark, "ge", None) is not None else low
            low = f"({mark.gt:g}" if getattr(mark, "gt", None) is not None else low
            high = f"{mark.le:g}]" if getattr(mark, "le", None) is not None else high
            high = f"{mark.lt:g})" if getattr(mark, "lt", None) is not None else high
        if (low, high) != ("(-inf", "inf)"):
            text = ("in " if annotation is float else "a whole number in ") + f"{low}, {high}"
    return text


def checked(
    params: type[Params], *, least: int = 1, most: int | None = None, base: Base = "ignored"
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Guard a method's array function for direct use: check parameters and arrays, widen, call, round once.

    The engine does these checks itself, with tensor and model names in the messages, and calls the function below.
    A result that is not finite is refused with a RunError: the inputs were, so it is the merge that went too far.

    Args:
        params: The parameters with their ranges.
        least: Fewest models.
        most: Most models, or None.
        base: Whether a base is required, optional or ignored.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__name__
        signature = inspect.signature(function)
        fields = {python: Parameter(name, python, field) for python, field in params.model_fields.items()}

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = bound.arguments
            models = list(values["models"])
            _check_count(name, len(models), least, most)
            anchor = values.get("base")
            if base == "required" and anchor is None:
                mend = "Pass base=, the model the others were tuned from."
                raise InputError(f"{name}: needs a base tensor, got None", mend)
            _check_arrays(name, models, anchor)
            for python, parameter in fields.items():
                if python in values:
                    values[python] = _check_value(parameter, values[python], len(models))
            every = models if anchor is None else [anchor, *models]
            wide = _same_width([widen(array) for array in every])
            values["models"] = wide[-len(models) :]
            if anchor is not None:
                values["base"] = wide[0]
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by name, in one place
                merged = function(*bound.args, **bound.kwargs)
            return _finished(name, merged, every)

        return guarded

    return wrap


def _finished(name: str, merged: Any, every: Sequence[Array]) -> Any:
    """The merged tensor in the format of the first input, finite and in memory of its own."""
    out = every[0].dtype
    result = narrow(merged, out)
    if not all_finite(widen(result)):
        raise RunError(
            f"{name}: the result is not finite in {out} though every input is. "
            "Lower the weights or lambda, or pass inputs of a wider format."
        )
    if any(result is array for array in every):
        return namespace(result).astype(result, out, copy=True)
    return result


def _check_count(name: str, count: int, least: int, most: int | None) -> None:
    if least <= count and (most is None or count <= most):
        return
    wanted = f"at least {least}" if most is None else f"{least} to {most}" if least < most else f"exactly {least}"
    plural = "model" if wanted.endswith(" 1") else "models"
    raise InputError(f"{name}: needs {wanted} {plural} beside the base, got {count}")


def _check_value(parameter: Parameter, value: Any, count: int) -> Any:
    if not parameter.per_model:
        return parameter.check(value)
    values = _listed(value, count)
    if len(values) != count:
        raise InputError(
            f"{parameter.method}: {parameter.name} has {len(values)} values for {count} models",
            "Give one number, or one for each model.",
        )
    return tuple(parameter.check(entry) for entry in values)


def _listed(value: Any, count: int) -> list[Any]:
    """One value per model: those given, or the one given repeated."""
    several: bool = getattr(value, "ndim", 0) > 0 or type(value) in (list, tuple)
    return list(value) if several else [value] * count


def _check_arrays(name: str, models: Sequence[Array], base: Array | None) -> None:
    labelled = [(f"model {i + 1} of {len(models)}", array) for i, array in enumerate(models)]
    if base is not None:
        labelled.insert(0, ("base", base))
    first_label, first = labelled[0]
    for label, array in labelled:
        if not hasattr(array, "dtype"):
            raise InputError(f"{name}: every input must be an array, found {type(array).__name__} in {label}")
        shape, expected = tuple(array.shape), tuple(first.shape)
        if shape != expected:
            raise InputError(f"{name}: shapes must be equal, got {shape} in {label} and {expected} in {first_label}")
        try:
            finite = all_finite(widen(array))
        except TypeError as error:  # not a floating-point format
            raise InputError(f"{name}: {error} in {label}") from None
        if not finite:
            raise InputError(f"{name}: every input must be finite, found NaN or infinity in {label}")


def _same_width(arrays: list[Array]) -> list[Array]:
    xp = namespace(*arrays)
    if any(array.dtype == xp.float64 for array in arrays):
        return [xp.astype(array, xp.float64, copy=False) for array in arrays]
    return arrays


class Registry(Mapping[str, Method]):
    """The known methods by name; a second method of one name is refused."""

    def __init__(self, methods: Iterable[Method] = ()):
        self._methods: dict[str, Method] = {}
        for method in methods:
            self.add(method)

    def add(self, method: Method) -> None:
        """Make a method available by its name.

        Raises:
            InputError: The name is taken by another record.
        """
        if self._methods.get(method.name, method) is not method:
            raise InputError(f"two methods are called '{method.name}'", "Rename the one in the plugin.")
        self._methods[method.name] = method

    def find(self, name: object) -> Method:
        """The method of this name.

        Raises:
            InputError: No method has it; the message lists those that exist.
        """
        if not isinstance(name, str) or name not in self._methods:
            raise InputError(f"unknown merge method '{name}'", did_you_mean(str(name), self._methods))
        return self._methods[name]

    def __getitem__(self, name: str) -> Method:
        return self._methods[name]

    def __iter__(self) -> Any:
        return iter(sorted(self._methods))

    def __len__(self) -> int:
        return len(self._methods)
