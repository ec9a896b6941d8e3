"""The model card: what it says, where that comes from, and that strangers' texts stay texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import modelwright as mw
import tiny_folders as tiny
from modelwright.engine import lineage


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        tiny.model(tmp_path / name, seed)
    return tmp_path


def say(folder: str, **metadata: Any) -> None:
    """A model card with these metadata."""
    Path(folder, "README.md").write_text(f"---\n{yaml.safe_dump(metadata)}---\n# {folder}\n", encoding="utf-8")


def text_of(folder: str) -> str:
    return Path(folder, "README.md").read_text(encoding="utf-8")


def front_matter(folder: str) -> dict[str, Any]:
    return yaml.safe_load(text_of(folder).split("---\n")[1])


def section(folder: str, title: str) -> str:
    return text_of(folder).split(f"\n## {title}\n")[1].split("\n## ")[0].strip()


def average(out: str, *models: str) -> None:
    mw.merge(list(models), method="linear").save(out)


def test_the_hub_reads_the_front_matter_without_loss(here: Path) -> None:
    from huggingface_hub import ModelCard

    say("a", license="mit", base_model="org/start")
    say("b", license="apache-2.0", base_model=["org/start", "org/other"])
    average("out", "a", "b")
    figures = [figure(task="x: |#'\"", ours=True), figure(system="a", ours=False)]
    mw.card("out", evaluations=figures)
    card = ModelCard(text_of("out"))
    assert card.data.base_model == ["org/start", "org/other"]
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["merge", "modelwright", "linear"]
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("x: |#'\"", "accuracy", 0.75)
    assert result.dataset_split == "test"
    again = yaml.safe_load(card.data.to_yaml())
    assert again == front_matter("out")
    assert again["base_model_relation"] == "merge"


def figure(**changes: Any) -> dict[str, Any]:
    return {
        "task": "digits", "split": "test", "system": "out", "ours": True, "metric": "accuracy", "title": "accuracy",
        "figure": 0.75, "low": 0.7, "high": 0.8, "level": 0.95, "items": 200, **changes,
    }  # fmt: skip


def test_lineage_goes_through_merges_to_what_cards_name(here: Path) -> None:
    say("a", license="mit", base_model="org/start", base_model_relation="finetune")
    say("b", license="llama3")
    mw.merge(["a", "b"], base="base", method="ties", density=0.5).save("one")
    average("two", "one", "b")
    average("three", "two", "a")
    assert section("three", "Lineage") == "\n".join([
        "```text",
        "this model: Linear (model soup)",
        "├── two, linear of",
        "│   ├── one, ties of",
        "│   │   ├── a, licence mit, finetune of",
        "│   │   │   └── org/start",
        "│   │   ├── b, licence llama3",
        "│   │   └── base",
        "│   └── b, licence llama3",
        "└── a, licence mit, finetune of",
        "    └── org/start",
        "```",
    ])  # fmt: skip
    assert front_matter("three")["base_model"] == ["org/start"]  # the nearest that is on the Hub
    assert "- `two: one: base`: not stated\n" in text_of("three")


def test_lineage_survives_the_inputs(here: Path) -> None:
    say("a", license="mit")
    average("one", "a", "b")
    average("two", "one", "b")
    before = section("two", "Lineage")
    for name in ("a", "b", "one"):
        Path(name).rename(f"{name}-gone")
    mw.card("two")
    assert section("two", "Lineage") == before
    assert mw.verify("two").problems == ()


def test_steps_are_generations(here: Path) -> None:
    Path("r.yml").write_text(
        "steps:\n- name: first\n  merge_method: linear\n  models: [{model: a}, {model: b}]\n  parameters: {weight: 1}\n"
        "- name: second\n  merge_method: linear\n  models: [{model: first}, {model: base}]\n  parameters: {weight: 1}\n",
        encoding="utf-8",
    )
    mw.merge("r.yml").save("out")
    tree = section("out", "Lineage").splitlines()
    assert tree[2:] == ["├── first, linear of", "│   ├── a", "│   └── b", "└── base", "```"]


def test_a_conflict_two_generations_back_is_found(here: Path) -> None:
    say("a", license="gpl-2.0")
    say("b", license="apache-2.0")
    say("base", license="mit")
    average("one", "a", "b")
    assert section("one", "Licence").startswith("**Conflict:** gpl-2.0 asks for gpl-2.0, which cannot take in ")
    assert "license" not in front_matter("one")
    average("two", "one", "base")
    assert section("two", "Licence").startswith("**Conflict:** ")
    assert "- `one: a`: gpl-2.0\n" in text_of("two")


def test_other_stands_for_the_name_beside_it(here: Path) -> None:
    say("a", license="other", license_name="llama3.1", license_link="https://example.org")
    say("b", license=["mit"])
    average("out", "a", "b")
    assert front_matter("out")["license"] == "llama3.1"
    assert "- llama3.1: its name begins with 'Llama'" in section("out", "Licence")


def test_terms_that_add_up_have_no_licence_of_one_name(here: Path) -> None:
    say("a", license="gemma")
    say("b", license="bigcode-openrail-m")
    average("out", "a", "b")
    assert (front_matter("out")["license"], front_matter("out")["license_name"]) == ("other", "terms-of-the-inputs")


def test_adapters_bring_their_licences(here: Path) -> None:
    say("a", license="mit")
    (here / "tuned").mkdir()
    from safetensors.numpy import save_file

    at = "base_model.model.model.layers.0.self_attn.q_proj"
    import numpy as np

    lora = {f"{at}.lora_A.weight": np.ones((1, 4), "f4"), f"{at}.lora_B.weight": np.ones((4, 1), "f4")}
    save_file(lora, here / "tuned/adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    (here / "tuned/adapter_config.json").write_text(json.dumps(config))
    say("tuned", license="cc-by-nc-4.0", base_model="org/start")
    average("out", "a+tuned", "a")
    assert section("out", "Licence").startswith("**Non-commercial, under cc-by-nc-4.0:**")
    assert "└── and an adapter, licence cc-by-nc-4.0" in section("out", "Lineage")


# --- strangers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matter", ["[" * 60_000, "a: &a [*a]", "license: {x: y}", "!!python/object:os.system x", "- 1"]
)
def test_odd_front_matter_is_no_licence(matter: str, here: Path) -> None:
    Path("a/README.md").write_text(f"---\n{matter}\n---\n", encoding="utf-8")
    average("out", "a", "b")
    assert "- `a`: not stated" in text_of("out")


def test_a_manifest_cannot_write_into_the_card(here: Path) -> None:
    evil = "x`\n```\n# Heading\n<script>"
    inputs = [{"model": evil, "licence": evil, "hub": 7, "tensors": {}}]
    content = {"made_by": {"modelwright": "0"}, "method": evil, "inputs": inputs, "files": {}}
    Path("a/manifest.json").write_text(json.dumps(content), encoding="utf-8")
    average("out", "a", "b")
    lines = text_of("out").splitlines()
    assert "# Heading" not in lines
    assert sum(line.startswith("```") for line in lines) == 6  # of the example, the tree and the recipe


def test_lineage_is_cut_where_it_has_no_end(here: Path) -> None:
    node: dict[str, Any] = {"method": "m", "inputs": [{"model": "last"}]}
    for _ in range(25):
        node = {"method": "m", "inputs": [{"model": "x", "lineage": node}, {"model": "y"}]}
    Path("a/manifest.json").write_text(json.dumps({"made_by": {"modelwright": "0"}, **node}), encoding="utf-8")
    found, depth = lineage(Path("a")), 0
    while "lineage" in found["inputs"][0]:
        found, depth = found["inputs"][0]["lineage"], depth + 1
    assert depth == 19
    wide = {"made_by": {"modelwright": "0"}, "method": "m", "inputs": [{"model": "x"}] * 5000}
    Path("b/manifest.json").write_text(json.dumps(wide), encoding="utf-8")
    assert len(lineage(Path("b"))["inputs"]) == 1000


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"made_by": 3}', '{"made_by": {"modelwright": 1}, "inputs": {"a": 1}}', "\xff"]
)
def test_other_manifests_say_nothing(content: str, here: Path) -> None:
    Path("a/manifest.json").write_text(content, encoding="latin-1")
    assert lineage(Path("a")) == {}


# --- mw.card ---------------------------------------------------------------------------------------------------------


def test_writing_it_again_changes_nothing(here: Path) -> None:
    average("out", "a", "b")
    before = tiny.contents(Path("out"))
    mw.card("out")
    assert tiny.contents(Path("out")) == before


def test_figures_stay_until_they_are_taken_out(here: Path) -> None:
    average("out", "a", "b")
    plain = text_of("out")
    assert section("out", "Evaluation") == "Not measured."
    mw.card("out", evaluations=[figure(), figure(system="a|b", ours=False, figure=0.5, low=None, high=None)])
    mw.card("out")
    rows = section("out", "Evaluation").splitlines()
    assert rows[2] == "| digits | test | 200 | **this model** | accuracy | 0.75 | 0.7 to 0.8 |"
    assert rows[3] == "| digits | test | 200 | a\\|b | accuracy | 0.5 | none |"
    assert len(front_matter("out")["model-index"][0]["results"]) == 1  # the other's figures are not this model's
    assert mw.verify("out").problems == ()
    mw.card("out", evaluations=[])
    assert text_of("out") == plain


def test_an_edited_card_is_not_written_over(here: Path) -> None:
    average("out", "a", "b")
    with Path("out/README.md").open("a") as file:
        file.write("## Intended use\nMine.\n")
    with pytest.raises(
        mw.InputError, match=r"README.md' was changed since modelwright wrote it\. Take it as it is with --keep"
    ):
        mw.card("out")
    assert mw.verify("out").problems != ()
    mw.card("out", keep=True)
    assert mw.verify("out").problems == ()
    assert text_of("out").endswith("## Intended use\nMine.\n")
    mw.card("out", overwrite=True)
    assert "Intended use" not in text_of("out")


def test_a_licence_is_set_by_hand_with_its_reason(here: Path) -> None:
    average("out", "a", "b")
    mw.card("out", licence="mit", reason="All three are ours.")
    assert front_matter("out")["license"] == "mit"
    assert "Set by hand: mit. All three are ours." in section("out", "Licence")
    assert "**Undetermined:** an input does not state its licence." in section("out", "Licence")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"licence": "mti", "reason": "x"}, "'mti' is no licence that is known here. Did you mean 'mit'?"),
        ({"licence": "mit"}, "a licence that is set by hand needs its reason"),
        ({"reason": "x"}, "a licence that is set by hand needs its reason"),
        ({"keep": True, "evaluations": []}, "--keep takes the card as it is"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str, here: Path) -> None:
    average("out", "a", "b")
    before = tiny.contents(Path("out"))
    with pytest.raises(mw.InputError) as caught:
        mw.card("out", **options)
    assert str(caught.value).startswith(message)
    assert tiny.contents(Path("out")) == before


def test_a_manifest_from_before_has_a_card_too(here: Path) -> None:
    average("out", "a", "b")
    manifest = json.loads(Path("out/manifest.json").read_text())
    for key in ("title", "paper", "output"):
        del manifest[key]
    for entry in manifest["inputs"]:
        del entry["licence"]
    Path("out/manifest.json").write_text(json.dumps(manifest))
    mw.card("out")
    assert text_of("out").split("---\n")[2].startswith("\n# linear: a merge of 2 checkpoints\n")
    del manifest["donor"]
    Path("out/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(mw.InputError, match="the manifest is not as modelwright writes it, or is damaged"):
        mw.card("out", overwrite=True)


def test_classes_are_named_in_their_order(here: Path) -> None:
    tiny.model(here / "c", 3, architectures=["BertForSequenceClassification"], id2label={"0": "bad", "1": "good"})
    average("out", "c", "c")
    assert section("out", "Outputs") == "One logit a class, in this order: `0` `bad`, `1` `good`."
    assert front_matter("out")["pipeline_tag"] == "text-classification"


def test_records_become_figures(here: Path) -> None:
    pytest.importorskip("pyarrow")
    from comparing_records import part
    from modelwright.evaluate import Records, evaluations

    records = Records([part("x", "out", 0.8, kind="merge"), part("x", "a", 0.6), part("y", "a", 0.6)])
    found = evaluations(records, "out")
    assert [(row["task"], row["system"], row["ours"], row["items"]) for row in found] == [
        ("x", "out", True, 200), ("x", "a", False, 200),
    ]  # fmt: skip
    assert found[0]["figure"] == records.part("x", "out").figure
    assert found[0]["low"] < found[0]["figure"] < found[0]["high"]
    with pytest.raises(mw.InputError, match=r"there are no records of 'ot'\. Did you mean 'out'\?"):
        evaluations(records, "ot")
