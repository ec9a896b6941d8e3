"""LoRA-LEGO: the single ranks of adapters, clustered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from modelwright.adapters._method import AdapterMethod
from modelwright.errors import InputError
from modelwright.evaluate._predictor import needs
from modelwright.methods import PER_MODEL, Params
from modelwright.tensors import NoiseKey, Product


class LegoParams(Params):
    """Parameters of `lora_lego`."""

    weight: Annotated[float, PER_MODEL, Field(description="Weight of this adapter.")] = 1.0
    k: int | None = Field(
        None, ge=1, description="Rank of the result; the mean rank of the adapters where none is given."
    )
    features: Literal["unit", "raw"] = Field(
        "unit", description="What is clustered: both parts of a rank brought to length 1, or as they are."
    )
    align_signs: bool = Field(False, description="Turn ranks, whose sign is arbitrary, towards the largest one first.")
    parameter_reweight: Literal["linf", "l2", "off"] = Field(
        "linf", description="Norm that a centroid is brought to the mean of its members by."
    )
    output_reweight: bool = Field(True, description="Multiply the result by sqrt(r / k), r the mean rank.")
    starts: int = Field(10, ge=1, description="How often k-means is begun; the tightest clusters count.")
    steps: int = Field(100, ge=1, description="Most steps of k-means.")


def lora_lego(
    products: Sequence[Product],
    *,
    weight: Sequence[float] | float = 1.0,
    k: int | None = None,
    features: str = "unit",
    align_signs: bool = False,
    parameter_reweight: str = "linf",
    output_reweight: bool = True,
    starts: int = 10,
    steps: int = 100,
    key: NoiseKey = NoiseKey(0, "lora_lego"),  # noqa: B008  # frozen
) -> Product:
    """Pool the ranks of all adapters, cluster them, and make each centroid one rank of the result.

    A rank is the pair of a row a of A and a column b of B; adapters are sums of b a^T, in any order. With centroid c of a cluster, the
    mean of its members m: c <- c mean ||m|| / ||c||, and the result is sqrt(r / k) sum_c b_c a_c^T.

    Args:
        products: For each adapter B (m, r_i), its scale in it, and A (r_i, n).
        weight: One number, or one for each; they go into B.
        k: How many clusters; None for the mean of r_i, rounded. As many as there are ranks, or more, give their plain sum.
        features: `unit` clusters [a / ||a||, b / ||b||], `raw` [a, b].
        align_signs: Turn (a, b) to (-a, -b), which is the same rank, where that points more towards the longest one.
        parameter_reweight: Which norm of centroids is corrected: `linf`, `l2` or `off`.
        output_reweight: Whether the factor sqrt(r / k) is applied.
        starts: How often k-means begins anew.
        steps: Most steps each time.
        key: Its seed is that of k-means.

    Returns:
        B (m, k) and A (k, n).

    Raises:
        MissingExtraError: scikit-learn is not installed.

    Differs:
        See `LORA_LEGO.differs`.

    Example:
        >>> import numpy as np
        >>> one = np.eye(3, 2), np.eye(2, 4)
        >>> up, down = lora_lego([one, one])
        >>> bool(np.allclose(up @ down, np.eye(3, 2) @ np.eye(2, 4)))
        True

    Source:
        Zhao et al. 2024, arXiv:2409.16167, section 4.
    """
    weights = list(weight) if isinstance(weight, Sequence) else [weight] * len(products)
    down = np.concatenate([d for _, d in products]).astype(np.float64)
    up = np.concatenate([u.T * w for (u, _), w in zip(products, weights, strict=True)]).astype(np.float64)
    rank = float(np.mean([d.shape[0] for _, d in products]))
    units = np.concatenate([down, up], axis=1)
    units = units[np.lexsort(units.T[::-1])]  # the order of ranks means nothing, and k-means must not see it
    width = down.shape[1]
    if align_signs:
        longest = units[np.argmax(np.linalg.norm(units, axis=1))]
        units = units * np.where(units @ longest < 0, -1.0, 1.0)[:, None]
    count = min(k or max(1, round(rank)), len(units))
    labels = (
        np.arange(len(units))
        if count == len(units)
        else _clusters(_features(units, width, features), count, key, starts, steps)
    )
    centroids = [_centroid(units[labels == label], parameter_reweight) for label in np.unique(labels)]
    merged = np.stack(centroids)
    scale = np.sqrt(rank / len(merged)) if output_reweight else 1.0
    return scale * merged[:, width:].T, merged[:, :width]


def _features(units: Any, width: int, features: str) -> Any:
    if features == "raw":
        return units
    parts = [units[:, :width], units[:, width:]]
    norms = [np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    return np.concatenate([part / np.where(norm > 0, norm, 1) for part, norm in zip(parts, norms, strict=True)], axis=1)


def _clusters(features: Any, count: int, key: NoiseKey, starts: int, steps: int) -> Any:
    distinct = len(np.unique(features, axis=0))
    if distinct <= count:  # k-means would warn, and there is nothing to choose
        return np.unique(features, axis=0, return_inverse=True)[1].reshape(-1)
    cluster = needs("sklearn.cluster", "lora_lego")
    return cluster.KMeans(count, n_init=starts, max_iter=steps, random_state=key.seed).fit(features).labels_


def _centroid(members: Any, norm: str) -> Any:
    centre = members.mean(axis=0)
    if norm == "off" or len(members) == 1:
        return centre
    order = np.inf if norm == "linf" else 2
    length = np.linalg.norm(centre, order)
    return centre * (np.linalg.norm(members, order, axis=1).mean() / length) if length > 0 else centre


def check_factors(method: str, module: str, kinds: Sequence[str]) -> None:
    """Refuse what has no ranks.

    Raises:
        InputError: An adapter of the module is no product of two factors.
    """
    odd = sorted({kind for kind in kinds if kind not in ("lora", "embedding")})
    if odd:
        raise InputError(
            f"{method} needs ranks, and '{module}' is tuned by {odd[0]}", "Use svd or a method on task vectors."
        )


LORA_LEGO = AdapterMethod(
    name="lora_lego",
    title="LoRA-LEGO",
    paper="arXiv:2409.16167",
    summary="For several adapters that share part of what they learnt: ranks that mean the same become one rank.",
    function=lora_lego,
    params=LegoParams,
    factors=True,
    models=1,
    random=True,
    differs=(
        "Ranks are clustered with both their parts at length 1 (`features: raw` leaves them); the paper does not say, and its one public "
        "re-implementation does so.",
        "Centroids are corrected by their largest entry, as in that re-implementation; `parameter_reweight: l2` takes the usual norm.",
        "Where the adapters' ranks differ, r is their mean. k at or above their sum gives the plain sum, times the output factor.",
        "Scales are absorbed into B. Ranks are sorted first, so that neither their order nor that of the adapters matters.",
    ),
    cite="""@inproceedings{zhao2025loralego,
  title={Merging {LoRA}s like Playing {LEGO}: Pushing the Modularity of {LoRA} to Extremes Through Rank-Wise Clustering},
  author={Zhao, Ziyu and Shen, Tao and Zhu, Didi and Li, Zexi and Su, Jing and Wang, Xuwu and Kuang, Kun and Wu, Fei},
  booktitle={ICLR},
  year={2025},
}""",
)
