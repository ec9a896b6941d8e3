"""Singular vectors and orthogonal factors, in float64: what methods on matrices stand on.

LAPACK's last digits depend on its build and its threads, so what stands on these is equal to a tolerance and not to the bit.
Directions whose singular value is below `FLOOR` of the greatest have arbitrary vectors; they are left out everywhere.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from modelwright.tensors._arrays import Array, is_numpy, namespace
from modelwright.tensors._noise import NoiseKey, uniform

#: How singular vectors are found.
Road = Literal["exact", "gram", "sketch"]
#: Smallest share of the greatest singular value that counts as more than rounding; squares lose half of the digits.
FLOOR, _FLOOR_OF_SQUARES = 1e-10, 1e-7
#: How often a sketch is multiplied with the matrix and its transpose, and its fewest columns beyond those wanted.
_POWERS, _SPARE = 4, 16
#: The sketch has one key for all tensors: it decides how an approximation is found, not what is merged.
_SKETCH = NoiseKey(seed=0, tensor="sketch")


def as_matrix(a: Array) -> Array:
    """The values as float64, shape (first axis, all others), row by row in memory."""
    if is_numpy(a):
        return np.asarray(a, dtype=np.float64, order="C").reshape(a.shape[0], -1)
    xp = namespace(a)
    return xp.reshape(xp.astype(a, xp.float64, copy=False), (a.shape[0], -1))


def singular(a: Array, count: int | None = None, how: Road = "exact") -> tuple[Array, Array, Array]:
    """The greatest singular values with their vectors, a ~ u diag(s) vt.

    Args:
        a: float64, shape (m, n), no side of which is 0.
        count: How many, at most min(m, n); None for all.
        how: `exact`; `gram`: by the eigenvectors of a a^T or a^T a, as good for values that are not tiny, in half the
            time; `sketch`: in a random subspace, cheaper still for few, and an approximation where values fall slowly.

    Returns:
        u (m, count), s (count,) falling, vt (count, n); columns and rows are zero where s is not above the floor.

    Source:
        Halko, Martinsson and Tropp 2011, doi:10.1137/090771806, algorithms 4.4 and 5.1, for the sketch.
    """
    count = min(a.shape) if count is None else count
    xp = namespace(a)
    if how == "gram" and a.shape[0] > a.shape[1]:
        u, s, vt = singular(a.T, count, how)
        return vt.T, s, u.T
    if how == "gram":
        _, vectors = xp.linalg.eigh(a @ a.T)  # values rise
        u = xp.flip(vectors[:, a.shape[0] - count :], axis=1)
        vt = u.T @ a
        s = xp.sqrt(xp.sum(vt * vt, axis=1))
        vt = vt / xp.where(s > 0, s, xp.ones_like(s))[:, None]
    elif how == "sketch":
        basis = leading(a, min(count + max(count, _SPARE), *a.shape))
        inner, s, vt = xp.linalg.svd(basis.T @ a, full_matrices=False)
        u = basis @ inner
    else:
        u, s, vt = xp.linalg.svd(a, full_matrices=False)
    u, s, vt = u[:, :count], s[:count], vt[:count, :]
    floor = _FLOOR_OF_SQUARES if how == "gram" else FLOOR
    counts = xp.astype(s > floor * xp.max(s), a.dtype) if count else s
    return u * counts, s * counts, vt * counts[:, None]


def polar(a: Array) -> Array:
    """The orthogonal factor of a: the nearest matrix with orthonormal columns (or rows), zero on the kernel of a."""
    u, _, vt = singular(a)
    return u @ vt


def leading(a: Array, width: int, powers: int = _POWERS) -> Array:
    """Orthonormal columns that nearly span the leading left singular vectors, by a randomised range finder.

    Args:
        a: Of shape (m, n), in the width that is computed in.
        width: How many columns, at most min(m, n).
        powers: How often they are multiplied with a and its transpose beyond the first product: more where singular values fall slowly.

    Returns:
        Of shape (m, width), the same for the same a.
    """
    xp = namespace(a)
    probe = xp.asarray(_gaussian(a.shape[1], width), dtype=a.dtype, device=getattr(a, "device", None))
    basis, _ = xp.linalg.qr(a @ probe)
    for _ in range(powers):
        back, _ = xp.linalg.qr(a.T @ basis)
        basis, _ = xp.linalg.qr(a @ back)
    return basis


def _gaussian(rows: int, columns: int) -> Any:
    """Standard normal numbers by Box and Muller's transform of keyed noise."""
    first, second = (uniform(_SKETCH, position, rows * columns) for position in (0, 1))
    return (np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * math.pi * second)).reshape(rows, columns)
