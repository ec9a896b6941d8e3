"""One output tensor: which tensors meet in it, with which parameters, in which format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelwright.architectures import (
    Place,
    comes_after_layers,
    is_computed,
    tie_source,
    ties_embeddings,
    vocabulary_tensor,
)
from modelwright.checkpoint import Part, TensorRef
from modelwright.errors import InputError, listing
from modelwright.methods import Parameter, Position
from modelwright.recipe._context import Context, Slice, Source
from modelwright.recipe._plan import Fate, Input, PlannedTensor, counted_together
from modelwright.recipe._settings import resolve
from modelwright.tensors import dtype as find_dtype, promote


def plan_tensor(
    context: Context,
    piece: Slice,
    name: str,
    own: Sequence[str],
    place: Place | None,
    t: float,
    *,
    copy: bool = False,
) -> None:
    """Add one tensor to the plan, or what is wrong with it to the problems.

    Args:
        context: What is known so far.
        piece: The slice it belongs to.
        name: Its name in the output.
        own: For each source the name it has there.
        place: Its layer in the output.
        t: Position for gradients.
        copy: Take it from the only source as it is.
    """
    found = [_find(context, source.model, wanted) for source, wanted in zip(piece.sources, own, strict=True)]
    anchor = _anchor(context, piece, name, found)
    moved = any(wanted != name for wanted in own)  # to another layer, so it is no head whatever it is called
    heads = [] if moved else _only_aliases(context, name, [*found, anchor])
    if heads:
        for entry in heads:
            _settle(context, entry, name, "tied-alias")
        return
    held = [entry for entry in (*found, anchor) if entry]
    if held and is_computed(name, _ref(context, held[0]).shape):
        _plan_buffer(context, name, _part(context, name, held[0]), tuple(dict.fromkeys(held)), None)
        return
    base, inputs, sources = _inputs(context, piece, name, own, found, anchor)
    if not inputs:
        return
    refs = [_ref(context, entry) for entry in (*inputs, *([base] if base else []))]
    if not _fit(context, [*inputs, *([base] if base else [])], refs, name):
        return
    if not moved:
        _note_untied(context, name, [*inputs, *([base] if base else [])])
    shape = refs[0].shape
    part = _part(context, name, inputs[0])
    if not all(ref.dtype.floating for ref in refs):
        _plan_buffer(context, name, part, inputs, base)
        return
    stated = context.recipe.out_dtype or context.recipe.dtype
    dtype = find_dtype(stated) if stated else promote(ref.dtype for ref in refs)
    too_few = len(inputs) < context.method.models[0] or (context.method.base == "required" and base is None)
    if too_few and not copy:
        context.gather("few", inputs[0].model, inputs[0].model, name)
    if copy or too_few:
        _settle(context, inputs[0], name, "copied")
        for entry in (*inputs[1:], *([base] if base else [])):
            _settle(context, entry, name, "dropped")
        context.tensors.append(PlannedTensor(name, part, shape, dtype, inputs[:1], None, "copy"))
        return
    parameters = _parameters(context, piece, sources, name, own, place, t)
    position = _position(context, name, place)
    if parameters is None or not _go_together(context, piece, parameters, position, len(inputs)):
        return
    as_is = context.method.copies(parameters)
    if as_is and not stated:  # float8 that is no quantised weight, or is to stay one
        dtype = refs[0].dtype
    for entry in (*inputs, *([base] if base else [])):
        _settle(context, entry, name, "copied" if as_is else "merged")
    action = "copy" if as_is else "merge"
    context.tensors.append(PlannedTensor(name, part, shape, dtype, inputs, base, action, parameters, position))


def _part(context: Context, name: str, entry: Input) -> str:
    """The part of the output that a tensor belongs to: one of the donor's, or one that only another model has."""
    part = _covering(context.parts, name)
    if part is None:
        part = _covering(context.models[entry.model].parts, name) or Part()
        context.parts.append(part)
    return part.prefix


def _covering(parts: Sequence[Part], name: str) -> Part | None:
    return max((p for p in parts if name.startswith(p.prefix)), key=lambda p: len(p.prefix), default=None)


def _find(context: Context, model: int, name: str) -> Input | None:
    """The tensor of this name in a model, or the embedding that it is tied to there; None where it is missing."""
    own = context.names[model].get(name)
    if own is not None:
        return Input(model, own)
    checkpoint = context.models[model]
    if vocabulary_tensor(name) and ties_embeddings(checkpoint.config):
        stored = ((m, names.get(name)) for m, names in zip(context.models, context.names, strict=True))
        shape = next((m[key].shape for m, key in stored if key), None)
        target = tie_source(name, checkpoint.shapes, shape) if shape else None
        if target is not None:
            return Input(model, target)
    return None


