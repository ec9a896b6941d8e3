"""Combining, calibrating and measuring a large bank, beside what others do of the same.

    make bench-predictions                          10 members x 1,000,000 samples x 10 classes
    make bench-predictions BENCH="--samples 100000 --runs 1"
    make bench-predictions BENCH="--parts measuring"
    make bench-predictions PEER=PYTHON              with netcal, in a Python that has it and modelwright's dependencies

Each measurement is a process of its own, so that its peak of memory is known: it opens the bank (a safetensors file that is
memory-mapped), does one thing, and prints seconds, peak and figures of the result, by which both are seen to have done the same: the last column
is the largest difference from ours. Peers begin with the values in memory, which they need; reading them is not in their seconds.
Members say logits; taking the softmax of them, where it is needed, is in the seconds of all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.predictions import Predictions, combine, fit
from modelwright.predictions.measures import auroc, confidence, fpr_at_tpr, measure as measured

HERE = Path(__file__).resolve().parent
#: By how much figures may be apart before it is said: calibrators end where their solvers do.
TOLERANCE = 2e-3
#: Of a bank's file: seconds, and some numbers of the result: probabilities of the last sample, or figures of members.
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
    return seconds, [round(float(x), 6) for x in np.ravel(say(found))[:20]]


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


# Measures. A function is called with few samples before the clock starts, which imports what it needs.
FEW = 1000
#: Of a member's probabilities (n, C), float64, and the labels (n,).
Figure = Callable[[np.ndarray, np.ndarray], float]
#: Of answers (M, n), classes.
FigureOfAnswers = Callable[[np.ndarray], float]


def ours_measured(names: Sequence[str] | None, say: Sequence[str] = ()) -> Task:
    """Measures by name; None is all of them, of which the means over members of some are said."""

    def run(path: Path) -> tuple[float, list[float]]:
        bank = Predictions.open(path, check=False)
        measured(bank.select(samples=slice(FEW)), names)
        return timed(lambda: measured(bank, names), figures)

    def figures(found: Any) -> np.ndarray:
        each = {name: list(values.values()) for name, values in found.members.items()}
        if names is None:
            return np.array([np.mean(each[name]) if name in each else found.together[name] for name in say])
        return np.array([*(value for values in each.values() for value in values), *found.together.values()])

    return run


def each_member(figure: Figure) -> Task:
    """A figure of each member, one member at a time, as one does who minds memory."""

    def run(path: Path) -> tuple[float, list[float]]:
        values, labels = loaded(path)

        def work(values: np.ndarray, labels: np.ndarray) -> list[float]:
            return [figure(probabilities(member), labels) for member in values]

        work(values[:, :FEW], labels[:FEW])
        return timed(lambda: work(values, labels), np.array)

    return run


def probabilities(logits: np.ndarray) -> np.ndarray:
    """In float64, by scipy."""
    from scipy.special import softmax

    return softmax(logits.astype(np.float64), axis=-1)


def of_answers(figure: FigureOfAnswers) -> Task:
    """A figure of what members answer."""

    def run(path: Path) -> tuple[float, list[float]]:
        values = loaded(path)[0]
        figure(values[:, :FEW].argmax(axis=-1))
        return timed(lambda: figure(values.argmax(axis=-1)), np.array)

    return run


def sklearn_accuracy(said: np.ndarray, labels: np.ndarray) -> float:
    """accuracy_score."""
    from sklearn.metrics import accuracy_score

    return accuracy_score(labels, said.argmax(axis=1))


def sklearn_brier(said: np.ndarray, labels: np.ndarray) -> float:
    """brier_score_loss of several classes."""
    from sklearn.metrics import brier_score_loss

    return brier_score_loss(labels, said, labels=np.arange(said.shape[1]), scale_by_half=False)


def sklearn_nll(said: np.ndarray, labels: np.ndarray) -> float:
    """log_loss."""
    from sklearn.metrics import log_loss

    return log_loss(labels, said, labels=np.arange(said.shape[1]))


def torchmetrics_error(norm: str) -> Figure:
    """multiclass_calibration_error, 15 bins of equal width."""

    def figure(said: np.ndarray, labels: np.ndarray) -> float:
        import torch
        from torchmetrics.functional.classification import multiclass_calibration_error

        answer, truth = torch.from_numpy(said), torch.from_numpy(labels)
        return float(multiclass_calibration_error(answer, truth, said.shape[1], n_bins=15, norm=norm))  # type: ignore

    return figure


def netcal_error(name: str) -> Figure:
    """ECE or MCE of netcal, 15 bins of equal width."""

    def figure(said: np.ndarray, labels: np.ndarray) -> float:
        from netcal import metrics

        return float(getattr(metrics, name)(bins=15).measure(said, labels))

    return figure


def numpy_aurc(said: np.ndarray, labels: np.ndarray) -> float:
    """The definition in three lines; samples of equal confidence as they come."""
    wrong = said.argmax(axis=1) != labels
    order = np.argsort(-said.max(axis=1))
    return float((np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1)).mean())


def sklearn_auroc_of_errors(said: np.ndarray, labels: np.ndarray) -> float:
    """roc_auc_score of being right."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(said.argmax(axis=1) == labels, said.max(axis=1)))


