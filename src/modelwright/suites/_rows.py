"""What a sweep makes of a family: the systems that every table has, and a merge by each method that can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelwright.checkpoint import Checkpoint
from modelwright.errors import InputError, Problem, listing
from modelwright.evaluate import SystemKind
from modelwright.methods import Method
from modelwright.suites._cells import Group
from modelwright.suites._family import Family

ENSEMBLE = "ensemble"
#: Answers of several systems that there is a mean of.
_AVERAGED = ("probabilities", "values", "loglikelihoods")


@dataclass(frozen=True)
class Row:
    """A system to be: of weights that exist, of a method, or of all experts together.

    Attributes:
        label: Its name.
        group: Which part of the table it stands in.
        weights: Of a system that exists.
        method: What merges it.
        expert_of: The task that an expert was tuned for.
        train_seconds: Time to train what was trained.
        unfit: Why there can be no such system; empty where there can.
    """

    label: str
    group: Group
    weights: Checkpoint | None = None
    method: Method | None = None
    expert_of: str = ""
    train_seconds: float | None = None
    unfit: str = ""

    @property
    def kind(self) -> SystemKind:
        """What a comparison takes it for; multitask training is neither an expert nor what experts are tuned from."""
        if self.method is not None:
            return "merge"
        if self.expert_of:
            return "single"
        return "ensemble" if self.label == ENSEMBLE else "base" if self.label == "base" else "other"


def rows_of(family: Family, methods: Sequence[Method]) -> list[Row]:
    """The rows of a family's seed, in the order in which they are made.

    Where the family is the same for all seeds, only methods that draw noise have more than one seed to tell.
    """
    if family.fixed and family.seed:
        return [_merged(method, family) for method in methods if method.random]
    return [*_references(family), *(_merged(method, family) for method in methods)]


def _references(family: Family) -> Iterator[Row]:
    yield Row("base", "reference", family.base, train_seconds=family.seconds.get("base"))
    for name, expert in family.experts.items():
        seconds = family.seconds.get(name)
        yield Row(f"expert-{name}", "reference", expert, expert_of=name, train_seconds=seconds)
    if family.multitask is not None:
        yield Row("multitask", "reference", family.multitask, train_seconds=family.seconds.get("multitask"))
    yield Row(ENSEMBLE, "ensemble", unfit=_without_mean(family))


def _without_mean(family: Family) -> str:
    """Why the experts' outputs cannot be averaged; empty where they can."""
    odd = [name for name, task in family.tasks.items() if task.asks not in _AVERAGED]
    return f"the experts' answers to {listing(odd)} are texts, and there is no mean of texts" if odd else ""


def _merged(method: Method, family: Family) -> Row:
    return Row(
        method.name, "data-driven" if method.needs else "data-free", method=method,
        unfit=unfit(method, len(family.experts)),
    )  # fmt: skip


def unfit(method: Method, count: int) -> str:
    """Why a method cannot merge so many experts; empty where it can."""
    least, most = method.models
    beside = "" if method.base == "ignored" else " beside the base"
    if count < least or (most is not None and count > most):
        takes = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
        return f"it takes {takes} model{'s' * (takes != '1')}{beside}, and there are {count} experts"
    if method.parts is not None:
        return "it makes a bundle that is told the task of each item, which a merged model is not"
    if method.needs:
        return f"it needs {listing(method.needs)}, which a sweep cannot collect yet"
    return ""


def check_fit(rows: Sequence[Row]) -> None:
    """Refuse methods that were named and cannot merge such a family.

    Raises:
        InputError: All that cannot.
    """
    odd = [row for row in rows if row.method is not None and row.unfit]
    if odd:
        raise InputError([Problem(f"{row.label}: {row.unfit}", "Leave it out of --methods.") for row in odd])
