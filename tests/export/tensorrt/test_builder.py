"""Engines: every family builds without a GPU, in the precision that was asked for, or is refused with the reason.

The builder here is the real TensorRT for RTX. What TensorRT alone does (a timing cache, a known fault) is
shown with stand-ins for its module, which the builder takes as a parameter.
"""

import platform
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from resx.card.card import read_card
from resx.card.kinds import Precision
from resx.card.signature import signature_of
from resx.cli.views.export_result import remarks
from resx.data.photographs import photograph_crops
from resx.errors import ExportError, MissingCapability, ParityError, UsageError
from resx.export.graph.grouped_convolutions import grouped_half_convolutions, with_grouped_in_fp32
from resx.export.graph.onnx_writer import write_onnx
from resx.export.int8 import quantization
from resx.export.options import ExportOptions
from resx.export.tensorrt import builder, timing_cache
from resx.export.tensorrt.builder import EngineOptions, build_engine
from resx.export.tensorrt.engine_export import _Twin, export_engine, export_engine_folder, inspected_facts
from resx.repository import publishing
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.versions import Repository
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
from resx.runtimes.tensorrt_model import TensorRTModel
from resx.runtimes.tensorrt_package import load_package
from resx.runtimes.torch_gpu import Gpu, gpu_here
from resx.zoo import depths
from resx.zoo.architectures import Architecture
from resx.zoo.building import build_from_spec
from tests.support.cards import engine_facts
from tests.support.command import Finished
from tests.support.engine_sources import FAMILIES, GROUPED, source_of, spec_of
from tests.support.tiny_models import tiny_spec

AMPERE = EngineOptions(compute_capabilities=("8.6",), batch_opt=2, batch_max=4)


@pytest.fixture(scope="module")
def trt() -> Any:
    if platform.machine() != "x86_64":
        pytest.skip("TensorRT-RTX is packaged for x86-64 only")
    return load_package("tensorrt_rtx")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives a function that writes a network's ONNX file, once, and unverified: other tests see to that."""
    folder = tmp_path_factory.mktemp("onnx")

    def write(architecture: Architecture, precision: Precision = "fp32") -> Path:
        spec = spec_of(architecture)
        path = folder / f"{hash(architecture)}-{precision}.onnx"
        if not path.exists():
            write_onnx(build_from_spec(spec, seed=0).eval(), spec, path, precision=precision, input_type="uint8")
        return path

    return write


def int8_of(fp32_file: Path, image_size: int = 32) -> Path:
    """Write the int8 form for the GPU beside the file: the recipe of the export, ranges from a few photographs."""
    path, prepared = (fp32_file.with_suffix(suffix) for suffix in (".int8.onnx", ".prepared.onnx"))
    quantization.prepare(fp32_file, prepared, target="gpu")
    images = photograph_crops(4, image_size, seed=0)
    ranges = quantization.find_ranges(
        prepared, images, "minmax", signature_of(tiny_spec(image_size=image_size), "uint8")
    )
    onnx.save(quantization.quantise(prepared, ranges, target="gpu", keep_fp32=[]), path)
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_builds_in_every_precision_without_a_gpu(
    family: str, written: Callable[..., Path], trt: Any
) -> None:
    for precision, expected in (("fp32", "FLOAT"), ("fp16", "HALF"), ("int8", "INT8")):
        given = written(FAMILIES[family], "fp32" if precision == "int8" else precision)
        file = int8_of(given) if precision == "int8" else given
        built = build_engine(trt, file, AMPERE, precision=precision)

        assert set(built.facts.network_precisions) == {expected}
        assert built.facts.size_bytes == len(built.plan) > 0
        assert built.facts.grouped_in_fp32 == ()
        assert (built.facts.builder, built.facts.compute_capabilities) == ("tensorrt_rtx", ("8.6",))


def test_an_engine_has_half_or_a_third_of_the_size_where_weights_are_most_of_it(
    written: Callable[..., Path], trt: Any
) -> None:
    fp32, fp16 = (written(depths.resnet(18), precision) for precision in ("fp32", "fp16"))
    files = {"fp32": fp32, "fp16": fp16, "int8": int8_of(fp32)}
    sizes = {
        precision: build_engine(trt, file, AMPERE, precision=precision).facts.size_bytes
        for precision, file in files.items()
    }
    assert sizes["fp32"] > 40e6
    assert 0.47 < sizes["fp16"] / sizes["fp32"] < 0.55
    assert 0.23 < sizes["int8"] / sizes["fp32"] < 0.37


