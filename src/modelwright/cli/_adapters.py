"""`mw merge`, `mw extract`, `mw apply` and `mw inspect` on adapters."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.checkpoint import adapter_at_path, plain_path, user_path
from modelwright.cli._merge import Bar, size_text
from modelwright.errors import InputError, listing, printable

if TYPE_CHECKING:
    from modelwright.adapters import ExtractedAdapter, MergedAdapter, MergedModule

_VERSION = 1
#: How many modules a table shows, those that lose most first.
_MOST = 12


def are_adapters(inputs: Sequence[str]) -> bool:
    """Whether these are adapters, which are merged by other means than models.

    Raises:
        InputError: Some are, and some are not.
    """
    kinds = {
        text: adapter_at_path(user_path(plain_path(text))) for text in inputs if not text.endswith((".yml", ".yaml"))
    }
    if not any(kinds.values()):
        return False
    if models := [text for text, is_one in kinds.items() if not is_one]:
        adapter = next(text for text, is_one in kinds.items() if is_one)
        raise InputError(
            f"'{adapter}' is an adapter, and {listing(repr(m) for m in models)} is none",
            f"To merge models, write the adapter with its model: BASE+{adapter}.",
        )
    return True


def run_merge_adapters(
    inputs: Sequence[str],
    out: str,
    method: str | None,
    base: str | None,
    sets: Sequence[str],
    rank: str | None,
    seed: int | None,
    plugins: Sequence[Path],
    options: Mapping[str, Any],
    *,
    exact: bool,
    json: bool,
    quiet: bool,
) -> None:
    """Merge adapters, and say what each module loses."""
    from modelwright.adapters import merge_adapters

    if method is None:
        raise InputError("merging adapters needs --method", "Such as cat, svd, linear, ties, knots or lora_lego.")
    started = time.time()
    merged = merge_adapters(
        inputs, method=method, base=base, rank=rank, exact=exact, overrides=sets, seed=seed, plugins=plugins,
        threads=options["threads"],
    )  # fmt: skip
    _save_and_say(merged, out, options, started, "merged into", json=json, quiet=quiet)


def run_extract_adapter(
    tuned: str,
    base: str | None,
    out: str,
    rank: str | None,
    options: Mapping[str, Any],
    *,
    save: Sequence[str],
    skip: Sequence[str],
    small: bool,
    exact: bool,
    json: bool,
    quiet: bool,
) -> None:
    """Extract an adapter, and say what each module loses."""
    from modelwright.adapters import extract_adapter

    if base is None:
        raise InputError("--adapter needs --base", "Name the model that it was tuned from.")
    if rank is None:
        raise InputError("--adapter needs --rank", "Write --rank 16, --rank energy:0.95 or --rank error:0.05.")
    started = time.time()
    found = extract_adapter(
        tuned, base=base, rank=rank, save=save, skip=skip, small=small, exact=exact, threads=options["threads"]
    )
    _save_and_say(found, out, options, started, "extracted into", json=json, quiet=quiet)


def run_apply_adapters(
    base: str, adapters: Sequence[str], out: str, options: Mapping[str, Any], *, json: bool, quiet: bool
) -> None:
    """Bake adapters into a model."""
    from modelwright.adapters import apply_adapters
    from modelwright.cli._merge import run_merge

    run_merge(apply_adapters(base, adapters), out, options, json=json, quiet=quiet, done="applied into")


def _save_and_say(
    done: MergedAdapter | ExtractedAdapter,
    out: str,
    options: Mapping[str, Any],
    started: float,
    words: str,
    *,
    json: bool,
    quiet: bool,
) -> None:
    with Bar(enabled=not quiet and not json) as bar:
        result = done.save(out, **options, progress=bar.update)
    if json:
        modules = [{"module": m.module, "rank": m.rank, "norm": m.norm, "error": m.error} for m in done.modules]
        left = dict(getattr(done, "left", {}))
        found = {"version": _VERSION, "ok": True, "out": str(result.out), "bytes_written": result.bytes_out,
                 "exact": done.exact, "error": done.error, "modules": modules, "left_out": left, "notes": list(done.notes)}  # fmt: skip
        print(json_module.dumps(found, indent=1, ensure_ascii=False))  # noqa: T201
        return
    if quiet:
        return
    from rich.console import Console

    console = Console()
    _table(console, done.modules)

    def say(text: str) -> None:
        console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    for note in done.notes:
        say(f"note: {note}")
    total = "exact, up to rounding" if done.exact else f"loses {done.error:.3g} of the norm in all"
    ranks = sorted({module.rank for module in done.modules})
    say(f"{len(done.modules)} modules of rank {listing(ranks, 6)}; {total}")
    say(f"{words} {result.out}: {size_text(result.bytes_out)} in {time.time() - started:.1f} s")


def _table(console: Any, modules: Sequence[MergedModule]) -> None:
    """The modules that lose most."""
    from rich.table import Table
    from rich.text import Text

    worst = sorted((m for m in modules if m.error > 0), key=lambda m: -m.error)[:_MOST]
    if not worst or worst[0].error < 1e-6:
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("module")
    for column in ("rank", "norm", "lost"):
        table.add_column(column, justify="right")
    for module in worst:
        table.add_row(Text(printable(module.module)), str(module.rank), f"{module.norm:.3g}", f"{module.error:.3g}")
    console.print(table)
    if len(modules) > len(worst):
        console.print(f"and {len(modules) - len(worst)} more that lose less", style="dim", highlight=False)


def show_overlaps(references: Sequence[str], *, json: bool) -> None:
    """What adapters have in common, module by module."""
    from modelwright.adapters import overlap

    found = overlap(references)
    if json:
        print(json_module.dumps(found.as_json(), indent=1, ensure_ascii=False))  # noqa: T201
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for first, second in found.pairs:
        pair = found.between(first, second)
        names = printable(f"{found.labels[first]} and {found.labels[second]}")
        console.print(
            f"\n{names}: cosine {pair.cosine:.3f} over {len(pair.modules)} shared modules",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("module")
        for column in ("cosine", "outputs", "inputs"):
            table.add_column(column, justify="right")
        for module in sorted(pair.modules, key=lambda m: -abs(m.cosine))[:_MOST]:
            table.add_row(
                Text(printable(module.module)), f"{module.cosine:.3f}", f"{module.outputs:.3f}", f"{module.inputs:.3f}"
            )
        console.print(table)


def show_adapter_method(name: str, *, json: bool, cite: bool) -> bool:
    """Show a method that is about adapters alone; False where there is none of this name."""
    from modelwright.adapters import ADAPTER_METHODS

    method = ADAPTER_METHODS.get(name)
    if method is None:
        return False
    fields = [
        {
            "name": field.name,
            "per_model": field.per_model,
            "required": False,
            "rule": field.rule,
            "default": field.default,
            "help": field.help,
        }
        for field in method.fields.values()
    ]
    if cite:
        print(method.cite)  # noqa: T201
    elif json:
        told = {"name": method.name, "title": method.title, "paper": method.paper, "summary": method.summary,
                "parameters": fields, "differs": list(method.differs)}  # fmt: skip
        print(json_module.dumps([told], indent=2, ensure_ascii=False))  # noqa: T201
    else:
        from rich.console import Console
        from rich.table import Table

        console = Console()
        console.print(f"[bold]{method.title}[/bold]  {method.paper}, of adapters alone", highlight=False)
        console.print(f"{method.summary}\n", highlight=False, markup=False)
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("parameter", "of", "default", "value", "meaning"):
            table.add_column(column, no_wrap=column == "parameter")
        for field in fields:
            of = "adapter" if field["per_model"] else "all"
            table.add_row(str(field["name"]), of, str(field["default"]), str(field["rule"]), str(field["help"]))
        console.print(table)
        console.print("\ndiffers from the paper or from other tools", style="dim")
        for i, entry in enumerate(method.differs, 1):
            console.print(f"  {i}. {entry}", highlight=False, markup=False)
    return True
