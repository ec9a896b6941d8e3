"""Combining and calibrating a large bank, beside what others do of the same.

    make bench-predictions                          10 members x 1,000,000 samples x 10 classes
    make bench-predictions BENCH="--samples 100000 --runs 1"
    make bench-predictions PEER=PYTHON              with netcal, in a Python that has it and modelwright's dependencies

Each measurement is a process of its own, so that its peak of memory is known: it opens the bank (a safetensors file that is
memory-mapped), does one thing, and prints seconds, peak and a figure of the result, by which both are seen to have done the same.
Peers begin with the values in memory, which they need; reading them is not in their seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.predictions import Predictions, combine, fit

HERE = Path(__file__).resolve().parent
#: What is done -> who does it -> how; each returns probabilities of the last sample, or what was learnt.
Task = Callable[[Path], tuple[float, list[float]]]


def make(path: Path, members: int, samples: int, classes: int) -> None:
    """A bank of logits of members of different skill, written member by member."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    values = np.empty((members, samples, classes), np.float32)
    for m in range(members):
        values[m] = rng.standard_normal((samples, classes), np.float32) * np.float32(1 + m / members)
        values[m, np.arange(samples), labels] += 2
    Predictions.of(values, labels, scale="logits").save(path)


def timed(work: Callable[[], Any], say: Callable[[Any], np.ndarray]) -> tuple[float, list[float]]:
    """Seconds of the work, and some of its numbers."""
    start = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - start
    return seconds, [round(float(x), 6) for x in np.ravel(say(found))[:10]]


def ours(method: str, **options: Any) -> Task:
    """A combiner that learns nothing."""

    def run(path: Path) -> tuple[float, list[float]]:
        bank = Predictions.open(path, check=False)
        return timed(lambda: combine(bank, method, **options), lambda found: found.values[0, -1])

    return run


def ours_fitted(method: str, members: int | None = None, **options: Any) -> Task:
    """A method that learns from all samples, and is applied to them."""

    def run(path: Path) -> tuple[float, list[float]]:
        bank = Predictions.open(path, check=False)
        bank = bank if members is None else bank.select(range(members))
        import scipy.optimize  # noqa: F401  - imported before the clock starts, as the peers' packages are
        import sklearn.isotonic  # noqa: F401

        return timed(lambda: fit(bank, method, **options).apply(bank), lambda found: found.values[0, -1])

    return run


def opened(path: Path) -> tuple[float, list[float]]:
    """Opening with every number looked at."""
    return timed(lambda: Predictions.open(path), lambda bank: bank.values[0, -1])


def loaded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values and labels in memory."""
    bank = Predictions.open(path, check=False)
    assert bank.labels is not None
    return np.array(bank.values), np.array(bank.labels)


def torch_mean(space: str) -> Task:
    """The two lines that everybody writes."""

    def run(path: Path) -> tuple[float, list[float]]:
        import torch

        values = torch.from_numpy(loaded(path)[0])
        if space == "logits":
            return timed(lambda: values.mean(0).softmax(-1), lambda p: p[-1].numpy())
        return timed(lambda: values.softmax(-1).mean(0), lambda p: p[-1].numpy())

    return run


def numpy_of(function: Callable[[np.ndarray], np.ndarray]) -> Task:
    """Over probabilities in float64, as textbooks write it."""

    def run(path: Path) -> tuple[float, list[float]]:
        from scipy.special import softmax

        values = loaded(path)[0].astype(np.float64)
        return timed(lambda: function(softmax(values, axis=-1)), lambda p: p[-1])

    return run


def _normal(found: np.ndarray) -> np.ndarray:
    return found / found.sum(axis=-1, keepdims=True)


def sklearn_votes(probabilities: np.ndarray) -> np.ndarray:
    """The lines of scikit-learn's VotingClassifier for hard votes, with shares instead of the winner."""
    votes = probabilities.argmax(axis=-1).T
    count = probabilities.shape[-1]
    return np.apply_along_axis(lambda x: np.bincount(x, minlength=count), 1, votes) / probabilities.shape[0]


def netcal_scaling(name: str) -> Task:
    """A calibrator of netcal on the first member."""

    def run(path: Path) -> tuple[float, list[float]]:
        from netcal import binning, scaling
        from scipy.special import softmax

        values, labels = loaded(path)
        first = softmax(values[0].astype(np.float64), axis=-1)
        method = getattr(scaling, name, None) or getattr(binning, name)
        calibrator = method(bins=15) if name == "HistogramBinning" else method()

        def work() -> np.ndarray:
            calibrator.fit(first, labels)
            return calibrator.transform(first)

        return timed(work, lambda p: p[-1])

    return run


