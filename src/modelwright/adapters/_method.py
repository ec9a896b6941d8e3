"""Methods that are about adapters alone: on factors, where those of `modelwright.methods` are on task vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from modelwright.errors import InputError, Problem, did_you_mean
from modelwright.methods import Parameter, Params


@dataclass(frozen=True)
class AdapterMethod:
    """The record of a method on factors.

    Attributes:
        name: Its name in Python and on the command line.
        title: Its name in prose.
        paper: A stable reference; empty where there is none.
        summary: When to use it and what it does.
        function: Called with the products of one module, those of adapters that leave it alone left out, and with the parameters;
            returns the merged product. None for `mos`, which is about parameters and not about what they add.
        params: The pydantic model of its parameters.
        factors: Whether it needs factors, and cannot do with matrices.
        sums: Whether its result is a weighted sum, which any kind of adapter can be part of.
        models: Least number of adapters.
        random: Whether it draws noise, and so takes a `key`.
        differs: What departs from the paper and from other implementations, and why.
        cite: A BibTeX entry.
    """

    name: str
    title: str
    paper: str
    summary: str
    function: Callable[..., Any] | None
    params: type[Params]
    factors: bool = False
    sums: bool = False
    models: int = 1
    random: bool = False
    differs: tuple[str, ...] = ()
    cite: str = ""

    @property
    def fields(self) -> dict[str, Parameter]:
        """Its parameters by name."""
        return {(f.alias or name): Parameter(self.name, name, f) for name, f in self.params.model_fields.items()}

    def parameters(self, given: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Every parameter's value by its Python name; of those that each adapter has its own of, a tuple.

        Raises:
            InputError: A name is unknown, a value out of its range, or there are not as many as adapters.
        """
        fields = self.fields
        if unknown := [name for name in given if name not in fields]:
            raise InputError(
                Problem(f"{self.name} has no parameter '{name}'", did_you_mean(name, fields)) for name in unknown
            )
        values: dict[str, Any] = {}
        for name, field in fields.items():
            value = given.get(name, field.default)
            if not field.per_model:
                values[field.python_name] = field.check(value)
                continue
            listed = list(value) if isinstance(value, list | tuple) else [value] * count
            if len(listed) != count:
                raise InputError(
                    f"{self.name}: {name} has {len(listed)} values for {count} adapters",
                    "Give one number, or one for each.",
                )
            values[field.python_name] = tuple(float(field.check(entry)) for entry in listed)
        return values
