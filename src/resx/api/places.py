"""Where models are: a repository by its path, a server by its URL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resx.repository.versions import Repository

if TYPE_CHECKING:
    from resx.serving.client.address import Address, Protocol


def repository_at(place: Repository | Path | str) -> Repository:
    """Return the repository that was named, or given."""
    return place if isinstance(place, Repository) else Repository(Path(place))


def address_at(url: str, repository: Repository, protocol: Protocol | None = None) -> Address:
    """Return the address of `url`; if that is empty of the repository's own server, or the default port.

    Raises:
        UsageError: the URL or the protocol is malformed, or a variable for TLS or headers is.
    """
    from resx.names import choose
    from resx.serving.client.address import PROTOCOLS, access
    from resx.serving.running.server_address import find_address

    wanted = choose("protocol", protocol, PROTOCOLS) if protocol else None
    return find_address(url, repository, wanted, access())
