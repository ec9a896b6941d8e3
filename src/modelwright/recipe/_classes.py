"""Classes of classifiers: models whose heads are merged must mean the same by each output."""

from __future__ import annotations

import re

from modelwright.architectures import comes_after_layers, is_table
from modelwright.checkpoint import Checkpoint
from modelwright.recipe._context import Context

_GENERIC = re.compile(r"LABEL_\d+")


def check_classes(context: Context) -> None:
    """Refuse to merge heads whose classes are the same in another order; say where they have other names."""
    heads = [tensor for tensor in context.tensors if tensor.action == "merge" and comes_after_layers(tensor.name)]
    for tensor in heads:
        named = {
            source.model: names
            for source in tensor.sources
            if len(names := _classes(context.models[source.model])) == (tensor.shape or (0,))[0]
        }
        first = next(iter(named), 0)
        for model, names in named.items():
            if names == named[first]:
                continue
            one, other = context.models[first].label, context.models[model].label
            place = next(i for i, pair in enumerate(zip(named[first], names, strict=True)) if pair[0] != pair[1])
            found = f"class {place} is '{named[first][place]}' in {one} and '{names[place]}' in {other}"
            if sorted(names) == sorted(named[first]):
                context.wrong(
                    f"{one} and {other} name the same classes in another order, and '{tensor.name}' would mix them: {found}",
                    f"Bring the rows of the head and id2label of {other} into the order of {one}, or take the head from one model with a "
                    "filter.",
                    context.places[model],
                )
                return
            context.note(f"'{tensor.name}' is merged of heads for other classes: {found}")
            return


def _classes(model: Checkpoint) -> list[str]:
    """The names of a model's classes by their places; empty where it gives none but LABEL_0 and so on."""
    table = (model.config or {}).get("id2label")
    if not is_table(table) or not all(re.fullmatch(r"\d{1,6}", str(place)) for place in table):
        return []
    names = [str(table[place]) for place in sorted(table, key=int)]
    return [] if all(_GENERIC.fullmatch(name) for name in names) else names
