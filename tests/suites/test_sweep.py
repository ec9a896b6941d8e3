"""A sweep makes every cell once, wherever it is stopped, and one method's failure is only its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelwright.errors import InputError
from modelwright.evaluate import Records
from modelwright.methods import METHODS, Method
from modelwright.suites import Cell, Cells, Settings, _bench, leaderboard, pooled, sweep
from suites.tiny import VIEWS, TinyFamily, TinySuite, _family, merging

PLUGIN = """
from collections.abc import Sequence
from typing import Annotated

from modelwright.methods import Method, Params, Span, checked


class HalfParams(Params):
    share: Annotated[float, Span(0, 1)] = {start}


@checked(HalfParams, base="required")
def half(models, *, base, share=0.5):
    {line}


HALF = Method(
    name="half", title="Half", paper="", summary="", function=half, params=HalfParams, base="required",
    models=(1, None), laws=frozenset(),
)
"""
WORKS = "return base + share * (sum(models) / len(models) - base)"


def plugin(folder: Path, line: str = WORKS, start: float = 0.5) -> Path:
    path = folder / "half.py"
    path.write_text(PLUGIN.format(line=line, start=start), encoding="utf-8")
    return path


def settings(**more: object) -> Settings:
    return Settings(**{"seeds": 1, "budget": 3, "validation": 60, **more})  # type: ignore[arg-type]


def by_label(cells: tuple[Cell, ...]) -> dict[str, Cell]:
    return {cell.label: cell for cell in cells if cell.seed == 0}


def test_all_references_and_methods_get_their_records(tmp_path: Path) -> None:
    done = sweep(TinySuite(), "task_arithmetic", out=tmp_path, settings=settings(seeds=2))
    labels = {"base", *(f"expert-{view}" for view in VIEWS), "multitask", "ensemble", "linear", "task_arithmetic"}
    assert {cell.label for cell in done.cells} == labels
    assert done.made == len(done.cells) == 2 * len(labels)
    for seed in (0, 1):
        records = Records.read(tmp_path / "records" / f"seed-{seed}")
        assert set(records.systems) == labels
        assert set(records.tasks) == set(VIEWS)
    part = Records.read(tmp_path / "records/seed-1").part("upright", "task_arithmetic")
    cell = next(cell for cell in done.cells if cell.label == "task_arithmetic" and cell.seed == 1)
    said = part.head.made
    assert said["suite"] == "tiny"
    assert said["seed"] == 1
    assert (said["kind"], said["group"]) == ("merge", "data-free")
    kinds = {name: records.part("upright", name).head.made["kind"] for name in labels}
    assert kinds == {
        "base": "base", "multitask": "other", "ensemble": "ensemble", "linear": "merge", "task_arithmetic": "merge",
        **{f"expert-{view}": "single" for view in VIEWS},
    }  # fmt: skip
    assert said["parameters"] == cell.parameters
    assert said["merge_seconds"] == cell.merge_seconds > 0
    assert cell.peak_bytes is not None
    assert cell.peak_bytes >= _family(1).base.nbytes
    assert (tmp_path / "records/seed-0/upright/task_arithmetic.test.parquet").is_file()
    assert records.part("upright", "expert-upright").head.made["expert_of"] == "upright"
    assert records.part("upright", "ensemble").column("calls").tolist() == [3] * 400


def test_the_best_trial_on_validation_is_chosen_and_all_are_kept(tmp_path: Path) -> None:
    done = sweep(TinySuite(), "task_arithmetic", out=tmp_path, settings=settings(budget=6))
    cell = by_label(done.cells)["task_arithmetic"]
    assert len(cell.trials) == 6
    objectives = [trial.objective or 0 for trial in cell.trials]
    assert cell.parameters == cell.trials[objectives.index(max(objectives))].parameters
    assert len(set(objectives)) > 1
    assert all(set(trial.figures) == set(VIEWS) for trial in cell.trials)
    assert len(by_label(done.cells)["linear"].trials) == 1


def test_nothing_that_is_finished_is_made_again(tmp_path: Path) -> None:
    family = _family(0)
    sweep(TinySuite(), "task_arithmetic", out=tmp_path, settings=settings())
    family.asked.clear()
    again = sweep(TinySuite(), "task_arithmetic", out=tmp_path, settings=settings())
    assert again.made == 0
    assert family.asked == []
    more = sweep(TinySuite(), ["task_arithmetic", "ties"], out=tmp_path, settings=settings())
    assert more.made == 1
    assert {label for label, _ in family.asked} == {"ties", *VIEWS}  # the experts' validation figures are 1


def test_a_changed_method_is_made_again_alone(tmp_path: Path) -> None:
    half = plugin(tmp_path)
    out = tmp_path / "runs"
    first = sweep(TinySuite(), "half", out=out, settings=settings(), plugins=[half])
    assert by_label(first.cells)["half"].status == "done"
    plugin(tmp_path, WORKS.replace("base +", "0 * base +"))
    family = _family(0)
    family.asked.clear()
    second = sweep(TinySuite(), "half", out=out, settings=settings(), plugins=[half])
    assert second.made == 1
    assert {label for label, _ in family.asked} == {"half", *VIEWS}
    a, b = by_label(first.cells)["half"], by_label(second.cells)["half"]
    assert a.key != b.key
    assert [trial.figures for trial in a.trials] != [trial.figures for trial in b.trials]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("raise KeyError('oh')", "KeyError: 'oh'"),
        ("return base * 1e38 * 1e38", "the merge overflows float32"),
    ],
)
def test_a_failing_method_is_a_failed_cell_and_stops_nothing(line: str, reason: str, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = sweep(TinySuite(), ["half", "ties"], out=out, settings=settings(), plugins=[plugin(tmp_path, line)])
    cells = by_label(done.cells)
    assert reason in cells["half"].reason
    assert [cell.label for cell in done.failed] == ["half"]
    assert cells["ties"].status == "done"
    assert not list(out.glob("records/*/*/half*"))
    mended = sweep(TinySuite(), ["half", "ties"], out=out, settings=settings(), plugins=[plugin(tmp_path)])
    assert mended.made == 1
    assert not mended.failed


def test_what_is_mended_outside_the_method_is_tried_again(tmp_path: Path) -> None:
    """The key is that of the method's file, so a file that it misses does not change it."""
    line = f"open({str(tmp_path / 'there')!r}).close()\n    {WORKS}"
    out, half = tmp_path / "runs", [plugin(tmp_path, line)]
    failed = by_label(sweep(TinySuite(), "half", out=out, settings=settings(), plugins=half).cells)["half"]
    assert failed.status == "failed"
    (tmp_path / "there").touch()
    again = sweep(TinySuite(), "half", out=out, settings=settings(), plugins=half)
    cell = by_label(again.cells)["half"]
    assert (again.made, cell.status, cell.key) == (1, "done", failed.key)
    assert all(trial.judged for trial in cell.trials)


