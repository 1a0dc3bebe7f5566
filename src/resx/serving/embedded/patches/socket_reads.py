"""How much of a request the embedded server reads from its socket at once over HTTP.

The libevent in Triton 2.51 reads 4 KiB at a time (buffer.c, `EVBUFFER_MAX_READ`), and asks the kernel twice before each
read: an image of 224 pixels in bytes takes 37 rounds, one of floats 147. What that costs, `benchmarks/patch_gains.py`
measures (docs/serving-speed.md has the figures). The program that resx
unpacks from the pinned wheel reads up to 256 KiB, of what has arrived. No other byte changes.
"""

from __future__ import annotations

from pathlib import Path

from resx.serving.embedded.patches.binary_edits import Edit, rewrite

READ_BYTES = 2**18
_BUFFER_BYTES, _EVENT_BYTES = 2**12, 2**14

EDITS = (
    # evbuffer_read: what has arrived, but not more than this (cmp eax; mov eax).
    Edit(0x9AA259, b"\x3d" + _BUFFER_BYTES.to_bytes(4, "little"), b"\x3d" + READ_BYTES.to_bytes(4, "little")),
    Edit(0x9AA25E, b"\xb8" + _BUFFER_BYTES.to_bytes(4, "little"), b"\xb8" + READ_BYTES.to_bytes(4, "little")),
    # bufferevent_ratelim_init_: `max_single_read`, of a pair of constants; the other half is `max_single_write`.
    Edit(
        0xB7B270,
        _EVENT_BYTES.to_bytes(8, "little") * 2,
        READ_BYTES.to_bytes(8, "little") + _EVENT_BYTES.to_bytes(8, "little"),
    ),
)


def read_more_at_once(server: Path) -> None:
    """Write the changes into the unpacked program, which must be the pinned wheel's own, untouched there."""
    rewrite(server, EDITS)
