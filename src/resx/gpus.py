"""Whether this machine has an NVIDIA GPU, and what to compute on: one rule for training and for serving.

A GPU is taken where there is one. If it cannot be used, that is an error that says what is missing: the CPU is taken
only where there is no GPU, or where the user asks for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from resx.errors import MissingCapability

Device: TypeAlias = Literal["cpu", "gpu"]
Wish: TypeAlias = Literal["auto", "cpu", "gpu"]
WISHES: tuple[Wish, ...] = ("auto", "cpu", "gpu")

DRIVER = "libcuda.so.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpus:
    """What the NVIDIA driver says."""

    count: int
    """That CUDA shows to this process: CUDA_VISIBLE_DEVICES counts."""
    missing: str = ""
    """Why there is none."""
    names: tuple[str, ...] = ()
    """Of each, in CUDA's order; empty where the driver does not say."""


def find_gpus() -> Gpus:
    """Ask the driver, without CUDA's libraries and without taking memory of a GPU."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return Gpus(count=0, missing=f"no NVIDIA driver is installed ({DRIVER} is missing)")
    if code := driver.cuInit(0):
        return Gpus(count=0, missing=f"the NVIDIA driver finds no GPU that it can use (cuInit: error {code})")
    count = ctypes.c_int(0)
    if (code := driver.cuDeviceGetCount(ctypes.byref(count))) or count.value == 0:
        return Gpus(count=0, missing=f"the NVIDIA driver shows no GPU{f' (error {code})' if code else ''}")
    return Gpus(count=count.value, names=tuple(_name_of(driver, number) for number in range(count.value)))


def _name_of(driver: ctypes.CDLL, number: int) -> str:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    if driver.cuDeviceGet(ctypes.byref(device), number) or driver.cuDeviceGetName(name, len(name), device):
        return "unknown"
    return name.value.decode(errors="replace") or "unknown"


def choose(wish: Wish, *, gpus: Callable[[], Gpus], missing: Callable[[], str], remedy: str) -> Device:
    """Return what to compute on.

    Args:
        wish: `auto` takes the GPU where there is one.
        gpus: finds them.
        missing: says why a library cannot use them, or nothing.
        remedy: ends each error: what a GPU needs, and how to ask for the CPU.

    Raises:
        MissingCapability: a GPU is wanted, or is there, and cannot be used.
    """
    if wish == "cpu":
        return "cpu"
    found = gpus()
    if not found.count:
        if wish == "auto":
            return "cpu"
        raise MissingCapability(f"--device gpu: {found.missing}; {remedy}")
    if reason := missing():
        where = f"{found.count} GPU" + ("s are" if found.count > 1 else " is")
        raise MissingCapability(f"{where} here, but cannot be used: {reason}; {remedy}")
    return "gpu"
