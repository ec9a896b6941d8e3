"""Models on the Hugging Face Hub, through huggingface_hub: imported only when a Hub id is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelwright.errors import InputError

#: Everything a merge needs: weights, configuration, tokenizer and custom code; no optimizer states, no images.
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py", "*.tiktoken", "LICENSE*", "NOTICE*"]


def snapshot(repo: str, revision: str | None) -> Path:
    """The local folder of a Hub model, downloaded unless it is in the cache.

    Args:
        repo: `owner/name`.
        revision: A branch, tag or commit; None for main.

    Raises:
        InputError: It does not exist, needs a login, or the Hub cannot be reached (HF_HUB_OFFLINE is honoured).
    """
    import huggingface_hub as _hub
    from huggingface_hub import errors as _errors

    hub: Any = _hub
    errors: Any = _errors
    at = f"{repo}@{revision}" if revision else repo
    try:
        return Path(hub.snapshot_download(repo, revision=revision, allow_patterns=_WANTED))
    except errors.LocalEntryNotFoundError:
        raise InputError(
            f"no file or folder is called '{at}', and the Hub cannot be reached",
            "Check the path; to use a Hub model offline, download it first (hf download).",
        ) from None
    except errors.GatedRepoError:
        raise InputError(f"'{at}' is gated on the Hub", "Accept its terms there, then log in: hf auth login.") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"'{repo}' has no revision '{revision}' on the Hub") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"no file or folder is called '{at}', and the Hub has no such model (or it is private)",
            "Check the path or id; for a private model log in: hf auth login.",
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise InputError(f"'{at}' could not be fetched from the Hub ({type(error).__name__}: {error})") from None
