"""`mw inspect`."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.bundle import is_bundle
from modelwright.cli._merge import size_text
from modelwright.errors import InputError, listing, printable
from modelwright.surgery import Adapter, Group, Inspection, inspect
from modelwright.surgery._inspect import check_folder

if TYPE_CHECKING:
    from rich.console import Console


def run_inspect(models: Sequence[str], *, tensors: bool, json: bool) -> None:
    """Show what a model is; of several adapters, what they have in common."""
    for model in models:
        check_folder(model)
    if len(models) > 1:
        from modelwright.cli._adapters import are_adapters, show_overlaps

        if not are_adapters(models):
            raise InputError(f"{len(models)} models cannot be inspected at once", "Give one; mw diff compares models.")
        if not json:
            for model in models:
                run_inspect([model], tensors=tensors, json=False)
        show_overlaps(models, json=json)
        return
    model = models[0]
    if is_bundle(Path(model).expanduser()):
        from modelwright.cli._bundle import show_bundle

        show_bundle(model, json=json)
        return
    found = inspect(model)
    if json:
        print(json_module.dumps(found.as_json(), indent=1, ensure_ascii=False))  # noqa: T201
        return
    from rich.console import Console

    _show(Console(), found, tensors=tensors)


def _show(console: Console, found: Inspection, *, tensors: bool) -> None:
    def say(text: str, **style: Any) -> None:
        console.print(printable(text), highlight=False, markup=False, soft_wrap=True, **style)

    say(found.model, style="bold")
    for name, value in _facts(found):
        if value:
            say(f"  {name:<13} {value}")
    if found.adapter is not None:
        _say_adapter(console, say, found.adapter)
    if tensors:
        table = _table("tensor", "format", "shape")
        for name, (dtype, shape) in found.shapes.items():
            table.add_row(_text(name), dtype, _shape(shape))
        console.print(table)
    elif found.adapter is None:
        console.print(_groups("layer", found.layers, found))
        if any(group.tensors > 1 for group in found.kinds):
            console.print(_groups("kind", found.kinds, found))
    if found.lineage.parents:
        say("\nlineage", style="dim")
        for line in found.lineage.lines():
            say(f"  {line}")
    for note in found.notes:
        say(f"note: {note}", style="dim")


def _facts(found: Inspection) -> list[tuple[str, str]]:
    """What fits a line each."""
    vocabulary = found.vocabulary
    words = {"tokens": "tokens in the tokenizer", "rows": "rows in the embedding", "config": "by config.json"}
    counted = [f"{vocabulary[key]:,} {text}" for key, text in words.items() if vocabulary[key] is not None]
    formats = [f"{group.name} ({group.tensors} tensors, {size_text(group.bytes)})" for group in found.dtypes]
    kind = {"merge": "made by modelwright", "adapter": "an adapter"}.get(found.what, "")
    return [
        ("kind", kind),
        ("architecture", ", ".join(found.architectures) or found.model_type),
        ("licence", found.licence or "not stated"),
        ("parameters", f"{found.parameters:,} in {found.tensors} tensors, {size_text(found.bytes)}"),
        ("formats", ", ".join(formats)),
        ("layers", ", ".join(f"{count} in {stack or 'the model'}" for stack, count in found.stacks.items())),
        ("vocabulary", ", ".join(counted)),
        ("tied", ", ".join(f"{name} = {source}" for name, source in found.tied.items())),
    ]


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column in ("format", "shape") else "right", no_wrap=i > 0)
    return table


def _text(text: str) -> Any:
    from rich.text import Text

    return Text(printable(text))


def _groups(what: str, groups: Sequence[Group], found: Inspection) -> Any:
    shapes = what == "kind"
    table = _table(f"\n{what}", "\ntensors", "\nparameters", "\nshare", "\nbytes", *(["\nshape"] if shapes else []))
    total = sum(group.parameters for group in groups) or 1
    for group in groups:
        more = f" and {len(group.shapes) - 1} more" if len(group.shapes) > 1 else ""
        table.add_row(
            _text(group.name), str(group.tensors), f"{group.parameters:,}", f"{100 * group.parameters / total:.1f} %",
            size_text(group.bytes), *([_shape(next(iter(group.shapes), ())) + more] if shapes else []),
        )  # fmt: skip
    return table


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _say_adapter(console: Console, say: Any, adapter: Adapter) -> None:
    for name, value in (
        ("kind", adapter.kind), ("rank", adapter.rank), ("alpha", adapter.alpha), ("targets", ", ".join(adapter.targets)),
        ("trained on", adapter.base), *adapter.settings.items(),
    ):  # fmt: skip
        if value not in (None, ""):
            say(f"  {name:<13} {value}")
    if adapter.saved:
        say(f"  {'whole':<13} {listing(adapter.saved, 6)}")
    table = _table("\nlayer", "\nmodules", "\nrank", "effective\nrank", "norm of\nwhat is added", "\nlargest in")
    layers: dict[str, list[Any]] = {}
    for module in adapter.modules:
        layers.setdefault(module.layer, []).append(module)
    for layer, modules in layers.items():
        largest = max(modules, key=lambda module: module.norm)
        ranks = sorted({module.rank for module in modules if module.rank is not None})
        effective = [module.effective for module in modules if module.effective is not None]
        share = f"{sum(effective) / len(effective):.1f}" if effective else ""
        norm = sum(module.norm**2 for module in modules) ** 0.5
        where = largest.module.rpartition(".")[2]
        table.add_row(_text(layer), str(len(modules)), ", ".join(map(str, ranks)), share, f"{norm:.3g}", _text(where))
    console.print(table)
