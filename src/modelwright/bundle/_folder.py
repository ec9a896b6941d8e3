"""A bundle as a folder: read with its hashes, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modelwright.bundle._schema import About, parse
from modelwright.checkpoint import (
    BUNDLE,
    MANIFEST,
    Checkpoint,
    TensorRef,
    open as open_checkpoint,
    read_json,
    user_path,
)
from modelwright.engine import CHUNK, file_hash, file_hashes, manifest_json, read_manifest
from modelwright.errors import InputError, Problem


@dataclass(frozen=True)
class Bundle:
    """A bundle on this machine.

    Attributes:
        path: Its folder.
        about: What its bundle.json says.
    """

    path: Path
    about: About

    def folder(self, name: str) -> Path:
        """Where a member that lies in the bundle is."""
        member = self.about.members[name]
        assert member.folder is not None
        return self.path / member.folder

    def verified(self, name: str) -> Path:
        """The folder of a member after all its bytes were compared with its hash; of one elsewhere, its file.

        Raises:
            InputError: It is gone, or is another by now.
        """
        member = self.about.members[name]
        if member.folder is not None:
            found, where = files_hash(_table(self.path, member.folder, trust=False), member.folder), self.folder(name)
        else:
            where = Path(str(member.reference))
            found = file_digest(where) if where.is_file() else ""
        if found != member.hash:
            raise InputError(
                f"the member '{name}' of the bundle is not what it was: its hash is another", "Make the bundle again.",
                str(self.path),
            )  # fmt: skip
        return where

    def checkpoint(self, name: str) -> Checkpoint:
        """The weights of a member; one that is elsewhere is read and compared with its hash first.

        Raises:
            InputError: It is gone, or is another by now.
        """
        member = self.about.members[name]
        if member.folder is not None:
            return open_checkpoint(self.folder(name), label=f"{self.path.name}/{member.folder}")
        assert member.reference is not None
        try:
            found = open_checkpoint(member.reference, folder=self.path)
        except InputError as error:
            raise InputError(
                [Problem(f"the member '{name}' of the bundle is elsewhere: {one.what}", one.mend, str(self.path)) for one in error.problems]
            ) from None  # fmt: skip
        if tensors_hash(found) != member.hash:
            raise InputError(
                f"the member '{name}' of the bundle is '{member.reference}', and that holds other weights than it did",
                "Bring back what was there, or make the bundle again.",
                str(self.path),
            )
        return found

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the members that are a task's."""
        return tuple(name for name, member in self.about.members.items() if member.role == "task")


