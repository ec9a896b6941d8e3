"""Adapters baked into a model, tensor by tensor while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelwright.adapters._write import writing
from modelwright.api import Job, open_model as open_checkpoint
from modelwright.checkpoint import Adapter, open_adapter, user_path, with_adapters
from modelwright.errors import InputError


def apply_adapters(base: Any, adapters: Sequence[str | Path | Adapter]) -> Job:
    """The recipe that writes a model with adapters in it; `.save(folder)` streams it.

    Args:
        base: The model, whatever `mw.open` opens.
        adapters: Folders of peft, LoRA files, or what `open_adapter` gives. What they add is added up, whatever their order; vectors of
            IA3 multiply.

    Raises:
        InputError: One does not fit the model, or there are none.
    """
    if not adapters:
        raise InputError("there is no adapter to apply")
    model = open_checkpoint(base)
    read = [each if isinstance(each, Adapter) else open_adapter(user_path(each)) for each in adapters]
    label = "+".join([model.label, *(each.label for each in read)])
    return writing(with_adapters(model, read, label))
