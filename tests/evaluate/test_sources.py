"""Tasks from data: formats, ids that do not depend on order, splits, preprocessing, and what is refused."""

from __future__ import annotations

import gzip
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import modelwright as mw
from modelwright.errors import InputError
from modelwright.evaluate import KINDS, Classification, Items, Regression, task

X = np.random.default_rng(0).integers(0, 256, (30, 4, 5), dtype=np.uint8)
Y = np.arange(30) % 3


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return name


def jsonl(name: str, *rows: dict[str, Any]) -> str:
    return write(name, "".join(json.dumps(row) + "\n" for row in rows))


def by_id(items: Items) -> dict[str, tuple[Any, Any]]:
    return {
        name: (np.asarray(x).tolist(), y) for name, x, y in zip(items.ids, items.inputs, items.targets, strict=True)
    }


def image(name: str, pixels: np.ndarray, mode: str | None = None) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(name)


# --- formats ---------------------------------------------------------------------------------------------------------


def test_npz_without_splits_is_test(here: Path) -> None:
    np.savez("d.npz", x=X, y=Y)
    found = task("d.npz")
    assert isinstance(found, Classification)
    assert (found.name, found.classes, list(found.splits), found.metric.name) == (
        "d",
        ("0", "1", "2"),
        ["test"],
        "accuracy",
    )
    items = found.items("test")
    np.testing.assert_array_equal(items.inputs, X)
    assert items.targets.tolist() == Y.tolist()


def test_npz_with_splits_classes_ids_and_slices(here: Path) -> None:
    np.savez(
        "d.npz", x_train=X[:10], y_train=Y[:10], x_val=X[10:15], y_val=Y[10:15], x_test=X[15:], y_test=Y[15:],
        classes=np.array(["a", "b", "c"]), ids_test=np.array([f"t{i}" for i in range(15)]),
        ids_train=np.arange(10), ids_val=np.arange(10, 15), kind_test=np.array(["x"] * 15), kind_train=np.array(["x"] * 10),
        kind_val=np.array(["y"] * 5), kinds=np.array(["x", "y"]),
    )  # fmt: skip
    found = task("d.npz", columns={"slices": "kind"})
    assert found.classes == ("a", "b", "c")
    assert list(found.splits) == ["tune", "validation", "test"]
    assert found.items("test").ids[:2] == ("t0", "t1")
    assert found.items("tune").ids == tuple(map(str, range(10)))
    assert found.items("validation").slices == {"kind": ["y"] * 5}


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_csv(here: Path, ending: str) -> None:
    name = write(f"d.{ending}", 'a,b,target,split\n1,2.5,"x, y",train\n3,4,z,test\n5,-6,"x, y",test\n')
    found = task(name)
    assert found.classes == ("x, y", "z")
    assert found.name == "d"
    items = found.items("test")
    np.testing.assert_array_equal(items.inputs, [[3, 4], [5, -6]])
    assert items.targets.tolist() == [1, 0]
    assert len(found.items("tune")) == 1


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_jsonl_of_texts(here: Path, ending: str) -> None:
    rows = [{"id": f"n{i}", "inputs": f"text {i}", "target": "yes" if i % 2 else "no", "lang": "en"} for i in range(6)]
    found = task(jsonl(f"d.{ending}", *rows), columns={"slices": ["lang"]})
    items = found.items()
    assert items.ids == tuple(f"n{i}" for i in range(6))
    assert list(items.inputs) == [f"text {i}" for i in range(6)]
    assert items.targets.tolist() == [0, 1] * 3
    assert items.slices == {"lang": ["en"] * 6}


def test_jsonl_of_lists_and_pairs(here: Path) -> None:
    rows = [{"inputs": [[i, 2], [3, 4]], "target": i % 2 == 0, "one": "a", "two": f"b{i}"} for i in range(4)]
    name = jsonl("d.jsonl", *rows)
    assert task(name).items().inputs.shape == (4, 2, 2)
    assert task(name).classes == ("false", "true")
    assert list(task(name, columns={"inputs": ["one", "two"]}).items().inputs) == [("a", f"b{i}") for i in range(4)]


