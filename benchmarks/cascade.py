"""Wall-clock time of a two-member cascade against both members on everything, for several shares of exits.

    python -m benchmarks.cascade                          a small and a large network on 8192 samples
    python -m benchmarks.cascade --samples 512 --json     smaller, and as JSON

The time that a cascade should take is that of the first member on all samples and of the second on those passed on; `kept` is the
share of the possible saving that was measured: 1 is in proportion to the exits.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from modelwright.predictions import Predictions
from modelwright.predictions.cascades import Cascade, CascadeRule, Window, fit_cascade, multiply_adds

EXITS = (1.0, 0.9, 0.75, 0.5, 0.25, 0.0)
BATCH = 256


def networks(width: int) -> list[Any]:
    """A small and a large perceptron on 256 inputs, 10 classes."""
    import torch

    torch.manual_seed(0)

    def made(hidden: int, depth: int) -> Any:
        sizes = [256, *[hidden] * depth, 10]
        layers = [part for a, b in itertools.pairwise(sizes) for part in (torch.nn.Linear(a, b), torch.nn.ReLU())]
        return torch.nn.Sequential(*layers[:-1]).eval()

    return [made(width // 4, 2), made(width, 4)]


def timed(work: Callable[[], Any], repeats: int) -> float:
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure(samples: int, width: int, repeats: int) -> dict[str, Any]:
    """Seconds of each member alone and of cascades, and the share of the possible saving that was had."""
    import torch

    members = networks(width)
    inputs = torch.randn(samples, 256, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = np.stack([member(inputs).double().numpy() for member in members])
    bank = Predictions.of(logits, scale="logits", members=["small", "large"])

    def cascade(rule: CascadeRule) -> Cascade:
        return Cascade(members, rule, batch=BATCH)

    def alone(member: Any) -> None:
        with torch.inference_mode():
            for start in range(0, samples, BATCH):
                member(inputs[start : start + BATCH])

    every = CascadeRule(("small", "large"), (Window(-np.inf, np.inf),))
    seconds = {
        name: timed(lambda m=member: alone(m), repeats) for name, member in zip(bank.names, members, strict=True)
    }
    whole = timed(lambda: cascade(every)(inputs), repeats)
    rows = []
    for exits in EXITS:
        rule = fit_cascade(bank, policy="single_threshold", width=1.0 - exits)
        found = cascade(rule)(inputs)
        passed = float((found.stages > 0).mean())
        taken = timed(lambda r=rule: cascade(r)(inputs), repeats)
        saving = (1 - passed) * seconds["large"]
        rows.append({"passed_on": passed, "seconds": taken, "kept": (whole - taken) / saving if saving else None})
    return {
        "samples": samples,
        "multiply_adds": [multiply_adds(member, inputs[:1]) for member in members],
        "members": seconds,
        "ensemble": whole,
        "cascades": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8192)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = measure(chosen.samples, chosen.width, chosen.repeats)
    if chosen.json:
        print(json.dumps(found))
        return
    small, large = found["members"].values()
    print(f"small alone {small:.3f} s, large alone {large:.3f} s, cascade that passes on all {found['ensemble']:.3f} s")
    print("| passed on | seconds | share of the possible saving |\n|---|---|---|")
    for row in found["cascades"]:
        kept = "-" if row["kept"] is None else f"{row['kept']:.2f}"
        print(f"| {row['passed_on']:.0%} | {row['seconds']:.3f} | {kept} |")


if __name__ == "__main__":
    main()
