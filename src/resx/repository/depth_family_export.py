"""Export the members of a family into a repository: all of them, or none.

Every member is made and verified aside; then all files are measured in turns, and only then is one published.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resx.card import card as cards
from resx.card.card import Card
from resx.card.depth_family import Family, member_name
from resx.errors import ResxError, UsageError
from resx.export import export_cache
from resx.export.request import ExportRequest, key_of
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import require_one_format
from resx.repository.versions import Published, Repository

if TYPE_CHECKING:
    from resx.data.dataset import DataSet


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyExport:
    """What a family is, and how its files are to be made."""

    name: str
    members: tuple[tuple[int, ExportRequest], ...]
    """Blocks left, and the run's export; the whole network first."""
    data: DataSet
    """What accuracy is measured on, its held-out part."""
    threads: int
    """What latency is measured with."""
    force: bool
    """Make and publish again what is there already."""
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedMember:
    """A member that is in the repository."""

    card: Card
    version: Published
    is_new: bool
    """Whether it was published now; else the whole family was there already."""

    @property
    def family(self) -> Family:
        """Its place in the family."""
        assert self.card.family is not None
        return self.card.family


def require_free_names(repository: Repository, family: str, most_blocks: int) -> None:
    """Check before long work that no name that a member may get is another model's.

    Raises:
        UsageError: one is, or the name cannot be a model's.
    """
    for num_blocks in range(most_blocks, -1, -1):
        name = member_name(family, num_blocks)
        require_one_format(repository, name, builder=None)
        newest = repository.newest(name)
        if newest is None:
            continue
        there = repository.card(name).family
        if there is None or there.name != family:
            raise UsageError(
                f"{newest.folder.parent}: an independent model already has a name of the family {family}; choose "
                "another --name"
            )


def export_family(
    repository: Repository, plan: FamilyExport, serving: ServingOptions, on_step: Callable[[str], None]
) -> list[PublishedMember]:
    """Export, verify, measure and publish a family's members; a family that is there already stays as it is.

    Where one member is new all are published anew: the latencies in their cards are to be of one run.

    Raises:
        ParityError: a member is not what it was made of. Nothing was published.
        UsageError, ExportError, ResxError: as `export_version`; the message of an error that came while the
            finished members were published says which are.
    """
    with contextlib.ExitStack() as staged:
        folders, made = [], []
        for num_blocks, request in plan.members:
            name = member_name(plan.name, num_blocks)
            folders.append(staged.enter_context(repository.stage()))
            made.append(_fill(folders[-1], request, plan, name, on_step))
        on_step(f"accuracy on {len(plan.data.held_out)} held-out images")
        made = [_place(card, folder, plan, made[0]) for card, folder in zip(made, folders, strict=True)]
        there = [None if plan.force else _find_published(repository, card, serving) for card in made]
        if all(there):
            return [one for one in there if one is not None]
        on_step("latency, the members in turns")
        made = _time(made, folders, plan.threads)
        for card, folder in zip(made, folders, strict=True):
            repository.require_fitting(card, serving)
            (folder / cards.FILE_NAME).write_text(cards.write_card(card))
        on_step("publish")
        with _to_the_end():
            return _publish(repository, list(zip(made, folders, strict=True)), serving)


def _fill(folder: Path, request: ExportRequest, plan: FamilyExport, name: str, on_step: Callable[[str], None]) -> Card:
    """Put a member's verified file into `folder`: a copy of an earlier export, or a new one."""
    key = key_of(request)
    found = export_cache.find(key) if key is not None and not plan.force else None
    if found is not None:
        kept_at, card = found
        for file in card.files:
            shutil.copyfile(kept_at / file, folder / file)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")  # the newest family is the one in use
        return card.model_copy(update={"name": name, "command": plan.command, "created": now})
    from resx.export.pipeline import export_version
    from resx.export.request import prepare

    def of_member(step: str) -> None:
        on_step(f"{name}: {step}")

    source, options = prepare(request, of_member)
    card = export_version(source, options, folder, name=name, command=plan.command, on_step=of_member)
    if key is not None:
        export_cache.keep(key, folder)
    return card


def _place(card: Card, folder: Path, plan: FamilyExport, whole: Card) -> Card:
    """Return the card with its family's entry, of which the latency is still missing."""
    from resx.export.checks.file_measurement import accuracy
    from resx.machine import processor

    split = plan.data.held_out
    entry = Family(
        name=plan.name,
        whole_sha256=whole.source.weights_sha256,
        num_blocks=len(card.source.network.kept_blocks),
        whole_blocks=len(whole.source.network.kept_blocks),
        accuracy=accuracy(folder / card.model_file, card.signature, split),
        accuracy_on=f"held-out images of {plan.data.name}",
        num_images=len(split),
        latency_ms=float("inf"),
        threads=plan.threads,
        processor=processor(),
    )
    return card.model_copy(update={"family": entry})


def _time(made: Sequence[Card], folders: Sequence[Path], threads: int) -> list[Card]:
    from resx.export.checks.file_measurement import latencies_ms

    files = [(folder / card.model_file, card.signature) for card, folder in zip(made, folders, strict=True)]
    timed = []
    for card, latency_ms in zip(made, latencies_ms(files, threads=threads), strict=True):
        assert card.family is not None
        timed.append(card.model_copy(update={"family": card.family.model_copy(update={"latency_ms": latency_ms})}))
    return timed


def _find_published(repository: Repository, card: Card, serving: ServingOptions) -> PublishedMember | None:
    """Return the newest version if it is this file, served so and with this place in the family."""
    newest = repository.newest(card.name)
    if newest is None or not repository.is_served_so(card.name, card, serving):
        return None
    there = repository.card(card.name)
    same = there.files == card.files and there.family is not None and card.family is not None
    if not (same and there.family and card.family and there.family.is_like(card.family)):
        return None
    return PublishedMember(card=there, version=newest, is_new=False)


def _publish(
    repository: Repository, members: Sequence[tuple[Card, Path]], serving: ServingOptions
) -> list[PublishedMember]:
    done: list[PublishedMember] = []
    for card, folder in members:
        try:
            version = repository.publish(folder, card, serving)
        except (ResxError, OSError) as error:
            published = ", ".join(f"{one.card.name} version {one.version.version}" for one in done)
            raise ResxError(
                f"{card.name}: {error}; of its family {published or 'nothing'} was published; run the same command "
                "again to publish all of it"
            ) from error
        done.append(PublishedMember(card=card, version=version, is_new=True))
    return done


@contextlib.contextmanager
def _to_the_end() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the block: a few renames, of which none or all are wanted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda got, _frame: came.append(got)) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for ended in came[:1]:
        os.kill(os.getpid(), ended)


_ENDING = (signal.SIGINT, signal.SIGTERM)
