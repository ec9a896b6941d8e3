"""Send an output to the Hugging Face Hub: what its manifest names, and nothing else, in one commit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from modelwright.checkpoint import MANIFEST, HubFile, HubRepo, HubState, is_url, user_path
from modelwright.engine._card import card_text, verdict_of
from modelwright.engine._folder import MARKER, is_ours, partial_of, settled
from modelwright.engine._lineage import CARD
from modelwright.engine._manifest import add_file, manifest_json
from modelwright.engine._verify import read_manifest
from modelwright.errors import InputError, Problem, listing

#: `model-00001-of-00003.safetensors`, and the index of such: what a weight file of another layout would stand beside.
_WEIGHTS = re.compile(r"(?P<stem>.+?)(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
#: What says where on this machine a merge was made.
_PRIVATE = ("host", "folder")

Fate = Literal["new", "changed", "same"]


@dataclass(frozen=True)
class Sent:
    """A file of an output on its way to the Hub.

    Attributes:
        name: Its place.
        size: In bytes.
        fate: `new`, `changed` if it replaces one, or `same` if it is there already and not sent.
    """

    name: str
    size: int
    fate: Fate


@dataclass(frozen=True)
class Push:
    """What a push would do, and then does.

    Attributes:
        repo: `owner/name`.
        branch: Of it.
        url: Its page.
        creates: What has to be made first: `repository`, `branch` or nothing.
        private: Whether only its owners see it.
        files: What the output consists of.
        deleted: Files there that belonged to an earlier output.
        notes: What the user should know.
        commit: The commit that was made; None before, and where all was there already.
    """

    repo: str
    branch: str
    url: str
    creates: Literal["repository", "branch", ""]
    private: bool
    files: tuple[Sent, ...]
    deleted: tuple[str, ...]
    notes: tuple[str, ...]
    commit: str | None = None
    _remote: HubRepo = field(kw_only=True, repr=False)
    _state: HubState | None = field(kw_only=True, repr=False)
    _contents: Mapping[str, Path | bytes] = field(kw_only=True, repr=False)

    @property
    def overwritten(self) -> tuple[str, ...]:
        """Files there that would be replaced or removed; a branch that is yet to be made loses none."""
        return () if self.creates else (*(file.name for file in self.files if file.fate == "changed"), *self.deleted)

    @property
    def nbytes(self) -> int:
        """Bytes of the files that are not there yet."""
        return sum(file.size for file in self.files if file.fate != "same")

    def send(self, message: str = "") -> Push:
        """Make what has to be made, upload, and commit.

        Args:
            message: Of the commit; default says the method.

        Returns:
            The same with its `commit`.

        Raises:
            InputError: The Hub refuses.
            RunError: Uploading failed; the repository is as it was, and the same push goes on.
        """
        sent = {file.name: self._contents[file.name] for file in self.files if file.fate != "same"}
        state = self._state
        if self.creates:
            state = self._remote.create(state, private=self.private)
        if state is None or not (sent or self.deleted):
            return self
        commit, remarks = self._remote.commit(sent, self.deleted, message or "Upload with modelwright", state.commit)
        return replace(self, commit=commit, notes=(*self.notes, *remarks))


def prepare_push(out: Path, repo: str, *, branch: str = "main", private: bool = False) -> Push:
    """Look at an output and at the Hub; nothing is written.

    Args:
        out: The output of a merge, `finished`. Its files are not compared with their hashes here: `verify` does that.
        repo: `owner/name`, or the name of a repository of one's own.
        branch: Which branch; it is made if need be.
        private: If the repository has to be made, make it private.

    Raises:
        InputError: The folder is no output, a file in its manifest is not to be sent, nobody is logged in, or the Hub
            refuses.
    """
    manifest = read_manifest(out)
    _check_files(out, manifest)
    remote = HubRepo(repo, branch)
    state = remote.state()
    if state is not None and private and not state.private:
        raise InputError(
            f"'{remote.id}' exists and is public, and --private (private=True) is for one that is to be made",
            "Make it private in its settings on the Hub first, or leave the option out.",
        )
    contents = _contents(out, manifest, remote.id)
    there: Mapping[str, HubFile] = state.files if state is not None else {}
    files = tuple(Sent(name, _size(content), _fate(there, name, content)) for name, content in contents.items())
    return Push(
        repo=remote.id,
        branch=branch,
        url=remote.url,
        creates="repository" if state is None else "" if state.branch else "branch",
        private=private if state is None else state.private,
        files=files,
        deleted=tuple(sorted(_stale(remote, state, contents))),
        notes=tuple(_notes(out, manifest, remote.id)),
        _remote=remote,
        _state=state,
        _contents=contents,
    )


def finished(out: str | Path) -> Path:
    """The path of a finished output, after an overwrite that was killed half-way is undone or ended.

    Raises:
        InputError: It is being made, or its merge was interrupted.
    """
    text = str(out)
    if is_url(text) or is_url(text.replace(":/", "://", 1)):
        raise InputError(f"'{out}' is behind a URL, and this is for folders on this machine", "Copy it here first.")
    path = user_path(out)
    partial = path.name.endswith(".partial") and (path / MARKER).exists()
    if not partial:  # of which `settled` would take it for an output that is being put in its place
        path = settled(path)
        partial = (path / MARKER).exists() or (not path.exists() and (partial_of(path) / MARKER).exists())
    if partial:
        raise InputError(
            f"'{path}' is not finished: its merge is going on, or was interrupted",
            "Run the same mw merge again: it goes on where it was.",
        )
    return path


def _check_files(out: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that names anything but files in the folder: it may come from elsewhere, and all it names is sent."""
    problems: list[Problem] = []
    root = Path(os.path.realpath(out))
    for name in manifest["files"]:
        path = out / name  # without .. in it, as `read_manifest` has seen to; but it may be a link
        if path.exists() and not Path(os.path.realpath(path)).is_relative_to(root):
            problems.append(
                Problem(f"the manifest names '{name}', which is not in '{out}'", "Do not push this folder.")
            )
        elif not path.is_file():
            problems.append(Problem(f"'{name}' is missing in '{out}'", "Merge again."))
    if problems:
        raise InputError(problems)


