"""The demo from start to end: train, write recipes, merge, measure, report."""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from pathlib import Path

from modelwright.demo import _folder, _merge, _recipes, _scores, _table, _tasks, _train
from modelwright.demo._result import DemoResult
from modelwright.demo._scores import Scoreboard
from modelwright.demo._table import Say
from modelwright.errors import InputError, MissingExtraError
from modelwright.methods import METHODS


def run(out: Path = Path("demo"), *, seed: int = 0, quiet: bool = False, effort: float = 1.0) -> DemoResult:
    """Train a base and five experts on the bundled digits, merge them with every method, and compare.

    Args:
        out: The folder to write; one that an earlier demo made is replaced.
        seed: Decides splits, initial weights and the order of images.
        quiet: Print nothing.
        effort: Share of the training epochs; below 1 for tests.

    Returns:
        The table, and all else that was measured.

    Raises:
        InputError: The folder holds files that no demo made, the seed is out of range, or scikit-learn or matplotlib is missing.
    """
    for module, package in (("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError("mw demo", package, "demo")
    from threadpoolctl import threadpool_limits  # scikit-learn requires it

    if not 0 <= seed < 2**32:
        raise InputError(f"mw demo: seed must be a whole number in [0, 2**32), got {seed}")
    out = Path(out)
    _folder.prepare(out)
    with _table.progress(quiet) as say, threadpool_limits(limits=1):  # one thread: the same bits on any machine's cores
        result = _measure(out, seed, effort, say)
        say("writing the report")
        _write(result)
    if not quiet:
        _table.show(result)
    return result


def _measure(out: Path, seed: int, effort: float, say: Say) -> DemoResult:
    start = time.perf_counter()
    say("training the base and the experts")
    tasks = _tasks.load(seed)
    seconds = _train.train(tasks, out / "models", seed=seed, effort=effort)
    models = {name: _merge.read(out / "models" / name) for name in seconds}
    experts = {task: models[task] for task in tasks.transforms}

    board = Scoreboard(tasks, experts)
    board.add("base", "base", 0, _scores.single(models["base"]), seconds=seconds["base"])
    for task, weights in experts.items():
        board.add(task, "expert", 1, _scores.single(weights), seconds=seconds[task])
    board.add("ensemble", "ensemble", len(experts), _scores.ensemble(list(experts.values())))
    board.add("joint", "joint", 0, _scores.single(models["joint"]), seconds=seconds["joint"])

    recipes = _recipes.recipes(METHODS.values(), list(experts))
    curves: dict[str, list[float]] = {}
    for name, recipe in recipes.items():
        say(f"merging: {name}")
        if recipe.scaled:
            curves[name] = _merge.curve(recipe, out, board)
        _merge.merge(recipe, _merge.best_scale(curves[name]) if recipe.scaled else None, out, board)
    return DemoResult(
        folder=out,
        seed=seed,
        rows=board.ordered(),
        hits=board.hits,
        scales=_merge.SCALES,
        curves=curves,
        geometry=_scores.geometry(models["base"], list(experts.values())),
        recipes=recipes,
        tasks=tasks,
        seconds=time.perf_counter() - start,
        peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def _write(result: DemoResult) -> None:
    from modelwright.demo import _report  # imports matplotlib

    figures = json.dumps(result.as_json(), indent=1)
    (result.folder / "results.json").write_text(figures + "\n", encoding="utf-8")
    result.report.write_text(_report.page(result), encoding="utf-8")
