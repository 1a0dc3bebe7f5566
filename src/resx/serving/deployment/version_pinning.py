"""Load exactly these versions of a model, whatever else the repository has got meanwhile.

A model's configuration in the repository says `the newest version`, and while a version is being deployed, or
after a rollback, that is not the one to serve. So what recovery loads has the versions in its configuration.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resx.errors import ResxError
from resx.repository import config_pbtxt, config_rules
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.model_folders import is_folder, unlistable
from resx.repository.tensorrt_accelerator import fit_precision
from resx.repository.versions import Published, Repository
from resx.serving.embedded.python_models import require_none_of_others

_LISTABLE = "repository.listable."


def config_json(repository: Repository, name: str, versions: Sequence[int]) -> str:
    """Return a model's configuration as JSON, for `TritonClient.load`, with these versions in it.

    Raises:
        UsageError: the configuration cannot be read, or may not be loaded (`config_rules`).
    """
    return as_json(_pin(repository, name, versions))


def reloading_json(
    repository: Repository, name: str, versions: Sequence[int], served: Mapping[str, Any] | None = None
) -> str:
    """Return the same with a parameter that no backend reads, and that no other load has.

    Triton does nothing when it is told to load a model that it has, unchanged, even where the model's process is
    dead; this one it loads anew.

    Args:
        repository: the model's.
        name: the model's.
        versions: to load.
        served: the configuration of the running server, for a model that has none in the repository.
    """
    config_rules.require_contained(repository.root, name)
    message = _with_versions(parse(served), versions) if served else _pin(repository, name, versions)
    config_rules.require_harmless(message, name)
    message.parameters["resx.loaded"].string_value = str(time.time_ns())
    return as_json(message)


def rehearsal_json(version: Published, alias: str) -> str:
    """Return the configuration of a model named `alias` that has this version, and one instance."""
    message = _pin(version.repository, version.name, [version.version])
    message.name = alias
    message.ClearField("response_cache")  # its answer must be computed
    for group in message.instance_group:
        group.count = 1
    return as_json(message)


@contextmanager
def pin_versions(
    repository: Repository, versions: Mapping[str, tuple[int, ...]], folder: Path, server_dir: str = ""
) -> Iterator[Path]:
    """Give a repository of links in which each model has these versions and no other; leave links to the real one.

    tritonserver opens its ports after it loaded the models that its command line names, so clients meet no
    server without models; but the command line cannot name versions. The path that is given stays valid: it
    leads to the real repository once the block ends, as the server reads it again with every later load. A model
    whose folder or configuration cannot be read, or may not be loaded, is left out.
    """
    link, links = folder / "repository", folder / "repository.pinned"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    for name, wanted in versions.items():
        try:
            _link(repository, name, wanted, links / name, server_dir)
        except (OSError, ResxError):
            shutil.rmtree(links / name, ignore_errors=True)
    _point(link, links)
    try:
        yield link
    finally:
        lead_to_listable(repository, folder)
        shutil.rmtree(links, ignore_errors=True)


def lead_to_listable(repository: Repository, folder: Path) -> None:
    """Let the path that `pin_versions` gave lead to the repository, without what Triton cannot list.

    One name that is no UTF-8, or that cannot be looked at, such as a link to nothing, has Triton 2.51 refuse to list
    any model, so that no load and no end of the server can be followed. Then the path leads to a folder of links to all
    other folders.
    """
    link, root = folder / "repository", repository.root.resolve()
    try:
        left_out = unlistable(root)
        names = {path.name for path in root.iterdir() if not path.name.startswith(".") and is_folder(path)}
        names -= {*left_out}
    except OSError:  # the whole repository is away: that is for Triton to say
        left_out, names = [], set()
    current = link.readlink() if link.is_symlink() else Path()
    if not left_out:
        if current != root:
            _point(link, root)
        return
    if current.name.startswith(_LISTABLE) and {path.name for path in current.glob("*")} == names:
        return
    made = Path(tempfile.mkdtemp(prefix=_LISTABLE, dir=folder))
    for name in names:
        (made / name).symlink_to(root / name)
    _point(link, made)
    for old in folder.glob(f"{_LISTABLE}*"):
        if old != made:
            shutil.rmtree(old, ignore_errors=True)


def _link(repository: Repository, name: str, versions: Sequence[int], folder: Path, server_dir: str) -> None:
    config_rules.require_contained(repository.root, name)
    require_none_of_others(repository.root, name, server_dir)
    folder.mkdir()
    for path in (repository.root.resolve() / name).iterdir():
        if not path.name.isdigit() or int(path.name) in versions:
            (folder / path.name).symlink_to(path)
    if (config := folder / CONFIG_FILE).exists():
        config.unlink()
        config.write_text(config_pbtxt.text(_pin(repository, name, versions)))


def _pin(repository: Repository, name: str, versions: Sequence[int]) -> Any:
    repository.require_readable(name, versions)
    message = config_rules.read_checked(repository.root, name)
    is_ours = all(repository.has_card(name, version) for version in versions)
    _keep_safe_warm_up(message, is_ours=is_ours)
    if is_ours and versions:
        card = repository.card(name, max(versions))
        repository.fit_config(message, name, card)
        fit_precision(message, card)
    return _with_versions(message, versions)


def _keep_safe_warm_up(message: Any, *, is_ours: bool) -> None:
    """Leave a warm-up out that nobody tried: Triton 2.51 may end when a model fails on it.

    An export is tried with zeros. Other data, and zeros for a model that resx did not export, are not known to work.
    """
    samples = list(message.model_warmup)
    if not is_ours or any(kind != "zero_data" for sample in samples for kind in _warm_up_data(sample)):
        del message.model_warmup[:]


def _warm_up_data(sample: Any) -> list[str]:
    return [given.WhichOneof("input_data_type") or "" for given in sample.inputs.values()]


def _with_versions(message: Any, versions: Sequence[int]) -> Any:
    message.version_policy.Clear()
    message.version_policy.specific.versions.extend(versions)
    return message


def as_json(message: Any) -> str:
    """Return a configuration as JSON, for `TritonClient.load`."""
    from google.protobuf import json_format

    return str(json_format.MessageToJson(message, preserving_proto_field_name=True))


def parse(configuration: str | Mapping[str, Any]) -> Any:
    """Return a configuration in JSON, or the value of such, as Triton's message; what it does not know is left out."""
    from google.protobuf import json_format

    found = json.loads(configuration) if isinstance(configuration, str) else configuration
    return json_format.ParseDict(found, config_pbtxt.parse(""), ignore_unknown_fields=True)


def _point(link: Path, target: Path) -> None:
    """Let `link` lead to `target` in one step."""
    staged = link.with_name(f"{link.name}.{os.getpid()}")
    staged.unlink(missing_ok=True)
    staged.symlink_to(target)
    staged.replace(link)
