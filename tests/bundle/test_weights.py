"""Bundles of weights in folders: written whole or not at all, the same in memory, refused by name where damaged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny
from modelwright.bundle import WeightBundle, open_bundle
from modelwright.cli._app import run
from modelwright.errors import InputError

METHODS = ("emr", "tall_mask", "twin_merging")
Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base and two experts, whose configurations differ."""
    monkeypatch.chdir(tmp_path)
    tiny.model(tmp_path / "base", 0)
    for seed, name in ((1, "math"), (2, "code")):
        tiny.model(tmp_path / name, seed, id2label={"0": name})
    return tmp_path


def made(method: str, *more: str) -> int:
    return run(["merge", "math", "code", "--base", "base", "--method", method, "-o", "out", "--quiet", *more])


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_holds_what_is_in_memory(here: Path, method: str) -> None:
    assert made(method) == 0
    held, stored = mw.merge(["math", "code"], base="base", method=method), mw.open("out")
    assert isinstance(stored, WeightBundle)
    assert stored.tasks == held.tasks == ("math", "code")
    assert stored.storage == held.storage
    for task in stored.tasks:
        assert same(stored.task(task).arrays(), held.task(task).arrays())
        assert (stored.task(task).config or {})["id2label"] == {"0": task}
    assert mw.verify("out").problems == ()
    assert not list(here.glob("*.partial"))


