"""Families: trained once and to the same bits, heads outside what is merged, splits apart."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.errors import InputError, RunError
from modelwright.evaluate import SPLITS
from modelwright.suites import SUITES, Cache, suite
from modelwright.suites._cache import Trained, side_by_side
from modelwright.suites._packs import image_splits, images, stratified, to_shape
from suites.small_packs import write_packs

OF_PACKS = ("images-vit", "images-cnn", "text-lm", "text-lm-choice")


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packs(tmp_path_factory.mktemp("packs") / "data")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests of this module share."""
    return tmp_path_factory.mktemp("zoo")


def family(name: str, zoo: Path, packs: Path, seed: int = 0) -> Any:
    if name in OF_PACKS:
        pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELWRIGHT_DATA", str(packs))
        return suite(name).family(seed, cache=zoo, budget="smoke")


def written(root: Path) -> dict[str, bytes]:
    """All weights below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("model.safetensors"))}


@pytest.mark.parametrize("name", ["digits", *OF_PACKS])
def test_a_family_has_what_a_sweep_needs(name: str, zoo: Path, packs: Path) -> None:
    found = family(name, zoo, packs)
    assert found.name == name
    assert list(found.tasks) == list(found.experts) == list(suite(name).tasks)
    assert set(found.seconds) == {"base", "multitask", *found.tasks}
    for model in (found.base, *found.experts.values(), found.multitask):
        assert model.shapes == found.base.shapes
        assert (model.path / "config.json").is_file()
    task = found.tasks[next(iter(found.tasks))]
    assert list(task.splits) == list(SPLITS)
    scored = task.score(found.system(found.base, "base").for_task(task), task.items("test"))
    assert np.isfinite(scored.scores).all()
    prints = {found.system(model, "it").fingerprint for model in (found.base, *found.experts.values())}
    assert len(prints) == 1 + len(found.experts)


@pytest.mark.parametrize("name", ["digits", *OF_PACKS])
def test_splits_have_no_item_in_common(name: str, zoo: Path, packs: Path) -> None:
    for task in family(name, zoo, packs).tasks.values():
        ids = [set(task.items(split).ids) for split in SPLITS]
        assert not ids[0] & ids[1]
        assert not (ids[0] | ids[1]) & ids[2]
        tune, test = (list(map(repr, task.items(split).inputs)) for split in ("tune", "test"))
        assert name in ("images-vit", "images-cnn", "digits") or not set(tune) & set(test)


@pytest.mark.parametrize("name", ["digits", "images-cnn", "text-lm"])
def test_the_same_seed_gives_the_same_bits(name: str, zoo: Path, packs: Path, tmp_path: Path) -> None:
    family(name, zoo, packs)
    family(name, tmp_path, packs)
    again = written(tmp_path)
    assert again
    assert again == {path: content for path, content in written(zoo).items() if path in again}


def test_another_seed_gives_other_models_of_the_same_data(zoo: Path, packs: Path) -> None:
    one, two = family("digits", zoo, packs), family("digits", zoo, packs, seed=1)
    assert not np.array_equal(one.base["layers.0.weight"].read(), two.base["layers.0.weight"].read())
    for name, task in one.tasks.items():
        assert task.fingerprint("test") == two.tasks[name].fingerprint("test")


def test_what_is_kept_is_not_trained_again(zoo: Path, packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = family("images-cnn", zoo, packs)
    times = {path: path.stat().st_mtime_ns for path in zoo.rglob("model.safetensors")}
    import modelwright.train._trainer as trainer

    monkeypatch.setattr(trainer, "fit", lambda *_, **__: pytest.fail("it was trained again"))
    again = family("images-cnn", zoo, packs)
    assert {path: path.stat().st_mtime_ns for path in zoo.rglob("model.safetensors")} == times
    assert again.seconds == first.seconds


def test_other_data_give_other_models(zoo: Path, tmp_path: Path) -> None:
    """Experts are cached by the bytes of their own data; the base by its own."""
    pytest.importorskip("torch")
    data = write_packs(tmp_path / "data")
    family("images-cnn", tmp_path / "zoo", data)
    before = {path.name for path in (tmp_path / "zoo").iterdir()}
    with np.load(data / "images/mnist.npz") as file:
        parts = dict(file)
    np.savez(data / "images/mnist.npz", **{**parts, "x_train": 255 - parts["x_train"]})
    family("images-cnn", tmp_path / "zoo", data)
    new = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "zoo").iterdir() if path.name not in before)
    # heads are made of all tasks' data, and every expert is tuned through its head
    assert "images-cnn-base" not in new
    assert {"images-cnn-heads", "images-cnn-mnist", "images-cnn-multitask"} <= set(new)


def test_both_text_suites_share_their_models(zoo: Path, packs: Path) -> None:
    one, two = family("text-lm", zoo, packs), family("text-lm-choice", zoo, packs)
    assert one.base.path == two.base.path
    assert [e.path for e in one.experts.values()] == [e.path for e in two.experts.values()]


@pytest.mark.parametrize("name", ["images-vit", "images-cnn"])
def test_heads_are_outside_the_merge(name: str, zoo: Path, packs: Path) -> None:
    found = family(name, zoo, packs)
    assert not any("head" in tensor or tensor.split(".")[0] in found.tasks for tensor in found.base)
    merged = mw.merge(list(found.experts.values()), base=found.base, method="task_arithmetic", lambda_=0.3)
    system = found.system(merged, "merged")
    a, b = found.tasks["mnist"], found.tasks["signs"]
    pixels = a.items("test").inputs
    assert system.for_task(a).probabilities(pixels, 3).shape == (len(pixels), len(a.names))
    assert system.for_task(b).probabilities(pixels, 4).shape == (len(pixels), len(b.names))
    with pytest.raises(InputError, match=r"'merged' has a head for each task. Ask for_task\(task\) first."):
        system.probabilities(pixels, 3)


def test_the_digits_head_is_the_bases_and_no_part_of_the_checkpoints(zoo: Path, packs: Path) -> None:
    found = family("digits", zoo, packs)
    assert all(name.startswith("layers.") for name in found.base)
    task = found.tasks["invert"]
    system: Any = found.system(found.experts["invert"], "expert")
    assert np.array_equal(system.weights["head.weight"], found.head["head.weight"])
    assert task.score(system, task.items("test")).scores.mean() > 0.3


def test_a_task_without_a_head(zoo: Path, packs: Path) -> None:
    vit, digits = family("images-vit", zoo, packs), family("digits", zoo, packs)
    with pytest.raises(InputError, match="'base' has no head for the task 'rotate'"):
        vit.system(vit.base, "base").for_task(digits.tasks["rotate"])


def test_statistics_of_a_merged_network_can_be_taken_anew(zoo: Path, packs: Path) -> None:
    found = family("images-cnn", zoo, packs)
    merged = mw.merge(list(found.experts.values()), method="linear")
    anew = found.reestimated(merged)
    changed = {name for name in merged if not np.array_equal(merged[name].read(), anew[name].read())}
    assert changed
    assert all("running_" in name or name.endswith("num_batches_tracked") for name in changed)
    vit = family("images-vit", zoo, packs)
    assert vit.reestimated(vit.base) is vit.base


def test_models_of_the_zoo_are_ordinary_folders(zoo: Path, packs: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    found = family("text-lm", zoo, packs)
    folders = [str(model.path) for model in found.experts.values()]
    mw.merge(folders, base=str(found.base.path), method="task_arithmetic", lambda_=0.2).save(tmp_path / "merged")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    text = "a small ship, über alten Türmen:\n  3 + 4"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert model(**tokenizer(text, return_tensors="pt")).logits.isfinite().all()
    assert not (tmp_path / "merged/training.jsonl").exists()


def test_questions_have_their_answer_among_the_choices(zoo: Path, packs: Path) -> None:
    found = family("text-lm-choice", zoo, packs)
    for task in found.tasks.values():
        items = task.items("tune")
        places = {int(target) for target in items.targets}
        assert len(places) > 1
        for context, choices in items.inputs:
            assert context
            assert len(set(choices)) == 4


# The cache


def _trained(value: float = 1.0) -> Trained:
    return Trained({"model_type": "thing"}, {"w": np.full(4, value, np.float32)})


def test_a_model_is_trained_once(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), []

    def train() -> Trained:
        calls.append(1)
        return _trained()

    first, second = (cache.model("thing", {"seed": 0}, train) for _ in range(2))
    assert len(calls) == 1
    assert (first.trained, second.trained) == (True, False)
    assert first.folder == second.folder
    assert np.array_equal(second.open("thing")["w"].read(), np.ones(4, np.float32))
    cache.model("thing", {"seed": 1}, train)
    assert len(calls) == 2


def test_a_training_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def train() -> Trained:
        raise RunError("the loss is not finite")

    with pytest.raises(RunError, match="the loss is not finite"):
        Cache(tmp_path).model("thing", {}, train)
    assert not [path for path in tmp_path.iterdir() if path.name != ".locks"]


def _train_slowly(root: Path) -> None:
    def train() -> Trained:
        (root / "begun").touch()
        time.sleep(60)
        return _trained()

    Cache(root / "zoo").model("thing", {}, train)


def test_a_training_that_is_killed_leaves_nothing_and_holds_nothing_up(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_train_slowly, args=(tmp_path,))
    process.start()
    while not (tmp_path / "begun").exists():
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    zoo = tmp_path / "zoo"
    assert not [path for path in zoo.iterdir() if path.name != ".locks"]
    assert Cache(zoo).model("thing", {}, _trained).trained


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    folder = cache.model("thing", {}, _trained).folder
    left = tmp_path / f".{folder.name}.abc.unfinished"
    left.mkdir()
    (folder / "training.jsonl").unlink()  # whoever does this has taken the model's word for being whole away
    again = cache.model("thing", {}, _trained)
    assert again.trained
    assert not left.exists()


def test_side_by_side_keeps_the_order_and_raises(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    jobs: dict[str, Any] = {
        f"m{i}": (lambda i=i: cache.model(f"m{i}", {"i": i}, lambda: _trained(i))) for i in range(5)
    }
    kept = side_by_side(jobs, workers=2)
    assert list(kept) == list(jobs)
    assert [float(model.open("m")["w"].read()[0]) for model in kept.values()] == [0, 1, 2, 3, 4]

    def fails() -> Any:
        raise RunError("no")

    with pytest.raises(RunError, match="no"):
        side_by_side({"a": fails, **jobs})


# Data


def test_images_come_to_one_shape() -> None:
    small = np.arange(2 * 16 * 16, dtype=np.uint8).reshape(2, 16, 16)
    large = to_shape(small)
    assert large.shape == (2, 32, 32, 3)
    assert np.array_equal(large[:, ::2, 1::2, 2], small)
    middle = np.arange(28 * 28, dtype=np.uint8).reshape(1, 28, 28)
    padded = to_shape(middle)
    assert np.array_equal(padded[:, 2:30, 2:30, 0], middle)
    assert np.array_equal(padded[0, 0, 2:30, 1], middle[0, 0])
    colour = np.arange(2 * 32 * 32 * 3, dtype=np.int64).reshape(2, 32, 32, 3).astype(np.uint8)
    assert np.array_equal(to_shape(colour), colour)


@pytest.mark.parametrize("shape", [(2, 40, 40), (2, 8, 8, 4)])
def test_images_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="images must be"):
        to_shape(np.zeros(shape, np.uint8))


def test_parts_have_each_class_in_its_share() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    parts = stratified(labels, 500, 200, 100)
    assert [len(part) for part in parts] == [500, 200, 100]
    assert len(set(np.concatenate(parts).tolist())) == 800
    for part in parts:
        shares = np.bincount(labels[part]) / len(part)
        np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=2 / len(part))
    assert [len(part) for part in stratified(labels, 1000, 1000)] == [500, 500]


def test_validation_is_never_from_the_test_images(packs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWRIGHT_DATA", str(packs))
    found = images("mnist")
    splits = image_splits(found, 60, 20, 20)
    for split, source in (("tune", found.train), ("validation", found.train), ("test", found.test)):
        items = splits[split]
        positions = [int(name.rpartition("-")[2]) for name in items.ids]
        assert np.array_equal(items.inputs, source[positions])


# Suite files


def test_bundled_suites() -> None:
    assert {"digits", *OF_PACKS, "clip-vit-b32-8", "clip-vit-l14-8", "flan-t5-base-glue-8"} <= set(SUITES)
    for name in SUITES:
        assert suite(name).name == name
        assert suite(name).title
    assert len(suite("clip-vit-l14-8").file.tasks["sun397"].classes) == 397  # type: ignore[attr-defined]


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("extends: digits\nname: mine\ntasks: [mirror, invert]\nsmoke: {images: 400, hidden: [16]}\n")
    found = suite(path).family(cache=tmp_path / "zoo", budget="smoke")
    assert list(found.tasks) == ["mirror", "invert"]
    assert found.base["layers.0.weight"].shape == (16, 64)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("extends: digit\nname: x\n", "extends: no suite is called 'digit'. Did you mean 'digits'?"),
        ("extends: digits\nname: x\nhiden: [3]\n", "no key is called 'hiden'. Did you mean 'hidden'?"),
        ("extends: digits\nname: x\nhidden: [0]\n", "hidden.0: Input should be greater than or equal to 1"),
        ("extends: digits\nname: x\nbase: {rate: '0.1'}\n", "base.rate: Input should be a valid number"),
        ("name: x\nkind: digit\n", "kind: no suite is of the kind 'digit'. Did you mean 'digits'?"),
        ("- a\n", "a suite is one mapping with name, kind and tasks"),
        ("extends: digits\nname: x\nname: y\n", "name"),
        ("extends: digits\nname: x\nsmoke: 3\n", "smoke must be a mapping of what is smaller"),
        ("extends: digits\nname: a/b\n", "name: String should match pattern"),
    ],
)
def test_files_that_are_wrong(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        suite(path)
    assert complaint in str(caught.value)
    assert "mine.yml" in str(caught.value)


def test_what_is_asked_wrongly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no suite is called 'digit'\. Did you mean 'digits'\?"):
        suite("digit")
    with pytest.raises(InputError, match=r"there is no suite file 'none\.yml'"):
        suite("none.yml")
    with pytest.raises(InputError, match=r"no budget is called 'small'\. Valid: full, smoke\."):
        suite("digits").family(budget="small")
    with pytest.raises(InputError, match="seed must be at least 0, got -1"):
        suite("digits").family(-1)
    path = tmp_path / "mine.yml"
    path.write_text("extends: digits\nname: x\ntasks: [mirror, inverse]\n")
    with pytest.raises(InputError, match=r"tasks: no view of the digits is called 'inverse'\. Did you mean 'invert'\?"):
        suite(path).family(cache=tmp_path)
    pytest.importorskip("torch")
    monkeypatch.delenv("MODELWRIGHT_DATA", raising=False)
    with pytest.raises(InputError, match="needs the data packs, and MODELWRIGHT_DATA is not set"):
        suite("images-vit").family(cache=tmp_path)
    monkeypatch.setenv("MODELWRIGHT_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"there is no file 'images/mnist\.npz' in the data packs"):
        suite("images-vit").family(cache=tmp_path)
    assert not (tmp_path / ".locks").exists()
