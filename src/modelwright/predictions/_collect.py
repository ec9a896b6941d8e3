"""Asking members, batch by batch, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError, RunError, listing
from modelwright.predictions._files import SUFFIXES, whole
from modelwright.predictions._predictions import Member, Predictions
from modelwright.predictions._scales import Scale
from modelwright.predictions._sources import Source, source

#: Called with (member, samples done, samples in all).
Progress = Callable[[str, int, int], None]
_RESTART = "Use another file, or restart=True to throw away what is there."


def collect(
    members: Sequence[Any] | Mapping[str, Any],
    inputs: Any,
    labels: Any = None,
    *,
    ids: Sequence[Any] | None = None,
    classes: Sequence[str] = (),
    scale: Any = None,
    kind: Any = None,
    out: str | Path | None = None,
    batch: int = 256,
    device: str = "cpu",
    restart: bool = False,
    progress: Progress | None = None,
) -> Predictions:
    """Ask members about the same inputs.

    With `out`, each batch is on disk as soon as it is answered, in a folder `.NAME.parts` beside it: a killed run goes on, and
    asks nobody twice. Members that `out` holds already are not asked again.

    Args:
        members: A list, or names -> members: each a `Source`, an `nn.Module`, a fitted estimator, an `.onnx` file, or a
            function of a batch of inputs.
        inputs: An array (n, ...), or a sequence.
        labels: As in `Predictions`; None where they are unknown.
        ids: Names of the samples; default their positions.
        classes: Names of the classes.
        scale: What members give that do not say it themselves.
        kind: What is predicted; default `classes`, and what estimators are.
        out: A `.safetensors` or `.parquet` file; None keeps everything in memory.
        batch: Samples at a time.
        device: Where modules run.
        restart: Throw away what an earlier run of the same name has left.
        progress: Called with member, samples done and samples in all after each batch.

    Returns:
        The bank. Members of several scales come as probabilities. A member's cost has the median time of a sample where its
        source does not say it, and its lineage the fingerprint.

    Raises:
        InputError: A member cannot be asked, two have one name, or `out` is of other members or samples.
        RunError: A member fails, or gives what are no predictions.

    Example:
        >>> bank = collect({"even": lambda x: np.full((len(x), 2), 0.5)}, np.zeros((3, 4)), scale="probabilities")
        >>> bank
        Predictions(1 members x 3 samples x 2 classes, probabilities, not labelled)
    """
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    named = members.items() if isinstance(members, Mapping) else [("", one) for one in members]
    sources = [source(one, scale=scale, kind=kind, name=name, device=device) for name, one in named]
    names = tuple(map(str, range(len(inputs)))) if ids is None else tuple(map(str, ids))
    _check_asked(sources, names, len(inputs))
    asked = _Asked(inputs, names, tuple(classes), sources[0].kind, batch, progress)
    if out is None:
        found = [_answers(one, asked, None) for one in sources]
        return _bank(sources, found, asked, labels)
    return _to_file(sources, asked, labels, Path(out), restart=restart)


@dataclass(frozen=True)
class _Asked:
    """What is asked, and how."""

    inputs: Any
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    kind: Any
    batch: int
    progress: Progress | None

    @property
    def fingerprint(self) -> str:
        """Of the samples' ids; of inputs only their format, for they may be larger than memory."""
        form = f"{getattr(self.inputs, 'dtype', '')}{getattr(self.inputs, 'shape', len(self.ids))}"
        digest = xxhash.xxh3_128(form.encode())
        for name in self.ids:
            digest.update(f"{len(name)}:{name}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def _check_asked(sources: Sequence[Source], ids: Sequence[str], count: int) -> None:
    if not sources or not count:
        raise InputError(f"predictions need members and samples, got {len(sources)} and {count}")
    names = [one.name for one in sources]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise InputError(f"two members are called '{twice[0]}'", "Give a dict, names -> members.")
    kinds = sorted({one.kind for one in sources})
    if len(kinds) > 1:
        raise InputError(f"members must predict the same kind, got {listing(kinds)}")
    if len(ids) != count or len(set(ids)) != count:
        raise InputError(f"each of {count:,} samples needs an id of its own, got {len(set(ids)):,} different ones")


def _to_file(sources: Sequence[Source], asked: _Asked, labels: Any, out: Path, *, restart: bool) -> Predictions:
    if out.suffix not in SUFFIXES:
        raise InputError(f"predictions are kept in files ending in {' or '.join(SUFFIXES)}, got '{out.name}'")
    parts = out.with_name(f".{out.name}.parts")
    if restart:
        out.unlink(missing_ok=True)
        shutil.rmtree(parts, ignore_errors=True)
    ready = _ready(out, sources, asked)
    if ready is not None and set(ready.names) == {one.name for one in sources}:
        found = ready.select([one.name for one in sources])
        return found if labels is None else found.with_labels(labels)
    lock = _locked(parts)
    try:
        _check_run(parts, asked)
        found = [
            (
                np.asarray(ready.values[ready.names.index(one.name)]),
                ready.members[ready.names.index(one.name)].cost.milliseconds,
            )
            if ready is not None and one.name in ready.names
            else _answers(one, asked, parts / xxhash.xxh3_64_hexdigest(one.name.encode("utf-8", "surrogatepass")))
            for one in sources
        ]
        if ready is not None:
            sources = [replace(one, scale=ready.scale) if one.name in ready.names else one for one in sources]
        _bank(sources, found, asked, labels, parts).save(out)
        shutil.rmtree(parts)
    finally:
        os.close(lock)
    return Predictions.open(out)


def _ready(out: Path, sources: Sequence[Source], asked: _Asked) -> Predictions | None:
    """What an earlier run has finished, of the same samples; its members must be what they were."""
    if not out.exists():
        return None
    bank = Predictions.open(out, check=False)
    if bank.ids != asked.ids or bank.kind != asked.kind:
        raise InputError(f"'{out}' holds predictions of other samples", _RESTART)
    was = {member.name: member.fingerprint for member in bank.members}
    for one in sources:
        if one.name in was and was[one.name] != one.fingerprint:
            raise InputError(f"'{out}' holds predictions of another '{one.name}'", _RESTART)
    kept = [name for name in bank.names if name in {one.name for one in sources}]
    return bank.select(kept) if kept else None


def _locked(parts: Path) -> int:
    """A lock on the folder of parts, for as long as this process lives."""
    import fcntl

    try:
        parts.mkdir(parents=True, exist_ok=True)
        handle = os.open(parts / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"cannot write predictions: {error.strerror or error}", where=str(parts)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            "another process is writing these predictions", "Wait for it, or use another file.", str(parts)
        ) from None
    except OSError:  # a file system without locks
        pass
    return handle


def _check_run(parts: Path, asked: _Asked) -> None:
    """What a killed run has left must be of the same samples in the same batches."""
    wanted = {"version": 1, "samples": asked.fingerprint, "batch": asked.batch}
    path = parts / "run.json"
    with suppress(FileNotFoundError):
        try:
            was = json.loads(path.read_text("utf-8"))
        except ValueError:
            was = None
        if was != wanted:
            raise InputError("an unfinished run has left predictions of other samples or batches", _RESTART, str(parts))
        return
    path.write_text(json.dumps(wanted), "utf-8")


@dataclass
class _Answers:
    """What one member has said so far: rows of numbers and seconds of batches, each appended to a file where there is one."""

    path: Path | None
    fingerprint: str
    batch: int
    rows: list[np.ndarray]
    seconds: list[float]
    form: tuple[np.dtype[Any], tuple[int, ...]] | None = None

    @staticmethod
    def begun(one: Source, batch: int, path: Path | None) -> _Answers:
        """What a killed run has left, or nothing; a batch that was cut off is asked again."""
        new = _Answers(path, one.fingerprint, batch, [], [])
        if path is None or not path.with_suffix(".json").is_file():
            return new
        head = json.loads(path.with_suffix(".json").read_text("utf-8"))
        if head["fingerprint"] != one.fingerprint:
            raise InputError(
                f"an unfinished run has left predictions of another '{one.name}'", _RESTART, str(path.parent)
            )
        new.form = np.dtype(head["dtype"]), tuple(head["shape"])
        seconds = np.fromfile(path.with_suffix(".times"), np.float64)
        whole = min(path.stat().st_size // (new.size * batch), len(seconds))
        os.truncate(path, whole * new.size * batch)
        os.truncate(path.with_suffix(".times"), whole * 8)
        new.seconds = seconds[:whole].tolist()
        return new

    @property
    def size(self) -> int:
        """Bytes of a row."""
        assert self.form is not None
        return self.form[0].itemsize * math.prod(self.form[1])

    def add(self, values: np.ndarray, seconds: float) -> None:
        """A batch."""
        self.form = values.dtype, values.shape[1:]
        self.seconds.append(seconds)
        if self.path is None:
            self.rows.append(values)
            return
        if len(self.seconds) == 1:  # the head last: without it there is nothing
            self.path.touch()
            self.path.with_suffix(".times").touch()
            head = {"fingerprint": self.fingerprint, "dtype": values.dtype.name, "shape": list(values.shape[1:])}
            whole(self.path.with_suffix(".json"), lambda file: file.write(json.dumps(head).encode()))
        for path, data in ((self.path, values), (self.path.with_suffix(".times"), np.float64(seconds))):
            with path.open("ab") as file:
                file.write(data.tobytes())

    def all(self, count: int) -> np.ndarray:
        """Every row, (count, ...); those in a file stay there."""
        assert self.form is not None
        form, shape = self.form
        if self.path is None:
            return np.concatenate(self.rows)
        return np.memmap(self.path, form, "r", shape=(count, *shape))


def _answers(one: Source, asked: _Asked, path: Path | None) -> tuple[np.ndarray, float | None]:
    """All that a member says, (n, ...), and the median milliseconds of a sample over batches."""
    answers = _Answers.begun(one, asked.batch, path)
    total = len(asked.ids)
    for start in range(len(answers.seconds) * asked.batch, total, asked.batch):
        stop = min(start + asked.batch, total)
        began = time.perf_counter()
        values = _asked(one, asked.inputs[start:stop], asked.ids[start:stop])
        taken = time.perf_counter() - began
        if answers.form is not None and (values.dtype, values.shape[1:]) != answers.form:
            raise RunError(
                f"'{one.name}' gave {values.dtype} {values.shape[1:]} for a sample, and {answers.form} before"
            )
        answers.add(values, taken)
        if asked.progress is not None:
            asked.progress(one.name, stop, total)
    sizes = np.minimum(asked.batch, total - np.arange(len(answers.seconds)) * asked.batch)
    return answers.all(total), 1e3 * float(np.median(np.array(answers.seconds) / sizes))


def _asked(one: Source, inputs: Any, ids: Sequence[str]) -> np.ndarray:
    """One batch, looked at before it is kept."""
    try:
        values = np.asarray(one.ask(inputs))
    except (InputError, RunError, MemoryError):
        raise
    except Exception as error:  # whatever a foreign model raises
        what = f"'{one.name}' fails at one of the samples '{ids[0]}' .. '{ids[-1]}'"
        raise RunError(f"{what}: {type(error).__name__}: {error}", resumable=True) from error
    if one.kind in ("binary", "regression") and values.shape == (len(ids), 1):
        values = values[:, 0]
    if values.shape[:1] != (len(ids),):
        raise RunError(f"'{one.name}' gave an array of shape {values.shape} for {len(ids)} samples")
    try:
        return Predictions.of(values[None], scale=one.scale, kind=one.kind, ids=ids, members=[one.name]).values[0]
    except InputError as error:
        raise RunError(f"'{one.name}' gave what are no predictions: {error}") from error


def _bank(
    sources: Sequence[Source],
    found: Sequence[tuple[np.ndarray, float | None]],
    asked: _Asked,
    labels: Any,
    parts: Path | None = None,
) -> Predictions:
    """What all have said, on one scale; in a file of the folder of parts where there is one."""
    members = [_member(one, each) for one, (_, each) in zip(sources, found, strict=True)]
    shapes = {values.shape[1:] for values, _ in found}
    if len(shapes) > 1:
        said = listing([f"'{one.name}' {values.shape[1:]}" for one, (values, _) in zip(sources, found, strict=True)], 4)
        raise RunError(f"members gave answers of different shapes for a sample: {said}")
    scales: set[Scale] = {one.scale for one in sources}
    common: Scale = scales.pop() if len(scales) == 1 else "probabilities"
    form, shape = np.result_type(*(values for values, _ in found)), (len(found), *found[0][0].shape)
    values = np.empty(shape, form) if parts is None else np.memmap(parts / "values", form, "w+", shape=shape)
    for i, (one, (rows, _)) in enumerate(zip(sources, found, strict=True)):
        member = Predictions.of(rows[None], scale=one.scale, kind=asked.kind, ids=asked.ids, members=[one.name])
        values[i] = member.to(common).values[0]
    return Predictions.of(
        values, labels, scale=common, kind=asked.kind, ids=asked.ids, members=members, classes=asked.classes
    )


def _member(one: Source, each: float | None) -> Member:
    cost = one.cost if one.cost.milliseconds is not None else replace(one.cost, milliseconds=each)
    return Member(one.name, cost, {**one.lineage, "fingerprint": one.fingerprint})
