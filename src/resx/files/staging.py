"""Files that are whole or absent: stage beside the target, fsync, rename.

A reader, and a process killed at any moment, sees either the state before or the state after, never
something between. Whoever stages something holds a lock (flock) on it until it is published or deleted, and
`remove_abandoned` deletes what nobody holds: a process id says nothing in another container or on another host.

    .staging-PID-BOOT-...   BOOT: the running kernel's, which all containers of a host share
    .staging-PID-...        of older versions, which held no lock: judged by the process id

On NFS a folder's lock is not seen by other hosts, so what another kernel staged is left alone for a day.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from resx.errors import ResxError, UsageError
from resx.files.locks import process_lives
from resx.files.reading import require_regular

STAGING_PREFIX = ".staging-"
CACHED_FILE = 0o644
"""The most that a file in the cache folder permits, whatever the umask: nobody else may write what programs load."""
_STAGED = re.compile(r"\.staging-\d+-([0-9a-f]{8})-.+")
_UNJUDGED_S = 24 * 3600.0
"""How long nothing may have changed in what another host staged, or what lies where there are no locks."""
_STAGING_TRIES = 100


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes.

    Raises:
        UsageError: it is a pipe or a device, which would never end.
    """
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def close_to_others(folder: Path) -> None:
    """Let only its owner write a folder and what lies below it, whatever the umask; others may look into the folder."""
    for path in folder.rglob("*"):
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o022)
    folder.chmod(0o755)


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o666) -> None:
    """Replace the file at `path` by one that holds `data`, in one step that survives a crash.

    The file has the permissions of `mode` that the umask leaves, as a file of any other program.
    """
    payload = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, staged = _stage(path.parent, mode, is_folder=False)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
            staged.replace(path)  # the lock is held until it has its own name
    except BaseException as error:
        staged.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk is told by its place
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def staging_folder(parent: Path, *, mode: int = 0o777) -> Iterator[Path]:
    """Give a new folder inside `parent`; whatever is still there at the end is deleted.

    It has the permissions of `mode` that the umask leaves, as a folder of any other program. The caller moves what it
    finished out with `publish_folder`.
    """
    parent.mkdir(parents=True, exist_ok=True)
    descriptor, staged = _stage(parent, mode, is_folder=True)
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may hold the descriptor, too
        os.close(descriptor)


def publish_folder(staged: Path, target: Path) -> None:
    """Make everything below `staged` durable and rename it to `target`, which must not exist yet.

    Raises:
        UsageError: `target` exists; a published folder never changes.
    """
    for folder, _, names in os.walk(staged):
        for name in names:
            _sync_file(Path(folder) / name)
        _sync_folder(Path(folder))
    if target.exists():
        raise UsageError(f"{target}: exists already; published versions never change")
    staged.rename(target)
    _sync_folder(target.parent)


def remove_abandoned(parent: Path) -> list[Path]:
    """Delete what nobody works on any more of what was staged in `parent`, and return it."""
    left = []
    for path in parent.glob(f"{STAGING_PREFIX}*"):
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            if _is_abandoned(path, held):
                left.append(path)
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
    return left


def _stage(parent: Path, mode: int, *, is_folder: bool) -> tuple[int, Path]:
    """Make a file or folder for staging; return it with the descriptor that holds its lock."""
    for _ in range(_STAGING_TRIES):
        staged = parent / f"{STAGING_PREFIX}{os.getpid()}-{_boot()}-{secrets.token_hex(8)}"
        if is_folder:
            staged.mkdir(mode=mode)
            try:
                descriptor = os.open(staged, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # taken for abandoned before it was locked
                continue
        else:
            descriptor = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        if _keep_lock(descriptor, staged):
            return descriptor, staged
        os.close(descriptor)
    raise ResxError(f"{parent}: another process deletes the files staged there; use another folder")


def _keep_lock(descriptor: int, staged: Path) -> bool:
    """Lock what was just made; return whether it is still there."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # somebody looks at it, and finds it abandoned
        return False
    except OSError:  # a file system without locks: judged by its age
        pass
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), staged.lstat())
    return False


def _is_abandoned(staged: Path, held: contextlib.ExitStack) -> bool:
    """Say whether nobody works on it any more; if so, `held` keeps its lock."""
    made = _STAGED.fullmatch(staged.name)
    if made is None:
        return not _owner_lives(staged)
    if staged.is_symlink():
        return True
    descriptor = os.open(staged, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    held.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: what NFS gives a descriptor for reading
    except BlockingIOError:
        return False
    except OSError:
        return _is_old(staged)
    return made[1] == _boot() or _is_old(staged)


def _is_old(staged: Path) -> bool:
    changed = max(path.lstat().st_mtime for path in (staged, *staged.rglob("*")))
    return time.time() - changed > _UNJUDGED_S


@functools.cache
def _boot() -> str:
    """Return what tells this run of the kernel from others, here and elsewhere."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return "00000000"


def _owner_lives(staged: Path) -> bool:
    """Say whether the process lives that an older version named; it held no lock."""
    pid = staged.name.removeprefix(STAGING_PREFIX).partition("-")[0]
    return pid.isascii() and pid.isdigit() and len(pid) < 10 and process_lives(int(pid))


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