def test_storage_counts_what_lies_there(here: Path) -> None:
    for method in METHODS:
        assert made(method, "--overwrite") == 0
        storage = mw.open("out").storage  # type: ignore[reportAttributeAccessIssue]
        files = sum(path.stat().st_size for path in Path("out").rglob("*.safetensors"))
        headers = sum(
            8 + int.from_bytes(path.read_bytes()[:8], "little") for path in Path("out").rglob("*.safetensors")
        )
        assert storage.total == files - headers
        assert storage.experts == 2 * storage.shared
    weights = sum(value.size for value in tiny.arrays(0).values())
    assert made("emr", "--overwrite") == 0
    packed = sum(-(-value.size // 8) for value in tiny.arrays(0).values())
    assert mw.open("out").storage.parts["math"] == packed + 16 * len(tiny.names())  # type: ignore[reportAttributeAccessIssue]
    assert packed < weights / 7


def test_bfloat16_experts_take_bits(here: Path) -> None:
    """An elected entry is some expert's own, so that a mask brings it back to the bit where the rescaler is 1."""
    base = tiny.arrays(0, dtype=ml_dtypes.bfloat16)
    one = {n: (v.astype(np.float32) + 1).astype(v.dtype) for n, v in base.items()}
    bundle = mw.merge([one, dict(base)], base=base, method="emr")
    found = bundle.task(bundle.tasks[0]).arrays()
    assert same({n: v.view(np.uint16) for n, v in found.items()}, {n: v.view(np.uint16) for n, v in one.items()})


def test_recipes_make_bundles(here: Path, said: Said) -> None:
    Path("recipe.yml").write_text(
        "merge_method: twin_merging\nbase_model: base\nmodels:\n- model: math\n- model: code\n"
        "parameters:\n  rank: 2\n  lambda: 0.5\n"
    )
    code, out, err = said("merge", "recipe.yml", "-o", "out")
    assert (code, err) == (0, "")
    assert "parts of 2 tasks" in out
    about = json.loads(Path("out/bundle.json").read_text())
    assert about["weights"] == {"method": "twin_merging", "parameters": {"weight": [1.0, 1.0], "lambda": 0.5, "density": 0.1, "rank": 2, "decomposition": "auto"}}  # fmt: skip
    assert "rank: 2" in about["lineage"]["recipe"]
    assert said("check", "recipe.yml")[0] == 0


def test_the_model_of_a_task_is_a_model(here: Path, said: Said) -> None:
    assert made("emr") == 0
    held = mw.open("out").task("math").arrays()  # type: ignore[reportAttributeAccessIssue]
    code, out, _ = said("extract", "out", "--task", "math", "-o", "model")
    assert code == 0
    assert "extracted out#math into model" in out
    assert same(tiny.read(Path("model")), held)
    assert json.loads(Path("model/config.json").read_text())["id2label"] == {"0": "math"}
    assert said("merge", "out#math", "out#code", "--method", "linear", "-o", "mixed", "--quiet")[0] == 0
    both = [mw.open(f"out#{name}").arrays() for name in ("math", "code")]  # type: ignore[reportAttributeAccessIssue]
    mean = {name: (both[0][name] + both[1][name]) / 2 for name in both[0]}
    for name, value in tiny.read(Path("mixed")).items():
        np.testing.assert_allclose(value, mean[name], rtol=1e-6)
    assert said("diff", "out#math", "--base", "base", "--quiet")[0] == 0


def test_tasks_may_be_mixed_where_the_method_says_so(here: Path, said: Said) -> None:
    assert made("twin_merging", "--set", "density=1.0") == 0
    arguments = ("extract", "out", "--task", "math=0.5", "--task", "code=0.5", "-o", "mixed")
    assert said(*arguments, "--quiet") == (0, "", "")
    shared, math, code = tiny.read(Path("out/shared")), tiny.arrays(1), tiny.arrays(2)
    for name, value in tiny.read(Path("mixed")).items():
        np.testing.assert_allclose(value, (math[name] + code[name]) / 2, rtol=1e-4, atol=1e-5)
        assert value.shape == shared[name].shape
    assert made("emr", "--overwrite") == 0
    assert said(*arguments)[2] == "error: the parts of emr are for one task each, and cannot be mixed. Name one task.\n"


def test_the_base_may_be_elsewhere(here: Path, said: Said) -> None:
    assert made("emr", "--refer-base") == 0
    assert not Path("out/base").exists()
    small, whole = mw.open("out").storage, mw.merge(["math", "code"], base="base", method="emr").storage  # type: ignore[reportAttributeAccessIssue]
    assert small.total == whole.total - whole.base
    assert mw.verify("out").problems == ()
    held = mw.merge(["math", "code"], base="base", method="emr").task("math").arrays()
    assert same(mw.open("out").task("math").arrays(), held)  # type: ignore[reportAttributeAccessIssue]
    tiny.model(Path("base"), 9)
    what = f"the member 'base' of the bundle is '{here / 'base'}', and that holds other weights than it did"
    assert mw.verify("out").problems == (what,)
    with pytest.raises(InputError, match="holds other weights than it did"):
        mw.open("out").task("math").arrays()  # type: ignore[reportAttributeAccessIssue]
    (here / "base").rename(here / "gone")
    code, _, err = said("extract", "out", "--task", "math", "-o", "model")
    assert code == 2
    assert "the member 'base' of the bundle is elsewhere: no file, folder or Hub model is called" in err
    assert not Path("model").exists()


def test_inspect_shows_members(here: Path, said: Said) -> None:
    assert made("emr", "--refer-base") == 0
    code, out, _ = said("inspect", "out")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "kind a bundle of weights" in lines
    assert "tasks math, code" in lines
    assert any(line.startswith("base base 1.04 kB /") for line in lines)
    found = json.loads(said("inspect", "out", "--json")[1])
    assert found["bundle"]["members"]["math"]["folder"] == "tasks/math"
    assert found["bundle"]["members"]["base"]["reference"] == str(here / "base")
    assert found["storage"]["total"] == mw.open("out").storage.total  # type: ignore[reportAttributeAccessIssue]


# --- what is refused -----------------------------------------------------------------------------------------------


def test_a_bundle_is_no_model(here: Path, said: Said) -> None:
    assert made("emr") == 0
    what = "error: 'out' is a bundle, not one model. mw inspect shows what is in it; of weights for several tasks write 'out#TASK'."
    for arguments in (
        ("merge", "out", "math", "--method", "linear", "-o", "no"),
        ("convert", "out", "-o", "no"),
        ("diff", "out", "math"),
    ):
        code, _, err = said(*arguments)
        assert code == 2, err
        assert what in err
    bundle = mw.open("out")
    with pytest.raises(InputError, match="Take the model of a task: math, code"):
        mw.merge([bundle, "math"], method="linear")
    assert said("extract", "out", "--task", "mth", "-o", "no")[2] == (
        "error: out has no task 'mth'. Did you mean 'math'? Valid: code, math.\n"
    )
    assert said("extract", "math", "--task", "math", "-o", "no")[2].startswith(
        "error: 'math' is not a bundle, so it has no tasks."
    )
    assert said("extract", "math", "-o", "no")[2].startswith("error: extract needs --base")
    assert said("extract", "out", "--task", "math", "--base", "base", "-o", "no")[2].startswith(
        "error: --base is for storing"
    )
    assert said("extract", "out", "--task", "math=1", "--task", "code", "-o", "no")[2].startswith(
        "error: several tasks need a weight each"
    )
    assert not Path("no").exists()


def test_what_makes_no_bundle_is_refused(here: Path, said: Said) -> None:
    def wrong(*arguments: str) -> str:
        code, _, err = said("merge", *arguments, "-o", "no")
        assert code == 2, err
        assert not list(here.glob("no*"))
        return err

    assert "base_model" in wrong("math", "code", "--method", "emr")
    assert "a GGUF file holds one model" in wrong("math", "code", "--base", "base", "--method", "emr", "--gguf", "f16")
    assert "--refer-base (refer_base=) is for bundles, and ties makes one model" in wrong(
        "math", "code", "--base", "base", "--method", "ties", "--refer-base"
    )
    Path("steps.yml").write_text(
        "steps:\n- name: one\n  merge_method: emr\n  base_model: base\n  models: [{model: math}, {model: code}]\n"
        "- name: two\n  merge_method: linear\n  models: [{model: one}, {model: math}]\n  parameters: {weight: 1}\n"
    )
    assert "emr makes a bundle, which no later step can merge" in wrong("steps.yml")
    Path("slices.yml").write_text(
        "merge_method: emr\nbase_model: base\nslices:\n- sources:\n  - {model: math, layer_range: [0, 4]}\n"
        "  - {model: base, layer_range: [0, 4]}\n"
    )
    assert "emr makes a bundle, which is of whole models. Write models:, not slices: or modules:." in wrong(
        "slices.yml"
    )
    with pytest.raises(InputError, match="the base is in memory, so a bundle cannot refer to it"):
        mw.merge(["math"], base=tiny.arrays(0), method="emr").save("no", refer_base=True)
    with pytest.raises(InputError, match="is a URL"):
        mw.merge(["math"], base="base", method="emr").save("memory://bucket/no")


def edited(change: Callable[[dict[str, Any]], None]) -> None:
    """Change bundle.json and its hash, as somebody who knows how would."""
    import xxhash

    path = Path("out/bundle.json")
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))
    manifest = json.loads(Path("out/manifest.json").read_text())
    manifest["files"]["bundle.json"] = {
        "bytes": path.stat().st_size,
        "xxh3_128": [xxhash.xxh3_128_hexdigest(path.read_bytes())],
    }
    Path("out/manifest.json").write_text(json.dumps(manifest))


