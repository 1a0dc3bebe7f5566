"""Start processes that import resx alone, not the script that measures."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def hide_main() -> Iterator[None]:
    """Let processes that `multiprocessing` spawns meanwhile begin without the caller's main module.

    A spawned process imports it again, and a script whose calls stand in no `if __name__ == "__main__":` would then
    start everything once more. Nothing that is sent to a load generator is defined there.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
