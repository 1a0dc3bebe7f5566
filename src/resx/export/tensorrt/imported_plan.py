"""Take a plan that was built elsewhere, as by the emitted script, in place of building one.

Nothing is known of how it was made, so everything is looked at: it must open here, take and give what the network
does, hold the batches that were asked for in its one profile, and show what its layers compute in. Whether it computes
the same is then measured like any plan's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from resx.card.precision import Engine
from resx.errors import UsageError
from resx.export.tensorrt.builder import BuiltEngine, EngineOptions
from resx.runtimes.tensorrt_model import TensorRTModel
from resx.runtimes.torch_gpu import gpu_here


def read_imported_plan(trt: Any, path: Path, options: EngineOptions, *, built_from: Path) -> BuiltEngine:
    """Return the plan's bytes and what it says of itself.

    Args:
        trt: the module `tensorrt`.
        path: of the plan.
        options: whose batches its profile must hold; how it was built is not known.
        built_from: the ONNX file that a plan of this model is built from; input and output are as its.

    Raises:
        UsageError: there is no such file, or it is no plan of this model, for these batches, that can be inspected.
        ExportError: TensorRT refuses it: another version or another kind of GPU built it.
        MissingCapability: there is no GPU here.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; build it with the script that --emit-script wrote")
    model = TensorRTModel(path, trt)
    _require_interface(model, path, built_from)
    _require_profile(model, path, options)
    if not model.layers():
        raise UsageError(f"{path}: does not list its layers' precisions; build it with --profilingVerbosity=detailed")
    plan, gpu = path.read_bytes(), gpu_here()
    assert gpu is not None, "the plan was opened"
    return BuiltEngine(
        plan=plan,
        rewritten=None,
        facts=Engine(
            builder="tensorrt",
            version=trt.__version__,
            compute_capabilities=(gpu.compute_capability,),
            gpu=gpu.name,
            batch_min=options.batch_min,
            batch_opt=options.batch_opt,
            batch_max=options.batch_max,
            size_bytes=len(plan),
            workspace_mib=0,
            timing_cache="none",
            tf32=options.tf32,
            builder_level=options.builder_level,
            network_precisions={},
            engine_precisions={},
            grouped_in_fp32=(),
            onnx_sha256="",
            executed=False,
            built_elsewhere=True,
        ),
    )


def _require_interface(model: TensorRTModel, path: Path, built_from: Path) -> None:
    graph = onnx.load(built_from, load_external_data=False).graph
    expected = tuple(_describe(value) for value in (graph.input[0], graph.output[0]))
    found = model.interface()
    if found != expected:
        raise UsageError(
            f"{path}: takes {found[0]} and gives {found[1]}, where the model takes {expected[0]} and gives "
            f"{expected[1]}; build it from this model's ONNX file"
        )


def _describe(value: Any) -> str:
    """Describe a tensor as `TensorRTModel.interface` does."""
    tensor = value.type.tensor_type
    dims = [-1 if dim.dim_param else dim.dim_value for dim in tensor.shape.dim]
    return f"{value.name} {onnx.TensorProto.DataType.Name(tensor.elem_type)} {dims}"


def _require_profile(model: TensorRTModel, path: Path, options: EngineOptions) -> None:
    profiles = model.batches()
    if len(profiles) != 1:
        raise UsageError(f"{path}: has {len(profiles)} optimization profiles; build it with one")
    least, best, largest = profiles[0]
    if (least, best, largest) != (options.batch_min, options.batch_opt, options.batch_max):
        raise UsageError(
            f"{path}: built for batches {least} to {largest}, tuned for {best}; give --batch-min {least} "
            f"--batch-opt {best} --batch-max {largest}"
        )
