"""`mw eval`."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from modelwright.cli._merge import size_text
from modelwright.errors import InputError, RunError, listing, printable
from modelwright.evaluate import (
    Part,
    Plan,
    Records,
    Score,
    ServerPredictor,
    metric,
    run,
    run_score,
    systems,
    tasks as tasks_of,
)
from modelwright.evaluate._front import check_splits
from modelwright.evaluate._records import SUFFIX
from modelwright.evaluate._score import without_intervals
from modelwright.evaluate._store import STREAM
from modelwright.evaluate._systems import labelled

_JSON_VERSION = 1


@dataclass(frozen=True)
class Asking:
    """The options of commands that ask systems about tasks.

    Attributes:
        out: A folder of records; None keeps them in memory.
        split: Which items.
        limit: How many of them; None is all.
        batch: Items at a time.
        device: Where modules run.
        network: `module:function` that builds the modules of bare checkpoints.
        metric: Instead of the tasks' own.
        restart: Ask again what was answered.
        plugins: Files with further merging methods.
        bar: Whether to show progress on stderr, where that is a terminal.
        backend: Address of a server that is asked too.
        model: How the server calls the model.
        api: `chat` or `completions`.
        score: A command that judges the models instead.
        lower_is_better: Of its figures whose names do not say so.
        budget: Most money that each panel spends; None is what it says itself.
        allow_code: Whether panels may run code that models write.
        allow_network: Whether they may where its network cannot be cut off.
    """

    out: Path | None = None
    split: str = "test"
    limit: int | None = None
    batch: int = 64
    device: str = "cpu"
    network: str | None = None
    metric: str | None = None
    restart: bool = False
    plugins: Sequence[Path] = field(default_factory=tuple)
    bar: bool = True
    backend: str | None = None
    model: str = ""
    api: str = "chat"
    score: str | None = None
    lower_is_better: bool = False
    budget: float | None = None
    allow_code: bool = False
    allow_network: bool = False


def evaluated(references: Sequence[str], tasks: Sequence[str], options: Asking) -> Records:
    """The records of systems on tasks.

    Raises:
        InputError: Something that is named cannot be found, loaded or asked.
        RunError: A system gave answers that are none.
        InterruptedError: Ctrl-C; its text says what is kept.
    """
    if options.score is not None:
        return _judged(references, tasks, options)
    if not tasks:
        raise InputError("evaluation needs a task", "Give --task FILE, a task file or data.")
    _check_budget(references, options.budget)
    far = _server(references, options)
    found = [task for one in tasks for task in tasks_of(one)]
    if options.metric is not None:
        found = [replace(one, metric=metric(options.metric)) for one in found]
    check_splits(found, options.split)
    plan = Plan(
        split=options.split, limit=options.limit, batch=options.batch, device=options.device, restart=options.restart
    )
    with AskingBar(enabled=options.bar) as bar, ExitStack() as panels:
        try:
            bar.say("loading")
            for one in far:
                one.check()
            given = _with_panels(references, options, panels)
            for one in given:
                if not isinstance(one, str):
                    bar.watch(one.label, one.work.spent)
            near = given and systems(given, device=options.device, network=options.network, plugins=options.plugins)
            asked = [*near, *far]
            notes: list[str] = []
            records = run(asked, found, options.out, replace(plan, progress=bar.update, note=notes.append))
            if options.bar:
                _say([*notes, *(text for one in asked for text in one.remarks())])
            return records
        except KeyboardInterrupt:
            raise InterruptedError(_kept(options.out) or "Nothing was kept.") from None
        except RunError as error:
            raise RunError(f"{error}. {_kept(options.out)}".rstrip(), resumable=error.resumable) from error


def _with_panels(references: Sequence[str], options: Asking, panels: ExitStack) -> list[Any]:
    """The references, with panels of chat models as the systems that they are.

    Raises:
        InputError: A panel cannot be.
    """
    from modelwright.chat import is_panel, panel, panel_predictor
    from modelwright.cli._programs import sandbox

    code = sandbox(allow_code=options.allow_code, allow_network=options.allow_network)
    given: list[Any] = []
    for reference in references:
        label, path = labelled(reference)
        if is_panel(path):
            one = panel_predictor(panel(path, code=code), label, budget=options.budget)
            panels.callback(one.work.close)
            given.append(one)
        else:
            given.append(reference)
    return given


def _check_budget(references: Sequence[str], budget: float | None) -> None:
    from modelwright.chat import is_panel

    if budget is not None and not any(is_panel(labelled(reference)[1]) for reference in references):
        raise InputError("--budget is for panels of chat models, and there is none", "Leave it out.")


def _server(references: Sequence[str], options: Asking) -> list[ServerPredictor]:
    """The model behind a server, if one is named."""
    if options.backend is None:
        if options.model or options.api != "chat":
            raise InputError("--model and --api are for a server", "Say which: --backend URL.")
        if not references:
            raise InputError("evaluation needs a model", "Give folders, recipes or functions, or --backend URL.")
        return []
    return [ServerPredictor(options.model, url=options.backend, model=options.model, api=options.api)]  # type: ignore[reportArgumentType]


def _judged(references: Sequence[str], tasks: Sequence[str], options: Asking) -> Records:
    """The records of a command's judgement."""
    said = {
        "--task": tasks, "--backend": options.backend, "--metric": options.metric, "--limit": options.limit,
        "--network": options.network, "--budget": options.budget,
    }  # fmt: skip
    wrong = [name for name, value in said.items() if value]
    if wrong:
        raise InputError(
            f"{wrong[0]} says nothing to a command that judges by itself", f"Leave out {wrong[0]} or --score."
        )
    models: dict[str, str] = {}
    for one in references:
        label, model = labelled(one)
        label = label or Path(model).name or model
        if label in models:
            raise InputError(f"two models are called '{label}'", "Give each a label of its own: LABEL=MODEL.")
        models[label] = model
    try:
        records = run_score(
            Score(options.score or "", lower_is_better=options.lower_is_better),
            models,
            options.out,
            restart=options.restart,
        )
    except KeyboardInterrupt:
        raise InterruptedError("Models that were judged are not judged again.") from None
    if options.bar and (single := without_intervals(records)):
        _say([f"{listing(single, 5)}: single figures, so neither intervals nor paired tests can be had"])
    return records


