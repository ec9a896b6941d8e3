"""Figures as inline SVG that follows the page's colours, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from modelwright.errors import printable
from modelwright.evaluate._predictor import needs
from modelwright.report._html import Html, attribute
from modelwright.report._page import wide

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
    "#070707": "--violet",
    "#080808": "--rose",
    "#090909": "--paper",
}
INK, MUTED, LINE, *_HUES, PAPER = _VARIABLES
#: Blue, amber, green, violet, rose.
HUES = tuple(_HUES)
BLUE, AMBER = HUES[:2]
_METADATA = ("Creator", "Date", "Format", "Type")  # without them the page has no time stamp and no external address
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "modelwright",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # models have dollar signs in their names too
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def figure(label: str, draw: Callable[[Figure], None], size: tuple[float, float] = (8.6, 4.2)) -> Html:
    """A figure as a part of a page.

    Args:
        label: What it shows, for readers who do not see it.
        draw: Draws on an empty matplotlib figure, in `INK`, `MUTED`, `LINE` and `HUES`.
        size: Width and height in inches; 8.6 is the page's width.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    needs("matplotlib", "a figure", "report")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    file = io.StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # the browser has fonts for what matplotlib's own has no shapes for
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        drawn = Figure(figsize=size, layout="constrained")
        draw(drawn)
        drawn.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(_METADATA))
    return wide(_inline(file.getvalue(), label), label, "plot")


def _inline(text: str, label: str) -> str:
    """A file's SVG as an element of the page: the page's colours and fonts, unique ids, a title for screen readers."""
    text = text[text.index("<svg") :].strip().replace("\t", " ")
    strange = {ord(c): printable(c) for c in set(text) if not c.isprintable() and c != "\n"}
    text = text.translate(strange)
    prefix = "f" + xxhash.xxh3_64_hexdigest(f"{label}\n{text}".encode())[:8]
    for colour, variable in _VARIABLES.items():
        text = text.replace(f": {colour}", f": var({variable})")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'\s(xmlns(:xlink)?|version|width|height)="[^"]*"', "", text, count=5)
    return text.replace("<svg", f'<svg role="img" aria-label={attribute(label)}', 1)


def heat(
    axes: Axes,
    values: np.ndarray,
    tints: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    form: Callable[[float], str],
) -> None:
    """Squares with their numbers: blue where the tint is positive, amber where it is negative.

    Args:
        axes: Where to draw.
        values: The numbers, of shape (rows, columns); where they are NaN nothing is drawn.
        tints: In [-1, 1], of the same shape; the further from 0, the darker.
        rows: Names on the left.
        columns: Names below.
        form: How a number is written.
    """
    from matplotlib.patches import Rectangle

    for (i, j), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        hue, tint = BLUE if tints[i, j] >= 0 else AMBER, min(0.8, 0.05 + 0.75 * abs(tints[i, j]))
        axes.add_patch(Rectangle((j, i), 0.95, 0.95, facecolor=hue, alpha=tint, linewidth=0))
        axes.text(j + 0.47, i + 0.47, form(float(value)), ha="center", va="center", fontsize=9)
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.set_xticks(np.arange(len(columns)) + 0.47, columns, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)) + 0.47, rows)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
