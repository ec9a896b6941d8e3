"""Twin-Merging: a shared expert, and for each task the low-rank difference of its own expert from that one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from modelwright.methods._method import FIXED, PER_MODEL, Method, Params, Parts, Span, checked
from modelwright.methods.merging._parts import Weights, combined, lowered, per_model
from modelwright.methods.merging._subspace import WORKSPACE, Decomposition, road
from modelwright.tensors import Array, as_matrix, namespace, singular


class TwinMergingParams(Params):
    """Parameters of `twin_merging`."""

    weight: Annotated[float, PER_MODEL, Field(description="Factor of this model's task vector; may be negative.")] = 1.0
    lambda_: Annotated[float, Span(0.05, 2, log=True)] = Field(
        0.3, alias="lambda", description="Factor of the sum of the task vectors, which gives the shared expert."
    )
    density: Annotated[float, FIXED] = Field(
        0.1, gt=0, le=1, description="Share of the directions of each difference that is kept; at least one is."
    )
    rank: int | None = Field(None, ge=1, description="How many directions are kept, in place of density.")
    decomposition: Decomposition = Field(
        "auto", description="How singular vectors are found: exact, gram, sketch, or what suits their number (auto)."
    )


@checked(TwinMergingParams, base="required")
def twin_merging(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    lambda_: float = 0.3,
    density: float = 0.1,
    rank: int | None = None,
    decomposition: Decomposition = "auto",
) -> Array:
    """The shared expert, by task arithmetic: base + lambda * sum_i w_i (theta_i - base).

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        lambda_: Scale of the sum; `lambda` in recipes.
        density: Of the differences (`twin_parts`), in (0, 1]; the shared expert does not depend on it.
        rank: In place of density.
        decomposition: Of the differences.

    Returns:
        The shared expert in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `TWIN_MERGING.differs`.

    Example:
        >>> import numpy as np
        >>> twin_merging([np.array([1.0]), np.array([3.0])], base=np.zeros(1), lambda_=0.5)
        array([2.])

    Source:
        Lu et al. 2024, arXiv:2406.15479, section 3.2.
    """
    weights = per_model(weight, len(models))
    return combined(base, [model - base for model in models], weight=weights, normalize=False, lambda_=lambda_)


def twin_parts(model: Array, *, base: Array | None, shared: Array, parameters: Mapping[str, Any]) -> dict[str, Array]:
    """What is kept of a task: the leading singular directions of theta - shared, or theta where these would take more.

    Args:
        model: The task's tensor.
        base: Not used.
        shared: What `twin_merging` made, same shape.
        parameters: With `density`, `rank` and `decomposition`.

    Returns:
        `up` (rows, k) and `down` (k, columns), whose product is the difference cut to k directions, each with the root of the
        singular values; or `whole`, the tensor itself, of what is no matrix and of matrices that are not larger than that.

    Source:
        Eckart and Young 1936: no other factors of this rank are nearer.
    """
    count = _directions(tuple(model.shape), parameters)
    if count is None:
        return {"whole": model}
    xp = namespace(model)
    matrix = as_matrix(model - shared)
    if not bool(xp.any(matrix != 0)):
        u, s, vt = matrix[:, :count], xp.zeros(count, dtype=matrix.dtype), matrix[:count, :]
    else:
        u, s, vt = singular(matrix, count, road(parameters["decomposition"], count, matrix.shape))
    root = xp.sqrt(s)
    return {"up": u * root, "down": root[:, None] * vt}


def twin_task(shared: Array, *, base: Array | None, pieces: Mapping[str, Array], facts: Mapping[str, float]) -> Array:
    """A task's tensor: shared + up @ down, or what was kept whole.

    Args:
        shared: What `twin_merging` made.
        base: Not used.
        pieces: `up` and `down`, or `whole`.
        facts: None.
    """
    if "whole" in pieces:
        return pieces["whole"]
    return shared + namespace(shared).reshape(pieces["up"] @ pieces["down"], shared.shape)


def _directions(shape: tuple[int, ...], parameters: Mapping[str, Any]) -> int | None:
    """How many directions of a tensor are kept; None where it is kept whole."""
    if len(shape) < 2 or math.prod(shape) == 0:
        return None
    rows, columns = shape[0], math.prod(shape[1:])
    side, rank = min(rows, columns), parameters["rank"]
    count = max(1, min(side, int(parameters["density"] * side) if rank is None else rank))
    return count if count * (rows + columns) < rows * columns else None


def _shapes(shape: tuple[int, ...], parameters: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    count = _directions(shape, parameters)
    return {"whole": shape} if count is None else {"up": (shape[0], count), "down": (count, math.prod(shape[1:]))}


TWIN_MERGING = Method(
    name="twin_merging",
    title="Twin-Merging",
    paper="arXiv:2406.15479",
    summary="A bundle: a shared expert, and for each task the low-rank difference of its own expert; tasks may be mixed by weights.",
    function=twin_merging,
    params=TwinMergingParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "base", "scaling", "negation"}),
    lower=lambda p, _shape: lowered({"weight": p["weight"], "normalize": False, "lambda": p["lambda"]}),
    presets={"paper": {"lambda": 0.29, "decomposition": "exact"}},
    reproducible="tolerance",
    workspace=lambda _models: WORKSPACE,
    parts=Parts(
        kinds={"whole": "values", "up": "values", "down": "values"},
        shapes=_shapes,
        split=twin_parts,
        restore=twin_task,
        base=False,
        mixes=True,
    ),
    differs=(
        "There is no router yet: the task is named, or tasks are given weights. The router of the paper is trained on features of "
        "the shared expert, which takes data.",
        "The shared expert is that of task arithmetic, as in the paper; here weights may differ by model.",
        "A tensor of three and more axes is a matrix of its first axis by all others; the official code fails on it.",
        "At least one direction is kept, where the official code keeps none of matrices that are smaller than 1 / density.",
        "Tensors of one axis are kept whole, as in the official code; so are matrices whose factors would take more room than "
        "they do, so that a density near 1 is exact.",
        "All tensors take part, biases too, of which the authors' scripts take those of the right task's own model.",
        "Of models with adapters the difference is that of the whole matrices; the official code for language models cuts the "
        "factors A and B apart, which is no low-rank approximation of their product.",
        "Factors are stored in the experts' format.",
    ),
    cite="""@inproceedings{lu2024twin,
  title={Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging},
  author={Lu, Zhenyi and Fan, Chenghao and Wei, Wei and Qu, Xiaoye and Chen, Dangyang and Cheng, Yu},
  booktitle={NeurIPS},
  year={2024},
}""",
)
