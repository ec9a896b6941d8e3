"""One model with a part for each task: bundles of weights, in memory or in a folder.

What is kept of a task is a checkpoint whose tensors are computed when they are read, and so is a task's model. So both stream,
resume and leave manifests as every merge does, by `passthrough`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from modelwright.bundle._folder import Bundle, finish, member_hash, open_bundle, tensors_hash
from modelwright.bundle._schema import NAME, About, Lineage, Member, Weights
from modelwright.checkpoint import Checkpoint, NumpyArray, TensorRef, open as open_checkpoint
from modelwright.engine import (
    LocalFolder,
    Options,
    Result,
    assembled,
    check_out,
    destination,
    execute,
    identity,
    lazy,
    read_manifest,
)
from modelwright.errors import InputError, RunError, did_you_mean
from modelwright.methods import METHODS, Method, Registry
from modelwright.recipe import Plan, PlannedTensor, licence, load_recipe, resolve
from modelwright.tensors import DTYPES, OUTPUT_NAMES, DType, all_finite, widen

_SHARED, _BASE, _TASKS = "shared", "base", "tasks"


@dataclass(frozen=True)
class Storage:
    """What a bundle takes to keep.

    Attributes:
        shared: Bytes of the shared weights.
        base: Bytes of the base; 0 where a task's model does not take it.
        copied: Whether the base is in the bundle.
        parts: Bytes of each task's part.
        experts: Bytes of all the models that it stands for.
    """

    shared: int
    base: int
    copied: bool
    parts: Mapping[str, int]
    experts: int

    @property
    def total(self) -> int:
        """Bytes of all that is in the bundle."""
        return self.shared + sum(self.parts.values()) + (self.base if self.copied else 0)


@dataclass(frozen=True)
class WeightBundle:
    """One shared model and a part for each task, which make that task's model.

    Attributes:
        label: What to call it.
        method: Whose parts they are.
        shared: What the tasks share.
        parts: By the task's name, what is kept of it.
        path: Its folder; None of one in memory.
        refers: Whether the base is referred to, instead of being in the bundle.
    """

    label: str
    method: Method
    shared: Checkpoint
    parts: Mapping[str, Checkpoint]
    path: Path | None = None
    refers: bool = False
    _base: Callable[[], Checkpoint] | None = field(default=None, repr=False, compare=False)
    _save: Callable[..., Result] | None = field(default=None, repr=False, compare=False)
    _held: dict[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Whose models it has."""
        return tuple(self.parts)

    def task(self, name: str | Mapping[str, float]) -> Checkpoint:
        """The model for a task.

        Args:
            name: The task. Where the method allows it, also weights of several: shared + sum_t w_t (model_t - shared).

        Returns:
            A lazy `Checkpoint`, with the files that lay beside that task's model: save, evaluate or merge it.

        Raises:
            InputError: It has no such task, or the method's parts cannot be mixed.
        """
        weights = {name: 1.0} if isinstance(name, str) else dict(name)
        for one in weights:
            if one not in self.parts:
                raise InputError(f"{self.label} has no task '{one}'", did_you_mean(one, self.parts))
        assert self.method.parts is not None
        if not weights or (not isinstance(name, str) and not self.method.parts.mixes):
            raise InputError(
                f"the parts of {self.method.name} are for one task each, and cannot be mixed"
                if weights
                else "weights of tasks are needed, and there are none",
                "Name one task.",
            )
        makers = [(weight, self._restorer(one)) for one, weight in weights.items()]
        tensors = {
            tensor: self._ref(tensor, ref, makers, exact=isinstance(name, str)) for tensor, ref in self.shared.items()
        }
        first = self.parts[next(iter(weights))]
        label = f"{self.label}#{name}" if isinstance(name, str) else f"{self.label} of {len(weights)} tasks"
        return _model(tensors, label, first, [*self.parts.values(), self.shared])

    def _ref(
        self, name: str, shared: TensorRef, makers: Sequence[tuple[float, _Restorer]], *, exact: bool
    ) -> TensorRef:
        if not any(maker.has(name) for _, maker in makers):
            return shared

        def load() -> NumpyArray:
            wide = widen(shared.read())
            if exact:
                return _finite(makers[0][1](name, wide), shared, name)
            differences = [(maker(name, wide) - wide) * weight for weight, maker in makers if maker.has(name)]
            return _finite(wide + sum(differences), shared, name)

        return TensorRef(shared.dtype, shared.shape, load, f"{self.label}: {self.method.name}")

    def _restorer(self, task: str) -> _Restorer:
        if task not in self._held:
            assert self.method.parts is not None
            if self.method.parts.base and "base" not in self._held:
                assert self._base is not None
                self._held["base"] = self._base()
            base = self._held.get("base") if self.method.parts.base else None
            self._held[task] = _Restorer(self.method, base, self.parts[task])
        return self._held[task]

    @property
    def storage(self) -> Storage:
        """What it takes to keep, by what headers say."""
        assert self.method.parts is not None
        base = self.shared.nbytes if self.method.parts.base else 0
        parts = {name: part.nbytes for name, part in self.parts.items()}
        return Storage(self.shared.nbytes, base, not self.refers and base > 0, parts, self.shared.nbytes * len(parts))

    def save(self, out: str | Path, **options: Any) -> Result:
        """Write it as a folder, streaming; each member is made as a merge is.

        Args:
            out: The folder to make.
            **options: Fields of `modelwright.engine.Options`.

        Raises:
            InputError: It is in a folder already, or something is in the way.
        """
        if self._save is None:
            raise InputError(f"{self.label} is in a folder already", "Copy it, or save the model of a task of it.")
        return self._save(out, **options)


