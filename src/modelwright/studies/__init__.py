"""Published claims, each as a small experiment with a verdict: one file per paper.

To add one: its file, and one line here that imports its record.
"""

from modelwright.studies._aces import ACES as ACES
from modelwright.studies._diversity_of_thought import DIVERSITY_OF_THOUGHT as DIVERSITY_OF_THOUGHT
from modelwright.studies._dylan import DYLAN_STUDY as DYLAN_STUDY
from modelwright.studies._evidence import (
    RULE as RULE,
    VERDICTS as VERDICTS,
    Interval as Interval,
    Measured as Measured,
    Part as Part,
    Verdict as Verdict,
    whole_verdict as whole_verdict,
)
from modelwright.studies._forests_as_smoothers import FORESTS_AS_SMOOTHERS as FORESTS_AS_SMOOTHERS
from modelwright.studies._layer_swapping import LAYER_SWAPPING as LAYER_SWAPPING
from modelwright.studies._llm_domain_adaptation import LLM_DOMAIN_ADAPTATION as LLM_DOMAIN_ADAPTATION
from modelwright.studies._lora_lego import LORA_LEGO as LORA_LEGO
from modelwright.studies._merging_at_scale import MERGING_AT_SCALE as MERGING_AT_SCALE
from modelwright.studies._model_breadcrumbs import MODEL_BREADCRUMBS as MODEL_BREADCRUMBS
from modelwright.studies._model_soups import MODEL_SOUPS as MODEL_SOUPS
from modelwright.studies._mos import MOS as MOS
from modelwright.studies._muscle import MUSCLE as MUSCLE
from modelwright.studies._orca_math import ORCA_MATH as ORCA_MATH
from modelwright.studies._pcb_merging import PCB_MERGING as PCB_MERGING
from modelwright.studies._prompt_engineering_survey import PROMPT_ENGINEERING_SURVEY as PROMPT_ENGINEERING_SURVEY
from modelwright.studies._registry import studies as studies, study as study
from modelwright.studies._reward_ensembles import REWARD_ENSEMBLES as REWARD_ENSEMBLES
from modelwright.studies._self_ensembled_icl import SELF_ENSEMBLED_ICL_STUDY as SELF_ENSEMBLED_ICL_STUDY
from modelwright.studies._self_moa import SELF_MOA as SELF_MOA
from modelwright.studies._sparse_model_soups import SPARSE_MODEL_SOUPS as SPARSE_MODEL_SOUPS
from modelwright.studies._study import (
    BUDGETS as BUDGETS,
    Budget as Budget,
    Figure as Figure,
    Findings as Findings,
    Outcome as Outcome,
    Plot as Plot,
    Setting as Setting,
    Study as Study,
    Table as Table,
)
from modelwright.studies._ties_merging import TIES_MERGING as TIES_MERGING
from modelwright.studies._window_early_exit import WINDOW_EARLY_EXIT as WINDOW_EARLY_EXIT
from modelwright.studies._zero_shot_prompt_weighting import ZERO_SHOT_PROMPT_WEIGHTING as ZERO_SHOT_PROMPT_WEIGHTING

#: Every study of this package by its id.
STUDIES: dict[str, Study] = {record.id: record for record in list(globals().values()) if isinstance(record, Study)}
