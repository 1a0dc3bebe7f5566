"""All patches of the unpacked files, and the switch that leaves them out, the hidden argument too.

`RESX_UNPATCHED=1` serves with NVIDIA's files as they are: to see whether a patch is what is wrong, or to compare. The
server then works as before, with its own faults: docs/security.md says which.
"""

from __future__ import annotations

import os
from pathlib import Path

from resx.errors import UsageError
from resx.serving.embedded.patches.batcher import patch_batcher
from resx.serving.embedded.patches.idle_instances import hand_over_directly
from resx.serving.embedded.patches.region_modes import close_regions
from resx.serving.embedded.patches.request_limits import limit_requests
from resx.serving.embedded.patches.response_cache import keep_failures_out
from resx.serving.embedded.patches.socket_reads import read_more_at_once

SWITCH = "RESX_UNPATCHED"


def is_patched() -> bool:
    """Say whether the server is to be patched.

    Raises:
        UsageError: the switch says neither yes nor no.
    """
    text = os.environ.get(SWITCH, "").strip()
    if text not in ("", "0", "1"):
        raise UsageError(f"{SWITCH}={text}: use 1 for the server without resx's patches, or unset it")
    return text != "1"


def apply_patches(root: Path) -> None:
    """Write every patch into the unpacked server.

    Raises:
        MissingCapability: a file is not the pinned wheel's own, untouched.
    """
    patch_batcher(root / "libs")
    hand_over_directly(root / "libs")
    keep_failures_out(root / "libs")
    close_regions(root / "backends/python")
    limit_requests(root / "bin/tritonserver")
    read_more_at_once(root / "bin/tritonserver")
