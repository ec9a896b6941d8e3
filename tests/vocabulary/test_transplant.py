"""Another tokenizer for a model: known rows to the bit, new rows by the book, errors and perplexity as they are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tokenizers")
import tiny_folders as folders
import tiny_tokenizers as tiny
from modelwright.cli._app import run
from modelwright.errors import InputError
from modelwright.tokenizers import METHODS, coefficients, transplant

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


# --- coefficients --------------------------------------------------------------------------------------------------


def pursuit(target: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], k: int) -> tuple[list[int], np.ndarray[Any, Any]]:
    """Orthogonal matching pursuit as it is defined: refit after every step."""
    atoms = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    chosen: list[int] = []
    left = target
    for _ in range(k):
        fit = np.abs(atoms @ left)
        fit[chosen] = -1
        chosen.append(int(np.argmax(fit)))
        weight, *_ = np.linalg.lstsq(rows[chosen].T, target, rcond=None)
        left = target - weight @ rows[chosen]
    return chosen, weight


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_pursuit_is_that_of_the_definition(library: str) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 12)).astype(np.float32) * rng.uniform(0.1, 9, size=(40, 1)).astype(np.float32)
    targets = rng.normal(size=(30, 12)).astype(np.float32)
    given = (targets, rows)
    if library == "torch":
        torch = pytest.importorskip("torch")
        given = (torch.from_numpy(targets), torch.from_numpy(rows))
    found = coefficients("omp", *given, k=5)
    assert found.residual is not None
    for i, target in enumerate(targets):
        chosen, weight = pursuit(target.astype(np.float64), rows.astype(np.float64), 5)
        assert found.index[i].tolist() == chosen
        np.testing.assert_allclose(found.weight[i], weight, rtol=2e-3, atol=1e-5)
        left = np.linalg.norm(target - weight @ rows[chosen].astype(np.float64)) / np.linalg.norm(target)
        assert found.residual[i] == pytest.approx(left, rel=1e-3)


def test_pursuit_stops_where_nothing_is_left() -> None:
    rows = np.eye(4, dtype=np.float32)
    found = coefficients("omp", np.array([[0, 5, 0, 0], [0, 0, 0, 0]], np.float32), rows, k=4)
    np.testing.assert_allclose(found.applied(rows), [[0, 5, 0, 0], [0, 0, 0, 0]], atol=1e-6)
    assert np.isfinite(found.weight).all()


def test_landmarks_are_locally_linear() -> None:
    """What is an affine combination of its neighbours is found again, up to the ridge."""
    rng = np.random.default_rng(1)
    found = coefficients("landmark", np.array([[2, 1, 1, 0, 0]], np.float32) / 4, np.eye(5, dtype=np.float32), k=3)
    assert found.index[0].tolist() == [0, 1, 2] or found.index[0].tolist() == [0, 2, 1]
    np.testing.assert_allclose(found.weight[0], [0.5, 0.25, 0.25], atol=1e-3)
    rows = rng.normal(size=(50, 20)).astype(np.float32)
    many = coefficients("landmark", rng.normal(size=(9, 20)).astype(np.float32), rows, k=7)
    np.testing.assert_allclose(many.weight.sum(1), 1)


def test_batches_do_not_change_coefficients(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    rows, targets = rng.normal(size=(30, 8)).astype(np.float32), rng.normal(size=(11, 8)).astype(np.float32)
    whole = {method: coefficients(method, targets, rows, 4) for method in ("omp", "landmark")}
    monkeypatch.setattr("modelwright.tokenizers._methods._MOST_HELD", 90)
    for method, before in whole.items():
        after = coefficients(method, targets, rows, 4)
        np.testing.assert_array_equal(after.index, before.index)
        np.testing.assert_allclose(after.weight, before.weight, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(after.applied(rows), before.applied(rows), rtol=1e-4, atol=1e-5)


# --- models --------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and a donor with another vocabulary whose rows of shared tokens are a linear image of the model's."""
    monkeypatch.chdir(tmp_path)
    old, new = tiny.byte_level(), tiny.byte_level(tiny.GERMAN)
    tiny.model(tmp_path / "model", old, 0, rows=310)
    tiny.model(tmp_path / "donor", new, 1)
    mapped = np.random.default_rng(9).normal(size=(4, 4)).astype(np.float32)
    one, other = folders.read(Path("model")), folders.read(Path("donor"))
    numbers, theirs = old.get_vocab(), new.get_vocab()
    for name in (EMBEDDING, HEAD):
        for text in numbers.keys() & theirs.keys():
            other[name][theirs[text]] = one[name][numbers[text]] @ mapped
    folders.write(Path("donor"), other, json.loads(Path("donor/config.json").read_text()))
    return tmp_path


