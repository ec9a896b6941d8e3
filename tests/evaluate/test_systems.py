"""Systems from references: folders, recipes merged in memory, networks with checkpoints, functions."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
from modelwright.errors import InputError
from modelwright.evaluate import Items, Predictor, systems, task
from modelwright.evaluate._systems import labelled

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

CLASSES = ("cat", "dog", "owl")
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 10, 10, 3), dtype=np.uint8)
TEXTS = ["a good film", "a bad one", "good good good", "bad"] * 3
LABELS = np.arange(12) % 3


def quietly(function: Any, *arguments: Any, **options: Any) -> Any:
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tiny image and text models, two of each from one base."""
    root = tmp_path_factory.mktemp("models")
    vit = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_labels=3, id2label={0: "Owl", 1: "cat", 2: "dog"}, label2id={"Owl": 0, "cat": 1, "dog": 2},
    )  # fmt: skip
    bert = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3,
        max_position_embeddings=8,
    )  # fmt: skip
    for name, kind, config in (
        ("image", transformers.ViTForImageClassification, vit), ("text", transformers.BertForSequenceClassification, bert),
    ):  # fmt: skip
        for seed in (1, 2):
            torch.manual_seed(seed)
            folder = root / f"{name}{seed}"
            model = kind(config)
            with torch.no_grad():
                model.classifier.weight *= 50  # so that answers differ
            quietly(model.save_pretrained, folder)
    for seed in (1, 2):
        quietly(transformers.ViTImageProcessor, size={"height": 8, "width": 8}).save_pretrained(root / f"image{seed}")
        tokenizer(root / f"text{seed}")
    return root


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "a", "good", "bad", "film", "one", "more"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    whole.save_pretrained(folder)


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in models.iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def recipe(name: str, kind: str) -> str:
    text = f"merge_method: linear\nmodels: [{{model: {kind}1}}, {{model: {kind}2}}]\nparameters: {{weight: 0.5}}\n"
    Path(name).write_text(text, encoding="utf-8")
    return name


def one(reference: Any, **options: Any) -> Predictor:
    return systems([reference], **options)[0]


def asked(system: Predictor, about: Any) -> np.ndarray:
    items = about.items()
    return system.for_task(about).checked_probabilities(items, len(about.classes))


IMAGE_TASK = task((IMAGES, LABELS), classes=list(CLASSES), name="pets")
TEXT_TASK = task((TEXTS, LABELS), classes=["x", "y", "z"], name="films")


# --- models of transformers ------------------------------------------------------------------------------------------


def test_an_image_folder_answers_as_in_transformers_with_labels_in_the_tasks_order(here: Path) -> None:
    found = asked(one("image1"), IMAGE_TASK)
    model = quietly(transformers.ViTForImageClassification.from_pretrained, "image1").eval()
    processor = quietly(transformers.AutoImageProcessor.from_pretrained, "image1")
    with torch.inference_mode():
        logits = model(**processor(images=list(IMAGES), return_tensors="pt")).logits.double()
    expected = torch.softmax(logits, 1).numpy()[:, [1, 2, 0]]  # cat, dog, owl
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert np.ptp(found, axis=0).max() > 0.01


def test_a_text_folder_answers_as_in_transformers(here: Path) -> None:
    found = asked(one("text1"), TEXT_TASK)
    model = quietly(transformers.BertForSequenceClassification.from_pretrained, "text1").eval()
    tokens = transformers.AutoTokenizer.from_pretrained("text1")(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**tokens).logits.double()
    np.testing.assert_allclose(found, torch.softmax(logits, 1).numpy(), rtol=1e-9)
    assert np.ptp(found, axis=0).max() > 0.01


