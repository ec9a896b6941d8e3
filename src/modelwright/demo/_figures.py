"""The report's figures as inline SVG that follows the page's colours, light or dark."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelwright.demo._result import DemoResult
from modelwright.demo._tasks import SIDE
from modelwright.tensors import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that stand for CSS variables of the page while matplotlib draws.
_VARIABLES = {
    "#010101": "--ink",
    "#020202": "--muted",
    "#030303": "--line",
    "#040404": "--blue",
    "#050505": "--amber",
    "#060606": "--green",
}
_INK, _MUTED, _LINE, _BLUE, _AMBER, _GREEN = _VARIABLES
_HUES = (_BLUE, _AMBER, _GREEN)
_METADATA = ("Creator", "Date", "Format", "Type")  # without them the page has no time stamp and no external address
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "modelwright",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def accuracy_over_scale(result: DemoResult) -> str:
    """Mean validation accuracy against lambda: a hue for each family, solid lines for those that elect signs."""
    title = "Line chart: mean validation accuracy of each method over the scale lambda"
    return _svg("scale", title, (8.6, 4.2), lambda figure: _draw_curves(figure.subplots(), result))


def _draw_curves(axes: Axes, result: DemoResult) -> None:
    families = list(dict.fromkeys(_family(name) for name in result.curves))
    start, scales = result.row("base").validation, (0.0, *result.scales)
    for name, values in result.curves.items():
        hue = _HUES[families.index(_family(name)) % len(_HUES)]
        percent = 100 * np.array([start, *values])  # at scale 0 every one of them is the base
        line = "-" if name.endswith("ties") else (0, (4, 2))
        axes.plot(scales, percent, linestyle=line, color=hue, lw=2, label=name)
        top = 1 + int(np.argmax(values))
        axes.plot(scales[top], percent[top], "o", color=hue, ms=7)
    for name, line in (("ensemble", "-."), ("base", ":")):
        axes.axhline(100 * result.row(name).validation, linestyle=line, color=_MUTED, lw=1.2, label=name)
    axes.set(xlabel="scale λ", ylabel="mean validation accuracy, %", xlim=(0, max(result.scales)))
    axes.grid(axis="y", color=_LINE, lw=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=2.8)


def _family(name: str) -> str:
    """Methods that differ in sign election only share it."""
    return {"ties": "task_arithmetic"}.get(name, name.removesuffix("_ties").removesuffix("_linear"))


def geometry(result: DemoResult) -> str:
    """Heat maps, a column for each layer: sign conflict above, cosine below; each pair of experts once."""
    title = "Heat maps: sign conflict and cosine between each two experts, by layer"
    return _svg("geometry", title, (8.6, 6.0), lambda figure: _draw_geometry(figure, result))


def _draw_geometry(figure: Figure, result: DemoResult) -> None:
    names = list(result.tasks.transforms)
    panels = figure.subplots(2, len(result.geometry), squeeze=False)
    for column, entry in enumerate(result.geometry):
        top, bottom = panels[:, column]
        _heat(top, entry.conflict, (entry.conflict - 0.5) / 0.2, names, lambda value: f"{value:.0%}")
        _heat(bottom, entry.cosine, -entry.cosine / 0.25, names, lambda value: minus(f"{round(value, 2) + 0.0:+.2f}"))
        top.set_title(entry.layer.removesuffix(".weight"), fontsize=11)
        top.tick_params(labelbottom=False, labelleft=column == 0)
        bottom.tick_params(labelleft=column == 0)
    panels[0, 0].set_ylabel("sign conflict", fontsize=11)
    panels[1, 0].set_ylabel("cosine", fontsize=11)


def _heat(axes: Axes, values: Array, opposed: Array, names: Sequence[str], form: Callable[[float], str]) -> None:
    """The lower triangle as squares with their numbers, amber where experts are opposed and blue where they agree."""
    from matplotlib.patches import Rectangle

    count = len(names)
    for i in range(1, count):
        for j in range(i):
            hue, tint = _AMBER if opposed[i, j] > 0 else _BLUE, min(0.8, 0.05 + 0.75 * abs(opposed[i, j]))
            axes.add_patch(Rectangle((j, i - 1), 0.95, 0.95, facecolor=hue, alpha=tint, linewidth=0))
            axes.text(j + 0.47, i - 0.53, form(values[i, j]), ha="center", va="center", fontsize=9)
    axes.set(xlim=(0, count - 1), ylim=(count - 1, 0), aspect="equal")
    axes.set_xticks(np.arange(count - 1) + 0.47, names[:-1], rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(count - 1) + 0.47, names[1:])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


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


def minus(number: str) -> str:
    """With the sign that typography has for it."""
    return number.replace("-", "\N{MINUS SIGN}")


def _svg(prefix: str, title: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """A figure as an element of the page: the page's colours and fonts, unique ids, a title for screen readers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    file = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(_METADATA))
    text = file.getvalue()[file.getvalue().index("<svg") :].strip()
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'\s(xmlns(:xlink)?|version|width|height)="[^"]*"', "", text, count=5)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
