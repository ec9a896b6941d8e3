"""Whole-process times of merging, beside the peer and beside the floor of reading and writing alone.

    make bench                                  everything, without the peer
    make bench PEER=/path/to/python             with mergekit, in a Python that has mergekit==0.1.5
    make bench BENCH="--size 0.1B"              one size; all options: python -m benchmarks.merge --help
    python -m benchmarks.merge --table          the tables of what was measured last

How it is measured stands in docs/performance.md. A full run replaces benchmarks/results.json; one that is narrowed by an
option writes beside its models unless --results says otherwise.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import floor, measure, tables, targets
from benchmarks.measure import CommandFailedError, Run, timed
from benchmarks.models import SIZES, names, wanting

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
PEER_VERSION = "0.1.5"
NO_PEER = f"""\
No peer: ratios to mergekit are left out. To have them, make an environment for it and name its Python:
    python -m venv PEER && PEER/bin/pip install mergekit=={PEER_VERSION}
    make bench PEER=PEER/bin/python"""


@dataclass(frozen=True)
class Recipe:
    """What is merged how.

    Attributes:
        method: As recipes call it.
        parameters: For all models.
        needs_base: Whether the base is an input.
        peer: Whether the peer can do it too.
        singular: Whether it works on singular vectors or descends, which takes as long as it takes and stands in a table of its own.
    """

    method: str
    parameters: dict[str, Any]
    needs_base: bool = True
    peer: bool = True
    singular: bool = False


METHODS = {
    "linear": Recipe("linear", {"weight": 0.3}, needs_base=False),
    "slerp": Recipe("slerp", {"t": 0.4}),
    "task_arithmetic": Recipe("task_arithmetic", {"weight": 0.3}),
    "ties": Recipe("ties", {"weight": 1.0, "density": 0.3}),
    "ties_model": Recipe("ties", {"weight": 1.0, "density": 0.3, "scope": "model"}, peer=False),
    "dare_linear": Recipe("dare_linear", {"weight": 0.3, "density": 0.5}),
    "dare_ties": Recipe("dare_ties", {"weight": 0.3, "density": 0.5}),
    "della": Recipe("della", {"weight": 0.3, "density": 0.5}),
    "breadcrumbs": Recipe("breadcrumbs", {"weight": 0.3, "density": 0.5, "gamma": 0.01}),
    "model_stock": Recipe("model_stock", {}),
    "iso_c": Recipe("iso_c", {}, peer=False, singular=True),
    "tsv": Recipe("tsv", {}, peer=False, singular=True),
    "iso_cts": Recipe("iso_cts", {}, peer=False, singular=True),
    "wudi": Recipe("wudi", {}, peer=False, singular=True),
    "wudi_foreseen": Recipe("wudi", {"gradient_error": 0.003}, peer=False, singular=True),
}
#: What the growth tables follow.
GROWING = ("linear", "ties", "model_stock")
PARTS = ("methods", "first", "tiny", "memory", "growth", "singular")


@dataclass(frozen=True)
class Cell:
    """One condition that is measured.

    Attributes:
        threads: Given to the merge; None for its default.
        main: Whether it is of the main table, which has more runs.
        peer: Whether the peer takes part.
        first: Whether a run with an empty kernel cache is added.
    """

    method: str
    size: str
    experts: int = 3
    threads: int | None = None
    main: bool = False
    peer: bool = False
    first: bool = False

    @property
    def models(self) -> list[str]:
        """The folders of its inputs."""
        recipe = METHODS[self.method]
        experts = 1 if recipe.method == "slerp" else self.experts
        return names(experts)[0 if recipe.needs_base else 1 :]

    @property
    def label(self) -> str:
        """What messages call it."""
        threads = "" if self.threads is None else f", {self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.method}, {self.size}, {self.experts} experts{threads}"


def cells_of(parts: Sequence[str], methods: Sequence[str], size: str) -> list[Cell]:
    """What the parts ask for, each condition once, small models first so that they stay in the page cache."""
    growing = [method for method in GROWING if method in methods]
    asked: list[Cell] = []
    if "singular" in parts:
        asked += [Cell(m, "0.1B") for m in methods if METHODS[m].singular]
    methods = [m for m in methods if not METHODS[m].singular]
    if {"methods", "first", "memory"} & {*parts}:
        main, first = "methods" in parts, "first" in parts
        asked += [Cell(m, size, main=main, peer=main and METHODS[m].peer, first=first) for m in methods]
    if "tiny" in parts:
        asked += [Cell(m, "tiny") for m in methods]
    if "memory" in parts:
        asked += [Cell(m, "1.1B") for m in methods]
        asked += [Cell(m, size, experts=8) for m in methods if METHODS[m].method != "slerp"]
    if "growth" in parts:
        asked += [Cell(m, s) for m in growing for s in SIZES]
        asked += [Cell(m, "0.1B", experts=e) for m in growing for e in (2, 3, 5, 8)]
        asked += [Cell(m, size, threads=t) for m in growing for t in (1, 2)]
    once: dict[tuple[Any, ...], Cell] = {}
    for cell in asked:
        key = (cell.method, cell.size, cell.experts, cell.threads)
        once.setdefault(key, cell)
    order, sizes = list(METHODS), list(SIZES)
    return sorted(once.values(), key=lambda c: (sizes.index(c.size), c.experts, c.threads or 0, order.index(c.method)))


def write_recipe(cell: Cell, folder: Path) -> Path:
    """One recipe that both tools read: JSON is YAML."""
    recipe = METHODS[cell.method]
    inputs = [name for name in cell.models if name != "base" or recipe.method == "slerp"]
    written: dict[str, Any] = {
        "merge_method": recipe.method,
        "models": [{"model": str(folder / name)} for name in inputs],
        "parameters": recipe.parameters,
        "dtype": "bfloat16",
    }
    if recipe.needs_base:
        written["base_model"] = str(folder / "base")
    path = folder / f"{cell.method}-{cell.experts}.yml"
    path.write_text(json.dumps(written, indent=1), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    models: Path
    peer: Path | None
    runs: int
    peer_runs: int
    growth_runs: int


class Bench:
    """Measures cells and keeps what it saw of the machine."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.probes: list[float] = []
        self.warnings: list[str] = []
        self._variants: dict[tuple[str, int, int], floor.Variant] = {}
        # Compiled Python files are kept and the network is left alone, for all contenders alike.
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        self._env = env | {"HF_HUB_OFFLINE": "1"}
        self._peer_env = {key: value for key, value in self._env.items() if not key.startswith("PYTHONPATH")}

    def measure(self, cell: Cell) -> dict[str, Any]:
        """All contenders in turn, after a warm-up each."""
        folder, out = self.asked.models / cell.size, self.asked.models / "out"
        inputs = [folder / name for name in cell.models]
        recipe = write_recipe(cell, folder)
        variant = self._floor_variant(cell, inputs, out)
        threads = [] if cell.threads is None else ["--threads", str(cell.threads)]
        merge = [str(Path(sys.executable).parent / "mw"), "merge", str(recipe), "-o", str(out), "--quiet", *threads]
        copy = floor.command(sys.executable, inputs, out, variant, cell.threads or 2)
        once = 1 if METHODS[cell.method].singular else self.asked.runs if cell.main else self.asked.growth_runs
        contenders: dict[str, tuple[int, Callable[[], Run]]] = {
            "floor": (once, lambda: _own_seconds(*timed(copy, out, self._env))),
            "modelwright": (once, lambda: timed(merge, out, self._env)[0]),
        }
        if cell.peer and self.asked.peer is not None:
            command = [str(self.asked.peer.parent / "mergekit-yaml"), str(recipe), str(out), "--quiet"]
            contenders["mergekit"] = (self.asked.peer_runs, lambda: timed(command, out, self._peer_env)[0])
        found = self._in_turn(cell, contenders)
        if cell.first and "seconds" in found["modelwright"]:
            found["first run"] = self._first_run(cell, merge, out)
        found["floor"]["variant"] = asdict(variant)
        return {
            "method": cell.method, "size": cell.size, "experts": cell.experts, "threads": cell.threads,
            "read_mb": sum(_nbytes(model) for model in inputs) / 1e6, "contenders": found,
        }  # fmt: skip

    def _in_turn(self, cell: Cell, contenders: dict[str, tuple[int, Callable[[], Run]]]) -> dict[str, dict[str, Any]]:
        """A B C A B C ..., the first round being the warm-up; who fails is out."""
        runs: dict[str, list[Run]] = {name: [] for name in contenders}
        failed: dict[str, dict[str, Any]] = {}
        for number in range(1 + max(count for count, _ in contenders.values())):
            self.probes.append(measure.probe())
            for name, (count, run) in contenders.items():
                if name in failed or number > count:
                    continue
                try:
                    taken = run()
                except CommandFailedError as error:
                    failed[name] = {"error": _without_paths(str(error), self.asked)}
                    self.warn(f"{cell.label}: {name} failed: {error}")
                    continue
                if number:
                    runs[name].append(taken)
        for name in set(contenders) - set(failed):
            self._check(cell, name, runs[name])
        return {name: failed.get(name) or measure.summary(runs[name]) for name in contenders}

    def _first_run(self, cell: Cell, merge: list[str], out: Path) -> dict[str, Any]:
        """With an empty kernel cache; there is no warming up to it."""
        with tempfile.TemporaryDirectory(dir=self.asked.models) as empty:
            try:
                found = measure.summary([timed(merge, out, self._env | {"MODELWRIGHT_CACHE": empty})[0]])
                # Without any the variable had no effect, and the seconds say nothing.
                return found | {"cached_files": sum(path.is_file() for path in Path(empty).rglob("*"))}
            except CommandFailedError as error:
                self.warn(f"{cell.label}: first run failed: {error}")
                return {"error": _without_paths(str(error), self.asked)}

    def _floor_variant(self, cell: Cell, inputs: list[Path], out: Path) -> floor.Variant:
        """The fastest way to copy so many models of this size; its search warms the page cache too."""
        key = (cell.size, len(inputs), cell.threads or 2)

        def seconds(variant: floor.Variant) -> float:
            command = floor.command(sys.executable, inputs, out, variant, key[2])
            return _own_seconds(*timed(command, out, self._env)).seconds

        if key not in self._variants:
            seconds(floor.Variant())
            self._variants[key] = floor.fastest(seconds)
        return self._variants[key]

    def _check(self, cell: Cell, name: str, runs: list[Run]) -> None:
        """Say what makes these runs doubtful."""
        seconds = [run.seconds for run in runs]
        cores = measure.cores()
        if any(run.disk_mb > 20 for run in runs):
            self.warn(f"{cell.label}: {name} read from the disk: the inputs were not all in the page cache")
        busy = max(run.other_cpu_seconds or 0.0 for run in runs)
        # What writes pages back for a contender works in the kernel's name, so that a part of this is its own.
        if any((run.other_cpu_seconds or 0) > 0.1 + 0.15 * cores * run.seconds for run in runs):
            self.warn(f"{cell.label}: other processes took up to {busy:.1f} CPU seconds beside {name}")
        if any((run.stolen_seconds or 0) > 0.05 + 0.02 * cores * run.seconds for run in runs):
            self.warn(f"{cell.label}: the host withheld CPU time from {name}")
        if max(seconds) > 1.25 * min(seconds) and max(seconds) - min(seconds) > 0.2:
            self.warn(f"{cell.label}: {name} took {min(seconds):.2f} to {max(seconds):.2f} s")

    def warn(self, text: str) -> None:
        """Say it now and in the results."""
        text = _without_paths(text, self.asked)
        self.warnings.append(text)
        print(f"warning: {text}", file=sys.stderr, flush=True)


