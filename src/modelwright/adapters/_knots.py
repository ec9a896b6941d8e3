"""KnOTS: adapters brought into a basis that they share, and merged there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from modelwright.adapters._method import AdapterMethod
from modelwright.methods import PER_MODEL, Params
from modelwright.methods.merging import dare_ties, task_arithmetic, ties
from modelwright.tensors import NoiseKey, Product, product_svd

#: Directions below this share of the largest singular value are rounding.
_FLOOR = 1e-10


class KnotsParams(Params):
    """Parameters of `knots`."""

    weight: Annotated[float, PER_MODEL, Field(description="Weight of this adapter.")] = 1.0
    inner: Literal["ties", "dare_ties", "task_arithmetic"] = Field(
        "ties", description="How the parts are merged in the shared basis."
    )
    density: float = Field(0.2, gt=0, le=1, description="Share of each part's entries that is kept.")
    lambda_: float = Field(1.0, description="Scale of the merged adapter.", alias="lambda")


def knots(
    products: Sequence[Product],
    *,
    weight: Sequence[float] | float = 1.0,
    inner: str = "ties",
    density: float = 0.2,
    lambda_: float = 1.0,
    key: NoiseKey = NoiseKey(0, "knots"),  # noqa: B008  # frozen
) -> Product:
    """Merge adapters in the basis of their common singular vectors.

    [D_1 .. D_n] = U S [V_1 .. V_n]^T, side by side along the inputs; the parts S V_i^T are merged by another method to P; the result is
    U P. With `task_arithmetic` it is the weighted sum, whatever the basis.

    Args:
        products: For each adapter up (m, r_i) and down (r_i, n) of its task vector D_i = up @ down.
        weight: One number, or one for each.
        inner: Which method merges the parts: `ties`, `dare_ties` or `task_arithmetic`, with signs elected by sum.
        density: Share of entries that ties trims to, or that DARE keeps.
        lambda_: Scale of the result.
        key: Where DARE's noise comes from.

    Returns:
        U (m, R) and P (R, n), R the rank of the adapters side by side.

    Differs:
        See `KNOTS.differs`.

    Example:
        >>> import numpy as np
        >>> one, two = (np.eye(3, 1), np.ones((1, 2))), (2 * np.eye(3, 1), np.ones((1, 2)))
        >>> up, down = knots([one, two], inner="task_arithmetic", weight=[1.0, 1.0])
        >>> up.shape, np.round(up @ down, 6).tolist()[0]
        ((3, 1), [3.0, 3.0])

    Source:
        Stoica et al. 2024, arXiv:2410.19735, section 4.
    """
    widths = [down.shape[1] for _, down in products]
    ups = np.concatenate([up for up, _ in products], axis=1)
    blocks = np.zeros((ups.shape[1], sum(widths)))
    row = 0
    for i, (_, down) in enumerate(products):
        blocks[row : row + down.shape[0], i * widths[0] : (i + 1) * widths[0]] = down
        row += down.shape[0]
    u, s, vt = product_svd((ups, blocks))
    held = s > _FLOOR * s[0] if s.size and s[0] > 0 else np.zeros(s.shape, bool)
    if not held.any():
        return np.zeros((ups.shape[0], 0)), np.zeros((0, widths[0]))
    parts = np.split(s[held, None] * vt[held], len(products), axis=1)
    weights = list(weight) if isinstance(weight, Sequence) else [weight] * len(products)
    return u[:, held], _merged(parts, inner, weights, density, lambda_, key)


def _merged(parts: list[Any], inner: str, weights: Sequence[float], density: float, scale: float, key: NoiseKey) -> Any:
    base = np.zeros_like(parts[0])
    if inner == "task_arithmetic":
        return task_arithmetic(parts, base=base, weight=weights, lambda_=scale)
    if inner == "ties":
        return ties(parts, base=base, weight=weights, density=density, lambda_=scale)
    return dare_ties(parts, base=base, weight=weights, density=density, lambda_=scale, key=key)


KNOTS = AdapterMethod(
    name="knots",
    title="KnOTS",
    paper="arXiv:2410.19735",
    summary="For adapters of different tasks, whose entries do not correspond: rotated into a common basis first, then merged by TIES.",
    function=knots,
    params=KnotsParams,
    models=2,
    random=True,
    differs=(
        "The decomposition is of the factors and in float64: nothing of a weight's size is made, and R is at most the sum of ranks.",
        "Entries are trimmed and signs elected module by module; the official code does so over all modules at once.",
        "Singular values below 1e-10 of the largest are left out; the official code cuts at 1e-5 whatever the scale of the adapters.",
    ),
    cite="""@inproceedings{stoica2025knots,
  title={Model merging with {SVD} to tie the Knots},
  author={Stoica, George and Ramesh, Pratik and Ecsedi, Boglarka and Choshen, Leshem and Hoffman, Judy},
  booktitle={ICLR},
  year={2025},
}""",
)
