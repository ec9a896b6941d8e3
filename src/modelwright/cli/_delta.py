"""`mw extract` and `mw apply`."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Mapping, Sequence
from typing import Any

from modelwright.cli._merge import Bar, run_merge, size_text
from modelwright.errors import InputError, RunError, printable
from modelwright.surgery._delta import LOSSY, Change, Delta, application, extract

_VERSION = 1
_WORDS = {
    "same": "as in the base", "sparse": "by the entries that changed", "bits": "by all their bits",
    "whole": "whole, because the base has none of that shape and format", "factors": "as low-rank factors",
    "int8": "in 8 bits an entry",
}  # fmt: skip


def run_extract(
    tuned: str,
    base: str | None,
    out: str,
    approximation: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    exact: bool,
    json: bool,
    quiet: bool,
) -> None:
    """Extract, and say how each tensor is stored and what is lost."""
    lossy = next((f"--{name}" for name, value in approximation.items() if value), None)
    if exact and lossy:
        raise InputError(f"--exact and {lossy} exclude each other: {lossy} is not exact", "Leave one of them out.")
    if base is None:
        raise InputError(
            "extract needs --base, the model that it was tuned from, or --task, of a bundle", "See mw extract --help."
        )
    started = time.time()
    delta = extract(tuned, base=base, **approximation, threads=options["threads"])
    with Bar(enabled=not quiet and not json) as bar:
        result = delta.save(out, **options, progress=bar.update)
    if json:
        print(json_module.dumps(_as_json(delta, str(result.out), result.bytes_out), indent=1, ensure_ascii=False))  # noqa: T201
        return
    if quiet:
        return
    from rich.console import Console

    console = Console()
    whole = sum(change.stored for change in delta.changes)
    for form, words in _WORDS.items():
        group = [change for change in delta.changes if change.form == form]
        if group:
            stored = sum(change.stored for change in group)
            console.print(
                f"  {len(group)} tensor{'s' * (len(group) != 1)} {words}{_ranks(group)}: {size_text(stored)}{_worst(group)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    said = "exact: it comes back to the bit"
    if not delta.exact:
        said = f"relative error of the task vectors that are not stored exactly: {delta.error:.3g}"
    console.print(f"  {said}", highlight=False, markup=False)
    seconds = time.time() - started
    console.print(
        printable(f"extracted into {result.out}: {size_text(whole)} in {seconds:.1f} s"),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _ranks(group: Sequence[Change]) -> str:
    """From which rank to which, where they are factors."""
    ranks = [change.rank for change in group]
    if not any(ranks):
        return ""
    return f" of rank {min(ranks)}" + (f" to {max(ranks)}" if max(ranks) > min(ranks) else "")


def _worst(group: Sequence[Change]) -> str:
    """Which of them is furthest from what it was."""
    worst = max(group, key=lambda change: change.error)
    return f", error at most {worst.error:.3g}, in {printable(worst.name)}" if worst.form in LOSSY else ""


def _as_json(delta: Delta, out: str, nbytes: int) -> dict[str, Any]:
    changes = [
        {"tensor": c.name, "form": c.form, "bytes": c.stored, "changed": c.changed, "error": c.error, "rank": c.rank}
        for c in delta.changes
    ]
    return {
        "version": _VERSION, "ok": True, "out": out, "bytes_written": nbytes, "exact": delta.exact, "error": delta.error,
        "tensors": changes,
    }  # fmt: skip


def run_apply(
    base: str, delta: str, out: str, options: Mapping[str, Any], *, exact: bool, json: bool, quiet: bool
) -> None:
    """Apply, with a progress bar on stderr and a line about the result."""
    job = application(base, delta)
    if exact:
        forms = {name: ref.source.rpartition(": ")[2] for name, ref in job.plans()[0].models[0].items()}
        lossy = [name for name, form in forms.items() if form in LOSSY]
        if lossy:
            raise InputError(
                f"{delta} is not exact: {len(lossy)} of its tensors are stored {_WORDS[forms[lossy[0]]]}, such as {lossy[0]}",
                "Extract it again without --rank and --int8, or leave --exact out.",
            )
    try:
        run_merge(job, out, options, json=json, quiet=quiet, done="applied into")
    except InputError as error:  # found while tensors were read
        if str(error).startswith(delta):
            raise RunError(str(error)) from None
        raise