def _own_seconds(run: Run, printed: str) -> Run:
    """The floor counts for itself, without Python's start."""
    return replace(run, seconds=json.loads(printed)["seconds"])


def _nbytes(model: Path) -> int:
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


def _without_paths(text: str, asked: Asked) -> str:
    """Results are published: where the models lie is nobody's business."""
    text = text.replace(str(asked.models), "MODELS").replace(str(measure.ROOT), ".").replace(sys.prefix, "VENV")
    return text if asked.peer is None else text.replace(str(asked.peer.parent.parent), "PEER")


def make_models(cells: Sequence[Cell], folder: Path) -> None:
    """All that the cells need, each size in a process of its own, so that this one stays small."""
    for size in dict.fromkeys(cell.size for cell in cells):
        experts = max(cell.experts for cell in cells if cell.size == size)
        if wanting(folder / size, SIZES[size], experts):
            print(f"making {size}: a base and {experts} experts", file=sys.stderr, flush=True)
            asked = ["--size", size, "--experts", str(experts), "--models", str(folder)]
            subprocess.run([sys.executable, "-m", "benchmarks.models", *asked], cwd=measure.ROOT, check=True)
    os.sync()


def peer_versions(python: Path) -> dict[str, str]:
    """What the peer's environment holds.

    Raises:
        SystemExit: It is not the version that is compared with.
    """
    code = (
        "import importlib.metadata as m, json, platform; "
        "print(json.dumps({'python': platform.python_version()} | {p: m.version(p) for p in ('mergekit', 'torch')}))"
    )
    try:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, env=env)
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(f"the peer's Python has no mergekit.\n{NO_PEER}") from None
    found = json.loads(done.stdout)
    if found["mergekit"] != PEER_VERSION:
        raise SystemExit(f"the peer is mergekit {found['mergekit']}; the comparison is with {PEER_VERSION}")
    return found


