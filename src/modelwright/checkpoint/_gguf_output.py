"""Writing GGUF files: a donor's metadata with the tensors of a checkpoint."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import struct
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from modelwright.checkpoint._checkpoint import Checkpoint
from modelwright.checkpoint._gguf import (
    ALIGNMENT,
    MAGIC,
    PLAIN,
    Entry,
    Header,
    Kind,
    aligned,
    dequantize,
    gguf_package,
    gguf_parts,
    read_gguf_header,
)  # fmt: skip
from modelwright.checkpoint._refs import NumpyArray, TensorRef
from modelwright.errors import InputError, RunError, did_you_mean, listing
from modelwright.tensors import DTYPES, narrow

_Q8_0 = Kind(8, "Q8_0", DTYPES["F16"], 32, 34)
#: What each kind of file stores its matrices as, and its number as llama.cpp's general.file_type.
_KINDS = {"f16": (PLAIN[1], 1), "bf16": (PLAIN[30], 32), "q8_0": (_Q8_0, 7)}
_F16, _F32 = PLAIN[1], PLAIN[0]
_PLAIN_BY_DTYPE = {kind.name: kind for kind in PLAIN.values()}
#: The donor's metadata that would not be true of the output: its files, types, alignment, and how it was quantised.
_OWN = ("split.", "quantize.", "general.file_type", "general.alignment", "general.quantization_version")
_VERSION = 3
#: Of ggml's block layouts.
_QUANTIZATION_VERSION = 2
_UINT32 = 4
#: Elements that are rounded, compared and written at a time; whole blocks, and small enough for the cache.
_PIECE = 1 << 18


def write_gguf(
    checkpoint: Checkpoint,
    out: str | Path,
    kind: str,
    *,
    donor: str | Path,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    check: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Write a checkpoint whose tensors have GGUF's names as a GGUF file, tensor by tensor.

    Matrices are stored as `kind` says. As llama.cpp's converter does, single rows stay float32, and so do matrices
    that the donor, otherwise of another type, keeps in float32 (routers, convolutions); rows that are no whole blocks of
    32 go from q8_0 to float16. Integers stay as they are.

    Args:
        checkpoint: One that was opened from a GGUF file, or a merge of such; the merge is computed while writing.
        out: The file to make, `x.gguf`. It is written beside its place and moved there when it is complete.
        kind: `f16`, `bf16` or `q8_0`.
        donor: A GGUF file with the same tensors, in any types. Its metadata are copied to the byte: architecture,
            tokenizer, name. What would not be true of the output is left out or set anew (file type, split, imatrix).
        overwrite: Replace an existing file.
        progress: Called with what is being done, and the bytes of the file that are written and are to be.
        check: Called when all is written, before the file gets its place; what it raises discards the file.

    Returns:
        For each tensor the relative error of storing it so: the norm of (stored - exact) over the norm of the exact
        values, as they were read or merged, summed in float64. 0 for what is stored without rounding.

    Raises:
        InputError: The tensors are not those of the donor, or `kind` or `out` will not do. Nothing is written.
        MissingExtraError: It takes the package gguf to write q8_0.
        RunError: A value is not finite, or too large for `kind`; or the disk fails. Nothing is left behind.
    """
    out, donor = Path(out), Path(donor)
    if kind not in _KINDS:
        raise InputError(f"the kind of a GGUF file cannot be '{kind}'", did_you_mean(kind, _KINDS))
    if out.suffix != ".gguf":
        raise InputError(f"the output '{out}' must end in .gguf", "It is a single file: x.gguf.")
    if out.exists() and not overwrite:
        raise InputError(f"the output '{out}' exists", "Choose another name, or pass overwrite=True.")
    header, expected = _donor(donor)
    _check_tensors(checkpoint, expected, donor)
    if kind == "q8_0":
        gguf_package("writing q8_0")
    matrices = [entry.kind for entry in expected.values() if len(entry.shape) > 1 and entry.kind.dtype.floating]
    mixed = any(stored != _F32 for stored in matrices)
    kinds = {name: _storage(kind, checkpoint[name], mixed and entry.kind == _F32) for name, entry in expected.items()}
    errors: dict[str, float] = {}
    head = _head(donor, header, kind, {name: (kinds[name], expected[name].shape) for name in expected})
    sizes = (Entry(kinds[name], entry.shape, 0).nbytes for name, entry in expected.items())
    total = len(head) + sum(aligned(size, ALIGNMENT) for size in sizes)
    _check_room(out, total)
    with _whole(out, overwrite=overwrite) as file:
        file.write(head)
        for name in expected:
            errors[name] = _write_tensor(file, name, checkpoint[name].read(), kinds[name])
            if progress is not None:
                progress("merging", file.tell(), total)
        if check is not None:
            check()
    return errors


