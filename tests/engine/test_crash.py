"""A merge that is killed at any moment goes on where it was, to the same bytes; what cannot go on says so."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny
from modelwright.engine import _identity, _output

RECIPES = {
    "ties": "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, density: 0.3, scope: model}\n",
    "dare_ties": "merge_method: dare_ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, density: 0.4}\nseed: 3\n",
}
#: Weights of 30 tensors, each in a file of its own, so that there are many moments between.
SHARD = 30_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crash")
    rng = np.random.default_rng(0)
    base = {f"model.layers.{i}.w.weight": rng.standard_normal((64, 100)).astype(np.float32) for i in range(30)}
    for name in ("base", "a", "b"):
        change = 0 if name == "base" else 0.1
        arrays = {key: (x + change * rng.standard_normal(x.shape)).astype(np.float32) for key, x in base.items()}
        tiny.write(folder / name, arrays, {"model_type": "llama", "num_hidden_layers": 30})
    return folder


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "a", "b"):
        (tmp_path / name).symlink_to(models / name)
    monkeypatch.chdir(tmp_path)
    Path("recipe.yml").write_text(RECIPES["dare_ties"], encoding="utf-8")
    return tmp_path


#: A merge whose tensors take their time, and that says when it begins to compute.
SLOW = """
import sys, time
from modelwright.engine import _merge
original, pause = _merge.compute, float(sys.argv[1])
def slow(*rest):
    print("computing", flush=True)
    time.sleep(pause)
    return original(*rest)
_merge.compute = slow
from modelwright.cli import main
sys.argv = ["mw", *sys.argv[2:]]
main()
"""


def merging(*arguments: str, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(pause), "merge", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def started(*arguments: str, pause: float = 0.02) -> subprocess.Popen[str]:
    """A merge in a process of its own that has begun to compute."""
    process = merging(*arguments, pause=pause)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("computing")
    return process


def journal(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(f"{out}.partial/.modelwright-journal").read_bytes().splitlines()]


@pytest.mark.parametrize("case", RECIPES)
def test_killed_at_random_moments(case: str, here: Path) -> None:
    """One output is killed again and again until it is done, and then the next: twenty kills for each recipe."""
    Path("recipe.yml").write_text(RECIPES[case], encoding="utf-8")
    mw.merge("recipe.yml").save("expected", shard_bytes=SHARD)
    expected = tiny.contents(here / "expected")
    kills, resumed, rng = 0, 0, random.Random(1)
    for attempt in range(100):
        if kills == 10:
            break
        out = f"out{attempt}"
        while kills < 10:
            process = merging("recipe.yml", "-o", out, "--shard-size", str(SHARD), "-j", "2", "--quiet", pause=0.005)
            assert process.stdout is not None
            for _ in range(rng.randint(1, 15)):
                process.stdout.readline()  # nothing, where all is done but the end
            time.sleep(rng.random() * 0.01)
            process.kill()
            _, err = process.communicate()
            assert process.returncode in (0, -signal.SIGKILL), err
            if process.returncode == 0 or Path(out).exists():
                break
            kills += 1
        if not Path(out).exists():
            mw.merge("recipe.yml").save(out, shard_bytes=SHARD)
        assert tiny.contents(here / out) == expected
        resumed += json.loads(Path(out, "manifest.json").read_text())["run"]["resumes"]
        assert not Path(f"{out}.partial").exists()
    assert kills == 10
    assert resumed > 3  # not every kill comes late enough to leave something


#: A merge on kernels, of tensors of several ranges, that says when a range begins and takes its time over it.
KERNELS = """
import sys, time
import modelwright as mw
from modelwright.engine._merge import Merge
original = Merge._combine
def slow(*rest):
    print("combining", flush=True)
    time.sleep(0.01)
    return original(*rest)
