"""How members differ: disagreement of answers, of errors, of probabilities; and whether kin agree more."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from modelwright.errors import InputError
from modelwright.predictions._scales import log
from modelwright.predictions.measures._inputs import blocks, checked_members, checked_probabilities


def answers_of(probabilities: np.ndarray) -> np.ndarray:
    """The class each member finds most probable, the first of several: (M, N) of (M, N, C), in the smallest whole numbers."""
    array = np.asarray(probabilities)
    small = np.min_scalar_type(max(array.shape[-1] - 1, 0))
    found = np.empty(array.shape[:-1], dtype=small)
    for rows in blocks(array.shape):
        found[..., rows] = array[..., rows, :].argmax(axis=-1)
    return found


def variation_ratio(answers: np.ndarray) -> np.ndarray:
    """The share of members that did not give the most frequent answer, for each sample: (N,), in [0, 1 - 1/M].

    Args:
        answers: Classes, (M, N).

    Raises:
        InputError: They have another shape.

    Source:
        Freeman 1965, Elementary Applied Statistics; for ensembles: Gal 2016, Uncertainty in Deep Learning.
    """
    answers = checked_members(answers, "answers")
    most = np.zeros(answers.shape[1], dtype=np.min_scalar_type(len(answers)))
    for one in answers:  # the answer of a member is the mode if as many gave it as gave any
        same = np.zeros_like(most)
        for other in answers:
            same += one == other
        np.maximum(most, same, out=most)
    return 1 - most / len(answers)


def mutual_information(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of the mean less mean of the entropies, in nats, for each sample: what members disagree about, (N,).

    At least 0; 0 where all members give the same probabilities. The rest of the mean's entropy is what each is unsure of.

    Args:
        probabilities: (M, N, C).

    Raises:
        InputError: Rows do not sum to one, or a value is not finite.

    Source:
        Houlsby et al. 2011, arXiv:1112.5745; Depeweg et al. 2018, arXiv:1710.07283.
    """
    array = checked_probabilities(probabilities, axes=3)
    found = np.empty(array.shape[1])
    for rows in blocks(array.shape):
        block = np.asarray(array[:, rows], dtype=np.float64)
        found[rows] = _entropies(block.mean(axis=0)) - sum(_entropies(member) for member in block) / len(block)
    return np.maximum(found, 0, out=found)


def _entropies(probabilities: np.ndarray) -> np.ndarray:
    return -np.einsum("nc,nc->n", probabilities, log(probabilities))


def pairwise_disagreement(answers: np.ndarray) -> np.ndarray:
    """For each pair of members the share of samples they answer differently: symmetric (M, M), 0 on its diagonal.

    Args:
        answers: Classes, (M, N).

    Raises:
        InputError: They have another shape.
    """
    answers = checked_members(answers, "answers")
    found = np.zeros((len(answers), len(answers)))
    for i, j in _pairs(len(answers)):
        found[i, j] = found[j, i] = np.count_nonzero(answers[i] != answers[j]) / answers.shape[1]
    return found


def cohen_kappa(answers: np.ndarray) -> np.ndarray:
    """For each pair of members, agreement beyond what their answers' shares make likely: (M, M), 1 on its diagonal.

    1 for always, 0 for as often as chance has it; NaN where chance alone is always (both always give one answer).

    Args:
        answers: Classes, whole numbers from 0, (M, N).

    Raises:
        InputError: They have another shape.

    Source:
        Cohen 1960, Educational and Psychological Measurement 20.
    """
    answers = _classes(answers)
    shares = np.stack([np.bincount(row, minlength=int(answers.max()) + 1) for row in answers]) / answers.shape[1]
    chance = shares @ shares.T
    agree = 1 - pairwise_disagreement(answers)
    return _ratio(agree - chance, 1 - chance)


def fleiss_kappa(answers: np.ndarray) -> float:
    """Agreement of all members beyond chance: at most 1; NaN where all always give one and the same answer.

    Args:
        answers: Classes, whole numbers from 0, of at least 2 members, (M, N).

    Raises:
        InputError: They have another shape, or there is one member.

    Source:
        Fleiss 1971, Psychological Bulletin 76.
    """
    answers = _classes(checked_members(answers, "answers", 2))
    agree = 1 - _mean_of_pairs(pairwise_disagreement(answers))
    shares = np.bincount(answers.reshape(-1)) / answers.size
    chance = float(shares @ shares)
    return float(_ratio(np.array(agree - chance), np.array(1 - chance)))


def _classes(answers: np.ndarray) -> np.ndarray:
    answers = checked_members(answers, "answers")
    if answers.dtype.kind not in "iu" or (answers.dtype.kind == "i" and answers.min() < 0):
        raise InputError(f"answers must be indices of classes, whole numbers from 0, got {answers.dtype}")
    return answers


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(below, np.nan), where=np.abs(below) > 1e-15)


