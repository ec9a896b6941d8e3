"""`mw eval`: a table, JSON, going on where a killed run was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelwright.cli._app import run
from modelwright.evaluate import Records

MW = str(Path(sys.executable).with_name("mw"))
MODELS = """
import os, time
import numpy as np

def noted(rows):
    with open("asked", "a") as file:
        file.writelines(f"{row}\\n" for row in rows)

def half():
    def answer(x):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        noted(x[:, 0])
        return np.full((len(x), 2), 0.5)
    return answer

def sure():
    return lambda x: np.stack([x[:, 0] < 10, x[:, 0] >= 10], axis=1).astype(float)

def nan():
    return lambda x: np.full((len(x), 2), np.nan)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODELWRIGHT_DEBUG", raising=False)
    Path("models.py").write_text(MODELS)
    rows = "".join(f"{i},{'low' if i < 10 else 'more'}\n" for i in range(60))
    Path("size.csv").write_text(f"x,target\n{rows}")
    return tmp_path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


EVAL = ("eval", "models.py:half", "models.py:sure", "--task", "size.csv", "-o", "records")


def test_a_table_of_figures(here: Path, said: Any) -> None:
    code, out, err = said(*EVAL)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["size"]
    assert lines[1][:3] == ["system", "accuracy", "%"]
    assert lines[2][:2] == ["half", "16.67"]
    assert lines[3][:2] == ["sure", "100.00"]
    assert out.splitlines()[4:] == ["test items: 60 of size", "records in records"]
    assert said(*EVAL, "--quiet") == (0, "", "")


def test_json(here: Path, said: Any) -> None:
    code, out, err = said(*EVAL, "--json", "--limit", "30", "--metric", "brier")
    found = json.loads(out)
    assert (code, err, found["version"], found["ok"], found["out"]) == (0, "", 1, True, "records")
    assert [(r["system"], r["items"], r["limit"], r["metric"]) for r in found["results"]] == [
        ("half", 30, 30, "brier"),
        ("sure", 30, 30, "brier"),
    ]
    assert [r["figure"] for r in found["results"]] == [0.5, 0.0]


def test_several_tasks_and_labels(here: Path, said: Any) -> None:
    Path("other.yml").write_text("data: size.csv\nmetric: log_loss\n")
    code, out, _ = said(*EVAL[:1], "a=models.py:half", "b=models.py:sure", *EVAL[3:], "--task", "other.yml")
    assert code == 0
    assert "log_loss (lower is better)" in out
    assert "60 of size, 60 of other" in out
    assert sorted(p.relative_to("records").as_posix() for p in Path("records").rglob("*.parquet")) == [
        "other/a.test.parquet", "other/b.test.parquet", "size/a.test.parquet", "size/b.test.parquet",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("eval", "models.py:half", "-o", "r"), "evaluation needs a task. Give --task FILE"),
        (("eval", "models.py:half", "--task", "size.csv"), "Missing option '--out' / '-o'"),
        (("eval", "--task", "size.csv", "-o", "r"), "evaluation needs a model. Give folders, recipes or functions"),
        ((*EVAL, "--splitt", "tune"), "No such option: --splitt"),
        ((*EVAL, "--limit", "0"), "Invalid value for '--limit'"),
        (
            (*EVAL, "--split", "tests"),
            "error: there is no split 'tests'. Did you mean 'test'? Valid: test. [task size]",
        ),
        ((*EVAL, "--metric", "acc"), "there is no metric 'acc'. Did you mean 'accuracy'?"),
        ((*EVAL, "--metric", "f1"), "there is no metric 'f1'"),
        ((*EVAL, "--metric", "r2"), "the metric 'r2' judges values, and a Classification gives probabilities"),
        (("eval", "models.py:half", "--task", "none.csv", "-o", "r"), "there is no file or folder 'none.csv'"),
        (("eval", "none", "--task", "size.csv", "-o", "r"), "there is no model 'none'"),
        (
            ("eval", "models.py:half", "models.py:half", "--task", "size.csv", "-o", "r"),
            "two systems are called 'half'. Give each a name of its own, as NAME=MODEL",
        ),
        (
            (*EVAL, "--task", "size.csv"),
            "two tasks are called 'size'. Give each a name of its own, by name: in a task file",
        ),
    ],
)
def test_wrong_input(here: Path, said: Any, arguments: tuple[str, ...], text: str) -> None:
    code, out, err = said(*arguments)
    assert (code, out) == (2, "")
    assert text in err
    assert not Path("r").exists()
    assert not Path("records").exists()


