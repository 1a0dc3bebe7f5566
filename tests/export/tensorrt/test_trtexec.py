"""The script for the machine with the GPU: its text is golden, and it runs, with a docker that only takes notes."""

import os
import subprocess
from pathlib import Path

from ruamel.yaml import YAML

from resx.export.tensorrt.builder import EngineOptions
from resx.export.tensorrt.trtexec import ScriptedModel, script_text
from resx.files.staging import sha256_of
from resx.runtimes.triton_image import IMAGE

ROOT = Path(__file__).parents[3]
GOLDEN = """\
#!/usr/bin/env bash
# Builds m.plan from m.onnx. Written by `resx export --format tensorrt --emit-script`.
# Needs Docker, the NVIDIA Container Toolkit and the GPU that is to serve: a plan runs only under the
# TensorRT version and on the kind of GPU that it was built with.
set -euo pipefail
cd "$(dirname "$0")"
echo 'abc  m.onnx' | sha256sum --check --quiet
docker run --rm --gpus all --network none --user "$(id -u):$(id -g)" --volume "$PWD:/work" --workdir /work \\
    @IMAGE@ \\
    bash -c 'PATH="$PATH:/usr/src/tensorrt/bin" exec trtexec "$@"' trtexec \\
    --onnx=m.onnx \\
    --saveEngine=m.plan \\
    --stronglyTyped \\
    --minShapes=image:1x3x32x32 \\
    --optShapes=image:4x3x32x32 \\
    --maxShapes=image:16x3x32x32 \\
    --builderOptimizationLevel=3 \\
    --timingCacheFile=timing.cache \\
    --profilingVerbosity=detailed \\
    --exportLayerInfo=m.layers.json \\
    --skipInference \\
    --memPoolSize=workspace:512M \\
    --noTF32
""".replace("@IMAGE@", IMAGE)


def model(sha256: str = "abc") -> ScriptedModel:
    return ScriptedModel(name="m", onnx_file="m.onnx", onnx_sha256=sha256, input_name="image", image_shape=(3, 32, 32))


def run(folder: Path, sha256: str) -> tuple[int, list[str]]:
    """Run the script with a `docker` that writes its arguments down, one a line."""
    (folder / "m.sh").write_text(script_text(model(sha256), EngineOptions()))
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "docker").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/arguments\n')
    (folder / "bin" / "docker").chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(["bash", folder / "m.sh"], env=os.environ | {"PATH": path}, capture_output=True, check=False)
    noted = folder / "arguments"
    return done.returncode, noted.read_text().splitlines() if noted.exists() else []


def test_the_script_is_golden() -> None:
    options = EngineOptions(batch_opt=4, batch_max=16, workspace_mib=512)
    assert script_text(model(), options) == GOLDEN


def test_tf32_and_no_bound_leave_their_options_out() -> None:
    text = script_text(model(), EngineOptions(tf32=True))
    assert "--noTF32" not in text
    assert "--memPoolSize" not in text


def test_the_image_is_the_one_that_serves() -> None:
    compose = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())
    servers = [service["image"] for service in compose["services"].values() if "tritonserver" in service["image"]]
    assert servers
    assert set(servers) == {IMAGE}


def test_the_script_starts_the_container_over_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"a model")
    code, arguments = run(tmp_path, sha256_of(tmp_path / "m.onnx"))
    assert code == 0
    assert f"{tmp_path}:/work" in arguments
    assert arguments[arguments.index(IMAGE) + 1 :][:2] == ["bash", "-c"]
    assert "--onnx=m.onnx" in arguments


def test_an_onnx_file_that_is_not_the_verified_one_is_not_built(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"another model")
    code, arguments = run(tmp_path, "0" * 64)
    assert code != 0
    assert arguments == []
