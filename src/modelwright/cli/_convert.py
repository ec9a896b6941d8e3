"""`mw convert`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelwright.cli._merge import run_merge
from modelwright.errors import InputError
from modelwright.surgery._convert import conversion


def run_convert(
    inputs: Sequence[str],
    out: str,
    settings: Mapping[str, Any],
    rename: Sequence[str],
    options: Mapping[str, Any],
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Convert, with a progress bar on stderr and a line about the result."""
    recipes = [text for text in inputs if text.endswith((".yml", ".yaml"))]
    if recipes:
        raise InputError(f"'{recipes[0]}' is a recipe, not a model", f"Run it: mw merge {recipes[0]} -o {out}.")
    job = conversion(list(inputs) if len(inputs) > 1 else inputs[0], rename=_renames(rename), **settings)
    run_merge(job, out, options, json=json, quiet=quiet, done="converted into")


def _renames(entries: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        pattern, equals, name = entry.partition("=")
        if not equals or not pattern or not name:
            raise InputError(
                f"--rename must be PATTERN=NAME, got '{entry}'", "Write --rename 'model.*=language_model.*'."
            )
        if pattern in found:
            raise InputError(f"--rename: the pattern '{pattern}' stands there twice", "Keep one of them.")
        found[pattern] = name
    return found
