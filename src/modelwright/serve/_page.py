"""The pages: recent requests, and for one of them the tree of agents. Made here whole, with no script in them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from modelwright.chat import Outcome, Step
from modelwright.errors import printable
from modelwright.report._html import Html, attribute, html
from modelwright.report._page import page, section
from modelwright.serve._served import Served
from modelwright.serve._traces import Trace

#: Of the tree, in pixels: a card, and what lies between cards.
_WIDE, _HIGH, _GAP_X, _GAP_Y, _EDGE = 196, 74, 64, 14, 8
#: Letters of a line on a card.
_LETTERS = 27

_STYLE = Html(
    """<style>
body { max-width: 74rem; }
td.words, th.words { text-align: left; white-space: normal; overflow-wrap: anywhere; }
a { color: var(--blue); }
.tree { overflow-x: auto; margin: 1rem 0; }
.tree svg { font: 12px/1.3 system-ui, -apple-system, "Segoe UI", Arial, sans-serif; display: block; }
.tree rect { fill: var(--soft); stroke: var(--line); }
.tree .won rect { stroke: var(--green); stroke-width: 2; }
.tree .end rect { fill: var(--paper); stroke: var(--blue); stroke-width: 2; }
.tree text { fill: var(--ink); }
.tree .who { font-weight: 600; }
.tree .small { fill: var(--muted); font-size: 11px; }
.tree path { fill: none; stroke: var(--muted); stroke-width: 1.2; opacity: .55; }
.tree path.won { stroke: var(--green); stroke-width: 2; opacity: .9; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; }
.failed { color: var(--rose); }
summary { cursor: pointer; }
details { margin: .5rem 0; border: 1px solid var(--line); border-radius: .5rem; padding: .4rem .8rem; }
details pre { border: 0; padding: .4rem 0; background: none; }
</style>"""
)


def overview(served: Served) -> str:
    """Panels, and recent requests with their answers and costs."""
    panels = _table(
        ("panel", "program", "agents", "calls a question", "answered", "spent"),
        [_panel_row(served, name) for name in served.panels],
        words=3,
    )
    rows = [_request_row(trace) for trace in served.traces]
    recent = _table(("request", "panel", "question", "answer", "calls", "tokens", "spent", "seconds"), rows, words=4)
    none = Html('<p class="note">Nobody has asked yet.</p>')
    lead = f"{served.running} requests are being answered, and {served.waiting} wait."
    return page(
        "Panels of chat models", _STYLE, section("Panels", panels), section("Recent requests", recent if rows else none),
        lead=lead, footer="The last requests are kept in memory. Reload to see what came since.",
    )  # fmt: skip


def _panel_row(served: Served, name: str) -> Sequence[str]:
    panel = served.panels[name]
    least, most = panel.calls
    calls = [spent for (whose, _), spent in served.spent().items() if whose == name]
    answered = sum(spent.calls for spent in calls)
    budget = "" if panel.budget is None else f" of {panel.budget:g}"
    spent = f"{sum(spent.money for spent in calls):.4g}{budget}"
    return (
        name, panel.program.title, ", ".join(panel.agents), f"{least}" if least == most else f"{least} to {most}",
        f"{answered:,} calls", spent,
    )  # fmt: skip


def _request_row(trace: Trace) -> Sequence[str]:
    when = time.strftime("%H:%M:%S", time.localtime(trace.begun))
    link = html(Html("<a href="), Html(attribute(f"/traces/{trace.id}")), Html(">"), when, Html("</a>"))
    outcome = trace.outcome
    if outcome is None:
        said = trace.error if trace.status == "failed" else trace.status
        shown = html(Html('<span class="failed">'), _cut(said, 120), Html("</span>"))
        return link, trace.panel, _cut(trace.question, 120), shown, "", "", "", f"{trace.seconds:.2f}"
    tokens = f"{outcome.tokens_in + outcome.tokens_out:,}"
    answer = _cut(_answer(outcome), 120)
    return (
        link, trace.panel, _cut(trace.question, 120), answer, str(outcome.calls), tokens, f"{trace.paid:.4g}",
        f"{trace.seconds:.2f}",
    )  # fmt: skip


def _answer(outcome: Outcome) -> str:
    return "no answer that could be read" if outcome.value is None else str(outcome.value)


def request(trace: Trace) -> str:
    """One request: its tree, votes, what it cost, and all that was said."""
    parts: list[Html] = [_STYLE, _block("Question", trace.question)]
    outcome = trace.outcome
    if outcome is None:
        word = trace.error if trace.error else trace.status
        parts.append(section("What became of it", html(Html('<p class="failed">'), word, Html("</p>"))))
    else:
        parts.append(_block("Answer", outcome.text or _answer(outcome)))
        parts.append(section("Who said what to whom", tree(outcome)))
        if outcome.decision is not None and outcome.decision.counted:
            votes = sorted(outcome.decision.counted, key=lambda pair: -pair[1])
            rows = [(_cut(str(value), 200), f"{count:.4g}") for value, count in votes]
            parts.append(section("Votes", _table(("answer", "votes"), rows, words=1)))
        parts.append(section("Cost", _costs(trace, outcome)))
        parts.append(section("Replies", *(_reply(i, step) for i, step in enumerate(outcome.steps, 1))))
        if outcome.notes:
            parts.append(section("Notes", *outcome.notes))
    back = html(Html('<p><a href="/">All requests</a></p>'))
    turns = f", after {trace.turns} earlier messages" if trace.turns else ""
    return page(
        f"Request {trace.id}", *parts, back,
        lead=f"Asked of {trace.panel}{turns}; {trace.status} after {trace.seconds:.2f} s.",
    )  # fmt: skip


def _block(heading: str, text: str) -> Html:
    lines = Html("\n").join(html(line) for line in text.split("\n"))
    return section(heading, Html(f'<p class="answer said">{lines}</p>'))


def _costs(trace: Trace, outcome: Outcome) -> Html:
    rows: list[Sequence[str]] = []
    for name in dict.fromkeys(step.agent for step in outcome.steps):
        mine = [step for step in outcome.steps if step.agent == name]
        read, written = (sum(getattr(step.reply, key) for step in mine) for key in ("tokens_in", "tokens_out"))
        slowest = max(step.seconds for step in mine)
        cached = sum(step.cached for step in mine)
        rows.append((name, str(len(mine)), str(cached), f"{read:,}", f"{written:,}", f"{slowest:.2f}"))
    table = _table(("agent", "calls", "from the cache", "tokens read", "written", "slowest, s"), rows, words=1)
    money = f"Spent {trace.paid:.4g}; with an empty cache it would have been {trace.worth:.4g}."
    return html(table, Html("<p>"), money, Html("</p>"))


def _reply(number: int, step: Step) -> Html:
    value = "" if step.value is None else f": {_cut(str(step.value), 60)}"
    title = f"{number}. {step.agent}, {step.purpose}{value}"
    text = Html("\n").join(html(line) for line in step.reply.text.split("\n"))
    return html(
        Html(f'<details id="reply-{number}"><summary>'), title, Html("</summary><pre class=said>"), text, Html("</pre></details>")
    )  # fmt: skip


# --- the tree ----------------------------------------------------------------------------------------------------------


def levels(steps: Sequence[Step]) -> list[int]:
    """For each reply, how many replies lie between it and the question at most: 0 where it was shown none."""
    found: list[int] = []
    for step in steps:
        found.append(1 + max((found[i] for i in step.shown), default=-1))
    return found


def deciding(outcome: Outcome) -> list[int]:
    """Which replies the answer stands on: those that voted for it, else the last that says it."""
    value = outcome.value
    voters = {step.value for step in outcome.steps if step.value is not None} if _hashable(outcome) else set()
    last = max((i for i, step in enumerate(outcome.steps) if step.reply.text == outcome.text), default=None)
    if last is not None and outcome.steps[last].purpose == "merge":
        return [last]
    if outcome.decision is not None and outcome.decision.counted and value in voters:
        return [
            i for i, s in enumerate(outcome.steps) if s.value == value and s.purpose not in ("select", "rank", "verify")
        ]
    return [] if last is None else [last]


def _hashable(outcome: Outcome) -> bool:
    try:
        hash((outcome.value, *(step.value for step in outcome.steps)))
    except TypeError:
        return False
    return True


def tree(outcome: Outcome) -> Html:
    """Replies from left to right, each with lines from those that it was shown; green is what the answer stands on."""
    steps = outcome.steps
    columns: dict[int, list[int]] = {}
    for i, level in enumerate(levels(steps)):
        columns.setdefault(level, []).append(i)
    tallest = max((len(column) for column in columns.values()), default=1)
    height = 2 * _EDGE + tallest * (_HIGH + _GAP_Y) - _GAP_Y
    places: dict[int, tuple[float, float]] = {}
    for level, column in columns.items():
        start = (height - len(column) * (_HIGH + _GAP_Y) + _GAP_Y) / 2
        for row, i in enumerate(column):
            places[i] = (_EDGE + (level + 1) * (_WIDE + _GAP_X), start + row * (_HIGH + _GAP_Y))
    middle = (height - _HIGH) / 2
    question, end = (_EDGE, middle), (_EDGE + (len(columns) + 1) * (_WIDE + _GAP_X), middle)
    won = deciding(outcome)
    lines = [_line(question, places[i], won=False) for i, step in enumerate(steps) if not step.shown]
    lines += [
        _line(places[j], places[i], won=i in won and j in won) for i, step in enumerate(steps) for j in step.shown
    ]
    lines += [_line(places[i], end, won=True) for i in won if not any(i in steps[j].shown for j in won)]
    cards = [_card(question, "question", "", "", kind="end")]
    for i, step in enumerate(steps):
        value = "no answer" if step.value is None else str(step.value)
        small = f"{step.reply.tokens_in:,} + {step.reply.tokens_out:,} tokens, {step.seconds:.2f} s"
        small = f"{small}, cached" if step.cached else small
        if step.purpose in ("select", "rank", "verify", "score"):
            value = step.reply.text
        cards.append(
            _card(places[i], f"{i + 1}. {step.agent}: {step.purpose}", value, small, "won" if i in won else "", i + 1)
        )
    cards.append(_card(end, "answer", _answer(outcome), "", kind="end"))
    width = end[0] + _WIDE + _EDGE
    label = attribute(f"{len(steps)} replies and how they came to the answer")
    return Html(
        f'<div class="tree" tabindex="0"><svg role="img" aria-label={label} width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}">{"".join(lines)}{"".join(cards)}</svg></div>'
    )


def _line(start: tuple[float, float], end: tuple[float, float], *, won: bool) -> str:
    x0, y0, x1, y1 = start[0] + _WIDE, start[1] + _HIGH / 2, end[0], end[1] + _HIGH / 2
    bend = (x1 - x0) / 2 if x1 - x0 < 2 * _GAP_X else _GAP_X
    kind = ' class="won"' if won else ""
    return f'<path{kind} d="M{x0:g} {y0:g}C{x0 + bend:g} {y0:g} {x1 - bend:g} {y1:g} {x1:g} {y1:g}"/>'


def _card(at: tuple[float, float], who: str, value: str, small: str, kind: str, number: int | None = None) -> Html:
    x, y = at

    def text(down: int, words: str, name: str) -> Html:
        return html(
            Html(f'<text class="{name}" x="{x + 10:g}" y="{y + down:g}">'), _cut(words, _LETTERS), Html("</text>")
        )

    box = Html(f'<rect x="{x:g}" y="{y:g}" width="{_WIDE}" height="{_HIGH}" rx="8"/>')
    inside = html(box, text(22, who, "who"), text(42, value, "value"), text(61, small, "small"))
    card = html(Html(f'<g class="{kind}">'), inside, Html("</g>"))
    return card if number is None else html(Html(f'<a href="#reply-{number}">'), card, Html("</a>"))


def _cut(text: str, most: int) -> str:
    """One line of at most so many letters."""
    line = " ".join(text.split())
    return printable(line if len(line) <= most else f"{line[: most - 1]}…")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> Html:
    """A table whose first columns are words."""

    def cell(tag: str, i: int, text: str) -> Html:
        return html(Html(f'<{tag} class="words">' if i < words else f"<{tag}>"), text, Html(f"</{tag}>"))

    head = html(*(cell("th", i, text) for i, text in enumerate(headings)))
    body = "".join(f"<tr>{html(*(cell('td', i, text) for i, text in enumerate(row)))}</tr>\n" for row in rows)
    return Html(
        f'<div class="wide"><table class="list"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'
    )
