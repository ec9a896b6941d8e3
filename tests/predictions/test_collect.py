"""Asking members: every kind of source, and runs that are killed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from modelwright.errors import InputError, RunError
from modelwright.predictions import Predictions, collect, of_csv, of_estimator, of_function, of_onnx, source

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3)).astype(np.float32)
Y = (X @ np.array([[1, 0, -1], [0, 1, 0], [2, -1, 1]], np.float32)).argmax(axis=1)
WEIGHTS = RNG.normal(size=(3, 3)).astype(np.float32)


def linear(x: np.ndarray) -> np.ndarray:
    return x @ WEIGHTS


class Counting:
    """A member that counts its samples, and dies after so many batches."""

    def __init__(self, lives: int = 10**9) -> None:
        self.samples, self.lives = 0, lives

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.lives == 0:
            raise KeyboardInterrupt
        self.lives -= 1
        self.samples += len(x)
        return linear(x)


def asked(member: Any, name: str = "one", fingerprint: str = "v1") -> Any:
    return of_function(member, scale="logits", name=name, fingerprint=fingerprint)


def test_functions_estimators_and_modules_say_what_they_say() -> None:
    import torch

    module = torch.nn.Linear(3, 3, bias=False).eval()
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(WEIGHTS.T))
    estimator = LogisticRegression().fit(X, Y)
    bank = collect({"f": linear, "t": source(module, name="t"), "e": estimator}, X, Y, scale="logits", batch=7)
    assert (bank.scale, bank.names, bank.values.dtype) == ("probabilities", ("f", "t", "e"), np.float64)
    np.testing.assert_allclose(bank.values[0], bank.values[1], atol=1e-6)
    np.testing.assert_allclose(bank.values[2], estimator.predict_proba(X))
    assert bank.members[1].cost.parameters == 9
    assert all(member.cost.milliseconds > 0 and member.fingerprint for member in bank.members)
    logits = collect({"f": linear, "t": module}, X, scale="logits")
    assert (logits.scale, logits.values.dtype) == ("logits", np.float32)


def test_estimators_of_numbers_and_of_missing_classes() -> None:
    numbers = collect([LinearRegression().fit(X, Y)], X, Y)
    assert (numbers.kind, numbers.scale, numbers.values.shape) == ("regression", "values", (1, 50))
    seen = LogisticRegression().fit(X[Y != 0], Y[Y != 0])
    bank = collect([of_estimator(seen, classes=3)], X)
    assert not bank.values[0, :, 0].any()
    with pytest.raises(InputError, match=r"must be indices in \[0, 1\], got \[1, 2\]"):
        of_estimator(seen)
    with pytest.raises(InputError, match="'LogisticRegression' is not fitted yet"):
        of_estimator(LogisticRegression())
    two = collect([of_estimator(LogisticRegression().fit(X, Y == 1), kind="binary")], X, (Y == 1).astype(int))
    assert two.values.shape == (1, 50)


def test_onnx_files(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def saved(outputs: int, form: int = TensorProto.FLOAT) -> Path:
        nodes = [helper.make_node("MatMul", ["x", "w"], [f"y{i}"]) for i in range(outputs)]
        ends = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["n", 3]) for i in range(outputs)]
        start = helper.make_tensor_value_info("x", form, ["n", 3])
        graph = helper.make_graph(nodes, "g", [start], ends, [numpy_helper.from_array(WEIGHTS, "w")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = tmp_path / f"net{outputs}.onnx"
        onnx.save(model, path)
        return path

    bank = collect([str(saved(1))], X, Y, scale="logits")
    assert bank.names == ("net1",)
    np.testing.assert_allclose(bank.values[0], linear(X), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"this ONNX file has 2 outputs\. Say output=, one of y0, y1"):
        of_onnx(saved(2), scale="logits")
    assert (
        of_onnx(saved(2), scale="logits", output="y1").fingerprint
        != of_onnx(saved(2), scale="logits", output="y0").fingerprint
    )
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="onnxruntime cannot load this file"):
        of_onnx(tmp_path / "no.onnx", scale="logits")
    with pytest.raises(InputError, match="it must be said what a file gives"):
        source(str(saved(1)))


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    collect({"a": linear}, X, scale="logits", batch=20, progress=lambda *said: told.append(said))
    assert told == [("a", 20, 50), ("a", 40, 50), ("a", 50, 50)]


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_a_killed_run_goes_on(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"bank{suffix}"
    first, second = Counting(), Counting(lives=3)
    members = [asked(first, "a"), asked(second, "b")]
    with pytest.raises(KeyboardInterrupt):
        collect(members, X, Y, out=out, batch=10)
    assert not out.exists()
    third = Counting()
    bank = collect([asked(first, "a"), asked(third, "b")], X, Y, out=out, batch=10)
    assert (first.samples, second.samples, third.samples) == (50, 30, 20)
    np.testing.assert_array_equal(bank.values, np.stack([linear(X)] * 2))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    collect([asked(first, "a"), asked(third, "b")], X, Y, out=out, batch=10)
    assert (first.samples, third.samples) == (50, 20)


def test_a_batch_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    out = tmp_path / "bank.safetensors"
    with pytest.raises(KeyboardInterrupt):
        collect([asked(Counting(lives=3))], X, out=out, batch=10)
    (rows,) = [
        path for path in (tmp_path / ".bank.safetensors.parts").iterdir() if path.suffix == "" and path.name != "lock"
    ]
    rows.write_bytes(rows.read_bytes()[:-5])
    again = Counting()
    bank = collect([asked(again)], X, out=out, batch=10)
    assert again.samples == 30
    np.testing.assert_array_equal(bank.values[0], linear(X))


def test_what_is_there_must_be_what_is_asked(tmp_path: Path) -> None:
    out = tmp_path / "bank.safetensors"
    with pytest.raises(KeyboardInterrupt):
        collect([asked(Counting(lives=1))], X, out=out, batch=10)
    with pytest.raises(InputError, match=r"left predictions of another 'one'\. Use another file, or restart=True"):
        collect([asked(Counting(), fingerprint="v2")], X, out=out, batch=10)
    with pytest.raises(InputError, match="left predictions of other samples or batches"):
        collect([asked(Counting())], X, out=out, batch=11)
    collect([asked(Counting(), fingerprint="v2")], X, out=out, batch=11, restart=True)
    with pytest.raises(InputError, match="holds predictions of another 'one'"):
        collect([asked(Counting())], X, out=out)
    with pytest.raises(InputError, match="holds predictions of other samples"):
        collect([asked(Counting(), fingerprint="v2")], X[:5], out=out)
    more = Counting()
    bank = collect([asked(Counting(lives=0), fingerprint="v2"), asked(more, "two")], X, out=out)
    assert (bank.names, more.samples) == (("one", "two"), 50)


@pytest.mark.parametrize(
    ("member", "error", "message"),
    [
        (lambda x: np.full((len(x), 3), 0.5), RunError, r"'m' gave what are no predictions: .*sum to 1, got 1\.5"),
        (
            lambda x: np.full((len(x), 3), np.nan),
            RunError,
            r"'m' gave what are no predictions: .*got nan of 'm' for sample '0'",
        ),
        (lambda x: np.ones((2, 3)), RunError, r"'m' gave an array of shape \(2, 3\) for 10 samples"),
        (lambda x: 1 / 0, RunError, r"'m' fails at one of the samples '0' \.\. '9': ZeroDivisionError"),
        (3, InputError, "'m' cannot be asked for predictions: it is of the type int"),
    ],
)
def test_members_that_fail_are_named(member: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        collect({"m": member}, X, scale="probabilities", batch=10)


def test_members_that_do_not_go_together() -> None:
    with pytest.raises(InputError, match=r"two members are called 'linear'\. Give a dict"):
        collect([linear, linear], X, scale="logits")
    with pytest.raises(RunError, match=r"different shapes for a sample: 'a' \(3,\), 'b' \(2,\)"):
        collect({"a": linear, "b": lambda x: linear(x)[:, :2]}, X, scale="logits")
    with pytest.raises(InputError, match="members must predict the same kind, got classes, regression"):
        collect([LogisticRegression().fit(X, Y), LinearRegression().fit(X, Y)], X)
    with pytest.raises(InputError, match="it must be said what 'linear' gives"):
        collect([linear], X)


def written(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_csv_files(tmp_path: Path) -> None:
    a = written(tmp_path / "a.csv", ["id", "label", "cat", "dog"], [["x", "dog", 0.25, 0.75], ["y", "cat", 0.5, 0.5]])
    b = written(tmp_path / "b.csv", ["id", "cat", "dog"], [["y", 0.125, 0.875], ["x", 1, 0]])
    bank = of_csv([a, b], scale="probabilities")
    assert (bank.names, bank.ids, bank.classes, bank.labels.tolist()) == (
        ("a", "b"),
        ("x", "y"),
        ("cat", "dog"),
        [1, 0],
    )
    np.testing.assert_array_equal(bank.values, [[[0.25, 0.75], [0.5, 0.5]], [[1, 0], [0.125, 0.875]]])
    for rows, message in (
        ([["x", "dog", "a lot", 1]], r"scores must be numbers, got 'a lot' in the column 'cat'\. \[.*c\.csv:2\]"),
        ([["x", "bird", 0, 1]], r"labels must be classes, got 'bird'\. Valid: cat, dog\. \[.*c\.csv:2\]"),
        ([["x", "dog", 1, 1]], r"sum to 1, got 2 of 'c' for sample 'x'"),
        ([["x", "dog", 1]], r"a row must have 4 columns, got 3\. \[.*c\.csv:2\]"),
        ([], "scores need a header and at least one row"),
    ):
        with pytest.raises(InputError, match=message):
            of_csv([written(tmp_path / "c.csv", ["id", "label", "cat", "dog"], rows)], scale="probabilities")
    with pytest.raises(InputError, match="there is no column 'name'"):
        of_csv([a], scale="probabilities", id="name")
    numbers = written(tmp_path / "n.csv", ["id", "label", "height"], [["x", 1.5, 2]])
    bank = of_csv({"h": numbers}, scale="values", kind="regression")
    assert (bank.values.tolist(), bank.labels.tolist()) == ([[2.0]], [1.5])
    assert isinstance(bank, Predictions)