def test_texts_longer_than_the_model_are_cut_and_pairs_are_read_together(here: Path) -> None:
    found = one("text1")
    same = task((["a " * 30 + "good", "a " * 30 + "bad", "bad"], LABELS[:3]), classes=["x", "y", "z"])
    answers = asked(found, same)
    np.testing.assert_array_equal(answers[0], answers[1])
    pairs = asked(
        found, task(([("a good", "film"), ("a bad", "one"), ("bad", "film")], LABELS[:3]), classes=["x", "y", "z"])
    )
    assert pairs.shape == (3, 3)
    with pytest.raises(InputError, match="the model reads texts, and the task's inputs are ndarray"):
        asked(found, IMAGE_TASK)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_recipe_is_merged_in_memory_to_the_model_that_its_folder_would_be(here: Path, kind: str) -> None:
    about = {"image": IMAGE_TASK, "text": TEXT_TASK}[kind]
    before = sorted(here.iterdir())
    merged = one(recipe("soup.yml", kind))
    assert sorted(here.iterdir()) == sorted([*before, here / "soup.yml"])  # no temporary files
    mw.merge("soup.yml").save("saved")
    saved = one("saved")
    assert (merged.label, saved.label) == ("soup", "saved")
    assert merged.fingerprint == saved.fingerprint
    assert merged.fingerprint != one(f"{kind}1").fingerprint
    np.testing.assert_array_equal(asked(merged, about), asked(saved, about))
    assert merged.size == saved.size
    in_python = one(mw.merge([f"{kind}1", f"{kind}2"], method="linear", weight=0.5))
    np.testing.assert_array_equal(asked(in_python, about), asked(saved, about))
    assert in_python.made["kind"] == "merge"


@pytest.mark.parametrize("kind", ["image", "text"])
def test_folders_answer_together_from_a_bundle(here: Path, kind: str) -> None:
    inputs = IMAGES if kind == "image" else TEXTS
    names = list(CLASSES) if kind == "image" else ["x", "y", "z"]
    parts = {
        "validation": Items.of(inputs[:6], LABELS[:6], list("abcdef")),
        "test": Items.of(inputs[6:], LABELS[6:], list("ghijkl")),
    }
    about = task(parts, classes=names, name="pets")
    mw.ensemble([f"{kind}1", f"{kind}2"], about).save("together")
    opened = mw.open("together")
    assert isinstance(opened, Predictor)
    expected = np.mean([asked(one(f"{kind}{i}"), about) for i in (1, 2)], axis=0)
    np.testing.assert_allclose(asked(opened, about), expected, atol=1e-6)
    assert {path.suffix for path in Path("together/models").rglob("*") if path.is_file()} <= {
        ".json",
        ".safetensors",
        ".txt",
        ".md",
        ".yml",
    }


def test_what_records_say_of_a_system(here: Path) -> None:
    records = mw.eval(["image1", f"soup={recipe('r.yml', 'image')}"], IMAGE_TASK)
    single, merged = (records.part("pets", label).head for label in ("image1", "soup"))
    assert single.made["kind"] == "single"
    assert single.made["reference"] == "image1"
    assert merged.made["kind"] == "merge"
    assert merged.made["reference"] == "r.yml"
    assert merged.made["recipe"] == Path("r.yml").read_text()
    assert merged.made["seconds"] >= 0
    assert merged.made["versions"]["torch"] == torch.__version__
    assert merged.parameters == single.parameters == sum(p.numel() for p in one("image1").module.parameters())


def test_weights_keep_their_format(here: Path) -> None:
    model = quietly(transformers.ViTForImageClassification.from_pretrained, "image1").to(torch.bfloat16)
    quietly(model.save_pretrained, "half")
    with pytest.raises(
        InputError, match=r"has no preprocessor_config.json, so it is not known how its images are scaled"
    ):
        asked(one("half"), IMAGE_TASK)
    steps = [{"resize": [8, 8]}, {"channels": "first"}, {"scale": [0, 255]}, {"normalise": {"mean": 0.5, "std": 0.5}}]
    pixels = task((IMAGES, LABELS), classes=list(CLASSES), preprocessing=steps)
    found = one("half")
    assert found.module.dtype == torch.bfloat16
    np.testing.assert_allclose(asked(found, pixels), asked(one("image1"), pixels), atol=0.05)
    with pytest.raises(
        InputError, match=r"pixel values must have shape \(n, 3, height, width\), got \(12, 10, 10, 3\)"
    ):
        asked(found, task((IMAGES, LABELS), classes=list(CLASSES), preprocessing=[{"scale": [0, 255]}]))


def test_labels_of_a_model_that_are_not_the_tasks(here: Path) -> None:
    other = task((IMAGES, LABELS), classes=["cat", "dog", "cow"], name="farm")
    with pytest.raises(
        InputError, match=r"'image1' has the labels Owl, cat, dog, and the task the classes cat, dog, cow. .*farm"
    ):
        one("image1").for_task(other)


