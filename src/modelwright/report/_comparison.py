"""The page of a comparison: one sentence, one table, one plot, and then the details."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from modelwright.evaluate import Comparison, Interval, Mean, Row as Compared, SystemKind, metric
from modelwright.report._html import Html
from modelwright.report._numbers import interval, minus, percent, quantity, signed
from modelwright.report._page import answer, bullets, note, page, section
from modelwright.report._plots import Estimate, Line, Point, forest, lines, tradeoff
from modelwright.report._table import Cell, Group, Row, table

#: Headings of the kinds.
GROUPS: dict[SystemKind, str] = {
    "base": "Base",
    "single": "Single models",
    "merge": "Merges",
    "ensemble": "Ensembles",
    "other": "Others",
}


#: Curves of so many tasks and systems are shown.
_MOST_TASKS, _MOST_SYSTEMS = 3, 8


def comparison(found: Comparison, title: str = "Best single, merge, or ensemble?") -> str:
    """A page about a comparison.

    Args:
        found: From `mw.compare`.
        title: Its heading.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    about = f"{len(found.systems)} systems on {_count(len(found.tasks), 'task')}, item by item."
    sections = [
        section("What came out", answer(found.answer.sentence), _figures(found), note(_legend(found)), *_forest(found)),
        *_costs(found),
        *_confidence(found),
        *_details(found),
        section("How far these numbers carry", bullets(found.notes)),
    ]
    footer = (
        f"modelwright {version('modelwright')}; intervals of {100 * found.level:g} % ({found.interval}) from "
        f"{found.resamples:,} resamples of the items; seed {found.seed}; calibration error: {found.convention}."
    )
    return page(title, *sections, lead=about, footer=footer)


def figure_text(value: float, bounded: bool) -> str:
    """A figure as tables show it: shares in per cent."""
    return "" if math.isnan(value) else percent(value) if bounded else minus(f"{value:.4g}")


def difference_text(found: Interval | None, bounded: bool) -> tuple[str, str]:
    """A difference with its sign, and its interval; shares in points."""
    if found is None:
        return "", ""
    scale, digits = (100, 1) if bounded else (1, 3)
    return signed(scale * found.value, digits), interval(scale * found.low, scale * found.high, digits)


def p_text(p: float) -> str:
    """A p value with as many digits as mean something."""
    return "" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def size_text(nbytes: int | None) -> str:
    """Bytes of weights."""
    return "" if nbytes is None else quantity(nbytes, "B")


def time_text(seconds: float | None) -> str:
    """Seconds an item, in milliseconds."""
    return "" if seconds is None else f"{1000 * seconds:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _grouped(found: Comparison, rows: Iterable[tuple[Mean, Row]]) -> list[Row | Group]:
    lines: list[Row | Group] = []
    group = ""
    for mean, row in rows:
        if GROUPS[mean.kind] != group and len(set(found.kinds.values())) > 1:
            group = GROUPS[mean.kind]
            lines.append(Group(group))
        lines.append(row)
    return lines


def _figures(found: Comparison) -> Html:
    """What all tasks come to, then the tasks: on a phone the first columns are seen."""
    several, shares = len(found.tasks) > 1, bool(found.experts)
    means = several and found.unit is not None
    bounded = found.unit is None or found.unit.bounded
    tasks = [_heading(found, task) for task in found.tasks]
    columns = ["system", *([] if several else tasks), *(["mean"] if means else []), *(["norm, %"] if shares else [])]
    columns += ["difference", "interval", "p", *(tasks if several else [])]

    def line(mean: Mean) -> Row:
        own = _figures_of(found, mean.system)
        cells: list[str | Cell] = [] if several else list(own)
        if means:
            cells.append(Cell(figure_text(mean.figure.value, bounded) if mean.figure else "", strong=True))
        if shares:
            cells.append(percent(mean.normalised.value) if mean.normalised else "")
        difference, within = difference_text(mean.difference, bounded)
        cells += ["reference" if mean.system == found.reference else difference, within, p_text(mean.p_adjusted)]
        best = mean.system == found.answer.system
        mark = f"best {mean.kind}" if best and mean.kind != "other" else "best"
        return Row(mean.system, [*cells, *(own if several else [])], best=best, mark=mark if best else "")

    return table(
        columns, _grouped(found, ((mean, line(mean)) for mean in found.ordered())), label="Figures of all systems"
    )


