"""Sparse model soups: the average of models that were pruned alike, as sparse as each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from modelwright.errors import InputError
from modelwright.methods._method import Method, Params, checked
from modelwright.methods.merging._parts import added
from modelwright.tensors import Array, namespace


class SparseSoupParams(Params):
    """Parameters of `sparse_soup`."""

    masks: Literal["equal", "common"] = Field(
        "equal",
        description="Zeros must be at the same places in all models (equal), or a weight stays only where it is in all.",
    )


@checked(SparseSoupParams)
def sparse_soup(models: Sequence[Array], *, masks: Literal["equal", "common"] = "equal") -> Array:
    """Average models retrained from one pruned model: the mean, with the zeros that they share.

    Tensors of two and more axes are masked by where they are zero; biases and norms, which are not pruned, are averaged.

    Args:
        models: n >= 1 arrays of one shape, any floating format.
        masks: `equal` refuses models whose zeros are at different places; `common` writes zero wherever one has it.

    Returns:
        The average in the shape and format of the first model; computed in float32 (float64 for float64).

    Raises:
        InputError: Shapes differ, a value is not finite, or zeros are at different places under masks: equal.

    Differs:
        See `SPARSE_SOUP.differs`.

    Example:
        >>> import numpy as np
        >>> sparse_soup([np.array([[1.0, 0.0]]), np.array([[3.0, 0.0]])])
        array([[2., 0.]])

    Source:
        Zimmer et al. 2024, arXiv:2306.16788, section 3.
    """
    xp = namespace(*models)
    mean = added(models) / len(models)
    if mean.ndim < 2:
        return mean
    alive = [model != 0 for model in models]
    common = alive[0]
    for other in alive[1:]:
        common = common & other
    if masks == "equal":
        counts = [int(xp.sum(xp.astype(one, xp.int64))) for one in (common, *alive)]
        if counts[1:] != counts[:1] * len(models):
            raise InputError(
                f"sparse_soup: models must be zero at the same places; they keep {', '.join(map(str, counts[1:]))} weights, "
                f"and {counts[0]} of them in common",
                "Retrain them from one pruned model, or set masks: common to prune what one of them lacks.",
            )
    return xp.where(common, mean, xp.zeros_like(mean))


SPARSE_SOUP = Method(
    name="sparse_soup",
    title="Sparse model soup",
    paper="arXiv:2306.16788",
    summary="Averages models retrained from one pruned model, and stays as sparse as they are.",
    function=sparse_soup,
    params=SparseSoupParams,
    base="ignored",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "single"}),
    differs=(
        "The paper's method is a cycle of pruning, retraining and averaging; this is its averaging.",
        "A mask is read from the zeros of the weights, tensor by tensor; the official code has it beside them. Tensors of one "
        "axis (biases, norms) are averaged without one, as there.",
        "Masks that differ are refused, which the official code takes for granted; masks: common is ours.",
        "Running statistics of batch normalisation are averaged; the paper computes them anew on training data, which is to "
        "be done after the merge. Its greedy form needs a judge: see greedy_soup.",
    ),
    cite="""@inproceedings{zimmer2024sparse,
  title={Sparse Model Soups: A Recipe for Improved Pruning via Model Averaging},
  author={Zimmer, Max and Spiegel, Christoph and Pokutta, Sebastian},
  booktitle={ICLR},
  year={2024},
}""",
)
