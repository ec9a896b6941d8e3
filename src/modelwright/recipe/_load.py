"""Recipes as files, texts or dicts; overrides; steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from modelwright.checkpoint import user_path
from modelwright.errors import InputError, Problem, did_you_mean
from modelwright.methods import Registry
from modelwright.recipe._schema import Recipe, parse
from modelwright.recipe._yaml import Lines, load

_INHERITED = ("semantics", "missing", "seed", "dtype", "out_dtype", "allow_retokenization")


@dataclass(frozen=True)
class Stage:
    """One merge of a recipe: the whole of it, or one of its steps.

    Attributes:
        name: The step's name; empty for a recipe without steps.
        recipe: The merge.
        lines: Where its values stand.
    """

    name: str
    recipe: Recipe
    lines: Lines


def load_recipe(
    source: str | Path | Mapping[str, Any], sets: Sequence[str], registry: Registry
) -> tuple[list[Stage], Path, str]:
    """Read a recipe, apply overrides, split it into stages.

    Args:
        source: A file, or the recipe as a dict.
        sets: `key=value` overrides, see `override`.
        registry: The known methods, to tell their parameters from recipe keys.

    Returns:
        The stages in the order they run, the folder that relative paths start from, and the recipe as text.

    Raises:
        InputError: The file is missing or is not a valid recipe.
    """
    if isinstance(source, Mapping):
        plain = _plain(source, "the recipe")
        documents: list[tuple[Any, Lines]] = [(copy.deepcopy(plain), Lines())]
        folder, text = Path(), _dumped(plain)
    else:
        path = user_path(source)
        if path.is_dir():
            raise InputError(f"'{path}' is a folder, not a recipe", "Give a YAML file, or models and a method.")
        if not path.is_file():
            raise InputError(f"no recipe file '{path}'", "Check the path.")
        text = _read(path)
        documents, folder = load(text, str(path)), path.parent
    if not documents:
        raise InputError(f"the recipe '{source}' is empty")
    data, lines = documents[0] if len(documents) == 1 else _joined(documents)
    if sets and isinstance(data, dict):
        for entry in sets:
            override(cast(dict[str, Any], data), entry, registry)
        text = _dumped(data)
    return _stages(data, lines), folder, text


def stages_of(text: str, where: str) -> list[Stage]:
    """The stages of a recipe's text, such as a manifest keeps; `where` is what messages call it.

    Raises:
        InputError: It is not a valid recipe.
    """
    documents = load(text, where)
    if not documents:
        raise InputError(f"{where} is empty")
    return _stages(*(documents[0] if len(documents) == 1 else _joined(documents)))


def _stages(data: Any, lines: Lines) -> list[Stage]:
    recipe = parse(data, lines)
    if recipe.steps is None:
        return [Stage("", recipe, lines)]
    said = cast(dict[str, Any], data)
    inherited = {key: said[key] for key in _INHERITED if key in said}
    stages: list[Stage] = []
    for i, step in enumerate(cast(list[dict[str, Any]], said["steps"])):
        below = lines.below("steps", i)
        stages.append(Stage(str(step["name"]), parse({**inherited, **step}, below), below))
    return stages


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(
            f"'{path}' is not a text file in UTF-8, so it is no recipe", "A recipe is a YAML file."
        ) from None
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}") from None


def _dumped(data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _plain(node: Any, where: str) -> Any:
    """A recipe from Python in what YAML can say: paths as text, numpy's numbers as Python's."""
    if isinstance(node, Mapping):
        table = cast(Mapping[Any, Any], node)
        return {key: _plain(value, f"{where}.{key}".removeprefix("the recipe.")) for key, value in table.items()}
    if isinstance(node, list | tuple):
        return [_plain(value, f"{where}.{i}") for i, value in enumerate(cast(Sequence[Any], node))]
    if isinstance(node, np.ndarray | np.generic):
        return _plain(node.tolist(), where)
    if isinstance(node, Path):
        return str(node)
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise InputError(
        f"'{where}' is a {type(node).__name__}, which a recipe cannot hold",
        "Models in memory go into mw.merge([a, b], method=...).",
    )


def _joined(documents: Sequence[tuple[Any, Lines]]) -> tuple[dict[str, Any], Lines]:
    """Several documents, each with a `name`, are steps (the form of the community's multi-stage tool)."""
    lines = documents[0][1]
    steps: list[Any] = []
    for i, (data, part) in enumerate(documents):
        if not isinstance(data, Mapping):
            raise InputError(Problem(f"document {i + 1} is not a mapping of keys", where=part.where(())))
        entry: dict[str, Any] = dict(data)  # type: ignore[reportUnknownArgumentType]
        entry.setdefault("name", "result" if i == len(documents) - 1 else "")
        steps.append(entry)
        for path, line in part.items():
            lines.mark(("steps", i, *path), line)
    return {"steps": steps}, lines


def _value(text: str) -> Any:
    """What a text means in YAML; nothing where it is empty or a comment."""
    documents = load(text, "--set")
    return documents[0][0] if documents else None


def override(data: dict[str, Any], entry: str, registry: Registry) -> None:
    """Apply one `--set key=value` to the raw data of a recipe, in place.

    The key is a dotted path (`models.0.parameters.weight`), a key of the recipe (`dtype`), or a parameter of the
    method, which then holds everywhere: values that the recipe gives for it are removed. `a,b` gives each model its own.

    Raises:
        InputError: The key is neither, or a path leads nowhere.
    """
    key, found, value_text = entry.partition("=")
    if not found or not key:
        raise InputError(f"--set needs key=value, got '{entry}'", "Write --set density=0.5.")
    value = _value(value_text)
    if "." in key:
        _set_path(data, key, value)
        return
    steps: Any = data.get("steps")
    recipes = _mappings(steps) if isinstance(steps, list) else [data]
    if key in Recipe.model_fields and key not in ("models", "slices", "modules", "steps", "parameters"):
        for recipe in recipes if key in _INHERITED else ():
            recipe.pop(key, None)  # what a step says itself would win
        data[key] = value
        return
    used = False
    for recipe in recipes:
        method = registry.get(str(recipe.get("merge_method")))
        if method is not None and key in method.fields:
            _set_parameter(recipe, key, value, per_model=method.fields[key].per_model)
            used = True
    if not used:
        known = {
            name for recipe in recipes if (m := registry.get(str(recipe.get("merge_method")))) for name in m.fields
        }
        raise InputError(
            f"--set: unknown key '{key}'", did_you_mean(key, known | (set(Recipe.model_fields) - {"steps"}), most=99)
        )


def _set_parameter(recipe: dict[str, Any], key: str, value: Any, per_model: bool) -> None:
    values: list[Any] | None = None
    if per_model and isinstance(value, str) and "," in value:
        values = [_value(piece) for piece in value.split(",")]
    _forget(recipe, key)
    if values is None:
        block = recipe.setdefault("parameters", {})
        if isinstance(block, dict):  # else the schema says what is wrong with it
            block[key] = value
        return
    models = [m for m in _mappings(recipe.get("models")) if m.get("model") != recipe.get("base_model")]
    if len(models) != len(values):
        raise InputError(
            f"--set: {key} has {len(values)} values for {len(models)} models beside the base",
            "Give one value, or one for each entry of models:.",
        )
    for model, one in zip(models, values, strict=True):
        model.setdefault("parameters", {})[key] = one


def _mappings(entries: Any) -> list[dict[str, Any]]:
    """The mappings of a list; what else stands there, the schema refuses."""
    return [entry for entry in cast(list[Any], entries or []) if isinstance(entry, dict)]


def _forget(node: Any, key: str) -> None:
    """Remove a parameter from every `parameters:` block."""
    if isinstance(node, dict):
        entries: dict[str, Any] = node  # type: ignore[reportUnknownVariableType]
        block = entries.get("parameters")
        if isinstance(block, dict):
            block.pop(key, None)  # type: ignore[reportUnknownMemberType]
        for child in entries.values():
            _forget(child, key)
    elif isinstance(node, list):
        for child in node:  # type: ignore[reportUnknownVariableType]
            _forget(child, key)


def _set_path(data: Any, key: str, value: Any) -> None:
    node = data
    pieces = key.split(".")
    for i, piece in enumerate(pieces):
        last = i == len(pieces) - 1
        where = ".".join(pieces[: i + 1])
        if isinstance(node, list):
            items: list[Any] = node  # type: ignore[reportUnknownVariableType]
            if not piece.isdigit() or int(piece) >= len(items):
                raise InputError(f"--set: '{where}' leads nowhere: there are {len(items)} entries, counted from 0")
            if last:
                items[int(piece)] = value
            else:
                node = items[int(piece)]
        elif isinstance(node, dict):
            entries: dict[str, Any] = node  # type: ignore[reportUnknownVariableType]
            if last:
                entries[piece] = value
            else:
                node = entries.setdefault(piece, {})
        else:
            raise InputError(f"--set: '{where}' leads nowhere")
