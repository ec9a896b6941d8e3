"""`mw check` and `mw merge`."""

from __future__ import annotations

import json as json_module
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.api import Job, direct_recipe, registry
from modelwright.bundle import Storage, is_bundle, open_bundle, open_weights
from modelwright.engine import Options, Result
from modelwright.errors import InputError, printable
from modelwright.recipe import Plan, PlannedVocabulary, override

if TYPE_CHECKING:  # imported where something is shown: a quiet merge starts sooner without
    from rich.console import Console
    from rich.progress import Progress, TaskID

_JSON_VERSION = 1


def job_of(
    inputs: Sequence[str],
    method: str | None,
    base: str | None,
    sets: Sequence[str],
    seed: int | None,
    plugins: Sequence[Path],
    allow_retokenization: bool = False,
) -> Job:
    """What the positional arguments and options ask for."""
    known = registry(plugins)
    sets = [*sets, f"seed={seed}"] if seed is not None else list(sets)
    sets += ["allow_retokenization=true"] if allow_retokenization else []
    if method is None:
        if len(inputs) != 1:
            raise InputError(f"{len(inputs)} models need --method, or give one recipe file", "See mw methods.")
        if base is not None:
            raise InputError("--base goes with --method", "In a recipe write base_model, or use --set base_model=PATH.")
        if Path(inputs[0]).is_dir():
            raise InputError(f"'{inputs[0]}' is a folder, not a recipe", "Give a YAML file, or models with --method.")
        return Job.from_recipe(inputs[0], sets, known)
    recipes = [text for text in inputs if text.endswith((".yml", ".yaml"))]
    if recipes:
        raise InputError(
            f"'{recipes[0]}' is a recipe, and a recipe says itself what its method is",
            "Leave --method out, or use --set merge_method=NAME.",
        )
    data, _, notes = direct_recipe(list(inputs), method, base, {}, known)
    for entry in sets:
        override(data, entry, known)
    return Job.from_recipe(data, [], known, notes=notes)


