"""Arrays over memory that numpy would not let be written.

The server's Python runs this file beside a backend's `model.py`; it imports numpy alone.
"""

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


def writable(array: Array) -> Array:
    """Return the same memory as an array that can be written: numpy takes what comes by DLPack for read-only."""
    if array.flags.writeable:
        return array
    interface = array.__array_interface__
    return np.asarray(_Interface({**interface, "data": (interface["data"][0], False)}, array))


class _Interface:
    """What numpy asks of whoever owns memory."""

    __slots__ = ("__array_interface__", "owner")

    def __init__(self, interface: dict[str, Any], owner: Array) -> None:
        self.__array_interface__, self.owner = interface, owner
