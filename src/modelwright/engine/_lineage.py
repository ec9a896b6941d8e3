"""Where models come from: what their folders say of their licence, their place on the Hub, and what they were made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from modelwright.architectures import is_list, is_table
from modelwright.checkpoint import MANIFEST, Checkpoint, read_json
from modelwright.errors import InputError, printable

CARD = "README.md"
#: A model card says its metadata within this many characters.
_FRONT_MATTER = 1 << 16
#: Generations that are followed; what lies deeper is not told.
_DEEPEST = 20
#: Entries of one tree. A manifest from a stranger could name any number.
_MOST = 1000
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([^/]+)")


def front_matter(folder: Path) -> dict[str, Any]:
    """The metadata of a folder's model card; empty where there is none, or it is no YAML."""
    try:
        with (folder / CARD).open(encoding="utf-8", errors="replace") as file:
            start = file.read(_FRONT_MATTER)
        match = re.match(r"---[ \t]*\n(.*?)\n---", start, re.DOTALL)
        found: Any = yaml.safe_load(match[1]) if match else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if is_table(found) else {}


def provenance(model: Checkpoint) -> dict[str, Any]:
    """What the folder of a model says of it, for the manifest of what is made from it.

    Returns:
        `licence`: the Hub's id, or None where it is not stated; `hub` and `commit`: where it is on the Hub; `lineage`: what
        it was made from, as `lineage` has it; `adapters`: the same of what was added to it. Keys that say nothing are
        left out, but for `licence`.
    """
    found = _of_folder(model.path) if model.path is not None else {"licence": None}
    adapters = [_of_folder(path) for path in model.beneath if (path / "adapter_config.json").is_file()]
    return found | ({"adapters": adapters} if adapters else {})


def _of_folder(path: Path) -> dict[str, Any]:
    said = front_matter(path)
    found: dict[str, Any] = {"licence": _licence(said)}
    cached = _CACHED.search(path.as_posix())
    if cached:
        found |= {"hub": f"{cached[1]}/{cached[2]}", "commit": cached[3]}
    made = lineage(path)
    return found | ({"lineage": made} if made else {})


def _licence(said: Mapping[str, Any]) -> str | None:
    """What a card's metadata say: `other` stands for the licence that `license_name` names."""
    stated: Any = said.get("license", said.get("licence"))
    if is_list(stated) and len(stated) == 1:
        stated = stated[0]
    if stated == "other" and isinstance(said.get("license_name"), str):
        stated = said["license_name"]
    return _word(stated)


def _word(text: Any) -> str | None:
    """A name that others wrote, of a sane size; None where it is none."""
    return printable(text)[:200] if isinstance(text, str) and text.strip() else None


def known_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder that this library made; None where there is none, or it is some other program's."""
    try:
        found = read_json(folder / MANIFEST) if folder.is_dir() else None
    except InputError:
        return None
    return found if found is not None and is_table(found.get("made_by")) and "modelwright" in found["made_by"] else None


def lineage(path: Path) -> dict[str, Any]:
    """What a model was made from, and what that was made from.

    Args:
        path: Its folder. Its manifest says it; where it has none, what its card names as base models.

    Returns:
        `method`, `merge` (whether a manifest says so, and so all of it is known) and `inputs`, each of which has `model` and
        may have `licence`, `hub`, `commit`, `lineage` and `adapters` itself; empty where nothing is known.
    """
    manifest = known_manifest(path)
    if manifest is not None:
        return _cut(manifest, [_MOST], _DEEPEST)
    said = front_matter(path)
    stated: Any = said.get("base_model")
    names = [_word(name) for name in (stated if is_list(stated) else [stated])]
    inputs = [{"model": name, "hub": name} for name in names if name][:_MOST]
    relation = _word(said.get("base_model_relation")) or ("merge" if len(inputs) > 1 else "finetune")
    return {"method": relation, "merge": False, "inputs": inputs} if inputs else {}


def _cut(node: Mapping[str, Any], left: list[int], depth: int) -> dict[str, Any]:
    """Of a manifest, or of the lineage in one, what belongs in a tree; at most so many entries and generations."""
    inputs: list[dict[str, Any]] = []
    listed: Any = node.get("inputs")
    for entry in listed if is_list(listed) and depth else ():
        if is_table(entry) and left[0] > 0:
            left[0] -= 1
            told = {key: word for key in ("model", "licence", "hub", "commit") if (word := _word(entry.get(key)))}
            made = _below(entry.get("lineage"), left, depth)
            adapters = _cut({"inputs": entry.get("adapters")}, left, depth - 1).get("inputs", [])
            inputs.append({"model": "?", **told, **made, **({"adapters": adapters} if adapters else {})})
    return {"method": _word(node.get("method")) or "?", "merge": True, "inputs": inputs} if inputs else {}


def _below(node: Any, left: list[int], depth: int) -> dict[str, Any]:
    made = _cut(node, left, depth - 1) if is_table(node) else {}
    return {"lineage": {**made, "merge": node.get("merge") is True}} if made else {}


def licences(made: Mapping[str, Any]) -> dict[str, str | None]:
    """The licence of each input of a merge and of the adapters added to it, by name.

    An input that is a merge itself, and whose own licence was not settled, stands for what it was made from.
    """
    found: dict[str, str | None] = {}
    for entry in made["inputs"]:
        name, before = str(entry["model"]), entry.get("lineage", {})
        if entry.get("licence") is None and before.get("merge"):
            found |= {f"{name}: {below}": licence for below, licence in licences(before).items()}
        else:
            found[name] = entry.get("licence")
        for number, adapter in enumerate(entry.get("adapters", ()), 1):
            found[f"{name}, adapter {number}"] = adapter.get("licence")
    return found


def hub_ids(entry: Mapping[str, Any]) -> Iterator[str]:
    """The models of the Hub that an input comes from: itself, or, where it was never there, the nearest before it."""
    if entry.get("hub"):
        yield str(entry["hub"])
    else:
        for parent in entry.get("lineage", {}).get("inputs", ()):
            yield from hub_ids(parent)
    for adapter in entry.get("adapters", ()):
        yield from hub_ids(adapter)
