"""The recipe's schema: the community's keys and ours, every other key refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from modelwright.errors import InputError, Problem, did_you_mean
from modelwright.methods import METHODS
from modelwright.recipe._yaml import Lines

Settings = dict[str, Any]
FloatName = Literal["float64", "float32", "float16", "bfloat16"]
Semantics = Literal["community", "paper"]
Missing = Literal["error", "base", "skip"]


def _reference(value: Any) -> Any:
    """`{model: {path, revision}, lora: ...}` as the text `path@revision+lora`."""
    if not isinstance(value, dict):
        return value
    entry: dict[str, Any] = dict(value)  # type: ignore[reportUnknownArgumentType]
    if "path" in entry and set(entry) <= {"path", "revision"}:
        return f"{entry['path']}@{entry['revision']}" if entry.get("revision") else str(entry["path"])
    if "model" in entry and set(entry) <= {"model", "lora", "override_architecture"}:
        model, lora = _reference(entry["model"]), _reference(entry.get("lora"))
        return f"{model}+{lora}" if lora else model
    return entry  # type: ignore[reportUnknownVariableType]


def _dtype_name(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value


Reference = Annotated[str, BeforeValidator(_reference), Field(min_length=1)]
DTypeName = Annotated[FloatName, BeforeValidator(_dtype_name)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class InputModel(_Strict):
    """One model of a merge."""

    model: Reference
    parameters: Settings = Field(default_factory=dict)
    rename: dict[str, str] = Field(default_factory=dict)


class InputSlice(_Strict):
    """A range of layers [a, b) of one model."""

    model: Reference
    layer_range: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]
    parameters: Settings = Field(default_factory=dict)
    rename: dict[str, str] = Field(default_factory=dict)


class OutputSlice(_Strict):
    """Layers of the output, merged from equally long ranges of its sources."""

    sources: Annotated[list[InputSlice], Field(min_length=1)]
    base_model: Reference | None = None
    residual_weight: float | None = None
    parameters: Settings = Field(default_factory=dict)


class Module(_Strict):
    """One tower of a model with several."""

    models: Annotated[list[InputModel], Field(min_length=1)] | None = None
    slices: Annotated[list[OutputSlice], Field(min_length=1)] | None = None
    parameters: Settings = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_source(self) -> Module:
        if (self.models is None) == (self.slices is None):
            raise ValueError("exactly one of models and slices must stand here")
        return self


def _token_source(value: Any) -> Any:
    """A model, `{kind: zero}`, or `{kind: model_token, model: M}` with `token` or `token_id`."""
    kind: Any = value.get("kind") if isinstance(value, dict) else None  # type: ignore[reportUnknownMemberType]
    if kind is None:
        found = _reference(value)
        if found is None or (isinstance(found, str) and found):
            return found
        raise ValueError("must be a model, {kind: zero} or {kind: model_token, model: M, token: T}")
    entry: dict[str, Any] = dict(value)  # type: ignore[reportUnknownArgumentType]
    keys = set(entry) - {"kind"}
    if kind == "zero" and not keys:
        return entry
    if kind != "model_token":
        raise ValueError(f"kind must be zero, alone, or model_token, got {entry!r}")
    entry["model"] = _reference(entry.get("model"))
    token, number = entry.get("token"), entry.get("token_id")
    good = (
        isinstance(entry["model"], str)
        and keys <= {"model", "token", "token_id"}
        and (token is None) != (number is None)
    )
    if (
        not good
        or (token is not None and not isinstance(token, str))
        or (number is not None and type(number) is not int)
    ):
        raise ValueError(
            f"model_token needs model, and either token (a text) or token_id (a whole number), got {value!r}"
        )
    return entry


class TokenSettings(_Strict):
    """Where the row of one token starts from."""

    source: Annotated[Any, BeforeValidator(_token_source)] = None
    force: bool = False


class TokenizerSettings(_Strict):
    """How vocabularies come together."""

    source: Reference = "union"
    tokens: dict[str, TokenSettings] | None = None
    pad_to_multiple_of: Annotated[int, Field(ge=1)] | None = None


#: Keys that mean one merge, so that beside `steps:` nothing would come of them.
_OF_ONE_MERGE = ("merge_method", "base_model", "parameters", "tokenizer_source", "tokenizer", "chat_template")


class Recipe(_Strict):
    """A merge: the community's schema, with `kind`, `semantics`, `missing`, `seed`, `rename` and `steps` on top."""

    kind: Literal["merge"] = "merge"
    name: str | None = None
    merge_method: str = ""
    base_model: Reference | None = None
    models: Annotated[list[InputModel], Field(min_length=1)] | None = None
    slices: Annotated[list[OutputSlice], Field(min_length=1)] | None = None
    modules: Annotated[dict[str, Module], Field(min_length=1)] | None = None
    parameters: Settings = Field(default_factory=dict)
    dtype: DTypeName | None = None
    out_dtype: DTypeName | None = None
    tokenizer_source: Reference | None = None
    tokenizer: TokenizerSettings | None = None
    chat_template: str | None = None
    allow_retokenization: bool = False
    semantics: Semantics = "community"
    missing: Missing = "error"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    steps: Annotated[list[Recipe], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Recipe:
        given = [key for key in ("models", "slices", "modules") if getattr(self, key) is not None]
        if self.steps is not None:
            extra = [*given, *(key for key in _OF_ONE_MERGE if getattr(self, key))]
            if extra:
                raise ValueError(f"beside steps there must be no {', '.join(extra)}: they belong to a step")
            _check_names([step.name or "" for step in self.steps])
            if any(step.steps for step in self.steps):
                raise ValueError("a step cannot have steps inside")
            return self
        if not self.merge_method:
            raise ValueError("merge_method is missing: name one of mw methods")
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"exactly one of models, slices and modules must stand here, found {found}")
        if self.tokenizer is not None and self.tokenizer_source is not None:
            raise ValueError("tokenizer and tokenizer_source say the same thing: keep one of them")
        return self


