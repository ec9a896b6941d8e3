"""The library's front door: `open`, `merge`, and `Job`, a recipe bound to its models."""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, overload

import numpy as np
import xxhash

from modelwright.architectures import is_table
from modelwright.bundle import WeightBundle, bundle_of, check_members, is_bundle, open_weights
from modelwright.checkpoint import Checkpoint, is_url, open as open_checkpoint, plain_path, user_path
from modelwright.engine import (
    LICENCES,
    Options,
    Push,
    Result,
    Verification,
    available,
    check_engine,
    check_inputs,
    check_out,
    destination,
    execute,
    execute_gguf,
    finished,
    lazy,
    method_source,
    prepare_push,
    read_manifest,
    rewrite_card,
    verify as verify_files,
    verify_again,
)
from modelwright.errors import InputError, Problem, did_you_mean, listing
from modelwright.methods import METHODS, Method, Registry
from modelwright.recipe import SIDE_SUFFIXES, Plan, Stage, load_recipe, resolve, stages_of


def open(ref: Any, *, folder: str | Path | None = None, label: str | None = None) -> Checkpoint | WeightBundle:
    """Open anything that is named tensors, or a bundle of weights; only headers are read.

    Args:
        ref: What `modelwright.checkpoint.open` takes: a folder, a file, a Hub id, a URL, a module, a state dict, ...; or the
            folder of a bundle of weights; or `BUNDLE#TASK` for the model of one of its tasks.
        folder: Where relative paths start; default the working directory.
        label: What to call it in messages; default the reference itself.

    Returns:
        A lazy `Checkpoint`, or a `WeightBundle`.

    Raises:
        InputError: It does not exist, is damaged, is quantised, or holds something else.

    Example:
        >>> import numpy as np
        >>> open({"w": np.ones((2, 2), np.float32)})["w"].shape
        (2, 2)
    """
    place = bundle_at(ref, folder)
    if place is None:
        return open_checkpoint(ref, folder=folder, label=label)
    path, task = place
    found = open_weights(path, known=registry(), label=label or str(ref))
    return found if task is None else _task(path, task, label or str(ref))


def open_model(ref: Any, *, folder: str | Path | None = None, label: str | None = None) -> Checkpoint:
    """The same where one model is wanted: a bundle's task has to be named.

    Raises:
        InputError: As `open`; also where it is a bundle as a whole.
    """
    if isinstance(ref, WeightBundle):
        raise InputError(f"{ref.label} is a bundle, not one model", f"Take the model of a task: {listing(ref.tasks)}.")
    place = bundle_at(ref, folder)
    if place is None or place[1] is None:
        return open_checkpoint(ref, folder=folder, label=label)
    return _task(place[0], place[1], label or str(ref))


def _task(path: Path, task: str, label: str) -> Checkpoint:
    found = open_weights(path, known=registry()).task(task)
    found.label = label
    return found


def bundle_at(ref: Any, folder: str | Path | None) -> tuple[Path, str | None] | None:
    """The folder of a bundle, and the task after a #; an existing path wins."""
    if not isinstance(ref, str | Path) or is_url(str(ref)):
        return None
    for start in ([Path(folder)] if folder else []) + [Path()]:
        for text, task in ((str(ref), None), tuple(str(ref).rpartition("#")[::2])):
            try:
                path = start / Path(plain_path(text)).expanduser()
                if text and is_bundle(path):
                    return path, task
            except (OSError, RuntimeError):  # a text too long for a path, ~name of nobody
                continue
    return None


def registry(plugins: Sequence[str | Path] = ()) -> Registry:
    """Every known method: the library's, those of installed packages (entry points), those of plugin files.

    Args:
        plugins: Python files; every `Method` at their top level is added.

    Raises:
        InputError: A plugin is missing, fails, holds no method, or reuses a name.
    """
    known = Registry(METHODS.values())
    for point in installed("modelwright.methods"):
        known.add(_installed(point))
    for plugin in plugins:
        for method in _plugin_methods(user_path(plugin)):
            known.add(method)
    return known


