"""The calls of `tritonclient.http` that resx makes, under their names, to a server that is not trusted.

Triton's own client waits for every read anew, keeps whatever comes, and reads JSON by a parser whose stack deep nesting
uses up. What an answer may cost is bounded by `http_connection`; what it says is parsed by `answers`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from resx.repository.interface import Unexpected
from resx.serving.client.address import Address
from resx.serving.client.answers import MAX_WORDS_BYTES, Refused, as_json, error_text, json_kind
from resx.serving.client.http_connection import HttpAnswer, HttpConnection, NotHttp


class HttpClient:
    """The calls of `tritonclient.http.InferenceServerClient` that resx makes, under their names, returning JSON."""

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        """Prepare a connection; nothing is sent before the first call."""
        self._connection = HttpConnection(address, timeout_s=timeout_s)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def is_server_live(self, headers: Mapping[str, str]) -> bool:
        """Say whether it lives."""
        return self._get("/v2/health/live", headers).status == 200

    def is_model_ready(self, model_name: str, headers: Mapping[str, str]) -> bool:
        """Say whether it calls a model ready."""
        return self._get(f"{_model(model_name)}/ready", headers).status == 200

    def get_server_metadata(self, headers: Mapping[str, str]) -> Any:
        """Return the server's name, version and extensions."""
        return self._json("GET", "/v2", headers)

    def get_model_repository_index(self, headers: Mapping[str, str]) -> Any:
        """Return the versions that it knows, with their states."""
        return {"models": _of_type(list, self._json("POST", "/v2/repository/index", headers))}

    def get_model_config(self, model_name: str, model_version: str, headers: Mapping[str, str]) -> Any:
        """Return a model's configuration."""
        return {"config": _of_type(dict, self._json("GET", f"{_model(model_name, model_version)}/config", headers))}

    def get_inference_statistics(self, model_name: str, model_version: str, headers: Mapping[str, str]) -> Any:
        """Return a model's counters."""
        return self._json("GET", f"{_model(model_name, model_version)}/stats", headers)

    def load_model(
        self, model_name: str, headers: Mapping[str, str], config: str | None, files: Mapping[str, bytes] | None
    ) -> None:
        """Load a model."""
        import base64

        parameters: dict[str, str] = {} if config is None else {"config": config}
        parameters |= {path: base64.b64encode(content).decode() for path, content in (files or {}).items()}
        body = json.dumps({"parameters": parameters} if parameters else {}).encode()
        self._done(f"/v2/repository/models/{quote(model_name, safe='')}/load", headers, body)

    def unload_model(self, model_name: str, headers: Mapping[str, str]) -> None:
        """Unload a model."""
        body = json.dumps({"parameters": {"unload_dependents": False}}).encode()
        self._done(f"/v2/repository/models/{quote(model_name, safe='')}/unload", headers, body)

    def register_system_shared_memory(self, name: str, key: str, byte_size: int, headers: Mapping[str, str]) -> None:
        """Let it read a region of shared memory."""
        body = json.dumps({"key": key, "offset": 0, "byte_size": byte_size}).encode()
        self._done(f"/v2/systemsharedmemory/region/{quote(name, safe='')}/register", headers, body)

    def unregister_system_shared_memory(self, name: str, headers: Mapping[str, str]) -> None:
        """Let it forget a region."""
        self._done(f"/v2/systemsharedmemory/region/{quote(name, safe='')}/unregister", headers, b"")

    def infer(
        self,
        model_name: str,
        model_version: str,
        headers: Mapping[str, str],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        max_bytes: int,
    ) -> HttpAnswer:
        """Return an inference's answer as it came."""
        from tritonclient.http import InferenceServerClient

        body, json_length = InferenceServerClient.generate_request_body(inputs, outputs=outputs)
        sent = dict(headers) | {"Content-Type": "application/octet-stream"}
        if json_length is not None:
            sent["Inference-Header-Content-Length"] = str(json_length)
        path = f"{_model(model_name, model_version)}/infer"
        return self._accepted("POST", path, sent, body, max_bytes=max_bytes)

    def _get(self, path: str, headers: Mapping[str, str]) -> HttpAnswer:
        return self._connection.ask("GET", path, headers, max_bytes=MAX_WORDS_BYTES)

    def _json(self, method: str, path: str, headers: Mapping[str, str]) -> Any:
        return as_json(self._accepted(method, path, headers).body)

    def _done(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Have something done. Triton says nothing then; a web page is no such answer."""
        if self._accepted("POST", path, headers, body).body.strip() not in {b"", b"{}"}:
            raise NotHttp("the answer is longer than any of Triton's")

    def _accepted(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        max_bytes: int = MAX_WORDS_BYTES,
    ) -> HttpAnswer:
        answer = self._connection.ask(method, path, headers, body, max_bytes=max_bytes)
        if answer.status != 200:
            raise Refused(error_text(answer.body), status=str(answer.status))
        return answer


def _of_type(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise Unexpected(f"JSON with {json_kind(value)} where {json_kind(kind())} belongs")
    return value


def _model(name: str, version: str = "") -> str:
    return f"/v2/models/{quote(name, safe='')}" + (f"/versions/{version}" if version else "")
