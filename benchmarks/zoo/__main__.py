"""`python -m benchmarks.zoo`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.zoo import HERE, NEED_DATA, SUITES, write
from modelwright.cli._sweep import Lines
from modelwright.errors import InputError
from modelwright.suites import Leaderboard, Settings, Sweep, leaderboard, suite, sweep


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description="Every method on every family.")
    parser.add_argument("--suite", action="append", metavar="NAME", help=f"of {', '.join(SUITES)}; repeatable")
    parser.add_argument("--methods", default="all", help="names with commas between; all that fit by default")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE.py", help="further methods")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=20, help="evaluations to choose a method's parameters with")
    parser.add_argument("--semantics", default="community", choices=("community", "paper"))
    parser.add_argument("--device", default="cpu", help="where models are trained and evaluated")
    parser.add_argument("--smoke", action="store_true", help="one seed, budget 2, families that are trained in seconds")
    parser.add_argument("--out", type=Path, default=HERE / "runs", help="records and cells")
    parser.add_argument("--cache", type=Path, help="trained families")
    parser.add_argument("--results", type=Path, help="where the leaderboard goes")
    return parser.parse_args(arguments)


def chosen(names: Sequence[str] | None) -> list[str]:
    """The suites to run; those without their data are left out where none was named."""
    if names:
        return list(names)
    if os.environ.get("MODELWRIGHT_DATA"):
        return list(SUITES)
    left = [name for name in SUITES if name not in NEED_DATA]
    print(f"MODELWRIGHT_DATA is not set: {', '.join(NEED_DATA)} are left out", file=sys.stderr)
    return left


def main(arguments: Sequence[str]) -> int:
    args = parsed(arguments)
    start = time.perf_counter()
    seeds, budget, training = (1, 2, "smoke") if args.smoke else (args.seeds, args.budget, "full")
    settings = Settings(
        seeds=seeds, budget=budget, semantics=args.semantics, device=args.device, training=training, cache=args.cache
    )
    methods = "all" if args.methods == "all" else args.methods.split(",")
    names = chosen(args.suite)
    boards: dict[str, Leaderboard] = {}
    sweeps: list[Sweep] = []
    with Lines(enabled=True) as lines:
        for name in names:
            lines.title(name)
            out = args.out / ("smoke" if args.smoke else "full") / name
            sweeps.append(
                sweep(suite(name), methods, out=out, settings=settings, plugins=args.plugin, progress=lines.told)
            )
            boards[name] = leaderboard(out)
    run = {
        "seconds": time.perf_counter() - start, "made": sum(done.made for done in sweeps),
        "packages": {name: version(name) for name in ("modelwright", "numpy")}, "device": args.device,
    }  # fmt: skip
    whole = names == list(SUITES) and not args.smoke and args.methods == "all"
    results = args.results or (HERE if whole else args.out)
    write(boards, run, results)
    print(results / "leaderboard.md")
    failed = [cell for done in sweeps for cell in done.failed]
    for cell in failed:
        print(f"failed: {cell.label}, seed {cell.seed}: {cell.reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
