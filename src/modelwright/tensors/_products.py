"""Matrices that are known as products up @ down of few columns and rows, and that are never multiplied out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Matrix = np.ndarray[Any, Any]
#: A product: up (m, r) and down (r, n).
Product = tuple[Matrix, Matrix]


def product_svd(product: Product) -> tuple[Matrix, Matrix, Matrix]:
    """The singular values of up @ down with their vectors, from the two factors alone.

    With up = Q_u R_u and down^T = Q_d R_d, those of up @ down are those of R_u R_d^T, a matrix of r rows and columns: 2 (m + n) r^2
    multiplications instead of m n min(m, n).

    Args:
        product: up (m, r) and down (r, n), any floating format.

    Returns:
        u (m, k), s (k,) falling and vt (k, n), float64, with k = min(m, n, r).

    Example:
        >>> import numpy as np
        >>> up, down = np.array([[1.0, 0], [0, 1], [0, 0]]), np.array([[0.0, 3], [4, 0]])
        >>> product_svd((up, down))[1]
        array([4., 3.])
    """
    up, down = (np.asarray(factor, np.float64) for factor in product)
    if up.shape[1] >= min(up.shape[0], down.shape[1]):  # multiplied out it is no larger than its factors
        return np.linalg.svd(up @ down, full_matrices=False)
    q_up, r_up = np.linalg.qr(up)
    q_down, r_down = np.linalg.qr(down.T)
    u, s, vt = np.linalg.svd(r_up @ r_down.T)
    return q_up @ u, s, vt @ q_down.T


def product_dot(one: Product, other: Product) -> float:
    """The sum of products of entries, tr((U1 D1)^T U2 D2), in float64."""
    (u1, d1), (u2, d2) = ((np.asarray(up, np.float64), np.asarray(down, np.float64)) for up, down in (one, other))
    return float(np.sum((u1.T @ u2) * (d1 @ d2.T)))


def product_norm(product: Product) -> float:
    """Frobenius norm."""
    return max(product_dot(product, product), 0.0) ** 0.5


def product_distance(one: Product, other: Product) -> float:
    """Frobenius norm of the difference; what is below 1e-15 of the factors' norms is rounding."""
    up, down = stacked([one, (-np.asarray(other[0]), np.asarray(other[1]))])
    r_up: Any = np.linalg.qr(up.astype(np.float64), mode="r")
    r_down: Any = np.linalg.qr(down.astype(np.float64).T, mode="r")
    return float(np.linalg.norm(r_up @ r_down.T))


def stacked(products: Sequence[Product]) -> Product:
    """The sum of products as one product: their columns and rows beside each other."""
    return np.concatenate([up for up, _ in products], axis=1), np.concatenate([down for _, down in products], axis=0)
