"""`mw compare`."""

from __future__ import annotations

import json as json_module
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelwright.bundle import is_bundle, open_bundle
from modelwright.cli._eval import Asking, evaluated
from modelwright.errors import InputError, did_you_mean, printable
from modelwright.evaluate import Comparison, Gate, Mean, Price, Records, Verdicts, compare, metric, tasks, with_ensemble
from modelwright.evaluate._ensembles import FILES
from modelwright.evaluate._lm_eval import is_log
from modelwright.evaluate._systems import label_of, labelled
from modelwright.recipe._yaml import load
from modelwright.report import _comparison as shown


@dataclass(frozen=True)
class Comparing:
    """The options of `mw compare`.

    Attributes:
        tasks: What models are evaluated on; empty where the inputs are records.
        reference: What the others are compared with.
        ensemble: Add the ensemble of all single models.
        members: Or of these.
        space: Where it averages.
        kinds: `SYSTEM=KIND`.
        experts: `TASK=SYSTEM`.
        prices: A YAML file.
        gate: A YAML file.
        latex: Files to write.
        csv: Likewise.
        html: Likewise.
        junit: Likewise.
        seed: Of resamples.
        level: Coverage of the intervals.
        resamples: How many.
        asking: How models are evaluated; passed on.
    """

    tasks: Sequence[str] = ()
    reference: str | None = None
    ensemble: bool = False
    members: Sequence[str] = ()
    space: str = "probabilities"
    kinds: Sequence[str] = ()
    experts: Sequence[str] = ()
    prices: Path | None = None
    gate: Path | None = None
    latex: Path | None = None
    csv: Path | None = None
    html: Path | None = None
    junit: Path | None = None
    seed: int = 0
    level: float = 0.95
    resamples: int = 2000
    asking: Mapping[str, Any] = field(default_factory=dict)


