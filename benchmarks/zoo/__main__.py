"""`python -m benchmarks.zoo`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.zoo import DOCS, HERE, NEED_DATA, SUITES, write, write_docs
from modelwright.cli._sweep import Lines
from modelwright.errors import InputError, RunError
from modelwright.suites import Cell, Leaderboard, Settings, Sweep, leaderboard, suite, sweep

#: Options of a run; one with another value has another result than the one that is kept here.
_NARROWING = ("suite", "methods", "plugin", "seeds", "budget", "semantics", "validation", "smoke")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description="Every method on every family.")
    made.add_argument("--suite", action="append", metavar="NAME", help=f"of {', '.join(SUITES)}; repeatable")
    made.add_argument("--methods", default="all", help="names with commas between; all that fit by default")
    made.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help="further methods")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--budget", type=int, default=20, help="evaluations to choose a method's parameters with")
    made.add_argument("--semantics", default="community", choices=("community", "paper"))
    made.add_argument("--validation", type=int, help="most validation items a task; the suite's by default")
    made.add_argument("--device", default="cpu", help="where models are trained and evaluated")
    made.add_argument(
        "--workers", type=int, default=2, help="cells made at a time, each with its share of the cores; 2"
    )
    made.add_argument("--smoke", action="store_true", help="one seed, budget 2, families that are trained in seconds")
    made.add_argument("--out", type=Path, default=HERE / "runs", help="records and cells")
    made.add_argument("--cache", type=Path, help="trained families")
    made.add_argument("--results", type=Path, help="where the leaderboard goes")
    made.add_argument("--docs", type=Path, default=DOCS, help="the page that a whole run, or --write, fills in")
    made.add_argument("--write", action="store_true", help="run nothing: fill in the page from leaderboard.json")
    return made


def chosen(names: Sequence[str] | None) -> list[str]:
    """The suites to run; those without their data are left out where none was named."""
    if names:
        return list(names)
    if os.environ.get("MODELWRIGHT_DATA"):
        return list(SUITES)
    left = [name for name in SUITES if name not in NEED_DATA]
    print(f"MODELWRIGHT_DATA is not set: {', '.join(NEED_DATA)} are left out", file=sys.stderr)
    return left


def narrowed(args: argparse.Namespace) -> bool:
    """Whether an option makes this another run than the one whose results are kept here."""
    return any(getattr(args, name) != parser().get_default(name) for name in _NARROWING)


Lost = dict[str, InputError | RunError]


def swept(args: argparse.Namespace, names: Sequence[str]) -> tuple[dict[str, Leaderboard], list[Sweep], Lost]:
    """The leaderboards of the suites, their sweeps, and why others have none: what one meets does not stop the others."""
    seeds, budget, training = (1, 2, "smoke") if args.smoke else (args.seeds, args.budget, "full")
    settings = Settings(
        seeds=seeds, budget=budget, semantics=args.semantics, validation=args.validation, device=args.device,
        training=training, cache=args.cache, workers=args.workers,
    )  # fmt: skip
    methods = "all" if args.methods == "all" else args.methods.split(",")
    suites = {one.name: one for one in map(suite, names)}
    boards: dict[str, Leaderboard] = {}
    sweeps: list[Sweep] = []
    lost: Lost = {}
    with Lines(enabled=True) as lines:
        for name, one in suites.items():
            lines.title(name)
            out = args.out / ("smoke" if args.smoke else "full") / name
            try:
                done = sweep(one, methods, out=out, settings=settings, plugins=args.plugin, progress=lines.told)
                boards[name] = leaderboard(out)
            except (InputError, RunError) as error:
                lost[name] = error
                continue
            sweeps.append(done)
            write(boards, about(args, sweeps), args.out)
    return boards, sweeps, lost


def about(args: argparse.Namespace, sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """What the work took, that of earlier runs which this one has gone on with among it."""
    cells = [cell for done in sweeps for cell in done.cells]
    return {
        "cells": len(cells), "made": sum(done.made for done in sweeps), "workers": args.workers, "device": args.device,
        "cell_seconds": sum(cell.seconds for cell in cells),
        "train_seconds": sum(cell.train_seconds or 0.0 for cell in cells),
        "packages": {name: version(name) for name in ("modelwright", "numpy")},
    }  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    if args.write:
        write_docs(args.results or HERE, args.docs)
        print(args.docs)
        return 0
    start = time.perf_counter()
    names = chosen(args.suite)
    boards, sweeps, lost = swept(args, names)
    if not boards:
        raise next(iter(lost.values()))
    whole = not narrowed(args) and list(boards) == list(SUITES)
    results = args.results or (HERE if whole else args.out)
    write(boards, about(args, sweeps), results)
    print(results / "leaderboard.md")
    if whole:
        write_docs(results, args.docs)
        print(args.docs)
    return said([cell for done in sweeps for cell in done.failed], lost, time.perf_counter() - start)


def said(failed: Sequence[Cell], lost: Lost, seconds: float) -> int:
    """Say what failed, and how long this process has run."""
    for name, reason in lost.items():
        print(f"{name} has no leaderboard: {reason}", file=sys.stderr)
    for cell in failed:
        print(f"failed: {cell.label}, seed {cell.seed}: {cell.reason}", file=sys.stderr)
    print(f"{seconds / 60:.1f} minutes", file=sys.stderr)
    return 1 if failed or lost else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
