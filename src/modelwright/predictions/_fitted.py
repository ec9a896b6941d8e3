"""Methods over banks: fitted on labelled predictions, kept as plain values, applied block by block."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

from modelwright.errors import InputError, RunError, listing
from modelwright.methods import CALIBRATORS, COMBINERS, OutputMethod, OutputRegistry
from modelwright.methods._outputs import of_labels
from modelwright.predictions._predictions import Member, MemberCost, Predictions

#: Every method on outputs by name.
METHODS = OutputRegistry({**COMBINERS, **CALIBRATORS})
#: Of the layout of `as_dict`.
VERSION = 1


@dataclass(frozen=True)
class Fitted:
    """A method on outputs with its parameters and what it has learnt: all that it takes to apply it, as plain values.

    Attributes:
        method: Its name.
        parameters: Every one of them.
        learnt: What was learnt: of a combiner one mapping, of a calibrator one for each member; empty where nothing is.
        members: Names of the members that it was fitted on, in the order of what was learnt.
        kind: The kind of predictions.
        classes: Names of their classes.
        record: The method's record, where it is none of the library's.
    """

    method: str
    parameters: Mapping[str, Any]
    learnt: Sequence[Mapping[str, Any]]
    members: tuple[str, ...]
    kind: str
    classes: tuple[str, ...]
    record: OutputMethod | None = None

    @cached_property
    def how(self) -> OutputMethod:
        """The method's record."""
        return self.record or METHODS.find(self.method)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values that JSON can hold."""
        return {
            "version": VERSION,
            "method": self.method,
            "parameters": {name: list(v) if isinstance(v, tuple) else v for name, v in self.parameters.items()},
            "learnt": [dict(one) for one in self.learnt],
            "members": list(self.members),
            "kind": self.kind,
            "classes": list(self.classes),
        }

    @staticmethod
    def of(said: Mapping[str, Any], where: str = "") -> Fitted:
        """What `as_dict` has given, checked, for somebody else may have written it.

        Args:
            said: As from JSON.
            where: For messages.

        Raises:
            InputError: It is something else, of another version, or its parameters are out of range.
        """
        try:
            version, name = said["version"], said["method"]
            members = tuple(map(str, said["members"]))
            learnt = tuple(dict(one) for one in said["learnt"])
            given = dict(said["parameters"])
            kind, classes = str(said["kind"]), tuple(map(str, said["classes"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("this is no fitted method", where=where) from error
        if version != VERSION:
            raise InputError(f"this fitted method has layout {version}, and this version reads {VERSION}", where=where)
        record = METHODS.find(name)
        wanted = 0 if record.fit is None else 1 if record.kind == "ensembling" else len(members)
        if not members or len(learnt) != wanted:
            raise InputError(f"this is no fitted method: it has learnt {len(learnt)} times for {wanted}", where=where)
        return Fitted(record.name, record.resolve(given, len(members)), learnt, members, kind, classes)

    def pruned(self) -> Fitted:
        """The same without the members that have no weight, which need not be asked any more; itself where all have one."""
        weights = list(self.learnt[0].get("weights", ())) if len(self.learnt) == 1 else []
        if self.how.kind != "ensembling" or len(weights) != len(self.members) or all(weights):
            return self
        kept = [i for i, weight in enumerate(weights) if weight]
        learnt = {name: value for name, value in self.learnt[0].items() if name == "weights"}
        learnt = {**learnt, "weights": [weights[i] for i in kept]}
        per_member = {n: tuple(v[i] for i in kept) for n, v in self.parameters.items() if self.how.fields[n].per_model}
        members = tuple(self.members[i] for i in kept)
        return replace(self, learnt=(learnt,), members=members, parameters={**self.parameters, **per_member})

    def apply(self, bank: Predictions, *, name: str = "", threads: int = 0) -> Predictions:
        """What comes of a bank.

        Args:
            bank: With the members that this was fitted on, in any order, among others perhaps.
            name: How one answer of several is called; default the method's name.
            threads: How many blocks are worked on at a time; 0 is as many as there are cores. Results do not depend on it.

        Returns:
            Of a combiner a bank of one member in float64; of a calibrator one of the same members, in the format of the bank.
            Probabilities, or values of what are no classes. Ids and labels stay.

        Raises:
            InputError: A member is missing, kind or classes are others, or sets or intervals are what comes out.
            RunError: A result is not finite.
        """
        bank = self._fitting(bank)
        if self.how.gives in ("sets", "intervals"):
            raise InputError(f"{self.method} gives {self.how.gives}, no predictions", f"Use .{self.how.gives}(bank).")
        combining = self.how.kind == "ensembling"
        shape = bank.values.shape
        values = np.empty((1, *shape[1:]) if combining else shape, np.float64 if combining else bank.values.dtype)
        positive = bank.kind == "binary"

        def write(part: slice, found: np.ndarray) -> None:
            if not np.isfinite(found).all():
                raise RunError(f"{self.method}: a result is not finite though every input is")
            values[:, part] = found[..., 1] if positive else found

        self._run(bank, write, threads)
        scale = bank.scale if bank.kind == "regression" or bank.scale == "values" else "probabilities"
        members = (self._member(bank, name),) if combining else bank.members
        return replace(bank, values=values, scale=scale, members=members, check=False)

    def _member(self, bank: Predictions, name: str) -> Member:
        """What several answers together come from and cost; members without weight cost nothing."""
        asked = [member for member in bank.members if member.name in self.pruned().members]
        cost = sum((member.cost for member in asked[1:]), asked[0].cost) if asked else MemberCost()
        lineage = {
            "method": self.method,
            "members": [m.name for m in asked],
            "parents": [dict(m.lineage) for m in asked],
        }
        return Member(name or self.method, cost, lineage)

    def sets(self, bank: Predictions, *, threads: int = 0) -> np.ndarray:
        """Sets of classes, bool (M, N, C), of `conformal_sets`.

        Raises:
            InputError: The method gives something else, or the bank does not fit.
        """
        return self._special(bank, "sets", (len(bank.classes),), bool, threads)

    def intervals(self, bank: Predictions, *, threads: int = 0) -> np.ndarray:
        """Lower and upper ends, float64 (M, N, 2), of `conformal_intervals`.

        Raises:
            InputError: The method gives something else, or the bank does not fit.
        """
        return self._special(bank, "intervals", (2,), np.float64, threads)

    def _special(self, bank: Predictions, what: str, rest: tuple[int, ...], form: Any, threads: int) -> np.ndarray:
        if self.how.gives != what:
            raise InputError(f"{self.method} gives {self.how.gives}, no {what}", "Use .apply(bank).")
        bank = self._fitting(bank)
        found = np.empty((len(bank.members), len(bank), *rest), form)

        def write(part: slice, values: np.ndarray) -> None:
            found[:, part] = values

        self._run(bank, write, threads)
        return found

    def _fitting(self, bank: Predictions) -> Predictions:
        if (bank.kind, bank.classes) != (self.kind, self.classes):
            raise InputError(
                f"{self.method} was fitted on {self.kind} of {len(self.classes)} classes, and this bank is of {bank.kind} of "
                f"{len(bank.classes)} classes"
                + (", with other names" if bank.kind == self.kind and len(bank.classes) == len(self.classes) else "")
            )
        missing = [name for name in self.members if name not in bank.names]
        if missing:
            raise InputError(
                f"{self.method} was fitted on members that this bank has not: {listing(missing, 5)}",
                f"It has {listing(bank.names, 5)}.",
            )
        return bank if bank.names == self.members else bank.select(self.members)

    def _run(self, bank: Predictions, write: Callable[[slice, np.ndarray], None], threads: int) -> None:
        scale, extra = _scale(self.how, bank, self.parameters)
        function = inspect.unwrap(self.how.function)
        draws = self.how.noise(self.parameters)

        def work(part: slice) -> None:
            outputs = bank.block(part, scale)
            given = dict(self.parameters) | extra
            if draws:
                given["noise"] = noise_of(bank.ids[part], int(self.parameters["seed"]))
            if self.how.kind == "ensembling":
                write(
                    part, function(outputs, **given, **(_known(function, self.learnt[0]) if self.learnt else {}))[None]
                )
                return
            made = [function(one, **given, **learnt) for one, learnt in zip(outputs, self.learnt, strict=True)]
            write(part, np.stack(made))

        over_parts(bank, work, threads)


def over_parts(bank: Predictions, work: Callable[[slice], None], threads: int = 0) -> None:
    """Do something with every block of a bank, in threads: numpy lets go of the interpreter in all that takes long."""
    parts = list(bank.parts())
    count = min(threads or os.cpu_count() or 1, len(parts))
    if count <= 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(count) as pool:
        for _ in pool.map(work, parts):
            pass


def _known(function: Callable[..., Any], learnt: Mapping[str, Any]) -> dict[str, Any]:
    """What a function takes of what was learnt; the rest tells how the fit went."""
    takes = inspect.signature(function).parameters
    return {name: value for name, value in learnt.items() if name in takes}


def _scale(record: OutputMethod, bank: Predictions, parameters: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """On which scale a method gets the bank, and what it is told where these are no classes."""
    if bank.kind in ("classes", "binary"):
        return record.space(parameters), {}
    told = {"space": "values"} if "space" in inspect.signature(record.function).parameters else {}
    if "classes" not in record.takes and bank.kind == "dense":
        return record.space(parameters), told
    return ("values" if bank.scale == "values" else "probabilities"), told


def noise_of(ids: Sequence[str], seed: int) -> np.ndarray:
    """One uniform number in [0, 1) a sample, of its id and the seed alone."""
    return np.array(
        [xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"), seed=seed) / 2.0**64 for name in ids]
    )


def _record(method: str | OutputMethod, bank: Predictions) -> OutputMethod:
    record = METHODS.find(method)
    kind = "classes" if bank.kind == "binary" else bank.kind
    if kind not in record.takes:
        fits = [name for name, other in METHODS.items() if kind in other.takes and other.kind == record.kind]
        raise InputError(
            f"{record.name} takes no predictions of the kind '{bank.kind}'", f"Those that do: {listing(fits, 30)}."
        )
    return record


def fit(bank: Predictions, method: str | OutputMethod, **parameters: Any) -> Fitted:
    """Fit a combiner or a calibrator on labelled predictions, of samples that are for choosing and not for reporting.

    Args:
        bank: Labelled where the method learns.
        method: A name, such as `greedy`, `stacking`, `temperature`; or a record.
        **parameters: The method's own.

    Returns:
        What can be applied to other predictions of the same members. A calibrator learns for each member on its own. A method
        that learns nothing only has its parameters checked.

    Raises:
        InputError: The method does not take such predictions, a parameter is wrong, there are no labels, or of one class only.

    Example:
        >>> from modelwright.predictions import Predictions
        >>> rng = np.random.default_rng(0)
        >>> labels = rng.integers(0, 3, 300)
        >>> logits = 3 * np.eye(3)[labels] + rng.normal(size=(2, 300, 3))
        >>> bank = Predictions.of(logits, labels, scale="logits", members=["a", "b"])
        >>> fit(bank.select(samples=slice(150)), "mean", space="logits").apply(bank.select(samples=slice(150, None)))
        Predictions(1 members x 150 samples x 3 classes, probabilities, labelled)
    """
    record = _record(method, bank)
    values = record.resolve(parameters, len(bank.members))
    if record.fit is None:
        learnt: tuple[dict[str, Any], ...] = ()
    else:
        labels = bank.need_labels(f"fitting {record.name}")
        scale, extra = _scale(record, bank, values)
        given = dict(values) | extra
        if record.noise(values):
            given["noise"] = noise_of(bank.ids, int(values["seed"]))
        if record.kind == "ensembling":
            learnt = (record.fit(_learnt_from(record, bank, scale, labels, values), labels, **given),)
        else:
            learnt = tuple(_fit_member(record, bank.select([name]), scale, labels, given) for name in bank.names)
    own = None if METHODS.get(record.name) is record else record
    return Fitted(record.name, values, learnt, bank.names, bank.kind, bank.classes, own)


def _learnt_from(
    record: OutputMethod, bank: Predictions, scale: Any, labels: np.ndarray, parameters: Mapping[str, Any]
) -> np.ndarray:
    """Outputs of all members, float64 (M, N, ...); read block by block where a fit looks at the right classes only.

    There the number of the right class stands in all classes' places, as a view that takes the memory of one.
    """
    if bank.kind not in ("classes", "binary") or not record.right_only(parameters):
        return bank.block(slice(None), scale)
    right = np.empty((len(bank.members), len(bank)))
    for part, block in bank.blocks(scale):
        right[:, part] = of_labels(block, labels[part])
    return np.broadcast_to(right[..., None], (*right.shape, len(bank.classes)))


def _fit_member(record: OutputMethod, bank: Predictions, scale: Any, labels: np.ndarray, given: Any) -> dict[str, Any]:
    assert record.fit is not None
    try:
        return record.fit(bank.block(slice(None), scale)[0], labels, **given)
    except InputError as error:
        first = error.problems[0]
        raise InputError(first.what, first.mend, bank.names[0]) from error


def combine(
    bank: Predictions, method: str | OutputMethod = "mean", *, name: str = "", threads: int = 0, **parameters: Any
) -> Predictions:
    """One answer of several, by a combiner that learns nothing.

    Args:
        bank: Labelled or not.
        method: A name, such as `mean`, `median`, `majority_vote`; or a record.
        name: How the answer is called; default the method's name.
        threads: As for `Fitted.apply`.
        **parameters: The method's own.

    Returns:
        A bank of one member, in float64.

    Raises:
        InputError: As for `fit`; or the method learns from labels, which `fit` is for.

    Example:
        >>> from modelwright.predictions import Predictions
        >>> bank = Predictions.of([[[0.9, 0.1]], [[0.5, 0.5]]], scale="probabilities")
        >>> combine(bank, "mean").values
        array([[[0.7, 0.3]]])
    """
    record = METHODS.find(method)
    if record.kind != "ensembling":
        raise InputError(
            f"{record.name} combines nothing, it calibrates", f"Use fit(validation, '{record.name}').apply(bank)."
        )
    if record.fit is not None:
        raise InputError(
            f"{record.name} learns from labels",
            f"Use fit(validation, '{record.name}').apply(bank), on samples of two sets.",
        )
    return fit(bank, record, **parameters).apply(bank, name=name, threads=threads)
