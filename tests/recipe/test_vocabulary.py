"""Merging models whose vocabularies differ: rows meet by token, the output loads, and nothing becomes garbled in silence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("tokenizers")
import modelwright as mw
import tiny_folders as folders
import tiny_tokenizers as tiny
from modelwright.api import Job, registry
from modelwright.cli._app import run
from modelwright.recipe import Plan

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()  # what saving models has said
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base with padding, a fine-tune with a further special token, and a model with another vocabulary."""
    monkeypatch.chdir(tmp_path)
    base = tiny.byte_level()
    tiny.model(tmp_path / "base", base, 0, rows=320)
    tiny.model(tmp_path / "chat", tiny.with_added(base, tiny.START), 1)
    tiny.model(tmp_path / "german", tiny.byte_level(tiny.GERMAN), 2, rows=310)
    return tmp_path


def recipe(*models: str, method: str = "linear", base: str | None = "base", weight: float = 1.0, **more: Any) -> Path:
    parameters = {"weight": weight} if method != "slerp" else {}
    data: dict[str, Any] = {"merge_method": method, "models": [{"model": m, "parameters": parameters} for m in models]}
    data |= ({"base_model": base} if base else {}) | more
    path = Path("recipe.yml")
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def plan(path: Path) -> Plan:
    return Job.from_recipe(path, [], registry()).plans()[-1]


def vocabulary(folder: str) -> dict[str, int]:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(f"{folder}/tokenizer.json").get_vocab(with_added_tokens=True)


def rows(folder: str, name: str = EMBEDDING) -> dict[str, Any]:
    """A folder's rows by token."""
    array = folders.read(Path(folder))[name]
    return {text: array[number] for text, number in vocabulary(folder).items() if number < len(array)}


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
@pytest.mark.parametrize("source", ["base", "union", "german"])
def test_rows_meet_by_token(here: Path, source: str, name: str) -> None:
    mw.merge(recipe("base", "german", tokenizer={"source": source}, allow_retokenization=True)).save("out")
    base, german, out = rows("base", name), rows("german", name), rows("out", name)
    expected = {"base": base.keys(), "german": german.keys(), "union": base.keys() | german.keys()}[source]
    assert out.keys() == expected
    for text, row in out.items():
        one = base.get(text, german.get(text))
        other = german.get(text, one)
        np.testing.assert_allclose(row, (one + other) / 2, rtol=1e-6, err_msg=text)
    count = {"base": 320, "german": 310, "union": max(320, len(expected))}[source]
    assert folders.read(Path("out"))[name].shape == (count, folders.HIDDEN)
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == count


def test_a_method_sees_no_change_where_a_model_lacks_a_token(here: Path) -> None:
    mw.merge(
        recipe("german", method="task_arithmetic", weight=0.7, tokenizer={"source": "union"}, allow_retokenization=True)
    ).save("out")
    base, german, out = rows("base"), rows("german"), rows("out")
    for text in base.keys() - german.keys():
        np.testing.assert_array_equal(out[text], base[text])
    for text in german.keys() - base.keys():
        np.testing.assert_array_equal(out[text], german[text])


def test_padding_is_kept_and_used_before_rows_are_added(here: Path) -> None:
    mw.merge(recipe("base", "chat", tokenizer_source="union")).save("out")
    made = folders.read(Path("out"))[EMBEDDING]
    assert made.shape[0] == 320
    base, chat = (folders.read(Path(name))[EMBEDDING] for name in ("base", "chat"))
    size = len(vocabulary("base"))
    np.testing.assert_array_equal(made[size], chat[size])
    np.testing.assert_array_equal(made[size + 1 :], base[size + 1 :])
    assert vocabulary("out") == vocabulary("chat")


@pytest.mark.parametrize(("step", "count"), [(64, 320), (7, 322), (128, 384)])
def test_rows_are_padded_to_a_multiple_with_the_mean(here: Path, step: int, count: int) -> None:
    settings = {"source": "base", "pad_to_multiple_of": step}
    mw.merge(recipe("base", "chat", tokenizer=settings)).save("out")
    made = folders.read(Path("out"))[EMBEDDING]
    assert made.shape[0] == count
    if count > 320:
        sums = [folders.read(Path(name))[EMBEDDING][: len(vocabulary(name))].mean(0) for name in ("base", "chat")]
        np.testing.assert_allclose(made[-1], np.mean(sums, 0), rtol=1e-5, atol=1e-6)