# --- a task's model ------------------------------------------------------------------------------------------------


class _Restorer:
    """Makes the tensors of one task. What is summed over all of them is read when the first is made."""

    def __init__(self, method: Method, base: Checkpoint | None, parts: Checkpoint):
        assert method.parts is not None
        self._record, self._base, self._parts = method.parts, base, parts
        self._pieces: dict[str, list[str]] = {}
        for stored in parts:
            name, _, piece = stored.rpartition(":")
            self._pieces.setdefault(name, []).append(piece)
        self._facts: Mapping[str, float] | None = None
        self._lock = threading.Lock()

    def has(self, name: str) -> bool:
        """Whether anything is kept of a tensor."""
        return name in self._pieces

    def __call__(self, name: str, shared: NumpyArray) -> NumpyArray:
        kinds = {piece: self._record.kinds[piece] for piece in self._pieces[name]}
        pieces = {piece: self._piece(name, piece, shared.shape) for piece, kind in kinds.items() if kind != "sums"}
        base = None if self._base is None else widen(self._base[name].read())
        return self._record.restore(shared, base=base, pieces=pieces, facts=self._known())

    def _piece(self, name: str, piece: str, shape: tuple[int, ...]) -> NumpyArray:
        stored = self._parts[f"{name}:{piece}"].read()
        if self._record.kinds[piece] == "values":
            return widen(stored)
        return np.unpackbits(stored, count=math.prod(shape)).astype(bool).reshape(shape)

    def _known(self) -> Mapping[str, float]:
        with self._lock:
            if self._facts is None:
                sums: dict[str, Any] = {}
                for name, pieces in self._pieces.items():
                    for piece in pieces:
                        if self._record.kinds[piece] == "sums":
                            found = np.ascontiguousarray(self._parts[f"{name}:{piece}"].read()).view(np.float64)
                            sums[piece] = sums.get(piece, 0.0) + found
                self._facts = self._record.reduce(sums) if sums else {}
            return self._facts


def _finite(found: NumpyArray, ref: TensorRef, name: str) -> NumpyArray:
    with np.errstate(over="ignore"):
        rounded = found.astype(ref.dtype.numpy)
    if not all_finite(widen(rounded)):
        raise RunError(
            f"'{name}' is not finite in {ref.dtype}, though the shared one is: lower the weights of the tasks"
        )
    return found


