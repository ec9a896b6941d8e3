"""Folders and files of weights: which files make up a model, and what they hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from modelwright.architectures import is_list, is_table, is_text, unsupported_quantization
from modelwright.checkpoint._checkpoint import Checkpoint, Part
from modelwright.checkpoint._dequantize import dequantized, without_quantization
from modelwright.checkpoint._gguf import gguf_parts, read_gguf
from modelwright.checkpoint._refs import TensorRef, file_state
from modelwright.checkpoint._safetensors import read_header
from modelwright.checkpoint._torch_file import read_torch_file
from modelwright.checkpoint._untrusted import load_json, read_json
from modelwright.errors import InputError, listing

TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".th")
WEIGHT_SUFFIXES = (".safetensors", *TORCH_SUFFIXES, ".gguf")
#: What each kind of folder calls its weights, the usual name first; transformers looks in this order too.
_STEMS = {
    ".safetensors": ("model", "diffusion_pytorch_model", "adapter_model"),
    ".bin": ("pytorch_model", "diffusion_pytorch_model", "adapter_model"),
}
#: Files that trainers leave beside the weights.
_STATE = ("optimizer", "scheduler", "training_args", "rng_state", "scaler")
#: Everything beside the weights that a merge needs of a remote model; no optimizer states, no images.
SMALL_FILES = (
    "*.json", "*.model", "*.txt", "*.jinja", "*.py", "*.tiktoken", "*.vocab", "*.bpe", "LICENSE*", "LICENCE*", "NOTICE*",
    "USE_POLICY*", "README.md",
)  # fmt: skip
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
#: Remote headers and small files are fetched this many at a time.
CONNECTIONS = 8


class RemoteFile(Protocol):
    """A weight file that is still on the Hub or in a store."""

    def header(self) -> tuple[dict[str, TensorRef], dict[str, str]]:
        """Its tensors and metadata, from range requests."""
        ...

    def fetch(self) -> Path:
        """Download it."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder; some of its weight files may still be elsewhere: on the Hub, in an object store.

    Attributes:
        path: Where it is.
        remote: The files that are not here, by the path they would have.
        hint: What to add to the mend when something is missing.
        url: What it is a copy of, if its weights stay elsewhere.
    """

    path: Path
    remote: Mapping[Path, RemoteFile] = field(default_factory=dict[Path, RemoteFile])
    hint: str = ""
    url: str | None = None

    def has(self, file: Path) -> bool:
        """Whether it is here or elsewhere."""
        return file in self.remote or (os.path.lexists(file) and not file.is_dir())

    def names(self, root: Path) -> list[str]:
        """What is directly in one of its folders and no folder; pipes and dead links too, to be refused when opened."""
        here = {child.name for child in _listed(root) if not child.is_dir()}
        return sorted(here | {file.name for file in self.remote if file.parent == root})

    def children(self) -> list[str]:
        """Its subfolders."""
        here = {child.name for child in _listed(self.path) if child.is_dir()}
        remote = {file.relative_to(self.path).parts[0] for file in self.remote if file.parent != self.path}
        return sorted(name for name in here | remote if not name.startswith("."))


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir()) if os.path.isdir(folder) else []  # noqa: PTH112  # false for names that are too long
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror or error})") from None


@dataclass(frozen=True)
class Weights:
    """The weight files of one model.

    Attributes:
        files: All of them, in order.
        stem: What files written in their place are called.
        table: The index: tensor -> file; None for a single file.
        note: What the user should know about the choice.
    """

    files: tuple[Path, ...] = ()
    stem: str = "model"
    table: Mapping[str, str] | None = None
    note: str = ""


@dataclass
class _Contents:
    """What has been read so far."""

    tensors: dict[str, TensorRef] = field(default_factory=dict[str, TensorRef])
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[str] = field(default_factory=list[str])
    consumed: dict[str, str] = field(default_factory=dict[str, str])
    states: dict[Path, tuple[int, int] | None] = field(default_factory=dict[Path, "tuple[int, int] | None"])


def from_folder(folder: Folder, label: str) -> Checkpoint:
    """The model, or models, in a folder.

    Raises:
        InputError: It holds no weights, or they are incomplete, damaged or quantised.
    """
    whole = _Contents()
    parts: list[Part] = []
    for root in _roots(folder, whole.notes):
        weights = weight_files(folder, root)
        if not weights.files:
            continue
        prefix = "" if root == folder.path else f"{root.relative_to(folder.path).as_posix()}/"
        config = read_json(root / "config.json")
        contents = _read(folder, weights, config or {}, f"{label}/{prefix}".rstrip("/") if prefix else label)
        whole.tensors |= {prefix + name: ref for name, ref in contents.tensors.items()}
        whole.consumed |= {prefix + name: why for name, why in contents.consumed.items()}
        whole.metadata |= contents.metadata
        whole.states |= contents.states
        whole.notes += contents.notes
        parts.append(Part(prefix, weights.stem, without_quantization(config) if contents.consumed else config))
    if not parts:
        shown = listing([*(f"{name}/" for name in folder.children()), *folder.names(folder.path)])
        raise InputError(
            f"{folder.path} holds no weights; it has: {shown}",
            f"A model folder has *.safetensors, *.bin or *.gguf files. {folder.hint}".rstrip(),
        )
    return _checkpoint(whole, label, folder.path, folder.url, tuple(parts))


def from_file(path: Path, label: str, folder: Folder | None = None) -> Checkpoint:
    """The tensors of one weight file, or of all parts of a split GGUF file; `folder` says where it is if not here."""
    folder = folder or Folder(path.parent)
    weights = Weights(_gguf_files(folder, path))
    return _checkpoint(_read(folder, weights, {}, label), label, path, folder.url, (Part(),))


def pieces(folder: Path) -> list[Path]:
    """Every weight file directly in a folder but those that trainers leave beside; torch's only where there are no safetensors."""
    names = [name for name in Folder(folder).names(folder) if not name.startswith(_STATE)]
    for suffixes in ((".safetensors",), TORCH_SUFFIXES):
        found = [folder / name for name in names if Path(name).suffix in suffixes]
        if found:
            return found
    return []


