"""A model repository on the Hugging Face Hub to write to, through huggingface_hub.

Everything that is written is one commit, so a repository is as it was or as it is to be. Files are uploaded before; what is
there already, by its hash, is not uploaded again, and so a push that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.checkpoint._hub import is_connection, library
from modelwright.errors import InputError, RunError

#: Characters of what a library or the Hub says.
_LONGEST = 500
_LOGIN = "Log in with a token that may write: hf auth login, or set HF_TOKEN."


@dataclass(frozen=True)
class HubFile:
    """A file in a repository.

    Attributes:
        size: In bytes.
        sha256: Of its content; empty where the Hub keeps it in git.
        git: Its git hash; empty where the Hub does not.
    """

    size: int
    sha256: str
    git: str

    def holds(self, content: Path | bytes) -> bool:
        """Whether its content is this."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if size != self.size:
            return False
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        if isinstance(content, bytes):
            digest.update(content)
        else:
            with content.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest() == (self.sha256 or self.git)


@dataclass(frozen=True)
class HubState:
    """What a repository is like.

    Attributes:
        private: Whether only its owners see it.
        commit: The commit that the branch is at, or would be made from.
        files: Of that commit, by name.
        branch: Whether the branch exists.
    """

    private: bool
    commit: str
    files: Mapping[str, HubFile]
    branch: bool = True