def with_members(inputs: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """The systems, and beside each bundle of models its members as `NAME=WHERE`, those that are not named already.

    Raises:
        InputError: There is no bundle of models, or no task.
    """
    if not tasks:
        raise InputError("--members adds models, which need --task", "Give it, or leave --members out.")
    found = list(inputs)
    known = {label_of(text) for text in inputs}
    for text in inputs:
        path = Path(labelled(text)[1]).expanduser()
        if not is_bundle(path) or (bundle := open_bundle(path)).about.ensemble is None:
            continue
        for name, member in bundle.about.members.items():
            where = member.reference or str(bundle.folder(name) / FILES.get(member.format, ""))
            if name not in known:
                known.add(name)
                found.append(f"{name}={where}")
    if not any(is_bundle(Path(labelled(text)[1]).expanduser()) for text in inputs):
        raise InputError("--members is of bundles of models, and there is none", "Leave it out, or name a bundle.")
    return found


def run_compare(inputs: Sequence[str], options: Comparing, *, json: bool, quiet: bool) -> None:
    """Compare, print, write what was asked for; exit code 3 where the gate does not pass."""
    if options.junit is not None and options.gate is None:
        raise InputError("--junit writes what a gate found", "Give --gate FILE too.")
    gate = None if options.gate is None else Gate.read(options.gate)
    prices = None if options.prices is None else _prices(options.prices)
    if options.html is not None:
        _can_draw()
    if gate is not None and options.tasks:
        _check_early(gate, inputs, options)
    records = _records(inputs, options, bar=not json and not quiet)
    if options.ensemble or options.members:
        kinds = {
            name: kind for name, kind in _pairs(options.kinds, "--kind SYSTEM=KIND").items() if name in records.systems
        }
        records = with_ensemble(records, options.members or None, space=options.space, kinds=kinds)  # type: ignore[arg-type]
    if gate is not None:
        gate.check_names(records.systems, records.tasks)
    found = compare(
        records, reference=options.reference, experts=_pairs(options.experts, "--expert TASK=SYSTEM"),
        kinds=_pairs(options.kinds, "--kind SYSTEM=KIND"), prices=prices, seed=options.seed, level=options.level,
        resamples=options.resamples,
    )  # fmt: skip
    verdicts = None
    if gate is not None:
        verdicts = gate.check(records, seed=options.seed, level=options.level, resamples=options.resamples)
    written = _write(found, verdicts, options)
    if json:
        result = {"ok": verdicts is None or verdicts.passed, **found.as_json()}
        result |= {} if verdicts is None else {"gate": verdicts.as_json()}
        print(json_module.dumps(result, indent=2, ensure_ascii=False))  # noqa: T201
    elif not quiet:
        _render(Console(), found, verdicts, written)
    elif verdicts is not None and not verdicts.passed:
        _say_verdicts(Console(stderr=True), verdicts)
    if verdicts is not None and not verdicts.passed:
        raise typer.Exit(3)


def _records(inputs: Sequence[str], options: Comparing, *, bar: bool) -> Records:
    """The records that are given, or those of the models on the tasks."""
    if not options.tasks:
        for place in map(Path, inputs):
            if not place.exists():
                raise InputError(f"there is no '{place}'", "Give folders of records; models need --task.")
            if place.is_dir() and not any(place.rglob("*.parquet")) and not is_log(place):
                raise InputError(f"there are no records in '{place}'", "If it is a model, say on which --task.")
            if place.is_file() and place.suffix != ".parquet" and not is_log(place):
                raise InputError(
                    f"'{place}' holds no records", "They are .parquet; if it is a model, say on which --task."
                )
        return _read([Path(place) for place in inputs])
    return evaluated(inputs, options.tasks, Asking(**options.asking, bar=bar))


def _read(places: Sequence[Path]) -> Records:
    """Folders of records; what a sweep wrote comes with its seeds as one."""
    sweeps = [place for place in places if (place / "sweep.json").is_file()]
    if not sweeps:
        return Records.read(*places)
    from modelwright.suites import pooled

    parts = [part for place in sweeps for part in pooled(place)]
    others = [place for place in places if place not in sweeps]
    return Records([*parts, *(Records.read(*others) if others else [])])


def _check_early(gate: Gate, inputs: Sequence[str], options: Comparing) -> None:
    """Names that the gate has and nobody else, before models are loaded."""
    labels = [label_of(text) for text in inputs]
    known = [label for label in labels if label is not None]
    if options.ensemble or options.members:
        known.append("ensemble")
    if None in labels:  # a function of the user's names its system itself
        known += [*gate.rules.systems, *([gate.rules.reference] if gate.rules.reference else [])]
    gate.check_names(known, [task.name for one in options.tasks for task in tasks(one)])


def _pairs(entries: Sequence[str], form: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries:
        name, sign, value = entry.rpartition("=")
        if not (name and sign and value):
            raise InputError(f"'{entry}' must be {form.split()[1]}", f"Such as {form}.")
        if name in found:
            raise InputError(f"{form.split()[0]} says twice what '{name}' is")
        found[name] = value
    return found


def _prices(path: Path) -> dict[str, Price]:
    """Prices by system from a YAML file: `gpt: {tokens_in: 0.5, tokens_out: 1.5}`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the prices '{path}' cannot be read: {error}", "Give a YAML file.") from None
    documents = load(text, str(path))
    data, lines = documents[0] if documents else (None, None)
    if lines is None or not isinstance(data, Mapping):
        raise InputError("prices are a mapping from systems to prices", "Such as gpt: {tokens_in: 0.5}.", str(path))
    prices: dict[str, Price] = {}
    for system, said in data.items():
        where = lines.where((system,))
        names = list(Price.__dataclass_fields__)
        if not isinstance(said, Mapping) or not said:
            raise InputError(f"the price of '{system}' must say {', '.join(names)}", where=where)
        for name in said:
            if name not in names:
                raise InputError(f"unknown price '{name}'", did_you_mean(str(name), names), where)
        try:
            prices[str(system)] = TypeAdapter(Price).validate_python(dict(said))
        except ValidationError as error:
            first = error.errors()[0]["msg"].removeprefix("Value error, ").rstrip(".")
            raise InputError(f"the price of '{system}': {first[:1].lower()}{first[1:]}", where=where) from None
    return prices


def _can_draw() -> None:
    """Whether a page can be written is said before anything is evaluated."""
    from modelwright.evaluate._predictor import needs

    needs("matplotlib", "--html", "report")


def _write(found: Comparison, verdicts: Verdicts | None, options: Comparing) -> list[Path]:
    from modelwright import report

    texts = [
        (options.latex, found.latex),
        (options.csv, found.csv),
        (options.html, lambda: report.comparison(found)),
        (options.junit, lambda: "" if verdicts is None else verdicts.junit()),
    ]
    written: list[Path] = []
    for path, text in texts:
        if path is not None:
            report.write(path, text())
            written.append(path)
    return written


def _render(console: Console, found: Comparison, verdicts: Verdicts | None, written: Sequence[Path]) -> None:
    table = _table(found)
    if not console.is_terminal:  # a file or a pipe breaks no line
        console.width = max(
            console.width, console.measure(table, options=console.options.update(max_width=1000)).maximum
        )
    console.print(table)
    console.print()
    console.print(Text(printable(found.answer.sentence)), style="bold")
    for note in found.notes:
        console.print(Text(printable(note)), style="dim")
    if verdicts is not None:
        console.print()
        _say_verdicts(console, verdicts)
    for path in written:
        console.print(f"written: {path}", style="dim", highlight=False, markup=False, soft_wrap=True)


def _say_verdicts(console: Console, verdicts: Verdicts) -> None:
    failed = [check for check in verdicts.checks if not check.passed]
    for check in failed:
        text = f"  - {check.name}: {check.text}"
        console.print(Text(printable(text)), style="red", soft_wrap=True)
    count = f"{len(verdicts.checks)} check{'' if len(verdicts.checks) == 1 else 's'}"
    text = f"gate: passed, {count}" if verdicts.passed else f"gate: not passed, {len(failed)} of {count} failed"
    console.print(Text(text), style="green" if verdicts.passed else "red")


#: More tasks than this, and the table shows means only.
_WIDE = 5


def _table(found: Comparison) -> Table:
    """A line for each system: figures, difference to the reference, what it costs."""
    tasks = found.tasks if len(found.tasks) <= _WIDE else ()
    several, means = len(found.tasks) > 1, found.unit is not None
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("system", overflow="fold", min_width=12)
    table.add_column("kind", no_wrap=True)
    heads = [*(_heading(found, task) for task in tasks), *(["mean"] if several and means else [])]
    heads += [*(["norm %"] if found.experts else []), "difference", "interval", "p"]
    flips = any(row.flips for row in found.rows)
    sizes = any(mean.cost.nbytes is not None for mean in found.means)
    heads += [*(["neg. flips"] if flips else []), *(["size"] if sizes else []), "ms an item"]
    heads += ["money/1,000"] if any(mean.cost.money is not None for mean in found.means) else []
    heads += ["money/right"] if any(mean.money_per_right(found.unit) is not None for mean in found.means) else []
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for mean in found.ordered():
        cells = _cells(found, mean, tasks, several and means, flips, sizes)
        style = "bold green" if mean.system == found.answer.system else ""
        table.add_row(Text(printable(mean.system)), mean.kind, *cells, style=style)
    return table


def _heading(found: Comparison, task: str) -> str:
    judged = metric(next(row.metric for row in found.rows if row.task == task))
    return printable(task) + (" %" if judged.bounded else "") + ("" if judged.higher_is_better else " ↓")


def _cells(found: Comparison, mean: Mean, tasks: Sequence[str], with_mean: bool, flips: bool, sizes: bool) -> list[str]:
    own = {row.task: row for row in found.rows if row.system == mean.system}
    cells = [
        shown.figure_text(own[task].figure.value, metric(own[task].metric).bounded) if task in own else ""
        for task in tasks
    ]
    bounded = found.unit is None or found.unit.bounded
    if with_mean:
        cells.append(shown.figure_text(mean.figure.value if mean.figure else math.nan, bounded))
    if found.experts:
        cells.append(shown.figure_text(mean.normalised.value if mean.normalised else math.nan, True))
    difference, within = shown.difference_text(mean.difference, bounded)
    cells += ["reference" if mean.system == found.reference else difference, within, shown.p_text(mean.p_adjusted)]
    if flips:
        counts = [row.flips.count for row in own.values() if row.flips is not None]
        cells.append(f"{sum(counts):,}" if counts else "")
    cells += [*([shown.size_text(mean.cost.nbytes)] if sizes else []), shown.time_text(mean.cost.seconds_per_item)]
    if any(other.cost.money is not None for other in found.means):
        cells.append("" if mean.cost.money_per_item is None else f"{1000 * mean.cost.money_per_item:.4g}")
    if any(other.money_per_right(found.unit) is not None for other in found.means):
        right = mean.money_per_right(found.unit)
        cells.append("" if right is None else f"{right:.4g}")
    return cells