@cache
def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group; read once, because that takes longer than merging a small model."""
    return tuple(entry_points(group=group))


def _installed(point: EntryPoint) -> Method:
    whose = f"the entry point '{point.name} = {point.value}'" + (f" of {point.dist.name}" if point.dist else "")
    try:
        method = point.load()
    except Exception as error:  # whatever a foreign package raises
        raise InputError(
            f"{whose} cannot be loaded: {type(error).__name__}: {error}", "Mend or uninstall that package."
        ) from error
    if not isinstance(method, Method):
        raise InputError(f"{whose} is a {type(method).__name__}", "It must name a modelwright.methods.Method.")
    return method


def _plugin_methods(path: Path) -> list[Method]:
    found = [value for value in vars(plugin_module(path)).values() if isinstance(value, Method)]
    found = [method for method in found if METHODS.get(method.name) is not method]
    if not found:
        raise InputError(f"the plugin '{path}' defines no Method", "Write NAME = Method(...) at its top level.")
    return found


def plugin_module(path: Path) -> ModuleType:
    """A Python file of the user's, run as a module: its records are those of methods, of studies, of what else there is.

    Raises:
        InputError: It is missing, no Python, or fails; the message has the line.
    """
    if not path.is_file():
        raise InputError(f"no plugin file '{path}'")
    spec = importlib.util.spec_from_file_location(f"modelwright_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"the plugin '{path}' is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pydantic looks up the annotations of a plugin's Params
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's own code raises
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        lines += [error.lineno] if isinstance(error, SyntaxError) else []
        at = f"{path}:{lines[-1]}" if lines else str(path)
        raise InputError(f"the plugin fails: {type(error).__name__}: {error}", where=at) from error
    return module


@overload  # by the names of the library's own methods with parts; others, and recipes, are told at run time
def merge(  # pyright: ignore[reportOverlappingOverload]
    models: Iterable[Any], *, method: Literal["emr", "tall_mask", "twin_merging"], **options: Any
) -> WeightBundle: ...
@overload
def merge(models: str | Path | Mapping[str, Any] | Iterable[Any], **options: Any) -> Checkpoint: ...
def merge(
    models: str | Path | Mapping[str, Any] | Iterable[Any],
    *,
    method: str | None = None,
    base: Any = None,
    dtype: Any = None,
    out_dtype: Any = None,
    missing: Literal["error", "base", "skip"] | None = None,
    semantics: Literal["community", "paper"] | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    **parameters: Any,
) -> Checkpoint | WeightBundle:
    """Merge models, or run a recipe. Nothing is computed before it is read or saved.

    Args:
        models: A list of models (paths, Hub ids, `nn.Module`s, state dicts, dicts of arrays, checkpoints), or a recipe
            (a YAML file, or the same as a dict).
        method: The method's name; only with a list of models.
        base: The model the others were tuned from. It may stand in the list too.
        dtype: Output format when `out_dtype` is absent: a name, or a dtype of numpy or torch.
        out_dtype: Output format; default the widest of the inputs.
        missing: What to do with a tensor that some models lack.
        semantics: `community` (default) or `paper`.
        seed: Seed of random methods; default 0.
        overrides: `key=value` texts that override recipe values.
        plugins: Python files with further methods.
        **parameters: The method's parameters. One value, or for parameters that each model has its own of, a list with
            one value a model. `lambda` is written `lambda_`; `weight` is 1 for each model unless given.

    Returns:
        A lazy `Checkpoint`: read single tensors, `.arrays()`, `.state_dict()`, or `.save(folder)`, which streams. Of methods
        that keep a part for each task a `WeightBundle`: `.task(name)` is such a checkpoint, `.save(folder)` writes them all.

    Raises:
        InputError: Anything is wrong with the recipe, the models or the parameters; nothing was written.

    Example:
        >>> import numpy as np
        >>> a, b = {"w": np.zeros(2, np.float32)}, {"w": np.ones(2, np.float32)}
        >>> merge([a, b], method="linear", weight=[3, 1])["w"].read()
        array([0.25, 0.25], dtype=float32)
    """
    known = registry(plugins)
    extra = {"dtype": dtype, "out_dtype": out_dtype, "missing": missing, "semantics": semantics, "seed": seed}
    given = {key: value for key, value in extra.items() if value is not None}
    given |= {key: _dtype_text(given[key]) for key in ("dtype", "out_dtype") if key in given}
    if _is_recipe(models):
        if method is not None or base is not None or parameters:
            named = [key for key, value in (("method", method), ("base", base)) if value is not None] + list(parameters)
            raise InputError(
                f"a recipe says itself what {', '.join(named)} is", "Use overrides=['density=0.5'] to change it."
            )
        sets = [*overrides, *(f"{key}={value}" for key, value in given.items())]
        return Job.from_recipe(models, sets, known).outcome()  # type: ignore[arg-type]
    data, objects, notes = direct_recipe(models, method, base, parameters, known)
    return Job.from_recipe(data | given, overrides, known, objects, notes).outcome()


def _dtype_text(value: Any) -> str:
    """`torch.float32`, `np.float32` and `np.dtype("float32")` as the text they stand for."""
    return value if isinstance(value, str) else str(getattr(value, "__name__", value))


def _is_recipe(models: Any) -> bool:
    if isinstance(models, Mapping):
        return any(key in models for key in ("merge_method", "steps", "models", "slices", "modules"))
    return isinstance(models, str | Path)


def direct_recipe(
    models: Any, method: str | None, base: Any, parameters: Mapping[str, Any], known: Registry
) -> tuple[dict[str, Any], dict[str, Checkpoint], tuple[str, ...]]:
    """The recipe that `merge([a, b], method=...)` stands for, the models in memory that it names, and notes on it."""
    if method is None:
        raise InputError("merging a list of models needs method=", did_you_mean("", known))
    record = known.find(method)
    if isinstance(models, str | Path | Mapping) or not isinstance(models, Iterable):
        raise InputError(f"models must be a list of models, got {type(models).__name__}", "Write [a, b].")
    models = list(models)  # type: ignore[reportUnknownArgumentType]
    if not models:
        raise InputError(f"{method} needs models, and the list is empty")
    names = _Names()
    entries: list[dict[str, Any]] = [{"model": names.of(model, f"model {i + 1}")} for i, model in enumerate(models)]
    data: dict[str, Any] = {"merge_method": method, "models": entries}
    notes: tuple[str, ...] = ()
    if base is not None:
        name = names.of(base, "base")
        if record.base == "ignored" and all(entry["model"] != name for entry in entries):
            # In a recipe such a base counts as one more model, as in the community's tool; nobody means that here.
            notes = (f"{method} has no base: '{name}' is not used",)
        else:
            data["base_model"] = name
    _give_parameters(data, record, parameters)
    return data, names.objects, notes


class _Names:
    """References for models: paths stay as they are, objects in memory get a name.

    Attributes:
        objects: The objects by their names.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Checkpoint] = {}
        self._known: dict[int, str] = {}

    def of(self, model: Any, fallback: str) -> str:
        """The name of a model; one object has one name."""
        if isinstance(model, str | Path):
            return str(model)
        if id(model) not in self._known:
            opened = open_model(model)
            label = fallback if opened.path is None or opened.label in self.objects else opened.label
            self._known[id(model)] = label
            self.objects[label] = _labelled(opened, label)
        return self._known[id(model)]


