"""lm-evaluation-harness: ready-made logs against its own figures, and its tasks on our systems against its own run."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import modelwright as mw
import tiny_language as tiny
from modelwright.errors import InputError
from modelwright.evaluate import (
    CausalPredictor,
    Plan,
    Records,
    bits_per_byte,
    harness_model,
    lm_eval_tasks,
    metric as metric_of,
    records_of_lm_eval,
    run,
)

HERE = Path(__file__).parent
GOLDEN = HERE / "lm_eval_logs"  # renew: python tests/evaluate/renew_lm_eval_logs.py, where lm-eval is installed
LOGS = GOLDEN / "tiny"


def figures(records: Records) -> dict[str, float]:
    return {part.head.task: part.figure for part in records}


def theirs() -> dict[str, Any]:
    (path,) = LOGS.glob("results_*.json")
    return json.loads(path.read_text(encoding="utf-8"))


# --- logs ------------------------------------------------------------------------------------------------------------


def test_figures_of_logs_are_those_of_the_results() -> None:
    wanted: dict[str, float] = {}
    for task, values in theirs()["results"].items():
        for key, value in values.items():
            name, _, kind = key.partition(",")
            if kind and not name.endswith("_stderr"):
                wanted[f"{task}.{name}" + ("" if kind == "none" else f".{kind}")] = value
    found = figures(records_of_lm_eval(LOGS))
    assert found == pytest.approx(wanted, rel=1e-12)
    assert sorted(found) == [
        "tiny_choice.acc", "tiny_choice.acc_norm", "tiny_text.bits_per_byte", "tiny_text.byte_perplexity",
        "tiny_text.word_perplexity", "tiny_write.exact_match.all", "tiny_write.exact_match.first-letter",
    ]  # fmt: skip
    assert 0 < found["tiny_choice.acc"] < 1


def test_records_of_logs() -> None:
    records = records_of_lm_eval(LOGS, label="mine")
    part = records.part("tiny_choice.acc", "mine")
    assert part.head.metric == "accuracy"
    assert part.head.made["lm_eval"] == "0.4.13"
    assert part.head.made["shots"] == 1
    assert all(name.startswith(f"{i}-") and len(name) > 12 for i, name in enumerate(part.ids))
    answers, targets = part.column("answer"), part.column("target")
    assert part.column("score").tolist() == [float(a == t) for a, t in zip(answers, targets, strict=True)]
    assert all(len(p) in (2, 3) for p in part.table["probabilities"].to_pylist())
    text = records.part("tiny_text.word_perplexity", "mine")
    assert (text.head.metric, text.metric.higher_is_better) == ("perplexity", False)
    bits = records.part("tiny_text.bits_per_byte", "mine")
    assert bits_per_byte(bits) == pytest.approx(bits.figure, rel=1e-12)
    assert (records.part("tiny_write.exact_match.all", "mine").head.metric) == "exact_match"


def test_records_read_takes_logs_too() -> None:
    assert figures(Records.read(LOGS)) == figures(records_of_lm_eval(LOGS))
    (one,) = LOGS.glob("samples_tiny_choice_*.jsonl")
    assert [p.head.task for p in Records.read(one)] == ["tiny_choice.acc", "tiny_choice.acc_norm"]


def test_metrics_and_filters_can_be_chosen() -> None:
    assert list(figures(records_of_lm_eval(LOGS, metrics=["acc_norm"]))) == ["tiny_choice.acc_norm"]
    assert list(figures(records_of_lm_eval(LOGS, filters=["all"]))) == ["tiny_write.exact_match.all"]
    with pytest.raises(
        InputError, match=r"no score of the metrics.*They have the metrics acc, acc_norm, bits_per_byte"
    ):
        records_of_lm_eval(LOGS, metrics=["accuracy"])


def test_logs_of_other_versions(tmp_path: Path) -> None:
    """Without results, filter, hashes and list of metrics; and one list instead of lines, as the first versions wrote."""
    (log,) = LOGS.glob("samples_tiny_choice_*.jsonl")
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    bare = [{k: v for k, v in row.items() if k not in ("filter", "metrics", "doc_hash", "prompt_hash")} for row in rows]
    old = tmp_path / "model"
    old.mkdir()
    (old / "pretrained__tiny_tiny_choice.jsonl").write_text(json.dumps(bare, indent=2), encoding="utf-8")
    (old / "results.json").write_text(json.dumps({"results": {"tiny_choice": {}}}), encoding="utf-8")
    found = records_of_lm_eval(old)
    new = records_of_lm_eval(log)
    assert found.tasks == ["tiny_choice.acc", "tiny_choice.acc_norm"]
    assert found.systems == ["model"]
    for task in found.tasks:
        (a,), (b,) = found.on(task), new.on(task)
        assert a.ids == b.ids, "the hash of a document is made as the harness makes it"
        assert a.column("score").tolist() == b.column("score").tolist()


def test_metrics_of_whole_sets_are_left_out_by_name(tmp_path: Path) -> None:
    row = {"doc_id": 0, "doc": {}, "target": "1", "filter": "none", "metrics": ["acc", "f1"], "acc": 1.0, "f1": [1, 0]}
    log = tmp_path / "samples_x_2026-01-01T00-00-00.000000.jsonl"
    log.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (part,) = records_of_lm_eval(log)
    assert part.head.made["left_out"] == ["f1"]


def test_choices_that_were_asked_about_twice(tmp_path: Path) -> None:
    """For `acc_mutual_info` the harness logs the choices after their question, and then all of them after nothing."""
    after, alone = [[-1.0, False], [-2.0, False]], [[-0.1, False], [-0.2, False]]
    row = {
        "doc_id": 0, "doc": {}, "target": "1", "filter": "none", "metrics": ["acc", "acc_mutual_info"], "acc": 0.0,
        "acc_mutual_info": 0.0, "filtered_resps": after + alone,
    }  # fmt: skip
    log = tmp_path / "samples_x_2026-01-01T00-00-00.000000.jsonl"
    log.write_text(json.dumps(row) + "\n", encoding="utf-8")
    records = records_of_lm_eval(log)
    (part,) = records.on("x.acc")
    assert part.column("answer").tolist() == ["0"]
    assert part.table["probabilities"].to_pylist()[0] == pytest.approx([0.7310586, 0.2689414])  # of two, not of four
    assert records.on("x.acc_mutual_info")[0].head.metric == "accuracy"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the log is empty"),
        ("{}\n", "not a sample log: a line has no doc_id"),
        ('{"doc_id": 0\n', r"not valid JSON: .*samples_x\.jsonl:1"),
        ('{"doc_id": 0, "acc": NaN}\n', "the score 'acc' of item '0-.*' is not finite"),
        ('{"doc_id": 0, "acc": 1}\n{"doc_id": 0, "acc": 0}\n', "document 0 is in the log twice for the filter 'none'"),
    ],
)
def test_logs_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "samples_x.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        records_of_lm_eval(tmp_path)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no sample logs of lm-evaluation-harness here\. .*--log_samples"):
        records_of_lm_eval(tmp_path)
    (log,) = LOGS.glob("samples_tiny_choice_*.jsonl")
    for date in ("2026-01-01T00-00-00.000000", "2026-01-02T00-00-00.000000"):
        shutil.copy(log, tmp_path / f"samples_tiny_choice_{date}.jsonl")
    with pytest.raises(InputError, match=r"2 logs of '.*' on 'tiny_choice': .* Name one of the files"):
        records_of_lm_eval(tmp_path)


# --- tasks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def system() -> CausalPredictor:
    pytest.importorskip("torch")
    words = tiny.tokenizer()
    return CausalPredictor("tiny", module=tiny.model("llama", len(words)), tokenizer=words)


@pytest.fixture(scope="module")
def include(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task files, with the path of their data."""
    folder = tmp_path_factory.mktemp("tasks")
    for path in (HERE / "lm_eval_tasks").glob("*yaml"):  # a template that others include has no suffix
        (folder / path.name).write_text(path.read_text(encoding="utf-8").replace("DATA", str(folder)), encoding="utf-8")
    for path in (HERE / "lm_eval_tasks").glob("*.jsonl"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Any:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    return pytest.importorskip("lm_eval")


@pytest.mark.parametrize(
    ("name", "metric", "kind"),
    [
        ("tiny_choice", "acc", None), ("tiny_choice", "acc_norm", None), ("tiny_write", "exact_match", "first-letter"),
        ("tiny_write", "exact_match", "all"), ("tiny_text", "bits_per_byte", None),
        ("tiny_text", "word_perplexity", None), ("tiny_mutual", "acc", None), ("tiny_mutual", "acc_mutual_info", None),
    ],
)  # fmt: skip
def test_tasks_give_what_the_harness_gives(
    name: str, metric: str, kind: str | None, offline: Any, include: Path, system: CausalPredictor
) -> None:
    """However they are cut into batches: the few-shot examples are those of one whole run."""
    from lm_eval.tasks import TaskManager

    (task,) = lm_eval_tasks(f"lm-eval:{name}", include=include, metric=metric, filter=kind)
    part = run([system], [task], plan=Plan(batch=2)).part(task.name, "tiny")
    results = offline.simple_evaluate(
        model=harness_model(system), tasks=[name], bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(include), include_defaults=False),
    )  # fmt: skip
    assert part.figure == pytest.approx(results["results"][name][f"{metric},{kind or 'none'}"], rel=1e-9)
    samples = [s for s in results["samples"][name] if s["filter"] == (kind or "none")]
    assert part.ids == [f"{s['doc_id']}-{s['doc_hash'][:16]}" for s in samples]


