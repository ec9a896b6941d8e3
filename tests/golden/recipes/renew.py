"""Renew mergekit-0.1.5.npz: what mergekit itself makes of the recipes in yaml/.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install mergekit==0.1.5
    /tmp/peer/bin/python tests/golden/recipes/renew.py

Of each output tensor its format, its norm and 16 sums under random signs are kept, in float64. Recipes called random_*
run under many seeds; of them the means and variances of those numbers are kept.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from models import build, probes
from safetensors import safe_open

PEER = "0.1.5"
HERE = Path(__file__).parent
TARGET = HERE / f"mergekit-{PEER}.npz"
RUNS = 300


def run(recipe: Path, seed: int | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the peer writes: facts, and the probes of each tensor."""
    out = Path("out")
    shutil.rmtree(out, ignore_errors=True)
    said = MergeConfiguration.model_validate(yaml.safe_load(recipe.read_text(encoding="utf-8")))
    settings = MergeOptions(quiet=True, write_model_card=False, lora_merge_cache="lora-cache", random_seed=seed)
    run_merge(said, str(out), settings)
    found: dict[str, np.ndarray] = {}
    formats: dict[str, str] = {}
    with safe_open(out / "model.safetensors", "pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            formats[name] = str(tensor.dtype).removeprefix("torch.")
            assert tensor.isfinite().all(), f"{recipe.stem}: the peer makes NaN of {name}"
            found[name] = probes(name, tensor.to(torch.float64).numpy())
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    template = out / "chat_template.jinja"
    keys = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "tie_word_embeddings", "dtype")
    facts: dict[str, Any] = {
        "formats": formats,
        "config": {key: config[key] for key in keys if key in config},
        "template": template.read_text(encoding="utf-8") if template.exists() else None,
    }
    return facts, found


def main() -> None:
    version = importlib.metadata.version("mergekit")
    assert version == PEER, f"these goldens are of mergekit {PEER}, this is {version}"
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    recipes = sorted((HERE / "yaml").glob("*.yml"))
    index: dict[str, Any] = {}
    rows: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        os.chdir(folder)
        LoaderCache.loaders.clear()
        for recipe in recipes:
            entry: dict[str, Any]
            if recipe.stem.startswith("error_"):
                try:
                    run(recipe)
                except Exception as error:  # whatever it raises is the golden
                    entry = {"error": f"{type(error).__name__}: {error}"[:200]}
                else:
                    raise AssertionError(f"{recipe.stem}: the peer takes it")
            else:
                entry, found = run(recipe)
                values = [found]
                if recipe.stem.startswith("random_"):
                    values = [run(recipe, seed)[1] for seed in range(RUNS)]
                for name in entry["formats"]:
                    many = np.stack([value[name] for value in values])
                    rows.append(many.mean(axis=0))
                    if len(values) > 1:
                        rows.append(many.var(axis=0, ddof=1))
            index[recipe.stem] = entry
    about = {"mergekit": version, "transformers": transformers.__version__, "runs": RUNS, "recipes": index}
    text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    np.savez_compressed(TARGET, index=text, rows=np.stack(rows))
    print(f"{TARGET.name}: {len(index)} recipes, {TARGET.stat().st_size / 1000:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main()