Merge._combine = slow
mw.merge(["a", "b"], base="base", method="dare_ties", density=0.4, seed=3).save("out", kernels="always", threads=2)
"""


def test_killed_between_the_ranges_of_large_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is finished of a tensor is kept, to the range; no tensor of these is finished in one go."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("base", "a", "b"):
        shapes = {"x": (5 << 20) + 77, "y": (3 << 20) + 1}
        arrays = {key: rng.standard_normal(size, np.float32).astype(tiny.bfloat16) for key, size in shapes.items()}
        tiny.write(tmp_path / name, arrays)
    mw.merge(["a", "b"], base="base", method="dare_ties", density=0.4, seed=3).save("expected", kernels="never")
    draw, ranges = random.Random(2), 10
    for kill in range(3):
        process = subprocess.Popen([sys.executable, "-c", KERNELS], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(draw.randint(5, 7)):
            process.stdout.readline()
        process.kill()
        process.communicate()
        assert not Path("out").exists(), kill
        done = {tuple(line["range"]) for line in journal("out") if "range" in line}
    assert len(done) > 2
    written = 0
    original = _output.WeightFiles.done

    def count(*rest: Any) -> None:
        nonlocal written
        written += 1
        original(*rest)

    monkeypatch.setattr(_output.WeightFiles, "done", count)
    told: list[str] = []
    merged = mw.merge(["a", "b"], base="base", method="dare_ties", density=0.4, seed=3)
    merged.save("out", kernels="always", progress=lambda what, *_: told.append(what))
    assert written < ranges
    assert told[0] == "checking what is done"
    assert tiny.contents(tmp_path / "out") == tiny.contents(tmp_path / "expected")


def test_what_is_finished_is_not_done_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = started("recipe.yml", "-o", "out", "--shard-size", str(SHARD), "-j", "1", "--quiet", pause=0.05)
    time.sleep(0.6)
    process.kill()
    process.communicate()
    done = sum("chunk" in line for line in journal("out"))
    assert 0 < done < 30
    written: set[str] = set()
    original = _output.WeightFiles.write

    def write(self: Any, name: str, start: int, data: Any) -> None:
        written.add(name)
        original(self, name, start, data)

    monkeypatch.setattr(_output.WeightFiles, "write", write)
    result = mw.merge("recipe.yml").save("out", shard_bytes=SHARD)
    assert len(written) == 30 - done
    assert result.notes[-1] == "gone on with a merge that was interrupted; what was finished was checked and kept"


def test_a_finished_chunk_that_was_damaged_is_made_again(here: Path) -> None:
    mw.merge("recipe.yml").save("expected", shard_bytes=SHARD)
    process = started("recipe.yml", "-o", "out", "--shard-size", str(SHARD), "-j", "1", "--quiet", pause=0.03)
    time.sleep(0.4)
    process.kill()
    process.communicate()
    (file, _), *_ = [line["chunk"] for line in journal("out") if "chunk" in line]
    path = sorted(Path("out.partial").glob("*.safetensors"))[file]
    with path.open("r+b") as opened:
        opened.seek(20_000)
        opened.write(b"power cut")
    mw.merge("recipe.yml").save("out", shard_bytes=SHARD)
    assert tiny.contents(here / "out") == tiny.contents(here / "expected")


@pytest.mark.parametrize("tail", [b'{"chunk":[3', b"\0" * 500, b'{"chunk":[0,0],"xxh3_128":"0"}'])
def test_a_journal_that_ends_in_the_middle_of_a_line(tail: bytes, here: Path) -> None:
    mw.merge("recipe.yml").save("expected", shard_bytes=SHARD)
    process = started("recipe.yml", "-o", "out", "--shard-size", str(SHARD), "-j", "1", "--quiet", pause=0.03)
    time.sleep(0.4)
    process.kill()
    process.communicate()
    with Path("out.partial/.modelwright-journal").open("ab") as file:
        file.write(tail)
    mw.merge("recipe.yml").save("out", shard_bytes=SHARD)
    assert tiny.contents(here / "out") == tiny.contents(here / "expected")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on(number: signal.Signals, here: Path) -> None:
    mw.merge("recipe.yml").save("expected", shard_bytes=SHARD)
    arguments = ("recipe.yml", "-o", "out", "--shard-size", str(SHARD), "-j", "2")
    process = started(*arguments)
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == (
        "error: interrupted. What is done is kept in 'out.partial': run the same command again to go on, or delete that "
        "folder.\n"
    )
    subprocess.run([Path(sys.executable).with_name("mw"), "merge", *arguments, "--quiet"], check=True)
    assert tiny.contents(here / "out") == tiny.contents(here / "expected")


# --- what does not go on -------------------------------------------------------------------------------------------


@pytest.fixture
def partial(here: Path) -> Path:
    """What a killed merge has left."""
    process = started("recipe.yml", "-o", "out", "--shard-size", str(SHARD), "-j", "1", "--quiet", pause=0.03)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    return here / "out.partial"


def refused(why: str, text: str = "recipe.yml", **options: Any) -> None:
    before = tiny.listing(Path("out.partial"))
    with pytest.raises(mw.InputError) as found:
        mw.merge(text).save("out", **({"shard_bytes": SHARD} | options))
    assert str(found.value) == (
        f"'out.partial' holds a merge that was not finished, and it is not this one: {why}. Finish that one, choose another "
        "folder, or discard it: --restart (restart=True)."
    )
    assert tiny.listing(Path("out.partial")) == before


def test_another_recipe_is_refused(partial: Path) -> None:
    Path("other.yml").write_text(RECIPES["dare_ties"].replace("0.4", "0.5"), encoding="utf-8")
    refused("its recipe, options or method are other ones", "other.yml")
    mw.merge("other.yml").save("out", shard_bytes=SHARD, restart=True)
    mw.merge("other.yml").save("expected", shard_bytes=SHARD)
    assert tiny.contents(Path("out")) == tiny.contents(Path("expected"))


def test_other_weight_files_are_refused(partial: Path) -> None:
    refused("its weight files have another size (--shard-size)", shard_bytes=SHARD * 2)


def test_changed_inputs_are_refused(partial: Path) -> None:
    target = Path("b").resolve()
    Path("b").unlink()
    shutil_copy(target, Path("b"))
    refused("'b/config.json' has changed since, or is another input")


def shutil_copy(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def test_another_version_is_refused(partial: Path) -> None:
    path = partial / ".modelwright-journal"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(first.replace('"version":"0.1.0"', '"version":"0.0.9"') + "".join(rest))
    refused("modelwright 0.0.9, and this is 0.1.0")


# --- the disk and the inputs ---------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_keeps_what_is_done(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mw.merge("recipe.yml").save("expected", shard_bytes=SHARD)
    original = _output._write
    count = 0

    def full(handle: int, data: memoryview, offset: int) -> None:
        nonlocal count
        count += 1
        if count > 45:  # 30 headers, then tensors
            raise OSError(errno.ENOSPC, "No space left on device")
        original(handle, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(_output, "_write", full)
        with pytest.raises(mw.RunError) as found:
            mw.merge("recipe.yml").save("out", shard_bytes=SHARD)
    assert str(found.value) == (
        "writing 'out' failed: No space left on device. What is done is kept in 'out.partial': run the same command again to "
        "go on, or delete that folder."
    )
    mw.merge("recipe.yml").save("out", shard_bytes=SHARD)
    assert json.loads(Path("out/manifest.json").read_text())["run"]["resumes"] == 1
    assert tiny.contents(here / "out") == tiny.contents(here / "expected")


def test_a_file_too_large_for_its_limit(here: Path) -> None:
    """EFBIG, where space is reserved: before any byte is computed."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [Path(sys.executable).with_name("mw"), "merge", "recipe.yml", "-o", "out", "--quiet"]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: writing 'out' failed: File too large. Nothing was kept.\n")
    assert not Path("out").exists()
    assert not Path("out.partial").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_in_truth(small_disk: Path, here: Path) -> None:
    """ENOSPC, though there seemed to be room when it was asked for."""
    mw.merge("recipe.yml").save("expected", shard_bytes=SHARD)
    (small_disk / "other").write_bytes(b"x" * 2_500_000)
    code = "import shutil, sys; import modelwright.engine._folder as f; f.check_disk = lambda *_: None\n"
    code += (
        "import modelwright.engine._run as r; r.check_disk = lambda *_: None\nfrom modelwright.cli import main; main()"
    )
    out = small_disk / "out"
    command = [sys.executable, "-c", code, "merge", "recipe.yml", "-o", str(out), "--quiet"]
    done = subprocess.run([*command, "--shard-size", str(SHARD)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # 0.8 MB fit
    (small_disk / "other").write_bytes(b"x" * 3_200_000)
    done = subprocess.run([*command, "--shard-size", str(SHARD), "--overwrite"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: writing '{out}' failed: No space left on device. Nothing was kept.\n",
    )
    assert tiny.contents(out) == tiny.contents(here / "expected")  # the old output is untouched
    (small_disk / "other").unlink()
    subprocess.run([*command, "--shard-size", str(SHARD), "--overwrite"], check=True)
    assert tiny.contents(out) == tiny.contents(here / "expected")


def test_an_input_that_changes_meanwhile(here: Path) -> None:
    target = Path("b").resolve()
    Path("b").unlink()
    shutil_copy(target, Path("b"))
    process = started("recipe.yml", "-o", "out", "--quiet")
    os.utime("b/model.safetensors", (1, 1))
    _, err = process.communicate()
    assert process.returncode == 1
    assert (
        err
        == "error: 'b/model.safetensors' changed while it was being merged, so the output is discarded. Merge again.\n"
    )
    assert not Path("out").exists()
    assert not Path("out.partial").exists()


def _broken_after(reads: int) -> Callable[..., int]:
    """`os.preadv` on a disk that fails after so many reads."""
    original, count = os.preadv, itertools.count()

    def broken(*arguments: Any) -> int:
        if next(count) >= reads:
            raise OSError(errno.EIO, "Input/output error")
        return original(*arguments)

    return broken


def test_an_input_that_cannot_be_read_meanwhile(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mw.merge("recipe.yml").save("expected", shard_bytes=SHARD)
    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", _broken_after(40))
        with pytest.raises(mw.RunError) as found:
            mw.merge("recipe.yml").save("out", shard_bytes=SHARD, threads=1)
    assert str(found.value).endswith(
        "model.safetensors can no longer be read (Input/output error). What is done is kept in 'out.partial': run the same "
        "command again to go on, or delete that folder."
    )
    mw.merge("recipe.yml").save("out", shard_bytes=SHARD)
    assert json.loads(Path("out/manifest.json").read_text())["run"]["resumes"] == 1
    assert tiny.contents(here / "out") == tiny.contents(here / "expected")


def test_inputs_in_memory_leave_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are gone with the process, so there is nothing to go on with."""
    models = [{name: ref.read() for name, ref in mw.open(model).items()} for model in ("a", "b")]

    def full(self: Any, name: str, start: int, data: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(_output.WeightFiles, "write", full)
        with pytest.raises(mw.RunError, match="Nothing was kept"):
            mw.merge(models, method="linear").save("out", shard_bytes=SHARD)
    assert not Path("out.partial").exists()


# --- what others do meanwhile ---------------------------------------------------------------------------------------


def test_a_folder_that_came_in_the_way_is_not_touched(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mw.merge("recipe.yml").save("expected", shard_bytes=SHARD)
    original = _output.WeightFiles.table

    def table(self: Any) -> Any:
        Path("out").mkdir()
        Path("out/thesis.txt").write_text("years of work")
        return original(self)

    with monkeypatch.context() as patched:
        patched.setattr(_output.WeightFiles, "table", table)
        with pytest.raises(mw.RunError) as found:
            mw.merge("recipe.yml").save("out", shard_bytes=SHARD)
    assert str(found.value) == (
        "All is merged, but the output 'out' exists. Choose another folder, or pass --overwrite (overwrite=True). What is done "
        "is kept in 'out.partial': run the same command again to go on, or delete that folder."
    )
    assert Path("out/thesis.txt").read_text() == "years of work"
    Path("out").rename("mine")
    mw.merge("recipe.yml").save("out", shard_bytes=SHARD)
    assert tiny.contents(here / "out") == tiny.contents(here / "expected")


def test_an_output_below_an_input(here: Path) -> None:
    """The input's files are what a model is read from, not whatever lies below its folder."""
    target = Path("a").resolve()
    Path("a").unlink()
    shutil_copy(target, Path("a"))
    mw.merge("recipe.yml").save("a/merged", shard_bytes=SHARD)
    assert mw.verify("a/merged").problems == ()


def test_a_replaced_output_that_was_half_deleted(here: Path) -> None:
    mw.merge("recipe.yml").save("out")
    Path("out").rename("out.old")
    Path("out.old/.modelwright-replaced").touch()
    Path("out.old/config.json").unlink()
    mw.merge("recipe.yml").save("out2")
    Path("out2").rename("out")
    mw.merge("recipe.yml").save("out", overwrite=True)
    assert not Path("out.old").exists()
    Path("out.old").mkdir()  # killed before the very last step
    mw.merge("recipe.yml").save("out", overwrite=True)
    assert not Path("out.old").exists()


def test_marks_of_a_killed_end_are_removed(here: Path) -> None:
    mw.merge("recipe.yml").save("out")
    expected = tiny.listing(here / "out")
    for name in (".modelwright-replaced", ".modelwright-partial", ".modelwright-journal"):
        Path("out", name).touch()
    with pytest.raises(mw.InputError, match="the output 'out' exists"):
        mw.merge("recipe.yml").save("out")
    assert tiny.listing(here / "out") == expected


def test_adapters_are_inputs_and_downloads_are_no_change(here: Path) -> None:
    plan = mw.Job.from_recipe("recipe.yml", [], mw.registry()).plans()[0]
    (here / "adapter").mkdir()
    (here / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    plan.models[0].beneath = (here / "adapter",)
    about = {"inputs": _identity.inputs(plan)}
    assert str(here / "adapter" / "adapter_model.safetensors") in about["inputs"]
    (here / "adapter" / "new.json").touch()
    assert _identity.changed_inputs(plan, about) == ""
    (here / "adapter" / "adapter_model.safetensors").write_bytes(b"xy")
    assert _identity.changed_inputs(plan, about) == str(here / "adapter" / "adapter_model.safetensors")


def test_empty_folders_of_another_recipe_do_not_stay(here: Path) -> None:
    Path("out.partial/unet").mkdir(parents=True)
    Path("out.partial/.modelwright-partial").touch()
    mw.merge("recipe.yml").save("out")
    assert not Path("out/unet").exists()


def test_values_that_are_not_finite_are_told_after_a_resume_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        target = Path(name).resolve()
        Path(name).unlink()
        shutil_copy(target, Path(name))
    arrays = {key: ref.read() for key, ref in mw.open("b").items()}
    for array in arrays.values():
        array[0, 0] = np.nan
    tiny.write(here / "b", arrays, {"model_type": "llama", "num_hidden_layers": 30})
    run: dict[str, Any] = {"shard_bytes": SHARD, "allow_nonfinite": True, "threads": 1}
    mw.merge("recipe.yml").save("expected", **run)
    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", _broken_after(40))
        with pytest.raises(mw.RunError):
            mw.merge("recipe.yml").save("out", **run)
    refused("its recipe, options or method are other ones", allow_nonfinite=False)
    mw.merge("recipe.yml").save("out", **run)
    assert tiny.contents(here / "out") == tiny.contents(here / "expected")
    assert len([note for note in json.loads(Path("out/manifest.json").read_text())["notes"] if "(1)" in note]) == 1
    assert mw.verify("out", rerun=True).problems == ()
