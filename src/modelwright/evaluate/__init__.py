"""Tasks, the systems under test, and paired records of what they answered."""

from modelwright.evaluate._bank import (
    predictions as predictions,
    predictions_of as predictions_of,
    records_of as records_of,
)
from modelwright.evaluate._calibration import Calibration as Calibration, calibration as calibration
from modelwright.evaluate._cascade import CascadePredictor as CascadePredictor
from modelwright.evaluate._causal import CausalPredictor as CausalPredictor
from modelwright.evaluate._compare import compare as compare
from modelwright.evaluate._comparison import Answer as Answer, Comparison as Comparison, Mean as Mean, Row as Row
from modelwright.evaluate._ensemble import with_ensemble as with_ensemble
from modelwright.evaluate._ensembles import Ensemble as Ensemble
from modelwright.evaluate._evaluations import evaluations as evaluations
from modelwright.evaluate._front import ensemble as ensemble, eval as eval, open as open
from modelwright.evaluate._gate import Check as Check, Gate as Gate, Verdicts as Verdicts
from modelwright.evaluate._items import SPLITS as SPLITS, Items as Items, Split as Split, Splits as Splits
from modelwright.evaluate._kinds import (
    SYSTEM_KINDS as SYSTEM_KINDS,
    Cost as Cost,
    Price as Price,
    SystemKind as SystemKind,
)
from modelwright.evaluate._language import (
    NORMALISATIONS as NORMALISATIONS,
    Choice as Choice,
    Generation as Generation,
    Normalisation as Normalisation,
    Passage as Passage,
    Perplexity as Perplexity,
    Question as Question,
    bits_per_byte as bits_per_byte,
    passages as passages,
)
from modelwright.evaluate._lm_eval import (
    HarnessTask as HarnessTask,
    harness_model as harness_model,
    lm_eval_tasks as lm_eval_tasks,
    records_of_lm_eval as records_of_lm_eval,
)
from modelwright.evaluate._metrics import METRICS as METRICS, Metric as Metric, Whole as Whole, metric as metric
from modelwright.evaluate._predict import predict as predict
from modelwright.evaluate._predictor import (
    EstimatorPredictor as EstimatorPredictor,
    FunctionPredictor as FunctionPredictor,
    Generated as Generated,
    Likelihood as Likelihood,
    ModulePredictor as ModulePredictor,
    Predictor as Predictor,
    Rolling as Rolling,
    Sampling as Sampling,
    Size as Size,
    predictor as predictor,
)
from modelwright.evaluate._records import Head as Head, Part as Part, Records as Records
from modelwright.evaluate._run import Plan as Plan, run as run
from modelwright.evaluate._score import Score as Score, run_score as run_score
from modelwright.evaluate._server import Api as Api, ServerPredictor as ServerPredictor
from modelwright.evaluate._single_files import OnnxPredictor as OnnxPredictor
from modelwright.evaluate._soup import (
    Scorer as Scorer,
    Soup as Soup,
    greedy_soup as greedy_soup,
    validation_score as validation_score,
)
from modelwright.evaluate._statistics import Interval as Interval, holm as holm, mcnemar as mcnemar, pareto as pareto
from modelwright.evaluate._systems import ARCHITECTURES as ARCHITECTURES, systems as systems
from modelwright.evaluate._task import (
    Classification as Classification,
    Regression as Regression,
    Scored as Scored,
    Task as Task,
)
from modelwright.evaluate._together import EnsemblePredictor as EnsemblePredictor
from modelwright.evaluate._weights import Weights as Weights, load_strictly as load_strictly
from modelwright.evaluate.sources import (
    KINDS as KINDS,
    Kind as Kind,
    Settings as Settings,
    task as task,
    tasks as tasks,
)
from modelwright.predictions.measures import (
    Bin as Bin,
    Convention as Convention,
    Flips as Flips,
    calibration_error as calibration_error,
    negative_flips as negative_flips,
    reliability as reliability,
)
