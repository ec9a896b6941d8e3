"""A merge that is computed when it is read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from modelwright.checkpoint import Checkpoint, NumpyArray, TensorRef
from modelwright.engine._identity import check_as_opened
from modelwright.engine._merge import Merge
from modelwright.engine._run import Options
from modelwright.engine._work import run_programs
from modelwright.recipe import Plan, PlannedTensor


def lazy(plan: Plan, label: str, save: Callable[..., Any], options: Options | None = None) -> Checkpoint:
    """The result of a plan as a checkpoint whose tensors are computed one by one when they are read."""
    run = _Run(plan, options or Options())
    tensors = {t.name: TensorRef(t.dtype, t.shape, _Load(run, t), f"{label}: {plan.method.name}") for t in plan.tensors}
    beside = {file.name: file.source or file.text or "" for file in plan.files}
    return Checkpoint(tensors, label=label, parts=plan.parts, beside=beside, aliases=_aliases(plan), save=save)


def _aliases(plan: Plan) -> dict[str, str]:
    """Heads that the models hold as another name of an embedding, and that are merged as that embedding."""
    written = {tensor.name for tensor in plan.tensors}
    tied = ((name, plan.models[i].tied.get(name)) for (i, name), fate in plan.fates.items() if fate == "tied-alias")
    return {name: source for name, source in tied if source in written and name not in written}


class _Run:
    """A plan whose tensors are read one by one. What has to be known of the whole model is found with the first."""

    def __init__(self, plan: Plan, options: Options):
        self.plan, self.options = plan, options
        self._merge: Merge | None = None
        self._lock = threading.Lock()

    def merge(self) -> Merge:
        with self._lock:
            if self._merge is None:
                check_as_opened(self.plan)
                merge = self.options.merge(self.plan)
                with merge.explained():
                    for _, _, program in merge.survey():
                        run_programs([program], self.options.workers, lambda: None)
                self._merge = merge
            return self._merge


class _Load:
    def __init__(self, run: _Run, tensor: PlannedTensor):
        self.run, self.tensor = run, tensor

    def __call__(self) -> NumpyArray:
        return self.run.merge().one(self.tensor)
