"""Embeddings and heads whose rows stand in another order: computed while they are read, a few rows at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from modelwright.checkpoint import NumpyArray, TensorRef
from modelwright.tensors import DType, dtype as find_dtype, promote
from modelwright.vocabulary._layout import AVERAGE, MEAN, ZERO, Rows

#: Rows that a mean is summed up of at a time.
_CHUNK = 1 << 12


def relaid(rows: Rows, refs: Sequence[TensorRef | None], own: int) -> TensorRef:
    """A tensor with one row a token, as one model has it for another vocabulary.

    Its format is the widest of the tensors that rows come from. Means are taken in float64 and rounded to it once.

    Args:
        rows: Where its rows come from.
        refs: The tensor of each model, [rows, ...] or [1, rows]; None of those that no row comes from.
        own: Which model it is.
    """
    mine = refs[own]
    assert mine is not None
    used = sorted(
        {*np.unique(rows.model[rows.model >= 0]).tolist(), *(m for of in rows.averages.values() for m, _ in of), own}
    )
    found = {index: ref for index in used if (ref := refs[index]) is not None}
    dtype = promote(ref.dtype for ref in found.values()) if mine.dtype.floating else mine.dtype
    flat = len(mine.shape) == 2 and mine.shape[0] == 1
    shape = (1, len(rows.model)) if flat else (len(rows.model), *mine.shape[1:])
    width = 1 if flat else int(np.prod(mine.shape[1:], dtype=np.int64))
    made = _Relaid(rows, found, own, dtype, shape, width)
    streamed = all(ref.fill is not None for ref in found.values())
    return TensorRef(dtype, shape, made.load, f"{mine.source}, rows re-laid", made.fill if streamed else None)


class _Relaid:
    """The rows of a tensor, gathered."""

    def __init__(
        self, rows: Rows, refs: dict[int, TensorRef], own: int, dtype: DType, shape: tuple[int, ...], width: int
    ):
        self.rows, self.refs, self.own, self.dtype, self.shape, self.width = rows, refs, own, dtype, shape, width
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Another process makes its own lock, and finds the mean itself."""
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "mean", "starts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._lock = threading.Lock()

    @cached_property
    def starts(self) -> NumpyArray:
        """Rows at which something else begins: between two of them, rows follow each other in one tensor."""
        model, row = self.rows.model, self.rows.row
        goes_on = (model[1:] == model[:-1]) & (model[1:] >= 0) & (row[1:] == row[:-1] + 1)
        return np.concatenate([[0], np.flatnonzero(~goes_on) + 1, [len(model)]])

    def load(self) -> NumpyArray:
        """All of it; in a wider format where its sources come in one."""
        if all(ref.fill is not None for ref in self.refs.values()):
            raw = np.empty(len(self.rows.model) * self.width * self.dtype.itemsize, np.uint8)
            self.fill(raw, 0)
            return raw.view(self.dtype.numpy).reshape(self.shape)
        arrays = {index: ref.read().reshape(-1, self.width) for index, ref in self.refs.items()}
        wide = promote([self.dtype, *(find_dtype(array.dtype) for array in arrays.values())])
        out = np.zeros((len(self.rows.model), self.width), wide.numpy)
        for index, array in arrays.items():
            here = self.rows.model == index
            out[here] = array[self.rows.row[here]]
        for number, parts in self.rows.averages.items():
            if self.rows.model[number] == AVERAGE:
                out[number] = np.mean([arrays[m][r].astype(np.float64) for m, r in parts], axis=0)
        lacking = self.rows.model == MEAN
        if lacking.any():
            known = arrays[self.own][self.rows.known]
            out[lacking] = known.astype(np.float64).mean(axis=0) if len(known) else 0
        return out.reshape(self.shape)

    def fill(self, buffer: NumpyArray, start: int) -> None:
        """Bytes of the tensor from `start` on, run of rows by run of rows."""
        size = self.width * self.dtype.itemsize
        stop = start + len(buffer)
        at, run = start, int(np.searchsorted(self.starts, start // size, side="right")) - 1
        while at < stop:
            first, last = int(self.starts[run]), int(self.starts[run + 1])
            end = min(stop, last * size)
            self._run(first, at - first * size, buffer[at - start : end - start])
            at, run = end, run + 1

    def _run(self, first: int, skip: int, part: NumpyArray) -> None:
        """A part of rows that follow each other, from byte `skip` of row `first` on."""
        model = int(self.rows.model[first])
        if model == ZERO:
            part[:] = 0
            return
        if model < 0:
            row = self.mean if model == MEAN else self._average(first)
            part[:] = row.view(np.uint8)[skip : skip + len(part)]
            return
        ref, size = self.refs[model], self.dtype.itemsize
        assert ref.fill is not None
        if ref.dtype == self.dtype:
            ref.fill(part, int(self.rows.row[first]) * self.width * size + skip)
            return
        raw = np.empty(len(part) // size * ref.dtype.itemsize, np.uint8)
        ref.fill(raw, (int(self.rows.row[first]) * self.width + skip // size) * ref.dtype.itemsize)
        part[:] = raw.view(ref.dtype.numpy).astype(self.dtype.numpy).view(np.uint8)

    def _read(self, model: int, row: int, count: int = 1) -> NumpyArray:
        ref = self.refs[model]
        assert ref.fill is not None
        raw = np.empty(count * self.width * ref.dtype.itemsize, np.uint8)
        ref.fill(raw, row * self.width * ref.dtype.itemsize)
        return raw.view(ref.dtype.numpy).reshape(count, self.width).astype(np.float64)

    def _average(self, number: int) -> NumpyArray:
        parts = np.concatenate([self._read(model, row) for model, row in self.rows.averages[number]])
        return parts.mean(0).astype(self.dtype.numpy)

    @cached_property
    def mean(self) -> NumpyArray:
        """The mean of the model's own tokens; summed up in one order, whoever asks first."""
        with self._lock:
            total = np.zeros(self.width)
            known = self.rows.known
            for at in range(0, len(known), _CHUNK):
                piece = known[at : at + _CHUNK]
                block = self._read(self.own, int(piece[0]), int(piece[-1] - piece[0]) + 1)
                total += block[piece - piece[0]].sum(0)
            return (total / max(len(known), 1)).astype(self.dtype.numpy)
