"""`mw.ensemble`: what combines several systems, fitted on items that nothing is reported on, and the bundle it is kept in."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from modelwright.api import Job, bundle_at, open_model, registry
from modelwright.bundle import (
    NAME,
    About,
    Bundle,
    Ensemble as Said,
    FittedOn,
    Lineage,
    Member as Stored,
    copying,
    file_digest,
    finish,
    member_hash,
    said_of,
    tensors_hash,
)
from modelwright.checkpoint import Checkpoint
from modelwright.engine import LocalFolder, Options, assembled, destination, execute
from modelwright.errors import InputError, did_you_mean, listing
from modelwright.evaluate._cascade import CascadePredictor
from modelwright.evaluate._items import Items, drawing_key
from modelwright.evaluate._predictor import EstimatorPredictor, Predictor
from modelwright.evaluate._single_files import SINGLE_FILES, OnnxPredictor, dump_estimator
from modelwright.evaluate._soup import figure_of
from modelwright.evaluate._task import Task
from modelwright.evaluate._together import EnsemblePredictor
from modelwright.methods import CALIBRATORS, COMBINERS
from modelwright.predictions import Fitted, Member, MemberCost, Predictions, fit
from modelwright.predictions.cascades import Aim, CascadeRule, apply_cascade, fit_cascade
from modelwright.recipe import licence

#: Called with a member, items done and items in all.
Progress = Callable[[str, int, int], None]
_MODELS = "models"
#: How a member of a format that is one file is called.
FILES = {"onnx": "model.onnx", "skops": "estimator.skops"}


@dataclass(frozen=True)
class Ensemble:
    """Several systems that answer as one.

    Attributes:
        predictor: What answers.
        task: What it was fitted to.
        split: Whose items.
        items: How many.
        figures: By member, and under `predictor.label` for all together: the task's metric on those items. They were fitted to,
            so that figures to report come from others, such as `mw.compare` gives them.
        sources: What each member was, by its name.
        network: What was named to build networks.
    """

    predictor: EnsemblePredictor | CascadePredictor
    task: Task
    split: str
    items: int
    figures: Mapping[str, float]
    sources: Mapping[str, Any] = field(repr=False, default_factory=dict)
    network: str | None = None

    def save(self, out: str | Path, *, refer: bool = False, overwrite: bool = False, restart: bool = False) -> Path:
        """Write it as a bundle.

        Args:
            out: The folder to make.
            refer: Say where members are, with a hash of what they hold, instead of copying them. Members that are files or
                folders can be.
            overwrite: Replace an output that modelwright made.
            restart: Discard what a killed run left there.

        Raises:
            InputError: Something is in the way, or a member is code, which a bundle does not hold.
        """
        place = destination(out, Options(overwrite=overwrite))
        if not isinstance(place, LocalFolder):
            raise InputError(f"a bundle is written to a folder on this machine, and '{out}' is a URL")
        place.check(overwrite=overwrite, restart=restart)
        kept = {part.label: self._kept(part) for part in parts_of(self.predictor)}  # refused before anything is written
        started = time.time()
        with assembled(place, {"kind": "ensemble", "resumable": False}, restart=restart) as folder:
            members = {
                name: _referred(form, what, self.network) if refer else _copied(folder, name, form, what, self.network)
                for name, (form, what) in kept.items()
            }
            about = self._about(members, kept)
            finish(folder, about, said_of(about, {"started": started, "seconds": round(time.time() - started, 3)}))
        return place.out

    def _kept(self, part: Predictor) -> tuple[str, Any]:
        """How a member is stored, and what of it."""
        if isinstance(part, EstimatorPredictor):
            return "skops", part
        if isinstance(part, OnnxPredictor):
            return "onnx", part.path
        found = _checkpoint_of(self.sources.get(part.label))
        if found is None:
            raise InputError(
                f"the member '{part.label}' is code, a {type(part).__name__}, which a bundle does not hold",
                "Give its weights: a model folder, a checkpoint with --network, an ONNX file, or an estimator of scikit-learn.",
            )
        return "checkpoint", found

    def _about(self, members: Mapping[str, Stored], kept: Mapping[str, tuple[str, Any]]) -> About:
        one, rule = self.predictor, getattr(self.predictor, "rule", None)
        combine, calibrate = getattr(one, "combine", None), getattr(one, "calibrate", None)
        versions = {
            name: found
            for name in ("modelwright", "numpy", "scikit-learn", "skops", "onnxruntime", "torch", "transformers")
            if (found := _version(name))
        }
        return About(
            kind="ensemble" if rule is None else "cascade",
            members=dict(members),
            ensemble=Said(
                order=tuple(part.label for part in parts_of(one)),
                asks="probabilities" if self.task.asks == "probabilities" else "values",
                classes=self.task.classes,
                combine=None if combine is None else combine.as_dict(),
                calibrate=None if calibrate is None else calibrate.as_dict(),
                cascade=None if rule is None else rule.as_json(),
                fitted_on=FittedOn(
                    task=self.task.name, fingerprint=self.task.fingerprint(self.split),
                    split="tune" if self.split == "tune" else "validation", items=self.items,
                ),
            ),
            lineage=Lineage(
                versions=versions,
                licences={name: licence(what) if isinstance(what, Checkpoint) else None for name, (_, what) in kept.items()},
            ),
        )  # fmt: skip


def parts_of(system: EnsemblePredictor | CascadePredictor) -> Sequence[Predictor]:
    """The members, in their order."""
    return system.asks if isinstance(system, CascadePredictor) else system.parts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


# --- fitting -------------------------------------------------------------------------------------------------------


def fit_ensemble(
    members: Sequence[Predictor],
    task: Task,
    *,
    method: str = "mean",
    parameters: Mapping[str, Any] | None = None,
    calibrate: str | None = None,
    cascade: bool = False,
    aim: Aim | None = None,
    width: float | None = None,
    most_cost: float | None = None,
    unit: Literal["milliseconds", "answers"] = "milliseconds",
    split: str = "validation",
    label: str = "ensemble",
    batch: int = 64,
    sources: Mapping[str, Any] | None = None,
    network: str | None = None,
    progress: Progress | None = None,
) -> Ensemble:
    """Fit what combines members, as `mw.ensemble` does of what it is given.

    Raises:
        InputError: Members, task and options do not go together, or there is nothing to fit on.
    """
    task = task.for_search()
    _check(members, task, method, calibrate, cascade, split)
    if label in [member.label for member in members]:
        raise InputError(
            f"the ensemble would be called '{label}', like one of its members",
            "Call one of them otherwise: NAME=MODEL.",
        )
    items = task.items(split)
    bank = answers_of(members, task, items, batch=batch, progress=progress)
    halves = _halves(bank, method, calibrate is not None)
    by_name = {member.label: member for member in members}
    if cascade:
        rule = fit_cascade(halves[0], aim=aim, width=width, most_cost=most_cost, unit=unit)
        together = _of_cascade(rule, bank)
        predictor: EnsemblePredictor | CascadePredictor = CascadePredictor(
            label, asks=[by_name[name] for name in rule.members], rule=rule, classes=task.classes
        )
    else:
        combine = fit(halves[0], method, **(parameters or {})).pruned()
        together = combine.apply(bank, name=label)
        chosen = list(combine.members)
        if len(chosen) == 1:
            raise InputError(
                f"{method} gives all the weight to '{chosen[0]}', so there is nothing to combine",
                "Use that model alone, or add members that differ from it.",
            )
        calibrator = None
        if calibrate is not None:
            calibrator = fit(together.select(samples=list(halves[1].ids)), calibrate)
            together = calibrator.apply(together)
        predictor = EnsemblePredictor(
            label,
            parts=[by_name[name] for name in chosen],
            combine=combine,
            calibrate=calibrator,
            classes=task.classes,
        )
    figures = {
        name: figure_of(task, _Given(name, told=values), items)
        for name, values in zip(bank.names, bank.values, strict=True)
    }
    figures[label] = figure_of(task, _Given(label, told=together.values[0]), items)
    return Ensemble(predictor, task, split, len(items), figures, dict(sources or {}), network)


@dataclass
class _Given(Predictor):
    """Answers that are known."""

    told: np.ndarray = field(kw_only=True)

    def probabilities(self, inputs: Any, classes: int) -> np.ndarray:
        return self.told

    def values(self, inputs: Any) -> np.ndarray:
        return self.told


def _check(
    members: Sequence[Predictor], task: Task, method: str, calibrate: str | None, cascade: bool, split: str
) -> None:
    labels = [member.label for member in members]
    if len(members) < 2:
        raise InputError(f"an ensemble needs at least two members, got {len(members)}")
    odd = [label for label in labels if NAME.fullmatch(label) is None]
    if odd:
        raise InputError(
            f"the member's name '{odd[0]}' must be letters, digits, _, - and . alone: its folder is called so",
            "Write NAME=MODEL.",
        )
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise InputError(f"two members are called '{twice[0]}'", "Write NAME=MODEL for one of them.")
    if task.asks not in ("probabilities", "values"):
        raise InputError(
            f"the answers to '{task.name}' are texts, and there is no mean of texts",
            "Panels of chat models vote: mw chat.",
        )
    if split == "test":
        raise InputError(
            "an ensemble is not fitted on test, which it is to be judged by",
            f"Say --split {' or '.join(name for name in task.splits)}.",
        )
    COMBINERS.find(method)
    if cascade and method != "mean":
        raise InputError(f"a cascade takes the running mean of its members, not {method}", "Leave --method out.")
    if cascade and task.asks != "probabilities":
        raise InputError(
            "a cascade stops by the confidence of classes, and the task gives numbers", "Leave --cascade out."
        )
    if cascade and calibrate is not None:
        raise InputError(
            "a cascade stops by the confidence of its members, before anything could calibrate it",
            "Leave --calibrate out.",
        )
    if calibrate is not None:
        CALIBRATORS.find(calibrate)
        if CALIBRATORS[calibrate].gives != "probabilities":
            raise InputError(
                f"{calibrate} gives {CALIBRATORS[calibrate].gives}, which no prediction is",
                did_you_mean(calibrate, [n for n, r in CALIBRATORS.items() if r.gives == "probabilities"]),
            )
        if task.asks != "probabilities":
            raise InputError(
                "calibration is of the confidence in classes, and the task gives numbers", "Leave --calibrate out."
            )
    if split not in task.splits:
        raise InputError(
            f"the task '{task.name}' has no split '{split}' to fit on: it has {listing(list(task.splits))} beside test",
            "Divide its data, splits: in the task file, or say --split. What is fitted never sees test.",
        )


def answers_of(
    members: Sequence[Predictor],
    task: Task,
    items: Items,
    *,
    batch: int,
    progress: Progress | None = None,
    labelled: bool = True,
) -> Predictions:
    """What systems say of items of classes or numbers, and the milliseconds that each takes for one.

    Raises:
        InputError: The task's answers are texts, or a system does not fit it.
        RunError: A system gave answers that are none.
    """
    if task.asks not in ("probabilities", "values"):
        raise InputError(f"the answers to '{task.name}' are texts, and a bank holds numbers", "mw eval keeps texts.")
    found: list[np.ndarray] = []
    named: list[Member] = []
    for system in members:
        answering, parts, done, start = system.for_task(task), list[np.ndarray](), 0, time.perf_counter()
        for some in items.batches(batch):
            classes = len(task.classes)
            parts.append(answering.checked_probabilities(some, classes) if classes else answering.checked_values(some))
            done += len(some)
            if progress is not None:
                progress(system.label, done, len(items))
        spent = 1000 * (time.perf_counter() - start) / len(items)
        found.append(np.concatenate(parts))
        cost = MemberCost(milliseconds=spent, parameters=system.size.parameters, nbytes=system.size.nbytes)
        named.append(Member(system.label, cost, {"fingerprint": system.fingerprint}))
    labels = np.asarray(items.targets) if labelled else None
    if task.classes:
        return Predictions.of(
            np.stack(found), labels, scale="probabilities", ids=items.ids, members=named, classes=task.classes
        )
    return Predictions.of(np.stack(found), labels, scale="values", kind="regression", ids=items.ids, members=named)


def _halves(bank: Predictions, method: str, more: bool) -> tuple[Predictions, Predictions]:
    """Samples for the combiner and for what comes after it: two halves where both learn, for the second would believe the first."""
    if COMBINERS[method].fit is None or not more:
        return bank, bank
    if len(bank) < 2:
        raise InputError(f"{method} and its calibrator need items of their own, and there is one item")
    ordered = sorted(bank.ids, key=drawing_key)
    first = set(ordered[: (len(ordered) + 1) // 2])
    mask = np.array([name in first for name in bank.ids])
    return bank.select(samples=mask), bank.select(samples=~mask)


def _of_cascade(rule: CascadeRule, bank: Predictions) -> Predictions:
    found = apply_cascade(rule, bank)
    return replace(bank.select([0]), values=found.probabilities[None], scale="probabilities")


# --- storing and opening -------------------------------------------------------------------------------------------


def _checkpoint_of(source: Any) -> Checkpoint | None:
    """The weights that a reference leads to; None where it is code."""
    if isinstance(source, Checkpoint):
        return source
    if not isinstance(source, str | Path):
        return None
    path = Path(source).expanduser()
    if path.suffix in (".yml", ".yaml") and path.is_file():
        return Job.from_recipe(path, (), registry()).checkpoint()
    return open_model(source) if path.exists() or bundle_at(source, None) is not None else None


def _copied(folder: Path, name: str, form: Any, what: Any, network: str | None) -> Stored:
    where = f"{_MODELS}/{name}"
    if form == "checkpoint":
        execute(copying(what), folder / where, Options())
        size = what.nbytes
    else:
        (folder / where).mkdir(parents=True)
        file = folder / where / FILES[form]
        if form == "skops":
            dump_estimator(what.estimator, file, name)
        else:
            shutil.copyfile(what, file)
        size = file.stat().st_size
    return Stored(
        role="model", folder=where, hash=member_hash(folder, where), nbytes=size, format=form, network=_named(form, what, network)
    )  # fmt: skip


def _referred(form: Any, what: Any, network: str | None) -> Stored:
    if (form != "onnx" and what.path is None) or (form == "checkpoint" and what.beneath):
        raise InputError(
            "a member that is in memory, or made of others, cannot be referred to", "Leave --refer (refer=) out."
        )
    if form == "checkpoint":
        remote = what.url is not None or "/models--" in what.path.as_posix()
        where = what.label if remote else str(what.path.resolve())
        return Stored(
            role="model",
            reference=where,
            hash=tensors_hash(what),
            nbytes=what.nbytes,
            network=_named(form, what, network),
        )
    path = what.path if form == "skops" else what
    return Stored(
        role="model", reference=str(path.resolve()), hash=file_digest(path), nbytes=path.stat().st_size, format=form
    )


def _named(form: str, what: Any, network: str | None) -> str | None:
    """What builds a checkpoint's network, where it is no model of transformers."""
    return network if form == "checkpoint" and network and not (what.config or {}).get("architectures") else None


