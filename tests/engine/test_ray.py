"""Merges on Ray: the bytes of the thread engine, whatever dies; and errors as if everything ran here."""

from __future__ import annotations

import json
import os
import pickle
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import modelwright as mw
import tiny_folders as tiny
from modelwright.api import Job, registry
from modelwright.engine import _ray
from modelwright.engine._merge import Merge
from modelwright.errors import InputError, MissingExtraError, Problem, RunError

ray: Any = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.xdist_group("ray"),  # one process starts it
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # of processes that ray forgets
]

HEAD = "lm_head.weight"
LARGE = 3 << 20  # elements: three ranges, and too many for some shortcuts


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """A local Ray of two workers, to which merges of this process connect by themselves."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    signal.signal(signal.SIGTERM, handler)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def here(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("base", "a", "b")):
        tiny.model(tmp_path / name, seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of two big tensors and a small one, with few values: most entries of a task vector tie with others."""
    folder = tmp_path_factory.mktemp("large")
    for seed, name in enumerate(("base", "a", "b")):
        rng = np.random.default_rng(seed)
        sizes = {"x.weight": LARGE, "y.weight": 3000, "z.weight": 1 << 20}
        tensors = {key: (rng.integers(-3, 4, size) * (seed > 0)).astype(np.float16) for key, size in sizes.items()}
        tiny.write(folder / name, tensors, tiny.config())
    return folder


def recipe(method: str, **parameters: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"merge_method": method, "models": [{"model": "a"}, {"model": "b"}], "seed": 9}
    if method != "linear":
        data["base_model"] = "base"
    if method == "slerp":
        data["models"] = [{"model": "a"}]
    return data | {"parameters": parameters}


def both(data: dict[str, Any], folder: Path, **options: Any) -> dict[str, Any]:
    """Merge with both engines; the output is the same."""
    (folder / "recipe.yml").write_text(yaml.safe_dump(data), encoding="utf-8")
    merged = mw.merge(folder / "recipe.yml")
    merged.save("threads", **options)
    merged.save("ray", engine="ray", **options)
    found = tiny.contents(Path("ray"))
    assert found == tiny.contents(Path("threads"))
    assert not any(name.startswith(".") for name in found)
    assert json.loads(Path("ray/manifest.json").read_text())["run"]["engine"] == "ray"
    return found


CASES = {
    "linear": recipe("linear", weight=[0.2, 0.8]),
    "ties": recipe("ties", weight=1, density=0.4),
    "whole-model ties": recipe("ties", weight=1, density=0.3, scope="model", zero_sign="majority"),
    "dare_ties": recipe("dare_ties", weight=1, density=0.4),
    "slerp": recipe("slerp", t=0.3),
}


@pytest.mark.parametrize("shard_bytes", [300, 10_000])
@pytest.mark.parametrize("case", CASES)
def test_same_bytes_as_threads(case: str, shard_bytes: int, here: Path) -> None:
    found = both(CASES[case], here, shard_bytes=shard_bytes, kernels="always")
    assert ("model.safetensors" in found) == (shard_bytes == 10_000)


@pytest.mark.parametrize("kernels", ["always", "never"])
@pytest.mark.parametrize("case", ["ties", "whole-model ties", "dare_ties"])
def test_same_bytes_of_large_tensors(case: str, kernels: str, large: Path, here: Path) -> None:
    both(CASES[case], large, kernels=kernels, threads=2)


