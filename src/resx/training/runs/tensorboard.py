"""A run's metrics as TensorBoard event files, for those who look at them there; metrics.jsonl has them anyway."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from resx.errors import MissingCapability

if TYPE_CHECKING:
    from resx.training.runs.run_metrics import Metrics

FOLDER = "tensorboard"


class ScalarWriter(Protocol):
    """The one thing wanted of torch.utils.tensorboard.SummaryWriter."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Record one number."""


def require_tensorboard() -> None:
    """Check that event files can be written.

    Raises:
        MissingCapability: the package `tensorboard` is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingCapability(
            "--tensorboard: tensorboard is not installed; pip install 'resx[tensorboard]', or read metrics.jsonl"
        ) from error


def write_scalars(writer: ScalarWriter, entry: Metrics) -> None:
    """Write an epoch's metrics, each under its own name, at its step; what is no number is left out."""
    for name, value in entry.items():
        if name not in ("epoch", "step", "num_processes") and not isinstance(value, str):
            writer.add_scalar(name, value, entry["step"])


@contextlib.contextmanager
def event_files(run: Path) -> Iterator[Callable[[Metrics], None]]:
    """Give a function that adds an epoch's metrics to the run's event files, which begin anew with the first.

    Nothing is written before: until then the folder may be another run's.
    """
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    with contextlib.ExitStack() as opened:
        writer: ScalarWriter | None = None

        def write(entry: Metrics) -> None:
            nonlocal writer
            if writer is None:
                shutil.rmtree(run / FOLDER, ignore_errors=True)
                writer = opened.enter_context(SummaryWriter(run / FOLDER))
            write_scalars(writer, entry)

        yield write
