"""The leaderboard is what the records come to."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from modelwright.checkpoint import Checkpoint
from modelwright.errors import InputError
from modelwright.evaluate import FunctionPredictor, Metric, Part, Predictor, Records, compare
from modelwright.suites import Cells, Leaderboard, Settings, leaderboard, pooled, sweep
from modelwright.suites._leaderboard import spread
from modelwright.suites._order import RESAMPLES, compare_orders
from suites.tiny import VIEWS, TinyFamily, TinySuite, _family, merging


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep")
    sweep(TinySuite(), "all", out=out, settings=Settings(seeds=2, budget=2, validation=60))
    return out


@pytest.fixture(scope="module")
def board(folder: Path) -> Leaderboard:
    return leaderboard(folder)


@cache
def records(folder: Path, seed: int) -> Records:
    return Records.read(folder / "records" / f"seed-{seed}")


def hits(folder: Path, seed: int, task: str, system: str) -> float:
    part = records(folder, seed).part(task, system)
    return float(np.mean(part.column("answer") == part.column("target")))


def test_figures_and_shares_are_those_of_the_records(folder: Path, board: Leaderboard) -> None:
    for label in ("ties", "ensemble", "base"):
        line = board.line(label)
        assert line.seeds == (0, 1)
        for task in VIEWS:
            for seed in line.seeds:
                own = hits(folder, seed, task, f"expert-{task}")
                assert line.figures[task][seed] == pytest.approx(hits(folder, seed, task, label))
                assert line.shares[task][seed] == pytest.approx(hits(folder, seed, task, label) / own)
    assert list(board.metrics) == list(VIEWS)
    np.testing.assert_allclose(board.line("experts").share, 1)
    mean = np.mean([hits(folder, 1, "mirrored", f"expert-{view}") for view in VIEWS])
    assert board.line("any expert").figures["mirrored"][1] == pytest.approx(mean)


def test_spread_is_the_standard_deviation_over_seeds(board: Leaderboard) -> None:
    a, b = board.line("ties").share
    assert spread(board.line("ties").share) == pytest.approx(abs(a - b) / np.sqrt(2))
    assert spread([0.5]) is None


def test_the_untuned_share_is_that_of_the_first_set_on_validation(folder: Path, board: Leaderboard) -> None:
    first = [cell.trials[0] for cell in Cells(folder) if cell.label == "ties"]
    assert first[0].parameters == {"lambda": 1.0, "density": 1.0}
    assert board.line("ties").untuned == [trial.objective for trial in first]
    shown = f"| {100 * np.mean([trial.objective or 0 for trial in first]):.1f} |"
    assert next(line for line in board.markdown().splitlines() if line.startswith("| `ties`")).count(shown) == 1
    assert list(board.line("base").untuned) == []


def test_weights_that_are_kept(board: Leaderboard) -> None:
    one = board.line("base").nbytes
    assert one
    assert board.line("ties").nbytes == one
    assert board.line("experts").nbytes == board.line("ensemble").nbytes == 3 * one


def test_groups_stand_apart_and_methods_from_worst_to_best(board: Leaderboard) -> None:
    assert [line.label for line in board.lines][:4] == ["base", "any expert", "experts", "multitask"]
    assert board.lines[-1].label == "ensemble"
    shares = [line.share.mean() for line in board.lines if line.group == "data-free"]
    assert shares == sorted(shares)


def test_markdown_says_figures_conditions_and_what_is_left_out(board: Leaderboard) -> None:
    text = board.markdown()
    line = board.line("ties")
    figures = " | ".join(f"{100 * np.mean(line.figures[task]):.1f}" for task in VIEWS)
    share = f"{100 * line.share.mean():.1f} ± {100 * (spread(line.share) or 0):.1f} %"
    assert f"| `ties` | {figures} | {100 * line.raw.mean():.1f} | {share} |" in text
    assert "2 seeds, community semantics" in text
    assert "chosen on up to 60 validation items a task, with at most 2 evaluations a method" in text
    assert "- slerp skipped (seed 0, 1): it takes 1 model beside the base, and there are 3 experts" in text
    for table in text.split("\n\n"):
        rows = [row for row in table.splitlines() if row.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, table


def test_files(folder: Path, board: Leaderboard, tmp_path: Path) -> None:
    files = board.write(tmp_path)
    assert [path.name for path in files] == ["leaderboard." + end for end in ("md", "json", "svg", "html")]
    data = json.loads(files[1].read_text(encoding="utf-8"))
    assert data["version"] == 1
    ties = next(line for line in data["lines"] if line["label"] == "ties")
    assert ties["mean_share"] == pytest.approx(board.line("ties").share.mean())
    assert len(ties["parameters"]) == 2
    picture = files[2].read_text(encoding="utf-8")
    words = {node.text for node in ElementTree.fromstring(picture).iter() if node.text}
    assert {"ties", "ensemble", "tiny"} <= words
    page = files[3].read_text(encoding="utf-8")
    assert f"The best merge is {max(sorted(merging(3)), key=lambda name: board.line(name).share.mean())} with " in page
    assert "<svg" in page
    assert "http" not in re.sub(r"http://www.w3.org/\S+", "", page)
    board.write(tmp_path / "again")
    assert (tmp_path / "again/leaderboard.svg").read_text(encoding="utf-8") == picture


def test_an_unfinished_sweep_has_a_table_of_its_finished_seeds(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*"):
        target = tmp_path / path.relative_to(folder)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif not path.name.startswith("leaderboard"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    Cells(tmp_path).discard(1, "expert-upright")
    found = leaderboard(tmp_path)
    assert found.line("ties").seeds == (0,)
    assert "±" not in found.markdown().split("## ")[0].split("of experts |")[1]
    Cells(tmp_path).discard(0, "expert-upright")
    with pytest.raises(InputError, match="has no seed whose experts are finished"):
        leaderboard(tmp_path)
    with pytest.raises(InputError, match=r"no sweep in '.*'. mw sweep SUITE -o FOLDER makes one"):
        leaderboard(tmp_path / "nothing")


class Coins:
    """Records of systems whose items are right with a given probability; the experts always are."""

    def __init__(self, folder: Path, rates: dict[str, float]):
        template = records(folder, 0).part("upright", "ties")
        rng = np.random.default_rng(0)
        self.tasks = ["upright"]
        self.labels = list(rates)
        self._parts = {name: self._of(template, rng.random(400) < rate) for name, rate in rates.items()}
        self._parts["experts"] = self._of(template, np.ones(400, bool))

    @staticmethod
    def _of(template: Part, right: np.ndarray) -> Part:
        table = template.table
        place = table.schema.get_field_index("score")
        import pyarrow as pa

        return replace(
            template, table=table.set_column(place, table.schema.field(place), pa.array(right.astype(float)))
        )

    def part(self, label: str, seed: int, task: str) -> Part:
        return self._parts[label]

    def seeds(self, label: str) -> tuple[int, ...]:
        return (0,)

    def metric(self, task: str) -> Metric:
        return self._parts["experts"].metric


def test_the_expected_order_is_compared_rank_by_rank(folder: Path) -> None:
    coins = Coins(folder, {"base": 0.8, "linear": 0.5, "ties": 0.52, "other": 0.1})
    found = {(pair.better, pair.worse): pair for pair in compare_orders(coins)}
    assert set(found) == {("experts", "ties"), ("ties", "linear"), ("linear", "base")}
    assert found["experts", "ties"].verdict == "as expected"
    assert found["ties", "linear"].verdict == "cannot be told"
    assert found["linear", "base"].verdict == "the other way round"


def test_intervals_are_those_of_paired_differences(folder: Path) -> None:
    """Against the normal approximation: the standard error of the mean of the items' differences."""
    coins = Coins(folder, {"linear": 0.7, "base": 0.5})
    pair = next(pair for pair in compare_orders(coins) if pair.better == "linear")
    scores = [coins.part(name, 0, "upright").column("score") for name in ("linear", "base")]
    off = scores[0] - scores[1]
    assert pair.difference == pytest.approx(off.mean())
    half = 1.96 * off.std(ddof=1) / np.sqrt(len(off))
    assert (pair.high - pair.low) / 2 == pytest.approx(half, rel=4 / np.sqrt(RESAMPLES))
    assert pair.low < pair.difference < pair.high