def _figures_of(found: Comparison, system: str) -> list[str | Cell]:
    """A system's figures on the tasks, the darker the better within a task; a task's expert is framed."""
    cells: list[str | Cell] = []
    for task in found.tasks:
        rows = [row for row in found.rows if row.task == task]
        own = next((row for row in rows if row.system == system), None)
        if own is None:
            cells.append("")
            continue
        judged, values = metric(own.metric), [row.figure.value for row in rows]
        low, high = min(values), max(values)
        share = 0.0 if high == low else (own.figure.value - low) / (high - low)
        tint = share if judged.higher_is_better else 1 - share
        text = figure_text(own.figure.value, judged.bounded)
        cells.append(Cell(text, tint=tint, framed=system == found.experts.get(task)))
    return cells


def _heading(found: Comparison, task: str) -> str:
    judged = metric(next(row.metric for row in found.rows if row.task == task))
    unit = "%" if judged.bounded else judged.name
    return f"{task}, {unit}{'' if judged.higher_is_better else ' (less is better)'}"


def _legend(found: Comparison) -> str:
    mean = ", of means over the tasks" if len(found.tasks) > 1 and found.unit is not None else ""
    text = f"Difference to {found.reference}{mean}, its {100 * found.level:g} % interval, and p of the paired "
    text += "test, adjusted by Holm's method. The darker a figure, the better it is on its task."
    if found.experts:
        text += " Framed: the expert of a task. norm: share of what each task's expert reaches, mean over the tasks."
    return text


def _forest(found: Comparison) -> list[Html]:
    bounded = found.unit is None or found.unit.bounded
    scale = 100 if bounded else 1
    estimates = [
        Estimate(mean.system, scale * q.value, scale * q.low, scale * q.high, GROUPS[mean.kind])
        for mean in found.ordered()
        if (q := mean.quality()) is not None and not math.isnan(q.low)
    ]
    if not estimates:
        return []
    unit = "share of the experts' figures, %" if found.unit is None else f"{found.unit.name}{', %' if bounded else ''}"
    quality = found.mean(found.reference).quality()
    at = None if quality is None else scale * quality.value
    label = "Figures with their intervals, " + "; ".join(f"{e.name} {e.value:.4g}" for e in estimates)
    return [forest(estimates, label=label, xlabel=unit, at=at, at_label="reference", hues=list(GROUPS.values()))]


def _costs(found: Comparison) -> list[Html]:
    def line(mean: Mean) -> Row:
        cost = mean.cost
        money = "" if cost.money_per_item is None else f"{1000 * cost.money_per_item:.4g}"
        right = mean.money_per_right(found.unit)
        cells: list[str | Cell] = [
            "" if cost.parameters is None else quantity(cost.parameters), size_text(cost.nbytes), time_text(cost.seconds_per_item),
            "" if cost.calls is None else f"{cost.calls / cost.items:.3g}",
            *([f"{cost.tokens_in or 0:,} + {cost.tokens_out or 0:,}"] if tokens else []), *([money, "" if right is None else f"{right:.4g}"] if priced else []), ", ".join(mean.front),
        ]  # fmt: skip
        return Row(mean.system, cells)

    tokens = any(mean.cost.tokens_in or mean.cost.tokens_out for mean in found.means)
    priced = any(mean.cost.money is not None for mean in found.means)
    columns = [
        "system",
        "parameters",
        "weights",
        "ms an item",
        "calls an item",
        *(["tokens in + out"] if tokens else []),
    ]
    columns += [*(["money for 1,000 items", "for a right answer"] if priced else []), "Pareto front"]
    rows = _grouped(found, ((mean, line(mean)) for mean in found.ordered()))
    text = note("Pareto front: where no other system is at least as good and as cheap, and better in one of the two.")
    return [
        section("What it costs", *_tradeoff(found, priced), table(columns, rows, label="Costs of all systems"), text)
    ]


