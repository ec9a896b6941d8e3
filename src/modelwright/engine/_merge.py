"""How each tensor of a plan is merged: by the fused kernels where it can be, by the array function where it cannot."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from modelwright.checkpoint import NumpyArray
from modelwright.engine._device import on
from modelwright.engine._journal import Listener, RangeDone
from modelwright.engine._output import Memory, Output
from modelwright.engine._sources import (
    BLOCK,
    COUNTERS,
    LONGEST,
    MOST_COUNTED,
    MOST_HELD,
    MOST_SAMPLED,
    RANGE,
    Scratch,
    Sources,
    block_length,
    blocks,
    ranges,
)
from modelwright.engine._whole import Look, NotFiniteError, bytes_of, compute, facts_for, too_large, wide_inputs
from modelwright.engine._work import Program, Tally, run_here
from modelwright.errors import RunError
from modelwright.methods import Lowered, PerTensor, Ranks, Round, Shape
from modelwright.recipe import Input, Plan, PlannedTensor, counted_together

if TYPE_CHECKING:  # imported when the first tensor needs it: loading the kernels takes longer than a small merge
    from modelwright.engine._fused import Fused

#: Merges of fewer elements run on the array functions: loading the kernels takes longer.
WORTH = 1 << 22
#: What the compiler takes, where kernels are not on the disk yet.
_COMPILER = 80_000_000
_CODES = ("float32", "float16", "bfloat16")
_scratch = Scratch()


@dataclass
class Findings:
    """What running has shown, for the manifest.

    Attributes:
        digests: Of each input tensor that was read, the hash of each range.
        buffers: Which buffers differ from the donor's.
        changed: Whether anything differs from the base.
        odd: Input tensors with values that are not finite, where that is allowed.
        bytes_done: Bytes that tasks have read, for the progress bar.
    """

    digests: dict[tuple[Input, int], str] = field(default_factory=dict[tuple[Input, int], str])
    buffers: set[str] = field(default_factory=set[str])
    changed: bool = False
    odd: dict[str, int] = field(default_factory=dict[str, int])
    bytes_done: int = 0


def _ranking_bytes(tensor: PlannedTensor, lowered: Lowered | None) -> int:
    """What finding a tensor's thresholds takes at most."""
    if lowered and lowered.by_rank:  # a bit for each entry, and a byte while it is found
        return len(lowered.keep) * (tensor.size // 8 + min(tensor.size, RANGE))
    targets = sum(1 + (keep.start > 0) for keep in lowered.keep if isinstance(keep, Ranks)) if lowered else 0
    if not targets:
        return 0
    near = targets * block_length(len(tensor.sources)) * 4
    counters = min(targets, MOST_COUNTED) * COUNTERS * 8
    sample = 3 * MOST_SAMPLED  # its parts, these as one, and room to select
    return near + sample + min(targets * tensor.size * 4, MOST_HELD) + counters


def _together(lowered: Lowered) -> bool:
    """Whether merging a tensor takes something that is counted over several."""
    return lowered.whole_model or lowered.zero_sign is None


def _thresholds(groups: Sequence[Sequence[Fused]]) -> Program:
    """The thresholds of each group, one after the other: each keeps all threads busy."""
    from modelwright.engine._ranks import find_thresholds

    for group in groups:
        yield from find_thresholds(group)


class Merge:
    """A plan being run.

    Args:
        plan: The plan.
        device: Where array functions compute.
        fused: Whether kernels are used where they can be.
        allow: Whether NaN and infinity may pass.
    """

    def __init__(self, plan: Plan, *, device: str = "cpu", fused: bool = False, allow: bool = False):
        self.plan, self.device, self.allow = plan, device, allow
        self.findings = Findings()
        self.facts: Mapping[str, Any] = {}
        self.merged = [tensor for tensor in plan.tensors if tensor.action == "merge"]
        self._fused = fused and device == "cpu" and not allow
        self._known: dict[str, Fused] = {}
        self._groups = counted_together(plan.method, self.merged)
        sizes = [sum(tensor.size for tensor in group) for group in self._groups]
        self._totals = {tensor.name: n for group, n in zip(self._groups, sizes, strict=True) for tensor in group}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs in order to merge tensors of the plan too; it has findings of its own."""
        return {name: value for name, value in vars(self).items() if name not in ("findings", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.findings, self._lock = Findings(), threading.Lock()

    # --- facts about the whole model --------------------------------------------------------------------------------

    def survey(self) -> Iterator[tuple[str, int, Program]]:
        """What has to be known of the whole model first: names, bytes read and programs of passes, in order."""
        rounds = [self.plan.method.rounds(group[0].parameters) for group in self._groups]
        if not any(rounds):
            return
        members = self._members()
        if members:
            yield from self._survey_fused(members)
            return
        facts: list[dict[str, Any]] = [{} for _ in self._groups]
        for step, entry in enumerate(max(rounds, key=len)):
            counted = [place for place, some in enumerate(rounds) if step < len(some)]
            total = sum(self.nbytes(self._groups[place]) for place in counted)
            yield entry.name, total, self._round({place: rounds[place][step] for place in counted}, facts)
        self.facts = facts[0] if len(facts) == 1 else self._by_tensor(facts)

    def _by_tensor(self, facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The facts of each group as facts that differ from tensor to tensor."""
        found: dict[str, Any] = {}
        for group, known in zip(self._groups, facts, strict=True):
            for tensor in group:
                for key, value in facts_for(known, tensor.name).items():
                    found.setdefault(key, PerTensor())[tensor.name] = value
        return found

    def _survey_fused(self, members: Mapping[str, Fused]) -> Iterator[tuple[str, int, Program]]:
        groups = [[members[tensor.name] for tensor in group if tensor.name in members] for group in self._groups]
        groups = [group for group in groups if group and _together(group[0].lowered)]
        known = [member for group in groups for member in group]
        total = self.nbytes([member.tensor for member in known])
        for member in known:
            member.told = self._read
        ranked = [group for group in groups if group[0].lowered.whole_model]
        if ranked:
            yield "thresholds", total, _thresholds(ranked)
        if known and known[0].lowered.zero_sign is None:
            yield "majority sign", total, self._majority(known)
        for member in known:
            member.told = None
        self._known = {member.tensor.name: member for member in known}

    def _majority(self, members: Sequence[Fused]) -> Program:
        from modelwright.engine._ranks import find_thresholds

        for member in members:
            if not member.lowered.whole_model:
                yield from find_thresholds([member])
            yield from member.decide()
        net = yield [partial(member.net_sign, number) for member in members for number in range(len(member.ranges))]
        for member in members:
            member.zero_sign = 1.0 if sum(net) > 0 else -1.0

    def _round(self, entries: Mapping[int, Round], facts: Sequence[dict[str, Any]]) -> Program:
        """One map-reduce round of the method's own, by its array functions: of each of some groups, by their places."""
        tallies = {place: Tally() if entry.fold == "sum" else None for place, entry in entries.items()}
        results = yield [
            partial(self._collect, entry, tensor, facts_for(facts[place], tensor.name), tallies[place])
            for place, entry in entries.items()
            for tensor in self._groups[place]
        ]
        start = 0
        for place, entry in entries.items():
            group = self._groups[place]
            found = results[start : start + len(group)]
            start += len(group)
            listed = {tensor.name: result for tensor, result in zip(group, found, strict=True)}
            folded = Tally.total(found) if tallies[place] else listed
            facts[place].update(entry.reduce(folded, group[0].parameters, facts[place]))

    def _collect(self, entry: Round, tensor: PlannedTensor, facts: Mapping[str, Any], tally: Tally | None) -> Any:
        """A tensor's share of a statistic, or the sum that it was added to."""
        with on(self.device), np.errstate(over="ignore", invalid="ignore"):
            models, base = wide_inputs(self.plan, tensor, self.device, Look(self.allow))
            result = entry.collect(models, base, tensor.parameters, facts)
        self._read(self.nbytes([tensor]))
        if tally is None:
            return result
        part = tally.part(lambda: result)  # of counts, so the order does not matter
        return np.add(part, result, out=part)

    # --- tensors ----------------------------------------------------------------------------------------------------

    def programs(
        self,
        output: Output,
        journal: Listener | None = None,
        skip: Mapping[int, set[int]] | None = None,
        some: range | None = None,
    ) -> Iterator[Program]:
        """A program for each tensor that is not finished.

        Args:
            output: Takes the bytes.
            journal: Is told of every range.
            skip: Of each tensor the ranges that are written already.
            some: Which tensors, by their place in the plan; all unless given.
        """
        for index in some or range(len(self.plan.tensors)):
            tensor = self.plan.tensors[index]
            todo = [number for number in range(len(ranges(tensor.size))) if number not in (skip or {}).get(index, ())]
            if todo or not tensor.size:
                yield self._program(index, tensor, todo, output, journal)

    def _program(
        self, index: int, tensor: PlannedTensor, todo: Sequence[int], output: Output, journal: Listener | None
    ) -> Program:
        note = partial(self.note, index, tensor, journal)
        sources = Sources(self.plan.refs(tensor))
        plain = tensor.action != "merge" and all(dtype == tensor.dtype.numpy for dtype in sources.dtypes)
        if plain and sources.streamed:
            yield [partial(self._copy, tensor, sources, number, output, note) for number in todo]
            return
        lowered = self._lowered(tensor)
        unknown = lowered is not None and _together(lowered) and tensor.name not in self._known
        if lowered is None or tensor.size == 0 or unknown:
            yield [partial(self._whole, tensor, output, note)]
        elif sources.streamed:
            yield from self._merge(tensor, lowered, sources, todo, output, note)
        else:  # what has to be read as a whole is merged by one thread, so that few such tensors are in memory
            yield [partial(self._loaded, tensor, lowered, sources, todo, output, note)]

    def _loaded(
        self, tensor: PlannedTensor, lowered: Lowered, sources: Sources, todo: Sequence[int], output: Output, note: Any
    ) -> None:
        sources.load()
        if all(dtype.name in _CODES for dtype in sources.dtypes):
            run_here(self._merge(tensor, lowered, sources, todo, output, note))
        else:
            self._whole(tensor, output, note)

    def _merge(
        self, tensor: PlannedTensor, lowered: Lowered, sources: Sources, todo: Sequence[int], output: Output, note: Any
    ) -> Program:
        from modelwright.engine._fused import Fused
        from modelwright.engine._ranks import find_thresholds
        from modelwright.engine._rows import draw_masks

        member = self._known.get(tensor.name)
        if member is None:
            member = Fused(tensor, lowered, sources, self.plan.recipe.seed)
            yield from find_thresholds([member])
        yield from draw_masks(member)
        yield from member.decide()
        yield [partial(self._combine, member, number, output, note) for number in todo]

    def _combine(self, member: Fused, number: int, output: Output, note: Any) -> None:
        tensor = member.tensor
        size = tensor.dtype.itemsize
        hashes = [xxhash.xxh3_128() for _ in tensor.sources]
        changed = member.combine(
            number,
            lambda at, data: output.write(tensor.name, at * size, data),
            lambda i, data: hashes[i].update(data.data),
        )
        start, stop = member.ranges[number]
        note(number, RangeDone(tuple(one.hexdigest() for one in hashes), changed))
        output.done(tensor.name, start * size, stop * size)

    @contextmanager
    def explained(self) -> Generator[None]:
        """Say of values that are not finite where they are and how many: the kernels only know that there are some."""
        try:
            yield
        except NotFiniteError as error:
            tensor: PlannedTensor = error.member.tensor
            if tensor.action == "merge":
                wide_inputs(self.plan, tensor, "cpu")
            raise RunError(too_large(tensor, "float32", error.member.largest())) from None

    def _whole(self, tensor: PlannedTensor, output: Output, note: Any) -> None:
        look = Look(self.allow)
        array = compute(self.plan, tensor, self.facts, self.device, look)
        flat = bytes_of(array)
        output.write(tensor.name, 0, flat)
        for number in range(len(ranges(tensor.size))):
            read = tuple(hashes[number] for hashes in look.digests)
            note(number, RangeDone(read, look.changed, tuple(look.differs), tuple(look.odd.items())))
        output.done(tensor.name, 0, len(flat))

    def _copy(self, tensor: PlannedTensor, sources: Sources, number: int, output: Output, note: Any) -> None:
        size = tensor.dtype.itemsize
        start, stop = ranges(tensor.size)[number]
        rows = _scratch.rows(len(sources.refs), sources.itemsize)
        hashes = [xxhash.xxh3_128() for _ in sources.refs]
        differs: set[int] = set()
        for at, n in blocks(start, stop, len(sources.refs)):
            parts = [sources.read(i, at, n, rows[i]) for i in range(len(sources.refs))]
            for one, part in zip(hashes, parts, strict=True):
                one.update(part.data)
            output.write(tensor.name, at * size, parts[0])
            differs |= {i for i, part in enumerate(parts) if not np.array_equal(part, parts[0])}
        labels = tuple(self.plan.models[tensor.sources[i].model].label for i in sorted(differs))
        note(number, RangeDone(tuple(one.hexdigest() for one in hashes), differs=labels))
        output.done(tensor.name, start * size, stop * size)

    def note(self, index: int, tensor: PlannedTensor, journal: Listener | None, number: int, done: RangeDone) -> None:
        """Keep what a range has shown, here and in the journal."""
        if journal is not None:
            journal.range(index, number, done)
        self.recall(tensor, number, done)
        start, stop = ranges(tensor.size)[number]
        read = sum(self.plan.models[s.model][s.name].dtype.itemsize for s in tensor.sources) * (stop - start)
        self._read(read)

    def _read(self, count: int) -> None:
        """Note bytes that are through, for the progress bar."""
        with self._lock:
            self.findings.bytes_done += count

    def recall(self, tensor: PlannedTensor, number: int, done: RangeDone) -> None:
        """Take over what a range has shown, now or in an earlier run."""
        for source, digest in zip(tensor.sources, done.digests, strict=True):
            self.findings.digests[source, number] = digest
        self.findings.buffers |= {f"{tensor.name}: {label} differs" for label in done.differs}
        self.findings.changed |= done.changed
        self.findings.odd |= {f"{tensor.name} of {label}": count for label, count in done.odd}

    def remarks(self) -> list[str]:
        """What the user should know of this machine; it has no place in the manifest."""
        if not self._fused:
            return []
        from modelwright.tensors import kernels

        return [kernels.uncached] if kernels.uncached else []

    @property
    def passes(self) -> int:
        """How often the inputs are read: once to merge, and once for each statistic; samples do not count."""
        lowered = self._lowered(self.merged[0]) if self.merged else None
        return self.plan.passes if lowered is None else lowered.passes

    def peak_bytes(self, threads: int) -> int:
        """Estimate of the memory needed beyond the interpreter: what the largest tensors in work at once need."""
        needs = sorted((self._work_bytes(tensor) for tensor in self.plan.tensors), reverse=True)
        return sum(needs[:threads]) + (_COMPILER if self._fused else 0)

    def _work_bytes(self, tensor: PlannedTensor) -> int:
        sources = Sources(self.plan.refs(tensor))
        count = len(sources.refs)
        lowered = self._lowered(tensor)
        if sources.streamed and (tensor.action != "merge" or lowered is not None):
            # A block of each input as stored and of the output; tiles and what Python holds beside them.
            block = block_length(count) * sources.itemsize * count + BLOCK * tensor.dtype.itemsize
            return block + (4 << 20) + _ranking_bytes(tensor, lowered)
        stored = sum(ref.nbytes for ref in sources.refs)
        # An array function has its inputs as stored and as float32, and about as much again for masks and partial sums.
        each = max(4 * (2 * count + 3), self.plan.method.workspace(len(tensor.inputs)))
        return stored + tensor.nbytes + (int(tensor.size * each) if tensor.action == "merge" else 0)

    # --- what can be fused --------------------------------------------------------------------------------------------

    def _lowered(self, tensor: PlannedTensor) -> Lowered | None:
        """The tensor's merge for the kernels, or None."""
        refs = self.plan.refs(tensor)
        # float8 with scales is read as a whole, and comes as float32
        plain = all(ref.dtype.name in _CODES or (ref.fill is None and ref.dtype.itemsize == 1) for ref in refs)
        if not self._fused or not plain or tensor.dtype.name not in _CODES:
            return None
        if tensor.action == "copy":  # to another format
            return Lowered([1.0], deltas=False, add_base=False)
        if tensor.action != "merge" or self.plan.method.lower is None:
            return None
        row, position = tensor.shape[-1] if tensor.shape else 1, tensor.position
        inputs, based = len(tensor.inputs), tensor.base is not None
        shape = Shape(tensor.size, self._totals[tensor.name], len(tensor.shape), row, inputs, based, position)
        lowered = self.plan.method.lower(tensor.parameters, shape)
        return None if lowered is not None and row > LONGEST and lowered.by_rank else lowered

    def _members(self) -> dict[str, Fused]:
        """Every merged tensor by name, for what has to be known of several; nothing where one of them is not for the kernels."""
        members: dict[str, Fused] = {}
        for tensor in self.merged:
            if tensor.size == 0:
                continue
            lowered, sources = self._lowered(tensor), Sources(self.plan.refs(tensor))
            if lowered is None or not sources.streamed or any(dtype.name not in _CODES for dtype in sources.dtypes):
                return {}
            from modelwright.engine._fused import Fused

            members[tensor.name] = Fused(tensor, lowered, sources, self.plan.recipe.seed)
        return members

    def nbytes(self, tensors: Sequence[PlannedTensor]) -> int:
        """Bytes that are read for these tensors."""
        return sum(self.plan.models[s.model][s.name].nbytes for tensor in tensors for s in tensor.sources)

    def one(self, tensor: PlannedTensor) -> NumpyArray:
        """A single tensor, in memory."""
        array = np.empty(tensor.shape, tensor.dtype.numpy)
        with self.explained():
            run_here(self._program(0, tensor, range(len(ranges(tensor.size))), Memory(array), None))
        return array
