"""A model's configuration under another setting: on trial, in force, and taken back.

A trial is loaded as a rehearsal, under a name that no client knows, so what answers clients is not touched. What is
chosen becomes a version of its own: the same file, with the evidence in its card, beside a config.pbtxt that says so.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from resx.card import card as cards
from resx.card.card import Card
from resx.card.kinds import Precision
from resx.card.runtime import RuntimeName
from resx.card.tuning import Setting, Tuning
from resx.errors import ResxError, UsageError
from resx.files.reading import read_text
from resx.files.staging import write_atomic
from resx.repository import config_pbtxt, config_rules, openvino_backend
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.tensorrt_accelerator import fit_precision, fit_profile
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment import version_pinning
from resx.serving.deployment.deploy import Deployed, deploy
from resx.serving.deployment.rehearsal import forget_rehearsal, rehearsal_name, version_files
from resx.serving.embedded.backends.config_values import SPIN_DURATION, SPIN_US, SPINNING
from resx.text import one_line

_THREADS = "intra_op_thread_count"

FileKey: TypeAlias = tuple[int, RuntimeName | None, Precision | None]
"""Of a setting: version, runtime and precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A version whose file may be served: one of the model's, or an export that was made for the search."""

    repository: Repository
    """Which may be a folder of its own."""
    name: str
    version: int
    is_published: bool = True
    """Whether it is one of the model's versions."""

    @property
    def card(self) -> Card:
        """The version's card."""
        return self.repository.card(self.name, self.version)

    @property
    def key(self) -> FileKey:
        """What settings name it by."""
        card = self.card
        runtime = card.runtime_name if card.engine is None else None
        return (self.version if self.is_published else 0, runtime, card.precision)


def key_of(setting: Setting) -> FileKey:
    """Return what tells a setting's file."""
    return (setting.version, setting.runtime, setting.precision)


def setting_of(repository: Repository, name: str, version: int) -> Setting:
    """Return what config.pbtxt says, for a version's file."""
    message, card = config_rules.read_checked(repository.root, name), repository.card(name, version)
    repository.fit_config(message, name, card)
    is_openvino = message.backend == openvino_backend.NAME
    threads = openvino_backend.threads_of(message) if is_openvino else _number(message, _THREADS) or 0
    spin_us = 0 if is_openvino else _spin_us(message)
    return Setting(
        version=version,
        runtime=card.runtime_name if card.engine is None else None,
        precision=card.precision,
        instances=config_pbtxt.instances_per_device(message),
        threads=threads,
        spinning=spin_us != 0,
        spin_us=spin_us or 0,
        max_batch=message.max_batch_size,
        delay_us=message.dynamic_batching.max_queue_delay_microseconds,
    )


def edit(message: Any, setting: Setting, *, threads: bool = True) -> None:
    """Change a configuration to a setting; what a setting does not name stays.

    Args:
        message: Triton's ModelConfig.
        setting: what it is to say.
        threads: whether threads are a matter of this model; of one on a GPU they are not.
    """
    for group in message.instance_group[1:]:
        message.instance_group.remove(group)
    message.instance_group[0].count = setting.instances
    if threads and message.backend == openvino_backend.NAME:
        openvino_backend.set_threads(message, setting.threads)
        for key in (SPINNING, SPIN_DURATION):
            message.parameters.pop(key, None)
    elif threads:
        message.parameters[_THREADS].string_value = str(setting.threads)
        _set_spinning(message, setting)
    if not setting.max_batch:
        return
    message.max_batch_size = setting.max_batch
    fit_profile(message)
    message.dynamic_batching.max_queue_delay_microseconds = setting.delay_us
    for sample in message.model_warmup:
        sample.batch_size = min(sample.batch_size, setting.max_batch)


def _spin_us(message: Any) -> int | None:
    """Return how long threads spin at most; None: without a bound. As `session_settings.spin_entries` reads it."""
    asked, duration_us = _text(message, SPINNING).lower(), _number(message, SPIN_DURATION)
    if asked in {"0", "false"}:
        return 0
    if asked and duration_us is None:
        return None
    return SPIN_US if duration_us is None else duration_us


def _number(message: Any, key: str) -> int | None:
    """Return the whole number that a parameter says; None: it is absent."""
    text = _text(message, key)
    if text and not (text.isascii() and text.isdecimal()):
        shown = one_line(text[:40])
        raise UsageError(f"{message.name}: {CONFIG_FILE}: {key}={shown!r}: give a whole number, 0 or more")
    return int(text) if text else None