def test_steps_adapters_and_torch_files(here: Path) -> None:
    torch = pytest.importorskip("torch")
    Path("b/model.safetensors").unlink()
    torch.save({name: torch.from_numpy(array) for name, array in tiny.arrays(2).items()}, "b/pytorch_model.bin")
    factor = np.ones((4, 2), np.float32)
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tiny.write(here / "lora", {f"{key}A.weight": factor.T, f"{key}B.weight": factor})
    Path("lora/model.safetensors").rename("lora/adapter_model.safetensors")
    Path("lora/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    first = recipe("linear", weight=1) | {"name": "first", "models": [{"model": "a+lora"}, {"model": "b"}]}
    last = recipe("slerp", t=0.5) | {"name": "last", "models": [{"model": "first"}]}
    for step in (first, last):
        del step["seed"]
    both({"steps": [first, last]}, here)


def test_remote_files_travel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fsspec: Any = pytest.importorskip("fsspec")
    monkeypatch.setenv("MODELWRIGHT_CACHE", str(tmp_path / "cache"))
    tiny.model(tmp_path / "a", 1)
    fsspec.filesystem("memory").put(str(tmp_path / "a"), "/ray-test", recursive=True)
    opened = mw.open("memory://ray-test")
    again = pickle.loads(ray.cloudpickle.dumps(opened))
    assert {name: ref.read().tolist() for name, ref in again.items()} == {
        name: array.tolist() for name, array in tiny.arrays(1).items()
    }


# --- what goes wrong -----------------------------------------------------------------------------------------------

PLUGIN = """
import os, signal, time
from pathlib import Path
from typing import Annotated
from modelwright.errors import RunError
from modelwright.methods import PER_MODEL, Method, Params

class Fragile(Params):
    weight: Annotated[float, PER_MODEL] = 1.0

def fragile(models, *, weight):
    size, folder = models[0].size, Path({folder!r})
    mishap = (folder / "mishap").read_text()
    if size == 1 << 20 and mishap != "none" and not (folder / "happened").exists():
        while '"chunk"' not in (folder / "out.partial/.modelwright-journal").read_text():
            time.sleep(0.02)  # so that there is something to keep
        if mishap != "worker always dies":
            (folder / "happened").touch()
        if mishap == "disk fails":
            raise RunError("the disk hums.", resumable=True)
        if mishap.startswith("worker"):
            os._exit(1)
        if mishap == "slow":
            time.sleep(2)
        if mishap == "error":
            raise LookupError("lost")
    return sum(model * w for model, w in zip(models, weight))

FRAGILE = Method(
    name="fragile", title="Fragile", paper="", summary="For tests.", function=fragile, params=Fragile, base="ignored",
    models=(1, None), laws=frozenset(),
)
"""


@pytest.fixture
def fragile(large: Path, here: Path) -> mw.Checkpoint:
    """A merge of which the last tensor meets with a mishap, the first time."""
    Path("plugin.py").write_text(PLUGIN.format(folder=str(here)))
    Path("mishap").write_text("none")
    merged = mw.merge([large / "a", large / "b"], method="fragile", plugins=["plugin.py"])
    merged.save("expected")
    return merged


def test_a_worker_that_dies(fragile: mw.Checkpoint) -> None:
    Path("mishap").write_text("worker dies")
    fragile.save("out", engine="ray")
    assert Path("happened").exists()
    assert tiny.contents(Path("out")) == tiny.contents(Path("expected"))


def test_workers_that_always_die(fragile: mw.Checkpoint) -> None:
    Path("mishap").write_text("worker always dies")
    with pytest.raises(RunError) as found:
        fragile.save("out", engine="ray")
    text = str(found.value)
    assert text.startswith("Ray gave up a task, after 3 retries: ")
    assert text.endswith(
        ". What is done is kept in 'out.partial': run the same command again to go on, or delete that folder."
    )
    Path("mishap").write_text("none")
    fragile.save("out")
    assert json.loads(Path("out/manifest.json").read_text())["run"]["resumes"] == 1
    assert tiny.contents(Path("out")) == tiny.contents(Path("expected"))


@pytest.mark.parametrize("order", [("threads", "ray"), ("ray", "threads")])
def test_either_engine_goes_on_with_the_other_s_work(order: tuple[str, str], fragile: mw.Checkpoint) -> None:
    Path("mishap").write_text("disk fails")
    with pytest.raises(RunError, match=r"^the disk hums\. What is done is kept in 'out\.partial'"):
        fragile.save("out", engine=order[0], threads=1)
    fragile.save("out", engine=order[1])
    assert json.loads(Path("out/manifest.json").read_text())["run"]["resumes"] == 1
    assert tiny.contents(Path("out")) == tiny.contents(Path("expected"))


def test_an_error_of_the_method_comes_out_as_it_is(fragile: mw.Checkpoint) -> None:
    Path("mishap").write_text("error")
    with pytest.raises(LookupError, match="lost") as found:
        fragile.save("out", engine="ray")
    assert type(found.value) is LookupError


def mw_command(*arguments: str) -> subprocess.Popen[str]:
    """A process of its own."""
    code = "import sys; from modelwright.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_stopped(number: signal.Signals, cluster: str, large: Path, fragile: mw.Checkpoint) -> None:
    Path("mishap").write_text("slow")
    command = ["merge", str(large / "a"), str(large / "b"), "--method", "fragile", "--plugin", "plugin.py", "-o", "out"]
    process = mw_command(*command, "--quiet", "--engine", "ray", "--address", cluster)
    while not Path("happened").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), err
    fragile.save("out")
    assert json.loads(Path("out/manifest.json").read_text())["run"]["resumes"] == 1
    assert tiny.contents(Path("out")) == tiny.contents(Path("expected"))


