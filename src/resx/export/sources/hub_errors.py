"""What the user can do about an error of timm's or of the Hugging Face Hub's client, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resx.errors import MissingCapability, ResxError, UsageError, first_line

_WEBSITE = "https://huggingface.co"


def explain(text: str, config: Mapping[str, Any], error: Exception) -> ResxError:
    """Return what the user can do about an error of timm or the Hub's client."""
    from huggingface_hub import constants, errors

    repository, _, revision = str(config.get("hf_hub_id") or "").partition("@")
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        page = f"{_WEBSITE}/{repository}"
        return UsageError(f"{text}: {page} has no file that timm can load ({first_line(error)})")
    folder = f"models--{repository.replace('/', '--')}"
    command = f"hf download {repository}{f' --revision {revision}' if revision else ''}"
    cached = (
        f"run `{command}` on a machine with internet access, and copy the folder {folder} of its cache to "
        f"{constants.HF_HUB_CACHE}"
    )
    said = explain_hub(text, repository, revision, error, unreachable=cached)
    if said is not None and (repository or not _is_of_the_network(error)):
        return said
    if not _is_of_the_network(error):
        return UsageError(f"{text}: timm cannot build it: {first_line(error, with_type=True)}")
    import torch

    url = str(config.get("url"))
    place = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return MissingCapability(
        f"{text}: {url} cannot be downloaded ({_why(error)}); download it elsewhere and put it at {place}"
    )


def explain_hub(text: str, repository: str, revision: str, error: Exception, *, unreachable: str) -> ResxError | None:
    """Return what the user can do about an error of the Hub's client; None if it is none of those that it is known for.

    Args:
        text: as the user named what was asked for.
        repository: `ORG/NAME`.
        revision: empty for the main branch.
        error: that was raised.
        unreachable: what to do where the Hub does not answer.
    """
    from huggingface_hub import errors

    page = f"{_WEBSITE}/{repository}"
    if isinstance(error, errors.GatedRepoError):
        return UsageError(f"{text}: {page} is gated; accept its terms there, then run `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UsageError(f"{text}: {page} does not exist or is private; check the name, or run `hf auth login`")
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"{text}: {page} has no revision {revision!r}; see its branches and commits")
    if isinstance(error, errors.HfHubHTTPError) and (status := _status(error)) in (401, 403):
        return UsageError(
            f"{text}: {page} refuses this token ({status}); run `hf auth login` with a token that has write access"
        )
    if not _is_of_the_network(error):
        return None
    return MissingCapability(f"{text}: {page} cannot be reached ({_why(error)}); {unreachable}")


def _why(error: BaseException) -> str:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return first_line(error)


def _status(error: Exception) -> int:
    """Return the HTTP status of an answer that says no; 0 where there was none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _is_of_the_network(error: Exception) -> bool:
    """Whether there was no answer, or none that says what is wrong with the request; names differ by version."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError | ConnectionError | TimeoutError | errors.HfHubHTTPError):
        return True
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib", "urllib3")
