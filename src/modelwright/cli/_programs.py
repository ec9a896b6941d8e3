"""`mw methods --kind program`: what chat panels can do."""

from __future__ import annotations

import json as json_module
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.table import Table

from modelwright.chat import ALIASES, NEEDS, PROGRAMS, Program, Sandbox
from modelwright.errors import InputError, did_you_mean


def sandbox(*, allow_code: bool, allow_network: bool) -> Sandbox | None:
    """What runs code that models write, where the user allows it.

    Raises:
        InputError: The network is allowed to nothing.
    """
    if allow_network and not allow_code:
        raise InputError("--allow-network is for code that models write", "Say --allow-code too, or leave it out.")
    return Sandbox(network=allow_network) if allow_code else None


def show_programs(name: str | None, *, json: bool) -> None:
    """List programs, or show one."""
    found = [_find(name)] if name else list(PROGRAMS.values())
    if json:
        print(json_module.dumps([describe(program) for program in found], indent=2, ensure_ascii=False))  # noqa: T201
    elif name:
        _render(Console(), found[0])
    else:
        table = Table(box=None, pad_edge=False, header_style="dim")
        narrow = Console().width < 100
        for column in ("name", "calls", *(() if narrow else ("needs",)), "what it does"):
            table.add_column(column, no_wrap=column == "name")
        for program in found:
            needs = () if narrow else (", ".join(needed(program)),)
            table.add_row(program.name, calls_text(program), *needs, program.summary)
        Console().print(table)


def _find(name: str) -> Program:
    program = PROGRAMS.get(ALIASES.get(name, name))
    if program is None:
        raise InputError(f"there is no program '{name}'", did_you_mean(name, PROGRAMS))
    return program


def example(program: Program) -> Any:
    """Its parameters at their defaults, with two labels where there must be some."""
    required = {
        n: ["a", "b"] for n, f in program.params.model_fields.items() if f.is_required() and "list" in str(f.annotation)
    }
    given: dict[str, Any] = dict(required)
    return program.params.model_construct(None, **given) if given else program.params()


def calls_text(program: Program) -> str:
    """Calls for a question: the formula, or the numbers at defaults with one agent and three."""
    if program.technique and program.technique.calls:
        return program.technique.calls
    formula = str(program.calls)
    if not formula.startswith("<"):
        return formula
    try:
        least, most = program.calls(example(program), ["a", "b", "c"])
    except (InputError, ValueError, AttributeError, IndexError):
        return "by its parameters"
    return f"{least}" if least == most else f"{least} to {most}"


def needed(program: Program) -> list[str]:
    """What it needs beside agents, by default."""
    try:
        return [name for name, count in program.needs(example(program)).items() if count]
    except (AttributeError, TypeError, ValueError):
        return []


def describe(program: Program) -> dict[str, Any]:
    """A program as plain data; the keys are stable."""
    technique = program.technique
    prepares = None if program.prepares is None else str(program.prepares)
    return {
        "name": program.name,
        "title": program.title,
        "paper": program.paper,
        "summary": program.summary,
        "calls": calls_text(program),
        "prepares": "by its parameters" if prepares and prepares.startswith("<") else prepares,
        "needs": needed(program),
        "technique": None
        if technique is None
        else {
            "number": technique.number,
            "section": technique.section,
            "acquisition": technique.acquisition,
            "turns": technique.turns,
            "aliases": list(technique.aliases),
        },
        "parameters": [
            {"name": name, "required": f.is_required(), "default": _default(f), "help": f.description or ""}
            for name, f in program.params.model_fields.items()
        ],
        "differs": list(program.differs),
    }


def _default(field: Any) -> Any:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return None
    return value.model_dump() if isinstance(value, BaseModel) else value


def _render(console: Console, program: Program) -> None:
    data = describe(program)
    plain: dict[str, Any] = {"highlight": False, "markup": False}
    console.print(f"{program.title}  {program.paper}", style="bold", **plain)
    console.print(program.summary, **plain)
    console.print(f"calls for a question: {data['calls']}", **plain)
    if data["prepares"]:
        console.print(f"calls once, before the first: {data['prepares']}", **plain)
    for name in data["needs"]:
        console.print(f"needs {name}. {NEEDS[name][1]}", **plain)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("parameter", "default", "meaning"):
        table.add_column(column, no_wrap=column == "parameter")
    for entry in data["parameters"]:
        table.add_row(
            entry["name"],
            "required" if entry["required"] else json_module.dumps(entry["default"], default=str),
            entry["help"],
        )
    console.print(table)
    for i, text in enumerate(program.differs, 1):
        console.print(f"  {i}. {text}" if i > 1 else f"\ndiffers from the paper\n  {i}. {text}", **plain)
