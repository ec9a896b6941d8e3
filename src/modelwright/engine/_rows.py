"""Which entries are kept where that depends on the rank of their magnitude in their row."""

from __future__ import annotations

from functools import partial

import numpy as np

from modelwright.checkpoint import NumpyArray
from modelwright.engine._fused import Fused
from modelwright.engine._sources import LONGEST, Scratch, block_length
from modelwright.engine._whole import NotFiniteError
from modelwright.engine._work import Program
from modelwright.methods import RankDrop
from modelwright.tensors import kernels

_scratch = Scratch()


def draw_masks(member: Fused) -> Program:
    """A bit for each entry of the models that are dropped by rank; the member's `kept` is completed."""
    owner = [i for i, mode in enumerate(member.kept.mode) if mode == kernels.MASK]
    if owner:
        tables = np.stack([_thresholds(member.lowered.keep[i]) for i in owner])
        tasks = [partial(_masks, member, number, np.array(owner), tables) for number in range(len(member.ranges))]
        member.kept.masks = yield tasks


def _thresholds(keep: object) -> NumpyArray:
    """By rank, what 32 random bits must be below for an entry to be kept."""
    assert isinstance(keep, RankDrop)
    return np.ceil(keep.probabilities() * 2**32).astype(np.uint32)


def _masks(member: Fused, number: int, owner: NumpyArray, tables: NumpyArray) -> NumpyArray:
    """The bits of a range: (models, bytes). Rows that it shares with its neighbours are ranked here and there."""
    start, stop = member.ranges[number]
    row, inputs, size = tables.shape[1], len(member.codes), stop - start
    kept, noise = _scratch.kept(len(owner), size), member.noise(number)
    raw = _scratch.rows(inputs, member.sources.itemsize)
    tiles, words = _scratch.tiles(2, LONGEST), _scratch.near(4, LONGEST)
    buckets = _scratch.buckets(3, kernels.BUCKETS + 1)
    many = block_length(inputs) // row
    for first in range(start // row, -(-stop // row), many):
        rows = min(many, -(-stop // row) - first)
        for i in range(inputs):
            member.sources.read(i, first * row, rows * row, raw[i])
        odd = kernels.keep_by_rank(
            raw, member.codes, rows, row, member.count, owner, tables, noise, first * row - start, size, kept, tiles, words,
            buckets,
        )  # fmt: skip
        if odd:
            raise NotFiniteError(member)
    bits = np.zeros((member.count, kernels.PLANE * -(-size // kernels.TILE)), np.uint8)
    for place, i in enumerate(owner):
        kernels.pack_mask(kept[place, :size], bits[i])
    return bits