@pytest.mark.parametrize("settings", [{}, {"scope": "model"}, {"zero_sign": "majority"}])
@pytest.mark.parametrize("kernels", ["always", "never"])
def test_what_is_not_finite_is_named(settings: dict[str, str], kernels: str, here: Path) -> None:
    weights = tiny.arrays(2)
    weights[HEAD][1, 2:4] = np.nan
    tiny.write(here / "b", weights, tiny.config())
    before = tiny.listing(here)
    with pytest.raises(InputError) as found:
        mw.merge(["a", "b"], base="base", method="ties", density=0.5, **settings).save(
            "out", kernels=kernels, engine="ray"
        )
    assert str(found.value) == (
        f"'{HEAD}' of b holds 2 values that are NaN or infinite. A merge would spread them: mend or replace the "
        "checkpoint, or pass --allow-nonfinite."
    )
    assert tiny.listing(here) == before


def test_what_is_not_finite_may_pass(here: Path) -> None:
    weights = tiny.arrays(2)
    weights[HEAD][1, 2:4] = np.inf
    tiny.write(here / "b", weights, tiny.config())
    both(CASES["linear"], here, allow_nonfinite=True)


def test_a_node_without_the_folder(here: Path) -> None:
    (plan,) = Job.from_recipe(CASES["linear"], [], registry()).plans()
    context = _ray._Context(Merge(plan), 1, here, here / "out.partial", {}, "1")
    with pytest.raises(RunError) as found:
        context.run([])
    assert str(found.value) == (
        f"'{here}/out.partial' is not there on the node {platform.node()}: all nodes need inputs and output at the same "
        "paths, on a shared file system."
    )
    Path("out.partial").mkdir()
    Path("out.partial/.modelwright-partial").write_text("2")  # another merge has begun there
    with pytest.raises(RunError, match=r"out\.partial' is another run's, or was given up\.$"):
        context.run([])


def test_errors_travel() -> None:
    errors = [
        InputError("density must be in [0, 1], got 20.", "Write 0.2.", "recipe.yml:3"),
        InputError([Problem("one"), Problem("two", where="here")]),
        MissingExtraError("--device cuda", "torch", "torch"),
        RunError("the disk is full.", resumable=True),
    ]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


# --- what is refused -----------------------------------------------------------------------------------------------


def refused(merged: mw.Checkpoint, message: str, **options: Any) -> None:
    before = tiny.listing(Path())
    with pytest.raises(InputError) as found:
        merged.save("out", **options)
    assert str(found.value) == message
    assert tiny.listing(Path()) == before


def test_models_in_memory(here: Path) -> None:
    message = (
        "model 2 is in memory, where Ray's workers cannot read it. Save it as a folder first, or leave --engine ray "
        "(engine='ray') out."
    )
    refused(mw.merge(["a", tiny.arrays(1)], method="linear"), message, engine="ray")


def test_options_that_do_not_fit(here: Path) -> None:
    merged = mw.merge(["a", "b"], method="linear")
    refused(merged, "engine must be 'threads' or 'ray', got 'spark'.", engine="spark")
    message = (
        "address is where a Ray cluster is, and engine is 'threads'. Add --engine ray (engine='ray'), or leave the "
        "address out."
    )
    refused(merged, message, address="auto")
    message = "no node of the Ray cluster has the 3 CPUs that a task needs. Lower --threads, or add such a node."
    refused(merged, message, engine="ray", threads=3)
    message = "--device cuda:1 with --engine ray: a task sees one GPU, its own. Write cuda."
    refused(merged, message, engine="ray", device="cuda:1")


def test_without_ray(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    message = "--engine ray needs the package 'ray', which is not installed."
    mend = 'Install the extra: pip install "modelwright[ray]".'
    refused(mw.merge(["a", "b"], method="linear"), f"{message} {mend}", engine="ray")


def test_without_a_cluster(here: Path) -> None:
    before = tiny.listing(here)
    done = mw_command(
        "merge", "a", "b", "--method", "linear", "-o", "out", "--engine", "ray", "--address", "127.0.0.1:1"
    )
    _, err = done.communicate(timeout=60)
    assert err == (
        "error: no Ray cluster at '127.0.0.1:1' (Connection refused). Start one with ray start --head, or leave "
        "--address (address=) out for one of this merge's own.\n"
    )
    assert done.returncode == 2
    assert tiny.listing(here) == before
