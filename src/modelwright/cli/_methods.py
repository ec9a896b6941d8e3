"""`mw methods`."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from modelwright.api import registry
from modelwright.errors import InputError, did_you_mean
from modelwright.methods import CALIBRATORS, COMBINERS, LAWS, OUTPUT_LAWS, Method, OutputMethod, Parameter, Registry

KINDS = ("merging", "ensembling", "calibration", "program")


def show_methods(name: str | None, plugins: Sequence[Path], kind: str | None, *, json: bool, cite: bool) -> None:
    """List methods, or show one."""
    if kind == "program":
        from modelwright.cli._programs import show_programs

        if plugins or cite:
            raise InputError("--plugin and --cite are of merging methods", "Leave them out with --kind program.")
        return show_programs(name, json=json)
    known = registry(plugins)
    if name and name not in {*known, *COMBINERS, *CALIBRATORS}:
        from modelwright.cli._adapters import show_adapter_method

        if show_adapter_method(name, json=json, cite=cite):
            return
    chosen = _chosen(known, name, kind)
    if cite:
        print("\n\n".join(dict.fromkeys(method.cite for method in chosen if method.cite)))  # noqa: T201
    elif json:
        print(json_module.dumps([describe(method) for method in chosen], indent=2, ensure_ascii=False))  # noqa: T201
    elif name:
        _render(Console(), chosen[0])
    else:
        _list(Console(), chosen)
        if kind in (None, "merging"):
            Console().print("\nof adapters alone: cat, svd, knots, lora_lego, mos", style="dim", highlight=False)


def _chosen(merging: Registry, name: str | None, kind: str | None) -> list[Method | OutputMethod]:
    """One method, or all of a kind: those of weights first."""
    if kind is not None and kind not in KINDS:
        raise InputError(f"there are no methods of the kind '{kind}'", did_you_mean(kind, KINDS))
    if name is not None:
        return [{**COMBINERS, **CALIBRATORS}.get(name) or merging.find(name)]
    every = [*merging.values(), *COMBINERS.values(), *CALIBRATORS.values()]
    return [method for method in every if kind in (None, method.kind)]


def _list(console: Console, chosen: Sequence[Method | OutputMethod]) -> None:
    left_out = {"kind", "reads"} if console.width < 80 else set[str]()
    rows = [_row(method) for method in chosen]
    table = Table(box=None, pad_edge=False, header_style="dim")
    shown = [column for column in rows[0] if column not in left_out]
    for column in shown:
        table.add_column(column, no_wrap=column != "what it does")
    for row in rows:
        table.add_row(*(row[column] for column in shown))
    console.print(table)


def _row(method: Method | OutputMethod) -> dict[str, str]:
    if isinstance(method, OutputMethod):
        needs, reads = "labels" if method.fit is not None else "", ""
    else:
        needs = {"required": "base", "optional": "(base)", "ignored": ""}[method.base]
        reads = f"{method.cost('community')[0]}x"
    return {
        "name": method.name, "kind": method.kind, "of": models_text(method), "needs": needs, "reads": reads,
        "what it does": method.summary,
    }  # fmt: skip


def models_text(method: Method | OutputMethod) -> str:
    """`2`, `2+` or `1-3`: how many models beside the base, or members."""
    if isinstance(method, OutputMethod):
        return "1+" if method.kind == "ensembling" else "each"
    least, most = method.models
    return str(least) if least == most else f"{least}+" if most is None else f"{least}-{most}"


def cost_text(passes: int, memory: float | None) -> str:
    """What a merge costs, in words."""
    times = {1: "once", 2: "twice"}.get(passes, f"{passes} times")
    held = "a few blocks" if memory is None else f"{memory:g} bytes for each element of the largest tensor"
    return f"reads its inputs {times}; holds {held}"


def describe(method: Method | OutputMethod) -> dict[str, Any]:
    """A method as plain data; the keys are stable."""
    return _of_outputs(method) if isinstance(method, OutputMethod) else _of_weights(method)


def _of_outputs(method: OutputMethod) -> dict[str, Any]:
    return {
        "name": method.name,
        "title": method.title,
        "kind": method.kind,
        "paper": method.paper,
        "summary": method.summary,
        "needs": [] if method.fit is None else ["labels"],
        "takes": sorted(method.takes),
        "gives": method.gives,
        "laws": sorted(method.laws),
        "parameters": [_parameter(field, field.default, field.default) for field in method.fields.values()],
        "differs": list(method.differs),
    }


def _parameter(field: Parameter, default: Any, paper: Any) -> dict[str, Any]:
    return {
        "name": field.name,
        "per_model": field.per_model,
        "required": field.required,
        "rule": field.rule,
        "default": default,
        "paper": paper,
        "help": field.help,
    }


def _of_weights(method: Method) -> dict[str, Any]:
    defaults = method.defaults("community")
    paper = method.defaults("paper")
    passes, memory = method.cost("community")
    return {
        "name": method.name,
        "title": method.title,
        "kind": method.kind,
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
            _parameter(field, defaults.get(field.name), paper.get(field.name)) for field in method.fields.values()
        ],
        "differs": list(method.differs),
    }


def _example(method: Method, defaults: dict[str, Any]) -> dict[str, Any]:
    return {name: (value,) if method.fields[name].per_model else value for name, value in defaults.items()}


def _render(console: Console, method: Method | OutputMethod) -> None:
    data = describe(method)
    console.print(f"[bold]{method.title}[/bold]  {method.paper}", highlight=False)
    console.print(method.summary, highlight=False)
    if isinstance(method, OutputMethod):
        console.print(f"{output_text(method)}\n", highlight=False)
    else:
        _say_cost(console, method, data)
    if data["parameters"]:
        console.print(_parameters(data["parameters"]))
    if method.laws:
        console.print("\nlaws, tested", style="dim")
        for law in data["laws"]:
            text = OUTPUT_LAWS[law] if isinstance(method, OutputMethod) else LAWS[law]
            console.print(f"  {law}: {text}", highlight=False, markup=False)
    if method.differs:
        console.print("\ndiffers from the paper or from other tools", style="dim")
        for i, entry in enumerate(method.differs, 1):
            console.print(f"  {i}. {entry}", highlight=False, markup=False)


def output_text(method: OutputMethod) -> str:
    """What a method on outputs takes, learns and gives, in words."""
    takes = ", ".join(sorted(method.takes))
    whose = "all members" if method.kind == "ensembling" else "each member"
    learns = "learns from labels" if method.fit is not None else "learns nothing"
    return f"{method.kind}: takes predictions of {whose} ({takes}); {learns}; gives {method.gives}"


def _say_cost(console: Console, method: Method, data: dict[str, Any]) -> None:
    base = {"required": "needs a base", "optional": "takes a base", "ignored": "has no base"}[method.base]
    console.print(f"{models_text(method)} models beside the base; {base}; scope: {data['scope']}", highlight=False)
    console.print(f"{cost_text(data['passes'], data['bytes_per_element'])}\n", highlight=False)


def _parameters(entries: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("parameter", "of", "default", "paper", "value", "meaning"):
        table.add_column(column, no_wrap=column == "parameter")
    for entry in entries:
        default = "required" if entry["required"] else _shown(entry["default"])
        paper = _shown(entry["paper"]) if entry["paper"] != entry["default"] else ""
        of = "model" if entry["per_model"] else "all"
        table.add_row(entry["name"], of, default, paper, entry["rule"], entry["help"])
    return table


def _shown(value: Any) -> str:
    if isinstance(value, bool):  # which 0 and 1 are equal to
        return "true" if value else "false"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
