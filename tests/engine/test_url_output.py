"""Outputs behind URLs: the bytes of a local merge, finished by the manifest, gone on with after a kill at any moment."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelwright as mw
import tiny_folders as tiny
from modelwright.checkpoint import RemoteFolder, _store as checkpoint_store
from modelwright.cli._app import run
from modelwright.engine import _store

pytest.importorskip("fsspec")
pytestmark = pytest.mark.usefixtures("impatient")

MIB = 1 << 20
#: A shard of one tensor, and five of two.
SHAPES = [(15, 20), *[(15, 10)] * 10]
SHARDS = {"shard_bytes": 1400}
WEIGHTS = [f"model-{i:05d}-of-00006.safetensors" for i in range(1, 7)]
URL = "s3://models/runs/out"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELWRIGHT_CACHE", str(tmp_path / "cache"))
    models(tmp_path)
    return tmp_path


def models(folder: Path, *first: int) -> None:
    """Two models, whose first tensor may have another shape."""
    shapes = [first, *SHAPES[1:]] if first else SHAPES
    for seed, name in enumerate(("a", "b")):
        rng = np.random.default_rng(seed)
        tensors = {f"layers.{i:02d}.weight": rng.normal(size=shape).astype("f4") for i, shape in enumerate(shapes)}
        tiny.write(folder / name, tensors, {"model_type": "llama", "tie_word_embeddings": False})


def merged(weight: float = 1) -> mw.Checkpoint:
    return mw.merge(["a", "b"], method="linear", weight=[1, weight])


def in_store(url: str) -> dict[str, Any]:
    """What is there, the manifest without the part that differs from run to run."""
    out = RemoteFolder(url)
    found: dict[str, Any] = {name: out._file(name).fs.cat_file(out._file(name).path) for name in out.names()}
    if "manifest.json" in found:
        found["manifest.json"] = {k: v for k, v in json.loads(found["manifest.json"]).items() if k != "run"}
    return found


def expected(out: str = "expected", checkpoint: mw.Checkpoint | None = None, **options: Any) -> dict[str, Any]:
    """What a local merge writes."""
    (checkpoint or merged()).save(out, **{**SHARDS, **options})
    found: dict[str, Any] = {path.name: path.read_bytes() for path in Path(out).iterdir()}
    found["manifest.json"] = {k: v for k, v in json.loads(found["manifest.json"]).items() if k != "run"}
    return found


def puts(s3: Any) -> list[str]:
    """Files that were uploaded, in order."""
    return [path.removeprefix("/models/runs/out/") for method, path, _ in s3.requests if method == "PUT"]


def staging() -> Path:
    """The only staging folder."""
    (folder,) = Path("cache/staging").iterdir()
    return folder.absolute()


def refused(message: str, out: str | Path, **options: Any) -> None:
    with pytest.raises(mw.InputError) as found:
        merged().save(out, **options)
    assert str(found.value) == message


# --- whole ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [URL, "memory://runs/out"])
def test_the_same_bytes_as_on_disk(url: str, s3: Any, memory: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_store, "PART", 5 * MIB)
    models(here, 11, MIB // 4 + 1)  # two parts of 5 MiB and a rest
    told: list[tuple[str, int, int]] = []
    result = merged().save(url, **SHARDS, progress=lambda *entry: told.append(entry))
    assert in_store(url) == expected()
    assert result.out == RemoteFolder(url).url
    assert list(Path("cache/staging").iterdir()) == []
    sent = [entry for entry in told if entry[0] == "uploading"]
    assert sent[-1][1] == sent[-1][2] == sum(RemoteFolder(url).names().values())
    if url == URL:
        order = puts(s3)
        assert (order[0], order[-1]) == (_store.UNFINISHED, "manifest.json")
        assert s3.uploads[f"/models/runs/out/{WEIGHTS[0]}"] == 3
        assert len(order) == len({*order}) + 2  # the other parts of that shard
    np.testing.assert_array_equal(
        mw.open(url)["layers.03.weight"].read(), mw.open("expected")["layers.03.weight"].read()
    )


def test_local_bytes_go_when_a_shard_is_uploaded(s3: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = _store.StoreFolder._upload, {}

    def upload(self: Any, name: str) -> None:
        path = self.folder / name
        before = path.stat().st_size
        real(self, name)
        sizes[name] = (before > 0, path.stat().st_size)

    monkeypatch.setattr(_store.StoreFolder, "_upload", upload)
    merged().save(URL, **SHARDS)
    assert {name: sizes[name] for name in WEIGHTS} == dict.fromkeys(WEIGHTS, (True, 0))
    assert sizes["config.json"][1] > 0


def test_inputs_and_output_in_one_store(s3: Any, here: Path) -> None:
    for name in ("a", "b"):
        s3.fs.put(str(here / name), f"models/{name}", recursive=True)
    mw.merge(["s3://models/a", "s3://models/b"], method="linear").save(URL, **SHARDS)
    found, local = in_store(URL), expected()
    assert {name: found[name] for name in WEIGHTS} == {name: local[name] for name in WEIGHTS}
    with pytest.raises(mw.InputError) as said:
        mw.merge(["s3://models/a", URL], method="linear").save("s3://models/runs", overwrite=True)
    assert str(said.value) == "the output 's3://models/runs' is or holds one of the inputs. Choose another folder."


def test_steps_are_kept_beside_the_staging_folder(memory: Any, here: Path) -> None:
    recipe = {
        "steps": [
            {"name": "half", "merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}], "parameters": {"weight": 1}},
            {"name": "rest", "merge_method": "linear", "models": [{"model": "half"}, {"model": "b"}], "parameters": {"weight": 1}},
        ]
    }  # fmt: skip
    result = mw.merge(recipe).save("memory://out", **SHARDS, staging="here")
    (steps,) = Path("here").iterdir()
    assert re.fullmatch(r"out-[0-9a-f]{16}\.steps", steps.name)
    assert [path.name[:5] for path in steps.iterdir()] == ["half-"]
    assert result.notes[-1] == (
        f"the results of the steps are kept in '{steps}' for the next run; delete it when you are content"
    )
    local = expected(checkpoint=mw.merge(recipe))
    found = in_store("memory://out")
    assert {name: found[name] for name in WEIGHTS} == {name: local[name] for name in WEIGHTS}


def test_the_command_line(s3: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from modelwright.cli._app import run

    arguments = [
        "merge",
        "a",
        "b",
        "--method",
        "linear",
        "-o",
        URL,
        "--staging",
        "here",
        "--shard-size",
        "1400",
        "--json",
    ]
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["out"] == URL
    assert run(arguments) == 2
    assert f"error: the output '{URL}' exists." in capsys.readouterr().err
    assert in_store(URL).keys() == expected().keys()


def test_a_file_url_is_a_path(here: Path) -> None:
    assert merged().save(f"file://{here}/out", **SHARDS).out == here / "out"
    assert Path("out/manifest.json").is_file()


# --- killed --------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import modelwright as mw
from modelwright.checkpoint import RemoteFolder
from modelwright.engine._journal import Journal

moment, url, overwrite = sys.argv[1], sys.argv[2], len(sys.argv) > 3
put, delete, note, weights = RemoteFolder.put, RemoteFolder.delete, Journal.put, []

def kill_at(*moments):
    if moment in moments:
        os.kill(os.getpid(), signal.SIGKILL)

def killing(self, file, name, progress=None):
    weights.extend([name] * name.endswith(".safetensors"))
    kill_at(f"before {name}", *[f"before weights {len(weights)}"] * name.endswith(".safetensors"))
    stamp = put(self, file, name, progress)
    kill_at(f"after {name}", *[f"after weights {len(weights)}"] * name.endswith(".safetensors"))
    return stamp

def noting(self, name, uploaded):
    note(self, name, uploaded)
    kill_at(*[f"noted weights {len(weights)}"] * name.endswith(".safetensors"))

RemoteFolder.put, Journal.put = killing, noting
mw.merge(["a", "b"], method="linear", weight=[1, 1]).save(url, shard_bytes=1400, overwrite=overwrite)
"""
#: The moment, and how many weight files are known to be there.
MOMENTS = {
    "before .modelwright-unfinished": 0, "after .modelwright-unfinished": 0, "before weights 3": 2, "after weights 3": 2,
    "noted weights 3": 3, "before config.json": 6, "before manifest.json": 6, "after manifest.json": 6,
}  # fmt: skip


