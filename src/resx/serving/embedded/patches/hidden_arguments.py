"""Give a process arguments that the process list does not show.

Triton 2.51 takes its control key from its command line and from nowhere else, and every user of a machine can read
every command line in /proc/PID/cmdline. That file shows one stretch of the process's stack; the environment lies
beside it and is for the process's own user alone (/proc/PID/environ, mode 0400). So the argument is started with
something worthless in the key's place, the true one stands in the environment, and the pointer to the one is turned
to the other while the process is still being linked, some 40 ms before it reads its arguments. Should that come
too late, the process has a key that nobody uses: it is useless, not open, and the supervisor starts another.

Linux on x86_64; see proc_pid_stat(5) for the fields, and the System V ABI for the stack that a process starts with.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

_START_STACK, _ENV_END, _NUM_THREADS = 25, 48, 17
_DEADLINE_S = 1.0


def turn(pid: int, num_arguments: int, variables: Mapping[str, str]) -> bool:
    """Turn arguments of a process that was started just now to the values of its environment's variables.

    Args:
        pid: a child of this process.
        num_arguments: how many it was started with, its name among them.
        variables: the variable for each argument, which begins as the key here says, up to and with its `=`.

    Returns:
        Whether it was early enough.

    Raises:
        OSError: the child's memory may not be written here.
    """
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        base, stack = _initial_stack(pid, num_arguments, memory)
        if not stack:
            return False
        pointers = struct.unpack_from(f"<{num_arguments}Q", stack, 8)
        for beginning, variable in variables.items():
            place = next(
                index for index, pointer in enumerate(pointers) if stack.startswith(beginning.encode(), pointer - base)
            )
            name = f"\0{variable}=".encode()
            memory.seek(base + 8 + 8 * place)
            memory.write(struct.pack("<Q", base + stack.index(name) + len(name)))
    # Before its own code runs a process has one thread.
    return _fields(pid)[_NUM_THREADS] == 1


def _initial_stack(pid: int, num_arguments: int, memory: FileIO) -> tuple[int, bytes]:
    """Return address and content of the stack as the kernel made it, from the number of arguments to the environment.

    A new process is seen before its stack is complete; nothing is returned if that does not come.
    """
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        fields = _fields(pid)
        start, end = fields[_START_STACK], fields[_ENV_END]
        if start and end > start:
            memory.seek(start)
            stack = memory.read(end - start)
            if len(stack) == end - start and int.from_bytes(stack[:8], "little") == num_arguments:
                return start, stack
        time.sleep(0.0005)
    return 0, b""


def _fields(pid: int) -> list[int]:
    """Return the numbers of /proc/PID/stat from the third field on; the state, a letter, as 0."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [0, *map(int, words[1:])]