def size_of(text: str) -> int:
    """Bytes of `5GB`, `500MB`, `1GiB` or a plain number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)[bB]?", text.strip())
    if match is None or float(match[1]) <= 0:
        raise InputError(f"--shard-size must be a size such as 5GB or 500MB, got '{text}'")
    step = 1024 if match[3] else 1000
    return max(1, int(float(match[1]) * step ** " KMGT".index(match[2].upper() or " ")))


def show_check(job: Job, *, threads: int, json: bool, quiet: bool) -> None:
    """Print the plan of every stage."""
    plans = job.plans()
    workers = Options(threads=threads).workers
    if json:
        stages = [_plan_json(stage.name, plan, workers) for stage, plan in zip(job.stages, plans, strict=True)]
        print(json_module.dumps({"version": _JSON_VERSION, "ok": True, "stages": stages}, indent=2))  # noqa: T201
    elif not quiet:
        from rich.console import Console

        console = Console()
        for stage, plan in zip(job.stages, plans, strict=True):
            _render(console, stage.name, plan, workers)


def _plan_json(name: str, plan: Plan, threads: int) -> dict[str, Any]:
    merge = Options(threads=threads).merge(plan)
    return {
        "name": name,
        "method": plan.method.name,
        "semantics": plan.recipe.semantics,
        "seed": plan.recipe.seed,
        "models": [model.label for model in plan.models],
        "donor": plan.models[plan.donor].label,
        "tensors": len(plan.tensors),
        "accounting": plan.accounting(),
        "created": list(plan.created),
        "bytes_read": plan.bytes_in * merge.passes,
        "passes": merge.passes,
        "bytes_written": plan.bytes_out,
        "free_bytes": shutil.disk_usage(".").free,
        "peak_bytes": merge.peak_bytes(threads),
        "differences": plan.facts,
        "notes": list(plan.notes),
        **({"vocabulary": plan.vocabulary.as_json()} if plan.vocabulary else {}),
    }


def _render(console: Console, name: str, plan: Plan, threads: int) -> None:
    from rich.table import Table
    from rich.text import Text

    merge = Options(threads=threads).merge(plan)
    count = len(plan.models)
    heading = f"{plan.method.title} of {count} checkpoint{'s' * (count != 1)}" + (f"  (step {name})" if name else "")
    seed = f", seed {plan.recipe.seed}" if plan.method.random else ""
    console.print(f"\n[bold]{heading}[/bold], {plan.recipe.semantics} semantics{seed}", highlight=False)
    fates = sorted({fate for counts in plan.accounting().values() for fate in counts})
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("checkpoint")
    table.add_column("role")
    for fate in fates:
        table.add_column(fate, justify="right")
    table.add_column("size", justify="right")
    for index, model in enumerate(plan.models):
        counts = plan.accounting().get(model.label, {})
        roles = [word for word, is_it in (("base", index == plan.base), ("donor", index == plan.donor)) if is_it]
        table.add_row(
            Text(printable(model.label)),
            ", ".join(roles),
            *(str(counts.get(fate, "")) for fate in fates),
            size_text(model.nbytes),
        )
    console.print(table)
    again = f" in {merge.passes} passes" if merge.passes > 1 else ""
    free = shutil.disk_usage(".").free
    formats = sorted({t.dtype.name for t in plan.tensors if t.dtype.floating})
    console.print(
        f"output  {len(plan.tensors)} tensors, {sum(t.size for t in plan.tensors):,} elements, {', '.join(formats)}\n"
        f"reads   {size_text(plan.bytes_in * merge.passes)}{again}\n"
        f"writes  {size_text(plan.bytes_out)} (free here: {size_text(free)})\n"
        f"memory  about {size_text(merge.peak_bytes(threads) + 100_000_000)} with {threads} threads",
        highlight=False,
    )
    if plan.vocabulary is not None:
        _render_vocabulary(console, plan.vocabulary)
    if plan.method.parts is not None:
        console.print("and a part for each task: mw merge makes a bundle of them", highlight=False)
    for what, values in plan.facts.items():
        console.print(f"[yellow]{what} differs[/yellow]")
        for label, value in values.items():
            console.print(printable(f"  {label}: {value}"), highlight=False, markup=False)
    for note in plan.notes:
        _print_note(console, note)


_ROWS = ("own", "base", "others", "average", "mean", "zero", "padding")


def _render_vocabulary(console: Console, vocabulary: PlannedVocabulary) -> None:
    """Where the rows of embeddings and heads come from, and what becomes of texts."""
    from rich.table import Table
    from rich.text import Text

    console.print(
        f"[bold]vocabulary[/bold]  {vocabulary.tokens:,} tokens, {vocabulary.rows:,} rows, tokenizer: "
        f"{printable(vocabulary.source)}",
        highlight=False,
    )
    shown = [key for key in _ROWS if any(counts.get(key) for counts in vocabulary.models.values())]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("rows of", "tokens", "rows", *(f"← {key}" for key in shown), "texts", "changed", "lost"):
        table.add_column(heading, justify="left" if heading == "rows of" else "right")
    for label, counts in vocabulary.models.items():
        cells = [f"{counts[key]:,}" for key in ("tokens", "rows", *shown)]
        texts = [str(vocabulary.encoded[label][key]) for key in ("texts", "changed", "lost")]
        table.add_row(Text(printable(label)), *cells, *texts)
    console.print(table)
    for text, before, after in vocabulary.changed:
        _print_note(console, f"{text[:60]!r}: {before} tokens, then {after}")
    for finding in vocabulary.findings:
        _print_note(console, finding)


def _print_note(console: Console, note: str) -> None:
    text = printable(f"note: {note}")
    console.print(text, style="dim", highlight=False, markup=False, soft_wrap=not console.is_terminal)


def run_merge(
    job: Job, out: str, options: Mapping[str, Any], *, json: bool, quiet: bool, done: str = "merged into"
) -> None:
    """Merge with a progress bar on stderr and a line about the result, which begins with `done`."""
    started = time.time()
    with Bar(enabled=not quiet and not json) as bar:
        try:
            result: Result = job.save(out, **options, progress=bar.update)
        except KeyboardInterrupt as error:
            if str(error):  # what is kept; typer would lose the text
                raise InterruptedError(str(error)) from None
            raise
    if json:
        print(json_module.dumps(_result_json(result) | storage_json(result.out), indent=2))  # noqa: T201
    elif not quiet:
        from rich.console import Console

        console = Console()
        for note in result.notes:
            _print_note(console, note)
        say_storage(console, result.out)
        seconds = time.time() - started
        console.print(
            f"{done} {result.out}: {size_text(result.bytes_out)} in {seconds:.1f} s "
            f"({size_text((result.bytes_in + result.bytes_out) / max(seconds, 1e-3))}/s read and written)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _storage(out: str | Path) -> Storage | None:
    """What a bundle takes to keep; None of a model."""
    if not isinstance(out, Path) or not is_bundle(out):
        return None
    found = open_bundle(out)
    return None if found.about.weights is None else open_weights(found).storage


def say_storage(console: Console, out: str | Path) -> None:
    """A line on what a bundle of weights takes, against the models that it stands for."""
    found = _storage(out)
    if found is None:
        return
    parts = sum(found.parts.values())
    base = "" if not found.base else f", the base {size_text(found.base)}" + ("" if found.copied else " elsewhere")
    console.print(
        f"shared {size_text(found.shared)}{base}, parts of {len(found.parts)} tasks {size_text(parts)}: {size_text(found.total)} in all, "
        f"{100 * found.total / max(found.experts, 1):.0f} % of the {size_text(found.experts)} of {len(found.parts)} models",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def storage_json(out: str | Path) -> dict[str, Any]:
    """The same as data."""
    found = _storage(out)
    return {} if found is None else {"storage": {**asdict(found), "total": found.total}}


def _result_json(result: Result) -> dict[str, Any]:
    return {
        "version": _JSON_VERSION,
        "ok": True,
        "out": str(result.out),
        "seconds": round(result.seconds, 3),
        "bytes_read": result.bytes_in,
        "bytes_written": result.bytes_out,
        "notes": list(result.notes),
    }


def size_text(count: float) -> str:
    """`1.5 GB`: bytes for people, in powers of ten as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


class Bar:
    """A progress bar with bytes per second and the time left; one line for each pass."""

    def __init__(self, *, enabled: bool):
        self._progress = _progress() if enabled else None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are through."""
        if self._progress is None:
            return
        if not self._tasks:
            self._progress.start()  # not before: errors of the pre-flight check come first
        if what not in self._tasks or self._progress.tasks[self._tasks[what]].finished:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done)


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    # A file or a pipe gets no bar: rich would leave an empty line there.
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