def test_regression(here: Path) -> None:
    name = write("d.csv", "x,target\n1,2\n2,4.5\n3,6\n")
    found = task(name, kind="regression")
    assert isinstance(found, Regression)
    assert found.metric.name == "squared_error"
    assert found.items().targets.tolist() == [2.0, 4.5, 6.0]


@pytest.mark.parametrize("split", ["", "train/", "test/"])
def test_folders_of_images(here: Path, split: str) -> None:
    for folder in dict.fromkeys([split, "test/" if split else ""]):
        for i in range(3):
            image(f"pets/{folder}{'cat' if i else 'dog'}/{i}.png", X[i])
    write("pets/.DS_Store", "")
    found = task("pets")
    assert (found.name, found.classes) == ("pets", ("cat", "dog"))
    items = found.items("test")
    prefix = "test/" if split else ""
    assert items.ids == (f"{prefix}cat/1.png", f"{prefix}cat/2.png", f"{prefix}dog/0.png")
    np.testing.assert_array_equal(items.inputs, X[[1, 2, 0]])
    assert items.targets.tolist() == [0, 0, 1]


def test_images_are_decoded_only_when_their_split_is_asked_for(here: Path) -> None:
    image("pets/train/cat/0.png", X[0])
    image("pets/train/dog/0.png", X[0])
    write("pets/test/cat/0.png", "no image")
    found = task("pets")
    assert len(found.items("tune")) == 2
    with pytest.raises(InputError, match=r"cannot read the image: .*0.png"):
        found.items("test")


class Stand:
    """What is used of a data set of the package `datasets`."""

    cache_files: tuple[str, ...] = ()

    def __init__(self, names: Any = None, **columns: list[Any]):
        self.columns = columns
        self.column_names = list(columns)
        self.features = {name: types.SimpleNamespace(names=names if name == "label" else None) for name in columns}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def with_format(self, _: None) -> Stand:
        return self

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]


def test_a_dataset_object_with_named_classes() -> None:
    found = task(Stand(["bad", "good"], text=["a", "b", "c"], label=[1, 0, 1]), name="reviews")
    assert (found.classes, found.items().targets.tolist()) == (("bad", "good"), [1, 0, 1])
    assert list(found.items().inputs) == ["a", "b", "c"]
    with pytest.raises(InputError, match="'text' is null in row 2"):
        task(Stand(["bad", "good"], text=["a", None], label=[1, 0]))


