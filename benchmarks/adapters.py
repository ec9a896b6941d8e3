"""Merging adapters beside peft's add_weighted_adapter, in one process each, on the same folders.

    python -m benchmarks.adapters                         8 modules of 2048 x 2048, three adapters of rank 16
    python -m benchmarks.adapters --width 4096 --modules 4

Both bring the weighted sum to rank 16 and write it. What is timed is merging; of modelwright also reading and writing, of peft
neither loading of the model nor of the adapters nor saving.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RANK = 16


def make(folder: Path, width: int, modules: int, seed: int) -> Path:
    from safetensors.numpy import save_file

    rng, path = np.random.default_rng(seed), folder / str(seed)
    path.mkdir()
    tensors: dict[str, np.ndarray] = {}
    for i in range(modules):
        start = f"base_model.model.layers.{i}.lora_"
        tensors[f"{start}A.weight"] = rng.standard_normal((RANK, width)).astype(np.float32)
        tensors[f"{start}B.weight"] = rng.standard_normal((width, RANK)).astype(np.float32)
    save_file(tensors, path / "adapter_model.safetensors")
    names = [f"layers.{i}" for i in range(modules)]
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": names}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def ours(paths: list[Path], out: Path) -> float:
    from modelwright.adapters import merge_adapters

    started = time.perf_counter()
    merge_adapters(paths, method="svd", rank=RANK, weight=[0.5] * len(paths)).save(out)
    return time.perf_counter() - started


def peers(paths: list[Path], width: int, modules: int) -> tuple[float, Any]:
    import peft
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width, bias=False) for _ in range(modules))

        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return x

    model = peft.PeftModel.from_pretrained(Net(), paths[0], adapter_name="0")
    for i, path in enumerate(paths[1:], 1):
        model.load_adapter(path, adapter_name=str(i))
    names = [str(i) for i in range(len(paths))]
    started = time.perf_counter()
    model.base_model.add_weighted_adapter(
        names, [0.5] * len(names), "merged", combination_type="svd", svd_rank=RANK, svd_full_matrices=False
    )
    return time.perf_counter() - started, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--modules", type=int, default=8)
    parser.add_argument("--adapters", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [make(folder, options.width, options.modules, i) for i in range(options.adapters)]
        mine = [ours(paths, folder / f"out{i}") for i in range(options.repeats)]
        theirs, model = peers(paths, options.width, options.modules)
        apart = difference(folder / "out0", model, options.modules)
    print(f"{options.adapters} adapters of rank {RANK}, {options.modules} modules of {options.width} x {options.width}")
    print(f"modelwright  {statistics.median(mine):8.2f} s  ({min(mine):.2f} to {max(mine):.2f}), read and written")
    print(f"peft         {theirs:8.2f} s  in memory")
    print(f"ratio        {theirs / statistics.median(mine):8.1f}")
    print(f"largest relative difference of what is added: {apart:.2g}")


def difference(out: Path, model: Any, modules: int) -> float:
    """Between what the two come to."""
    from modelwright.adapters import open_adapter

    found = open_adapter(out)
    worst = 0.0
    for i in range(modules):
        theirs = model.base_model.model.layers[i].get_delta_weight("merged").detach().numpy()
        mine = found.modules[f"layers.{i}"].delta()
        worst = max(worst, float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)))
    return worst


if __name__ == "__main__":
    main()