def changed(folder: Path, **entries: Any) -> str:
    """A copy of image1 with another configuration."""
    import shutil

    shutil.copytree("image1", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))
    return str(folder)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            {"architectures": ["ViTModel"]},
            r"not known how to ask the architecture ViTModel. Give --network MODULE:FUNCTION.*Known",
        ),
        ({"architectures": None}, "it is not known how to ask a checkpoint without architectures in its config.json"),
        ({"architectures": ["NoForImageClassification"]}, "has no NoForImageClassification. Give --network"),
        (
            {"num_hidden_layers": 2},
            r"tensors of ViTForImageClassification are missing: vit.*transformers would fill them with",
        ),
        ({"num_hidden_layers": 0}, "ViTForImageClassification has no place for vit"),
        (
            {"id2label": {"0": "a", "1": "b"}},
            r"'classifier.\w+' has shape \(3,.*\), and ViTForImageClassification's \(2,",
        ),
    ],
)
def test_folders_whose_weights_do_not_fit(here: Path, entries: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        one(changed(here / "odd", **entries))


def test_a_text_model_without_its_tokenizer(here: Path) -> None:
    model = quietly(transformers.BertForSequenceClassification.from_pretrained, "text1")
    quietly(model.save_pretrained, "bare")
    with pytest.raises(InputError, match=r"there is no tokenizer beside the model. It reads texts"):
        one("bare")


def test_the_processor_is_part_of_the_fingerprint(here: Path) -> None:
    same, other = changed(here / "same"), changed(here / "other")
    path = here / "other" / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    assert one(same).fingerprint == one("image1").fingerprint
    assert one(other).fingerprint != one("image1").fingerprint


# --- networks --------------------------------------------------------------------------------------------------------

NETWORK = """
import torch
def build(config):
    return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.9), torch.nn.Linear(4, config.get("classes", 2)))
def nothing(config):
    return 3
def fails(config):
    return config["depth"]
def no_argument():
    return 3
def net():
    torch.manual_seed(0)
    return torch.nn.Linear(2, 2).eval()
def training():
    return torch.nn.Dropout()
def estimator():
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression().fit([[0, 0], [1, 1]], [0, 1])
def function():
    import numpy as np
    return lambda x: np.full((len(x), 2), 0.5)
"""
POINTS = task((np.random.default_rng(1).normal(size=(10, 2)).astype(np.float32), ["a", "b"] * 5), name="points")


@pytest.fixture
def net(here: Path) -> Path:
    from safetensors.torch import save_file

    Path("net.py").write_text(NETWORK)
    for seed in (0, 1):
        torch.manual_seed(seed)
        module = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.9), torch.nn.Linear(4, 2))
        folder = here / f"net{seed}"
        folder.mkdir()
        save_file(module.state_dict(), folder / "model.safetensors")
        torch.save(module.state_dict(), here / f"net{seed}.pt")
    return here


@pytest.mark.parametrize("reference", ["net0", "net0/model.safetensors", "net0.pt"])
def test_a_checkpoint_with_a_network(net: Path, reference: str) -> None:
    found = one(reference, network="net.py:build")
    weights = torch.load("net0.pt", weights_only=True)
    x = torch.from_numpy(POINTS.items().inputs)
    logits = (x @ weights["0.weight"].T + weights["0.bias"]) @ weights["2.weight"].T + weights["2.bias"]
    np.testing.assert_allclose(
        asked(found, POINTS), torch.softmax(logits.double(), 1).numpy(), rtol=1e-5
    )  # and no dropout
    assert found.made["network"] == "net.py:build"


