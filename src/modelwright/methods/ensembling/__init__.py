"""Combiners: pure functions from what several members say to one answer.

To add one: its file, and one line here that imports its record and its function.
"""

from modelwright.methods._outputs import OutputMethod, OutputRegistry
from modelwright.methods.ensembling._bayes import BAYES as BAYES, bayes as bayes
from modelwright.methods.ensembling._borda import BORDA as BORDA, borda as borda
from modelwright.methods.ensembling._dense_mean import DENSE_MEAN as DENSE_MEAN, dense_mean as dense_mean
from modelwright.methods.ensembling._greedy import GREEDY as GREEDY, greedy as greedy
from modelwright.methods.ensembling._maximum import MAXIMUM as MAXIMUM, maximum as maximum
from modelwright.methods.ensembling._mean import MEAN as MEAN, mean as mean
from modelwright.methods.ensembling._median import MEDIAN as MEDIAN, median as median
from modelwright.methods.ensembling._product import PRODUCT as PRODUCT, product as product
from modelwright.methods.ensembling._stacking import STACKING as STACKING, stacking as stacking
from modelwright.methods.ensembling._staple import (
    STAPLE as STAPLE,
    Staple as Staple,
    staple as staple,
    staple_estimates as staple_estimates,
)
from modelwright.methods.ensembling._tempered import TEMPERED_MEAN as TEMPERED_MEAN, tempered_mean as tempered_mean
from modelwright.methods.ensembling._trimmed import TRIMMED as TRIMMED, trimmed as trimmed
from modelwright.methods.ensembling._votes import (
    MAJORITY_VOTE as MAJORITY_VOTE,
    SOFT_VOTE as SOFT_VOTE,
    majority_vote as majority_vote,
    soft_vote as soft_vote,
)
from modelwright.methods.ensembling._weighted import WEIGHTED as WEIGHTED, weighted as weighted

#: Every combiner of this package by name.
COMBINERS = OutputRegistry(
    sorted((record.name, record) for record in list(globals().values()) if isinstance(record, OutputMethod))
)