def test_a_dataset_folder_by_the_package(here: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    parts = {
        name: datasets.Dataset.from_dict(
            {"text": [f"{name} {i}" for i in range(4)], "label": [0, 1, 1, 0]}, features=features
        )
        for name in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk("reviews")
    found = task("reviews")
    assert (found.name, found.classes, list(found.splits)) == ("reviews", ("bad", "good"), ["tune", "test"])
    assert list(found.items("test").inputs) == [f"test {i}" for i in range(4)]
    parts["test"].save_to_disk("alone")
    assert found.items("test").targets.tolist() == task("alone").items("test").targets.tolist() == [0, 1, 1, 0]
    grey = datasets.Dataset.from_dict({"image": [Image.fromarray(x) for x in X[:4]], "label": [0, 1, 0, 1]})
    np.testing.assert_array_equal(task(grey).items().inputs, X[:4])


@pytest.mark.parametrize("where", ["made", "made.py"])
def test_functions(here: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        "made.py",
        "import numpy as np, modelwright as mw\n"
        "def pair(): return np.eye(4), ['a', 'b', 'a', 'b']\n"
        "def items(): return mw.Items(('p', 'q'), ['x', 'y'], ['a', 'b'], {'s': ['1', '2']})\n"
        "def splits(): return {'tune': pair(), 'test': (np.eye(4) + 1, ['a', 'b', 'a', 'b'])}\n"
        "def whole(): return mw.task(pair(), name='own')\n"
        "def fails(): return 1 / 0\n"
        "def number(): return 3\n",
    )
    monkeypatch.delitem(sys.modules, "made", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert task(f"{where}:pair").classes == ("a", "b")
    assert task(f"{where}:pair").name == "pair"
    assert task(f"{where}:items").items().ids == ("p", "q")
    assert task(f"{where}:items", columns={"slices": "s"}).items().slices == {"s": ["1", "2"]}
    assert list(task(f"{where}:splits").splits) == ["tune", "test"]
    assert task(f"{where}:whole").name == "own"
    with pytest.raises(InputError, match="the task 'own' says itself what its metric is"):
        task(f"{where}:whole", metric="brier")
    with pytest.raises(InputError, match=r"'made.*:fails' fails: ZeroDivisionError: division by zero. \[.*made.py:6\]"):
        task(f"{where}:fails")
    with pytest.raises(InputError, match=r"a int is no data for a task. Give a file, a folder, Items"):
        task(f"{where}:number")
    with pytest.raises(InputError, match=r"has no function 'pairs'. Did you mean 'pair'?"):
        task(f"{where}:pairs")


def test_functions_that_are_not_there(here: Path) -> None:
    with pytest.raises(InputError, match=r"there is no module 'nothing_like_it'. It must be installed"):
        task("nothing_like_it:f")
    with pytest.raises(InputError, match=r"there is no file 'none.py'"):
        task("none.py:f")
    write("broken.py", "import json\nx = json.loads('')\n")
    with pytest.raises(InputError, match=r"importing 'broken.py' fails: JSONDecodeError"):
        task("broken.py:f")


# --- ids -------------------------------------------------------------------------------------------------------------


def shuffled(rows: list[Any]) -> list[Any]:
    return [rows[i] for i in np.random.default_rng(7).permutation(len(rows))]


def test_items_are_put_together_by_id_when_files_are_shuffled(here: Path) -> None:
    """Two systems, one asked from the file as it was and one from the same file in another order."""
    rows = [{"inputs": f"text {i}", "target": "yes" if i % 3 else "no"} for i in range(40)]
    first, second = task(jsonl("a.jsonl", *rows), name="t"), task(jsonl("b.jsonl", *shuffled(rows)), name="t")
    assert first.items().ids != second.items().ids
    assert by_id(first.items()) == by_id(second.items())
    assert first.fingerprint("test") == second.fingerprint("test")

    def knows(texts: list[str]) -> np.ndarray:
        yes = np.array([int(text.split()[1]) % 3 for text in texts]) > 0
        return np.stack([~yes, yes], axis=1).astype(float)

    records = mw.Records([*mw.eval({"one": knows}, first), *mw.eval({"two": knows}, second)])
    assert records.part("t", "two").ids == records.part("t", "one").ids
    assert records.part("t", "two").column("score").tolist() == [1.0] * 40
    assert records.part("t", "two").column("target").tolist() == records.part("t", "one").column("target").tolist()


@pytest.mark.parametrize("stratified", [True, False])
def test_shares_do_not_depend_on_the_order(here: Path, stratified: bool) -> None:
    rows = [{"id": i, "inputs": i, "target": i % 2} for i in range(40)]
    said = {"tune": {"share": 0.5}, "validation": {"share": 0.25}, "test": {"share": 0.25}}
    options = {"splits": said, "seed": 1, "stratified": stratified}
    one, other = (task(jsonl(f"{i}.jsonl", *r), **options) for i, r in enumerate([rows, shuffled(rows)]))
    for split, count in (("tune", 20), ("validation", 10), ("test", 10)):
        assert by_id(one.items(split)) == by_id(other.items(split))
        assert len(one.items(split)) == count
        if stratified:
            assert one.items(split).targets.mean() == 0.5
    assert by_id(task("0.jsonl", **{**options, "seed": 2}).items("test")) != by_id(one.items("test"))


def test_equal_items_have_ids_of_their_own() -> None:
    items = task((np.zeros((3, 2)), ["a", "a", "b"])).items()
    assert items.ids[1] == f"{items.ids[0]}-2"
    assert items.ids[2] not in items.ids[:2]


def test_ids_do_not_depend_on_the_width_of_labels(here: Path) -> None:
    assert task((X, Y.astype(np.int8))).items().ids == task((X, Y)).items().ids


def test_ids_by_position() -> None:
    assert task((X, Y), ids="position").items().ids == tuple(map(str, range(30)))
    parts = {"tune": (X[:3], Y[:3]), "test": (X[3:], Y[3:])}
    assert task(parts, ids="position").items("test").ids[0] == "test/0"


def test_an_item_in_two_splits(here: Path) -> None:
    name = write("d.csv", "id,x,target,split\n1,1,a,train\n2,2,b,train\n1,3,a,test\n3,4,b,test\n")
    found = task(name)
    found.items("tune")
    with pytest.raises(InputError, match="splits must have no item in common, and 'test' and 'tune' both have 1"):
        found.items("test")


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_are_names_or_indices() -> None:
    x = np.zeros((3, 1))
    assert task((x, ["b", "a", "b"]), classes=["b", "a"]).items().targets.tolist() == [0, 1, 0]
    assert task((x, np.array([0, 1, 0])), classes=["b", "a"]).items().targets.tolist() == [0, 1, 0]
    assert task((x, np.array([1, 0, 1])), classes=[1, 0]).items().targets.tolist() == [0, 1, 0]
    assert task((x, np.array([5, 3, 5])), classes=[5, 3]).items().targets.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("targets", "options", "said"),
    [
        ([0.5, 1.0, 0.0], {}, "labels must be texts or whole numbers, .* got numbers with fractions. For numbers say kind"),
        ([1, 2, 1], {}, r"must be 0, 1, .. without a gap where no classes are named, got 1, 2. Say classes:"),
        ([0, 2, 0], {}, "without a gap"),
        ([-1, 0, 1], {}, "without a gap"),
        ([0, 1, 3], {"classes": ["a", "b", "c"]}, r"labels must be in \[0, 2\] for 3 classes, got 3. .* \[the data, row 3\]"),
        ([0, -1, 1], {"classes": ["a", "b"]}, r"labels must be in \[0, 1\] for 2 classes, got -1"),
        (["a", "bb", "c"], {"classes": ["a", "b", "c"]}, r"the label 'bb' is no class. Did you mean 'b'\? .*row 2"),
        (["a", "a", "a"], {}, "a classification needs two classes, got 1"),
        ([0, 0, 0], {}, "a classification needs two classes, got 1"),
        (["a", "", "b"], {}, "'target' is empty. Give it a value, or leave the item out. .*row 2"),
        (["a", "b", "a"], {"kind": "regression"}, "targets must be numbers, got texts. For names say kind: classification"),
        ([1.0, np.nan, 2.0], {"kind": "regression"}, "'target' must be finite, got NaN or infinity .*row 2"),
        ([0, 1, 0], {"classes": ["a", "b"], "kind": "regression"}, "a regression has no classes"),
        ([0, 1, 0], {"metric": "r2"}, "the metric 'r2' judges values, and a Classification gives probabilities. Fitting: acc"),
        ([0, 1, 0], {"metric": "acc"}, "there is no metric 'acc'"),
        ([0, 1], {}, "each item must have one of inputs, got 3 for 2 targets"),
        (np.eye(3, dtype=int), {}, r"targets must be one an item, got shape \(3, 3\)"),
        ([], {}, "the data are empty|each item must have one"),
    ],
)  # fmt: skip
def test_labels_that_are_none(targets: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        task((np.zeros((3, 1)), targets), **options)


# --- splits ----------------------------------------------------------------------------------------------------------


def three(**rows: int) -> str:
    return jsonl("s.jsonl", *({"inputs": i, "target": i % 2, "split": n} for n, k in rows.items() for i in range(k)))


def test_names_and_shares_of_the_datas_own_splits(here: Path) -> None:
    name = three(train=20, held=8)
    said = {"test": "held", "tune": {"of": "train", "share": 0.8}, "validation": {"of": "train", "share": 0.2}}
    found = task(name, splits=said)
    assert [len(found.items(split)) for split in ("tune", "validation", "test")] == [16, 4, 8]
    assert [len(task(name, splits={"test": {"of": "train", "share": 0.5}}).items("test"))] == [10]


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ({"train": 4, "hold": 4}, {}, "it is not known what the split 'hold' is for. Known are .*say splits: {test: 'hold'}"),
        ({"val": 4, "dev": 4}, {}, "'val' and 'dev' could both be validation. Say splits: {validation: val}."),
        ({"train": 4}, {"splits": {"test": "held"}}, "the data have no split 'held'. They have: train."),
        ({"train": 4}, {"splits": {"test": {"share": 0.5}}}, "the data have no split ''. They have: train."),
        ({"train": 3}, {"splits": {"tune": {"of": "train", "share": 0.9}, "test": {"of": "train", "share": 0.1}}},
         "the data are too small to split: no item of the class '1', which has 1 items, is in 'tune|too small to split"),
        ({"train": 4}, {"stratified": False, "splits": {"test": {"of": "train", "share": 0.1}}},
         "too small to split: no item of 4 items, is in 'test' with its share 0.1. Give it a larger share."),
        ({"train": 4}, {"kind": "regression", "stratified": True, "splits": {"test": {"of": "train", "share": 0.5}}},
         "stratified is for classes, and these targets are numbers"),
        ({"train": 4}, {"splits": {"test": {"of": "train", "share": 0.7}, "tune": {"of": "train", "share": 0.7}}},
         "the shares of train must sum to at most 1, got 1.4"),
        ({"train": 4}, {"splits": {"test": "train", "tune": {"of": "train", "share": 0.7}}}, "'train' is a split as a whole"),
        ({"train": 4}, {"splits": {"test": {"of": "train", "share": 80}}}, "'splits.test.share'.*less than or equal to 1"),
        ({"train": 4}, {"splits": {"train": "train"}}, "must be 'tune', 'validation' or 'test', got 'train'"),
    ],
)  # fmt: skip
def test_splits_that_are_none(here: Path, rows: dict[str, int], options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        task(three(**rows), **options)


# --- files that are refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("d.csv", "", r"the data are empty: a task needs items. \[d.csv\]"),
        ("d.csv", "a,target\n", "the data are empty"),
        ("d.csv", "a,target\n1,x\n2\n", r"each row must have 2 cells, got 1. \[d.csv:3\]"),
        ("d.csv", "a;target\n1;x\n", r"cells seem to be separated by ';', and must be by commas. .*\[d.csv:1\]"),
        ("d.csv", "a,a,target\n1,2,x\n", r"the column 'a' stands twice. .*\[d.csv:1\]"),
        ("d.csv", "a,,target\n1,2,x\n", "a column has no name"),
        ("d.csv", "a,target\n1,x\n,y\n", r"'a' is empty. .*\[d.csv, line 3\]"),
        ("d.csv", "a,target\n1,x\nnan,y\n", r"'a' must be finite, got NaN or infinity \(1 such items\). \[d.csv, line 3\]"),
        ("d.csv", "a,b,target\n1,2,x\n2,q,y\n", "inputs of several columns must be numbers, or two texts, and 'b' is text"),
        ("d.csv", "a,label\n1,x\n2,y\n", r"there is no column 'target' for the targets. Valid: a, label. Say columns: {target"),
        ("d.csv", "target\nx\ny\n", "there is no column for the inputs"),
        ("d.csv", 'a,target\n"1,x\n', "cannot read: unexpected end of data"),
        ("d.csv", "id,a,target\nq,1,x\nq,2,y\n", "ids must be unique, got 'q' in line 2 and line 3. Give each item a name"),
        ("d.jsonl", "", "the data are empty"),
        ("d.jsonl", '{"inputs": 1, "target": "a"}\n{"inputs": "b", "target": "b"}\n',
         r"a column's values must be of one type: 'inputs' is a text here, and a whole number in line 1. \[d.jsonl:2\]"),
        ("d.jsonl", '{"inputs": 1, "target": "a"}\n\n{"inputs": 2}\n', r"'target' is missing in 1 lines. .*\[d.jsonl:3\]"),
        ("d.jsonl", '{"inputs": 1, "target": "a"}\n[1]\n', r"each line must hold an object, got list. \[d.jsonl:2\]"),
        ("d.jsonl", '{"inputs": 1, "target": "a"\n', r"not valid JSON: .*\[d.jsonl:1\]"),
        ("d.jsonl", '{"inputs": NaN, "target": "a"}\n', "NaN is no number in JSON"),
        ("d.jsonl", '{"inputs": null, "target": "a"}\n', "'inputs' is null"),
        ("d.jsonl", '{"inputs": [1], "target": "a"}\n{"inputs": [1, 2], "target": "b"}\n', "must be of numbers, all of one shape"),
        ("d.npz", "not a zip", "cannot read: .*plain arrays"),
        ("d.xml", "x", "no format of data is called '.xml'. Known: .npz, .csv"),
        ("d/a.txt", "x", "files lie beside the classes' folders: a.txt"),
        ("d/cat/a.txt", "x", "not images: cat/a.txt. Move them elsewhere; nothing is left out."),
    ],
)  # fmt: skip
def test_files_that_are_refused(here: Path, name: str, text: str, said: str) -> None:
    write(name, text)
    with pytest.raises(InputError, match=said):
        task(name.partition("/")[0]).items()


