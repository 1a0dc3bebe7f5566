"""Where the pods find their release: a claim, an image, or a bucket of S3, Google Cloud Storage or Azure.

Triton reads buckets itself and copies a release into /tmp. What it looks for in its environment:
https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from resx.errors import UsageError
from resx.serving.clusters.manifest import Fields
from resx.serving.clusters.naming import require_image

StorageKind: TypeAlias = Literal["pvc", "oci", "s3", "gs", "as"]
MODELS = "/models"
_KEY_FOLDER = "/var/run/secrets/resx-storage"
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_PREFIX = r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*"
_BUCKETS = {
    "s3": re.compile(rf"s3://(https?://[A-Za-z0-9.-]+:\d{{1,5}}/)?[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9]{_PREFIX}/?"),
    "gs": re.compile(rf"gs://[a-z0-9][a-z0-9._-]{{1,220}}[a-z0-9]{_PREFIX}/?"),
    "as": re.compile(rf"as://[a-z0-9]{{3,24}}/[a-z0-9][a-z0-9-]{{1,61}}[a-z0-9]{_PREFIX}/?"),
}
_FORMS = "pvc:CLAIM, oci:IMAGE:TAG, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or as://ACCOUNT/CONTAINER/PREFIX"
SECRET_KEYS = {
    "s3": {
        "AWS_ACCESS_KEY_ID": True,
        "AWS_SECRET_ACCESS_KEY": True,
        "AWS_DEFAULT_REGION": True,
        "AWS_SESSION_TOKEN": False,
    },
    "as": {"AZURE_STORAGE_KEY": True},
}
"""Keys of the Secret, and whether it must have them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Where the pods find the release."""

    kind: StorageKind = "pvc"
    location: str = "model-repository"
    """A claim's name, an image's reference, or a bucket's URL without a slash at its end."""

    @property
    def is_mounted(self) -> bool:
        """Whether it is a volume; else Triton reads it over the network."""
        return self.kind in {"pvc", "oci"}

    def place_of(self, release: str, image_root: str = "/") -> str:
        """Return where a release's content belongs, in words; images have it in the folder `image_root`."""
        if self.kind == "oci":
            return f"{image_root} of the image {self.location}"
        return f"folder {release} of claim {self.location}" if self.kind == "pvc" else f"{self.location}/{release}"


def parse_storage(text: str) -> Storage:
    """Read --storage.

    Raises:
        UsageError: it is none of the forms.
    """
    kind, _, rest = text.partition(":")
    if kind == "pvc" and _CLAIM.fullmatch(rest):
        return Storage(kind="pvc", location=rest)
    if kind == "oci" and rest.strip("/"):
        return Storage(kind="oci", location=require_image("--storage oci:", rest.removeprefix("//")))
    for name in ("s3", "gs", "as"):
        if kind == name and _BUCKETS[name].fullmatch(text):
            return Storage(kind=name, location=text.rstrip("/"))
    raise UsageError(f"--storage {text}: give {_FORMS}")


def repository_of(storage: Storage, release: str) -> str:
    """Return what Triton is started over."""
    return MODELS if storage.is_mounted else f"{storage.location}/{release}"


def volumes_of(storage: Storage, release: str, secret: str, *, has_account: bool) -> tuple[list[Fields], list[Fields]]:
    """Return the volumes of a storage, and their mounts."""
    if storage.kind == "pvc":
        source = {"persistentVolumeClaim": {"claimName": storage.location, "readOnly": True}}
        mount = {"name": "models", "mountPath": MODELS, "subPath": release, "readOnly": True}
        return [{"name": "models", **source}], [mount]
    if storage.kind == "oci":
        image = {"image": {"reference": storage.location, "pullPolicy": "IfNotPresent"}}
        return [{"name": "models", **image}], [{"name": "models", "mountPath": MODELS, "readOnly": True}]
    if storage.kind == "gs" and not has_account:
        key = {"name": "storage-key", "secret": {"secretName": secret, "defaultMode": 0o440}}
        return [key], [{"name": "storage-key", "mountPath": _KEY_FOLDER, "readOnly": True}]
    return [], []


def variables_of(storage: Storage, secret: str, *, has_account: bool) -> list[Fields]:
    """Return the variables in which Triton looks for credentials: from the Secret, or for the account's identity."""
    if storage.kind == "as":
        account: list[Fields] = [{"name": "AZURE_STORAGE_ACCOUNT", "value": storage.location.split("/")[2]}]
        if has_account:
            return [*account, {"name": "AZURE_STORAGE_AUTH_TYPE", "value": "default"}]
        return account + _from_secret("as", secret)
    if has_account or storage.is_mounted:
        return []
    if storage.kind == "gs":
        return [{"name": "GOOGLE_APPLICATION_CREDENTIALS", "value": f"{_KEY_FOLDER}/key.json"}]
    return _from_secret("s3", secret)


def secret_help(storage: Storage, secret: str, *, has_account: bool) -> str:
    """Return the command that creates the storage's Secret, or why there is none, in one line."""
    if storage.is_mounted:
        return "The storage needs no credentials."
    if has_account:
        return "The service account's identity opens the storage; no Secret holds a key for it."
    command = f"kubectl create secret generic {secret}"
    if storage.kind == "gs":
        return f"The storage's credentials: {command} --from-file=key.json"
    keys = SECRET_KEYS[storage.kind]
    literals = " ".join(f"--from-literal={key}=..." for key, required in keys.items() if required)
    optional = ", ".join(key for key, required in keys.items() if not required)
    return f"The storage's credentials: {command} {literals}{f' (optional: {optional})' if optional else ''}"


def egress_of(storage: Storage, *, has_account: bool) -> list[Fields]:
    """Return what a network policy must let out: nothing, or names, the storage, and the cloud's identity service."""
    if storage.is_mounted:
        return []
    dns = {"ports": [{"protocol": "UDP", "port": 53}, _tcp(53)]}
    rules: list[Fields] = [dns, {"ports": [_tcp(_port(storage))]}]
    if has_account:
        blocks = [{"ipBlock": {"cidr": f"{address}/32"}} for address in _IDENTITY]
        rules.append({"to": blocks, "ports": [_tcp(80), _tcp(988)]})
    return rules


_IDENTITY = ("169.254.169.254", "169.254.169.252", "169.254.170.23")
"""Of Google (988 before Dataplane V2) and Azure, and of EKS Pod Identity; without them no pod learns who it is."""


def _port(storage: Storage) -> int:
    host = storage.location.removeprefix("s3://").rpartition("://")[2].partition("/")[0]
    return int(host.rpartition(":")[2]) if ":" in host else 443


def _tcp(port: int) -> Fields:
    return {"protocol": "TCP", "port": port}


def _from_secret(kind: str, secret: str) -> list[Fields]:
    found: list[Fields] = []
    for key, required in SECRET_KEYS[kind].items():
        reference: dict[str, Any] = {"name": secret, "key": key}
        found.append({"name": key, "valueFrom": {"secretKeyRef": reference | ({} if required else {"optional": True})}})
    return found
