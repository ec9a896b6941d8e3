"""`slices:`: a stack of layers rebuilt from ranges of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelwright.architectures import Place, comes_after_layers, renumbered
from modelwright.errors import listing
from modelwright.recipe._context import Context, Resized, Slice
from modelwright.recipe._tensors import plan_tensor, untied_elsewhere
from modelwright.recipe._yaml import Path


def sliced_stack(context: Context, slices: Sequence[Slice], names: Sequence[str], path: Path) -> str | None:
    """The one stack of layers that slices cut."""
    first = context.layouts[slices[0].sources[0].model]
    places = [place for name in names if (place := first.place(name))]
    stacks = {place.stack: place for place in places}
    if not stacks:
        context.wrong("slices need numbered layers, and no tensor name has a number", path=(*path, "slices"))
        return None
    if len(stacks) > 1:
        context.wrong(
            f"slices cut one stack of layers, but there are {len(stacks)}: {listing(sorted(stacks))}",
            "Use modules: with one entry for each tower, and slices inside.",
            (*path, "slices"),
        )
        return None
    (place,) = stacks.values()
    if place.nested:
        context.wrong(
            f"the layers of '{place.stack}' are numbered by stage, so they cannot be moved", path=(*path, "slices")
        )
        return None
    for piece in slices:
        for source in piece.sources:
            count = context.layouts[source.model].stacks.get(place.stack, 0)
            if source.layers and source.layers[1] > count:
                label = context.models[source.model].label
                context.wrong(
                    f"layer_range {list(source.layers)} goes beyond the {count} layers of {label}",
                    path=(*source.path, "layer_range"),
                )
    return None if context.problems else place.stack


def plan_slices(context: Context, slices: Sequence[Slice], names: Sequence[str], stack: str, path: Path) -> None:
    outside = [name for name in names if not _placed(context, slices, name)]
    before = [name for name in outside if not comes_after_layers(name)]
    for name in before:
        _plan_outside(context, slices[0], name)
    total = sum(piece.sources[0].layers[1] - piece.sources[0].layers[0] for piece in slices if piece.sources[0].layers)
    layer = 0
    for piece in slices:
        span = piece.sources[0].layers or (0, 0)
        length = span[1] - span[0]
        for offset in range(length):
            t = offset / (length - 1) if length > 1 else 1.0
            _plan_layer(context, piece, stack, layer, offset, total, t)
            layer += 1
    for name in outside:
        if comes_after_layers(name):
            _plan_outside(context, slices[-1], name)
    first = slices[0].sources[0].model
    ranges = [(piece.sources[0].model, piece.sources[0].layers or (0, 0)) for piece in slices]
    moved = _moved_kinds(context, stack, ranges)
    context.resized.append(Resized(stack, context.layouts[first].stacks[stack], tuple(ranges), moved, path))


def _moved_kinds(context: Context, stack: str, ranges: Sequence[tuple[int, tuple[int, int]]]) -> tuple[int, ...]:
    """Layers of the output that are of another kind (hold other tensors) than the donor's layer at that place."""
    kinds = {model: _kinds(context, stack, model) for model in {context.donor, *(model for model, _ in ranges)}}
    expected = kinds[context.donor]
    if not expected:
        return ()
    found = [kinds[model].get(number) for model, (first, last) in ranges for number in range(first, last)]
    last = max(expected)
    return tuple(i for i, kind in enumerate(found) if kind != expected[min(i, last)])


def _kinds(context: Context, stack: str, model: int) -> dict[int, frozenset[str]]:
    """For each layer the names of its tensors within the layer."""
    kinds: dict[int, set[str]] = {}
    for name in context.names[model]:
        place = context.layouts[model].place(name)
        if place and place.stack == stack:
            kinds.setdefault(place.number, set()).add(renumbered(name, place, 0))
    return {number: frozenset(names) for number, names in kinds.items()}


def _placed(context: Context, slices: Sequence[Slice], name: str) -> bool:
    return any(context.layouts[s.model].place(name) for piece in slices for s in piece.sources)


def _plan_outside(context: Context, piece: Slice, name: str) -> None:
    if any(name in context.names[s.model] for s in piece.sources) or untied_elsewhere(context, name):
        plan_tensor(context, piece, name, [name] * len(piece.sources), None, 0.0)


def _plan_layer(context: Context, piece: Slice, stack: str, number: int, offset: int, total: int, t: float) -> None:
    templates: dict[str, dict[int, str]] = {}  # output name -> source -> own name
    for j, source in enumerate(piece.sources):
        layout = context.layouts[source.model]
        wanted = (source.layers or (0, 0))[0] + offset
        for name in layout.layer(stack, wanted):
            place = layout.place(name)
            assert place is not None
            templates.setdefault(renumbered(name, place, number), {})[j] = name
    place = Place(stack, number, total)
    for out, found in templates.items():
        own = [found.get(j) or _sibling(context, found, piece, j, stack, offset) for j in range(len(piece.sources))]
        plan_tensor(context, piece, out, own, place, t)


def _sibling(context: Context, found: Mapping[int, str], piece: Slice, j: int, stack: str, offset: int) -> str:
    """The name a tensor would have in a source that lacks it, for the message."""
    other, name = next(iter(found.items()))
    place = context.layouts[piece.sources[other].model].place(name)
    assert place is not None
    return renumbered(name, place, (piece.sources[j].layers or (0, 0))[0] + offset)
