"""The figures that comparisons, studies and leaderboards share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modelwright.report._figure import HUES, INK, LINE, MUTED, PAPER, figure, heat
from modelwright.report._html import Html
from modelwright.report._numbers import minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Solid first; the hues are gone through once with each.
_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.4)), "-.")
_MARKERS = "osD^v"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        name: Of what.
        value: The number.
        low: Lower end of its interval.
        high: Upper end.
        group: What kind of thing it is; each has a hue of its own.
    """

    name: str
    value: float
    low: float
    high: float
    group: str = ""


def forest(
    estimates: Sequence[Estimate],
    *,
    label: str,
    xlabel: str = "",
    at: float | None = None,
    at_label: str = "",
    hues: Sequence[str] = (),
) -> Html:
    """Estimates with their intervals, one below the other.

    Args:
        estimates: From top to bottom.
        label: What the figure shows, for readers who do not see it.
        xlabel: The quantity with its unit.
        at: Where to draw a line to compare with, such as 0 for differences.
        at_label: What stands at that line.
        hues: Groups in the order of their hues, where several figures should have the same; default as they come.
    """
    groups = list(dict.fromkeys(estimate.group for estimate in estimates))
    order = list(dict.fromkeys([*hues, *groups]))

    def draw(canvas: Any) -> None:
        axes = canvas.subplots()
        if at is not None:
            axes.axvline(at, color=MUTED, lw=1.2, ls=(0, (4, 2)), label=at_label or None)
        for group in groups:
            own = [(i, e) for i, e in enumerate(estimates) if e.group == group]
            where, hue, mark = [i for i, _ in own], _hue(order, group), _mark(order, group)
            axes.hlines(where, [e.low for _, e in own], [e.high for _, e in own], color=hue, lw=2)
            axes.plot([e.value for _, e in own], where, mark, color=hue, ms=6, label=group or None)
        axes.set_yticks(range(len(estimates)), [estimate.name for estimate in estimates])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set(xlabel=xlabel, ylim=(len(estimates) - 0.4, -0.6))
        axes.spines["left"].set_visible(False)
        _grid(axes, "x")
        _minus(axes.xaxis)
        _legend(axes, len(groups) > 1 or bool(at_label))

    return figure(label, draw, (8.6, 1.0 + 0.3 * max(2, len(estimates))))


@dataclass(frozen=True)
class Point:
    """A system in a figure of quality against cost.

    Attributes:
        name: Of the system.
        cost: What it costs; the less the better.
        quality: How good it is.
        low: Lower end of the quality's interval.
        high: Upper end.
        group: What kind of system it is.
        front: Whether no other is at least as good in both and better in one.
    """

    name: str
    cost: float
    quality: float
    low: float | None = None
    high: float | None = None
    group: str = ""
    front: bool = False


def tradeoff(
    points: Sequence[Point],
    *,
    label: str,
    xlabel: str,
    ylabel: str,
    higher_is_better: bool = True,
    log: bool = False,
    hues: Sequence[str] = (),
) -> Html:
    """Quality against cost, with the Pareto front as steps: what a budget buys.

    Args:
        points: The systems; those of the front are filled.
        label: What the figure shows, for readers who do not see it.
        xlabel: The cost with its unit.
        ylabel: The quality with its unit.
        higher_is_better: Whether more quality is a larger number.
        log: A logarithmic axis for costs that differ by orders of magnitude.
        hues: Groups in the order of their hues, where several figures should have the same; default as they come.
    """
    groups = list(dict.fromkeys(point.group for point in points))
    order = list(dict.fromkeys([*hues, *groups]))

    def draw(canvas: Any) -> None:
        axes = canvas.subplots()
        for group in groups:
            hue, mark = _hue(order, group), _mark(order, group)
            own = [point for point in points if point.group == group]
            for point in own:
                low, high = point.low, point.high
                if low is not None and high is not None:
                    axes.vlines(point.cost, low, high, color=hue, lw=1.6, alpha=0.45)
                face = hue if point.front else PAPER
                axes.plot(point.cost, point.quality, mark, color=hue, mfc=face, mew=1.6, ms=7, zorder=3)
            axes.plot([], [], mark, color=hue, label=group or None)
        _steps(axes, points, higher_is_better)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if log:
            axes.set_xscale("log")
        axes.margins(0.08, 0.12)
        _grid(axes, "y")
        _minus(axes.yaxis)
        _legend(axes, len(groups) > 1)
        _name(axes, points)

    return figure(label, draw, (8.6, 4.6))


def _steps(axes: Axes, points: Sequence[Point], higher_is_better: bool) -> None:
    """The front: what is the best that each budget buys."""
    front = sorted((point for point in points if point.front), key=lambda p: (p.cost, p.quality))
    if len(front) > 1:
        x, y = [p.cost for p in front], [p.quality for p in front]
        axes.step(x, y, where="post", color=MUTED, lw=1.2, ls=(0, (4, 2)), zorder=1)


