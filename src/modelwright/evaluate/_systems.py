"""Systems from what a user writes: folders, recipes, networks with checkpoints, functions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from modelwright.api import Job, bundle_at, open as open_any, open_model as open_checkpoint, registry
from modelwright.bundle import WeightBundle, open_bundle
from modelwright.checkpoint import Checkpoint
from modelwright.errors import InputError, listing
from modelwright.evaluate import _named
from modelwright.evaluate._bundles import TaskwisePredictor
from modelwright.evaluate._causal import causal_head
from modelwright.evaluate._ensembles import open_ensemble
from modelwright.evaluate._heads import image_head, text_head
from modelwright.evaluate._predictor import (
    EstimatorPredictor,
    FunctionPredictor,
    ModulePredictor,
    Predictor,
    needs,
    predictor,
)
from modelwright.evaluate._single_files import SINGLE_FILES
from modelwright.evaluate._timm import is_timm, timm_head
from modelwright.evaluate._weights import Weights, load_strictly
from modelwright.predictions import source_hash

#: `LABEL=REFERENCE`; a label has no slash, so that a path with = in it stays one.
_LABELLED = re.compile(r"(?P<label>[^/\\=]+)=(?P<rest>.+)", re.DOTALL)
_RECIPES = (".yml", ".yaml")


#: How the architectures of `config.json` end -> what makes a Predictor of such weights.
ARCHITECTURES: dict[str, Callable[[Weights], Predictor]] = {
    "ForImageClassification": image_head,
    "ForSequenceClassification": text_head,
    "ForCausalLM": causal_head,
    "LMHeadModel": causal_head,
}


def systems(
    references: Sequence[Any] | Mapping[str, Any],
    *,
    device: str = "cpu",
    network: str | Callable[[Mapping[str, Any]], Any] | None = None,
    plugins: Sequence[str | Path] = (),
) -> list[Predictor]:
    """The systems that are to be evaluated.

    Args:
        references: A list, or labels -> references. A reference is a text, `LABEL=REFERENCE` or without a label: a folder
            of transformers, a recipe file, a checkpoint (with `network`), `module:function` or `file.py:function`, which
            returns one of the following; or in Python a `Predictor`, an `nn.Module`, a fitted estimator, a function of a
            batch of inputs, or a `Checkpoint`, such as what `mw.merge` returns.
        device: Where modules run.
        network: A function, or the name of one, from a checkpoint's configuration to the `nn.Module` its tensors are for;
            for checkpoints that are no models of transformers.
        plugins: Python files with further merging methods.

    Returns:
        One each, in order. Models are loaded, recipes merged in memory; nothing is written, downloaded or unpickled.

    Raises:
        InputError: One cannot be found or loaded; tensors are missing or left over; it is in train mode.
    """
    pairs = list(references.items()) if isinstance(references, Mapping) else [(None, one) for one in references]
    if not pairs:
        raise InputError("evaluation needs systems, got none")
    _check_device(device)
    build = _named.function(network) if isinstance(network, str) else network
    if build is not None and not callable(build):
        raise InputError(f"network must be a function, got a {type(build).__name__}", "Write module:function.")
    name = network if isinstance(network, str) else getattr(network, "__qualname__", "network")
    context = _Context(device, build, name, tuple(plugins))
    return [_system(one, label, context) for label, one in pairs]


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    torch = needs("torch", f"the device '{device}'", "torch")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"the device '{device}' cannot be used: {reason}", "Such as cpu, cuda, cuda:1, mps."
        ) from error


@dataclass(frozen=True)
class _Context:
    device: str
    network: Callable[[Mapping[str, Any]], Any] | None
    name: str
    plugins: tuple[str | Path, ...]


def _system(reference: Any, label: str | None, context: _Context) -> Predictor:
    if isinstance(reference, str | Path):
        text = str(reference)
        if label is None and isinstance(reference, str):
            label, text = labelled(text)
        return _of_text(text, label, context)
    if isinstance(reference, WeightBundle):
        return _of_weights(reference, label or reference.label, context)
    if isinstance(reference, Checkpoint):
        _import(reference, context)
    start = time.perf_counter()
    if isinstance(reference, Checkpoint):
        folder = reference.path if reference.path is not None and reference.path.is_dir() else _beside(reference)
        kind = "single" if reference.path is not None else "merge"
        found = _of_checkpoint(Weights(label or reference.label, reference, folder, context.device), context)
        return _told(found, kind, reference.label, start)
    found = predictor(reference, label, device=context.device)
    if label is not None and found.label != label:
        raise InputError(f"'{found.label}' has a label already, and is called '{label}' here", "Leave one of them out.")
    return _told(found, "single", found.label, start)


def labelled(text: str) -> tuple[str | None, str]:
    """Label and reference of `LABEL=REFERENCE`; an existing path wins."""
    match = _LABELLED.fullmatch(text)
    if match is None or Path(text).expanduser().exists():
        return None, text
    return match["label"].strip() or None, match["rest"]


def label_of(text: str) -> str | None:
    """What a system will be called, before it is loaded; None where a function of the user's decides."""
    label, rest = labelled(text)
    if label is not None or _named.is_named(rest):
        return label
    path = Path(rest).expanduser()
    return path.resolve().name if path.is_dir() else path.stem


