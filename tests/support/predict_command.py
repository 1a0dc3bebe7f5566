"""`resx predict` with a model that is expected to score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from resx.repository.versions import Repository
from tests.support.command import Finished

Resx = Callable[..., Finished]


def predicted(resx: Resx, repository: Repository, source: str | Path, out: Path, *options: str) -> Finished:
    """Score `source` with the model `tiny` into `out`."""
    done = resx("predict", "tiny", source, "-o", out, "--repository", repository.root, "--json", *options)
    assert done.code == 0, done.err
    return done
