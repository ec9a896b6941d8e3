"""Fuzzers: whatever a file holds, it opens or is refused in our words, soon and in little memory.

Each fuzzer changes valid files, by structure and by bytes; hypothesis draws the seeds, so that a failure is kept small and
can be repeated. A few hundred cases each in the quick suite; more than 100,000 in all in the slow one.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from mutations import other_bytes, other_json
from safetensors import SafetensorError, deserialize
from test_hostile import in_sequence, state_dict, tensor, zipped
from weights_helpers import entry, folder, raw_safetensors, write_json

import modelwright.checkpoint as mc
from modelwright.api import Job, registry
from modelwright.errors import InputError, RunError

#: Changed files for each seed.
CASES = 20
#: For each fuzzer its seeds in the slow suite; times CASES, 110,000 files.
SEEDS = {"headers": 2100, "indices": 800, "pipelines": 300, "torch": 1650, "adapters": 500, "sides": 150}
#: What one case may take of processor time, and all of them of memory beside what the tests have already.
SECONDS, MEMORY = 2.0, 1 << 29

Attack = Callable[[Path, random.Random], None]


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status")
    if status.exists():
        used = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (int(used) * 1024 + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


def survived(attack: Attack, root: Path, seed: int) -> None:
    """Every case of a seed ends as it may; one that does not is told apart by its own seed."""
    for i in range(CASES):
        said = ""
        started = time.process_time()
        try:
            attack(root, random.Random(f"{seed} {i}"))
        except (InputError, RunError) as error:
            said = str(error)
        except Exception as error:
            error.add_note(f"case {i} of seed {seed}")
            raise
        assert time.process_time() - started < SECONDS, f"case {i} of seed {seed}"
        assert len(said) < 100_000
        assert all(c.isprintable() or c == "\n" for c in said)


def read(opened: mc.Checkpoint, most: int) -> None:
    for ref in opened.values():
        assert ref.nbytes <= most
        assert ref.read().size == ref.size


# --- the attacks ----------------------------------------------------------------------------------------------------

HEADER = {
    "__metadata__": {"format": "pt", "x": "y"},
    "a.weight": entry("F32", [2], 0, 8),
    "b": entry("BF16", [1, 3], 8, 14),
    "layers.0.c": entry("U8", [], 14, 15),
    "e": entry("I64", [0, 4], 15, 15),
}


def headers(root: Path, rng: random.Random) -> None:
    """A safetensors file; what is accepted the reference implementation reads the same."""
    path = root / "x.safetensors"
    if rng.random() < 0.6:
        text = json.dumps(other_json(HEADER, rng), ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
        text = text.replace(b'"b":', b'"a.weight":') if rng.random() < 0.02 else text
        raw = raw_safetensors(text, bytes(range(15)))
    else:
        raw = other_bytes(raw_safetensors(HEADER, bytes(range(15))), rng)
    path.write_bytes(raw)
    opened = mc.open(path)
    read(opened, len(raw))
    try:
        theirs: Any = {name: (told["dtype"], told["shape"], bytes(told["data"])) for name, told in deserialize(raw)}
    except (SafetensorError, UnicodeDecodeError):
        theirs = None
    assert theirs == {n: (r.dtype.code, list(r.shape), r.read().tobytes()) for n, r in opened.items()}


def indices(root: Path, rng: random.Random) -> None:
    """The index of two shards."""
    path = root / "model.safetensors.index.json"
    if not path.exists():
        folder(root, {name: np.ones(2, np.float32) for name in "abcd"}, {}, shards=2)
        (root / "valid.json").write_bytes(path.read_bytes())
    valid = (root / "valid.json").read_bytes()
    path.write_bytes(changed_json(json.loads(valid), rng))
    read(mc.open(root), 100)


def changed_json(value: Any, rng: random.Random) -> bytes:
    raw = json.dumps(other_json(value, rng) if rng.random() < 0.8 else value).encode()
    return other_bytes(raw, rng) if rng.random() < 0.3 else raw


def pipelines(root: Path, rng: random.Random) -> None:
    """The lists of a diffusers pipeline and of a sentence-transformers model."""
    if not root.joinpath("unet").exists():
        for name in ("unet", "vae", "0_Transformer"):
            folder(root / name, {name: np.ones(2, np.float32)}, {})
        (root / "out").symlink_to("..")
    for name in ("model_index.json", "modules.json"):
        (root / name).unlink(missing_ok=True)
    if rng.random() < 0.5:
        value: Any = {"_class_name": "X", "unet": ["a", "b"], "vae": ["a", "b"], "none": [None, None]}
        (root / "model_index.json").write_bytes(changed_json(value, rng))
    else:
        value = [{"idx": 0, "path": "0_Transformer", "type": "x"}, {"idx": 1, "path": "out/m"}, {"idx": 2, "path": ""}]
        (root / "modules.json").write_bytes(changed_json(value[: rng.choice((1, 3))], rng))
    opened = mc.open(root)
    assert all(part.prefix in ("", "unet/", "vae/", "0_Transformer/") for part in opened.parts)


PICKLES = [
    state_dict(a=tensor()),
    state_dict(a=tensor((2, 1), (1, 2)), b=tensor((1,), offset=1), c=tensor((), ())),
    state_dict(state_dict=b"}(" + b"X\1\0\0\0a" + tensor() + b"u", step=b"K\1", rest=b"](K\1G@\0\0\0\0\0\0\0)e"),
]


def torch(root: Path, rng: random.Random) -> None:
    """A torch file of either form: its pickle, its container, or both."""
    path = root / "m.bin"
    pickled = rng.choice(PICKLES)
    if rng.random() < 0.6:
        pickled = other_bytes(pickled, rng)
    raw = in_sequence(pickled) if rng.random() < 0.3 else zipped(pickled, byteorder=b"little")
    raw = other_bytes(raw, rng) if rng.random() < 0.6 else raw
    path.write_bytes(raw)
    read(mc.open(path), len(raw))


ADAPTER: dict[str, Any] = {
    "peft_type": "LORA", "r": 1, "lora_alpha": 2, "bias": "none", "use_rslora": False, "fan_in_fan_out": False,
    "alpha_pattern": {"q": 3, r"layers\.\d+\.k": 2.5}, "rank_pattern": {}, "target_modules": ["q", "k"],
    "init_lora_weights": True,
}  # fmt: skip


def adapters(root: Path, rng: random.Random) -> None:
    """The settings of an adapter."""
    model, adapter = root / "model", root / "adapter"
    if not model.exists():
        names = ("q", "layers.0.k")
        folder(model, {f"{name}.weight": np.ones((2, 2), np.float32) for name in names}, {})
        sides = {"A": (1, 2), "B": (2, 1)}
        lora = {
            f"base_model.model.{name}.lora_{side}.weight": np.ones(shape, np.float32)
            for name in names
            for side, shape in sides.items()
        }
        folder(adapter, lora, stem="adapter_model")
    (adapter / "adapter_config.json").write_bytes(changed_json(ADAPTER, rng))
    read(mc.open(f"{model}+{adapter}"), 100)


SIDES: dict[str, Any] = {
    "config.json": {
        "model_type": "x", "architectures": ["X"], "num_hidden_layers": 2, "layer_types": ["a", "b"], "moe_layers": [0, 1],
        "tie_word_embeddings": False, "torch_dtype": "float32", "text_config": {"num_hidden_layers": 2, "dtype": "float32"},
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    },
    "tokenizer.json": {
        "model": {"vocab": {"a": 0, "b": 1}, "merges": ["a b"]}, "added_tokens": [{"id": 2, "content": "<s>"}, {"id": 3}],
    },
    "tokenizer_config.json": {"chat_template": [{"name": "default", "template": "{{ x }}"}], "bos_token": "<s>"},
}  # fmt: skip


def sides(root: Path, rng: random.Random) -> None:
    """Configuration and tokenizer of the donor, as far as the plan of a merge, in which its layers are doubled."""
    if not (root / "model.safetensors").exists():
        folder(root, {f"model.layers.{i}.w": np.ones(2, np.float32) for i in range(2)})
    for name, value in SIDES.items():
        (root / name).write_bytes(json.dumps(value).encode())
    name = rng.choice(list(SIDES))
    (root / name).write_bytes(changed_json(SIDES[name], rng))
    slices = [{"sources": [{"model": str(root), "layer_range": [0, 2]}]}] * 2
    recipe = {"slices": slices, "merge_method": "passthrough", "chat_template": "auto"}
    plans = Job.from_recipe(recipe, [], registry()).plans()
    for file in plans[0].files:
        assert file.text is None or file.text.encode() is not None


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack for attack in (headers, indices, pipelines, torch, adapters, sides)
}
SEED = st.integers(0, 2**32)
RELAXED: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("name", ATTACKS)
@settings(max_examples=20, **RELAXED)
@given(seed=SEED)
def test_fuzz(tmp_path_factory: pytest.TempPathFactory, name: str, seed: int) -> None:
    survived(ATTACKS[name], place(tmp_path_factory, name), seed)


def place(factory: pytest.TempPathFactory, name: str) -> Path:
    root = factory.getbasetemp() / f"fuzz-{name}" / "m"
    root.mkdir(parents=True, exist_ok=True)
    return root


def at_length(name: str) -> Callable[..., None]:
    @settings(max_examples=SEEDS[name], **RELAXED)
    @given(seed=SEED)
    def fuzz(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
        survived(ATTACKS[name], place(tmp_path_factory, name), seed)

    return pytest.mark.slow(fuzz)


def test_there_are_enough_cases() -> None:
    assert sum(SEEDS.values()) * CASES >= 100_000


def test_the_unchanged_files_open(tmp_path: Path) -> None:
    """Else the fuzzers would only see refusals."""
    for pickled in PICKLES:
        for raw in (zipped(pickled), in_sequence(pickled)):
            (tmp_path / "m.bin").write_bytes(raw)
            assert "a" in mc.open(tmp_path / "m.bin")
    write_json(tmp_path / "x.json", HEADER)
    (tmp_path / "x.safetensors").write_bytes(raw_safetensors(HEADER, bytes(15)))
    assert len(mc.open(tmp_path / "x.safetensors")) == 4


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_torch_reads_the_same(tmp_path: Path) -> None:
    """Of the changed torch files that are accepted."""
    library = pytest.importorskip("torch")
    same = 0
    for seed in range(3000):
        with contextlib.suppress(InputError):
            torch(tmp_path, random.Random(f"{seed}"))
            opened = mc.open(tmp_path / "m.bin")
            try:
                theirs = library.load(tmp_path / "m.bin", weights_only=True)
            except Exception:
                continue  # stricter about what is beside the tensors: version, devices, checksums
            theirs = theirs.get("state_dict", theirs)
            assert {name: value.numpy().tobytes() for name, value in theirs.items()} == {
                n: r.read().tobytes() for n, r in opened.items()
            }
            same += 1
    assert same > 300


test_headers_at_length = at_length("headers")
test_indices_at_length = at_length("indices")
test_pipelines_at_length = at_length("pipelines")
test_torch_at_length = at_length("torch")
test_adapters_at_length = at_length("adapters")
test_sides_at_length = at_length("sides")