def test_damage_is_named(here: Path, said: Said) -> None:
    assert made("emr") == 0

    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match):
            mw.open("out")

    path = Path("out/bundle.json")
    text = path.read_text()
    path.write_text(text.replace('"emr"', '"tall_mask"'))
    refused("bundle.json' was changed after the bundle was made")
    path.write_text(text)
    edited(lambda about: about.update(bundle_version=7))
    refused("has the version 7, which this modelwright does not know. Update it.")
    path.write_text(text)
    edited(lambda about: about.update(surprise=1))
    refused("'surprise': Extra inputs are not permitted")
    path.write_text(text)
    edited(lambda about: about["members"]["math"].update(folder="../code"))
    refused("must lead into the bundle's own folder")
    path.write_text(text)
    edited(lambda about: about["members"]["math"].update(folder="tasks/x.py:f"))
    refused("must lead into the bundle's own folder, by plain names")
    path.write_text(text)
    edited(
        lambda about: about["members"].update(base={**about["members"]["base"], "folder": None, "reference": "x.py:f"})
    )
    refused("must be a folder, a file, a Hub id or a URL")
    path.write_text(text)
    edited(lambda about: about["members"]["math"].update(folder="tasks/code"))
    refused("the hash of the member 'math' is not that of its files")
    path.write_text(text)
    edited(lambda about: about["weights"].update(method="linear"))
    refused("is of the method linear, which makes no bundles here")
    path.write_text("{")
    refused("JSON")
    path.write_text(text)
    edited(lambda _about: None)
    weights = Path("out/tasks/math/model.safetensors")
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1])
    refused("tasks/math/model.safetensors has")
    weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    mw.open("out")
    code, _, err = said("verify", "out")
    assert code == 3
    assert "chunks of tasks/math/model.safetensors differ" in err
    weights.unlink()
    refused("tasks/math/model.safetensors is missing")


