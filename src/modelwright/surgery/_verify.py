"""Check an output, also one whose model was computed from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelwright.api import Job, open_model, verify as verify_output
from modelwright.architectures import is_list, is_table
from modelwright.engine import Verification
from modelwright.errors import InputError
from modelwright.surgery._convert import conversion
from modelwright.surgery._delta import application, extract


def verify(
    out: str | Path,
    *,
    rerun: bool = False,
    folder: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    **options: Any,
) -> Verification:
    """Check an output of `merge`, `extract`, `apply` or `convert`: every byte against the hashes of its manifest.

    Args:
        out: The folder, or its URL.
        rerun: Do it again as well, without writing anything, and compare every tensor: to the bit, or within the
            tolerance that the method's record allows.
        folder: Where relative paths of the recipe or of the command start; default where they started when it was made.
        plugins: Python files with further methods.
        **options: Fields of `modelwright.engine.Options`.

    Returns:
        What was found; its `problems` are empty where all is well.

    Raises:
        InputError: There is no manifest, or it cannot be done again.
    """
    return verify_output(out, rerun=rerun, folder=folder, plugins=plugins, remake=_remade, **options)


def _remade(origin: Any, folder: Path) -> Job:
    """The job of a command that a manifest tells of. Manifests come from strangers, so every value is checked where it is used."""

    def given(name: str, kind: type) -> Any:
        value = origin.get(name)
        if value is not None and type(value) is not kind:
            raise _damaged()
        return value

    def model(name: str) -> Any:
        if not isinstance(origin.get(name), str):
            raise _damaged()
        return open_model(origin[name], folder=folder)

    if not is_table(origin):
        raise _damaged()
    match origin.get("command"):
        case "extract":
            rank = origin.get("rank")
            if not isinstance(rank, str | int | None) or not isinstance(origin.get("int8", False), bool):
                raise _damaged()
            return extract(model("tuned"), base=model("base"), rank=rank, int8=origin.get("int8", False)).job
        case "apply":
            return application(model("base"), model("delta"))
        case "convert":
            models = origin.get("models")
            if not isinstance(models, str) and not (is_list(models) and all(isinstance(part, str) for part in models)):
                raise _damaged()
            texts = {name: given(name, str) for name in ("dtype", "layers", "quantise", "float8")}
            keep, rename = given("keep", list) or [], given("rename", dict) or {}
            if not all(isinstance(text, str) for text in (*keep, *rename, *rename.values())):
                raise _damaged()
            chosen: Mapping[str, Any] = {name: text for name, text in texts.items() if text is not None}
            return conversion(models, **chosen, keep=keep, rename=rename or None, folder=folder)
        case _:
            raise _damaged()


def _damaged() -> InputError:
    return InputError("what the manifest says of how the model was made is damaged", "Make it again.")