def _name(axes: Axes, points: Sequence[Point]) -> None:
    """Names beside their points, moved up or down, with a thread, where they would lie on each other.

    Where there are so many that one more would be unreadable it is left out; those of the front come first.
    """
    from matplotlib.transforms import Bbox

    canvas: Any = axes.figure
    canvas.draw_without_rendering()  # places are known once the axes are laid out
    unit = canvas.dpi / 72
    frame = axes.get_window_extent()
    frame = Bbox.from_extents(frame.x0, frame.y0, canvas.bbox.x1, frame.y1)
    spots = [axes.transData.transform((point.cost, point.quality)) for point in points]
    taken = [Bbox.from_bounds(x - 5 * unit, y - 5 * unit, 10 * unit, 10 * unit) for x, y in spots]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent())
    for point in sorted(points, key=lambda p: (not p.front, -p.quality)):
        text = axes.annotate(point.name, (point.cost, point.quality), (0, 0), textcoords="offset points", va="center")
        text.set(fontsize=9, in_layout=False)
        text.set_bbox({"facecolor": PAPER, "alpha": 0.85, "linewidth": 0, "pad": 0.5})
        size = text.get_window_extent().width, 12 * unit
        place = _free(axes.transData.transform((point.cost, point.quality)), size, unit, frame, taken)
        if place is None:
            text.remove()
            continue
        taken.append(_box(place, size, unit))
        text.set(position=(place[0], place[1]))
        if place[1]:
            end = place[0] if place[0] > 0 else place[0] + size[0] / unit
            thread = {"arrowstyle": "-", "color": MUTED, "lw": 0.7, "shrinkA": 0, "shrinkB": 4}
            _thread(axes, point, (end, place[1]), thread)


def _free(spot: Any, size: tuple[float, float], unit: float, frame: Any, taken: Sequence[Any]) -> Any:
    """Where a name may stand, as (points to the right, points up, x, y); the nearest place first."""
    for step in sorted(range(-24, 25), key=abs):
        for right in (8.0, -8.0 - size[0] / unit):
            place = right, 6.0 * step, *spot
            box = _box(place, size, unit)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                return place
    return None


def _box(place: Any, size: tuple[float, float], unit: float) -> Any:
    from matplotlib.transforms import Bbox

    right, up, x, y = place
    return Bbox.from_bounds(x + right * unit, y + up * unit - size[1] / 2, *size)


def _thread(axes: Axes, point: Point, end: tuple[float, float], style: Any) -> None:
    thread = axes.annotate("", (point.cost, point.quality), end, textcoords="offset points", arrowprops=style)
    thread.set_in_layout(False)


@dataclass(frozen=True)
class Line:
    """A curve, with a band around it where there is one.

    Attributes:
        name: In the legend.
        x: Where it was measured.
        y: What was measured.
        low: Lower edge of the band.
        high: Upper edge.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def lines(
    curves: Sequence[Line],
    *,
    label: str,
    xlabel: str = "",
    ylabel: str = "",
    at: float | None = None,
    log: bool = False,
    marks: bool = True,
) -> Html:
    """Curves with bands; hues first, then dashes tell them apart.

    Args:
        curves: At least one.
        label: What the figure shows, for readers who do not see it.
        xlabel: What x is, with its unit.
        ylabel: What y is, with its unit.
        at: Where to draw a horizontal line to compare with.
        log: A logarithmic x axis, with ticks at the values themselves.
        marks: Draw the points that were measured.
    """

    def draw(canvas: Any) -> None:
        axes = canvas.subplots()
        if at is not None:
            axes.axhline(at, color=MUTED, lw=1.2, ls=":")
        for i, curve in enumerate(curves):
            hue, dash = HUES[i % len(HUES)], _DASHES[i // len(HUES) % len(_DASHES)]
            mark = _MARKERS[i % len(_MARKERS)] if marks else None
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=hue, alpha=0.15, lw=0)
            axes.plot(curve.x, curve.y, color=hue, ls=dash, lw=2, marker=mark, ms=5, label=curve.name)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if log:
            _log_ticks(axes, sorted({float(x) for curve in curves for x in curve.x}))
        _grid(axes, "y")
        _minus(axes.yaxis)
        _legend(axes, len(curves) > 1)

    return figure(label, draw)


def _log_ticks(axes: Axes, values: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    if len(values) <= 10:
        axes.set_xticks(values, [f"{value:g}" for value in values])


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    middle: float | None = None,
    reach: float | None = None,
    form: Callable[[float], str] = lambda value: minus(f"{value:.2f}"),
) -> Html:
    """A table as squares with their numbers.

    Args:
        values: Of shape (rows, columns); NaN leaves a square out.
        rows: Names on the left.
        columns: Names below.
        label: What the figure shows, for readers who do not see it.
        middle: Values above it are blue and below it amber, darker the further away; None: darker the larger.
        reach: How far from there it is darkest, so that maps can share a scale; None: as far as the values are.
        form: How a number is written.
    """
    values = np.asarray(values, dtype=np.float64)
    known = values[np.isfinite(values)]
    start = middle if middle is not None else (known.min() if known.size else 0.0)
    if reach is None:
        reach = float(np.abs(known - start).max()) if known.size else 0.0
    tints = np.zeros_like(values) if reach == 0 else np.clip((values - start) / reach, -1, 1)

    def draw(canvas: Any) -> None:
        heat(canvas.subplots(), values, tints, rows, columns, form)

    return figure(label, draw, (8.6, 1.2 + 0.32 * max(2, len(rows))))


def _hue(groups: Sequence[str], group: str) -> str:
    return HUES[groups.index(group) % len(HUES)]


def _mark(groups: Sequence[str], group: str) -> str:
    return _MARKERS[groups.index(group) % len(_MARKERS)]


def _grid(axes: Axes, axis: Any) -> None:
    axes.grid(axis=axis, color=LINE, lw=0.8)
    axes.set_axisbelow(True)


def _minus(axis: Any) -> None:
    """The texts of ticks are matplotlib's own; it knows the sign."""
    axis.get_major_formatter().set_useOffset(False)


def _legend(axes: Axes, wanted: bool) -> None:
    if wanted and axes.get_legend_handles_labels()[1]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=2.4)
