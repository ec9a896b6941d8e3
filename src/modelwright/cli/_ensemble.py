"""`mw ensemble`."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelwright.bundle import open_bundle
from modelwright.cli._eval import AskingBar
from modelwright.cli._merge import size_text
from modelwright.errors import InputError, printable
from modelwright.evaluate import CascadePredictor, Ensemble, ensemble, task as task_of
from modelwright.predictions.cascades import Aim

_VERSION = 1


def run_ensemble(
    members: Sequence[str], task: str, out: Path, said: Mapping[str, Any], how: Mapping[str, Any], *, json: bool, quiet: bool
) -> None:  # fmt: skip
    """Fit, write the bundle, and show members beside the ensemble.

    Args:
        members: References.
        task: The task.
        out: Where the bundle goes.
        said: `sets`, `risk`, `coverage`, and what `mw.ensemble` takes.
        how: Of `Ensemble.save`.
        json: Print JSON.
        quiet: Print nothing.
    """
    options = dict(said)
    options |= {"aim": _aim(options.pop("risk"), options.pop("coverage"), cascade=options["cascade"])}
    if not options["cascade"] and (options["width"] is not None or options["most_cost"] is not None):
        raise InputError("--width and --most-cost say how far a cascade goes", "Add --cascade, or leave them out.")
    parameters = _parameters(options.pop("sets"))
    if options["cascade"] and parameters:
        raise InputError("--set is for a combiner, and a cascade has none", "Leave --set out.")
    with AskingBar(enabled=not quiet and not json) as bar:
        bar.say("loading")
        found = ensemble(
            list(members), task_of(task), label=out.name, progress=lambda name, done, total: bar.update(name, "the items", done, total),
            **options, **parameters,
        )  # fmt: skip
        made = found.save(out, **how)
    if json:
        print(json_module.dumps(_as_json(found, made), indent=1, ensure_ascii=False))  # noqa: T201
    elif not quiet:
        _render(Console(), found, made)


def _aim(risk: float | None, coverage: float | None, *, cascade: bool) -> Aim | None:
    if risk is None and coverage is None:
        return None
    if not cascade:
        raise InputError("--risk and --coverage say what a cascade is for", "Add --cascade, or leave them out.")
    if risk is not None and coverage is not None:
        raise InputError("--risk and --coverage exclude each other", "Leave one of them out.")
    return Aim("coverage_at_risk", risk) if risk is not None else Aim("risk_at_coverage", float(coverage or 0))


def _parameters(sets: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in sets:
        name, equals, value = entry.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--set must be KEY=VALUE, got '{entry}'")
        found[name] = yaml.safe_load(f"[{value}]" if "," in value else value)
    return found


def _as_json(found: Ensemble, out: Path) -> dict[str, Any]:
    about = open_bundle(out).about
    return {
        "version": _VERSION, "ok": True, "out": str(out), "kind": about.kind, "task": found.task.name, "split": found.split,
        "items": found.items, "metric": found.task.metric.name, "figures": dict(found.figures),
        "bundle": about.model_dump(exclude_none=True),
    }  # fmt: skip


def _render(console: Console, found: Ensemble, out: Path) -> None:
    metric = found.task.metric
    about = open_bundle(out).about
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("member")
    table.add_column(f"{metric.name}{' %' if metric.bounded else ''}", justify="right")
    table.add_column("size", justify="right")

    def shown(figure: float) -> str:
        return f"{100 * figure:.2f}" if metric.bounded else f"{figure:.4g}"

    label = found.predictor.label
    singles = {name: figure for name, figure in found.figures.items() if name != label}
    best = (max if metric.higher_is_better else min)(singles, key=lambda name: singles[name])
    for name, figure in singles.items():
        size = size_text(about.members[name].nbytes) if name in about.members else "left out"
        table.add_row(Text(printable(name) + ("  (best)" if name == best else "")), shown(figure), size)
    table.add_row("mean member", shown(sum(singles.values()) / len(singles)), "", style="dim")
    total = sum(member.nbytes for member in about.members.values())
    together = found.figures[label]
    table.add_row(Text(printable(label)), shown(together), size_text(total), style="bold")
    console.print(table)
    worse = together <= singles[best] if metric.higher_is_better else together >= singles[best]
    text = (
        f"{_how(found)}{f'; no better on these items than {best} alone' if worse else ''}\n{found.items:,} {found.split} items of {found.task.name}, which it was fitted on: for figures to report, "
        f"mw compare {out} MODEL.. --task T\nwritten to {out}"
    )
    console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)


def _how(found: Ensemble) -> str:
    one = found.predictor
    if isinstance(one, CascadePredictor):
        return f"a cascade: {one.rule.fitted}"
    how = "mean" if one.combine is None else one.combine.method
    return how + ("" if one.calibrate is None else f", {one.calibrate.method}")