def joint_errors(right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts for each pair of members: both right, only the first right, both wrong; (M, M) each.

    Args:
        right: Whether each member is right on each sample, (M, N) of truth values.

    Raises:
        InputError: They have another shape, or are no truth values.
    """
    right = checked_members(right, "whether members are right")
    if right.dtype.kind != "b":
        raise InputError(
            f"whether members are right must be truth values, got {right.dtype}", "Compare: answers == targets."
        )
    both = np.zeros((len(right), len(right)))
    for start in range(0, right.shape[1], 1 << 20):
        block = right[:, start : start + (1 << 20)].astype(np.float32)  # whole numbers below 2**24 are exact
        both += block @ block.T
    hits = both.diagonal()
    return both, hits[:, None] - both, right.shape[1] - hits[:, None] - hits[None, :] + both


def q_statistic(right: np.ndarray) -> np.ndarray:
    """Yule's Q of each pair's hits: (M, M) in [-1, 1]; 0 for independent members, 1 where they fail together.

    NaN where the statistic is 0/0, such as for a member that is always right.

    Args:
        right: Whether each member is right on each sample, (M, N).

    Raises:
        InputError: They have another shape, or are no truth values.

    Source:
        Yule 1900; for ensembles: Kuncheva and Whitaker 2003, Machine Learning 51.
    """
    both, first, neither = joint_errors(right)
    together, apart = both * neither, first * first.T
    return _ratio(together - apart, together + apart)


def error_correlation(right: np.ndarray) -> np.ndarray:
    """Correlation of each pair's hits: (M, M); NaN with a member that is always right or always wrong.

    Args:
        right: Whether each member is right on each sample, (M, N).

    Raises:
        InputError: They have another shape, or are no truth values.
    """
    both, first, neither = joint_errors(right)
    hits, count = both.diagonal(), np.shape(right)[1]
    spread = np.sqrt(np.outer(hits * (count - hits), hits * (count - hits)))
    return _ratio(both * neither - first * first.T, spread)


def double_fault(right: np.ndarray) -> np.ndarray:
    """The share of samples that both members of each pair have wrong: (M, M), error rates on its diagonal.

    Args:
        right: Whether each member is right on each sample, (M, N).

    Raises:
        InputError: They have another shape, or are no truth values.

    Source:
        Giacinto and Roli 2001, Image and Vision Computing 19.
    """
    return joint_errors(right)[2] / np.shape(right)[1]


def mean_of_pairs(matrix: np.ndarray) -> float:
    """The mean over pairs of different members of a pairwise measure (M, M), NaN left out; NaN if nothing is left.

    Raises:
        InputError: It is not square, or there is one member.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise InputError(f"pairs are of at least 2 members, in a square, got the shape {matrix.shape}")
    return _mean_of_pairs(matrix)


def _mean_of_pairs(matrix: np.ndarray) -> float:
    values = matrix[np.triu_indices(len(matrix), 1)]
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _pairs(count: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(count) for j in range(i + 1, count)]


@dataclass(frozen=True)
class Kinship:
    """A pairwise measure among kin and among strangers.

    Attributes:
        within: Its mean over pairs of one lineage; NaN without such pairs.
        across: Its mean over pairs of different lineages; NaN likewise.
        pairs_within: How many pairs there are.
        pairs_across: And of these.
    """

    within: float
    across: float
    pairs_within: int
    pairs_across: int


def by_lineage(matrix: np.ndarray, lineage: Sequence[Hashable | Collection[Hashable]]) -> Kinship:
    """A pairwise measure, averaged apart for members of one lineage and of different ones.

    Five fine-tunings of one base are less diverse than their number says; this shows by how much.

    Args:
        matrix: Such as `pairwise_disagreement`, (M, M). Pairs where it is NaN do not count.
        lineage: What each member comes from, (M,): the base's name, a pretraining seed; or a list, set or tuple of
            several, of which kin have at least one in common.

    Raises:
        InputError: There is not one lineage for each member.

    Example:
        >>> import numpy as np
        >>> from modelwright.predictions.measures import by_lineage, pairwise_disagreement
        >>> answers = np.array([[0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 0]])
        >>> by_lineage(pairwise_disagreement(answers), ["a", "a", "b"])
        Kinship(within=0.25, across=0.625, pairs_within=1, pairs_across=2)
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape != (len(lineage), len(lineage)):
        raise InputError(f"there must be one lineage for each member, got {len(lineage)} for the shape {matrix.shape}")
    known = [(i, j) for i, j in _pairs(len(lineage)) if not np.isnan(matrix[i, j])]
    origins = [set(one) if isinstance(one, list | tuple | set | frozenset) else {one} for one in lineage]
    kin = [matrix[i, j] for i, j in known if origins[i] & origins[j]]
    strangers = [matrix[i, j] for i, j in known if not origins[i] & origins[j]]
    means = [float(np.mean(values)) if values else float("nan") for values in (kin, strangers)]
    return Kinship(means[0], means[1], len(kin), len(strangers))


def ambiguity(values: np.ndarray) -> np.ndarray:
    """Mean squared distance of members' numbers from their mean, for each sample: (...,) of (M, ...).

    The squared error of the mean is the members' mean squared error less this.

    Args:
        values: Numbers of M members, (M, ...).

    Source:
        Krogh and Vedelsby 1995, NIPS 7.
    """
    return np.var(np.asarray(values, dtype=np.float64), axis=0)
