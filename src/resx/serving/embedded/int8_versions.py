"""The int8 versions of a repository that were verified on a processor with other 8-bit instructions, asked again here.

The file itself is asked, in this process, the rows that its card keeps for that (`resx.card.int8_processor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resx.card import int8_processor
from resx.card.card import Card
from resx.errors import ParityError, ResxError
from resx.repository.versions import Repository


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignInt8:
    """The newest version of a model, whose int8 was verified elsewhere."""

    name: str
    version: int
    detail: str
    """Where it was verified, and what came of asking it here."""
    passed: bool


def find_foreign_int8(repository: Repository, processor: str) -> Iterator[tuple[str, int, Card, str]]:
    """Return the newest version of each model whose int8 was verified on other instructions, its card, and on which.

    What cannot be read is left out: a check of the repository is another thing.

    Args:
        repository: its folder need not be there.
        processor: this one's instruction set.
    """
    for name in repository.names() if repository.root.is_dir() else ():
        try:
            version = repository.versions(name)[-1]
            card = repository.card(name, version)
        except (IndexError, OSError, ResxError):
            continue
        if verified := int8_processor.differs(card, processor):
            yield name, version, card, verified


def ask_foreign_int8(repository: Repository, processor: str) -> Iterator[ForeignInt8]:
    """Ask those versions' files again, in this process; as `find_foreign_int8`."""
    for name, version, card, verified in find_foreign_int8(repository, processor):
        passed, detail = _ask(repository.version_folder(name, version), card, processor)
        yield ForeignInt8(name=name, version=version, detail=f"{verified}: {detail}", passed=passed)


def _ask(folder: Path, card: Card, processor: str) -> tuple[bool, str]:
    if card.int8_rows is None:
        return True, "its card has no answers to compare with; run `resx verify`"
    from resx.runtimes.model_file import open_model

    try:
        model = open_model(folder / card.model_file, card)
        size = card.signature.batch or card.max_batch_size
        difference = int8_processor.repeat_parity(card, model, max_batch_size=size, processor=processor)
    except ParityError as error:
        return False, str(error)
    except ResxError as error:
        return True, f"could not be checked ({error})"
    return True, f"checked again, within {difference:.1e} of the scale"
