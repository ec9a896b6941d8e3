"""`mw chat`."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelwright.chat import Conversations, Outcome, Panel, Sandbox, Spent, panel as panel_of
from modelwright.errors import InputError, printable

_JSON_VERSION = 1
#: The question that stands for standard input.
_STDIN = "-"


def run_chat(
    path: Path,
    question: str | None,
    *,
    budget: float | None,
    cache: Path | None,
    transcript: Path | None,
    replay: Path | None,
    json: bool,
    quiet: bool,
    code: Sandbox | None = None,
) -> None:
    """Put a question to a panel; without one, show what the panel is."""
    if replay is not None and (cache or transcript or budget is not None):
        raise InputError(
            "--replay asks nobody, so it goes with neither --cache nor --transcript nor --budget", "Leave them out."
        )
    panel = panel_of(path, code=code)
    if question is None:
        _show(panel, json=json)
        return
    asked = sys.stdin.read().strip() if question == _STDIN else question
    if not asked.strip():
        raise InputError("the question is empty", "Give a text, or - to read it from standard input.")
    with Conversations(panel, budget, cache, transcript, replay) as work:
        outcome = work.solve([asked])[0]
        spent = work.session.ledger.total
    if json:
        print(json_module.dumps(_json(panel, outcome, spent), indent=2, ensure_ascii=False))  # noqa: T201
    elif quiet:
        print(_answer(outcome))  # noqa: T201
    else:
        _render(panel, outcome, spent)


def _answer(outcome: Outcome) -> str:
    return "" if outcome.value is None else str(outcome.value)


def _show(panel: Panel, *, json: bool) -> None:
    least, most = panel.calls
    if json:
        said = {"version": _JSON_VERSION, "panel": panel.name, "program": panel.program.name, "calls": [least, most]}
        said |= {"agents": {name: agent.backend.model for name, agent in panel.agents.items()}, "budget": panel.budget}
        print(json_module.dumps(said, indent=2, ensure_ascii=False))  # noqa: T201
        return
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("agent", "backend", "temperature", "max tokens", "costs up to"):
        table.add_column(column)
    for name, agent in panel.agents.items():
        sampling = agent.sampling
        money = f"{panel.dearest(name, '?'):.3g}" if any(vars(agent.price).values()) else ""
        cells = [name, agent.backend.model, f"{sampling.temperature:g}", f"{sampling.max_tokens:,}", money]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
    calls = f"{least}" if least == most else f"{least} to {most}"
    budget = "no budget" if panel.budget is None else f"a budget of {panel.budget:g}"
    kept = "in memory" if panel.cache is None else f"in {panel.cache}"
    text = f"{panel.program.title}: {calls} calls a question; {budget}; replies are kept {kept}"
    console.print(printable(text), style="dim", highlight=False, markup=False, soft_wrap=True)


def _render(panel: Panel, outcome: Outcome, spent: Spent) -> None:
    plain: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
    console = Console()
    if outcome.value is None:
        console.print("no answer could be read", style="yellow", **plain)
    for line in outcome.text.split("\n") if outcome.text else ():
        console.print(printable(line), **plain)
    for line in _votes(outcome):
        console.print(printable(line), style="dim", **plain)
    for note in outcome.notes:
        console.print(printable(note), style="yellow", **plain)
    cached = f", {spent.cached} of them from the cache" if spent.cached else ""
    console.print(
        f"{panel.program.title}: {outcome.calls} calls{cached}; {outcome.tokens_in:,} tokens read and "
        f"{outcome.tokens_out:,} written; {spent.money:.4g} spent",
        style="dim",
        **plain,
    )


def _votes(outcome: Outcome) -> list[str]:
    if outcome.decision is None or not outcome.decision.counted:
        return []
    tie = ", a tie" if outcome.decision.tied else ""
    return [f"votes{tie}: {'; '.join(f'{value}: {votes:g}' for value, votes in _counted(outcome))}"]


def _counted(outcome: Outcome) -> list[tuple[str, float]]:
    """Answers with their votes, most first; long answers shortened."""
    decision = outcome.decision
    assert decision is not None
    pairs = [(str(value)[:60], votes) for value, votes in decision.counted]
    return sorted(pairs, key=lambda pair: -pair[1])


def _json(panel: Panel, outcome: Outcome, spent: Spent) -> dict[str, Any]:
    return {
        "version": _JSON_VERSION,
        "ok": True,
        "panel": panel.name,
        "program": panel.program.name,
        "answer": outcome.value,
        "text": outcome.text,
        "votes": dict(_counted(outcome)) if outcome.decision else None,
        "calls": outcome.calls,
        "tokens_in": outcome.tokens_in,
        "tokens_out": outcome.tokens_out,
        "spent": vars(spent),
        "facts": outcome.facts,
        "notes": list(outcome.notes),
        "replies": [
            {"agent": s.agent, "purpose": s.purpose, "sample": s.sample, "answer": s.value, **s.reply.as_json()}
            for s in outcome.steps
        ],
    }
