"""Who may read the shared memory in which the embedded server hands tensors to its Python processes.

Triton 2.51's python backend makes its regions in /dev/shm with mode 0644, by shm_open and again by fchmod, so no
umask helps: every user of the machine could read the images and answers that pass through. The two files that
resx unpacks from the pinned wheel get 0600 in their place. No other byte changes.
"""

from __future__ import annotations

from pathlib import Path

from resx.serving.embedded.patches.binary_edits import of_another_wheel

FILES = ("libtriton_python.so", "triton_python_backend_stub")
OWNER_ONLY, EVERYBODY = 0o600, 0o644
# The instructions before and after each mode; the stub is another file for each Python, and so are their places.
_AROUND = (
    (bytes.fromhex("ba"), bytes.fromhex("bec2000000e8")),  # mov edx: mode; mov esi: create and read and write; shm_open
    (bytes.fromhex("0f1f00be"), bytes.fromhex("e8")),  # mov esi: mode; fchmod
)


def close_regions(python_backend: Path) -> None:
    """Write the closed mode into the unpacked backend, which must be the pinned wheel's own, untouched.

    There is no stub for a Python that the wheel does not know.
    """
    for path in (python_backend / name for name in FILES):
        if not path.exists():
            continue
        content = path.read_bytes()
        for before, after in _AROUND:
            open_to_all = before + EVERYBODY.to_bytes(4, "little") + after
            if content.count(open_to_all) != 1:
                raise of_another_wheel(path)
            content = content.replace(open_to_all, before + OWNER_ONLY.to_bytes(4, "little") + after)
        path.write_bytes(content)