def test_a_draw_without_a_share_is_left_out_and_counted(folder: Path) -> None:
    """Of 400 items the expert has 2 right: e^-2 of the resamples have none of them."""
    coins = Coins(folder, {"linear": 0.7, "base": 0.5})
    few = np.zeros(400, bool)
    few[:2] = True
    coins._parts["experts"] = Coins._of(coins.part("linear", 0, "upright"), few)
    pair = next(pair for pair in compare_orders(coins) if pair.better == "linear")
    assert pair.undefined == pytest.approx(np.exp(-2) * RESAMPLES, rel=0.3)
    assert np.isfinite([pair.low, pair.high]).all()
    coins._parts["experts"] = Coins._of(coins.part("linear", 0, "upright"), np.zeros(400, bool))
    none = next(pair for pair in compare_orders(coins) if pair.better == "linear")
    assert none.verdict == "cannot be told"
    assert np.isnan([none.difference, none.low, none.high]).all()


class Weak(TinySuite):
    """The expert of one task has every item wrong."""

    def family(self, seed: int, **_more: object) -> TinyFamily:  # type: ignore[override]
        found = _family(seed)
        return WeakFamily(**{field.name: getattr(found, field.name) for field in fields(found)})


class WeakFamily(TinyFamily):
    def system(self, weights: Checkpoint, label: str, *, device: str = "cpu") -> Predictor:
        if label not in ("negative", "expert-negative"):
            return super().system(weights, label, device=device)
        items = [self.tasks["negative"].items(split) for split in ("validation", "test")]
        known = {x.tobytes(): y for part in items for x, y in zip(part.inputs, part.targets, strict=True)}
        wrong = np.eye(10)[1:].tolist() + np.eye(10)[:1].tolist()
        return FunctionPredictor(label, function=lambda x: np.array([wrong[known.get(one.tobytes(), 0)] for one in x]))