def test_equal_vocabularies_with_other_padding_come_together(here: Path) -> None:
    tiny.model(here / "padded", tiny.byte_level(), 5, rows=304)
    mw.merge(recipe("base", "padded", tokenizer={"source": "base"})).save("out")
    one, other, made = (folders.read(Path(name))[EMBEDDING] for name in ("base", "padded", "out"))
    np.testing.assert_allclose(made[:304], (one[:304] + other) / 2, rtol=1e-6)
    np.testing.assert_array_equal(made[304:], one[304:])


def test_single_tokens(here: Path) -> None:
    tokens = {
        "Ġthe": {"source": "german", "force": True}
        if "Ġthe" in vocabulary("german")
        else {"source": {"kind": "zero"}, "force": True},
        "<|tool|>": {"source": {"kind": "model_token", "model": "chat", "token": tiny.START}},
        "<|none|>": {"source": {"kind": "zero"}},
        "<|seven|>": {"source": {"kind": "model_token", "model": "base", "token_id": 7}},
        "<|new|>": {},
    }
    path = recipe("base", "chat", "german", tokenizer={"source": "base", "tokens": tokens})
    found = plan(path)
    assert found.vocabulary is not None
    assert any("no model has '<|new|>'" in finding for finding in found.vocabulary.findings) is False
    mw.merge(path).save("out")
    out = rows("out")
    np.testing.assert_allclose(out["Ġthe"], np.zeros(folders.HIDDEN))
    np.testing.assert_allclose(out["<|tool|>"], rows("chat")[tiny.START], rtol=1e-6)
    assert not out["<|none|>"].any()
    np.testing.assert_allclose(out["<|seven|>"], folders.read(Path("base"))[EMBEDDING][7], rtol=1e-6)
    means = [np.mean(list(rows(name).values()), axis=0) for name in ("base", "chat", "german")]
    np.testing.assert_allclose(out["<|new|>"], np.mean(means, 0), rtol=1e-4, atol=1e-6)


# --- texts ---------------------------------------------------------------------------------------------------------


def test_a_union_that_encodes_otherwise_needs_consent(here: Path, said: Said) -> None:
    path = str(recipe("base", "german", tokenizer={"source": "union"}))
    code, _, err = said("check", path)
    assert code == 2
    assert "probe texts otherwise than base" in err
    assert "--allow-retokenization" in err
    assert not Path("out").exists()
    code, _, err = said("merge", path, "-o", "out")
    assert code == 2
    assert folders.listing(here) == [*folders.listing(here)]
    assert not Path("out").exists()
    assert not Path("out.partial").exists()
    code, out, err = said("merge", path, "-o", "out", "--allow-retokenization")
    assert (code, err) == (0, "")
    assert "the result's tokenizer has" in " ".join(out.split())
    manifest = json.loads(Path("out/manifest.json").read_text())
    told = manifest["vocabulary"]
    assert told["encoded"]["base"]["changed"] > 0
    assert told["rows"] == max(320, len(vocabulary("base").keys() | vocabulary("german").keys()))
    assert told["models"]["german"]["base"] == len(vocabulary("base").keys() - vocabulary("german").keys())
    assert said("verify", "out", "--rerun")[0] == 0


