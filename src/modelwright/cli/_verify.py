"""`mw verify`."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Mapping
from typing import Any

import typer

from modelwright.cli._merge import Bar, size_text
from modelwright.surgery import verify

_JSON_VERSION = 1


def run_verify(out: str, options: Mapping[str, Any], *, json: bool, quiet: bool, only_problems: bool = False) -> None:
    """Check an output, with a progress bar on stderr and a line about what was found; exit code 3 where it differs."""
    started = time.time()
    with Bar(enabled=not quiet and not json) as bar:
        found = verify(out, **options, progress=bar.update)
    if only_problems and not found.problems:
        return
    if json:
        result = {
            "version": _JSON_VERSION, "ok": not found.problems, "out": out, "files": found.files,
            "bytes": found.nbytes, "problems": [{"what": what, "mend": "", "where": ""} for what in found.problems],
            "notes": list(found.notes),
        }  # fmt: skip
        print(json_module.dumps(result, indent=2, ensure_ascii=False))  # noqa: T201
    elif not quiet or found.problems:
        from rich.console import Console

        console = Console(stderr=bool(found.problems))
        for note in found.notes:
            console.print(f"note: {note}", style="dim", highlight=False, markup=False, soft_wrap=True)
        for problem in found.problems:
            console.print(f"  - {problem}.", highlight=False, markup=False, soft_wrap=True)
        again = ", and the same comes out again" if options["rerun"] else ""
        verdict = f"{len(found.problems)} problems" if len(found.problems) != 1 else "1 problem"
        text = f"{out}: {verdict}" if found.problems else f"{out}: {found.files} files, as the manifest says{again}"
        seconds = f"({size_text(found.nbytes)} in {time.time() - started:.1f} s)"
        console.print(f"{text} {seconds}", highlight=False, markup=False, soft_wrap=True)
    if found.problems:
        raise typer.Exit(3)
