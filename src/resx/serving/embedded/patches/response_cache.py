"""What resx changes in the embedded server's library, so that the response cache keeps no failure.

Triton 2.51 puts every response into the cache, those of failed requests too. Such a response has no outputs, so whoever
asks the same again is answered 200 without any, and goes on to be once the model is well (tried: a stopped stub).

The library that resx unpacks from the pinned wheel treats a response without outputs like one that is not there, in
`CacheEntry::SerializeResponse` (core, cache_entry.cc): it is not inserted. No other byte changes.
"""

from __future__ import annotations

from pathlib import Path

from resx.serving.embedded.patches.batcher import LIBRARY
from resx.serving.embedded.patches.binary_edits import Edit, rewrite

# Where the loop over the outputs is left out because there are none: on to the end (je), or to the error of a null.
_EDIT = Edit(0x1B4285, bytes.fromhex("0f8492000000"), bytes.fromhex("0f847d060000"))


def keep_failures_out(libraries: Path) -> None:
    """Write the change into the unpacked library, which must be the pinned wheel's own, untouched there."""
    rewrite(libraries / LIBRARY, [_EDIT])
