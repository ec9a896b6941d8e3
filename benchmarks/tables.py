"""The tables of what was measured, as markdown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.targets import Cell, find, first_extra, median, peak, times_faster, times_floor

#: Of the form of results.json.
VERSION = 1
PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
MOST_DOUBTS = 12
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"


def show(results: Path, *, write: bool = False) -> int:
    """Print the tables of a file of results, or put them into the page.

    Returns:
        0, or 1 where there is nothing to show.
    """
    document = load(results)
    if document is None:
        print("nothing was measured yet in the present form: make bench", file=sys.stderr)
        return 1
    text = render(document)
    if write:
        PAGE.write_text(placed(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    else:
        print(text)
    return 0


def load(results: Path) -> dict[str, Any] | None:
    """Results of the form that this file reads."""
    try:
        document = json.loads(results.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if document.get("version") == VERSION and document.get("cells") else None


def placed(page: str, text: str) -> str:
    """The page with this text between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def render(document: dict[str, Any]) -> str:
    """All sections that there are figures for."""
    cells = document["cells"]
    size = main_size(cells)
    sections = [
        conditions(document, size),
        section(f"Time at {size}, base and three experts", times(cells, size)),
        section("Processor time and memory", memory(cells, size)),
        section("Starting up", starting(cells, size)),
        section("Growth with parameters", by_size(cells)),
        section("Growth with experts, at 0.1B", by_experts(cells)),
        section("Threads", by_threads(cells)),
        section("Singular vectors", by_matrices(cells, document["sizes"])),
        section("Doubts", doubts(document["warnings"])),
    ]
    return "\n\n".join(part for part in sections if part)


#: Merged by whole matrices; `benchmarks.merge.Recipe.singular`.
MATRICES = ("iso_c", "tsv", "iso_cts", "wudi", "wudi_foreseen")


def by_matrices(cells: list[Cell], sizes: dict[str, dict[str, int]]) -> str:
    """What methods on whole matrices take, of three experts, and for each 100 million parameters of a model."""
    rows = []
    for cell in (cell for cell in cells if cell["method"] in MATRICES):
        seconds, found = median(cell), entry(cell)
        if seconds is not None:
            share = sizes[cell["size"]]["parameters"] / 1e8
            times = [seconds, seconds / share, found["cpu_seconds"] / share]
            rows.append(
                [named(cell["method"]), cell["size"], *(number(value, 1) for value in times), number(peak(cell), 0)]
            )
    return table(["method", "parameters", "s", "s per 100 M", "CPU s per 100 M", "peak MB"], rows)


def main_size(cells: list[Cell]) -> str:
    """The size that the first tables are about."""
    sizes = {cell["size"] for cell in cells}
    return targets.SIZE if targets.SIZE in sizes else cells[0]["size"]


def section(title: str, body: str) -> str:
    """A heading with what stands below it, if anything does."""
    return f"### {title}\n\n{body}" if body else ""


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def doubts(warnings: Sequence[str]) -> str:
    """The first of them."""
    more = [f"{len(warnings) - MOST_DOUBTS} more, in results.json"] if len(warnings) > MOST_DOUBTS else []
    return bullets([*warnings[:MOST_DOUBTS], *more])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; empty without rows."""
    body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *body]) if body else ""


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash for what was not measured; small ones keep a digit that says something."""
    if value is None:
        return "-"
    digits = 3 if 0 < value < 0.1 and digits > 1 else digits
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero


def counted(parameters: int) -> str:
    """A number of parameters in words."""
    return f"{parameters / 1e9:.3g} billion" if parameters >= 1e7 else f"{parameters / 1e6:.2g} million"


def against(value: float | None, bound: float | None, *, least: bool = False, digits: int = 1) -> str:
    """A figure with its target, and whether it is met."""
    if value is None or bound is None:
        return number(value, digits)
    met = value >= bound if least else value <= bound
    return f"{number(value, digits)} ({'≥' if least else '≤'} {bound:g} {'✓' if met else '✗'})"


def entry(cell: Cell | None, contender: str = "modelwright") -> dict[str, Any]:
    """What a contender took; empty where it did not run."""
    return (cell or {}).get("contenders", {}).get(contender, {})


def spread(found: dict[str, Any]) -> str:
    """Median and range of its seconds."""
    if "error" in found:
        return "failed"
    if "seconds" not in found:
        return "-"
    seconds = found["seconds"]
    if len(found["runs"]) == 1:
        return number(seconds["median"])
    return f"{number(seconds['median'])} ({number(seconds['min'])}-{number(seconds['max'])})"


def named(method: str) -> str:
    """How tables call it."""
    return {"ties_model": "ties, scope: model", "wudi_foreseen": "wudi, gradient_error: 0.003"}.get(method, method)


def methods_of(cells: Iterable[Cell]) -> list[str]:
    """In the order they were measured."""
    return list(dict.fromkeys(cell["method"] for cell in cells))


