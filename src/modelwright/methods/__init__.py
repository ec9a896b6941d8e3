"""Methods: pure mathematics on arrays, with a record beside each. They know no names and no files."""

from modelwright.methods._lowered import (
    Coefficients as Coefficients,
    Drop as Drop,
    Gram as Gram,
    Keep as Keep,
    Lowered as Lowered,
    RankDrop as RankDrop,
    Ranks as Ranks,
    Shape as Shape,
)
from modelwright.methods._method import (
    FIXED as FIXED,
    LAWS as LAWS,
    PER_MODEL as PER_MODEL,
    Method as Method,
    Parameter as Parameter,
    Params as Params,
    Parts as Parts,
    PerTensor as PerTensor,
    Position as Position,
    Registry as Registry,
    Round as Round,
    Span as Span,
    checked as checked,
)
from modelwright.methods._outputs import (
    OUTPUT_LAWS as OUTPUT_LAWS,
    OutputMethod as OutputMethod,
    OutputRegistry as OutputRegistry,
)
from modelwright.methods.calibration import CALIBRATORS as CALIBRATORS
from modelwright.methods.ensembling import COMBINERS as COMBINERS
from modelwright.methods.merging import METHODS as METHODS
