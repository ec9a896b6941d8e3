"""`mw tokenizer diff` and `mw tokenizer transplant`."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.cli._merge import Bar, size_text
from modelwright.errors import InputError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from modelwright.tokenizers import Predicted, TokenizerDifference, Transplant

_VERSION = 1


def lines_of(files: Sequence[Path]) -> list[str]:
    """The lines of texts that have something on them."""
    return [line for file in files for line in text_of(file).splitlines() if line.strip()]


def text_of(file: Path) -> str:
    """A text file's text."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--text: '{file}' cannot be read as text ({error})", "Give a file in UTF-8.") from None


def run_diff(first: str, second: str, files: Sequence[Path], *, json: bool) -> None:
    """Compare, and print tables or a document."""
    from modelwright.tokenizers import diff

    found = diff(first, second, texts=lines_of(files))
    if json:
        document = {"version": _VERSION, "ok": True, **found.as_json()}
        print(json_module.dumps(document, indent=1, ensure_ascii=False))  # noqa: T201
        return
    from rich.console import Console

    _render(Console(), found)


def _render(console: Console, found: TokenizerDifference) -> None:
    from rich.table import Table
    from rich.text import Text

    def say(text: str, style: str = "") -> None:
        console.print(printable(text), style=style, highlight=False, markup=False, soft_wrap=not console.is_terminal)

    sides = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", *found.labels):
        sides.add_column(Text(printable(heading)))
    sides.add_row("kind", *found.kinds)
    sides.add_row("tokens", *(f"{size:,}" for size in found.sizes))
    sides.add_row("only there", *(f"{count:,}" for count in found.only))
    for role, pair in found.special.items():
        sides.add_row(role, *(Text(printable(text or "none")) for text in pair))
    console.print(sides)
    say(f"{found.shared:,} tokens are in both, {found.moved:,} of them with another number")
    if found.pipeline:
        say(f"they differ in {', '.join(found.pipeline)}")
    for label, examples, added, defects in zip(found.labels, found.examples, found.added, found.defects, strict=True):
        if examples:
            say(f"only {label}: {' '.join(repr(text) for text in examples)}", "dim")
        for text, what in list(added.items())[:20]:
            say(f"added token of {label}: {text!r}, {what}")
        for defect in defects:
            say(f"{label}: {defect}", "yellow")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("texts", "number", "changed", "lost", "tokens", "then"):
        table.add_column(heading, justify="left" if heading == "texts" else "right")
    for kind, row in found.by_kind().items():
        table.add_row(kind, *(f"{count:,}" for count in row))
    console.print(table)
    for one in found.changed[:5]:
        say(f"{one.text[:60]!r}: {one.before} tokens, then {one.after}{', and lost' if one.lost else ''}", "dim")
    for one in found.lost[:5]:
        say(f"lost: {one.text[:60]!r}", "yellow")
    _render_templates(found, say)
    if found.same:
        say("nothing differs: texts become the same numbers")


def _render_templates(found: TokenizerDifference, say: Callable[..., None]) -> None:
    has = [template is not None for template in found.templates]
    if has[0] != has[1]:
        say(f"only {found.labels[0] if has[0] else found.labels[1]} has a chat template", "yellow")
    elif found.templates[0] != found.templates[1]:
        say(
            f"chat templates differ, and write {len(found.rendered)} of 3 conversations differently"
            if found.rendered
            else "chat templates differ, and write the same conversations"
        )
    for name, pair in found.rendered.items():
        for label, text in zip(found.labels, pair, strict=True):
            say(f"  {name}, {label}: {text[:200]!r}", "dim")


def run_transplant(
    model: str,
    out: str,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    text: Path | None,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Make the model, and say how well rows come out and texts are predicted."""
    from modelwright.tokenizers import predicted, transplant

    written = text_of(text) if text is not None else None
    device = settings["device"]
    started = time.time()
    before = predicted(model, written, device=device) if written is not None else None
    made = transplant(model, **settings)
    with Bar(enabled=not quiet and not json) as bar:
        result = made.save(out, **options, progress=bar.update)
    after = predicted(result.out, written, device=device) if written is not None else None
    if json:
        document = {
            "version": _VERSION, "ok": True, "out": str(result.out), "method": made.method, "tokens": made.tokens,
            "shared": made.shared, "coverage": made.coverage, "rows": made.rows,
            "restored": [{k: None if v != v else v for k, v in one._asdict().items()} for one in made.restored],
            "before": before and vars(before), "after": after and vars(after), "notes": list(made.notes),
        }  # fmt: skip
        print(json_module.dumps(document, indent=1, ensure_ascii=False))  # noqa: T201
    elif not quiet:
        _say_made(made, before, after)
        seconds = time.time() - started
        print(printable(f"transplanted into {result.out}: {size_text(result.bytes_out)} in {seconds:.1f} s"))  # noqa: T201


def _say_made(made: Transplant, before: Predicted | None, after: Predicted | None) -> None:
    from rich.console import Console

    console = Console()

    def say(line: str) -> None:
        console.print(printable(line), highlight=False, markup=False, soft_wrap=not console.is_terminal)

    new = made.tokens - made.shared
    say(
        f"  {made.shared:,} of {made.tokens:,} tokens are known ({made.coverage:.1%}), {new:,} rows are made by {made.method}"
    )
    for one in made.restored:
        left = (
            ""
            if one.residual != one.residual
            else f"; in the donor {one.residual:.3f} of a new row is left unexplained"
        )
        say(
            f"  {one.tensor}: {one.rows:,} known rows made again have the relative error {one.error:.3f}, cosine "
            f"{one.cosine:.3f}{left}"
        )
    for note in made.notes:
        say(f"  note: {note}")
    for word, found in (("before", before), ("after", after)):
        if found is not None:
            say(
                f"  {word}: {found.bits_per_byte:.4f} bits a byte, perplexity {found.perplexity:.2f} of {found.tokens:,} tokens"
            )
