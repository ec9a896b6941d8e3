"""`mw predict`."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelwright.cli._eval import AskingBar
from modelwright.errors import InputError, did_you_mean, printable
from modelwright.evaluate import predict
from modelwright.predictions import Predictions

_VERSION = 1
_SUFFIXES = (".parquet", ".safetensors")
#: So many samples are shown.
_SHOWN = 5


def run_predict(
    inputs: Sequence[str], out: Path, said: Mapping[str, Any], *, overwrite: bool, json: bool, quiet: bool
) -> None:
    """Ask, write the file, and show the first samples."""
    if len(inputs) < 2:
        raise InputError(
            f"mw predict takes systems and data, got {len(inputs)} word", "Write mw predict MODEL DATA -o FILE."
        )
    if out.suffix not in _SUFFIXES:
        raise InputError(
            f"predictions are kept in files ending in {' or '.join(_SUFFIXES)}, got '{out.name}'",
            did_you_mean(out.suffix, _SUFFIXES),
        )
    if out.exists() and not overwrite:
        raise InputError(f"the file '{out}' exists", "Choose another name, or pass --overwrite.")
    *systems, data = inputs
    options = dict(said)
    named = options.pop("classes")
    with AskingBar(enabled=not quiet and not json) as bar:
        bar.say("loading")
        bank = predict(
            systems, data, classes=[] if named is None else [name.strip() for name in named.split(",")],
            progress=lambda name, done, total: bar.update(name, data, done, total), **options,
        )  # fmt: skip
    bank.save(out)
    if json:
        print(json_module.dumps(_as_json(bank, out), indent=1, ensure_ascii=False))  # noqa: T201
    elif not quiet:
        _render(Console(), bank, out)


def _as_json(bank: Predictions, out: Path) -> dict[str, Any]:
    return {
        "version": _VERSION, "ok": True, "out": str(out), "kind": bank.kind, "scale": bank.scale, "members": list(bank.names),
        "samples": len(bank), "classes": list(bank.classes), "labelled": bank.labels is not None,
    }  # fmt: skip


def _render(console: Console, bank: Predictions, out: Path) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("sample")
    for name in bank.names:
        table.add_column(Text(printable(name)), justify="right")
    first = bank.block(slice(0, _SHOWN))
    for i, name in enumerate(bank.ids[:_SHOWN]):
        table.add_row(Text(printable(name)), *(_said(bank, member[i]) for member in first))
    console.print(table)
    more = f" of {len(bank):,}" if len(bank) > _SHOWN else ""
    text = f"{min(_SHOWN, len(bank))}{more} samples, {'' if bank.labels is not None else 'not '}labelled; all in {out}"
    console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)


def _said(bank: Predictions, values: np.ndarray) -> Text:
    if bank.kind == "regression":
        return Text(f"{float(np.ravel(values)[0]):.4g}")
    best = int(np.argmax(values))
    return Text(f"{printable(bank.classes[best])} {100 * values[best]:.1f} %")