def test_an_fp32_file_is_no_fp16_engine(written: Callable[..., Path], trt: Any) -> None:
    file = written(FAMILIES["resnet"])
    with pytest.raises(ParityError, match=r"8 of 8 convolutions .* than fp16 \(.*: FLOAT\)"):
        build_engine(trt, file, AMPERE, precision="fp16")


def test_the_engines_card_lies_beside_it_and_the_onnx_file_does_not(tmp_path: Path, trt: Any) -> None:
    options = ExportOptions(precision="fp16", max_batch_size=4)
    card = export_engine_folder(
        source_of(GROUPED), options, AMPERE, trt, tmp_path / "engines" / "m", name="m", command="resx export m"
    )
    folder = tmp_path / "engines" / "m"
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.engine"]
    assert read_card(folder) == card
    assert card.files == {"model.engine": builder.sha256_of(folder / "model.engine")}
    assert card.engine is not None
    assert card.engine.version == trt.__version__
    assert [step.step for step in card.steps] == [
        "fp32 file",
        "onnx",
        *(["tensorrt_rtx"] if card.engine.executed else []),
    ]
    assert [path.name for path in (tmp_path / "engines").iterdir()] == ["m"]


def test_an_engine_of_rtx_is_published_for_the_embedded_server(tmp_path: Path, trt: Any) -> None:
    repository = Repository(tmp_path / "repository")
    for expected in (1, 2):
        card, version = publishing.export_engine_into(
            repository,
            source_of(GROUPED),
            ExportOptions(max_batch_size=4),
            AMPERE,
            trt,
            ServingOptions(),
            name="m",
            command="a test",
        )
        assert (version.version, card.model_file) == (expected, "model.engine")
        names = sorted(path.name for path in version.folder.iterdir())
        assert names == ["README.md", "card.json", "model.engine"]
    with pytest.raises(UsageError, match="m: its versions are engines of TensorRT for RTX, this is a TensorRT plan"):
        publishing.require_one_format(repository, "m", builder="tensorrt")


class StandIn:
    """TensorRT for RTX, but for the last step: `build` gets the network and its configuration, and may refuse."""

    def __init__(self, trt: Any, build: Callable[[Any, Any, Any, Any], bool]) -> None:
        self._trt, self._build = trt, build
        self.__name__ = trt.__name__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trt, name)

    def Builder(self, logger: Any) -> Any:  # noqa: N802 - TensorRT's name
        builder = self._trt.Builder(logger)

        def build(network: Any, config: Any) -> Any:
            accepted = self._build(self._trt, logger, network, config)
            return builder.build_serialized_network(network, config) if accepted else None

        names = ("create_network", "create_builder_config", "create_optimization_profile")
        return SimpleNamespace(build_serialized_network=build, **{name: getattr(builder, name) for name in names})


