"""Rewards of several models for the same candidates: aggregated, and what choosing by them comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from modelwright.errors import InputError, did_you_mean

Aggregator = Literal["mean", "median", "min", "mean_minus_std", "quantile"]


def aggregate_rewards(
    rewards: Any, how: Aggregator = "mean", *, std_weight: float = 1.0, quantile: float = 0.25
) -> np.ndarray:
    """One reward for each candidate from those of several models.

    Args:
        rewards: (M, ...): of M models for the same candidates. Comparable with each other: fitted with a penalty on their
            sum, or brought to one scale by `standardise_rewards`; else the lowest and the median only pick a model.
        how: `mean`; `median`; `min`; `mean_minus_std`: the mean less `std_weight` standard deviations; `quantile`.
        std_weight: At least 0.
        quantile: In [0, 1]: 0 is `min`, 0.5 `median`.

    Returns:
        float64 of the shape of one model's rewards.

    Raises:
        InputError: A reward is not finite, there is none, or an option is out of range.

    Differs:
        The paper does not say which standard deviation; here it is that of the models as the whole population, 0 for one.

    Example:
        >>> import numpy as np
        >>> from modelwright.predictions import aggregate_rewards
        >>> aggregate_rewards(np.array([[1.0, 0.0], [3.0, 2.0]]), "mean_minus_std").tolist()
        [1.0, 0.0]

    Source:
        Eisenstein et al. 2024, arXiv:2312.09244.
    """
    if how not in get_args(Aggregator):
        raise InputError(f"rewards cannot be aggregated by '{how}'", did_you_mean(str(how), get_args(Aggregator)))
    if not std_weight >= 0:
        raise InputError(f"std_weight must be at least 0, got {std_weight}")
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile must be in [0, 1], got {quantile}")
    array = _finite(rewards)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "mean": lambda: array.mean(axis=0),
        "median": lambda: np.median(array, axis=0),
        "min": lambda: array.min(axis=0),
        "mean_minus_std": lambda: array.mean(axis=0) - std_weight * array.std(axis=0),
        "quantile": lambda: np.quantile(array, quantile, axis=0),
    }
    return np.asarray(ways[how]())


def _finite(rewards: Any) -> np.ndarray:
    array = np.asarray(rewards, dtype=np.float64)
    if array.ndim < 1 or not array.size:
        raise InputError(f"rewards must have the shape (M, ...) with at least one model, got {array.shape}")
    wrong = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if wrong.size:
        raise InputError(f"rewards must be finite, those of model {wrong[0] + 1} of {len(array)} are not")
    return array


def standardise_rewards(rewards: Any, reference: Any) -> np.ndarray:
    """Rewards on one scale: less each model's mean on reference candidates, by its standard deviation there.

    Args:
        rewards: (M, ...).
        reference: Rewards of the same models for candidates that are the same whatever is chosen from, (M, R). Those that
            are chosen from will not do: the more of them there are, the more their spread would say.

    Raises:
        InputError: A reward is not finite, models differ in number, or one gives all references the same.
    """
    array, known = _finite(rewards), _finite(reference)
    if known.ndim != 2 or len(known) != len(array):
        raise InputError(f"reference must have the shape (M, R) with M = {len(array)}, got {known.shape}")
    spread = known.std(axis=1)
    if not spread.all():
        raise InputError(f"model {int(spread.argmin()) + 1} gives every reference the same reward")
    shape = (-1,) + (1,) * (array.ndim - 1)
    return (array - known.mean(axis=1).reshape(shape)) / spread.reshape(shape)


def best_of_n(rewards: Any) -> np.ndarray:
    """The place of the highest reward among the candidates of each prompt, the first of several: (...) of (..., n).

    Raises:
        InputError: There are no candidates, or a reward is not finite.
    """
    array = np.asarray(rewards, dtype=np.float64)
    if not array.ndim or not array.shape[-1]:
        raise InputError(f"best-of-n needs at least one candidate, got the shape {array.shape}")
    if not np.isfinite(array).all():
        raise InputError("rewards must be finite")
    return array.argmax(axis=-1)


def best_of_n_kl(n: int) -> float:
    """Upper bound of the divergence of best-of-n from what it draws from, in nats: log n - (n - 1) / n.

    It is the divergence itself where no two candidates have the same reward.

    Args:
        n: Candidates, at least 1.

    Raises:
        InputError: There are none.

    Example:
        >>> from modelwright.predictions import best_of_n_kl
        >>> best_of_n_kl(1), round(best_of_n_kl(64), 3)
        (0.0, 3.175)

    Source:
        Stiennon et al. 2020, arXiv:2009.01325; as a bound: Beirami et al. 2024, arXiv:2401.01879.
    """
    if n < 1:
        raise InputError(f"best-of-n needs at least one candidate, got {n}")
    return math.log(n) - (n - 1) / n


def best_of_n_curve(proxy: Any, values: Any, ns: Sequence[int]) -> np.ndarray:
    """What best-of-n by one reward is worth by another, for several n: its mean over all draws of n of the candidates.

    Nothing is drawn: of N candidates in the order of the proxy, the i-th from below is the best of n with probability
    C(i - 1, n - 1) / C(N, n).

    Args:
        proxy: Rewards that are chosen by, (..., N).
        values: What the candidates are worth, such as the gold reward, the proxy itself, or a feature, (..., N).
        ns: Numbers of candidates, in [1, N].

    Returns:
        float64 (len(ns), ...).

    Raises:
        InputError: Shapes differ, a number is not finite, or there are fewer candidates than are asked for.

    Source:
        Nakano et al. 2021, arXiv:2112.09332, appendix I.
    """
    proxy, values = np.asarray(proxy, np.float64), np.asarray(values, np.float64)
    if proxy.shape != values.shape or not proxy.ndim or not proxy.size:
        raise InputError(f"proxy and values must be of the same candidates, got {proxy.shape} and {values.shape}")
    if not (np.isfinite(proxy).all() and np.isfinite(values).all()):
        raise InputError("rewards must be finite")
    count = proxy.shape[-1]
    for n in ns:
        if n != int(n) or not 1 <= n <= count:
            raise InputError(f"n must be a whole number in [1, {count}], the number of candidates, got {n}")
    # ascending, and of equal rewards the first one last: it is the one that best-of-n takes
    order = count - 1 - np.argsort(proxy[..., ::-1], axis=-1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=-1)
    chances = np.array([[math.comb(i, n - 1) / math.comb(count, n) for i in range(count)] for n in map(int, ns)])
    return np.moveaxis(ranked @ chances.T, -1, 0)


def rank_correlation(rewards: Any) -> np.ndarray:
    """Spearman's correlation of each pair of models over the candidates of a prompt, averaged over prompts: (M, M).

    Args:
        rewards: (M, P, n): of M models for n >= 2 candidates of each of P prompts.

    Raises:
        InputError: A reward is not finite, or the shape is another one.
        MissingExtraError: scipy is not installed.
    """
    from modelwright.errors import MissingExtraError

    try:
        from scipy.stats import rankdata
    except ImportError as error:
        raise MissingExtraError("rank correlation", "scipy", "eval") from error
    array = _finite(rewards)
    if array.ndim != 3 or array.shape[2] < 2:
        raise InputError(f"rewards must have the shape (M, P, n) with n at least 2, got {array.shape}")
    ranks = np.asarray(rankdata(array, axis=-1))
    ranks -= ranks.mean(axis=-1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(axis=-1))
    products = np.einsum("ipn,jpn->ijp", ranks, ranks)
    scale = norms[:, None] * norms[None]
    known = scale > 0
    return np.divide(products, scale, out=np.full(products.shape, np.nan), where=known).mean(axis=-1)
