"""What a model is: parameters by group, formats, layers, tied weights, vocabulary, licence, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.api import open_model as open_checkpoint
from modelwright.architectures import Layout, is_list, level, vocabulary_tensor
from modelwright.checkpoint import AdaptedModule, Checkpoint, adapter_at_path, open_adapter, read_json
from modelwright.engine import known_manifest
from modelwright.errors import InputError, listing
from modelwright.recipe import fingerprint, licence, vocabulary_size
from modelwright.surgery._lineage import Ancestor, lineage
from modelwright.surgery._names import kind, layer, ordered
from modelwright.tensors import Spectrum, product_svd, spectrum

_VERSION = 1
_TEXT_LEVELS = ((), ("text_config",), ("llm_config",), ("language_config",))


@dataclass(frozen=True)
class Group:
    """Tensors that belong together: a layer, a kind, a format.

    Attributes:
        name: What they share.
        tensors: How many.
        parameters: Their elements.
        bytes: In storage.
        shapes: Of a kind the shapes that occur, the most frequent first; empty for others.
    """

    name: str
    tensors: int
    parameters: int
    bytes: int
    shapes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Adapted:
    """A module that an adapter tunes.

    Attributes:
        module: Its path.
        layer: The layer it is in.
        rank: Of its factors; None for kinds that are no product of two (LoHa, LoKr, IA3).
        scale: What the product is multiplied with: alpha / rank, or alpha / sqrt(rank) where ranks are stabilised.
        norm: Frobenius norm of what is added to the weight; of DoRA before its norms are restored, of IA3 that of the vector less 1.
        effective: How many directions that really takes: the exponential of the entropy of its singular values over their sum; None
            for IA3.
        kind: `lora`, `embedding`, `loha`, `lokr` or `ia3`; `dora` where LoRA comes with norms.
    """

    module: str
    layer: str
    rank: int | None
    scale: float
    norm: float
    effective: float | None
    kind: str


@dataclass(frozen=True)
class Adapter:
    """What adapter_config.json says and the factors show.

    Attributes:
        kind: `LORA`, as the file has it.
        rank: `r` of the file.
        alpha: `lora_alpha` of the file.
        targets: Which modules it says.
        base: The model it says it was trained on.
        settings: What else it says that changes what the adapter does, such as `use_dora`.
        modules: Every module that it tunes.
        saved: Tensors that it brings whole.
    """

    kind: str
    rank: int | None
    alpha: float | None
    targets: tuple[str, ...]
    base: str
    settings: Mapping[str, Any]
    modules: tuple[Adapted, ...]
    saved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        model: What it was called.
        what: `model`, `adapter`, or `merge` for an output of this library.
        architectures: The classes that its configuration names.
        model_type: What transformers calls the family.
        licence: What its model card states.
        tensors: How many are stored.
        parameters: Elements of floating-point tensors, tied ones counted once.
        bytes: In storage.
        dtypes: Groups by number format, the largest first.
        stacks: Stacks of layers and how many each has.
        layers: Groups by layer, in order; what is outside all layers by kind.
        kinds: Groups by kind over all layers.
        tied: Tensors that are another name of an embedding -> that embedding.
        vocabulary: `tokens` of the tokenizer, `config` for the configuration's size, `rows` of the embedding, `tokenizer` for a
            hash of vocabulary and merges; what is not there is None.
        shapes: Of each tensor, by name: format and shape.
        adapter: Of an adapter, what it does.
        lineage: What it was made from.
        notes: What was done while opening, and what is odd.
    """

    model: str
    what: str
    architectures: tuple[str, ...]
    model_type: str
    licence: str | None
    tensors: int
    parameters: int
    bytes: int
    dtypes: tuple[Group, ...]
    stacks: Mapping[str, int]
    layers: tuple[Group, ...]
    kinds: tuple[Group, ...]
    tied: Mapping[str, str]
    vocabulary: Mapping[str, int | str | None]
    shapes: Mapping[str, tuple[str, tuple[int, ...]]]
    adapter: Adapter | None
    lineage: Ancestor
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        data = asdict(self)
        data["shapes"] = {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in self.shapes.items()}
        return {"version": _VERSION, "ok": True, **data}