def from_pieces(places: Sequence[Path], label: str) -> Checkpoint:
    """One model whose weight files lie in several places: folders, of which all weight files count, and files.

    Raises:
        InputError: A place has no weights, a tensor is in two files, or one that an index names is in none.
    """
    files: dict[Path, None] = {}
    folders: dict[Path, None] = {}
    for place in places:
        found = pieces(place) if place.is_dir() else [place]
        if not found:
            raise InputError(f"{place} holds no weights", f"Known: {listing(WEIGHT_SUFFIXES)}.")
        files |= dict.fromkeys(found)
        folders[place if place.is_dir() else place.parent] = None
    home = next((folder for folder in folders if (folder / "config.json").is_file()), next(iter(folders)))
    config = read_json(home / "config.json")
    table: dict[str, str] = {}
    for folder in folders if any(place.is_dir() for place in places) else ():
        for index in sorted(folder.glob(f"*{next(iter(files)).suffix}.index.json")):
            listed = load_json(index, strict=True)
            names = listed.get("weight_map") if is_table(listed) else None
            table |= {name: str(file) for name, file in names.items()} if is_table(names) else {}
    contents = _read(Folder(home), Weights(tuple(files), table=table or None), config or {}, label)
    part = Part(config=without_quantization(config) if contents.consumed else config)
    return Checkpoint(
        contents.tensors, label=label, path=home, parts=(part,), metadata=contents.metadata, notes=tuple(contents.notes),
        consumed=contents.consumed, beneath=tuple(folder for folder in folders if folder != home),
    )  # fmt: skip


def _checkpoint(contents: _Contents, label: str, path: Path, url: str | None, parts: tuple[Part, ...]) -> Checkpoint:
    return Checkpoint(
        contents.tensors, label=label, path=path, url=url, parts=parts, metadata=contents.metadata,
        notes=tuple(contents.notes), consumed=contents.consumed, states=contents.states,
    )  # fmt: skip


# --- which files ---------------------------------------------------------------------------------------------------


