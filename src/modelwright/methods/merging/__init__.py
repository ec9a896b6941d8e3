"""Merging methods: pure functions from tensors of several models to one tensor.

To add one: its file, and one line here that imports its record and its function.
"""

from modelwright.methods._method import Method, Registry
from modelwright.methods.merging._arcee_fusion import ARCEE_FUSION as ARCEE_FUSION, arcee_fusion as arcee_fusion
from modelwright.methods.merging._breadcrumbs import (
    BREADCRUMBS as BREADCRUMBS,
    BREADCRUMBS_TIES as BREADCRUMBS_TIES,
    breadcrumbs as breadcrumbs,
    breadcrumbs_ties as breadcrumbs_ties,
)
from modelwright.methods.merging._checkpoints import EMA as EMA, SWA as SWA, ema as ema, swa as swa
from modelwright.methods.merging._consensus import CONSENSUS as CONSENSUS, consensus as consensus
from modelwright.methods.merging._dare import (
    DARE_LINEAR as DARE_LINEAR,
    DARE_TIES as DARE_TIES,
    dare_linear as dare_linear,
    dare_ties as dare_ties,
)
from modelwright.methods.merging._della import (
    DELLA as DELLA,
    DELLA_LINEAR as DELLA_LINEAR,
    della as della,
    della_linear as della_linear,
)
from modelwright.methods.merging._emr import EMR as EMR, emr as emr
from modelwright.methods.merging._iso import ISO_C as ISO_C, ISO_CTS as ISO_CTS, iso_c as iso_c, iso_cts as iso_cts
from modelwright.methods.merging._karcher import KARCHER as KARCHER, karcher as karcher
from modelwright.methods.merging._layer_swap import LAYER_SWAP as LAYER_SWAP, layer_swap as layer_swap
from modelwright.methods.merging._linear import LINEAR as LINEAR, linear as linear
from modelwright.methods.merging._lines import LINES as LINES, lines as lines
from modelwright.methods.merging._magmax import MAGMAX as MAGMAX, magmax as magmax
from modelwright.methods.merging._model_stock import MODEL_STOCK as MODEL_STOCK, model_stock as model_stock
from modelwright.methods.merging._multislerp import MULTISLERP as MULTISLERP, multislerp as multislerp
from modelwright.methods.merging._nearswap import NEARSWAP as NEARSWAP, nearswap as nearswap
from modelwright.methods.merging._negation import NEGATION as NEGATION, negation as negation
from modelwright.methods.merging._nuslerp import NUSLERP as NUSLERP, nuslerp as nuslerp
from modelwright.methods.merging._passthrough import PASSTHROUGH as PASSTHROUGH, passthrough as passthrough
from modelwright.methods.merging._pcb import PCB as PCB, pcb as pcb
from modelwright.methods.merging._ram import (
    RAM as RAM,
    RAMPLUS_TL as RAMPLUS_TL,
    ram as ram,
    ramplus_tl as ramplus_tl,
)
from modelwright.methods.merging._sce import SCE as SCE, sce as sce
from modelwright.methods.merging._slerp import SLERP as SLERP, slerp as slerp
from modelwright.methods.merging._sparse_soup import SPARSE_SOUP as SPARSE_SOUP, sparse_soup as sparse_soup
from modelwright.methods.merging._tall_mask import TALL_MASK as TALL_MASK, tall_mask as tall_mask
from modelwright.methods.merging._task_arithmetic import (
    TASK_ARITHMETIC as TASK_ARITHMETIC,
    task_arithmetic as task_arithmetic,
)
from modelwright.methods.merging._ties import TIES as TIES, ties as ties
from modelwright.methods.merging._tsv import TSV as TSV, tsv as tsv
from modelwright.methods.merging._twin_merging import TWIN_MERGING as TWIN_MERGING, twin_merging as twin_merging
from modelwright.methods.merging._wise_ft import WISE_FT as WISE_FT, wise_ft as wise_ft
from modelwright.methods.merging._wudi import WUDI as WUDI, wudi as wudi

#: Every method of this package by name.
METHODS = Registry(record for record in list(globals().values()) if isinstance(record, Method))
