"""Records: written whole or not at all, aligned by id, and refused where they are no records."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from modelwright.errors import InputError
from modelwright.evaluate import Head, Items, Part, Records, Scored
from modelwright.evaluate._records import VERSION, file_name, read_part, schema, table_of, write_part

CLASSES = ("a", "b", "c")


def part(system: str = "s", ids: Any = tuple("wxyz"), *, seed: int = 0, slices: Any = None, **head: Any) -> Part:
    rng = np.random.default_rng(seed)
    n = len(ids)
    items = Items.of(np.zeros(n), np.zeros(n, int), ids, slices or {})
    p = rng.dirichlet(np.ones(3), n)
    scored = Scored(["a"] * n, ["b"] * n, rng.integers(0, 2, n), probabilities=p, confidences=p.max(1))
    said = Head("t", "test", system, "accuracy", "task", "system", CLASSES)
    said = replace(said, **head)
    return Part(said, table_of(said, items, scored, 1.0))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    slices = {"language": ["en", "de", "en", "fr"], "long": ["y", "n", "n", "n"]}
    first = part(slices=slices, made={"seed": 3, "é": [1]})
    Records([first, part("other", slices=slices, seed=1)]).write(tmp_path)
    found = Records.read(tmp_path).part("t", "s")
    assert found.head == first.head
    assert found.table.equals(first.table)
    assert {name: values.tolist() for name, values in found.slices().items()} == {
        "language": ["en", "de", "en", "fr"],
        "long": ["y", "n", "n", "n"],
    }
    assert [path.name for path in sorted(tmp_path.rglob("*.parquet"))] == ["other.test.parquet", "s.test.parquet"]
    assert Records.read(tmp_path / "t" / "s.test.parquet").systems == ["s"]


def test_probabilities_are_kept_to_the_precision_of_float32() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(3), 500)
    head = replace(part().head)
    items = Items.of(np.zeros(500), np.zeros(500, int))
    found = Part(head, table_of(head, items, Scored(["a"] * 500, ["a"] * 500, np.ones(500), probabilities=p), 1.0))
    assert found.probabilities is not None
    assert found.probabilities.dtype == np.float64
    np.testing.assert_allclose(found.probabilities, p, rtol=2e-7)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-15)


def test_lists_of_different_lengths() -> None:
    head = replace(part().head, classes=())
    items = Items.of(np.zeros(3), np.zeros(3, int))
    rows = [np.array([0.5, 0.5]), np.array([0.2, 0.3, 0.5]), np.array([1.0])]
    found = Part(head, table_of(head, items, Scored(["a"] * 3, ["a"] * 3, np.ones(3), probabilities=rows), 1.0))
    assert found.probabilities is None
    for kept, row in zip(found.table["probabilities"].to_pylist(), rows, strict=True):
        np.testing.assert_allclose(kept, row, rtol=1e-7)


def test_what_is_not_known_is_empty() -> None:
    head = replace(part().head, classes=())
    found = Part(head, table_of(head, Items.of([1], [2]), Scored(["1"], ["2"], np.ones(1)), 0.5))
    assert found.probabilities is None
    assert np.isnan(found.column("confidence")).all()
    assert found.slices() == {}
    assert found.column("seconds").tolist() == [0.5]
    assert found.column("calls").tolist() == [1]


# --- alignment -------------------------------------------------------------------------------------------------------


def test_rows_are_put_together_by_id() -> None:
    one = part("one", ("a", "b", "c"))
    other = part("two", ("c", "a", "b"), seed=1)
    records = Records([one, other])
    assert records.part("t", "two").ids == ["a", "b", "c"]
    by_id = dict(zip(other.ids, other.column("score"), strict=True))
    assert records.part("t", "two").column("score").tolist() == [by_id[name] for name in "abc"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"ids": tuple("wxyv")}, "answered different items: 4 and 4, of which 3 are the same; only one has v, z"),
        ({"ids": tuple("wxy")}, "answered different items: 4 and 3, of which 3 are the same; only one has z"),
        ({"metric": "brier"}, "'s' has the metric 'accuracy', and 'u' 'brier'"),
        ({"split": "tune"}, "'s' has the split 'test', and 'u' 'tune'"),
        (
            {"task_fingerprint": "x"},
            "were asked different things: the task has changed between them. Evaluate both again.",
        ),
        ({"limit": 4}, "'s' was asked all items, 'u' was asked 4 items. Evaluate both with the same --limit."),
    ],
)
def test_systems_that_cannot_be_compared(other: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Records([part("s"), part("u", **other)])


def test_one_system_twice() -> None:
    with pytest.raises(InputError, match=r"two results of one system on one task. Give each system its own label."):
        Records([part(), part()])
    with pytest.raises(InputError, match="Compare one split at a time"):
        Records([part(), part(split="tune")])


def test_an_item_twice(tmp_path: Path) -> None:
    whole = part()
    twice = Part(whole.head, pa.concat_tables([whole.table, whole.table.slice(0, 1)]))
    write_part(twice, tmp_path / "x.parquet")
    with pytest.raises(InputError, match="an item is recorded twice"):
        Records.read(tmp_path)
    with pytest.raises(InputError, match="there are records without items"):
        Records([Part(whole.head, whole.table.slice(0, 0))])


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no records in '.*'. Records are .parquet files that mw eval writes."):
        Records.read(tmp_path)
    with pytest.raises(InputError, match=r"there is no file '.*none.parquet'"):
        Records.read(tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"there are no records of 'u' on 't'. Systems: s\."):
        Records([part()]).part("t", "u")


# --- damaged and hostile files -----------------------------------------------------------------------------------------


def written(path: Path, head: Any = None, **columns: Any) -> Path:
    """The records of `part()` with another head or other columns."""
    whole = part()
    table = whole.table
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    if head is not None:
        said = json.loads(whole.table.schema.metadata[b"modelwright"])
        text = head if isinstance(head, str) else json.dumps({**said, **head})
        table = table.replace_schema_metadata({"modelwright": text})
    else:
        table = table.replace_schema_metadata(whole.table.schema.metadata)
    pq.write_table(table, path)
    return path


def lists(*rows: Any) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("head", "columns", "said"),
    [
        ({"version": 2}, {}, "these records have layout 2, and this version reads 1. Evaluate again"),
        ({"version": None}, {}, "layout None"),
        ("[]", {}, "a parquet file, but not records of mw eval"),
        ("[" * 100_000, {}, "a parquet file, but not records of mw eval"),
        ({"classes": 5}, {}, "records whose head is damaged: classes"),
        ({"classes": [1]}, {}, "damaged: classes"),
        ({"parameters": "many"}, {}, "damaged: parameters"),
        ({"limit": -1}, {}, "damaged: limit"),
        ({"system": ""}, {}, "damaged: system"),
        ({"task": 5, "made": []}, {}, "damaged: task, made"),
        ({"colour": "red"}, {}, "damaged: colour"),
        (None, {"score": pa.array([1.0, None, 1.0, 1.0])}, "not records|has gaps"),
        (None, {"score": pa.array([1.0, np.nan, 1.0, 1.0])}, "the score is not finite of item 'x'"),
        (None, {"weight": pa.array([1.0, 1.0, -1.0, 1.0])}, "the weight is no number from 0 up of item 'y'"),
        (None, {"confidence": pa.array([0.5, 2.0, 0.5, 0.5])}, r"the confidence is not in \[0, 1\] of item 'x'"),
        (None, {"score": pa.array(["much"] * 4)}, "not records of mw eval"),
        (None, {"probabilities": lists([0.5, 0.5], [1, 0, 0, 0], [1, 0, 0], [0, 1, 0])}, "not all items have 3 probabilities"),
        (None, {"probabilities": lists(*[[np.nan, 0.5, 0.5]] * 4)}, r"a probability is not in \[0, 1\]"),
        (None, {"probabilities": lists(*[[-1.0, 1, 1]] * 4)}, r"a probability is not in \[0, 1\]"),
    ],
)  # fmt: skip
def test_damaged_records(tmp_path: Path, head: Any, columns: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        read_part(written(tmp_path / "x.parquet", head, **columns))
    assert str(tmp_path / "x.parquet") in str(error.value)


def test_files_that_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(InputError, match="cannot read records"):
        read_part(tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="a parquet file, but not records of mw eval"):
        read_part(tmp_path / "b.parquet")


def test_a_split_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    found = read_part(written(tmp_path / "x.parquet", {"split": "../../../evil", "system": "../s", "task": ".."}))
    out = tmp_path / "deep" / "out"
    Records([found]).write(out)
    assert [p.parent.parent for p in tmp_path.rglob("*.parquet") if p.name != "x.parquet"] == [out]


def test_cut_and_flipped_files_are_refused_or_read_as_they_were(tmp_path: Path) -> None:
    path = written(tmp_path / "x.parquet")
    whole = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for i in range(300):
        data = bytearray(whole[: rng.randrange(len(whole))] if i % 3 == 0 else whole)
        for _ in range(rng.randrange(1, 4) if i % 3 else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            found = read_part(path)
        except InputError:
            refused += 1
        else:
            assert found.table.schema.equals(schema())
    assert refused > 150


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.parquet"
    write_part(part(), path)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(RuntimeError, match=r"cannot write records to '.*': No space left on device"):
        write_part(part(seed=1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


# --- names of files ----------------------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_file_names_are_safe_and_different(one: str, other: str) -> None:
    name = file_name(one)
    assert len(name) < 200
    assert name.isascii()
    assert not set(name) & set('/\\:*?"<>| \0\n')
    assert not name.startswith(".")
    assert not name.endswith((".", " "))
    assert (name == file_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["CON", "nul", "com1", "LPT9.x", "aux.test"])
def test_names_of_devices_are_none(name: str) -> None:
    assert file_name(name).startswith("%")


def test_plain_labels_stay_as_they_are() -> None:
    assert file_name("ties-0.2_a@b+c=d") == "ties-0.2_a@b+c=d"
    assert VERSION == 1
