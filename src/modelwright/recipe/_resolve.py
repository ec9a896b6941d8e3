"""From a recipe and the headers of its models to a plan; everything that is wrong is found here, several at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from modelwright.architectures import Layout, Place, comes_after_layers, module_of, renumbered
from modelwright.checkpoint import Checkpoint
from modelwright.errors import InputError, Problem, listing
from modelwright.methods import Method, Registry
from modelwright.recipe._plan import Fate, Plan, PlannedTensor
from modelwright.recipe._schema import InputModel, Module, OutputSlice, Recipe, Settings
from modelwright.recipe._settings import check_settings, idle
from modelwright.recipe._sidefiles import Resized, side_files
from modelwright.recipe._tensors import plan_tensor, same_everywhere, untied_elsewhere
from modelwright.recipe._tokenizers import check_tokenizers
from modelwright.recipe._yaml import Lines, Path

Opener = Callable[[str], Checkpoint]


@dataclass
class Source:
    """One model's part in a slice, with its own parameters."""

    model: int
    parameters: Settings
    layers: tuple[int, int] | None
    path: Path


@dataclass
class Slice:
    """What is merged together: all layers in `models:` mode, a range of them in `slices:` mode."""

    sources: list[Source]
    base: int | None
    levels: tuple[Settings, ...]  # slice, module, recipe
    path: Path


@dataclass
class Context:
    """What resolving a recipe has found so far."""

    recipe: Recipe
    method: Method
    lines: Lines
    models: list[Checkpoint] = field(default_factory=list[Checkpoint])
    places: list[Path] = field(default_factory=list[Path])  # per model: where the recipe names it first
    names: list[dict[str, str]] = field(
        default_factory=list[dict[str, str]]
    )  # per model: name in the merge -> own name
    layouts: list[Layout] = field(default_factory=list[Layout])
    labels: dict[str, int] = field(default_factory=dict[str, int])
    fates: dict[tuple[int, str], Fate] = field(default_factory=dict[tuple[int, str], Fate])
    tensors: list[PlannedTensor] = field(default_factory=list[PlannedTensor])
    created: list[str] = field(default_factory=list[str])
    resized: list[Resized] = field(default_factory=list[Resized])
    donor: int = 0
    untied: bool = False
    problems: list[Problem] = field(default_factory=list[Problem])
    notes: dict[str, None] = field(default_factory=dict[str, None])
    #: (kind, model, other) -> tensors; said once each, not once a tensor.
    gathered: dict[tuple[str, int, int], list[str]] = field(default_factory=dict[tuple[str, int, int], list[str]])
    #: (what a parameter that is not given breaks, where) -> tensors.
    ungiven: dict[tuple[str, Path], list[str]] = field(default_factory=dict[tuple[str, Path], list[str]])

    def wrong(self, what: str, mend: str = "", path: Path = ()) -> None:
        """Add a problem."""
        problem = Problem(what, mend, self.lines.where(path))
        if problem not in self.problems:
            self.problems.append(problem)

    def gather(self, kind: str, model: int, other: int, name: str) -> None:
        """Add a tensor to a problem that many tensors share."""
        self.gathered.setdefault((kind, model, other), []).append(name)

    def note(self, text: str) -> None:
        """Add a note, once."""
        self.notes[text] = None

    def stop_if_wrong(self) -> None:
        """Raise everything found so far."""
        if self.problems:
            raise InputError(self.problems)


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
    _check_parameters(context)
    _open_models(context, opener)
    context.stop_if_wrong()
    base = context.labels.get(recipe.base_model) if recipe.base_model else None
    donor = context.donor = base if base is not None else next(iter(context.labels.values()))
    if recipe.missing == "base" and base is None and all(not piece.base_model for piece in recipe.slices or ()):
        context.wrong("missing: base needs base_model", "Add it, or use missing: skip.", ("missing",))
    check_tokenizers(context, donor)
    _plan_modules(context, base, donor)
    _say_gathered(context)
    context.stop_if_wrong()
    same_everywhere(context)
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
    )  # fmt: skip


# --- parameters and models -----------------------------------------------------------------------------------------


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


def _check_parameters(context: Context) -> None:
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


