"""What a server's words are taken for, row by row of the table."""

from __future__ import annotations

import pytest

from resx.errors import MissingCapability, ResxError, ServerBusy, ServerError
from resx.serving.client.address import Address, Tls
from resx.serving.client.server_errors import (
    ConnectionLost,
    ModelProcessLost,
    NoAnswerInTime,
    NotLoaded,
    Refusal,
    Unlistable,
    WrongAnswer,
)

GRPC = "StatusCode.{}".format


@pytest.mark.parametrize(
    ("status", "message", "kind", "said"),
    [
        ("403", "This API is restricted, expecting header 'resx-control-key'", MissingCapability, "RESX_CONTROL_KEY"),
        (GRPC("UNAVAILABLE"), "This protocol is restricted, expecting header 'x'", MissingCapability, "need a key"),
        (
            "400",
            "explicit model load / unload is not allowed if polling is enabled",
            MissingCapability,
            "control-mode=explicit",
        ),
        ("400", "failed to load 'm', failed to poll from model repository", ServerError, "see its log"),
        (GRPC("INTERNAL"), "failed to stat file /r/gone", Unlistable, "failed to stat file /r/gone"),
        ("503", "inference request failed: exceeds maximum queue size", ServerBusy, "its queue is full"),
        (GRPC("UNAVAILABLE"), "Exceeds maximum queue size", ServerBusy, "its queue is full"),
        ("400", "Request for unknown model: 'm' is not found", NotLoaded, "load a model with `resx deploy`"),
        (GRPC("UNAVAILABLE"), "model 'm' is not ready", NotLoaded, "is not ready"),
        (GRPC("UNAVAILABLE"), "Trying to connect an HTTP1.x server", MissingCapability, "no gRPC there"),
        (GRPC("UNAVAILABLE"), "Did not receive SETTINGS frame", MissingCapability, "no gRPC there"),
        (GRPC("UNAVAILABLE"), "failed to connect: Socket closed", MissingCapability, "it closes gRPC connections"),
        (GRPC("UNAVAILABLE"), "Socket closed", ConnectionLost, r"no server answers \(Socket closed\)"),
        (GRPC("UNAVAILABLE"), "x: Connection refused (111)", ConnectionLost, r"\(connection refused\)"),
        (GRPC("DEADLINE_EXCEEDED"), "Deadline Exceeded", NoAnswerInTime, "no answer within 2.5 s"),
        ("500", "Stub process 'm_0' is not healthy.", ModelProcessLost, "is not healthy"),
        ("500", "Stub process 'm_0' raised", ServerError, "raised$"),
        ("502", "", ConnectionLost, "status 502 from a proxy"),
        ("401", "who?", MissingCapability, r"authentication required \(401\).*RESX_HEADERS"),
        (GRPC("PERMISSION_DENIED"), "", MissingCapability, r"authentication required \(StatusCode.PERMISSION_DENIED\)"),
        ("301", "", MissingCapability, r"not a Triton server \(status 301\)"),
        (GRPC("UNIMPLEMENTED"), "", MissingCapability, "not a Triton server"),
        (GRPC("RESOURCE_EXHAUSTED"), "larger than max", WrongAnswer, r"unreadable answer \(larger than max\)"),
        (GRPC("INTERNAL"), "Exception deserializing response!", WrongAnswer, "unreadable answer"),
        ("500", "the model gave 3 rows for 2 rows of input", WrongAnswer, "2 rows of input$"),
        ("500", "", ServerError, "status 500 without a reason"),
        ("500", "{whatever} else", ServerError, "{whatever} else$"),
    ],
)
def test_a_servers_words_are_told_by_the_table(status: str, message: str, kind: type[ResxError], said: str) -> None:
    refusal = Refusal(
        address=Address(host_port="127.0.0.1:8001", protocol="grpc"), message=message, status=status, timeout_s=2.5
    )
    error = refusal.error()
    assert type(error) is kind
    with pytest.raises(kind, match=said):
        raise error


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("handshake failed: CERTIFICATE_VERIFY_FAILED", r"\(CERTIFICATE_VERIFY_FAILED\); give the CA"),
        ("Hostname Verification Check failed", r"\(Hostname Verification\); give the CA"),
        ("Tls: TSI_DATA_CORRUPTED", r"\(TSI_DATA_CORRUPTED\); it may require a client certificate"),
        ("handshake: WRONG_VERSION_NUMBER", r"\(WRONG_VERSION_NUMBER\); if the server does not use TLS"),
    ],
)
def test_a_connection_over_tls_says_what_it_failed_at(message: str, said: str) -> None:
    secure, plain = (
        Refusal(
            address=Address(host_port="example.org:8001", protocol="grpc", tls=tls),
            message=message,
            status=GRPC("UNAVAILABLE"),
            timeout_s=1.0,
        )
        for tls in (Tls(), None)
    )
    assert type(secure.error()) is MissingCapability
    with pytest.raises(MissingCapability, match=f"no secure connection {said}"):
        raise secure.error()
    assert isinstance(plain.error(), ConnectionLost)