def _roots(folder: Folder, notes: list[str]) -> list[Path]:
    """The folders of the models in it: itself, or those that a pipeline lists."""
    pipeline = folder.path / "model_index.json"
    modules = folder.path / "modules.json"
    if os.path.lexists(pipeline):
        names = _pipeline_parts(pipeline)
        for name in names:
            root = folder.path / name
            if os.path.lexists(root / "config.json") and not weight_files(folder, root).files:
                raise InputError(
                    f"{root} has a config.json but no weights", f"Download it again. {folder.hint}".rstrip()
                )
    elif os.path.lexists(modules):
        names = _sentence_parts(modules)
    else:
        return [folder.path]
    roots = [folder.path / name for name in names]
    for other in [folder.path, *(folder.path / name for name in folder.children())]:
        extra = [name for name in folder.names(other) if Path(name).suffix in WEIGHT_SUFFIXES]
        if extra and other not in roots:
            notes.append(f"{other} is no part of the pipeline; left out: {listing(extra)}")
    return roots


def _pipeline_parts(path: Path) -> list[str]:
    """The components of a diffusers pipeline: name -> [library, class], nulls for those left away."""
    table = load_json(path, strict=True)
    if not is_table(table):
        raise InputError(f"{path} must hold a JSON object, got {type(table).__name__}")
    listed = [name for name, value in table.items() if is_list(value) and len(value) == 2 and all(value)]
    return sorted({_inside(path, name) for name in listed if not name.startswith("_")})


def _sentence_parts(path: Path) -> list[str]:
    """The modules of a sentence-transformers model, in their order; the path "" is the folder itself."""
    value = load_json(path, strict=True)
    names: list[str] = []
    for entry in value if is_list(value) else [None]:
        name = entry.get("path") if is_table(entry) else None
        if not isinstance(name, str):
            raise InputError(f"{path} must hold a list of modules, each with its path", "Copy or download it again.")
        names.append(_inside(path, name))
    return list(dict.fromkeys(names))


def _inside(path: Path, name: str) -> str:
    """The name of a part in one spelling, checked to lie below its index: also where it is a link."""
    if "\0" in name or not is_text(name):
        raise InputError(f"{path} points to '{name}', which is no path", "Copy or download it again.")
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise InputError(f"{path} points to '{name}', outside its folder", "Parts lie below their index.")
    folder, root = (Path(os.path.realpath(place)) for place in (path.parent, path.parent / pure))
    if not root.is_relative_to(folder):
        raise InputError(
            f"{path} points to '{name}', a link to {root}, outside its folder", "Put the part itself there."
        )
    return "" if pure == PurePosixPath() else pure.as_posix()


def weight_files(folder: Folder, root: Path) -> Weights:
    """The weight files of one model folder, complete and in order.

    Raises:
        InputError: Shards are missing, or it is not clear which of several files is meant.
    """
    names = folder.names(root)
    for suffix, stems in _STEMS.items():
        for stem in stems:
            single, index = f"{stem}{suffix}", f"{stem}{suffix}.index.json"
            if single in names:
                both = f"{root / index} is left out, because {single} is there" if index in names else ""
                return Weights((root / single,), _stem(stem), None, both)
            if index in names:
                return _indexed(folder, root / index, _stem(stem))
        indices = [name for name in names if name.endswith(f"{suffix}.index.json")]
        if len(indices) == 1:
            return _indexed(folder, root / indices[0], _stem(indices[0].removesuffix(f"{suffix}.index.json")))
        suffixes = (suffix,) if suffix == ".safetensors" else TORCH_SUFFIXES
        found = [name for name in names if Path(name).suffix in suffixes and not name.startswith(_STATE)]
        if len(found) == 1 and not indices:
            return Weights((root / found[0],), _stem(Path(found[0]).stem))
        if found:
            kind = "several weight files and no index" if not indices else "several indices"
            raise InputError(
                f"{root} has {kind}: {listing(indices or found)}",
                "Name the file itself, or add the index.json that came with the shards."
                if not indices
                else "Move all but one, with its shards, elsewhere.",
            )
    ggufs = sorted({gguf_parts(name)[0] for name in names if name.endswith(".gguf")})
    if len(ggufs) > 1:
        raise InputError(
            f"{root} has several GGUF models: {listing(ggufs)}",
            "Name the file itself; one from the Hub must be downloaded first (hf download).",
        )
    return Weights(_gguf_files(folder, root / ggufs[0])) if ggufs else Weights()


def _gguf_files(folder: Folder, file: Path) -> tuple[Path, ...]:
    """A weight file; if it is one part of a split GGUF file, all of them."""
    parts = tuple(file.with_name(name) for name in gguf_parts(file.name))
    missing = [part.name for part in parts if part != file and not folder.has(part)]
    if missing:
        raise InputError(
            f"{file} is one of {len(parts)} parts, of which these are missing: {listing(missing)}",
            f"Copy or download them again. {folder.hint}".rstrip(),
        )
    return parts


