"""One recipe per method, from the methods' own records: what is merged, with which settings, written as YAML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelwright.methods import Method

#: Densities come from each method's paper, through its record; everything else is the community's default.
_FROM_PAPER = ("density", "gamma")


@dataclass(frozen=True)
class Recipe:
    """What the demo merges with one method.

    Attributes:
        method: The method's record.
        models: The experts that are merged.
        base: The base model, or None.
        parameters: Settings fixed in advance, by recipe name.
        slices: For stacking: (model, first layer, one past the last) in place of `models`.
        note: A remark for the reader of the recipe.
    """

    method: Method
    models: tuple[str, ...] = ()
    base: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    slices: tuple[tuple[str, int, int], ...] = ()
    note: str = ""

    @property
    def scaled(self) -> bool:
        """Whether it has a scale to be chosen on validation data: lambda."""
        return "lambda" in self.method.fields

    @property
    def experts(self) -> int:
        """How many experts go in."""
        named = {*self.models, *(model for model, _, _ in self.slices), self.base}
        return len(named - {None, "base"})

    def text(self, command: str, scale: float | None) -> str:
        """The recipe as YAML, for a file in the demo's `recipes` folder.

        Args:
            command: What to type to merge by it.
            scale: Its lambda, or None.
        """
        method = self.method
        lines = [f"# {method.title}" + (f", {method.paper}" if method.paper else ""), f"# {method.summary}"]
        if self.note:
            lines.append(f"# {self.note}")
        lines += ["#", f"#   {command}", ""]
        lines.append(f"merge_method: {method.name}")
        if self.base:
            lines.append(f"base_model: ../models/{self.base}")
        if self.slices:
            lines.append("slices:")
            for model, start, stop in self.slices:
                lines.append(f"  - sources: [{{model: ../models/{model}, layer_range: [{start}, {stop}]}}]")
        else:
            lines += ["models:", *(f"  - model: ../models/{model}" for model in self.models)]
        entries = [f"  {name}: {json.dumps(value)}" for name, value in self.parameters.items()]
        if scale is not None:
            entries.append(f"  lambda: {json.dumps(scale)}  # chosen on the validation images")
        if entries:
            lines += ["parameters:", *entries]
        return "\n".join([*lines, "dtype: float32", ""])


def recipes(methods: Iterable[Method], experts: Sequence[str]) -> dict[str, Recipe]:
    """A recipe for every method that makes one model without data; the others are left out.

    Args:
        methods: Their records.
        experts: Names of the experts, at least two.

    Returns:
        By method name, in the order of the methods.
    """
    made = {method.name: _recipe(method, experts) for method in methods}
    return {name: recipe for name, recipe in made.items() if recipe is not None}


def _recipe(method: Method, experts: Sequence[str]) -> Recipe | None:
    first, second, *_ = experts
    if method.name == "slerp":
        note = "SLERP joins two models: its base is one end of the arc."
        return Recipe(method, (first, second), base=first, parameters={"t": 0.5}, note=note)
    if method.name == "passthrough":
        note = f"The lowest layer of {first} under the rest of the base: layers are stacked, nothing is averaged."
        return Recipe(method, slices=((first, 0, 1), ("base", 1, 3)), note=note)
    if method.name == "nearswap":
        note = (
            f"The base moves towards {first}, each weight by 0.01 at most; its inventor's 0.0001 is for larger models."
        )
        return Recipe(method, (first,), base="base", parameters={"t": 0.01}, note=note)
    return _from_record(method, experts)


def _from_record(method: Method, experts: Sequence[str]) -> Recipe | None:
    """As many experts as the method takes, with weight 1, its paper's density and its defaults."""
    _, most = method.models
    required = {name for name, parameter in method.fields.items() if parameter.required}
    if method.needs or method.parts is not None or required - {"weight"}:  # a bundle is no one model
        return None
    parameters: dict[str, Any] = {"weight": 1.0} if "weight" in method.fields else {}
    preset = method.presets.get("paper", {})
    parameters |= {name: preset[name] for name in _FROM_PAPER if name in preset}
    base = None if method.base == "ignored" else "base"
    return Recipe(method, tuple(experts[:most]), base, parameters)
