"""Names of tensors as people group them: the layer, and the kind of tensor that every layer has one of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from modelwright.architectures import Layout, Place, comes_after_layers

#: What is left of a name below the layer's number, where two numbers make the depth.
_SECOND_NUMBER = re.compile(r"^(?:blocks?\.|layers?\.)?\d+\.")
_NUMBER = re.compile(r"(?<![^./])\d+(?![^./])")
_LEAF = re.compile(r"[./](?:weight|bias)$")


def kind(name: str, place: Place | None) -> str:
    """What a tensor is called in every layer: `self_attn.q_proj`; weight and bias are one kind, and so are all experts."""
    rest = name
    if place is not None:
        rest = re.sub(r"^\d+\.", "", name.removeprefix(place.stack).removeprefix("."))
        rest = _SECOND_NUMBER.sub("", rest) if place.nested else rest
    return _NUMBER.sub("*", _LEAF.sub("", rest))


def layer(name: str, place: Place | None) -> str:
    """The layer that a tensor belongs to, `model.layers.3`; of what is outside all layers the kind."""
    if place is None:
        return kind(name, None)
    own = re.match(r"\.?(\d+)\.", name.removeprefix(place.stack))  # an adapter may tune some layers only
    number = own[1] if own and not place.nested else str(place.number)
    return f"{place.stack}.{number}" if place.stack else number


def ordered(names: Iterable[str], layout: Layout) -> list[str]:
    """The names as a model computes: what comes before the layers, these by number, what comes after; files are sorted by letters."""
    stacks = list(layout.stacks)

    def key(name: str) -> tuple[int, int, int]:
        place = layout.place(name)
        if place is None:
            return (2 if comes_after_layers(name) else 0, 0, 0)
        return (1, stacks.index(place.stack), place.number)

    return sorted(names, key=key)


def unique(labels: Sequence[str]) -> list[str]:
    """The labels, told apart where one stands twice."""
    seen: dict[str, int] = {}
    found: list[str] = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        found.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return found


def short(labels: Iterable[str]) -> dict[str, str]:
    """Labels by their last words, `runs/math` as `math`, where these tell them apart."""
    listed = list(labels)
    last = [PurePath(label).name or label for label in listed]
    return dict(zip(listed, last if len(set(last)) == len(listed) else listed, strict=True))