def shifted(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a member in distribution and out of it: there are half as large, for want of real ones."""
    half = len(logits) // 2
    return logits[:half], logits[half:] * np.float32(0.5)


def ours_shifted(figure: Callable[[np.ndarray, np.ndarray], float]) -> Task:
    """A figure of how well each member's confidence tells the halves apart."""

    def run(path: Path) -> tuple[float, list[float]]:
        bank = Predictions.open(path, check=False)
        return timed(lambda: [figure(*map(confidence, shifted(member))) for member in bank.values], np.array)

    return run


def sklearn_shifted(figure: Callable[[np.ndarray, np.ndarray], float]) -> Task:
    """The same of truth and scores in one array each, as scikit-learn takes them."""

    def run(path: Path) -> tuple[float, list[float]]:
        values = loaded(path)[0]

        def work(values: np.ndarray) -> list[float]:
            known = np.arange(values.shape[1]) < values.shape[1] // 2
            halves = (map(probabilities, shifted(member)) for member in values)
            return [figure(known, np.concatenate([half.max(axis=1) for half in pair])) for pair in halves]

        work(values[:, :FEW])
        return timed(lambda: work(values), np.array)

    return run


def sklearn_auroc(known: np.ndarray, scores: np.ndarray) -> float:
    """roc_auc_score."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(known, scores))


def sklearn_fpr95(known: np.ndarray, scores: np.ndarray) -> float:
    """Where roc_curve first accepts 95 %."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(known, scores, drop_intermediate=False)
    return float(fpr[np.argmax(tpr >= 0.95)])


def numpy_disagreement(answers: np.ndarray) -> float:
    """Pair by pair."""
    return float(np.mean([np.mean(a != b) for a, b in combinations(answers, 2)]))


def sklearn_kappa(answers: np.ndarray) -> float:
    """cohen_kappa_score, pair by pair."""
    from sklearn.metrics import cohen_kappa_score

    return float(np.mean([cohen_kappa_score(a, b) for a, b in combinations(answers, 2)]))


def numpy_variation(answers: np.ndarray) -> float:
    """Votes counted class by class."""
    votes = np.stack([(answers == c).sum(axis=0) for c in range(int(answers.max()) + 1)])
    return float(1 - votes.max(axis=0).mean() / len(answers))


def scipy_information(values: np.ndarray) -> float:
    """scipy's entropies."""
    from scipy.stats import entropy

    said = probabilities(values)
    return float((entropy(said.mean(axis=0), axis=-1) - entropy(said, axis=-1).mean(axis=0)).mean())


def scipy_together(path: Path) -> tuple[float, list[float]]:
    """Mutual information of all members."""
    values = loaded(path)[0]
    scipy_information(values[:, :FEW])
    return timed(lambda: scipy_information(values), np.array)


#: What is compared of all measures, means over members where each has its own, in the order of the functions below.
ALL = (
    "accuracy", "brier", "nll", "ece", "mce", "aurc", "auroc_of_errors", "disagreement", "kappa", "variation_ratio",
    "mutual_information",
)  # fmt: skip


def all_by_others(path: Path) -> tuple[float, list[float]]:
    """The figures that others have, and mutual information, with each member's softmax and all answers taken once."""
    values, labels = loaded(path)
    of_members = (
        sklearn_accuracy, sklearn_brier, sklearn_nll, torchmetrics_error("l1"), torchmetrics_error("max"), numpy_aurc,
        sklearn_auroc_of_errors,
    )  # fmt: skip

    def work(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        each = [[figure(said, labels) for figure in of_members] for said in map(probabilities, values)]
        answers = values.argmax(axis=-1)
        together = [figure(answers) for figure in (numpy_disagreement, sklearn_kappa, numpy_variation)]
        return np.array([*np.mean(each, axis=0), *together, scipy_information(values)])

    work(values[:, :FEW], labels[:FEW])
    return timed(lambda: work(values, labels), lambda found: found)


COMBINING: dict[str, dict[str, Task]] = {
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
}  # fmt: skip
CALIBRATING: dict[str, dict[str, Task]] = {
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
#: Of each of ten members, or of all pairs of them.
MEASURING: dict[str, dict[str, Task]] = {
    "accuracy": {"modelwright": ours_measured(["accuracy"]), "scikit-learn": each_member(sklearn_accuracy)},
    "Brier score": {"modelwright": ours_measured(["brier"]), "scikit-learn": each_member(sklearn_brier)},
    "negative log-likelihood": {"modelwright": ours_measured(["nll"]), "scikit-learn": each_member(sklearn_nll)},
    "ECE": {
        "modelwright": ours_measured(["ece"]), "torchmetrics": each_member(torchmetrics_error("l1")),
        "netcal": each_member(netcal_error("ECE")),
    },
    "largest calibration error": {
        "modelwright": ours_measured(["mce"]), "torchmetrics": each_member(torchmetrics_error("max")),
        "netcal": each_member(netcal_error("MCE")),
    },
    "AURC": {"modelwright": ours_measured(["aurc"]), "numpy": each_member(numpy_aurc)},
    "AUROC of errors": {
        "modelwright": ours_measured(["auroc_of_errors"]), "scikit-learn": each_member(sklearn_auroc_of_errors),
    },
    "AUROC out of distribution": {"modelwright": ours_shifted(auroc), "scikit-learn": sklearn_shifted(sklearn_auroc)},
    "FPR95 out of distribution": {
        "modelwright": ours_shifted(fpr_at_tpr), "scikit-learn": sklearn_shifted(sklearn_fpr95),
    },
    "disagreement of pairs": {"modelwright": ours_measured(["disagreement"]), "numpy": of_answers(numpy_disagreement)},
    "kappa of pairs": {"modelwright": ours_measured(["kappa"]), "scikit-learn": of_answers(sklearn_kappa)},
    "variation ratio": {"modelwright": ours_measured(["variation_ratio"]), "numpy": of_answers(numpy_variation)},
    "mutual information": {"modelwright": ours_measured(["mutual_information"]), "scipy": scipy_together},
    "all measures": {"modelwright": ours_measured(None, ALL), "others": all_by_others},
}  # fmt: skip
PARTS = {"combining": COMBINING, "calibrating": CALIBRATING, "measuring": MEASURING}
#: What is done -> who does it -> how.
TASKS: dict[str, dict[str, Task]] = {task: how for part in PARTS.values() for task, how in part.items()}


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
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
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
    print(f"| {shape}, {size / 1e6:.0f} MB of float32 | by | seconds | peak / bank | apart |\n|---|---|---|---|---|")
    for task in args.only or [task for part in args.parts for task in PARTS[part]]:
        for who in TASKS[task]:
            if who == "netcal" and not args.peer:
                continue
            found = measure(task, who, path, args.peer if who == "netcal" else sys.executable, args.runs)
            if found is None:
                continue
            rows.setdefault(task, {})[who] = found
            first = rows[task].get("modelwright", found)["said"]
            apart = (
                float(np.abs(np.subtract(found["said"], first)).max()) if len(found["said"]) == len(first) else np.inf
            )
            row = f"| {task} | {who} | {found['seconds']:.2f} | {found['peak'] / size:.2f} |"
            print(f"{row} {'' if who == 'modelwright' else f'{apart:.1g}'} |", flush=True)
            if not apart <= TOLERANCE:
                print(f"  {task}: {who} says {found['said']}, and modelwright {first}", file=sys.stderr)
    if args.results:
        document = {"version": 1, "shape": shape, "bytes": size, "runs": args.runs, "rows": rows}
        args.results.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