def refuses_grouped_half(trt: Any, logger: Any, network: Any, config: Any) -> bool:
    """Behave as TensorRT 11.2.1 does: no engine where a grouped convolution is in fp16."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    convolutions = [layer for layer in layers if layer.type == trt.LayerType.CONVOLUTION]
    for layer in convolutions:
        layer.__class__ = trt.IConvolutionLayer
    if any(layer.num_groups > 1 and layer.get_output(0).dtype == trt.DataType.HALF for layer in convolutions):
        logger.log(trt.ILogger.ERROR, "Could not find any implementation for node {ForeignNode[conv]}")
        return False
    return True


@pytest.mark.parametrize("tf32", [False, True])
def test_every_option_reaches_the_builder(tf32: bool, written: Callable[..., Path], trt: Any) -> None:
    seen: dict[str, Any] = {}

    def look(trt: Any, logger: Any, network: Any, config: Any) -> bool:
        seen["tf32"] = config.get_flag(trt.BuilderFlag.TF32)
        seen["level"] = config.builder_optimization_level
        seen["workspace"] = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
        seen["targets"] = [config.get_compute_capability(index) for index in range(config.num_compute_capabilities)]
        seen["verbosity"] = config.profiling_verbosity
        seen["profiles"] = config.num_optimization_profiles
        seen["typed"] = network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return True

    options = EngineOptions(
        compute_capabilities=("8.6", "12.0"), workspace_mib=256, tf32=tf32, builder_level=1, batch_opt=2, batch_max=4
    )
    build_engine(StandIn(trt, look), written(FAMILIES["resnet"]), options, precision="fp32")
    assert seen == {
        "tf32": tf32,
        "level": 1,
        "workspace": 256 * 2**20,
        "profiles": 1,
        "typed": True,
        "targets": [trt.ComputeCapability.SM86, trt.ComputeCapability.SM120],
        "verbosity": trt.ProfilingVerbosity.DETAILED,
    }


def test_grouped_convolutions_that_fail_in_fp16_are_built_in_fp32_and_it_is_said(tmp_path: Path, trt: Any) -> None:
    said: list[str] = []
    options = ExportOptions(precision="fp16", max_batch_size=4)
    card = export_engine(
        source_of(GROUPED),
        options,
        AMPERE,
        StandIn(trt, refuses_grouped_half),
        tmp_path,
        name="m",
        command="a test",
        on_step=said.append,
    )
    assert card.engine is not None
    assert len(card.engine.grouped_in_fp32) == 2
    assert card.engine.network_precisions["FLOAT"] == 2
    assert card.engine.network_precisions["HALF"] > 2
    assert [step.step for step in card.steps][1:3] == ["onnx", "onnx, grouped convolutions in fp32"]
    assert 0.5 < card.fp16_share < 1
    assert any("Could not find any implementation" in line and "2 grouped convolutions" in line for line in said)


def test_a_failed_build_without_grouped_convolutions_is_not_tried_again(written: Callable[..., Path], trt: Any) -> None:
    scarce = EngineOptions(compute_capabilities=("8.6",), batch_opt=256, batch_max=256, workspace_mib=1)
    file = written(FAMILIES["resnet"])
    with pytest.raises(ExportError, match=r"^m: no engine could be built: .*--workspace-mib"):
        build_engine(trt, file, scarce, precision="fp32", name="m")


def test_grouped_convolutions_in_fp32_compute_what_they_did(written: Callable[..., Path], tmp_path: Path) -> None:
    file = written(GROUPED, "fp16")
    model = onnx.load(file)
    rewritten = with_grouped_in_fp32(model)
    onnx.save(rewritten, tmp_path / "rewritten.onnx")
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    before, after = (OnnxRuntimeModel(path)(images) for path in (file, tmp_path / "rewritten.onnx"))

    assert len(grouped_half_convolutions(model)) == 2
    assert grouped_half_convolutions(rewritten) == []
    assert len(rewritten.graph.node) == len(model.graph.node) + 4
    assert np.abs(after - before).max() <= 1e-2 * np.abs(before).max()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_min": 4, "batch_opt": 2, "batch_max": 8}, "min <= opt <= max"),
        ({"batch_min": 0}, "1 <= min"),
        ({"builder_level": 6}, "builder_level=6: give 0"),
        ({"workspace_mib": -1}, "workspace_mib=-1"),
        ({"compute_capabilities": ("sm86",)}, "'sm86': give numbers such as 8.6"),
    ],
)
def test_options_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EngineOptions(**fields)


def test_a_gpu_that_the_package_does_not_build_for_lists_those_it_does(trt: Any) -> None:
    with pytest.raises(UsageError, match=r"compute capability 9.9: TensorRT-RTX .* builds for 7.5, .*8.6"):
        builder.require_buildable(trt, EngineOptions(compute_capabilities=("8.6", "9.9")))


def test_an_int8_file_for_the_cpu_is_refused_with_the_remedy(
    written: Callable[..., Path], tmp_path: Path, trt: Any
) -> None:
    source, prepared, for_cpu = written(FAMILIES["resnet"]), tmp_path / "prepared.onnx", tmp_path / "cpu.onnx"
    quantization.prepare(source, prepared, target="cpu")
    images = photograph_crops(4, 32, seed=0)
    ranges = quantization.find_ranges(prepared, images, "minmax", signature_of(tiny_spec(image_size=32), "uint8"))
    onnx.save(quantization.quantise(prepared, ranges, target="cpu", keep_fp32=[]), for_cpu)
    with pytest.raises(ExportError, match=r"node .* \(DequantizeLinear\): .*Int32.*--target gpu"):
        build_engine(trt, for_cpu, AMPERE, precision="int8")


def test_a_timing_cache_is_refused_where_there_is_none_to_keep(
    written: Callable[..., Path], tmp_path: Path, trt: Any
) -> None:
    file = written(FAMILIES["vgg"])
    with pytest.raises(UsageError, match="TensorRT-RTX has none"):
        build_engine(trt, file, EngineOptions(timing_cache=tmp_path), precision="fp32")


class MeasuredConfig:
    """The part of a builder's configuration that concerns the timing cache: a set of words stands for measurements."""

    def __init__(self, measures: str, *, refuses: bytes = b"") -> None:
        self.measures, self.refuses, self.cache = measures, refuses, SimpleNamespace()

    def create_timing_cache(self, data: bytes) -> SimpleNamespace:
        cache = SimpleNamespace(words=set(data.decode().split()), data=data)
        cache.serialize = lambda: " ".join(sorted(cache.words)).encode()
        cache.combine = lambda other, _ignore_mismatch: cache.words.update(other.words)
        return cache

    def set_timing_cache(self, cache: SimpleNamespace, ignore_mismatch: bool) -> bool:
        if self.refuses and cache.data == self.refuses:
            return False
        self.cache = cache
        cache.words.add(self.measures)
        return True

    def get_timing_cache(self) -> SimpleNamespace:
        return self.cache


