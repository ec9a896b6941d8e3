"""`mw demo`, with few epochs: complete, self-contained, and its figures are those of the folders it leaves."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import modelwright as mw
from modelwright import demo
from modelwright.demo import DemoResult, _folder, _recipes, _scores
from modelwright.errors import InputError, MissingExtraError
from modelwright.methods import METHODS

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return demo.run(tmp_path_factory.mktemp("demo") / "out", quiet=True, effort=0.1)


def test_every_method_is_merged(result: DemoResult) -> None:
    merged = {row.name for row in result.of("merge")}
    models = {name for name, method in METHODS.items() if method.parts is None}  # the others make bundles
    assert merged == models, "a new method needs an entry in demo/_recipes.py if its record does not say enough"
    assert {path.stem for path in (result.folder / "recipes").iterdir()} == merged
    assert len(result.of("expert")) == 5


def test_recipes_are_valid_and_lead_to_the_merged_folders(result: DemoResult) -> None:
    for row in result.of("merge"):
        again = mw.merge(result.folder / "recipes" / f"{row.name}.yml").arrays()
        saved = mw.open(result.folder / "merged" / row.name).arrays()
        assert again.keys() == saved.keys()
        spread = 0.0 if METHODS[row.name].reproducible == "bits" else 1e-5
        for name in saved:
            np.testing.assert_allclose(again[name], saved[name], rtol=spread, atol=spread, err_msg=f"{row.name} {name}")


def test_the_table_is_what_the_checkpoints_say(result: DemoResult) -> None:
    """Computed anew from the folders, with a forward pass written out here."""
    split = result.tasks.test

    def logits(folder: Path, inputs: np.ndarray) -> np.ndarray:
        weights = mw.open(folder).arrays()
        for layer in (0, 1, 2):
            inputs = inputs @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"]
            inputs = np.where(inputs > 0, inputs, 0)
        return inputs @ weights["head.weight"].T + weights["head.bias"]

    stored = {row["name"]: row for row in json.loads((result.folder / "results.json").read_text("utf-8"))["rows"]}
    for row in result.rows:
        if row.kind == "ensemble":
            continue
        folder = result.folder / ("merged" if row.kind == "merge" else "models") / row.name
        for task, accuracy in row.accuracy.items():
            guesses = logits(folder, result.tasks.inputs(task, split)).argmax(axis=1)
            assert np.mean(guesses == split.labels) == accuracy == stored[row.name]["accuracy"][task], (row.name, task)


def test_derived_columns(result: DemoResult) -> None:
    own = {row.name: row.accuracy[row.name] for row in result.of("expert")}
    for row in result.rows:
        assert row.normalised == pytest.approx(np.mean([row.accuracy[task] / own[task] for task in own]))
        assert row.mean == pytest.approx(result.hits[row.name].mean())
    merges = result.of("merge")
    assert result.best.validation == max(row.validation for row in merges)
    for name, curve in result.curves.items():
        assert result.row(name).validation == max(curve), f"{name}: the scale in its recipe is not the best one tried"


def test_splits_share_no_image(result: DemoResult) -> None:
    tasks = result.tasks
    parts = [{image.tobytes() for image in split.images} for split in (tasks.train, tasks.validation, tasks.test)]
    assert sum(map(len, parts)) == len(parts[0] | parts[1] | parts[2]) == 1797


def test_experts_share_the_head(result: DemoResult) -> None:
    heads = [
        mw.open(result.folder / "models" / name)["head.weight"].read() for name in ("base", *result.tasks.transforms)
    ]
    assert all(np.array_equal(head, heads[0]) for head in heads)


def test_report_is_self_contained(result: DemoResult) -> None:
    page = result.report.read_text(encoding="utf-8")
    targets = re.findall(r"""(?:src|href|url\(|@import)\s*=?\s*["']?([^"'\s)>]+)""", page)
    assert targets, "the pattern must find the images at least"
    assert all(target.startswith(("data:image/png", "#")) for target in targets)
    assert "<script" not in page
    assert "$" not in page, "a placeholder was left"
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    for row in result.rows:
        assert f"<b>{100 * row.mean:.1f}</b>" in page


@pytest.mark.slow
def test_same_seed_same_bytes(result: DemoResult, tmp_path: Path) -> None:
    again = demo.run(tmp_path / "again", quiet=True, effort=0.1)
    for path in sorted(result.folder.rglob("*.safetensors")):
        assert path.read_bytes() == (again.folder / path.relative_to(result.folder)).read_bytes(), path
    assert {name: hits.tolist() for name, hits in again.hits.items()} == {
        name: hits.tolist() for name, hits in result.hits.items()
    }


def test_refuses_a_folder_of_others(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match=r"has files in it that mw demo did not make\. Choose another folder"):
        demo.run(tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="is a file, and the demo writes a folder"):
        demo.run(tmp_path / "thesis.txt", quiet=True)


def test_replaces_its_own_files_only(tmp_path: Path) -> None:
    _folder.prepare(tmp_path / "demo")
    for name in ("models/old", "my-ties"):
        (tmp_path / "demo" / name).mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "demo" / "merged").symlink_to(elsewhere)
    _folder.prepare(tmp_path / "demo")
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {_folder.MARKER, "my-ties"}
    assert elsewhere.is_dir(), "a link is removed, not what it points to"


def test_missing_extra_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r'scikit-learn.*pip install "modelwright\[demo\]"'):
        demo.run(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_seed_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"seed must be a whole number in \[0, 2\*\*32\), got -1"):
        demo.run(tmp_path / "demo", seed=-1)
    assert not (tmp_path / "demo").exists()


def test_methods_that_need_data_get_no_recipe() -> None:
    method = METHODS["linear"]
    assert set(_recipes.recipes([method], ["a", "b"])) == {"linear"}
    assert _recipes.recipes([dataclasses.replace(method, needs=("fisher",))], ["a", "b"]) == {}


def test_geometry_of_known_vectors() -> None:
    base = {"w": np.zeros((1, 10), np.float32), "head": np.ones((1, 2), np.float32)}
    first, second = ({**base, "w": np.array([[*ends, *[0.0] * 8]], np.float32)} for ends in ([3, 4], [-3, 4]))
    (entry,) = _scores.geometry(base, [first, second])
    assert entry.layer == "w"
    assert entry.cosine[0, 1] == pytest.approx(7 / 25)
    assert entry.conflict[0, 1] == 0.5
    assert entry.conflict[0, 0] == 0


def test_output_tells_what_to_read_next(result: DemoResult, capsys: pytest.CaptureFixture[str]) -> None:
    from modelwright.demo import _table

    _table.show(result)
    shown = capsys.readouterr().out
    assert f"{result.best.name} *" in shown
    assert f"mw merge {result.folder}/recipes/{result.best.name}.yml -o my-{result.best.name}\n" in shown
    assert f"Read {result.report}, then" in shown
