"""`mw verify`: every byte against the manifest, and the same merge again."""

from __future__ import annotations

import errno
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash

import modelwright as mw
import tiny_folders as tiny
from modelwright.cli._app import run
from modelwright.engine import _verify
from modelwright.tensors import DTYPES

HEAD = "lm_head.weight"
RECIPE = "merge_method: dare_ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, density: 0.4}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        tiny.model(tmp_path / name, seed)
    Path("recipe.yml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def change(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_an_output_as_it_was_written(here: Path) -> None:
    mw.merge("recipe.yml").save("out", shard_bytes=300)
    found = mw.verify("out")
    assert found.problems == ()
    assert found.notes == ()
    assert found.files == len(json.loads(Path("out/manifest.json").read_text())["files"])


def test_damage_is_told_by_file_chunk_and_tensor(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mw.merge("recipe.yml").save("out")
    path = Path("out/model.safetensors")
    change(path, path.stat().st_size - 1)
    (problem,) = mw.verify("out").problems
    assert problem.startswith("1 of 1 chunks of model.safetensors differ, first at byte 0; they hold ")
    manifest = json.loads(Path("out/manifest.json").read_text())
    manifest["chunk_bytes"] = 1024
    change(path, path.stat().st_size - 1)
    content = path.read_bytes()
    hashes = [xxhash.xxh3_128_hexdigest(content[i : i + 1024]) for i in range(0, len(content), 1024)]
    manifest["files"] = {"model.safetensors": {"bytes": len(content), "xxh3_128": hashes}}
    Path("out/manifest.json").write_text(json.dumps(manifest))
    assert mw.verify("out").problems == ()
    change(path, len(content) - 1)
    (problem,) = mw.verify("out").problems
    at = (len(content) - 1) // 1024 * 1024
    assert problem.startswith(
        f"1 of {len(hashes)} chunks of model.safetensors differ, first at byte {at:,}; they hold "
    )
    assert problem.endswith("and 2 more")


def test_files_that_are_missing_cut_or_added(here: Path) -> None:
    mw.merge("recipe.yml").save("out", shard_bytes=300)
    Path("out/config.json").unlink()
    shard = Path("out/model-00001-of-00005.safetensors")
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-7])
    Path("out/thesis.txt").touch()
    found = mw.verify("out")
    assert found.problems == (
        "config.json is missing",
        f"model-00001-of-00005.safetensors has {size - 7:,} bytes, the manifest says {size:,}",
    )
    assert found.notes == ("not part of the output: thesis.txt",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "'out' has no manifest.json, so there is nothing to check it against. Merge it again."),
        ("{", "'out/manifest.json' is not a manifest of modelwright, or is damaged. Merge it again."),
        (
            '{"made_by": {"modelwright": "1"}}',
            "'out/manifest.json' is not a manifest of modelwright, or is damaged. Merge it again.",
        ),
        (
            '{"made_by": {"modelwright": "1"}, "files": {"a": {}}, "manifest_version": 1}',
            "'out/manifest.json' is not a manifest of modelwright, or is damaged. Merge it again.",
        ),
        (
            '{"made_by": {"modelwright": "1"}, "files": {}, "manifest_version": 9}',
            "'out/manifest.json' has the version 9, which this modelwright does not know. Update it.",
        ),
    ],
)
def test_no_manifest(text: str | None, message: str, here: Path) -> None:
    Path("out").mkdir()
    if text is not None:
        Path("out/manifest.json").write_text(text)
    with pytest.raises(mw.InputError) as found:
        mw.verify("out")
    assert str(found.value) == message


