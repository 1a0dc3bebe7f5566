"""What a call that failed says of the server: one table of the words it was refused with, and resx's error for each.

The words are Triton's, gRPC's, a proxy's in front of it, and those of resx's own backends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from resx.errors import MissingCapability, ResxError, ServerBusy, ServerError, UsageError
from resx.serving.client.address import CONTROL_KEY_VARIABLE, Address
from resx.serving.client.loopback import grpc_proxy, is_loopback, split_host


class ConnectionLost(MissingCapability):
    """No server answers there, or it closed the connection before it answered."""


class ModelProcessLost(ServerError):  # noqa: N818 - named after what happened
    """The server answers, but the process that computes the model died under it."""


class NoAnswerInTime(ServerError):  # noqa: N818 - named after what happened
    """The server did not answer within the client's time."""


class NotLoaded(UsageError):  # noqa: N818 - named after what happened
    """The server does not have that model or version loaded."""


class WrongAnswer(ServerError):  # noqa: N818 - named after what happened
    """The server answered, but not what it was asked."""


class Unlistable(ServerError):  # noqa: N818 - named after what happened
    """The server's repository cannot be listed while a name in it is a link to nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """What came in place of an answer."""

    address: Address
    message: str
    status: str
    """Of HTTP, as `404`, or of gRPC, as `StatusCode.UNAVAILABLE`."""
    timeout_s: float
    """The client's."""

    def error(self) -> ResxError:
        """Return what it is, by the first row of the table that it matches."""
        return next(
            row.error(self)
            for row in _TABLE
            if re.search(row.status, self.status)
            and re.search(row.words, self.message)
            and (self.address.tls is not None or not row.only_secure)
        )


class _Row(NamedTuple):
    error: Callable[[Refusal], ResxError]
    words: str = ""
    """That the message has."""
    status: str = ""
    """That the status has."""
    only_secure: bool = False
    """Told of a connection over TLS alone."""


_Told: TypeAlias = Callable[[Refusal], ResxError]


def _told(kind: type[ResxError], text: str) -> _Told:
    """Return what makes an error of this kind; the text may hold the refusal's `{message}` and so on."""

    def make(refusal: Refusal) -> ResxError:
        said = {"message": refusal.message, "status": refusal.status, "timeout_s": refusal.timeout_s}
        return kind(f"{refusal.address}: {text.format(**said)}")

    return make


def _insecure(reason: str) -> _Told:
    return lambda refusal: insecure(refusal.address, reason)


def _not_triton(reason: str) -> _Told:
    return lambda refusal: not_triton(refusal.address, reason.format(status=refusal.status))


def _unreachable(reason: str) -> _Told:
    return lambda refusal: unreachable(refusal.address, reason.format(message=refusal.message, status=refusal.status))


def _unreadable(refusal: Refusal) -> WrongAnswer:
    return wrong_answer(refusal.address, f"an unreadable answer ({refusal.message})")


