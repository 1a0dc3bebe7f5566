"""What is this machine itself, how it is reached, and whether a proxy lies on the way.

One rule for all who ask: loopback is never proxied, whatever the environment says, as a proxy would be asked for its
own 127.0.0.1, and be shown the control key. gRPC reads the environment's proxies for every other host; HTTP, here,
goes straight to its server always.

    grpc_proxy, https_proxy, http_proxy    the first one that is set, even if to nothing, is gRPC's; in lower case alone
    no_grpc_proxy, no_proxy                the first one that is set: ends of hosts, and networks, that need none
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import time

from resx.text import one_line

LOOPBACK = "127.0.0.1"
"""Where the embedded server listens."""
_NAMES = frozenset({"localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"})
"""Names for loopback in the hosts files of Linux's distributions; and whatever ends in .localhost (RFC 6761, 6.3)."""
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def split_host(host_port: str) -> tuple[str, int]:
    """Return the host, without the brackets of an IPv6 address, and the port of `host:port`."""
    host, _, port = host_port.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Say whether a name or an address is this machine's loopback; no name is looked up."""
    address = _address(host)
    if address is None:
        return _is_local_name(host)
    return address.is_loopback or address.is_unspecified  # to connect to 0.0.0.0 is to connect to 127.0.0.1


def means_embedded(host: str) -> bool:
    """Say whether whoever asks for `host` means what listens on 127.0.0.1, as the embedded server does.

    A name of loopback does. Of the addresses only that one does, however it is written: on [::1] or 127.0.0.2 somebody
    else may listen at the same port, and would be shown the control key.
    """
    address = _address(host)
    if address is None:
        return _is_local_name(host)
    return address == ipaddress.ip_address(LOOPBACK)


def grpc_options(host_port: str) -> list[tuple[str, int]]:
    """Return the options of a channel to that server."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(split_host(host_port)[0]) else []


def grpc_proxy(host_port: str) -> str:
    """Return the proxy that gRPC goes through to that server, in words and without its password; empty: none."""
    host = split_host(host_port)[0]
    variable = next((name for name in _PROXIES if name in os.environ), None)
    if variable is None or is_loopback(host) or _is_excepted(host):
        return ""
    scheme, _, rest = os.environ[variable].partition("://")
    if scheme != "http":  # gRPC goes without it then
        return ""
    shown = rest.partition("/")[0].rpartition("@")[2]
    return f"http://{one_line(shown)} ({variable})"


def connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """Connect to the first of a host's addresses that answers; each has its share of the time.

    A name of loopback has both addresses of loopback, whatever the hosts file says, as gRPC has it.

    Raises:
        OSError: none answers; the first one's reason.
    """
    deadline = time.monotonic() + timeout_s
    places, first = _places(host, port), None
    for number, (family, address) in enumerate(places):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(left_s / (len(places) - number))
            connection.connect(address)
        except OSError as error:
            connection.close()
            first = first or error
        else:
            connection.settimeout(None)
            return connection
    raise first or TimeoutError("timed out")


def _places(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    found: list[tuple[int, tuple[object, ...]]] = []
    is_local = _address(host) is None and _is_local_name(host)
    for name in (host, LOOPBACK, "::1") if is_local else (host,):
        with contextlib.suppress(*([socket.gaierror] if is_local else [])):
            for family, _, _, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
                if (family, address) not in found:
                    found.append((family, address))
    return found


def _is_local_name(host: str) -> bool:
    name = host.lower().removesuffix(".")
    return name in _NAMES or name.endswith(".localhost")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address, in the short forms of C's library, too (127.1); None for a name."""
    text = host.strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(text)) if text[:1].isdigit() else None
        except OSError:
            return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_excepted(host: str) -> bool:
    """Say whether gRPC asks for a host without the proxy (src/core/handshaker/http_connect/http_proxy_mapper.cc)."""
    text = next((os.environ[name] for name in _EXCEPTIONS if name in os.environ), "")
    address = _address(host)
    for entry in filter(None, (part.strip() for part in text.split(","))):
        if host.lower().endswith(entry.lower()):
            return True
        with contextlib.suppress(ValueError):
            if address is not None and address in ipaddress.ip_network(entry, strict=False):
                return True
    return False
