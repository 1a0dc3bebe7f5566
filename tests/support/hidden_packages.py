"""Packages that are there and cannot be found: what a command does where somebody did not install them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

_HIDE = """
import importlib.machinery, os
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = lambda name, path=None, target=None: (
    None if name.partition(".")[0] in os.environ["MISSING"].split() else find(name, path, target))
"""
"""As sitecustomize.py: of every Python that is started, so that a server's process lacks the packages too."""


def environment_without(packages: Sequence[str], folder: Path) -> dict[str, str]:
    """Return variables under which no Python finds these packages; `folder` is where that is written."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HIDE)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {"MISSING": " ".join(packages), "PYTHONPATH": path}