def _say(texts: Sequence[str]) -> None:
    """Remarks on stderr."""
    console = Console(stderr=True)
    for text in texts:
        console.print(printable(text), style="dim", highlight=False, markup=False, soft_wrap=True)


def _kept(out: Path | None) -> str:
    """How to go on, where there is anything to go on with."""
    if out is None or not any(path.suffix in (SUFFIX, STREAM) for path in out.rglob("*")):
        return ""
    return f"What was answered is kept in '{out}': run the same command again, and it goes on from there."


def run_eval(references: Sequence[str], tasks: Sequence[str], options: Asking, *, json: bool, quiet: bool) -> None:
    """Evaluate, with a progress bar on stderr and a table of figures."""
    records = evaluated(references, tasks, replace(options, bar=not (json or quiet)))
    if json:
        document = {
            "version": _JSON_VERSION,
            "ok": True,
            "out": str(options.out),
            "results": [_json(p) for p in records],
        }
        print(json_module.dumps(document, indent=2, ensure_ascii=False))  # noqa: T201
    elif not quiet:
        _render(Console(), records, options)


def _json(part: Part) -> dict[str, Any]:
    head = part.head
    return {
        "task": head.task,
        "system": head.system,
        "split": head.split,
        "metric": head.metric,
        "figure": part.figure,
        "items": part.table.num_rows,
        "limit": head.limit,
        "seconds": _seconds(part),
        "parameters": head.parameters,
        "bytes": head.nbytes,
    }


def _seconds(part: Part) -> float:
    return round(float(part.column("seconds").sum()), 6)


