"""An engine opened as the backends `tensorrt` and `tensorrt_rtx` serve it, in the server or in any other process.

It imports numpy, the package that built the engine and the files beside it; nothing of resx, nothing of the server.
"""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import config_values
import cuda_driver
import engine_runs
import file_interface

FILES = {"tensorrt": "model.plan", "tensorrt_rtx": "model.engine"}


class OpenedEngine(NamedTuple):
    """An engine, ready to compute; the fields keep each other alive."""

    runtime: Any
    engine: Any
    run: engine_runs.EngineRuns
    """Takes the outputs' names, the inputs by name and the options; gives the outputs."""
    device: cuda_driver.Device
    interface: "tuple[list[file_interface.TensorFacts], list[file_interface.TensorFacts]]"

    @property
    def options(self) -> None:
        """There are none."""

    @property
    def threads(self) -> int:
        """Of the processor, for one run."""
        return 1

    def close(self) -> None:
        """Give back what the engine holds of the GPU; it cannot run any more."""
        self.run.close()
        self.device.close()


def describe_file(
    path: str, config: dict[str, Any], host: config_values.Host
) -> "tuple[list[file_interface.TensorFacts], list[file_interface.TensorFacts], int]":
    """Return an engine's inputs, its outputs and its largest batch."""
    opened = open_model(path, config, host)
    try:
        return (*opened.interface, opened.run.largest_batch)
    finally:
        opened.close()


def open_model(
    path: str,
    config: dict[str, Any],
    _host: config_values.Host,
    kind: str = "GPU",
    device: int = 0,
    *,
    trt: Any = None,
    driver: "cuda_driver.Driver | None" = None,
) -> OpenedEngine:
    """Open an engine for an instance on this GPU.

    Args:
        path: of the engine.
        config: the model's configuration.
        kind: of the instance, as Triton says it.
        device: the GPU's number.
        trt: the package that opens it; None: the one that the configuration's backend names.
        driver: None: this machine's.

    Raises:
        ValueError: the instance is not for a GPU, the package is missing or refuses the engine, or config.pbtxt names
            a profile that the engine has not.
        CudaError: there is no GPU, or it has no memory for the engine.
    """
    if kind != "GPU":
        raise ValueError(f"an instance of KIND_{kind} in config.pbtxt: an engine runs on a GPU only; use KIND_GPU")
    file_interface.require_file(path)
    trt = trt or load_package(config)
    gpu = cuda_driver.Device(driver or cuda_driver.load_driver(), device)
    logger = collect_errors(trt)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(Path(path).read_bytes())
    if engine is None:
        raise ValueError(
            f"{path}: {trt.__name__} {trt.__version__} rejects it ({logger.last()}); build it with this version, on "
            "this kind of GPU"
        )
    context = engine.create_execution_context()
    if context is None:
        raise cuda_driver.CudaError(f"{path}: no execution context: {logger.last()}")
    profile = choose_profile(config, engine.num_optimization_profiles)
    if profile and not context.set_optimization_profile_async(profile, gpu.stream):
        raise ValueError(f"profile {profile} cannot be set: {logger.last()}")
    gpu.wait()
    run = engine_runs.EngineRuns(
        trt, engine, context, gpu, profile=profile, batches=config.get("max_batch_size", 0) > 0, why=logger.last
    )
    return OpenedEngine(runtime, engine, run, gpu, engine_runs.describe(trt, engine))


def load_package(config: dict[str, Any]) -> Any:
    """Import the package that a configuration's backend is named after.

    Raises:
        ValueError: it cannot be imported.
    """
    name = config.get("backend") or "tensorrt"
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # the last two: its libraries are missing
        raise ValueError(f"{name} cannot be imported ({error}); `resx doctor` says what is missing") from error


def choose_profile(config: dict[str, Any], num_profiles: int) -> int:
    """Return the optimization profile that config.pbtxt names; 0 where it names none.

    Raises:
        ValueError: it names several, or one that the engine has not.
    """
    named = {str(profile) for group in config.get("instance_group", []) for profile in group.get("profile", [])}
    if len(named) > 1:
        raise ValueError(f"instance_group profile {sorted(named)} in config.pbtxt: give one, the same for every group")
    profile = next(iter(named), "0")
    if not profile.isdecimal() or int(profile) >= num_profiles:
        raise ValueError(f"instance_group profile {profile!r} in config.pbtxt: give 0 to {num_profiles - 1}")
    return int(profile)


def collect_errors(trt: Any) -> Any:
    """Return a logger that keeps TensorRT's last error and writes nothing; it has no other way to say a reason."""

    class Collecting(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.text = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.text = message

        def last(self) -> str:
            return " ".join(self.text.split()) or "no reason given"

    return Collecting()


def model_path(folder: str, config: dict[str, Any]) -> str:
    """Return the file that a version's folder holds."""
    return file_interface.model_path(folder, config, FILES.get(config.get("backend", ""), FILES["tensorrt"]))