def _anchor(context: Context, piece: Slice, name: str, found: Sequence[Input | None]) -> Input | None:
    """The base's tensor; None where there is no base, or it lacks the tensor."""
    if piece.base is None:
        return None
    at = next((j for j, source in enumerate(piece.sources) if source.model == piece.base), None)
    return found[at] if at is not None else _find(context, piece.base, name)


def _only_aliases(context: Context, name: str, found: Sequence[Input | None]) -> list[Input]:
    """The stored heads, if the tensor is another name of an embedding in every model: then one copy suffices."""
    entries = [entry for entry in found if entry]
    stored = [entry for entry in entries if not _virtual(context, entry, name)]
    return stored if all(entry.name in context.models[entry.model].tied for entry in stored) else []


def _virtual(context: Context, entry: Input, name: str) -> bool:
    """Whether an entry is an embedding that stands for the head of a model that stores none."""
    return vocabulary_tensor(name) and context.names[entry.model].get(name) != entry.name


def untied_elsewhere(context: Context, name: str) -> bool:
    """Whether some model of the recipe stores this head as a tensor of its own."""
    return vocabulary_tensor(name) and any(
        own is not None and own not in model.tied
        for model, own in ((m, names.get(name)) for m, names in zip(context.models, context.names, strict=True))
    )


def _inputs(
    context: Context,
    piece: Slice,
    name: str,
    own: Sequence[str],
    found: Sequence[Input | None],
    base: Input | None,
) -> tuple[Input | None, tuple[Input, ...], list[Source]]:
    """The base's tensor, the others', and the sources they come from, after the rule for missing ones."""
    inputs: list[Input] = []
    sources: list[Source] = []
    holder = next((entry.model for entry in (*found, base) if entry), 0)
    for source, entry, wanted in zip(piece.sources, found, own, strict=True):
        if source.model == piece.base:
            continue
        if entry is None and context.recipe.missing == "error":
            context.gather("missing", source.model, holder, wanted)
            continue
        if entry is None and context.recipe.missing == "base":
            anchor = base or _find(context, context.donor, name)  # a method without a base can take tensors from one
            if anchor is None:
                context.gather("baseless", piece.base if piece.base is not None else source.model, holder, wanted)
                continue
            context.fates.setdefault((anchor.model, anchor.name), "base")
            entry = anchor
        if entry is not None:
            inputs.append(entry)
            sources.append(source)
    if piece.base is not None and base is None:
        if context.recipe.missing == "error":
            context.gather("missing", piece.base, holder, name)
        elif context.recipe.missing == "base":
            context.gather("baseless", piece.base, holder, name)
    alone = all(source.model == piece.base for source in piece.sources)
    if not inputs and base is not None and (alone or context.recipe.missing == "skip"):
        return None, (base,), []  # only the base has it
    return base, tuple(inputs), sources


def _ref(context: Context, entry: Input) -> TensorRef:
    return context.models[entry.model][entry.name]


def _fit(context: Context, entries: Sequence[Input], refs: Sequence[TensorRef], name: str) -> bool:
    """Whether the tensors that meet have one shape and one kind of number."""
    first, shape = entries[0], refs[0].shape
    fits = True
    for entry, ref in zip(entries, refs, strict=True):
        if ref.shape != shape:
            same_width = len(shape) == len(ref.shape) > 0 and shape[1:] == ref.shape[1:]
            kind = "vocabulary" if vocabulary_tensor(name) and same_width else "shape"
            context.gather(kind, entry.model, first.model, f"{name} {list(ref.shape)} and {list(shape)}")
            fits = False
        elif ref.dtype.floating != refs[0].dtype.floating:
            context.gather("kind", entry.model, first.model, f"{name} ({ref.dtype} and {refs[0].dtype})")
            fits = False
    return fits


def _settle(context: Context, entry: Input, name: str, fate: Fate) -> None:
    """Say where an input tensor ends up; the first use of a tensor decides, but any use outranks `dropped`."""
    assert entry.name in context.models[entry.model]
    if fate in ("merged", "copied") and name != entry.name and context.names[entry.model].get(name) == entry.name:
        fate = "renamed"
    key = (entry.model, entry.name)
    if context.fates.get(key) in (None, "dropped"):
        context.fates[key] = fate


def _note_untied(context: Context, name: str, entries: Sequence[Input]) -> None:
    """A head that is written on its own is true only with a configuration that says so."""
    if not vocabulary_tensor(name):
        return
    virtual = [entry for entry in entries if _virtual(context, entry, name)]
    if virtual or any(entry.name in context.models[entry.model].tied for entry in entries):
        context.untied = True
        context.note(f"some models tie '{name}' to the embedding and some do not: the output has its own, untied")
    elif any(
        tie_source(name, model.shapes) and not ties_embeddings(model.config)
        for model in (context.models[entry.model] for entry in entries)
    ):
        context.untied = True  # the donor may be a model that ties
    if entries[0] in virtual:
        context.created.append(name)