def _contents(out: Path, manifest: Mapping[str, Any], repo: str) -> dict[str, Path | bytes]:
    """What is sent, by name: small files that say where they are as they shall be there, the weights last."""
    found: dict[str, Path | bytes] = {name: out / name for name in manifest["files"]}
    public: dict[str, Any] = json.loads(json.dumps(manifest))
    for key in _PRIVATE:
        public.get("run", {}).pop(key, None)
    if CARD in found and (out / CARD).read_bytes() == card_text(out, manifest).encode():  # else it was edited, and kept
        card = card_text(out, manifest, repo).encode()
        found[CARD] = card
        add_file(public, CARD, card)
    found[MANIFEST] = manifest_json(public).encode()
    return dict(sorted(found.items(), key=lambda item: (_size(item[1]), item[0])))


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _fate(there: Mapping[str, HubFile], name: str, content: Path | bytes) -> Fate:
    return "new" if name not in there else "same" if there[name].holds(content) else "changed"


def _stale(remote: HubRepo, state: HubState | None, contents: Mapping[str, Path | bytes]) -> set[str]:
    """Files there that are not part of this output, and belonged to another.

    That is what a manifest of ours names, and weights of the same name in another number of parts: who loads the
    repository could take them for this model.
    """
    if state is None:
        return set()
    before: set[str] = set()
    if MANIFEST in state.files:
        text = remote.read(MANIFEST, state.commit).decode(errors="replace")
        before = set(json.loads(text).get("files", ())) if is_ours(text) else set()
    stems = {match["stem"] for name in contents if (match := _WEIGHTS.fullmatch(name))}
    layouts = {name for name in state.files if (match := _WEIGHTS.fullmatch(name)) and match["stem"] in stems}
    return ((before & state.files.keys()) | layouts) - contents.keys()


def _notes(out: Path, manifest: Mapping[str, Any], repo: str) -> list[str]:
    found = verdict_of(manifest)
    notes = [
        f"licence: {found.outcome}" + (f", {found.licence}" if found.licence else "") + f" ({'; '.join(found.because)})"
    ]
    for start, licence in found.names:
        if not repo.rpartition("/")[2].lower().startswith(start.lower().replace(" ", "-")):
            notes.append(f"{licence} asks for a name that begins with '{start}', and '{repo}' does not")
    local = [entry["model"] for entry in manifest["inputs"] if str(entry["model"]).startswith(("/", "~"))]
    if local:
        notes.append(f"recipe, manifest and model card name folders of this machine: {listing(local, 3)}")
    known = {*manifest["files"], MANIFEST}
    other = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    other = [name for name in other if name not in known]
    if other:
        notes.append(f"not part of the output, and not sent: {listing(other)}")
    return notes