def killed(moment: str, *more: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, moment, URL, *more], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment(moment: str, s3: Any, here: Path) -> None:
    killed(moment)
    there = {name for name in in_store(URL) if name.endswith(".safetensors")}
    assert ("manifest.json" in in_store(URL)) == (moment == "after manifest.json")
    s3.forget()
    merged().save(URL, **SHARDS)
    again = [name for name in {*puts(s3)} if name.endswith(".safetensors")]
    assert len(again) == len(WEIGHTS) - MOMENTS[moment]
    assert len({*again} & there) == (moment == "after weights 3")  # there, but nobody has written down that it is
    if moment == "before config.json":
        assert puts(s3) == ["config.json", "model.safetensors.index.json", "recipe.yml", "manifest.json"]
    elif MOMENTS[moment] == len(WEIGHTS):
        assert puts(s3) == ["manifest.json"]
    assert in_store(URL) == expected()
    assert list(Path("cache/staging").iterdir()) == []


def test_a_finished_shard_that_is_lost_is_made_again(s3: Any, here: Path) -> None:
    killed("before weights 4")
    (first, second, _) = sorted(name for name in in_store(URL) if name.endswith(".safetensors"))
    s3.fs.rm_file(f"models/runs/out/{first}")
    s3.fs.pipe_file(f"models/runs/out/{second}", b"something else")
    merged().save(URL, **SHARDS)
    assert in_store(URL) == expected()