def _model(
    tensors: Mapping[str, TensorRef], label: str, beside: Checkpoint, sources: Sequence[Checkpoint]
) -> Checkpoint:
    """A checkpoint that is computed of others; what lies beside it is what lies beside `beside`."""
    beneath = tuple(path for one in sources for path in (one.path, *one.beneath) if path is not None)
    made = Checkpoint(
        tensors, label=label, path=beside.path, parts=beside.parts, beside=beside.beside, aliases=beside.aliases,
        beneath=beneath if beside.path is not None else (), states={k: v for one in sources for k, v in one.states.items()},
        save=lambda out, **options: execute(copying(made), out, Options(**options)),
    )  # fmt: skip
    return made


def copying(model: Checkpoint) -> Plan:
    """The plan that writes a checkpoint as it is."""
    recipe = {"merge_method": "passthrough", "models": [{"model": model.label}]}
    (stage,), folder, text = load_recipe(recipe, [], METHODS)
    plan = resolve(stage.recipe, opener=lambda _reference: model, registry=METHODS, lines=stage.lines, text=text)
    return replace(plan, folder=str(folder.absolute()))


# --- a task's part -------------------------------------------------------------------------------------------------


class _Once:
    """The pieces of one tensor, computed together when the first is read, and forgotten when the last was."""

    def __init__(self, compute: Callable[[], Mapping[str, NumpyArray]]):
        self._compute, self._lock = compute, threading.Lock()
        self._left: dict[str, NumpyArray] = {}

    def read(self, piece: str) -> NumpyArray:
        with self._lock:
            if piece not in self._left:
                self._left = dict(self._compute())
            return self._left.pop(piece)


def part_of(plan: Plan, index: int, shared: Checkpoint, label: str) -> Checkpoint:
    """What is kept of one of a plan's models, computed when it is read.

    Args:
        plan: Of the shared weights.
        index: Which of its models.
        shared: The shared weights themselves, as they are stored.
        label: What to call it.
    """
    tensors: dict[str, TensorRef] = {}
    for tensor in plan.tensors:
        if tensor.action == "merge":
            tensors |= _pieces(plan, tensor, index, shared)
    own = plan.models[index]
    sources = [own, shared, *([plan.models[plan.base]] if plan.base is not None else [])]
    return _model(tensors, label, own, sources)


def _pieces(plan: Plan, tensor: PlannedTensor, index: int, shared: Checkpoint) -> dict[str, TensorRef]:
    record = plan.method.parts
    assert record is not None
    assert tensor.base is not None
    at = next((i for i, source in enumerate(tensor.inputs) if source.model == index), None)
    source = tensor.base if at is None else tensor.inputs[at]  # `missing: base`: nothing was tuned
    own, below = plan.models[source.model][source.name], plan.models[tensor.base.model][tensor.base.name]
    fields = plan.method.fields
    chosen = {name: value[at or 0] if fields[name].per_model else value for name, value in tensor.parameters.items()}

    def compute() -> dict[str, NumpyArray]:
        arrays = [widen(ref.read()) for ref in (own, below, shared[tensor.name])]
        wide = np.result_type(*arrays)
        model, base, common = (array.astype(wide, copy=False) for array in arrays)
        found = record.split(model, base=base, shared=common, parameters=chosen)
        return {name: _stored(np.asarray(value), record.kinds[name], kept) for name, value in found.items()}

    once, kept = _Once(compute), own.dtype if own.dtype.name in OUTPUT_NAMES else tensor.dtype
    refs: dict[str, TensorRef] = {}
    for name, shape in record.shapes(tensor.shape, chosen).items():
        dtype, length = _described(record.kinds[name], shape, kept)
        refs[f"{tensor.name}:{name}"] = TensorRef(dtype, length, partial(once.read, name), "memory")
    return refs