@pytest.mark.parametrize("shots", [0, 2])
def test_a_group_in_the_format_of_mmlu(
    shots: int, offline: Any, include: Path, system: CausalPredictor, tmp_path: Path
) -> None:
    """A group of a tag of tasks that include a template, with letters as choices and the first examples of `dev`."""
    from lm_eval.tasks import TaskManager

    described = {"kind": "lm-eval", "data": "mini_mmlu", "include": str(include), "shots": shots}
    (tmp_path / "mmlu.yml").write_text(json.dumps(described), encoding="utf-8")
    records = mw.eval(system, str(tmp_path / "mmlu.yml"), batch=3)
    names = ["mini_mmlu_colours", "mini_mmlu_numbers"]
    assert records.tasks == [f"{name}.acc" for name in names]
    results = offline.simple_evaluate(
        model=harness_model(system), tasks=["mini_mmlu"], bootstrap_iters=0, num_fewshot=shots,
        task_manager=TaskManager(include_path=str(include), include_defaults=False),
    )  # fmt: skip
    for name in names:
        (part,) = records.on(f"{name}.acc")
        assert part.figure == results["results"][name]["acc,none"]
        assert all(len(p) == 4 for p in part.table["probabilities"].to_pylist())
        assert part.table["calls"].to_pylist() == [4] * len(part.ids)
        assert part.table["tokens_in"].null_count == len(part.ids)
    with pytest.raises(InputError, match=r"'.*mmlu\.yml' is 2 tasks: mini_mmlu_colours\.acc, mini_mmlu_numbers\.acc"):
        mw.task(str(tmp_path / "mmlu.yml"))


