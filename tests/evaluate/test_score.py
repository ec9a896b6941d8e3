"""Commands that judge: every form of JSON, every way to fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from modelwright.errors import InputError, RunError
from modelwright.evaluate import Records, Score, run_score
from modelwright.evaluate._score import without_intervals

PYTHON = sys.executable


def printing(folder: Path, text: str, name: str = "judge.py") -> str:
    """A command that prints a text."""
    (folder / name).write_text(f"print({text!r})\n", encoding="utf-8")
    return f"'{PYTHON}' '{folder / name}' {{model}}"


def figures(records: list[Any]) -> dict[str, tuple[str, float]]:
    return {p.head.task: (p.head.metric, p.figure) for p in records}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (0.5, {"score": ("figure", 0.5)}),
        ({"accuracy": 0.5, "perplexity": 7}, {"score.accuracy": ("figure", 0.5), "score.perplexity": ("loss", 7.0)}),
        ({"items": [{"id": "a", "score": 1}, {"id": 2, "score": 0, "weight": 3}]}, {"score": ("figure", 0.25)}),
        (
            {"items": [{"id": "a", "score": 1.5}], "metric": "log_loss"}, {"score": ("loss", 1.5)},
        ),
        ({"items": [{"id": "a", "score": 1.5}], "lower_is_better": True}, {"score": ("loss", 1.5)}),
        (
            {
                "results": {
                    "arc": {"alias": "arc", "acc,none": 0.4, "acc_stderr,none": 0.1, "em,strict": 0.2, "sample_len": 9},
                    "wiki": {"word_perplexity,none": 20.0, "word_perplexity_stderr,none": "N/A"},
                },
                "higher_is_better": {"wiki": {"word_perplexity": False}},
            },
            {"arc.acc": ("figure", 0.4), "arc.em.strict": ("figure", 0.2), "wiki.word_perplexity": ("loss", 20.0)},
        ),
    ],
)  # fmt: skip
def test_forms(found: Any, wanted: Any, tmp_path: Path) -> None:
    for text in (json.dumps(found), "loading ..\n" + json.dumps(found), json.dumps(found, indent=2)):
        assert figures(Score(printing(tmp_path, text)).records("m")) == wanted


def test_items_keep_what_they_say(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "score": 1, "answer": "x", "target": "y", "slices": {"lang": "de"}},
        {"id": "b", "score": 0.5},
    ]
    (part,) = Score(printing(tmp_path, json.dumps({"items": rows})), name="mine").records("folder/model", "M")
    assert (part.head.system, part.head.task, part.ids) == ("M", "mine", ["a", "b"])
    assert part.table["answer"].to_pylist() == ["x", "0.5"]
    assert part.table["target"].to_pylist() == ["y", ""]
    assert part.slices()["lang"].tolist() == ["de", ""]
    assert part.column("seconds").min() > 0
    for name in ("calls", "tokens_in", "tokens_out"):  # of what the command did nothing is known but its time
        assert part.table[name].null_count == 2, name
    assert without_intervals(Records([part])) == []


def test_the_model_stays_one_word_and_no_shell_runs(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(
        "import json, sys\nprint(json.dumps({'items': [{'id': i, 'score': 0, 'answer': a} for i, a in "
        "enumerate(sys.argv[1:])]}))\n",
        encoding="utf-8",
    )
    score = Score(f"'{PYTHON}' '{tmp_path / 'show.py'}' --model={{model}} '{{label}}' 'a b' $HOME ; *")
    (part,) = score.records("my model; rm -rf x", "a label")
    wanted = ["--model=my model; rm -rf x", "a label", "a b", "$HOME", ";", "*"]
    assert part.table["answer"].to_pylist() == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", r"must print a number, .* and printed: hello"),
        ("", "and printed: nothing"),
        ('{"accuracy": "high"}', "must give finite numbers, got 'high' for 'accuracy'"),
        ('{"accuracy": NaN}', "must give finite numbers, got nan for 'accuracy'"),
        ("true", "must give finite numbers, got True for the figure"),
        ("{}", "gave no figure"),
        ('{"items": []}', "gave no items"),
        ('{"items": [{"id": "a"}]}', "each item must have id and score"),
        ('{"items": [{"id": "a", "score": 1}, {"id": "a", "score": 1}]}', "ids must be unique, got 'a'"),
        ('{"items": [{"id": "a", "score": null}]}', "got None for item 'a'"),
        ('{"items": [{"id": "a", "score": 1, "wieght": 2}]}', r"no key 'wieght'\. Did you mean 'weight'\?"),
        ('{"items": [{"id": "a", "score": 1, "weight": 0}]}', "weights must be at least 0, and not all 0"),
    ],
)
def test_what_is_printed_wrongly(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=message):
        Score(printing(tmp_path, text)).records("m")


def test_failures_show_what_was_said(tmp_path: Path) -> None:
    (tmp_path / "fail.py").write_text("import sys\nsys.exit('no such model here')\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"fail\.py.* failed with 1: no such model here"):
        Score(f"'{PYTHON}' '{tmp_path / 'fail.py'}' {{model}}").records("m")
    (tmp_path / "slow.py").write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])\n",
        encoding="utf-8",
    )
    with pytest.raises(RunError, match=r"took longer than 0\.2 s and was ended"):
        Score(f"'{PYTHON}' '{tmp_path / 'slow.py'}' {{model}}", timeout=0.2).records("m")
    with pytest.raises(InputError, match=r"there is no program 'no-such-program-here'\. No shell is run"):
        Score("no-such-program-here {model}").records("m")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"command": "judge"}, r"must say where the model goes, got 'judge'\. Write \{model\} in it"),
        ({"command": "judge '{model}"}, r"cannot read the command .*No closing quotation"),
        ({"command": "judge {model}", "timeout": 0.0}, "timeout must be above 0 seconds"),
    ],
)
def test_settings_that_are_refused(options: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Score(**options)


def counting(folder: Path) -> str:
    """A command that notes each run."""
    (folder / "count.py").write_text(
        "import json, pathlib\n"
        f"path = pathlib.Path({str(folder / 'runs')!r})\n"
        "path.write_text(path.read_text() + 'x' if path.exists() else 'x')\n"
        "print(json.dumps({'accuracy': 0.5, 'loss': 1}))\n",
        encoding="utf-8",
    )
    return f"'{PYTHON}' '{folder / 'count.py'}' {{model}}"


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "records"
    model.mkdir()
    (model / "weights").write_text("1", encoding="utf-8")
    score = Score(counting(tmp_path))
    for _ in range(2):
        found = run_score(score, {"m": str(model)}, out)
    assert figures(list(found)) == {"score.accuracy": ("figure", 0.5), "score.loss": ("loss", 1.0)}
    assert (tmp_path / "runs").read_text(encoding="utf-8") == "x"
    assert without_intervals(found) == ["score.accuracy", "score.loss"]
    assert figures(list(Records.read(out))) == figures(list(found))
    (out / "score.loss" / "m.test.parquet").unlink()  # as a run that was killed leaves it
    run_score(score, {"m": str(model)}, out)
    assert (tmp_path / "runs").read_text(encoding="utf-8") == "xx"
    (model / "weights").write_text("12", encoding="utf-8")
    with pytest.raises(InputError, match=r"the model or the command has changed since\. Use another label"):
        run_score(score, {"m": str(model)}, out)
    run_score(score, {"m": str(model)}, out, restart=True)
    assert (tmp_path / "runs").read_text(encoding="utf-8") == "xxx"
    with pytest.raises(InputError, match="a command needs models to judge"):
        run_score(score, {})
