"""Panels through `mw eval` and `mw compare` from end to end: what is spent, what is kept, what it comes to."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelwright.chat import ScriptedBackend
from modelwright.cli._app import run

pa = pytest.importorskip("pyarrow")

Said = Callable[..., tuple[int, str, str]]
QUESTIONS = {f"What is {i} + {i}?": str(2 * i) for i in range(20)}
#: What wraps a scripted backend in another process: each call is a line of a file, and the process dies before the one
#: that is one too many.
KILLED = """
import os, signal, sys
from modelwright.chat import ScriptedBackend
from modelwright.cli._app import run
asked, last = ScriptedBackend.ask, int(sys.argv[1])
async def ask(self, request):
    global last
    if not last:
        os.kill(os.getpid(), signal.SIGKILL)
    last -= 1
    with open("calls.txt", "a") as file:
        print(request.key(self.model), file=file)
    return await asked(self, request)
ScriptedBackend.ask = ask
sys.exit(run(sys.argv[2:]))
"""


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What scripted backends were asked so far, in this process and in others; works in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    asked = ScriptedBackend.ask

    async def ask(self: ScriptedBackend, request: Any) -> Any:
        with Path("calls.txt").open("a") as file:
            print(request.key(self.model), file=file)
        return await asked(self, request)

    monkeypatch.setattr(ScriptedBackend, "ask", ask)
    Path("calls.txt").touch()
    return lambda: Path("calls.txt").read_text().split()


def lines(name: str, rows: Sequence[Any]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def panel(name: str, answers: dict[str, str], parser: Any = "number", samples: int = 5, **script: Any) -> str:
    """A panel whose calls cost 0.01 each, all of them asked for."""
    lines(f"{name}.answers.jsonl", [{"question": q, "answer": a} for q, a in answers.items()])
    backend = {"kind": "scripted", "questions": f"{name}.answers.jsonl", "prices": {"call": 0.01}, **script}
    program = {"name": "self_consistency", "samples": samples, "early_stop": False}
    whole = {"kind": "panel", "backends": {"script": backend}, "parser": parser, "program": program}
    Path(f"{name}.yml").write_text(yaml.safe_dump(whole, sort_keys=False))
    return f"{name}.yml"


def spent(err: str) -> tuple[int, int, float]:
    """Calls, replies from the cache and money, as the ledger says at the end."""
    found = re.search(r"([\d,]+) calls and ([\d,]+) replies from the cache, .* ([\d.]+) spent", err)
    assert found, err
    return int(found[1].replace(",", "")), int(found[2].replace(",", "")), float(found[3])


# --- money ---------------------------------------------------------------------------------------------------------------


def test_a_killed_run_repeats_no_call(calls: Callable[[], list[str]], said: Said) -> None:
    lines("sums.jsonl", [{"question": q, "answer": f"twice #### {a}"} for q, a in QUESTIONS.items()])
    command = ["eval", panel("five", QUESTIONS, accuracy=0.8), "--task", "sums.jsonl", "--budget", "2.00"]
    command += ["--batch", "4", "-o", "records"]
    killed = subprocess.run([sys.executable, "-c", KILLED, "47", *command], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(calls()) == 47  # 40 of two batches that are answered, and 7 of one that is not
    code, _, err = said(*command)
    assert code == 0, err
    assert len(calls()) == len(set(calls())) == 100
    assert spent(err) == (53, 7, pytest.approx(0.53))
    assert said(*command)[0] == 0
    assert len(calls()) == 100
    assert said("eval", *command[1:-1], "whole")[0] == 0  # other records, and every reply is there already
    assert len(calls()) == 100
    whole, gone_on = (next(Path(name).rglob("*.parquet")) for name in ("whole", "records"))
    from modelwright.evaluate import Records

    [first], [second] = Records.read(whole), Records.read(gone_on)
    for name in ("item", "answer", "score", "confidence", "money", "calls"):
        assert list(first.column(name)) == list(second.column(name)), name


def test_an_exhausted_budget_is_said_and_goes_on(calls: Callable[[], list[str]], said: Said) -> None:
    lines("sums.jsonl", [{"question": q, "answer": f"#### {a}"} for q, a in QUESTIONS.items()])
    command = ["eval", panel("five", QUESTIONS, accuracy=0.8), "--task", "sums.jsonl", "-o", "records"]
    code, out, err = said(*command, "--budget", "0.33")
    assert (code, out) == (1, "")
    assert (
        "the budget of 0.33 does not allow another call of 'script': 0.33 is spent, and the call could cost up to 0.01"
        in err
    )
    assert "Raise the budget or lower max_tokens; answers so far are kept" in err
    assert len(calls()) == 33
    code, out, err = said(*command, "--budget", "0.33", "--json")
    assert code == 1
    assert "does not allow another call" in json.loads(out)["problems"][0]["what"]
    assert len(calls()) == 66
    code, _, err = said(*command, "--budget", "2.00")
    assert code == 0, err
    assert spent(err) == (34, 66, pytest.approx(0.34))
    assert len(calls()) == len(set(calls())) == 100


def test_progress_shows_what_is_spent(
    calls: Callable[[], list[str]], said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", "200")
    lines("sums.jsonl", [{"question": q, "answer": f"#### {a}"} for q, a in QUESTIONS.items()])
    command = ["eval", panel("five", QUESTIONS), "--task", "sums.jsonl", "--budget", "2", "-o", "records"]
    code, _, err = said(*command)
    assert code == 0, err
    assert "five on sums, 1 of 2 spent" in err


# --- files of questions --------------------------------------------------------------------------------------------------

WORDS = {
    "Capital of France?": "Paris",
    "Largest planet?": "Jupiter",
    "Hard: who wrote it?": "Kālidāsa",
    "H2O?": "water",
}
#: For each layout: rows, the panel's parser, and the questions as the panel reads them, with answers. One of four has
#: "Hard" in it.
FILES: dict[str, tuple[list[dict[str, Any]], Any, dict[str, str]]] = {
    "gsm8k": (
        [
            {"question": f"{'Hard: ' * (not i % 4)}Ann has {i} boxes of 600.", "answer": f"{i} * 600\n#### {600 * i:,}",
             "split": "test" if i else "train"} for i in range(9)
        ],
        "number",
        {f"{'Hard: ' * (not i % 4)}Ann has {i} boxes of 600.": str(600 * i) for i in range(1, 9)},
    ),
    "mmlu": (
        [
            {"subject": "sums", "question": f"{'Hard: ' * (not i % 4)}{i} + 1?", "choices": [str(i + j) for j in range(4)],
             "answer": 1} for i in range(8)
        ],
        {"kind": "choice"},
        {f"{'Hard: ' * (not i % 4)}{i} + 1?\nA. {i}\nB. {i + 1}\nC. {i + 2}\nD. {i + 3}": "B" for i in range(8)},
    ),
    "choice": (
        [
            {"question": "Is it?", "choices": ["yes", "no"], "answer": "no"},
            {"question": "Is it not?", "choices": ["yes", "no"], "answer": "A"},
            {"question": "Hard: is it?", "choices": ["yes", "no", "maybe"], "answer": "maybe"},
            {"question": "Was it?", "choices": ["yes", "no"], "answer": "yes"},
        ],
        {"kind": "choice"},
        {
            "Is it?\nA. yes\nB. no": "B", "Is it not?\nA. yes\nB. no": "A",
            "Hard: is it?\nA. yes\nB. no\nC. maybe": "C", "Was it?\nA. yes\nB. no": "A",
        },
    ),
    "free": (
        [{"question": q, "answer": [f"the {a}", a]} for q, a in WORDS.items()],
        {"kind": "pattern", "pattern": r"answer is (\w+)"},
        WORDS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_questions_as_they_are(name: str, calls: Callable[[], list[str]], said: Said) -> None:
    rows, parser, answers = FILES[name]
    lines(f"{name}.jsonl", rows)
    options = {"options": sorted("ABCD")} if parser == {"kind": "choice"} else {}
    figures = {}
    for hard, samples in ((0.0, 3), (1.0, 1)):
        made = panel(f"hard{hard:g}", answers, parser, samples, accuracy={"Hard": hard, "": 1.0}, **options)
        code, out, err = said("eval", made, "--task", f"{name}.jsonl", "-o", "records", "--json")
        assert code == 0, err
        [result] = json.loads(out)["results"]
        figures[hard] = result["figure"]
        assert result["items"] == len(answers)
    assert figures == {0.0: 0.75, 1.0: 1.0}
    assert len(calls()) == 4 * len(answers)


def test_other_files_stay_what_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelwright.errors import InputError
    from modelwright.evaluate import Classification, task
    from modelwright.evaluate.sources._questions import layout

    monkeypatch.chdir(tmp_path)
    lines("a.jsonl", [{"question": f"q{i}", "answer": "x", "target": "ab"[i % 2]} for i in range(4)])
    assert isinstance(task("a.jsonl", columns={"inputs": "question"}), Classification)
    lines("b.jsonl", [{"question": f"q{i}", "answer": "ab"[i % 2]} for i in range(4)])
    assert isinstance(task("b.jsonl", columns={"inputs": "question", "target": "answer"}), Classification)
    lines("c.jsonl", [{"question": "q"}])
    Path("d.jsonl").write_text("{half")
    for name in ("a.jsonl", "c.jsonl", "d.jsonl", "none.jsonl", "b.csv"):
        assert layout(name) == {}
    with pytest.raises(InputError, match=r"d\.jsonl"):
        task("d.jsonl")


# --- comparing -----------------------------------------------------------------------------------------------------------


def test_panels_are_compared_by_money_and_calibration(calls: Callable[[], list[str]], said: Said) -> None:
    lines("sums.jsonl", [{"question": q, "answer": f"#### {a}"} for q, a in QUESTIONS.items()])
    panels = [panel("five", QUESTIONS, accuracy=0.4), panel("one", QUESTIONS, samples=1, accuracy=0.4)]
    code, out, err = said("compare", *panels, "--task", "sums.jsonl", "--json", "--csv", "rows.csv")
    assert code == 0, err
    found = json.loads(out)
    systems = {mean["system"]: mean for mean in found["systems"]}
    rows = {row["system"]: row for row in found["rows"]}
    for name, samples in (("five", 5), ("one", 1)):
        figure = systems[name]["figure"]
        assert 0 < figure < 1
        assert systems[name]["money"] == pytest.approx(0.01 * samples * 20)
        assert systems[name]["money_per_right"] == pytest.approx(0.01 * samples / figure)
        assert systems[name]["calls"] == 20 * samples
    assert {name: system["kind"] for name, system in systems.items()} == {"five": "ensemble", "one": "single"}
    assert "money" in systems["one"]["pareto"]
    assert 0 <= rows["five"]["calibration_error"] <= 1
    assert sum(line["items"] for line in rows["five"]["reliability"]) == 20
    assert rows["one"]["calibration_error"] is None  # one reply is no vote
    assert "money" in Path("rows.csv").read_text().splitlines()[0]
    code, out, err = said("compare", *panels, "--task", "sums.jsonl")
    assert code == 0, err
    table = " ".join(out.split())
    assert "money/1,000" in table
    assert "money/right" in table
    assert f"{systems['five']['money_per_right']:.4g}" in table


def test_records_from_before_money_was_known(calls: Callable[[], list[str]], said: Said) -> None:
    import pyarrow.parquet as pq

    lines("sums.jsonl", [{"question": q, "answer": f"#### {a}"} for q, a in QUESTIONS.items()])
    panels = [panel("five", QUESTIONS, accuracy=0.4), panel("one", QUESTIONS, samples=1, accuracy=0.4)]
    code, _, err = said("eval", *panels, "--task", "sums.jsonl", "-o", "records")
    assert code == 0, err
    [old] = [path for path in Path("records").rglob("*.parquet") if path.name.startswith("one")]
    whole = pq.read_table(old)
    pq.write_table(whole.drop_columns(["money"]), old)
    assert "money" not in pq.read_schema(old).names
    code, out, err = said("compare", "records", "--json")
    assert code == 0, err
    systems = {mean["system"]: mean for mean in json.loads(out)["systems"]}
    assert (systems["one"]["money"], systems["one"]["money_per_right"]) == (None, None)
    assert systems["one"]["figure"] == pytest.approx(whole["score"].to_numpy().mean())
    assert systems["five"]["money"] == pytest.approx(1.0)
    code, out, err = said("compare", "records")
    assert code == 0, err
    assert "money/right" in " ".join(out.split())
    before = len(calls())
    assert said("eval", *panels, "--task", "sums.jsonl", "-o", "records")[0] == 0
    assert len(calls()) == before  # old records are not asked for again
    pq.write_table(whole.drop_columns(["score"]), old)
    code, _, err = said("compare", "records")
    assert code == 2
    assert "a parquet file, but not records of mw eval" in err
