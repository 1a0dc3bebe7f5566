"""The run that a file belongs to: weights name their network and settings, and are compared with what lies beside them.

So weights of one run beside the spec or the configuration of another are never taken for a run, whether they came
there by a copy or by a run that began while the files were read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic

from resx.errors import UsageError, first_line
from resx.files.json_faults import explain_fault
from resx.files.reading import MAX_TEXT_BYTES, read_bounded
from resx.training.config import HOW_COMPUTED, TrainingConfig
from resx.values import FrozenModel
from resx.zoo.spec import SPEC_FILE, ModelSpec, read_spec

CONFIG, WEIGHTS = "training.json", "model.safetensors"
_KEY = "run"
"""Of the origin, in the metadata of a file of weights."""
_MAY_DIFFER = {"spec": {"labels"}, "training": {"epochs", "data", *HOW_COMPUTED}}
"""What the user may change without making it another run."""


class Origin(FrozenModel):
    """The run that a file belongs to: its network and its settings."""

    spec: ModelSpec
    training: TrainingConfig


def read_origin(folder: Path) -> Origin:
    """Read the network and the settings that a run was begun with.

    Raises:
        UsageError: a file is missing or damaged.
    """
    return Origin(spec=read_spec(folder / SPEC_FILE), training=read_config(folder))


def read_config(folder: Path) -> TrainingConfig:
    """Read the configuration that a run was begun with.

    Raises:
        UsageError: the file is missing or damaged.
    """
    path, content = folder / CONFIG, b""
    try:
        content = read_bounded(path, MAX_TEXT_BYTES)
        return TrainingConfig.model_validate_json(content)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); train again with --force") from error
    except pydantic.ValidationError as error:
        raise UsageError(f"{path}: {explain_fault(error, content, 'train again with --force')}") from error


def metadata_of(origin: Origin) -> dict[str, str]:
    """Return what `origin_of` reads, for the header of a file of weights."""
    return {_KEY: origin.model_dump_json()}


def origin_of(weights: Path) -> Origin | None:
    """Return which run a file of weights belongs to; None if it does not say, as those of older versions."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="pt") as file:
            said = (file.metadata() or {}).get(_KEY)
        return None if said is None else Origin.model_validate_json(said)
    except (SafetensorError, OSError, pydantic.ValidationError) as error:
        raise UsageError(f"{weights}: cannot be read ({first_line(error)}); train again with --force") from error


def require_one_run(weights: Path, origin: Origin, spec: ModelSpec) -> None:
    """Check that a spec, and the configuration beside a file of weights, are those that the file belongs to.

    Raises:
        UsageError: they are another run's; the message says in what they differ.
    """
    folder = weights.parent
    there = Origin(spec=spec, training=read_config(folder) if (folder / CONFIG).is_file() else origin.training)
    differences = _differences(origin.model_dump(exclude=_MAY_DIFFER), there.model_dump(exclude=_MAY_DIFFER))
    if differences:
        raise UsageError(
            f"{weights}: belongs to a different run than {SPEC_FILE} and {CONFIG} in its folder: "
            f"{'; '.join(differences)}; restore the files of one run, or train again with --force"
        )


def require_same(folder: Path, what: str, begun: FrozenModel, now: FrozenModel, *, but: tuple[str, ...] = ()) -> None:
    """Check that a run goes on with what it was begun with, in all but some fields.

    Raises:
        UsageError: it does not; the message says in what they differ.
    """
    differences = _differences(begun.model_dump(exclude={*but}), now.model_dump(exclude={*but}))
    if differences:
        raise UsageError(f"{folder}: started with {what}: {'; '.join(differences)}; use the same settings, or --force")


def changes_of_computing(begun: TrainingConfig, now: TrainingConfig) -> list[str]:
    """Say what of HOW_COMPUTED a run goes on with is other than it was begun with."""
    return _differences(begun.model_dump(include={*HOW_COMPUTED}), now.model_dump(include={*HOW_COMPUTED}))


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Say `key was a, is b` for every entry that differs, nested ones by their dotted names."""
    found: list[str] = []
    for key in old | new:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} was {before}, is {after}")
    return found