def inspect(model: Any) -> Inspection:
    """What a model is, from its headers and the files beside it.

    Weights are read only to tell tied from untied embeddings, and the factors of adapters for their norms.

    Args:
        model: Whatever `mw.open` opens; also the folder of an adapter alone.

    Raises:
        InputError: It cannot be opened.

    Example:
        >>> import numpy as np
        >>> found = inspect({"layers.0.w": np.ones((2, 3), np.float32), "layers.1.w": np.ones((2, 3), np.float32)})
        >>> found.parameters, dict(found.stacks), found.kinds[0].shapes
        (12, {'layers': 2}, ((2, 3),))
    """
    opened = open_checkpoint(model)
    layout, config = opened.layout, opened.config or {}
    adapter, unclear = _adapter(opened)
    tied = dict(opened.tied)
    floating = {name: ref for name, ref in opened.items() if ref.dtype.floating and name not in tied}
    return Inspection(
        model=opened.label,
        what="adapter" if adapter else "merge" if opened.path and known_manifest(opened.path) else "model",
        architectures=tuple(str(name) for name in _listed(config.get("architectures"))),
        model_type=str(config.get("model_type") or ""),
        licence=licence(opened),
        tensors=len(opened),
        parameters=sum(ref.size for ref in floating.values()),
        bytes=opened.nbytes,
        dtypes=tuple(sorted(_groups(opened, lambda name: opened[name].dtype.name), key=lambda group: -group.bytes)),
        stacks=dict(layout.stacks),
        layers=_groups(opened, lambda name: layer(name, layout.place(name))),
        kinds=_groups(opened, lambda name: kind(name, layout.place(name)), shapes=True),
        tied=tied,
        vocabulary=_vocabulary(opened),
        shapes={name: (opened[name].dtype.name, opened[name].shape) for name in ordered(opened, layout)},
        adapter=adapter,
        lineage=lineage(opened.label, opened.path, opened.url),
        notes=(*_notes(opened, layout), *unclear),
    )


def _listed(value: Any) -> list[Any]:
    return value if is_list(value) else []


def _groups(model: Checkpoint, key: Any, *, shapes: bool = False) -> tuple[Group, ...]:
    members: dict[str, list[str]] = {}
    for name in ordered(model, model.layout):
        members.setdefault(key(name), []).append(name)
    found: list[Group] = []
    for group, names in members.items():
        refs = [model[name] for name in names]
        seen: dict[tuple[int, ...], int] = {}
        for ref in refs if shapes else ():
            seen[ref.shape] = seen.get(ref.shape, 0) + 1
        order = tuple(sorted(seen, key=lambda shape: -seen[shape]))
        found.append(Group(group, len(refs), sum(ref.size for ref in refs), sum(ref.nbytes for ref in refs), order))
    return tuple(found)


def _vocabulary(model: Checkpoint) -> dict[str, int | str | None]:
    config = next((value for path in _TEXT_LEVELS if (value := level(model.config, *path).get("vocab_size"))), None)
    rows = [ref.shape[0] for name, ref in model.items() if vocabulary_tensor(name) and len(ref.shape) == 2]
    return {
        "tokens": vocabulary_size(model), "config": config if isinstance(config, int) else None,
        "rows": max(rows) if rows else None, "tokenizer": fingerprint(model),
    }  # fmt: skip


def _notes(model: Checkpoint, layout: Layout) -> list[str]:
    notes = list(model.notes)
    odd = [f"{name} ({ref.dtype})" for name, ref in model.items() if not ref.dtype.floating]
    if odd:
        notes.append(
            f"{len(odd)} tensor{'s' * (len(odd) != 1)} of integers, which no merge averages: {listing(odd, 3)}"
        )
    for stack, count in layout.stacks.items():
        if count > 1:
            numbers = {name: place.number for name in model if (place := layout.place(name)) and place.stack == stack}
            sizes = {number: sum(1 for other in numbers.values() if other == number) for number in range(count)}
            if len(set(sizes.values())) > 1:
                notes.append(f"the layers of '{stack}' do not all hold equally many tensors: {_spans(sizes)}")
    return notes


