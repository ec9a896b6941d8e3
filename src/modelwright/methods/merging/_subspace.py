"""What methods on singular vectors share: which tensors are matrices, and what becomes of those that are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from modelwright.methods._method import PER_MODEL, Params, Span
from modelwright.methods.merging._parts import Weights, added, per_model
from modelwright.tensors import Array, Road, as_matrix, namespace

Matrices = Literal["all", "linear", "none"]
Decomposition = Literal["auto", "exact", "gram", "sketch"]

#: Bytes for each element of a tensor: its task vector as float64, its singular vectors and LAPACK's workspace.
WORKSPACE = 64.0

MATRICES_DIFFERS = (
    "A tensor of three and more axes (the kernel of a convolution) is merged as a matrix of its first axis by all others; "
    "the official code averages everything that has not two axes (matrices: linear, the value of semantics: paper).",
    "The official code averages CLIP's text_projection too; names are the recipe's: give it, and embeddings of large "
    "vocabularies, matrices: none by a filter.",
)
AUTO = (
    "How singular vectors are found: exact; gram: by eigenvectors of the smaller product with its transpose; sketch: in a "
    "random subspace; auto: gram for half the directions or fewer of 256 and more, sketch for a 64th or fewer of 2048 and "
    "more, else exact."
)
AUTO_DIFFERS = (
    "decomposition: auto takes eigenvectors of a product for few directions of a large matrix, which agree with exact ones to "
    "six digits where singular values are above 1e-5 of the greatest, and a random subspace for very few of a very large one, "
    "an approximation that is the same on every run. The official code always decomposes exactly, as semantics: paper does."
)
PRECISION_DIFFERS = (
    "Singular values and products are float64 (the official code: float32), and directions whose singular value is below "
    "1e-10 of the greatest are left out: their vectors are arbitrary, and the official code lets them turn the others."
)


class SubspaceParams(Params):
    """What methods on singular vectors take."""

    weight: Annotated[float, PER_MODEL, Field(description="Factor of this model's task vector; may be negative.")] = 1.0
    lambda_: Annotated[float, Span(0.3, 3, log=True)] = Field(
        1.0, alias="lambda", description="Factor of the merged task vector, applied last."
    )
    matrices: Matrices = Field(
        "all",
        description="Which tensors are merged as matrices: those of two and more axes, of exactly two (linear), or none; "
        "the others' task vectors are averaged.",
    )


def on_matrices(
    models: Sequence[Array],
    base: Array,
    merge: Callable[[Sequence[Array]], Array],
    *,
    weight: Weights,
    lambda_: float,
    matrices: Matrices,
    keep_others: bool = False,
) -> Array:
    """Add lambda times what `merge` makes of the task vectors as matrices, or their mean where they are none.

    Args:
        models: n arrays.
        base: The base.
        merge: n float64 matrices, not all of them zero -> one of that shape.
        weight: One number for all, or n numbers.
        lambda_: Scale of the merged task vector.
        matrices: Which tensors `merge` is for.
        keep_others: Leave other tensors at the base's values instead.
    """
    xp = namespace(base)
    deltas = [(model - base) * w for model, w in zip(models, per_model(weight, len(models)), strict=True)]
    chosen = base.ndim >= 2 if matrices == "all" else base.ndim == 2 and matrices == "linear"
    if not chosen or math.prod(base.shape) == 0:
        return base + added(deltas) * (0.0 if keep_others else lambda_ / len(deltas))
    if not any(bool(xp.any(delta != 0)) for delta in deltas):
        return base + added(deltas)  # nothing was tuned, and nothing has no directions
    merged = merge([as_matrix(delta) for delta in deltas])
    return base + xp.astype(xp.reshape(merged, base.shape), base.dtype) * lambda_


def road(decomposition: Decomposition, count: int, shape: Sequence[int]) -> Road:
    """How `count` directions of a matrix are found: as asked, or the cheapest way that is as good."""
    if decomposition != "auto":
        return decomposition
    side = min(shape)
    if side >= 2048 and 64 * count <= side:
        return "sketch"
    return "gram" if side >= 256 and 2 * count <= side else "exact"
