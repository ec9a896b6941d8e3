"""The bank: what several members say of the same samples, and pure functions over it."""

from modelwright.predictions._fitted import (
    METHODS as METHODS,
    Fitted as Fitted,
    combine as combine,
    fit as fit,
    over_parts as over_parts,
)
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
)