@pytest.mark.parametrize("moment", ["before weights 3", "before manifest.json"])
def test_an_overwrite_that_is_killed(moment: str, s3: Any, here: Path) -> None:
    merged(2).save(URL)  # one file
    killed(moment, "overwrite")
    assert "manifest.json" not in in_store(URL)  # no mixture looks complete
    s3.forget()
    merged().save(URL, **SHARDS)
    assert len([name for name in {*puts(s3)} if name.endswith(".safetensors")]) == (4 if "weights" in moment else 0)
    assert in_store(URL) == expected()


def test_an_interrupt_says_what_is_kept(memory: Any, here: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "uploading":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^What is done is kept in '.*': run the same command again to go on"):
        merged().save("memory://out", **SHARDS, progress=interrupt)
    merged().save("memory://out", **SHARDS)
    assert in_store("memory://out") == expected()


# --- checked -------------------------------------------------------------------------------------------------------


def test_an_output_in_a_store_is_verified(s3: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merged().save(URL, **SHARDS)
    assert run(["verify", URL, "--rerun"]) == 0
    said = f"{URL}: 10 files, as the manifest says, and the same comes out again ("
    assert capsys.readouterr().out.startswith(said)
    assert mw.verify(URL) == mw.verify(URL, threads=1)
    path = f"models/runs/out/{WEIGHTS[2]}"
    content = bytearray(s3.fs.cat_file(path))
    content[-1] ^= 1
    s3.fs.pipe_file(path, bytes(content))
    s3.fs.rm_file("models/runs/out/config.json")
    s3.fs.pipe_file("models/runs/out/thesis.txt", b"years of work")
    found = mw.verify(URL)
    assert found.problems == (
        "config.json is missing",
        f"1 of 1 chunks of {WEIGHTS[2]} differ, first at byte 0; they hold layers.03.weight, layers.04.weight",
    )
    assert found.notes == ("not part of the output: thesis.txt",)
    assert run(["verify", URL, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["out"] == URL


def test_what_cannot_be_verified_in_a_store(s3: Any, here: Path) -> None:
    def said() -> str:
        with pytest.raises(mw.InputError) as found:
            mw.verify(URL)
        return str(found.value)

    assert said() == f"no folder '{URL}'. Give the output of a merge."
    killed("before weights 3")
    assert said() == f"'{URL}' holds an output that is not finished. Go on with the merge that makes it."
    s3.fs.pipe_file("models/runs/out/manifest.json", b"{}")
    assert said() == f"'{URL}/manifest.json' is not a manifest of modelwright, or is damaged. Merge it again."
    s3.hidden.add("models")
    assert said().startswith("access to 's3://models/runs/out' is denied (")


def test_hashes_for_audits(s3: Any, here: Path) -> None:
    """Weight files are hashed before their local bytes are given up, and what was hashed is known after a kill."""
    blake3 = pytest.importorskip("blake3").blake3
    killed("before weights 4")  # three were put without such hashes: they are made and put again
    stopped = []

    def stop(what: str, done: int, total: int) -> None:
        if what == "uploading":
            stopped.append(done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merged().save(URL, **SHARDS, hash="blake3", progress=stop)
    s3.forget()
    merged().save(URL, **SHARDS, hash="blake3")
    assert stopped
    there = in_store(URL)
    files = there.pop("manifest.json")["files"]
    assert {name: entry["blake3"] for name, entry in files.items()} == {
        name: blake3(content).hexdigest() for name, content in there.items()
    }
    assert mw.verify(URL).problems == ()
    s3.fs.pipe_file("models/runs/out/config.json", there["config.json"].replace(b"llama", b"lamal"))
    (problem,) = mw.verify(URL).problems
    assert problem == "1 of 1 chunks of config.json differ, first at byte 0"


# --- failures ------------------------------------------------------------------------------------------------------


@contextmanager
def failing(memory: Any, fails: Callable[[str], bool]) -> Iterator[None]:
    """A store that does not take files of some names."""
    real = type(memory).put_file

    def put_file(self: Any, lpath: str, rpath: str, **kwargs: Any) -> None:
        if fails(rpath):
            raise OSError(errno.EIO, "Input/output error")
        real(self, lpath, rpath, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(memory), "put_file", put_file)
        yield


def test_an_upload_that_fails(memory: Any, here: Path) -> None:
    with failing(memory, lambda path: path.endswith(WEIGHTS[2])), pytest.raises(mw.RunError) as found:
        merged().save("memory://out", **SHARDS)
    assert str(found.value) == (
        f"'memory:///out/{WEIGHTS[2]}' failed (OSError: Input/output error). Try again later. What is done is kept in "
        f"'{staging()}' and, as far as it is uploaded, in 'memory:///out': run the same command again to go "
        "on, or delete both."
    )
    there = RemoteFolder("memory://out").stamps()
    assert not {WEIGHTS[2], "manifest.json"} & there.keys()
    assert len([name for name in there if name in WEIGHTS]) == 5  # the others do not wait for it
    merged().save("memory://out", **SHARDS)
    now = RemoteFolder("memory://out").stamps()
    assert all(now[name] == stamp for name, stamp in there.items() if name != _store.UNFINISHED)
    assert in_store("memory://out") == expected()


def test_a_side_file_that_changed_meanwhile_is_uploaded_again(memory: Any, here: Path) -> None:
    Path("a/LICENSE").write_text("old", encoding="utf-8")
    with failing(memory, lambda path: path.endswith("manifest.json")), pytest.raises(mw.RunError):
        merged().save("memory://out", **SHARDS)
    Path("a/LICENSE").write_text("new", encoding="utf-8")
    merged().save("memory://out", **SHARDS)
    assert in_store("memory://out")["LICENSE"] == b"new"
    assert in_store("memory://out") == expected()


def test_a_short_breakdown_costs_nothing(memory: Any, here: Path) -> None:
    """What fails in the background is tried again at the end."""
    failures = iter(range(4))  # as many attempts as one upload has
    with failing(memory, lambda path: path.endswith(WEIGHTS[2]) and next(failures, None) is not None):
        merged().save("memory://out", **SHARDS)
    assert next(failures, None) is None
    assert in_store("memory://out") == expected()


def test_a_store_that_refuses(s3: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        "access to 's3://models/runs/out' is denied (Access Denied). Give the store's own credentials: environment "
    )
    message += "variables, its configuration file or its login command."
    s3.hidden.add("models")
    refused(message, URL)
    assert not Path("cache/staging").exists()


def test_a_file_that_arrives_while_the_merge_fails_is_removed(
    memory: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the store, and not yet noted in the journal."""
    bad = {name: ref.read().copy() for name, ref in mw.open("b").items()}
    bad["layers.10.weight"][:] = np.nan
    tiny.write(here / "b", bad)
    original = RemoteFolder.put

    def slow(self: Any, *arguments: Any) -> Any:
        stamp = original(self, *arguments)
        time.sleep(0.3)
        return stamp

    monkeypatch.setattr(RemoteFolder, "put", slow)
    with pytest.raises(mw.InputError, match=r"layers\.10\.weight"):
        merged().save("memory://out", **SHARDS, threads=1)
    assert in_store("memory://out") == {}


def test_a_merge_that_fails_leaves_nothing(memory: Any, here: Path) -> None:
    bad = {name: ref.read().copy() for name, ref in mw.open("b").items()}
    bad["layers.10.weight"][:] = np.nan
    tiny.write(here / "b", bad)
    for overwrite in (False, True):
        before = in_store("memory://out")
        with pytest.raises((mw.RunError, mw.InputError), match=r"layers\.10\.weight"):
            merged().save("memory://out", **SHARDS, threads=1, overwrite=overwrite)
        assert in_store("memory://out") == before
        assert list(Path("cache/staging").iterdir()) == []
        mw.merge(["a", "a"], method="linear").save("memory://out", overwrite=True)  # is not harmed the second time


def test_models_in_memory_cannot_be_gone_on_with(memory: Any, here: Path) -> None:
    models = [{name: ref.read() for name, ref in mw.open(folder).items()} for folder in ("a", "b")]
    broken = failing(memory, lambda path: path.endswith(WEIGHTS[2]))
    with broken, pytest.raises(mw.RunError, match=r"Try again later\.$"):
        mw.merge(models, method="linear").save("memory://out", **SHARDS)
    assert in_store("memory://out") == {}
    assert list(Path("cache/staging").iterdir()) == []


def test_somebody_else_who_writes_there(memory: Any, here: Path) -> None:
    def meddle(path: str) -> bool:
        if path.endswith("recipe.yml"):
            memory.pipe_file("/out/config.json", b"{}")
        return False

    with failing(memory, meddle), pytest.raises(mw.RunError) as found:
        merged().save("memory://out", **SHARDS)
    assert str(found.value).startswith(
        "'memory:///out/config.json' is not as it was uploaded: something else writes there. What is done is kept in "
    )
    merged().save("memory://out", **SHARDS)
    assert in_store("memory://out") == expected()


def test_tidying_up_that_fails_is_not_called_a_failed_merge(
    memory: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = type(memory).rm_file

    def rm_file(self: Any, path: str) -> None:
        if path.endswith(_store.UNFINISHED):
            raise PermissionError("no")
        real(self, path)

    monkeypatch.setattr(type(memory), "rm_file", rm_file)
    with pytest.raises(mw.RunError) as found:
        merged().save("memory://out", **SHARDS)
    assert str(found.value).startswith(
        "'memory:///out' is complete, but tidying up failed: access to 'memory:///out/.m"
    )
    assert in_store("memory://out").keys() == {*expected(), _store.UNFINISHED}


# --- what is in the way --------------------------------------------------------------------------------------------


def test_an_output_that_exists(memory: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged(2).save("memory://out")
    memory.pipe_file("/out/evaluation.csv", b"mine")
    refused(
        "the output 'memory:///out' exists. Choose another folder, or pass --overwrite (overwrite=True).",
        "memory://out",
    )
    refused(
        "the output 'memory:///out' exists. Choose another folder, or pass --overwrite (overwrite=True).",
        "memory://out",
        restart=True,
    )
    assert not Path("cache").exists() or list(Path("cache/staging").iterdir()) == []
    calls: list[str] = []
    put, delete = RemoteFolder.put, RemoteFolder.delete

    def putting(self: Any, file: Path, name: str, progress: Any = None) -> Any:
        calls.append(f"put {name}")
        return put(self, file, name, progress)

    def deleting(self: Any, names: Any) -> None:
        calls.extend(f"delete {name}" for name in names)
        delete(self, names)

    monkeypatch.setattr(RemoteFolder, "put", putting)
    monkeypatch.setattr(RemoteFolder, "delete", deleting)
    merged().save("memory://out", **SHARDS, overwrite=True)
    assert calls[:2] == [f"put {_store.UNFINISHED}", "delete manifest.json"]
    assert calls[-3:] == ["delete model.safetensors", "put manifest.json", f"delete {_store.UNFINISHED}"]
    found = in_store("memory://out")
    assert found.pop("evaluation.csv") == b"mine"
    assert found == expected()


@pytest.mark.parametrize("manifest", [None, "{}", '{"made_by": "someone"}', "[" * 100_000])
def test_a_folder_of_somebody_else(manifest: str | None, memory: Any, here: Path) -> None:
    memory.pipe_file("/out/weights.bin", b"theirs")
    if manifest is not None:
        memory.pipe_file("/out/manifest.json", manifest.encode())
    for options in ({}, {"overwrite": True}, {"restart": True}):
        refused(
            "'memory:///out' holds files and was not made by modelwright, so it is not overwritten. Choose another folder, "
            "or remove them yourself first.",
            "memory://out",
            **options,
        )
    assert memory.cat_file("/out/weights.bin") == b"theirs"


def test_an_output_that_another_machine_has_begun(memory: Any, here: Path) -> None:
    note = {
        "made_by": {"modelwright": "0"},
        "staging": "elsewhere",
        "host": "ada",
        "files": ["old.json", "config.json"],
    }
    memory.pipe_file(f"/out/{_store.UNFINISHED}", json.dumps(note).encode())
    for name in ("old.json", "config.json", "mine.json"):
        memory.pipe_file(f"/out/{name}", b"{}")
    folder = _store.StoreFolder("memory://out", None, None).folder
    refused(
        f"'memory:///out' holds an output that is not finished, begun on 'ada' with another staging folder than '{folder}'. "
        "Wait for it, go on with it there, or discard it: --restart (restart=True).",
        "memory://out",
    )
    merged().save("memory://out", **SHARDS, restart=True)
    found = in_store("memory://out")
    assert found.pop("mine.json") == b"{}"
    assert found == expected()


def test_another_merge_left_unfinished_here(memory: Any, here: Path) -> None:
    with failing(memory, lambda path: path.endswith("recipe.yml")), pytest.raises(mw.RunError):
        merged(2).save("memory://out", **SHARDS)
    refused(
        f"'{staging()}' holds a merge that was not finished, and it is not this one: its recipe, options or method are "
        "other ones. Finish that one, choose another folder, or discard it: --restart (restart=True).",
        "memory://out",
        **SHARDS,
    )
    merged().save("memory://out", **SHARDS, restart=True)
    assert in_store("memory://out") == expected()


def test_two_merges_into_one_folder(memory: Any, here: Path) -> None:
    folder = _store.StoreFolder("memory://out", None, None).folder
    folder.mkdir(parents=True)
    handle = os.open(folder / ".modelwright-partial", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    refused("another merge is writing 'memory:///out'. Wait for it, or choose another folder.", "memory://out")
    os.close(handle)
    merged().save("memory://out")


def test_places_that_cannot_be(memory: Any, here: Path) -> None:
    refused(
        "the output is a folder, and 'memory:///out.safetensors' is named like a weight file. Choose 'memory:///out': it "
        "will hold model.safetensors and what belongs to it.",
        "memory://out.safetensors",
    )
    for out in ("s3:/bucket/out", Path("s3://bucket/out")):
        refused(
            "'s3:/bucket/out' lacks a slash of a URL. Write 's3://bucket/out', as text: Path leaves that slash out.",
            out,
        )
    refused(
        "--staging (staging=) is for outputs behind URLs, and 'out' is a folder on this machine. Leave it out: the folder is "
        "made beside its place.",
        "out",
        staging="here",
    )
    Path("file").touch()
    refused(
        f"the output '{Path('file', staging_name())}' cannot be made, because '{here / 'file'}' is a file. Choose another "
        "folder.",
        "memory://out",
        staging="file",
    )


def staging_name() -> str:
    return _store.StoreFolder("memory://out", None, None).folder.name


def test_nothing_is_written_over_http(here: Path) -> None:
    pytest.importorskip("aiohttp")
    refused(
        "'https://localhost/out' cannot be an output: nothing is written over HTTP. Choose a store or a folder.",
        "https://localhost/out",
    )
