"""Recipes: schema, parsing, parameter resolution, the pre-flight check, and the plan that comes of it."""

from modelwright.recipe._load import (
    Stage as Stage,
    load_recipe as load_recipe,
    override as override,
    stages_of as stages_of,
)
from modelwright.recipe._plan import (
    Input as Input,
    Plan as Plan,
    PlannedTensor as PlannedTensor,
    PlannedVocabulary as PlannedVocabulary,
    SideFile as SideFile,
    counted_together as counted_together,
)
from modelwright.recipe._resolve import resolve as resolve
from modelwright.recipe._schema import Recipe as Recipe, parse as parse, problems as problems
from modelwright.recipe._sidefiles import SIDE_SUFFIXES as SIDE_SUFFIXES, licence as licence
from modelwright.recipe._tokenizers import fingerprint as fingerprint, vocabulary_size as vocabulary_size
from modelwright.recipe._vocabulary import check_result as check_result
from modelwright.recipe._yaml import Lines as Lines, load as load
