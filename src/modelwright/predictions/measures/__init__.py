"""What predictions are worth: pure functions on arrays in float64, and records of them by name."""

from modelwright.predictions.measures._calibration import (
    DEFAULT as DEFAULT,
    Bin as Bin,
    Bins as Bins,
    Convention as Convention,
    Norm as Norm,
    Of as Of,
    calibration_error as calibration_error,
    reliability as reliability,
    top_label_error as top_label_error,
)
from modelwright.predictions.measures._compatibility import (
    Compatibility as Compatibility,
    Flips as Flips,
    GradedCompatibility as GradedCompatibility,
    compatibility as compatibility,
    expected_flips as expected_flips,
    graded_compatibility as graded_compatibility,
    negative_flips as negative_flips,
)
from modelwright.predictions.measures._disagreement import (
    Kinship as Kinship,
    ambiguity as ambiguity,
    answers_of as answers_of,
    by_lineage as by_lineage,
    cohen_kappa as cohen_kappa,
    double_fault as double_fault,
    error_correlation as error_correlation,
    fleiss_kappa as fleiss_kappa,
    joint_errors as joint_errors,
    mean_of_pairs as mean_of_pairs,
    mutual_information as mutual_information,
    pairwise_disagreement as pairwise_disagreement,
    q_statistic as q_statistic,
    variation_ratio as variation_ratio,
)
from modelwright.predictions.measures._masks import (
    border as border,
    dice as dice,
    dice_by_class as dice_by_class,
    hausdorff as hausdorff,
    surface_distances as surface_distances,
)
from modelwright.predictions.measures._measure import (
    MEASURES as MEASURES,
    Measure as Measure,
    Measured as Measured,
    kinship as kinship,
    measure as measure,
)
from modelwright.predictions.measures._oracle import OracleGain as OracleGain, oracle_gain as oracle_gain
from modelwright.predictions.measures._proper import (
    BrierParts as BrierParts,
    brier as brier,
    brier_parts as brier_parts,
    brier_scores as brier_scores,
    nll as nll,
    nll_scores as nll_scores,
)
from modelwright.predictions.measures._selective import (
    RiskCoverage as RiskCoverage,
    aurc as aurc,
    coverage_at_risk as coverage_at_risk,
    e_aurc as e_aurc,
    risk_at_coverage as risk_at_coverage,
    risk_coverage as risk_coverage,
)
from modelwright.predictions.measures._shift import (
    CONFIDENCES as CONFIDENCES,
    auroc as auroc,
    confidence as confidence,
    fpr_at_tpr as fpr_at_tpr,
    threshold_at_tpr as threshold_at_tpr,
)