def vocabulary(folder: str) -> dict[str, int]:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(f"{folder}/tokenizer.json").get_vocab(with_added_tokens=True)


@pytest.mark.parametrize("method", METHODS)
def test_known_rows_stay_and_the_tokenizer_is_the_donors(here: Path, method: str) -> None:
    made = transplant("model", donor="donor", method=method, k=4)
    made.save("out")
    old, new = vocabulary("model"), vocabulary("donor")
    assert vocabulary("out") == new
    assert made.shared == len(old.keys() & new.keys())
    assert made.coverage == made.shared / len(new)
    before, after = folders.read(Path("model")), folders.read(Path("out"))
    for name in (EMBEDDING, HEAD):
        assert after[name].shape == (len(new), 4)
        for text in old.keys() & new.keys():
            assert after[name][new[text]].tobytes() == before[name][old[text]].tobytes()
    assert all(after[name].tobytes() == before[name].tobytes() for name in after if name not in (EMBEDDING, HEAD))
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == len(new)
    told = f"rows by {method}" + (" of 4" if METHODS[method] else "")
    assert (
        told in json.loads(Path("out/manifest.json").read_text())["recipe"]
    )  # else a killed one might go on as another


def test_pursuit_is_exact_where_the_donor_is_a_linear_image(here: Path) -> None:
    """With as many rows as there are dimensions, coefficients that explain a row in the donor explain it in the model."""
    made = transplant("model", donor="donor", method="omp", k=4)
    assert {one.tensor for one in made.restored} == {EMBEDDING, HEAD}
    for one in made.restored:
        assert one.error < 1e-3
        assert one.cosine > 0.999
        assert one.residual < 1e-4
    mean = transplant("model", donor="donor", method="mean")
    assert all(one.error > 0.5 for one in mean.restored)


def test_subwords_are_means_of_what_the_old_tokenizer_makes(here: Path) -> None:
    from tokenizers import Tokenizer

    transplant("model", donor="donor", method="subword").save("out")
    old, new = vocabulary("model"), vocabulary("donor")
    before, after = folders.read(Path("model"))[EMBEDDING], folders.read(Path("out"))[EMBEDDING]
    words = Tokenizer.from_file("model/tokenizer.json")
    donor = Tokenizer.from_file("donor/tokenizer.json")
    for text in new.keys() - old.keys():
        spelt = donor.decode([new[text]])
        if "\ufffd" not in spelt:
            ids = words.encode(spelt).ids
            np.testing.assert_allclose(after[new[text]], before[ids].mean(0), rtol=1e-5, atol=1e-6, err_msg=text)


def test_other_alphabets_share_what_they_mean(here: Path) -> None:
    tiny.model(here / "spaces", tiny.sentencepiece_style(), 4)
    made = transplant("model", donor="spaces", method="subword")
    new = vocabulary("spaces")
    assert made.shared > 30
    made.save("out")
    after, before = folders.read(Path("out"))[EMBEDDING], folders.read(Path("model"))[EMBEDDING]
    np.testing.assert_array_equal(after[new["▁the"]], before[vocabulary("model")["Ġthe"]])


