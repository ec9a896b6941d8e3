"""The published suites: real loading code on tiny models and data sets that lie under the ids of the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.errors import InputError
from modelwright.evaluate import run
from modelwright.suites import suite

pytestmark = pytest.mark.torch
pytest.importorskip("transformers")
pytest.importorskip("pyarrow")
pytest.importorskip("PIL")

TASKS = ("mnist", "svhn")


@pytest.fixture(scope="module")
def clip_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from suites.small_models import write_clip, write_pictures

    root = tmp_path_factory.mktemp("hub")
    write_clip(root, "openai/clip", [f"someone/clip_{task}" for task in TASKS])
    for data in ("someone/mnist/data", "someone/svhn/cropped_digits"):
        write_pictures(root / data, "train", [0, 1, 2] * 8)
        write_pictures(root / data, "test", [0, 1, 2] * 3)
        write_pictures(root / data, "contrast", [2] * 5)  # another split of the same folder
    return root


def clip_file(folder: Path, root: Path, extra: str = "") -> Path:
    path = folder / "mine.yml"
    path.write_text(
        f"""
name: clip-small
kind: clip
title: Two tasks
root: {root}
base: openai/clip
experts: {{mnist: someone/clip_mnist, svhn: someone/clip_svhn}}
items: {{tune: 12, validation: 6}}
tasks:
  mnist:
    data: someone/mnist
    prompts: ["a photo of the number: {{}}."]
    classes: ["0", "1", "2"]
  svhn:
    data: someone/svhn
    config: cropped_digits
    prompts: ["a photo of {{}}.", "the {{}}."]
    classes: ["0", "1", "2"]
{extra}""",
        encoding="utf-8",
    )
    return path


def test_clip_loads_merges_and_answers(clip_root: Path, tmp_path: Path) -> None:
    family = suite(clip_file(tmp_path, clip_root)).family(cache=tmp_path / "cache")
    assert list(family.tasks) == list(TASKS)
    assert family.multitask is None
    assert all(name.startswith("vision_model.") for name in family.base)
    assert set(family.base) == set(family.experts["mnist"])
    assert {split: len(family.tasks["svhn"].items(split)) for split in ("tune", "validation", "test")} == {
        "tune": 12, "validation": 6, "test": 9
    }  # fmt: skip
    merged = mw.merge(list(family.experts.values()), base=family.base, method="task_arithmetic", lambda_=0.5)
    systems = [family.system(family.base, "base"), family.system(merged, "merged")]
    records = run(systems, list(family.tasks.values()))
    assert {part.head.task for part in records} == set(TASKS)
    assert systems[0].fingerprint != systems[1].fingerprint


def test_clip_answers_as_transformers_does(clip_root: Path, tmp_path: Path) -> None:
    import io

    import torch
    from PIL import Image
    from transformers import AutoTokenizer, CLIPModel

    family = suite(clip_file(tmp_path, clip_root)).family(cache=tmp_path / "cache")
    task = family.tasks["svhn"]
    items = task.items("test")
    found = family.system(family.base, "base").for_task(task).probabilities(items.inputs, 3)

    folder = clip_root / "openai/clip"
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    import transformers

    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    pixels = kind.from_pretrained(folder)(
        images=[Image.open(io.BytesIO(b)).convert("RGB") for b in items.inputs], return_tensors="pt"
    )
    with torch.inference_mode():
        images = model.visual_projection(model.vision_model(pixel_values=pixels["pixel_values"]).pooler_output)
        rows = []
        for label in task.classes:
            texts = tokenizer([f"a photo of {label}.", f"the {label}."], return_tensors="pt", padding=True)
            each = model.text_projection(model.text_model(**texts).pooler_output)
            mean = (each / each.norm(dim=1, keepdim=True)).mean(dim=0)
            rows.append(mean / mean.norm())
        cosines = (images / images.norm(dim=1, keepdim=True)) @ torch.stack(rows).T
        wanted = torch.softmax(model.logit_scale.exp() * cosines, dim=1).numpy()
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-6)


def test_other_prompts_projections_and_preparation_are_another_family(clip_root: Path, tmp_path: Path) -> None:
    import json
    import shutil

    from safetensors.numpy import save_file

    path = clip_file(tmp_path, clip_root)
    first = suite(path).family(cache=tmp_path / "cache")
    assert first.fixed
    assert suite(path).family(cache=tmp_path / "cache").fingerprint == first.fingerprint
    path.write_text(path.read_text().replace("the {}.", "one {}."))
    prompts = suite(path).family(cache=tmp_path / "cache")
    root = tmp_path / "hub"
    shutil.copytree(clip_root, root)
    config = root / "openai/clip/preprocessor_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "image_mean": [0.1, 0.2, 0.3]}))
    prepared = suite(clip_file(tmp_path, root)).family(cache=tmp_path / "cache")
    other = tmp_path / "other"
    shutil.copytree(clip_root, other)
    arrays = mw.open(clip_root / "openai/clip").arrays()
    save_file(
        {n: np.array(2 * a if n == "visual_projection.weight" else a) for n, a in arrays.items()},
        other / "openai/clip/model.safetensors",
    )
    projected = suite(clip_file(tmp_path, other)).family(cache=tmp_path / "cache")
    families = [first, prompts, prepared, projected]
    assert len({family.fingerprint for family in families}) == 4
    assert len({family.system(first.base, "base").fingerprint for family in families}) == 4


def test_clip_heads_are_kept(clip_root: Path, tmp_path: Path) -> None:
    path = clip_file(tmp_path, clip_root)
    suite(path).family(cache=tmp_path / "cache")
    (heads,) = (tmp_path / "cache").glob("clip-small-heads-*")
    then = heads.stat().st_mtime_ns
    suite(path).family(cache=tmp_path / "cache")
    assert heads.stat().st_mtime_ns == then


@pytest.mark.parametrize(
    ("remove", "complaint"),
    [
        ("someone/clip_svhn", "there is no model 'someone/clip_svhn' under root. It is looked for as root/owner/name."),
        ("openai/clip", "there is no model 'openai/clip' under root"),
    ],
)
def test_a_model_that_is_not_there(clip_root: Path, tmp_path: Path, remove: str, complaint: str) -> None:
    root = tmp_path / "hub"
    root.mkdir()
    for owner in ("openai/clip", "someone/clip_mnist", "someone/clip_svhn"):
        if owner != remove:
            (root / owner).parent.mkdir(exist_ok=True)
            (root / owner).symlink_to(clip_root / owner)
    with pytest.raises(InputError, match=complaint):
        suite(clip_file(tmp_path, root)).family(cache=tmp_path / "cache")


def test_a_data_set_that_is_not_there_is_missed_when_it_is_read(clip_root: Path, tmp_path: Path) -> None:
    path = clip_file(tmp_path, clip_root)
    path.write_text(path.read_text().replace("data: someone/mnist", "data: someone/none"))
    family = suite(path).family(cache=tmp_path / "cache")
    with pytest.raises(InputError, match="no parquet files of the split 'test' of the data set 'someone/none'"):
        family.tasks["mnist"].items("test")


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
    for name in ("clip-vit-b32-8", "flan-t5-base-glue-8"):
        with pytest.raises(InputError, match=r"cannot open the published model '[\w/-]+'.*say root: FOLDER in a suite"):
            suite(name).family(cache=tmp_path / "cache")


def test_every_task_has_an_expert(clip_root: Path, tmp_path: Path) -> None:
    path = clip_file(tmp_path, clip_root)
    path.write_text(path.read_text().replace("svhn: someone/clip_svhn", "other: someone/clip_svhn"))
    with pytest.raises(
        InputError, match="every task needs an expert of its name, and every expert a task; not so: other, svhn"
    ):
        suite(path)


@pytest.fixture(scope="module")
def t5_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from suites.small_models import write_parquet, write_t5

    root = tmp_path_factory.mktemp("hub")
    write_t5(root, "google/t5", ["someone/t5_cola", "someone/t5_stsb"])
    for split, count, ship in (("train", 40, "a ship"), ("validation", 10, "the ship")):
        cola: dict[str, Any] = {"sentence": [f"{ship} on the sea"] * count, "label": [i % 2 for i in range(count)]}
        stsb: dict[str, Any] = {
            "a": [ship] * count,
            "b": ["the sea"] * count,
            "label": [i % 5 + 0.5 for i in range(count)],
        }
        write_parquet(root / "nyu/glue/cola", split, cola)
        write_parquet(root / "nyu/glue/stsb", split, stsb)
    return root


def t5_file(folder: Path, root: Path) -> Path:
    path = folder / "mine.yml"
    path.write_text(
        f"""
