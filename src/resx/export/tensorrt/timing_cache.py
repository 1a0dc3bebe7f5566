"""What TensorRT measured in earlier builds, kept in a file per version and kind of GPU.

With it a second build of the same layers takes a fraction of the time and chooses the same kernels. TensorRT
for RTX has none: it chooses kernels when an engine is loaded, and the functions of its API do nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resx.errors import UsageError
from resx.files.locks import exclusive
from resx.files.staging import CACHED_FILE, write_atomic
from resx.runtimes.torch_gpu import Gpu


def file_for(folder: Path | None, version: str, gpu: Gpu | None) -> Path | None:
    """Return the file of measurements of this version on this GPU; None where none are to be kept.

    Raises:
        UsageError: a folder was given to a builder that measures on no GPU.
    """
    if folder is None:
        return None
    if gpu is None:
        raise UsageError(
            f"--timing-cache {folder}: TensorRT-RTX has none: it selects kernels when the engine is loaded; remove the "
            "option"
        )
    return folder / f"tensorrt-{version}-sm{gpu.compute_capability.replace('.', '')}.cache"


def attach(config: Any, file: Path | None) -> bool:
    """Give a builder's configuration what earlier builds measured; say whether there was something."""
    if file is None:
        return False
    known = file.read_bytes() if file.is_file() else b""
    # TensorRT refuses what it cannot use (another driver, say); then the build begins without.
    reused = bool(known) and config.set_timing_cache(config.create_timing_cache(known), False)
    if not reused:
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return reused


def keep(config: Any, file: Path | None) -> None:
    """Write the measurements back, joined with those of a build that ended meanwhile."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(file.parent):
        cache = config.get_timing_cache()
        if file.is_file():
            cache.combine(config.create_timing_cache(file.read_bytes()), True)
        write_atomic(file, bytes(cache.serialize()), mode=CACHED_FILE)