def test_what_exists_is_kept(here: Path, said: Said) -> None:
    Path("out").mkdir()
    Path("out/mine").write_text("x")
    assert made("emr") == 2
    assert made("emr", "--overwrite") == 2
    assert Path("out/mine").read_text() == "x"
    Path("out/mine").unlink()
    Path("out").rmdir()
    assert made("emr") == 0
    assert made("tall_mask") == 2
    assert open_bundle("out").about.weights.method == "emr"  # type: ignore[reportOptionalMemberAccess]
    assert made("tall_mask", "--overwrite") == 0
    assert open_bundle("out").about.weights.method == "tall_mask"  # type: ignore[reportOptionalMemberAccess]
    assert not list(here.glob("out.*"))


def test_a_killed_run_goes_on(here: Path, said: Said) -> None:
    """Killed when the shared weights are there: the next run keeps them, and gives what one run gives."""
    code = (
        "import os, sys, signal\nimport modelwright.bundle._weights as w\n"
        "old = w.execute\n"
        "def execute(plan, out, options):\n"
        "    if 'tasks' in str(out): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return old(plan, out, options)\n"
        "w.execute = execute\nfrom modelwright.cli._app import run\n"
        "run(['merge', 'math', 'code', '--base', 'base', '--method', 'emr', '-o', 'out', '--quiet'])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not Path("out").exists()
    before = Path("out.partial/shared/manifest.json").stat().st_mtime_ns
    code, _, err = said("merge", "math", "code", "--base", "base", "--method", "tall_mask", "-o", "out")
    assert code == 2
    assert "'out.partial' holds a bundle that was not finished, and it is not this one" in err
    assert made("emr") == 0
    assert Path("out/shared/manifest.json").stat().st_mtime_ns == before
    assert mw.verify("out").problems == ()
    assert same(
        mw.open("out").task("code").arrays(),
        mw.merge(["math", "code"], base="base", method="emr").task("code").arrays(),
    )  # type: ignore[reportAttributeAccessIssue]


def test_bad_input_leaves_nothing(here: Path, said: Said) -> None:
    broken = tiny.arrays(1)
    broken["model.norm.weight"][0] = np.nan
    tiny.write(Path("math"), broken, tiny.config())
    code, _, err = said("merge", "math", "code", "--base", "base", "--method", "emr", "-o", "out")
    assert code == 2
    assert "model.norm.weight" in err
    assert not list(here.glob("out*"))


def test_names_tell_tasks_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.model(Path("base"), 0)
    for seed, name in enumerate(("math", "code"), 1):
        tiny.model(Path("runs", name, "final"), seed)
    bundle = mw.merge(["runs/math/final", "runs/code/final"], base="base", method="emr")
    assert bundle.tasks == ("math-final", "code-final")
