"""Calibrators: pure functions that make what one member says true, learnt from labelled data.

To add one: its file, and one line here that imports its record and its function.
"""

from modelwright.methods._outputs import OutputMethod, OutputRegistry
from modelwright.methods.calibration._conformal import quantile as quantile
from modelwright.methods.calibration._conformal_intervals import (
    CONFORMAL_INTERVALS as CONFORMAL_INTERVALS,
    conformal_intervals as conformal_intervals,
)
from modelwright.methods.calibration._conformal_sets import (
    CONFORMAL_SETS as CONFORMAL_SETS,
    conformal_sets as conformal_sets,
)
from modelwright.methods.calibration._histogram import (
    HISTOGRAM as HISTOGRAM,
    bin_edges as bin_edges,
    histogram as histogram,
)
from modelwright.methods.calibration._isotonic import ISOTONIC as ISOTONIC, isotonic as isotonic
from modelwright.methods.calibration._matrix import MATRIX as MATRIX, matrix as matrix
from modelwright.methods.calibration._platt import PLATT as PLATT, platt as platt
from modelwright.methods.calibration._temperature import TEMPERATURE as TEMPERATURE, temperature as temperature
from modelwright.methods.calibration._vector import VECTOR as VECTOR, vector as vector

#: Every calibrator of this package by name.
CALIBRATORS = OutputRegistry(
    sorted((record.name, record) for record in list(globals().values()) if isinstance(record, OutputMethod))
)