def test_more_files_that_are_refused(here: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file or folder 'none.csv'"):
        task("none.csv")
    Path("d.csv").write_bytes(b"a,target\n\xff,x\n")
    with pytest.raises(InputError, match="not UTF-8"):
        task("d.csv")
    Path("d.csv.gz").write_bytes(gzip.compress(b"a,target\n1,x\n2,y\n" * 100)[:-20])
    with pytest.raises(InputError, match="cannot read"):
        task("d.csv.gz")
    np.savez("o.npz", x=np.array([{}, []], dtype=object), y=np.arange(2))
    with pytest.raises(InputError, match="cannot read: Object arrays cannot be loaded"):
        task("o.npz")
    np.savez("e.npz", x=X[:0], y=Y[:0])
    with pytest.raises(InputError, match="the data are empty"):
        task("e.npz")
    Path("none").mkdir()
    with pytest.raises(InputError, match="there are no images"):
        task("none")
    image("pets/cat/0.png", X[0])
    Path("pets/dog").mkdir()
    with pytest.raises(InputError, match="the class 'dog' has no images"):
        task("pets")


def test_images_that_are_refused(here: Path) -> None:
    for i, label in enumerate(("cat", "dog")):
        image(f"pets/{label}/0.png", X[i])
    image("pets/dog/1.png", X[0], "RGBA")
    with pytest.raises(
        InputError, match=r"pixels must be grey or RGB of 8 bits .*, got mode RGBA. .*\[.*pets/dog/1.png\]"
    ):
        task("pets").items()
    for i in range(5):
        write(f"pets/dog/bad{i}.png", "no image")
    with pytest.raises(InputError) as error:
        task("pets").items()
    assert len(error.value.problems) == 4
    assert "and 3 images more" in str(error.value)
    for path in Path("pets/dog").glob("[1b]*"):
        path.unlink()
    image("pets/dog/2.png", X[0][:3])
    with pytest.raises(
        InputError, match=r"inputs must have one shape, got \(4, 5\) .*, \(3, 5\) \('dog/2.png'\).*resize"
    ):
        task("pets").items()
    assert task("pets", preprocessing=[{"resize": [2, 2]}]).items().inputs.shape == (3, 2, 2)


# --- preprocessing -----------------------------------------------------------------------------------------------------


def prepared(inputs: Any, *steps: dict[str, Any]) -> Any:
    return task((inputs, Y[: len(inputs)]), preprocessing=list(steps)).items().inputs


def test_each_step() -> None:
    scaled = prepared(X, {"scale": [0, 255]})
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, X / 255, rtol=1e-6)
    np.testing.assert_allclose(prepared(X, {"normalise": {"mean": 3, "std": 2}}), (X - 3.0) / 2, rtol=1e-6)
    assert prepared(X, {"flatten": True}).shape == (30, 20)
    assert prepared(X, {"channels": "first"}).shape == (30, 1, 4, 5)
    assert prepared(X, {"dtype": "float16"}).dtype == np.float16
    colours = np.stack([X, X, X], axis=-1)
    np.testing.assert_array_equal(prepared(X, {"colour": "rgb"}), colours)
    np.testing.assert_array_equal(prepared(colours, {"colour": "grey"}), X)
    first = prepared(colours, {"channels": "first"}, {"normalise": {"mean": [1, 2, 3], "std": [1, 1, 2], "axis": 0}})
    np.testing.assert_allclose(first[:, 2], (X - 3.0) / 2, rtol=1e-6)
    last = prepared(colours, {"normalise": {"mean": [1, 2, 3], "std": [1, 1, 2]}})
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), first)
    flat = np.full((1, 4, 4), 9, np.uint8)
    np.testing.assert_array_equal(prepared(np.repeat(flat, 2, 0), {"resize": [2, 8]}), np.full((2, 2, 8), 9))


