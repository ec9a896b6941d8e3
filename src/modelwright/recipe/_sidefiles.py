"""What lies beside the weights: configuration, tokenizer, processors, custom code, and what of it must change."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelwright.architectures import is_table, is_text, resize_config
from modelwright.checkpoint import Checkpoint, Part, read_json
from modelwright.errors import InputError, listing
from modelwright.recipe._context import Context
from modelwright.recipe._plan import SideFile
from modelwright.recipe._tokenizers import chosen_template, fingerprints, own_template, tokenizer_donor
from modelwright.recipe._vocabulary import note_template, settle_config
from modelwright.vocabulary import TOKENIZER_FILES

#: Files that belong to a model but are not weights.
SIDE_SUFFIXES = {".json", ".jinja", ".model", ".txt", ".py", ".tiktoken", ".vocab", ".bpe"}
#: Left by training or by a former merge; they would be untrue of the result.
_STALE = re.compile(
    r"^(manifest\.json|trainer_state\.json|train(ing)?_(results|args).*|all_results\.json|eval_results\.json|"
    r"adapter_config\.json|.*\.index\.json|recipe\.yml|mergekit_config\.yml|.*_loss_log.*)$"
)

#: A model card says its licence within this many characters.
_FRONT_MATTER = 1 << 16


def side_files(
    context: Context, donor: int
) -> tuple[tuple[SideFile, ...], tuple[Part, ...], dict[str, dict[str, str]]]:
    """Files beside the weights, the parts with their new configurations, and differences worth a look."""
    model = context.models[donor]
    parts = tuple(_with_config(context, donor, part) for part in context.parts)
    files = _given(model, parts)
    other = context.models[tokenizer_donor(context, donor)]
    if other is not model and (theirs := _given(other, parts)):
        files = {name: file for name, file in files.items() if not TOKENIZER_FILES.match(name)}
        files |= {name: file for name, file in theirs.items() if TOKENIZER_FILES.match(name)}
    _settle_tokenizer(context, files)
    for part, before in zip(parts, context.parts, strict=True):
        if part.config is not None:
            name = f"{part.prefix}config.json"
            if part.config != before.config or name not in files or _differs(files[name].source, part.config):
                files[name] = SideFile(name, text=_json(part.config))
    template = chosen_template(context)
    if template is not None:
        _set_template(files, template)
    note_template(context, template)
    return tuple(files[name] for name in sorted(files)), parts, _facts(context)


#: What slow tokenizers are read from: none of it could say what a tokenizer made here has.
_SLOW = re.compile(
    r"^(tokenizer\.model.*|spiece\.model|sentencepiece.*|vocab\..*|merges\.txt|added_tokens\.json|.*\.tiktoken|bpe\.codes)$"
)


def _settle_tokenizer(context: Context, files: dict[str, SideFile]) -> None:
    """The files of a tokenizer that was made here, and numbers of tokens in what generation is configured with."""
    made = context.tokenizer
    if made is not None:
        for name in [name for name in files if _SLOW.match(name)]:
            del files[name]
        files["tokenizer.json"] = SideFile("tokenizer.json", text=made.text)
        settings = _table_of(files.get("tokenizer_config.json"))
        if is_table(settings.get("added_tokens_decoder")):
            flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
            told = {str(e["id"]): {flag: e.get(flag, False) for flag in flags} for e in made.added.values()}
            settings["added_tokens_decoder"] = {**settings["added_tokens_decoder"], **told}
            files["tokenizer_config.json"] = SideFile("tokenizer_config.json", text=_json(settings))
    generation = files.get("generation_config.json")
    if generation is not None and context.told is not None:
        before = _table_of(generation)
        other = context.models[tokenizer_donor(context, context.donor)]
        source = _table_of(_given(other, ()).get("generation_config.json"))
        after = settle_config(context, before, source, "generation_config.json")
        if after != before:
            files["generation_config.json"] = SideFile("generation_config.json", text=_json(after))


def _table_of(file: SideFile | None) -> dict[str, Any]:
    """What a JSON file says; nothing where there is none."""
    if file is None:
        return {}
    return (read_json(file.source) if file.source else json.loads(file.text or "{}")) or {}


def _given(model: Checkpoint, parts: tuple[Part, ...]) -> dict[str, SideFile]:
    """What a model has beside its weights: in its folder, or, for a merge in memory, what it would write there."""
    texts = {name: SideFile(name, text=file) for name, file in model.beside.items() if isinstance(file, str)}
    beside = texts | {n: SideFile(n, source=file) for n, file in model.beside.items() if isinstance(file, Path)}
    if model.path is None or not model.path.is_dir():
        return beside
    found = {name: SideFile(name, source=path) for name, path in _copied(model.path, parts).items()}
    if "tokenizer.json" in beside:
        found = {name: file for name, file in found.items() if not TOKENIZER_FILES.match(name)}
    return found | beside


def _copied(folder: Path, parts: tuple[Part, ...]) -> dict[str, Path]:
    """Name in the output -> file, of everything that belongs to a model but is not weights."""
    found: dict[str, Path] = {}
    multi = len(parts) > 1 or (folder / "model_index.json").exists() or (folder / "modules.json").exists()
    for path in sorted(folder.rglob("*") if multi else folder.iterdir()):
        relative = path.relative_to(folder)
        if not path.is_file() or any(piece.startswith(".") for piece in relative.parts) or len(relative.parts) > 3:
            continue
        legal = path.stem.upper() in ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
        if (path.suffix in SIDE_SUFFIXES or legal) and not _STALE.match(path.name):
            _check_copied(folder, path)
            found[relative.as_posix()] = path
    return found


def _check_copied(folder: Path, path: Path) -> None:
    """Refuse what would be copied from elsewhere: a downloaded model could link its licence to somebody's keys.

    The Hub's cache consists of links, from `snapshots/` and from folders elsewhere into the model's `blobs/`.

    Raises:
        InputError: It is a link that leads out of the model's folder, or its name is no text.
    """
    if not is_text(str(path)):
        raise InputError(f"the name of {path} is not UTF-8, and would stand in the manifest", "Rename it.")
    if not path.is_symlink():
        return
    target = Path(os.path.realpath(path))
    cached = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    if not cached and not target.is_relative_to(os.path.realpath(folder)):
        raise InputError(
            f"{path} is a link to {target}, outside the model's folder, and would be copied into the output",
            "If it belongs to the model, put a copy of the file there.",
        )


def _differs(source: Path | None, config: Mapping[str, Any]) -> bool:
    return source is None or read_json(source) != config


def _json(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # half a surrogate pair, which JSON can spell, has no encoding: then everything is spelt
    return text if is_text(text) else json.dumps(value, indent=2) + "\n"


def _with_config(context: Context, donor: int, part: Part) -> Part:
    """The part with a configuration that is true of the output."""
    if part.config is None:
        return part
    config: dict[str, Any] = dict(part.config)
    for resized in context.resized:
        sources = [(context.models[model].config or {}, first, last) for model, (first, last) in resized.ranges]
        before = config
        config, found = resize_config(config, resized.stack, sources, resized.count)
        if resized.moved and not _lists_changed(before, config):
            context.note(
                f"layers {listing(resized.moved, 6)} of '{resized.stack}' hold other tensors than the layers of "
                f"{context.models[donor].label} at these places, and config.json has no list of layer kinds: the result may "
                "not load. Move layers only to where the configuration expects their kind"
            )
        total = sum(last - first for _, first, last in sources)
        if not found and total != resized.count:
            context.note(
                f"config.json has no key for the {resized.count} layers of '{resized.stack}': set it to {total}"
            )
    other = context.models[tokenizer_donor(context, donor)]
    config = settle_config(context, config, (other.config or {}) if part == context.parts[0] else {}, "config.json")
    if context.untied:
        _untie(config)
    floats = Counter[str]()
    for tensor in context.tensors:
        if (
            tensor.part == part.prefix and tensor.dtype.floating and tensor.dtype.itemsize > 1
        ):  # float8 is no dtype to compute in
            floats[tensor.dtype.name] += tensor.size
    if floats:
        name = floats.most_common(1)[0][0]
        if "model_type" in config and "dtype" not in config and (context.recipe.out_dtype or context.recipe.dtype):
            config.setdefault("torch_dtype", name)  # the key that transformers of every age read
        _set_dtype(config, name)
    return replace(part, config=config)


def _lists_changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a list with one entry a layer was rebuilt, at the top or in a tower's configuration."""
    return any(
        value != before.get(key) and (isinstance(value, list | str) or _inner_changed(before.get(key), value))
        for key, value in after.items()
    )