def test_a_trial_that_fails_is_not_chosen(tmp_path: Path) -> None:
    line = f"assert share > 0.4\n    {WORKS}"
    out = tmp_path / "runs"
    done = sweep(TinySuite(), "half", out=out, settings=settings(budget=4), plugins=[plugin(tmp_path, line, 0.1)])
    cell = by_label(done.cells)["half"]
    assert [trial.objective is None for trial in cell.trials] == [True, False, True, False]
    assert cell.trials[0].reason == "AssertionError: "
    assert cell.status == "done"


def test_what_cannot_merge_so_many_is_skipped_with_the_reason(tmp_path: Path) -> None:
    cells = by_label(sweep(TinySuite(), out=tmp_path, settings=settings(budget=1)).cells)
    assert {label for label, cell in cells.items() if cell.status == "skipped"} == set(METHODS) - merging(3)
    assert {"linear", "ties", "dare_ties"} <= merging(3) <= set(METHODS) - {"slerp", "nuslerp", "passthrough"}
    assert cells["slerp"].reason == "it takes 1 model beside the base, and there are 3 experts"
    assert cells["nuslerp"].reason == "it takes 2 models beside the base, and there are 3 experts"
    assert cells["ties"].status == "done"


def test_what_is_named_and_cannot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"slerp: it takes 1 model .* 3 experts. Leave it out of --methods"):
        sweep(TinySuite(), ["slerp", "ties"], out=tmp_path / "runs", settings=settings())
    with pytest.raises(InputError, match=r"unknown merge method 'tis'. Did you mean 'ties'"):
        sweep(TinySuite(), "tis", out=tmp_path / "runs", settings=settings())
    assert not (tmp_path / "runs").exists()


