"""What the terminal shows: a line of progress, then one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from modelwright.demo._merge import command
from modelwright.demo._result import DemoResult, Row

if TYPE_CHECKING:
    from rich.table import Table

Say = Callable[[str], None]

#: Names of rows that are not folders of models one would look for, and the groups between which a line is drawn.
TITLES = {"joint": "trained on all"}
GROUPS = {"base": "trained", "expert": "trained", "ensemble": "reference", "joint": "reference", "merge": "merged"}
#: For lines with paths: no markup in square brackets, no line breaks within.
_VERBATIM: Any = {"markup": False, "soft_wrap": True, "highlight": False}


@contextmanager
def progress(quiet: bool) -> Iterator[Say]:
    """Yields a function that says what is going on, on standard error."""
    if quiet:
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("mw demo") as status:
        yield status.update


def show(result: DemoResult) -> None:
    """Print the table, and what to read next."""
    from rich.console import Console

    best = result.best
    recipe = result.folder / "recipes" / f"{best.name}.yml"
    console = Console()
    console.print(_table(result))
    console.print(
        f"[dim]Accuracy in % on {len(result.tasks.test)} test images, mean ± {100 * best.margin:.1f}. norm: mean share of "
        "what each task's own expert reaches. s: to train, or to merge and save. MB: Python's peak while merging. "
        f"* best on the validation images. Seed {result.seed}; {result.seconds:.0f} s in all, "
        f"{result.peak_rss / 1e6:.0f} MB resident at most.[/dim]"
    )
    console.print(f"\nRead {result.report}, then {recipe.parent}/*.yml, and merge by one yourself:", **_VERBATIM)
    console.print(f"  {command(recipe, f'my-{best.name}')}", style="bold", **_VERBATIM)


def _table(result: DemoResult) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for heading in (*result.tasks.transforms, "mean", "norm", "s", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for before, row in zip((None, *result.rows), result.rows, strict=False):
        if before and GROUPS[before.kind] != GROUPS[row.kind]:
            table.add_section()
        table.add_row(*_cells(result, row), style="bold green" if row is result.best else "")
    return table


def _cells(result: DemoResult, row: Row) -> list[str]:
    name = TITLES.get(row.name, row.name) + (" *" if row is result.best else "")
    numbers = [f"{100 * value:.1f}" for value in (*row.accuracy.values(), row.mean, row.normalised)]
    seconds = "" if row.seconds is None else f"{row.seconds:.2f}"
    return [name, *numbers, seconds, "" if row.peak is None else f"{row.peak / 1e6:.1f}"]
