"""Which server is meant: the one of a URL, or the one that `resx serve` runs for a repository."""

from __future__ import annotations

from resx.errors import UsageError
from resx.repository.versions import Repository
from resx.serving.client.address import DEFAULT_PORTS, Access, Address, Protocol, parse_address
from resx.serving.client.loopback import split_host
from resx.serving.running.server_state import running_server


def find_address(
    url: str, repository: Repository, protocol: Protocol | None, shown: Access, *, has_tls_files: bool = False
) -> Address:
    """Return the address of `url`; if that is empty of the repository's own server, or the default port.

    Args:
        url: `host:port`, with `grpc://`, `grpcs://`, `http://` or `https://` before it or not.
        repository: whose own server is known by its control key, too.
        protocol: None: the URL's, or the client's own choice.
        shown: TLS files and headers.
        has_tls_files: whether the user named them, so that a server in the clear is a mistake.

    Raises:
        UsageError: the URL is malformed.
    """
    state = running_server(repository)
    if not url:
        usual = protocol or "grpc"
        return (
            state.address(usual) if state else parse_address(f"127.0.0.1:{DEFAULT_PORTS[usual]}", protocol, shown=shown)
        )
    given = parse_address(url, protocol, shown=shown)
    if given.tls is None and has_tls_files:
        raise UsageError(
            f"--url {url}: is not encrypted, so --ca, --cert and --key have no effect; use grpcs:// or https://"
        )
    if state and not given.control_key and given.tls is None:
        own = state.address(given.protocol)
        same_port = split_host(own.host_port)[1] == split_host(given.host_port)[1]
        return own if same_port and state.is_at(given.host_port) else given
    return given
