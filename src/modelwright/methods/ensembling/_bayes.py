"""Bayesian model averaging over members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from modelwright.methods._method import Params
from modelwright.methods._outputs import (
    CLASSES,
    NumpyArray,
    OutputMethod,
    check_fit,
    finished,
    fixed,
    of_labels,
    on_outputs,
    weighted,
)
from modelwright.tensors import log, softmax


class BayesParams(Params):
    """Parameters of `bayes`."""

    power: float = Field(1.0, gt=0, le=1, description="The power that the likelihood is taken to; 1 is Bayes' rule.")


@on_outputs(BayesParams)
def bayes(outputs: NumpyArray, *, power: float = 1.0, weights: Sequence[float]) -> NumpyArray:
    """The mean of probabilities by the members' posterior probabilities.

    Args:
        outputs: Probabilities (M, n, C).
        power: As for `fit_bayes`; unused here.
        weights: Posterior probabilities of the members, M numbers from `fit_bayes`.

    Returns:
        Probabilities (n, C): sum_m P(m | data) p_m.

    Differs:
        See `BAYES.differs`.

    Source:
        Hoeting et al. 1999, "Bayesian model averaging: a tutorial", equations 1 to 3.
    """
    return finished(weighted(outputs, weights), "probabilities")


def fit_bayes(outputs: NumpyArray, labels: NumpyArray, *, power: float = 1.0) -> dict[str, Any]:
    """Posterior probabilities of members: P(m | data) ~ prod_i p_m(y_i | x_i)^power, with even prior probabilities.

    The hypotheses are that one of the members, as it stands, has made the labels. So with more data the weight goes to the one
    member of the least log loss: this is model selection under uncertainty, and no search for the best mixture, which
    `weighted` is.

    Args:
        outputs: Probabilities (M, n, C).
        labels: Class indices (n,).
        power: In (0, 1].

    Returns:
        `weights`, and `log_evidence` of each member: sum_i log p_m(y_i | x_i), in nats.

    Raises:
        InputError: There are labels of one class only.
    """
    check_fit("bayes", outputs, labels)
    evidence = log(of_labels(outputs, labels)).sum(axis=1)
    return {"weights": softmax(power * evidence).tolist(), "log_evidence": evidence.tolist()}


BAYES = OutputMethod(
    name="bayes",
    title="Bayesian model averaging",
    paper="doi:10.1214/ss/1009212519",
    summary="Members weighted by how probable they make the labels: exact, and with much data a choice of one member.",
    kind="ensembling",
    function=bayes,
    params=BayesParams,
    takes=CLASSES,
    space=fixed("probabilities"),
    laws=frozenset({"classes", "shift"}),
    fit=fit_bayes,
    right_only=lambda _params: True,
    differs=(
        "The evidence of a member is the likelihood of labelled data under its fixed weights; nothing is integrated over its "
        "parameters, because members come as they are.",
        "`power` below 1 tempers the likelihood, which the paper does not.",
    ),
)