def _spans(sizes: Mapping[int, int]) -> str:
    """`0-2: 9, 3: 12`: layers by how many tensors they hold."""
    spans: list[list[int]] = []
    for number, size in sizes.items():
        if spans and spans[-1][2] == size:
            spans[-1][1] = number
        else:
            spans.append([number, number, size])
    return listing([f"{a}: {size}" if a == b else f"{a}-{b}: {size}" for a, b, size in spans], 6)


# --- adapters ------------------------------------------------------------------------------------------------------


def _adapter(model: Checkpoint) -> tuple[Adapter | None, list[str]]:
    """What a folder or file is as an adapter, and what of it is not understood; None for a model."""
    if model.path is None or model.beneath:
        return None, []
    folder = (
        model.path
        if model.path.is_dir() or not (model.path.parent / "adapter_config.json").is_file()
        else model.path.parent
    )
    config = (read_json(folder / "adapter_config.json") if folder.is_dir() else None) or {}
    if model.path.is_dir() and model.parts[0].config is not None:  # a model, beside which an adapter may lie
        return None, []
    if not adapter_at_path(folder):
        return None, []
    try:
        read = open_adapter(folder)
    except InputError as error:
        modules, saved, notes = (), (), [str(problem) for problem in error.problems]
    else:
        layout = Layout(f"{module}.weight" for module in read.modules)
        modules = tuple(
            _adapted(module, layer(name, layout.place(f"{name}.weight"))) for name, module in read.modules.items()
        )
        saved, notes = tuple(read.saved), []
    said = {key: value for key, value in config.items() if _changes(key, value)}
    targets = config.get("target_modules")
    ranks = [module.rank for module in modules if module.rank is not None]
    return Adapter(
        kind=str(config.get("peft_type") or "LORA"),
        rank=config["r"] if isinstance(config.get("r"), int) else max(ranks, default=None),
        alpha=next((config[key] for key in ("lora_alpha", "alpha") if isinstance(config.get(key), int | float)), None),
        targets=tuple(sorted(map(str, _listed(targets)))) or ((str(targets),) if targets else ()),
        base=str(config.get("base_model_name_or_path") or ""),
        settings=said,
        modules=modules,
        saved=saved,
    ), notes  # fmt: skip


def _adapted(module: AdaptedModule, layer_name: str) -> Adapted:
    kind = "dora" if module.magnitude is not None else module.kind
    if module.kind == "ia3":
        norm = float(np.linalg.norm(module.pieces["ia3_l"].read().astype(np.float64) - 1))
        return Adapted(module.module, layer_name, None, 1.0, norm, None, kind)
    if module.rank is not None:
        values = product_svd(module.factors())[1]
        found = Spectrum(values, np.ones(len(values)), exact=True)
    else:
        found = spectrum(module.delta())
    return Adapted(module.module, layer_name, module.rank, module.scale, found.energy**0.5, found.effective_rank, kind)


_SAID = ("bias", "use_rslora", "use_dora", "use_qalora", "modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform",
         "fan_in_fan_out", "task_type", "trainable_token_indices", "lora_bias", "feedforward_modules")  # fmt: skip


def _changes(key: str, value: Any) -> bool:
    return key in _SAID and bool(value) and value != "none"


def check_folder(model: str) -> None:
    """Say early of a text that is a recipe that it is none of what can be inspected.

    Raises:
        InputError: It is a YAML file.
    """
    if model.endswith((".yml", ".yaml")) and Path(model).is_file():
        raise InputError(f"'{model}' is a recipe, not a model", "mw check shows what a recipe would make.")
