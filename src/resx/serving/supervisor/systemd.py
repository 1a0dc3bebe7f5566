"""Tell systemd how a service of `Type=notify` fares. Source: sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket

from resx.text import one_line


def notify(message: str) -> None:
    """Send `READY=1`, `STATUS=...` or `STOPPING=1`; nothing happens where no service manager listens.

    A line is an assignment, and a status holds words of models and servers: `MAINPID=1` in them is not to be one.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in {"/", "@"}:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        sender.sendall(one_line(message).encode())  # a line break would begin an assignment of its own
