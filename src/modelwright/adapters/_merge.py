"""Merging adapters into one: on factors where that is exact, else on task vectors, one module at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.adapters._deltas import Deltas, Unit, deltas
from modelwright.adapters._knots import KNOTS
from modelwright.adapters._lego import LORA_LEGO, check_factors
from modelwright.adapters._method import AdapterMethod
from modelwright.adapters._mos import MOS, mos_tensors
from modelwright.adapters._sums import CAT, SVD
from modelwright.adapters._write import ONE_FILE, Draft, Tuned, array, rounded, stored, writing
from modelwright.api import Job, direct_recipe, open_model as open_checkpoint, registry
from modelwright.checkpoint import Adapter, Checkpoint, NumpyArray, open_adapter, user_path
from modelwright.errors import InputError, did_you_mean, listing
from modelwright.methods import Method, Registry
from modelwright.methods._lowered import Lowered, Shape
from modelwright.recipe import PlannedTensor, override
from modelwright.surgery._rank import Rank
from modelwright.tensors import (
    NoiseKey,
    Product,
    dtype as find_dtype,
    product_distance,
    product_norm,
    product_svd,
    stacked,
)

#: The methods that are about adapters alone, by name.
ADAPTER_METHODS: Mapping[str, AdapterMethod] = {m.name: m for m in (CAT, SVD, KNOTS, LORA_LEGO, MOS)}
#: Methods of the library whose result on base + task vectors is not the base + that on the task vectors: they look at weights.
ON_WEIGHTS = frozenset({"arcee_fusion", "karcher", "layer_swap", "passthrough", "slerp"})
#: What is below this share of what was merged is rounding in float32.
EXACT = 1e-6


@dataclass(frozen=True)
class MergedModule:
    """What became of one module.

    Attributes:
        module: Its path.
        rank: Of the merged factors; 0 where nothing is left.
        norm: Of what the method gave.
        error: Norm of what the factors lose of that, over the norm.
    """

    module: str
    rank: int
    norm: float
    error: float


@dataclass(frozen=True)
class MergedAdapter:
    """An adapter, merged and ready to be saved.

    Attributes:
        checkpoint: Its tensors, in memory, and its configuration.
        modules: Of each module what became of it.
        notes: What the user should know.
    """

    checkpoint: Checkpoint
    modules: tuple[MergedModule, ...]
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """What is lost in all modules together, over the norm of what was merged."""
        whole = sum(module.norm**2 for module in self.modules)
        lost = sum((module.error * module.norm) ** 2 for module in self.modules)
        return math.sqrt(lost / whole) if whole else 0.0

    @property
    def exact(self) -> bool:
        """Whether nothing is lost beyond rounding."""
        return all(module.error <= EXACT for module in self.modules)

    def save(self, out: str | Path, **options: Any) -> Any:
        """Write it as a folder, through the engine; the options are those of `Checkpoint.save`."""
        return writing(self.checkpoint).save(out, **{**options, "shard_bytes": ONE_FILE})


def merge_adapters(
    adapters: Sequence[str | Path | Adapter],
    *,
    method: str,
    base: Any = None,
    rank: int | str | None = None,
    exact: bool = False,
    out_dtype: Any = None,
    seed: int | None = None,
    semantics: str | None = None,
    overrides: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
    threads: int = 0,
    **parameters: Any,
) -> MergedAdapter:
    """Merge adapters of one base into one adapter.

    What comes out adds to a model what the method makes of what the adapters add. A module that an adapter does not tune it leaves as
    it is: it takes part with zeros.

    Args:
        adapters: Folders of peft, LoRA files, or what `open_adapter` gives.
        method: `cat`, `svd`, `knots`, `lora_lego`, `mos`, an average (`linear`, `swa`, `ema`) or any method on task vectors, such as
            `task_arithmetic`, `ties` or `della`.
        base: What the adapters were trained on. Needed where what one adds depends on it (DoRA, IA3), and where tensors that adapters
            bring whole (modules_to_save) are merged by more than an average.
        rank: Of the result: a number, `energy:0.99` (of each module the least rank that keeps this share of the squared norm),
            or `error:0.01` (that loses no more than this share of the norm). Default the sum of the ranks.
        exact: Refuse a result that loses more than rounding of what the method gives.
        out_dtype: Format of the result; default the widest of the adapters'.
        seed: Of random methods.
        semantics: `community` or `paper`, for the methods that models are merged by too.
        overrides: `key=value` texts, as `--set` takes them; a list is a value for each adapter.
        plugins: Python files with further methods.
        threads: Modules at a time; 0 for the number of cores.
        **parameters: The method's parameters; a list gives each adapter its own.

    Returns:
        A `MergedAdapter`: errors by module, and `.save(folder)`.

    Raises:
        InputError: The adapters do not fit each other, the base or the method; nothing was written.
        MissingExtraError: The method needs a package that is not installed.

    Example:
        >>> from modelwright.adapters import merge_adapters
        >>> merged = merge_adapters(["style", "subject"], method="svd", rank="energy:0.99")  # doctest: +SKIP
        >>> merged.error, merged.save("both")  # doctest: +SKIP
    """
    read = [each if isinstance(each, Adapter) else open_adapter(user_path(each)) for each in adapters]
    if not read:
        raise InputError("merging needs at least one adapter, and the list is empty")
    known = registry(plugins)
    sets, format_ = _format(overrides, out_dtype)
    wanted = Rank.of(rank) if rank is not None else None
    opened = open_checkpoint(base) if base is not None else None
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in parameters.items()}
    record = {
        "method": method,
        "adapters": [each.label for each in read],
        "parameters": told,
        "set": sets,
        "rank": rank,
    }
    if method == "mos":
        return _mos(read, MOS.parameters(_given(sets, parameters), len(read)), record, wanted)
    if method in ADAPTER_METHODS:
        found = deltas(read, opened)
        road = _own_road(ADAPTER_METHODS[method], found, _given(sets, parameters), seed, wanted)
    else:
        _check_method(method, known)
        found = deltas(read, opened)
        road = _library_road(known.find(method), found, parameters, sets, known, {"seed": seed, "semantics": semantics})
    merged = _merged(found, road, wanted, find_dtype(format_) if format_ else found.dtype, threads, record)
    if exact and not merged.exact:
        worst = max(merged.modules, key=lambda module: module.error)
        raise InputError(
            f"{method} is not exact here: {merged.error:.3g} of the norm is lost, most of it {worst.error:.3g} in '{worst.module}'",
            "Give a higher --rank, or --set out_dtype=float32 where rounding is what is lost, or leave --exact out.",
        )
    return merged


def _format(overrides: Sequence[str], out_dtype: Any) -> tuple[list[str], str | None]:
    """The overrides that are parameters, and the format of the result."""
    rest = [entry for entry in overrides if not entry.startswith("out_dtype=")]
    asked = [entry.partition("=")[2] for entry in overrides if entry.startswith("out_dtype=")]
    if not asked and out_dtype is None:
        return rest, None
    name = str(asked[-1] if asked else getattr(out_dtype, "__name__", out_dtype)).removeprefix("torch.")
    if name not in ("float32", "float16", "bfloat16"):
        raise InputError(f"out_dtype must be float32, float16 or bfloat16, got '{name}'")
    return rest, name


def _given(overrides: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of an adapter method by the names of recipes; `a,b` gives each adapter its own."""
    values = {"lambda" if name == "lambda_" else name: value for name, value in parameters.items()}
    for entry in overrides:
        key, equals, text = entry.partition("=")
        if not equals or not key:
            raise InputError(f"--set needs key=value, got '{entry}'", "Write --set weight=0.5.")
        pieces = [_value(piece) for piece in text.split(",")]
        values[key] = pieces if len(pieces) > 1 else pieces[0]
    return values