def test_a_task_whose_expert_knows_nothing_is_left_out_of_shares_and_said(tmp_path: Path) -> None:
    sweep(Weak(), "ties", out=tmp_path, settings=Settings(seeds=2, budget=2, validation=60))
    board = leaderboard(tmp_path)
    assert board.without == {"negative": [0, 1]}
    line, known = board.line("ties"), [view for view in VIEWS if view != "negative"]
    assert line.shares["negative"] == [None, None]
    np.testing.assert_allclose(line.share, np.mean([line.shares[view] for view in known], axis=0))
    files = board.write(tmp_path / "written")
    text = files[0].read_text(encoding="utf-8")
    assert "negative: its expert has no figure above 0 (seed 0, 1), so there is no share of it" in text
    for path in files:
        assert "nan" not in path.read_text(encoding="utf-8").lower().replace("nano", "")
    data = json.loads(files[1].read_text(encoding="utf-8"))
    assert next(line for line in data["lines"] if line["label"] == "ties")["shares"]["negative"] == [None, None]
    assert Leaderboard.of(data).markdown() == board.markdown()


def test_a_board_comes_back_from_its_data(board: Leaderboard) -> None:
    again = Leaderboard.of(json.loads(json.dumps(board.data)))
    assert again.data == board.data
    assert again.markdown() == board.markdown()
    assert again.picture() == board.picture()
    nothing = replace(board.line("ties"), shares={view: [float("nan")] * 2 for view in VIEWS})
    odd = Leaderboard.of(json.loads(json.dumps(replace(board, lines=[nothing]).data)))
    assert np.isnan(odd.lines[0].share).all()
    with pytest.raises(InputError, match="these are no data of a leaderboard as this version writes it"):
        Leaderboard.of({"version": 0})


def test_tables_say_how_many_seeds_a_line_has(board: Leaderboard) -> None:
    row = next(row for row in board.markdown().splitlines() if row.startswith("| `ties` |"))
    head = next(row for row in board.markdown().splitlines() if row.startswith("| system |"))
    assert row.split(" | ")[head.split(" | ").index("n")] == "2"
    assert {line["n"] for line in board.data["lines"]} == {2}
    assert re.search(r"<th[^>]*>n</th>", board.html())


