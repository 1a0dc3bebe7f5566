"""Which server a command speaks to."""

from __future__ import annotations

from resx.cli.options import chosen
from resx.serving.client import DEFAULT_PORTS, PROTOCOLS, Address, parse_address
from resx.serving.repository import Repository
from resx.serving.supervisor import running_server


def address_of(url: str, protocol: str, repository: Repository) -> Address:
    """Return the server's address: `url`, or the embedded server over the repository, or the default port.

    Raises:
        UsageError: `url` or `protocol` is malformed.
    """
    wanted = chosen("--protocol", protocol, PROTOCOLS) if protocol else None
    state = running_server(repository)
    if not url:
        return (
            state.address(wanted or "grpc")
            if state
            else parse_address(f"127.0.0.1:{DEFAULT_PORTS[wanted or 'grpc']}", wanted)
        )
    given = parse_address(url, wanted)
    if state and not given.control_key and given.host_port == state.address(given.protocol).host_port:
        return state.address(given.protocol)
    return given
