"""URIs: what lies there, its bytes, and how it is shown.

`file://` is read here, everything else by fsspec's driver for the scheme. A name is taken as it is written before it is
taken as a pattern: `im[1].png` is that file if it exists. fsspec does not decode `%20` and the like; in a `file://` URI
it is decoded where the literal name does not exist.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from resx.errors import MissingCapability, UsageError, first_line
from resx.files.fingerprint import MISSING, FileFacts, facts_of
from resx.files.listing import IMAGE_SUFFIXES, is_hidden, named_by
from resx.files.reading import read_bounded, read_to_limit

KINDS = (
    "a folder, a glob, an image, a .txt file with one path per line, a .parquet file with a column of image bytes, or "
    "a URI of one of these"
)
SUFFIXES = IMAGE_SUFFIXES | {".txt", ".parquet"}
_LOCAL, _WEB = ("file://", "local://"), ("http://", "https://")
_USER = re.compile(r"(\w://)[^/\s@'\"]*@")
_MARKS = (
    "ETag", "etag", "generation", "VersionId", "version_id", "versionId", "md5Hash", "Content-MD5", "content_md5",
    "Digest", "CRC", "checksum",
)  # fmt: skip
_TIMES = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "modified", "date_time", "created")
"""What fsspec's drivers call a version of an object, and the time when it was written."""
_MOST_ASKED, _ASK_THREADS = 20_000, 32
_QUERY = re.compile(r"(\w://[^\s?'\"]*\?)[^\s'\"]+")


def is_uri(text: str) -> bool:
    """Say whether a source is a URI rather than a path."""
    return "://" in text


def is_remote(text: str) -> bool:
    """Say whether reading it is more than reading a file of this machine."""
    return is_uri(text) and not text.startswith(_LOCAL)


def local_path(text: str) -> str:
    """Return the path of a `file://` URI, decoded only if nothing has the name as it is written; paths as they are."""
    if not text.startswith(_LOCAL):
        return text
    literal = text.partition("://")[2]
    decoded = unquote(literal, errors="surrogateescape")
    return decoded if not os.path.lexists(literal) and os.path.lexists(decoded) else literal


def suffix_of(name: str) -> str:
    """Return a name's suffix in lower case; of a URI without its query and fragment, if that is a known one."""
    whole = os.path.splitext(name)[1].lower()  # noqa: PTH122 - of a URI too
    if not is_remote(name):
        return whole
    bare = os.path.splitext(re.split(r"[?#]", name, maxsplit=1)[0])[1].lower()  # noqa: PTH122
    return bare if bare in SUFFIXES else whole


def without_secrets(text: str) -> str:
    """Return text in which URIs have neither a user's password nor a query, where a presigned one has its signature."""
    return _QUERY.sub(r"\1...", _USER.sub(r"\1", text))


