"""Whole-process times of merging, beside the peer and beside the floor of reading and writing alone.

    make bench                                   our times and the floor
    make bench PEER=/path/to/python              the same with mergekit, in a Python that has mergekit==0.1.5

The model is llama-shaped: by default 0.1 B parameters in bfloat16, a base and three experts, made here from a seed.
Every command runs in a process of its own, the contenders in turn, after one warm-up; the median of the runs is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import yaml

SIZES = {
    "tiny": {"layers": 2, "hidden": 64, "mlp": 160, "vocab": 256},
    "0.1B": {"layers": 12, "hidden": 640, "mlp": 2560, "vocab": 16000},
    "0.4B": {"layers": 24, "hidden": 896, "mlp": 4864, "vocab": 32000},
}
EXPERTS = ("a", "b", "c")
METHODS = {
    "linear": {"weight": 0.3},
    "slerp": {"t": 0.4},
    "task_arithmetic": {"weight": 0.3},
    "ties": {"weight": 1.0, "density": 0.3},
    "dare_linear": {"weight": 0.3, "density": 0.5},
    "dare_ties": {"weight": 0.3, "density": 0.5},
    "breadcrumbs": {"weight": 0.3, "density": 0.5, "gamma": 0.01},
    "model_stock": {},
}


def make_models(folder: Path, shape: dict[str, int]) -> int:
    """A base and three experts, unless they are there; the number of parameters of one."""
    hidden, mlp, vocab = shape["hidden"], shape["mlp"], shape["vocab"]
    shapes = {
        "model.embed_tokens.weight": (vocab, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocab, hidden),
    }
    for i in range(shape["layers"]):
        at = f"model.layers.{i}."
        shapes |= {at + f"self_attn.{p}_proj.weight": (hidden, hidden) for p in "qkvo"}
        shapes |= {at + f"mlp.{p}_proj.weight": (mlp, hidden) for p in ("gate", "up")}
        shapes |= {at + "mlp.down_proj.weight": (hidden, mlp)}
        shapes |= {at + f"{p}_layernorm.weight": (hidden,) for p in ("input", "post_attention")}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": mlp,
        "num_hidden_layers": shape["layers"], "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64,
        "vocab_size": vocab, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6, "hidden_act": "silu", "head_dim": 64,
    }  # fmt: skip
    from modelwright.checkpoint import lay_out
    from modelwright.tensors import DTYPES

    for m, model in enumerate(("base", *EXPERTS)):
        target = folder / model
        if (target / "config.json").exists():
            continue
        target.mkdir(parents=True, exist_ok=True)
        (shard,) = lay_out([(n, DTYPES["BF16"], s) for n, s in shapes.items()], "model", 1 << 62, {"format": "pt"})
        with (target / shard.file).open("wb") as file:
            file.write(shard.header)
            for t, (_, dims) in enumerate(shapes.items()):
                start = np.random.default_rng([0, t]).standard_normal(dims, dtype=np.float32) * 0.02
                if m:
                    start += np.random.default_rng([m, t]).standard_normal(dims, dtype=np.float32) * 0.002
                file.write(start.astype(ml_dtypes.bfloat16).tobytes())
        (target / "config.json").write_text(json.dumps(config))
    return sum(int(np.prod(dims)) for dims in shapes.values())


def write_recipe(folder: Path, method: str) -> Path:
    """One recipe that both tools read."""
    experts = EXPERTS[:1] if method == "slerp" else EXPERTS
    recipe = {
        "merge_method": method,
        "models": [{"model": str(folder / name)} for name in experts],
        "parameters": METHODS[method],
        "dtype": "bfloat16",
    }
    if method == "slerp":
        recipe["models"].insert(0, {"model": str(folder / "base")})
    if method != "linear":
        recipe["base_model"] = str(folder / "base")
    path = folder / f"{method}.yml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def timed(command: list[str], out: Path) -> tuple[float, float]:
    """Seconds and peak resident megabytes of one process; its output folder is removed."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{error.decode()[-2000:]}")
    shutil.rmtree(out, ignore_errors=True)
    return seconds, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def floor(folder: Path, experts: int) -> float:
    """Read every input once and write one output, with fsync and two threads, and no arithmetic."""
    files = [folder / name / "model.safetensors" for name in ("base", *EXPERTS[:experts])]
    out = folder / "floor.bin"
    size, step = files[0].stat().st_size, 8 << 20

    def work(half: int) -> None:
        handles = [os.open(file, os.O_RDONLY) for file in files]
        target = os.open(out, os.O_WRONLY | os.O_CREAT, 0o644)
        buffer = bytearray(step)
        for offset in range(half * step, size, 2 * step):
            for handle in handles:
                count = os.preadv(handle, [buffer], offset)
            os.pwrite(target, memoryview(buffer)[:count], offset)
        os.fsync(target)
        for handle in (*handles, target):
            os.close(handle)

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    seconds = time.perf_counter() - started
    out.unlink()
    return seconds


def main() -> None:
    """Run what was asked and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="0.1B")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--peer", default=os.environ.get("PEER"), help="a Python that has mergekit==0.1.5")
    parser.add_argument("--models", type=Path, default=Path(__file__).parent / "models")
    args = parser.parse_args()
    folder = (args.models / args.size).resolve()
    parameters = make_models(folder, SIZES[args.size])
    out = folder / "out"
    ours = str(Path(sys.executable).parent / "mw")
    rows = []
    for method in args.methods:
        recipe = write_recipe(folder, method)
        contenders = {"modelwright": [ours, "merge", str(recipe), "-o", str(out), "--quiet"]}
        if args.peer:
            peer = str(Path(args.peer).parent / "mergekit-yaml")
            contenders["mergekit"] = [peer, str(recipe), str(out), "--quiet"]
        seconds: dict[str, list[float]] = {name: [] for name in (*contenders, "floor")}
        memory: dict[str, float] = dict.fromkeys(contenders, 0.0)
        for run in range(args.runs + 1):
            for name, command in contenders.items():
                taken, peak = timed(command, out)
                if run:
                    seconds[name].append(taken)
                    memory[name] = max(memory[name], peak)
            taken = floor(folder, 1 if method == "slerp" else 3)
            if run:
                seconds["floor"].append(taken)
        row = {"method": method, "seconds": {n: round(statistics.median(s), 3) for n, s in seconds.items()}}
        row["peak_mb"] = {name: round(peak) for name, peak in memory.items()}
        rows.append(row)
        print(json.dumps(row), flush=True)
    header = {"size": args.size, "parameters": parameters, "cores": os.cpu_count(), "python": platform.python_version()}
    result = {**header, "runs": args.runs, "rows": rows}
    (Path(__file__).parent / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows))


def table(rows: list[dict]) -> str:
    """The result as markdown."""
    names = list(rows[0]["seconds"])
    lines = [
        "| method | " + " | ".join(f"{n} s" for n in names) + " | peak MB | times faster |",
        "|---" * (len(names) + 3) + "|",
    ]
    for row in rows:
        ratio = (
            f"{row['seconds']['mergekit'] / row['seconds']['modelwright']:.1f}" if "mergekit" in row["seconds"] else ""
        )
        peaks = " / ".join(str(v) for v in row["peak_mb"].values())
        lines.append(
            f"| {row['method']} | " + " | ".join(f"{row['seconds'][n]:.2f}" for n in names) + f" | {peaks} | {ratio} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
