"""What the user can do about an error of timm's or of the Hugging Face Hub's client, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from resx.errors import MissingCapability, ResxError, UsageError, first_line

_WEBSITE = "https://huggingface.co"


def explain(text: str, config: Mapping[str, Any], error: Exception) -> ResxError:
    """Return what the user can do about an error of timm or the Hub's client."""
    from huggingface_hub import constants, errors

    repository, _, revision = str(config.get("hf_hub_id") or "").partition("@")
    page = f"{_WEBSITE}/{repository}"
    if isinstance(error, errors.GatedRepoError):
        return UsageError(f"{text}: {page} is gated; accept its terms there, then run `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UsageError(f"{text}: {page} does not exist or is private; check the name, or run `hf auth login`")
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"{text}: {page} has no revision {revision!r}; see its branches and commits")
    root: BaseException = error
    while (deeper := root.__cause__ or root.__context__) is not None:
        root = deeper
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return UsageError(f"{text}: {page} has no file that timm can load ({first_line(error)})")
    if not _is_of_the_network(error):
        return UsageError(f"{text}: timm cannot build it: {first_line(error, with_type=True)}")
    why = f"cannot be downloaded ({first_line(root)})"
    if not repository:
        url = str(config.get("url"))
        place = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        return MissingCapability(f"{text}: {url} {why}; download it elsewhere and put it at {place}")
    folder = f"models--{repository.replace('/', '--')}"
    command = f"hf download {repository}{f' --revision {revision}' if revision else ''}"
    return MissingCapability(
        f"{text}: {page} {why}; run `{command}` where there is a network, and copy the folder {folder} of its cache to "
        f"{constants.HF_HUB_CACHE}"
    )


def _is_of_the_network(error: Exception) -> bool:
    """Whether there was no answer, or none that says what is wrong with the request; names differ by version."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError | ConnectionError | TimeoutError | errors.HfHubHTTPError):
        return True
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib", "urllib3")
