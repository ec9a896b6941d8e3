"""How a new token's row is made of rows that a model has: coefficients, found where two models know the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelwright.errors import InputError, did_you_mean
from modelwright.vocabulary import Tokenizer, byte_characters

Floats = np.ndarray[Any, np.dtype[np.float32]]
#: The methods, and what each needs: embeddings of the donor, or only its tokenizer.
METHODS: dict[str, bool] = {"omp": True, "landmark": True, "subword": False, "mean": False, "zero": False}
#: Correlations that are held at once.
_MOST_HELD = 1 << 24
#: Residuals below this share of a target's norm are noise of float32.
_SMALL = 1e-6
#: Share of the mean diagonal that is added to Gram matrices of neighbours, as in locally linear embedding.
_RIDGE = 1e-3


@dataclass(frozen=True)
class Coefficients:
    """Rows as weighted sums of others.

    Attributes:
        index: [m, k], which of the n rows; 0 with weight 0 where there are fewer than k.
        weight: [m, k] float64.
        residual: [m], norm of what is left of each target over its norm; None of methods without a target.
    """

    index: np.ndarray[Any, np.dtype[np.int64]]
    weight: np.ndarray[Any, np.dtype[np.float64]]
    residual: np.ndarray[Any, np.dtype[np.float64]] | None = None

    def applied(self, rows: Floats) -> Floats:
        """The weighted sums of rows [n, d], as [m, d] float32; summed up in float64, a batch of sums at a time."""
        out = np.empty((len(self.index), rows.shape[1]), np.float32)
        step = max(1, _MOST_HELD // max(1, self.index.shape[1] * rows.shape[1]))
        for at in range(0, len(out), step):
            part = slice(at, at + step)
            out[part] = np.matmul(self.weight[part, None, :], rows[self.index[part]].astype(np.float64))[:, 0]
        return out


def coefficients(method: str, targets: Any, rows: Any, k: int = 64) -> Coefficients:
    """Each target as a weighted sum of rows, by one of the methods that look at embeddings.

    Args:
        method: `omp` or `landmark`.
        targets: [m, d], what the donor has for new tokens: an array of numpy or torch, which is where it is computed.
        rows: [n, d], what the donor has for tokens that both models have.
        k: At most so many rows a target; at least 1.

    Raises:
        InputError: There is no such method, or k is out of range.

    Example:
        >>> import numpy as np
        >>> rows = np.eye(3, dtype=np.float32)
        >>> found = coefficients("omp", np.array([[0, 3, 4]], np.float32), rows, k=2)
        >>> found.index[0].tolist(), found.weight[0].round(6).tolist()
        ([2, 1], [4.0, 3.0])
    """
    known: dict[str, Callable[[Any, Any, int], Coefficients]] = {"omp": _omp, "landmark": _landmark}
    if method not in known:
        raise InputError(f"'{method}' does not look at embeddings", did_you_mean(method, known))
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
    k = min(k, len(rows))
    step = max(1, _MOST_HELD // max(len(rows), k * rows.shape[1]))
    found = [known[method](targets[at : at + step], rows, k) for at in range(0, len(targets), step)]
    if not found:
        return Coefficients(np.zeros((0, k), np.int64), np.zeros((0, k)), np.zeros(0))
    residuals = [part.residual for part in found if part.residual is not None]
    return Coefficients(
        np.concatenate([part.index for part in found]), np.concatenate([part.weight for part in found]),
        np.concatenate(residuals),
    )  # fmt: skip


def _omp(targets: Any, rows: Any, k: int) -> Coefficients:
    """Orthogonal matching pursuit for a batch of targets.

    In each step every target takes the row that its residual is most parallel to; an orthonormal basis of what it has taken is
    kept by two Gram-Schmidt passes, so that the residual is what no combination of these rows can explain.

    Source:
        Y. C. Pati, R. Rezaiifar, P. S. Krishnaprasad: Orthogonal matching pursuit. Asilomar 1993.

    Differs:
        1. mergekit compares residuals with rows as long as they are, which prefers long rows; here rows are of norm 1, as in the
           paper.
    """
    import array_api_compat

    xp = array_api_compat.array_namespace(targets, rows)
    m, d = targets.shape
    at = xp.arange(m)
    norms = _norms(xp, rows)
    atoms = rows / xp.where(norms > 0, norms, xp.ones_like(norms))[:, None]
    lengths = _norms(xp, targets)
    residual = targets
    basis, triangle = xp.zeros((m, k, d), dtype=targets.dtype), xp.zeros((m, k, k), dtype=targets.dtype)
    projected, index = xp.zeros((m, k), dtype=targets.dtype), xp.zeros((m, k), dtype=xp.int64)
    if hasattr(targets, "to"):  # torch makes arrays on the CPU unless told
        basis, triangle, projected, index, at = (x.to(targets.device) for x in (basis, triangle, projected, index, at))
    free = None
    for step in range(k):
        fit = xp.abs(residual @ atoms.T)
        free = xp.ones_like(fit) if free is None else free
        best = xp.argmax(fit * free, axis=1)
        free[at, best] = 0
        new, row = atoms[best], xp.zeros_like(projected)
        for _ in range(2):
            share = xp.matmul(basis, new[:, :, None])[:, :, 0]
            new, row = new - xp.matmul(share[:, None, :], basis)[:, 0, :], row + share
        size = _norms(xp, new)
        wanted = (size > _SMALL) & (_norms(xp, residual) > _SMALL * lengths)
        keep = xp.astype(wanted, targets.dtype)[:, None]
        new = keep * new / xp.where(size > 0, size, xp.ones_like(size))[:, None]
        basis[:, step], index[:, step] = new, best
        triangle[:, :, step] = row * keep
        triangle[:, step, step] = xp.where(wanted, size, xp.ones_like(size))
        gain = xp.sum(residual * new, axis=1)
        projected[:, step] = gain
        residual = residual - gain[:, None] * new
    numpy = [_host(x) for x in (triangle, projected, index, residual, lengths, norms)]
    weight = np.linalg.solve(numpy[0].astype(np.float64), numpy[1].astype(np.float64)[:, :, None])[:, :, 0]
    length = numpy[5].astype(np.float64)[numpy[2]]
    weight = np.divide(weight, length, out=np.zeros_like(weight), where=length > 0)
    return Coefficients(numpy[2].astype(np.int64), weight, _relative(numpy[3], numpy[4]))


def _landmark(targets: Any, rows: Any, k: int) -> Coefficients:
    """The k rows of greatest cosine, weighted to be nearest to the target with weights that sum to 1.

    Source:
        S. T. Roweis, L. K. Saul: Nonlinear dimensionality reduction by locally linear embedding. Science 290, 2000.

    Differs:
        1. mergekit's interpolation between common tokens weights neighbours by distance unless asked for least squares; here they
           are always the least-squares weights of locally linear embedding, with its ridge of 0.001 of the mean diagonal.
    """
    import array_api_compat

    xp = array_api_compat.array_namespace(targets, rows)
    norms = _norms(xp, rows)
    atoms = rows / xp.where(norms > 0, norms, xp.ones_like(norms))[:, None]
    cosine = _host(targets @ atoms.T)  # up to the target's own norm, which changes no order
    index = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    index = np.take_along_axis(index, np.argsort(-np.take_along_axis(cosine, index, 1), 1, kind="stable"), 1)
    mine, near = _host(targets).astype(np.float64), _host(rows)[index].astype(np.float64)
    away = near - mine[:, None, :]
    gram = away @ np.swapaxes(away, 1, 2)
    ridge = np.trace(gram, axis1=1, axis2=2) / k * _RIDGE
    gram += (np.where(ridge > 0, ridge, 1.0))[:, None, None] * np.eye(k)
    weight = np.linalg.solve(gram, np.ones((len(mine), k, 1)))[:, :, 0]
    weight /= weight.sum(1, keepdims=True)
    left = np.matmul(weight[:, None, :], near)[:, 0] - mine
    return Coefficients(index.astype(np.int64), weight, _relative(left, np.linalg.norm(mine, axis=1)))


def subwords(texts: Sequence[bytes], tokenizer: Tokenizer) -> Coefficients:
    """The mean of the tokens that the model's own tokenizer makes of each text; of single bytes where it is no text.

    Args:
        texts: What new tokens stand for.
        tokenizer: The model's; rows are its numbers.
    """
    lists = [_pieces(text, tokenizer) for text in texts]
    k = max((len(numbers) for numbers in lists), default=1) or 1
    index, weight = np.zeros((len(lists), k), np.int64), np.zeros((len(lists), k))
    for i, numbers in enumerate(lists):
        index[i, : len(numbers)] = numbers
        weight[i, : len(numbers)] = 1 / max(len(numbers), 1)
    return Coefficients(index, weight)


def _pieces(text: bytes, tokenizer: Tokenizer) -> list[int]:
    """Numbers of the tokens that a text is made of, by the model alone: what stands around a text does not matter to a token."""
    try:
        spelt = _spelt(text, tokenizer)
        found = [token.id for token in tokenizer.backend.model.tokenize(spelt)] if spelt else []
    except Exception:  # whatever the library says of a text that it cannot cut
        found = []
    unknown = tokenizer.tokens.get(str(tokenizer.model.get("unk_token") or ""), -1)
    if found and unknown not in found:
        return found
    single = [tokenizer.meanings.get(text[i : i + 1], -1) for i in range(len(text))]
    return single if all(number >= 0 for number in single) else []


def _spelt(text: bytes, tokenizer: Tokenizer) -> str:
    """A text in the characters of the tokenizer's own vocabulary."""
    if tokenizer.alphabet == "bytes":
        characters = byte_characters()
        return "".join(characters[byte] for byte in text)
    plain = text.decode("utf-8")
    if tokenizer.alphabet == "metaspace":
        return plain.replace(" ", "\u2581")
    return plain.strip() if tokenizer.alphabet == "wordpiece" else plain


def _norms(xp: Any, array: Any) -> Any:
    return xp.sqrt(xp.sum(array * array, axis=1))


def _host(array: Any) -> Any:
    return array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)


def _relative(left: Any, lengths: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    size = np.linalg.norm(left.astype(np.float64), axis=1)
    whole = lengths.astype(np.float64)
    return np.divide(size, whole, out=np.zeros_like(size), where=whole > 0)
