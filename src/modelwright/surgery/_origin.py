"""Outputs whose model is computed from others: what their manifests keep of that, and how it is made again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from modelwright.checkpoint import Checkpoint


def origin_of(command: str, models: Mapping[str, Any], **settings: Any) -> dict[str, Any] | None:
    """What a manifest keeps of a command.

    Args:
        command: `extract`, `apply` or `convert`.
        models: The arguments that are models, or lists of such.
        settings: The others; what is None, empty or false is left out.

    Returns:
        A table for JSON; None where a model is no path, so that nobody can make it again.
    """
    told: dict[str, Any] = {"command": command}
    for name, model in models.items():
        parts = [_path_of(part) for part in model] if isinstance(model, list | tuple) else [_path_of(model)]  # type: ignore[reportUnknownVariableType]
        if None in parts:
            return None
        told[name] = parts if isinstance(model, list | tuple) else parts[0]
    return told | {
        name: value if isinstance(value, int | list | dict) else str(value) for name, value in settings.items() if value
    }


def _path_of(model: Any) -> str | None:
    """What a model can be opened by again, or None."""
    if isinstance(model, Checkpoint):
        return model.label if model.path is not None else None
    return os.fspath(model) if isinstance(model, str | os.PathLike) else None  # type: ignore[reportUnknownArgumentType]
