"""Bundles of weights as systems: each task is answered by its own model, and the user is told so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.cli._app import run
from modelwright.errors import InputError
from modelwright.evaluate import systems

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

Said = Callable[..., tuple[int, str, str]]
NET = """
import torch

class Net(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x.float())

def build(config):
    return Net(1, 2)
"""


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def expert(cut: float) -> dict[str, Any]:
    """Says `more` of numbers above the cut."""
    return {"weight": np.array([[0.0], [1.0]], np.float32), "bias": np.array([0.0, -cut], np.float32)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tasks that contradict each other, an expert for each, and a bundle of both."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    base = {"weight": np.zeros((2, 1), np.float32), "bias": np.zeros(2, np.float32)}
    for name, model in (("base", base), ("early", expert(4.5)), ("late", expert(14.5))):
        mw.merge([model], method="passthrough").save(name)
    for name, cut in (("early", 4.5), ("late", 14.5)):
        rows = "".join(f"{i},{'more' if i > cut else 'low'}\n" for i in range(20))
        Path(f"{name}.csv").write_text(f"x,target\n{rows}")
    mw.merge(["early", "late"], base="base", method="tall_mask", strictness=0.0).save("bundle")
    mw.merge(["early", "late"], base="base", method="twin_merging").save("twins")
    return tmp_path


def test_each_task_has_its_own_model(here: Path, said: Said) -> None:
    arguments = (
        "eval",
        "twins",
        "one=twins#early",
        "early",
        "--task",
        "early.csv",
        "--task",
        "late.csv",
        "--network",
        "net.py:build",
    )
    code, out, err = said(*arguments, "-o", "records", "--json")
    assert (code, err) == (0, "")
    figures = {(r["task"], r["system"]): r["figure"] for r in json.loads(out)["results"]}
    assert figures["early", "twins"] == figures["late", "twins"] == 1.0
    assert figures["early", "one"] == figures["early", "early"] == 1.0
    assert figures["late", "one"] == figures["late", "early"] == 0.5
    sizes = {r["system"]: r["bytes"] for r in json.loads(out)["results"]}
    assert sizes["twins"] == mw.open("twins").storage.total  # type: ignore[reportAttributeAccessIssue]


def test_compare_tells_that_it_knows_the_task(here: Path, said: Said) -> None:
    code, out, err = said(
        "compare", "twins", "early", "late", "--task", "early.csv", "--task", "late.csv", "--network", "net.py:build"
    )
    assert code == 0, err
    assert "twins" in out
    code, out, err = said("eval", "twins", "--task", "early.csv", "--network", "net.py:build", "-o", "records")
    assert code == 0
    assert "'twins' is told the task of each item, which one merged model is not" in err


def test_a_task_that_it_does_not_have_is_named(here: Path, said: Said) -> None:
    Path("other.csv").write_text("x,target\n0,low\n1,more\n")
    code, _, err = said("eval", "twins", "--task", "other.csv", "--network", "net.py:build", "-o", "records")
    assert code == 2
    assert (
        "'twins' has no model for the task 'other', but for early, late. Say which one is to answer: twins#early;"
        in err
    )
    code, _, err = said("eval", "twins#lat", "--task", "other.csv", "--network", "net.py:build", "-o", "records")
    assert code == 2
    assert "twins has no task 'lat'. Did you mean 'late'?" in err


def test_in_python_without_a_folder(here: Path) -> None:
    bundle = mw.merge(["early", "late"], base="base", method="twin_merging", density=1.0)
    tasks = [mw.task(f"{name}.csv") for name in bundle.tasks]
    records = mw.eval(
        {"held": bundle, "stored": mw.open("twins"), "task": bundle.task("late")}, tasks, network="net.py:build"
    )
    assert [records.part(name, "held").figure for name in bundle.tasks] == [1.0, 1.0]
    assert records.part("late", "task").figure == 1.0
    first, second = systems({"a": bundle, "b": mw.open("twins")}, network="net.py:build")
    assert first.fingerprint
    assert second.fingerprint
    with pytest.raises(InputError, match="is a bundle, not one model"):
        mw.diff(bundle, base="base")
