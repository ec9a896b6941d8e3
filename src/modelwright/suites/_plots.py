"""A leaderboard as a picture."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from modelwright.evaluate._predictor import needs

if TYPE_CHECKING:
    from modelwright.suites._leaderboard import Leaderboard

_COLOURS = {"reference": "#888888", "data-free": "#3b6fb6", "data-driven": "#c26a1b", "ensemble": "#4a8f52"}


def shares_plot(board: Leaderboard) -> str:
    """A bar for each system, its share of what the experts reach, and a dot for each seed; SVG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure_module = needs("matplotlib.figure", "a plot", "report")
    rc_context = needs("matplotlib", "a plot", "report").rc_context
    lines = [line for line in reversed(board.lines) if np.isfinite(line.share.mean())]
    with rc_context({"svg.hashsalt": "modelwright", "svg.fonttype": "none"}):
        figure = figure_module.Figure(figsize=(7, 0.6 + 0.28 * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        for place, line in enumerate(lines):
            axes.barh(place, 100 * line.share.mean(), color=_COLOURS[line.group], alpha=0.75)
            axes.plot(100 * line.share, [place] * len(line.seeds), "o", color="black", markersize=3)
        axes.set_yticks(range(len(lines)), [line.label for line in lines])
        axes.axvline(100, color="black", linewidth=0.8, linestyle=":")
        axes.set_xlabel("per cent of the experts, mean over tasks; dots are seeds")
        axes.set_title(board.suite)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
