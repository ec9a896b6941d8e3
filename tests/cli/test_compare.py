"""`mw compare`: tables, files, JSON, gates, and what is refused."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comparing_records import part, records
from modelwright.cli._app import run

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

GATE = "systems: [ties]\nreference: expert-digits\nnon_inferiority: {margin: 0.3}\n"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "records"
    records().write(folder)
    return folder


@pytest.fixture
def said(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["compare", *arguments])
        return code, *capsys.readouterr()

    return call


def test_a_table_and_a_sentence(kept: Path, said: Any) -> None:
    code, out, err = said(str(kept), "--ensemble")
    assert (code, err) == (0, "")
    for system in ("base", "ties", "linear", "ensemble", "reference"):
        assert system in out
    assert "The merge: 'ties' gets 85.5 % on these 400 items of 2 tasks" in out.replace("\n", " ")
    assert len([line for line in out.splitlines() if "0.00" in line or "p <" in line]) >= 1


def test_json(kept: Path, said: Any) -> None:
    code, out, _ = said(str(kept), "--json", "--reference", "base", "--seed", "3")
    found = json.loads(out)
    assert code == 0
    assert (found["version"], found["ok"], found["reference"], found["seed"]) == (1, True, "base", 3)
    assert found["answer"]["verdict"] == "merge"


def test_files(kept: Path, said: Any) -> None:
    pytest.importorskip("matplotlib")
    code, out, _ = said(str(kept), "--latex", "t.tex", "--csv", "deep/t.csv", "--html", "t.html", "--quiet")
    assert (code, out) == (0, "")
    assert r"\begin{tabular}" in Path("t.tex").read_text(encoding="utf-8")
    assert Path("deep/t.csv").read_text(encoding="utf-8").startswith("task,system,kind,metric,figure,")
    assert "<svg" in Path("t.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("margin", "code"), [("0.3", 0), ("0.001", 3)])
@pytest.mark.parametrize("form", [[], ["--json"], ["--quiet"]])
def test_a_gate_decides_the_exit_code(margin: str, code: int, form: list[str], kept: Path, said: Any) -> None:
    Path("gate.yml").write_text(GATE.replace("0.3", margin), encoding="utf-8")
    found, out, err = said(str(kept), "--gate", "gate.yml", "--junit", "gate.xml", *form)
    assert found == code
    root = ET.parse("gate.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("2", "0" if code == 0 else "1")
    if form == ["--json"]:
        assert json.loads(out)["ok"] is (code == 0)
        assert json.loads(out)["gate"]["passed"] is (code == 0)
    elif code:
        assert "gate: not passed, 1 of 2 checks failed" in (err if form else out)
    elif form:
        assert (out, err) == ("", "")


def test_prices_kinds_and_experts(kept: Path, said: Any) -> None:
    Path("prices.yml").write_text("ties: {call: 0.01}\nbase: {hour: 2}\n", encoding="utf-8")
    options = ["--prices", "prices.yml", "--kind", "base=single", "--kind", "ties=other", "--expert", "digits=base"]
    _, out, _ = said(str(kept), "--json", *options)
    found = json.loads(out)
    by_name = {system["system"]: system for system in found["systems"]}
    assert by_name["ties"]["money"] == pytest.approx(4.0)
    assert (by_name["base"]["kind"], by_name["ties"]["kind"]) == ("single", "other")
    assert found["experts"]["digits"] == "base"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reference", "bass"], "error: the reference 'bass' has no records. Did you mean 'base'?"),
        (["--junit", "x.xml"], "error: --junit writes what a gate found. Give --gate FILE too."),
        (["--gate", "none.yml"], "error: the gate 'none.yml' cannot be read"),
        (["--kind", "base"], "error: 'base' must be SYSTEM=KIND."),
        (["--kind", "base=a", "--kind", "base=b"], "error: --kind says twice what 'base' is."),
        (["--prices", "none.yml"], "error: the prices 'none.yml' cannot be read"),
        (["--member", "bass"], "error: there are no records of 'bass'. Did you mean 'base'?"),
        (["--level", "95"], "error: level must be in (0, 1), got 95.0."),
    ],
)
def test_wrong_options(arguments: list[str], message: str, kept: Path, said: Any) -> None:
    code, out, err = said(str(kept), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "prices are a mapping from systems to prices"),
        ("ties: 3\n", "the price of 'ties' must say tokens_in, tokens_out, call, hour. [prices.yml:1]"),
        ("ties: {calls: 3}\n", "unknown price 'calls'. Did you mean 'call'?"),
        ("ties: {call: -3}\n", "the price of 'ties': a price must be a number of at least 0, got call = -3.0"),
        ("ties: {call: three}\n", "the price of 'ties': input should be a valid number"),
        ("tie: {call: 3}\n", "there is a price for 'tie', of which there are no records. Did you mean 'ties'?"),
    ],
)
def test_wrong_prices(text: str, message: str, kept: Path, said: Any) -> None:
    Path("prices.yml").write_text(text, encoding="utf-8")
    code, _, err = said(str(kept), "--prices", "prices.yml")
    assert code == 2
    assert message in err


def test_places_without_records(said: Any) -> None:
    Path("model").mkdir()
    assert said("model")[2] == "error: there are no records in 'model'. If it is a model, say on which --task.\n"
    Path("model.py").write_text("")
    assert said("model.py")[2] == (
        "error: 'model.py' holds no records. They are .parquet; if it is a model, say on which --task.\n"
    )
    assert said("nowhere")[2] == "error: there is no 'nowhere'. Give folders of records; models need --task.\n"


def test_systems_that_answered_other_items(said: Any) -> None:
    from modelwright.evaluate._records import write_part

    for name, n in (("a", 10), ("b", 9)):
        write_part(part("digits", name, 0.5, n=n), Path("r") / f"{name}.parquet")
    code, _, err = said("r")
    assert code == 2
    assert "answered different items: 10 and 9, of which 9 are the same" in err


SYSTEMS = """import numpy as np

