"""Which server a command speaks to."""

from __future__ import annotations

from collections.abc import Sequence

from resx.cli.options.shared import choose
from resx.errors import UsageError
from resx.repository.versions import Repository
from resx.serving.client.address import DEFAULT_PORTS, PROTOCOLS, Address, access, parse_address
from resx.serving.client.loopback import split_host
from resx.serving.running.server_state import running_server


def address_of(
    url: str,
    protocol: str,
    repository: Repository,
    *,
    ca: str = "",
    cert: str = "",
    key: str = "",
    headers: Sequence[str] | None = None,
) -> Address:
    """Return the server's address: `url`, or the embedded server over the repository, or the default port.

    Raises:
        UsageError: `url` or `protocol` is malformed, or a file or header cannot be used.
    """
    wanted = choose("--protocol", protocol, PROTOCOLS) if protocol else None
    shown = access(ca, cert, key, headers or ())
    state = running_server(repository)
    if not url:
        return (
            state.address(wanted or "grpc")
            if state
            else parse_address(f"127.0.0.1:{DEFAULT_PORTS[wanted or 'grpc']}", wanted, shown=shown)
        )
    given = parse_address(url, wanted, shown=shown)
    if given.tls is None and (ca or cert or key):
        raise UsageError(
            f"--url {url}: is in the clear, so --ca, --cert and --key are not used; give grpcs:// or https://"
        )
    if state and not given.control_key and given.tls is None:
        own = state.address(given.protocol)
        same_port = split_host(own.host_port)[1] == split_host(given.host_port)[1]
        return own if same_port and state.is_at(given.host_port) else given
    return given
