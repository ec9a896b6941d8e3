"""Models that are judged elsewhere: any command that prints JSON, as records."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError, RunError, did_you_mean
from modelwright.evaluate._items import Items
from modelwright.evaluate._metrics import METRICS
from modelwright.evaluate._records import SUFFIX, Head, Part, Records, read_part, table_of, write_part
from modelwright.evaluate._task import Scored

_FORMS = (
    'a number, {"METRIC": NUMBER, ..}, {"items": [{"id": .., "score": ..}, ..]}, or lm-evaluation-harness\'s results'
)
_ITEM_KEYS = ("id", "score", "answer", "target", "weight", "slices")


#: Usual names of figures of which less is better, beside our metrics.
_LOWER = frozenset(
    ["bpb", "cer", "error", "error_rate", "fid", "loss", "mae", "mse", "nll", "perplexity", "ppl", "rmse", "ter", "wer"]
)


@dataclass(frozen=True)
class Score:
    """A command that judges a model and prints JSON, as its whole output or its last line.

    The JSON is one of: a number; `{"METRIC": NUMBER, ..}`; `{"items": [{"id": .., "score": ..}, ..]}`, where items may
    have `answer`, `target`, `weight` and `slices` beside, and the document `metric` and `lower_is_better`; or the results
    file of lm-evaluation-harness. Only items give intervals and paired tests; of a figure there is one record.

    Attributes:
        command: Words as for a shell, without one being run; `{model}` stands for the model, `{label}` for its label.
        name: How tables call the task; figures with names are `NAME.METRIC`.
        timeout: Seconds until the command is ended; None waits.
        lower_is_better: Of figures whose names are no metrics of ours.

    Raises:
        InputError: The command has no `{model}`, or quotes that do not close.
    """

    command: str
    name: str = "score"
    timeout: float | None = None
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        if self.timeout is not None and self.timeout <= 0:
            raise InputError(f"timeout must be above 0 seconds, got {self.timeout:g}")
        if not any("{model}" in word for word in self._words()):
            raise InputError(
                f"the command must say where the model goes, got '{self.command}'",
                'Write {model} in it: --score "python judge.py {model}".',
            )

    def _words(self) -> list[str]:
        try:
            return shlex.split(self.command)
        except ValueError as error:
            raise InputError(f"cannot read the command '{self.command}': {error}") from error

    def arguments(self, model: str, label: str = "") -> list[str]:
        """The command's words for one model; what is put in stays one word."""
        return [word.replace("{model}", model).replace("{label}", label) for word in self._words()]

    def records(self, model: str, label: str | None = None) -> list[Part]:
        """Run the command for one model.

        Args:
            model: What stands for `{model}`: a path, or any name that the command understands.
            label: How tables call it; default the model's last part.

        Returns:
            One part for each figure, or one part with all items.

        Raises:
            InputError: The program cannot be found.
            RunError: It fails, takes too long, or prints something else.
        """
        label = label or Path(model).name
        began = time.perf_counter()
        found = self._printed(self.arguments(model, label))
        seconds = time.perf_counter() - began
        scores = list(self._scores(found))
        if not scores:
            raise RunError(f"the command '{self.command}' gave no figure: it must print {_FORMS}")
        made = {"modelwright": version("modelwright"), "score": self.command, "figures": len(scores)}
        parts: list[Part] = []
        for task, metric, items, scored in scores:
            head = Head(
                task=task, split="test", system=label, metric=metric, task_fingerprint=self.fingerprint,
                system_fingerprint=identity(model), device="", made={**made, "items": len(items)},
            )  # fmt: skip
            parts.append(Part(head, table_of(head, items, scored, seconds / len(scores))))
        return parts

    @property
    def fingerprint(self) -> str:
        """Of the command."""
        return xxhash.xxh3_128_hexdigest(json.dumps([self.command, self.name, self.lower_is_better]).encode())

    def _printed(self, words: Sequence[str]) -> Any:
        try:
            code, out, err = _ran(words, self.timeout)
        except FileNotFoundError as error:
            raise InputError(f"there is no program '{words[0]}'", "No shell is run: write a program's name.") from error
        except OSError as error:
            raise InputError(f"cannot run '{words[0]}': {error}") from error
        except subprocess.TimeoutExpired as error:
            raise RunError(f"'{shlex.join(words)}' took longer than {self.timeout:g} s and was ended") from error
        if code:
            raise RunError(f"'{shlex.join(words)}' failed with {code}: {_end(err or out)}")
        for text in (out, (out.strip().splitlines() or [""])[-1]):
            try:
                return json.loads(text)
            except ValueError:
                continue
        raise RunError(f"'{shlex.join(words)}' must print {_FORMS}, and printed: {_end(out) or 'nothing'}")

    def _scores(self, found: Any) -> list[tuple[str, str, Items, Scored]]:
        if isinstance(found, Mapping) and "items" in found:
            return [self._items(found)]
        if isinstance(found, Mapping) and isinstance(found.get("results"), Mapping):
            return self._harness(found)
        if isinstance(found, Mapping):
            return [self._figure(f"{self.name}.{name}", name, value) for name, value in found.items()]
        return [self._figure(self.name, "", found)]

    def _metric(self, name: str, lower: bool | None = None) -> str:
        if lower is None:
            lower = not METRICS[name].higher_is_better if name in METRICS else self.lower_is_better or name in _LOWER
        return "loss" if lower else "figure"

    def _figure(self, task: str, name: str, value: Any, lower: bool | None = None) -> tuple[str, str, Items, Scored]:
        number = self._number(value, f"'{name}'" if name else "the figure")
        scored = _scored([repr(number)], [""], [number])
        return task, self._metric(name, lower), Items((task,), [task], [""]), scored

    def _number(self, value: Any, what: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise RunError(f"the command '{self.command}' must give finite numbers, got {value!r} for {what}")
        return float(value)

    def _harness(self, found: Mapping[str, Any]) -> list[tuple[str, str, Items, Scored]]:
        """Figures of lm-evaluation-harness: `metric,filter` by task, each with its standard error beside it."""
        better = found.get("higher_is_better") or {}
        scores: list[tuple[str, str, Items, Scored]] = []
        for task, figures in found["results"].items():
            for key, value in figures.items():
                name, _, kind = key.partition(",")
                if name.endswith("_stderr") or isinstance(value, (str, bool)) or name in ("alias", "sample_len"):
                    continue
                said = (better.get(task) or {}).get(name)
                tail = f".{kind}" if kind not in ("", "none") else ""
                lower = None if said is None else not said
                scores.append(self._figure(f"{task}.{name}{tail}", name, value, lower))
        return scores

    def _items(self, found: Mapping[str, Any]) -> tuple[str, str, Items, Scored]:
        rows = found["items"]
        if not isinstance(rows, list) or not rows:
            raise RunError(f"the command '{self.command}' gave no items")
        for row in rows:
            if not isinstance(row, Mapping) or "id" not in row or "score" not in row:
                raise RunError(f"the command '{self.command}': each item must have id and score, got {str(row)[:200]}")
            unknown = [str(key) for key in row if key not in _ITEM_KEYS]
            if unknown:
                raise RunError(
                    f"the command '{self.command}': an item has no key '{unknown[0]}'. "
                    + did_you_mean(unknown[0], _ITEM_KEYS)
                )
        names = dict.fromkeys(name for row in rows for name in row.get("slices") or {})
        slices = {name: [str((row.get("slices") or {}).get(name, "")) for row in rows] for name in names}
        ids = [str(row["id"]) for row in rows]
        scores = [self._number(row["score"], f"item '{name}'") for row, name in zip(rows, ids, strict=True)]
        weights = [self._number(row.get("weight", 1), f"item '{name}'") for row, name in zip(rows, ids, strict=True)]
        if min(weights) < 0 or not any(weights):
            raise RunError(f"the command '{self.command}': weights must be at least 0, and not all 0")
        targets = [str(row.get("target", "")) for row in rows]
        try:
            items = Items(tuple(ids), ids, targets, slices)
        except InputError as error:
            raise RunError(f"the command '{self.command}': {error}") from error
        answers = [str(row.get("answer", row["score"])) for row in rows]
        metric = self._metric(str(found.get("metric", "")), found.get("lower_is_better"))
        return self.name, metric, items, _scored(answers, targets, scores, weights)


def _scored(
    answers: Sequence[str], targets: Sequence[str], scores: Sequence[float], weights: Sequence[float] | None = None
) -> Scored:
    """Judged elsewhere: how often the model was asked, and how many tokens that took, is not known."""
    heavy = None if weights is None else np.array(weights)
    return Scored(answers, targets, np.array(scores), heavy, calls=None, tokens_in=None, tokens_out=None)


def _ran(words: Sequence[str], timeout: float | None) -> tuple[int, str, str]:
    """Exit code, output and errors. Whatever ends the waiting ends the command too, with all that it has started."""
    with subprocess.Popen(
        words, start_new_session=True, encoding="utf-8", errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, out, err


def _end(text: str, most: int = 1500) -> str:
    text = text.strip()
    return text if len(text) <= most else f"[..] {text[-most:]}"


def identity(model: str) -> str:
    """A hash of a model's files by name, size and time of change; empty for what is no path."""
    place = Path(model)
    if not place.exists():
        return ""
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    said = [[str(p.relative_to(place)), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    return xxhash.xxh3_128_hexdigest(json.dumps(said).encode())


def run_score(
    score: Score, models: Mapping[str, str], out: str | Path | None = None, *, restart: bool = False
) -> Records:
    """Judge models by a command; what is in `out` already, of the same command and model, is not run again.

    Args:
        score: The command.
        models: What stands for `{model}`, by label.
        out: A folder of records; None keeps them in memory.
        restart: Run again what has been run.

    Raises:
        InputError: No models, or `out` holds records of another command or model under the same name.
        RunError: The command fails.
    """
    if not models:
        raise InputError("a command needs models to judge")
    parts: list[Part] = []
    for label, model in models.items():
        done = [] if restart else _done(score, label, model, out)
        if not done:
            done = score.records(model, label)
            places = [Path(out) / part.head.file for part in done] if out is not None else []
            for place in places if not restart else ():
                _check_free(place, score)
            for place, part in zip(places, done, strict=False):
                write_part(part, place)
        parts += done
    return Records(parts)


def _done(score: Score, label: str, model: str, out: str | Path | None) -> list[Part]:
    """What an earlier run has left, if it is whole."""
    if out is None or not Path(out).is_dir():
        return []
    parts = [read_part(path) for path in sorted(Path(out).glob(f"[!.]*/[!.]*{SUFFIX}"))]
    mine = [part for part in parts if part.head.system == label and part.head.made.get("score") == score.command]
    for part in mine:
        if (part.head.system_fingerprint, part.head.task_fingerprint) != (identity(model), score.fingerprint):
            raise InputError(
                f"there are records of '{label}' on '{part.head.task}', and the model or the command has changed since",
                "Use another label or another folder, or --restart to throw them away.",
                str(out),
            )
    return mine if mine and len(mine) == mine[0].head.made["figures"] else []


def _check_free(place: Path, score: Score) -> None:
    """Refuse to write over what this command has not written."""
    if place.is_file() and read_part(place).head.made.get("score") != score.command:
        raise InputError(
            "there are records of another command, or of mw eval, under the same name",
            "Use another label or another folder, or --restart to throw them away.",
            str(place),
        )


def without_intervals(records: Records) -> list[str]:
    """Tasks whose records are single figures, so that neither intervals nor paired tests can be had."""
    return [
        task for task in records.tasks if all(p.head.made.get("score") and len(p.ids) == 1 for p in records.on(task))
    ]
