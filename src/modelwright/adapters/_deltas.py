"""What several adapters change of one base, tensor by tensor: the task vectors that merging is about."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from modelwright.checkpoint import (
    AdaptedModule,
    Adapter,
    Change,
    Checkpoint,
    Joined,
    NumpyArray,
    TensorRef,
    join_adapter,
)
from modelwright.errors import InputError, listing
from modelwright.tensors import DTYPES, DType, Product, promote

F32 = DTYPES["F32"]


@dataclass(frozen=True)
class Unit:
    """A module that at least one adapter changes.

    Attributes:
        module: Its path, as adapters name it.
        kind: `lora`, or `embedding` for a table of embeddings.
        shape: Of what is added: (out, in), with the kernel's axes for convolutions; (rows, width) for embeddings.
        members: What each adapter does to it; None where one leaves it alone.
        own: What adapters bring in place of the model's weight, the same in all.
        changes: Of members that need the base: the change, and the base's weight.
    """

    module: str
    kind: str
    shape: tuple[int, ...]
    members: tuple[AdaptedModule | None, ...]
    own: TensorRef | None = None
    changes: Mapping[int, tuple[Change, TensorRef]] = field(default_factory=dict[int, tuple[Change, TensorRef]])

    @property
    def flat(self) -> tuple[int, int]:
        """Shape as a matrix."""
        return self.shape[0], math.prod(self.shape[1:])

    @property
    def rank(self) -> int | None:
        """The sum of the adapters' ranks, at which their sum is exact; None where a member has no factors."""
        ranks = [member.rank if member.linear else None for member in self.members if member is not None]
        return None if any(rank is None for rank in ranks) else min(sum(rank or 0 for rank in ranks), *self.flat)

    @property
    def factored(self) -> bool:
        """Whether every member is a product of two factors."""
        return all(m is None or (m.linear and m.rank is not None) for m in self.members)

    def factors(self, index: int) -> Product | None:
        """What an adapter adds, as a product; None where it leaves the module alone."""
        member = self.members[index]
        return None if member is None else member.factors()

    def delta(self, index: int) -> NumpyArray:
        """What an adapter adds, float32 as a matrix."""
        member = self.members[index]
        if member is None:
            return np.zeros(self.flat, np.float32)
        if member.linear:
            return member.delta().reshape(self.flat).astype(np.float32, copy=False)
        change, ref = self.changes[index]
        weight = ref.read().astype(np.float64)
        made = change.module.changed(weight, weight, change.transposed) - weight
        return (made.T if change.transposed else made).reshape(self.flat).astype(np.float32)


@dataclass(frozen=True)
class Deltas:
    """Several adapters of one base.

    Attributes:
        adapters: The adapters.
        units: Every module that one of them changes.
        biases: Names of biases, `..bias` -> what each adapter adds; None where it adds nothing.
        saved: Tensors that are brought whole -> those of each adapter, None where it brings none.
        base: What they were trained on, or None.
        base_names: Names of saved tensors in the base.
        dtype: The widest format of their factors.
    """

    adapters: tuple[Adapter, ...]
    units: Mapping[str, Unit]
    biases: Mapping[str, tuple[AdaptedModule | None, ...]]
    saved: Mapping[str, tuple[TensorRef | None, ...]]
    base: Checkpoint | None
    base_names: Mapping[str, str]
    dtype: DType

    def task_vectors(self, absolute: bool) -> list[Checkpoint]:
        """One checkpoint for each adapter: what it adds to each tensor, computed when it is read.

        Args:
            absolute: Whether tensors that are brought whole stand as they are, and not as differences from the base.
        """
        return [
            Checkpoint(dict(self._vector(i, absolute)), label=f"{adapter.label} ({i + 1})")
            for i, adapter in enumerate(self.adapters)
        ]

    def _vector(self, index: int, absolute: bool) -> Iterator[tuple[str, TensorRef]]:
        for unit in self.units.values():
            yield f"{unit.module}.weight", TensorRef(F32, unit.flat, partial(unit.delta, index), unit.module)
        for name, members in self.biases.items():
            size = next(m.bias.size for m in members if m is not None and m.bias is not None)
            yield name, TensorRef(F32, (size,), partial(_bias, members[index], size), name)
        for name, refs in self.saved.items():
            shape = next(ref.shape for ref in refs if ref is not None)
            yield name, TensorRef(F32, shape, partial(self._saved, name, refs[index], absolute), name)

    def _saved(self, name: str, ref: TensorRef | None, absolute: bool) -> NumpyArray:
        if absolute:
            assert ref is not None
            return ref.read().astype(np.float32)
        below = self.base_of(name)
        return (below.read() if ref is None else ref.read()).astype(np.float32) - below.read().astype(np.float32)

    def base_of(self, name: str) -> TensorRef:
        """The base's tensor that adapters bring their own of."""
        assert self.base is not None
        return self.base[self.base_names[name]]

    def zeros(self) -> Checkpoint:
        """The base of task vectors."""
        refs = dict(self.task_vectors(absolute=True)[0])
        return Checkpoint(
            {
                name: TensorRef(F32, ref.shape, partial(np.zeros, ref.shape, np.float32), "zero")
                for name, ref in refs.items()
            },
            label="no change",
        )


