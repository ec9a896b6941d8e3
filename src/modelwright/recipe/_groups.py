"""Which tensors are merged together: the whole model, its towers, or slices of its layers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from modelwright.architectures import MODULES, Place, module_of
from modelwright.errors import listing
from modelwright.recipe._context import Context, Slice, Source
from modelwright.recipe._schema import InputModel, Module, OutputSlice, Recipe, Settings
from modelwright.recipe._slices import plan_slices, sliced_stack
from modelwright.recipe._tensors import plan_tensor
from modelwright.recipe._yaml import Path


def plan_modules(context: Context, base: int | None, donor: int) -> None:
    recipe = context.recipe
    every = _ordered_names(context, donor)
    if recipe.modules is None:
        _plan_owner(context, recipe, (), (recipe.parameters,), every, base, donor)
        return
    listed = list(recipe.modules)
    groups: dict[str, list[str]] = {module: [] for module in listed}
    left: list[str] = []
    for name in every:
        module = module_of(name, listed)
        (groups[module] if module else left).append(name)
    for module, names in groups.items():
        path = ("modules", module)
        if not names:
            prefixes = sorted({re.split(r"[./]", name)[0] for name in every})
            close = difflib.get_close_matches(module, [*prefixes, *MODULES], n=1)
            meant = f"Did you mean '{close[0]}'? " if close and close[0] != module else ""
            context.wrong(
                f"no tensor belongs to the module '{module}'",
                f"{meant}Tensor names start with: {listing(prefixes)}.",
                path,
            )
            continue
        definition = recipe.modules[module]
        _plan_owner(context, definition, path, (definition.parameters, recipe.parameters), names, base, donor)
    for name in left:
        if name in context.names[donor]:
            own = Source(donor, {}, None, ("modules",))
            plan_tensor(context, Slice([own], None, ({},), ("modules",)), name, [name], None, 0.0, copy=True)
    if left:
        context.note(
            f"{len(left)} tensors belong to no listed module; they are copied from {context.models[donor].label}"
        )


def _ordered_names(context: Context, donor: int) -> list[str]:
    """Every name of every model: the donor's order first."""
    order = [donor, *(i for i in range(len(context.models)) if i != donor)]
    return list(dict.fromkeys(name for i in order for name in context.names[i]))


def _plan_owner(
    context: Context,
    owner: Recipe | Module,
    path: Path,
    levels: tuple[Settings, ...],
    names: Sequence[str],
    base: int | None,
    donor: int,
) -> None:
    if owner.models is not None:
        whole = _whole(context, owner.models, path, levels, base)
        if whole is None:
            return
        _check_counts(context, whole)
        before = len(context.problems)
        _check_depths(context, whole, donor, names)
        if len(context.problems) > before:
            return  # else every tensor of the further layers would be missing as well
        layout = context.layouts[donor]
        for name in names:
            if any(name in context.names[s.model] for s in whole.sources) or _in(context, whole.base, name):
                place = layout.place(name) or _any_place(context, whole, name)
                plan_tensor(context, whole, name, [name] * len(whole.sources), place, place.t if place else 0.0)
        return
    slices = [_slice(context, piece, (*path, "slices", i), levels, base) for i, piece in enumerate(owner.slices or ())]
    for piece in slices:
        _check_counts(context, piece)
    stack = sliced_stack(context, slices, names, path)
    if stack is not None:
        plan_slices(context, slices, names, stack, path)


def _in(context: Context, model: int | None, name: str) -> bool:
    return model is not None and name in context.names[model]


def _any_place(context: Context, piece: Slice, name: str) -> Place | None:
    return next((p for s in piece.sources if (p := context.layouts[s.model].place(name))), None)


