"""Isotropic merging: all singular directions of the merged task vector count the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from modelwright.methods._method import Method, Span, checked
from modelwright.methods.merging._parts import Weights, added
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


class IsoCParams(SubspaceParams):
    """Parameters of `iso_c`."""


class IsoCtsParams(SubspaceParams):
    """Parameters of `iso_cts`."""

    common: Annotated[float, Span(0.5, 0.95)] = Field(
        0.8, ge=0, le=1, description="Share of the directions that come from the sum of the task vectors."
    )
    decomposition: Decomposition = Field("auto", description=AUTO)


@checked(IsoCParams, base="required")
def iso_c(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    lambda_: float = 1.0,
    matrices: Matrices = "all",
) -> Array:
    """Add up the task vectors and replace every singular value of the sum by their mean.

    sum_i w_i tau_i = U S V^T; result = base + lambda * mean(S) U V^T.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        lambda_: Scale of the merged task vector; `lambda` in recipes.
        matrices: `all`: tensors of two and more axes, as (first axis, all others); `linear`: of exactly two; `none`.
            The task vectors of all other tensors are averaged.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `ISO_C.differs`.

    Example:
        >>> import numpy as np
        >>> iso_c([np.diag([4.0, 1.0]), np.diag([1.0, 2.0])], base=np.zeros((2, 2))).round(6) + 0.0
        array([[4., 0.],
               [0., 4.]])

    Source:
        Marczak et al. 2025, arXiv:2502.04959, section 4.1.
    """

    def merge(deltas: Sequence[Array]) -> Array:
        u, s, vt = singular(added(deltas))
        return _isotropic(u @ vt, s)

    return on_matrices(models, base, merge, weight=weight, lambda_=lambda_, matrices=matrices)


@checked(IsoCtsParams, base="required")
def iso_cts(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    lambda_: float = 1.0,
    matrices: Matrices = "all",
    common: float = 0.8,
    decomposition: Decomposition = "auto",
) -> Array:
    """Isotropic merging in which the weakest directions of the sum give way to directions that tasks have of their own.

    Of the r directions of sum_i w_i tau_i = U S V^T the first k are kept; each of the n tasks adds the (r - k) / n leading
    ones of (I - U_k U_k^T) w_i tau_i. Left and right vectors are made orthonormal as in TSV-Merge, and all r singular
    values replaced by their mean.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        lambda_: Scale of the merged task vector; `lambda` in recipes.
        matrices: `all`: tensors of two and more axes, as (first axis, all others); `linear`: of exactly two; `none`.
            The task vectors of all other tensors are averaged.
        common: k / r, in [0, 1]; rounded so that r - k is a multiple of n. 1 is `iso_c`.
        decomposition: `auto`, `exact`, `gram` or `sketch`.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `ISO_CTS.differs`.

    Source:
        Marczak et al. 2025, arXiv:2502.04959, section 4.2 and algorithm 2.
    """

    def merge(deltas: Sequence[Array]) -> Array:
        side = min(deltas[0].shape)
        own = min(round((side - int(side * common)) / len(deltas)), side // len(deltas))
        u, s, vt = singular(added(deltas), side - own * len(deltas))
        parts = [(u, s, vt)]
        if own:
            how = road(decomposition, own, deltas[0].shape)
            parts += [singular(delta - u @ (u.T @ delta), own, how) for delta in deltas]
        xp = namespace(u)
        left = polar(xp.concat([u for u, _, _ in parts], axis=1))
        right = polar(xp.concat([vt for _, _, vt in parts], axis=0))
        return _isotropic(left @ right, xp.concat([s for _, s, _ in parts]))

    return on_matrices(models, base, merge, weight=weight, lambda_=lambda_, matrices=matrices)


def _isotropic(directions: Array, s: Array) -> Array:
    return directions * (namespace(s).sum(s) / s.shape[0])


_DIFFERS = (
    *MATRICES_DIFFERS,
    PRECISION_DIFFERS,
    "Weights per model are ours. The paper chooses lambda on validation data; 1 is where a search starts.",
)
_CITE = """@inproceedings{marczak2025isotropic,
  title={No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces},
  author={Marczak, Daniel and Magistri, Simone and Cygert, Sebastian and Twardowski, Bart{\\l}omiej and Bagdanov, Andrew D.
    and van de Weijer, Joost},
  booktitle={ICML},
  year={2025},
}"""
_LAWS = frozenset({"identity", "permutation", "base", "scaling", "negation"})

ISO_C = Method(
    name="iso_c",
    title="Iso-C",
    paper="arXiv:2502.04959",
    summary="Adds the task vectors and evens out the singular values of the sum, so that no task outweighs the others.",
    function=iso_c,
    params=IsoCParams,
    base="required",
    models=(1, None),
    laws=_LAWS,
    presets={"paper": {"matrices": "linear"}},
    reproducible="tolerance",
    differentiable=False,
    workspace=lambda _models: WORKSPACE,
    differs=_DIFFERS,
    cite=_CITE,
)

ISO_CTS = Method(
    name="iso_cts",
    title="Iso-CTS",
    paper="arXiv:2502.04959",
    summary="Iso-C with room for what only one task needs: among the best without data for many different tasks.",
    function=iso_cts,
    params=IsoCtsParams,
    base="required",
    models=(1, None),
    laws=_LAWS,
    presets={"paper": {"matrices": "linear", "decomposition": "exact"}},
    reproducible="tolerance",
    differentiable=False,
    workspace=lambda _models: WORKSPACE,
    differs=(
        *_DIFFERS,
        "Directions of tasks are never more than there are; the official code takes a negative number of common ones "
        "where common is small and n does not divide r.",
        AUTO_DIFFERS,
    ),
    cite=_CITE,
)
