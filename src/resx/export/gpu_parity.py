"""Compare a file with its source on a GPU, once without TF32 and once with it.

TF32 rounds the inputs of fp32 convolutions and matrix products to 10 bits of mantissa. Whoever serves decides whether
it is on: `resx serve` leaves it off, NVIDIA's container has it on for ONNX files, and a plan has what it was built
with. So both are measured and both are in the card:

    off   held to the file's own tolerance, as on the CPU; a miss publishes nothing
    on    held to fp16's tolerance, which has as many bits, where the file's own is tighter; a miss is said, no more

What runs the file is passed in: one function that opens it, by whether TF32 is on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resx.card.kinds import Precision
from resx.card.parity_result import GpuParity, Parity, Tolerance
from resx.errors import MissingCapability
from resx.export.checks import parity
from resx.export.reference import Reference
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel, has_cuda_provider, onnxruntime_version
from resx.runtimes.torch_gpu import Gpu, gpu_here

Runner: TypeAlias = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""From a batch of inputs to its logits."""
OpenRunner: TypeAlias = Callable[[bool], Runner | None]
"""From whether TF32 is on to what runs the file so; None where it cannot be run so."""


def tolerance_with_tf32(precision: Precision, tolerance: Tolerance, num_layers: int, *, is_own: bool) -> Tolerance:
    """Return the tolerance for a file that is run with TF32.

    Args:
        precision: of the file.
        tolerance: without TF32.
        num_layers: of the network.
        is_own: whether the user set the tolerance, which then holds for both.
    """
    return parity.tolerance_for("fp16", num_layers) if precision == "fp32" and not is_own else tolerance


def compare_both(
    open_runner: OpenRunner,
    reference: Sequence[parity.Logits],
    inputs: Sequence[npt.NDArray[Any]],
    *,
    gpu: Gpu,
    runtime: str,
    off: Tolerance,
    on: Tolerance,
) -> GpuParity:
    """Run the file with TF32 off and on, and measure both against the source's answers.

    Args:
        open_runner: opens the file.
        reference: the source's logits, batch by batch.
        inputs: of those batches.
        gpu: what it runs on.
        runtime: what runs it, with its version.
        off: tolerance without TF32.
        on: tolerance with it.
    """

    def compare(is_on: bool, tolerance: Tolerance) -> Parity | None:
        run = open_runner(is_on)
        if run is None:
            return None
        step = f"{runtime}, TF32 {'on' if is_on else 'off'}"
        return parity.compare(step, reference, [run(batch) for batch in inputs], tolerance)

    return GpuParity(
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        runtime=runtime,
        tf32_off=compare(False, off),
        tf32_on=compare(True, on),
    )


def require(found: GpuParity, *, name: str) -> GpuParity:
    """Return the comparison if the file computes on the GPU what its source does, TF32 aside.

    Raises:
        ParityError: it does not.
    """
    if found.tf32_off is not None:
        parity.require(found.tf32_off, name=name)
    return found


def compare_on_cuda(
    reference: Reference,
    path: Path,
    tolerance: Tolerance,
    *,
    on_step: Callable[[str], None] = lambda _step: None,
    gpu: Gpu | None = None,
    open_session: Callable[[Path, bool], Runner] | None = None,
) -> GpuParity | None:
    """Hold an ONNX file to its source on this machine's GPU; None where there is none, or nothing is verified.

    Args:
        reference: the source's answers.
        path: of the file.
        tolerance: that it was held to on the CPU.
        on_step: told what is done, or why it is not.
        gpu: None: this machine's, if onnxruntime has the provider for it.
        open_session: None: onnxruntime's CUDA provider.

    Raises:
        ParityError: with TF32 off it computes something else.
    """
    gpu = gpu or (gpu_here() if has_cuda_provider() else None)
    if gpu is None or not reference.answers:
        return None
    on_step("verify the file on the GPU")
    open_with = open_session or open_on_cuda
    inputs = [reference.signature.as_input(batch) for batch in reference.batches]
    largest = max(map(len, inputs))
    try:
        found = compare_both(
            lambda tf32: in_batches_of(largest, open_with(path, tf32)),
            reference.answers,
            inputs,
            gpu=gpu,
            runtime=f"onnxruntime {onnxruntime_version()} (CUDA)",
            off=tolerance,
            on=tolerance_with_tf32(
                reference.options.precision,
                tolerance,
                reference.source.num_layers,
                is_own=reference.options.has_own_tolerance,
            ),
        )
    except MissingCapability as error:
        on_step(f"not verified on the GPU: {error}")
        return None
    return require(found, name=reference.name)


def open_on_cuda(path: Path, tf32: bool) -> Runner:
    """Return what runs an ONNX file on the current GPU, set up as the embedded server sets it up.

    Raises:
        MissingCapability: onnxruntime cannot load its CUDA provider.
    """
    return OnnxRuntimeModel(path, cuda={"use_tf32": str(int(tf32)), "cudnn_conv_algo_search": "HEURISTIC"})


def in_batches_of(size: int, run: Runner) -> Runner:
    """Fill each batch up to one size: the CUDA provider makes its plans anew for every other one, in over a second."""

    def run_filled(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        missing = np.zeros((max(0, size - len(batch)), *batch.shape[1:]), batch.dtype)
        return run(np.concatenate([batch, missing]))[: len(batch)]

    return run_filled