def _described(kind: str, shape: tuple[int, ...], own: DType) -> tuple[DType, tuple[int, ...]]:
    """Format and shape in the file. Sums are bytes, so that a part's numbers are all of the model's own format."""
    size = math.prod(shape)
    if kind == "values":
        return own, shape
    return DTYPES["U8"], (-(-size // 8),) if kind == "bits" else (8 * size,)


def _stored(value: NumpyArray, kind: str, kept: DType) -> NumpyArray:
    if kind == "values":  # rounded here, so that a bundle in memory is the one that is stored
        return value.astype(kept.numpy, copy=False)
    return np.packbits(value.reshape(-1)) if kind == "bits" else np.ascontiguousarray(value, np.float64).view(np.uint8)


# --- making one ----------------------------------------------------------------------------------------------------


def bundle_of(plan: Plan, label: str) -> WeightBundle:
    """The bundle that a plan of a method with parts comes to; nothing is computed before it is read or saved.

    Raises:
        InputError: The recipe is of slices or modules, or two models would have one name.
    """
    if plan.recipe.models is None:
        raise InputError(
            f"{plan.method.name} makes a bundle, which is of whole models", "Write models:, not slices: or modules:."
        )
    names = _names(plan)
    shared = lazy(plan, label, _no_save)
    parts = {name: part_of(plan, index, shared, f"{label}#{name}") for name, index in names.items()}
    return WeightBundle(
        label, plan.method, shared, parts, _base=partial(base_of, plan), _save=partial(_write, plan, names, label)
    )


def base_of(plan: Plan) -> Checkpoint:
    """The base's tensors by the names of the output."""
    assert plan.base is not None
    base = plan.models[plan.base]
    pairs = [(tensor.name, tensor.base) for tensor in plan.tensors if tensor.action == "merge"]
    return _model(
        {name: plan.models[at.model][at.name] for name, at in pairs if at is not None}, base.label, base, [base]
    )


def _no_save(*_: Any, **__: Any) -> Any:
    raise InputError("the shared weights of a bundle are saved with it", "Save the bundle.")


def _names(plan: Plan) -> dict[str, int]:
    """A name for each task's model: the end of what it is called, with as much before as tells them apart."""
    models = {index: model.label for index, model in enumerate(plan.models) if index != plan.base}
    words = {index: PurePath(label).parts or (label,) for index, label in models.items()}
    for count in range(1, max(map(len, words.values())) + 1):
        found = {"-".join(parts[-count:]).removesuffix(".safetensors"): index for index, parts in words.items()}
        if len(found) == len(models):
            break
    else:
        raise InputError(
            "two models of the bundle have one name", "Each stands for a task: give each one folder of its own."
        )
    return {_plain(name, index): index for name, index in found.items()}


def _plain(name: str, index: int) -> str:
    text = "".join(c if c.isalnum() or c in "_.-" else "-" for c in name).lstrip(".-")
    return text if NAME.fullmatch(text) else f"task-{index}"


def _write(plan: Plan, names: Mapping[str, int], label: str, out: str | Path, **given: Any) -> Result:
    options = Options(**given)
    _check(options)
    place = destination(out, options)
    if not isinstance(place, LocalFolder):
        raise InputError(
            f"a bundle is written to a folder on this machine, and '{out}' is a URL", "Copy it there afterwards."
        )
    record = plan.method.parts
    assert record is not None
    assert plan.base is not None
    drawn = replace(bundle_of(plan, label), refers=options.refer_base).storage
    check_out(plan, place, options, also=drawn.total - plan.bytes_out)
    about = identity(
        plan, {}, {"device": options.device, "allow_nonfinite": options.allow_nonfinite, "refer": options.refer_base}
    )
    inner = replace(options, overwrite=False, restart=False)
    results: list[Result] = []
    with assembled(place, about, restart=options.restart) as folder:

        def make(one: Plan, member: str) -> None:
            if not (folder / member / "manifest.json").is_file():
                results.append(execute(one, folder / member, inner))

        make(plan, _SHARED)
        shared = open_checkpoint(folder / _SHARED, label=label)
        members = {_SHARED: _member(folder, "shared", _SHARED)}
        if record.base and options.refer_base:
            members[_BASE] = _referred(plan)
        elif record.base:
            make(copying(base_of(plan)), _BASE)
            members[_BASE] = _member(folder, "base", _BASE)
        for name, index in names.items():
            make(copying(part_of(plan, index, shared, f"{label}#{name}")), f"{_TASKS}/{name}")
            members[name] = _member(folder, "task", f"{_TASKS}/{name}", "parts")
        manifest = read_manifest(folder / _SHARED)
        finish(
            folder,
            About(
                kind="weights",
                members=members,
                weights=Weights(method=plan.method.name, parameters=dict(manifest["parameters"])),
                lineage=_lineage(plan),
            ),
            manifest,
        )
    notes = tuple(dict.fromkeys(note for one in results for note in one.notes))
    return Result(
        place.out, sum(one.seconds for one in results), sum(one.bytes_in for one in results),
        sum(one.bytes_out for one in results), notes,
    )  # fmt: skip


def _check(options: Options) -> None:
    if options.gguf is not None:
        raise InputError(
            "a bundle has several members, and a GGUF file holds one model", "Save the model of a task so."
        )
    if options.engine != "threads":
        raise InputError("bundles are made by the threads of one machine", "Leave --engine out.")


def _member(folder: Path, role: Any, where: str, form: Any = "checkpoint") -> Member:
    return Member(
        role=role, folder=where, hash=member_hash(folder, where), nbytes=open_checkpoint(folder / where).nbytes, format=form
    )  # fmt: skip


def _referred(plan: Plan) -> Member:
    assert plan.base is not None
    base = plan.models[plan.base]
    if base.path is None:
        raise InputError("the base is in memory, so a bundle cannot refer to it", "Leave refer_base= out.")
    if any(tensor.base is not None and tensor.base.name != tensor.name for tensor in plan.tensors):
        raise InputError(
            f"{base.label} has other names than the output, so a bundle cannot refer to it", "Leave --refer-base out."
        )
    remote = base.url is not None or "/models--" in base.path.as_posix()  # of the Hub's cache
    where = base.label if remote else str(base.path.resolve())
    return Member(role="base", reference=where, hash=tensors_hash(base), nbytes=base.nbytes)


def _lineage(plan: Plan) -> Lineage:
    return Lineage(
        recipe=plan.recipe_text, seed=plan.recipe.seed,
        versions={name: version(name) for name in ("modelwright", "numpy", "ml-dtypes")},
        licences={model.label: licence(model) for model in plan.models},
    )  # fmt: skip


# --- opening one ---------------------------------------------------------------------------------------------------


def open_weights(bundle: str | Path | Bundle, *, known: Registry = METHODS, label: str | None = None) -> WeightBundle:
    """A bundle of weights from its folder.

    Args:
        bundle: The folder, or the bundle that was opened.
        known: The methods that it may be of.
        label: What to call it in messages.

    Raises:
        InputError: It is damaged, of another kind, or of a method that is not known.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    about = opened.about
    if about.weights is None:
        raise InputError(f"'{opened.path}' is a bundle of the kind {about.kind}, which has no weights of tasks")
    method = known.find(about.weights.method)
    if method.parts is None:
        raise InputError(f"'{opened.path}' is of the method {method.name}, which makes no bundles here")
    if method.parts.base and "base" not in about.members:
        raise InputError(f"'{opened.path}' lacks the base that {method.name} restores from", "Make the bundle again.")
    return WeightBundle(
        label or str(opened.path),
        method,
        opened.checkpoint("shared"),
        {name: opened.checkpoint(name) for name in opened.tasks},
        opened.path,
        refers=method.parts.base and about.members["base"].reference is not None,
        _base=partial(opened.checkpoint, "base") if method.parts.base else None,
    )