# --- what is written -----------------------------------------------------------------------------------------------


def _donor(path: Path) -> tuple[Header, dict[str, Entry]]:
    """The header that has the metadata, of the first part, and the tensors of all parts."""
    headers = [read_gguf_header(path.with_name(name)) for name in gguf_parts(path.name)]
    return headers[0], {name: entry for header in headers for name, entry in header.tensors.items()}


def _check_tensors(checkpoint: Checkpoint, expected: Mapping[str, Entry], donor: Path) -> None:
    """The metadata describe the donor's tensors: layers, heads, widths. Others would make a file that does not load."""
    shapes = checkpoint.shapes
    missing = [name for name in expected if name not in shapes]
    extra = [name for name in shapes if name not in expected]
    other = [name for name, entry in expected.items() if name in shapes and shapes[name] != entry.shape]
    found = {"it lacks": missing, "it has besides": extra, "of another shape are": other}
    if any(found.values()):
        raise InputError(
            f"{checkpoint.label} must have the tensors of its donor {donor}; "
            + "; ".join(f"{what} {listing(names, 4)}" for what, names in found.items() if names),
            "Choose a donor of the same architecture and size; names are those of GGUF files, such as blk.0.attn_q.weight.",
        )
    odd = [name for name, ref in checkpoint.items() if not ref.dtype.floating and ref.dtype.code not in _PLAIN_BY_DTYPE]
    if odd:
        raise InputError(
            f"{checkpoint.label}: '{odd[0]}' is {checkpoint[odd[0]].dtype}, which GGUF files cannot hold",
            "Leave it out.",
        )


def _storage(kind: str, ref: TensorRef, wide: bool) -> Kind:
    if not ref.dtype.floating:
        return _PLAIN_BY_DTYPE[ref.dtype.code]
    if len(ref.shape) < 2 or wide:
        return _F32
    chosen, _ = _KINDS[kind]
    return _F16 if ref.shape[-1] % chosen.block else chosen


def _head(donor: Path, header: Header, kind: str, tensors: Mapping[str, tuple[Kind, tuple[int, ...]]]) -> bytes:
    """Everything before the data: counts, the donor's metadata, ours, where each tensor is, padding."""
    copied = [span for key, span in header.spans.items() if not key.startswith(_OWN)]
    own = {"general.file_type": _KINDS[kind][1], "general.quantization_version": _QUANTIZATION_VERSION}
    parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(copied) + len(own))]
    with donor.with_name(gguf_parts(donor.name)[0]).open("rb") as file:
        for start, stop in copied:
            file.seek(start)
            parts.append(file.read(stop - start))
    parts += [_text(key) + struct.pack("<II", _UINT32, value) for key, value in own.items()]
    at = 0
    for name, (stored, shape) in tensors.items():
        axes = len(shape)
        parts.append(_text(name) + struct.pack(f"<I{axes}QIQ", axes, *reversed(shape), stored.code, at))
        at = aligned(at + Entry(stored, shape, 0).nbytes, ALIGNMENT)
    head = b"".join(parts)
    return head.ljust(aligned(len(head), ALIGNMENT), b"\0")


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _write_tensor(file: BinaryIO, name: str, values: NumpyArray, kind: Kind) -> float:
    """Round, write and compare, a piece at a time, so that no second copy of the tensor is held."""
    total, lost, written = 0.0, 0.0, 0
    for piece in _pieces(values):
        stored, back = _rounded(piece, kind)
        if np.issubdtype(values.dtype, np.integer):
            written += file.write(stored)
            continue
        exact = piece.astype(np.float64)
        difference = back.astype(np.float64) - exact
        if not np.isfinite(difference).all():
            raise RunError(_not_finite(name, exact, kind))
        total += float(np.vdot(exact, exact))
        lost += float(np.vdot(difference, difference))
        written += file.write(stored)
    file.write(bytes(aligned(written, ALIGNMENT) - written))
    return math.sqrt(lost / total) if lost else 0.0


