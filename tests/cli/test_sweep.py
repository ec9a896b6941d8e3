"""`mw sweep`: tables, JSON, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelwright.cli._app import run

pytest.importorskip("sklearn")
pytest.importorskip("pyarrow")

BROKEN = """
from modelwright.methods import Method, Params, checked


class Nothing(Params):
    pass


@checked(Nothing)
def broken(models):
    raise OverflowError("too much")


BROKEN = Method("broken", "Broken", "", "", broken, Nothing, "ignored", (1, None), frozenset())
"""
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    monkeypatch.chdir(tmp_path)
    small = ["--training", "smoke", "--seeds", "1", "--budget", "2", "--cache", str(trained), "-o", "runs"]

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["sweep", "digits", *small, *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_sweep_prints_and_writes_its_leaderboard_and_makes_it_once(said: Said) -> None:
    code, out, err = said("--methods", "ties, task_arithmetic")
    assert code == 0
    for name in ("base", "any expert", "experts", "multitask", "linear", "ties", "task_arithmetic", "ensemble"):
        assert f"\n{name} " in f"\n{out}"
    assert "runs/leaderboard.md, records in runs/records" in out
    assert {path.name for path in Path("runs").iterdir()} >= {"leaderboard.md", "leaderboard.json", "records", "cells"}
    lines = err.splitlines()
    assert len(lines) == 14
    assert lines[-1].split()[:4] == ["14/14", "seed", "0", "task_arithmetic"]
    again = said("--methods", "ties,task_arithmetic", "--json")
    data = json.loads(again[1])
    assert (again[0], data["version"], data["ok"], data["made"]) == (0, 1, True, 0)
    assert {line["label"] for line in data["leaderboard"]["lines"]} >= {"ties", "ensemble"}
    assert again[2] == ""


def test_a_sweep_is_compared_with_its_seeds_as_one(said: Said, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said("--methods", "task_arithmetic", "--seeds", "2", "--workers", "2", "--json")
    board = json.loads(out)["leaderboard"]
    assert (code, {line["n"] for line in board["lines"]}) == (0, {2})
    code = run(["compare", "runs", "--json", "--latex", "table.tex", "--reference", "base"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {row["system"] for row in found["systems"]} == {
        "base", "multitask", "linear", "task_arithmetic", "ensemble", *(f"expert-{task}" for task in board["metrics"])
    }  # fmt: skip
    assert found["experts"] == {task: f"expert-{task}" for task in board["metrics"]}
    lines = {line["label"]: line for line in board["lines"]}
    for row in found["rows"]:
        if row["system"] in lines:
            own = lines[row["system"]]["figures"][row["task"]]
            assert row["figure"] == pytest.approx(sum(own) / 2)
            assert row["items"] == 120
    assert r"\begin{tabular}" in Path("table.tex").read_text(encoding="utf-8")


def test_a_method_that_fails_is_said_and_is_code_1(said: Said) -> None:
    Path("broken.py").write_text(BROKEN, encoding="utf-8")
    code, out, err = said("--methods", "broken,ties", "--plugin", "broken.py", "--quiet")
    assert (code, out) == (1, "")
    assert err == "failed: broken, seed 0: OverflowError: too much\n"
    code, out, _ = said("--methods", "broken,ties", "--plugin", "broken.py", "--json")
    data = json.loads(out)
    assert code == 1
    assert data["failed"] == [{"system": "broken", "seed": 0, "reason": "OverflowError: too much"}]
    assert "ties" in Path("runs/leaderboard.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "tis"], "unknown merge method 'tis'. Did you mean 'ties'?"),
        (["--methods", "slerp"], "slerp: it takes 1 model beside the base, and there are 8 experts. Leave it out of"),
        (["--semantics", "papers"], "no semantics is called 'papers'. Did you mean 'paper'?"),
        (["--budget", "0"], "budget must be at least 1, got 0."),
        (["--methods", " , "], "--methods names no method"),
        (["--plugin", "none.py"], "no plugin file 'none.py'."),
    ],
)
def test_wrong_options_are_code_2_and_write_nothing(arguments: list[str], message: str, said: Said) -> None:
    code, out, err = said(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("runs").exists()


def test_an_unknown_suite_is_code_2(capsys: Any) -> None:
    assert run(["sweep", "digit", "-o", "runs"]) == 2
    assert "no suite is called 'digit'. Did you mean 'digits'?" in capsys.readouterr().err
