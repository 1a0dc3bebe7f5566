"""pip where none is installed, as in the environments that uv makes: the wheel that Python brings along for ensurepip.

It runs as it is, out of the wheel, so nothing is installed into the user's environment.
"""

from __future__ import annotations

import os
import sys
from importlib import resources
from importlib.machinery import PathFinder

from resx.errors import MissingCapability


def pip_environment(wanted: str) -> dict[str, str]:
    """Return an environment in which `python -m pip` runs.

    Args:
        wanted: what is to be fetched, for the message.

    Raises:
        MissingCapability: there is neither pip nor its wheel; some distributions take ensurepip away.
    """
    environment = dict(os.environ)
    if is_installed("pip"):
        return environment
    bundled = resources.files("ensurepip").joinpath("_bundled") if is_installed("ensurepip") else None
    wheels = [wheel for wheel in bundled.iterdir() if wheel.name.startswith("pip-")] if bundled else []
    if not wheels:
        raise MissingCapability(
            f"{wanted} must be fetched with pip, but {sys.prefix} has neither pip nor ensurepip: uv pip install pip"
        )
    return environment | {"PYTHONPATH": os.pathsep.join(filter(None, [str(wheels[0]), environment.get("PYTHONPATH")]))}


def is_installed(name: str) -> bool:
    """Say whether a top-level package is on the path.

    Import hooks are not asked: that of setuptools replaces distutils, with a warning, when somebody looks for pip.
    """
    return PathFinder.find_spec(name) is not None