def _give_parameters(data: dict[str, Any], record: Method, parameters: Mapping[str, Any]) -> None:
    """Write keyword arguments into a recipe: lists of per-model parameters under their models, the rest on top."""
    tuned = [entry for entry in data["models"] if entry["model"] != data.get("base_model")]
    values = {name.removesuffix("_") if name == "lambda_" else name: value for name, value in parameters.items()}
    unknown = [name for name in values if name not in record.fields and name not in record.ignored]
    if unknown:  # a recipe of the community may carry parameters of other methods along; here there is no reason to
        what = "{} has no parameter '{}'"
        raise InputError([Problem(what.format(record.name, n), did_you_mean(n, record.fields)) for n in unknown])
    if "weight" in record.fields and record.fields["weight"].required:
        values.setdefault("weight", 1.0)
    for name, value in values.items():
        field = record.fields.get(name)
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        if field is None or not field.per_model or not isinstance(value, list | tuple):
            data.setdefault("parameters", {})[name] = value
            continue
        if len(value) != len(tuned):
            raise InputError(
                f"{record.name}: {name} has {len(value)} values for {len(tuned)} models beside the base",
                "Give one number, or one for each model.",
            )
        for entry, one in zip(tuned, value, strict=True):
            entry.setdefault("parameters", {})[name] = one


def _labelled(model: Checkpoint, label: str) -> Checkpoint:
    if model.path is not None:
        return model
    return Checkpoint(
        dict(model), label=label, parts=model.parts, metadata=model.metadata, notes=model.notes,
        consumed=model.consumed, beside=model.beside,
    )  # fmt: skip


