"""`mw methods`."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from modelwright.api import registry
from modelwright.methods import LAWS, Method


def show_methods(name: str | None, plugins: Sequence[Path], *, json: bool, cite: bool) -> None:
    """List methods, or show one."""
    known = registry(plugins)
    if name and name not in known:
        from modelwright.cli._adapters import show_adapter_method

        if show_adapter_method(name, json=json, cite=cite):
            return
    chosen = [known.find(name)] if name else [known[key] for key in known]
    if cite:
        print("\n\n".join(dict.fromkeys(method.cite for method in chosen if method.cite)))  # noqa: T201
    elif json:
        print(json_module.dumps([describe(method) for method in chosen], indent=2, ensure_ascii=False))  # noqa: T201
    elif name:
        _render(Console(), chosen[0])
    else:
        table = Table(box=None, pad_edge=False, header_style="dim")
        narrow = Console().width < 80
        for column in ("name", "models", "base", *(() if narrow else ("reads",)), "what it does"):
            table.add_column(column, no_wrap=column != "what it does")
        for method in chosen:
            reads = () if narrow else (f"{method.cost('community')[0]}x",)
            table.add_row(method.name, models_text(method), method.base, *reads, method.summary)
        Console().print(table)
        Console().print("\nof adapters alone: cat, svd, knots, lora_lego, mos", style="dim", highlight=False)


def models_text(method: Method) -> str:
    """`2`, `2+` or `1-3`: how many models beside the base."""
    least, most = method.models
    return str(least) if least == most else f"{least}+" if most is None else f"{least}-{most}"


def cost_text(passes: int, memory: float | None) -> str:
    """What a merge costs, in words."""
    times = {1: "once", 2: "twice"}.get(passes, f"{passes} times")
    held = "a few blocks" if memory is None else f"{memory:g} bytes for each element of the largest tensor"
    return f"reads its inputs {times}; holds {held}"


def describe(method: Method) -> dict[str, Any]:
    """A method as plain data; the keys are stable."""
    defaults = method.defaults("community")
    paper = method.defaults("paper")
    passes, memory = method.cost("community")
    return {
        "name": method.name,
        "title": method.title,
        "paper": method.paper,
        "summary": method.summary,
        "needs": [*(["base"] if method.base == "required" else []), *method.needs],
        "base": method.base,
        "models": list(method.models),
        "scope": method.scope({**dict.fromkeys(method.fields), **_example(method, defaults)}),
        "reproducible": method.reproducible,
        "random": method.random,
        "passes": passes,
        "bytes_per_element": memory,
        "laws": sorted(method.laws),
        "parameters": [
            {
                "name": field.name,
                "per_model": field.per_model,
                "required": field.required,
                "rule": field.rule,
                "default": defaults.get(field.name),
                "paper": paper.get(field.name),
                "help": field.help,
            }
            for field in method.fields.values()
        ],
        "differs": list(method.differs),
    }


def _example(method: Method, defaults: dict[str, Any]) -> dict[str, Any]:
    return {name: (value,) if method.fields[name].per_model else value for name, value in defaults.items()}


def _render(console: Console, method: Method) -> None:
    data = describe(method)
    console.print(f"[bold]{method.title}[/bold]  {method.paper}", highlight=False)
    console.print(method.summary, highlight=False)
    base = {"required": "needs a base", "optional": "takes a base", "ignored": "has no base"}[method.base]
    console.print(f"{models_text(method)} models beside the base; {base}; scope: {data['scope']}", highlight=False)
    console.print(f"{cost_text(data['passes'], data['bytes_per_element'])}\n", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("parameter", "of", "default", "paper", "value", "meaning"):
        table.add_column(column, no_wrap=column == "parameter")
    for entry in data["parameters"]:
        default = "required" if entry["required"] else _shown(entry["default"])
        paper = _shown(entry["paper"]) if entry["paper"] != entry["default"] else ""
        of = "model" if entry["per_model"] else "all"
        table.add_row(entry["name"], of, default, paper, entry["rule"], entry["help"])
    console.print(table)
    if method.laws:
        console.print("\nlaws, tested", style="dim")
        for law in data["laws"]:
            console.print(f"  {law}: {LAWS[law]}", highlight=False, markup=False)
    if method.differs:
        console.print("\ndiffers from the paper or from other tools", style="dim")
        for i, entry in enumerate(method.differs, 1):
            console.print(f"  {i}. {entry}", highlight=False, markup=False)


def _shown(value: Any) -> str:
    return (
        {True: "true", False: "false", None: "none"}.get(value, str(value))
        if not isinstance(value, float)
        else f"{value:g}"
    )
