"""A fine-tune as an adapter of its base: matrices as factors, what is small as it is, and the error told."""

from __future__ import annotations

import fnmatch
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.adapters._merge import EXACT, MergedModule
from modelwright.adapters._write import ONE_FILE, Draft, Tuned, rounded, writing
from modelwright.api import open_model as open_checkpoint
from modelwright.architectures import is_embedding, module_path, stores_transposed, ties_embeddings, vocabulary_tensor
from modelwright.checkpoint import Checkpoint, NumpyArray, TensorRef
from modelwright.errors import InputError, Problem, listing
from modelwright.surgery._rank import Rank
from modelwright.tensors import DTYPES

#: What a class of transformers ends in -> what peft calls the task. Of others peft would add heads of its own.
_TASKS = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM"}
#: Classes with a head on the vocabulary.
_WITH_HEAD = (*_TASKS, "ForMaskedLM", "ForPreTraining")


@dataclass(frozen=True)
class ExtractedAdapter:
    """An adapter extracted from a fine-tune, ready to be saved.

    Attributes:
        checkpoint: Its tensors, in memory, and its configuration.
        modules: Of each module with factors its rank, the norm of its task vector and the share of that that is lost.
        saved: Tensors that are stored whole.
        left: Tensors that changed and are left out -> the norm of their change.
        notes: What the user should know.
    """

    checkpoint: Checkpoint
    modules: tuple[MergedModule, ...]
    saved: tuple[str, ...]
    left: dict[str, float]
    square: float
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """What is lost of the whole task vector, over its norm."""
        lost = sum((module.error * module.norm) ** 2 for module in self.modules) + sum(n**2 for n in self.left.values())
        return math.sqrt(lost / self.square) if self.square else 0.0

    @property
    def exact(self) -> bool:
        """Whether nothing is lost beyond rounding."""
        return not self.left and all(module.error <= EXACT for module in self.modules)

    def save(self, out: str | Path, **options: Any) -> Any:
        """Write it as a folder, through the engine; the options are those of `Checkpoint.save`."""
        return writing(self.checkpoint).save(out, **{**options, "shard_bytes": ONE_FILE})


def extract_adapter(
    tuned: Any,
    *,
    base: Any,
    rank: int | str,
    save: Sequence[str] = (),
    skip: Sequence[str] = (),
    small: bool = True,
    exact: bool = False,
    threads: int = 0,
) -> ExtractedAdapter:
    """The LoRA that is nearest to what a fine-tune changed of its base.

    Each matrix, table of embeddings and kernel that changed becomes a pair of factors, the best of its rank in the sense of least
    squares: by a full decomposition up to a shorter side of 512, beyond that in a random subspace.

    Args:
        tuned: The fine-tune, whatever `mw.open` opens.
        base: What it was tuned from.
        rank: A number; or, for each module, the least rank that keeps a share of the squared norm (`energy:0.95`) or loses no more than
            a share of the norm (`error:0.05`).
        save: Modules to store whole, as patterns of names such as `*lm_head`.
        skip: Tensors to leave out, as patterns of names.
        small: Store norms and biases that changed whole. Without it they are left out.
        exact: Refuse an adapter that loses more than rounding.
        threads: Tensors at a time; 0 for the number of cores.

    Returns:
        An `ExtractedAdapter`: ranks and errors by module, and `.save(folder)`, which peft loads.

    Raises:
        InputError: The models do not fit each other, `rank` is none of these, a pattern names nothing, or a tied embedding changed,
            which an adapter of peft cannot express.

    Example:
        >>> from modelwright.adapters import extract_adapter
        >>> found = extract_adapter("tuned", base="base", rank="energy:0.95")  # doctest: +SKIP
        >>> found.error, found.save("adapter")  # doctest: +SKIP
    """
    wanted = Rank.of(rank)
    one, other = open_checkpoint(tuned), open_checkpoint(base)
    work = _Extraction(one, other, wanted, tuple(save), tuple(skip), small)
    work.check()
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        found = [
            each for each in pool.map(work.look, [name for name in one if name not in one.tied]) if each is not None
        ]
    result = work.put_together(found)
    if exact and not result.exact:
        left = f", and {listing(result.left, 3)} changed and cannot be stored" if result.left else ""
        raise InputError(
            f"an adapter of rank {rank} is not exact: {result.error:.3g} of the norm is lost{left}",
            "Give a higher --rank, write a delta (without --adapter), which is exact, or leave --exact out.",
        )
    return result


