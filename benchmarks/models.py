"""Llama-shaped models of a base and its experts, made from a seed.

    python -m benchmarks.models --size 0.42B --experts 3 --models FOLDER

The harness runs this in a process of its own: on Linux a process starts with its parent's peak memory as its own, so
that a parent that had once held arrays would raise every figure it takes.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

#: Raised when what the seed gives changes, so that models made before are made anew.
VERSION = 1
#: What says how a folder was made; written last.
MARK = "benchmark.json"
SHARD_BYTES = 500_000_000
NAMES = "abcdefgh"
#: Elements made at once: they stay in the cache.
BLOCK = 1 << 18
#: Normal numbers drawn; every block takes a stretch of them from a place of its own.
POOL = 1 << 22


@dataclass(frozen=True)
class Shape:
    """What determines the tensors of a model.

    Attributes:
        kv: Width of keys and values.
        tied: The embedding is the head as well.
    """

    layers: int
    hidden: int
    mlp: int
    vocab: int
    kv: int
    tied: bool = False

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes, in the order they are stored."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            at = f"model.layers.{layer}."
            shapes |= {f"{at}self_attn.{side}_proj.weight": (self.hidden, self.hidden) for side in "qo"}
            shapes |= {f"{at}self_attn.{side}_proj.weight": (self.kv, self.hidden) for side in "kv"}
            shapes |= {f"{at}mlp.{side}_proj.weight": (self.mlp, self.hidden) for side in ("gate", "up")}
            shapes |= {f"{at}mlp.down_proj.weight": (self.hidden, self.mlp)}
            shapes |= {f"{at}{side}_layernorm.weight": (self.hidden,) for side in ("input", "post_attention")}
        shapes["model.norm.weight"] = (self.hidden,)
        return shapes if self.tied else shapes | {"lm_head.weight": (self.vocab, self.hidden)}

    def parameters(self) -> int:
        """How many."""
        return sum(math.prod(dims) for dims in self.tensors().values())

    def config(self) -> dict[str, Any]:
        """What config.json says."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": self.hidden,
            "intermediate_size": self.mlp, "num_hidden_layers": self.layers, "num_attention_heads": self.hidden // 64,
            "num_key_value_heads": self.kv // 64, "head_dim": 64, "vocab_size": self.vocab, "hidden_act": "silu",
            "tie_word_embeddings": self.tied, "torch_dtype": "bfloat16", "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
        }  # fmt: skip


#: By the number of parameters; 1.1B has the shape of TinyLlama.
SIZES = {
    "tiny": Shape(layers=2, hidden=64, mlp=160, vocab=256, kv=64),
    "0.1B": Shape(layers=12, hidden=640, mlp=2560, vocab=16000, kv=640),
    "0.42B": Shape(layers=24, hidden=896, mlp=4864, vocab=32000, kv=896, tied=True),
    "1.1B": Shape(layers=22, hidden=2048, mlp=5632, vocab=32000, kv=256),
}


def names(experts: int) -> list[str]:
    """The folders of a base and so many experts."""
    return ["base", *NAMES[:experts]]


def wanting(folder: Path, shape: Shape, experts: int) -> list[str]:
    """The models that are not there, or were made in another way."""
    return [name for name in names(experts) if _mark_of(folder / name) != _mark(shape)]


def _mark(shape: Shape) -> dict[str, Any]:
    return {"version": VERSION, "shard_bytes": SHARD_BYTES, **asdict(shape)}


def _mark_of(model: Path) -> dict[str, Any] | None:
    try:
        return json.loads((model / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


class Noise:
    """Normal numbers, drawn once and handed out in stretches whose place depends on the seed, tensor, block and model."""

    def __init__(self, seed: int) -> None:
        import numpy as np

        self._seed = seed
        self._pool = np.random.default_rng(seed).standard_normal(POOL + BLOCK, dtype=np.float32)

    def places(self, tensor: int, blocks: int) -> Any:
        """Where each block's stretch begins, for every model: (blocks, models)."""
        import numpy as np

        return np.random.default_rng([self._seed, tensor]).integers(0, POOL, (blocks, 1 + len(NAMES)))

    def take(self, place: int, count: int) -> Any:
        """So many numbers, not to be written to."""
        return self._pool[place : place + count]


def blocks(noise: Noise, tensor: int, dims: tuple[int, ...], models: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """One tensor of each of these models (0 is the base), block by block: model and bfloat16 values.

    The base has N(0, 0.02), norms around 1; an expert adds N(0, 0.002) to the base as stored.
    """
    import ml_dtypes
    import numpy as np

    count = math.prod(dims)
    places = noise.places(tensor, -(-count // BLOCK))
    for block, start in enumerate(range(0, count, BLOCK)):
        size = min(BLOCK, count - start)
        base = noise.take(places[block, 0], size) * np.float32(0.02) + np.float32(len(dims) == 1)
        stored = base.astype(ml_dtypes.bfloat16)
        base = stored.astype(np.float32)
        for model in models:
            if model:
                delta = noise.take(places[block, model], size) * np.float32(0.002)
                yield model, (base + delta).astype(ml_dtypes.bfloat16)
            else:
                yield 0, stored


def make(folder: Path, shape: Shape, experts: int, seed: int = 0) -> None:
    """Make the models that are wanting, all in one pass; memory does not grow with their size."""
    missing = wanting(folder, shape, experts)
    if not missing:
        return
    from modelwright.checkpoint import index_json, lay_out
    from modelwright.tensors import DTYPES

    tensors = shape.tensors()
    shards = lay_out([(n, DTYPES["BF16"], d) for n, d in tensors.items()], "model", SHARD_BYTES, {"format": "pt"})
    models = {names(experts).index(name): folder / f"{name}.making" for name in missing}
    for target in models.values():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
    noise, numbers = Noise(seed), {name: number for number, name in enumerate(tensors)}
    for shard in shards:
        with ExitStack() as stack:
            files: dict[int, BinaryIO] = {
                model: stack.enter_context((target / shard.file).open("wb")) for model, target in models.items()
            }
            for file in files.values():
                file.write(shard.header)
            for name in shard.tensors:
                for model, values in blocks(noise, numbers[name], tensors[name], list(models)):
                    files[model].write(values.view("u1"))
    for model, target in models.items():
        if len(shards) > 1:
            (target / "model.safetensors.index.json").write_text(index_json(shards), encoding="utf-8")
        (target / "config.json").write_text(json.dumps(shape.config(), indent=1), encoding="utf-8")
        (target / MARK).write_text(json.dumps(_mark(shape)), encoding="utf-8")
        place = folder / names(experts)[model]
        shutil.rmtree(place, ignore_errors=True)
        target.rename(place)


def main() -> None:
    """Make one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--experts", type=int, default=3, choices=range(1, len(NAMES) + 1))
    parser.add_argument("--models", type=Path, default=Path(__file__).parent / "models")
    args = parser.parse_args()
    make(args.models / args.size, SIZES[args.size], args.experts)


if __name__ == "__main__":
    main()
