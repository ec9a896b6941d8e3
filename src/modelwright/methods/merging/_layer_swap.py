"""Layer swapping: the outer layers of one model around the middle of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from modelwright.errors import InputError, listing
from modelwright.methods._method import Method, Params, Position, checked
from modelwright.tensors import Array

Owner = Literal["task", "language", "average"]


class LayerSwapParams(Params):
    """Parameters of `layer_swap`."""

    bottom: int | None = Field(
        None, ge=0, description="Layers of the language model at the input side; absent for 5 in 32 of them."
    )
    top: int | None = Field(
        None, ge=0, description="Layers of the language model at the output side; absent for 2 in 32, at least one."
    )
    transition_bottom: int = Field(1, ge=0, description="Averaged layers above the bottom ones.")
    transition_top: int = Field(1, ge=0, description="Averaged layers below the top ones.")
    transition_weight: float = Field(0.5, ge=0, le=1, description="Share of the language model in what is averaged.")
    embeddings: Owner = Field("language", description="Whose tensors before the layers are taken.")
    head: Owner | Literal["embeddings"] = Field(
        "embeddings", description="Whose final norm and head are taken; embeddings: the same as there."
    )
    stack: str | None = Field(
        None, description="The stack of layers that is swapped, such as model.layers, where there are several."
    )
    other_stacks: Owner = Field("task", description="Whose other stacks of layers are taken, such as a vision tower.")


@checked(LayerSwapParams, least=2, most=2)
def layer_swap(
    models: Sequence[Array],
    *,
    bottom: int | None = None,
    top: int | None = None,
    transition_bottom: int = 1,
    transition_top: int = 1,
    transition_weight: float = 0.5,
    embeddings: Owner = "language",
    head: Owner | Literal["embeddings"] = "embeddings",
    stack: str | None = None,
    other_stacks: Owner = "task",
    position: Position | None = None,
) -> Array:
    """Take each layer from one of two models: the outer ones from the second, the middle ones from the first.

    Of L layers, the first `bottom` and the last `top` are the language model's, `transition_bottom` and `transition_top`
    layers next to them are averaged, and the rest are the task model's.

    Args:
        models: Two arrays of one shape: the task model's, then the language model's.
        bottom: Layers of the language model at the input side; None for round(5 L / 32).
        top: The same at the output side; None for round(2 L / 32), at least one.
        transition_bottom: Averaged layers next to the bottom ones.
        transition_top: Averaged layers next to the top ones.
        transition_weight: Share of the language model in an average, in [0, 1].
        embeddings: `task`, `language` or `average`: tensors before the layers.
        head: The same for those after them, or `embeddings`, to follow.
        stack: Which stack of layers is swapped; None for the only one.
        other_stacks: `task`, `language` or `average`: layers of other stacks.
        position: Where the tensor stands; `mw.merge` passes it. None is before the layers.

    Returns:
        The tensor of one of the models, or their average, in the shape and format of the first.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `LAYER_SWAP.differs`.

    Example:
        >>> import numpy as np
        >>> from modelwright.methods import Position
        >>> task, language = np.array([0.0]), np.array([1.0])
        >>> zones = {"bottom": 1, "top": 1, "transition_top": 0}
        >>> [layer_swap([task, language], position=Position("layers", i, 4), **zones).item() for i in range(4)]
        [1.0, 0.5, 0.0, 1.0]

    Source:
        Bandarkar et al. 2025, arXiv:2410.01335, section 3.
    """
    zones = {
        "bottom": bottom, "top": top, "transition_bottom": transition_bottom, "transition_top": transition_top,
        "embeddings": embeddings, "head": head, "stack": stack, "other_stacks": other_stacks,
    }  # fmt: skip
    task, language = models
    owner = _owner(zones, position or Position())
    if owner == "average":
        return task * (1 - transition_weight) + language * transition_weight
    return task if owner == "task" else language


def _owner(p: Mapping[str, Any], position: Position) -> Owner:
    """Whose a tensor is."""
    if not position.count:
        return p["head"] if position.after and p["head"] != "embeddings" else p["embeddings"]
    if p["stack"] not in (None, position.stack):
        return p["other_stacks"]
    bottom, top = _outer(p, position.count)
    below, above = position.number, position.count - 1 - position.number  # how many layers are on either side
    if below < bottom or above < top:
        return "language"
    return "average" if below < bottom + p["transition_bottom"] or above < top + p["transition_top"] else "task"


def _outer(p: Mapping[str, Any], count: int) -> tuple[int, int]:
    """How many layers at the bottom and at the top are the language model's."""
    bottom = round(5 * count / 32) if p["bottom"] is None else p["bottom"]
    top = max(1, round(2 * count / 32)) if p["top"] is None else p["top"]
    return bottom, top


def _fits(p: Mapping[str, Any], position: Position, _models: int) -> None:
    stacks = position.stacks
    if not stacks:
        raise InputError("layer_swap: no tensor name tells of layers", "It is for models with numbered layers.")
    if p["stack"] is None and len(stacks) > 1:
        raise InputError(
            f"layer_swap: the model has {len(stacks)} stacks of layers: {listing(stacks, 9)}",
            "Name the one whose layers are swapped with stack:.",
        )
    if p["stack"] not in (None, *stacks):
        raise InputError(f"layer_swap: no stack of layers is called '{p['stack']}'", f"Valid: {listing(stacks, 9)}.")
    if not position.count or p["stack"] not in (None, position.stack):
        return
    bottom, top = _outer(p, position.count)
    zones = bottom + p["transition_bottom"] + p["transition_top"] + top
    if zones > position.count:
        raise InputError(
            f"layer_swap: bottom {bottom}, transition_bottom {p['transition_bottom']}, transition_top {p['transition_top']} "
            f"and top {top} are {zones} layers, and '{position.stack}' has {position.count}",
            "Lower one of them.",
        )


LAYER_SWAP = Method(
    name="layer_swap",
    title="Layer swapping",
    paper="arXiv:2410.01335",
    summary="Puts the outer layers of a language's expert around the middle layers of a task's: that task in that language.",
    function=layer_swap,
    params=LayerSwapParams,
    base="ignored",
    models=(2, 2),
    laws=frozenset({"identity"}),
    fits=_fits,
    differentiable=False,
    differs=(
        "The order of the models says which is which: the task's expert first, the language's second.",
        "No official code is known. The number of layers is reported second-hand, 5 and 2 of 32 with one averaged on either "
        "side, and is scaled to the model's depth.",
        "Whose embeddings, final norm and head the paper takes could not be verified; the language model's is what slices "
        "in a recipe would give. Tied embeddings and head are one tensor, and follow `embeddings`.",
        "A model with several stacks of layers (an encoder-decoder, a vision tower) must have one of them named.",
    ),
    cite="""@inproceedings{bandarkar2025layer,
  title={Layer Swapping for Zero-Shot Cross-Lingual Transfer in Large Language Models},
  author={Bandarkar, Lucas and Muller, Benjamin and Yuvraj, Pritish and Hou, Rui and Singhal, Nayan and Lv, Hongjiang and
    Liu, Bing},
  booktitle={ICLR},
  year={2025},
}""",
)
