"""Merging as a user does it: a recipe file in, a checkpoint folder out; and the search for a scale before it."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelwright import api
from modelwright.demo import _scores
from modelwright.demo._recipes import Recipe
from modelwright.demo._scores import Scoreboard
from modelwright.train import Weights

#: The scales tried on the validation images, for every method that has one.
SCALES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5)


def read(folder: Path) -> Weights:
    """A checkpoint folder as numpy arrays."""
    return {name: ref.read() for name, ref in api.open_model(folder).items()}


def curve(recipe: Recipe, out: Path, board: Scoreboard) -> list[float]:
    """Mean validation accuracy of the merge at each of `SCALES`; nothing is written."""
    models: Any = [out / "models" / name for name in recipe.models]
    base = out / "models" / str(recipe.base)
    scores: list[float] = []
    for scale in SCALES:
        merged = api.merge(models, base=base, method=recipe.method.name, lambda_=scale, **recipe.parameters)
        weights = {name: ref.read() for name, ref in merged.items()}
        scores.append(board.validation(_scores.single(weights)))
    return scores


def best_scale(scores: Sequence[float]) -> float:
    """The scale with the highest score; the smallest of several."""
    return SCALES[int(np.argmax(scores))]


def merge(recipe: Recipe, scale: float | None, out: Path, board: Scoreboard) -> None:
    """Write the recipe, merge by it, and add the saved model to the table."""
    name = recipe.method.name
    path, folder = out / "recipes" / f"{name}.yml", out / "merged" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(recipe.text(command(path, f"my-{name}"), scale), encoding="utf-8")
    start = time.perf_counter()
    api.merge(path).save(folder)
    seconds = time.perf_counter() - start
    predict = _scores.single(read(folder))
    board.add(name, "merge", recipe.experts, predict, scale=scale, seconds=seconds, peak=_peak(path))


def command(recipe: Path, out: str) -> str:
    """What to type to merge by a recipe; with the environment's folder where `mw` is not on the path."""
    program = "mw" if shutil.which("mw") or Path(sys.argv[0]).name != "mw" else shlex.quote(sys.argv[0])
    return f"{program} merge {shlex.quote(recipe.as_posix())} -o {out}"


def _peak(recipe: Path) -> int:
    """The most that Python has allocated during the same merge, run once more because tracing slows it down."""
    with tempfile.TemporaryDirectory() as folder:
        tracemalloc.start()
        try:
            api.merge(recipe).save(Path(folder) / "again")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
