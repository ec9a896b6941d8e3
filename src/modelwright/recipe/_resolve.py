"""From a recipe and the headers of its models to a plan; everything that is wrong is found here, several at once."""

from __future__ import annotations

from collections.abc import Sequence

from modelwright.errors import InputError, Problem, listing
from modelwright.methods import Registry
from modelwright.recipe._classes import check_classes
from modelwright.recipe._context import Context, Opener
from modelwright.recipe._groups import plan_modules
from modelwright.recipe._models import check_parameters, open_models
from modelwright.recipe._plan import Plan
from modelwright.recipe._schema import Recipe
from modelwright.recipe._sidefiles import side_files
from modelwright.recipe._tensors import same_everywhere
from modelwright.recipe._vocabulary import bring_together
from modelwright.recipe._yaml import Lines


def resolve(recipe: Recipe, *, opener: Opener, registry: Registry, lines: Lines, text: str) -> Plan:
    """The plan of one merge.

    Args:
        recipe: A recipe without steps.
        opener: Opens a model reference of the recipe.
        registry: The methods that it may name.
        lines: Where its values stand.
        text: The recipe as written, for the manifest.

    Raises:
        InputError: All that is wrong with it, from the headers alone.
    """
    try:
        method = registry.find(recipe.merge_method)
    except InputError as error:
        raise InputError([Problem(p.what, p.mend, lines.where(("merge_method",))) for p in error.problems]) from None
    context = Context(recipe, method, lines)
    check_parameters(context)
    if any(path[-1:] == ("override_architecture",) for path, _ in lines.items()):
        context.note(
            "override_architecture has no effect: layers are read from tensor names, whatever the architecture"
        )
    open_models(context, opener)
    context.stop_if_wrong()
    base = context.labels.get(recipe.base_model) if recipe.base_model else None
    donor = context.donor = base if base is not None else next(iter(context.labels.values()))
    context.parts += context.models[donor].parts
    if recipe.missing == "base" and base is None and all(not piece.base_model for piece in recipe.slices or ()):
        context.wrong("missing: base needs base_model", "Add it, or use missing: skip.", ("missing",))
    bring_together(context, donor)
    context.stop_if_wrong()
    plan_modules(context, base, donor)
    _say_gathered(context)
    context.stop_if_wrong()
    same_everywhere(context)
    check_classes(context)
    _account(context)
    files, parts, facts = side_files(context, donor)
    context.stop_if_wrong()
    for model in context.models:
        for text_note in model.notes:
            context.note(text_note)
    return Plan(
        recipe=recipe, method=method, models=tuple(context.models), donor=donor, base=base,
        tensors=tuple(context.tensors), parts=parts, fates=context.fates, created=tuple(context.created), files=files,
        notes=tuple(context.notes), facts=facts, recipe_text=text,
        vocabulary=context.vocabulary,
    )  # fmt: skip


def _say_gathered(context: Context) -> None:
    for (what, path), names in context.ungiven.items():
        which = (
            f", and {_tensors(names)} match none of its entries, such as {names[0]}"
            if names
            else ", which is not given"
        )
        mend = "End its list with an entry without filter: - value: X." if names else "Add it under parameters:."
        context.wrong(what + which, mend, path)
    mended: set[tuple[int, int]] = set()
    for (kind, model, other), names in context.gathered.items():
        label = context.models[model].label
        at = context.places[model]
        if kind == "missing":
            hint = _rename_hint(context, model, other)
            if (other, model) in mended:
                continue  # the same difference, seen from the other side
            if hint:
                mended.add((model, other))
            context.wrong(
                f"{label} lacks {_tensors(names)} that {context.models[other].label} has: {listing(names, 3)}",
                hint or _names_hint(context, model, other),
                at,
            )
        elif kind == "baseless":
            context.wrong(
                f"missing: base needs the tensor in the base, and {label} lacks {len(names)}: {listing(names, 3)}",
                "Use missing: skip, or rename: where the names differ.",
                at,
            )
        elif kind == "shape":
            context.wrong(
                f"{label} and {context.models[other].label} differ in shape: {listing(names, 3)}",
                "Merging needs one architecture and size.",
                at,
            )
        elif kind == "vocabulary":
            context.wrong(
                f"{label} and {context.models[other].label} differ in vocabulary size: {listing(names, 3)}",
                "Say which vocabulary the output has, and rows are re-laid by token: tokenizer: {source: base}, or union, or a model.",
                at,
            )
        elif kind == "few":
            context.note(
                f"missing: skip: {_tensors(names)} in too few models for {context.method.name}, copied from {label}: "
                f"{listing(names, 3)}"
            )
        elif kind == "kind":
            context.wrong(
                f"{label} and {context.models[other].label} hold numbers of different kinds in {listing(names, 3)}",
                path=at,
            )


def _tensors(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) != 1)}"


def _names_hint(context: Context, model: int, other: int) -> str:
    """What to do where no prefix explains the difference."""
    for index in (model, other):
        if any(".lora_A." in name for name in context.names[index]):
            return f"{context.models[index].label} holds a LoRA: write model+adapter, or call merge_and_unload() first."
    kinds = [(context.models[i].config or {}).get("model_type") for i in (model, other)]
    if None not in kinds and kinds[0] != kinds[1]:
        return (
            f"The models are of two architectures, {kinds[0]} and {kinds[1]}: rename: helps where only names differ, "
            "missing: skip merges what both have."
        )
    return "Mend the names with rename:, or set missing: base or missing: skip."


def _rename_hint(context: Context, model: int, other: int) -> str:
    """If one prefix explains the difference of all names, the rename that mends it."""
    mine, theirs = set(context.names[model]), set(context.names[other])
    only = theirs - mine
    for name in sorted(mine - theirs)[:3]:
        for target in only:
            if target.endswith("." + name):
                prefix = target.removesuffix(name)
                if all(prefix + n in theirs for n in mine - theirs):
                    return f'The names differ by a prefix; under this model write rename: {{"*": "{prefix}*"}}.'
            if name.endswith("." + target):
                prefix = name.removesuffix(target)
                if all(n.removeprefix(prefix) in theirs for n in mine - theirs):
                    return f'The names differ by a prefix; under this model write rename: {{"{prefix}*": "*"}}.'
    return ""


def _account(context: Context) -> None:
    """Every input tensor must have ended in exactly one class."""
    for index, model in enumerate(context.models):
        for name in model.consumed:
            context.fates[index, name] = "consumed"
        left = [(name, own) for name, own in context.names[index].items() if (index, own) not in context.fates]
        sliced = {resized.stack for resized in context.resized}
        lost: list[str] = []
        for name, own in left:
            place = context.layouts[index].place(name)
            if context.resized and (place is None or place.stack in sliced):
                context.fates[index, own] = "dropped"  # outside the ranges, or the other end's source is used
            elif context.recipe.missing == "skip" or context.recipe.modules is not None:
                context.fates[index, own] = "dropped"
            else:
                lost.append(own)
        if lost:
            what = f"{len(lost)} tensors of {model.label} have no place in the output: {listing(lost, 3)}"
            context.wrong(what, "This is a defect; please report it.")
    context.stop_if_wrong()