def test_answers_that_are_none(here: Path, said: Any) -> None:
    code, _, err = said("eval", "models.py:nan", "--task", "size.csv", "-o", "records")
    assert code == 1
    assert "error: 'nan' gave a probability that is not finite for item" in err
    assert "kept" not in err
    assert not list(Path("records").rglob("*"))
    code, _, err = said("eval", "models.py:half", "models.py:nan", "--task", "size.csv", "-o", "records")
    assert code == 1
    assert "What was answered is kept in 'records': run the same command again" in err


def test_changed_since(here: Path, said: Any) -> None:
    assert said(*EVAL)[0] == 0
    Path("models.py").write_text(MODELS + "# changed\n")
    code, _, err = said(*EVAL)
    assert code == 2
    assert "there are records of 'half' on 'size', and the system has changed since" in err
    assert "--restart" in err
    assert said(*EVAL, "--restart")[0] == 0


def test_what_may_have_changed_is_said(here: Path, said: Any) -> None:
    """A function that refers to an object, whose answers are gone on with."""
    Path("models.py").write_text(MODELS + "\nclass Model: pass\nmodel = Model()\ndef mine():\n    return lambda x: "
                                 "np.full((len(x), 2), 0.5 + 0 * (model is None))\n")  # fmt: skip
    command = ("eval", "models.py:mine", "--task", "size.csv", "-o", "records")
    assert said(*command)[2] == ""
    code, _, err = said(*command)
    assert code == 0
    assert err == (
        "'mine' on 'size': 60 answers are those of an earlier run, and whether 'model' has changed since cannot be told. "
        "To ask again: --restart, or restart=True.\n"
    )
    assert said(*command, "--quiet") == (0, "", "")
    assert said(*command, "--restart")[2] == ""


def test_many_tasks_are_the_rows(here: Path, said: Any) -> None:
    tasks: list[str] = []
    for i in range(8):
        Path(f"t{i}.yml").write_text("data: size.csv\n")
        tasks += ["--task", f"t{i}.yml"]
    code, out, _ = said(*EVAL[:3], *tasks, "-o", "records")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["task", "metric", "items", "half", "sure"]
    assert lines[1] == ["t0", "accuracy", "%", "60", "16.67", "100.00"]
    assert "test items: 480 of 8 tasks" in out


def slow(*more: str) -> subprocess.Popen[str]:
    command = [MW, "eval", "models.py:half", "--task", "size.csv", "-o", "records", "--batch", "2", *more]
    environment = os.environ | {"PAUSE": "0.05"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_goes_on_and_asks_no_item_twice(here: Path, said: Any, how: signal.Signals) -> None:
    process = slow()
    deadline = time.monotonic() + 60
    while not Path("asked").exists() or len(Path("asked").read_text().split()) < 12:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert out == ""
    if how == signal.SIGKILL:
        assert process.returncode == -how
    else:
        assert process.returncode == 130
        assert "interrupted. What was answered is kept in 'records': run the same command again, and it goes on" in err
    assert said("eval", "models.py:half", "--task", "size.csv", "-o", "records", "--quiet")[0] == 0
    asked = Counter(Path("asked").read_text().split())
    assert len(asked) == 60
    assert sum(count > 1 for count in asked.values()) <= 2  # the batch that was being answered
    assert Records.read("records").part("size", "half").table.num_rows == 60
    assert [p.name for p in Path("records").rglob("*") if p.is_file()] == ["half.test.parquet"]


def test_a_pipe_gets_no_bar(here: Path) -> None:
    done = subprocess.run([MW, *EVAL], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