def _open_models(context: Context, opener: Opener) -> None:
    renames: dict[str, Mapping[str, str]] = {}
    renamed_at: dict[str, Path] = {}
    for path, reference, rename in _references(context.recipe):
        if rename and renames.setdefault(reference, rename) != rename:
            context.wrong(f"'{reference}' is renamed in two ways", "Use one rename for each model.", path)
        if rename:
            renamed_at.setdefault(reference, (*path[:-1], "rename"))
        if reference in context.labels:
            continue
        try:
            model = opener(reference)
        except InputError as error:
            for problem in error.problems:
                context.wrong(problem.what, problem.mend, path)
            continue
        if not len(model):
            context.wrong(f"'{reference}' holds no tensors", path=path)
            continue
        context.labels[reference] = len(context.models)
        context.models.append(model)
        context.places.append(path)
    for reference, index in context.labels.items():
        model = context.models[index]
        names = _renamed(context, model, renames.get(reference, {}), renamed_at.get(reference, ()))
        context.names.append(names)
        context.layouts.append(Layout(names))


def _renamed(context: Context, model: Checkpoint, rename: Mapping[str, str], path: Path) -> dict[str, str]:
    """Name in the merge -> own name. Patterns may hold `*`, which stands for any text and is carried over."""
    rules: list[tuple[re.Pattern[str], str]] = []
    for pattern, target in rename.items():
        if pattern.count("*") < target.count("*"):
            context.wrong(
                f"rename: '{target}' has more * than '{pattern}'", "Each * carries over one * of the pattern.", path
            )
            continue
        regex = "(.*)".join(re.escape(piece) for piece in pattern.split("*"))
        rules.append((re.compile(f"^{regex}$"), target))
    used: set[str] = set()
    clashes: list[str] = []
    names: dict[str, str] = {}
    for own in model:
        new = own
        for pattern, target in rules:
            if match := pattern.match(own):
                groups = iter(match.groups())
                new = re.sub(r"\*", lambda _star, groups=groups: next(groups), target)
                used.add(pattern.pattern)
                break
        if new in names:
            clashes.append(f"'{names[new]}' and '{own}' both become '{new}'")
        names[new] = own
    if clashes:
        context.wrong(f"rename makes one of two tensors of {model.label}: {listing(clashes, 2)}", path=path)
    idle = [
        pattern
        for (pattern, _), source in zip(rules, rename, strict=False)
        if pattern.pattern not in used
        for pattern in [source]
    ]
    if idle:
        context.wrong(
            f"rename: {listing(repr(p) for p in idle)} matches no tensor of {model.label}",
            f"Its tensors are called {listing(list(model), 3)}.",
            path,
        )
    return names


# --- groups of tensors ---------------------------------------------------------------------------------------------


def _plan_modules(context: Context, base: int | None, donor: int) -> None:
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
            context.wrong(
                f"no tensor belongs to the module '{module}'", f"Tensor names start with: {listing(prefixes)}.", path
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
    stack = _stack(context, slices, names, path)
    if stack is not None:
        _plan_slices(context, slices, names, stack, path)


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
        context.wrong(
            f"{method.name} needs {wanted} model{'s' * (least != 1 or most not in (None, 1))}{beside}, got {count}",
            path=piece.path,
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


# --- slices --------------------------------------------------------------------------------------------------------


def _stack(context: Context, slices: Sequence[Slice], names: Sequence[str], path: Path) -> str | None:
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


def _plan_slices(context: Context, slices: Sequence[Slice], names: Sequence[str], stack: str, path: Path) -> None:
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
        for name in context.names[source.model]:
            place = layout.place(name)
            if place and place.stack == stack and place.number == wanted:
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


# --- the end -------------------------------------------------------------------------------------------------------


def _say_gathered(context: Context) -> None:
    for (what, path), names in context.ungiven.items():
        which = (
            f", and {_tensors(names)} match none of its entries, such as {names[0]}"
            if names
            else ", which is not given"
        )
        context.wrong(what + which, "Add it under parameters:.", path)
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
                hint or "Mend the names with rename:, or set missing: base or missing: skip.",
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
                "Embeddings of different vocabularies cannot be merged yet: give the models one tokenizer first.",
                at,
            )
        elif kind == "kind":
            context.wrong(
                f"{label} and {context.models[other].label} hold numbers of different kinds in {listing(names, 3)}",
                path=at,
            )


def _tensors(names: Sequence[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) != 1)}"


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
        left = [own for own in context.names[index].values() if (index, own) not in context.fates]
        sliced = {resized.stack for resized in context.resized}
        for own in left:
            place = context.layouts[index].place(own)
            if context.resized and (place is None or place.stack in sliced):
                context.fates[index, own] = "dropped"  # outside the ranges, or the other end's source is used
            elif context.recipe.missing == "skip" or context.recipe.modules is not None:
                context.fates[index, own] = "dropped"
            else:
                context.wrong(
                    f"the tensor '{own}' of {model.label} has no place in the output",
                    "This is a defect; please report it.",
                )
    context.stop_if_wrong()
