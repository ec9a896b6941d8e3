"""`mw ensemble`: fitted on validation alone, kept without pickle, opened as what answers; cascades ask later members for few."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.cli._app import run
from modelwright.errors import InputError
from modelwright.evaluate import CascadePredictor, EnsemblePredictor, Items, Splits, systems

sklearn = pytest.importorskip("sklearn")
pytest.importorskip("skops")

from sklearn.datasets import load_digits  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.naive_bayes import GaussianNB  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

Said = Callable[..., tuple[int, str, str]]
NAMES = tuple("0123456789")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    return (found.images[order] / 16).reshape(-1, 64).astype(np.float32), found.target[order]


def task() -> mw.Task:
    x, y = digits()
    parts = {"tune": slice(0, 600), "validation": slice(600, 1000), "test": slice(1000, 1500)}
    return mw.task(
        {
            name: Items.of(x[part], y[part], [f"{name}-{i}" for i in range(len(y[part]))])
            for name, part in parts.items()
        },
        name="digits",
    )


@pytest.fixture(scope="module")
def estimators() -> dict[str, Any]:
    x, y = digits()
    return {
        "line": LogisticRegression(max_iter=300).fit(x[:600], y[:600]),
        "bayes": GaussianNB(var_smoothing=0.05).fit(x[:600], y[:600]),
        "tree": DecisionTreeClassifier(max_depth=8, random_state=0).fit(x[:600], y[:600]),
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimators: dict[str, Any]) -> Path:
    """Estimators kept by skops, and the task as a file."""
    import skops.io as sio

    monkeypatch.chdir(tmp_path)
    for name, estimator in estimators.items():
        sio.dump(estimator, f"{name}.skops")
    found = task()
    arrays = {}
    for split in ("tune", "validation", "test"):
        items = found.items(split)
        arrays |= {f"x_{split}": items.inputs, f"y_{split}": np.asarray(items.targets)}
    np.savez("digits.npz", **arrays)
    Path("digits.yml").write_text("data: digits.npz\n")
    return tmp_path


def test_the_mean_of_members(estimators: dict[str, Any]) -> None:
    made = mw.ensemble(estimators, task())
    items = task().items("test")
    found = made.predictor.for_task(task()).probabilities(items.inputs, 10)
    expected = np.mean([one.predict_proba(items.inputs) for one in estimators.values()], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert set(made.figures) == {*estimators, "ensemble"}
    accuracy = float(
        np.mean(
            [
                e.predict(task().items("validation").inputs) == task().items("validation").targets
                for e in [estimators["line"]]
            ]
        )
    )
    assert made.figures["line"] == pytest.approx(accuracy)


def test_fitting_never_sees_test(estimators: dict[str, Any]) -> None:
    """The test items cannot even be loaded."""
    whole = task()

    def forbidden() -> Items:
        raise AssertionError("test was read")

    splits = Splits({"validation": whole.items("validation"), "test": forbidden})
    from dataclasses import replace

    guarded = replace(whole, splits=splits)
    mw.ensemble(estimators, guarded, method="stacking", calibrate="temperature")
    mw.ensemble(estimators, guarded, cascade=True, unit="answers")
    with pytest.raises(InputError, match="an ensemble is not fitted on test, which it is to be judged by"):
        mw.ensemble(estimators, guarded, split="test")


def test_combiner_and_calibrator_learn_from_different_items(
    estimators: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelwright.evaluate import _ensembles

    seen: list[set[str]] = []
    old = _ensembles.fit
    monkeypatch.setattr(_ensembles, "fit", lambda bank, *a, **k: (seen.append(set(bank.ids)), old(bank, *a, **k))[1])
    mw.ensemble(estimators, task(), method="greedy", calibrate="temperature")
    assert len(seen) == 2
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == set(task().items("validation").ids)
    seen.clear()
    mw.ensemble(estimators, task(), calibrate="temperature")  # a mean learns nothing
    assert seen[1] == set(task().items("validation").ids)


@pytest.mark.parametrize(
    "options",
    [("--method", "mean"), ("--method", "stacking"), ("--method", "greedy", "--set", "rounds=20"),
     ("--method", "stacking", "--calibrate", "temperature"), ("--cascade", "--unit", "answers", "--coverage", "0.8")],
)  # fmt: skip
def test_a_bundle_answers_what_was_fitted(here: Path, said: Said, options: tuple[str, ...]) -> None:
    code, out, err = said(
        "ensemble", "line.skops", "bayes.skops", "tree.skops", "--task", "digits.yml", *options, "-o", "out"
    )
    assert (code, err) == (0, ""), err
    assert "mean member" in out
    assert "400 validation items of digits, which it was fitted on" in out
    assert said("verify", "out")[0] == 0
    assert "kind" in said("inspect", "out")[1]
    opened = mw.open("out")
    assert isinstance(opened, CascadePredictor if "--cascade" in options else EnsemblePredictor)
    code, out, err = said("eval", "out", "line.skops", "--task", "digits.yml", "-o", "records", "--json")
    assert code == 0, err
    figures = {r["system"]: r["figure"] for r in json.loads(out)["results"]}
    items = task().items("test")
    answers = opened.for_task(task()).probabilities(items.inputs, 10)
    assert figures["out"] == pytest.approx(float((answers.argmax(axis=1) == items.targets).mean()))
    np.testing.assert_allclose(answers.sum(axis=1), 1)
    assert not any(
        path.suffix in (".pkl", ".pickle", ".joblib", ".npy", ".pt", ".bin") for path in Path("out").rglob("*")
    )


def test_a_cascade_asks_later_members_for_few(here: Path, said: Said) -> None:
    assert said("ensemble", "bayes.skops", "line.skops", "--task", "digits.yml", "--cascade", "--unit", "answers", "--width", "0.1",
                "--risk", "0.05", "-o", "out", "--quiet")[0] == 0  # fmt: skip
    opened = mw.open("out")
    assert isinstance(opened, CascadePredictor)
    items = task().items("test")
    opened.probabilities(items.inputs, 10)
    assert opened.asked[0] == 500
    assert 0 < opened.asked[1] < 250
    assert opened.calls(500).sum() == sum(opened.asked)  # type: ignore[union-attr]
    records = mw.eval("out", "digits.yml")
    (part,) = list(records)
    assert sorted(set(part.column("calls"))) == [1, 2]
    assert json.loads(Path("out/bundle.json").read_text())["kind"] == "cascade"


def test_members_may_be_elsewhere(here: Path, said: Said) -> None:
    assert said("ensemble", "line.skops", "bayes.skops", "--task", "digits.yml", "--refer", "-o", "out", "--quiet") == (
        0,
        "",
        "",
    )
    assert not list(Path("out").rglob("*.skops"))
    assert said("verify", "out")[0] == 0
    mw.open("out")
    raw = Path("line.skops").read_bytes()
    Path("line.skops").write_bytes(Path("tree.skops").read_bytes())
    with pytest.raises(InputError, match="the member 'line' of the bundle is not what it was: its hash is another"):
        mw.open("out")
    assert said("verify", "out")[0] == 3
    Path("line.skops").write_bytes(raw)
    mw.open("out")
    Path("line.skops").unlink()
    assert said("verify", "out")[0] == 3


def test_damaged_members_are_never_loaded(here: Path, said: Said) -> None:
    assert said("ensemble", "line.skops", "bayes.skops", "--task", "digits.yml", "-o", "out", "--quiet") == (0, "", "")
    file = Path("out/models/line/estimator.skops")
    raw = bytearray(file.read_bytes())
    raw[-30] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(InputError, match="its hash is another"):
        mw.open("out")


def test_types_that_are_not_trusted_are_named(here: Path, said: Said) -> None:
    import skops.io as sio
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    x, y = digits()
    odd = make_pipeline(FunctionTransformer(json.dumps), GaussianNB())
    odd.steps[1][1].fit(x[:300], y[:300])
    sio.dump(odd, "odd.skops")
    code, _, err = said("eval", "odd.skops", "--task", "digits.yml", "-o", "records")
    assert code == 2
    assert "'odd.skops' holds types that are not trusted: json.dumps" in err
    Path("bad.skops").write_bytes(b"no zip")
    assert "cannot be read by skops" in said("eval", "bad.skops", "--task", "digits.yml", "-o", "records")[2]


def test_what_cannot_be_is_refused(here: Path, said: Said, estimators: dict[str, Any]) -> None:
    def wrong(*arguments: str) -> str:
        code, _, err = said("ensemble", *arguments, "-o", "out")
        assert code == 2, err
        assert not list(here.glob("out*"))
        return err

    both = ("line.skops", "bayes.skops", "--task", "digits.yml")
    assert "an ensemble needs at least two members, got 1" in wrong("line.skops", "--task", "digits.yml")
    assert "two members are called 'line'" in wrong("line.skops", "line.skops", "--task", "digits.yml")
    assert "unknown method on outputs 'means'. Did you mean 'mean'?" in wrong(*both, "--method", "means")
    assert "a cascade takes the running mean of its members, not stacking" in wrong(
        *both, "--method", "stacking", "--cascade"
    )
    assert "not fitted on test" in wrong(*both, "--split", "test")
    assert "--risk and --coverage say what a cascade is for" in wrong(*both, "--risk", "0.1")
    assert "--width and --most-cost say how far a cascade goes" in wrong(*both, "--width", "0.1")
    assert "mean has no parameter 'rounds'" in wrong(*both, "--set", "rounds=3")
    Path("flat.csv").write_text("a,target\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    assert "has no split 'validation' to fit on" in wrong(
        "line.skops", "bayes.skops", "--task", "flat.csv", "--method", "stacking"
    )
    made = mw.ensemble({"a": lambda x: np.full((len(x), 10), 0.1), "line": estimators["line"]}, task())
    with pytest.raises(InputError, match="the member 'a' is code, a FunctionPredictor, which a bundle does not hold"):
        made.save("out")
    assert not list(here.glob("out*"))
    assert said("ensemble", *both, "-o", "out", "--quiet")[0] == 0
    code, _, err = said("ensemble", *both, "-o", "out")
    assert (code, "the output 'out' exists" in err) == (2, True)
    assert said("ensemble", *both, "-o", "out", "--overwrite", "--quiet")[0] == 0
    other = Path("letters.csv")
    other.write_text(
        "".join(
            [
                ",".join([*(f"p{i}" for i in range(64)), "target"]),
                "\n",
                *(",".join(["0.5"] * 64 + [c]) + "\n" for c in "ab"),
            ]
        )
    )
    code, _, err = said("eval", "out", "--task", "letters.csv", "-o", "records")
    assert code == 2
    assert "'out' was fitted to the classes 0, 1, 2, 3, 4, 5 and 4 more, and the task has a, b" in err


def test_compare_shows_members_beside_the_ensemble(here: Path, said: Said) -> None:
    both = ("line.skops", "bayes.skops", "tree.skops")
    assert said("ensemble", *both, "--task", "digits.yml", "-o", "out", "--quiet")[0] == 0
    code, out, err = said("compare", "out", "--members", "--task", "digits.yml", "--json")
    assert code == 0, err
    found = json.loads(out)
    figures = {row["system"]: row["figure"] for row in found["rows"]}
    kinds = {row["system"]: row["kind"] for row in found["rows"]}
    assert kinds == {"out": "ensemble", "line": "single", "bayes": "single", "tree": "single"}
    mean, best = (
        np.mean([figures[name] for name in ("line", "bayes", "tree")]),
        max(("line", "bayes", "tree"), key=lambda n: figures[n]),
    )
    assert (
        f"'out' on 'digits': {100 * figures['out']:.4g} %; its 3 members {100 * mean:.4g} % on average, the best of them, "
        f"'{best}', {100 * figures[best]:.4g} %."
    ) in found["notes"]
    row = next(row for row in found["rows"] if row["system"] == "out")
    assert sum(one["items"] for one in row["reliability"]) == 500
    assert row["risk_coverage"][-1] == [1.0, pytest.approx(1 - figures["out"])]
    assert 0 <= row["aurc"] <= 1 - figures["out"]
    assert "--members adds models, which need --task" in said("compare", "out", "--members")[2]
    assert "--members is of bundles of models" in said("compare", "line.skops", "--members", "--task", "digits.yml")[2]


def test_onnx_members(here: Path, said: Said) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    def graph(name: str, softmax: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        weight = numpy_helper.from_array(rng.normal(size=(64, 10)).astype(np.float32), "w")
        nodes = [helper.make_node("MatMul", ["x", "w"], ["logits" if softmax else "y"])]
        nodes += [helper.make_node("Softmax", ["logits"], ["y"])] if softmax else []
        made = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 64])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 10])], [weight],
        )  # fmt: skip
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, name)

    graph("plain.onnx", False, 0)
    graph("soft.onnx", True, 0)
    first, second = systems(["plain.onnx", "soft.onnx"])
    x = task().items("test").inputs
    np.testing.assert_allclose(first.probabilities(x, 10), second.probabilities(x, 10), atol=1e-6)
    assert first.size.parameters == 640
    graph("other.onnx", True, 1)
    assert said(
        "ensemble", "plain.onnx", "other.onnx", "line.skops", "--task", "digits.yml", "--method", "greedy", "-o", "out"
    )[0] in (0, 2)
    assert (
        said("ensemble", "plain.onnx", "other.onnx", "line.skops", "--task", "digits.yml", "-o", "three", "--quiet")[0]
        == 0
    )
    opened = mw.open("three")
    expected = np.mean(
        [one.probabilities(x, 10) for one in systems(["plain.onnx", "other.onnx", "line.skops"])], axis=0
    )
    np.testing.assert_allclose(opened.probabilities(x, 10), expected, atol=1e-6)  # type: ignore[union-attr]
    Path("bad.onnx").write_bytes(b"\x00nothing")
    assert "is no ONNX file" in said("eval", "bad.onnx", "--task", "digits.yml", "-o", "records")[2]


def test_forests_and_boosting_are_kept(tmp_path: Path) -> None:
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier

    x, y = digits()
    made = {
        "forest": RandomForestClassifier(5, random_state=0).fit(x[:300], y[:300]),
        "boost": GradientBoostingClassifier(n_estimators=2, max_depth=2, random_state=0).fit(x[:300], y[:300]),
        "hist": HistGradientBoostingClassifier(max_iter=2, random_state=0).fit(x[:300], y[:300]),
    }
    mw.ensemble(made, task()).save(tmp_path / "out")
    opened = mw.open(tmp_path / "out")
    expected = np.mean([one.predict_proba(x[:50]) for one in made.values()], axis=0)
    np.testing.assert_allclose(opened.probabilities(x[:50], 10), expected, atol=1e-9)  # type: ignore[union-attr]


def test_trees_that_lead_out_of_themselves_are_refused() -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree._tree import Tree

    from modelwright.evaluate._single_files import _check_trees

    x, y = digits()
    forest = RandomForestClassifier(2, max_depth=3, random_state=0).fit(x[:300], y[:300])
    _check_trees(forest, "good.skops")
    for field, wrong in (("left_child", 10_000), ("right_child", 0), ("feature", 64)):
        tree = forest.estimators_[1].tree_
        state = tree.__getstate__()
        state["nodes"] = state["nodes"].copy()
        state["nodes"][field][0] = wrong
        broken = Tree(tree.n_features, tree.n_classes, tree.n_outputs)
        broken.__setstate__(state)
        with pytest.raises(InputError, match=r"'bad.skops' holds a tree whose nodes lead out of it"):
            _check_trees({"estimators_": np.array([broken], dtype=object)}, "bad.skops")


def test_predictions_of_labelled_and_of_new_data(here: Path, said: Said) -> None:
    from modelwright.predictions import Predictions

    assert said("ensemble", "line.skops", "bayes.skops", "--task", "digits.yml", "-o", "out", "--quiet")[0] == 0
    code, out, err = said("predict", "out", "line.skops", "digits.yml", "-o", "test.parquet")
    assert (code, err) == (0, "")
    assert "5 of 500 samples, labelled; all in test.parquet" in out
    bank = Predictions.open("test.parquet")
    assert bank.names == ("out", "line")
    items = task().items("test")
    expected = mw.open("out").probabilities(items.inputs, 10)  # type: ignore[union-attr]
    np.testing.assert_allclose(bank.probabilities()[0], expected, atol=1e-6)
    assert bank.labels is not None
    rows = "\n".join(",".join(map(str, row)) for row in items.inputs[:7])
    Path("new.csv").write_text(",".join(f"p{i}" for i in range(64)) + "\n" + rows + "\n")
    assert said("predict", "out", "new.csv", "--task", "digits.yml", "-o", "new.safetensors", "--quiet") == (0, "", "")
    new = Predictions.open("new.safetensors")
    np.testing.assert_allclose(new.probabilities()[0], expected[:7], atol=1e-5)
    assert new.labels is None
    assert (
        "the file 'new.safetensors' exists"
        in said("predict", "out", "new.csv", "--task", "digits.yml", "-o", "new.safetensors")[2]
    )
    assert "predictions are kept in files ending in" in said("predict", "out", "new.csv", "-o", "new.csv")[2]
    assert "mw predict takes systems and data, got 1 word" in said("predict", "new.csv", "-o", "x.parquet")[2]
    assert "there is no column 'target' for the targets" in said("predict", "out", "new.csv", "-o", "x.parquet")[2]
    found = mw.predict({"double": lambda x: 2 * x[:, 0]}, np.array([[1.0], [2.0]]), task=mw.task((np.ones((2, 1)), np.array([0.5, 1.5])), kind="regression"))  # fmt: skip
    assert found.values.tolist() == [[2.0, 4.0]]


def test_networks_are_named_by_whoever_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("import torch\n\ndef build(config):\n    return torch.nn.Linear(64, 10)\n")
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = {name: value.numpy() for name, value in torch.nn.Linear(64, 10).state_dict().items()}
        mw.merge([state], method="passthrough").save(f"m{seed}")
    made = mw.ensemble(["m0", "m1"], task(), network="net.py:build")
    made.save("out")
    assert json.loads(Path("out/bundle.json").read_text())["members"]["m0"]["network"] == "net.py:build"
    with pytest.raises(InputError, match="a bundle's word is not enough to run code"):
        mw.open("out")
    x = task().items("test").inputs
    expected = made.predictor.probabilities(x, 10)
    np.testing.assert_allclose(mw.open("out", network="net.py:build").probabilities(x, 10), expected, atol=1e-12)  # type: ignore[union-attr]
    records = mw.eval(["out", "m0"], task(), network="net.py:build")
    assert len(list(records)) == 2