def right():
    return lambda x: np.stack([x[:, 0] < 1, x[:, 0] >= 1], axis=1).astype(float)

def wrong():
    return lambda x: right()(x)[:, ::-1]

def broken():
    raise RuntimeError("asked")
"""


def test_models_are_evaluated_first(said: Any) -> None:
    Path("them.py").write_text(SYSTEMS, encoding="utf-8")
    Path("data.csv").write_text("a,b,target\n" + "0,1,x\n1,0,y\n" * 20, encoding="utf-8")
    code, out, err = said("them.py:right", "bad=them.py:wrong", "--task", "data.csv", "--json", "-o", "kept")
    assert code == 0, err
    figures = {row["system"]: row["figure"] for row in json.loads(out)["rows"]}
    assert figures == {"right": 1.0, "bad": 0.0}
    again = json.loads(said("kept", "--json")[1])
    assert {row["system"]: row for row in again["rows"]} == {row["system"]: row for row in json.loads(out)["rows"]}


def test_a_gate_with_unknown_names_is_refused_before_models_are_asked(said: Any) -> None:
    Path("them.py").write_text(SYSTEMS, encoding="utf-8")
    Path("data.csv").write_text("a,b,target\n" + "0,1,x\n1,0,y\n" * 20, encoding="utf-8")
    Path("gate.yml").write_text("systems: [ba]\nfloors: [{task: date, at_least: 0}]\n", encoding="utf-8")
    code, _, err = said("bad=them.py:broken", "--task", "data.csv", "--gate", "gate.yml")
    assert code == 2
    assert "the gate names the system 'ba', which is not there. Did you mean 'bad'?" in err
    assert "the gate names the task 'date', which is not there. Did you mean 'data'?" in err
