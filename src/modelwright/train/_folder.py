"""Checkpoint folders as everyone has them, written in one step."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.checkpoint import lay_out
from modelwright.tensors import Array, dtype


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Array], beside: Mapping[str, str] | None = None
) -> None:
    """Write a model: config.json, model.safetensors and further text files. It is there as a whole, or not at all.

    Args:
        folder: What it is to be called. Where there is one already, by whoever was faster, that one stays.
        config: The configuration.
        tensors: Arrays by name, in the order of the file.
        beside: Text files by name, such as a tokenizer.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".unfinished", dir=folder.parent))
    try:
        unfinished.chmod(0o755)
        for name, text in {"config.json": json.dumps(dict(config), indent=2) + "\n", **(beside or {})}.items():
            (unfinished / name).write_text(text, encoding="utf-8")
        layout = [(name, dtype(array.dtype), array.shape) for name, array in tensors.items()]
        for shard in lay_out(layout, "model", limit=2**62, metadata={"format": "pt"}):
            with (unfinished / shard.file).open("wb") as file:
                file.write(shard.header)
                for array in tensors.values():
                    file.write(np.ascontiguousarray(array).tobytes())
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
