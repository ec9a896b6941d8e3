"""modelwright: build models out of models.

    import modelwright as mw

    mw.merge("recipe.yml").save("merged")
    mw.merge([a, b], base=base, method="ties", density=0.2).save("merged")

Everything is imported when it is first used, so that the command line starts in a blink.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelwright.api import (
        Job as Job,
        card as card,
        merge as merge,
        push as push,
        registry as registry,
    )
    from modelwright.checkpoint import Checkpoint as Checkpoint, TensorRef as TensorRef
    from modelwright.errors import InputError as InputError, RunError as RunError
    from modelwright.evaluate import (
        Comparison as Comparison,
        Items as Items,
        Records as Records,
        Task as Task,
        compare as compare,
        ensemble as ensemble,
        eval as eval,
        open as open,
        predict as predict,
        task as task,
    )
    from modelwright.methods import METHODS as METHODS, Method as Method
    from modelwright.studies import study as study
    from modelwright.surgery import (
        Difference as Difference,
        Inspection as Inspection,
        apply as apply,
        convert as convert,
        diff as diff,
        extract as extract,
        inspect as inspect,
        verify as verify,
    )

_HOMES = {
    "Checkpoint": "checkpoint", "Comparison": "evaluate", "Difference": "surgery", "InputError": "errors", "Inspection": "surgery", "Items": "evaluate", "Job": "api",
    "METHODS": "methods", "Method": "methods", "Records": "evaluate", "RunError": "errors", "Task": "evaluate", "ensemble": "evaluate", "predict": "evaluate",
    "TensorRef": "checkpoint", "apply": "surgery", "card": "api", "compare": "evaluate", "convert": "surgery", "diff": "surgery", "eval": "evaluate",
    "extract": "surgery", "inspect": "surgery", "merge": "api", "open": "evaluate", "push": "api", "registry": "api",
    "study": "studies", "task": "evaluate", "verify": "surgery",
}  # fmt: skip

__all__ = [  # noqa: RUF022
    "open", "merge", "verify", "card", "push", "registry", "study", "Job", "Checkpoint", "TensorRef", "Method", "METHODS", "eval", "compare", "ensemble", "predict",
    "task", "Task", "Items", "Records", "Comparison", "diff", "Difference", "inspect", "Inspection", "convert", "extract", "apply", "InputError", "RunError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'modelwright' has no attribute '{name}'")
    return getattr(import_module(f"modelwright.{home}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