def verify(
    out: str | Path,
    *,
    rerun: bool = False,
    folder: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    remake: Callable[[Mapping[str, Any], Path], Job] | None = None,
    **options: Any,
) -> Verification:
    """Check the output of a merge: every byte against the hashes of its manifest.

    Args:
        out: The folder, or its URL.
        rerun: Merge again as well, without writing anything, and compare every tensor: to the bit, or within the
            tolerance that the method's record allows.
        folder: Where the recipe's relative paths start; default where they started when it was merged.
        plugins: Python files with further methods.
        remake: (what a manifest says of a model that no recipe names, where relative paths start) -> the recipe bound to it.
        **options: Fields of `modelwright.engine.Options`.

    Returns:
        What was found; its `problems` are empty where all is well.

    Raises:
        InputError: There is no manifest, or the merge cannot be done again.
    """
    place = out if is_url(str(out)) else user_path(plain_path(str(out)))
    choice = Options(**options)
    found = verify_files(place, choice)
    if isinstance(place, Path) and is_bundle(place):
        if rerun:
            raise InputError("a bundle cannot be made again as a whole", f"Its shared weights can: {out}/shared.")
        return found if found.problems else replace(found, problems=tuple(check_members(place)))
    if not rerun or found.problems:
        return found
    manifest = read_manifest(place)
    text, run = manifest["recipe"], manifest["run"]
    device, note = available(str(run.get("device", "cpu")))
    made = {"device": device, "allow_nonfinite": run.get("allow_nonfinite") is True}
    choice = replace(choice, **(made | options))
    start = user_path(folder) if folder is not None else Path(str(run.get("folder", "")))
    origin = manifest.get("origin")
    if origin is not None and remake is not None:
        job = remake(origin, start)
    else:
        stages = stages_of(text, f"the recipe in {out}/manifest.json")
        job = Job(stages, start, text, registry(plugins), {})
    plan = _plan_of_step(job, manifest.get("resolved"))
    problems, notes = verify_again(plan, place, choice)
    return replace(found, problems=tuple(problems), notes=(*found.notes, *note, *notes))


def _plan_of_step(job: Job, resolved: Any) -> Plan:
    """The plan of the step that a manifest is of; of what has no steps, the only one."""
    step = resolved.get("name") if is_table(resolved) else None
    plans = {stage.name: plan for stage, plan in zip(job.stages, job.plans(), strict=True)}
    return plans.get(str(step), job.plans()[-1])


