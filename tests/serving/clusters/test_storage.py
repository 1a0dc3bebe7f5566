"""Where a workload's models come from."""

from __future__ import annotations

import pytest

from resx.errors import UsageError
from resx.serving.clusters.storage import parse_storage


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pvc:",
        "pvc:A_B",
        "s3://",
        "s3://a",
        "s3://ab cd/x",
        "oci:",
        "oci:x",
        "oci:x:latest",
        "gs://b/p",
        "/models",
        "s3://bucket/../x",
        "s3://bucket//x",
        "gs://bucket/a b",
        "gs://Bucket/x",
        "gs://bucket/$(x)",
        "as://acc",
        "as://Acc/container/x",
        "as://account/c/x",
        "https://account.blob.core.windows.net/c",
        "pvc:claim/x",
    ],
)
def test_storage_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--storage"):
        parse_storage(text)