def _check_names(names: list[str]) -> None:
    for i, name in enumerate(names):
        if not name:
            raise ValueError(f"step {i + 1} of {len(names)} needs a name: later steps and its folder are called by it")
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(
                f"the step name '{name}' must be letters, digits, _, - and . alone: its folder is called so"
            )
        if name in names[:i]:
            raise ValueError(f"two steps are called '{name}'")


def parse(data: Any, lines: Lines) -> Recipe:
    """A recipe from what YAML or Python says.

    Raises:
        InputError: Everything that is wrong with its structure, each with its line.
    """
    if not isinstance(data, Mapping):
        found = "a list" if isinstance(data, list) else "a text" if isinstance(data, str) else _shown(data)
        mend = "It starts with merge_method: and models:."
        raise InputError(Problem(f"a recipe is a mapping of keys, got {found}", mend, lines.where(())))
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise InputError(problems(error, lines)) from None


_TYPES: dict[str, type[BaseModel]] = {
    "models": InputModel, "slices": OutputSlice, "sources": InputSlice, "modules": Module, "steps": Recipe,
    "tokenizer": TokenizerSettings, "tokens": TokenSettings,
}  # fmt: skip


Instead = Callable[[tuple[Any, ...]], str]


def problems(
    error: ValidationError, lines: Lines, instead: Instead | None = None, whole: str = "the recipe"
) -> list[Problem]:
    """What pydantic found in a document, in this library's words and with its lines.

    Args:
        error: Of a strict model.
        lines: Where the document's values stand.
        instead: The mend of an unknown key, from its path.
        whole: What the document is called.
    """
    return [_problem(entry, lines, instead or _instead, whole) for entry in error.errors()]


def _problem(entry: Any, lines: Lines, instead: Instead, whole: str) -> Problem:
    path = tuple(entry["loc"])
    where = lines.where(path)

    def quoted(dotted: str) -> str:
        return f"'{dotted}'" if dotted else whole

    dotted = ".".join(str(part) for part in path)
    kind = entry["type"]
    if kind == "extra_forbidden":
        return Problem(f"unknown key '{dotted}'", instead(path), where)
    if kind == "missing":
        return Problem(f"the key '{dotted}' is missing", where=where)
    if kind == "invalid_key":
        return Problem(f"the key '{dotted}' must be a text", "Put it in quotes.", where)
    if "layer_range" in path:
        whose = ".".join(str(part) for part in path[: path.index("layer_range") + 1])
        rule = f"'{whose}' must be two whole numbers, [first, one past the last]"
        return Problem(f"{rule}, got {_shown(entry['input'])}", where=where)
    rules = {
        "int_type": "a whole number", "int_from_float": "a whole number", "bool_type": "true or false",
        "float_type": "a number", "greater_than_equal": f"at least {entry.get('ctx', {}).get('ge')}",
        "less_than": f"below {entry.get('ctx', {}).get('lt')}",
    }  # fmt: skip
    if kind in rules:
        return Problem(f"{quoted(dotted)} must be {rules[kind]}, got {_shown(entry['input'])}", where=where)
    if kind == "model_type" or kind == "dict_type":
        return Problem(f"{quoted(dotted)} must be a mapping of keys, got {_shown(entry['input'])}", where=where)
    if kind == "list_type":
        return Problem(f"{quoted(dotted)} must be a list, got {_shown(entry['input'])}", "Write - before each.", where)
    if kind == "string_type":
        return Problem(f"{quoted(dotted)} must be a text, got {_shown(entry['input'])}", where=where)
    if kind in ("too_short", "string_too_short"):
        return Problem(f"{quoted(dotted)} must not be empty", where=where)
    if kind == "literal_error":
        expected = entry["ctx"]["expected"]
        return Problem(f"{quoted(dotted)} must be {expected}, got {_shown(entry['input'])}", where=where)
    if kind == "value_error":
        return Problem(f"{dotted + ': ' if dotted else ''}{entry['ctx']['error']}", where=where)
    message = entry["msg"][:1].lower() + entry["msg"][1:]
    return Problem(f"{quoted(dotted)}: {message}, got {_shown(entry['input'])}", where=where)


#: Options of the community's command line that recipes on the Hub carry, where that tool ignores them.
_OPTIONS = frozenset(
    {"write_readme", "allow_crimes", "lazy_unpickle", "low_cpu_memory", "copy_tokenizer", "out_shard_size"}
)


def _instead(path: tuple[Any, ...]) -> str:
    """What an unknown key should have been."""
    key = str(path[-1])
    if path == ("random_seed",):
        return "Here it is called seed."
    if len(path) == 1 and key in _OPTIONS:
        return "It is an option of another tool's command line, not of the recipe: remove it."
    if path == ("experts",):
        return "Building mixtures of experts is not possible yet."
    if any(key in method.fields for method in METHODS.values()) and path[-2:-1] != ("tokenizer",):
        return "It is a parameter of the method: write it under parameters:."
    owner = next((_TYPES[part] for part in reversed(path[:-1]) if part in _TYPES), Recipe)
    return did_you_mean(key, owner.model_fields, most=99)


def _shown(value: Any) -> str:
    words = {None: "nothing", True: "true", False: "false"}
    shown = words[value] if value is None or isinstance(value, bool) else repr(value)
    return shown if len(shown) < 80 else shown[:77] + "..."