name: t5-small
kind: t5
title: Two tasks
root: {root}
base: google/t5
experts: {{cola: someone/t5_cola, stsb: someone/t5_stsb}}
items: {{tune: 20, validation: 10}}
max_tokens: 4
tasks:
  cola: {{data: nyu/glue, config: cola, test: validation, prompt: "{{sentence}} yes or no", labels: ["no", "yes"]}}
  stsb: {{data: nyu/glue, config: stsb, test: validation, prompt: "{{a}} on {{b}}"}}
""",
        encoding="utf-8",
    )
    return path


def test_t5_loads_merges_and_answers(t5_root: Path, tmp_path: Path) -> None:
    family = suite(t5_file(tmp_path, t5_root)).family()
    cola, stsb = family.tasks["cola"], family.tasks["stsb"]
    assert cola.items("test").targets[:2] == ["no", "yes"]
    assert cola.items("test").inputs[0] == "the ship on the sea yes or no"
    assert not set(cola.items("validation").ids) & set(cola.items("tune").ids)
    merged = mw.merge(list(family.experts.values()), method="linear")
    system = family.system(merged, "merged")
    records = run([system], [cola])
    assert len(records.part("cola", "merged").ids) == 10
    assert stsb.score(system, stsb.items("test")).scores.shape == (10,)


def test_other_lengths_of_answers_are_another_family(t5_root: Path, tmp_path: Path) -> None:
    path = t5_file(tmp_path, t5_root)
    first = suite(path).family()
    path.write_text(path.read_text().replace("max_tokens: 4", "max_tokens: 5"))
    longer = suite(path).family()
    assert (first.fixed, first.fingerprint) != (True, longer.fingerprint)
    assert first.fixed
    assert first.system(first.base, "base").fingerprint != longer.system(first.base, "base").fingerprint


def test_there_is_no_ensemble_of_texts(t5_root: Path, tmp_path: Path) -> None:
    from modelwright.suites import Settings, leaderboard, sweep

    path = t5_file(tmp_path, t5_root)
    text = path.read_text().replace('prompt: "{a} on {b}"', 'prompt: "{a} on {b}", labels: [a, b, c, d, e]')
    path.write_text(text)
    done = sweep(suite(path), "linear", out=tmp_path / "runs", settings=Settings(seeds=2, budget=1))
    cells = {(cell.label, cell.seed): cell for cell in done.cells}
    assert {seed for _, seed in cells} == {0}
    cell = cells["ensemble", 0]
    assert (cell.status, cell.reason) == (
        "skipped", "the experts' answers to cola, stsb are texts, and there is no mean of texts"
    )  # fmt: skip
    assert cells["base", 0].status == "done"
    board = leaderboard(tmp_path / "runs")
    assert "- ensemble skipped (seed 0): the experts' answers" in board.markdown()


def test_t5_answers_as_transformers_does(t5_root: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    from modelwright.evaluate import Sampling

    family = suite(t5_file(tmp_path, t5_root)).family()
    prompts = ["the ship on the sea", "the sea", "yes no the ship"]
    found = family.system(family.experts["cola"], "expert").texts(prompts, Sampling(max_tokens=4))
    folder = t5_root / "someone/t5_cola"
    model, tokenizer = T5ForConditionalGeneration.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for prompt, answer in zip(prompts, found, strict=True):
        with torch.inference_mode():
            ids = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=4, do_sample=False)
        assert answer.text == tokenizer.decode(ids[0], skip_special_tokens=True)


def test_answers_that_are_no_numbers_count_as_zero() -> None:
    from modelwright.suites._t5 import _number

    assert [_number(text) for text in ("4.0", " 3 ", "yes", "", "nan", "inf")] == [4.0, 3.0, 0.0, 0.0, 0.0, 0.0]