def conditions(document: dict[str, Any], size: str) -> str:
    """On what, with what and when."""
    machine, peer, seen = document["machine"], document["peer"], document["conditions"]
    with_peer = (
        f"; mergekit {peer['mergekit']} (torch {peer['torch']}) in the same run" if peer else "; without the peer"
    )
    installed = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    of_peer = f", {document['peer_runs']} of the peer" if peer else ""
    runs = f"Medians of {document['runs']} runs{of_peer}, {document['growth_runs']} outside the first two tables"
    load, probe = seen["load_before"][0], seen["probe"]
    lines = [
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gb']} GB, {machine['system']}; Python {machine['python']}, {installed}{with_peer}.",
        f"{runs}, after a warm-up each; {seen['started'][:10]}, {seen['minutes']:.0f} minutes, commit {machine['commit'] or 'unknown'}.",
        f"{size} has {counted(document['sizes'][size]['parameters'])} parameters in bfloat16, in {document['sizes'][size]['shards']} shard(s).",
        f"Load average before: {load:.2f}. The fixed piece of work took {probe['median'] * 1e3:.0f} ms, {probe['min'] * 1e3:.0f} to {probe['max'] * 1e3:.0f}.",
    ]  # fmt: skip
    judged = document["targets"]
    if judged:
        met = sum(row["met"] for row in judged)
        lines.append(f"Targets met: {met} of {len(judged)}.")
        missed = [f"{named(row['method'])}: {row['what']}" for row in judged if not row["met"]]
        if missed:
            lines.append("Missed: " + "; ".join(missed) + ".")
    return "\n".join(lines)


def times(cells: list[Cell], size: str) -> str:
    """Ours, the peer's and the floor's, in seconds, and the two ratios."""
    bound = size == targets.SIZE
    rows = []
    for method in methods_of(cells):
        cell = find(cells, method, size)
        if cell is None:
            continue
        faster = targets.PEER.get(method) if bound else None
        floors = targets.FLOOR.get(method) if bound else None
        rows.append(
            [named(method), spread(entry(cell)), spread(entry(cell, "mergekit")),
             against(times_faster(cell), faster, least=True), spread(entry(cell, "floor")),
             against(times_floor(cell), floors, digits=2)]
        )  # fmt: skip
    head = ["method", "modelwright s", "mergekit s", "times faster", "floor s", f"(s - {targets.STARTUP}) / floor"]
    return table(head, rows)


def memory(cells: list[Cell], size: str) -> str:
    """CPU seconds, and peak memory of ours, of the peer, of a larger model and of more experts."""
    rows = []
    for method in methods_of(cells):
        cell = find(cells, method, size)
        if cell is None:
            continue
        here = peak(cell)
        same = here * targets.GROWTH if here and size == targets.SIZE else None
        larger = None if size == "1.1B" else peak(find(cells, method, "1.1B"))
        more = peak(find(cells, method, size, 8))
        rows.append(
            [named(method), number(entry(cell).get("cpu_seconds")),
             number(entry(cell, "mergekit").get("cpu_seconds")),
             against(here, targets.PEAK_MB if size == targets.SIZE else None, digits=0), number(peak(cell, "mergekit"), 0),
             against(larger, same and round(same), digits=0), against(more, same and round(same), digits=0)]
        )  # fmt: skip
    head = ["method", "CPU s", "mergekit CPU s", "peak MB", "mergekit peak MB", "peak MB at 1.1B", "peak MB, 8 experts"]
    return table(head, rows)


def starting(cells: list[Cell], size: str) -> str:
    """A merge with next to no bytes, and the first one ever."""
    rows = []
    for method in methods_of(cells):
        tiny, extra = find(cells, method, "tiny"), first_extra(find(cells, method, size))
        if median(tiny) is None and extra is None:
            continue
        first = targets.FIRST_SECONDS if size == targets.SIZE else None
        rows.append(
            [named(method), against(median(tiny), targets.TINY_SECONDS, digits=2), against(extra, first)]
        )  # fmt: skip
    return table(["method", "tiny merge, s", "more with an empty kernel cache, s"], rows)


def grown(methods: Iterable[str], by: str, steps: dict[str, Callable[[str], Cell | None]]) -> str:
    """Seconds, peak memory and floor of each method that was measured at more than one step."""
    rows = []
    for method in methods:
        found = {step: of(method) for step, of in steps.items()}
        if sum(median(cell) is not None for cell in found.values()) < 2:
            continue
        rows.append([f"{named(method)}: s", *(number(median(cell)) for cell in found.values())])
        rows.append(["peak MB", *(number(peak(cell), 0) for cell in found.values())])
        rows.append(["floor s", *(number(median(cell, "floor")) for cell in found.values())])
    return table([by, *steps], rows)


def by_size(cells: list[Cell]) -> str:
    """Of the methods that have every size: the others were not measured at 0.1B."""
    methods = methods_of(cell for cell in cells if cell["size"] == "0.1B")
    sizes = ("tiny", "0.1B", "0.42B", "1.1B")
    return grown(methods, "parameters", {s: lambda m, s=s: find(cells, m, s) for s in sizes})


def by_experts(cells: list[Cell]) -> str:
    """At 0.1B."""
    steps = {str(n): lambda m, n=n: find(cells, m, "0.1B", n) for n in (2, 3, 5, 8)}
    return grown(methods_of(cells), "experts", steps)


def by_threads(cells: list[Cell]) -> str:
    """At the size where they were measured; the floor has as many."""
    size = next((cell["size"] for cell in cells if cell["threads"]), "")
    steps = {str(n): lambda m, n=n: find(cells, m, size, 3, n) for n in (1, 2)}
    return grown(methods_of(cells), f"threads, at {size}", steps)
