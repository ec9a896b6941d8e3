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


#: The last words of modules that are tables of embeddings, whose rows are looked up.
_TABLES = re.compile(
    r"(^|[./])(embed_tokens|embed_positions|embed_in|embed|wte|wpe|tokens_embed|positions_embed|tok_embeddings|shared|"
    r"(word|position|token_type|entity|absolute_pos)_embeddings?|embeddings?|relative_attention_bias)$"
)
#: Families whose layers store matrices (in, out), as transformers' Conv1D does.
_TRANSPOSED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})


def is_embedding(module: str) -> bool:
    """Whether a module is a table of embeddings."""
    return bool(_TABLES.search(module))


def stores_transposed(model_type: str) -> bool:
    """Whether a family's layers store their matrices (in, out)."""
    return model_type in _TRANSPOSED


#: Families whose modules have other paths since transformers 5 than the tensors in their files, which kept the old ones.
_RENAMED: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {
    "vit": tuple(
        (re.compile(old), new)
        for old, new in (
            (r"\bencoder\.layer\.", "layers."), (r"\battention\.attention\.query\b", "attention.q_proj"),
            (r"\battention\.attention\.key\b", "attention.k_proj"), (r"\battention\.attention\.value\b", "attention.v_proj"),
            (r"\battention\.output\.dense\b", "attention.o_proj"), (r"\bintermediate\.dense\b", "mlp.fc1"),
            (r"\boutput\.dense\b", "mlp.fc2"),
        )
    ),
}  # fmt: skip


def module_path(name: str, model_type: str) -> str:
    """What transformers calls a tensor of a family in its modules today; most are called as in their files."""
    for old, new in _RENAMED.get(model_type, ()):
        name = old.sub(new, name)
    return name