def test_special_tokens_alone_need_none(here: Path, said: Said) -> None:
    code, out, err = said("check", str(recipe("base", "chat", tokenizer={"source": "union"})), "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)["stages"][0]["vocabulary"]
    assert told["encoded"]["base"]["changed"] == 0
    assert told["models"]["base"] == {
        "tokens": 300, "rows": 320, "own": 300, "base": 0, "others": 1, "average": 0, "mean": 0, "zero": 0, "padding": 19,
    }  # fmt: skip
    code, out, _ = said("check", str(recipe("base", "chat", tokenizer={"source": "union"})))
    assert "vocabulary" in out
    assert "← own" in out


def test_the_result_keeps_how_the_base_encodes(here: Path) -> None:
    from tokenizers import Tokenizer

    mw.merge(recipe("base", "chat", tokenizer={"source": "union"})).save("out")
    one, other = (Tokenizer.from_file(f"{name}/tokenizer.json") for name in ("base", "out"))
    for text in (tiny.ENGLISH, tiny.GERMAN, tiny.CODE):
        assert one.encode(text).ids == other.encode(text).ids


def test_tokenizers_that_have_nothing_in_common_are_not_merged_in_silence(here: Path, said: Said) -> None:
    words = [f"w{i}" for i in range(folders.VOCABULARY)]
    for seed, (name, order) in enumerate({"x": words, "y": words[::-1], "z": [*words[:-1], "other"]}.items()):
        folders.model(here / name, seed)
        folders.tokenizer(here / name, order)
    code, _, err = said("check", str(recipe("x", "y", base=None)))
    assert code == 2
    assert "6 of 6 numbers stand for other strings in y than in x" in err
    assert "tokenizer: {source: base}" in err
    found = plan(recipe("x", "z", base=None))
    assert "the models' tokenizers differ; x's is copied: 1 of 6 numbers stand for other strings in z" in found.notes
    assert said("check", str(recipe("x", "y", base="x", tokenizer={"source": "base"})))[0] == 0


@pytest.mark.parametrize(
    ("tokens", "what"),
    [
        ({"a": {"source": "nobody"}}, "'nobody' is no model of this recipe"),
        ({"a": {"source": {"kind": "one"}}}, "kind must be zero, alone, or model_token, got {'kind': 'one'}"),
        ({"a": {"source": {"kind": "model_token", "model": "chat"}}}, "model_token needs model, and either token"),
        (
            {"a": {"source": {"kind": "model_token", "model": "chat", "token": "a", "token_id": 1}}},
            "model_token needs model, and either token",
        ),
        (
            {"a": {"source": {"kind": "model_token", "model": "chat", "token_id": 9999}}},
            "chat has no row for the number 9999",
        ),
        (
            {"a": {"source": {"kind": "model_token", "model": "chat", "token": "zzz"}}},
            "chat has no row for the token 'zzz'",
        ),
        ({"a": {"force": True}}, "force needs a source"),
        ({"a": {"sorce": "chat"}}, "unknown key 'tokenizer.tokens.a.sorce'. Did you mean 'source'?"),
        ({"ox jum": {}}, "probe texts otherwise than base"),
    ],
)
def test_what_is_wrong_with_single_tokens_is_said(here: Path, tokens: Any, what: str) -> None:
    with pytest.raises(mw.InputError) as caught:
        plan(recipe("base", "chat", tokenizer={"source": "base", "tokens": tokens}))
    assert what in str(caught.value)


def test_special_tokens_that_are_lost_or_differ_are_named(here: Path) -> None:
    tiny.save(here / "chat", tiny.with_added(tiny.byte_level(), tiny.START), eos_token=tiny.START)
    found = plan(recipe("base", "chat", tokenizer={"source": "base"})).vocabulary
    assert found is not None
    assert "chat: added tokens that the output does not have: '<|im_start|>'" in found.findings
    assert "eos_token is '<|im_start|>' in chat and '<|end|>' in the output" in found.findings


# --- configurations, files -----------------------------------------------------------------------------------------


def test_numbers_in_configurations_follow_the_tokenizer(here: Path) -> None:
    other = tiny.with_added(tiny.byte_level(tiny.GERMAN, special=("<pad>", tiny.END)), tiny.START)
    tiny.model(here / "other", other, 4, pad_token_id=0)
    settings = json.loads(Path("base/config.json").read_text())
    Path("base/config.json").write_text(json.dumps(settings | {"bos_token_id": vocabulary("base")["Ġthe"]}))
    Path("base/generation_config.json").write_text(json.dumps({"eos_token_id": [0], "temperature": 0.5}))
    mw.merge(recipe("base", "other", tokenizer={"source": "other", "tokens": {"<|new|>": {}}})).save("out")
    assert "<|new|>" in vocabulary("out")
    config = json.loads(Path("out/config.json").read_text())
    generation = json.loads(Path("out/generation_config.json").read_text())
    assert config["eos_token_id"] == vocabulary("other")[tiny.END] == 1
    assert generation == {"eos_token_id": 1, "temperature": 0.5} or generation == {
        "eos_token_id": [1],
        "temperature": 0.5,
    }
    found = plan(recipe("base", "other", tokenizer={"source": "other"}))
    lacking = "Ġthe" not in vocabulary("other")
    assert (config["bos_token_id"] is None) == lacking
    assert any("bos_token_id stands for" in note for note in found.notes) == lacking


def test_files_of_slow_tokenizers_do_not_outlive_a_union(here: Path) -> None:
    for name in ("tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"):
        Path("base", name).write_text("{}")
    mw.merge(recipe("base", "chat", tokenizer={"source": "union"})).save("out")
    names = {path.name for path in Path("out").iterdir()}
    assert "tokenizer.json" in names
    assert not names & {"tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"}


TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|end|>{% endfor %}"


def test_templates(here: Path) -> None:
    tiny.save(here / "chat", tiny.with_added(tiny.byte_level(), tiny.START), template=TEMPLATE, eos_token=tiny.END)
    found = plan(recipe("base", "chat", tokenizer={"source": "union"}, chat_template="chat"))
    texts = {file.name: file.text for file in found.files}
    assert texts["chat_template.jinja"] == TEMPLATE
    assert not [note for note in found.notes if "plain text" in note]
    found = plan(recipe("base", "chat", tokenizer={"source": "base"}, chat_template="chat"))
    assert "the output's chat template writes '<|im_start|>', which its tokenizer takes for plain text" in found.notes
    found = plan(recipe("base", "chat", tokenizer={"source": "union"}, chat_template="alpaca"))
    notes = [note for note in found.notes if "otherwise than that of chat" in note]
    assert len(notes) == 1
    assert "### Instruction" in notes[0]
    assert "<|im_start|>Hello!" in notes[0]
    with pytest.raises(mw.InputError, match="base has no chat template"):
        plan(recipe("base", "chat", tokenizer={"source": "union"}, chat_template="base"))


def test_steps_hand_a_vocabulary_on(here: Path) -> None:
    """A later step sees the union of an earlier one."""
    data = {
        "steps": [
            {
                "name": "one", "merge_method": "linear", "base_model": "base", "tokenizer": {"source": "union"},
                "models": [{"model": m, "parameters": {"weight": 1}} for m in ("base", "chat")],
            },
            {
                "name": "two", "merge_method": "linear", "base_model": "one", "tokenizer": {"source": "base"},
                "models": [{"model": m, "parameters": {"weight": 1}} for m in ("one", "german")],
            },
        ]
    }  # fmt: skip
    mw.merge(data).save("out")
    assert vocabulary("out") == vocabulary("chat")


# --- the engine ----------------------------------------------------------------------------------------------------


def big(here: Path) -> Path:
    """Enough rows for several ranges of the engine and the kernels."""
    for seed, (name, text) in enumerate({"one": tiny.ENGLISH, "two": tiny.GERMAN}.items()):
        made = tiny.byte_level(text)
        tiny.model(here / name, made, seed, rows=400_000 + seed)
    return recipe("two", method="ties", base="one", tokenizer={"source": "union"}, allow_retokenization=True)


def test_bytes_do_not_depend_on_threads(here: Path) -> None:
    path = big(here)
    for threads in (1, 3):
        mw.merge(path).save(f"out{threads}", threads=threads)
    assert folders.contents(here / "out1") == folders.contents(here / "out3")


def test_a_killed_merge_is_gone_on_with(here: Path) -> None:
    path = big(here)
    mw.merge(path).save("whole")
    code = f"import modelwright as mw, os, signal\nfrom modelwright.engine import _journal\nold = _journal.Journal.range\ndef dying(self, *a):\n    old(self, *a)\n    if a[0] >= 1 and a[1] >= 1: os.kill(os.getpid(), signal.SIGKILL)\n_journal.Journal.range = dying\nmw.merge({str(path)!r}).save('out', threads=1)\n"
    died = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert Path("out.partial").is_dir()
    mw.merge(path).save("out")
    assert json.loads(Path("out/manifest.json").read_text())["run"]["resumes"] == 1
    assert folders.contents(here / "out") == folders.contents(here / "whole")


@pytest.mark.torch
@pytest.mark.parametrize("tied", [False, True])
def test_the_result_loads_and_generates_what_the_base_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    """Where rows are unchanged, so is the text."""
    torch, hf = pytest.importorskip("torch"), pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    made = tiny.byte_level()
    other = tiny.with_added(made, tiny.START)
    for seed, (name, words, size) in enumerate((("base", made, 320), ("chat", other, 301))):
        torch.manual_seed(seed)
        config = hf.LlamaConfig(
            vocab_size=size, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, tie_word_embeddings=tied, bos_token_id=None, eos_token_id=0,
        )  # fmt: skip
        network = hf.LlamaForCausalLM(config)
        for value in network.parameters():
            value.data.mul_(6)
        network.save_pretrained(name)
        tiny.save(Path(name), words, eos_token=tiny.END)
    mw.merge(recipe("chat", method="task_arithmetic", weight=0.0, tokenizer={"source": "union"})).save("out")
    texts = []
    for name in ("base", "out"):
        network = hf.AutoModelForCausalLM.from_pretrained(name).eval()
        words = hf.AutoTokenizer.from_pretrained(name)
        ids = words("the quick brown", return_tensors="pt").input_ids
        texts.append(network.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0].tolist())
        assert network.get_input_embeddings().weight.shape[0] == 320
        assert (network.lm_head.weight is network.model.embed_tokens.weight) == tied
    assert texts[0] == texts[1]
    assert words.convert_tokens_to_ids(tiny.START) == 300
    assert words.decode([300]) == tiny.START