def _value(text: str) -> Any:
    """A number, a truth value or a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_method(name: str, known: Registry) -> None:
    """Refuse, with all that there are, what does not go with adapters."""
    if name not in known:
        raise InputError(f"unknown merge method '{name}'", did_you_mean(name, [*known, *ADAPTER_METHODS], 60))
    if known[name].parts is not None:
        raise InputError(f"{name} makes a bundle, and not an adapter", "Use another method, or merge the models.")
    if name in ON_WEIGHTS:
        raise InputError(
            f"{name} looks at weights, and not only at what adapters add to them",
            "Merge the models with the adapters in them: mw merge BASE+A BASE+B, or a recipe.",
        )


# --- how each module is merged ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Road:
    """How a method gets at each module.

    Attributes:
        product: The merged product of a module; None where it has to be a matrix.
        matrix: The merged matrix of a module.
        other: A merged bias, or a whole tensor without its base, by name.
        absolute: Whether whole tensors are merged as they are, without a base.
    """

    product: Callable[[Unit], Product | None]
    matrix: Callable[[Unit], NumpyArray]
    other: Callable[[str], NumpyArray]
    absolute: bool = False


def _own_road(
    method: AdapterMethod, found: Deltas, given: Mapping[str, Any], seed: int | None, rank: Rank | None
) -> Road:
    count = len(found.adapters)
    values = method.parameters(given, count)
    if count < method.models:
        raise InputError(f"{method.name} needs at least {method.models} adapters, got {count}")
    if method is SVD and rank is None:
        raise InputError(
            "svd needs a rank to bring the sum to", "Add --rank 16, energy:0.99 or error:0.01; cat keeps all of it."
        )
    if method is CAT and rank is not None:
        raise InputError("cat keeps every rank, so it has no --rank", "Use svd.")
    if method.factors:
        for unit in found.units.values():
            dense = [_kind(m) for m in unit.members if m is not None]
            check_factors(method.name, unit.module, dense)
    function = method.function
    assert function is not None
    weights = values["weight"]
    absolute = method.sums and abs(sum(weights) - 1) < 1e-12 and _all_bring(found)
    _check_saved(found, absolute)
    vectors = found.task_vectors(absolute)

    def product(unit: Unit) -> Product | None:
        if method.sums and not unit.factored:
            return None
        here = [i for i, member in enumerate(unit.members) if member is not None]
        products = [_product(unit, i) for i in here]
        extra: dict[str, Any] = {"key": NoiseKey(seed or 0, unit.module)} if method.random else {}
        return function(products, **{**values, "weight": [weights[i] for i in here]}, **extra)

    def summed(name: str) -> NumpyArray:
        arrays = [np.float32(w) * each[name].read() for w, each in zip(weights, vectors, strict=True)]
        return sum(arrays[1:], arrays[0])

    return Road(product, lambda unit: summed(f"{unit.module}.weight"), summed, absolute)


def _kind(member: Any) -> str:
    return "dora" if member.magnitude is not None else member.kind


def _product(unit: Unit, index: int) -> Product:
    """What an adapter adds as a product, whatever its kind: a full matrix is itself times the identity."""
    member = unit.members[index]
    if member is not None and member.linear and member.rank is not None:
        return member.factors()
    u, s, vt = np.linalg.svd(unit.delta(index).astype(np.float64), full_matrices=False)
    return u * s, vt


def _library_road(
    method: Method,
    found: Deltas,
    parameters: Mapping[str, Any],
    sets: Sequence[str],
    known: Registry,
    extra: Mapping[str, Any],
) -> Road:
    """By a method that models are merged by: its recipe, on task vectors and a base of zeros."""
    average = method.base == "ignored"
    normalized = str(_given(sets, parameters).get("normalize", True)).lower() not in ("false", "0")
    absolute = average and normalized and _all_bring(found)
    _check_saved(found, absolute)
    vectors = found.task_vectors(absolute)
    data, objects, notes = direct_recipe(vectors, method.name, None if average else found.zeros(), parameters, known)
    data |= {key: value for key, value in extra.items() if value is not None}
    for entry in sets:
        override(data, entry, known)
    job = Job.from_recipe(data | {"out_dtype": "float32"}, [], known, objects, notes)
    plan = job.plans()[-1]
    planned = {tensor.name: tensor for tensor in plan.tensors}
    checkpoint = job.checkpoint()

    def product(unit: Unit) -> Product | None:
        weights = _weights(method, planned[f"{unit.module}.weight"], len(vectors)) if unit.factored else None
        if weights is None:
            return None
        factors = [(unit.factors(i), w) for i, w in enumerate(weights)]
        return stacked([(up * w, down) for (up, down), w in ((f, w) for f, w in factors if f is not None)])

    def read(name: str) -> NumpyArray:
        return checkpoint[name].read()

    return Road(product, lambda unit: read(f"{unit.module}.weight"), read, absolute)


def _weights(method: Method, tensor: PlannedTensor, count: int) -> list[float] | None:
    """The factors of the adapters, where the method is a weighted sum here; None where it is more."""
    if method.lower is None or len(tensor.inputs) != count:
        return None
    shape = Shape(
        tensor.size, tensor.size, len(tensor.shape), tensor.shape[-1], count, tensor.base is not None, tensor.position
    )
    lowered = method.lower(tensor.parameters, shape)
    if not isinstance(lowered, Lowered) or lowered.elect or lowered.gram or lowered.coefficients:
        return None
    if any(keep is not None for keep in lowered.keep):
        return None
    return [float(w) * lowered.scale / (lowered.divisor or 1.0) for w in lowered.weights]


def _all_bring(found: Deltas) -> bool:
    return all(all(ref is not None for ref in refs) for refs in found.saved.values())


def _check_saved(found: Deltas, absolute: bool) -> None:
    if not found.saved or absolute:
        return
    names = listing(found.saved, 3)
    if found.base is None:
        raise InputError(
            f"the adapters bring tensors of their own ({names}), and what they change of the base's is to be merged",
            "Give --base (base=), or average adapters that all bring them: --method linear.",
        )
    if lost := [name for name in found.saved if name not in found.base_names]:
        raise InputError(
            f"the base does not have {listing(lost, 3)}, which adapters bring", "Merge them by --method linear."
        )
    if new := [name for name, target in found.base_names.items() if target not in found.base]:
        raise InputError(
            f"the base does not have {listing(new, 3)}, which adapters bring", "Merge them by --method linear."
        )


# --- putting it together ------------------------------------------------------------------------------------------------


def _merged(
    found: Deltas, road: Road, rank: Rank | None, dtype: Any, threads: int, record: Mapping[str, Any]
) -> MergedAdapter:
    units = list(found.units.values())
    _check_ranks(units, rank, road)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        done = list(pool.map(lambda unit: _module(unit, road, rank, dtype), units))
    tuned: list[Tuned] = []
    for unit, (product, _) in zip(units, done, strict=True):
        bias = road.other(f"{unit.module}.bias") if f"{unit.module}.bias" in found.biases else None
        if product[0].shape[1] == 0:
            if bias is None or not bias.any():
                continue
            up, down = product
            product = np.zeros((unit.flat[0], 1), up.dtype), np.zeros((1, unit.flat[1]), down.dtype)
        tuned.append(
            Tuned(unit.module, unit.kind, unit.shape, product, None if bias is None else rounded(bias, dtype), unit.own)
        )
    saved = {name: array(_whole(found, road, name)) for name in found.saved}
    modules = tuple(module for _, module in done)
    empty = [module.module for module in modules if module.rank == 0]
    notes = [f"nothing is left of {listing(empty, 3)}"] if empty else []
    label = f"{record['method']} of {listing(record['adapters'], 3)}"
    errors = {module.module: {"rank": module.rank, "error": module.error} for module in modules}
    draft = Draft(
        label, tuned, saved, _bias_names(found), found.adapters[0].form, _carried(found.adapters),
        tuple(adapter.path for adapter in found.adapters), tuple(notes), {**record, "modules": errors},
    )  # fmt: skip
    return MergedAdapter(draft.checkpoint(), modules, tuple(notes))


def _check_ranks(units: Iterable[Unit], rank: Rank | None, road: Road) -> None:
    dense = next((unit for unit in units if unit.rank is None), None)
    if rank is None and dense is not None:
        kind = next(_kind(m) for m in dense.members if m is not None and (m.rank is None or not m.linear))
        raise InputError(
            f"what {kind} adds to '{dense.module}' is no product of factors, so the result needs a rank",
            "Add --rank 16, energy:0.99 or error:0.01.",
        )


def _module(unit: Unit, road: Road, rank: Rank | None, dtype: Any) -> tuple[Product, MergedModule]:
    """One module: merged, brought to its rank, rounded, and what that loses."""
    try:
        merged = road.product(unit)
        if merged is not None:
            return _of_product(unit, merged, rank, dtype)
        return _of_matrix(unit, road.matrix(unit), rank, dtype)
    except InputError as error:
        raise InputError([replace(p, where=p.where or unit.module) for p in error.problems]) from None


def _of_product(unit: Unit, merged: Product, rank: Rank | None, dtype: Any) -> tuple[Product, MergedModule]:
    _check_finite(unit, *merged)
    norm = product_norm(merged)
    product = merged
    most = min(unit.flat)
    if norm == 0:
        product = merged[0][:, :0], merged[1][:0]
    elif rank is not None or merged[0].shape[1] > most:
        u, s, vt = product_svd(merged)
        count = _count(s, rank, most)
        share = np.sqrt(s[:count])
        product = u[:, :count] * share, share[:, None] * vt[:count]
    stored = rounded(product[0], dtype), rounded(product[1], dtype)
    _check_finite(unit, *stored)
    error = product_distance(merged, _wide(stored)) / norm if norm and stored is not merged else 0.0
    return stored, MergedModule(unit.module, stored[0].shape[1], norm, _clean(error))


def _of_matrix(unit: Unit, matrix: NumpyArray, rank: Rank | None, dtype: Any) -> tuple[Product, MergedModule]:
    _check_finite(unit, matrix)
    norm = float(np.linalg.norm(matrix.astype(np.float64)))
    wanted = rank or Rank(count=unit.rank)
    if norm == 0:
        factors: Product = np.zeros((matrix.shape[0], 0), np.float32), np.zeros((0, matrix.shape[1]), np.float32)
    else:
        most = min(matrix.shape)
        factors = (
            wanted.factors(matrix, most)
            if wanted.count is None or wanted.count < most
            else Rank(count=most).factors(matrix, most)
        )  # type: ignore[assignment]
    assert factors is not None
    stored = rounded(factors[0], dtype), rounded(factors[1], dtype)
    _check_finite(unit, *stored)
    up, down = _wide(stored)
    error = float(np.linalg.norm(matrix.astype(np.float64) - up @ down)) / norm if norm else 0.0
    return stored, MergedModule(unit.module, stored[0].shape[1], norm, _clean(error))


def _wide(product: Product) -> Product:
    return product[0].astype(np.float64), product[1].astype(np.float64)


def _clean(error: float) -> float:
    return 0.0 if error < 1e-12 else error


def _count(s: NumpyArray, rank: Rank | None, most: int) -> int:
    """How many directions are kept."""
    held = int(np.sum(s > 1e-12 * s[0]))
    if rank is None:
        return min(held, most)
    if rank.count is not None:
        return min(rank.count, held)
    assert rank.energy is not None
    total = np.cumsum(s**2)
    return min(int(np.searchsorted(total, rank.energy * total[-1])) + 1, held)


def _check_finite(unit: Unit, *arrays: NumpyArray) -> None:
    if not all(np.isfinite(values.astype(np.float32)).all() for values in arrays):
        raise InputError(
            f"'{unit.module}' holds or becomes NaN or infinity",
            "Mend the adapter, lower the weights, or set out_dtype=float32.",
        )


def _whole(found: Deltas, road: Road, name: str) -> NumpyArray:
    """A tensor that adapters bring whole, merged."""
    ref = next(ref for ref in found.saved[name] if ref is not None)
    made = road.other(name)
    if not road.absolute:
        made = found.base_of(name).read().astype(np.float32) + made
    return rounded(made, ref.dtype)


def _bias_names(found: Deltas) -> frozenset[str]:
    biased = [a for a in found.adapters if str(a.config.get("bias", "none")) not in ("none", "False")]
    kept = [str(name) for a in found.adapters for name in a.config.get("modules_to_save") or ()]
    return frozenset(
        name
        for name in found.saved
        if biased and name.endswith("bias") and not any(f".{name}".rpartition(".")[0].endswith(f".{k}") for k in kept)
    )


def _carried(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """What the merged adapter's configuration says of base, task and layout."""
    first = adapters[0].config
    carried = {
        key: first[key] for key in ("base_model_name_or_path", "revision", "task_type", "auto_mapping") if key in first
    }
    turned = any(adapter.config.get("fan_in_fan_out") for adapter in adapters)
    return carried | {"fan_in_fan_out": turned}