def _whole(
    context: Context, models: Sequence[InputModel], path: Path, levels: tuple[Settings, ...], base: int | None
) -> Slice | None:
    """`models:` as one slice over all layers; the base joins where it is not listed."""
    sources = [
        Source(context.labels[entry.model], entry.parameters, None, (*path, "models", i))
        for i, entry in enumerate(models)
    ]
    listed = base is not None and any(source.model == base for source in sources)
    if context.method.base == "ignored" and base is not None and not listed:
        # The community's tool counts such a base as one more model, with the parameters of the recipe.
        needed = [p.name for p in context.method.fields.values() if p.per_model and p.required]
        if not all(any(name in level for level in levels) for name in needed):
            context.wrong(
                f"{context.method.name} has no base: it would count '{context.recipe.base_model}' as one more model, but no "
                f"{listing(needed)} is given for it",
                "Remove base_model, or list it under models.",
                ("base_model",),
            )
            return None
        context.note(f"{context.method.name} has no base: '{context.recipe.base_model}' counts as one more model")
        sources.append(Source(base, {}, None, ("base_model",)))
    return Slice(sources, base if context.method.base != "ignored" else None, ({}, *levels), path)


def _slice(context: Context, piece: OutputSlice, path: Path, levels: tuple[Settings, ...], base: int | None) -> Slice:
    if piece.residual_weight is not None:
        context.note("residual_weight has no effect, as in the community's tool")
    sources: list[Source] = []
    for j, entry in enumerate(piece.sources):
        first, last = entry.layer_range
        at = (*path, "sources", j)
        if first >= last:
            context.wrong(
                f"layer_range must be [first, one past the last], got {entry.layer_range}", path=(*at, "layer_range")
            )
        sources.append(Source(context.labels[entry.model], entry.parameters, (first, last), at))
    lengths = {s.layers[1] - s.layers[0] for s in sources if s.layers}
    if len(lengths) > 1:
        context.wrong(f"the sources of a slice must have equally many layers, got {sorted(lengths)}", path=path)
    own = context.labels[piece.base_model] if piece.base_model else base
    if context.method.base == "ignored":
        own = None
    elif own is not None and not any(s.model == own for s in sources):
        context.wrong(
            f"the base '{context.models[own].label}' is not among the sources of this slice",
            "Add it with the layer_range that the others were tuned from.",
            path,
        )
    return Slice(sources, own, (piece.parameters, *levels), path)


def _check_counts(context: Context, piece: Slice) -> None:
    method = context.method
    if method.base == "required" and piece.base is None:
        context.wrong(
            f"{method.name} needs base_model, the model that the others were tuned from",
            "Add base_model: PATH (--base PATH on the command line, base= in Python).",
            ("merge_method",),
        )
        return
    count = sum(1 for source in piece.sources if source.model != piece.base)
    if piece.base is not None and len(piece.sources) - count > 1:
        context.wrong(
            f"the base '{context.models[piece.base].label}' stands here twice, so its layers cannot be told apart",
            "Keep one of them.",
            piece.path,
        )
        return
    least, most = method.models
    if count == 0 and piece.sources and piece.sources[0].layers and (least, most) == (1, None):
        context.note(
            f"a slice holds only the base: its layers are copied from {context.models[piece.sources[0].model].label}"
        )
        return
    if count < least or (most is not None and count > most):
        wanted = f"exactly {least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
        beside = " beside the base" if piece.base is not None else ""
        mend = ""
        if count == 0:
            mend = "The only model given is the base; merge_method: passthrough writes it as it is."
        elif method.base == "ignored" and any(source.path == ("base_model",) for source in piece.sources):
            mend = "base_model counts as one of them, because the method has no base: remove it."
        context.wrong(
            f"{method.name} needs {wanted} model{'s' * (least != 1 or most not in (None, 1))}{beside}, got {count}",
            mend,
            piece.path,
        )


def _check_depths(context: Context, piece: Slice, donor: int, names: Sequence[str]) -> None:
    """Stacks of unequal depth are one problem, not a list of missing tensors."""
    reference = context.layouts[donor].stacks
    inside = {place.stack for name in names if (place := context.layouts[donor].place(name))}
    for source in piece.sources:
        for stack, count in context.layouts[source.model].stacks.items():
            if stack in inside and reference[stack] != count and context.recipe.missing == "error":
                context.wrong(
                    f"'{stack}' has {count} layers in {context.models[source.model].label} and {reference[stack]} in "
                    f"{context.models[donor].label}",
                    "Models of unequal depth are joined with slices:, which say which layers meet.",
                    source.path,
                )
