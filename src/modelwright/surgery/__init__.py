"""Looking into models and cutting them: how they differ, what they hold."""

from modelwright.surgery._convert import convert as convert
from modelwright.surgery._delta import Change as Change, Delta as Delta, apply as apply, extract as extract
from modelwright.surgery._diff import (
    Difference as Difference,
    Figures as Figures,
    Pair as Pair,
    Structure as Structure,
    Vector as Vector,
    diff as diff,
)
from modelwright.surgery._inspect import (
    Adapted as Adapted,
    Adapter as Adapter,
    Group as Group,
    Inspection as Inspection,
    inspect as inspect,
)
from modelwright.surgery._lineage import Ancestor as Ancestor
from modelwright.surgery._rank import Rank as Rank
from modelwright.surgery._tools import Made as Made, by_tool as by_tool
from modelwright.surgery._verify import verify as verify
