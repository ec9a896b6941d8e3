"""A leaderboard as markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelwright.evaluate import metric

if TYPE_CHECKING:
    from modelwright.suites._leaderboard import Leaderboard, Line
    from modelwright.suites._order import Comparison

#: Stands where there is no figure.
NONE = "-"


def page(board: Leaderboard, heading: str = "#", *, chosen: bool = True) -> str:
    """The tables of one suite.

    Args:
        board: The leaderboard.
        heading: The signs before its title.
        chosen: Whether there is a table of the parameters that were chosen.
    """
    from modelwright.suites._leaderboard import GROUPS

    rows: list[Sequence[str]] = []
    for group, title in GROUPS.items():
        lines = [line for line in board.lines if line.group == group]
        rows += [(f"**{title}**",)] * bool(lines) + [_row(board, line) for line in lines]
    same = len(set(board.metrics.values())) == 1
    tasks = [task if same else f"{task}: {_metric(name)}" for task, name in board.metrics.items()]
    head = ["system", *tasks, *(["mean"] if same else [])]
    table = _table([*head, "of experts", "n", "untuned", "merge s", "merge memory", "weights"], rows)
    parts = [f"{heading} {board.suite}", conditions(board), table, " ".join(remarks(board))]
    parts += [_chosen(board, heading) if chosen else "", _order(board, heading)]
    if board.left_out:
        parts.append(f"{heading}# Left out\n\n" + "\n".join(f"- {line}" for line in left_out(board)))
    return "\n\n".join(part for part in parts if part) + "\n"


def conditions(board: Leaderboard) -> str:
    """What holds for all figures, and what the columns are."""
    seeds = len({seed for line in board.lines for seed in line.seeds})
    said, metrics = board.conditions, set(board.metrics.values())
    judged = f" Figures are {_metric(metrics.pop())} on test." if len(metrics) == 1 else " Figures are of test."
    return (
        f"{_counted(seeds, 'seed')}, {said['semantics']} semantics. Hyper-parameters were chosen on up to "
        f"{said['items']} validation items a task, with at most {said['budget']} evaluations a method.{judged} "
        "Of experts: the mean over tasks of the figure as a share of the expert's, ± its standard deviation over "
        "n seeds. Untuned: the same with the method's defaults, on validation, in per cent. Merge s and merge memory are of one merge; weights are those that are kept to answer."
    )


def remarks(board: Leaderboard) -> list[str]:
    """What a reader has to know of single lines and tasks."""
    found = [
        f"{task}: its expert has no figure above 0 (seed {', '.join(map(str, seeds))}), so there is no share of it, and "
        "*of experts* leaves the task out there."
        for task, seeds in board.without.items()
    ]
    odd = [line.label for line in board.lines if not np.isfinite(line.share.mean())]
    if odd:
        found.append(f"{', '.join(odd)}: there is no share of what the experts reach.")
    if board.fixed:
        found.append(
            "The models are the same for all seeds: what draws no noise would come to the same each time and was made once."
        )
    return found


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _metric(name: str) -> str:
    """Its name with its unit or direction."""
    measured = metric(name)
    sign = " in per cent" if measured.bounded else "" if measured.higher_is_better else " (less is better)"
    return f"{name.replace('_', ' ')}{sign}"


def _row(board: Leaderboard, line: Line) -> list[str]:
    cells = [f"`{line.label}`"]
    cells += [figure(np.mean(line.figures[task]), board.metrics[task]) for task in board.metrics]
    if len(set(board.metrics.values())) == 1:
        cells.append(figure(line.raw.mean(), next(iter(board.metrics.values()))))
    cells += [share_text(line.share), str(len(line.seeds)), untuned_text(line), seconds_text(line.merge_seconds)]
    return [*cells, _bytes(line.peak_bytes), _bytes(line.nbytes)]


def figure(value: Any, name: str) -> str:
    """A figure with its digits, shares in per cent; a dash where it is no number."""
    if not np.isfinite(value):
        return NONE
    return f"{100 * value:.1f}" if metric(name).bounded else f"{value:.3f}"


def share_text(shares: np.ndarray) -> str:
    """`93.1 ± 0.4 %`; a dash where there is no share."""
    from modelwright.suites._leaderboard import spread

    if not np.isfinite(shares.mean()):
        return NONE
    off = spread(shares)
    return f"{100 * shares.mean():.1f}{'' if off is None else f' ± {100 * off:.1f}'} %"


def untuned_text(line: Line) -> str:
    """`79.3`, nothing where there is nothing to choose; a dash where the defaults failed."""
    if not line.untuned:
        return ""
    known = [share for share in line.untuned if share is not None]
    return f"{100 * np.mean(known):.1f}" if len(known) == len(line.untuned) else NONE


def seconds_text(seconds: float | None) -> str:
    """Two digits that count, and nothing where there is nothing."""
    return "" if seconds is None else f"{seconds:.2g}"


def _bytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.2f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def parameters_text(values: Mapping[str, Any]) -> str:
    """`lambda 0.3, density 0.2`."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _chosen(board: Leaderboard, heading: str) -> str:
    lines = [line for line in board.lines if any(line.parameters)]
    if not lines:
        return ""
    seeds = sorted({seed for line in lines for seed in line.seeds})
    rows = [
        [
            f"`{line.label}`", str(max(line.trials)),
            *(parameters_text(dict(zip(line.seeds, line.parameters, strict=True)).get(seed, {})) for seed in seeds),
        ]
        for line in lines
    ]  # fmt: skip
    return f"{heading}# What was chosen\n\n" + _table(["method", "tried", *(f"seed {s}" for s in seeds)], rows)


def _order(board: Leaderboard, heading: str) -> str:
    if not board.order:
        return ""
    rows = [
        [
            f"`{pair.better}` > `{pair.worse}`",
            _difference(pair), verdict(pair),
        ]
        for pair in board.order
    ]  # fmt: skip
    text = (
        "What the literature leads to expect, and the difference in points of *of experts*, with 95 % intervals from items "
        "that are resampled in pairs:"
    )
    return f"{heading}# The expected order\n\n{text}\n\n" + _table(["expected", "difference", "found"], rows)


def _difference(pair: Comparison) -> str:
    if not np.isfinite(pair.low):
        return NONE
    return f"{100 * pair.difference:+.1f} [{100 * pair.low:+.1f}, {100 * pair.high:+.1f}]"


def verdict(pair: Comparison) -> str:
    """With how many resamples tell nothing."""
    return f"{pair.verdict} ({pair.undefined} resamples have no shares)" if pair.undefined else pair.verdict


def left_out(board: Leaderboard) -> list[str]:
    """Cells without results, those of several seeds together, with their reasons."""
    seen: dict[tuple[str, str, str], list[int]] = {}
    for cell in board.left_out:
        seen.setdefault((cell.label, cell.status, " ".join(cell.reason.split())), []).append(cell.seed)
    return [
        f"{label} {status} (seed {', '.join(map(str, seeds))}): {reason}"
        for (label, status, reason), seeds in seen.items()
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in rows:
        cells = [*row, *[""] * (len(head) - len(row))]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)
