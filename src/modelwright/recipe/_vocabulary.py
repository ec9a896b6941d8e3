"""What becomes of vocabularies: which one the output has, where its rows come from, and what that does to texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from modelwright.architectures import is_table, over_vocabulary, tie_source, ties_embeddings, vocabulary_rows
from modelwright.checkpoint import Checkpoint, TensorRef
from modelwright.errors import InputError, MissingExtraError, RunError, did_you_mean, listing
from modelwright.recipe._context import Context
from modelwright.recipe._plan import Plan, PlannedVocabulary
from modelwright.recipe._tokenizers import fingerprints, own_template, tokenizer_donor
from modelwright.recipe._yaml import Path
from modelwright.vocabulary import (
    PROBES,
    ROLES,
    ZERO,
    Encoded,
    Laid,
    Override,
    Renumber,
    Rows,
    Tokenizer,
    defects,
    encoded,
    lay_rows,
    markup,
    open_tokenizer,
    relaid,
    rendered,
    settled,
    tokenizer_of,
    union,
    with_tokens,
)

#: Changed texts that are named.
_MOST = 5


def bring_together(context: Context, donor: int) -> None:
    """Re-lay the models' embeddings for the vocabulary that the recipe asks for; refuse what would garble one."""
    recipe = context.recipe
    asked = recipe.tokenizer.source if recipe.tokenizer else recipe.tokenizer_source
    path: Path = ("tokenizer",) if recipe.tokenizer else ("tokenizer_source",)
    if asked is None:
        _leave_alone(context, donor)
        return
    if asked not in ("union", "base", *context.labels):
        context.wrong(f"tokenizer source '{asked}' is not base, union or a model of this recipe", path=path)
    if asked == "base" and recipe.base_model is None:
        context.wrong("tokenizer source base needs base_model", path=path)
    prints = fingerprints(context)
    sizes = [vocabulary_rows(_shapes(context, i), model.config) for i, model in enumerate(context.models)]
    changes = recipe.tokenizer is not None and bool(recipe.tokenizer.tokens or recipe.tokenizer.pad_to_multiple_of)
    if context.problems or (len(set(prints)) == 1 and len(set(sizes)) == 1 and not (changes and prints[0])):
        if changes and not context.problems:
            context.wrong(
                "no model has a tokenizer, so nothing is known of tokens", "Put their files beside them.", path
            )
        return
    if None in prints or None in sizes:
        what = "tokenizer" if None in prints else "embedding"
        lacking = [m.label for m, p, s in zip(context.models, prints, sizes, strict=True) if None in (p, s)]
        context.wrong(
            f"the models' tokenizers differ, and {listing(lacking)} has no {what}", f"Put its {what} beside it.", path
        )
        return
    try:
        _settle(context, donor, asked, path, [size for size in sizes if size is not None])
    except InputError as error:
        for problem in error.problems:
            context.wrong(problem.what, problem.mend, path)


def _leave_alone(context: Context, donor: int) -> None:
    """Nothing is said of tokenizers: rows meet by their numbers, which is right only where these stand for the same strings."""
    prints = set(fingerprints(context)) - {None}
    if len(prints) < 2:
        return
    mine = _readable(context.models[donor])
    own = {number: text for text, number in mine.tokens.items()} if mine else {}
    worst, least = "", 1.0
    for model in context.models:
        other = _readable(model)
        both = [own[number] == text for text, number in other.tokens.items() if number in own] if other else []
        share = sum(both) / len(both) if both else 1.0
        if share < least:
            worst = f"{len(both) - sum(both):,} of {len(both):,} numbers stand for other strings in {model.label}"
            least = share
    label = context.models[donor].label
    if least < 0.5:
        context.wrong(
            f"the models' tokenizers differ: {worst} than in {label}, so rows of embeddings that meet are of different tokens",
            "Say which vocabulary the output has, and rows are re-laid by token: tokenizer: {source: base}, or union, or a model.",
        )
    context.note(f"the models' tokenizers differ; {label}'s is copied" + (f": {worst}" if worst else ""))


def _readable(model: Checkpoint) -> Tokenizer | None:
    """A model's tokenizer, if it is to be had without further packages: nothing depends on it but a note."""
    try:
        return tokenizer_of(model, convert=False)
    except InputError:
        return None


def _shapes(context: Context, index: int) -> dict[str, tuple[int, ...]]:
    """Shapes by the names in the merge."""
    return {name: context.models[index][own].shape for name, own in context.names[index].items()}


