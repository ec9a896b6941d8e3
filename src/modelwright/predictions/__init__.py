"""The bank: what several members say of the same samples, and pure functions over it."""

from modelwright.predictions._code import (
    content as content,
    function_hash as function_hash,
    plain as plain,
    source_hash as source_hash,
)
from modelwright.predictions._collect import Progress as Progress, collect as collect
from modelwright.predictions._csv import of_csv as of_csv
from modelwright.predictions._fitted import (
    METHODS as METHODS,
    Fitted as Fitted,
    combine as combine,
    fit as fit,
    over_parts as over_parts,
)
from modelwright.predictions._gate import (
    Gate as Gate,
    Judged as Judged,
    compare_gate as compare_gate,
    fit_gate as fit_gate,
)
from modelwright.predictions._predictions import (
    Member as Member,
    MemberCost as MemberCost,
    Predictions as Predictions,
    join_members as join_members,
    join_samples as join_samples,
)
from modelwright.predictions._rewards import (
    aggregate_rewards as aggregate_rewards,
    best_of_n as best_of_n,
    best_of_n_curve as best_of_n_curve,
    best_of_n_kl as best_of_n_kl,
    rank_correlation as rank_correlation,
    standardise_rewards as standardise_rewards,
)
from modelwright.predictions._scales import (
    SUM_TOLERANCE as SUM_TOLERANCE,
    Kind as Kind,
    Scale as Scale,
)
from modelwright.predictions._smoothers import (
    Refits as Refits,
    Smoothing as Smoothing,
    covariance_degrees as covariance_degrees,
    effective_parameters as effective_parameters,
    refit_parts as refit_parts,
    smoother as smoother,
    smoothing as smoothing,
)
from modelwright.predictions._sources import (
    Source as Source,
    as_rows as as_rows,
    evaluating as evaluating,
    of_estimator as of_estimator,
    of_function as of_function,
    of_module as of_module,
    of_onnx as of_onnx,
    source as source,
    state_hash as state_hash,
)
