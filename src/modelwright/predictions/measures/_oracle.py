"""What an ensemble could gain at most: a choice of the right member for every sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelwright.predictions.measures._disagreement import joint_errors


@dataclass(frozen=True)
class OracleGain:
    """What is right somewhere.

    Attributes:
        mean: Mean accuracy of the members.
        best: Accuracy of the best member.
        oracle: Share of samples that at least one member has right.
        all_right: Share that every member has right.
    """

    mean: float
    best: float
    oracle: float
    all_right: float

    @property
    def gain(self) -> float:
        """What a perfect choice among members would add to the best one."""
        return self.oracle - self.best


def oracle_gain(right: np.ndarray) -> OracleGain:
    """How much a choice of the right member for every sample would gain.

    Args:
        right: Whether each member is right on each sample, (M, N) of truth values.

    Raises:
        InputError: They have another shape, or are no truth values.

    Example:
        >>> import numpy as np
        >>> from modelwright.predictions.measures import oracle_gain
        >>> oracle_gain(np.array([[True, True, False, False], [True, False, True, False]])).gain
        0.25
    """
    hits = joint_errors(right)[0].diagonal() / np.shape(right)[1]
    some, every = np.any(right, axis=0).mean(), np.all(right, axis=0).mean()
    return OracleGain(float(hits.mean()), float(hits.max()), float(some), float(every))