def sklearn_isotonic(path: Path) -> tuple[float, list[float]]:
    """One against the rest on the first member, as CalibratedClassifierCV does it."""
    from scipy.special import softmax
    from sklearn.isotonic import IsotonicRegression

    values, labels = loaded(path)
    first = softmax(values[0].astype(np.float64), axis=-1)

    def work() -> np.ndarray:
        curves = [
            IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
            .fit(first[:, c], labels == c)
            .predict(first[:, c])
            for c in range(first.shape[1])
        ]
        return _normal(np.stack(curves, axis=1))

    return timed(work, lambda p: p[-1])


def scipy_median(probabilities: np.ndarray) -> np.ndarray:
    """numpy's own."""
    return _normal(np.median(probabilities, axis=0))


def scipy_trimmed(probabilities: np.ndarray) -> np.ndarray:
    """scipy's own."""
    from scipy.stats import trim_mean

    return _normal(trim_mean(probabilities, 0.2, axis=0))


TASKS: dict[str, dict[str, Task]] = {
    "open and check": {"modelwright": opened},
    "mean of probabilities": {"modelwright": ours("mean"), "torch": torch_mean("probabilities")},
    "mean of logits": {"modelwright": ours("mean", space="logits"), "torch": torch_mean("logits")},
    "median": {"modelwright": ours("median"), "numpy": numpy_of(scipy_median)},
    "trimmed mean": {"modelwright": ours("trimmed"), "scipy": numpy_of(scipy_trimmed)},
    "majority vote": {
        "modelwright": ours("majority_vote", tie="lowest"), "scikit-learn": numpy_of(sklearn_votes),
    },
    "maximum": {"modelwright": ours("maximum"), "numpy": numpy_of(lambda p: _normal(p.max(axis=0)))},
    "Borda count": {"modelwright": ours("borda")},
    "product of experts": {"modelwright": ours("product")},
    "weighted mean, learnt": {"modelwright": ours_fitted("weighted")},
    "ensemble selection, 20 rounds": {"modelwright": ours_fitted("greedy", rounds=20)},
    "temperature, one member": {
        "modelwright": ours_fitted("temperature", 1), "netcal": netcal_scaling("TemperatureScaling"),
    },
    "isotonic, one member": {
        "modelwright": ours_fitted("isotonic", 1), "scikit-learn": sklearn_isotonic,
        "netcal": netcal_scaling("IsotonicRegression"),
    },
    "histogram, one member": {
        "modelwright": ours_fitted("histogram", 1), "netcal": netcal_scaling("HistogramBinning"),
    },
}  # fmt: skip


def measure(task: str, who: str, path: Path, python: str, runs: int) -> dict[str, Any] | None:
    """Median seconds and largest peak of some runs in processes of their own; None where the peer is not installed."""
    found = []
    for _ in range(runs):
        command = [python, "-m", "benchmarks.predictions", "--one", task, who, "--bank", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, env=dict(os.environ))
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            print(f"  {task}, {who}: {lines[-1]}", file=sys.stderr)
            return None
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "seconds": statistics.median(one["seconds"] for one in found),
        "peak": max(one["peak"] for one in found),
        "said": found[0]["said"],
    }


def one(task: str, who: str, path: Path) -> None:
    """One measurement, in this process."""
    before = most_memory()
    seconds, said = TASKS[task][who](path)
    print(json.dumps({"seconds": seconds, "peak": most_memory() - before, "said": said}))


def most_memory() -> int:
    """Bytes that were resident at most; getrusage would tell those of the process that this one was forked from."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> int:
    """Measure, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3, help="of each measurement  [3]")
    parser.add_argument("--only", nargs="+", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--peer", default=os.environ.get("PEER"), help="a Python that has netcal")
    parser.add_argument("--bank", type=Path, help="where the bank is made and kept")
    parser.add_argument("--results", type=Path, help="write all figures as JSON")
    parser.add_argument("--one", nargs=2, metavar=("TASK", "WHO"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(*args.one, args.bank)
        return 0
    shape = f"{args.members}x{args.samples}x{args.classes}"
    path = args.bank or HERE / "models" / f"bank-{shape}.safetensors"
    if not path.is_file():
        make(path, args.members, args.samples, args.classes)
    size = args.members * args.samples * args.classes * 4
    rows: dict[str, dict[str, Any]] = {}
    print(f"| {shape}, {size / 1e6:.0f} MB of float32 | by | seconds | peak / bank |\n|---|---|---|---|")
    for task in args.only or TASKS:
        for who in TASKS[task]:
            if who == "netcal" and not args.peer:
                continue
            found = measure(task, who, path, args.peer if who == "netcal" else sys.executable, args.runs)
            if found is None:
                continue
            rows.setdefault(task, {})[who] = found
            print(f"| {task} | {who} | {found['seconds']:.2f} | {found['peak'] / size:.2f} |", flush=True)
            first = rows[task].get("modelwright", found)["said"]
            if not np.allclose(found["said"], first, atol=2e-3):
                print(f"  {task}: {who} says {found['said']}, and modelwright {first}", file=sys.stderr)
    if args.results:
        document = {"version": 1, "shape": shape, "bytes": size, "runs": args.runs, "rows": rows}
        args.results.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
