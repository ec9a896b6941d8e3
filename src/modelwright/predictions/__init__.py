"""The bank: what several members say of the same samples, and pure functions over it."""

from modelwright.predictions._predictions import (
    Member as Member,
    MemberCost as MemberCost,
    Predictions as Predictions,
    join_members as join_members,
    join_samples as join_samples,
)
from modelwright.predictions._scales import (
    SUM_TOLERANCE as SUM_TOLERANCE,
    Kind as Kind,
    Scale as Scale,
    log_softmax as log_softmax,
    logit as logit,
    sigmoid as sigmoid,
    softmax as softmax,
)
