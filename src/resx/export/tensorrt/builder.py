"""Build an engine from an ONNX file with TensorRT (10.12 and newer) or TensorRT for RTX: one builder for both.

The package is a parameter, `trt`, as both have the same API. Where they differ:

- TensorRT builds for the GPU it runs on, by measuring, and keeps the measurements in a timing cache.
- TensorRT for RTX builds for any GPU that is named, without one: it picks kernels when the engine is loaded.
  Its timing cache does nothing (deprecated since 1.2), so none is kept.

Networks are strongly typed: the precision is the ONNX file's, and no flag of the builder changes it. From
TensorRT 11 on there is no other kind; on 10 it has to be asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx

from resx.card.precision import Engine
from resx.errors import ExportError, UsageError
from resx.export.graph.grouped_convolutions import grouped_half_convolutions, with_grouped_in_fp32
from resx.export.tensorrt import timing_cache
from resx.files.staging import sha256_of
from resx.runtimes import engine_layers
from resx.runtimes.tensorrt_package import collecting_logger, last_error
from resx.runtimes.torch_gpu import Gpu, gpu_here
from resx.text import join_lines

Announce: TypeAlias = Callable[[str], None]

_MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOptions:
    """How an engine is to be built."""

    batch_min: int = 1
    batch_opt: int = 8
    """The batch that kernels are chosen for."""
    batch_max: int = 8
    compute_capabilities: tuple[str, ...] = ()
    """GPUs to build for, such as `8.6`: TensorRT-RTX only, where none means all that an engine is portable to."""
    workspace_mib: int = 0
    """Scratch memory that a layer may use; 0 sets no bound."""
    timing_cache: Path | None = None
    """Folder of TensorRT's measurements, kept between builds; None keeps none."""
    tf32: bool = False
    """Let fp32 convolutions round their inputs to 10 bits of mantissa. TensorRT's own default is on."""
    builder_level: int = 3
    """0 builds fastest, 5 searches longest."""
    plan: Path | None = None
    """A plan that was built elsewhere and is taken in place of building one."""

    def __post_init__(self) -> None:
        if not 1 <= self.batch_min <= self.batch_opt <= self.batch_max <= 1024:
            raise UsageError(
                f"batches {self.batch_min}, {self.batch_opt}, {self.batch_max}: give 1 <= min <= opt <= max <= 1024 "
                "(--batch-min, --batch-opt, --batch-max)"
            )
        if not 0 <= self.builder_level <= 5:
            raise UsageError(f"builder_level={self.builder_level}: give 0 (fast to build) to 5 (longest search)")
        if self.workspace_mib < 0:
            raise UsageError(f"workspace_mib={self.workspace_mib}: give MiB, or 0 for no bound")
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d+\.\d", capability):
                raise UsageError(f"compute capability {capability!r}: give numbers such as 8.6, separated by commas")


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltEngine:
    """An engine's bytes, and what is known of how it came about."""

    plan: bytes
    facts: Engine
    rewritten: onnx.ModelProto | None
    """The model that it was built from, where that is not the file as given."""


def build_engine(
    trt: Any,
    path: Path,
    options: EngineOptions,
    *,
    precision: str,
    name: str = "",
    on_step: Announce = lambda _step: None,
) -> BuiltEngine:
    """Build an engine from any ONNX file whose only symbolic axis is the batch.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        precision: fp32, fp16, bf16 or int8: what the file's convolutions must compute in.
        name: what to call the file in messages; its path if empty.
        on_step: told when grouped convolutions are put back to fp32.

    Raises:
        UsageError: a compute capability is not among the package's, or the file's batch is not in the profile.
        ExportError: the parser refuses the file, or no engine can be built; the message names the node.
        ParityError: the network computes in another precision.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    name = name or str(path)
    try:
        return _build(trt, path, None, options, name=name, precision=precision)
    except _BuildFailed as failure:
        model = onnx.load(path)
        grouped = grouped_half_convolutions(model)
        if not grouped:
            raise ExportError(str(failure)) from None
        on_step(f"retry the build ({failure.reason}) with {len(grouped)} grouped convolutions in fp32")
        rewritten = with_grouped_in_fp32(model)
        try:
            return _build(trt, path, rewritten, options, name=name, precision=precision, in_fp32=tuple(grouped))
        except _BuildFailed as second:
            raise ExportError(f"{second} (also with its {len(grouped)} grouped convolutions in fp32)") from None


class _BuildFailed(Exception):  # noqa: N818 - not the user's; build_engine turns it into one
    """The builder gave nothing; `reason` is its last word."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: no engine could be built: {reason}")
        self.reason = reason