def _stem(stem: str) -> str:
    return "model" if stem == "pytorch_model" else stem


def _indexed(folder: Folder, index: Path, stem: str) -> Weights:
    """The shards that an index names, checked to lie beside it."""
    content = load_json(index, strict=True)
    table = content.get("weight_map") if is_table(content) else None
    if not is_table(table) or not table or not all(isinstance(name, str) for name in table.values()):
        raise InputError(f"{index} has no weight_map from tensors to files", "Copy or download the index again.")
    names = sorted(set(table.values()))
    for name in names:
        if Path(name).name != name or name == ".." or "\\" in name:
            raise InputError(f"{index} points to '{name}', outside its folder", "Shards lie beside their index.")
    missing = [name for name in names if not folder.has(index.parent / name)]
    if missing:
        raise InputError(
            f"{index} names shards that are missing: {listing(missing)}",
            f"Copy or download them again. {folder.hint}".rstrip(),
        )
    return Weights(tuple(index.parent / name for name in names), stem, table)


# --- what they hold ------------------------------------------------------------------------------------------------


def _read(folder: Folder, weights: Weights, config: Mapping[str, Any], label: str) -> _Contents:
    """The tensors of one model, as numbers: quantised ones refused, float8 with scales de-quantised."""
    here = [file for file in weights.files if file not in folder.remote]
    states = {file: file_state(file) for file in here}  # first: what changes while it is read has changed
    contents = _Contents(notes=[weights.note] if weights.note else [], states=states)
    owner: dict[str, str] = {}
    for file, (tensors, metadata, notes) in zip(weights.files, _headers(folder, weights.files), strict=True):
        twice = owner.keys() & tensors.keys()
        if twice:
            raise InputError(f"{file} repeats tensors of another shard: {listing(sorted(twice))}", "Download it again.")
        owner |= dict.fromkeys(tensors, file.name)
        contents.tensors |= tensors
        contents.metadata |= metadata
        contents.notes += notes
    if weights.table is not None:
        _check_index(label, weights.table, owner, contents.notes)
    integers = {name for name, ref in contents.tensors.items() if "int" in ref.dtype.name}
    reason = unsupported_quantization(config, contents.tensors, integers)
    if reason:
        raise InputError(
            f"{label} cannot be merged: {reason}", "Merge the unquantised weights, and quantise the result."
        )
    contents.tensors, contents.consumed, notes = dequantized(contents.tensors, config, label)
    contents.notes += notes
    return contents


def _check_index(label: str, table: Mapping[str, str], owner: Mapping[str, str], notes: list[str]) -> None:
    """Every tensor of the index must be where it says; tensors that it does not list are read and mentioned."""
    lost = [name for name, file in table.items() if owner.get(name) != file]
    if lost:
        there = f"is in {owner[lost[0]]}" if lost[0] in owner else "is nowhere"
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise InputError(
            f"{label}: the index says that '{lost[0]}' is in {table[lost[0]]}, but it {there}{more}",
            "The shards are of another version than the index; download all again.",
        )
    extra = [name for name in owner if name not in table]
    if extra:
        notes.append(f"{label}: the index does not list these tensors; they are read: {listing(extra)}")


_Header = tuple[dict[str, TensorRef], dict[str, str], list[str]]


def _headers(folder: Folder, files: tuple[Path, ...]) -> list[_Header]:
    if not any(file in folder.remote for file in files):
        return [_header(folder, file) for file in files]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(partial(_header, folder), files))


def _header(folder: Folder, file: Path) -> _Header:
    remote = folder.remote.get(file)
    if file.suffix == ".safetensors":
        return (*(remote.header() if remote else read_header(file)), [])
    if file.suffix == ".gguf":
        return read_gguf(remote.fetch() if remote else file)
    if file.suffix not in TORCH_SUFFIXES:
        raise InputError(f"{file} is not a weight file that can be read", f"Known: {listing(WEIGHT_SUFFIXES)}.")
    tensors, notes = read_torch_file(remote.fetch() if remote else file)  # they have no header at their start
    return tensors, {}, notes
