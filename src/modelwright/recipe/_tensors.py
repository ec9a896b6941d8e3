"""One output tensor: which tensors meet in it, with which parameters, in which format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modelwright.architectures import Place, tie_source, ties_embeddings, vocabulary_tensor
from modelwright.checkpoint import TensorRef
from modelwright.errors import InputError
from modelwright.recipe._plan import Fate, Input, PlannedTensor
from modelwright.recipe._settings import resolve
from modelwright.tensors import dtype as find_dtype, promote

if TYPE_CHECKING:
    from modelwright.recipe._resolve import Context, Slice, Source


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
    found = [_find(context, source.model, wanted, piece) for source, wanted in zip(piece.sources, own, strict=True)]
    if _is_alias(context, piece, found):
        for entry in found:
            if entry:
                _settle(context, entry, name, "tied-alias")
        return
    base, inputs, sources = _inputs(context, piece, name, own, found)
    if not inputs:
        return
    refs = [_ref(context, entry) for entry in (*inputs, *([base] if base else []))]
    if not _fit(context, [*inputs, *([base] if base else [])], refs, name):
        return
    _note_untied(context, name, found, own)
    shape = refs[0].shape
    part = next((p.prefix for p in reversed(context.models[inputs[0].model].parts) if name.startswith(p.prefix)), "")
    if not all(ref.dtype.floating for ref in refs):
        _plan_buffer(context, name, part, inputs, base)
        return
    stated = context.recipe.out_dtype or context.recipe.dtype
    dtype = find_dtype(stated) if stated else promote(ref.dtype for ref in refs)
    too_few = len(inputs) < context.method.models[0] or (context.method.base == "required" and base is None)
    if copy or too_few:
        _settle(context, inputs[0], name, "copied")
        for entry in (*inputs[1:], *([base] if base else [])):
            _settle(context, entry, name, "dropped")
        context.tensors.append(PlannedTensor(name, part, shape, dtype, inputs[:1], None, "copy"))
        return
    parameters = _parameters(context, piece, sources, name, own, place, t)
    if parameters is None:
        return
    as_is = context.method.copies(parameters)
    for entry in (*inputs, *([base] if base else [])):
        _settle(context, entry, name, "copied" if as_is else "merged")
    action = "copy" if as_is else "merge"
    context.tensors.append(PlannedTensor(name, part, shape, dtype, inputs, base, action, parameters))


def _find(context: Context, model: int, name: str, piece: Slice) -> Input | None:
    """The tensor of this name in a model, or the embedding that it is tied to there; None where it is missing."""
    own = context.names[model].get(name)
    if own is not None:
        return Input(model, own)
    checkpoint = context.models[model]
    if ties_embeddings(checkpoint.config):
        others = [context.names[s.model].get(name) for s in piece.sources]
        shapes = [context.models[s.model][o].shape for s, o in zip(piece.sources, others, strict=True) if o]
        target = tie_source(name, checkpoint.shapes, shapes[0]) if shapes and vocabulary_tensor(name) else None
        if target is not None:
            return Input(model, target)
    return None


def _is_alias(context: Context, piece: Slice, found: Sequence[Input | None]) -> bool:
    """Whether the tensor is another name of an embedding in every model that takes part, so that one copy suffices."""
    entries = [entry for entry in found if entry]
    if piece.base is not None and all(s.model != piece.base for s in piece.sources):
        pass  # the base ties or not with the others: its own alias is settled below
    real = [entry for entry in entries if entry.name in context.models[entry.model].tied]
    virtual = [entry for entry in entries if entry.name not in context.models[entry.model].tied]
    return bool(real) and all(_is_virtual(context, entry, real) for entry in virtual)


def _is_virtual(context: Context, entry: Input, real: Sequence[Input]) -> bool:
    """Whether an entry stands for the head of a model that stores none."""
    heads = {r.name for r in real}
    return not any(context.names[entry.model].get(head) for head in heads)


def _inputs(
    context: Context, piece: Slice, name: str, own: Sequence[str], found: Sequence[Input | None]
) -> tuple[Input | None, tuple[Input, ...], list[Source]]:
    """The base's tensor, the others', and the sources they come from, after the rule for missing ones."""
    base: Input | None = None
    if piece.base is not None:
        at = next((j for j, s in enumerate(piece.sources) if s.model == piece.base), None)
        base = found[at] if at is not None else _find(context, piece.base, name, piece)
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
            anchor = base
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
    if not inputs and base is not None and context.recipe.missing == "skip":
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
    checkpoint = context.models[entry.model]
    shown = next((new for new, own in [(name, entry.name)] if context.names[entry.model].get(new) == own), None)
    if fate in ("merged", "copied") and shown is not None and shown != entry.name:
        fate = "renamed"
    key = (entry.model, entry.name)
    if context.fates.get(key) in (None, "dropped", "base"):
        context.fates[key] = fate
    assert entry.name in checkpoint


def _note_untied(context: Context, name: str, found: Sequence[Input | None], own: Sequence[str]) -> None:
    """A head that some models tie and others do not is written on its own, and the configuration must say so."""
    if not vocabulary_tensor(name):
        return
    virtual = [e for e, w in zip(found, own, strict=True) if e and context.names[e.model].get(w) != e.name]
    tied = [e for e in found if e and e.name in context.models[e.model].tied]
    if virtual or tied:
        context.untied = True
        context.note(f"some models tie '{name}' to the embedding and some do not: the output has its own, untied")
    if virtual and all(context.names[e.model].get(w) is None for e, w in zip(found[:1], own[:1], strict=True) if e):
        context.created.append(name)


def _plan_buffer(context: Context, name: str, part: str, inputs: tuple[Input, ...], base: Input | None) -> None:
    """Integers and booleans are not averaged: the donor's are copied, and others are compared while running."""
    order = (base, *inputs) if base else inputs
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
                whose = f" for {context.models[source.model].label}" if source else ""
                context.wrong(
                    f"{context.method.name} needs the parameter '{parameter.name}'{whose} ({parameter.rule}), which is "
                    f"not given{'' if not _partly(parameter.name, piece, sources) else f' for every tensor, such as {name}'}",
                    f"Add it under parameters: {parameter.name}: ...",
                    source.path if source else piece.path,
                )
                return None
            found.append(value)
        values[parameter.name] = tuple(found) if parameter.per_model else found[0]
    try:
        context.method.check(values)
    except InputError as error:
        for problem in error.problems:
            context.wrong(problem.what, problem.mend, piece.path)
        return None
    return values


def _partly(name: str, piece: Slice, sources: Sequence[Source]) -> bool:
    return any(name in level for level in (*piece.levels, *(s.parameters for s in sources)))


def same_everywhere(context: Context) -> None:
    """A statistic over the whole model needs one value of its parameters for all tensors."""
    merged = [tensor for tensor in context.tensors if tensor.action == "merge"]
    if not merged:
        return
    rounds = context.method.rounds(merged[0].parameters)
    names = dict.fromkeys(name for entry in rounds for name in entry.uniform)
    for tensor in merged:
        for name in names:
            if tensor.parameters[name] != merged[0].parameters[name]:
                context.wrong(
                    f"{context.method.name}: '{name}' must have one value for all tensors, because it is counted over the "
                    f"whole model; {merged[0].name} has {merged[0].parameters[name]}, {tensor.name} {tensor.parameters[name]}",
                    "Remove the filter or gradient, or use scope: tensor.",
                )
                return
