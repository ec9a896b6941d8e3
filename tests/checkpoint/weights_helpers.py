"""Small files and folders of weights, made by the safetensors library or byte by byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save, save_file


def raw_safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with any header; `length` lies about the header's."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def arrays(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def folder(
    path: Path,
    tensors: dict[str, np.ndarray],
    config: dict[str, Any] | None = None,
    *,
    shards: int = 1,
    stem: str = "model",
) -> Path:
    """A Hugging Face folder; the tensors are dealt to the shards in turn."""
    path.mkdir(parents=True, exist_ok=True)
    if config is not None:
        write_json(path / "config.json", config)
    if shards == 1:
        save_file(tensors, path / f"{stem}.safetensors")
        return path
    table: dict[str, str] = {}
    for i in range(shards):
        name = f"{stem}-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: value for j, (key, value) in enumerate(tensors.items()) if j % shards == i}
        save_file(part, path / name)
        table |= dict.fromkeys(part, name)
    write_json(path / f"{stem}.safetensors.index.json", {"metadata": {}, "weight_map": table})
    return path


def files_of(path: Path) -> dict[str, bytes]:
    """A folder as the Hub would hold it."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


__all__ = ["arrays", "entry", "files_of", "folder", "raw_safetensors", "save", "save_file", "write_json"]
