"""What the embedded server computes on: a GPU that it can use, or the CPU where there is none, or where it is told so.

Triton places an instance of KIND_AUTO by the GPUs that it sees, so a server for the CPU sees none.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from resx.errors import MissingCapability, UsageError
from resx.gpus import Device, Gpus, Wish, choose, find_gpus
from resx.repository.config_pbtxt import CONFIG_FILE, OPENVINO, read
from resx.repository.tensorrt_accelerator import asks_for_tensorrt

HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1"}
"""The environment of a process that is to see no GPU."""
TENSORRT = "TensorrtExecutionProvider"
_ON_CPU = "use --device cpu to serve on the CPU"
_NEEDS = "resx[gpu] brings onnxruntime-gpu, which needs an NVIDIA driver for CUDA 13, CUDA 13 and cuDNN 9"
_NO_TENSORRT = (
    f"{CONFIG_FILE} asks for TensorRT (gpu_execution_accelerator), which cannot be used: {{why}}; resx[gpu] brings "
    "onnxruntime-gpu and TensorRT for a machine with an NVIDIA GPU, or export without --accelerator"
)
_TRY = """
import contextlib, ctypes, pathlib, sys, onnxruntime
provider = sys.argv[1]
if provider not in onnxruntime.get_available_providers():
    raise SystemExit("onnxruntime " + onnxruntime.__version__ + " here is the package for the CPU")
getattr(onnxruntime, "preload_dlls", lambda: None)()
if provider == "TensorrtExecutionProvider":
    with contextlib.suppress(ImportError):
        import tensorrt_libs
relu = bytes.fromhex(
    "080712003a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08"
    "080112040a020801620f0a0179120a0a08080112040a02080142040a00100d"
)
session = onnxruntime.InferenceSession(relu, providers=[provider], enable_fallback=0)
if provider not in session.get_providers():  # onnxruntime takes the CPU then; the loader knows why
    library = "libonnxruntime_providers_" + provider.removesuffix("ExecutionProvider").lower() + ".so"
    try:
        ctypes.CDLL(str(pathlib.Path(onnxruntime.__file__).parent / "capi" / library))
    except OSError as error:
        raise SystemExit(str(error))
    raise SystemExit(provider + " cannot be used")
"""
"""A session over one ReLU: only that shows that a provider works."""
_TRY_S = 60


def missing_for_cuda(provider: str = "CUDAExecutionProvider") -> str:
    """Return why onnxruntime cannot compute with a provider here, or nothing; tried in a process of its own."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _TRY, provider], capture_output=True, text=True, timeout=_TRY_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"CUDA's libraries were not loaded within {_TRY_S} s"
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return "" if done.returncode == 0 else (said or [f"it ended with code {done.returncode}"])[-1]


def require_device_for(model_folder: Path, device: Device, *, missing: Callable[[str], str] = missing_for_cuda) -> None:
    """Check that a server that computes on this device can place a model's instances where config.pbtxt says.

    Raises:
        MissingCapability: an instance is for a GPU by name and there is none, or is for TensorRT, which cannot be used.
        UsageError: it is for a GPU by name, and OpenVINO computes the model.
    """
    config = model_folder / CONFIG_FILE
    if not config.is_file():
        return
    message = read(config)
    if message.backend == OPENVINO and any(group.kind == group.KIND_GPU for group in message.instance_group):
        raise UsageError(
            f"{model_folder.name}: {CONFIG_FILE} asks for KIND_GPU, but OpenVINO runs on the CPU only; write KIND_CPU"
        )
    if device == "gpu":
        if asks_for_tensorrt(message) and (why := missing(TENSORRT)):
            raise MissingCapability(f"{model_folder.name}: {_NO_TENSORRT.format(why=why)}")
        return
    if any(group.kind == group.KIND_GPU for group in message.instance_group):
        why = find_gpus().missing or "the server was started with --device cpu"
        if asks_for_tensorrt(message):
            raise MissingCapability(f"{model_folder.name}: {_NO_TENSORRT.format(why=why)}")
        raise MissingCapability(
            f"{model_folder.name}: {CONFIG_FILE} asks for KIND_GPU, but no GPU is available: {why}; write KIND_AUTO to "
            "use a GPU only where there is one"
        )


def require_tensorrt_for(
    model_folders: Iterable[Path],
    wish: Wish,
    *,
    gpus: Callable[[], Gpus] = find_gpus,
    missing: Callable[[str], str] = missing_for_cuda,
) -> None:
    """Check before a server starts that one of these models can be computed, where all of them are for TensorRT.

    Where others are among them the server starts, and says of these that they are not loaded.

    Raises:
        MissingCapability: none can; the message has the reason.
    """
    configs = [folder / CONFIG_FILE for folder in model_folders]
    if not configs or not all(config.is_file() and asks_for_tensorrt(read(config)) for config in configs):
        return
    why = "the server runs on the CPU (--device cpu)" if wish == "cpu" else gpus().missing or missing(TENSORRT)
    if why:
        raise MissingCapability(f"{configs[0].parent.name}: {_NO_TENSORRT.format(why=why)}")


def find_replanned(model_folders: Iterable[Path], wish: Wish, *, gpus: Callable[[], Gpus] = find_gpus) -> list[str]:
    """Return the models whose convolutions a server with one session each plans anew at each new size of batch.

    That is onnxruntime's CUDA provider (`device_runs.py` has the issue). On an H100, resnet50 in fp16 took 0.3 s for
    each change: 46 images/s at 32 requests at a time, against 2,259 with a session for each size.
    """
    if wish == "cpu" or gpus().missing:
        return []
    return [folder.name for folder in model_folders if _has_one_plan(folder)]


def cuda_folders() -> list[Path]:
    """Return where NVIDIA's packages keep their libraries: the native backend has no Python to load them first."""
    return [
        *sorted(folder for root in _places_of("nvidia") for folder in root.glob("*/lib") if folder.is_dir()),
        *_places_of("tensorrt_libs"),
    ]


def _places_of(package: str) -> list[Path]:
    found = importlib.util.find_spec(package)
    return [Path(place) for place in (found.submodule_search_locations or ())] if found else []


def _has_one_plan(model_folder: Path) -> bool:
    try:
        config = read(model_folder / CONFIG_FILE)
    except UsageError:  # whoever loads the model says what is wrong with it
        return False
    groups = config.instance_group
    is_for_cpu = bool(groups) and all(group.kind == group.KIND_CPU for group in groups)
    return (
        config.backend == "onnxruntime" and config.max_batch_size > 1 and not (is_for_cpu or asks_for_tensorrt(config))
    )


def choose_device(
    wish: Wish, *, gpus: Callable[[], Gpus] = find_gpus, cuda: Callable[[], str] = missing_for_cuda
) -> Device:
    """Return what a server is to compute on.

    Args:
        wish: `auto` takes the GPU where there is one.
        gpus: finds them.
        cuda: says why onnxruntime cannot use them.

    Raises:
        MissingCapability: a GPU is wanted, or is there, and cannot be used: the CPU is taken only if somebody says so.
    """
    return choose(wish, gpus=gpus, missing=cuda, remedy=f"{_NEEDS}; {_ON_CPU}")
