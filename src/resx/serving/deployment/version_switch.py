"""What goes from one version of a model to another: what can stay loaded, and what is tried first."""

from __future__ import annotations

from dataclasses import dataclass

from resx.errors import UsageError
from resx.repository.openvino_backend import computed_alike
from resx.repository.versions import Repository


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionSwitch:
    """From the newest version that is loaded to another, which may be the same or older."""

    old: int | None
    """None: nothing is loaded."""
    new: int
    alike: bool
    """Whether the runtime and the precision are the same: a model has one configuration for all its versions."""

    @property
    def is_rehearsed(self) -> bool:
        """Whether the new version is first tried under another name: one that would answer as soon as it is loaded."""
        return self.old is not None and (self.new > self.old or not self.alike)

    @property
    def beside(self) -> list[int]:
        """The versions that are loaded while the new one proves itself."""
        return sorted({self.new} if self.old is None or not self.alike else {self.old, self.new})

    @property
    def is_monitored(self) -> bool:
        """Whether there is something to return to if the new version's answers go wrong."""
        return self.old is not None and self.new > self.old

    @property
    def standby(self) -> str:
        """What a step that monitors says of the old version."""
        return f", version {self.old} on standby" if self.alike else ""


def plan_switch(repository: Repository, name: str, old: int | None, new: int, *, keep_previous: bool) -> VersionSwitch:
    """Return how a model goes from a version to another.

    Raises:
        UsageError: the old version is to be kept loaded and cannot be.
    """
    alike = old is None or _computed_alike(repository, name, old, new)
    if keep_previous and old is not None and old > new:
        raise UsageError(
            f"{name}: version {old} cannot stay loaded beside {new}: requests without a version go to the newest; "
            "remove --keep-previous"
        )
    if keep_previous and not alike:
        raise UsageError(
            f"{name}: version {old} cannot be kept beside {new}: their runtime or precision differs, and a model has "
            "one configuration; remove --keep-previous"
        )
    return VersionSwitch(old=old, new=new, alike=alike)


def _computed_alike(repository: Repository, name: str, *versions: int) -> bool:
    if not all(repository.has_card(name, version) for version in versions):
        return True
    first, second = (repository.card(name, version) for version in versions)
    return computed_alike(first, second)