def _tradeoff(found: Comparison, priced: bool) -> list[Html]:
    """Quality against the first cost that differs between systems: money, memory or time."""
    largest = max((m.cost.nbytes or 0 for m in found.means), default=0)
    step = next((step for step in (3, 2, 1) if largest >= 1000**step), 0)
    unit_of_bytes = ("B", "kB", "MB", "GB")[step]
    ways = {
        "money": ("money for 1,000 items", {m.system: m.cost.money_per_item for m in found.means}, 1000.0),
        "memory": (f"weights, {unit_of_bytes}", {m.system: m.cost.nbytes for m in found.means}, 1 / 1000**step),
        "time": ("ms an item", {m.system: m.cost.seconds_per_item for m in found.means}, 1000.0),
    }
    for name, (xlabel, costs, factor) in ways.items():
        known = [(m, float(c) * factor, q) for m in found.ordered() if (c := costs[m.system]) and (q := m.quality())]
        if len({cost for _, cost, _ in known}) < 2 or (name == "money" and not priced):
            continue
        bounded = found.unit is None or found.unit.bounded
        scale = 100 if bounded else 1
        points = [
            Point(m.system, cost, scale * q.value, scale * q.low, scale * q.high, GROUPS[m.kind], name in m.front)
            for m, cost, q in known
        ]
        unit = "share of experts" if found.unit is None else found.unit.name
        spread = max(cost for _, cost, _ in known) / min(cost for _, cost, _ in known)
        return [
            tradeoff(
                points,
                label=f"Quality against {xlabel}; on the Pareto front: {', '.join(p.name for p in points if p.front)}",
                xlabel=xlabel, ylabel=f"{unit}{', %' if bounded else ''}", log=spread > 20,
                hues=list(GROUPS.values()),
                higher_is_better=found.unit is None or found.unit.higher_is_better,
            )
        ]  # fmt: skip
    return []


def _confidence(found: Comparison) -> list[Html]:
    """Whether confidence can be believed, and what answering only the surest items would bring; of the first few tasks."""
    shown: list[Html] = []
    for task in found.tasks[:_MOST_TASKS]:
        rows = [row for row in found.rows if row.task == task and row.calibration is not None and row.calibration.bins]
        rows = sorted(rows, key=lambda row: [mean.system for mean in found.ordered()].index(row.system))[:_MOST_SYSTEMS]
        known = [(row.system, row.calibration) for row in rows if row.calibration is not None]
        if not known:
            continue
        bins = [
            Line(name, [100 * b.confidence for b in c.bins], [100 * b.accuracy for b in c.bins]) for name, c in known
        ]
        risks = [Line(name, [100 * x for x, _ in c.risk], [100 * y for _, y in c.risk]) for name, c in known]
        shown += [
            lines(
                [*bins, Line("as it should be", [0, 100], [0, 100])], label=f"Reliability on {task}: accuracy against confidence",
                xlabel=f"confidence, %: {task}", ylabel="right answers, %",
            ),
            lines(
                risks, label=f"Risk against coverage on {task}", xlabel=f"share of items answered, surest first, %: {task}",
                ylabel="wrong answers among these, %", marks=False,
            ),
        ]  # fmt: skip
    if not shown:
        return []
    text = (
        "Above: right answers against confidence, in bins; below the diagonal a system is too sure of itself. Then: wrong answers where "
        "only the surest items are answered; lower is better, and falling to the left means that confidence tells right from wrong."
    )
    return [section("Do they know what they know?", *shown, note(text))]


def _details(found: Comparison) -> list[Html]:
    """Everything by task and system."""
    flips = any(row.flips for row in found.rows)
    known = any(row.calibration for row in found.rows)
    columns = ["system", "figure", "interval", "difference", "interval", "p"]
    columns += [
        *(["negative flips", "of right, %"] if flips else []),
        *(["ECE, %", "Brier", "NLL", "AURC, %"] if known else []),
    ]

    def line(row: Compared) -> Row:
        bounded = metric(row.metric).bounded
        scale, digits = (100, 1) if bounded else (1, 3)
        cells: list[str | Cell] = [
            figure_text(row.figure.value, bounded),
            interval(scale * row.figure.low, scale * row.figure.high, digits),
            *difference_text(row.difference, bounded),
            p_text(row.p_adjusted),
        ]
        if flips:
            cells += ["", ""] if row.flips is None else [f"{row.flips.count:,}", percent(row.flips.rate_of_right)]
        if known:
            c = row.calibration
            area = "" if c is None or c.aurc is None else percent(c.aurc)
            cells += ["", "", "", ""] if c is None else [percent(c.error), _short(c.brier), _short(c.nll), area]
        return Row(row.system, cells)

    rows: list[Row | Group] = []
    for task in found.tasks:
        own: Sequence[Compared] = [row for row in found.rows if row.task == task]
        rows.append(Group(f"{_heading(found, task)}: {own[0].cost.items:,} items"))
        rows += [line(row) for mean in found.ordered() for row in own if row.system == mean.system]
    text = (
        f"difference: to {found.reference}. p: paired test (McNemar's where answers are right or wrong, else swapping "
    )
    text += "answers), adjusted by Holm's method for all rows."
    if flips:
        text += f" Negative flips: items that {found.reference} has right and the system has wrong."
    if known:
        text += f" ECE: calibration error, {found.convention}. AURC: mean share of wrong answers over all coverages."
    return [section("Task by task", table(columns, rows, label="All systems, task by task"), note(text))]


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