@dataclass(frozen=True)
class _Found:
    """What became of one tensor that changed."""

    name: str
    norm: float
    tuned: Tuned | None = None
    error: float = 0.0
    whole: bool = False


@dataclass(frozen=True)
class _Extraction:
    one: Checkpoint
    other: Checkpoint
    rank: Rank
    save: tuple[str, ...]
    skip: tuple[str, ...]
    small: bool

    def check(self) -> None:
        problems: list[Problem] = []
        for pattern in (*self.save, *self.skip):
            if not any(_named(name, (pattern,)) for name in self.one):
                problems.append(
                    Problem(f"no tensor is called '{pattern}'", f"Names are like {listing(list(self.one), 3)}.")
                )
        kept = [name for name in self.one if not _named(name, (*self.skip, *self.save)) and name not in self.one.tied]
        lost = [name for name in kept if name not in self.other]
        if lost:
            problems.append(
                Problem(
                    f"{self.other.label} lacks {listing(lost, 3)}, which {self.one.label} has",
                    "Store them whole with --save, or leave them out with --skip.",
                )
            )
        odd = [n for n in kept if n in self.other and self.other[n].shape != self.one[n].shape]
        if odd:
            problems.append(
                Problem(
                    f"{self.one.label} and {self.other.label} differ in shape: {listing(odd, 3)}",
                    "Give both one vocabulary first, or leave these out with --skip.",
                )
            )
        if problems:
            raise InputError(problems)

    def look(self, name: str) -> _Found | None:
        """One tensor, if it changed."""
        ref, below = self.one[name], self.other.get(name)
        if not ref.dtype.floating:
            return None
        if below is None or _named(name, self.save):
            return None if _named(name, self.skip) else _Found(name, 0.0, whole=True)
        vector = ref.read().astype(np.float32) - below.read().astype(np.float32)
        norm = float(np.linalg.norm(vector.astype(np.float64)))
        if norm == 0:
            return None
        if not np.isfinite(norm):
            raise InputError(f"'{name}' holds NaN or infinity in one of the models", "Mend or replace the checkpoint.")
        module, _, last = name.rpartition(".")
        if _named(name, self.skip):
            return _Found(name, norm)
        if last == "weight" and vector.ndim >= 2:
            return self._factored(name, module, vector, norm)
        return _Found(name, norm, whole=self.small and last in ("weight", "bias"))

    def _factored(self, name: str, module: str, vector: NumpyArray, norm: float) -> _Found:
        table = vector.ndim == 2 and is_embedding(module)
        if table:
            self._check_tied(name)
        turned = vector.ndim == 2 and not table and self._transposed(name)
        matrix = (vector.T if turned else vector).reshape(vector.shape[1] if turned else vector.shape[0], -1)
        most = min(matrix.shape)
        wanted = self.rank if self.rank.count is None or self.rank.count < most else Rank(count=most)
        up, down = wanted.factors(matrix, most) or Rank(count=most).factors(matrix, most) or (None, None)
        assert up is not None
        assert down is not None
        held = np.linalg.norm(down, axis=1) > 0  # what the decomposition calls rounding has no direction
        up, down = up[:, held], down[held]
        if not held.any():
            return _Found(name, norm)
        product = rounded(up, DTYPES["F32"]), rounded(down, DTYPES["F32"])
        error = (
            float(np.linalg.norm(matrix.astype(np.float64) - up.astype(np.float64) @ down.astype(np.float64))) / norm
        )
        shape = (matrix.shape[0], *(vector.shape[1:] if vector.ndim > 2 else matrix.shape[1:]))
        return _Found(name, norm, Tuned(self._path(module), "embedding" if table else "lora", shape, product), error)

    def _path(self, name: str) -> str:
        """What transformers calls a module or tensor of this family."""
        return module_path(name, str((self.one.config or self.other.config or {}).get("model_type") or ""))

    def _transposed(self, name: str) -> bool:
        family = str((self.one.config or self.other.config or {}).get("model_type") or "")
        return stores_transposed(family) and self.one.layout.place(name) is not None

    def _check_tied(self, name: str) -> None:
        config = self.one.config or self.other.config or {}
        classes = [str(entry) for entry in config.get("architectures") or ()]
        heads = [
            n
            for n in self.one
            if n != name
            and vocabulary_tensor(n)
            and n not in self.one.tied
            and not is_embedding(n.removesuffix(".weight"))
        ]
        shared = name in self.one.tied.values() or (
            ties_embeddings(config)
            and vocabulary_tensor(name)
            and not heads
            and any(c.endswith(_WITH_HEAD) for c in classes)
        )
        if shared:
            raise InputError(
                f"'{name}' changed, and is the head too: a LoRA of peft on the one leaves the other as it was",
                f"Leave it out (--skip {name}), or write a delta (without --adapter), which is exact.",
            )

    def put_together(self, found: Sequence[_Found]) -> ExtractedAdapter:
        factored = {f.tuned.module for f in found if f.tuned is not None}
        biases = {f.name for f in found if f.whole and f.name.endswith(".bias") and not _named(f.name, self.save)}
        modules = {f.name.rpartition(".")[0] for f in found if f.whole and f.name not in biases}
        clash = {self._path(module) for module in modules} & factored
        if clash:
            raise InputError(f"{listing(sorted(clash), 3)} cannot be stored whole and as factors too", "Mend --save.")
        biases = {name for name in biases if name.rpartition(".")[0] not in modules}
        whole = [name for name in self.one if name in biases or name.rpartition(".")[0] in modules]
        saved: dict[str, TensorRef] = {self._path(name): self.one[name] for name in whole}
        left = {f.name: f.norm for f in found if f.tuned is None and f.name not in whole}
        done = tuple(MergedModule(f.tuned.module, f.tuned.rank, f.norm, f.error) for f in found if f.tuned is not None)
        notes = [f"left out, though they changed: {listing(left, 5)}"] if left else []
        record = {
            "extracted_from": self.one.label, "base": self.other.label,
            "modules": {m.module: {"rank": m.rank, "error": m.error} for m in done}, "left_out": left,
        }  # fmt: skip
        beneath = tuple(path for path in (self.one.path, self.other.path) if path is not None)
        draft = Draft(
            f"{self.one.label} as an adapter", [f.tuned for f in found if f.tuned is not None], saved, frozenset(map(self._path, biases)),
            config=self._carried(), beneath=beneath, notes=tuple(notes), record=record,
        )  # fmt: skip
        square = sum(f.norm**2 for f in found)
        return ExtractedAdapter(draft.checkpoint(), done, tuple(saved), left, square, tuple(notes))

    def _carried(self) -> dict[str, Any]:
        config = self.one.config or self.other.config or {}
        classes = [str(entry) for entry in config.get("architectures") or ()]
        task = next((task for end, task in _TASKS.items() for c in classes if c.endswith(end)), None)
        return {
            "base_model_name_or_path": self.other.label if self.other.label != "memory" else None, "task_type": task,
            "fan_in_fan_out": stores_transposed(str(config.get("model_type") or "")),
        }  # fmt: skip


def _named(name: str, patterns: Sequence[str]) -> bool:
    module = name.rpartition(".")[0]
    return any(
        fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(module, p) or module.endswith(f".{p}") for p in patterns
    )