def _of_text(text: str, label: str | None, context: _Context) -> Predictor:
    if _named.is_named(text):
        return _of_function(text, label, context)
    place = bundle_at(text, None)
    if place is not None:
        return _of_bundle(text, label, context)
    path = Path(text).expanduser()
    if not path.exists():
        raise InputError(
            f"there is no model '{text}'",
            "Give a folder, a recipe file, a checkpoint with --network, module:function or file.py:function, each also as "
            "LABEL=..; models on the Hub have to be downloaded first.",
        )
    if path.suffix in SINGLE_FILES:
        start = time.perf_counter()
        return _told(SINGLE_FILES[path.suffix](path, label or path.stem, context.device), "single", text, start)
    if path.suffix in _RECIPES:
        return _of_recipe(path, label or path.stem, context)
    checkpoint = open_checkpoint(path)
    _import(checkpoint, context)
    start = time.perf_counter()
    name = label or (path.resolve().name if path.is_dir() else path.stem)
    folder = path if path.is_dir() else path.parent
    found = _of_checkpoint(Weights(name, checkpoint, folder, context.device), context)
    return _told(found, "single", text, start)


def _of_bundle(text: str, label: str | None, context: _Context) -> Predictor:
    name = label or Path(text).expanduser().resolve().name
    place = bundle_at(text, None)
    assert place is not None
    if place[1] is None and (bundle := open_bundle(place[0])).about.weights is None:
        start = time.perf_counter()
        made = open_ensemble(
            bundle, name, partial(_of_member, context), context.device, network=context.network is not None
        )
        return _told(made, "ensemble", text, start)
    found = open_any(text)
    return _of_weights(found, name, context) if isinstance(found, WeightBundle) else _of_task(found, name, context)


def _of_member(context: _Context, model: Checkpoint, label: str) -> Predictor:
    """A member of an ensemble."""
    _import(model, context)
    folder = model.path if model.path is not None and model.path.is_dir() else None
    return _of_checkpoint(Weights(label, model, folder, context.device), context)


def _of_weights(bundle: WeightBundle, label: str, context: _Context) -> Predictor:
    def build(task: str) -> Predictor:
        return _of_task(bundle.task(task), label, context)

    return TaskwisePredictor(label, bundle=bundle, build=build)


def _of_task(model: Checkpoint, label: str, context: _Context) -> Predictor:
    """The model of one task of a bundle."""
    _import(model, context)
    start = time.perf_counter()
    folder = model.path if model.path is not None and model.path.is_dir() else _beside(model)
    return _told(_of_checkpoint(Weights(label, model, folder, context.device), context), "other", model.label, start)


