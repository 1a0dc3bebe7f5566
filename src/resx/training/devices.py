"""What a run computes on, and in which precision: asked of PyTorch, whose CUDA is its own.

    auto     the GPU where there is one, in bf16 if it computes that and in fp16 if not; else the CPU, in bf16 if it
             computes that and in fp32 if not
    cpu      fp32, bf16 where the processor has BF16 instructions, or fp16 as PyTorch computes it there
    gpu      exit code 4 where PyTorch cannot use one

Convolutions in fp32 are computed in fp32 on a GPU too, without TF32, and by algorithms that give the same bits each
time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, TypeAlias

import torch

from resx import gpus
from resx.errors import MissingCapability, first_line
from resx.gpus import Device, Gpus, Wish, find_gpus
from resx.machine import instruction_set, processor
from resx.training.config import TrainingPrecision

PrecisionWish: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
PRECISION_WISHES: tuple[PrecisionWish, ...] = ("auto", "fp32", "bf16", "fp16")

AUTOCAST_TYPES: dict[TrainingPrecision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_WITH_BF16 = ("amx", "avx512_bf16")
TORCH_NAMES: dict[Device, str] = {"cpu": "cpu", "gpu": "cuda"}
_REMEDY = (
    "a GPU needs PyTorch's package for CUDA (on Linux `pip install torch` installs it) and an NVIDIA driver; "
    "--device cpu trains on the CPU"
)


def missing_for_gpu() -> str:
    """Return why PyTorch cannot use a GPU here, or nothing."""
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} here is the package for the CPU"
    if torch.cuda.is_available():
        return ""
    try:
        torch.cuda.init()
    except RuntimeError as error:
        return first_line(error).partition(". ")[0]
    return "PyTorch finds no GPU"


def choose_device(
    wish: Wish, *, found: Callable[[], Gpus] = find_gpus, missing: Callable[[], str] = missing_for_gpu
) -> Device:
    """Return what a run is to compute on.

    Raises:
        MissingCapability: a GPU is wanted, or is there, and PyTorch cannot use it.
    """
    return gpus.choose(wish, gpus=found, missing=missing, remedy=_REMEDY)


def require_answer(place: torch.device) -> None:
    """Check that a device computes: only that shows that this PyTorch has code for this GPU.

    Raises:
        MissingCapability: it does not.
    """
    try:
        torch.ones(1, device=place).add_(1).item()
    except (RuntimeError, AssertionError) as error:  # of a PyTorch without CUDA: AssertionError
        raise MissingCapability(f"--device gpu: {first_line(error).partition('. ')[0]}; {_REMEDY}") from error


def computes_bf16(device: Device) -> bool:
    """Say whether the processor or the GPU computes in bf16, and does not only emulate it."""
    if device == "cpu":
        return instruction_set() in _WITH_BF16
    return torch.cuda.is_bf16_supported(including_emulation=False)


def choose_precision(
    wish: PrecisionWish, device: Device, *, bf16: Callable[[Device], bool] = computes_bf16
) -> TrainingPrecision:
    """Return what the forward pass is computed in.

    Raises:
        MissingCapability: bf16 is wanted, and the device does not compute it.
    """
    if wish == "auto":
        return "bf16" if bf16(device) else "fp32" if device == "cpu" else "fp16"
    if wish == "bf16" and not bf16(device):
        raise MissingCapability(
            "--precision bf16: this GPU does not compute it (compute capability 8.0 and newer does); "
            "use --precision fp16 or auto"
            if device == "gpu"
            else f"--precision bf16: {processor()} ({instruction_set()}) has no BF16 instructions; "
            "use --precision fp32 or auto"
        )
    return wish


def name_of(place: torch.device) -> str:
    """Return `cpu`, or the GPU's name."""
    return torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"


def exact_convolutions() -> AbstractContextManager[None]:
    """Give convolutions that are fp32 where that is asked for, and the same from run to run; GPUs have others too."""
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return context if torch.backends.cudnn.is_available() else contextlib.nullcontext()
