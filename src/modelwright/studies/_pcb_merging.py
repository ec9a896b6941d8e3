"""PCB-Merging: is a weight for each entry and task better than one for all, or than a vote on signs?"""

from __future__ import annotations

from typing import Any

import numpy as np

from modelwright.studies._digits import SCALES, SMALL, VIEWS, Experts, Scale, experts
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.studies._vectors import vectors

#: Shares of entries that win, on generated vectors; what signal and noise were computed to be before, or None.
GENERATED: dict[float, tuple[float, float] | None] = {0.02: None, 0.05: (0.99, 0.0), 0.1: (0.99, 0.010), 0.2: None}
TOLERANCE = 0.02
#: The paper's shares, for vision, for T5 and for (IA)^3.
SHARES = (0.05, 0.1, 0.2)
#: The paper's factor with a share of 0.05.
FACTOR = 1.2
#: Rules whose scale is chosen on validation images, all from the same scales.
TUNED: dict[str, tuple[str, dict[str, Any]]] = {
    "task arithmetic": ("task_arithmetic", {}),
    "TIES": ("ties", {"semantics": "paper"}),
    **{f"PCB, {share:.0%}": ("pcb", {"density": share}) for share in SHARES},
}
PUBLISHED = f"PCB, {SHARES[0]:.0%}"


def experiment(setting: Setting) -> Findings:
    """Generated vectors with known signal; then eight experts on digits."""
    measured = Measured()
    for seed in setting.each_seed():
        _generated(measured, seed)
        _on_digits(measured, seed, SMALL if setting.smoke else Scale())
    return Findings(
        parts=_parts(measured),
        figures={
            name: Figure(f"mean accuracy on eight tasks: {name}", measured.interval(lambda mean, n=name: mean(n)))
            for name in _SYSTEMS
        },
        tables=(_generated_table(measured), _digits_table(measured)),
        plots=(_scale_plot(measured),),
        notes=(
            "Digits are eight fixed views of one set of images, with one frozen head; the paper merges models of hundreds "
            "of millions of parameters, tuned on different data sets.",
            "Scales are chosen on the validation images from the same 18 values for every rule. Averaging chooses nothing, and "
            f"neither does PCB at the published factor of {FACTOR}.",
            "On generated vectors a share of 5 % is flattering: it is that of the signal. The others show what a wrong guess costs.",
        ),
    )


def _generated(measured: Measured, seed: int) -> None:
    made = vectors(np.random.default_rng((seed, 30)))
    for share, expected in GENERATED.items():
        found = made.merged("pcb", density=share, lambda_=1.0)
        signal, noise = made.recovered(found), made.off_support(found)
        measured.add(seed, ("signal", share), signal)
        measured.add(seed, ("noise", share), noise)
        if expected is not None:
            measured.add(seed, ("off", share), max(abs(signal - expected[0]), abs(noise - expected[1])))


def _on_digits(measured: Measured, seed: int, scale: Scale) -> None:
    family: Experts = experts(seed, VIEWS, scale)
    family.measure(measured, seed, "base", family.base)
    family.measure(measured, seed, "averaging", family.merged("linear"))
    best, reached = family.base, -1.0
    for rule, (method, parameters) in TUNED.items():
        along = family.along(method, **parameters)
        chosen, scores = family.best_scale(along)
        for tried, score in zip(SCALES, scores, strict=True):
            measured.add(seed, ("validation", rule, tried), score)
        family.measure(measured, seed, rule, along(chosen))
        if rule == PUBLISHED:
            family.measure(measured, seed, "PCB as published", along(FACTOR))
        if method == "pcb" and max(scores) > reached:
            best, reached = along(chosen), max(scores)
    family.measure(measured, seed, "PCB, share chosen", best)


def _parts(measured: Measured) -> tuple[Part, ...]:
    def gain(first: Any, second: Any) -> Any:
        return measured.interval(lambda mean: mean(first) - mean(second))

    known = [share for share, expected in GENERATED.items() if expected is not None]
    return (
        Part(
            "construction",
            "On generated vectors signal and noise are as computed before, within 0.02 for every seed",
            measured.range(lambda mean: np.max([mean(("off", share)) for share in known], axis=0)),
            "<=",
            TOLERANCE,
            unit="",
        ),
        Part("over averaging", "PCB is better than averaging on digits", gain(PUBLISHED, "averaging"), ">", 0.0),
        Part(
            "over task arithmetic",
            "PCB is better than task arithmetic, scales chosen alike",
            gain(PUBLISHED, "task arithmetic"),
            ">",
            0.0,
        ),
        Part("over TIES", "PCB is better than TIES, scales chosen alike", gain(PUBLISHED, "TIES"), ">", 0.0),
        Part(
            "share chosen",
            "PCB is better than TIES where the share is chosen on validation too",
            gain("PCB, share chosen", "TIES"),
            ">",
            0.0,
            decides=False,
        ),
    )


_SYSTEMS = ("base", "averaging", *TUNED, "PCB as published", "PCB, share chosen")


def _generated_table(measured: Measured) -> Table:
    rows = [
        (
            f"PCB, {share:.0%}",
            *(measured.range(lambda mean, k=kind, s=share: mean((k, s))) for kind in ("signal", "noise")),
        )
        for share in GENERATED
    ]
    return Table("Generated vectors", ("rule", "signal recovered", "noise beside it"), tuple(rows), unit="")


def _digits_table(measured: Measured) -> Table:
    rows = [(name, measured.interval(lambda mean, n=name: mean(n))) for name in _SYSTEMS]
    return Table("Digits: mean accuracy on the test images of eight tasks", ("rule", "accuracy"), tuple(rows))


def _scale_plot(measured: Measured) -> Plot:
    lines = {
        rule: [(s, measured.interval(lambda mean, r=rule, s=s: mean(("validation", r, s)))) for s in SCALES]
        for rule in TUNED
    }
    return Plot("Which scale suits which rule", "scale λ", "mean validation accuracy", lines)


PCB_MERGING = Study(
    id="pcb-merging",
    title="PCB-Merging",
    paper="arXiv:2410.02396",
    claim="Balancing the competition of parameters within and between tasks merges better than averaging, task arithmetic and TIES.",
    experiment=experiment,
)