def _mos(
    read: Sequence[Adapter], values: Mapping[str, Any], record: Mapping[str, Any], rank: Rank | None
) -> MergedAdapter:
    """Parameter by parameter, into an adapter like the last one."""
    if rank is not None:
        raise InputError("mos keeps the rank of the newest adapter, so it has no --rank", "Use svd afterwards.")
    newest = read[-1]
    for other in read[:-1]:
        same = {name: ref.shape for name, ref in other.tensors.items()} == {
            n: r.shape for n, r in newest.tensors.items()
        }
        scales = {n: m.scale for n, m in other.modules.items()} == {n: m.scale for n, m in newest.modules.items()}
        if not same or not scales:
            raise InputError(
                f"mos averages parameters, and {other.label} has other tensors, shapes or scales than {newest.label}",
                "It is for adapters trained one after the other from each other; use cat or svd.",
            )
    arrays = [{name: ref.read() for name, ref in each.tensors.items()} for each in read]
    made = mos_tensors(arrays, **values)
    beside: dict[str, Path | str] = {"modelwright_adapter.json": json.dumps(record, indent=1) + "\n"}
    if newest.form == "peft":
        beside["adapter_config.json"] = json.dumps(dict(newest.config), indent=2) + "\n"
    stem = "adapter_model" if newest.form == "peft" else "pytorch_lora_weights"
    checkpoint = stored(
        {name: array(value) for name, value in made.items()}, f"mos of {listing((r.label for r in read), 3)}", stem, beside,
        tuple(adapter.path for adapter in read),
    )  # fmt: skip
    modules = tuple(MergedModule(name, module.rank or 0, 0.0, 0.0) for name, module in newest.modules.items())
    return MergedAdapter(checkpoint, modules)