def open_ensemble(
    bundle: Bundle, label: str, build: Callable[[Checkpoint, str], Predictor], device: str, *, network: bool
) -> EnsemblePredictor | CascadePredictor:
    """What answers by a bundle of models; every member's bytes are compared with its hash first.

    Args:
        bundle: The bundle.
        label: How tables call it.
        build: Makes what answers of weights and a label.
        device: Where members run.
        network: Whether a network was named, for members that need one.

    Raises:
        InputError: A member is damaged or another by now, or what was fitted is not valid.
    """
    said = bundle.about.ensemble
    assert said is not None
    parts: list[Predictor] = []
    where = f"{bundle.path}/bundle.json"
    for name in said.order:
        member = bundle.about.members[name]
        if member.format in FILES:
            place = bundle.verified(name)
            file = place / FILES[member.format] if place.is_dir() else place
            parts.append(SINGLE_FILES[f".{member.format}"](file, name, device))
            continue
        if member.network is not None and not network:
            raise InputError(
                f"the member '{name}' is a network that was built by {member.network}, and a bundle's word is not enough to run code",
                f"Say it yourself: --network {member.network} (network=).",
                str(bundle.path),
            )
        if member.folder is not None:
            bundle.verified(name)
        parts.append(build(bundle.checkpoint(name), name))
    found: EnsemblePredictor | CascadePredictor
    if said.cascade is not None:
        rule = CascadeRule.from_json(said.cascade)
        fitted = rule.members
        found = CascadePredictor(label, asks=parts, rule=rule, classes=said.classes)
    else:
        assert said.combine is not None
        combine = Fitted.of(said.combine, where)
        calibrate = None if said.calibrate is None else Fitted.of(said.calibrate, where)
        fitted = combine.members
        found = EnsemblePredictor(label, parts=parts, combine=combine, calibrate=calibrate, classes=said.classes)
    if tuple(fitted) != said.order:
        raise InputError(f"what was fitted is of the members {listing(fitted)}, not {listing(said.order)}", where=where)
    return found