def test_tied_and_untied_models_meet(here: Path) -> None:
    tiny.model(here / "tied", tiny.with_added(tiny.byte_level(), tiny.START), 9, tied=True)
    mw.merge(recipe("base", "tied", tokenizer={"source": "union"})).save("out")
    base, other = folders.read(Path("base")), folders.read(Path("tied"))
    made = folders.read(Path("out"))
    np.testing.assert_allclose(made[HEAD][:300], (base[HEAD][:300] + other[EMBEDDING][:300]) / 2, rtol=1e-6)
    np.testing.assert_allclose(made[HEAD][300], other[EMBEDDING][300], rtol=1e-6)
    assert json.loads(Path("out/config.json").read_text())["tie_word_embeddings"] is False


def test_models_of_other_widths_are_still_refused(here: Path, said: Said) -> None:
    arrays = folders.read(Path("chat"))
    wide = {n: np.concatenate([a, a], -1) if n in (EMBEDDING, HEAD) else a for n, a in arrays.items()}
    folders.write(Path("wide"), wide, json.loads(Path("chat/config.json").read_text()))
    tiny.save(Path("wide"), tiny.with_added(tiny.byte_level(), tiny.START))
    code, _, err = said("check", str(recipe("base", "wide", tokenizer={"source": "union"})))
    assert code == 2
    assert "wide" in err
    assert "shape" in err


def test_a_model_without_tokenizer_is_refused(here: Path, said: Said) -> None:
    folders.model(here / "bare", 7, 2)
    code, _, err = said("check", str(recipe("base", "bare", tokenizer={"source": "union"})))
    assert code == 2
    assert "bare has no tokenizer" in err


def test_a_token_beyond_the_embedding_is_named_and_gets_a_row(here: Path) -> None:
    tiny.model(here / "short", tiny.byte_level(), 3, rows=298)
    found = plan(recipe("short", "chat", base="short", tokenizer={"source": "union"}))
    assert found.vocabulary is not None
    assert any(
        "short: 2 tokens with numbers from 298 on, beyond the 298 rows" in text for text in found.vocabulary.findings
    )
    assert found.vocabulary.rows == 301
    mw.merge(recipe("short", "chat", base="short", tokenizer={"source": "union"})).save("out")
    np.testing.assert_array_equal(
        folders.read(Path("out"))[EMBEDDING][298:], folders.read(Path("chat"))[EMBEDDING][298:]
    )
