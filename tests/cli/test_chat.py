"""`mw chat`, and panels under `mw eval` and `mw compare`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from modelwright.cli._app import run

QUESTIONS = {f"What is {i} + {i}?": str(2 * i) for i in range(12)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"question": q, "answer": a}) for q, a in QUESTIONS.items()]
    Path("q.jsonl").write_text("\n".join(rows))
    for name, samples in (("five", 5), ("one", 1)):
        write(name, samples=samples)
    task = {
        "kind": "generation",
        "data": "q.jsonl",
        "prompt": "{{ question }}",
        "target": "answer",
        "metric": "number_match",
        "extract": r"answer is (\S+)\.",
    }
    Path("sums.yml").write_text(yaml.safe_dump(task))
    return tmp_path


def write(name: str, **program: object) -> None:
    script = {"kind": "scripted", "questions": "q.jsonl", "accuracy": 0.8, "prices": {"call": 0.01}}
    said = {
        "kind": "panel",
        "backends": {"script": script},
        "parser": "number",
        "program": {"name": "self_consistency", **program},
    }
    Path(f"{name}.yml").write_text(yaml.safe_dump(said))


def test_a_question_is_answered_and_paid_for_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "five.yml", "What is 2 + 2?"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("The answer is 4.\nvotes: 4: ")
    assert Path("five.replies.sqlite").is_file()
    assert run(["chat", "five.yml", "What is 2 + 2?", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["answer"], said["spent"]["calls"], said["spent"]["money"]) == ("4", 0, 0)
    assert said["spent"]["cached"] == said["calls"] == len(said["replies"])
    assert run(["chat", "five.yml", "What is 2 + 2?", "-q"]) == 0
    assert capsys.readouterr().out == "4\n"


def test_what_a_panel_would_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "five.yml"]) == 0
    out = capsys.readouterr().out
    assert "Self-consistency: 3 to 5 calls a question; no budget; replies are kept in five.replies.sqlite" in out
    assert not Path("five.replies.sqlite").exists()
    assert run(["chat", "five.yml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == [3, 5]


def test_transcripts_replay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "five.yml", "What is 3 + 3?", "--json", "--transcript", "t.jsonl", "--cache", "c.sqlite"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert run(["chat", "five.yml", "What is 3 + 3?", "--json", "--replay", "t.jsonl"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [r["text"] for r in again["replies"]] == [r["text"] for r in first["replies"]]
    assert not Path("five.replies.sqlite").exists()
    assert run(["chat", "five.yml", "What is 4 + 4?", "--replay", "t.jsonl"]) == 2
    assert "the transcript does not have what is asked of 'script'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (
            ["five.yml", "What is 2 + 2?", "--budget", "0.02"],
            1,
            "the budget of 0.02 does not allow another call of 'script'",
        ),
        (["five.yml", "What is 2 + 2?", "--budget", "-1"], 2, "a budget must be a number of at least 0, got -1"),
        (["five.yml", " "], 2, "the question is empty. Give a text, or -"),
        (
            ["five.yml", "q", "--replay", "x", "--budget", "1"],
            2,
            "--replay asks nobody, so it goes with neither --cache",
        ),
        (["none.yml", "q"], 2, "the panel cannot be read: No such file or directory. [none.yml]"),
        (["sums.yml", "q"], 2, "'kind' must be 'panel', got 'generation'"),
        (["five.yml", "What?"], 2, "knows no question in"),
    ],
)
def test_refusals(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, complaint: str
) -> None:
    assert run(["chat", *arguments]) == code
    assert complaint in capsys.readouterr().err


def test_no_answer_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("one.yml").read_text().replace("parser: number", "parser: boxed")
    Path("one.yml").write_text(text)
    assert run(["chat", "one.yml", "What is 2 + 2?"]) == 0
    assert capsys.readouterr().out.startswith("no answer could be read\n")


def test_panels_are_evaluated_within_their_budget(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that its budget ended goes on, and pays only for what is new."""
    pytest.importorskip("pyarrow")
    command = ["eval", "five.yml", "--task", "sums.yml", "-o", "records"]
    assert run([*command, "--budget", "0.2"]) == 1
    assert "the budget of 0.2 does not allow another call of 'script': 0.2 is spent" in capsys.readouterr().err
    assert run(command) == 0
    captured = capsys.readouterr()
    assert "20 replies from the cache" in captured.err
    assert run(["eval", "best=five.yml", "one.yml", "--task", "sums.yml", "-o", "both", "--json"]) == 0
    results = {r["system"]: r["figure"] for r in json.loads(capsys.readouterr().out)["results"]}
    assert set(results) == {"best", "one"}
    assert results["best"] >= results["one"]
    assert run(["compare", "five.yml", "one.yml", "--task", "sums.yml", "--json"]) == 0
    assert {r["system"] for r in json.loads(capsys.readouterr().out)["rows"]} >= {"five", "one"}


def test_a_budget_needs_a_panel(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow")
    server = ["--backend", "http://127.0.0.1:9/v1", "--model", "m"]
    assert run(["eval", "--task", "sums.yml", "-o", "r", "--budget", "1", *server]) == 2
    err = capsys.readouterr().err
    assert "--budget is for panels of chat models, and there is none" in err