def _of_function(text: str, label: str | None, context: _Context) -> Predictor:
    start = time.perf_counter()
    made = _named.function(text)
    given = _named.guarded(text, made)
    name = label or text.rpartition(":")[2]
    if isinstance(given, Checkpoint):
        return _system(given, name, context)
    found = predictor(given, name, device=context.device)
    if isinstance(given, Predictor) and label is not None:
        found.label = label
    if isinstance(found, FunctionPredictor):  # its answers depend on the file that made it too
        found.fingerprint = xxhash.xxh3_128_hexdigest(f"{found.fingerprint} {source_hash(made)}".encode())
    return _told(found, "single", text, start)


def _of_recipe(path: Path, label: str, context: _Context) -> Predictor:
    job = Job.from_recipe(path, (), registry(context.plugins))
    merged = job.checkpoint()
    _import(merged, context)
    start = time.perf_counter()
    folder = _first_folder(job)
    found = _of_checkpoint(Weights(label, _computed(merged), folder, context.device), context)
    found = _told(found, "merge", str(path), start)
    found.made = {**found.made, "recipe": job.plans()[-1].recipe_text}
    return found


def _computed(merged: Checkpoint) -> Checkpoint:
    """The result with all its tensors in memory, so that none is merged twice."""
    arrays = merged.arrays()
    held = open_checkpoint(arrays, label=merged.label)
    return Checkpoint(
        dict(held), label=merged.label, parts=merged.parts, metadata=merged.metadata, beside=merged.beside,
        aliases=merged.aliases,
    )  # fmt: skip


def _first_folder(job: Job) -> Path | None:
    """The folder that the recipe's result has its tokenizer or processor from: the donor's, back through the steps."""
    for plan in reversed(job.plans()):
        for model in (plan.models[plan.donor], *plan.models):
            if model.path is not None and model.path.is_dir():
                return model.path
    return None


def _beside(checkpoint: Checkpoint) -> Path | None:
    """Where the files beside a merge in memory come from."""
    return next((file.parent for file in checkpoint.beside.values() if isinstance(file, Path)), None)


def _import(checkpoint: Checkpoint, context: _Context) -> None:
    """Import what loading takes, so that it does not count as loading."""
    if context.network is None and (checkpoint.config or {}).get("architectures"):
        needs("transformers", "loading this model", "torch")
    else:
        needs("torch", "running this model", "torch")


def _of_checkpoint(weights: Weights, context: _Context) -> Predictor:
    if context.network is not None:
        return _of_network(weights, context)
    if is_timm(weights):
        return timm_head(weights)
    names = [str(name) for name in weights.config.get("architectures") or ()]
    for name in names:
        for ending, build in ARCHITECTURES.items():
            if name.endswith(ending):
                return build(weights)
    known = listing([f"..{ending}" for ending in ARCHITECTURES], 99)
    what = f"the architecture {names[0]}" if names else "a checkpoint without architectures in its config.json"
    raise InputError(
        f"it is not known how to ask {what}",
        f"Give --network MODULE:FUNCTION, a function that builds its nn.Module from the configuration. Known: {known}.",
        weights.label,
    )


def _of_network(weights: Weights, context: _Context) -> Predictor:
    assert context.network is not None
    module = _named.guarded(context.name, context.network, dict(weights.config))
    if not callable(getattr(module, "load_state_dict", None)):
        raise InputError(f"'{context.name}' returned a {type(module).__name__}", "It must return the nn.Module.")
    load_strictly(module, weights)
    found = ModulePredictor(weights.label, module=module.eval(), device=weights.device)
    code = source_hash(context.network)
    found.fingerprint = xxhash.xxh3_128_hexdigest(f"{found.fingerprint} {code}".encode())
    found.made = {"network": context.name}
    return found


def _told(found: Predictor, kind: str, reference: str, start: float) -> Predictor:
    """The system with what its records should say of it."""
    said = {
        "kind": kind,
        "reference": reference,
        "seconds": round(time.perf_counter() - start, 3),
        "versions": {
            name: _version(name) for name in ("numpy", *_PACKAGES.get(type(found), ("torch", "transformers")))
        },
    }
    found.made = {**said, **found.made}
    return found


_PACKAGES: dict[type, tuple[str, ...]] = {
    EstimatorPredictor: ("scikit-learn",), FunctionPredictor: (), ModulePredictor: ("torch",),
}  # fmt: skip


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
