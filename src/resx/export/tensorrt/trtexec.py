"""A shell script that builds the plan where the GPU is, with the TensorRT of the container that will serve it.

A plan runs only under the TensorRT version and on the kind of GPU it was built with, so it is built by
`trtexec` inside the very image of docker-compose.yml. Options: docs.nvidia.com/deeplearning/tensorrt,
"trtexec". `--stronglyTyped` is needed on TensorRT 10 and accepted without effect on 11.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from resx.export.tensorrt.builder import EngineOptions
from resx.runtimes.triton_image import IMAGE


@dataclass(frozen=True, kw_only=True, slots=True)
class ScriptedModel:
    """The ONNX file that the script builds from; it lies beside the script."""

    name: str
    onnx_file: str
    onnx_sha256: str
    input_name: str
    image_shape: tuple[int, ...]
    """Of one image, without the batch: channels, height, width."""


def script_text(model: ScriptedModel, options: EngineOptions) -> str:
    """Return the script. It checks the ONNX file's hash, builds `NAME.plan` and lists its layers beside it."""
    arguments = " \\\n    ".join(_arguments(model, options))
    check = shlex.quote(f"{model.onnx_sha256}  {model.onnx_file}")
    return f"""\
#!/usr/bin/env bash
# Builds {model.name}.plan from {model.onnx_file}. Written by `resx export --format tensorrt --emit-script`.
# Needs Docker, the NVIDIA Container Toolkit and the GPU that is to serve: a plan runs only under the
# TensorRT version and on the kind of GPU that it was built with.
set -euo pipefail
cd "$(dirname "$0")"
echo {check} | sha256sum --check --quiet
docker run --rm --gpus all --network none --user "$(id -u):$(id -g)" --volume "$PWD:/work" --workdir /work \\
    {IMAGE} \\
    bash -c 'PATH="$PATH:/usr/src/tensorrt/bin" exec trtexec "$@"' trtexec \\
    {arguments}
"""


def _arguments(model: ScriptedModel, options: EngineOptions) -> list[str]:
    def shape(batch: int) -> str:
        return f"{model.input_name}:{'x'.join(str(size) for size in (batch, *model.image_shape))}"

    arguments = [
        f"--onnx={model.onnx_file}",
        f"--saveEngine={model.name}.plan",
        "--stronglyTyped",
        f"--minShapes={shape(options.batch_min)}",
        f"--optShapes={shape(options.batch_opt)}",
        f"--maxShapes={shape(options.batch_max)}",
        f"--builderOptimizationLevel={options.builder_level}",
        "--timingCacheFile=timing.cache",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={model.name}.layers.json",
        "--skipInference",
    ]
    if options.workspace_mib:
        arguments.append(f"--memPoolSize=workspace:{options.workspace_mib}M")
    if not options.tf32:
        arguments.append("--noTF32")
    return [shlex.quote(argument) for argument in arguments]
