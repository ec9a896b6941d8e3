"""A merge that is computed when it is read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from modelwright.checkpoint import Checkpoint, NumpyArray, TensorRef
from modelwright.engine._run import Options, compute, model_facts
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
    """Model-wide facts, found once, when the first tensor is asked for."""

    def __init__(self, plan: Plan, options: Options):
        self.plan, self.options = plan, options
        self._facts: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def facts(self) -> dict[str, Any]:
        with self._lock:
            if self._facts is None:
                self._facts = model_facts(self.plan, self.options)
            return self._facts


class _Load:
    def __init__(self, run: _Run, tensor: PlannedTensor):
        self.run, self.tensor = run, tensor

    def __call__(self) -> NumpyArray:
        return compute(self.run.plan, self.tensor, self.run.facts(), self.run.options.device)
