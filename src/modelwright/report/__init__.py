"""One HTML page that opens offline: tables, figures and sentences, in light and dark, on a phone and on paper.

A page is sections, a section is a heading and parts, and every part is `Html`. Any other text is escaped, so that a
model may be called `<b>`:

    from modelwright import report

    text = report.page(
        "Does merging get easier with size?",
        report.section(
            "What came out",
            report.answer("Yes, on these three widths."),
            report.table(["method", "accuracy"], [report.Row("ties", ["81.2"], best=True)], label="Accuracy"),
            report.note("Mean of three seeds."),
        ),
        report.section("By width", report.lines([report.Line("ties", [1, 2], [0.7, 0.8])], label="Accuracy by width")),
        lead="One question, one page.",
    )
    report.write("page.html", text)

Parts: `paragraph`, `answer` (the sentence that a reader came for), `note`, `bullets`, `code`, `table`, and figures:
`forest` (estimates with intervals), `tradeoff` (quality against cost, with the Pareto front), `heat_map`, `lines` (with
bands), and `figure` for anything else that matplotlib draws: in the colours `INK`, `MUTED`, `LINE` and `HUES`, which
become those of the page. Numbers come as texts; `percent`, `signed` and `interval` write them as all pages do.

`comparison` is the page of what `mw.compare` found, `difference` that of `mw.diff`.

Figures are inline SVG by matplotlib (extra `report`); the rest needs nothing. There are no scripts and no addresses.
"""

from modelwright.report._comparison import comparison as comparison
from modelwright.report._difference import difference as difference
from modelwright.report._figure import (
    HUES as HUES,
    INK as INK,
    LINE as LINE,
    MUTED as MUTED,
    figure as figure,
    heat as heat,
)
from modelwright.report._html import Html as Html, html as html
from modelwright.report._numbers import (
    interval as interval,
    minus as minus,
    percent as percent,
    quantity as quantity,
    signed as signed,
)
from modelwright.report._page import (
    answer as answer,
    bullets as bullets,
    code as code,
    note as note,
    page as page,
    paragraph as paragraph,
    section as section,
    style as style,
    write as write,
)
from modelwright.report._plots import (
    Estimate as Estimate,
    Line as Line,
    Point as Point,
    forest as forest,
    heat_map as heat_map,
    lines as lines,
    tradeoff as tradeoff,
)
from modelwright.report._table import Cell as Cell, Group as Group, Row as Row, table as table
