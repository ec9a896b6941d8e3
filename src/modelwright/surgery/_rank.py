"""How many directions of a matrix are kept: a number of them, or as many as a target takes."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from modelwright.checkpoint import NumpyArray
from modelwright.errors import InputError
from modelwright.tensors import EXACT, Road, singular

_TARGET = re.compile(r"(energy|error):(.+)")
#: Of large matrices so many directions are looked at first, where a target decides; then twice as many each time.
_FIRST = 32
#: From this share of the shorter side on, all directions together cost no more than a sketch of some.
_DENSE = 8


@dataclass(frozen=True)
class Rank:
    """How many directions of each matrix are kept.

    Attributes:
        count: A number of them; None where the target decides.
        energy: Least share of the squared norm that must be kept, in (0, 1); None where the number decides.
    """

    count: int | None = None
    energy: float | None = None

    @classmethod
    def of(cls, asked: int | str | Rank) -> Rank:
        """Read `8`, `energy:0.95` (share of the squared norm that is kept) or `error:0.05` (norm of what is lost over the norm).

        Raises:
            InputError: It is none of these.
        """
        if isinstance(asked, Rank):
            return asked
        text = str(asked).strip()
        if re.fullmatch(r"-?\d{1,9}", text):
            if int(text) < 1:
                raise InputError(f"rank must be at least 1, got {text}")
            return cls(count=int(text))
        match = _TARGET.fullmatch(text)
        if match is None:
            raise InputError(
                f"rank must be a whole number, energy:SHARE or error:SHARE, got '{text}'",
                "Write 16, energy:0.95 or error:0.05.",
            )
        try:
            share = float(match[2])
        except ValueError:
            share = np.nan
        if not 0 < share < 1:
            hint = f" For {share:g} % write {match[1]}:{share / 100:g}." if 1 < share < 100 else ""
            raise InputError(
                f"rank: {match[1]} must be in (0, 1), got '{match[2]}'", f"It is a share of the task vector.{hint}"
            )
        return cls(energy=share if match[1] == "energy" else 1 - share**2)

    def __str__(self) -> str:
        return str(self.count) if self.count is not None else f"energy:{self.energy!r}"

    def factors(self, matrix: NumpyArray, most: int) -> tuple[NumpyArray, NumpyArray] | None:
        """A matrix as up @ down, the best of its rank in the sense of least squares.

        All directions are known exactly up to a shorter side of 512; beyond they are found in a random subspace, whose energy is
        known exactly too, so that a target is met.

        Args:
            matrix: Of shape (m, n), finite.
            most: Greatest rank that is of use.

        Returns:
            up (m, r) and down (r, n), float32; None where the rank, or what the target takes, is above `most`.
        """
        most = min(most, *matrix.shape)
        wide = matrix.astype(np.float64)
        if self.count is not None:
            if self.count > most:
                return None
            return _halves(*singular(wide, self.count, "sketch" if min(matrix.shape) > EXACT else "exact"))
        assert self.energy is not None
        wanted = self.energy * float(np.vdot(wide, wide))
        width = most if min(matrix.shape) <= EXACT else _FIRST
        while most:
            dense = _DENSE * width >= min(matrix.shape)
            road: Road = "exact" if min(matrix.shape) <= EXACT else "gram" if dense else "sketch"
            width = most if dense else min(width, most)
            u, s, vt = singular(wide, width, road)
            held = np.cumsum(s**2)
            if held[-1] >= wanted:
                count = int(np.searchsorted(held, wanted)) + 1
                return _halves(u[:, :count], s[:count], vt[:count])
            if width == most:
                break
            width *= 2
        return None


def _halves(u: NumpyArray, s: NumpyArray, vt: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    share = np.sqrt(s)
    return (u * share).astype(np.float32), (share[:, None] * vt).astype(np.float32)
