"""The documentation's pages, their code blocks, and the small models that the examples speak of."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np

import modelwright as mw
from modelwright.checkpoint import lay_out
from modelwright.tensors import dtype

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: .+ -->\n*$")
LAYERS = 32


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: Path
    line: int
    language: str
    text: str
    run: bool

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that its first line names: `# ties.yml`."""
        named = re.match(r"# ([\w-]+\.(?:yml|py))\n", self.text)
        return named[1] if named else None


def blocks(page: Path, *languages: str) -> list[Block]:
    """A page's blocks in these languages."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(
            page, text.count("\n", 0, match.start()) + 1, match["language"], match["text"],
            _NOT_RUN.search(text[: match.start()]) is None,
        )
        for match in _FENCE.finditer(text)
    ]  # fmt: skip
    return [block for block in found if block.language in languages]


def commands(page: Path, *, fenced_only: bool = False) -> Iterator[tuple[int, str]]:
    """Every line with an `mw` command: fenced `$ mw ...`, and in README indented `mw ...`; line and command."""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        pattern = r"\$ (mw .+)" if fenced_only else r"(?:\$ |    )(mw .+)"
        if match := re.fullmatch(pattern, line):
            yield number, re.split(r"\s{2,}#", match[1])[0]


def tensors(seed: int, names: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random bfloat16 tensors."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in names.items()}


def text_names() -> dict[str, tuple[int, ...]]:
    """A small language model's tensors."""
    shapes = {"model.embed_tokens.weight": (8, 4)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{side}_proj.weight": (4, 4) for side in "qo"}
        shapes |= {f"{at}.mlp.up_proj.weight": (6, 4), f"{at}.input_layernorm.weight": (4,)}
    return shapes | {"model.norm.weight": (4,), "lm_head.weight": (8, 4)}


def vision_names() -> dict[str, tuple[int, ...]]:
    """The tensors of a model with towers."""
    inner = {f"vision_tower.encoder.layers.{layer}.fc1.weight": (4, 4) for layer in range(2)}
    return {f"language_{name}": shape for name, shape in text_names().items()} | inner


def save(folder: Path, seed: int) -> None:
    """A small model as a folder."""
    arrays = tensors(seed, text_names())
    mw.merge([arrays], method="passthrough").save(folder)
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 32, "torch_dtype": "bfloat16"}')


def save_adapter(folder: Path, seed: int) -> None:
    """A LoRA of rank 2 for such a model, as a folder of peft."""
    rng = np.random.default_rng((seed, 7))
    modules = [f"model.layers.{layer}.self_attn.{side}_proj" for layer in range(2) for side in "qo"]
    factors = {
        f"base_model.model.{module}.lora_{side}.weight": rng.standard_normal(shape).astype(np.float32)
        for module in modules
        for side, shape in (("A", (2, 4)), ("B", (4, 2)))
    }
    folder.mkdir()
    layout = [(name, dtype(array.dtype), array.shape) for name, array in factors.items()]
    (shard,) = lay_out(layout, "adapter_model", 2**40, {"format": "pt"})
    (folder / shard.file).write_bytes(shard.header + b"".join(array.tobytes() for array in factors.values()))
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "o_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def script(name: str) -> ModuleType:
    """One of the Python files in docs/."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