def _inner_changed(before: Any, after: Any) -> bool:
    return isinstance(before, dict) and isinstance(after, dict) and _lists_changed(before, after)  # type: ignore[reportUnknownArgumentType]


def _untie(config: dict[str, Any]) -> None:
    config["tie_word_embeddings"] = False
    for key, value in config.items():
        if key in ("text_config", "llm_config", "language_config") and isinstance(value, dict):
            config[key] = {**value, "tie_word_embeddings": False}


def _set_dtype(config: dict[str, Any], name: str) -> None:
    """Whichever key the file uses, there and in the configurations of its towers."""
    for key in ("dtype", "torch_dtype"):
        if isinstance(config.get(key), str):
            config[key] = name
    for key, value in config.items():
        if key.endswith("_config") and isinstance(value, dict):
            inner: dict[str, Any] = dict(value)  # type: ignore[reportUnknownArgumentType]
            _set_dtype(inner, name)
            config[key] = inner


def _set_template(files: dict[str, SideFile], template: str) -> None:
    files["chat_template.jinja"] = SideFile("chat_template.jinja", text=template)
    entry = files.get("tokenizer_config.json")
    settings = _table_of(entry)
    if "chat_template" in settings:
        settings["chat_template"] = template
        files["tokenizer_config.json"] = SideFile("tokenizer_config.json", text=_json(settings))


def licence(model: Checkpoint) -> str | None:
    """What the model card says of its licence."""
    if model.path is None or not model.path.is_dir():
        return None
    card = model.path / "README.md"
    if card.is_file():
        try:
            with card.open(encoding="utf-8", errors="replace") as file:
                start = file.read(_FRONT_MATTER)
        except OSError:  # it is not copied, and says nothing then
            return None
        match = re.match(r"^---[ \t]*\n(.*?)\n---", start, re.DOTALL)
        found = re.search(r"^licen[sc]e:\s*['\"]?([\w.+-]+)", match[1], re.MULTILINE) if match else None
        if found:
            return found[1]
    return None


def _facts(context: Context) -> dict[str, dict[str, str]]:
    """Licence, tokenizer and chat template of each model, where they are not all the same."""
    table: dict[str, dict[str, str]] = {"licence": {}, "tokenizer": {}, "chat template": {}}
    for model, vocabulary in zip(context.models, fingerprints(context), strict=True):
        table["licence"][model.label] = licence(model) or "not stated"
        table["tokenizer"][model.label] = vocabulary or "none"
        template = own_template(model)
        table["chat template"][model.label] = (
            f"{len(template)} characters: {template.strip()[:40]!r}" if template else "none"
        )
    return {what: values for what, values in table.items() if len(set(values.values())) > 1}