#: More tasks than this, such as of a group, and they are the rows.
_WIDE = 6


def _render(console: Console, records: Records, options: Asking) -> None:
    console.print(_by_system(records) if len(records.tasks) <= _WIDE else _by_task(records))
    numbers = {name: records.on(name)[0].table.num_rows for name in records.tasks}
    counts = ", ".join(f"{number:,} of {name}" for name, number in numbers.items())
    if len(numbers) > _WIDE:
        counts = f"{sum(numbers.values()):,} of {len(numbers)} tasks"
    sample = f", a sample by --limit {options.limit}" if any(part.head.limit for part in records) else ""
    text = f"{options.split} items: {counts}{sample}\nrecords in {options.out}"
    console.print(printable_lines(text), style="dim", highlight=False, markup=False, soft_wrap=True)


def _heading(part: Part) -> str:
    arrow = "" if part.metric.higher_is_better else " (lower is better)"
    return f"{part.metric.name}{' %' if part.metric.bounded else ''}{arrow}"


def _by_system(records: Records) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("system")
    for name in records.tasks:
        table.add_column(escape(f"{printable(name)}\n{_heading(records.on(name)[0])}"), justify="right")
    for heading in ("size", "ms an item"):
        table.add_column(f"\n{heading}", justify="right")
    for label in records.systems:
        parts = [records.part(name, label) for name in records.tasks]
        size = "" if parts[0].head.nbytes is None else size_text(parts[0].head.nbytes)
        speed = 1000 * sum(map(_seconds, parts)) / sum(part.table.num_rows for part in parts)
        table.add_row(Text(printable(label)), *map(figure_text, parts), size, f"{speed:.3g}")
    return table


def _by_task(records: Records) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("task", "metric"):
        table.add_column(heading)
    for heading in ("items", *records.systems):
        table.add_column(escape(printable(heading)), justify="right")
    for name in records.tasks:
        parts = [records.part(name, label) for label in records.systems]
        figures = map(figure_text, parts)
        table.add_row(Text(printable(name)), escape(_heading(parts[0])), f"{parts[0].table.num_rows:,}", *figures)
    return table


def printable_lines(text: str) -> str:
    """Each line `printable`."""
    return "\n".join(printable(line) for line in text.split("\n"))


def figure_text(part: Part) -> str:
    """A figure for people: shares in per cent."""
    return f"{100 * part.figure:.2f}" if part.metric.bounded else f"{part.figure:.4g}"


class AskingBar:
    """A progress bar on stderr, one line for each system and task."""

    def __init__(self, *, enabled: bool):
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        shown = enabled and console.is_terminal  # a file or a pipe gets no bar: rich would leave an empty line there
        self._progress = Progress(*columns, console=console, transient=True) if shown else None
        self._lines: dict[tuple[str, str], TaskID] = {}
        self._loading: TaskID | None = None
        self._spent: dict[str, Callable[[], str]] = {}

    def __enter__(self) -> AskingBar:
        (self._progress or nullcontext()).__enter__()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def say(self, what: str) -> None:
        """Something takes a while before the first item."""
        if self._progress is not None:
            self._loading = self._progress.add_task(what, total=None)

    def watch(self, system: str, spent: Callable[[], str]) -> None:
        """A system's line is to say what it has spent."""
        self._spent[system] = spent

    def update(self, system: str, about: str, done: int, total: int) -> None:
        """So many items of a task are answered by a system."""
        if self._progress is None:
            return
        if self._loading is not None:
            self._progress.remove_task(self._loading)
            self._loading = None
        if (system, about) not in self._lines:
            text = escape(printable(f"{system} on {about}"))
            self._lines[system, about] = self._progress.add_task(text, total=total)
        spent = f", {self._spent[system]()}" if system in self._spent else ""
        text = escape(printable(f"{system} on {about}{spent}"))
        self._progress.update(self._lines[system, about], completed=done, description=text)
