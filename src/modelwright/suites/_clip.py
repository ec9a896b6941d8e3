"""The published eight-task suites on CLIP: vision towers are merged, zero-shot heads stay outside."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.api import content_hash
from modelwright.architectures import is_computed
from modelwright.checkpoint import Checkpoint, Part
from modelwright.errors import InputError
from modelwright.evaluate import Classification, Items, Predictor, Size, Splits, metric
from modelwright.evaluate._predictor import needs
from modelwright.suites._cache import Cache, Trained, code_of, data_of, key_of
from modelwright.suites._family import Family
from modelwright.suites._hub import files_hash, folder_of, published_model, published_splits
from modelwright.suites._images import BodyPredictor, hashes_of, heads_in
from modelwright.suites._schema import ClipFile, ClipTask
from modelwright.tensors import Array
from modelwright.train import CosineHead, Head

_TOWER = "vision_model."
_PROJECTION = "visual_projection.weight"


@dataclass(frozen=True, kw_only=True)
class ClipFamily(Family):
    """CLIP's vision tower and its experts.

    Attributes:
        whole: The base with its text tower and projections.
        heads: By task: directions of the classes' prompts, and CLIP's own scale.
    """

    whole: Checkpoint
    heads: Mapping[str, Head]

    @property
    def fingerprint(self) -> str:
        """Of the heads, the projection, and how images are prepared."""
        return key_of({
            "heads": hashes_of(self.heads), "projection": data_of(self.whole[_PROJECTION].read()),
            "files": files_hash(folder_of(self.whole)),
        })  # fmt: skip

    def system(self, weights: Checkpoint, label: str, *, device: str = "cpu") -> Predictor:
        """A vision tower with these weights, and the base's projection."""
        see = _eyes(self.whole, weights, device)
        return BodyPredictor(
            label, see=see, heads=self.heads, fingerprint=key_of({"body": content_hash(weights), "beside": self.fingerprint}),
            size=Size(sum(ref.size for ref in weights.values()), weights.nbytes),
        )  # fmt: skip


def clip_family(file: ClipFile, seed: int, cache: Cache, device: str) -> ClipFamily:
    """Open the published models, and make their heads, or take those from the cache."""
    needs("torch", f"the suite '{file.name}'", "torch")
    needs("transformers", f"the suite '{file.name}'", "torch")
    needs("PIL.Image", f"the suite '{file.name}'", "eval")
    whole = published_model(file.base, file.root)
    experts = {name: tower(published_model(model, file.root), whole) for name, model in file.experts.items()}
    tasks = {name: _task(name, said, file) for name, said in file.tasks.items()}
    prompts = {name: [said.prompts, said.classes] for name, said in file.tasks.items()}
    about = {"base": content_hash(whole), "prompts": prompts, "code": code_of("modelwright.suites._clip")}
    made = cache.model(f"{file.name}-heads", about, lambda: _heads(file.tasks, whole, device))
    return ClipFamily(
        name=file.name, seed=seed, base=tower(whole, whole), experts=experts, multitask=None,
        tasks={name: tasks[name] for name in file.tasks}, seconds={}, fixed=True, whole=whole, heads=heads_in(made),
    )  # fmt: skip


def tower(model: Checkpoint, base: Checkpoint) -> Checkpoint:
    """The vision tower of a CLIP model, or a model that is nothing else, under the names that a whole CLIP has.

    Args:
        model: Either.
        base: The whole CLIP; its configuration says what the tower's is.

    Raises:
        InputError: There is no vision tower in it.
    """
    inside = {name.removeprefix(_TOWER): ref for name, ref in model.items() if name.startswith(_TOWER)}
    if not inside and "embeddings.class_embedding" in model:
        inside = dict(model)
    if not inside:
        raise InputError(f"'{model.label}' has no vision tower: no tensor is called '{_TOWER}...'")
    named = {_TOWER + name: ref for name, ref in inside.items() if not is_computed(name, ref.shape)}
    config = dict(_config(base)["vision_config"])
    return Checkpoint(named, label=model.label, parts=(Part(config=config),), beneath=(folder_of(model),))


