"""What the studies of a run begin with: the run, and data that fit it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.output import Output
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.data.dataset import DataSet
    from resx.zoo.spec import ModelSpec


def require_run(run: Path) -> None:
    """Refuse what is no run's folder, before anything heavy is imported.

    Raises:
        UsageError: it is none.
    """
    from resx.zoo.catalog import VARIANTS, kind_of

    if str(run) in VARIANTS and not run.exists():
        raise UsageError(f"{run}: a variant has no trained weights; use a run: resx train {run} -o runs/{run}")
    if kind_of(str(run)) != "run":
        raise UsageError(f"{run}: not a run's folder; create one with `resx train`")


def data_of(run: Path, data: str, spec: ModelSpec, out: Output) -> DataSet:
    """Load the data that the user named, or that a run was trained on, and say what was left out of them.

    Raises:
        UsageError: they are not there, or have other classes than the run's network.
    """
    from resx.analysis.lesion.study import require_same_classes
    from resx.data.loading import load_data
    from resx.training.runs.checkpoint import load_run_data

    if data:
        found = load_data(data, image_size=spec.image_size)
    else:
        try:
            found = load_run_data(run)
        except UsageError as error:
            raise UsageError(f"{run}: its data cannot be loaded ({error}); set --data") from error
    require_same_classes(spec, found)
    for remark in found.remarks:
        out.note(remark)
    return found
