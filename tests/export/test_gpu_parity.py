"""A file on a GPU with TF32 off and on, by runners that are passed in: no GPU is needed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from resx.card.card import read_card, tf32_text
from resx.card.parity_result import GpuParity, Parity, Tolerance
from resx.errors import ExportError, MissingCapability, ParityError
from resx.export.checks.parity import STRUCTURE, TOLERANCES
from resx.export.gpu_parity import Runner, compare_both, compare_on_cuda, open_on_cuda, require, tolerance_with_tf32
from resx.export.options import ExportOptions
from resx.export.pipeline import export_version
from resx.export.reference import ask_source
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.runtimes.torch_gpu import Gpu, gpu_here
from tests.support.engine_sources import FAMILIES, source_of

A10 = Gpu(name="A10", compute_capability="8.6")
INPUTS = [np.random.default_rng(size).normal(size=(size, 5)).astype(np.float32) for size in (1, 2, 4)]


def off_by(relative: float) -> Runner:
    """Return a runner whose largest difference from doubling is that share of the scale."""
    scale = max(float(np.abs(2 * batch).max()) for batch in INPUTS)
    return lambda batch: 2 * batch + relative * scale


def measured(off: float, on: float, *, precision: Any = "fp32") -> GpuParity:
    tolerance = TOLERANCES[precision]
    return compare_both(
        lambda tf32: off_by(on if tf32 else off),
        [2 * batch for batch in INPUTS],
        INPUTS,
        gpu=A10,
        runtime="a runtime 1.0",
        off=tolerance,
        on=tolerance_with_tf32(precision, tolerance, 20, is_own=False),
    )


def verdicts(found: GpuParity) -> list[tuple[str, bool]]:
    return [(step.step, step.passed) for step in found.steps]


@pytest.mark.parametrize(
    ("off", "on", "passed"),
    [(1e-6, 5e-7, (True, True)), (1e-6, 1e-3, (True, True)), (1e-6, 5e-2, (True, False)), (1e-3, 1e-6, (False, True))],
)
def test_fp32_is_held_to_its_own_tolerance_without_tf32_and_to_fp16s_with_it(
    off: float, on: float, passed: tuple[bool, bool]
) -> None:
    found = measured(off, on)
    assert verdicts(found) == [("a runtime 1.0, TF32 off", passed[0]), ("a runtime 1.0, TF32 on", passed[1])]
    assert (found.gpu, found.compute_capability, found.runtime) == ("A10", "8.6", "a runtime 1.0")


def test_only_a_miss_without_tf32_is_refused() -> None:
    assert require(measured(1e-6, 5e-2), name="m") == measured(1e-6, 5e-2)
    with pytest.raises(ParityError, match="m: a runtime 1.0, TF32 off differs from its source"):
        require(measured(1e-3, 1e-6), name="m")
    with pytest.raises(ParityError, match="TF32 off"):
        require(measured(float("nan"), 1e-6), name="m")


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_lower_precision_has_one_tolerance_for_both(precision: Any) -> None:
    tolerance = TOLERANCES[precision]
    assert tolerance_with_tf32(precision, tolerance, 20, is_own=False) == tolerance


def test_a_tolerance_of_the_users_own_holds_for_both() -> None:
    own = Tolerance(max_rel=1e-5)
    assert tolerance_with_tf32("fp32", own, 20, is_own=True) == own
    assert tolerance_with_tf32("fp32", STRUCTURE, 20, is_own=False) == TOLERANCES["fp16"]


def test_what_cannot_be_run_is_not_in_the_card() -> None:
    found = compare_both(
        lambda tf32: None if tf32 else off_by(0),
        [2 * batch for batch in INPUTS],
        INPUTS,
        gpu=A10,
        runtime="tensorrt 11.4.0",
        off=STRUCTURE,
        on=STRUCTURE,
    )
    assert found.tf32_on is None
    assert verdicts(found) == [("tensorrt 11.4.0, TF32 off", True)]
    assert require(GpuParity.model_validate_json(found.model_dump_json()), name="m") == found


Opened = list[tuple[str, bool]]


def on_cpu(opened: Opened, noise: Callable[[bool], float] = lambda _tf32: 0.0) -> Callable[[Path, bool], Runner]:
    """Return what opens a file on the CPU in place of a GPU, with so much more or less in its answers."""

    def open_session(path: Path, tf32: bool) -> Runner:
        opened.append((path.name, tf32))
        model = OnnxRuntimeModel(path)

        def run(images: Any) -> Any:
            answer = model(images)
            return answer + noise(tf32) * np.abs(answer).max()

        return run

    return open_session


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version")
    options = ExportOptions(max_batch_size=4, target="gpu" if gpu_here() is None else "cpu")
    export_version(source_of(FAMILIES["vgg"]), options, folder, name="m", command="a test")
    return folder


def compare(folder: Path, said: list[str], opened: Opened, **options: Any) -> GpuParity | None:
    source = source_of(FAMILIES["vgg"])
    how = ExportOptions(max_batch_size=4, verify=options.pop("verify", True))
    reference = ask_source(source, how, name="m")
    given: dict[str, Any] = {"gpu": A10, "open_session": on_cpu(opened)} | options
    return compare_on_cuda(reference, folder / "model.onnx", STRUCTURE, on_step=said.append, **given)


def test_an_onnx_file_is_run_with_both_against_the_sources_answers(exported: Path) -> None:
    said: list[str] = []
    opened: Opened = []
    found = compare(exported, said, opened)
    assert found is not None
    version = onnxruntime.__version__
    assert verdicts(found) == [
        (f"onnxruntime {version} (CUDA), TF32 off", True),
        (f"onnxruntime {version} (CUDA), TF32 on", True),
    ]
    assert opened == [("model.onnx", False), ("model.onnx", True)]
    assert said == ["verify the file on the GPU"]
    assert found.tf32_off is not None
    assert found.tf32_off.batch_sizes == (1, 2, 4)


def test_a_gpu_that_computes_something_else_publishes_nothing(exported: Path) -> None:
    with pytest.raises(ParityError, match=r"m: onnxruntime .* \(CUDA\), TF32 off differs"):
        compare(exported, [], [], open_session=on_cpu([], lambda tf32: 0.0 if tf32 else 1e-3))
    rough = compare(exported, [], [], open_session=on_cpu([], lambda tf32: 0.1 if tf32 else 0.0))
    card = read_card(exported).model_copy(update={"gpu_parity": rough})
    assert tf32_text(card).startswith("with TF32 it differs from its source by more than TF32's tolerance")
    fine = compare(exported, [], [], open_session=on_cpu([], lambda tf32: 1e-3 if tf32 else 0.0))
    assert tf32_text(card.model_copy(update={"gpu_parity": fine})) == ""


def test_nothing_is_measured_where_nothing_is_verified(exported: Path) -> None:
    opened: Opened = []
    assert compare(exported, [], opened, verify=False) is None
    assert opened == []


def test_a_gpu_that_cannot_be_used_is_said_and_left_out(exported: Path) -> None:
    def fail(path: Path, tf32: bool) -> Runner:
        raise MissingCapability("onnxruntime cannot load its CUDAExecutionProvider")

    said: list[str] = []
    assert compare(exported, said, [], open_session=fail) is None
    assert said[-1] == "not verified on the GPU: onnxruntime cannot load its CUDAExecutionProvider"


def test_without_a_gpu_a_card_has_no_such_comparison(exported: Path) -> None:
    card = read_card(exported)
    assert card.verified
    assert card.gpu_parity is None
    assert tf32_text(card) == ""
    if gpu_here() is None:
        assert compare(exported, [], [], gpu=None) is None


def test_a_card_from_before_has_none(exported: Path, tmp_path: Path) -> None:
    fields = json.loads((exported / "card.json").read_text())
    del fields["gpu_parity"]
    (tmp_path / "card.json").write_text(json.dumps(fields))
    assert read_card(tmp_path) == read_card(exported)


def test_the_cpu_never_stands_in_for_the_gpu(exported: Path) -> None:
    if gpu_here() is not None:
        pytest.skip("there is a GPU")
    with pytest.raises((MissingCapability, ExportError)):
        open_on_cuda(exported / "model.onnx", True)


@pytest.mark.gpu
@pytest.mark.skipif(gpu_here() is None, reason="no NVIDIA GPU that PyTorch can use")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_file_is_measured_on_the_gpu_with_both(tmp_path: Path, precision: Any) -> None:
    options = ExportOptions(precision=precision, max_batch_size=4, target="gpu")
    card = export_version(source_of(FAMILIES["resnet"]), options, tmp_path, name="m", command="a test")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime is the package for the CPU")
    assert card.gpu_parity is not None
    off, on = card.gpu_parity.tf32_off, card.gpu_parity.tf32_on
    assert isinstance(off, Parity)
    assert isinstance(on, Parity)
    assert off.passed
