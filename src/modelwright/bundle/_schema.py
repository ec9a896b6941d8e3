"""bundle.json: what a bundle says of itself; every key is known, and every member is told by a hash of its contents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from modelwright.checkpoint import is_inside, is_url
from modelwright.errors import InputError, Problem

VERSION = 1
Kind = Literal["weights", "ensemble", "cascade"]
#: A member's name is a folder's too.
NAME = re.compile(r"\w[\w.-]*")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _inside(value: Any) -> Any:
    if isinstance(value, str) and not (is_inside(value) and all(NAME.fullmatch(part) for part in value.split("/"))):
        raise ValueError("must lead into the bundle's own folder, by plain names")
    return value


def _elsewhere(value: Any) -> Any:
    """A folder, a file, a Hub id or a URL: what has a colon elsewhere could be the name of a function, which is code."""
    if isinstance(value, str) and ":" in value and not is_url(value):
        raise ValueError("must be a folder, a file, a Hub id or a URL")
    return value


class Member(_Strict):
    """One of the things in a bundle.

    Attributes:
        role: `shared` and `base` weights, the part of a `task`, or a `model` that answers.
        folder: Where it lies in the bundle; absent where it is referred to.
        reference: What it is elsewhere, as `mw.open` takes it; absent where it is in the bundle.
        hash: Of one in the bundle, of the list of its files with their hashes; of one elsewhere, of its tensors' values.
        nbytes: Bytes of its weights.
        format: How it is stored: `checkpoint`; `parts` of a task's tensors; `onnx`; `skops`, which is how estimators of
            scikit-learn are kept without pickle.
        network: Of a checkpoint that is no model of transformers, what was named to build its network. It is never run because a
            bundle says so: whoever opens the bundle names it again.
    """

    role: Literal["shared", "base", "task", "model"]
    folder: Annotated[str | None, BeforeValidator(_inside)] = None
    reference: Annotated[str | None, BeforeValidator(_elsewhere)] = None
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    nbytes: Annotated[int, Field(ge=0)]
    format: Literal["checkpoint", "parts", "onnx", "skops"] = "checkpoint"
    network: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Member:
        if (self.folder is None) == (self.reference is None):
            raise ValueError("a member has exactly one of folder and reference")
        return self


class Lineage(_Strict):
    """What a bundle was made from.

    Attributes:
        recipe: The recipe's text; empty where there was none.
        seed: Of what is drawn.
        versions: Of the packages that it depends on.
        licences: Of each input, as far as it is stated.
    """

    recipe: str = ""
    seed: int = 0
    versions: dict[str, str]
    licences: dict[str, str | None] = Field(default_factory=dict)


class Weights(_Strict):
    """Of a bundle of weights: the method whose parts its tasks have.

    Attributes:
        method: Its name.
        parameters: What its parameters came to.
        router: What chooses the task; nothing does yet, so that the task is told.
    """

    method: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    router: None = None


class FittedOn(_Strict):
    """The items that combiner, calibrator and cascade were fitted on.

    Attributes:
        task: The task's name.
        fingerprint: Of those items.
        split: Whose they are; never `test`.
        items: How many.
    """

    task: str
    fingerprint: str
    split: Literal["tune", "validation"]
    items: Annotated[int, Field(ge=0)]


class Ensemble(_Strict):
    """Of models that answer together.

    Attributes:
        order: Names of the members, in the order in which they are combined or asked.
        asks: What they give: `probabilities` of classes, or `values`.
        classes: Names of the classes; empty for values.
        combine: What makes one answer of theirs, as `predictions.Fitted.as_dict` has it; absent of a cascade, whose rule says it.
        calibrate: What makes its confidence true, likewise; absent where nothing does.
        cascade: Of a cascade its rule, as `CascadeRule.as_json` has it.
        fitted_on: What all of this was fitted on.
    """

    order: Annotated[
        tuple[str, ...], Field(min_length=2), BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)
    ]
    asks: Literal["probabilities", "values"]
    classes: Annotated[tuple[str, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)] = ()
    combine: dict[str, Any] | None = None
    calibrate: dict[str, Any] | None = None
    cascade: dict[str, Any] | None = None
    fitted_on: FittedOn | None = None


class About(_Strict):
    """All that bundle.json says.

    Attributes:
        bundle_version: Of this schema.
        kind: What the members do together.
        members: By name.
        weights: Of the kind `weights`.
        ensemble: Of the kinds `ensemble` and `cascade`.
        lineage: What it was made from.
    """

    bundle_version: Literal[1] = VERSION
    kind: Kind
    members: Annotated[dict[str, Member], Field(min_length=1)]
    weights: Weights | None = None
    ensemble: Ensemble | None = None
    lineage: Lineage

    @model_validator(mode="after")
    def _fits(self) -> About:
        odd = [name for name in self.members if NAME.fullmatch(name) is None]
        if odd:
            raise ValueError(f"the member's name '{odd[0]}' must be letters, digits, _, - and . alone")
        if (self.weights is not None) != (self.kind == "weights"):
            raise ValueError("weights: belongs to the kind weights")
        if (self.ensemble is None) != (self.kind == "weights"):
            raise ValueError("ensemble: belongs to the kinds ensemble and cascade")
        if self.ensemble is not None:
            self._check_ensemble(self.ensemble)
        if self.kind == "weights" and (
            self.members.get("shared") is None or all(one.role != "task" for one in self.members.values())
        ):
            raise ValueError("a bundle of weights has a member 'shared' and a part for each task")
        return self

    def _check_ensemble(self, said: Ensemble) -> None:
        if sorted(said.order) != sorted(self.members):
            raise ValueError("order: must name every member once")
        if (said.cascade is not None) != (self.kind == "cascade") or (said.combine is None) != (self.kind == "cascade"):
            raise ValueError("an ensemble has combine:, and a cascade has cascade: instead")

    def text(self) -> str:
        """As it stands in the file."""
        return json.dumps(self.model_dump(exclude_none=True), indent=1, ensure_ascii=False) + "\n"


def parse(data: Mapping[str, Any] | None, where: str) -> About:
    """What a bundle.json says.

    Raises:
        InputError: It is none, of another version, or damaged.
    """
    version = None if data is None else data.get("bundle_version")
    if type(version) is int and version != VERSION:
        raise InputError(f"'{where}' has the version {version}, which this modelwright does not know", "Update it.")
    try:
        return About.model_validate(data)
    except ValidationError as error:
        problems = [
            Problem(f"'{'.'.join(map(str, one['loc'])) or 'bundle.json'}': {one['msg'].removeprefix('Value error, ')}",
                    "The bundle is damaged, or was edited: make it again.", where)
            for one in error.errors()[:8]
        ]  # fmt: skip
        raise InputError(problems) from None