def card(
    out: str | Path,
    *,
    evaluations: Sequence[Mapping[str, Any]] | None = None,
    licence: str | None = None,
    reason: str = "",
    keep: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the model card of an output anew, or take one that was edited by hand into its manifest.

    Args:
        out: The output of a merge.
        evaluations: What was measured, as `modelwright.evaluate.evaluations` makes it of records; it is shown from now on,
            and an empty list takes it out again.
        licence: The licence that you have decided on, by the Hub's id, where the inputs' do not settle it.
        reason: Why; it stands in the card.
        keep: Take README.md as it is, edited by hand.
        overwrite: Write it though it was edited by hand.

    Returns:
        The card's path.

    Raises:
        InputError: The folder is no output, the card was edited by hand, or options do not fit.
    """
    if licence is not None and licence not in LICENCES and licence != "other":
        raise InputError(
            f"'{licence}' is no licence that is known here", did_you_mean(licence, [*LICENCES, "other"], 60)
        )
    if (licence is None) != (not reason.strip()):
        raise InputError("a licence that is set by hand needs its reason, and a reason its licence", "Give both.")
    out = finished(out)
    chosen = None if licence is None else (licence, reason.strip())
    rewrite_card(
        out, read_manifest(out), evaluations=evaluations, licence=chosen, keep=keep, overwrite=overwrite
    )  # fmt: skip
    return out / "README.md"


def push(
    out: str | Path,
    repo: str,
    *,
    branch: str = "main",
    private: bool = False,
    message: str = "",
    overwrite: bool = False,
    verify: bool = True,
    dry_run: bool = False,
    **options: Any,
) -> Push:
    """Send an output to the Hugging Face Hub, in one commit: the files that its manifest names.

    The token is what `hf auth login` keeps, or `HF_TOKEN`. A push that fails can be repeated: what was uploaded is not sent
    again, and until the commit the repository is as it was.

    Args:
        out: The output of a merge, as `verify` passes it.
        repo: `owner/name`, or the name of a repository of your own. It is made if need be.
        branch: Which branch. It is made if need be.
        private: If the repository has to be made, make it private.
        message: Of the commit.
        overwrite: Replace files of the repository.
        verify: Compare every byte with the manifest first.
        dry_run: Only say what would be sent.
        **options: Fields of `modelwright.engine.Options`: `threads`, `progress`.

    Returns:
        What was sent, or would be.

    Raises:
        InputError: The output is not as its manifest says, or not finished; something would be overwritten; nobody is logged
            in, or the Hub refuses.
        RunError: Uploading failed.
    """
    out = finished(out)
    if verify:
        found = verify_files(out, Options(**options))
        if found.problems:
            raise InputError([Problem(what, where=str(out)) for what in found.problems])
    ready = prepare_push(out, repo, branch=branch, private=private)
    if dry_run:
        return ready
    if ready.overwritten and not overwrite:
        raise InputError(
            f"'{ready.repo}' has files that would be replaced or removed: {listing(ready.overwritten)}",
            "Push elsewhere, or pass overwrite=True.",
        )
    return ready.send(message)


class Job:
    """A recipe bound to the models it names: plan it, read it, save it.

    Attributes:
        stages: Its merges in the order they run; more than one where the recipe has steps.
    """

    def __init__(
        self,
        stages: list[Stage],
        folder: Path,
        text: str,
        known: Registry,
        objects: Mapping[str, Checkpoint],
        notes: Sequence[str] = (),
        origin: Mapping[str, Any] | None = None,
    ):
        self.stages = stages
        self._notes, self._origin = tuple(notes), origin
        self._folder, self._text, self._known, self._objects = folder, text, known, dict(objects)
        self._opened: dict[str, Checkpoint] = {}
        self._plans: list[Plan] = []

    @staticmethod
    def from_recipe(
        recipe: str | Path | Mapping[str, Any],
        overrides: Sequence[str],
        known: Registry,
        objects: Mapping[str, Checkpoint] | None = None,
        notes: Sequence[str] = (),
        origin: Mapping[str, Any] | None = None,
    ) -> Job:
        """Read a recipe.

        Args:
            recipe: A file, or the recipe as a dict.
            overrides: `key=value` texts.
            known: The known methods.
            objects: Models that it names and that are no files, by name.
            notes: What the user should know beside.
            origin: How such a model is made, for the manifest, so that it can be made again.

        Raises:
            InputError: It is not valid.
        """
        stages, folder, text = load_recipe(recipe, overrides, known)
        return Job(stages, folder, text, known, objects or {}, notes, origin)

    def plans(self) -> list[Plan]:
        """The plan of every stage; later ones see the results of earlier ones without computing them.

        Raises:
            InputError: Everything that is wrong, found from headers alone.
        """
        if not self._plans:
            results: dict[str, Checkpoint] = {}
            for stage in self.stages:
                self._plans.append(self._plan(stage, results))
                if self._plans[-1].method.parts is not None and stage is not self.stages[-1]:
                    raise InputError(
                        f"{self._plans[-1].method.name} makes a bundle, which no later step can merge",
                        "Only the last step can make one.",
                        f"step {stage.name}",
                    )
                results[stage.name] = lazy(self._plans[-1], stage.name, self.save)
        return self._plans

    def outcome(self) -> Checkpoint | WeightBundle:
        """The result, computed when it is read or saved: a model, or what methods with parts for tasks make."""
        plan = self.plans()[-1]
        return (
            self.checkpoint()
            if plan.method.parts is None
            else bundle_of(plan, self.stages[-1].name or plan.method.name)
        )

    def checkpoint(self) -> Checkpoint:
        """The result as one model, computed when it is read or saved; of a method with parts, what its tasks share."""
        plans = self.plans()
        return lazy(plans[-1], self.stages[-1].name or "merge", self.save)

    def save(self, out: str | Path, **options: Any) -> Result:
        """Write the result as a folder.

        Args:
            out: The folder to make, or a URL such as `s3://bucket/merged`.
            **options: Fields of `modelwright.engine.Options`.

        Raises:
            InputError: The output exists, the disk is too full, an input is not finite.
            RunError: Reading or writing failed.
        """
        choice = Options(**options)
        plans = self.plans()
        if choice.gguf is not None and plans[-1].method.parts is None:
            return self._save_gguf(out, choice)
        place = destination(out, choice)
        if len(plans) == 1:
            return self._execute(plans[0], out, choice)
        for plan in plans:
            check_inputs(plan, place)
        check_engine(self._objects.values(), choice)
        check_out(plans[-1], place, choice)  # before the inputs are read to see which steps are done
        folders = self._step_folders(place.steps)
        undone = [name for name, folder in folders.items() if not (folder / "manifest.json").is_file()]
        beside = {stage.name: plan.bytes_out for stage, plan in zip(self.stages, plans, strict=True)}
        check_out(plans[-1], place, choice, also=sum(beside[name] for name in undone))
        results: dict[str, Checkpoint] = {}
        for stage in self.stages[:-1]:
            folder = folders[stage.name]
            if stage.name in undone:
                execute(self._plan(stage, results), folder, replace(choice, overwrite=False, staging=None))
            results[stage.name] = open_checkpoint(folder, label=stage.name)
        result = self._execute(self._plan(self.stages[-1], results), out, choice)
        kept = f"the results of the steps are kept in '{place.steps}' for the next run; delete it when you are content"
        return replace(result, notes=(*result.notes, kept))

    def _execute(self, plan: Plan, out: str | Path, choice: Options) -> Result:
        if plan.method.parts is None:
            if choice.refer_base:
                raise InputError(f"--refer-base (refer_base=) is for bundles, and {plan.method.name} makes one model")
            return execute(plan, out, choice)
        return bundle_of(plan, plan.method.name).save(out, **vars(choice))

    def _save_gguf(self, out: str | Path, choice: Options) -> Result:
        """Write the result as a GGUF file; computed in float32 unless the recipe says otherwise, to be rounded only once."""
        last = self.stages[-1]
        if last.recipe.out_dtype is None and last.recipe.dtype is None:
            last = replace(last, recipe=last.recipe.model_copy(update={"out_dtype": "float32"}))
        job = Job(
            [*self.stages[:-1], last], self._folder, self._text, self._known, self._objects, self._notes, self._origin
        )
        plan = job.plans()[-1]
        return execute_gguf(plan, lazy(plan, last.name or "merge", self.save, choice), out, choice)

    def _step_folders(self, steps: Path) -> dict[str, Path]:
        """Where each step's result lies, or is to lie: named by what it depends on."""
        keys: dict[str, str] = {}
        for stage in self.stages[:-1]:
            keys[stage.name] = self._key(stage, keys)
        return {name: steps / f"{name}-{key[:12]}" for name, key in keys.items()}

    def _plan(self, stage: Stage, results: Mapping[str, Checkpoint]) -> Plan:
        opener = self._opener(results)
        plan = resolve(stage.recipe, opener=opener, registry=self._known, lines=stage.lines, text=self._text)
        notes, folder = (*self._notes, *plan.notes), str(self._folder.absolute())
        return replace(plan, notes=notes, folder=folder, origin=self._origin)

    def _opener(self, results: Mapping[str, Checkpoint]) -> Callable[[str], Checkpoint]:
        def opener(reference: str) -> Checkpoint:
            if reference in results:
                return results[reference]
            if reference in self._objects:
                return self._objects[reference]
            if reference not in self._opened:
                later = [stage.name for stage in self.stages if stage.name == reference]
                if later:
                    raise InputError(
                        f"the step '{reference}' is not made before this one", "A step can use the steps above it."
                    )
                self._opened[reference] = open_model(reference, folder=self._folder)
            return self._opened[reference]

        return opener

    def _key(self, stage: Stage, keys: Mapping[str, str]) -> str:
        """What a step's result depends on: its text, the bytes of its inputs, the method's code, and this version."""
        contents: dict[str, str] = {}
        opener = self._opener({})
        for reference in sorted(_references(stage.recipe.model_dump())):
            contents[reference] = keys[reference] if reference in keys else content_hash(opener(reference))
        said = stage.recipe.model_dump(mode="json", exclude={"name"})
        code = method_source(self._known.find(stage.recipe.merge_method))
        text = json.dumps([version("modelwright"), code, said, contents], sort_keys=True)
        return xxhash.xxh3_128_hexdigest(text.encode())


def _references(node: Any) -> set[str]:
    """Every model that a dumped recipe names."""
    found: set[str] = set()
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("model", "base_model") and isinstance(value, str):
                found.add(value)
            else:
                found |= _references(value)
    elif isinstance(node, list):
        for value in node:
            found |= _references(value)
    return found


def content_hash(model: Checkpoint) -> str:
    """A hash of everything in a checkpoint that a merge can depend on."""
    digest = xxhash.xxh3_128()
    for name, ref in model.items():
        digest.update(f"{name} {ref.dtype.code} {ref.shape}\n".encode())
        digest.update(np.ascontiguousarray(ref.read()).reshape(-1).view(np.uint8).data)
    if model.path is not None and model.path.is_dir():
        for path in sorted(model.path.rglob("*")):
            if path.is_file() and path.suffix in SIDE_SUFFIXES and path.name != "manifest.json":
                digest.update(path.relative_to(model.path).as_posix().encode() + b"\n" + path.read_bytes())
    return digest.hexdigest()