def _plan_buffer(context: Context, name: str, part: str, inputs: tuple[Input, ...], base: Input | None) -> None:
    """Integers, booleans and what models compute themselves are not averaged: the donor's are copied, and others are compared while running."""
    order = (base, *inputs) if base else inputs
    order = tuple(sorted(order, key=lambda entry: entry.model != context.donor))  # stable: the donor first
    kept = order[0]
    ref = _ref(context, kept)
    _settle(context, kept, name, "copied")
    for entry in order[1:]:
        if entry != kept:
            context.fates[entry.model, entry.name] = "compared"
    context.tensors.append(PlannedTensor(name, part, ref.shape, ref.dtype, tuple(order), None, "compare"))


def _parameters(
    context: Context,
    piece: Slice,
    sources: Sequence[Source],
    name: str,
    own: Sequence[str],
    place: Place | None,
    t: float,
) -> dict[str, Any] | None:
    """Every parameter of the method for this tensor; None where a required one is nowhere given."""
    defaults = context.method.defaults(context.recipe.semantics)
    names = {id(source): wanted for source, wanted in zip(piece.sources, own, strict=True)}
    values: dict[str, Any] = {}
    for parameter in context.method.fields.values():
        targets: Sequence[Source | None] = sources if parameter.per_model else [None]
        found: list[Any] = []
        for source in targets:
            levels = piece.levels if source is None else (source.parameters, *piece.levels)
            value = resolve(parameter, levels, name if source is None else names[id(source)], place, t)
            if value is None and parameter.name in defaults:
                value = defaults[parameter.name]
            elif value is None and parameter.required:
                _ungiven(context, parameter, piece, source, name)
                return None
            found.append(value)
        values[parameter.name] = tuple(found) if parameter.per_model else found[0]
    return values


def _position(context: Context, name: str, place: Place | None) -> Position:
    stacks = tuple(context.layouts[context.donor].stacks)
    if place is None:
        return Position(after=comes_after_layers(name), stacks=stacks)
    return Position(place.stack, place.number, place.count, stacks=stacks)


def _go_together(
    context: Context, piece: Slice, parameters: Mapping[str, Any], position: Position, models: int
) -> bool:
    """Whether values that are fine alone go with each other and with the model; else what is wrong is noted."""
    try:
        context.method.check(parameters)
        context.method.fits(parameters, position, models)
    except InputError as error:
        for problem in error.problems:
            context.wrong(problem.what, problem.mend, piece.path)
        return False
    return True


def _ungiven(context: Context, parameter: Parameter, piece: Slice, source: Source | None, name: str) -> None:
    """Note a parameter that is given nowhere, or whose conditions pass this tensor by."""
    whose = f" for {context.models[source.model].label}" if source else ""
    what = f"{context.method.name} needs the parameter '{parameter.name}'{whose} ({parameter.rule})"
    names = context.ungiven.setdefault((what, source.path if source else piece.path), [])
    if any(parameter.name in level for level in (*piece.levels, *([source.parameters] if source else []))):
        names.append(name)


def same_everywhere(context: Context) -> None:
    """A statistic over the whole model, or over a layer, needs one value of its parameters for all tensors there."""
    merged = [tensor for tensor in context.tensors if tensor.action == "merge"]
    # Any tensor may be the one that asks for a statistic: a filter can give the first one other parameters.
    asked = (entry for tensor in merged for entry in context.method.rounds(tensor.parameters))
    names = dict.fromkeys(name for entry in asked for name in entry.uniform)
    groups = counted_together(context.method, merged) if names else []
    where = "the whole model" if len(groups) == 1 else "the layer"
    if context.recipe.missing == "skip" and any(context.method.fields[name].per_model for name in names):
        for group in groups:
            _same_models(context, group, where)
        context.stop_if_wrong()
    for group in groups:
        for tensor in group:
            for name in names:
                if tensor.parameters[name] != group[0].parameters[name]:
                    context.wrong(
                        f"{context.method.name}: '{name}' must have one value for all tensors, because it is counted over "
                        f"{where}; {group[0].name} has {group[0].parameters[name]}, {tensor.name} {tensor.parameters[name]}",
                        "Remove the filter or gradient, or use scope: tensor.",
                    )
                    return


def _same_models(context: Context, merged: Sequence[PlannedTensor], where: str) -> None:
    """What is counted for each model over several tensors needs the same models in every one of them."""
    expected = [entry.model for entry in merged[0].inputs]
    other = next((t for t in merged if [entry.model for entry in t.inputs] != expected), None)
    if other is not None:
        which = (
            f"{t.name} is in {listing(context.models[i.model].label for i in t.inputs)}" for t in (merged[0], other)
        )
        context.wrong(
            f"{context.method.name}: what is counted over {where} needs every tensor in every model; "
            + ", ".join(which),
            "Use missing: base, or scope: tensor.",
            ("missing",),
        )
