"""The towers of a model, by the names the community's recipes use for them."""

from __future__ import annotations

import re

from modelwright.architectures._tied import vocabulary_tensor

#: What the community calls a tower -> where its tensors live. The first match decides; the rest is the text decoder.
_TOWERS = (
    ("multi_modal_projector", re.compile(r"projector|merger|connector|mm_proj|modality_projection|aligner")),
    ("vision_tower", re.compile(r"vision|visual|image_encoder|vit\b")),
    ("audio_tower", re.compile(r"audio|speech_encoder")),
)
#: The names that recipes use; any other is a part of tensor names.
MODULES = (*(name for name, _ in _TOWERS), "text_decoder", "shared", "default")


def module_of(name: str, modules: list[str]) -> str | None:
    """Which of a recipe's modules a tensor belongs to.

    Args:
        name: The tensor's name.
        modules: The modules that the recipe lists: community names (`text_decoder`, `vision_tower`,
            `multi_modal_projector`, `default`), or prefixes of tensor names such as `encoder`.

    Returns:
        The module; None where no listed module claims it.
    """
    prefixes = [m for m in modules if name == m or name.startswith((m + ".", m + "/")) or f".{m}." in name]
    if prefixes:
        return max(prefixes, key=len)
    towers = [tower for tower, pattern in _TOWERS if pattern.search(name)]
    if "text_decoder" in modules and not towers:
        return "text_decoder"
    claimed = next((tower for tower in towers if tower in modules), None)  # `visual.merger` is the vision tower's too
    if claimed is None and "shared" in modules and vocabulary_tensor(name):
        return "shared"  # where the community's T5 recipes keep the head
    return claimed or ("default" if "default" in modules else None)