def test_one_folder_holds_one_kind_of_sweep(tmp_path: Path) -> None:
    sweep(TinySuite(), "linear", out=tmp_path, settings=settings())
    with pytest.raises(InputError, match=r"holds a sweep with budget 3, and this one has 4. Give another folder"):
        sweep(TinySuite(), "linear", out=tmp_path, settings=settings(budget=4))
    with pytest.raises(InputError, match="holds a sweep with semantics community, and this one has paper"):
        sweep(TinySuite(), "linear", out=tmp_path, settings=settings(semantics="paper"))


def test_settings_are_checked_all_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Settings(seeds=0, budget=-1, workers=0, semantics="papers")
    assert [str(problem) for problem in caught.value.problems] == [
        "seeds must be at least 1, got 0.", "budget must be at least 1, got -1.", "workers must be at least 1, got 0.",
        "no semantics is called 'papers'. Did you mean 'paper'? Valid: community, paper.",
    ]  # fmt: skip


class Otherwise(TinySuite):
    """Of the same name and seeds, and other weights."""

    def family(self, seed: int, **_more: object) -> TinyFamily:  # type: ignore[override]
        return replace(_family(seed + 5), seed=seed)


class Edited(TinySuite):
    """Of the same name and weights, with something else in its file."""

    def fingerprint(self, budget: str) -> str:
        return "edited"


def test_cells_of_an_edited_suite_and_of_more_seeds_are_not_tabled(tmp_path: Path) -> None:
    sweep(TinySuite(), "task_arithmetic", out=tmp_path, settings=settings(seeds=2))
    fewer = sweep(TinySuite(), "linear", out=tmp_path, settings=settings())
    assert fewer.made == 0
    assert {cell.seed for cell in fewer.cells} == {0}
    assert leaderboard(tmp_path).line("task_arithmetic").seeds == (0,)
    edited = sweep(Edited(), "linear", out=tmp_path, settings=settings())
    assert edited.made == len(edited.cells) == 7
    assert "task_arithmetic" not in [line.label for line in leaderboard(tmp_path).lines]
    assert Cells(tmp_path).done(1, "base", by_seed(tmp_path, 1)["base"].key) is not None  # kept, for more seeds again
    more = sweep(TinySuite(), "linear", out=tmp_path, settings=settings(seeds=2))
    assert more.made == 7
    assert leaderboard(tmp_path).line("base").seeds == (0, 1)


def by_seed(folder: Path, seed: int) -> dict[str, Cell]:
    return {cell.label: cell for cell in Cells(folder) if cell.seed == seed}


class OtherHeads(TinySuite):
    """The same weights with other heads."""

    def family(self, seed: int, **_more: object) -> TinyFamily:  # type: ignore[override]
        return replace(_family(seed), heads="others")


def test_other_heads_make_other_cells(tmp_path: Path) -> None:
    first = by_label(sweep(TinySuite(), "linear", out=tmp_path, settings=settings()).cells)
    other = sweep(OtherHeads(), "linear", out=tmp_path, settings=settings())
    assert other.made == 7
    assert all(cell.key != first[label].key for label, cell in by_label(other.cells).items())


class Published(TinySuite):
    """The same models whatever the seed."""

    def family(self, seed: int, **_more: object) -> TinyFamily:  # type: ignore[override]
        return replace(_family(0), seed=seed, fixed=True)