def _build(
    trt: Any,
    path: Path,
    rewritten: onnx.ModelProto | None,
    options: EngineOptions,
    *,
    name: str,
    precision: str,
    in_fp32: tuple[str, ...] = (),
) -> BuiltEngine:
    logger = collecting_logger(trt)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    # From the file where possible: weights that lie beside it are found by its path.
    if not (parser.parse_from_file(str(path)) if rewritten is None else parser.parse(rewritten.SerializeToString())):
        raise ExportError(f"{name}: {_parser_error(parser)}")
    counts = engine_layers.require_precision(
        engine_layers.network_layers(network), precision, name=name, num_exempt=len(in_fp32)
    )
    config = builder.create_builder_config()
    gpu = _set_targets(trt, config, options)
    _set_switches(trt, config, options)
    _add_profile(builder, network, config, options, name)
    measurements = timing_cache.file_for(options.timing_cache, trt.__version__, gpu)
    reused = timing_cache.attach(config, measurements)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _BuildFailed(name, last_error(logger))
    timing_cache.keep(config, measurements)
    data_of_plan = bytes(plan)
    return BuiltEngine(
        plan=data_of_plan,
        rewritten=rewritten,
        facts=Engine(
            builder="tensorrt_rtx" if _is_rtx(trt) else "tensorrt",
            version=trt.__version__,
            compute_capabilities=options.compute_capabilities if gpu is None else (gpu.compute_capability,),
            gpu="" if gpu is None else gpu.name,
            batch_min=options.batch_min,
            batch_opt=options.batch_opt,
            batch_max=options.batch_max,
            size_bytes=len(data_of_plan),
            workspace_mib=options.workspace_mib,
            timing_cache="none" if measurements is None else "reused" if reused else "new",
            tf32=options.tf32,
            builder_level=options.builder_level,
            network_precisions=counts,
            engine_precisions={},
            grouped_in_fp32=in_fp32,
            onnx_sha256=sha256_of(path),
            executed=False,
        ),
    )


def _is_rtx(trt: Any) -> bool:
    """Say which package it is: only TensorRT for RTX builds for GPUs that are not there."""
    return hasattr(trt, "ComputeCapability")


def require_buildable(trt: Any, options: EngineOptions) -> None:
    """Check before long work that the package builds for the GPUs that were named.

    Raises:
        UsageError: it does not.
    """
    if not _is_rtx(trt):
        if options.compute_capabilities:
            raise UsageError(
                "--compute-capability: TensorRT builds for this machine's GPU; only tensorrt-rtx supports the option"
            )
        return
    known = _capabilities(trt)
    for capability in options.compute_capabilities:
        if capability not in known:
            listed = ", ".join(sorted(known, key=float))
            raise UsageError(f"compute capability {capability}: TensorRT-RTX {trt.__version__} builds for {listed}")


def portable_to(trt: Any) -> tuple[str, ...]:
    """Return the compute capabilities of all GPUs that TensorRT for RTX builds for."""
    return tuple(_capabilities(trt))


def _capabilities(trt: Any) -> dict[str, Any]:
    members = trt.ComputeCapability.__members__.items()
    return {f"{name[2:-1]}.{name[-1]}": value for name, value in members if name.startswith("SM")}


def _set_targets(trt: Any, config: Any, options: EngineOptions) -> Gpu | None:
    """Name the GPUs to build for; return the one that is built on, if the package needs one."""
    require_buildable(trt, options)
    if not _is_rtx(trt):
        return gpu_here()
    known = _capabilities(trt)
    for index, capability in enumerate(options.compute_capabilities):
        config.num_compute_capabilities = index + 1
        config.set_compute_capability(known[capability], index)
    return None


def _set_switches(trt: Any, config: Any, options: EngineOptions) -> None:
    switch = config.set_flag if options.tf32 else config.clear_flag
    switch(trt.BuilderFlag.TF32)
    config.builder_optimization_level = options.builder_level
    # Else the inspector knows layers by name alone, and nobody could say what they compute in.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)


def _add_profile(builder: Any, network: Any, config: Any, options: EngineOptions, name: str) -> None:
    profile = builder.create_optimization_profile()
    batches = (options.batch_min, options.batch_opt, options.batch_max)
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *rest = tuple(tensor.shape)
        if -1 in rest:
            raise ExportError(
                f"{name}: input {tensor.name} {list(tensor.shape)} has a dynamic axis besides the batch; fix its size"
            )
        if batch == -1:
            profile.set_shape(tensor.name, *((size, *rest) for size in batches))
        elif {*batches} != {batch}:
            raise UsageError(
                f"{name}: its batch is fixed at {batch}; "
                f"give --batch-min {batch} --batch-opt {batch} --batch-max {batch}"
            )
    config.add_optimization_profile(profile)


def _parser_error(parser: Any) -> str:
    """Return the parser's first error as one line that names the node, its operator and the remedy."""
    error = parser.get_error(0)
    # Lines in brackets are what failed in consequence, such as the search for a driver.
    lines = [line for line in error.desc().splitlines() if line and not line.startswith("[")]
    reason = join_lines(" ".join(lines[1:] if len(lines) > 1 and lines[0].startswith("Invalid Node") else lines))
    operator = error.node_operator()
    if error.node() < 0 or not operator:
        return f"not an ONNX model that TensorRT can read ({reason}); export it again"
    quantised = operator in ("QuantizeLinear", "DequantizeLinear")
    remedy = "quantize it for TensorRT (--target gpu)" if quantised else "--format onnx can serve it all the same"
    return f"node {error.node_name() or error.node()} ({operator}): TensorRT rejects it: {reason}; {remedy}"
