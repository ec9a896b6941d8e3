"""What can be asked of tokenizers, and another tokenizer for a model: programs over merging."""

from modelwright.tokenizers._diff import diff as diff
from modelwright.tokenizers._methods import (
    METHODS as METHODS,
    Coefficients as Coefficients,
    coefficients as coefficients,
)
from modelwright.tokenizers._perplexity import Predicted as Predicted, predicted as predicted
from modelwright.tokenizers._transplant import Transplant as Transplant, transplant as transplant
from modelwright.vocabulary import TokenizerDifference as TokenizerDifference
