"""Forms that other programs write: GGUF's by llama.cpp, packed ones by llm-compressor. What is not installed is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.checkpoint import open as open_checkpoint, plain_path, quantised, user_path
from modelwright.errors import InputError, RunError
from modelwright.surgery._convert import conversion

_TOOLS = ("gguf", "llm-compressor")
#: What llama.cpp's converter of folders is called, from the repository and from packages.
_CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf", "convert_hf_to_gguf")
_QUANTIZER = "llama-quantize"
#: Characters of a failed program's last words that are shown.
_SAID = 600


@dataclass(frozen=True)
class Made:
    """What another program has written.

    Attributes:
        out: The file or folder.
        nbytes: Its bytes.
        notes: What the user should know.
    """

    out: Path
    nbytes: int
    notes: tuple[str, ...]


def is_tool(form: str | None) -> bool:
    """Whether a form is written by another program: `gguf:Q4_K_M`, `llm-compressor:W4A16`."""
    return form is not None and form.partition(":")[0] in _TOOLS and ":" in form


def by_tool(
    model: Any,
    out: str | Path,
    *,
    quantise: str,
    dtype: str | None = None,
    layers: str | None = None,
    rename: Mapping[str, str] | None = None,
    float8: str = "e4m3",
    keep: Sequence[str] = (),
    overwrite: bool = False,
    threads: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Made:
    """Quantise with llama.cpp or llm-compressor.

    What they write gets its place when it is complete. The steps before it (other formats, layers, parts of a model; a GGUF file of a
    folder) lie in a folder beside it meanwhile.

    Args:
        model: A model, or the parts of one, as for `convert`. For GGUF a GGUF file, or what becomes a folder of transformers.
        out: The file `x.gguf`, or the folder, to make.
        quantise: `gguf:TYPE`, TYPE being one that llama-quantize knows (`Q4_K_M`); or `llm-compressor:SCHEME`, one of the schemes that
            need no data (`W4A16`, `W8A16`, `FP8_DYNAMIC`).
        dtype: As for `convert`, before quantising.
        layers: The same.
        rename: The same.
        float8: Only of our own forms.
        keep: Only of our own forms.
        overwrite: Replace an existing output.
        threads: For llama-quantize; 0 for as many as it likes.
        progress: Called as bytes of the conversion before it are done.

    Raises:
        InputError: The program is not installed, the output exists or will not do; before anything is written.
        RunError: The program failed; its last words are shown.
    """
    tool, _, form = quantise.partition(":")
    if not form:
        raise InputError(f"quantise '{quantise}' lacks a type", "Write gguf:Q4_K_M or llm-compressor:W4A16.")
    if keep or float8 != "e4m3":
        raise InputError("--keep and --float8 are for the forms fp8-*", "Leave them out.")
    place = user_path(plain_path(str(out)))
    if place.exists() and not overwrite:
        raise InputError(f"the output '{out}' exists", "Choose another name, or pass --overwrite.")
    _check_replaced(model, place)
    changes = {"dtype": dtype, "layers": layers, "rename": dict(rename or {}) or None}
    write = _gguf if tool == "gguf" else _compressed
    run = write(model, place, form, any(changes.values()), threads)

    def folder_of(work: Path) -> Path:
        """The model as a folder: as it lies there, or converted first."""
        if isinstance(model, str | os.PathLike) and not any(changes.values()) and user_path(str(model)).is_dir():
            return user_path(str(model))
        conversion(model, **changes).save(work / "model", threads=threads, progress=progress)
        return work / "model"

    with _workplace(place) as work:
        made, notes = run(folder_of, work)
        if place.is_dir():
            shutil.rmtree(place)
        made.replace(place)
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return Made(place, sum(file.stat().st_size for file in files), tuple(notes))


def _check_replaced(model: Any, place: Path) -> None:
    """Refuse to remove a folder that is no model, or one that is read."""
    if not place.exists():
        return
    if place.is_dir() and not (place / "config.json").is_file():
        raise InputError(f"'{place}' is a folder without a model, and would be replaced", "Choose another name.")
    listed: list[Any] = list(model) if isinstance(model, list | tuple) else [model]
    parts = [user_path(str(part)).resolve() for part in listed if isinstance(part, str | os.PathLike)]
    if any(place.resolve() in (part, *part.parents) for part in parts):
        raise InputError(f"the output '{place}' is or holds one of the inputs", "Choose another name.")


@contextmanager
def _workplace(place: Path) -> Iterator[Path]:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as work:
        yield Path(work)


#: (the model as a folder, where to work) -> what was made, and notes.
_Run = Callable[[Callable[[Path], Path], Path], tuple[Path, list[str]]]


# --- llama.cpp -----------------------------------------------------------------------------------------------------


def _gguf(model: Any, place: Path, form: str, changed: bool, threads: int) -> _Run:
    """Checks what can be checked now; what is returned runs."""
    if place.suffix != ".gguf":
        raise InputError(f"the output '{place}' must end in .gguf", "It is a single file: x.gguf.")
    quantizer = _program([_QUANTIZER], "writes the types of GGUF files")
    single = isinstance(model, str | os.PathLike) and str(model).endswith(".gguf")
    if single and changed:
        raise InputError(
            "--dtype, --layers and --rename are not for GGUF files that llama-quantize reads", "Leave them out."
        )
    converter = None if single else _program(_CONVERTERS, "makes a GGUF file of a folder")
    if single:
        open_checkpoint(model)  # says what is wrong with it

    def run(folder_of: Callable[[Path], Path], work: Path) -> tuple[Path, list[str]]:
        source = user_path(str(model)) if single else work / "whole.gguf"
        if converter is not None:
            _call([converter, str(folder_of(work)), "--outfile", str(source), "--outtype", "auto"])
        made = work / place.name
        _call([quantizer, str(source), str(made), form, *([str(threads)] if threads else [])])
        if not made.is_file():
            raise RunError(f"{_QUANTIZER} ended without an error, and wrote no file.")
        return made, [f"written by {_QUANTIZER} as {form}", *_losses(made)]

    return run


def _losses(made: Path) -> list[str]:
    """What quantising has lost, as far as the file itself tells."""
    try:
        found = quantised(open_checkpoint(made).values())
    except InputError as error:  # a type that is not read here, or no package gguf
        return [f"its error is not estimated: {error}"]
    told = [f"{one.kind} {one.error:.2%} ({one.tensors} tensors)" for one in found if one.error is not None]
    return [f"estimated relative error: {', '.join(told)}"] if told else []


def _program(names: Sequence[str], what: str) -> str:
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise InputError(
            f"no program '{names[0]}' on PATH, which {what}",
            "Install llama.cpp (https://github.com/ggml-org/llama.cpp) and put its programs on PATH.",
        )
    return found


def _call(command: Sequence[str]) -> None:
    name = Path(command[0]).name
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise RunError(f"{name} cannot be run: {error.strerror or error}.") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-_SAID:] or "it said nothing"
        raise RunError(f"{name} failed with exit code {done.returncode}: {said}")


# --- llm-compressor ------------------------------------------------------------------------------------------------


def _compressed(_model: Any, place: Path, form: str, _changed: bool, _threads: int) -> _Run:
    try:
        from llmcompressor import oneshot  # type: ignore[reportMissingImports]
        from llmcompressor.modifiers.quantization import QuantizationModifier  # type: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise InputError(
            f"the package llm-compressor, which writes {form}, is not installed",
            "pip install llmcompressor; or take --quantise fp8-block, fp8-channel or fp8-tensor, which need nothing.",
        ) from None

    def run(folder_of: Callable[[Path], Path], work: Path) -> tuple[Path, list[str]]:
        folder, made = folder_of(work), work / "made"
        try:
            modifier: Any = QuantizationModifier(targets="Linear", scheme=form, ignore=["lm_head"])
            oneshot(model=str(folder), recipe=modifier, output_dir=str(made))
        except Exception as error:  # whatever a foreign package raises
            raise RunError(f"llm-compressor failed: {type(error).__name__}: {error}") from error
        if not (made / "config.json").is_file():
            raise RunError("llm-compressor ended without an error, and wrote no model.")
        return made, [f"written by llm-compressor as {form}, without calibration data; lm_head stays as it is"]

    return run
