"""What resx changes in the embedded server's library, so that a lone request does not wait for the batcher to wake up.

With dynamic batching Triton queues every request and wakes the batcher's thread, which makes a batch of what is queued
and wakes an instance. Where nothing is queued and an instance waits for work, that batch is the one request, and the
thread between is a wake-up for nothing: `benchmarks/patch_gains.py` measures what it costs (docs/serving-speed.md has
the figures). The library that resx unpacks from the pinned wheel hands such a request to the instance itself, as it
does for a model without dynamic batching (core, dynamic_batch_scheduler.cc, `DynamicBatchScheduler::Enqueue`). Two
requests that come at once may both be handed over, and the second is then computed alone, next. Where config.pbtxt has
a queue delay, nothing changes: a batch is to wait there for more.

idle_instances.s has the instructions; they lie in the zeros behind the library's own code. No other byte changes.
"""

from __future__ import annotations

from pathlib import Path

from resx.serving.embedded.patches.batcher import LIBRARY
from resx.serving.embedded.patches.binary_edits import Edit, rewrite

CODE_AT = 0xE7AC80
CODE = bytes.fromhex(
    "4883bdf80100000075364883bd0802000000752c488b7508488b5510488b8600050000488bb8a002000031c941b801000000e879cb45ff84c0"
    "7405e9321035ffe9631735ff"
)
"""idle_instances.s, assembled."""
_BRANCH_AT, _BATCHED = 0x1CBCEC, 0x1CC428
"""Where a model that batches branches off (jne), and to where."""


def _branch(to: int) -> bytes:
    return b"\x0f\x85" + (to - _BRANCH_AT - 6).to_bytes(4, "little", signed=True)


EDITS = (
    Edit(_BRANCH_AT, _branch(_BATCHED), _branch(CODE_AT)),
    Edit(CODE_AT, bytes(len(CODE)), CODE),
)


def hand_over_directly(libraries: Path) -> None:
    """Write the changes into the unpacked library, which must be the pinned wheel's own, untouched there."""
    rewrite(libraries / LIBRARY, EDITS)
