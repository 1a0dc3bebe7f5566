"""The GPU of this machine as PyTorch sees it: what computes here. `resx.gpus` asks the driver, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """An NVIDIA GPU that PyTorch can use."""

    name: str
    compute_capability: str
    """Such as `8.6`."""


def gpu_here() -> Gpu | None:
    """Return the current GPU; None if there is none, or none that this build of PyTorch can use."""
    import torch

    if torch.version.cuda is None or not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return Gpu(name=torch.cuda.get_device_name(), compute_capability=f"{major}.{minor}")
