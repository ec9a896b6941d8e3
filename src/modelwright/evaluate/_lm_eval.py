"""lm-evaluation-harness: its sample logs as records, and its tasks on our systems."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from modelwright.errors import InputError, RunError, did_you_mean, listing
from modelwright.evaluate._items import Items, Splits
from modelwright.evaluate._metrics import METRICS, metric as metric_of
from modelwright.evaluate._predictor import Predictor, Rolling, Sampling, needs, softmax
from modelwright.evaluate._records import Head, Part, Records, table_of
from modelwright.evaluate._task import Scored, Task

#: The harness's metrics that have another name here, or are stored as something else than a score.
_OURS = {
    "acc": "accuracy", "acc_norm": "accuracy", "acc_bytes": "accuracy", "acc_mutual_info": "accuracy",
    "exact_match": "exact_match", "perplexity": "perplexity", "word_perplexity": "perplexity",
    "byte_perplexity": "perplexity", "bits_per_byte": "bits_per_byte",
}  # fmt: skip
#: The metric for which the harness asks about each choice once more, after nothing.
_MUTUAL = "acc_mutual_info"
#: What a line of a log has beside the values of metrics.
_LINE_KEYS = frozenset({
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
    "target_hash", "truncated", "schema_version",
})  # fmt: skip


class _Value(NamedTuple):
    """What one item is worth: its score and weight, and what is kept of the answer."""

    score: float
    weight: float = 1.0
    answer: str = ""
    target: str = ""


def _value(name: str, value: Any) -> _Value | None:
    """A metric's value for one item, in our scores; None where only the whole set has one, as for F1."""
    single = isinstance(value, (bool, int, float))
    if single and name == "perplexity":
        return _Value(-float(value), 1.0, repr(float(value)))
    if _OURS.get(name) in ("perplexity", "bits_per_byte"):  # log-likelihood, and words or bytes
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            return None
        total, amount = float(value[0]), float(value[1])
        unit = math.log(2) if name == "bits_per_byte" else 1.0
        return _Value(-total / amount / unit, amount, repr(total), repr(amount))
    return _Value(float(value)) if single else None


def _metric_name(name: str, higher_is_better: bool | None) -> str:
    if name in _OURS:
        return _OURS[name]
    if higher_is_better is None and name in METRICS:
        higher_is_better = METRICS[name].higher_is_better
    return "loss" if higher_is_better is False else "figure"


def _hash_of(doc: Any) -> str:
    """The document's hash as the harness makes it, for logs that are older than it."""
    return hashlib.sha256(json.dumps(doc, indent=2, ensure_ascii=False).encode()).hexdigest()


def _task_name(task: str, metric: str, kind: str) -> str:
    return f"{task}.{metric}" + ("" if kind == "none" else f".{kind}")


# --- logs ------------------------------------------------------------------------------------------------------------


def is_log(place: Path) -> bool:
    """Whether it is a sample log, or a folder that holds some."""
    return bool(_logs_in(place))


def _logs_in(place: Path) -> list[Path]:
    if place.is_file():
        return [place] if place.suffix == ".jsonl" else []
    return sorted(place.rglob("samples_*.jsonl")) or sorted(p for p in place.rglob("*.jsonl") if _results_of(p))


def records_of_lm_eval(
    *places: str | Path, label: str | None = None, metrics: Sequence[str] = (), filters: Sequence[str] = ()
) -> Records:
    """Ready-made sample logs of lm-evaluation-harness (`--log_samples`) as records.

    A task is called `TASK.METRIC`, and `TASK.METRIC.FILTER` where the filter is not `none`. Items are called by doc_id and
    doc_hash. Metrics that only a whole set has, such as F1, are left out, and named in the head's `made["left_out"]`.

    Args:
        places: Folders that the harness wrote, or single `samples_*.jsonl`.
        label: What to call the system; default the model's name in the results file beside the log, else the folder's.
        metrics: Only these; default all.
        filters: Only these; default all.

    Raises:
        InputError: There are no logs, one cannot be read, two are of one task and system, or no metric is left.
    """
    return Records(part for place in places for part in parts_of_logs(Path(place), label, metrics, filters))


