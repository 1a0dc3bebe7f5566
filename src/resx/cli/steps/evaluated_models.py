"""What `resx evaluate` is given, as what can be asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from resx.cli.options.connection import Connection
from resx.cli.options.source import SourceOptions
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.card.origin import SourceArguments
    from resx.scoring.evaluation.opening import Places


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """Where models are, and what files do not say themselves."""

    source: SourceOptions
    server: Connection
    retries: int
    seed: int

    def places(self, *, is_alone: bool) -> Places:
        """Return where models are looked for.

        Args:
            is_alone: whether one model is asked, so that every option must be for it.
        """
        from resx.repository.versions import Repository
        from resx.scoring.evaluation.opening import Places

        return Places(
            repository=Repository(self.server.repository),
            address=self.server.address() if self.server.url else None,
            arguments=partial(self._arguments, is_alone=is_alone),
            require_no_options=partial(self._require_no_options, is_alone=is_alone),
            retries=self.retries,
        )

    def _arguments(self, text: str, *, is_alone: bool) -> SourceArguments:
        from resx.zoo.catalog import kind_of

        source = self.source
        if not is_alone:  # the other model may be what an option is for
            if kind_of(text) == "onnx":
                source = replace(source, weights="none", weights_entry="", settings=None)
            else:
                source = replace(source, mean="", std="", labels="", output_name="")
        return source.arguments(text, seed=self.seed)

    def _require_no_options(self, text: str, *, is_alone: bool) -> None:
        if is_alone and self.source != SourceOptions():
            raise UsageError(f"{text}: has its own weights, image size and labels; remove the options of Source")
