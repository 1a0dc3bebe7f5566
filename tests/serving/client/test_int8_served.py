"""An int8 file answers on the server as it does in process, whatever the target it was made for."""

from pathlib import Path

import numpy as np
import pytest

from resx.card.kinds import TARGETS, Target
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.serving.deployment.deploy import deploy
from tests.support.int8_models import PHOTOGRAPHS, options, tiny
from tests.support.running_triton import RunningTriton

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("target", TARGETS)
def test_a_served_int8_model_answers_like_its_file(
    triton: RunningTriton, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESX_CACHE", str(tmp_path))
    name = f"int8_{target}"
    card, version = export_into(
        triton.repository, tiny(), options(target=target), ServingOptions(), name=name, command="a test"
    )
    assert card.quantisation is not None
    images = PHOTOGRAPHS[:3]
    with triton.client() as client:
        assert deploy(client, triton.repository, name).version == 1
        answer = client.infer(name, client.interface(name), images).logits
    expected = OnnxRuntimeModel(version.folder / "model.onnx")(images)
    assert np.abs(answer - expected).max() <= 1e-5 * np.abs(expected).max()
