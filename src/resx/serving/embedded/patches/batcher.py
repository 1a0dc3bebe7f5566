"""What resx changes in the embedded server's library, so that a bounded queue costs nothing.

With a queue policy (a bound, a timeout) Triton's dynamic batcher no longer fetches ahead: it hands out a batch only
while an instance waits for one. Then every batch waits for the batcher's thread to wake up, and a request that arrives
in the moment between an instance's answer and its next wait wakes nobody: it lies until the batcher's sleep of 500 ms
ends (core, dynamic_batch_scheduler.cc, `default_wait_microseconds`; the same from 24.10 to the newest read). Nothing in
the configuration avoids it; docs/serving-speed.md lists what was measured.

A timeout or a priority must hold a request back to the last moment. A bound need not: whether a request fits is
decided as it arrives. So the library that resx unpacks from the pinned wheel lets a bounded queue fetch ahead like
an unbounded one (scheduler_utils.cc, `support_prefetching_`), up to two batches for each instance beyond the bound;
and for the other policies both sleeps are 5 ms long. No other byte changes.
"""

from __future__ import annotations

from pathlib import Path

from resx.serving.embedded.patches.binary_edits import Edit, rewrite

LIBRARY = "libtritonserver-717102f0.so"
WAIT_MS = 5
EDITS = (
    # BatcherThread: how long it sleeps until an instance waits (mov edx, us), and over an empty queue (mov r12d, ns).
    Edit(1889341, b"\xba" + (500_000).to_bytes(4, "little"), b"\xba" + (WAIT_MS * 1_000).to_bytes(4, "little")),
    Edit(
        1890000,
        b"\x41\xbc" + (500_000_000).to_bytes(4, "little"),
        b"\x41\xbc" + (WAIT_MS * 10**6).to_bytes(4, "little"),
    ),
    # PriorityQueue: `max_queue_size == 0` (mov eax, [rcx+0x60]; test eax, eax; sete al) becomes true (xor eax, eax).
    Edit(3094237, bytes.fromhex("8b4160 85c0 0f94c0"), bytes.fromhex("31c090 85c0 0f94c0")),
)


def patch_batcher(libraries: Path) -> None:
    """Write the changes into the unpacked library, which must be the pinned wheel's own, untouched."""
    rewrite(libraries / LIBRARY, EDITS)
