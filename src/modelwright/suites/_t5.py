"""The published eight-task suite on T5: every task is text to text, so there are no heads at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelwright.api import content_hash
from modelwright.checkpoint import Checkpoint
from modelwright.errors import InputError
from modelwright.evaluate import (
    Generated,
    Generation,
    Items,
    Predictor,
    Regression,
    Sampling,
    Size,
    Splits,
    Task,
    metric,
)
from modelwright.evaluate._predictor import needs
from modelwright.suites._cache import key_of
from modelwright.suites._family import Family
from modelwright.suites._hub import files_hash, folder_of, published_model, published_splits
from modelwright.suites._schema import T5File, T5Task
from modelwright.tensors import Array

#: Other names of T5's one embedding; some folders store it once and some three times.
_ALIASES = frozenset({"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"})
_SHARED = "shared.weight"
#: Most tokens of a prompt that are read, as the experts were tuned.
_READ = 512


@dataclass
class T5Predictor(Predictor):
    """A sequence-to-sequence model that answers with the most probable token each time.

    Attributes:
        module: In evaluation mode, on the device.
        tokenizer: Its tokenizer.
        device: Where it runs.
        max_tokens: Most tokens of an answer that is read as a number.
    """

    module: Any = field(kw_only=True)
    tokenizer: Any = field(kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    max_tokens: int = field(default=10, kw_only=True)

    def texts(self, prompts: Sequence[str], sampling: Sampling) -> Sequence[Generated]:
        """Answers to the prompts.

        Raises:
            InputError: Answers are to be sampled, or to end at a text.
        """
        if sampling.temperature or sampling.stop:
            raise InputError(f"'{self.label}' answers greedily and to the end token: temperature 0, and no stop")
        import torch

        read = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=_READ, return_tensors="pt")
        read = {name: value.to(self.device) for name, value in read.items() if name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            found = self.module.generate(**read, max_new_tokens=sampling.max_tokens, do_sample=False, num_beams=1)
        words = self.tokenizer.batch_decode(found, skip_special_tokens=True)
        asked = read["attention_mask"].sum(dim=1).tolist()
        return [
            Generated(text, int(tokens), int((row != self.module.config.pad_token_id).sum()))
            for text, tokens, row in zip(words, asked, found, strict=True)
        ]

    def values(self, inputs: Any) -> Array:
        """Answers read as numbers; 0 where they are none, as the published figures have it."""
        return np.array([_number(answer.text) for answer in self.texts(inputs, Sampling(max_tokens=self.max_tokens))])


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if np.isfinite(value) else 0.0


@dataclass(frozen=True, kw_only=True)
class T5Family(Family):
    """T5 and its experts.

    Attributes:
        whole: The base as it was opened, with its folder.
        max_tokens: Most tokens of an answer.
    """

    whole: Checkpoint
    max_tokens: int

    @property
    def fingerprint(self) -> str:
        """Of tokenizer and configuration, and of how much is read and written."""
        return key_of({"files": files_hash(folder_of(self.whole)), "read": _READ, "written": self.max_tokens})

    def system(self, weights: Checkpoint, label: str, *, device: str = "cpu") -> Predictor:
        """A model with these weights."""
        import transformers

        from modelwright.train._trainer import load

        folder = folder_of(self.whole)
        config = transformers.T5Config.from_pretrained(str(folder), local_files_only=True)
        module = load(transformers.T5ForConditionalGeneration(config).float(), weights.arrays(), device)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        return T5Predictor(
            label, module=module, tokenizer=tokenizer, device=device, max_tokens=self.max_tokens,
            fingerprint=key_of({"body": content_hash(weights), "beside": self.fingerprint}),
            size=Size(sum(ref.size for ref in weights.values()), weights.nbytes),
        )  # fmt: skip


def t5_family(file: T5File, seed: int) -> T5Family:
    """Open the published models."""
    needs("torch", f"the suite '{file.name}'", "torch")
    needs("transformers", f"the suite '{file.name}'", "torch")
    whole = published_model(file.base, file.root)
    experts = {name: _once(published_model(model, file.root)) for name, model in file.experts.items()}
    return T5Family(
        name=file.name, seed=seed, base=_once(whole), experts={name: experts[name] for name in file.tasks},
        multitask=None, tasks={name: _task(name, said, file) for name, said in file.tasks.items()}, seconds={},
        fixed=True, whole=whole, max_tokens=file.max_tokens,
    )  # fmt: skip


def _once(model: Checkpoint) -> Checkpoint:
    """A model whose embedding is there once, under its own name.

    Raises:
        InputError: It has no such embedding.
    """
    if _SHARED not in model:
        raise InputError(f"'{model.label}' is no T5: it has no tensor '{_SHARED}'")
    kept = {name: ref for name, ref in model.items() if name not in _ALIASES}
    return Checkpoint(kept, label=model.label, path=model.path, parts=model.parts, metadata=model.metadata)


def _task(name: str, said: T5Task, file: T5File) -> Task:
    fields = _fields(said.prompt)

    def items(split: str, columns: Mapping[str, Any], chosen: Array) -> Items:
        prompts = [said.prompt.format(**{f: columns[f][i] for f in fields}) for i in chosen]
        labels = [columns[said.label][i] for i in chosen]
        targets = [_text_of(label, said) for label in labels] if said.labels else np.asarray(labels, np.float64)
        return Items.of(prompts, targets, [f"{split}-{i}" for i in chosen])

    splits = Splits(published_splits(said, file.root, file.items, (*fields, said.label), items))
    if not said.labels:
        return Regression(name=name, splits=splits, metric=metric("spearman"))
    return Generation(
        name=name, splits=splits, metric=metric("exact_match"), sampling=Sampling(max_tokens=file.max_tokens)
    )


def _fields(prompt: str) -> list[str]:
    from string import Formatter

    found = [name for _, name, _, _ in Formatter().parse(prompt) if name]
    if not found:
        raise InputError(f"a prompt must name fields of the data set in braces, got {prompt!r}")
    return found


def _text_of(label: Any, said: T5Task) -> str:
    if not 0 <= int(label) < len(said.labels):
        raise InputError(f"'{said.data}' has the label {label}, and there are texts for 0 to {len(said.labels) - 1}")
    return said.labels[int(label)]
