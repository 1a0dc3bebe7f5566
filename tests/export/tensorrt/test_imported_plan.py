"""A plan from elsewhere is opened and looked at before it is run; what it is not is told in one line.

A plan runs on a GPU alone, so what stands in here is the package's part up to the first run: an engine that answers
the questions that TensorRT 10.12 and 11 let one ask. The last test has a GPU do all of it.
"""

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resx.errors import ExportError, MissingCapability, ResxError, UsageError
from resx.export.graph.onnx_writer import write_onnx
from resx.export.options import ExportOptions
from resx.export.tensorrt import imported_plan as module
from resx.export.tensorrt.builder import EngineOptions
from resx.export.tensorrt.engine_export import export_engine
from resx.export.tensorrt.imported_plan import read_imported_plan
from resx.repository import publishing
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.versions import Repository
from resx.runtimes import tensorrt_model
from resx.runtimes.torch_gpu import Gpu, gpu_here
from resx.zoo.building import build_from_spec
from tests.support.command import Finished
from tests.support.engine_sources import GROUPED, source_of, spec_of

OPTIONS = EngineOptions(batch_opt=2, batch_max=4)
HALF = [{"Name": "conv", "LayerType": "Convolution", "Inputs": [{"DataType": "Half"}], "Outputs": []}]


class Mode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


@dataclass
class Engine:
    """What an engine says of itself."""

    tensors: dict[str, tuple[Mode, str, list[int]]] = field(
        default_factory=lambda: {
            "image": (Mode.INPUT, "UINT8", [-1, 3, 32, 32]),
            "logits": (Mode.OUTPUT, "FLOAT", [-1, 10]),
        }
    )
    profiles: list[tuple[int, int, int]] = field(default_factory=lambda: [(1, 2, 4)])
    layers: list[Any] = field(default_factory=lambda: list(HALF))

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name][1])

    def get_tensor_shape(self, name: str) -> list[int]:
        return self.tensors[name][2]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        return [[batch, *self.tensors[name][2][1:]] for batch in self.profiles[index]]

    def create_execution_context(self) -> object:
        return object()

    def create_engine_inspector(self) -> Any:
        text = json.dumps({"Layers": self.layers})
        return SimpleNamespace(get_engine_information=lambda _format: text)


class Logger:
    ERROR, INTERNAL_ERROR = "error", "internal error"


