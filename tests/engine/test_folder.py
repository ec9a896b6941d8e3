"""The output is whole or absent: refusals, failures in the middle, kills at any moment."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny
from modelwright.engine import _folder, _output

HEAD = "lm_head.weight"
RECIPE = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
MW = str(Path(sys.executable).with_name("mw"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        tiny.model(tmp_path / name, seed)
    Path("recipe.yml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def refused(message: str, out: str = "out", **options: Any) -> None:
    before = tiny.contents(Path())
    with pytest.raises(mw.InputError) as found:
        mw.merge("recipe.yml").save(out, **options)
    assert str(found.value) == message
    assert tiny.contents(Path()) == before


# --- refusals ------------------------------------------------------------------------------------------------------


def test_an_output_that_exists(here: Path) -> None:
    Path("out").mkdir()
    refused("the output 'out' exists. Choose another folder, or pass --overwrite (overwrite=True).")
    mw.merge("recipe.yml").save("out", overwrite=True)  # an empty folder is no loss
    refused("the output 'out' exists. Choose another folder, or pass --overwrite (overwrite=True).")


def test_an_output_named_like_a_file(here: Path) -> None:
    refused(
        "the output is a folder, and 'out.safetensors' is named like a weight file. Choose 'out': it will hold "
        "model.safetensors and what belongs to it.",
        "out.safetensors",
    )


def test_only_our_own_folders_are_overwritten(here: Path) -> None:
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("years of work")
    Path("file").write_text("years of work")
    for name in ("out", "file"):
        message = f"'{name}' was not made by modelwright, so it is not overwritten. Remove it yourself first."
        refused(message, name, overwrite=True)


def test_a_manifest_of_another_program_does_not_make_it_ours(here: Path) -> None:
    Path("out").mkdir()
    for text in ('{"manifest_version": 3, "name": "a browser extension"}', "[]", "not JSON", '{"made_by": null}'):
        Path("out/manifest.json").write_text(text)
        message = "'out' was not made by modelwright, so it is not overwritten. Remove it yourself first."
        refused(message, overwrite=True)


def test_an_input_is_not_overwritten(here: Path) -> None:
    mw.merge("recipe.yml").save("mine/out")
    Path("recipe.yml").write_text(RECIPE.replace("model: a", "model: mine/out"), encoding="utf-8")
    for out in ("mine/out", "mine", "./mine/../mine/out"):
        message = f"the output '{Path(out)}' is or holds one of the inputs. Choose another folder."
        refused(message, out, overwrite=True)


def test_an_input_reached_by_a_link_is_not_overwritten(here: Path) -> None:
    mw.merge("recipe.yml").save("mine")
    Path("link").symlink_to("mine")
    Path("recipe.yml").write_text(RECIPE.replace("model: a", "model: mine"), encoding="utf-8")
    refused(f"the output '{here}/mine' is or holds one of the inputs. Choose another folder.", "link", overwrite=True)


def test_a_full_disk(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    config = Path("a/config.json").stat().st_size
    size = 4 * 260 + sum(len(name) + 200 for name in tiny.names()) + config + (1 << 20)
    message = f"the output needs {size:,} bytes, and '{here}' has 1,000 free. Free space, or choose another disk."
    refused(message)


def test_a_disk_that_has_room_for_the_weights_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizers have tens of megabytes."""
    Path("a/tokenizer.json").write_text(json.dumps({"model": {"vocab": {"x" * 5_000_000: 0}}}))
    merged = mw.merge("recipe.yml")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 4_000_000))  # type: ignore[attr-defined]
    with pytest.raises(mw.InputError, match=r"^the output needs 6,\d\d\d,\d\d\d bytes, and .* has 4,000,000 free"):
        merged.save("out")
    assert not Path("out.partial").exists()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_reserve(number: int, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mw.merge("recipe.yml").save("expected")

    def cannot(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    mw.merge("recipe.yml").save("out")
    assert tiny.contents(here / "out") == tiny.contents(here / "expected")


def test_a_home_that_nobody_has(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(
        "'~nobody-at-all/out' is below a home folder, and there is none. Write the path in full.", "~nobody-at-all/out"
    )

    def unknown(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MODELWRIGHT_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)  # a container whose user is a bare number
    refused("'~/out' is below a home folder, and there is none. Write the path in full.", "~/out")
    mw.merge("recipe.yml").save("out")
    pytest.importorskip("fsspec")
    refused(
        "there is no home folder to keep copies of remote files in. Set MODELWRIGHT_CACHE to a folder.",
        "memory://x/out",
    )


def test_what_a_killed_merge_left_counts_as_free(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out.partial").mkdir()
    Path("out.partial/.modelwright-partial").touch()
    Path("out.partial/model.safetensors").write_bytes(b"x" * 2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    mw.merge("recipe.yml").save("out")


def test_an_output_below_a_file(here: Path) -> None:
    message = (
        f"the output 'recipe.yml/out' cannot be made, because '{here}/recipe.yml' is a file. Choose another folder."
    )
    refused(message, "recipe.yml/out")


@pytest.mark.parametrize("out", ["/", "."])
def test_an_output_without_a_name(out: str, here: Path) -> None:
    with pytest.raises(mw.InputError):
        mw.merge("recipe.yml").save(out)
    with pytest.raises(mw.InputError):
        mw.merge("recipe.yml").save(out, overwrite=True)


def test_neighbours_of_the_user_are_left_alone(here: Path) -> None:
    mw.merge("recipe.yml").save("out")
    Path("out.old").mkdir()
    Path("out.old/manifest.json").write_text("{}")  # a backup of the user, by its look one of ours
    refused("'out.old' is in the way: an overwrite puts 'out' there for a moment. Move it away.", overwrite=True)
    shutil.rmtree("out.old")
    Path("out.partial").mkdir()
    Path("out.partial/notes.txt").touch()
    message = "'out.partial' is in the way and was not left by a killed merge. Move it away."
    refused(message, overwrite=True)


def test_another_merge_into_the_same_folder(here: Path) -> None:
    Path("out.partial").mkdir()
    with Path("out.partial/.modelwright-partial").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused("another merge is writing 'out'. Wait for it, or choose another folder.")
    mw.merge("recipe.yml").save("out")
    assert not Path("out.partial").exists()


def test_another_merge_that_is_just_replacing_it(here: Path) -> None:
    """Between its two renames: nobody is to move anything away then."""
    mw.merge("recipe.yml").save("out")
    Path("out.old").mkdir()
    Path("out.old/.modelwright-replaced").touch()
    with Path("out/.modelwright-partial").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused("another merge is just replacing 'out'. Wait for it, or choose another folder.", overwrite=True)


def test_a_partial_folder_that_vanishes_while_it_is_looked_at(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another merge has ended meanwhile."""
    Path("out.partial").mkdir()
    (Path("out.partial") / ".modelwright-partial").touch()

    def gone(self: Path, _: str) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "rglob", gone)
    _folder.check_disk(Path("out.partial"), 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": -1}, "threads must be 0 (all cores) or more, got -1."),
        ({"shard_bytes": 0}, "shard_bytes must be at least 1, got 0."),
    ],
)
def test_options_out_of_range(options: dict[str, int], message: str, here: Path) -> None:
    refused(message, **options)


def test_a_device_without_torch(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    message = "--device cuda needs the package 'torch', which is not installed."
    refused(f'{message} Install the extra: pip install "modelwright[torch]".', device="cuda")


@pytest.mark.torch
def test_a_device_that_is_not_there(here: Path) -> None:
    torch = pytest.importorskip("torch")
    before = tiny.listing(here)
    for device in ["banana", *([] if torch.cuda.is_available() else ["cuda"])]:
        with pytest.raises(mw.InputError, match=rf"no device '{device}' here \(.*Leave --device out"):
            mw.merge("recipe.yml").save("out", device=device)
    assert tiny.listing(here) == before


@pytest.mark.torch
def test_torch_on_the_cpu_agrees_with_numpy(here: Path) -> None:
    """The path of every accelerator, on the device `meta` would be empty; `cpu:0` computes."""
    pytest.importorskip("torch")
    text = "merge_method: ties\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1, density: 0.4, scope: model}\n"
    Path("recipe.yml").write_text(text, encoding="utf-8")
    mw.merge("recipe.yml").save("numpy")
    mw.merge("recipe.yml").save("torch", device="cpu:0")
    ours, theirs = tiny.read(here / "numpy"), tiny.read(here / "torch")
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=1e-6, atol=1e-7)


# --- failures in the middle ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_input_that_is_not_finite(bad: float, here: Path) -> None:
    weights = tiny.arrays(2)
    weights[HEAD][1, 2:4] = bad
    tiny.write(here / "b", weights, tiny.config())
    message = f"'{HEAD}' of b holds 2 values that are NaN or infinite. A merge would spread them: mend or replace the checkpoint, or pass --allow-nonfinite."
    refused(message)


def test_half_precision_overflow(here: Path) -> None:
    weights = tiny.arrays(2)
    weights[HEAD][0, 0] = 3e5
    tiny.write(here / "b", weights, tiny.config())
    before = tiny.listing(here)
    with pytest.raises(mw.RunError) as found:
        mw.merge(["b", "b"], method="linear", out_dtype="float16").save("out")
    assert str(found.value) == (
        f"'{HEAD}' reaches 3e+05, which float16 cannot hold (its largest is 6.55e+04). Set out_dtype: bfloat16 or float32."
    )
    assert tiny.listing(here) == before


def test_overflow_of_the_sum_itself(here: Path) -> None:
    with pytest.raises(mw.RunError) as found:
        mw.merge(["a"], base="b", method="task_arithmetic", weight=3e38).save("out")
    assert str(found.value).endswith(
        "the merge overflows float32, in which it is computed, though every input is finite. Lower the weights or lambda."
    )
    assert not Path("out.partial").exists()


@pytest.mark.parametrize("action", ["copy", "merge"])
def test_half_precision_overflow_of_what_is_only_copied(action: str, here: Path) -> None:
    weights = tiny.arrays(2)
    weights[HEAD][0, 0] = 3e5
    tiny.write(here / "b", weights, tiny.config())
    scale = {"scale": 1.0} if action == "merge" else {}
    with pytest.raises(mw.RunError, match=rf"'{HEAD}' reaches 3e\+05, which float16 cannot hold"):
        mw.merge(["b"], method="passthrough", out_dtype="float16", **scale).save("out")


def test_a_refusal_of_the_method_names_the_tensor(here: Path) -> None:
    with pytest.raises(mw.InputError, match="linear: the weights add up to 0"):
        mw.merge(["a", "b"], method="linear", weight=[1, -1]).save("out")
    assert not Path("out.partial").exists()


def test_tidying_up_that_fails_is_not_called_a_failed_merge(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mw.merge("recipe.yml").save("out")
    expected = tiny.contents(Path("out"))

    def failing(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    said = r"^'out' is complete, but tidying up failed: Input/output error \(.*out\.old\)\.$"
    with monkeypatch.context() as patched:
        patched.setattr(_folder, "_remove_replaced", failing)
        with pytest.raises(mw.RunError, match=said):
            mw.merge("recipe.yml").save("out", overwrite=True)
    assert tiny.contents(Path("out")) == expected
    mw.merge("recipe.yml").save("out", overwrite=True)
    assert not Path("out.old").exists()


def test_a_write_that_fails_leaves_the_old_output(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mw.merge("recipe.yml").save("out")
    before = tiny.contents(here)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_output, "_write", full)
    with pytest.raises(mw.RunError) as found:
        mw.merge("recipe.yml").save("out", overwrite=True)
    assert str(found.value) == "writing 'out' failed: No space left on device. Nothing was kept."
    assert tiny.contents(here) == before


@pytest.mark.parametrize("use", ["save", "read"])
def test_an_input_that_changed_since_it_was_opened(use: str, here: Path) -> None:
    """Its tensors may lie elsewhere now: here two of one size have changed places."""
    merged = mw.merge("recipe.yml")
    layers = dict(reversed(tiny.arrays(2).items()))
    size = Path("b/model.safetensors").stat().st_size
    tiny.write(here / "b", layers, tiny.config())
    assert Path("b/model.safetensors").stat().st_size == size
    before = tiny.listing(here)
    message = (
        "'b/model.safetensors' has changed since it was opened. Open the models again, when nothing writes to them."
    )
    with pytest.raises(mw.InputError) as found:
        merged.save("out") if use == "save" else merged[HEAD].read()
    assert str(found.value) == message
    Path("b/model.safetensors").unlink()
    with pytest.raises(mw.InputError, match=r"^'b/model.safetensors' is no longer there\. Open the models again"):
        merged.save("out")
    assert set(tiny.listing(here)) == set(before) - {"b/model.safetensors"}


def test_an_input_cut_short_meanwhile(here: Path) -> None:
    merged = mw.merge("recipe.yml")
    with Path("b/model.safetensors").open("r+b") as file:
        file.truncate(1500)
    before = tiny.listing(here)
    with pytest.raises((mw.RunError, mw.InputError), match=r"model\.safetensors"):
        merged.save("out")
    assert tiny.listing(here) == before


@pytest.mark.parametrize("moment", ["replace", "old renamed", "new renamed"])
def test_an_overwrite_killed_at_any_rename_is_mended(moment: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mw.merge("recipe.yml").save("out")
    before = tiny.contents(Path("out"))
    changed = mw.merge(["a", "b"], method="linear", weight=[1, 2])
    renames = 0
    original = Path.rename

    def killed(self: Path, target: Path) -> Path:
        nonlocal renames
        if moment == "replace":
            os._exit(9)
        result = original(self, target)
        renames += 1
        if renames == {"old renamed": 1, "new renamed": 2}[moment]:
            os._exit(9)
        return result

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "rename", killed)
        changed.save("out", overwrite=True, threads=1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    _folder.recover(Path("out"))
    assert not Path("out.old").exists()
    found = tiny.contents(Path("out"))
    if moment != "new renamed":
        assert {k: v for k, v in found.items() if not k.startswith(".")} == before
    changed.save("out", overwrite=True)
    mw.merge(["a", "b"], method="linear", weight=[1, 2]).save("expected")
    assert tiny.contents(Path("out")) == tiny.contents(Path("expected"))
    assert tiny.listing(here) == sorted({*tiny.listing(here)} - {"out.partial", "out.old"})


SLOW = """
import sys, time
from modelwright.engine import _merge
original = _merge.compute
def slow(plan, tensor, *rest):
    print("computing", tensor.name, flush=True)
    time.sleep(0.25)
    return original(plan, tensor, *rest)
_merge.compute = slow
from modelwright.cli import main
sys.argv = ["mw", *sys.argv[1:]]
main()
"""


def started(*arguments: str) -> subprocess.Popen[str]:
    """A merge in a process of its own that has begun to write."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("computing")
    return process


def test_kill_in_the_middle(here: Path) -> None:
    process = started("merge", "recipe.yml", "-o", "out", "-j", "1")
    before = set(tiny.listing(here))
    process.kill()
    process.communicate()
    assert not Path("out").exists()
    assert {name.split("/")[0] for name in before} == {"a", "b", "base", "recipe.yml", "out.partial"}
    mw.merge("recipe.yml").save("out")
    assert not Path("out.partial").exists()
    mw.merge("recipe.yml").save("expected")
    assert tiny.contents(Path("out")) == tiny.contents(Path("expected"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_in_the_middle(here: Path, number: signal.Signals) -> None:
    before = tiny.listing(here)
    process = started("merge", "recipe.yml", "-o", "out", "-j", "2")
    time.sleep(0.1)
    process.send_signal(number)
    begun = time.monotonic()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "error: interrupted. Nothing unfinished was kept.\n"
    assert time.monotonic() - begun < 3  # it does not finish the merge first
    assert tiny.listing(here) == before


# --- notes and memory ----------------------------------------------------------------------------------------------


def test_a_merge_that_changes_nothing_says_so(here: Path) -> None:
    result = mw.merge(["a"], base="base", method="ties", lambda_=0.0).save("out")
    note = "ties changed nothing: the output equals the base"
    assert note in result.notes
    assert note in json.loads(Path("out/manifest.json").read_text())["notes"]
    assert note not in mw.merge(["a"], base="base", method="ties").save("other").notes


MEMORY = """
import resource, sys
import modelwright as mw
mw.merge([sys.argv[1] + "/a", sys.argv[1] + "/b"], method="linear").save(sys.argv[1] + "/out", threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    peaks = {}
    for layers in (5, 20):
        folder = tmp_path / str(layers)
        for name in ("a", "b"):
            block = np.zeros((1000, 1000), np.float32)  # 4 MB, so 20 MB and 80 MB a model
            tiny.write(folder / name, {f"layers.{i}.weight": block for i in range(layers)})
        done = subprocess.run([sys.executable, "-c", MEMORY, str(folder)], check=True, capture_output=True, text=True)
        peaks[layers] = int(done.stdout)
        shutil.rmtree(folder)
    assert peaks[20] - peaks[5] < 16_000, peaks  # kB; the larger model has 60 MB more, three times
