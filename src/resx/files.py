"""Files that are whole or absent: stage beside the target, fsync, rename.

A reader, and a process killed at any moment, sees either the state before or the state after, never
something between. Whoever stages something holds a lock (flock) on it until it is published or deleted, and
`remove_abandoned` deletes what nobody holds: a process id says nothing in another container or on another host.

    .staging-PID-BOOT-...   BOOT: the running kernel's, which all containers of a host share
    .staging-PID-...        of older versions, which held no lock: judged by the process id

On NFS a folder's lock is not seen by other hosts, so what another kernel staged is left alone for a day.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from resx.errors import ResxError, UsageError
from resx.home import say_where, settle_home
from resx.mounts import cannot_lock, nearest_existing
from resx.private_folders import make_private_folder, private_folder, read_private, require_private_tree
from resx.reading import require_regular

STAGING_PREFIX = ".staging-"
CACHED_FILE = 0o644
"""The most that a file in the cache folder permits, whatever the umask: nobody else may write what programs load."""
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""What Pillow may take a file for. Of all that it knows, EPS makes it start another program."""
OUT_OF_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write ends with where the disk, the user's quota or the process's limit is used up."""
_STAGED = re.compile(r"\.staging-\d+-([0-9a-f]{8})-.+")
_UNJUDGED_S = 24 * 3600.0
"""How long nothing may have changed in what another host staged, or what lies where there are no locks."""
_STAGING_TRIES = 100
_OWN_CACHE = "set RESX_CACHE to a folder of your own"
_OWN_STATE = "set RESX_STATE to a folder of your own"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def checked_name(name: str) -> str:
    """Return `name` if it can be a folder of a model repository and a part of a URL.

    Raises:
        UsageError: it is empty, has a path separator, or has characters other than `A-Za-z0-9._-`.
    """
    if not is_model_name(name):
        raise UsageError(
            f"name {name!r}: give 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
        )
    return name


def is_model_name(name: str) -> bool:
    """Say whether `name` can be a folder of a model repository and a part of a URL."""
    return _NAME.fullmatch(name) is not None


def cache_folder(*below: str) -> Path:
    """Return the folder for downloads (RESX_CACHE, or the user's cache folder), or one below. It may not exist yet.

    Raises:
        UsageError: somebody else can write in it, or replace it: programs are run out of it.
    """
    return private_folder(_cache_top(), below, remedy=_OWN_CACHE)


def make_cache_folder(*below: str) -> Path:
    """Return the cache folder, or one below, made if need be.

    Raises:
        UsageError: somebody else can write in it, or replace it.
    """
    return make_private_folder(_cache_top(), below, remedy=_OWN_CACHE, mode=0o755)


def require_own_cache(path: Path) -> None:
    """Check a file of the cache, or everything below a folder of it, before it is used; it may be missing.

    Raises:
        UsageError: somebody else can have written one of the files, or it is a link.
    """
    with contextlib.suppress(FileNotFoundError):
        require_private_tree(path, remedy=_OWN_CACHE)


def state_folder(*below: str) -> Path:
    """Return the folder for running servers' state and logs (RESX_STATE, or the user's), or one below.

    It may not exist yet.

    Raises:
        UsageError: somebody else can write in it, or replace it: processes that it names are signalled.
    """
    return private_folder(_state_top(), below, remedy=_OWN_STATE)


def make_state_folder(*below: str) -> Path:
    """Return the state folder, or one below, made if need be, for the user's eyes only.

    Raises:
        UsageError: somebody else can write in it, or replace it.
    """
    return make_private_folder(_state_top(), below, remedy=_OWN_STATE)


def read_state_file(path: Path) -> bytes:
    """Return what a file in the state folder holds.

    Raises:
        UsageError: somebody else can write it, or it is a link.
        OSError: it is not there, or cannot be read.
    """
    return read_private(path, remedy=_OWN_STATE)


def _cache_top() -> Path:
    return _given("RESX_CACHE") or _in_home(platformdirs.user_cache_path, _OWN_CACHE)


def _state_top() -> Path:
    return _given("RESX_STATE") or _in_home(platformdirs.user_state_path, _OWN_STATE)


def _given(variable: str) -> Path | None:
    remedy = f"set {variable} to another"
    return _require_text(Path(os.environ[variable]), remedy) if os.environ.get(variable) else None


def _in_home(place: Callable[[str], Path], remedy: str) -> Path:
    settle_home()
    folder = _require_text(place("resx"), remedy)
    say_where(folder)
    return folder


def _require_text(folder: Path, remedy: str) -> Path:
    """Return the absolute path, unless JSON could not hold it."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{folder.absolute()}: has bytes that are not UTF-8; {remedy}, with a UTF-8 path") from None
    return folder.absolute()


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


def require_free_space(folder: Path, num_bytes: int) -> None:
    """Check that `num_bytes` fit on the file system that holds (or will hold) `folder`.

    Raises:
        ResxError: they do not fit.
    """
    free_bytes = shutil.disk_usage(nearest_existing(folder)).free
    if free_bytes < num_bytes:
        raise ResxError(
            f"{folder}: {num_bytes / 1e6:.0f} MB needed, {free_bytes / 1e6:.0f} MB free; "
            "make room or choose another disk"
        )


def why_no_room(folder: Path, num_bytes: int = 1 << 18) -> str:
    """Return why `num_bytes` cannot be written into an existing folder, or an empty string; quotas count, too."""
    probe = folder / f".room-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"\0" * num_bytes)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return ""


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
        raise UsageError(f"{target}: exists already, and a published folder never changes")
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


@contextlib.contextmanager
def exclusive(folder: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the lock of an existing folder; the kernel lets go of it when the process dies, so it is never stale.

    Gives the descriptor of the folder, which stays the same one whatever becomes of its name.

    Raises:
        BlockingIOError: another process holds it and `wait` is false.
        CannotLock: its file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as error:
            raise cannot_lock(folder, error) from error
        yield descriptor
    finally:
        os.close(descriptor)


def require_lockable(folder: Path) -> None:
    """Check that a folder, or the one in which it will be made, can be locked: before the work that needs it.

    Raises:
        CannotLock: its file system has no locks.
    """
    with contextlib.suppress(BlockingIOError, PermissionError), exclusive(nearest_existing(folder), wait=False):
        pass


def lock_holder(folder: Path) -> int | None:
    """Return the id of the process that holds a folder's lock; None if none does, or it cannot be told from here."""
    with contextlib.suppress(OSError):
        facts = folder.stat()
        place = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: FLOCK  ADVISORY  WRITE 4711 fe:00:131074 0 EOF; one that waits has "->" after the number
            _, kind, _, _, pid, locked, *_ = line.split()
            if kind == "FLOCK" and locked == place and int(pid) > 0:
                return int(pid)
    return None


def process_lives(pid: int) -> bool:
    """Say whether a process with this id exists, whoever owns it, and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


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
    raise ResxError(f"{parent}: other processes delete what is staged there; give another folder")


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
