"""`mw convert`."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Mapping, Sequence
from typing import Any

from modelwright.cli._merge import Bar, run_merge, size_text
from modelwright.engine import SHARD_BYTES
from modelwright.errors import InputError, printable
from modelwright.surgery._convert import conversion
from modelwright.surgery._tools import by_tool, is_tool


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
    model = list(inputs) if len(inputs) > 1 else inputs[0]
    given = {**settings, "rename": _renames(rename)}
    if is_tool(settings["quantise"]):
        _run_tool(model, out, given, options, json=json, quiet=quiet)
        return
    run_merge(conversion(model, **given), out, options, json=json, quiet=quiet, done="converted into")


def _run_tool(
    model: Any, out: str, settings: Mapping[str, Any], options: Mapping[str, Any], *, json: bool, quiet: bool
) -> None:
    """Another program writes the output."""
    if options["restart"] or options["shard_bytes"] != SHARD_BYTES:
        raise InputError("--restart and --shard-size are not for what another program writes", "Leave them out.")
    started = time.time()
    with Bar(enabled=not quiet and not json) as bar:
        made = by_tool(
            model, out, **settings, overwrite=options["overwrite"], threads=options["threads"], progress=bar.update
        )
    if json:
        told = {"version": 1, "ok": True, "out": str(made.out), "bytes_written": made.nbytes, "notes": list(made.notes)}
        print(json_module.dumps(told, indent=2, ensure_ascii=False))  # noqa: T201
    elif not quiet:
        from rich.console import Console

        console = Console()
        lines = (*(f"note: {note}" for note in made.notes), f"converted into {made.out}: {size_text(made.nbytes)}")
        for line in (*lines[:-1], f"{lines[-1]} in {time.time() - started:.1f} s"):
            console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


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