def _config(whole: Checkpoint) -> Mapping[str, Any]:
    config = whole.config or {}
    if config.get("model_type") != "clip" or not isinstance(config.get("vision_config"), Mapping):
        raise InputError(
            f"'{whole.label}' must be a whole CLIP model: its config.json says {config.get('model_type')!r}"
        )
    return config


def _task(name: str, said: ClipTask, file: ClipFile) -> Classification:
    def items(split: str, columns: Mapping[str, Any], chosen: Array) -> Items:
        pictures = [columns[said.image][i] for i in chosen]
        labels = np.asarray(columns[said.label], np.int64)[chosen]
        return Items.of([_encoded(p, said) for p in pictures], labels, [f"{split}-{i}" for i in chosen])

    splits = published_splits(said, file.root, file.items, (said.image, said.label), items)
    return Classification(name=name, splits=Splits(splits), metric=metric("accuracy"), names=tuple(said.classes))


def _encoded(picture: Any, said: ClipTask) -> bytes:
    """An image as the file it was: the Hub keeps them as bytes with a path."""
    found = picture.get("bytes") if isinstance(picture, Mapping) else picture
    if not isinstance(found, bytes):
        raise InputError(
            f"the column '{said.image}' of '{said.data}' holds no encoded images, but {type(found).__name__}"
        )
    return found


def _eyes(whole: Checkpoint, weights: Checkpoint, device: str) -> Callable[[Sequence[bytes]], Array]:
    """From encoded images to features, as CLIP makes them: tower, then projection."""
    import torch
    import transformers
    from PIL import Image

    from modelwright.train._trainer import load

    config = transformers.CLIPVisionConfig(**_config(whole)["vision_config"])
    network = transformers.CLIPVisionModel(config)
    bare = not any(name.startswith(_TOWER) for name in network.state_dict())  # transformers 5 has no tower in the tower
    arrays = {name.removeprefix(_TOWER) if bare else name: value for name, value in weights.arrays().items()}
    load(network.float(), arrays, device)
    projection = torch.as_tensor(whole[_PROJECTION].read().astype(np.float32)).to(device)
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    prepare = kind.from_pretrained(str(folder_of(whole)), local_files_only=True)

    def see(pictures: Sequence[bytes]) -> Array:
        found: list[Array] = []
        for start in range(0, len(pictures), 64):
            opened = [Image.open(io.BytesIO(p)).convert("RGB") for p in pictures[start : start + 64]]
            pixels = torch.as_tensor(np.stack(prepare(images=opened, return_tensors="np")["pixel_values"])).to(device)
            with torch.inference_mode():
                found.append((network(pixel_values=pixels).pooler_output @ projection.T).float().cpu().numpy())
        return np.concatenate(found)

    return see


def _heads(tasks: Mapping[str, ClipTask], whole: Checkpoint, device: str) -> Trained:
    """Zero-shot heads: of each class the mean over prompts of the normalised text features, normalised again."""
    import torch
    import transformers

    from modelwright.train._trainer import load

    config = _config(whole)
    model = transformers.CLIPModel(transformers.CLIPConfig(**config)).float()
    stored = {name: ref.read() for name, ref in whole.items() if not is_computed(name, ref.shape)}
    load(model, stored, device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder_of(whole)), local_files_only=True)
    scale = float(np.exp(np.float64(whole["logit_scale"].read())))
    tensors: dict[str, Array] = {}
    with torch.inference_mode():
        for name, task in tasks.items():
            rows: list[Array] = []
            for label in task.classes:
                texts = tokenizer([p.replace("{}", label) for p in task.prompts], padding=True, return_tensors="pt").to(
                    device
                )
                found = model.text_projection(model.text_model(**texts).pooler_output)
                mean = torch.nn.functional.normalize(found, dim=1).mean(dim=0)
                rows.append(torch.nn.functional.normalize(mean, dim=0).cpu().numpy())
            head = CosineHead(np.stack(rows), scale)
            tensors |= {f"{name}.{part}": value for part, value in head.tensors().items()}
    return Trained({"model_type": "modelwright-heads", "tasks": list(tasks)}, tensors)