def test_a_tokenizer_without_a_model_is_enough_for_subwords(here: Path) -> None:
    tiny.save(here / "bare", tiny.byte_level(tiny.CODE), eos_token=tiny.END)
    made = transplant("model", donor="bare", method="subword", pad_to_multiple_of=64)
    made.save("out")
    assert made.rows % 64 == 0
    assert folders.read(Path("out"))[EMBEDDING].shape == (made.rows, 4)
    with pytest.raises(InputError, match=r"'bare'|bare"):
        transplant("model", donor="bare", method="omp")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"method": "opm"}, "there is no method 'opm'. Did you mean 'omp'?"),
        ({"k": 0}, "k and pad_to_multiple_of must be at least 1, got 0 and 1"),
        ({"donor": "nobody"}, "nobody"),
    ],
)
def test_wrong_wishes_are_refused(here: Path, options: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError) as caught:
        transplant("model", **({"donor": "donor"} | options))
    assert what in str(caught.value)


# --- the commands --------------------------------------------------------------------------------------------------


def test_the_diff_command(here: Path, said: Said) -> None:
    code, out, err = said("tokenizer", "diff", "model", "donor", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    old, new = vocabulary("model"), vocabulary("donor")
    assert told["version"] == 1
    assert told["shared"] == len(old.keys() & new.keys())
    assert told["only"] == [len(old.keys() - new.keys()), len(new.keys() - old.keys())]
    assert told["by_kind"]["German"]["tokens_after"] < told["by_kind"]["German"]["tokens_before"]
    Path("mine.txt").write_text("the quick brown fox\n\nüber den Hund\n", encoding="utf-8")
    code, out, err = said("tokenizer", "diff", "model", "donor/tokenizer.json", "--text", "mine.txt")
    assert (code, err) == (0, "")
    assert "yours" in out
    assert f"{len(old.keys() & new.keys()):,} tokens are in both" in out
    code, out, _ = said("tokenizer", "diff", "model", "model")
    assert "nothing differs: texts become the same numbers" in out
    code, _, err = said("tokenizer", "diff", "model", "nowhere")
    assert code == 2
    assert "nowhere" in err


@pytest.mark.torch
def test_perplexity_before_and_after_is_that_of_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    torch, hf = pytest.importorskip("torch"), pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    for seed, (name, words) in enumerate({"model": tiny.byte_level(), "donor": tiny.byte_level(tiny.GERMAN)}.items()):
        torch.manual_seed(seed)
        config = hf.LlamaConfig(
            vocab_size=words.get_vocab_size(), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        hf.LlamaForCausalLM(config).save_pretrained(name)
        tiny.save(Path(name), words, eos_token=tiny.END)
    text = tiny.ENGLISH[:300]
    Path("text.txt").write_text(text, encoding="utf-8")
    command = ("tokenizer", "transplant", "model", "--from", "donor", "-o", "out", "--k", "8", "--text", "text.txt")
    code, out, err = said(*command, "--json")
    assert code == 0, err
    told = json.loads(out)
    for name, figures in (("model", told["before"]), ("out", told["after"])):
        network = hf.AutoModelForCausalLM.from_pretrained(name).eval()
        words = hf.AutoTokenizer.from_pretrained(name)
        ids = torch.tensor([[0, *words(text, add_special_tokens=False).input_ids]])
        with torch.no_grad():
            loss = float(network(ids, labels=ids).loss)
        count = ids.shape[1] - 1
        assert figures["tokens"] == count
        assert figures["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
        assert figures["bits_per_byte"] == pytest.approx(loss * count / math.log(2) / len(text.encode()), rel=1e-4)
    code, out, err = said(*command, "--overwrite")
    assert code == 0, err
    assert "known rows made again have the relative error" in " ".join(out.split())
    assert "bits a byte" in out
    assert said(*command)[0] == 2
