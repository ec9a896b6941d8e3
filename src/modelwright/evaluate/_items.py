"""The items of a task, and splits that are enforced: what searches cannot read `test`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
import xxhash

from modelwright.errors import InputError, did_you_mean, listing
from modelwright.predictions import content as content, plain as plain

#: `tune` is for learning from, `validation` for choosing with, `test` for reporting.
Split = Literal["tune", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Items:
    """What a model is asked, and what it should say.

    Attributes:
        ids: One name an item; results of two systems are put together by it, never by position.
        inputs: One an item: an array of shape (n, ...), or a sequence of texts or objects.
        targets: One an item: class indices, numbers or texts.
        slices: Properties to look at parts of the data by, such as `{"language": ["en", "de", ...]}`.

    Raises:
        InputError: There are no items, lengths differ, or an id is there twice.
    """

    ids: tuple[str, ...]
    inputs: Sequence[Any] | np.ndarray
    targets: Sequence[Any] | np.ndarray
    slices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.ids:
            raise InputError("the data are empty: a task needs items")
        lengths = {"inputs": len(self.inputs), "targets": len(self.targets)}
        lengths |= {f"the slice '{name}'": len(values) for name, values in self.slices.items()}
        for what, length in lengths.items():
            if length != len(self.ids):
                raise InputError(f"each item must have one of {what}, got {length:,} for {len(self.ids):,} items")
        twice = [name for name, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise InputError(
                f"ids must be unique, got '{twice[0]}' more than once ({len(twice):,} such ids)",
                "Give each item a name of its own: results are put together by it.",
            )

    @staticmethod
    def of(
        inputs: Sequence[Any] | np.ndarray,
        targets: Sequence[Any] | np.ndarray,
        ids: Sequence[Any] | None = None,
        slices: Mapping[str, Sequence[str]] | None = None,
    ) -> Items:
        """Items whose ids are their positions where none are given."""
        names = tuple(str(i) for i in (range(len(inputs)) if ids is None else ids))
        return Items(names, inputs, targets, slices or {})

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: Sequence[int]) -> Items:
        """Some of the items, in the given order."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in positions),
            inputs=_taken(self.inputs, positions),
            targets=_taken(self.targets, positions),
            slices={name: _taken(values, positions) for name, values in self.slices.items()},
        )

    def first(self, count: int) -> Items:
        """A fixed sample: the same items whatever their order, kept in their order; all where there are no more.

        Raises:
            InputError: The count is below 1.
        """
        if count < 1:
            raise InputError(f"limit must be at least 1, got {count}")
        if count >= len(self):
            return self
        drawn = sorted(range(len(self)), key=lambda i: drawing_key(self.ids[i]))
        return self.take(sorted(drawn[:count]))

    def batches(self, size: int, skip: Container[str] = ()) -> Iterator[Items]:
        """The items in order, up to `size` at a time, without those whose ids are to be skipped."""
        wanted = [i for i, name in enumerate(self.ids) if name not in skip]
        for start in range(0, len(wanted), size):
            yield self.take(wanted[start : start + size])


def drawing_key(name: str, seed: int = 0) -> tuple[int, str]:
    """What items are sorted by to draw some of them: a hash, so that their order plays no part."""
    return xxhash.xxh3_64_intdigest(name.encode(), seed=seed), name


def _taken(values: Any, positions: Sequence[int]) -> Any:
    if isinstance(values, np.ndarray):
        return values[np.asarray(positions, dtype=np.intp)]
    return [values[i] for i in positions]


def contents_of(inputs: Any, targets: Any) -> Counter[int]:
    """A hash of each input with its target, and how often it is there."""
    pairs = zip(inputs, targets, strict=True)
    return Counter(xxhash.xxh3_64_intdigest(content([value]) + content([plain(target)])) for value, target in pairs)


Source = Items | Callable[[], Items]


class Splits:
    """The items of a task by split, loaded when they are asked for.

    No item may be in two splits: a model chosen on `validation` would be judged by what it was chosen on. Ids tell, and so
    do inputs with their targets: splits that hold the same data under other ids are refused. Single repetitions, which real
    data have, are counted in `shared`. Splits are compared when both are loaded, or at once where `contents` are given.

    Args:
        sources: Items, or functions that load them.
        hidden: Splits that may not be read, with the reason.
        contents: Of splits that are not loaded yet, a hash of each item (`contents_of`) with how often it is there.

    Raises:
        InputError: There is no split of such a name, or two have the same items.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        hidden: Mapping[str, str] | None = None,
        contents: Mapping[str, Counter[int]] | None = None,
    ):
        unknown = [name for name in sources if name not in SPLITS]
        if unknown:
            raise InputError(f"no split is called '{unknown[0]}'", did_you_mean(unknown[0], SPLITS))
        self._sources = dict(sources)
        self._hidden = dict(hidden or {})
        self._loaded: dict[str, Items] = {}
        self.contents = dict(contents or {})
        for name, other in combinations(self.contents, 2):
            self._check_contents(name, other)

    def __iter__(self) -> Iterator[str]:
        return (name for name in SPLITS if name in self._sources and name not in self._hidden)

    def __contains__(self, name: str) -> bool:
        return name in list(self)

    def __getitem__(self, name: str) -> Items:
        if name in self._hidden:
            raise InputError(f"the split '{name}' cannot be read here: {self._hidden[name]}")
        if name not in self._sources:
            raise InputError(f"there is no split '{name}'", did_you_mean(name, list(self)))
        if name not in self._loaded:
            source = self._sources[name]
            self._loaded[name] = source if isinstance(source, Items) else source()
            try:
                self._check_apart(name)
            except InputError:
                del self._loaded[name]
                raise
        return self._loaded[name]

    def _check_apart(self, name: str) -> None:
        mine = set(self._loaded[name].ids)
        others = [other for other in self._loaded if other != name]
        for other in others:
            shared = sorted(mine.intersection(self._loaded[other].ids))
            if shared:
                raise InputError(
                    f"splits must have no item in common, and '{name}' and '{other}' both have {listing(shared, 3)}"
                )
        for one in (name, *others) if others else ():
            if one not in self.contents:
                self.contents[one] = contents_of(self._loaded[one].inputs, self._loaded[one].targets)
        for other in others:
            self._check_contents(name, other)

    def _check_contents(self, name: str, other: str) -> None:
        if self.contents[name] == self.contents[other]:
            first, second = sorted((name, other), key=SPLITS.index)
            raise InputError(
                f"splits must have no item in common, and '{first}' and '{second}' are the same data under other ids",
                "Name other data for one of them.",
            )

    def shared(self, name: str) -> dict[str, int]:
        """How many items of a split are in each other one too, by input and target, as far as that is known."""
        mine = self.contents.get(name, Counter())
        counts = {
            other: sum(n for item, n in mine.items() if item in theirs)
            for other, theirs in self.contents.items()
            if other != name
        }
        return {other: counts[other] for other in SPLITS if counts.get(other)}

    def for_search(self) -> Splits:
        """The same without `test`: what anything that chooses, tunes or learns is given."""
        reason = "a search must not see what its result is judged by"
        view = Splits(self._sources, {**self._hidden, "test": reason}, self.contents)
        view._loaded = {name: items for name, items in self._loaded.items() if name != "test"}
        return view