def test_a_timing_cache_grows_with_every_build_and_one_that_does_not_fit_is_left_aside(tmp_path: Path) -> None:
    file = timing_cache.file_for(tmp_path / "cache", "11.4", Gpu(name="A10", compute_capability="8.6"))
    assert file == tmp_path / "cache" / "tensorrt-11.4-sm86.cache"
    first, second, third = MeasuredConfig("a"), MeasuredConfig("b"), MeasuredConfig("c", refuses=b"a b")

    assert not timing_cache.attach(first, file)
    timing_cache.keep(first, file)
    assert timing_cache.attach(second, file)
    timing_cache.keep(second, file)
    assert file.read_bytes() == b"a b"
    assert not timing_cache.attach(third, file)
    timing_cache.keep(third, file)
    assert file.read_bytes() == b"a b c"


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path, trt: Any) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(ExportError, match=r"x.onnx: not an ONNX model that TensorRT can read"):
        build_engine(trt, tmp_path / "x.onnx", AMPERE, precision="fp32")
    with pytest.raises(UsageError, match="no such file"):
        build_engine(trt, tmp_path / "y.onnx", AMPERE, precision="fp32")


def one_node(path: Path, operator: str, shape: list[int | str], **attributes: int) -> Path:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    node = helper.make_node(operator, ["x"], ["y"], name="the_node", **attributes)
    graph = helper.make_graph([node], "g", [tensors[0]], [tensors[1]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def test_an_operator_that_tensorrt_does_not_know_is_named_with_its_node(tmp_path: Path, trt: Any) -> None:
    file = one_node(tmp_path / "x.onnx", "Bernoulli", ["batch", 4])
    with pytest.raises(
        ExportError, match=r"x.onnx: node the_node \(Bernoulli\): TensorRT rejects it: .*--format onnx"
    ) as e:
        build_engine(trt, file, AMPERE, precision="fp32")
    assert "\n" not in str(e.value)


def test_a_symbolic_axis_besides_the_batch_is_refused_and_a_fixed_batch_names_the_options(
    tmp_path: Path, trt: Any
) -> None:
    with pytest.raises(ExportError, match="dynamic axis besides the batch"):
        build_engine(trt, one_node(tmp_path / "a.onnx", "Relu", ["batch", "width"]), AMPERE, precision="fp32")
    fixed = one_node(tmp_path / "b.onnx", "Relu", [3, 4])
    with pytest.raises(UsageError, match="--batch-min 3 --batch-opt 3 --batch-max 3"):
        build_engine(trt, fixed, AMPERE, precision="fp32")
    three = EngineOptions(compute_capabilities=("8.6",), batch_min=3, batch_opt=3, batch_max=3)
    assert build_engine(trt, fixed, three, precision="fp32").facts.network_precisions == {}


def test_the_export_says_which_layers_are_slower_than_they_could_be(tmp_path: Path, trt: Any) -> None:
    card = built_here(trt, "fp16", tmp_path, AMPERE)
    layers = [(f"conv{number}", "FLOAT" if number < 5 else "HALF") for number in range(7)]
    facts = inspected_facts(engine_facts({"HALF": 7}), layers, "fp16", name="m")
    (line,) = [line for line in remarks(card.model_copy(update={"engine": facts})) if line.startswith("slower")]
    assert line == (
        "slower than fp16 could be: 5 of 7 layers of the engine compute in a wider precision than the file asks for "
        "(conv0, conv1, conv2 and 2 more)"
    )
    assert not any(line.startswith("slower") for line in remarks(card))


@pytest.mark.parametrize("tf32", [False, True])
def test_what_an_engine_is_compared_with_is_built_with_tf32_the_other_way(
    tf32: bool, written: Callable[..., Path], tmp_path: Path, trt: Any
) -> None:
    seen: list[bool] = []

    def look(trt: Any, logger: Any, network: Any, config: Any) -> bool:
        seen.append(config.get_flag(trt.BuilderFlag.TF32))
        return True

    file = tmp_path / "model.onnx"
    file.write_bytes(written(FAMILIES["vgg"]).read_bytes())
    options = EngineOptions(compute_capabilities=("8.6",), tf32=tf32, batch_opt=2, batch_max=4)
    twin = _Twin(trt=StandIn(trt, look), onnx_path=file, options=options, precision="fp32", on_step=lambda _step: None)
    assert twin.open(engine_facts({"HALF": 4})) is None  # nothing that TF32 could change
    assert seen == []
    if gpu_here() is None:
        with pytest.raises(MissingCapability):
            twin.open(engine_facts({"FLOAT": 4}))
        assert seen == [not tf32]
        assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_tensorrt_without_the_package_or_a_gpu_is_a_missing_capability(resx: Callable[..., Finished]) -> None:
    if gpu_here() is not None:
        pytest.skip("there is a GPU here")
    done = resx("export", "resnet20", "--format", "tensorrt")
    assert done.code == 4
    assert done.err.splitlines()[-1].startswith("error: tensorrt")
    assert "--emit-script FILE" in done.err
    with pytest.raises(MissingCapability, match="NVIDIA GPU"):
        TensorRTModel(Path("x.plan"), None)


def built_here(trt: Any, precision: Precision, folder: Path, options: EngineOptions) -> Any:
    export = ExportOptions(precision=precision, max_batch_size=4)
    return export_engine(source_of(GROUPED), export, options, trt, folder, name="m", command="a test")


@pytest.mark.gpu
@pytest.mark.skipif(gpu_here() is None, reason="no NVIDIA GPU that PyTorch can use")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_plan_runs_is_inspected_and_agrees_with_pytorch(precision: Precision, tmp_path: Path) -> None:
    tensorrt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    options = EngineOptions(batch_opt=2, batch_max=4, timing_cache=tmp_path / "cache")
    repository = Repository(tmp_path / "repository")
    for expected in ("new", "reused"):
        card, version = publishing.export_engine_into(
            repository,
            source_of(GROUPED),
            ExportOptions(precision=precision, max_batch_size=4),
            options,
            tensorrt,
            ServingOptions(),
            name="m",
            command="a test",
        )
        assert card.engine is not None
        assert card.engine.executed
        assert card.engine.timing_cache == expected
        assert card.steps[-1].step == "tensorrt"
        assert card.engine.num_wider is not None
        assert card.gpu_parity is not None
        assert card.gpu_parity.tf32_off is not None
        assert card.gpu_parity.tf32_off.passed
        assert (card.gpu_parity.tf32_on is None) == ("FLOAT" not in card.engine.network_precisions)
        assert (version.folder / "model.plan").is_file()
    with pytest.raises(ExportError, match="outside the engine's profile"):
        TensorRTModel(version.folder / "model.plan", tensorrt)(np.zeros((5, 3, 32, 32), np.uint8))


@pytest.mark.gpu
@pytest.mark.skipif(gpu_here() is None, reason="no NVIDIA GPU that PyTorch can use")
def test_an_engine_of_rtx_runs_where_its_gpu_is(tmp_path: Path, trt: Any) -> None:
    gpu = gpu_here()
    if gpu is None or gpu.compute_capability not in builder.portable_to(trt):
        pytest.skip("TensorRT for RTX builds no engine for this GPU")
    card = built_here(trt, "fp16", tmp_path, EngineOptions(batch_opt=2, batch_max=4))
    assert card.engine is not None
    assert card.engine.executed
    assert card.steps[-1].step == "tensorrt_rtx"
