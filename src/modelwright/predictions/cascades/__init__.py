"""Cascades: members that are asked one after the other, each only where those before were not sure."""

from typing import Any

from modelwright.predictions.cascades._cost import (
    folder_multiply_adds as folder_multiply_adds,
    milliseconds as milliseconds,
    multiply_adds as multiply_adds,
)
from modelwright.predictions.cascades._curve import CascadePoint as CascadePoint, cascade_curve as cascade_curve
from modelwright.predictions.cascades._fit import (
    Aim as Aim,
    check_apart as check_apart,
    fit_cascade as fit_cascade,
    refit_shifted as refit_shifted,
)
from modelwright.predictions.cascades._rule import CascadeRule as CascadeRule, Window as Window
from modelwright.predictions.cascades._run import Cascade as Cascade, count_of as count_of, take as take
from modelwright.predictions.cascades._stages import (
    CascadeOutput as CascadeOutput,
    apply_cascade as apply_cascade,
    run_stages as run_stages,
    stage_scores as stage_scores,
)


def cascade_module(members: Any, rule: CascadeRule) -> Any:
    """A cascade as one `nn.Module`, which gives log-probabilities and asks later members for part of a batch only.

    Args:
        members: Modules in the order of the rule; each gives logits (n, C), or an output that has them.
        rule: When to stop.

    Returns:
        The module. Its `stages` say where each sample of the last batch left.

    Raises:
        MissingExtraError: torch is not installed.
        InputError: There are not as many members as the rule has.
    """
    from modelwright.errors import MissingExtraError

    try:
        from modelwright.predictions.cascades._module import CascadeModule
    except ImportError as error:
        raise MissingExtraError("a cascade of modules", "torch", "torch") from error
    return CascadeModule(members, rule)
