"""Bundles: folders of several members that answer together, or of one model with a part for each task."""

from modelwright.bundle._folder import (
    Bundle as Bundle,
    check_members as check_members,
    is_bundle as is_bundle,
    open_bundle as open_bundle,
    tensors_hash as tensors_hash,
)
from modelwright.bundle._schema import About as About, Kind as Kind, Member as Member
from modelwright.bundle._weights import (
    Storage as Storage,
    WeightBundle as WeightBundle,
    bundle_of as bundle_of,
    open_weights as open_weights,
)