def test_a_recipe_with_a_network(net: Path) -> None:
    Path("r.yml").write_text(
        "merge_method: linear\nmodels: [{model: net0}, {model: net1}]\nparameters: {weight: 0.5}\n"
    )
    found = one("r.yml", network="net.py:build")
    both = [torch.load(f"net{i}.pt", weights_only=True) for i in (0, 1)]
    for name, value in found.module.state_dict().items():
        torch.testing.assert_close(value, (both[0][name] + both[1][name]) / 2)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("net.py:nothing", "'net.py:nothing' returned a int. It must return the nn.Module."),
        ("net.py:fails", r"'net.py:fails' fails: KeyError: 'depth'. \[.*net.py:8\]"),
        ("net.py:no_argument", "'net.py:no_argument' cannot be called with 1 argument: too many positional arguments"),
        ("net.py:buildd", "has no function 'buildd'. Did you mean 'build'?"),
        ("build", "a function is named as module:function or file.py:function, got 'build'"),
    ],
)
def test_networks_that_are_none(net: Path, network: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        one("net0", network=network)


def test_tensors_that_do_not_fit_the_network(net: Path) -> None:
    def other(config: Any) -> Any:
        return torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Linear(5, 2))

    with pytest.raises(InputError) as error:
        one("net0", network=other)
    said = str(error.value)
    assert "tensors of the network are missing: 1.weight, 1.bias." in said
    assert "the network has no place for 2.weight, 2.bias. [net0]" in said or "no place for 2.bias, 2.weight" in said
    assert "'0.weight' has shape (4, 2), and the network's (5, 2) (2 such tensors). [net0]" in said


# --- functions and objects ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [("net", "ModulePredictor"), ("estimator", "EstimatorPredictor"), ("function", "FunctionPredictor")],
)
def test_functions_that_return_systems(net: Path, name: str, kind: str) -> None:
    found = one(f"net.py:{name}")
    assert (type(found).__name__, found.label) == (kind, name)
    assert asked(found, POINTS).shape == (10, 2)
    assert found.fingerprint
    assert one(f"mine=net.py:{name}").label == "mine"


def test_a_function_is_known_by_its_file(net: Path) -> None:
    before = one("net.py:function").fingerprint
    Path("changed.py").write_text(NETWORK + "# a change\n")
    Path("same.py").write_text(NETWORK)
    assert one("same.py:function").fingerprint == before
    assert one("changed.py:function").fingerprint != before


def test_a_function_is_known_by_what_it_refers_to(net: Path) -> None:
    """One file, whose function answers by what the environment says."""
    source = "import os\ndef made():\n    at = float(os.environ['AT'])\n    return lambda x: x > at\n"
    Path("by.py").write_text(source)
    prints: list[str] = []
    for at in ("1", "1", "2"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AT", at)
            prints.append(one("by.py:made").fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_a_module_in_train_mode(net: Path) -> None:
    with pytest.raises(InputError, match="'training' is in train mode"):
        one("net.py:training")


def test_labels(here: Path) -> None:
    assert labelled("a=b") == ("a", "b")
    assert labelled("soup=x/y=z.yml") == ("soup", "x/y=z.yml")
    assert labelled("x/y=z") == (None, "x/y=z")
    Path("run=3").mkdir()
    assert labelled("run=3") == (None, "run=3")
    assert [s.label for s in systems({"x": "image1", "y": lambda x: x})] == ["x", "y"]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nothing", "there is no model 'nothing'. Give a folder, a recipe file, a checkpoint with --network"),
        ("owner/name", "models on the Hub have to be downloaded first"),
        (3, "cannot be evaluated: it is of the type int"),
    ],
)
def test_what_is_no_system(here: Path, reference: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        one(reference)
    with pytest.raises(InputError, match="evaluation needs systems, got none"):
        systems([])


def test_nothing_is_unpickled(here: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (here / "evil",))

    Path("evil.pkl").write_bytes(pickle.dumps(Evil()))
    torch.save({"w": Evil()}, "evil.pt")
    for name in ("evil.pkl", "evil.pt"):
        with pytest.raises(InputError):
            one(name, network=lambda config: torch.nn.Linear(1, 1))
    assert not (here / "evil").exists()


def test_eval_in_python(net: Path) -> None:
    records = mw.eval(
        {"one": "net.py:net", "two": "net.py:estimator"}, POINTS, out="records", metric="log_loss", limit=5
    )
    assert records.systems == ["one", "two"]
    assert records.part("points", "one").head.metric == "log_loss"
    assert records.part("points", "one").table.num_rows == 5
    assert sorted(p.name for p in Path("records").rglob("*.parquet")) == ["one.test.parquet", "two.test.parquet"]
    items = Items.of(np.zeros((2, 2)), np.array([0, 1]))
    assert mw.eval(lambda x: np.full((len(x), 2), 0.5), items).tasks == ["data"]
    with pytest.raises(InputError, match="there is no split 'tune'"):
        mw.eval("nothing", POINTS, split="tune")  # said before models are looked for
