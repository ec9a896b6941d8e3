"""Banks in files: what is written comes back, and what is damaged is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modelwright.errors import InputError, RunError
from modelwright.predictions import Kind, Member, MemberCost, Predictions, Scale

CASES: list[tuple[Kind, Scale, tuple[int, ...]]] = [
    ("classes", "logits", (3, 5, 4)),
    ("binary", "logits", (2, 5)),
    ("regression", "values", (2, 5)),
    ("regression", "values", (2, 5, 3)),
    ("dense", "values", (2, 5, 3, 4)),
]


def made(kind: Kind, scale: Scale, shape: tuple[int, ...], dtype: type = np.float32) -> Predictions:
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape).astype(dtype)
    labels = rng.integers(0, 2, shape[1]) if kind in ("classes", "binary") else values[0] + 1
    names = [
        Member(f"m{i}", MemberCost(milliseconds=i + 0.5), {"parents": ["base"], "seed": i}) for i in range(shape[0])
    ]
    ids = [f"café {i} \N{SNOWMAN}" for i in range(shape[1])]
    return Predictions.of(values, labels, scale=scale, kind=kind, ids=ids, members=names)


def same(a: Predictions, b: Predictions) -> None:
    np.testing.assert_array_equal(a.values, b.values)
    assert a.values.dtype == b.values.dtype
    assert (a.ids, a.members, a.classes, a.kind, a.scale) == (b.ids, b.members, b.classes, b.kind, b.scale)
    if a.labels is None or b.labels is None:
        assert a.labels is b.labels
    else:
        np.testing.assert_array_equal(a.labels, b.labels)


@pytest.mark.parametrize(("kind", "scale", "shape"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_what_is_written_comes_back(
    kind: Kind, scale: Scale, shape: tuple[int, ...], dtype: type, suffix: str, tmp_path: Path
) -> None:
    bank = made(kind, scale, shape, dtype)
    path = tmp_path / f"deep/bank{suffix}"
    if kind == "dense" and suffix == ".parquet":
        with pytest.raises(InputError, match=r"dense predictions are no table\. Save them as \.safetensors"):
            bank.save(path)
        return
    for one in (bank, bank.with_labels(None)):
        same(Predictions.open(one.save(path)), one)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_safetensors_are_mapped_and_read_by_others(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    bank = made(*CASES[0])
    path = bank.save(tmp_path / "bank.safetensors")
    assert isinstance(Predictions.open(path).values, np.memmap)
    np.testing.assert_array_equal(load_file(path)["values"], bank.values)
    swapped = bank.select(["m2", "m0"], ["café 3 \N{SNOWMAN}"])  # no contiguous array
    same(Predictions.open(swapped.save(tmp_path / "other.safetensors")), swapped)


def test_parquet_is_a_table_for_anybody(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(made(*CASES[0]).save(tmp_path / "bank.parquet"))
    assert table.column_names == ["sample", "label", "m0", "m1", "m2"]
    with pytest.raises(InputError, match=r"cannot be called 'label' in a table: another column is"):
        made(*CASES[0]).with_members(["label", "b", "c"]).save(tmp_path / "x.parquet")


def test_other_files_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    bank = made(*CASES[0])
    with pytest.raises(InputError, match=r"files ending in \.parquet or \.safetensors, got 'bank\.npz'"):
        bank.save(tmp_path / "bank.npz")
    with pytest.raises(InputError, match="there is no file"):
        Predictions.open(tmp_path / "none.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"holds no predictions of modelwright\. Columns of scores by others"):
        Predictions.open(tmp_path / "other.parquet")
    (tmp_path / "cut.safetensors").write_bytes(bank.save(tmp_path / "whole.safetensors").read_bytes()[:-3])
    with pytest.raises(InputError, match="damaged"):
        Predictions.open(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="the lineage of a member must be plain values"):
        bank.with_members([Member("a", lineage={"x": object()}), "b", "c"]).save(tmp_path / "y.parquet")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        bank.save(tmp_path / "file/bank.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head: head.pop("kind"), "head is damaged"),
        (lambda head: head.update(version=9), "have layout 9, and this version reads 1"),
        (lambda head: head.update(scale="furlongs"), "head is damaged"),
        (lambda head: head["members"].pop(), "damaged predictions: there are 2 members for an array"),
        (lambda head: head.update(scale="probabilities"), r"damaged predictions: .* must be in \[0, 1\]"),
        (lambda head: head["members"][0].update(lineage=3), "head is damaged"),
    ],
)
def test_damaged_heads_are_refused(change: object, message: str, tmp_path: Path) -> None:
    path = made(*CASES[0]).save(tmp_path / "bank.safetensors")
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    head = json.loads(header["__metadata__"]["modelwright_predictions"])
    change(head)  # type: ignore[operator]
    header["__metadata__"]["modelwright_predictions"] = json.dumps(head)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with pytest.raises(InputError, match=message):
        Predictions.open(path)
