"""Vocabularies: seconds and memory of re-laying an embedding, of a union, of orthogonal matching pursuit; and transplants.

    python -m benchmarks.tokenizer                    relay, union and omp
    python -m benchmarks.tokenizer --parts transplant two small language models trained on the spot (minutes; needs torch)

Models are made in a folder for temporary files, or in --folder, and removed. Each figure is of one process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks import measure

ROWS, WIDTH = 152_064, 4_096
PARTS = ("relay", "union", "omp", "transplant")


def vocabulary(size: int, seed: int, shared: int) -> dict[str, Any]:
    """A byte-level BPE of `size` tokens, of which `shared` are those of seed 0: each merge joins two tokens that are there."""
    from tokenizers import pre_tokenizers

    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    known, merges = set(tokens), []
    rng = np.random.default_rng(0)
    while len(tokens) < size:
        if len(tokens) == shared:
            rng = np.random.default_rng(seed)
        for i, j in (rng.random((size, 2)) ** 2).tolist():
            left, right = tokens[int(i * len(tokens))], tokens[int(j * len(tokens))]
            if left + right not in known and len(left + right) < 12:
                known.add(left + right)
                tokens.append(left + right)
                merges.append([left, right])
                if len(tokens) in (size, shared):
                    break
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": step,
        "post_processor": None, "decoder": step,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(tokens)}, "merges": merges,
        },
    }  # fmt: skip


def shuffled(table: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same strings with other numbers, so that no two rows that follow each other stay together."""
    order = np.random.default_rng(seed).permutation(len(table["model"]["vocab"]))
    words = dict(zip(table["model"]["vocab"], order.tolist(), strict=True))
    return {**table, "model": {**table["model"], "vocab": words}}


def write_model(folder: Path, table: dict[str, Any], rows: int, width: int, seed: int) -> Path:
    """A model of an embedding alone, in bfloat16."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    block = np.random.default_rng(seed).standard_normal((4096, width), np.float32).astype(ml_dtypes.bfloat16)
    array = np.concatenate([block] * -(-rows // 4096))[:rows]
    save_file({"model.embed_tokens.weight": array}, folder / "model.safetensors", {"format": "pt"})
    config = {"model_type": "llama", "vocab_size": rows, "tie_word_embeddings": True, "hidden_size": width}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(table))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def prepare(part: str, folder: Path) -> None:
    """The models of a part."""
    if part == "relay":
        table = vocabulary(150_000, 0, 150_000)
        write_model(folder / "a", table, ROWS, WIDTH, 0)
        write_model(folder / "b", shuffled(table, 1), ROWS, WIDTH, 1)
    elif part == "union":
        for seed, name in enumerate("ab"):
            write_model(folder / name, vocabulary(150_000, seed + 1, 75_000), 150_000, 8, seed)


def relay(folder: Path) -> dict[str, Any]:
    """Passthrough of one model's rows in the order of another, every row alone: nothing but reading, gathering, writing."""
    import modelwright as mw

    recipe = {
        "merge_method": "linear", "base_model": str(folder / "a"), "tokenizer": {"source": "base"},
        "models": [{"model": str(folder / name), "parameters": {"weight": 1.0}} for name in "ab"],
    }  # fmt: skip
    started = time.perf_counter()
    made = mw.merge(recipe)
    planned = time.perf_counter()
    made.save(folder / "out", overwrite=True)
    return {
        "plan_seconds": planned - started,
        "merge_seconds": time.perf_counter() - planned,
        "bytes": 3 * ROWS * WIDTH * 2,
    }


def union(folder: Path) -> dict[str, Any]:
    """Reading two tokenizers, their union, and the library loading it, which gives every string its number."""
    from modelwright.vocabulary import encoded, open_tokenizer, union as join

    started = time.perf_counter()
    one, other = (open_tokenizer(folder / name) for name in "ab")
    made = join(one, [other])
    joined = time.perf_counter()
    assert made.tokenizer.backend.get_vocab() == made.tokenizer.tokens
    changed = sum(not entry.same for entry in encoded(one, made.tokenizer))
    ended = time.perf_counter()
    return {
        "union_seconds": joined - started, "check_seconds": ended - joined, "tokens": len(made.tokenizer.tokens),
        "merges": made.merges, "changed_probes": changed,
    }  # fmt: skip


