"""Tasks, the systems under test, and paired records of what they answered."""

from modelwright.evaluate._calibration import (
    Bin as Bin,
    Calibration as Calibration,
    Convention as Convention,
    Flips as Flips,
    calibration as calibration,
    calibration_error as calibration_error,
    negative_flips as negative_flips,
    reliability as reliability,
)
from modelwright.evaluate._compare import compare as compare
from modelwright.evaluate._comparison import Answer as Answer, Comparison as Comparison, Mean as Mean, Row as Row
from modelwright.evaluate._ensemble import with_ensemble as with_ensemble
from modelwright.evaluate._gate import Check as Check, Gate as Gate, Verdicts as Verdicts
from modelwright.evaluate._items import SPLITS as SPLITS, Items as Items, Split as Split, Splits as Splits
from modelwright.evaluate._kinds import KINDS as KINDS, Cost as Cost, Kind as Kind, Price as Price
from modelwright.evaluate._metrics import METRICS as METRICS, Metric as Metric, Whole as Whole, metric as metric
from modelwright.evaluate._predictor import (
    EstimatorPredictor as EstimatorPredictor,
    FunctionPredictor as FunctionPredictor,
    Generated as Generated,
    Likelihood as Likelihood,
    ModulePredictor as ModulePredictor,
    Predictor as Predictor,
    Sampling as Sampling,
    Size as Size,
    predictor as predictor,
)
from modelwright.evaluate._records import Head as Head, Part as Part, Records as Records
from modelwright.evaluate._run import Plan as Plan, run as run
from modelwright.evaluate._statistics import Interval as Interval, holm as holm, mcnemar as mcnemar, pareto as pareto
from modelwright.evaluate._task import (
    Classification as Classification,
    Regression as Regression,
    Scored as Scored,
    Task as Task,
)
