"""Folders that nobody else can write in: owners, modes and links, looked at from the root of the file system down.

resx runs programs out of its cache folder, and signals processes that its state folder names. What another user of the
machine could have put there is refused, before any of it is read.

- From the folder itself down, everything belongs to the user or to root, is writable for nobody else, and is no link.
- A folder above it may be a link of the user's or of root's, and writable for others where it is sticky, as /tmp is:
  what lies in it can then be moved by its owner alone.
- A group counts as nobody else if the user and root are its only members, as with a umask of 002, which gives every
  user a group of their own.
"""

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from resx.errors import UsageError

_MAX_LINKS = 40
_UNMAPPED = 65534
"""The owner that a user namespace shows of what lies outside of it."""
_ACL = "system.posix_acl_access"


def private_folder(top: Path, below: Sequence[str], *, remedy: str) -> Path:
    """Return the folder `below` in `top`, or `top` itself; it may not exist yet.

    Args:
        top: the first folder that must be private; absolute.
        below: the names of the folders inside it, outermost first; all of them must be private.
        remedy: what helps in any case, for the message.

    Raises:
        UsageError: somebody else can write in one of them, or replace it.
    """
    folder = top.joinpath(*below)
    try:
        _require_safe_above(top, remedy)
        for path in (top, *(top.joinpath(*below[: count + 1]) for count in range(len(below)))):
            require_private(path, remedy=remedy, is_folder=True)
    except (FileNotFoundError, PermissionError):  # nothing there that could be read
        return folder
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: {error.strerror}; {remedy}") from error
    return folder


def make_private_folder(top: Path, below: Sequence[str], *, remedy: str, mode: int = 0o700) -> Path:
    """Return the folder as `private_folder` does, made if need be; what is made has at most `mode`.

    Raises:
        UsageError: somebody else can write in one of them, or replace it.
        OSError: it cannot be made.
    """
    folder = private_folder(top, below, remedy=remedy)
    for path in reversed((folder, *folder.parents)):
        if not path.exists():
            path.mkdir(mode=mode, exist_ok=True)
    return private_folder(top, below, remedy=remedy)


def require_private(path: Path, *, remedy: str, is_folder: bool = False) -> None:
    """Check that a file or a folder belongs to the user or root, that nobody else can write it, and that it is no link.

    Raises:
        UsageError: it is not so.
        OSError: it is not there, or cannot be looked at.
    """
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        raise UsageError(f"{path}: is a symbolic link, which resx does not follow here; remove it, or {remedy}")
    if is_folder and not stat.S_ISDIR(facts.st_mode):
        raise UsageError(f"{path}: Not a directory; {remedy}")
    if not (stat.S_ISDIR(facts.st_mode) or stat.S_ISREG(facts.st_mode)):
        raise UsageError(f"{path}: is not a regular file; remove it, or {remedy}")
    if facts.st_uid not in (0, os.geteuid()):
        _refuse_owner(path, facts, remedy)
    if facts.st_mode & stat.S_IWOTH or (facts.st_mode & stat.S_IWGRP and not _is_own_group(path, facts.st_gid)):
        _refuse_mode(path, facts, remedy)


def require_private_tree(root: Path, *, remedy: str) -> None:
    """Check a file, or a folder and everything below it.

    Raises:
        UsageError: somebody else can have written one of the files, or it is a link.
        OSError: it is not there, or cannot be looked at.
    """
    require_private(root, remedy=remedy)
    for path in _below(root) if root.is_dir() else ():
        require_private(path, remedy=remedy)


def require_trusted_tree(root: Path, *, remedy: str) -> Path:
    """Check a folder that resx runs programs out of and did not make; return it without links.

    Links are followed here, as an image's libraries have them: what they lead to is checked like the rest.

    Raises:
        UsageError: somebody else can have written one of the files, or can replace it.
        OSError: it is not there, or cannot be looked at.
    """
    _require_safe_above(root.absolute() / "inside", remedy)  # it may be a link itself
    real = root.resolve(strict=True)
    waiting, seen = [real], set[Path]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        require_private(path, remedy=remedy)
        if path.is_dir():
            waiting += _inside(path, real, remedy)
    return real