_AWAY = "UNAVAILABLE"
_TABLE = (
    _Row(
        words="restricted|expecting header",
        error=_told(
            MissingCapability,
            (f"loading and unloading need a key; set {CONTROL_KEY_VARIABLE} to the one the server was started with"),
        ),
    ),
    _Row(
        words="explicit model load / unload is not allowed",
        error=_told(
            MissingCapability,
            "its control mode does not allow loading and unloading models; start that server with "
            "--model-control-mode=explicit",
        ),
    ),
    # For a model that is not in its repository, and for one whose configuration cannot be parsed.
    _Row(
        words="failed to poll from model repository",
        error=_told(
            ServerError,
            "{message}: it cannot read a folder or a config.pbtxt of its repository; see its log",
        ),
    ),
    _Row(
        words="maximum queue size",
        error=_told(ServerBusy, "its queue is full; send fewer requests at once, or retry later"),
    ),
    _Row(
        words="unknown model|is not found|is not ready|is not available",
        error=_told(NotLoaded, "{message}; load a model with `resx deploy`; `resx status` lists the models"),
    ),
    # In the order of what they tell.
    *(
        _Row(status=_AWAY, only_secure=True, words=words, error=_insecure(words))
        for words in (
            "CERTIFICATE_VERIFY_FAILED",
            "Hostname Verification",
            "WRONG_VERSION_NUMBER",
            "TSI_DATA_CORRUPTED",
            "handshake",
        )
    ),
    _Row(status=_AWAY, words="(?i)http1|http2|settings", error=_not_triton("no gRPC there")),
    _Row(
        status=_AWAY,
        words="(?s)^(?=.*Socket closed)(?=.*failed to connect)",
        error=_not_triton("it closes gRPC connections"),
    ),
    _Row(status=_AWAY, words="Connection refused", error=_unreachable("connection refused")),
    _Row(status=_AWAY, error=_unreachable("{message}")),
    _Row(status="DEADLINE_EXCEEDED", error=_told(NoAnswerInTime, "no answer within {timeout_s:g} s")),
    _Row(words="(?s)^(?=.*Stub process)(?=.*not healthy)", error=_told(ModelProcessLost, "{message}")),
    _Row(
        status="^(502|503)$",
        error=_unreachable("status {status} from a proxy: no server is behind it"),
    ),
    _Row(
        status="^(401|403|407)$|UNAUTHENTICATED|PERMISSION_DENIED",
        error=_told(
            MissingCapability,
            "authentication required ({status}): set RESX_HEADERS or --header",
        ),
    ),
    _Row(status="^(404|405|501)$|^3|UNIMPLEMENTED", error=_not_triton("status {status}")),
    _Row(status="RESOURCE_EXHAUSTED", error=_unreadable),
    _Row(words="deserializing response", error=_unreadable),
    _Row(words="failed to stat file", error=_told(Unlistable, "{message}")),
    # Of resx's own backends, for a model that gives another number of rows than it was asked for.
    _Row(words="rows of input", error=_told(WrongAnswer, "{message}")),
    _Row(words="^$", error=_told(ServerError, "status {status} without a reason")),
    _Row(error=_told(ServerError, "{message}")),
)
"""The first row that fits tells."""
_INSECURE = (
    (
        "(?i)verif",
        ("give the CA that signed its certificate with --ca or RESX_TLS_CA, and the host name in the certificate"),
    ),
    ("CERTIFICATE_REQUIRED|CORRUPTED", "it may require a client certificate: give --cert and --key"),
    ("", "if the server does not use TLS, give grpc:// or http://"),
)
"""What a secure connection failed at, and what would help."""


def wrong_answer(address: Address, what: str) -> WrongAnswer:
    """Return the error for an answer that is not what was asked."""
    return WrongAnswer(f"{address}: unexpected answer: {what}; check --url and the server's log")


def not_triton(address: Address, reason: str) -> MissingCapability:
    """Return the error for what answers there and is no inference server."""
    return MissingCapability(f"{address}: not a Triton server ({reason}); check --url and --protocol")


def insecure(address: Address, reason: str) -> MissingCapability:
    """Return the error for a connection that could not be secured."""
    remedy = next(remedy for pattern, remedy in _INSECURE if re.search(pattern, reason))
    return MissingCapability(f"{address}: no secure connection ({reason}); {remedy}")


def unreachable(address: Address, reason: str) -> ConnectionLost:
    """Return the error for a server that does not answer."""
    ours = is_loopback(split_host(address.host_port)[0]) and address.tls is None
    remedy = "start one with `resx serve --detach`, or give --url" if ours else "check --url"
    if address.tls is None and ("closed" in reason or "reset" in reason):
        remedy += "; for a server with TLS give grpcs:// or https://"
    if address.protocol == "grpc" and (proxy := grpc_proxy(address.host_port)):
        reason += f", through the proxy {proxy}"
        remedy += ", or name the host in no_proxy"
    return ConnectionLost(f"{address}: no server answers ({reason}); {remedy}")