def package(engine: Engine | None) -> Any:
    """Stand in for TensorRT on a GPU; without an engine it refuses the file."""

    def runtime(logger: Any) -> Any:
        def opened(_plan: bytes) -> Engine | None:
            if engine is None:
                logger.log(Logger.ERROR, "the plan was built with version 10.9")
            return engine

        return SimpleNamespace(deserialize_cuda_engine=opened)

    return SimpleNamespace(
        __name__="tensorrt",
        __version__="11.4",
        ILogger=Logger,
        Runtime=runtime,
        TensorIOMode=Mode,
        LayerInformationFormat=SimpleNamespace(JSON=0),
    )


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in (tensorrt_model, module):
        monkeypatch.setattr(where, "gpu_here", lambda: Gpu(name="A10", compute_capability="8.6"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    spec = spec_of(GROUPED)
    write_onnx(build_from_spec(spec, seed=0).eval(), spec, path, precision="fp16", input_type="uint8")
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "m.plan"
    path.write_bytes(b"a plan")
    return path


@pytest.mark.usefixtures("with_gpu")
def test_what_a_plan_says_of_itself_is_in_the_card(model: Path, plan: Path) -> None:
    built = read_imported_plan(package(Engine()), plan, OPTIONS, built_from=model)
    facts = built.facts
    assert built.plan == b"a plan"
    assert (facts.builder, facts.version, facts.gpu, facts.compute_capabilities) == (
        "tensorrt",
        "11.4",
        "A10",
        ("8.6",),
    )
    assert (facts.batch_min, facts.batch_opt, facts.batch_max, facts.size_bytes) == (1, 2, 4, 6)
    assert facts.built_elsewhere
    assert not facts.executed


OTHER_IMAGE = {"image": (Mode.INPUT, "FLOAT", [-1, 3, 64, 64]), "logits": (Mode.OUTPUT, "FLOAT", [-1, 10])}
TWO_OUTPUTS = {**Engine().tensors, "features": (Mode.OUTPUT, "FLOAT", [-1, 64])}


@pytest.mark.usefixtures("with_gpu")
@pytest.mark.parametrize(
    ("engine", "error", "message"),
    [
        (None, ExportError, "tensorrt 11.4 rejects it (the plan was built with version 10.9)"),
        (Engine(tensors=OTHER_IMAGE), UsageError, r"takes image FLOAT [-1, 3, 64, 64] and gives logits FLOAT [-1, 10]"),
        (
            Engine(tensors=TWO_OUTPUTS),
            ExportError,
            "outputs ['logits', 'features']; resx runs engines with one of each",
        ),
        (Engine(profiles=[(1, 8, 16)]), UsageError, "give --batch-min 1 --batch-opt 8 --batch-max 16"),
        (Engine(profiles=[(1, 2, 4)] * 2), UsageError, "has 2 optimization profiles; build it with one"),
        (Engine(layers=["conv"]), UsageError, "build it with --profilingVerbosity=detailed"),
    ],
)
def test_a_plan_that_is_not_one_of_this_model_is_refused(
    engine: Engine | None, error: type[ResxError], message: str, model: Path, plan: Path
) -> None:
    with pytest.raises(error) as caught:
        read_imported_plan(package(engine), plan, OPTIONS, built_from=model)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("with_gpu")
def test_a_plan_that_is_refused_leaves_the_repository_as_it_was(plan: Path, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "model_repository")
    options = EngineOptions(batch_opt=2, batch_max=4, plan=plan)
    with pytest.raises(UsageError, match="--batch-max 16"):
        publishing.export_engine_into(
            repository,
            source_of(GROUPED),
            ExportOptions(precision="fp16", max_batch_size=4),
            options,
            package(Engine(profiles=[(1, 8, 16)])),
            ServingOptions(),
            name="m",
            command="a test",
        )
    assert repository.names() == []
    assert not list(tmp_path.rglob("model.*"))
    assert plan.is_file()


def test_a_plan_of_other_precision_than_asked_for_fails(
    model: Path, plan: Path, with_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resx.errors import ParityError
    from resx.export.tensorrt import engine_export

    monkeypatch.setattr(engine_export, "gpu_here", lambda: Gpu(name="A10", compute_capability="8.6"))
    layers = [{**HALF[0], "Inputs": [{"DataType": "Float"}]}]
    options = EngineOptions(batch_opt=2, batch_max=4, plan=plan)
    with pytest.raises(ParityError, match="than fp16 .*FLOAT"):
        export_engine(
            source_of(GROUPED),
            ExportOptions(precision="fp16", max_batch_size=4),
            options,
            package(Engine(layers=layers)),
            tmp_path,
            name="m",
            command="a test",
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--plan", "none.plan", "--format", "tensorrt"), "--plan none.plan: no such file"),
        (("--plan", "m.plan"), "--plan: does not apply to --format onnx"),
        (("--plan", "m.plan", "--format", "tensorrt-rtx"), "--plan: does not apply to --format tensorrt-rtx"),
        (("--plan", "m.plan", "--format", "tensorrt", "--emit-script", "x.sh"), "--emit-script: m.plan is built"),
        (("--plan", "m.plan", "--format", "tensorrt", "--builder-level", "5"), "--builder-level: m.plan is built"),
        (("--plan", "m.plan", "--format", "tensorrt", "--workspace-mib", "5"), "--workspace-mib: m.plan is built"),
    ],
)
def test_options_that_do_not_fit_a_finished_plan_are_refused(
    options: tuple[str, ...], message: str, resx: Callable[..., Finished], plan: Path
) -> None:
    done = resx("export", "resnet20", *options)
    assert done.code == 2
    assert message in done.err.splitlines()[-1]


def test_without_a_gpu_a_plan_is_a_missing_capability(resx: Callable[..., Finished], plan: Path, model: Path) -> None:
    if gpu_here() is not None:
        pytest.skip("there is a GPU here")
    done = resx("export", "resnet20", "--format", "tensorrt", "--plan", plan)
    assert done.code == 4
    assert done.err.splitlines()[-1].startswith("error: tensorrt")
    with pytest.raises(MissingCapability, match="NVIDIA GPU"):
        read_imported_plan(package(Engine()), plan, OPTIONS, built_from=model)


@pytest.mark.gpu
@pytest.mark.skipif(gpu_here() is None, reason="no NVIDIA GPU that PyTorch can use")
def test_a_given_plan_is_run_against_pytorch_and_published(tmp_path: Path) -> None:
    tensorrt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    how = ExportOptions(precision="fp16", max_batch_size=4)
    (tmp_path / "built").mkdir()
    export_engine(source_of(GROUPED), how, OPTIONS, tensorrt, tmp_path / "built", name="m", command="a test")
    repository = Repository(tmp_path / "repository")
    options = EngineOptions(batch_opt=2, batch_max=4, plan=tmp_path / "built" / "model.plan")
    card, version = publishing.export_engine_into(
        repository, source_of(GROUPED), how, options, tensorrt, ServingOptions(), name="m", command="a test"
    )
    assert card.engine is not None
    assert card.engine.executed
    assert card.engine.built_elsewhere
    assert card.steps[-1].step == "tensorrt"
    assert (version.folder / "model.plan").read_bytes() == (tmp_path / "built" / "model.plan").read_bytes()
