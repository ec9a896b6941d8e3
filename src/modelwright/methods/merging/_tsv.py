"""TSV-Merge: keep each task's leading singular directions, and make those of all tasks orthogonal."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from modelwright.methods._method import Method, checked
from modelwright.methods.merging._parts import Weights
from modelwright.methods.merging._subspace import (
    AUTO,
    AUTO_DIFFERS,
    MATRICES_DIFFERS,
    PRECISION_DIFFERS,
    WORKSPACE,
    Decomposition,
    Matrices,
    SubspaceParams,
    on_matrices,
    road,
)
from modelwright.tensors import Array, namespace, polar, singular


class TsvParams(SubspaceParams):
    """Parameters of `tsv`."""

    rank: float | None = Field(
        None, gt=0, le=1, description="Share of the directions that each model keeps; absent for 1/n of n models."
    )
    decomposition: Decomposition = Field("auto", description=AUTO)


@checked(TsvParams, base="required")
def tsv(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    lambda_: float = 1.0,
    matrices: Matrices = "all",
    rank: float | None = None,
    decomposition: Decomposition = "auto",
) -> Array:
    """Join the leading singular directions of all task vectors, made orthogonal to each other.

    w_i tau_i = U_i S_i V_i^T, cut to k directions; U = [U_1 ... U_n], S = diag(S_1, ..., S_n), V = [V_1 ... V_n];
    result = base + lambda * polar(U) S polar(V)^T, polar(X) being the nearest matrix to X with orthonormal columns.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        lambda_: Scale of the merged task vector; `lambda` in recipes.
        matrices: `all`: tensors of two and more axes, as (first axis, all others); `linear`: of exactly two; `none`.
            The task vectors of all other tensors are averaged.
        rank: k as a share of the shorter side, in (0, 1]; None for 1/n. At least one direction is kept.
        decomposition: `auto`, `exact`, `gram` or `sketch`.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `TSV.differs`.

    Example:
        >>> import numpy as np
        >>> one, two = np.diag([3.0, 0.1]), np.diag([0.1, 2.0])
        >>> tsv([one, two], base=np.zeros((2, 2))).round(6) + 0.0
        array([[3., 0.],
               [0., 2.]])

    Source:
        Gargiulo et al. 2025, arXiv:2412.00081, algorithm 1.
    """

    def merge(deltas: Sequence[Array]) -> Array:
        side = min(deltas[0].shape)
        count = max(1, side // len(deltas) if rank is None else int(rank * side))
        if len(deltas) == 1 and count == side:
            return deltas[0]  # all of its directions, and nothing to be made orthogonal to
        how = road(decomposition, count, deltas[0].shape)
        parts = [singular(delta, count, how) for delta in deltas]
        xp = namespace(deltas[0])
        left = polar(xp.concat([u for u, _, _ in parts], axis=1))
        right = polar(xp.concat([vt for _, _, vt in parts], axis=0))
        return (left * xp.concat([s for _, s, _ in parts])) @ right

    return on_matrices(models, base, merge, weight=weight, lambda_=lambda_, matrices=matrices)


TSV = Method(
    name="tsv",
    title="TSV-Merge",
    paper="arXiv:2412.00081",
    summary="Keeps each task's leading singular directions and makes them orthogonal: many tasks without interference.",
    function=tsv,
    params=TsvParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "base", "scaling", "negation", "single"}),
    presets={"paper": {"matrices": "linear", "decomposition": "exact"}},
    reproducible="tolerance",
    differentiable=False,
    workspace=lambda _models: WORKSPACE,
    differs=(
        *MATRICES_DIFFERS,
        PRECISION_DIFFERS,
        "Equal task vectors have equal directions, which cannot be made orthogonal: they count as one, and give that task "
        "vector cut to its k directions. The official code adds an arbitrary matrix of the same norm.",
        "At least one direction of each task is kept; the official code keeps none, and so drops the tensor's change, where "
        "the shorter side is less than the number of tasks.",
        AUTO_DIFFERS,
        "Weights per model and rank are ours; the paper has n equal tasks and 1/n.",
    ),
    cite="""@inproceedings{gargiulo2025tsv,
  title={Task Singular Vectors: Reducing Task Interference in Model Merging},
  author={Gargiulo, Antonio Andrea and Crisostomi, Donato and Bucarelli, Maria Sofia and Scardapane, Simone and
    Silvestri, Fabrizio and Rodol{\\`a}, Emanuele},
  booktitle={CVPR},
  year={2025},
}""",
)