def load_warnings(cells: Sequence[Cell], folder: Path) -> list[str]:
    """What speaks against measuring now."""
    warnings = []
    if os.getloadavg()[0] > 0.5:
        warnings.append(f"the load average was {os.getloadavg()[0]:.2f} before the start: other processes were busy")
    most = max(_needed_gb(cell, folder) for cell in cells)
    free = measure.available_gb()
    if free is not None and free < most + 2:
        warnings.append(f"{free:.1f} GB of memory are free; the largest merge reads and writes {most:.1f} GB")
    return warnings


def _needed_gb(cell: Cell, folder: Path) -> float:
    return (len(cell.models) + 1) * _nbytes(folder / cell.size / "base") / 1e9


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="one size only, and of the parts only `methods`")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="some tables only")
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--runs", type=int, default=5, help="of each method and the floor  [5]")
    parser.add_argument("--peer-runs", type=int, default=1, help="of the peer, which takes minutes  [1]")
    parser.add_argument("--growth-runs", type=int, default=3, help="where the peer takes no part  [3]")
    parser.add_argument("--peer", type=Path, default=os.environ.get("PEER") or None, help="a Python that has mergekit")
    parser.add_argument("--models", type=Path, default=HERE / "models", help="where models are made and kept")
    parser.add_argument("--results", type=Path, help="the file to write")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the tables of --results")
    parser.add_argument("--write", action="store_true", help="with --table: put them into docs/performance.md")
    return parser