def _text(message: Any, key: str) -> str:
    return str(message.parameters[key].string_value).strip() if key in message.parameters else ""


def _set_spinning(message: Any, setting: Setting) -> None:
    for key in (SPINNING, SPIN_DURATION):
        message.parameters.pop(key, None)
    if setting.spinning and not setting.spin_us:
        message.parameters[SPINNING].string_value = "1"
    else:
        message.parameters[SPIN_DURATION].string_value = str(setting.spin_us if setting.spinning else 0)


@contextlib.contextmanager
def on_trial(
    client: TritonClient, repository: Repository, candidate: Candidate, setting: Setting | None, *, threads: bool
) -> Iterator[str]:
    """Have a candidate loaded under a setting, by the name that is given; it is gone at the end.

    Args:
        client: of the server.
        repository: the model's.
        candidate: whose file.
        setting: how it is served; None: as the model's configuration has it.
        threads: as for `edit`.

    Raises:
        UsageError: its files are too large to be sent.
        ServerError: the server refuses it.
    """
    name = candidate.name
    message = version_pinning.parse(version_pinning.config_json(repository, name, []))
    repository.fit_config(message, name, candidate.card)
    fit_precision(message, candidate.card)
    message.version_policy.Clear()
    message.version_policy.specific.versions.append(candidate.version)
    message.name = alias = rehearsal_name(name)
    message.ClearField("response_cache")  # what is measured must be computed
    if setting is not None:
        edit(message, setting, threads=threads)
    forget_rehearsal(client, name)
    try:
        files = version_files(candidate.repository.find(name, candidate.version))
        client.load(alias, version_pinning.as_json(message), files)
        yield alias
    finally:
        with contextlib.suppress(ResxError):
            forget_rehearsal(client, name)


def put_in_force(
    client: TritonClient, repository: Repository, candidate: Candidate, tuning: Tuning, *, threads: bool
) -> Deployed:
    """Publish the chosen file as a version under the chosen configuration, and deploy it.

    Raises:
        VersionRejected: it does not answer as its card says; configuration and versions are as they were.
    """
    name, card = candidate.name, candidate.card
    message = config_rules.read_checked(repository.root, name)
    repository.fit_config(message, name, card)
    edit(message, tuning.chosen, threads=threads)
    comment = f"Written by `resx tune`; card.json of the version has the evidence. `resx tune {name} --undo` undoes it."
    card = card.model_copy(update={"tuning": tuning})
    with repository.stage() as staged:
        folder = candidate.repository.version_folder(name, candidate.version)
        shutil.copytree(folder, staged, dirs_exist_ok=True, copy_function=shutil.copyfile)
        (staged / cards.FILE_NAME).write_text(cards.write_card(card))
        published = repository.publish_configured(staged, card, config_pbtxt.text(message, {"name": [comment]}))
    try:
        return deploy(client, repository, name, published.version)
    except BaseException:
        write_atomic(repository.root / name / CONFIG_FILE, tuning.config_before)
        shutil.rmtree(published.folder)
        raise


def take_back(client: TritonClient | None, repository: Repository, name: str) -> tuple[int, int]:
    """Write the configuration from before the newest version's tuning, deploy that version's origin, remove the copy.

    Args:
        client: of the server on which the model is deployed; None where none runs.
        repository: whose.
        name: of the model.

    Returns:
        The version that is gone, and the one that answers instead.

    Raises:
        UsageError: the newest version is not of `resx tune`, or its card holds no configuration that may be loaded.
        VersionRejected: the version before does not answer; nothing is changed.
    """
    folder = repository.version_folder(name)
    tuning = repository.card(name).tuning
    if tuning is None:
        raise UsageError(f"{name} version {folder.name}: its card has no tuning, so there is nothing to undo")
    config_rules.require_harmless(config_pbtxt.parse(tuning.config_before, f"{name}: its card's config_before"), name)
    config = repository.root / name / CONFIG_FILE
    tuned = read_text(config)
    write_atomic(config, tuning.config_before)
    before = tuning.before.version
    try:
        if client is not None and name in client.model_versions():
            deploy(client, repository, name, before)
    except BaseException:
        write_atomic(config, tuned)
        raise
    shutil.rmtree(folder)
    return int(folder.name), before
