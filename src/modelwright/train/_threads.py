"""How many threads a training takes."""

from __future__ import annotations

from typing import Any

from modelwright.evaluate._predictor import needs

#: Sums depend on how many threads share them, so it is not the machine that decides. Several trainings run side by side.
THREADS = 1


def one_blas_thread() -> Any:
    """A context in which the matrix products of numpy and scipy take `THREADS`."""
    return needs("threadpoolctl", "training").threadpool_limits(THREADS, user_api="blas")
