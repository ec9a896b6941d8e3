"""What a task file may say: every other key is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from modelwright.errors import did_you_mean
from modelwright.evaluate._items import Split


class Strict(BaseModel):
    """No unknown keys, and no value turned into another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class Settings(Strict):
    """The keys of every kind of task.

    Attributes:
        kind: One of `KINDS`.
        name: How tables and records call it; default the name of the file or function.
        data: Where its items are; relative paths start at the task file.
        metric: What is measured; each kind has a default.
    """

    kind: str = "classification"
    name: Annotated[str, Field(min_length=1)] | None = None
    data: Any = Field(...)
    metric: str | None = None


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_listed)]


def _one_or_more(value: Any) -> Any:
    many = isinstance(value, list) and value and all(isinstance(name, str) for name in value)
    if not (value is None or isinstance(value, str) or many):
        raise ValueError(f"must be the name of a column, or a list of them, got {value!r}")
    return value


def _written(value: Any) -> Any:
    """Names of classes as texts: YAML reads `1` and `true` as no text."""
    if not isinstance(value, list | tuple):
        return value
    return [
        str(name).lower() if isinstance(name, bool) else str(name) if isinstance(name, int) else name for name in value
    ]


class Columns(Strict):
    """Which columns of the data play which part.

    Attributes:
        inputs: One column, or several numbers that make a row each. Default `inputs`, else all that have no other part.
        target: Default `target`.
        id: Default `id` where there is one, else ids are made as `ids` says.
        split: Default `split` where there is one.
        slices: Properties to look at parts of the data by.
    """

    inputs: Annotated[Any, BeforeValidator(_one_or_more)] = None
    target: str | None = None
    id: str | None = None
    split: str | None = None
    slices: Names = []


class Part(Strict):
    """One of the data's own splits, or a random part of one.

    Attributes:
        of: The data's own split; empty for data without splits.
        share: How much of it, in (0, 1]; None is the whole of it.
    """

    of: str = ""
    share: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        return {"of": value} if isinstance(value, str) else value


def _alone(value: Any) -> Any:
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


Numbers = Annotated[list[float], Field(min_length=1), BeforeValidator(_alone)]


class Normalise(Strict):
    """(x - mean) / std, with one number for all values or one for each channel along an axis of an item."""

    mean: Numbers
    std: Numbers
    axis: int = -1


_Side = Annotated[int, Field(ge=1, le=4096)]
_Pair = Annotated[list[_Side], Field(min_length=2, max_length=2)]
_Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class Step(Strict):
    """One step of preprocessing: exactly one of these.

    Attributes:
        colour: `grey` or `rgb`: what images become.
        resize: Height and width that images become, by bilinear interpolation.
        channels: `first` or `last`: where the channels of images (n, h, w) or (n, h, w, c) go.
        scale: The values [low, high] become [0, 1].
        normalise: Subtract a mean and divide by a standard deviation.
        flatten: `true`: one row an item.
        dtype: The format of the array.
    """

    colour: Literal["grey", "rgb"] | None = None
    resize: _Pair | None = None
    channels: Literal["first", "last"] | None = None
    scale: _Range | None = None
    normalise: Normalise | None = None
    flatten: Literal[True] | None = None
    dtype: Literal["float16", "float32", "float64", "int64", "uint8"] | None = None

    @model_validator(mode="after")
    def _one(self) -> Step:
        if len(self.model_fields_set) != 1:
            said = ", ".join(sorted(self.model_fields_set)) or "nothing"
            raise ValueError(f"each step says exactly one thing, got {said}: write - before each")
        return self

    @property
    def word(self) -> str:
        """Which of the steps it is."""
        return next(iter(self.model_fields_set))


class DataSettings(Settings):
    """The keys of tasks whose items are rows: `classification` and `regression`.

    Attributes:
        columns: Which columns play which part.
        classes: Names of the classes, in the order of a model's outputs. Default those the data name, else the labels.
        ids: How items without an id column are called: by their `content`, so that their order does not matter, or by
            `position`.
        splits: For `tune`, `validation`, `test` one of the data's own splits, or a share of one.
        seed: Of the shares.
        stratified: Whether shares have the classes in proportion; default true for classes.
        preprocessing: What is done to the inputs, in order.
    """

    columns: Columns = Columns()
    classes: Annotated[list[str], BeforeValidator(_written)] | None = None
    ids: Literal["content", "position"] = "content"
    splits: Annotated[dict[Split, Part], Field(min_length=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    stratified: bool | None = None
    preprocessing: list[Step] = []

    @model_validator(mode="after")
    def _whole(self) -> DataSettings:
        if self.classes is not None and len(self.classes) < 2:
            raise ValueError(f"classes must be at least two, got {len(self.classes)}")
        twice = [name for name in self.classes or () if (self.classes or ()).count(name) > 1]
        if twice:
            raise ValueError(f"the class '{twice[0]}' stands twice in classes")
        said = (self.splits or {}).values()
        for of in dict.fromkeys(part.of for part in said):
            shares = [part.share for part in said if part.of == of]
            if None in shares and len(shares) > 1:
                raise ValueError(f"splits: '{of}' is a split as a whole, so no other can have a part of it")
            total = sum(share or 0 for share in shares)
            if total > 1 + 1e-9:
                raise ValueError(f"splits: the shares of {of or 'the data'} must sum to at most 1, got {total:g}")
        return self


def instead(settings: type[Settings]) -> Any:
    """The mend of an unknown key, for a kind of task."""
    inside: dict[str, type[BaseModel]] = {
        "columns": Columns, "splits": Part, "preprocessing": Step, "normalise": Normalise
    }  # fmt: skip

    def mend(path: tuple[Any, ...]) -> str:
        owner = next((inside[part] for part in reversed(path[:-1]) if part in inside), settings)
        return did_you_mean(str(path[-1]), owner.model_fields, most=99)

    return mend