def parts_of_logs(
    place: Path, label: str | None = None, metrics: Sequence[str] = (), filters: Sequence[str] = ()
) -> list[Part]:
    """As `records_of_lm_eval`, for one place."""
    logs = _logs_in(place)
    if not logs:
        raise InputError(
            "no sample logs of lm-evaluation-harness here",
            "They are called samples_*.jsonl and are written with --log_samples --output_path.",
            str(place),
        )
    found = [_Log(path, label) for path in logs]
    for log in found:
        others = [other.path.name for other in found if (other.task, other.label) == (log.task, log.label)]
        if len(others) > 1:
            raise InputError(
                f"{len(others)} logs of '{log.label}' on '{log.task}': {listing(others, 3)}", "Name one of the files.",
                str(place),
            )  # fmt: skip
    parts = [part for log in found for part in log.parts(metrics, filters)]
    if not parts:
        known = {name for log in found for name in log.metrics}
        kinds = {row["filter"] for log in found for row in log.rows}
        raise InputError(
            "these logs hold no score of the metrics and filters that are asked for",
            f"They have the metrics {listing(sorted(known))} and the filters {listing(sorted(kinds))}.",
            str(place),
        )
    return parts


def _results_of(log: Path) -> Path | None:
    """The results file that was written with a log: of the same date, else the only one beside it."""
    date = re.search(r"_(\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl$", log.name)
    if date and (found := log.with_name(f"results_{date[1]}.json")).is_file():
        return found
    beside = sorted([*log.parent.glob("results_*.json"), *log.parent.glob("results.json")])
    return beside[0] if len(beside) == 1 else None


