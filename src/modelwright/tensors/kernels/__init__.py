"""Fused CPU kernels: few, compiled once, and equal to the array functions to the bit. Imported when a merge is large."""

from modelwright.tensors.kernels._combine import (
    ADD as ADD,
    ALL as ALL,
    COUNT as COUNT,
    MASK as MASK,
    MAX as MAX,
    MEAN as MEAN,
    NOISE as NOISE,
    NONE as NONE,
    PLAIN as PLAIN,
    PLANE as PLANE,
    RANKS as RANKS,
    SUM as SUM,
    combine as combine,
    pack_mask as pack_mask,
)
from modelwright.tensors.kernels._contrast import contrast as contrast
from modelwright.tensors.kernels._formats import BF16 as BF16, F16 as F16, F32 as F32, TILE as TILE
from modelwright.tensors.kernels._jit import uncached as uncached
from modelwright.tensors.kernels._pack import WIDTH as WIDTH
from modelwright.tensors.kernels._rows import BUCKETS as BUCKETS, keep_by_rank as keep_by_rank
from modelwright.tensors.kernels._statistics import (
    BLOCK as BLOCK,
    LANES as LANES,
    collect as collect,
    count_equal as count_equal,
    find as find,
    gram as gram,
    lengths as lengths,
    magnitudes as magnitudes,
    net_sign as net_sign,
    scatter as scatter,
    select as select,
    ties as ties,
)
