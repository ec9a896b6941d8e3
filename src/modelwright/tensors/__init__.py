"""Dtype rules, keyed noise, order statistics and geometry: mathematics that knows neither names nor files."""

from modelwright.tensors._arrays import (
    Array as Array,
    all_finite as all_finite,
    is_numpy as is_numpy,
    namespace as namespace,
    narrow as narrow,
    to_numpy as to_numpy,
    widen as widen,
)
from modelwright.tensors._dtypes import (
    DTYPES as DTYPES,
    OUTPUT_NAMES as OUTPUT_NAMES,
    DType as DType,
    dtype as dtype,
    promote as promote,
)
from modelwright.tensors._geometry import (
    absolute_sum as absolute_sum,
    dot as dot,
    norm as norm,
    root as root,
    row_dot as row_dot,
    row_norm as row_norm,
)
from modelwright.tensors._lowrank import (
    Road as Road,
    as_matrix as as_matrix,
    polar as polar,
    singular as singular,
)
from modelwright.tensors._noise import NoiseKey as NoiseKey, uniform as uniform
from modelwright.tensors._order import (
    descending_ranks as descending_ranks,
    keep_above as keep_above,
    keep_ranks as keep_ranks,
)
from modelwright.tensors._products import (
    Product as Product,
    product_distance as product_distance,
    product_dot as product_dot,
    product_norm as product_norm,
    product_svd as product_svd,
    stacked as stacked,
)
from modelwright.tensors._simplex import (
    SMALLEST as SMALLEST,
    log as log,
    log_softmax as log_softmax,
    logit as logit,
    normalised as normalised,
    sigmoid as sigmoid,
    softmax as softmax,
)
from modelwright.tensors._spectrum import (
    EXACT as EXACT,
    Spectrum as Spectrum,
    spectrum as spectrum,
)