class HubRepo:
    """A model repository to write to.

    Args:
        repo: `owner/name`, or the name of one of your own.
        branch: Which branch.

    Attributes:
        id: `owner/name`.
        branch: As given.

    Raises:
        InputError: The name cannot be one, nobody is logged in, or the Hub cannot be reached.
    """

    def __init__(self, repo: str, branch: str = "main"):
        hub = library()
        _check_names(hub, repo, branch)
        if hub.constants.HF_HUB_OFFLINE:
            raise InputError("HF_HUB_OFFLINE is set, and pushing needs the Hub", "Unset it.")
        self._token: str = hub.get_token() or ""
        if not self._token:
            raise InputError("nobody is logged in to the Hub", _LOGIN)
        self._api: Any = hub.HfApi(token=self._token)
        self.id, self.branch = repo, branch
        with self._asking():
            user = str(self._api.whoami()["name"])
        self.id = repo if "/" in repo else f"{user}/{repo}"

    @property
    def url(self) -> str:
        """Its page."""
        tree = "" if self.branch == "main" else f"/tree/{self.branch}"
        return f"{self._api.endpoint}/{self.id}{tree}"

    def state(self) -> HubState | None:
        """What it is like; None where it does not exist.

        Raises:
            InputError: The Hub refuses, or cannot be reached.
        """
        errors, branch = library().errors, True
        with self._asking():
            try:
                info: Any = self._api.model_info(self.id, revision=self.branch, files_metadata=True)
            except errors.RevisionNotFoundError:
                info, branch = self._api.model_info(self.id, files_metadata=True), False
            except errors.GatedRepoError:
                raise
            except errors.RepositoryNotFoundError:
                return None
        files = {str(file.rfilename): _file(file) for file in info.siblings or ()}
        return HubState(bool(info.private), str(info.sha), files, branch)

    def read(self, name: str, commit: str) -> bytes:
        """A small file of a commit.

        Raises:
            InputError: The Hub refuses, or cannot be reached.
        """
        with self._asking():
            return Path(self._api.hf_hub_download(self.id, name, revision=commit)).read_bytes()

    def create(self, state: HubState | None, *, private: bool) -> HubState:
        """Make the repository and the branch, as far as they do not exist.

        Raises:
            InputError: The Hub refuses: the token may not, or not there.
        """
        with self._asking():
            if state is None:
                self._api.create_repo(self.id, private=private, exist_ok=True)
            if (state is None or not state.branch) and self.branch != "main":
                self._api.create_branch(self.id, branch=self.branch, exist_ok=True)
        found = self.state()
        if found is None or not found.branch:
            raise RunError(f"'{self.id}' was made on the Hub, and cannot be found there.", resumable=True)
        return found

    def commit(
        self, add: Mapping[str, Path | bytes], delete: Collection[str], message: str, parent: str
    ) -> tuple[str, list[str]]:
        """Upload files and make one commit of them.

        Args:
            add: Contents by name; what is there already with the same content is left out.
            delete: Names of files to remove.
            message: Of the commit, its first line.
            parent: The commit that the branch must still be at.

        Returns:
            The new commit, and what the Hub remarks on the model card.

        Raises:
            InputError: The Hub refuses the model card.
            RunError: Uploading failed, or somebody else has written meanwhile; the repository is as it was.
        """
        hub = library()
        with self._sending(), warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            operations = [hub.CommitOperationDelete(path_in_repo=name) for name in sorted(delete)]
            operations += [
                hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in add.items()
            ]
            made = self._api.create_commit(
                self.id, operations, commit_message=message, revision=self.branch, parent_commit=parent
            )
        said = [line.removeprefix("- ") for remark in remarks for line in str(remark.message).splitlines()[1:]]
        return str(made.oid), [f"the Hub on the model card: {self._clean(text)}" for text in said]

    @contextmanager
    def _asking(self) -> Generator[None]:
        """Errors of requests before anything is written."""
        try:
            yield
        except (InputError, RunError):
            raise
        except Exception as error:  # of httpx or requests, by version of huggingface_hub
            status = _status(error)
            if status == 401:
                raise InputError("the Hub does not know the token that is set", _LOGIN) from None
            if status == 403:
                what = f"the token that is set may not write to '{self.id}' ({self._said(error)})"
                raise InputError(what, f"Check the owner's name. {_LOGIN}") from None
            if any(isinstance(one, Exception) and is_connection(one) for one in (error, error.__cause__)):
                raise InputError("the Hub cannot be reached", "Check the network and HF_ENDPOINT.") from None
            raise InputError(f"the Hub refuses '{self.id}': {self._said(error)}", "") from None

    @contextmanager
    def _sending(self) -> Generator[None]:
        """Errors while files are sent: until the commit nothing has changed, and what was uploaded stays."""
        again = f"'{self.id}' is as it was. Run the same command again: what was uploaded is not sent again."
        try:
            yield
        except (InputError, RunError):
            raise
        except Exception as error:
            status = _status(error)
            if status in (409, 412):
                raise RunError(f"Somebody else has changed '{self.id}' meanwhile; look at it and push again.") from None
            if "metadata in README.md" in str(error):
                what = self._clean(" ".join(str(error).split()))
                raise InputError(f"the Hub refuses the model card: {what}", "Mend README.md: mw card.") from None
            raise RunError(f"Uploading failed: {self._said(error)}. {again}", resumable=True) from error

    def _said(self, error: BaseException) -> str:
        """What a library said, without the token, of an error and of what it came from."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Request ID" not in line]
        said = self._clean(" ".join(lines)[:_LONGEST] or type(error).__name__).rstrip(".:")
        cause = error.__cause__
        return said if cause is None or _status(error) is not None else f"{said}: {self._said(cause)}"

    def _clean(self, text: str) -> str:
        return text.replace(self._token, "***")


def _check_names(hub: Any, repo: str, branch: str) -> None:
    if "://" in repo:
        raise InputError(f"'{repo}' is a URL", "Write the repository as owner/name; HF_ENDPOINT says which Hub.")
    try:
        hub.utils.validate_repo_id(repo)
    except ValueError as error:
        said = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"'{repo}' cannot be a repository ({said})", "Write owner/name, or name.") from None
    if re.fullmatch(r"[0-9a-f]{40}", branch) or branch.startswith("refs/"):
        raise InputError(
            f"'{branch}' is no branch, and commits go to branches", "Name a branch; it is made if need be."
        )


def _file(entry: Any) -> HubFile:
    lfs: Any = entry.lfs
    sha256 = "" if lfs is None else str(lfs.sha256)
    return HubFile(int(entry.size or 0), sha256, str(entry.blob_id or ""))


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
