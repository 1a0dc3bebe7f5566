"""One run by several processes, started by `torchrun`: each works on its part of every batch.

    torchrun --nproc-per-node 2 -m resx train resnet20 -o runs/R

How a run is spread changes nothing but rounding. That takes three things: every process draws the same
order, augmentation and dropped blocks from the same seeds; gradients are averaged after the backward pass;
and batch norm takes its statistics over the whole batch, not over a process's part of it.

Plain torch.distributed does this in the lines below, so there is no Hugging Face Accelerate: it would
bring a dependency, and wraps the same calls. DistributedDataParallel would wrap the model too, and has to
search every graph for the parameters of blocks that were dropped; averaging the gradients that are there
needs no search, as a dropped block is dropped everywhere. What that gives up is sending gradients while
the backward pass still runs, a few per cent on networks of this size. torch.nn.SyncBatchNorm runs on GPUs
only, hence `GlobalBatchNorm2d`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from resx.errors import MissingCapability, ResxError, UsageError, first_line
from resx.gpus import Device
from resx.text import one_line
from resx.training.devices import TORCH_NAMES, choose_device, require_answer

_TORCHRUN = "torchrun sets all of them; without it unset WORLD_SIZE, RANK and LOCAL_RANK"


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process's place among those that train together."""

    rank: int = 0
    """0 is the one that writes, evaluates and reports."""
    count: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def kind(self) -> Device:
        """What this process computes on, in resx's words."""
        return "gpu" if self.device.type == "cuda" else "cpu"

    def part(self, num_images: int) -> slice:
        """Return this process's share of a batch, as large as the others'.

        Raises:
            UsageError: the batch cannot be divided equally.
        """
        if num_images % self.count:
            raise UsageError(
                f"batch_size={num_images}: {self.count} processes share it; give a multiple of {self.count}"
            )
        share = num_images // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def share(self, num_images: int) -> range:
        """Return this process's share of images that need not be divided equally."""
        return range(num_images * self.rank // self.count, num_images * (self.rank + 1) // self.count)


@contextlib.contextmanager
def join_processes(device: Device) -> Iterator[Processes]:
    """Join the processes that `torchrun` started, or be alone without it; part at the end.

    Raises:
        MissingCapability: a GPU is asked for, and cannot be used.
        UsageError: the variables that torchrun sets are there in part, or say what cannot be.
        ResxError: the first process cannot be reached, or another process of the run has ended.
    """
    count, place = _place(choose_device(device))
    require_answer(place)
    if count == 1:
        yield Processes(device=place)
        return
    _connect(place)
    try:
        yield Processes(rank=dist.get_rank(), count=count, device=place)
    except RuntimeError as error:
        # gloo and NCCL say so in a RuntimeError of many lines, in the middle of whatever was sent.
        if "peer" not in str(error) and not isinstance(error, dist.DistError):
            raise
        raise ResxError("another process of this run has ended; its message says why") from error
    finally:
        dist.destroy_process_group()


def _connect(place: torch.device) -> None:
    """Meet the other processes: over NCCL on GPUs, over gloo on CPUs."""
    try:
        if place.type == "cuda":
            torch.cuda.set_device(place)
            dist.init_process_group("nccl", device_id=place)
        else:
            dist.init_process_group("gloo")
    except (dist.DistError, RuntimeError, ValueError) as error:
        at = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ResxError(f"MASTER_ADDR:MASTER_PORT {at}: {first_line(error)}; {_TORCHRUN}") from error


def _place(device: Device) -> tuple[int, torch.device]:
    """Return how many processes train together, and where this one computes, as torchrun's variables say."""
    world, rank, local = (_count_in(name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    if world is None and rank is None and local is None:
        return 1, torch.device(TORCH_NAMES[device])
    if world is None or rank is None:
        there, missing = ("WORLD_SIZE", "RANK") if rank is None else ("RANK", "WORLD_SIZE")
        if world is None and rank is None:
            there, missing = "LOCAL_RANK", "WORLD_SIZE"
        raise UsageError(f"{there}={os.environ[there]} is set, {missing} is not: {_TORCHRUN}")
    if world == 0:
        raise UsageError(f"WORLD_SIZE=0: give 1 process or more; {_TORCHRUN}")
    for name, value in (("RANK", rank), ("LOCAL_RANK", local)):
        if value is not None and value >= world:
            raise UsageError(f"{name}={value}: WORLD_SIZE={world} processes have 0 to {world - 1}; {_TORCHRUN}")
    if world > 1:
        _require_meeting_point(world)
        if local is None and device == "gpu":
            raise UsageError(f"WORLD_SIZE={world} is set, LOCAL_RANK is not: it selects the GPU; {_TORCHRUN}")
    if device == "gpu" and (local or 0) >= torch.cuda.device_count():
        raise MissingCapability(
            f"LOCAL_RANK={local}: this machine has {torch.cuda.device_count()} GPUs; start fewer processes"
        )
    return world, torch.device("cuda", local or 0) if device == "gpu" else torch.device("cpu")


def _require_meeting_point(world: int) -> None:
    """Check the address at which the processes find each other."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise UsageError(f"WORLD_SIZE={world} is set, {name} is not: {_TORCHRUN}")
    port = _count_in("MASTER_PORT")
    if port is None or not 0 < port < 2**16:
        raise UsageError(f"MASTER_PORT={port}: give a port from 1 to 65535; {_TORCHRUN}")
    address = os.environ["MASTER_ADDR"]
    try:
        socket.getaddrinfo(address, port)
    except (OSError, UnicodeError) as error:  # torch would try again for half an hour
        raise UsageError(f"MASTER_ADDR={one_line(address)}: cannot be resolved; {_TORCHRUN}") from error


def _count_in(name: str) -> int | None:
    """Return a variable's number; None if it is not set, or empty."""
    text = os.environ.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"{name}={one_line(text)}: give a number, 0 or more; {_TORCHRUN}")
    return int(text)


def first_alone(processes: Processes, action: Callable[[], None]) -> None:
    """Let the first process do something while the others wait until it has succeeded.

    Raises:
        ResxError: in the others, if it failed; the first raises its own error.
    """
    if processes.is_first:
        succeeded = False
        try:
            action()
            succeeded = True
        finally:
            _tell(processes, succeeded)
    elif not _tell(processes, False):
        raise ResxError("the first process of this run has failed; its message says why")


def average_gradients(model: nn.Module, processes: Processes) -> None:
    """Replace each gradient by its mean over the processes. Parameters without one have none anywhere."""
    if processes.count == 1:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    parts = flat.div_(processes.count).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def mean_over_processes(value: Tensor, processes: Processes) -> Tensor:
    """Return the mean of a scalar over the processes, the same in each; nothing waits for it yet."""
    value = value.detach()
    if processes.count > 1:
        value = value.double()
        dist.all_reduce(value)
        value = value / processes.count
    return value


def sum_over_processes(values: npt.NDArray[np.float64], processes: Processes) -> npt.NDArray[np.float64]:
    """Return the sums of values [N] over the processes, the same in each."""
    if processes.count == 1:
        return values
    totals = torch.from_numpy(values).to(processes.device)
    dist.all_reduce(totals)
    return totals.cpu().numpy()


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of the batch over all processes, in equal parts."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise [N, C, H, W]; in evaluation as any batch norm."""
        if not self.training:
            return super().forward(input)
        x_NCHW = input.to(torch.promote_types(input.dtype, torch.float32))
        mean = _global_mean(x_NCHW.mean((0, 2, 3)))
        centred = x_NCHW - mean.view(-1, 1, 1)
        variance = _global_mean(centred.square().mean((0, 2, 3)))
        self._remember(mean.detach(), variance.detach(), x_NCHW.numel() // x_NCHW.shape[1] * dist.get_world_size())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, num_values: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (num_values / max(1, num_values - 1)), self.momentum)
        self.num_batches_tracked += 1


def share_batch_statistics(model: nn.Module) -> None:
    """Make every 2-d batch norm of the model a global one, in place; parameters and their names stay."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                shared = GlobalBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
                shared.weight, shared.bias = child.weight, child.bias
                shared.running_mean, shared.running_var = child.running_mean, child.running_var
                shared.num_batches_tracked = child.num_batches_tracked
                setattr(parent, name, shared)


class _GlobalMean(torch.autograd.Function):
    """Mean over the processes; each process's loss depends on every process's value, hence the sum behind."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        """Return the mean."""
        mean = value.clone()
        dist.all_reduce(mean)
        return mean / dist.get_world_size()

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the mean of the gradients."""
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()


def _global_mean(value: Tensor) -> Tensor:
    mean: Tensor = _GlobalMean.apply(value)
    return mean


def _tell(processes: Processes, succeeded: bool) -> bool:
    """Send the first process's outcome to all; return it."""
    if processes.count == 1:
        return succeeded
    told = torch.tensor(float(succeeded), device=processes.device)
    dist.broadcast(told, src=0)
    return bool(told.item())