def _pieces(values: NumpyArray) -> Iterator[NumpyArray]:
    flat = np.ascontiguousarray(values).reshape(-1)
    for at in range(0, flat.size, _PIECE):
        yield flat[at : at + _PIECE]


def _rounded(piece: NumpyArray, kind: Kind) -> tuple[bytes, NumpyArray]:
    """The bytes to be stored, and the values that will be read from them."""
    with np.errstate(all="ignore"):  # what overflows is refused by name
        if kind.plain:
            stored: NumpyArray = narrow(piece, kind.dtype.numpy)
            return stored.tobytes(), stored
        gguf: Any = gguf_package("writing q8_0")
        blocks = gguf.quants.quantize(piece.astype(np.float32).reshape(1, -1), gguf.GGMLQuantizationType(kind.code))
    return blocks.tobytes(), dequantize(blocks.reshape(-1, kind.nbytes), kind.code)


def _not_finite(name: str, exact: NumpyArray, kind: Kind) -> str:
    if not np.isfinite(exact).all():
        return f"'{name}' holds NaN or infinite values: mend or replace the checkpoint."
    mend = " Write bf16." if kind.dtype == DTYPES["F16"] else ""
    return f"'{name}' reaches {float(np.max(np.abs(exact))):.4g}, which {kind.name} cannot hold.{mend}"


# --- the file ------------------------------------------------------------------------------------------------------


def _check_room(out: Path, needed: int) -> None:
    try:
        free = shutil.disk_usage(out.parent).free
    except OSError:  # what is wrong with that folder is said when the file is made
        return
    if free < needed:
        raise InputError(
            f"the output needs {needed:,} bytes, and '{out.parent}' has {free:,} free",
            "Free space, or choose another disk.",
        )


@contextmanager
def _whole(out: Path, *, overwrite: bool) -> Generator[BinaryIO]:
    """A file that is in its place once it is complete and on the disk; until then beside it, and gone after an error."""
    partial = out.with_name(f"{out.name}.partial")
    with _opened(partial, out) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if out.exists() and not overwrite:
                raise RunError(f"All is merged, but '{out}' was made meanwhile.")
            partial.replace(out)
            folder = os.open(out.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise _failed(out, error) from error
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def _opened(partial: Path, out: Path) -> Generator[BinaryIO]:
    """The file beside its place, locked and empty; what a killed process left in it is given up."""
    try:
        file = partial.open("ab")
    except OSError as error:
        raise _failed(out, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = partial.exists() and os.path.samestat(os.fstat(file.fileno()), partial.stat())
        except BlockingIOError:
            held = False
        except OSError:  # a file system without locks
            held = True
        if not held:
            raise InputError(f"another merge is writing '{out}'", "Wait for it, or choose another file.")
        file.truncate(0)
        yield file


def _failed(out: Path, error: OSError) -> RunError:
    return RunError(f"'{out}' could not be written: {error.strerror or error}.")