def _settle(context: Context, donor: int, asked: str, path: Path, sizes: Sequence[int]) -> None:
    found = [tokenizer_of(model) for model in context.models]
    tokenizers = [tokenizer for tokenizer in found if tokenizer is not None]
    source = donor if asked in ("union", "base") else context.labels[asked]
    out, findings = tokenizers[source], list[str]()
    if asked == "union":
        made = union(out, [other for i, other in enumerate(tokenizers) if i != source])
        findings += made.findings
        if made.plain or made.added:
            out = made.tokenizer
            findings.append(
                f"the union adds {made.plain:,} plain tokens with {made.merges:,} merges and {len(made.added):,} added tokens to "
                f"{tokenizers[source].label}'s" + (f": {listing(made.added, 5)}" if made.added else "")
            )
    settings = context.recipe.tokenizer
    extra = [text for text in (settings.tokens if settings and settings.tokens else {}) if text not in out.tokens]
    out = with_tokens(out, extra) if extra else out
    findings += _special_tokens(tokenizers, out)
    for tokenizer, size in zip(tokenizers, sizes, strict=True):
        findings += [f"{tokenizer.label}: {defect}" for defect in defects(tokenizer, size)]
    rows = max(sizes[source], out.size)
    step = settings.pad_to_multiple_of if settings and settings.pad_to_multiple_of else 1
    rows = -(-rows // step) * step
    base = context.labels.get(context.recipe.base_model or "")
    overrides = _overrides(context, tokenizers, sizes, (*path, "tokens"))
    laid = lay_rows(out, rows, tokenizers, sizes, base, overrides)
    if laid.unknown:
        findings.append(f"no model has {listing(map(repr, laid.unknown), 5)}: they start from the mean of all rows")
    table, changed = _encoded(context, tokenizers, out)
    if asked == "union" or extra:
        _refuse_other_tokens(context, tokenizers[source], out, path)
    _relay(context, laid, sizes, rows)
    counts = {
        model.label: {"tokens": len(tokenizer.tokens), "rows": size, **count}
        for model, tokenizer, size, count in zip(context.models, tokenizers, sizes, laid.counts, strict=True)
    }
    if out is not tokenizers[source]:
        context.tokenizer = _checked(out)
    if source != donor:
        context.told = tokenizers[donor]
    context.vocabulary = PlannedVocabulary(
        asked, len(out.tokens), rows, counts, table, changed, tuple(dict.fromkeys(findings)), out.text
    )


def _special_tokens(tokenizers: Sequence[Tokenizer], out: Tokenizer) -> list[str]:
    """Special and added tokens of models that the output treats otherwise, or does not have."""
    found: list[str] = []
    for tokenizer in tokenizers:
        lost = [text for text in tokenizer.added if text not in out.tokens]
        if lost:
            found.append(
                f"{tokenizer.label}: added tokens that the output does not have: {listing(map(repr, lost), 5)}"
            )
        for role in ROLES:
            theirs, ours = tokenizer.special.get(role), out.special.get(role)
            if theirs is not None and ours is not None and theirs != ours:
                found.append(f"{role} is {theirs!r} in {tokenizer.label} and {ours!r} in the output")
    return found


def _checked(out: Tokenizer) -> Tokenizer:
    """The tokenizer, if the library numbers its strings as they are meant to be numbered: it numbers some anew when it loads them."""
    made = out.backend.get_vocab(with_added_tokens=True)
    odd = [text for text, number in out.tokens.items() if made.get(text) != number]
    if odd:
        raise InputError(
            f"the library numbers {len(odd):,} tokens of the output otherwise than meant, such as {odd[0]!r} as "
            f"{made.get(odd[0])} instead of {out.tokens[odd[0]]}",
            "The base's tokenizer has holes or numbers out of order: save it with transformers first, or use source: base.",
        )
    return out


def _overrides(
    context: Context, tokenizers: Sequence[Tokenizer], sizes: Sequence[int], path: Path
) -> dict[str, Override]:
    """What `tokens:` asks for, as rows of models."""
    found: dict[str, Override] = {}
    settings = context.recipe.tokenizer
    for text, asked in (settings.tokens if settings and settings.tokens else {}).items():
        at = (*path, text)
        source: tuple[int, int] | int | None = None
        if is_table(asked.source) and asked.source["kind"] == "zero":
            source = ZERO
        elif asked.source is not None:
            table: dict[str, Any] = asked.source if is_table(asked.source) else {"model": asked.source, "token": text}
            model = context.labels.get(table["model"])
            if model is None:
                context.wrong(
                    f"'{table['model']}' is no model of this recipe", did_you_mean(table["model"], context.labels), at
                )
                continue
            asked_number: int | None = table.get("token_id")
            number = tokenizers[model].tokens.get(table["token"], -1) if asked_number is None else asked_number
            if not 0 <= number < sizes[model]:
                what = f"the number {number}" if asked_number is not None else f"the token {table['token']!r}"
                context.wrong(
                    f"{context.models[model].label} has no row for {what}",
                    f"Its embedding has {sizes[model]:,} rows.",
                    at,
                )
                continue
            source = (model, number)
        elif asked.force:
            context.wrong("force needs a source: where models shall start from", "Add source:.", at)
        found[text] = Override(source, asked.force)
    return found


def _encoded(
    context: Context, tokenizers: Sequence[Tokenizer], out: Tokenizer
) -> tuple[dict[str, dict[str, int]], tuple[tuple[str, int, int], ...]]:
    """How the output's tokenizer encodes the probe texts beside each model's own; and what changes for the donor."""
    table: dict[str, dict[str, int]] = {}
    shown: list[tuple[str, int, int]] = []
    for i, (model, tokenizer) in enumerate(zip(context.models, tokenizers, strict=True)):
        found = _by_both(tokenizer, out)
        changed = [one for one in found if not one.same]
        lost = sum(one.lost for one in found)
        table[model.label] = {"texts": len(found), "changed": len(changed), "lost": lost}
        if i == context.donor:
            shown = [(one.text, one.before, one.after) for one in changed[:_MOST]]
    return table, tuple(shown)


def _by_both(tokenizer: Tokenizer, out: Tokenizer) -> tuple[Encoded, ...]:
    """The probe texts by two tokenizers; none where the two are one.

    Texts with special tokens that are new to the first are left out: to it they were no text.
    """
    if tokenizer.table is out.table:
        return ()
    new = [text for text, entry in out.added.items() if entry.get("special") and text not in tokenizer.tokens]
    return encoded(tokenizer, out, [probe for probe in PROBES if not any(text in probe.text for text in new)])


def _refuse_other_tokens(context: Context, tokenizer: Tokenizer, out: Tokenizer, path: Path) -> None:
    """Refuse what encodes texts otherwise than the tokenizer that it was made of, unless that is accepted."""
    found = _by_both(tokenizer, out)
    changed = [one for one in found if not one.same]
    if not changed or context.recipe.allow_retokenization:
        return
    label, first = tokenizer.label, changed[0]
    context.wrong(
        f"the output's tokenizer encodes {len(changed)} of {len(found)} probe texts otherwise than {label}, such as "
        f"{first.text[:40]!r}: {first.before} tokens, then {first.after}; what {label} has learnt of these it has not learnt of "
        "the new tokens",
        "Use tokenizer: {source: base}, or accept it: allow_retokenization: true, --allow-retokenization on the command line.",
        path,
    )


def _relay(context: Context, laid: Laid, sizes: Sequence[int], rows: int) -> None:
    """Put re-laid tensors in the place of embeddings, heads and their biases."""
    originals = list(context.models)
    for j, (mine, size) in enumerate(zip(laid.rows, sizes, strict=True)):
        if mine.unchanged(j, size) and rows == size:
            continue
        tensors: dict[str, TensorRef] = {}
        for name, own in context.names[j].items():
            shape = originals[j][own].shape
            if over_vocabulary(name, shape, size):
                refs = [_meeting(context, originals, i, name, shape, sizes[i]) for i in range(len(originals))]
                if _complete(context, mine, refs, j, name):
                    tensors[own] = relaid(mine, refs, j)
            elif size in shape[:1] and len(shape) == 2 and context.layouts[j].place(name) is None:
                context.note(
                    f"'{name}' has as many rows as the vocabulary and is left as it is: nothing says that it is of it"
                )
        context.models[j] = originals[j].with_tensors(tensors)


def _meeting(
    context: Context, models: Sequence[Checkpoint], index: int, name: str, shape: tuple[int, ...], size: int
) -> TensorRef | None:
    """A model's tensor of this name, or the embedding that it is tied to there, if its rows can stand in one of this shape."""
    model, own = models[index], context.names[index].get(name)
    if own is None and ties_embeddings(model.config):
        target = tie_source(name, {n: model[o].shape for n, o in context.names[index].items()}, (size, *shape[1:]))
        own = context.names[index].get(target) if target else None
    if own is None:
        return None
    ref = model[own]
    return ref if ref.shape[1:] == shape[1:] or ref.shape[0] == shape[0] == 1 else None


def _complete(context: Context, rows: Rows, refs: Sequence[TensorRef | None], own: int, name: str) -> bool:
    """Whether every model that rows come from has the tensor; else that is said, unless shapes will be."""
    needed = {*np.unique(rows.model[rows.model >= 0]).tolist(), *(m for of in rows.averages.values() for m, _ in of)}
    lacking = [index for index in needed if refs[index] is None]
    for index in lacking:
        if context.names[index].get(name) is None:
            context.wrong(
                f"'{name}' of {context.models[own].label} would take rows of {context.models[index].label}, which has no such tensor",
                "Mend the names with rename:, or use a tokenizer source whose tokens all models have.",
                context.places[own],
            )
    return not lacking


def check_result(plan: Plan, folder: FilePath) -> list[str]:
    """Compare the tokenizer in an output's folder with what was planned: its strings, its numbers, and what it makes of texts.

    Returns:
        A line for the user; none where vocabularies were not touched.

    Raises:
        RunError: It is another.
    """
    planned = plan.vocabulary
    if planned is None:
        return []
    meant = Tokenizer("what was planned", json.loads(planned.tokenizer_json))
    found = open_tokenizer(folder)
    texts = [probe.text for probe in PROBES]
    if found.tokens != meant.tokens or found.encode(texts) != meant.encode(texts):
        raise RunError(f"the tokenizer in {folder} is not the one that was planned; the output is discarded.")
    label = plan.models[plan.donor].label
    counts = planned.encoded[label]
    told = f"{counts['changed']} of {counts['texts'] or len(texts)} probe texts are encoded otherwise than by {label}, {counts['lost']} lost"
    return [f"the result's tokenizer has {planned.tokens:,} tokens, its embeddings {planned.rows:,} rows: {told}"]


def note_template(context: Context, template: str | None) -> None:
    """Say what the output's chat template writes that looks like a token and is none, and where templates differ in what they write.

    Args:
        context: What is known.
        template: What the recipe asks for; None where the template of the tokenizer's model is kept.
    """
    if template is None and context.vocabulary is None:
        return
    owner = context.models[tokenizer_donor(context, context.donor)]
    tokenizer = context.tokenizer or _readable(owner)
    template = template or own_template(owner)
    if tokenizer is None or template is None:
        return
    try:
        written = rendered(template, tokenizer.special)
    except MissingExtraError as error:
        context.note(f"chat templates are not compared: {error}")
        return
    if lacking := [text for text in markup(written) if text not in tokenizer.tokens]:
        context.note(
            f"the output's chat template writes {listing(map(repr, lacking), 5)}, which its tokenizer takes for plain text"
        )
    for model in context.models:
        theirs, other = own_template(model), _readable(model)
        made = rendered(theirs, other.special if other else {}) if theirs else written
        if made != written:
            name = next(name for name in made if made[name] != written[name])
            context.note(
                f"the output's chat template writes {name} otherwise than that of {model.label}: {written[name][:160]!r} and "
                f"{made[name][:160]!r}"
            )


# --- configurations ------------------------------------------------------------------------------------------------


def settle_config(context: Context, config: dict[str, Any], source: Mapping[str, Any], what: str) -> dict[str, Any]:
    """A configuration with the output's number of rows, and with its numbers of tokens.

    Args:
        context: What is known.
        config: The donor's.
        source: The same of the model whose tokenizer the output has.
        what: The file's name.
    """
    vocabulary = context.vocabulary
    if vocabulary is None:
        return config
    before = vocabulary.models[context.models[context.donor].label]["rows"]
    renumber = _renumbering(context)
    return settled(config, source, (before, vocabulary.rows), renumber, lambda text: context.note(f"{what}: {text}"))


def _renumbering(context: Context) -> Renumber | None:
    """From the donor's number of a token to its string and the output's number; None where numbers stay."""
    if context.told is None or context.vocabulary is None:
        return None
    texts = {number: text for text, number in context.told.tokens.items()}
    out = tokenizer_of(context.models[context.labels[context.vocabulary.source]])
    assert out is not None
    return lambda number: (texts.get(number, ""), out.tokens.get(texts.get(number, "")))
