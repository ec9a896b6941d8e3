"""`mw push` and `mw card`."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from modelwright.api import card
from modelwright.cli._merge import size_text
from modelwright.cli._verify import run_verify
from modelwright.engine import Push, finished, prepare_push
from modelwright.errors import InputError, RunError, listing, printable

_JSON_VERSION = 1


def run_push(out: Path, repo: str, options: Mapping[str, Any], *, json: bool, quiet: bool) -> None:
    """Check an output, show what would be sent, ask where something would be lost, and send it.

    Exit code 3 where the output is not as its manifest says.
    """
    out = finished(out)
    if options["verify"]:
        _verify(out, options["threads"], json=json, quiet=quiet)
    if json or quiet:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    ready = prepare_push(out, repo, branch=options["branch"], private=options["private"])
    if not json and not quiet:
        _show(ready)
    if not options["dry_run"]:
        _ask(ready, yes=options["yes"], json=json)
        try:
            ready = ready.send(options["message"])
        except KeyboardInterrupt:
            raise InterruptedError(
                f"'{ready.repo}' is as it was. What was uploaded is not sent again by the same command."
            ) from None
    if json:
        print(json_module.dumps(_as_json(ready), indent=2, ensure_ascii=False))  # noqa: T201
    elif not quiet:
        _say_end(ready, dry_run=options["dry_run"])


def _verify(out: Path, threads: int, *, json: bool, quiet: bool) -> None:
    """As `mw verify`, silent where all is well."""
    settings = {"rerun": False, "folder": None, "threads": threads, "plugins": ()}
    run_verify(str(out), settings, json=json, quiet=quiet, only_problems=True)


def _show(ready: Push) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    made = f", {ready.creates} to be made" if ready.creates else ""
    seen = "private" if ready.private else "public"
    console.print(f"\n{ready.url}  ({seen}{made})", highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_header=False)
    for file in ready.files:
        table.add_row(file.fate, size_text(file.size), Text(printable(file.name)))
    for name in ready.deleted:
        table.add_row("removed", "", Text(printable(name)))
    console.print(table)
    for note in ready.notes:
        console.print(printable(f"note: {note}"), style="dim", highlight=False, markup=False, soft_wrap=True)


def _ask(ready: Push, *, yes: bool, json: bool) -> None:
    """Have it confirmed that files are replaced or removed.

    Raises:
        InputError: Nobody can be asked.
        RunError: The answer is no.
    """
    if yes or not ready.overwritten:
        return
    what = f"'{ready.repo}' has files that would be replaced or removed: {listing(ready.overwritten, 6)}"
    if json or not sys.stdin.isatty():
        raise InputError(what, "Look at them with --dry-run, and pass --yes.")
    if not typer.confirm(f"{printable(what)}. Go on?", err=True):
        raise RunError("Nothing was sent.")


def _say_end(ready: Push, *, dry_run: bool) -> None:
    from rich.console import Console

    count = sum(file.fate != "same" for file in ready.files)
    sent = f"{count} file{'s' * (count != 1)}, {size_text(ready.nbytes)}"
    if dry_run:
        text = f"would be sent: {sent}; nothing was"
    elif ready.commit is None:
        text = f"nothing to send: {ready.url} has all of it"
    else:
        text = f"pushed to {ready.url}: {sent}, commit {ready.commit[:12]}"
    Console().print(text, highlight=False, markup=False, soft_wrap=True)


def _as_json(ready: Push) -> dict[str, Any]:
    files = [{"name": file.name, "bytes": file.size, "fate": file.fate} for file in ready.files]
    return {
        "version": _JSON_VERSION, "ok": True, "repo": ready.repo, "branch": ready.branch, "url": ready.url,
        "creates": ready.creates, "private": ready.private, "files": files, "deleted": list(ready.deleted),
        "bytes": ready.nbytes, "commit": ready.commit, "notes": list(ready.notes),
    }  # fmt: skip


def run_card(out: Path, options: Mapping[str, Any], *, json: bool, quiet: bool) -> None:
    """Write a card, with the figures of records if there are any."""
    records, system = options["records"], options["system"]
    given = {key: options[key] for key in ("licence", "reason", "keep", "overwrite")}
    if system is not None and records is None:
        raise InputError("--system says which system of --records the model is", "Give --records FOLDER too.")
    if records is not None:
        from modelwright.evaluate import evaluations

        given["evaluations"] = evaluations(records, system or out.expanduser().resolve().name)
    path = card(out, **given)
    if json:
        print(json_module.dumps({"version": _JSON_VERSION, "ok": True, "card": str(path)}, indent=2))  # noqa: T201
    elif not quiet:
        typer.echo(f"{'kept' if options['keep'] else 'wrote'} {path}")
