"""How networks that resx did not make are named: torchvision:NAME, timm:NAME.TAG, hf:ORG/NAME, module:function.

What a name means is known before any package is imported: the first three are data, the last is code of the user's.
"""

from __future__ import annotations

import re
from pathlib import Path

from resx.errors import UsageError

TORCHVISION, TIMM, HUB = "torchvision", "timm", "hf"
COLLECTIONS = (TORCHVISION, TIMM, HUB)
"""What stands before the colon where a collection has the network; anything else is a module of the user's."""
HUB_CONFIG = "config.json"

_TIMM_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_.-]+)?")
_HUB_NAME = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(@\w[\w./-]{0,199})?", re.ASCII)
_FOLDER = re.compile(r"(~|\.{0,2})(/|$)")
"""How a path begins that no name on the Hub can be taken for."""


def require_foreign_name(text: str) -> None:
    """Check that a name with a colon can be one; whether there is such a network is for its collection to say.

    Raises:
        UsageError: it is malformed, or names a folder that holds no network.
    """
    collection, _, name = text.partition(":")
    if collection == TIMM:
        if not _TIMM_NAME.fullmatch(name):
            raise UsageError(f"{text}: give timm:NAME or timm:NAME.TAG, such as timm:resnet18.a1_in1k")
    elif collection == HUB:
        folder = hub_folder(text)
        if folder is None and not _HUB_NAME.fullmatch(name):
            raise UsageError(f"{text}: give hf:ORG/NAME or hf:ORG/NAME@REVISION; hf:./FOLDER for a folder")
        if folder is not None and not (folder / HUB_CONFIG).is_file():
            what = f"has no {HUB_CONFIG}" if folder.is_dir() else "no such folder"
            raise UsageError(f"{text}: {what}; give a folder that timm's save_for_hf wrote")
    elif not all(part.isidentifier() for part in collection.split(".")) or not name.isidentifier():
        raise UsageError(
            f"{text}: give torchvision:NAME, timm:NAME, hf:ORG/NAME, or module:function with a function that takes "
            "nothing"
        )


def names_hub_repository(name: str) -> bool:
    """Say whether a name is `ORG/NAME` or `ORG/NAME@REVISION`."""
    return _HUB_NAME.fullmatch(name) is not None


def hub_folder(text: str) -> Path | None:
    """Return the folder that stands in for a repository of the Hub (`hf:./FOLDER`); None where none is named."""
    collection, _, name = text.partition(":")
    return Path(name).expanduser() if collection == HUB and name and _FOLDER.match(name) else None


def short_name(text: str) -> str:
    """Return what the network is called without its collection: the last part of its name."""
    if (folder := hub_folder(text)) is not None:
        return folder.resolve().name
    return text.rpartition(":")[2].partition("@")[0].rpartition("/")[2]
