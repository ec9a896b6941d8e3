"""`mw.diff`: cases in closed form, a float64 oracle, what does not meet, the page and the command."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import modelwright as mw
import tiny_folders as tiny
from modelwright.checkpoint import Part
from modelwright.cli._app import run
from modelwright.engine import Meeting, contrast
from modelwright.surgery._names import kind, layer, short

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    monkeypatch.setenv("COLUMNS", "140")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        tiny.model(tmp_path / name, seed)
    return tmp_path


def one(values: Any) -> dict[str, Any]:
    return {"w": np.asarray(values, np.float32)}


# --- closed forms --------------------------------------------------------------------------------------------------


def test_orthogonal_task_vectors() -> None:
    base = one(np.full((2, 2), 2.0))
    found = mw.diff([one([[5, 2], [2, 2]]), one([[2, 2], [2, 6]])], base=base).overall
    assert [v.norm for v in found.vectors] == [3, 4]
    assert [v.relative for v in found.vectors] == [0.75, 1.0]
    assert [v.sparsity for v in found.vectors] == [0.75, 0.75]
    assert found.pairs[0].cosine == 0
    assert math.isnan(found.pairs[0].conflict)  # nothing is nonzero in both
    assert found.pairs[0].overlap == 0


def test_opposite_and_equal_task_vectors() -> None:
    step = np.array([[1.0, -2], [3, 4]])
    found = mw.diff([one(1 + step), one(1 - step), one(1 + 2 * step)], base=one(np.ones((2, 2)))).overall
    assert [p.cosine for p in found.pairs] == pytest.approx([-1, 1, -1])
    assert [p.conflict for p in found.pairs] == [1, 0, 1]
    assert [p.models for p in found.pairs] == [
        ("state dict", "state dict (2)"), ("state dict", "state dict (3)"), ("state dict (2)", "state dict (3)"),
    ]  # fmt: skip


def test_a_model_beside_itself() -> None:
    model = one([[1.0, 2], [3, 4]])
    (vector,) = mw.diff([model, model]).overall.vectors
    assert (vector.norm, vector.relative, vector.sparsity, vector.effective_rank) == (0, 0, 1, 0)
    assert vector.similarity == pytest.approx(1)


def test_without_a_base_the_first_is_what_the_others_are_compared_with() -> None:
    found = mw.diff([one([3.0, 4]), one([3.0, 5])])
    assert (found.base, found.models) == ("base", ("state dict",))
    assert found.overall.vectors[0].relative == pytest.approx(1 / 5)
    assert found.overall.vectors[0].similarity == pytest.approx(29 / (5 * math.sqrt(34)))


def test_signs_conflict_where_both_are_nonzero() -> None:
    a, b = one([1.0, 1, 1, -1, 0, 0]), one([1.0, -1, -1, 1, 1, 0])
    (pair,) = mw.diff([a, b], base=one(np.zeros(6))).overall.pairs
    assert pair.conflict == 3 / 4
    assert pair.overlap == 4 / 6


def test_a_task_vector_of_known_rank() -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((48, 64)).astype(np.float32)
    q = np.linalg.qr(rng.standard_normal((48, 3)))[0]
    r = np.linalg.qr(rng.standard_normal((64, 3)))[0]
    (vector,) = mw.diff(one(base + q @ r.T), base=one(base)).tensors[0].vectors
    assert vector.exact
    assert vector.effective_rank == pytest.approx(3, rel=1e-3)
    assert vector.rank_share == pytest.approx(3 / 48, rel=1e-3)
    assert vector.rank_90 == 3
    assert vector.singular_values[:3] == pytest.approx([1, 1, 1], rel=1e-4)
    assert len(vector.singular_values) == 8


# --- the oracle ----------------------------------------------------------------------------------------------------


def truth(models: list[dict[str, Any]], base: dict[str, Any]) -> dict[str, Any]:
    """Everything of two models in float64, straight from the definitions."""
    x, y, b = (np.concatenate([np.ravel(m[n]).astype(np.float64) for n in base]) for m in (*models, base))
    x, y = x - b, y - b
    both = (x != 0) & (y != 0)
    return {
        "relative": [np.linalg.norm(v) / np.linalg.norm(b) for v in (x, y)],
        "sparsity": [np.mean(v == 0) for v in (x, y)],
        "cosine": x @ y / np.linalg.norm(x) / np.linalg.norm(y),
        "conflict": np.mean(np.sign(x[both]) != np.sign(y[both])),
        "overlap": np.mean(both),
    }


def family(dtype: Any, seed: int = 0) -> list[dict[str, Any]]:
    """A base and two models of several shapes, a third of whose entries did not move."""
    rng = np.random.default_rng(seed)
    shapes = {
        "layers.0.a.weight": (130, 257),
        "layers.0.a.bias": (3,),
        "layers.1.a.weight": (130, 257),
        "one": (1,),
        "none": (0, 3),
        "scalar": (),
    }
    base = {
        name: np.asarray(rng.standard_normal(shape) * 0.1, np.float32).astype(dtype) for name, shape in shapes.items()
    }

    def tuned() -> dict[str, Any]:
        return {
            name: (b.astype(np.float64) + rng.standard_normal(b.shape) * 0.02 * (rng.random(b.shape) > 0.3)).astype(
                dtype
            )
            for name, b in base.items()
        }

    return [tuned(), tuned(), base]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_figures_are_those_of_the_definitions(dtype: Any) -> None:
    *models, base = family(dtype)
    found, expected = mw.diff(models, base=base).overall, truth(models, base)
    assert [v.relative for v in found.vectors] == pytest.approx(expected["relative"], rel=1e-6)
    assert [v.sparsity for v in found.vectors] == expected["sparsity"]
    (pair,) = found.pairs
    assert pair.cosine == pytest.approx(expected["cosine"], abs=1e-6)
    assert (pair.conflict, pair.overlap) == (expected["conflict"], expected["overlap"])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_kernel_has_the_bits_of_the_arrays(dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    shape = (1100, 1003)  # two ranges, and a last block that no tile divides
    base = (rng.standard_normal(shape) * 0.1).astype(dtype)
    arrays = [(base.astype(np.float32) + rng.integers(-2, 3, shape) * 2.0**-8).astype(dtype) for _ in range(3)]
    opened = [mw.open(tiny.write(tmp_path / str(i), {"w": array})) for i, array in enumerate([*arrays, base])]
    meeting = Meeting("w", shape, tuple(model["w"] for model in opened))
    plain = contrast([meeting], spectra=False)
    monkeypatch.setattr("modelwright.engine._contrast.WORTH", 0)
    for threads in (1, 2):
        fused = contrast([meeting], spectra=False, threads=threads)
        for name in ("dots", "zeros", "both", "against", "odd"):
            np.testing.assert_array_equal(getattr(fused[0], name), getattr(plain[0], name), err_msg=name)
    assert plain[0].both[0, 1] > 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([-2.0, -1, 0, 0.5, 3]), min_size=6, max_size=6), min_size=3, max_size=3))
def test_laws(values: list[list[float]]) -> None:
    """Swapping two models swaps their figures; scaling both task vectors changes no angle and no sign."""
    x, y, base = (np.array(v, np.float32) for v in values)
    first = mw.diff([one(base + x), one(base + y)], base=one(base)).overall
    swapped = mw.diff([one(base + y), one(base + x)], base=one(base)).overall
    scaled = mw.diff([one(base + 2 * x), one(base + 4 * y)], base=one(base)).overall
    assert [v.norm for v in first.vectors] == [v.norm for v in reversed(swapped.vectors)]
    for other in (swapped, scaled):
        mine, theirs = (f.pairs[0] for f in (first, other))
        np.testing.assert_allclose(
            [theirs.cosine, theirs.conflict], [mine.cosine, mine.conflict], rtol=1e-12, atol=1e-12
        )


def test_groups_are_their_tensors_put_together() -> None:
    *models, base = family(np.float32)
    found = mw.diff(models, base=base)
    assert [figures.name for figures in found.layers] == ["one", "none", "scalar", "layers.0", "layers.1"]
    assert [(figures.name, figures.tensors) for figures in found.kinds[3:]] == [("a", 3)]
    names = [n for n in base if n.startswith("layers.0.")]
    part = mw.diff([{n: m[n] for n in names} for m in models], base={n: base[n] for n in names}, spectra=False).overall
    first = found.layers[3]
    assert first.vectors[1].relative == pytest.approx(part.vectors[1].relative, rel=1e-14)
    assert asdict(first.pairs[0]) == asdict(part.pairs[0])
    assert first.size == part.size == 130 * 257 + 3


def test_layers_are_in_the_order_of_their_numbers() -> None:
    """Files are sorted by letters, where layer 10 comes before layer 2."""
    names = sorted(["model.embed_tokens.weight", "lm_head.weight", *(f"model.layers.{i}.w" for i in range(12))])
    model = {name: np.ones(2, np.float32) for name in names}
    expected = ["model.embed_tokens", *(f"model.layers.{i}" for i in range(12)), "lm_head"]
    assert [figures.name for figures in mw.diff([model, model]).layers] == expected
    assert [group.name for group in mw.inspect(model).layers] == expected


# --- what does not meet --------------------------------------------------------------------------------------------


def test_more_tokens_are_compared_on_the_common_rows() -> None:
    base = {"model.embed_tokens.weight": np.ones((4, 2), np.float32)}
    grown = {"model.embed_tokens.weight": np.concatenate([np.ones((4, 2)), np.full((2, 2), 9)]).astype(np.float32)}
    found = mw.diff(grown, base=base)
    assert found.overall.size == 8
    assert found.overall.vectors[0].norm == 0
    assert found.structure.vocabulary == [
        {"tensor": "model.embed_tokens.weight", "rows": {"state dict": 6, "base": 4}, "compared": 4}
    ]
    assert "the first 4 are compared" in found.notes[0]


def test_shapes_formats_buffers_and_missing_tensors_are_named() -> None:
    base = {
        "w": np.ones((2, 2), np.float32),
        "v": np.ones(2, np.float32),
        "steps": np.array([1, 2]),
        "only": np.ones(1, np.float32),
    }
    other = {"w": np.ones((2, 2), np.float16), "v": np.ones(3, np.float32), "steps": np.array([1, 3])}
    found = mw.diff(other, base=base)
    assert [figures.name for figures in found.tensors] == ["w"]
    assert found.structure.dtypes == [
        {"dtypes": {"state dict": "float16", "base": "float32"}, "tensors": 1, "example": "w"}
    ]
    assert found.structure.shapes == [{"tensor": "v", "shapes": {"state dict": [3], "base": [2]}}]
    assert found.structure.buffers == [{"tensor": "steps", "models": ["state dict"]}]
    assert found.structure.missing == [{"model": "state dict", "tensors": ["only"]}]
    assert [note.partition(":")[0] for note in found.notes] == [
        "state dict lacks 1 tensor that another has",
        "1 tensor differs in shape and is not compared",
        "1 tensor of integers differs",
    ]


def test_a_tied_head_is_compared_once_and_an_untied_one_with_the_embedding() -> None:
    table = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    folder = {"tie_word_embeddings": True}
    stored = mw.Checkpoint(dict(mw.open({embedding: table, head: table})), parts=(Part(config=folder),))
    alone = mw.Checkpoint(dict(mw.open({embedding: table + 1})), parts=(Part(config=folder),))
    assert [figures.name for figures in mw.diff(alone, base=stored).tensors] == [embedding]
    untied = mw.open({embedding: table, head: 2 * table})
    found = {figures.name: figures.vectors[0].relative for figures in mw.diff(untied, base=alone).tensors}
    assert found[head] == pytest.approx(np.linalg.norm(2 * table - (table + 1)) / np.linalg.norm(table + 1), rel=1e-6)


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    a = one([1.0, np.nan, 3, np.inf])
    found = mw.diff(a, base=one([1.0, 2, 1, 1]))
    (vector,) = found.overall.vectors
    assert (vector.odd, vector.norm, found.overall.size) == (2, 2, 2)
    assert "holds 2 values that are NaN or infinite, in w" in found.notes[0]


def test_tokenizers_that_differ_are_said(here: Path) -> None:
    tiny.tokenizer(here / "a", "abc")
    tiny.tokenizer(here / "base", "acb")
    found = mw.diff("a", base="base")
    assert set(found.structure.tokenizers) == {"a", "base"}
    assert any("may stand for different tokens" in note for note in found.notes)


def test_an_adapter_is_compared_with_what_it_was_trained_on(here: Path) -> None:
    rng = np.random.default_rng(0)
    at = "base_model.model.model.layers.1.self_attn.q_proj"
    pair = {f"{at}.lora_A.weight": rng.standard_normal((1, 4)), f"{at}.lora_B.weight": rng.standard_normal((4, 1))}
    tiny.write(here / "lora", {name: value.astype(np.float32) for name, value in pair.items()})
    (here / "lora" / "model.safetensors").rename(here / "lora" / "adapter_model.safetensors")
    (here / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 2}')
    found = mw.diff("base+lora", base="base")
    moved = [figures for figures in found.tensors if figures.vectors[0].norm > 0]
    assert [figures.name for figures in moved] == ["model.layers.1.self_attn.q_proj.weight"]
    product = 2 * pair[f"{at}.lora_B.weight"] @ pair[f"{at}.lora_A.weight"]
    assert moved[0].vectors[0].norm == pytest.approx(np.linalg.norm(product), rel=1e-5)
    assert moved[0].vectors[0].effective_rank == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("models", "base", "text"),
    [
        (
            [],
            None,
            "no model and no base: there is nothing to compare with. Give two models, or the one it was tuned from: --base",
        ),
        ([one([1.0])], None, "one model and no base"),
        ([], one([1.0]), "no model to compare with the base"),
        (
            [{"x": np.ones(1, np.float32)}],
            one([1.0]),
            "have no tensor in common that could be compared. They start with: state dict: x; base: w",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(models: Any, base: Any, text: str) -> None:
    with pytest.raises(mw.InputError, match=re.escape(text)):
        mw.diff(models, base=base)


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.11.self_attn.q_proj.weight", ("model.layers.11", "self_attn.q_proj")),
        ("model.layers.0.mlp.experts.7.w1.weight", ("model.layers.0", "mlp.experts.*.w1")),
        ("transformer.h.1.attn.c_attn.bias", ("transformer.h.1", "attn.c_attn")),
        ("model.embed_tokens.weight", ("model.embed_tokens", "model.embed_tokens")),
        ("stages.1.blocks.2.conv.weight", ("stages.1", "conv")),
        ("layer2.0.conv1.weight", ("layer.0", "conv1")),
        ("0.weight", ("0", "weight")),
    ],
)
def test_layers_and_kinds(name: str, expected: tuple[str, str]) -> None:
    names = [name] if not name.startswith("stages") else [name, "stages.0.blocks.0.conv.weight"]
    names += ["model.layers.0.x.weight"] if name.startswith("model") else []
    names += ["transformer.h.0.x"] if name.startswith("transformer") else []
    names += [f"model.layers.{i}.x" for i in range(12)] if "layers.11" in name else []
    place = mw.open({n: np.ones(1, np.float32) for n in names}).layout.place(name)
    assert (layer(name, place), kind(name, place)) == expected


def test_labels_are_shortened_where_that_tells_them_apart() -> None:
    assert short(["runs/a", "runs/b"]) == {"runs/a": "a", "runs/b": "b"}
    assert short(["x/a", "y/a"]) == {"x/a": "x/a", "y/a": "y/a"}


# --- command and page ----------------------------------------------------------------------------------------------


def test_the_command_shows_models_pairs_layers_and_kinds(here: Path, said: Said) -> None:
    code, out, err = said("diff", "a", "b", "--base", "base")
    assert (code, err) == (0, "")
    assert out.startswith("a, b against base: 15 tensors, ")
    for text in ("a and b", "model.layers.3", "self_attn.q_proj", "sign", "similarity"):
        assert text in out, text
    assert "model.layers.3.self_attn" not in out


def test_tensors_and_top(here: Path, said: Said) -> None:
    code, out, _ = said("diff", "a", "--base", "base", "--tensors", "--top", "2", "--no-spectrum")
    assert code == 0
    rows = re.findall(r"^model\.\S+|^lm_head\S*", out, re.MULTILINE)
    found = mw.diff("a", base="base")
    assert rows == [f.name for f in sorted(found.tensors, key=lambda f: -f.vectors[0].relative)[:2]]
    assert "13 more" in out


@pytest.mark.parametrize("columns", ["40", "80"])
def test_names_are_not_left_out_in_a_narrow_terminal(
    columns: str, here: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = said("diff", "a", "b", "--base", "base", "--no-spectrum")[1].splitlines()
    names = {layer.name for layer in mw.diff(["a", "b"], base="base", spectra=False).layers}
    assert names <= {line.split(" ")[0] for line in lines if line}


def test_json(here: Path, said: Said) -> None:
    code, out, err = said("diff", "a", "b", "--base", "base", "--json", "-")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert list(data) == [
        "version",
        "ok",
        "base",
        "models",
        "overall",
        "layers",
        "kinds",
        "tensors",
        "structure",
        "notes",
    ]
    assert len(data["tensors"]) == 15
    assert set(data["tensors"][0]) == {"name", "layer", "kind", "tensors", "size", "shape", "vectors", "pairs"}
    assert data["overall"]["pairs"][0]["models"] == ["a", "b"]
    assert said("diff", "a", "a", "--json", "figures.json", "--quiet") == (0, "", "")
    same = json.loads(Path("figures.json").read_text(encoding="utf-8"))
    assert same["overall"]["vectors"][0]["norm"] == 0
    (norm,) = [figures for figures in same["tensors"] if figures["name"] == "model.norm.weight"]
    assert norm["vectors"][0]["effective_rank"] is None  # it is no matrix


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["a"], "error: one model and no base"),
        (["a", "nowhere"], "error: no file, folder or Hub model is called 'nowhere'"),
        (["a", "b", "--json", "base"], "error: --json must be a file, and 'base' is a folder"),
        (["a", "b", "--html", "no/page.html"], "error: --html: there is no folder 'no'"),
        (["a", "b", "--threads", "-1"], "Invalid value for '--threads'"),
    ],
)
def test_wrong_arguments(arguments: list[str], text: str, here: Path, said: Said) -> None:
    before = tiny.listing(here)
    code, _, err = said("diff", *arguments)
    assert code == 2
    assert text in err
    assert tiny.listing(here) == before


def test_the_page_opens_offline_and_has_a_map_for_each_model_and_pair(here: Path, said: Said) -> None:
    pytest.importorskip("matplotlib")
    assert said("diff", "a", "b", "--base", "base", "--html", "page.html")[0] == 0
    text = Path("page.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=[\"']?https?:|<script|@import|url\(http", text)
    for label in (
        "Relative norm: a",
        "Relative norm: b",
        "Effective rank: a",
        "Cosine: a and b",
        "Sign conflict: a and b",
    ):
        assert text.count(f'<svg role="img" aria-label="{label}"') == 1, label
    (svg,) = re.findall(r'<svg role="img" aria-label="Relative norm: a".*?</svg>', text, re.DOTALL)
    found = mw.diff(["a", "b"], base="base")
    assert len(re.findall(r">\d\.\d\d<", svg)) == 12  # a square for each of 4 layers and 3 kinds
    inside = [figures for figures in found.tensors if figures.layer.startswith("model.layers")]
    assert len(inside) == 12
    for figures in inside:
        assert f">{figures.vectors[0].relative:.2f}<" in svg
