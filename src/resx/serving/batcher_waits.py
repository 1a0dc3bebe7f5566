"""Two numbers in the embedded server's library: how long its dynamic batcher sleeps when nobody wakes it.

With a queue policy (a bound, a timeout) Triton's batcher no longer fetches ahead: it hands out a batch only while
an instance waits for one. A request that arrives in the moment between an instance's answer and its next wait
wakes nobody, and lies until the batcher's sleep of 500 ms ends (core, dynamic_batch_scheduler.cc,
`default_wait_microseconds`; the same from 24.10 to the newest read). Nothing in the configuration avoids it;
docs/serving.md lists what was measured. So the library that resx unpacks from the pinned wheel gets both sleeps
shortened to 5 ms: a bounded queue then costs a late request 5 ms, not 500. No other byte changes.
"""

from __future__ import annotations

from pathlib import Path

LIBRARY = "libtritonserver-717102f0.so"
WAIT_MS = 5
# Offset in the file, the instruction up to its number, the number before. Both in BatcherThread.
_INSTRUCTIONS = (
    (1889341, bytes.fromhex("ba"), 500_000, WAIT_MS * 1_000),  # mov edx: us, until an instance waits
    (1890000, bytes.fromhex("41bc"), 500_000_000, WAIT_MS * 1_000_000),  # mov r12d: ns, of an empty queue
)


def shorten_batcher_waits(libraries: Path) -> None:
    """Write the shorter sleeps into the unpacked library, which must be the pinned wheel's own, untouched."""
    path = libraries / LIBRARY
    content = bytearray(path.read_bytes())
    for offset, opcode, before, after in _INSTRUCTIONS:
        end = offset + len(opcode) + 4
        assert content[offset:end] == opcode + before.to_bytes(4, "little"), f"{path} is of another wheel"
        content[offset:end] = opcode + after.to_bytes(4, "little")
    path.write_bytes(content)