def omp(
    folder: Path, device: str = "cpu", shared: int = 32_000, new: int = 2_000, width: int = 2_048
) -> dict[str, Any]:
    """Coefficients of new tokens from shared ones, k = 64."""
    from modelwright.tokenizers import coefficients

    rng = np.random.default_rng(0)
    rows, targets = (rng.standard_normal((count, width), np.float32) for count in (shared, new))
    given: tuple[Any, Any] = (targets, rows)
    if device != "cpu":
        import torch

        given = tuple(torch.from_numpy(array).to(device) for array in given)
        coefficients("omp", given[0][:64], given[1], 2)
    started = time.perf_counter()
    found = coefficients("omp", *given, 64)
    seconds = time.perf_counter() - started
    assert found.residual is not None
    return {
        "seconds": seconds, "new": new, "shared": shared, "width": width, "device": device,
        "residual": float(found.residual.mean()), "gflops": 2 * 64 * shared * new * width / seconds / 1e9,
    }  # fmt: skip


# --- transplants ---------------------------------------------------------------------------------------------------


def texts() -> tuple[str, str]:
    """What scikit-learn and Python say of themselves: prose and code that every installation has. The last tenth is for judging."""
    import sklearn

    root = Path(sklearn.__file__).parent
    files = (
        sorted(root.rglob("*.rst"))
        + sorted((root / "linear_model").glob("*.py"))
        + sorted((root / "cluster").glob("*.py"))
    )
    whole = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)[:1_200_000]
    cut = len(whole) * 9 // 10
    return whole[:cut], whole[cut : cut + 60_000]


def train(folder: Path, text: str, size: int, seed: int, steps: int, tied: bool) -> None:
    """A small llama with a byte-level tokenizer of its own."""
    import torch
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    words = Tokenizer(models.BPE())
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words.train_from_iterator(
        text.splitlines(keepends=True),
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=["<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    torch.manual_seed(seed)
    network = hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=words.get_vocab_size(), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=128, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    ids = torch.tensor(words.encode(text).ids)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(steps):
        at = torch.randint(0, len(ids) - 97, (16,))
        batch = torch.stack([ids[i : i + 96] for i in at.tolist()])
        loss = network(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.save_pretrained(folder)
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}'
    )


def transplants(folder: Path, steps: int) -> dict[str, Any]:
    """Bits per byte of a model before and after it got the tokenizer of another, by method."""
    from modelwright.tokenizers import METHODS, predicted, transplant

    learnt, judged = texts()
    train(folder / "model", learnt, 1_000, 0, steps, tied=True)
    train(folder / "donor", learnt, 2_000, 1, steps, tied=True)
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        made = transplant(folder / "model", donor=folder / "donor", method=method, k=64)
        made.save(folder / method)
        row: dict[str, Any] = {"method": method, **vars(predicted(folder / method, judged))}
        row |= {"coverage": made.coverage} | {
            f"{key}": getattr(one, key) for one in made.restored[:1] for key in ("error", "cosine", "residual")
        }
        rows.append(row)
    return {
        "steps": steps, "before": vars(predicted(folder / "model", judged)), "donor": vars(predicted(folder / "donor", judged)),
        "after": rows,
    }  # fmt: skip


def one(part: str, folder: Path, steps: int, device: str) -> dict[str, Any]:
    """A part, in this process."""
    functions = {"relay": relay, "union": union}
    if part in functions:
        found = functions[part](folder)
    else:
        found = omp(folder, device) if part == "omp" else transplants(folder, steps)
    return found | {
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["relay", "union", "omp"])
    parser.add_argument("--folder", type=Path, help="where models are made; several GB for relay")
    parser.add_argument("--steps", type=int, default=1_500, help="of training, for transplant  [1500]")
    parser.add_argument("--device", default="cpu", help="of omp")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.folder, args.steps, args.device)))
        return
    found: dict[str, Any] = {"machine": measure.machine()}
    for part in args.parts:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            prepare(part, Path(folder))
            command = [sys.executable, "-m", "benchmarks.tokenizer", "--one", part, "--folder", folder]
            command += ["--steps", str(args.steps), "--device", args.device]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[part] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(measure.rounded(found), indent=1))


if __name__ == "__main__":
    main()