def test_logs_and_tasks_have_the_same_items(offline: Any, include: Path, system: CausalPredictor) -> None:
    (task,) = lm_eval_tasks("tiny_choice", include=include)
    ours = run([system], [task]).part("tiny_choice.acc", "tiny")
    theirs = records_of_lm_eval(LOGS).part("tiny_choice.acc", "tiny")
    assert ours.ids == theirs.ids
    assert ours.column("score").tolist() == theirs.column("score").tolist()


def test_tasks_that_are_refused(offline: Any, include: Path) -> None:
    with pytest.raises(
        InputError, match=r"lm-evaluation-harness has no task 'tiny_chioce'\. Did you mean 'tiny_choice'"
    ):
        lm_eval_tasks("tiny_chioce", include=include)
    with pytest.raises(InputError, match=r"the task has no metric 'f1'\. Valid: acc, acc_norm\. \[task tiny_choice\]"):
        lm_eval_tasks("tiny_choice", include=include, metric="f1")
    with pytest.raises(InputError, match=r"the task has no filter 'last'"):
        lm_eval_tasks("tiny_write", include=include, filter="last")
    with pytest.raises(
        InputError, match=r"the harness scores 'tiny_choice\.acc' itself, by 'acc', so 'brier' cannot be had"
    ):
        replace(lm_eval_tasks("tiny_choice", include=include)[0], metric=metric_of("brier"))
    with pytest.raises(InputError, match="shots must be at least 0"):
        lm_eval_tasks("tiny_choice", include=include, shots=-1)
    (include / "text.jsonl").rename(include / "gone.jsonl")
    try:
        with pytest.raises(InputError, match=r"cannot load 'tiny_text': .*Its data must be in the cache"):
            lm_eval_tasks("tiny_text", include=include)
    finally:
        (include / "gone.jsonl").rename(include / "text.jsonl")


def test_hashes_are_the_harness_own() -> None:
    doc = {"question": "é", "n": 1}
    wanted = hashlib.sha256(json.dumps(doc, indent=2, ensure_ascii=False).encode()).hexdigest()
    from modelwright.evaluate._lm_eval import _hash_of

    assert _hash_of(doc) == wanted
