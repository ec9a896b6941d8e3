"""A leaderboard as a page that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modelwright import report
from modelwright.evaluate import metric
from modelwright.suites._markdown import (
    NONE,
    conditions,
    figure,
    left_out,
    parameters_text,
    remarks,
    seconds_text,
    share_text,
    verdict,
)

if TYPE_CHECKING:
    from modelwright.suites._leaderboard import Leaderboard, Line


def html_page(board: Leaderboard) -> str:
    """The tables and figures of one suite.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    sections = [
        report.section(
            "What came out",
            report.answer(_sentence(board)),
            *([_forest(board)] if _shown(board) else []),
            report.note(" ".join([conditions(board), *remarks(board)]).replace("*", "")),
        ),
        report.section("By task", _table(board)),
    ]
    costs = [line for line in _shown(board) if line.merge_seconds is not None]
    if len(costs) > 1:
        sections.append(report.section("What it costs", _tradeoff(costs)))
    sections += _order(board) + _chosen(board)
    if board.left_out:
        sections.append(report.section("Left out", report.bullets(left_out(board))))
    return report.page(f"{board.suite}: the leaderboard", *sections, lead="Per cent of what the experts reach.")


def _sentence(board: Leaderboard) -> str:
    """The best merge beside what it has to be compared with."""
    merged = [line for line in board.lines if line.group in ("data-free", "data-driven")]
    merged = [line for line in merged if np.isfinite(line.share.mean())]
    if not merged:
        return "No merge has a share of what the experts reach."
    best = max(merged, key=lambda line: line.share.mean())
    others = [f"; {_TOLD[line.label]} {share_text(line.share)}" for line in board.lines if line.label in _TOLD]
    return f"The best merge is {best.label} with {share_text(best.share)} of what the experts reach{''.join(others)}."


_TOLD = {
    "multitask": "training on all tasks together has",
    "linear": "the plain average",
    "ensemble": "asking all experts",
}


def _shown(board: Leaderboard) -> list[Line]:
    """The lines that have a place in a figure."""
    return [line for line in board.lines if np.isfinite(line.share.mean())]


def _forest(board: Leaderboard) -> report.Html:
    from modelwright.suites._leaderboard import GROUPS, spread

    def estimate(line: Line) -> report.Estimate:
        mean, off = 100 * float(line.share.mean()), 100 * (spread(line.share) or 0.0)
        return report.Estimate(line.label, mean, mean - off, mean + off, GROUPS[line.group])

    return report.forest(
        [estimate(line) for line in _shown(board)], label="Share of what the experts reach, by system",
        xlabel="per cent of the experts, mean over tasks ± standard deviation over seeds", at=100, at_label="experts",
    )  # fmt: skip


def _table(board: Leaderboard) -> report.Html:
    from modelwright.suites._leaderboard import GROUPS

    def cell(line: Line, task: str) -> report.Cell:
        share = float(np.mean([np.nan if share is None else share for share in line.shares[task]]))
        tint = min(max(share, 0.0), 1.0) if np.isfinite(share) else None
        return report.Cell(figure(np.mean(line.figures[task]), board.metrics[task]), tint=tint)

    rows: list[report.Row | report.Group] = []
    for group, title in GROUPS.items():
        lines = [line for line in board.lines if line.group == group]
        rows += [report.Group(title)] * bool(lines)
        for line in lines:
            cells = [*(cell(line, task) for task in board.metrics), share_text(line.share)]
            rows.append(report.Row(line.label, [*cells, str(len(line.seeds)), seconds_text(line.merge_seconds)]))
    same = len(set(board.metrics.values())) == 1
    tasks = [task if same else f"{task} ({metric(n).name.replace('_', ' ')})" for task, n in board.metrics.items()]
    return report.table(["system", *tasks, "of experts", "n", "merge s"], rows, label="Figures by system and task")


def _tradeoff(lines: Sequence[Line]) -> report.Html:
    pairs = [(line.merge_seconds or 0.0, 100 * float(line.share.mean())) for line in lines]

    def on_front(cost: float, share: float) -> bool:
        return not any(c <= cost and s >= share and (c, s) != (cost, share) for c, s in pairs)

    points = [
        report.Point(line.label, cost, share, group=line.group, front=on_front(cost, share))
        for line, (cost, share) in zip(lines, pairs, strict=True)
    ]
    return report.tradeoff(
        points, label="Share of what the experts reach, and seconds of one merge", xlabel="seconds of one merge",
        ylabel="per cent of the experts",
    )  # fmt: skip


def _order(board: Leaderboard) -> list[report.Html]:
    if not board.order:
        return []
    rows: list[report.Row] = []
    for pair in board.order:
        known = np.isfinite(pair.low)
        interval = report.interval(100 * pair.low, 100 * pair.high) if known else NONE
        difference = report.signed(100 * pair.difference) if known else NONE
        cells = [difference, interval, report.Cell(verdict(pair), words=True)]
        rows.append(report.Row(f"{pair.better} > {pair.worse}", cells))
    table = report.table(["expected", "points", "95 % interval", "found"], rows, label="The expected order")
    return [report.section("The order that the literature leads to expect", table)]


def _chosen(board: Leaderboard) -> list[report.Html]:
    lines = [line for line in board.lines if any(line.parameters)]
    if not lines:
        return []
    seeds = sorted({seed for line in lines for seed in line.seeds})
    rows = []
    for line in lines:
        by_seed = dict(zip(line.seeds, line.parameters, strict=True))
        cells = [report.Cell(parameters_text(by_seed.get(seed, {})), words=True) for seed in seeds]
        rows.append(report.Row(line.label, cells))
    table = report.table(["method", *(f"seed {seed}" for seed in seeds)], rows, label="Parameters that were chosen")
    return [report.section("What was chosen", table)]
