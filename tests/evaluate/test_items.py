"""Items and splits: one name an item, no item in two splits, and `test` hidden from searches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from modelwright.errors import InputError
from modelwright.evaluate import SPLITS, Items, Splits
from modelwright.evaluate._items import contents_of


def items(*names: str) -> Items:
    return Items.of(list(names), np.zeros(len(names), int), names)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Items((), [], []), "the data are empty: a task needs items"),
        (lambda: Items(("a",), [1, 2], [0]), "each item must have one of inputs, got 2 for 1 items"),
        (lambda: Items(("a",), [1], [0, 1]), "each item must have one of targets, got 2 for 1 items"),
        (lambda: Items(("a",), [1], [0], {"s": []}), "each item must have one of the slice 's', got 0 for 1 items"),
        (lambda: items("a", "b", "a", "b"), r"ids must be unique, got 'a' more than once \(2 such ids\)"),
        (lambda: items("a").first(0), "limit must be at least 1, got 0"),
    ],
)
def test_what_are_no_items(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_ids_are_positions_where_none_are_given() -> None:
    assert Items.of([5, 6], [0, 1]).ids == ("0", "1")


@pytest.mark.parametrize("inputs", [np.arange(12).reshape(4, 3), [f"text {i}" for i in range(4)]])
def test_taking_keeps_rows_together(inputs) -> None:
    whole = Items(tuple("abcd"), inputs, np.array([0, 1, 2, 3]), {"s": list("wxyz")})
    some = whole.take([2, 0])
    assert some.ids == ("c", "a")
    assert [list(map(str, np.atleast_1d(x))) for x in some.inputs] == [
        list(map(str, np.atleast_1d(inputs[i]))) for i in (2, 0)
    ]
    assert some.targets.tolist() == [2, 0]
    assert some.slices == {"s": ["y", "w"]}


@given(st.integers(1, 30), st.integers(1, 40), st.sets(st.integers(0, 29)))
def test_batches_hold_each_item_once_but_those_to_skip(count: int, size: int, skipped: set[int]) -> None:
    whole = Items.of(np.arange(count), np.zeros(count))
    skip = {str(i) for i in skipped}
    batches = list(whole.batches(size, skip))
    assert [name for batch in batches for name in batch.ids] == [name for name in whole.ids if name not in skip]
    assert all(0 < len(batch) <= size for batch in batches)


@given(st.permutations([f"item {i}" for i in range(20)]), st.integers(1, 25))
def test_a_limit_takes_the_same_items_in_any_order(names: list[str], count: int) -> None:
    taken = items(*names).first(count)
    assert set(taken.ids) == set(items(*sorted(names)).first(count).ids)
    assert len(taken) == min(count, 20)
    assert list(taken.ids) == [name for name in names if name in set(taken.ids)]
    assert set(taken.ids) <= set(items(*names).first(count + 1).ids)  # a larger sample holds the smaller one


def test_a_limit_is_no_run_of_the_first() -> None:
    """Files are often sorted by class: the first hundred would be of one."""
    names = [f"{i:04d}" for i in range(1000)]
    places = [int(name) for name in items(*names).first(100).ids]
    assert 400 < np.mean(places) < 600


def test_splits_are_of_known_names_in_their_order() -> None:
    assert list(Splits({"test": items("a"), "tune": items("b")})) == ["tune", "test"]
    with pytest.raises(InputError, match=r"no split is called 'train'. Valid: test, tune, validation."):
        Splits({"train": items("a")})
    with pytest.raises(InputError, match=r"there is no split 'validation'. Valid: test\."):
        Splits({"test": items("a")})["validation"]


def test_no_item_is_in_two_splits() -> None:
    splits = Splits({"tune": items("a", "b"), "test": items("b", "c")})
    assert len(splits["tune"]) == 2
    for _ in range(2):  # and the refused one is not handed out later
        with pytest.raises(InputError, match="'test' and 'tune' both have b"):
            splits["test"]


def test_the_same_data_under_other_ids_are_in_two_splits() -> None:
    """Such as a file that was named twice: told when the second is loaded, or at once where contents are known."""
    first, second = items("a", "b"), replace(items("a", "b"), ids=("c", "d"))
    message = r"'tune' and 'test' are the same data under other ids\. Name other data for one of them"
    splits = Splits({"tune": first, "test": lambda: second})
    assert len(splits["test"]) == 2
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            splits["tune"]
    contents = {name: contents_of(of.inputs, of.targets) for name, of in (("tune", first), ("test", second))}
    with pytest.raises(InputError, match=message):
        Splits({"tune": first, "test": second}, contents=contents)


def test_single_repetitions_are_counted() -> None:
    """By input and target, for each item of the split that was asked about."""
    tune = Items.of(np.array([[1, 2], [3, 4], [3, 4], [5, 6]]), [0, 1, 1, 0], ["a", "b", "c", "d"])
    test = Items.of(np.array([[3, 4], [1, 2], [7, 8]]), [1, 1, 0], ["e", "f", "g"])
    splits = Splits({"tune": tune, "test": test})
    assert splits.shared("test") == {}  # nothing is loaded that nobody asked for
    assert len(splits["tune"]) == 4
    assert len(splits["test"]) == 3
    assert splits.shared("test") == {"tune": 1}
    assert splits.shared("tune") == {"test": 2}
    assert Splits({"test": test})["test"].ids == test.ids


def test_a_search_cannot_read_test() -> None:
    asked: list[str] = []

    def load(name: str) -> Items:
        asked.append(name)
        return items(name)

    splits = Splits({name: lambda name=name: load(name) for name in SPLITS})
    splits["test"]
    view = splits.for_search()
    assert list(view) == ["tune", "validation"]
    assert "test" not in view
    with pytest.raises(
        InputError, match="'test' cannot be read here: a search must not see what its result is judged by"
    ):
        view["test"]
    with pytest.raises(InputError, match="cannot be read here"):
        view.for_search()["test"]
    assert len(view["validation"]) == 1
    assert asked == ["test", "validation"]
    assert len(splits["test"]) == 1  # the whole is as it was
