"""What is served without a card is asked once before it is ready; Python models of others are not served at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from resx.errors import MissingCapability
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment import version_pinning
from resx.serving.deployment.deploy import deploy
from resx.serving.deployment.file_checks import VersionRejected
from resx.serving.embedded.python_models import require_none_of_others
from resx.serving.running.server_state import running_server
from resx.serving.supervisor import detaching
from tests.support.onnx_files import identities, identity, sum_and_half
from tests.support.running_triton import FREE, RunningTriton
from tests.support.tiny_models import publish_tiny

REFUSED = "a Python model not made by resx: numpy .* corrupt its tensors; serve it with NVIDIA's container"
MODEL_PY = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        given = [pb_utils.get_input_tensor_by_name(request, "IN") for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", one.as_numpy() * 2)]) for one in given]
"""


def add_python_model(repository: Repository, name: str, kind: str = "FP32") -> None:
    (repository.root / name / "1").mkdir(parents=True)
    (repository.root / name / "1/model.py").write_text(MODEL_PY)
    (repository.root / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: 4\n'
        f'input {{ name: "IN" data_type: TYPE_{kind} dims: [4] }}\n'
        f'output {{ name: "OUT" data_type: TYPE_{kind} dims: [4] }}\n'
    )


def add_ensemble(repository: Repository, name: str, member: str) -> None:
    (repository.root / name / "1").mkdir(parents=True)
    (repository.root / name / "config.pbtxt").write_text(
        f'name: "{name}"\nplatform: "ensemble"\nmax_batch_size: 4\n'
        'input { name: "A" data_type: TYPE_FP32 dims: [4] }\noutput { name: "B" data_type: TYPE_FP32 dims: [4] }\n'
        f'ensemble_scheduling {{ step {{ model_name: "{member}" model_version: -1 '
        'input_map { key: "IN" value: "A" } output_map { key: "OUT" value: "B" } } }\n'
    )


def add_reshape(repository: Repository, name: str, columns: int) -> None:
    """Add a model of 4 numbers a row that loads, and fails in each run unless `columns` divides them."""
    shape = numpy_helper.from_array(np.array([-1, columns]), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])],
        [shape],
    )
    (repository.root / name / "1").mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, repository.root / name / "1/model.onnx")
    (repository.root / name / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: 4\n'
        'input { name: "x" data_type: TYPE_FP32 dims: [4] }\n'
        f'output {{ name: "y" data_type: TYPE_FP32 dims: [{columns}] }}\n'
    )


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    repository = Repository(tmp_path / "model_repository")
    repository.root.mkdir()
    yield repository
    if running_server(repository):
        detaching.stop(repository)


def test_a_python_model_is_refused_by_name_and_so_is_an_ensemble_that_needs_it(repository: Repository) -> None:
    add_python_model(repository, "py")
    add_python_model(repository, "strings", "STRING")
    add_ensemble(repository, "over", "py")
    add_ensemble(repository, "far_over", "over")
    for name in ("py", "strings"):
        with pytest.raises(MissingCapability, match=f"{name}: {REFUSED}"):
            require_none_of_others(repository.root, name)
    for name in ("over", "far_over"):
        with pytest.raises(MissingCapability, match=f"{name}: needs py, {REFUSED}"):
            require_none_of_others(repository.root, name)


def test_models_of_resx_and_models_that_are_no_code_are_not_refused(repository: Repository) -> None:
    publish_tiny(repository, "m", image_endpoint=True)
    add_reshape(repository, "r", 4)
    for name in ("m", "m_preprocess", "m_postprocess", "m_image", "r", "missing"):
        require_none_of_others(repository.root, name)


def test_a_python_model_is_not_resumed_either(repository: Repository, tmp_path: Path) -> None:
    add_python_model(repository, "py")
    add_reshape(repository, "r", 4)
    (tmp_path / "state").mkdir()
    with version_pinning.pin_versions(repository, {"py": (1,), "r": (1,)}, tmp_path / "state") as folder:
        assert [path.name for path in folder.iterdir()] == ["r"]


@pytest.mark.triton
def test_a_server_starts_without_what_cannot_answer_and_says_why(repository: Repository) -> None:
    add_python_model(repository, "py")
    add_python_model(repository, "strings", "STRING")
    add_reshape(repository, "good", 4)
    add_reshape(repository, "bad", 7)
    state = detaching.serve_detached(repository, FREE)
    assert state.set_aside.keys() == {"bad", "py", "strings"}
    assert "bad does not answer a first request" in state.set_aside["bad"]
    assert "corrupt its tensors" in state.set_aside["py"]
    with TritonClient(state.address("grpc")) as client:
        assert client.model_versions() == {"good": [1]}
        with pytest.raises(MissingCapability, match=REFUSED):
            deploy(client, repository, "py")
        with pytest.raises(VersionRejected, match="bad does not answer a first request.*it was unloaded"):
            deploy(client, repository, "bad")


@pytest.mark.triton
def test_models_without_a_card_that_answer_are_served_whatever_they_take(triton: RunningTriton) -> None:
    root = triton.repository.root
    made = {
        "two_inputs": lambda path: identities(path, {"a": TensorProto.FLOAT, "b": TensorProto.INT64}, ["n", 4]),
        "open_axes": lambda path: identity(path, TensorProto.FLOAT, ["n", 3, "h", "w"]),
        "two_outputs": sum_and_half,
    }
    with triton.client() as client:
        for name, make in made.items():
            (root / name / "1").mkdir(parents=True)
            make(root / name / "1/model.onnx")
            assert not deploy(client, triton.repository, name).checked
            entry = client.statistics(name)[0]["inference_stats"]
            asked = {what: int(entry.get(what, {}).get("count", 0)) for what in ("success", "fail")}
            assert sum(asked.values()) > 0, name
            client.unload(name)
            shutil.rmtree(root / name)


@pytest.mark.triton
def test_an_image_endpoint_that_cannot_answer_is_not_called_ready(triton: RunningTriton) -> None:
    publish_tiny(triton.repository, "blind", image_endpoint=True)
    code = triton.repository.root / "blind_preprocess/1/model.py"
    code.write_text(code.read_text().replace("def execute(self, requests", "def execute(self, _requests"))
    with triton.client() as client:
        with pytest.raises(Exception, match="blind itself is served, its image endpoint is not"):
            deploy(client, triton.repository, "blind")
        assert "blind_preprocess" not in client.model_versions()
        client.unload("blind")
