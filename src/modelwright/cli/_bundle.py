"""`mw inspect BUNDLE` and `mw extract BUNDLE --task`."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Mapping, Sequence
from typing import Any

from modelwright.api import open as open_any
from modelwright.bundle import Bundle, WeightBundle, open_bundle
from modelwright.cli._merge import Bar, say_storage, size_text, storage_json
from modelwright.errors import InputError, printable

_VERSION = 1
_KINDS = {"weights": "a bundle of weights", "ensemble": "an ensemble", "cascade": "a cascade"}


def show_bundle(path: str, *, json: bool) -> None:
    """What is in a bundle."""
    found = open_bundle(path)
    if json:
        data = {"version": _VERSION, "ok": True, "what": "bundle", "bundle": found.about.model_dump(exclude_none=True)}
        print(json_module.dumps(data | storage_json(found.path), indent=1, ensure_ascii=False))  # noqa: T201
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()

    def say(text: str, **style: Any) -> None:
        console.print(printable(text), highlight=False, markup=False, soft_wrap=True, **style)

    say(path, style="bold")
    for name, value in _facts(found):
        if value:
            say(f"  {name:<11} {value}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column, justify in (("\nmember", "left"), ("\nrole", "left"), ("\nsize", "right"), ("\nwhere", "left")):
        table.add_column(column, justify=justify)  # type: ignore[reportArgumentType]
    for name, member in found.about.members.items():
        where = member.folder or f"{member.reference} (elsewhere)"
        table.add_row(Text(printable(name)), member.role, size_text(member.nbytes), Text(printable(where)))
    console.print(table)
    say_storage(console, found.path)


def _facts(found: Bundle) -> list[tuple[str, str]]:
    about = found.about
    weights = about.weights
    settings = {} if weights is None else weights.parameters
    stated = sorted({licence or "not stated" for licence in about.lineage.licences.values()})
    return [
        ("kind", _KINDS[about.kind]),
        ("method", _method(found)),
        ("parameters", ", ".join(f"{name}={value}" for name, value in settings.items())),
        ("tasks", ", ".join(found.tasks)),
        ("fitted on", _fitted_on(found)),
        ("router", "" if weights is None else "none: the task is told"),
        ("licences", ", ".join(stated)),
        ("made by", ", ".join(f"{name} {number}" for name, number in about.lineage.versions.items())),
    ]


def _method(found: Bundle) -> str:
    about = found.about
    if about.weights is not None:
        return about.weights.method
    said = about.ensemble
    assert said is not None
    if said.cascade is not None:
        return str(said.cascade.get("fitted") or "windows")
    names = [str(one.get("method")) for one in (said.combine, said.calibrate) if one is not None]
    return ", then ".join(names)


def _fitted_on(found: Bundle) -> str:
    said = found.about.ensemble
    if said is None or said.fitted_on is None:
        return ""
    return f"{said.fitted_on.items:,} {said.fitted_on.split} items of {said.fitted_on.task}"


def run_task(
    source: str, tasks: Sequence[str], out: str, said: Mapping[str, Any], options: Mapping[str, Any], *, json: bool, quiet: bool
) -> None:  # fmt: skip
    """Write the model that a bundle has for a task, or for several with weights."""
    wrong = [f"--{name}" for name, value in said.items() if value is not None]
    if wrong:
        raise InputError(f"{wrong[0]} is for storing a fine-tune, and --task for bundles", "Leave one of them out.")
    found = open_any(source)
    if not isinstance(found, WeightBundle):
        raise InputError(f"'{source}' is not a bundle, so it has no tasks", "Leave --task out, and give --base.")
    started = time.time()
    model = found.task(_chosen(tasks))
    with Bar(enabled=not quiet and not json) as bar:
        result = model.save(out, **options, progress=bar.update)
    if json:
        data = {"version": _VERSION, "ok": True, "out": str(result.out), "bytes_written": result.bytes_out}
        print(json_module.dumps(data | {"task": model.label}, indent=1, ensure_ascii=False))  # noqa: T201
    elif not quiet:
        from rich.console import Console

        text = (
            f"extracted {model.label} into {result.out}: {size_text(result.bytes_out)} in {time.time() - started:.1f} s"
        )
        Console().print(printable(text), highlight=False, markup=False, soft_wrap=True)


def _chosen(tasks: Sequence[str]) -> str | dict[str, float]:
    """`NAME` alone, or `NAME=WEIGHT` for each."""
    if len(tasks) == 1 and "=" not in tasks[0]:
        return tasks[0]
    chosen: dict[str, float] = {}
    for entry in tasks:
        name, _, number = entry.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = float("nan")
        if not name or weight != weight or abs(weight) == float("inf") or name in chosen:
            raise InputError(
                f"several tasks need a weight each, got --task {entry}", "Write --task NAME=WEIGHT, each name once."
            )
        chosen[name] = weight
    return chosen