def test_of_models_that_are_always_the_same_only_random_methods_have_several_seeds(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    done = sweep(
        Published(), ["ties", "dare_linear"], out=tmp_path, settings=settings(seeds=3, budget=4),
        progress=lambda cell, made, of: told.append((made, of)) if cell.status != "running" else None,
    )  # fmt: skip
    assert [cell.seed for cell in done.cells if cell.label == "dare_linear"] == [0, 1, 2]
    assert {cell.label for cell in done.cells if cell.seed} == {"dare_linear"}
    assert told == [(i + 1, 11) for i in range(11)]
    board = leaderboard(tmp_path)
    assert (board.line("ties").seeds, board.line("experts").seeds) == ((0,), (0,))
    dare, expert = board.line("dare_linear"), board.line("experts").figures["upright"][0]
    parts = [Records.read(tmp_path / f"records/seed-{seed}").part("upright", "dare_linear") for seed in range(3)]
    assert len({part.head.system_fingerprint for part in parts}) == 3
    assert pooled(tmp_path).part("upright", "dare_linear").figure == pytest.approx(np.mean(dare.figures["upright"]))
    assert pooled(tmp_path).part("upright", "ties").figure == board.line("ties").figures["upright"][0]
    assert dare.shares["upright"] == [figure / expert for figure in dare.figures["upright"]]
    assert "The models are the same for all seeds" in board.markdown()
    shown = {row.split(" | ")[0]: row.split(" | ") for row in board.markdown().splitlines() if " % | " in row}
    assert (shown["| `ties`"][6], shown["| `dare_linear`"][6]) == ("1", "3")


def test_another_family_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    sweep(TinySuite(), "task_arithmetic", out=tmp_path, settings=settings())
    old = by_label(tuple(Cells(tmp_path)))
    new = by_label(sweep(Otherwise(), "linear", out=tmp_path, settings=settings()).cells)
    assert "task_arithmetic" not in new
    assert new["base"].family != old["base"].family
    assert "task_arithmetic" not in Records.read(tmp_path / "records/seed-0").systems


def test_paper_semantics_reach_the_merge(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = sweep(TinySuite(), "task_arithmetic", out=out, settings=settings(semantics="paper", budget=1))
    assert by_label(done.cells)["task_arithmetic"].parameters == {"lambda": 0.3}


KILLED = """
import os, signal, sys
from pathlib import Path
from modelwright.suites import Settings, _bench, sweep
from suites.tiny import TinySuite

out, most, log = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
attempt = _bench.Bench._attempt
count = 0

def counted(bench, method, parameters):
    global count
    if count == most:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    trial = attempt(bench, method, parameters)
    with log.open("a") as file:
        file.write(f"{method.name} {sorted(parameters.items())}\\n")
    return trial

_bench.Bench._attempt = counted
sweep(TinySuite(), ["ties", "task_arithmetic"], out=out, settings=Settings(seeds=1, budget=4, validation=60))
"""


def killed(out: Path, most: int, log: Path) -> int:
    """The exit code of a sweep that is killed before its trial number `most`."""
    paths = [str(Path(__file__).parents[1]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    arguments = [sys.executable, "-c", KILLED, str(out), str(most), str(log)]
    return subprocess.run(arguments, env=environment, check=False, capture_output=True).returncode


def outcome(cell: Cell) -> tuple[object, ...]:
    trials = [(trial.parameters, trial.objective, trial.figures) for trial in cell.trials]
    return cell.label, cell.status, cell.parameters, trials


def test_a_killed_sweep_goes_on_and_repeats_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, log = tmp_path / "runs", tmp_path / "log"
    assert killed(out, 7, log) == -signal.SIGKILL
    before = log.read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in before] == ["linear", *["ties"] * 4, *["task_arithmetic"] * 2]
    journal = out / "cells/seed-0/task_arithmetic.trials"
    journal.write_text(journal.read_text(encoding="utf-8")[:-20], encoding="utf-8")  # as if it had been cut short
    after: list[str] = []
    attempt = _bench.Bench._attempt

    def logged(bench: Any, method: Method, parameters: Any) -> Any:
        after.append(f"{method.name} {sorted(parameters.items())}")
        return attempt(bench, method, parameters)

    monkeypatch.setattr(_bench.Bench, "_attempt", logged)
    names = ["ties", "task_arithmetic"]
    sweep(TinySuite(), names, out=out, settings=settings(budget=4))
    assert [line for line in after if line in before] == before[-1:]  # the one whose line was cut
    assert len(after) == 3
    whole = sweep(TinySuite(), names, out=tmp_path / "whole", settings=settings(budget=4))
    assert [outcome(cell) for cell in Cells(out)] == [outcome(cell) for cell in whole.cells]
    a, b = (Records.read(folder / "records/seed-0") for folder in (out, tmp_path / "whole"))
    assert len(a) == len(b)
    for part in a:
        other = b.part(part.head.task, part.head.system)
        assert part.ids == other.ids
        assert part.column("score").tolist() == other.column("score").tolist()
    assert not list(out.glob("cells/*/*.trials"))


def test_a_cell_that_is_none_is_refused(tmp_path: Path) -> None:
    sweep(TinySuite(), "linear", out=tmp_path, settings=settings())
    path = tmp_path / "cells/seed-0/linear.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"this is no cell of a sweep\. Delete the file; the cell is made again"):
        sweep(TinySuite(), "linear", out=tmp_path, settings=settings())
    path.write_text(json.dumps({"version": 9}), encoding="utf-8")
    with pytest.raises(InputError, match="this cell has layout 9, and this version reads 1"):
        list(Cells(tmp_path))