def said_of(about: About, run: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of a bundle that comes of no merge."""
    return {
        "manifest_version": 1, "made_by": dict(about.lineage.versions), "method": about.kind, "recipe": about.lineage.recipe,
        "seed": about.lineage.seed, "chunk_bytes": CHUNK, "run": dict(run),
        "inputs": [
            {"model": name, "xxh3_128": member.hash, "licence": about.lineage.licences.get(name)}
            for name, member in about.members.items()
        ],
    }  # fmt: skip


def is_bundle(path: Path) -> bool:
    """Whether a folder says it is a bundle."""
    return (path / BUNDLE).is_file()


def open_bundle(path: str | Path) -> Bundle:
    """Read a bundle: its schema, its hash, and that every file is there in its size; `mw verify` reads all bytes.

    Raises:
        InputError: It is no bundle, of another version, damaged, or was changed after it was made.
    """
    folder = user_path(path)
    if not is_bundle(folder):
        raise InputError(f"'{folder}' has no {BUNDLE}, so it is no bundle", "Give the folder that mw has written.")
    about = parse(read_json(folder / BUNDLE), f"{folder}/{BUNDLE}")
    files: Mapping[str, Any] = read_manifest(folder)["files"]
    text = (folder / BUNDLE).read_bytes()
    if files.get(BUNDLE, {}).get("xxh3_128") != [xxhash.xxh3_128_hexdigest(text)]:
        raise InputError(f"'{folder}/{BUNDLE}' was changed after the bundle was made", "Make the bundle again.")
    problems: list[Problem] = []
    for name, entry in files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry["bytes"]:
            what = f"{name} is missing" if size is None else f"{name} has {size:,} bytes, and had {entry['bytes']:,}"
            problems.append(Problem(what, "The bundle is damaged: copy or make it again.", str(folder)))
    for name, member in about.members.items():
        if member.folder is not None and member.hash != files_hash(files, member.folder):
            problems.append(Problem(f"the hash of the member '{name}' is not that of its files", "", str(folder)))
    if problems:
        raise InputError(problems[:8])
    return Bundle(folder, about)


def check_members(path: Path) -> list[str]:
    """What is wrong with the members that lie elsewhere, a sentence each; all of them are read."""
    bundle = open_bundle(path)
    found: list[str] = []
    for name, member in bundle.about.members.items():
        if member.reference is not None:
            try:
                if member.format in ("onnx", "skops"):
                    bundle.verified(name)
                else:
                    bundle.checkpoint(name)
            except InputError as error:
                found += [problem.what for problem in error.problems]
    return found


def finish(folder: Path, about: About, said: Mapping[str, Any]) -> None:
    """Write bundle.json and the manifest of a folder whose members are there.

    Args:
        folder: Where it is made.
        about: What bundle.json is to say; the hashes of members in the folder are those of `members_in`.
        said: What the manifest says beside the files.
    """
    (folder / BUNDLE).write_text(about.text(), encoding="utf-8")
    table = {BUNDLE: file_hash(folder / BUNDLE)}
    for member in about.members.values():
        if member.folder is not None:
            table |= _table(folder, member.folder)
    manifest = {**said, "bundle": about.kind, "files": dict(sorted(table.items()))}
    (folder / MANIFEST).write_text(manifest_json(manifest), encoding="utf-8")


def _table(folder: Path, member: str, *, trust: bool = True) -> dict[str, Any]:
    """The hashes of a member's files; those that the engine has just written are known already.

    Its own manifest is left out: it says when it was made, and the same bundle made again is to have the same hashes.
    """
    known: Mapping[str, Any] = {}
    if trust and (folder / member / MANIFEST).is_file():
        files = read_manifest(folder / member)["files"]
        known = {name: {key: entry[key] for key in ("bytes", "xxh3_128")} for name, entry in files.items()}
    found = {**known, **file_hashes(folder / member, skip={*known, MANIFEST})}
    return {f"{member}/{name}": entry for name, entry in found.items()}


def member_hash(folder: Path, member: str) -> str:
    """The hash of a member in a folder that is being made."""
    return files_hash(_table(folder, member), member)


def files_hash(files: Mapping[str, Any], member: str) -> str:
    """A hash of the list of a member's files with the hashes of their chunks."""
    mine = {name: entry["xxh3_128"] for name, entry in sorted(files.items()) if name.startswith(f"{member}/")}
    return xxhash.xxh3_128_hexdigest(json.dumps(mine).encode())


def file_digest(path: Path) -> str:
    """A hash of a file's bytes."""
    return xxhash.xxh3_128_hexdigest(json.dumps(file_hash(path)["xxh3_128"]).encode())


def tensors_hash(model: Checkpoint) -> str:
    """A hash of a checkpoint's names, formats, shapes and values, whatever its files are."""

    def digest(item: tuple[str, TensorRef]) -> str:
        name, ref = item
        raw = np.ascontiguousarray(ref.read().astype(ref.dtype.numpy, copy=False)).reshape(-1).view(np.uint8)
        return f"{name} {ref.dtype.code} {ref.shape} {xxhash.xxh3_128_hexdigest(raw.data)}"

    with ThreadPoolExecutor(4) as pool:
        lines = sorted(pool.map(digest, model.items()))
    return xxhash.xxh3_128_hexdigest("\n".join(lines).encode())