def _inside(folder: Path, root: Path, remedy: str) -> Iterator[Path]:
    """Yield what a folder holds, and what its links lead to; a link to nothing is nothing."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if not entry.is_symlink():
                yield path
            elif (target := path.resolve()).exists():
                if not target.is_relative_to(root):
                    _require_safe_above(target, remedy)
                yield target


def read_private(path: Path, *, remedy: str) -> bytes:
    """Return what a file holds that only the user and root can have written.

    Raises:
        UsageError: somebody else can write it, or it is a link.
        OSError: it is not there, or cannot be read.
    """
    require_private(path, remedy=remedy)
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return file.read()


def _below(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from _below(Path(entry.path))


def _require_safe_above(top: Path, remedy: str) -> None:
    """Check every folder above `top`, and every link on the way, as the file system finds them."""
    at, waiting, num_links = Path("/"), [*reversed(top.parent.parts[1:])], 0
    _require_safe(at, at.lstat(), remedy)
    while waiting:
        name = waiting.pop()
        here = at.parent if name == ".." else at / name
        facts = here.lstat()
        _require_safe(here, facts, remedy)
        if not stat.S_ISLNK(facts.st_mode):
            at = here
            continue
        num_links += 1
        if num_links > _MAX_LINKS:
            raise UsageError(f"{top}: its path has too many links; {remedy}")
        target = here.readlink()
        waiting += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        at = Path("/") if target.is_absolute() else at


def _require_safe(path: Path, facts: os.stat_result, remedy: str) -> None:
    """Check that nobody else can replace what lies in a folder above."""
    # An owner that this machine has no account for came with a mount, from the host of a container.
    if facts.st_uid not in (0, os.geteuid(), _UNMAPPED) and (owner := _name_of(facts.st_uid)):
        raise UsageError(f"{path}: belongs to another user, {owner}, who can replace what is in it; {remedy}")
    if stat.S_ISLNK(facts.st_mode) or facts.st_mode & stat.S_ISVTX:
        return
    if facts.st_mode & stat.S_IWOTH or (facts.st_mode & stat.S_IWGRP and not _is_own_group(path, facts.st_gid)):
        _refuse_mode(path, facts, remedy)


def _refuse_owner(path: Path, facts: os.stat_result, remedy: str) -> None:
    owner = _name_of(facts.st_uid) or f"user {facts.st_uid}"
    own = f"chown -R {os.geteuid()} {shlex.quote(str(path))}"
    raise UsageError(f"{path}: belongs to another user; {remedy}, or, if it should be yours and not {owner}'s: {own}")


def _refuse_mode(path: Path, facts: os.stat_result, remedy: str) -> None:
    raise UsageError(
        f"{path}: other users can write it (mode {stat.S_IMODE(facts.st_mode):04o}), and resx reads and runs what is "
        f"there; {remedy}, or, if you trust what it holds: chmod go-w {shlex.quote(str(path))}"
    )


def _is_own_group(path: Path, group: int) -> bool:
    """Say whether nobody but the user and root is in a group, so that it may write."""
    if _has_acl(path):
        return False  # then the group's bits are those of everybody whom the list names
    if group == 0:  # root says who is in it; the user of a container often is, under a number without a name
        return True
    users = {0, os.geteuid()}
    try:
        members = {pwd.getpwnam(name).pw_uid for name in grp.getgrgid(group).gr_mem}
    except KeyError:  # a group without a name: nobody is listed in it
        members = set()
    return members | {user.pw_uid for user in pwd.getpwall() if user.pw_gid == group} <= users


def _has_acl(path: Path) -> bool:
    try:
        return bool(os.getxattr(path, _ACL, follow_symlinks=False))
    except OSError:
        return False


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return ""
