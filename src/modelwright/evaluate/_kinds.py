"""What kind of system an answer comes from, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.evaluate._records import Head, Part, Records

#: `single`: one model that was trained, such as an expert; `base`: what experts were tuned from.
SystemKind = Literal["single", "merge", "ensemble", "base", "other"]
SYSTEM_KINDS: tuple[SystemKind, ...] = get_args(SystemKind)


def kind_of(head: Head) -> SystemKind:
    """The kind that the records say: `made["kind"]`, else what follows from a merging method or an expert's task."""
    said = head.made.get("kind")
    if said in SYSTEM_KINDS:
        return said
    if head.made.get("method"):
        return "merge"
    return "single" if head.made.get("expert_of") else "other"


def kinds_of(records: Records, told: Mapping[str, str] | None = None) -> dict[str, SystemKind]:
    """The kind of every system.

    Args:
        records: Say it themselves.
        told: What they do not say, or say wrong, by system.

    Raises:
        InputError: A system or a kind is unknown.
    """
    kinds: dict[str, SystemKind] = {}
    for part in records:
        kinds.setdefault(part.head.system, kind_of(part.head))
    for system, kind in (told or {}).items():
        if system not in kinds:
            raise InputError(f"there are no records of '{system}'", did_you_mean(system, kinds))
        if kind not in SYSTEM_KINDS:
            raise InputError(f"'{system}' cannot be of the kind '{kind}'", did_you_mean(kind, SYSTEM_KINDS))
        kinds[system] = kind
    return kinds


def experts_of(records: Records, told: Mapping[str, str] | None = None) -> dict[str, str]:
    """The expert of each task that has one.

    Args:
        records: Say it themselves, in `made["expert_of"]`.
        told: The system by task.

    Raises:
        InputError: A task or a system is unknown, or a task has two experts.
    """
    experts: dict[str, str] = {}
    for part in records:
        task, system = part.head.made.get("expert_of"), part.head.system
        if task and task in records.tasks and experts.setdefault(task, system) != system and not told:
            raise InputError(
                f"'{task}' has two experts, '{experts[task]}' and '{system}'", f"Say which: experts={{'{task}': ...}}."
            )
    for task, system in (told or {}).items():
        if task not in records.tasks:
            raise InputError(f"there are no records of a task '{task}'", did_you_mean(task, records.tasks))
        records.part(task, system)
        experts[task] = system
    answered = {(part.head.task, part.head.system) for part in records}
    return {task: system for task, system in experts.items() if (task, system) in answered}


@dataclass(frozen=True)
class Price:
    """What asking costs, in any one currency.

    Attributes:
        tokens_in: For a million tokens read.
        tokens_out: For a million tokens generated.
        call: For a call.
        hour: For an hour of computing.
    """

    tokens_in: float = 0.0
    tokens_out: float = 0.0
    call: float = 0.0
    hour: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise InputError(f"a price must be a number of at least 0, got {name} = {value}")


@dataclass(frozen=True)
class Cost:
    """What it cost to answer, and what it costs to keep the system; None where unknown.

    Attributes:
        items: How many were answered.
        seconds: For all of them.
        calls: How often the system was asked.
        tokens_in: Tokens read.
        tokens_out: Tokens generated.
        parameters: Numbers in its weights.
        nbytes: Bytes of its weights.
        money: By the table of prices, else by what the system said itself.
    """

    items: int
    seconds: float | None = None
    calls: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    parameters: int | None = None
    nbytes: int | None = None
    money: float | None = None

    @property
    def seconds_per_item(self) -> float | None:
        """How long an item takes."""
        return None if self.seconds is None else self.seconds / self.items

    @property
    def money_per_item(self) -> float | None:
        """What an item costs."""
        return None if self.money is None else self.money / self.items

    def __add__(self, other: Cost) -> Cost:
        """On two tasks: the answers add up, and the weights are the same ones."""

        def both(name: str) -> float | None:
            a, b = getattr(self, name), getattr(other, name)
            return None if a is None or b is None else a + b

        sums = {name: both(name) for name in ("seconds", "calls", "tokens_in", "tokens_out", "money")}
        parameters = (
            self.parameters if self.parameters == other.parameters else _most(self.parameters, other.parameters)
        )
        nbytes = self.nbytes if self.nbytes == other.nbytes else _most(self.nbytes, other.nbytes)
        return Cost(self.items + other.items, parameters=parameters, nbytes=nbytes, **sums)  # type: ignore[arg-type]


def _most(first: int | None, second: int | None) -> int | None:
    """Of a system with different heads for tasks: the larger."""
    return None if first is None or second is None else max(first, second)


def cost_of(part: Part, records: Records, prices: Mapping[str, Price] | None = None) -> Cost:
    """The cost of one system's records on a task.

    An ensemble that was made of other systems' records costs what its members cost, each at its own price. Where no price
    is given, it is what the system said itself, as panels of chat models do.
    """

    def total(name: str) -> float | None:
        values = part.column(name).astype(np.float64)
        return None if np.isnan(values).any() else float(values.sum())

    def whole(name: str) -> int | None:
        value = total(name)
        return None if value is None else round(value)

    return Cost(
        items=part.table.num_rows,
        seconds=total("seconds"),
        calls=whole("calls"),
        tokens_in=whole("tokens_in"),
        tokens_out=whole("tokens_out"),
        parameters=part.head.parameters,
        nbytes=part.head.nbytes,
        money=_money(part, records, prices or {}),
    )


def _money(part: Part, records: Records, prices: Mapping[str, Price]) -> float | None:
    price = prices.get(part.head.system)
    if price is None:
        members = [m for m in part.head.made.get("members", ()) if m in records.systems]
        if not members or len(members) < len(part.head.made["members"]):
            told = part.column("money").astype(np.float64)
            return None if np.isnan(told).any() else float(told.sum())
        each = [_money(records.part(part.head.task, member), records, prices) for member in members]
        return None if None in each else sum(value for value in each if value is not None)
    used = {
        "tokens_in": price.tokens_in / 1e6,
        "tokens_out": price.tokens_out / 1e6,
        "calls": price.call,
        "seconds": price.hour / 3600,
    }
    money = 0.0
    for name, rate in used.items():
        if rate:
            values = part.column(name).astype(np.float64)
            if np.isnan(values).any():
                return None
            money += rate * float(values.sum())
    return money
