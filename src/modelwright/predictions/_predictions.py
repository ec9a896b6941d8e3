"""The bank: what several members say of the same samples, as one array with names on every axis."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError, did_you_mean, listing
from modelwright.predictions._scales import SUM_TOLERANCE, Kind, Scale, both_classes, check_scale, of_classes, of_one

#: Numbers of all members that are worked on at a time: 2 MB in float64, which stays in a core's cache.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class MemberCost:
    """What one answer of a member costs, and what the member costs to keep; None where nobody has said.

    Attributes:
        multiply_adds: Multiply-adds for one sample.
        milliseconds: Time for one sample.
        parameters: Numbers in its weights.
        nbytes: Bytes of its weights.
    """

    multiply_adds: float | None = None
    milliseconds: float | None = None
    parameters: int | None = None
    nbytes: int | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InputError(f"a member's {name} must be a number from 0 up, got {value}")

    def __add__(self, other: MemberCost) -> MemberCost:
        """What both cost together; unknown where either is."""
        pairs = {name: (value, getattr(other, name)) for name, value in asdict(self).items()}
        return MemberCost(**{name: None if None in pair else sum(pair) for name, pair in pairs.items()})


@dataclass(frozen=True)
class Member:
    """One of those who answer.

    Attributes:
        name: How tables call it.
        cost: What its answers cost.
        lineage: What it comes from, as plain values that JSON can hold: `fingerprint` (a hash of what its answers depend
            on), `parents` (names of models that it was made from), seeds, data, whatever is known.
    """

    name: str
    cost: MemberCost = field(default_factory=MemberCost)
    lineage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """A hash of what its answers depend on; empty where nobody has said."""
        return str(self.lineage.get("fingerprint", ""))


@dataclass(frozen=True, eq=False)
class Predictions:
    """What M members say of N samples.

    Attributes:
        values: float32 or float64, read-only, in memory or memory-mapped: (M, N, C) for `classes`, (M, N) for `binary`
            (the positive class), (M, N) or (M, N, D) for `regression`, (M, N, ...) for `dense`.
        scale: What the numbers are. It is never guessed.
        kind: What is predicted.
        members: Who answered, with different names.
        ids: One name a sample; whatever is put together is put together by it.
        labels: What is right: class indices (N,); 0 or 1 (N,) for `binary`; numbers of the shape of one member's values
            for `regression` and `dense`. None where it is unknown.
        classes: Names of the classes; empty for `regression` and `dense`.
        check: Whether numbers and labels are looked at; what comes of a bank was looked at already.

    Raises:
        InputError: Shapes do not fit, a name is there twice, a number is not finite, probabilities do not sum to 1, a label
            is out of range. The message names member and sample.

    Example:
        >>> bank = Predictions.of([[[0.9, 0.1], [0.4, 0.6]], [[0.7, 0.3], [0.2, 0.8]]], [0, 1], scale="probabilities")
        >>> bank
        Predictions(2 members x 2 samples x 2 classes, probabilities, labelled)
        >>> bank.to("log-probabilities").scale
        'log-probabilities'
    """

    values: np.ndarray
    scale: Scale
    kind: Kind
    members: tuple[Member, ...]
    ids: tuple[str, ...]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    check: InitVar[bool] = True

    def __post_init__(self, check: bool) -> None:
        check_scale(self.kind, self.scale)
        _check_shape(self)
        values = self.values.view()
        values.flags.writeable = False
        object.__setattr__(self, "values", values)
        if check:
            _check_names("members", self.names)
            _check_names("samples", self.ids)
            _check_values(self)
            _check_labels(self)

    @classmethod
    def of(
        cls,
        values: Any,
        labels: Any = None,
        *,
        scale: Scale,
        kind: Kind = "classes",
        ids: Sequence[Any] | None = None,
        members: Sequence[str | Member] | None = None,
        classes: Sequence[str] = (),
    ) -> Predictions:
        """A bank of arrays as they come.

        Args:
            values: As in `values`; whole numbers and narrow formats become float32.
            labels: As in `labels`; None where they are unknown.
            scale: `logits`, `probabilities`, `log-probabilities` or `values`.
            kind: `classes`, `binary`, `regression` or `dense`.
            ids: Names of the samples; their positions where none are given.
            members: Names, or members; `member 1` and so on where none are given.
            classes: Names of the classes; their indices where none are given.

        Raises:
            InputError: As for `Predictions`.
        """
        array = values if isinstance(values, np.memmap) else np.asarray(values)
        if array.dtype not in (np.float32, np.float64):
            if array.dtype.kind not in "fiub":
                raise InputError(f"predictions must be numbers, got an array of {array.dtype}")
            array = array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32)
        shape = (*array.shape, 0, 0, 0)
        named = [f"member {i + 1}" for i in range(shape[0])] if members is None else members
        names = tuple(map(str, range(shape[1]))) if ids is None else tuple(map(str, ids))
        if kind in ("classes", "binary") and not classes:
            classes = tuple(map(str, range(shape[2] if kind == "classes" else 2)))
        return cls(
            array,
            scale,
            kind,
            tuple(one if isinstance(one, Member) else Member(str(one)) for one in named),
            names,
            None if labels is None else _labels(labels, kind),
            tuple(map(str, classes)),
        )

    def __repr__(self) -> str:
        shape = f"{len(self.members)} members x {len(self):,} samples"
        rest = self.values.shape[2:]
        if self.kind == "classes":
            shape += f" x {rest[0]} classes"
        elif rest:
            shape += f" x {' x '.join(map(str, rest))}"
        kind = "" if self.kind == "classes" else f"{self.kind}, "
        return f"Predictions({shape}, {kind}{self.scale}, {'not ' if self.labels is None else ''}labelled)"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names."""
        return tuple(member.name for member in self.members)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.values.nbytes

    @property
    def cost(self) -> MemberCost:
        """What all members cost together."""
        first, *others = (member.cost for member in self.members)
        return sum(others, first)

    def need_labels(self, what: str) -> np.ndarray:
        """The labels.

        Args:
            what: What they are needed for, for the message.

        Raises:
            InputError: There are none.
        """
        if self.labels is None:
            raise InputError(f"{what} needs labels, and these predictions have none", "Pass labels= when making them.")
        return self.labels

    def to(self, scale: Scale) -> Predictions:
        """The same on another scale, in the same format; itself where it stands there already.

        Probabilities become logits as their logarithms, which a softmax takes back; 0 counts as 2.2e-308.

        Raises:
            InputError: The kind has no such scale.
        """
        check_scale(self.kind, scale)
        if scale == self.scale:
            return self
        if "values" in (scale, self.scale):
            raise InputError(f"{self.scale} cannot become {scale}: it is not known how they are related")
        values = np.empty(self.values.shape, self.values.dtype)
        convert = of_classes if self.kind == "classes" else of_one
        for part in self.parts():
            values[:, part] = convert(self.values[:, part], self.scale, scale)
        return replace(self, values=values, scale=scale, check=False)

    def parts(self) -> Iterator[slice]:
        """Slices of the samples, of a size that depends on the shape alone, so that no sum depends on threads."""
        each = math.prod(self.values.shape[2:]) * len(self.members)
        rows = max(1, _CHUNK // max(1, each))
        for start in range(0, len(self), rows):
            yield slice(start, min(start + rows, len(self)))

    def block(self, samples: slice, scale: Scale | None = None) -> np.ndarray:
        """Some samples of all members as float64, in memory of its own.

        Args:
            samples: Which.
            scale: On which scale; None is that of the bank. Of `classes` and `binary` probabilities sum to 1 exactly.

        Returns:
            (M, n, C) for `classes`, (M, n, 2) for `binary`, (M, n, ...) else.
        """
        wanted = scale or self.scale
        check_scale(self.kind, wanted)
        values = self.values[:, samples]
        if self.kind == "classes":
            return of_classes(values, self.scale, wanted)
        if self.kind == "binary":
            return both_classes(values, self.scale, wanted)
        if wanted != self.scale and "values" in (wanted, self.scale):
            raise InputError(f"{self.scale} cannot become {wanted}: it is not known how they are related")
        return of_one(values, self.scale, wanted)

    def blocks(self, scale: Scale | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """All samples, block by block, each with its slice."""
        for part in self.parts():
            yield part, self.block(part, scale)

    def probabilities(self) -> np.ndarray:
        """Probabilities of all classes as float64 (M, N, C), of a bank that is small enough."""
        return self.block(slice(None), "probabilities")

    def select(self, members: Sequence[str | int] | None = None, samples: Any = None) -> Predictions:
        """Some members, some samples.

        Args:
            members: Names or positions, in the order they are to have.
            samples: Ids, positions, a slice or a mask (N,).

        Returns:
            A view where a slice is asked for, else a copy.

        Raises:
            InputError: There is no member or sample of such a name or position, one is asked for twice, or none is left.
        """
        bank = self
        if members is not None:
            rows = _positions("member", members, self.names)
            run = rows and rows == list(range(rows[0], rows[0] + len(rows)))
            kept = self.values[rows[0] : rows[-1] + 1] if run else self.values[rows]
            bank = replace(bank, values=kept, members=tuple(self.members[i] for i in rows), check=False)
        return bank if samples is None else bank._sampled(samples)

    def _sampled(self, samples: Any) -> Predictions:
        if isinstance(samples, slice):
            at: Any = samples
            ids = self.ids[samples]
        else:
            mask = np.asarray(samples)
            if mask.dtype == bool:
                if mask.shape != (len(self),):
                    raise InputError(f"a mask of samples must have the shape {(len(self),)}, got {mask.shape}")
                at = np.flatnonzero(mask)
            else:
                at = np.array(_positions("sample", samples, self.ids), dtype=np.intp)
            ids = tuple(self.ids[i] for i in at.tolist())
        if not ids:
            raise InputError("no sample is left: predictions need at least one")
        labels = None if self.labels is None else self.labels[at]
        return replace(self, values=self.values[:, at], ids=ids, labels=labels, check=False)

    def align(self, ids: Sequence[str]) -> Predictions:
        """The same with its samples in the order of these ids, which must be exactly its own.

        Raises:
            InputError: They are not; the message names some that only one has.
        """
        ids = tuple(map(str, ids))
        if ids == self.ids:
            return self
        mine, theirs = set(self.ids), set(ids)
        if mine != theirs or len(ids) != len(theirs):
            odd = sorted(mine ^ theirs) or [name for name, count in Counter(ids).items() if count > 1]
            raise InputError(
                f"predictions are put together by ids, and these differ: {len(mine):,} and {len(ids):,}, of which "
                f"{len(mine & theirs):,} are the same; only one has {listing(odd, 3)}",
                "Select the samples that both have, or predict again.",
            )
        return self._sampled(list(ids))

    def with_members(self, members: Sequence[str | Member]) -> Predictions:
        """The same numbers under other names, costs and lineages.

        Raises:
            InputError: There are not as many, or two have one name.
        """
        made = tuple(one if isinstance(one, Member) else Member(one) for one in members)
        _check_names("members", [member.name for member in made])
        return replace(self, members=made, check=False)

    def with_labels(self, labels: Any) -> Predictions:
        """The same with other labels, or with None.

        Raises:
            InputError: They do not fit.
        """
        found = replace(self, labels=None if labels is None else _labels(labels, self.kind), check=False)
        _check_labels(found)
        return found

    def save(self, path: str | Path) -> Path:
        """Write a file, whole or not at all: `.parquet` for others to read, `.safetensors` to be memory-mapped.

        Returns:
            The path.

        Raises:
            InputError: The suffix is another one, or the kind cannot be a table.
            RunError: It cannot be written.
        """
        from modelwright.predictions._files import save

        return save(self, Path(path))

    @classmethod
    def open(cls, path: str | Path, *, check: bool = True) -> Predictions:
        """Read what `save` has written; the values of a safetensors file stay on disk until they are used.

        Args:
            path: A file ending in `.parquet` or `.safetensors`.
            check: Whether all numbers are looked at, which reads them once.

        Raises:
            InputError: There is no such file, it holds something else, or is damaged.
        """
        from modelwright.predictions._files import load

        return load(Path(path), check=check)


def join_members(banks: Sequence[Predictions]) -> Predictions:
    """The members of several banks side by side, on the same samples in the order of the first.

    Raises:
        InputError: Ids, labels, classes, kinds or scales differ, or a member's name is there twice.
    """
    first, others = _alike(banks)
    others = [bank.align(first.ids) for bank in others]
    labels = first.labels
    for bank in others:
        if labels is None:
            labels = bank.labels
        elif bank.labels is not None and not np.array_equal(labels, bank.labels):
            where = int(np.flatnonzero((labels != bank.labels).reshape(len(first), -1).any(axis=1))[0])
            raise InputError(
                f"banks of the same samples must have the same labels; those of '{first.ids[where]}' differ"
            )
    every = [first, *others]
    members = tuple(member for bank in every for member in bank.members)
    _check_names("members", [member.name for member in members])
    values = np.concatenate([bank.values for bank in every])
    return replace(first, values=values, members=members, labels=labels, check=False)


def join_samples(banks: Sequence[Predictions]) -> Predictions:
    """The samples of several banks one after the other, by the same members in the order of the first.

    Raises:
        InputError: Members, classes, kinds or scales differ, a sample is there twice, or only some have labels.
    """
    first, others = _alike(banks)
    for bank in others:
        if set(bank.names) != set(first.names):
            odd = sorted(set(bank.names) ^ set(first.names))
            raise InputError(f"banks of more samples must have the same members; only one has {listing(odd, 3)}")
    every = [first, *(bank.select(first.names) for bank in others)]
    labelled = [bank.labels for bank in every if bank.labels is not None]
    if 0 < len(labelled) < len(every):
        raise InputError("some of these predictions have labels and some have none")
    ids = tuple(name for bank in every for name in bank.ids)
    _check_names("samples", ids)
    values = np.concatenate([bank.values for bank in every], axis=1)
    labels = np.concatenate(labelled) if labelled else None
    return replace(first, values=values, ids=ids, labels=labels, check=False)


def _alike(banks: Sequence[Predictions]) -> tuple[Predictions, list[Predictions]]:
    if not banks:
        raise InputError("there are no predictions to put together")
    first, *others = banks
    for bank in others:
        for what in ("kind", "scale", "classes"):
            mine, theirs = getattr(first, what), getattr(bank, what)
            if mine != theirs:
                mend = "Convert one with .to(scale)." if what == "scale" else ""
                raise InputError(
                    f"predictions that are put together must have the same {what}: {mine} and {theirs}", mend
                )
        if first.values.shape[2:] != bank.values.shape[2:]:
            raise InputError(f"shapes of a sample differ: {first.values.shape[2:]} and {bank.values.shape[2:]}")
    return first, others


def _positions(what: str, wanted: Sequence[Any], names: Sequence[str]) -> list[int]:
    """Where names, or positions, stand."""
    wanted = wanted.tolist() if isinstance(wanted, np.ndarray) else list(wanted)
    place = {name: i for i, name in enumerate(names)} if any(isinstance(one, str) for one in wanted) else {}
    found: list[int] = []
    for one in wanted:
        if isinstance(one, str):
            if one not in place:
                mend = did_you_mean(one, names) if len(names) < 1000 else ""
                raise InputError(f"there is no {what} '{one}' in these predictions", mend)
            found.append(place[one])
        elif not -len(names) <= int(one) < len(names):
            raise InputError(f"there is no {what} {one}: these predictions have {len(names):,}")
        else:
            found.append(int(one) % len(names))
    if not found:
        raise InputError(f"no {what} is left: predictions need at least one")
    if len(set(found)) < len(found):
        twice = next(i for i, count in Counter(found).items() if count > 1)
        raise InputError(f"each {what} can be there once, and '{names[twice]}' is asked for twice")
    return found


def _labels(labels: Any, kind: Kind) -> np.ndarray:
    found = np.asarray(labels)
    if kind in ("classes", "binary"):
        if found.dtype.kind == "f" and found.size and np.array_equal(found, np.floor(found)):
            return found.astype(np.int64)
        if found.dtype.kind not in "iub":
            raise InputError(
                f"labels of the kind '{kind}' must be class indices, got an array of {found.dtype}",
                "Write [classes.index(name) for name in names].",
            )
        return found.astype(np.int64)
    return found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)


def _check_shape(bank: Predictions) -> None:
    axes = {"classes": (3,), "binary": (2,), "regression": (2, 3), "dense": range(3, 65)}[bank.kind]
    words = {"classes": "(M, N, C)", "binary": "(M, N)", "regression": "(M, N) or (M, N, D)", "dense": "(M, N, ...)"}
    shape = bank.values.shape
    if len(shape) not in axes:
        mend = " An array of one member needs a first axis of 1." if len(shape) < min(axes) else ""
        raise InputError(
            f"predictions of the kind '{bank.kind}' must have the shape {words[bank.kind]}, got {shape}", mend.strip()
        )
    if bank.values.dtype not in (np.float32, np.float64):
        raise InputError(f"predictions must be float32 or float64, got {bank.values.dtype}")
    if 0 in shape:
        raise InputError(f"predictions need members, samples and classes, got the shape {shape}")
    if bank.kind == "classes" and shape[2] < 2:
        raise InputError(
            "predictions of classes need at least two classes, got one",
            "For the probability of one class say kind='binary', and leave the last axis out.",
        )
    for what, names, count in (("members", bank.members, shape[0]), ("ids", bank.ids, shape[1])):
        if len(names) != count:
            raise InputError(f"there are {len(names):,} {what} for an array of shape {shape}, which needs {count:,}")
    wanted = shape[2] if bank.kind == "classes" else 2 if bank.kind == "binary" else 0
    if len(bank.classes) != wanted:
        raise InputError(f"there are {len(bank.classes)} names of classes, and {wanted} classes")


def _check_names(what: str, names: Sequence[str]) -> None:
    if len(set(names)) == len(names):
        return
    twice = [name for name, count in Counter(names).items() if count > 1]
    raise InputError(
        f"{what} must have different names, got '{twice[0]}' more than once ({len(twice):,} such names)",
        "They are told apart, and put together, by it.",
    )


def _check_values(bank: Predictions) -> None:
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {"logits": np.isfinite, "values": np.isfinite}
    summed = bank.kind == "classes"
    for part in bank.parts():
        values = bank.values[:, part]
        good = rules[bank.scale](values) if bank.scale in rules else _possible(values, bank.scale)
        if not good.all():
            _refuse_value(bank, part, good)
        if summed and bank.scale != "logits":
            sums = (values if bank.scale == "probabilities" else np.exp(values)).sum(axis=-1, dtype=np.float64)
            wrong = np.abs(sums - 1.0) > SUM_TOLERANCE
            if wrong.any():
                _refuse_sum(bank, part, wrong, sums)


def _possible(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Whether these can be probabilities; rounding may lift one a little above 1. A NaN is in no range."""
    if scale == "probabilities":
        return (values >= 0) & (values <= 1 + SUM_TOLERANCE)
    return values <= SUM_TOLERANCE  # minus infinity is the logarithm of 0


def _refuse_value(bank: Predictions, part: slice, good: np.ndarray) -> None:
    member, sample = (int(i) for i in np.argwhere(~good)[0][:2])
    found = bank.values[:, part][~good][0]
    rule = {
        "probabilities": "must be in [0, 1]",
        "log-probabilities": "must be at most 0",
        "logits": "must be finite",
        "values": "must be finite",
    }[bank.scale]
    mend = ""
    if bank.scale == "probabilities" and np.isfinite(found):
        mend = "If these are logits, say scale='logits'."
    raise InputError(
        f"{bank.scale} {rule}, got {found} of '{bank.names[member]}' for sample '{bank.ids[part.start + sample]}'", mend
    )


def _refuse_sum(bank: Predictions, part: slice, wrong: np.ndarray, sums: np.ndarray) -> None:
    member, sample = (int(i) for i in np.argwhere(wrong)[0])
    raise InputError(
        f"the probabilities of a sample must sum to 1, got {sums[member, sample]:.6g} of '{bank.names[member]}' for sample "
        f"'{bank.ids[part.start + sample]}'",
        "If these are logits, say scale='logits'.",
    )


def _check_labels(bank: Predictions) -> None:
    labels = bank.labels
    if labels is None:
        return
    wanted = (len(bank),) if bank.kind in ("classes", "binary") else bank.values.shape[1:]
    if labels.shape != wanted:
        raise InputError(f"labels of the kind '{bank.kind}' must have the shape {wanted}, got {labels.shape}")
    if bank.kind in ("classes", "binary"):
        count = len(bank.classes)
        wrong = (labels < 0) | (labels >= count)
        rule = f"labels must be class indices in [0, {count - 1}]"
    else:
        wrong = ~np.isfinite(labels)
        rule = "labels must be finite"
        if bank.kind == "dense" and bank.scale != "values":
            wrong |= (labels != 0) & (labels != 1)
            rule = "labels of masks must be 0 or 1"
    if wrong.any():
        sample = int(np.argwhere(wrong)[0][0])
        raise InputError(f"{rule}, got {labels[wrong].flat[0]} for sample '{bank.ids[sample]}'")