class _Log:
    """One sample log.

    Attributes:
        path: Where it is.
        task: The harness's name of the task.
        label: What the system is called.
        rows: Its lines, each with `filter`, `metrics` and `doc_hash`, which older logs lack.
    """

    def __init__(self, path: Path, label: str | None):
        self.path = path
        results = _results_of(path)
        self.results = _json(results.read_text(encoding="utf-8"), str(results)) if results else {}
        self.task = self._named()
        said = self.results.get("model_name") or (self.results.get("config") or {}).get("model")
        self.label = label or str(said or path.parent.name)
        self.rows = self._read()

    def _named(self) -> str:
        stem = re.sub(r"_\d{4}-\d\d-\d\dT[\d.-]+$", "", self.path.stem)
        if stem.startswith("samples_"):
            return stem.removeprefix("samples_")
        tasks = [name for name in self.results.get("results", {}) if stem == name or stem.endswith(f"_{name}")]
        return max(tasks, key=len) if tasks else stem

    def _read(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the log: {error}", where=str(self.path)) from error
        if text.lstrip().startswith("["):  # the first versions wrote one list under the same suffix
            rows = _json(text, str(self.path))
        else:
            lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
            rows = [_json(line, f"{self.path}:{i}") for i, line in lines]
        if not rows:
            raise InputError("the log is empty", where=str(self.path))
        for row in rows:
            if not isinstance(row, dict) or "doc_id" not in row:
                raise InputError("not a sample log: a line has no doc_id", where=str(self.path))
            row.setdefault("filter", "none")
            row.setdefault("doc_hash", _hash_of(row.get("doc")))
            row.setdefault("metrics", [key for key in row if key not in _LINE_KEYS])
        self._check_filters(rows)
        return rows

    def _check_filters(self, rows: list[dict[str, Any]]) -> None:
        seen: set[tuple[Any, str]] = set()
        for row in rows:
            key = (row["doc_id"], row["filter"])
            if key in seen:
                raise InputError(
                    f"document {row['doc_id']} is in the log twice for the filter '{row['filter']}'",
                    "Logs of harness versions that do not name their filters can be read where there is only one.",
                    str(self.path),
                )
            seen.add(key)

    @property
    def metrics(self) -> list[str]:
        """The metrics of all lines."""
        return list(dict.fromkeys(name for row in self.rows for name in row["metrics"]))

    def parts(self, metrics: Sequence[str], filters: Sequence[str]) -> list[Part]:
        """One for each metric and filter."""
        found: list[Part] = []
        left_out: list[str] = []
        for kind in dict.fromkeys(row["filter"] for row in self.rows):
            rows = [row for row in self.rows if row["filter"] == kind]
            for name in self.metrics:
                if (metrics and name not in metrics) or (filters and kind not in filters):
                    continue
                values = [_value(name, row.get(name)) for row in rows]
                if any(value is None for value in values):
                    left_out.append(name)
                else:
                    found.append(self._part(name, kind, rows, [v for v in values if v is not None], left_out))
        return found

    def _part(
        self, name: str, kind: str, rows: list[dict[str, Any]], values: list[_Value], left_out: list[str]
    ) -> Part:
        better = ((self.results.get("higher_is_better") or {}).get(self.task) or {}).get(name)
        shots = (self.results.get("n-shot") or {}).get(self.task)
        ids = tuple(f"{row['doc_id']}-{str(row['doc_hash'])[:16]}" for row in rows)
        targets = [v.target or _short(row.get("target", "")) for v, row in zip(values, rows, strict=True)]
        said = [ids, targets, shots, (self.results.get("versions") or {}).get(self.task)]
        wrong = next((i for i, v in enumerate(values) if not math.isfinite(v.score)), None)
        if wrong is not None:
            raise InputError(f"the score '{name}' of item '{ids[wrong]}' is not finite", where=str(self.path))
        head = Head(
            task=_task_name(self.task, name, kind), split="test", system=self.label, metric=_metric_name(name, better),
            task_fingerprint=xxhash.xxh3_128_hexdigest(json.dumps(said).encode()) if self.results else "",
            system_fingerprint=str(self.results.get("model_sha") or ""), device="",
            made={
                "modelwright": version("modelwright"), "log": self.path.name, "shots": shots, "left_out": left_out,
                "lm_eval": self.results.get("lm_eval_version") or self.results.get("git_hash") or "",
            },
        )  # fmt: skip
        twice = _MUTUAL in self.metrics
        totals = [_choice_totals(row, twice=twice) if name == "acc" else None for row in rows]
        return Part(head, table_of(head, Items(ids, list(ids), targets), _scored(values, rows, targets, totals), None))


def _scored(
    values: Sequence[_Value],
    rows: Sequence[Mapping[str, Any]],
    targets: Sequence[str],
    totals: Sequence[list[float] | None],
) -> Scored:
    chosen = [t for t in totals if t is not None]
    whole = len(chosen) == len(rows)  # probabilities need the log-likelihoods of all choices of all items
    answers = [
        v.answer or (str(int(np.argmax(t))) if t is not None else _short(row.get("filtered_resps", "")))
        for v, row, t in zip(values, rows, totals, strict=True)
    ]
    probabilities = [softmax(np.array(t)) for t in chosen] if whole else None
    return Scored(
        answers=answers,
        targets=targets,
        scores=np.array([v.score for v in values]),
        weights=np.array([v.weight for v in values]),
        probabilities=probabilities,
        confidences=None if probabilities is None else np.array([p.max() for p in probabilities]),
        calls=None,
        tokens_in=None,
        tokens_out=None,
    )


def _choice_totals(row: Mapping[str, Any], *, twice: bool) -> list[float] | None:
    """Log-likelihoods of the choices; newer logs hold them as texts.

    Args:
        row: What the harness has of a document.
        twice: Whether each choice was asked about twice: after its question, and then all of them after nothing, which
            `acc_mutual_info` compares with.
    """
    found = row.get("filtered_resps")
    if not isinstance(found, list):
        return None
    if twice:
        found = found[: len(found) // 2]
    if len(found) < 2 or not str(row.get("target", "")).isdigit():
        return None
    try:
        totals = [float(each[0]) for each in found if isinstance(each, list) and len(each) == 2]
    except (TypeError, ValueError):
        return None
    return totals if len(totals) == len(found) and all(map(math.isfinite, totals)) else None


def _short(value: Any) -> str:
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"not valid JSON: {error}", where=where) from error


# --- tasks -----------------------------------------------------------------------------------------------------------


def harness_model(predictor: Predictor) -> Any:
    """A system of ours as a model of lm-evaluation-harness, for its `simple_evaluate` and the like.

    Raises:
        MissingExtraError: lm-eval is not installed.
    """
    return _model_class()(predictor)


def _harness(module: str) -> Any:
    """A module of the harness."""
    return needs(f"lm_eval.{module}", "tasks of lm-evaluation-harness", "lm-eval")


def _model_class() -> type[Any]:
    base: Any = _harness("api.model").LM

    class Model(base):
        """Asks a predictor."""

        def __init__(self, predictor: Predictor):
            super().__init__()
            self.predictor = predictor

        def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            found = self.predictor.loglikelihoods([(r.args[0], r.args[1]) for r in requests])
            return [(f.total, bool(f.greedy)) for f in found]

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            found = self.predictor.loglikelihoods([("", r.args[0]) for r in requests], Rolling())
            return [f.total for f in found]

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            return _generated(self.predictor, [(r.args[0], r.args[1]) for r in requests])

    return Model


def _generated(predictor: Predictor, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Texts for prompts, each with the harness's way of generating; the same prompt again gets another seed."""
    groups: dict[Sampling, list[int]] = defaultdict(list)
    times: dict[str, int] = defaultdict(int)
    for i, (prompt, settings) in enumerate(asked):
        groups[_sampling(settings, times[prompt])].append(i)
        times[prompt] += 1
    texts: dict[int, str] = {}
    for sampling, places in groups.items():
        found = predictor.texts([asked[i][0] for i in places], sampling)
        texts |= {i: answer.text for i, answer in zip(places, found, strict=True)}
    return [texts[i] for i in range(len(asked))]


def _sampling(settings: Mapping[str, Any], seed: int) -> Sampling:
    until = settings.get("until") or []
    sampled = settings.get("do_sample", True) and float(settings.get("temperature", 0) or 0)
    unknown = {k: settings[k] for k in ("top_p", "top_k", "num_beams") if settings.get(k) not in (None, 0, 1, 1.0)}
    if unknown and (sampled or "num_beams" in unknown):
        raise InputError(f"the task generates with {unknown}, which our systems do not: they sample from all tokens")
    most = next((settings[k] for k in ("max_gen_toks", "max_new_tokens", "max_tokens") if k in settings), 256)
    stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
    return Sampling(int(most), stop, float(sampled or 0), seed if sampled else 0)


class Asked(NamedTuple):
    """A document of a harness task: its number, and all that is asked about it, as text."""

    doc_id: int
    requests: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class HarnessTask(Task):
    """A task of lm-evaluation-harness, asked of our systems batch by batch.

    The harness makes prompts, filters answers and scores each document; likelihoods and texts come from the system. All
    documents that the harness judges by are the split `test`. Prompts are made once for all documents, so that few-shot
    examples are those of a whole run, however it is cut into batches.

    Attributes:
        harness: The harness's task object.
        scored_by: The harness's name of the metric.
        filtered_by: Which of the task's filters.
    """

    harness: Any = field(repr=False)
    scored_by: str
    filtered_by: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = _metric_name(self.scored_by, self.harness.higher_is_better().get(self.scored_by))
        if self.metric.name != wanted:
            raise InputError(
                f"the harness scores '{self.name}' itself, by '{self.scored_by}', so '{self.metric.name}' cannot be had",
                "Name one of the harness's own metrics in a task file of kind lm-eval.",
            )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What, beside the items, the score depends on."""
        own = {"scored_by": self.scored_by, "filtered_by": self.filtered_by, "version": str(self.harness.VERSION)}
        return {**super().settings, **own}

    @cached_property
    def _instances(self) -> dict[int, list[Any]]:
        """All requests of each document, in their order."""
        self.harness.build_all_requests(rank=0, world_size=1)
        found: dict[int, list[Any]] = defaultdict(list)
        for instance in self.harness.instances:
            found[instance.doc_id].append(instance)
        return {number: sorted(instances, key=lambda i: i.idx) for number, instances in found.items()}

    def documents(self) -> Items:
        """The documents, as the items of the split `test`."""
        ids: list[str] = []
        asked: list[Asked] = []
        targets: list[str] = []
        for number, instances in self._instances.items():
            ids.append(f"{number}-{_doc_hash(instances[0].doc)[:16]}")
            asked.append(Asked(number, tuple(repr((i.request_type, i.args)) for i in instances)))
            targets.append(str(self.harness.doc_to_target(instances[0].doc)))
        return Items(tuple(ids), asked, targets)

    def check(self, items: Items, split: str) -> None:
        """The harness has checked them."""

    def score(self, predictor: Predictor, items: Items) -> Scored:
        """Ask, filter, and score each document."""
        numbers = [asked.doc_id for asked in items.inputs]
        self._ask(predictor, [i for number in numbers for i in self._instances[number]])
        values: list[_Value] = []
        answers: list[dict[str, Any]] = []
        for name, number in zip(items.ids, numbers, strict=True):
            instances = self._instances[number]
            found = [i.filtered_resps[self.filtered_by] for i in instances]
            said = self.harness.process_results(instances[0].doc, found)
            value = _value(self.scored_by, said.get(self.scored_by))
            if value is None or not math.isfinite(value.score):
                raise RunError(
                    f"task {self.name}: '{self.scored_by}' is {said.get(self.scored_by)!r} for item '{name}', not a score"
                )
            values.append(value)
            answers.append({"filtered_resps": [list(f) if isinstance(f, tuple) else f for f in found]})
        targets = [v.target or str(t) for v, t in zip(values, items.targets, strict=True)]
        rows = [{**a, "target": t} for a, t in zip(answers, targets, strict=True)]
        twice = _MUTUAL in self.harness.aggregation()
        totals = [_choice_totals(row, twice=twice) if self.scored_by == "acc" else None for row in rows]
        calls = [sum(i.repeats or 1 for i in self._instances[number]) for number in numbers]
        return replace(_scored(values, rows, targets, totals), calls=np.array(calls))

    def _ask(self, predictor: Predictor, instances: Sequence[Any]) -> None:
        """Put answers, raw and filtered, into the requests."""
        model = harness_model(predictor)
        kinds: dict[str, list[Any]] = defaultdict(list)
        for instance in instances:
            instance.resps, instance.filtered_resps = [], {}
            kinds[instance.request_type] += [instance] * (instance.repeats or 1)
        for kind, requests in kinds.items():
            for instance, answer in zip(requests, getattr(model, kind)(requests), strict=True):
                instance.resps.append(answer)
        for ensemble in self.harness._filters:
            ensemble.apply(list(instances))


def _doc_hash(doc: Any) -> str:
    utils = _harness("utils")
    return utils.hash_string(json.dumps(doc, indent=2, default=utils.handle_non_serializable, ensure_ascii=False))


def lm_eval_tasks(
    name: str,
    *,
    include: str | Path | None = None,
    metric: str | None = None,
    filter: str | None = None,
    shots: int | None = None,
) -> list[HarnessTask]:
    """A task of lm-evaluation-harness, or all tasks of a group or tag.

    Args:
        name: How the harness calls it; `lm-eval:` before it may stay.
        include: A folder of further task files.
        metric: Which of the task's metrics; default its first.
        filter: Which of its filters; default its first.
        shots: Number of few-shot examples; None is the task's own.

    Raises:
        MissingExtraError: lm-eval is not installed.
        InputError: There is no such task, metric or filter, its data are not at hand, or a setting is out of range.
    """
    manager_of = _harness("tasks").TaskManager
    name = name.removeprefix("lm-eval:")
    if shots is not None and shots < 0:
        raise InputError(f"shots must be at least 0, got {shots}")
    # Of the harness's own task files there are thousands, and reading them takes a while.
    manager = manager_of(include_path=None if include is None else str(include), include_defaults=include is None)
    if name not in manager.all_tasks and include is not None:
        manager = manager_of(include_path=str(include))
    if name not in manager.all_tasks:
        known = list(manager.all_tasks)
        raise InputError(f"lm-evaluation-harness has no task '{name}'", did_you_mean(name, known, most=5))
    try:
        found = manager.load([name])["tasks"]
    except Exception as error:  # whatever data sets, templates and hubs raise
        raise InputError(
            f"lm-evaluation-harness cannot load '{name}': {str(error).splitlines()[0] if str(error) else error!r}",
            "Its data must be in the cache of the package datasets, or local files.",
        ) from error
    return [_harness_task(label, task, metric, filter, shots) for label, task in found.items()]


def _harness_task(label: str, task: Any, metric: str | None, kind: str | None, shots: int | None) -> HarnessTask:
    if shots is not None or task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=1234)  # the harness's own default
    metrics, kinds = list(task.aggregation()), [ensemble.name for ensemble in task._filters]
    scored_by, filtered_by = metric or metrics[0], kind or kinds[0]
    for what, wanted, known in (("metric", scored_by, metrics), ("filter", filtered_by, kinds)):
        if wanted not in known:
            raise InputError(f"the task has no {what} '{wanted}'", did_you_mean(wanted, known), f"task {label}")
    better = task.higher_is_better().get(scored_by)
    holder: list[HarnessTask] = []
    made = HarnessTask(
        name=_task_name(label, scored_by, filtered_by),
        splits=Splits({"test": lambda: holder[0].documents()}),
        metric=metric_of(_metric_name(scored_by, better)),
        harness=task,
        scored_by=scored_by,
        filtered_by=filtered_by,
    )
    holder.append(made)
    return made
