"""Adapters as checkpoints: the tensors and the configuration that peft, or the tools for image models, read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.api import Job, registry
from modelwright.checkpoint import Checkpoint, NumpyArray, Part, TensorRef
from modelwright.errors import InputError
from modelwright.tensors import DTYPES, DType, Product, dtype as find_dtype, narrow

CONFIG = "adapter_config.json"
#: One file, whatever its size: peft reads no shards of adapters.
ONE_FILE = 1 << 62


@dataclass(frozen=True)
class Tuned:
    """A module of an adapter that is about to be written.

    Attributes:
        module: Its path.
        kind: `lora` or `embedding`.
        shape: Of what is added, with the kernel's axes.
        product: up (rows, r) and down (r, columns), in the format they are written in; r of at least 1.
        bias: What is added to its bias.
        own: The weight that comes along under the factors.
    """

    module: str
    kind: str
    shape: tuple[int, ...]
    product: Product
    bias: NumpyArray | None = None
    own: TensorRef | None = None

    @property
    def rank(self) -> int:
        """Of its factors."""
        return self.product[0].shape[1]


@dataclass(frozen=True)
class Draft:
    """An adapter that is about to be written.

    Attributes:
        label: What to call it.
        modules: Its modules.
        saved: Tensors that it brings whole, by name in the model.
        biases: Which of these are biases that came of `bias:`, and not of modules_to_save.
        form: `peft`, `kohya` or `diffusers`.
        config: Settings of adapter_config.json to carry over.
        beneath: What it was made from.
        notes: What the user should know.
        record: What was done, for a file beside it.
    """

    label: str
    modules: Sequence[Tuned]
    saved: Mapping[str, TensorRef] = field(default_factory=dict[str, TensorRef])
    biases: frozenset[str] = frozenset()
    form: str = "peft"
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    beneath: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def checkpoint(self) -> Checkpoint:
        """Its tensors, in memory, with its configuration.

        Raises:
            InputError: Nothing is left to be written, or the form cannot hold it.
        """
        if not self.modules and not self.saved:
            raise InputError(f"{self.label} would be empty: nothing that it adds is above 0")
        beside: dict[str, Path | str] = {"modelwright_adapter.json": json.dumps(self.record, indent=1) + "\n"}
        if self.form == "peft":
            stem, tensors = "adapter_model", self._peft()
            beside[CONFIG] = json.dumps(self._config(), indent=2) + "\n"
        else:
            stem, tensors = "pytorch_lora_weights", self._file()
        return stored(tensors, self.label, stem, beside, self.beneath, self.notes)

    def _peft(self) -> dict[str, TensorRef]:
        tensors: dict[str, TensorRef] = {}
        biased = any(tuned.bias is not None for tuned in self.modules)
        targets = {tuned.module for tuned in self.modules}
        for tuned in self.modules:
            start = f"base_model.model.{tuned.module}."
            up, down = tuned.product
            if tuned.kind == "embedding":
                tensors[f"{start}lora_embedding_A"] = array(up.T)
                tensors[f"{start}lora_embedding_B"] = array(down.T)
            else:
                tensors[f"{start}lora_A.weight"] = array(down.reshape(-1, *tuned.shape[1:]))
                tensors[f"{start}lora_B.weight"] = array(up.reshape(*up.shape, *[1] * (len(tuned.shape) - 2)))
                if biased:  # lora_bias holds for all modules
                    value = np.zeros(up.shape[0], up.dtype) if tuned.bias is None else tuned.bias
                    tensors[f"{start}lora_B.bias"] = array(value)
            if tuned.own is not None:
                tensors[f"{start}base_layer.weight"] = tuned.own
        for name, ref in self.saved.items():
            module, _, last = name.rpartition(".")
            inner = f"{module}.base_layer.{last}" if name in self.biases and module in targets else name
            tensors[f"base_model.model.{inner}"] = ref
        return tensors

    def _file(self) -> dict[str, TensorRef]:
        if self.saved or any(tuned.bias is not None for tuned in self.modules):
            raise InputError(f"{self.label}: a LoRA file cannot hold biases or whole tensors", "Write a peft folder.")
        tensors: dict[str, TensorRef] = {}
        down_name, up_name = ("lora_down", "lora_up") if self.form == "kohya" else ("lora_A", "lora_B")
        for tuned in self.modules:
            up, down = tuned.product
            tensors[f"{tuned.module}.{down_name}.weight"] = array(down.reshape(-1, *tuned.shape[1:]))
            tensors[f"{tuned.module}.{up_name}.weight"] = array(up.reshape(*up.shape, *[1] * (len(tuned.shape) - 2)))
            if self.form == "kohya":
                tensors[f"{tuned.module}.alpha"] = array(np.asarray(tuned.rank, up.dtype))
        return tensors

    def _config(self) -> dict[str, Any]:
        """adapter_config.json: alpha is the rank everywhere, so that what is added is the product as it is stored."""
        ranks = Counter(tuned.rank for tuned in self.modules)
        usual = ranks.most_common(1)[0][0] if ranks else 8
        # Longer paths first: peft takes the first key that a path ends with.
        others = sorted((t for t in self.modules if t.rank != usual), key=lambda t: (-len(t.module), t.module))
        usual_too = [
            t for t in self.modules if t.rank == usual and any(t.module.endswith("." + o.module) for o in others)
        ]
        pattern = {t.module: t.rank for t in sorted([*others, *usual_too], key=lambda t: (-len(t.module), t.module))}
        whole = sorted({name.rpartition(".")[0] for name in self.saved if name not in self.biases})
        biased = any(tuned.bias is not None for tuned in self.modules)
        return {
            "peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, **self.config, "inference_mode": True,
            "r": usual, "lora_alpha": usual, "rank_pattern": pattern, "alpha_pattern": dict(pattern), "lora_dropout": 0.0,
            "target_modules": sorted(tuned.module for tuned in self.modules), "modules_to_save": whole or None,
            "bias": "all" if self.biases else "none", "lora_bias": biased, "use_rslora": False, "use_dora": False,
            "init_lora_weights": True,
        }  # fmt: skip


def stored(
    tensors: Mapping[str, TensorRef],
    label: str,
    stem: str,
    beside: Mapping[str, Path | str],
    beneath: tuple[Path, ...],
    notes: tuple[str, ...] = (),
) -> Checkpoint:
    """A checkpoint that is saved as one file of this name, with other files beside it."""
    return Checkpoint(tensors, label=label, parts=(Part(stem=stem),), beside=beside, beneath=beneath, notes=notes)


def writing(model: Checkpoint) -> Job:
    """The recipe that writes a checkpoint as it is."""
    recipe = {"merge_method": "passthrough", "models": [{"model": model.label}]}
    return Job.from_recipe(recipe, [], registry(), {model.label: model})


def array(values: NumpyArray) -> TensorRef:
    """An array as a tensor of its format."""
    whole = np.ascontiguousarray(values).reshape(values.shape)
    return TensorRef(find_dtype(whole.dtype), whole.shape, lambda: whole, "memory")


def rounded(values: NumpyArray, dtype: DType) -> NumpyArray:
    """In the format that is written; float64 factors have no reader, and are written as float32."""
    numpy = DTYPES["F32"].numpy if dtype.itemsize > 4 else dtype.numpy
    return np.asarray(narrow(values, numpy))