def filesystem(uri: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URI, and the path in it.

    Raises:
        UsageError: nobody knows the scheme.
        MissingCapability: the scheme's driver, or fsspec, is not installed.
    """
    shown = without_secrets(uri)
    try:
        import fsspec
        from fsspec.registry import known_implementations
    except ImportError as error:
        raise MissingCapability(f"{shown}: fsspec is not installed; pip install 'resx[predict]'") from error
    scheme = uri.partition("://")[0]
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        known = known_implementations.get(scheme, {})
        package = known.get("class", "").partition(".")[0]
        remedy = f"pip install {package}" if package not in ("", "fsspec") else known.get("err", str(error))
        raise MissingCapability(f"{shown}: no driver for {scheme}:// is installed; {remedy}") from error
    except ValueError as error:
        raise UsageError(f"{shown}: {without_secrets(str(error))}; give {KINDS}") from error
    except Exception as error:
        raise _unreachable(uri, error) from error
    return found


def list_remote(uri: str) -> tuple[list[tuple[str, FileFacts]], int]:
    """Return the files that a URI names, with their facts, and how many hidden ones were skipped.

    Raises:
        UsageError: nothing is there.
        MissingCapability: it cannot be reached.
    """
    system, path = filesystem(uri)
    # In http the query begins at the question mark; in a bucket it is a part of the name, or of a pattern.
    pattern = path.partition("?")[0] if uri.startswith(_WEB) else path
    skips: Callable[[str], bool] = is_hidden
    fixed = path.rstrip("/").count("/") + 1
    try:
        if system.isfile(path):
            found, fixed = {path: system.info(path)}, path.count("/") + 1
        elif glob.has_magic(pattern) and not system.isdir(path):
            parts = path.split("/")
            fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
            found, skips = system.glob(path, detail=True), named_by(parts)
        else:
            found = system.find(path, detail=True)
    except FileNotFoundError:
        found = {}
    except Exception as error:
        raise _unreachable(uri, error) from error
    if not found:
        raise UsageError(f"{without_secrets(uri)}: nothing found; give {KINDS}")
    files = {name: _facts_in(about) for name, about in found.items() if about.get("type") == "file"}
    hidden = {name for name in files if any(map(skips, name.split("/")[fixed:]))}
    listed = [(system.unstrip_protocol(name), facts) for name, facts in files.items() if name not in hidden]
    if listed and not any(facts.time or facts.mark for _, facts in listed):
        names = [name for name, _ in listed]  # a web server's index has names alone
        listed = list(zip(names, ask_facts(names), strict=True))
    return listed, len(hidden)


def ask_facts(names: Sequence[str]) -> list[FileFacts]:
    """Return the facts of files one by one, here and elsewhere; of too many elsewhere nothing, as each is a request."""
    remote = [name for name in names if is_remote(name)]
    if len(remote) > _MOST_ASKED:
        return [MISSING if is_remote(name) else facts_of(local_path(name)) for name in names]
    with ThreadPoolExecutor(_ASK_THREADS) as threads:
        answers = threads.map(remote_facts, remote)
        return [next(answers) if is_remote(name) else facts_of(local_path(name)) for name in names]


def num_unasked(names: Sequence[str]) -> int:
    """Return how many of these files `ask_facts` does not ask for."""
    remote = sum(map(is_remote, names))
    return remote if remote > _MOST_ASKED else 0


def remote_facts(uri: str) -> FileFacts:
    """Return what a driver says of one file; nothing if it says nothing: whoever reads the file is told why."""
    try:
        system, path = filesystem(uri)
        return _facts_in(system.info(path))
    except Exception:  # a driver may raise anything
        return MISSING


def archive_facts(uri: str) -> list[tuple[str, FileFacts]]:
    """Return the files that a chained URI reads through (`zip://*.png::photos.zip`), with their facts."""
    chain = uri.split("::")[1:]
    return list(zip(chain, ask_facts(chain), strict=True))


def read_file(path: str, limit: int, *, remedy: str, base: str = "", name: str = "") -> bytes:
    """Return the bytes of a path or a URI, at most `limit` of them.

    Raises:
        UsageError: it is larger, or no regular file; the message begins with `name`, or with the path.
    """
    name = name or without_secrets(path)
    if not is_remote(path):
        return read_bounded(Path(base, local_path(path)), limit, name=name, remedy=remedy)
    system, inside = filesystem(path)
    # A web server need not say a size, nor keep to it: block_size 0 streams, and the size given spares asking for one.
    streamed = {"block_size": 0, "size": 1} if path.startswith(_WEB) else {}
    with system.open(inside, "rb", **streamed) as file:
        size = getattr(file, "size", None)
        known = size if isinstance(size, int) else None
        return read_to_limit(file, limit, name, size=known, remedy=remedy)


def _facts_in(about: dict[str, Any]) -> FileFacts:
    mark = " ".join(f"{key} {about[key]}" for key in _MARKS if about.get(key))
    time = "" if mark else next((str(about[key]) for key in _TIMES if about.get(key)), "")
    size = about.get("size")
    return FileFacts(size=size if isinstance(size, int) else -1, time=time, mark=mark)


def _unreachable(uri: str, error: Exception) -> MissingCapability:
    reason = without_secrets(first_line(error)).rstrip(".")
    return MissingCapability(
        f"{without_secrets(uri)}: cannot be read ({reason}); check the name, and set the credentials its driver reads, "
        "such as AWS_PROFILE or GOOGLE_APPLICATION_CREDENTIALS"
    )
