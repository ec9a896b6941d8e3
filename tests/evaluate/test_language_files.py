"""Task files for language models, folders and merges as systems, and mw eval with servers and commands."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny_language as tiny
from modelwright.cli._app import run as mw
from modelwright.errors import InputError
from modelwright.evaluate import CausalPredictor, Choice, Generation, Perplexity, Records, systems, task

QUESTIONS = [
    {"context": "two and two", "choices": ["four", "five"], "answer": 0, "split": "test", "lang": "en"},
    {"context": "zwei und zwei", "choices": ["fuenf", "vier"], "answer": "vier", "split": "test", "lang": "de"},
]
EXAMPLES = [
    {"context": "one and one", "choices": ["two", "one"], "answer": 0, "split": "train", "lang": "en"},
    {"context": "eins und eins", "choices": ["eins", "zwei"], "answer": 1, "split": "train", "lang": "de"},
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


# --- choice ----------------------------------------------------------------------------------------------------------


def test_choices(here: Path) -> None:
    mixed = [QUESTIONS[0], {**QUESTIONS[1], "answer": 1}]
    found = task(lines("q.jsonl", mixed), kind="choice", normalisation="byte", slices=["lang"])
    assert isinstance(found, Choice)
    items = found.items("test")
    assert (found.name, found.choices, found.normalisation) == ("q", 2, "byte")
    assert items.ids == ("test/0", "test/1")
    assert [tuple(q) for q in items.inputs] == [
        ("two and two", ("four", "five")), ("zwei und zwei", ("fuenf", "vier")),
    ]  # fmt: skip
    assert list(items.targets) == [0, 1]
    assert list(items.slices["lang"]) == ["en", "de"]


def test_answers_may_be_texts_or_a_position_for_all(here: Path) -> None:
    rows = [{**row, "answer": row["choices"][0]} for row in QUESTIONS]
    assert list(task(lines("q.jsonl", rows), kind="choice").items("test").targets) == [0, 0]
    pairs = [{"good": "he is", "bad": "he are", "n": 1}]
    found = task(
        lines("p.jsonl", pairs),
        kind="choice",
        context="",
        choices=["{{ good }}", "{{ bad }}"],
        answer=0,
        id="pair {{ n }}",
    )
    assert found.items("test").ids == ("pair 1",)
    assert found.items("test").inputs[0] == ("", ("he is", "he are"))
    rows = [{**QUESTIONS[0], "answer": "for"}]
    with pytest.raises(InputError, match=r"the answer 'for' is none of the choices\. Did you mean 'four'\?.*line 1"):
        task(lines("q.jsonl", rows), kind="choice")


def test_examples_come_from_tune_and_share_a_slice(here: Path) -> None:
    rows = [*EXAMPLES, QUESTIONS[0], {**QUESTIONS[1], "answer": 1}]
    for row in rows:
        row["answer"] = row["answer"] if isinstance(row["answer"], int) else 1
    found = task(lines("q.jsonl", rows), kind="choice", shots=1, shots_by="lang", slices=["lang"], separator=" | ")
    contexts = [q.context for q in found.items("test").inputs]
    assert contexts == ["one and one two | two and two", "eins und eins zwei | zwei und zwei"]
    both = task("q.jsonl", kind="choice", shots=2)
    assert all(q.context.count("\n\n") == 2 for q in both.items("test").inputs)
    assert [q.context for q in both.items("test").inputs] == [
        q.context for q in task("q.jsonl", kind="choice", shots=2).items("test").inputs
    ]
    with pytest.raises(InputError, match="shots must be at most the number of examples in the split tune, got 3 for 2"):
        task("q.jsonl", kind="choice", shots=3).items("test")
    own = task("q.jsonl", kind="choice", shots=1)
    assert all(q.context.count(q.context.split("\n\n")[-1]) == 1 for q in own.items("tune").inputs), "not itself"
    with pytest.raises(InputError, match=r"shots_by must be one of the slices, got 'lang'\. Say slices: \[lang\]"):
        task("q.jsonl", kind="choice", shots=1, shots_by="lang").items("test")
    with pytest.raises(InputError, match="few-shot examples come from the split tune, and there is none"):
        task(lines("t.jsonl", [QUESTIONS[0]]), kind="choice", shots=1)


def test_ambiguous_rows(here: Path) -> None:
    rows = [QUESTIONS[0], {"context": "x", "choices": ["a", "a", "b"], "answer": 1, "split": "test", "lang": "en"}]
    with pytest.raises(InputError, match=r"the right choice must be there once, got 'a' .*ambiguous: drop"):
        task(lines("q.jsonl", rows), kind="choice").items("test")
    assert task("q.jsonl", kind="choice", ambiguous="drop").items("test").ids == ("test/0",)


# --- generation ------------------------------------------------------------------------------------------------------


def test_generation(here: Path) -> None:
    rows = [
        {"q": "1 + 1", "solution": "add them #### 2", "split": "test"},
        {"q": "2 + 2", "solution": "add #### 4", "split": "train"},
    ]
    lines("sums.jsonl", rows)
    Path("sums.yml").write_text(
        "kind: generation\ndata: sums.jsonl\nprompt: 'Q: {{ q }} A:'\ntarget: '{{ solution.split(\"####\")[1].strip() }}'\n"
        "shown: ' {{ solution }}'\nmetric: number_match\nextract: '#### (.*)'\nstop: 'Q:'\nmax_tokens: 9\nshots: 1\n",
        encoding="utf-8",
    )
    found = task("sums.yml")
    assert isinstance(found, Generation)
    assert list(found.items("test").inputs) == ["Q: 2 + 2 A: add #### 4\n\nQ: 1 + 1 A:"]
    assert list(found.items("test").targets) == [("2",)]
    assert (found.sampling.stop, found.sampling.max_tokens, found.metric.name) == (("Q:",), 9, "number_match")
    assert found.answer("so #### 2") == "2"


def test_targets_may_be_several_or_numbers(here: Path) -> None:
    rows = [{"prompt": "a", "target": ["x", "y"]}, {"prompt": "b", "target": ["z"]}]
    assert list(task(lines("t.jsonl", rows), kind="generation").items("test").targets) == [("x", "y"), ("z",)]
    rows = [{"prompt": "a", "target": 3}]
    assert list(task(lines("n.jsonl", rows), kind="generation").items("test").targets) == [("3",)]
    with pytest.raises(InputError, match=r"there is no column 'targt'\. Did you mean 'target'\?"):
        task("n.jsonl", kind="generation", target="targt")


def test_functions_beside_the_task_file(here: Path) -> None:
    (here / "tasks").mkdir()
    Path("tasks/judge.py").write_text("def judge(answer, targets):\n    return len(answer)\n", encoding="utf-8")
    lines("tasks/t.jsonl", [{"prompt": "a", "target": "x"}])
    Path("tasks/t.yml").write_text("kind: generation\ndata: t.jsonl\nfunction: judge.py:judge\n", encoding="utf-8")
    found = task("tasks/t.yml")
    assert isinstance(found, Generation)
    assert found.metric.name == "custom"
    before = found.fingerprint("test")
    Path("tasks/judge.py").write_text("def judge(answer, targets):\n    return 1\n", encoding="utf-8")
    assert task("tasks/t.yml").fingerprint("test") != before


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ prompt", "prompt must be a template"),
        ("{{ prmpt }}", r"there is no column 'prmpt'\. Did you mean 'prompt'\?"),
        ("{{ prompt.__class__.__mro__ }}", r"the template of prompt fails: SecurityError"),
        ("{{ prompt + 1 }}", r"the template of prompt fails: TypeError: .*line 1"),
    ],
)
def test_templates_that_are_refused(template: str, message: str, here: Path) -> None:
    lines("t.jsonl", [{"prompt": "a", "target": "x"}])
    with pytest.raises(InputError, match=message):
        task("t.jsonl", kind="generation", prompt=template)


def test_unknown_keys_and_values(here: Path) -> None:
    lines("t.jsonl", [{"prompt": "a", "target": "x"}])
    Path("t.yml").write_text("kind: generation\ndata: t.jsonl\nmax_token: 3\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"unknown key 'max_token'\. Did you mean 'max_tokens'\?.*t\.yml:3"):
        task("t.yml")
    with pytest.raises(InputError, match="max_tokens"):
        task("t.jsonl", kind="generation", max_tokens=0)


# --- perplexity ------------------------------------------------------------------------------------------------------


def test_texts(here: Path) -> None:
    Path("a.txt").write_text("one two\n" * 40, encoding="utf-8")
    Path("b.txt.gz").write_bytes(gzip.compress(b"drei vier\n" * 10))
    found = task("a.txt")
    assert isinstance(found, Perplexity)
    assert (found.name, found.metric.name, found.items("test").ids) == ("a", "perplexity", ("a.txt:0",))
    both = task("a.txt", piece=100, before=8, length=16, stride=4)
    assert len(both.items("test")) == 4
    assert (both.rolling.length, both.rolling.stride) == (16, 4)  # type: ignore[attr-defined]
    Path("t.yml").write_text(
        "kind: perplexity\ndata: {test: [a.txt, b.txt.gz], validation: b.txt.gz}\npiece: null\n", encoding="utf-8"
    )
    assert task("t.yml").items("test").ids == ("a.txt:0", "b.txt.gz:0")
    twice = task("t.yml")
    twice.items("test")
    with pytest.raises(InputError, match="splits must have no item in common"):
        twice.items("validation")
    rows = task(lines("r.jsonl", [{"text": "x y", "id": "r1", "split": "test"}]), kind="perplexity")
    assert rows.items("test").ids == ("r1:0",)
    for options, message in (
        ({"split": "s"}, "split is for rows, and these data are texts"),
        ({"length": 4, "stride": 5}, r"stride must be in \[1, length\], got 5"),
    ):
        with pytest.raises(InputError, match=message):
            task("a.txt", **options)
    Path("bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"not UTF-8\. \[.*bad\.txt\]"):
        task("bad.txt").items("test")


def test_harness_tasks_need_the_harness(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lm_eval", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        InputError, match=r"needs the package 'lm_eval', which is not installed.*modelwright\[lm-eval\]"
    ):
        task("lm-eval:arc_easy")


# --- systems and the command line ------------------------------------------------------------------------------------


@pytest.fixture
def folders(here: Path) -> Path:
    pytest.importorskip("torch")
    words = tiny.tokenizer()
    for i, name in enumerate(("one", "two")):
        tiny.save(here / name, tiny.model("gpt2", len(words), seed=i), words)
    Path("text.txt").write_text("some text to read\n" * 10, encoding="utf-8")
    return here


@pytest.mark.torch
def test_folders_and_merges_are_causal_models(folders: Path) -> None:
    Path("merge.yml").write_text(
        "merge_method: linear\nmodels: [{model: one}, {model: two}]\nparameters: {weight: 0.5}\n"
    )
    found = systems(["one", "merge.yml"])
    assert all(isinstance(one, CausalPredictor) for one in found)
    direct = CausalPredictor.from_folder("one")
    pairs = [("a", "bc")]
    assert found[0].loglikelihoods(pairs)[0] == direct.loglikelihoods(pairs)[0]
    assert found[0].fingerprint == direct.fingerprint
    assert found[1].loglikelihoods(pairs)[0] != direct.loglikelihoods(pairs)[0]
    for path in (folders / "two").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="there is no tokenizer beside the model"):
        systems(["two"])


@pytest.mark.torch
def test_mw_eval_of_texts(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mw(["eval", "one", "two", "--task", "text.txt", "-o", "records"]) == 0
    out = capsys.readouterr().out
    assert "perplexity (lower is better)" in out
    assert Records.read("records").systems == ["one", "two"]


def test_mw_eval_by_a_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("judge.py").write_text("print('{\"accuracy\": 0.5}')\n", encoding="utf-8")
    command = f"'{sys.executable}' judge.py {{model}}"
    assert mw(["eval", "a", "b=x", "--score", command, "-o", "records"]) == 0
    said = capsys.readouterr()
    assert "score.accuracy: single figures, so neither intervals nor paired tests can be had" in said.err
    assert sorted(Records.read("records").systems) == ["a", "b"]
    assert mw(["eval", "a", "--score", command, "--task", "t.yml", "-o", "records"]) == 2
    assert "--task says nothing to a command that judges by itself" in capsys.readouterr().err
    assert mw(["eval", "a", "x=a", "a=b", "--score", command, "-o", "records"]) == 2
    assert "two models are called 'a'" in capsys.readouterr().err


def test_mw_eval_by_a_server(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines("t.jsonl", [{"prompt": "a", "target": "x"}])
    Path("t.yml").write_text("kind: generation\ndata: t.jsonl\n", encoding="utf-8")
    assert mw(["eval", "--task", "t.yml", "--backend", "localhost:1", "-o", "records"]) == 2
    assert "a server's address begins with http:// or https://" in capsys.readouterr().err
    assert mw(["eval", "--task", "t.yml", "--model", "m", "-o", "records"]) == 2
    assert "--model and --api are for a server" in capsys.readouterr().err
    assert mw(["eval", "--task", "t.yml", "-o", "records"]) == 2
    assert "evaluation needs a model" in capsys.readouterr().err
    assert not Path("records").exists()