HOSTILE: dict[str, tuple[tuple[Any, ...], Any]] = {
    "fewer hashes than chunks": (("files", "model.safetensors", "xxh3_128"), []),
    "more hashes than chunks": (("files", "model.safetensors", "xxh3_128"), ["0", "0"]),
    "a hash that is no text": (("files", "model.safetensors", "xxh3_128"), [7]),
    "a size that is no number": (("files", "model.safetensors", "bytes"), "many"),
    "a file outside": (("files", "../recipe.yml"), {"bytes": 0, "xxh3_128": []}),
    "a file elsewhere": (("files", "/etc/passwd"), {"bytes": 0, "xxh3_128": []}),
    "files that are no table": (("files",), ["model.safetensors"]),
    "chunks of nothing": (("chunk_bytes",), 0),
    "chunks that fill the memory": (("chunk_bytes",), 1 << 40),
    "no recipe": (("recipe",), None),
    "no run": (("run",), None),
    "inputs without hashes": (("inputs", 0, "xxh3_128"), None),
    "BLAKE3 that is no text": (("files", "model.safetensors", "blake3"), 3),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_manifest_that_would_let_bytes_pass(case: str, here: Path) -> None:
    mw.merge("recipe.yml").save("out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    (*way, last), value = HOSTILE[case]
    node = manifest
    for key in way:
        node = node[key]
    node[last] = value
    Path("out/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(mw.InputError) as found:
        mw.verify("out", rerun=True)
    assert str(found.value) == "'out/manifest.json' is not a manifest of modelwright, or is damaged. Merge it again."


def test_a_manifest_that_is_nested_without_end(here: Path) -> None:
    Path("out").mkdir()
    Path("out/manifest.json").write_text("[" * 100_000)
    with pytest.raises(mw.InputError, match="is not a manifest of modelwright, or is damaged"):
        mw.verify("out")


def test_a_file_that_cannot_be_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mw.merge("recipe.yml").save("out")
    read = _verify._Local.read

    def broken(self: Any, name: str, start: int, stop: int) -> bytes:
        if name == "model.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        return read(self, name, start, stop)

    monkeypatch.setattr(_verify._Local, "read", broken)
    assert mw.verify("out").problems == ("model.safetensors cannot be read (Input/output error)",)


def test_an_interrupt_does_not_wait_for_the_rest(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mw.merge("recipe.yml").save("out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    content = Path("out/model.safetensors").read_bytes()
    manifest["chunk_bytes"] = 1
    hashes = [xxhash.xxh3_128_hexdigest(content[i : i + 1]) for i in range(len(content))]
    manifest["files"] = {"model.safetensors": {"bytes": len(content), "xxh3_128": hashes}}
    Path("out/manifest.json").write_text(json.dumps(manifest))
    reads, read = 0, _verify._Local.read

    def slow(self: Any, *where: Any) -> bytes:
        nonlocal reads
        reads += 1
        time.sleep(0.002)
        return read(self, *where)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_verify._Local, "read", slow)
    with pytest.raises(KeyboardInterrupt):
        mw.verify("out", threads=1, progress=interrupted)
    assert reads < len(content) / 4


# --- again ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ["never", "always"])
def test_the_same_comes_out_again(kernels: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mw.merge("recipe.yml", overrides=["density=0.3"]).save("out", shard_bytes=300)
    monkeypatch.chdir(here / "out")  # paths start where the recipe was
    assert mw.verify(here / "out", rerun=True, kernels=kernels).problems == ()
    assert tiny.listing(here / "out") == sorted({*tiny.listing(here / "out")})


def test_steps_are_done_again_in_memory(here: Path) -> None:
    Path("recipe.yml").write_text(
        "steps:\n- {name: soup, merge_method: linear, models: [{model: a}, {model: b}], parameters: {weight: 1}}\n"
        "- {name: last, merge_method: linear, models: [{model: soup}, {model: base}], parameters: {weight: 1}}\n"
    )
    mw.merge("recipe.yml").save("out")
    shutil.rmtree("out.steps")
    assert mw.verify("out", rerun=True).problems == ()
    assert not Path("out.steps").exists()


def test_a_changed_input_and_what_comes_of_it(here: Path) -> None:
    mw.merge("recipe.yml").save("out")
    weights = tiny.arrays(2)
    weights[HEAD][0, 0] += 1
    tiny.write(here / "b", weights, tiny.config())
    assert mw.verify("out").problems == ()
    problems = mw.verify("out", rerun=True).problems
    assert problems[0] == "the input 'b' is not what it was when the output was made"
    assert all(problem.startswith(f"'{HEAD}' comes out differently: from element") for problem in problems[1:])


@pytest.mark.parametrize("text", [
    RECIPE.replace("0.4", "4e-1"),  # which YAML 1.1 takes for a text
    "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 1}\nname: one\n---\n"
    "merge_method: linear\nmodels: [{model: one}, {model: b}]\nparameters: {weight: 1}\n",
])  # fmt: skip
def test_recipes_are_read_again_as_they_were(text: str, here: Path) -> None:
    Path("recipe.yml").write_text(text, encoding="utf-8")
    mw.merge("recipe.yml").save("out")
    assert mw.verify("out", rerun=True).problems == ()


@pytest.mark.torch
def test_what_an_accelerator_made_is_compared_within_the_tolerance(here: Path) -> None:
    """`cpu:0` takes the way of every accelerator. The recipe's method is reproducible to the bit on processors."""
    pytest.importorskip("torch")
    mw.merge("recipe.yml").save("out", device="cpu:0")
    path = Path("out/model.safetensors")
    change(path, int(mw.open("out")[HEAD].source.rpartition("@ ")[2]))  # the lowest bit of the first number
    manifest = json.loads(Path("out/manifest.json").read_text())
    manifest["files"]["model.safetensors"]["xxh3_128"] = [xxhash.xxh3_128_hexdigest(path.read_bytes())]
    Path("out/manifest.json").write_text(json.dumps(manifest))
    found = mw.verify("out", rerun=True)
    assert found.problems == ()
    assert found.notes[-1].endswith("by no more than 2 units in the last place, as accelerators may")
    manifest["run"]["device"] = "cpu"
    Path("out/manifest.json").write_text(json.dumps(manifest))
    assert mw.verify("out", rerun=True).problems[0].startswith(f"'{HEAD}' comes out differently: from element 0 on")
    manifest["run"]["device"] = "banana"
    Path("out/manifest.json").write_text(json.dumps(manifest))
    found = mw.verify("out", rerun=True)
    assert found.problems == ()
    assert found.notes[0] == "made on banana, which is not here, so it was merged again on the CPU"


def test_values_that_are_not_finite_are_near_where_they_are_the_same() -> None:
    a, b = (np.array([np.nan, np.inf, 1.0], "f4") for _ in "ab")
    b[2] = np.nextafter(b[2], np.float32(2))
    assert _verify._near(a.view(np.uint8), b.view(np.uint8), DTYPES["float32"])
    b[0] = 0
    assert not _verify._near(a.view(np.uint8), b.view(np.uint8), DTYPES["float32"])


def test_from_another_folder(here: Path) -> None:
    mw.merge("recipe.yml").save("out")
    Path("elsewhere").mkdir()
    for name in ("base", "a", "b"):
        Path(name).rename(Path("elsewhere", name))
    with pytest.raises(mw.InputError, match=r"no file, folder or Hub model is called '(a|base)'"):
        mw.verify("out", rerun=True)
    assert mw.verify("out", rerun=True, folder="elsewhere").problems == ()


def test_other_tensors(here: Path) -> None:
    mw.merge("recipe.yml").save("out")
    mw.merge(["a", "b"], method="linear", out_dtype="bfloat16").save("other")
    manifest = json.loads(Path("out/manifest.json").read_text())
    mine = json.loads(Path("other/manifest.json").read_text())
    Path("other/manifest.json").write_text(json.dumps(mine | {"recipe": manifest["recipe"]}))
    problems = mw.verify("other", rerun=True).problems
    assert f"'{HEAD}' is bfloat16 [8, 4] in the output and float32 [8, 4] in the recipe's result" in [
        problem.replace(str(list(tiny.arrays(0)[HEAD].shape)), "[8, 4]") for problem in problems
    ]


def test_tolerance_of_methods_that_have_one(here: Path) -> None:
    mw.merge(["a"], base="base", method="slerp", t=0.3).save("out")
    path = Path("out/model.safetensors")
    ref = mw.open("out")[HEAD]
    change(path, int(ref.source.rpartition("@ ")[2]))  # the lowest bit of the first number
    manifest = json.loads(Path("out/manifest.json").read_text())
    manifest["files"]["model.safetensors"]["xxh3_128"] = [xxhash.xxh3_128_hexdigest(path.read_bytes())]
    Path("out/manifest.json").write_text(json.dumps(manifest))
    found = mw.verify("out", rerun=True)
    assert found.problems == ()
    assert found.notes == ("1 tensor differs by no more than 2 units in the last place, which slerp allows",)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_units_in_the_last_place(dtype: str) -> None:
    kind = {"bfloat16": ml_dtypes.bfloat16}.get(dtype, dtype)
    a = np.array([1.0, -3.5, 0.001, 65000.0], kind)
    unsigned = {2: np.uint16, 4: np.uint32, 8: np.uint64}[a.dtype.itemsize]
    for steps, near in ((1, True), (2, True), (3, False)):
        b = (a.view(unsigned) + unsigned(steps)).view(a.dtype)
        assert _verify._near(a.view(np.uint8), b.view(np.uint8), DTYPES[dtype]) is near


def test_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["merge", "recipe.yml", "-o", "out", "--quiet"]) == 0
    assert run(["verify", "out", "--rerun"]) == 0
    assert capsys.readouterr().out.startswith("out: 4 files, as the manifest says, and the same comes out again (")
    Path("out/config.json").unlink()
    assert run(["verify", "out", "--quiet"]) == 3
    assert "  - config.json is missing.\nout: 1 problem (" in capsys.readouterr().err
    assert run(["verify", "out", "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["problems"]) == (False, [{"what": "config.json is missing", "mend": "", "where": ""}])
    assert run(["verify", "nothing"]) == 2
    assert capsys.readouterr().err == "error: no folder 'nothing'. Give the output of a merge.\n"


# --- audits ---------------------------------------------------------------------------------------------------------


def test_whole_files_are_hashed_for_audits(here: Path) -> None:
    blake3 = pytest.importorskip("blake3").blake3
    mw.merge("recipe.yml").save("out", hash="blake3", shard_bytes=300)
    manifest = json.loads(Path("out/manifest.json").read_text())
    for name, entry in manifest["files"].items():
        assert entry["blake3"] == blake3(Path("out", name).read_bytes()).hexdigest()
    assert mw.verify("out").problems == ()
    manifest["files"]["config.json"]["blake3"] = "0" * 64
    Path("out/manifest.json").write_text(json.dumps(manifest))
    assert mw.verify("out").problems == (
        "config.json has another BLAKE3 hash, though its chunks have theirs: the manifest or the file was tampered with",
    )


def test_hashes_that_are_not_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(mw.InputError, match=r"^hash must be xxh3 or blake3, got 'md5'\.$"):
        mw.merge("recipe.yml").save("out", hash="md5")
    monkeypatch.setitem(sys.modules, "blake3", None)
    with pytest.raises(mw.InputError) as found:
        mw.merge("recipe.yml").save("out", hash="blake3")
    assert str(found.value) == (
        "--hash blake3 needs the package 'blake3', which is not installed. Install the extra: pip install \"modelwright[audit]\"."
    )
    assert not Path("out").exists()
    assert not Path("out.partial").exists()
