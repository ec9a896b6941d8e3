"""Bundles: folders of several members that answer together, or of one model with a part for each task."""

from modelwright.bundle._folder import (
    Bundle as Bundle,
    check_members as check_members,
    file_digest as file_digest,
    finish as finish,
    is_bundle as is_bundle,
    member_hash as member_hash,
    open_bundle as open_bundle,
    said_of as said_of,
    tensors_hash as tensors_hash,
)
from modelwright.bundle._schema import (
    NAME as NAME,
    About as About,
    Ensemble as Ensemble,
    FittedOn as FittedOn,
    Lineage as Lineage,
    Member as Member,
)
from modelwright.bundle._weights import (
    Storage as Storage,
    WeightBundle as WeightBundle,
    bundle_of as bundle_of,
    copying as copying,
    open_weights as open_weights,
)
