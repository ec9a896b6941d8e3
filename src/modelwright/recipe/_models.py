"""The models a recipe names, and the parameters it gives: opened, renamed, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping

from modelwright.architectures import Layout
from modelwright.checkpoint import Checkpoint
from modelwright.errors import InputError, listing
from modelwright.methods import Method
from modelwright.recipe._context import Context, Opener
from modelwright.recipe._schema import Module, Recipe, Settings
from modelwright.recipe._settings import check_settings, idle
from modelwright.recipe._yaml import Path


def _blocks(recipe: Recipe) -> list[tuple[Path, Settings]]:
    """Every `parameters:` block of a recipe with its place."""
    found: list[tuple[Path, Settings]] = [((), recipe.parameters)]
    modules: list[tuple[Path, Recipe | Module]] = [((), recipe)]
    for name, module in (recipe.modules or {}).items():
        found.append((("modules", name), module.parameters))
        modules.append((("modules", name), module))
    for path, owner in modules:
        for i, model in enumerate(owner.models or ()):
            found.append(((*path, "models", i), model.parameters))
        for i, piece in enumerate(owner.slices or ()):
            found.append(((*path, "slices", i), piece.parameters))
            for j, source in enumerate(piece.sources):
                found.append(((*path, "slices", i, "sources", j), source.parameters))
    return found


def check_parameters(context: Context) -> None:
    for path, settings in _blocks(context.recipe):
        context.problems += check_settings(settings, context.method, (*path, "parameters"), context.lines)
        for name in settings:
            reason = idle(name, context.method)
            if reason:
                context.note(reason)
            elif path and path[-2] in ("models", "sources") and _shared(context.method, name):
                context.note(f"{name} is one for all models: under a model it has no effect")


def _shared(method: Method, name: str) -> bool:
    return name in method.fields and not method.fields[name].per_model


def _references(recipe: Recipe) -> list[tuple[Path, str, Mapping[str, str]]]:
    """Every model reference in the order of the recipe, with its renames."""
    found: list[tuple[Path, str, Mapping[str, str]]] = []
    owners: list[tuple[Path, Recipe | Module]] = [((), recipe)]
    owners += [(("modules", name), module) for name, module in (recipe.modules or {}).items()]
    for path, owner in owners:
        for i, model in enumerate(owner.models or ()):
            found.append(((*path, "models", i, "model"), model.model, model.rename))
        for i, piece in enumerate(owner.slices or ()):
            for j, source in enumerate(piece.sources):
                found.append(((*path, "slices", i, "sources", j, "model"), source.model, source.rename))
            if piece.base_model:
                found.append(((*path, "slices", i, "base_model"), piece.base_model, {}))
    if recipe.base_model:
        found.append((("base_model",), recipe.base_model, {}))
    return found


def open_models(context: Context, opener: Opener) -> None:
    renames: dict[str, Mapping[str, str]] = {}
    renamed_at: dict[str, Path] = {}
    failed: set[str] = set()  # slices name a model many times; what is wrong with it is said once
    for path, reference, rename in _references(context.recipe):
        if rename and renames.setdefault(reference, rename) != rename:
            context.wrong(f"'{reference}' is renamed in two ways", "Use one rename for each model.", path)
        if rename:
            renamed_at.setdefault(reference, (*path[:-1], "rename"))
        if reference in context.labels or reference in failed:
            continue
        try:
            model = opener(reference)
        except InputError as error:
            for problem in error.problems:
                context.wrong(problem.what, problem.mend, path)
            failed.add(reference)
            continue
        if not len(model):
            failed.add(reference)
            context.wrong(f"'{reference}' holds no tensors", path=path)
            continue
        if model.path is not None and any(".lora_A." in name or ".lora_down." in name for name in model):
            failed.add(reference)  # factors added up apart would be the sum of nothing
            context.wrong(
                f"'{reference}' is an adapter, not a model",
                f"Write MODEL+{reference}; adapters alone are merged by mw merge A B --method NAME, without a recipe.",
                path,
            )
            continue
        twin = _twin(context, reference, model)
        if twin is not None:
            context.labels[reference] = twin
            continue
        context.labels[reference] = len(context.models)
        context.models.append(model)
        context.places.append(path)
    for index, model in enumerate(context.models):
        spellings = [reference for reference, known in context.labels.items() if known == index]
        reference = next((spelling for spelling in spellings if spelling in renames), spellings[0])
        names = _renamed(context, model, renames.get(reference, {}), renamed_at.get(reference, ()))
        context.names.append(names)
        context.layouts.append(Layout(names))


def _twin(context: Context, reference: str, model: Checkpoint) -> int | None:
    """The model that is the same folder under another spelling, so that `./base` is still the base."""
    if model.path is None or "+" in reference:  # with an adapter the path is the bare model's
        return None
    for other, index in context.labels.items():
        path = context.models[index].path
        if path is not None and "+" not in other and path.resolve() == model.path.resolve():
            return index
    return None


def _renamed(context: Context, model: Checkpoint, rename: Mapping[str, str], path: Path) -> dict[str, str]:
    """Name in the merge -> own name. Patterns may hold `*`, which stands for any text and is carried over."""
    rules: list[tuple[str, re.Pattern[str], str]] = []
    for pattern, target in rename.items():
        if pattern.count("*") < target.count("*"):
            context.wrong(
                f"rename: '{target}' has more * than '{pattern}'", "Each * carries over one * of the pattern.", path
            )
            continue
        regex = "(.*)".join(re.escape(piece) for piece in pattern.split("*"))
        rules.append((pattern, re.compile(f"^{regex}$"), target))
    used: set[str] = set()
    clashes: list[str] = []
    names: dict[str, str] = {}
    for own in model:
        new = own
        for pattern, regex, target in rules:
            if match := regex.match(own):
                groups = iter(match.groups())
                new = re.sub(r"\*", lambda _star, groups=groups: next(groups), target)
                used.add(pattern)
                break
        if new in names:
            clashes.append(f"'{names[new]}' and '{own}' both become '{new}'")
        names[new] = own
    if clashes:
        context.wrong(f"rename makes one of two tensors of {model.label}: {listing(clashes, 2)}", path=path)
    unused = [pattern for pattern, _, _ in rules if pattern not in used]
    if unused:
        context.wrong(
            f"rename: {listing(repr(p) for p in unused)} matches no tensor of {model.label}",
            f"Its tensors are called {listing(list(model), 3)}.",
            path,
        )
    return names
