"""The report's figures as inline SVG that follows the page's colours, light or dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from modelwright.demo._result import DemoResult
from modelwright.demo._tasks import SIDE
from modelwright.report import HUES, LINE, MUTED, Html, figure as drawn, heat, minus
from modelwright.tensors import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def accuracy_over_scale(result: DemoResult) -> Html:
    """Mean validation accuracy against lambda: a hue for each family, solid lines for those that elect signs."""
    title = "Line chart: mean validation accuracy of each method over the scale lambda"
    return drawn(title, lambda figure: _draw_curves(figure.subplots(), result))


def _draw_curves(axes: Axes, result: DemoResult) -> None:
    families = list(dict.fromkeys(_family(name) for name in result.curves))
    start, scales = result.row("base").validation, (0.0, *result.scales)
    for name, values in result.curves.items():
        hue = HUES[families.index(_family(name)) % len(HUES)]
        percent = 100 * np.array([start, *values])  # at scale 0 every one of them is the base
        line = "-" if name.endswith("ties") else (0, (4, 2))
        axes.plot(scales, percent, linestyle=line, color=hue, lw=2, label=name)
        top = 1 + int(np.argmax(values))
        axes.plot(scales[top], percent[top], "o", color=hue, ms=7)
    for name, line in (("ensemble", "-."), ("base", ":")):
        axes.axhline(100 * result.row(name).validation, linestyle=line, color=MUTED, lw=1.2, label=name)
    axes.set(xlabel="scale λ", ylabel="mean validation accuracy, %", xlim=(0, max(result.scales)))
    axes.grid(axis="y", color=LINE, lw=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=2.8)


def _family(name: str) -> str:
    """Methods that differ in sign election only share it."""
    return {"ties": "task_arithmetic"}.get(name, name.removesuffix("_ties").removesuffix("_linear"))


def geometry(result: DemoResult) -> Html:
    """Heat maps, a column for each layer: sign conflict above, cosine below; each pair of experts once."""
    title = "Heat maps: sign conflict and cosine between each two experts, by layer"
    return drawn(title, lambda figure: _draw_geometry(figure, result), (8.6, 6.0))


def _draw_geometry(figure: Figure, result: DemoResult) -> None:
    names = list(result.tasks.transforms)
    panels = figure.subplots(2, len(result.geometry), squeeze=False)
    for column, entry in enumerate(result.geometry):
        top, bottom = panels[:, column]
        pairs = names[1:], names[:-1]
        heat(top, _below(entry.conflict), _below(0.5 - entry.conflict) / 0.2, *pairs, lambda value: f"{value:.0%}")
        heat(bottom, _below(entry.cosine), _below(entry.cosine) / 0.25, *pairs, _signed)
        top.set_aspect("equal")
        bottom.set_aspect("equal")
        top.set_title(entry.layer.removesuffix(".weight"), fontsize=11)
        top.tick_params(labelbottom=False, labelleft=column == 0)
        bottom.tick_params(labelleft=column == 0)
    panels[0, 0].set_ylabel("sign conflict", fontsize=11)
    panels[1, 0].set_ylabel("cosine", fontsize=11)


def _signed(cosine: float) -> str:
    return minus(f"{round(cosine, 2) + 0.0:+.2f}")


def _below(values: Array) -> Array:
    """The part of a square matrix below its diagonal; NaN above."""
    kept = np.where(np.tri(len(values), k=-1, dtype=bool), values, np.nan)
    return kept[1:, :-1]


def samples(result: DemoResult, count: int = 3) -> Mapping[str, str]:
    """For each task the same few test images side by side, as a PNG in a data URI."""
    from matplotlib.image import imsave

    split = result.tasks.test.first(count)
    shown: dict[str, str] = {}
    for task in result.tasks.transforms:
        grey = result.tasks.inputs(task, split).reshape(count, SIDE, SIDE)
        pixels = np.stack([grey, grey, grey, np.ones_like(grey)], axis=-1)
        apart = np.pad(pixels, ((0, 0), (0, 0), (0, 1), (0, 0)))  # a transparent column after each image
        file = io.BytesIO()
        imsave(file, np.concatenate(apart, axis=1)[:, :-1], format="png")
        shown[task] = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return shown