def _bias(member: AdaptedModule | None, size: int) -> NumpyArray:
    if member is None or member.bias is None:
        return np.zeros(size, np.float32)
    return np.float32(member.scale) * member.bias.read().astype(np.float32)


def deltas(adapters: Sequence[Adapter], base: Checkpoint | None) -> Deltas:
    """Lay adapters beside each other.

    Args:
        adapters: At least one; all from folders of peft, or all from files of one form.
        base: What they were trained on; needed by those whose change depends on the weight (DoRA, IA3).

    Raises:
        InputError: They do not fit each other or the base, or need a base.
    """
    forms = {adapter.form: adapter.label for adapter in adapters}
    if len(forms) > 1:
        raise InputError(
            f"the adapters name modules in different ways: {listing(f'{label} as {form}' for form, label in forms.items())}",
            "Convert them to one form first.",
        )
    joined = [join_adapter(base, adapter) for adapter in adapters] if base is not None else None
    if joined is None:
        _check_baseless(adapters)
    units: dict[str, Unit] = {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.modules):
        units[name] = _unit(name, adapters, joined, base)
    biases = {
        f"{name}.bias": unit.members
        for name, unit in units.items()
        if any(member is not None and member.bias is not None for member in unit.members)
    }
    saved, names = _saved_tensors(adapters, joined)
    formats = [ref.dtype for adapter in adapters for ref in adapter.tensors.values()]
    return Deltas(tuple(adapters), units, biases, saved, base, names, promote(formats))


def _check_baseless(adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        dependent = [m for m in adapter.modules.values() if not m.linear]
        if dependent:
            kind = "IA3" if dependent[0].kind == "ia3" else "DoRA"
            raise InputError(
                f"{adapter.label}: what {kind} adds depends on the weights it was trained on", "Give --base (base=)."
            )


def _unit(name: str, adapters: Sequence[Adapter], joined: Sequence[Joined] | None, base: Checkpoint | None) -> Unit:
    members = tuple(adapter.modules.get(name) for adapter in adapters)
    changes: dict[int, tuple[Change, TensorRef]] = {}
    shapes: dict[tuple[int, ...], str] = {}
    for i, member in enumerate(members):
        if member is None:
            continue
        shape = member.shape
        if not member.linear:
            assert joined is not None
            assert base is not None
            target, change = next((t, c) for t, c in joined[i].weights.items() if c.module is member)
            changes[i] = change, base[target]
            stored = base[target].shape
            shape = stored[::-1] if change.transposed else stored
        assert shape is not None
        shapes[(shape[0], math.prod(shape[1:]))] = adapters[i].label
    if len(shapes) > 1:
        raise InputError(
            f"the adapters differ in the shape of '{name}': {listing(f'{list(s)} in {label}' for s, label in shapes.items())}",
            "They were trained on different models.",
        )
    present = [m for m in members if m is not None]
    kinds = {m.kind == "embedding" for m in present}
    if len(kinds) > 1:
        raise InputError(f"'{name}' is a table of embeddings in one adapter, and a matrix in another")
    full = max(
        (m.shape for m in present if m.shape), key=len, default=next(iter(shapes))
    )  # a kernel's axes, if any tells
    if any(m.kind == "ia3" or m.magnitude is not None for m in present):
        ref, transposed = next((ref, c.transposed) for c, ref in changes.values())
        full = ref.shape[::-1] if transposed else ref.shape
    return Unit(name, "embedding" if True in kinds else "lora", full, members, _own(name, present), changes)


def _own(name: str, members: Sequence[AdaptedModule]) -> TensorRef | None:
    owns = [member.own for member in members]
    first = next((own for own in owns if own is not None), None)
    if first is None:
        return None
    if any(own is None or not np.array_equal(own.read(), first.read()) for own in owns):
        raise InputError(
            f"the adapters bring different weights of '{name}' to stand under their factors",
            "They were trained on different models, or on vocabularies of different sizes.",
        )
    return first


def _saved_tensors(
    adapters: Sequence[Adapter], joined: Sequence[Joined] | None
) -> tuple[dict[str, tuple[TensorRef | None, ...]], dict[str, str]]:
    """Tensors that are brought whole, and their names in the base."""
    saved: dict[str, tuple[TensorRef | None, ...]] = {}
    names: dict[str, str] = {}
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.saved):
        refs = tuple(adapter.saved.get(name) for adapter in adapters)
        shapes = {ref.shape for ref in refs if ref is not None}
        if len(shapes) > 1:
            raise InputError(
                f"the adapters bring '{name}' in different shapes: {listing(list(shape) for shape in shapes)}",
                "Such heads belong to different tasks: merge adapters without them.",
            )
        saved[name] = refs
        for each in joined or ():
            ref = each.adapter.saved.get(name)
            names.update((name, target) for target, whole in each.whole.items() if ref is whole)
    return saved, names