def test_a_board_without_a_merge_has_its_files(board: Leaderboard, tmp_path: Path) -> None:
    bare = replace(board, lines=[line for line in board.lines if line.group == "reference"], order=[])
    page = bare.write(tmp_path)[3].read_text(encoding="utf-8")
    assert "No merge has a share of what the experts reach." in page


# Seeds as one


def test_the_seeds_pooled_are_one_row_an_item(folder: Path, board: Leaderboard) -> None:
    both = pooled(folder)
    part = both.part("mirrored", "ties")
    assert part.figure == pytest.approx(np.mean(board.line("ties").figures["mirrored"]))
    each = [records(folder, seed).part("mirrored", "ties").ordered(part.ids) for seed in (0, 1)]
    assert part.ids == each[0].ids
    scores = np.mean([one.column("score") for one in each], axis=0)
    np.testing.assert_array_equal(part.column("score"), scores)
    assert set(scores) == {0, 0.5, 1}
    apart = int(np.flatnonzero(each[0].column("answer") != each[1].column("answer"))[0])
    assert part.column("answer")[apart] == " | ".join(one.column("answer")[apart] for one in each)
    assert part.probabilities is None
    assert part.column("calls").tolist() == [1] * 400
    np.testing.assert_allclose(part.column("seconds"), np.mean([one.column("seconds") for one in each], axis=0))
    assert part.head.made["seed"] == [0, 1]
    assert len(part.head.made["parameters"]) == 2
    assert part.head.task_fingerprint == each[0].head.task_fingerprint
    assert "slerp" not in both.systems


def few(found: Records) -> Records:
    """Some of the systems: every one is compared with the reference by a test of its own."""
    return Records(part for part in found if part.head.system in ("base", "linear", "ties"))


def test_intervals_of_pooled_seeds_are_of_items(folder: Path) -> None:
    """Against the closed form: the standard error of the mean over n items of what each has, a mean over seeds."""
    both = few(pooled(folder))
    scores = both.part("mirrored", "ties").column("score")
    found = compare(both, interval="percentile").row("mirrored", "ties").figure
    half = 1.96 * scores.std(ddof=1) / np.sqrt(len(scores))
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_seeds_that_agree_tell_no_more_than_one(folder: Path, tmp_path: Path) -> None:
    """Were their answers counted as answers to other items, the interval would be smaller by the root of 2."""
    shutil.copytree(folder, tmp_path / "twice")
    shutil.rmtree(tmp_path / "twice/records/seed-1")
    shutil.copytree(folder / "records/seed-0", tmp_path / "twice/records/seed-1")
    one, two = (
        compare(few(found)).row("mirrored", "ties") for found in (records(folder, 0), pooled(tmp_path / "twice"))
    )
    assert one.figure == two.figure
    assert one.difference == two.difference


def test_what_is_no_mean_over_items_is_not_pooled(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "runs")
    for seed in (0, 1):
        place = tmp_path / f"runs/records/seed-{seed}"
        found = [replace(part, head=replace(part.head, metric="macro_f1")) for part in records(folder, seed)]
        shutil.rmtree(place)
        Records(found).write(place)
    with pytest.raises(
        InputError, match=r"task mirrored: macro_f1 is no mean over items.*mw compare RUNS/records/seed-0"
    ):
        pooled(tmp_path / "runs")


def test_seeds_with_other_items_are_not_pooled(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "runs")
    place = tmp_path / "runs/records/seed-1"
    found = [replace(part, head=replace(part.head, task_fingerprint="other")) for part in records(folder, 1)]
    shutil.rmtree(place)
    Records(found).write(place)
    with pytest.raises(InputError, match="task mirrored: its test items are not the same in all seeds"):
        pooled(tmp_path / "runs")


def test_a_pool_of_nothing(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs/cells")
    with pytest.raises(InputError, match=r"has no finished cells\. Run mw sweep again"):
        pooled(tmp_path / "runs")