@pytest.mark.parametrize(
    ("inputs", "steps", "said"),
    [
        (X, [{"scale": [0, 100]}], r"values must be in \[0, 100\], got \d+ in item '.*'. \[preprocessing step 1\]"),
        (X, [{"scale": [5, 5]}], "low below high"),
        (X, [{"dtype": "float32"}, {"resize": [2, 2]}], "images must be uint8 .*got float32 .*step 2"),
        (X, [{"normalise": {"mean": [1, 2], "std": 1}}], "2 numbers for 5 values along axis -1 of an item"),
        (X, [{"normalise": {"mean": 0, "std": 0}}], "std must be above 0"),
        (
            X,
            [{"normalise": {"mean": 0, "std": 1, "axis": 2}}],
            r"an item has 2 axes, so axis must be in \[-2, 1\], got 2",
        ),
        (X, [{"scale": [0, 255]}, {"dtype": "uint8"}], "some values are no uint8"),
        (["a", "b", "c"], [{"flatten": True}], "inputs must be numbers or images, got texts"),
        (["a", "b", "c"], [{"colour": "rgb"}], "images must be uint8 .*got a text"),
        (X.reshape(30, 20), [{"channels": "first"}], r"must have shape \(n, h, w\) or \(n, h, w, c\), got \(30, 20\)"),
    ],
)
def test_steps_that_do_not_fit(inputs: Any, steps: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        prepared(inputs, *steps)


def test_preprocessing_is_part_of_what_a_result_depends_on() -> None:
    plain, scaled = task((X, Y)), task((X, Y), preprocessing=[{"scale": [0, 255]}])
    assert plain.items().ids == scaled.items().ids
    assert plain.fingerprint("test") != scaled.fingerprint("test")


# --- task files --------------------------------------------------------------------------------------------------------

FILE = """\
kind: classification
data: data/d.csv
columns: {inputs: text, target: label, slices: [lang]}
metric: log_loss
classes: [bad, good]
splits:
  tune: {share: 0.5}
  test: {share: 0.5}
seed: 3
stratified: true
"""


def test_a_task_file(here: Path) -> None:
    rows = "".join(f"t{i},{'good' if i % 2 else 'bad'},en\n" for i in range(12))
    write("sub/data/d.csv", f"text,label,lang\n{rows}")
    found = task(write("sub/reviews.yml", FILE))
    assert (found.name, found.metric.name, found.classes) == ("reviews", "log_loss", ("bad", "good"))
    assert len(found.items("tune")) == len(found.items("test")) == 6
    assert found.items("test").slices == {"lang": ["en"] * 6}
    assert task("sub/reviews.yml", metric="accuracy", name="other").metric.name == "accuracy"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("metric:", "metrik:", r"unknown key 'metrik'. Did you mean 'metric'\? .*\[t.yml:4\]"),
        ("slices:", "slice:", r"unknown key 'columns.slice'. Did you mean 'slices'\? .*\[t.yml:3\]"),
        ("  test: {share: 0.5}", "  test: {shar: 0.5}", r"unknown key 'splits.test.shar'. Did you mean 'share'\? .*\[t.yml:8\]"),
        ("kind: classification", "kind: clasification", r"no kind of task is called .* Did you mean 'classification'.*t.yml:1"),
        ("seed: 3", "seed: -3", r"'seed' must be at least 0, got -3. \[t.yml:9\]"),
        ("seed: 3", "seed: 3.5", r"'seed' must be a whole number, got 3.5. \[t.yml:9\]"),
        ("classes: [bad, good]", "classes: [bad, bad]", "the class 'bad' stands twice in classes"),
        ("stratified: true", "stratified: maybe", r"'stratified' must be true or false|'stratified'.*t.yml:10"),
        ("data: data/d.csv\n", "", "the key 'data' is missing"),
        ("data: data/d.csv", "data: data/e.csv", "there is no file or folder 'data/e.csv'"),
        ("target: label", "target: labl", "there is no column 'labl' for the targets. Did you mean 'label'"),
        ("inputs: text", "inputs: {a: b}", "must be the name of a column, or a list of them"),
        ("seed: 3", "seed: 3\nseed: 4", r"the key 'seed' stands twice. Keep one of them. \[t.yml:9\]"),
        (FILE, "- a\n", "a task file is a mapping of keys"),
        (FILE, FILE + "---\n" + FILE, "a task file holds one document, got 2"),
        (FILE, "a: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_task_files_that_are_refused(here: Path, old: str, new: str, said: str) -> None:
    write("data/d.csv", "text,label,lang\n" + "".join(f"t{i},{'good' if i % 2 else 'bad'},en\n" for i in range(12)))
    assert old in FILE
    with pytest.raises(InputError, match=said):
        task(write("t.yml", FILE.replace(old, new)))


def test_a_task_file_that_is_not_there(here: Path) -> None:
    with pytest.raises(InputError, match=r"no task file 'none.yml'"):
        task("none.yml")


def test_kinds_are_a_registry() -> None:
    assert {"classification", "regression"} <= set(KINDS)
    with pytest.raises(InputError, match=f"Valid: {', '.join(sorted(KINDS))}"):
        task((X, Y), kind="segmentation")


def test_options_are_the_keys_of_a_task_file() -> None:
    with pytest.raises(InputError, match=r"unknown key 'colums'. Did you mean 'columns'?"):
        task((X, Y), colums={})


# --- splits that have items in common ----------------------------------------------------------------------------------

ROWS = "x,target\n" + "".join(f"{i},{'even' if i % 2 == 0 else 'odd'}\n" for i in range(8))


def test_the_same_data_for_two_splits(here: Path) -> None:
    """Told whichever split is asked about, so that it does not matter which process reads which."""
    x, y = np.arange(8.0)[:, None], np.arange(8) % 2
    np.savez("t.npz", x_val=x, y_val=y, x_test=x, y_test=y)
    message = r"'validation' and 'test' are the same data under other ids"
    with pytest.raises(InputError, match=message):
        task("t.npz")
    texts = [json.dumps({"text": f"text {i}", "split": split}) for split in ("val", "test") for i in range(4)]
    write("t.jsonl", "\n".join(texts))
    with pytest.raises(InputError, match=message):
        task("t.jsonl", kind="perplexity")


def test_rows_that_two_splits_have(here: Path) -> None:
    rows = ROWS.replace("x,target", "x,target,split").replace("even\n", "even,tune\n").replace("odd\n", "odd,test\n")
    found = task(write("t.csv", rows + "1,odd,tune\n1,even,tune\n"))
    assert found.splits.shared("test") == {"tune": 1}
    assert found.for_search().splits.shared("tune") == {"test": 1}
    records = mw.eval({"even": lambda x: np.tile([1.0, 0.0], (len(x), 1))}, found)
    assert records.part("t", "even").head.made["shared"] == {"tune": 1}
    (note,) = [note for note in mw.compare(records).notes if "split" in note]
    assert note == "'t': 1 of its test items are in its split 'tune' too, with the same target."
