"""WUDI-Merging: a merged task vector that disturbs no task in the directions of that task's own vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from modelwright.methods._method import Method, Span, checked
from modelwright.methods.merging._parts import Weights, added
from modelwright.methods.merging._subspace import Matrices, SubspaceParams, on_matrices
from modelwright.tensors import Array, dot, is_numpy, namespace, root, singular

#: Adam's constants.
_MEAN, _SQUARE, _TINY = 0.9, 0.999, 1e-8
#: Entries that go through all steps together, where caches matter; rows that are worth reading a large metric for; most steps from one
#: gradient to the next.
_IN_CACHE, _ROWS, _FURTHEST = 1 << 16, 256, 31

Solver = Literal["adam", "closed"]


class WudiParams(SubspaceParams):
    """Parameters of `wudi`."""

    lambda_: Annotated[float, Span(0.3, 1.5, log=True)] = Field(
        1.0, alias="lambda", description="Factor of the merged task vector, applied last."
    )
    solver: Solver = Field(
        "adam", description="adam: the paper's descent from the sum, stopped early; closed: where it would end."
    )
    steps: int = Field(300, ge=1, description="Steps of adam.")
    rate: Annotated[float, Span(1e-5, 1e-3, log=True)] = Field(
        1e-5, gt=0, description="Step size of adam: about how far a weight can move in one step."
    )
    gradient_error: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Relative error up to which adam's gradients are taken from a line through earlier ones, which takes down to a third of the time at 0.003; 0 computes every one.",
    )
    others: Literal["mean", "base"] = Field(
        "mean", description="What tensors become that are no matrices: the mean of the models' changes, or the base's."
    )


@checked(WudiParams, base="required")
def wudi(
    models: Sequence[Array],
    *,
    base: Array,
    weight: Weights = 1.0,
    lambda_: float = 1.0,
    matrices: Matrices = "all",
    solver: Solver = "adam",
    steps: int = 300,
    rate: float = 1e-5,
    gradient_error: float = 0.0,
    others: Literal["mean", "base"] = "mean",
) -> Array:
    """Minimise, starting from the sum of the task vectors, how much the merged one disturbs each of them.

    loss(tau) = sum_i ||(tau - tau_i) tau_i^T||^2 / ||tau_i||^2, tau_i being weighted: the rows of a task vector span the
    inputs that the task has seen. result = base + lambda * tau.

    Args:
        models: n >= 1 arrays of one shape (outputs, inputs), any floating format.
        base: The model they were tuned from, same shape.
        weight: One number for all, or n numbers.
        lambda_: Scale of the merged task vector; `lambda` in recipes.
        matrices: `all`: tensors of two and more axes, as (first axis, all others); `linear`: of exactly two; `none`.
        solver: `adam`: `steps` steps of size `rate` from the sum. `closed`: the minimum nearest to the sum.
        steps: Steps of adam, at least 1.
        rate: Step size of adam, above 0.
        gradient_error: Relative error that a gradient taken from a line through earlier ones may have, in [0, 1); 0 for none.
        others: What other tensors become: `mean` of the task vectors, or `base`.

    Returns:
        The merged tensor in the shape and format of the base.

    Raises:
        InputError: Shapes differ, a value is not finite or a parameter is out of range.

    Differs:
        See `WUDI.differs`.

    Example:
        >>> import numpy as np
        >>> one, two = np.array([[2.0, 0.0]]), np.array([[0.0, 3.0]])
        >>> wudi([one, two], base=np.zeros((1, 2)))
        array([[2., 3.]])

    Source:
        Cheng et al. 2025, arXiv:2503.08099, equation 12 and algorithm 1.
    """

    def merge(deltas: Sequence[Array]) -> Array:
        total = added(deltas)
        tuned = [(delta, dot(delta, delta)) for delta in deltas if bool(namespace(delta).any(delta != 0))]
        if len(tuned) == 1:
            return total  # which disturbs nobody; descending would only follow rounding
        if solver == "closed":
            return _minimum(total, tuned)
        return _descent(total, tuned, steps, rate, gradient_error, base.dtype)

    return on_matrices(
        models, base, merge, weight=weight, lambda_=lambda_, matrices=matrices, keep_others=others == "base"
    )


def _descent(
    total: Array, tuned: Sequence[tuple[Array, Array]], steps: int, rate: float, error: float, dtype: Any
) -> Array:
    """Adam from the sum, in the width of the inputs; the loss is quadratic, so its gradient is written down."""
    xp = namespace(total)
    rows, columns = total.shape
    pull = added([delta @ (delta.T @ delta) / square for delta, square in tuned])
    # tau H with H = sum_i tau_i^T tau_i / ||tau_i||^2, by way of H or of its factors, whichever is smaller.
    if columns <= 2 * rows * len(tuned):
        metric = xp.astype(added([delta.T @ delta / square for delta, square in tuned]), dtype)
        factors = [(metric, None)]
    else:
        scaled = [xp.astype(delta / root(square), dtype) for delta, square in tuned]
        factors = [(delta.T, delta) for delta in scaled]
    tau, pull = xp.astype(total, dtype), xp.astype(pull, dtype)
    # No row of the gradient depends on another row, so that some rows at a time go all the way while they are in the cache.
    some = max(_IN_CACHE // columns, min(_ROWS, columns // 8), 1) if is_numpy(tau) else rows
    parts = [
        _walk(tau[at : at + some, ...], pull[at : at + some, ...], factors, steps, rate, error)
        for at in range(0, rows, some)
    ]
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)


def _walk(
    tau: Array, pull: Array, factors: Sequence[tuple[Array, Array | None]], steps: int, rate: float, error: float
) -> Array:
    """Some rows of the descent.

    Adam moves every entry by about `rate` a step, so that gradients change slowly and nearly in straight lines. Where the last one that
    was computed had been foreseen to within `error`, the next ones are taken from the line through the last two, for twice as many steps
    as before; where it had not, for half as many.
    """
    xp = namespace(tau)
    mean, square = xp.zeros_like(tau), xp.zeros_like(tau)
    known, slope, gradient = pull, None, pull
    at = gap = 0
    for step in range(1, steps + 1):
        if step > at + gap:  # at first, and when the line has been followed far enough
            gradient = (added([tau @ a if b is None else tau @ a @ b for a, b in factors]) - pull) * 2
            if slope is not None:
                missed = float(_length(known + slope * (step - at) - gradient))
                scale = error * float(_length(gradient))
                gap = min(2 * gap + 1, _FURTHEST) if missed < scale / 4 else gap // 2 if missed > scale else gap
            slope = (gradient - known) / (step - at) if error and at else None
            known, at = gradient, step
        else:
            assert slope is not None  # the first two are computed
            gradient = known + slope * (step - at)
        mean = mean * _MEAN + gradient * (1 - _MEAN)
        square = square * _SQUARE + gradient * gradient * (1 - _SQUARE)
        size = xp.sqrt(square) / (1 - _SQUARE**step) ** 0.5 + _TINY
        tau = tau - mean / size * (rate / (1 - _MEAN**step))
    return tau


def _length(a: Array) -> Array:
    xp = namespace(a)
    return xp.sqrt(xp.sum(a * a))


def _minimum(total: Array, tuned: Sequence[tuple[Array, Array]]) -> Array:
    """The minimum that plain gradient descent from the sum goes to: nothing moves where the loss is flat.

    tau (the loss's metric) H = P: H = V S^2 V^T from the singular vectors of the stacked tau_i / ||tau_i||.
    """
    xp = namespace(total)
    stacked = xp.concat([delta / root(square) for delta, square in tuned], axis=0)
    residual = added([(total - delta) @ delta.T @ delta / square for delta, square in tuned])
    _, s, vt = singular(stacked)
    seen = s > 1e-6 * s[0]  # its square is divided by
    inverse = xp.where(seen, 1 / xp.where(seen, s, xp.ones_like(s)) ** 2, xp.zeros_like(s))
    return total - ((residual @ vt.T) * inverse) @ vt


WUDI = Method(
    name="wudi",
    title="WUDI-Merging",
    paper="arXiv:2503.08099",
    summary="Descends to a merged task vector that leaves each task's own directions alone: the best published result "
    "without data, and the slowest.",
    function=wudi,
    params=WudiParams,
    base="required",
    models=(1, None),
    laws=frozenset({"identity", "permutation", "base", "negation", "single"}),
    presets={"paper": {"matrices": "linear", "others": "base"}},
    reproducible="tolerance",
    differentiable=False,
    # A float64 copy of each task vector, the metric (in which a side is at most 2n times the other) and Adam's state.
    workspace=lambda models: 24.0 * models + 40.0,
    differs=(
        "A tensor of three and more axes (the kernel of a convolution) is merged as a matrix of its first axis by all "
        "others; the official code has matrices only (matrices: linear, the value of semantics: paper).",
        "The official code merges the matrices of attention and MLP and leaves the rest at the base's values (others: base, "
        "the value of semantics: paper; embeddings and projections need a filter with matrices: none as well); FusionBench "
        "averages the rest, as others: mean does.",
        "The gradient of the quadratic loss is written down instead of differentiated, and its products over tasks are "
        "float64 sums made once: the same descent, in a fraction of the time where there are many tasks.",
        "gradient_error is ours: above 0, gradients are taken from a line through the last two that were computed, as long as the next one "
        "computed is foreseen to within it. At 0.003 about 80 of 300 are computed where the changes are dense noise, and 200 to 250 where "
        "they are sparse or of low rank; the result differs from that of all gradients by less than 0.1 % of the way that is gone.",
        "rate is absolute, as the paper's: task vectors much larger than CLIP's hardly move in 300 steps of 1e-5.",
        "solver: closed is ours: the minimum of the same loss nearest to the sum of the task vectors. It does not depend on "
        "the scale of the task vectors; the paper stops on the way there.",
        "A task vector of zeros is left out; the official code divides by its norm and gives NaN.",
    ),
    cite="""@inproceedings{cheng2025wudi,
  title={Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task Vectors},
  author={Cheng, Runxi and Xiong, Feng and Wei, Yongxian and Zhu, Wanyun and Yuan, Chun},
  booktitle={ICML},
  year={2025},
}""",
)