def main() -> int:
    """Measure what was asked and print the tables."""
    parser = options()
    args = parser.parse_args()
    if args.table:
        return tables.show(args.results or RESULTS, write=args.write)
    if min(args.runs, args.peer_runs, args.growth_runs) < 1:
        parser.error("runs must be 1 or more")
    peer = args.peer and Path(os.path.abspath(args.peer))  # noqa: PTH100 - a virtual environment's link is kept
    asked = Asked(args.models.resolve(), peer, args.runs, args.peer_runs, args.growth_runs)
    narrowed = args.size or args.parts or args.methods
    results = args.results or (asked.models / "results.json" if narrowed else RESULTS)
    parts = args.parts or (["methods"] if args.size else list(PARTS))
    cells = cells_of(parts, args.methods or list(METHODS), args.size or targets.SIZE)
    run(asked, cells, parts, results)
    print(f"\nwritten: {results}", file=sys.stderr)
    return tables.show(results)


def run(asked: Asked, cells: list[Cell], parts: Sequence[str], results: Path) -> None:
    """Measure the cells; what is done is written after each of them."""
    document: dict[str, Any] = {"version": tables.VERSION, "parts": list(parts)}
    document |= {"runs": asked.runs, "peer_runs": asked.peer_runs, "growth_runs": asked.growth_runs}
    document |= {"machine": measure.machine(), "peer": peer_versions(asked.peer) if asked.peer else None}
    if asked.peer is None:
        print(NO_PEER, file=sys.stderr)
    asked.models.mkdir(parents=True, exist_ok=True)
    make_models(cells, asked.models)
    document["sizes"] = {size: _size(asked.models / size, size) for size in dict.fromkeys(c.size for c in cells)}
    bench, before = Bench(asked), os.getloadavg()
    for warning in load_warnings(cells, asked.models):
        bench.warn(warning)
    started = datetime.datetime.now(datetime.UTC)
    measured: list[dict[str, Any]] = []
    for number, cell in enumerate(cells, 1):
        print(f"[{number}/{len(cells)}] {cell.label}", file=sys.stderr, flush=True)
        measured.append(bench.measure(cell))
        ended = datetime.datetime.now(datetime.UTC)
        conditions = {
            "started": started.isoformat(timespec="seconds"), "minutes": (ended - started).total_seconds() / 60,
            "load_before": before, "load_after": os.getloadavg(), "probe": _spread(bench.probes),
        }  # fmt: skip
        document |= {"conditions": conditions, "warnings": bench.warnings + drift(bench.probes)}
        document |= {"targets": targets.judge(measured), "cells": measured}
        text = json.dumps(measure.rounded(document), indent=1)
        results.write_text(text + "\n", encoding="utf-8")


def _size(folder: Path, size: str) -> dict[str, int]:
    shards = len(list((folder / "base").glob("*.safetensors")))
    return {"parameters": SIZES[size].parameters(), "bytes": _nbytes(folder / "base"), "shards": shards}


def _spread(probes: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(probes), "min": min(probes), "max": max(probes)}


def drift(probes: Sequence[float]) -> list[str]:
    """Whether the processor's speed changed over the run: the middle half of the probes, against stray ones."""
    if len(probes) < 4:
        return []
    low, _, high = statistics.quantiles(probes, n=4)
    return [f"the processor's speed changed by {high / low - 1:.0%} during the run"] if high > 1.1 * low else []


if __name__ == "__main__":
    sys.exit(main())
