"""TensorRT inside onnxruntime: what config.pbtxt says, where engines go, and what becomes of a server without it."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from resx.card.card import Card
from resx.card.kinds import Precision
from resx.errors import MissingCapability
from resx.export.graph.tensorrt_form import name_after_contents
from resx.gpus import Gpus, Wish, find_gpus
from resx.repository.config_pbtxt import ServingOptions, config_message, config_text
from resx.repository.versions import Repository
from resx.serving.deployment import tuned_configuration, version_pinning
from resx.serving.embedded.backend_session import load_session, this_process
from resx.serving.embedded.devices import require_device_for, require_tensorrt_for
from resx.serving.embedded.installation import provider_engines
from resx.serving.embedded.machine_checks import check_machine
from tests.support import onnx_files
from tests.support.backend_alone import CPU, CUDA, MODEL, TENSORRT, accelerated, beside
from tests.support.cards import card
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

KEEPS = {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1"}
NO_GPU = Gpus(count=0, missing="no NVIDIA driver is installed")
ONE_GPU = Gpus(count=1, names=("NVIDIA H100 80GB HBM3",))


@pytest.fixture
def engine_cache(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    beside(monkeypatch, "execution_providers")
    return beside(monkeypatch, "engine_cache")


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return beside(monkeypatch, "execution_providers")


def tensorrt_card(**changes: object) -> Card:
    return card().model_copy(update={"accelerator": "tensorrt", **changes})


def accelerator(made: Card) -> dict[str, str]:
    (found,) = config_message(made, ServingOptions()).optimization.execution_accelerators.gpu_execution_accelerator
    assert found.name == "tensorrt"
    return dict(found.parameters)


@pytest.mark.parametrize(
    ("precision", "fp16_share", "mode"),
    [("fp32", 0.0, "FP32"), ("fp16", 1.0, "FP16"), ("bf16", 1.0, "BF16"), ("int8", 0.0, "INT8"), ("fp32", 0.9, "FP16")],
)
def test_config_pbtxt_says_the_files_precision_and_what_is_kept(
    precision: Precision, fp16_share: float, mode: str
) -> None:
    found = accelerator(tensorrt_card(precision=precision, fp16_share=fp16_share))
    assert found["precision_mode"] == mode
    assert KEEPS.items() <= found.items()
    assert not [key for key in found if "path" in key]  # who serves knows the folder


def test_one_profile_covers_every_batch_so_that_no_request_waits_for_an_engine() -> None:
    found = accelerator(tensorrt_card(max_batch_size=16))
    shapes = {limit: found[f"trt_profile_{limit}_shapes"] for limit in ("min", "opt", "max")}
    assert shapes == {"min": "image:1x3x16x16", "opt": "image:16x3x16x16", "max": "image:16x3x16x16"}


def test_a_file_of_one_batch_size_needs_no_profile_and_gets_none() -> None:
    signature = card().signature.model_copy(update={"batch": 2})
    source = card().source.model_copy(update={"spec": None, "kind": "onnx", "signature": signature})
    assert not [key for key in accelerator(tensorrt_card(source=source)) if "profile" in key]


def test_another_largest_batch_takes_the_profile_along() -> None:
    message = config_message(tensorrt_card(), ServingOptions())
    setting = tuned_configuration.Setting(version=1, instances=1, threads=0, spinning=False, max_batch=64, delay_us=0)
    tuned_configuration.edit(message, setting, threads=False)
    (found,) = message.optimization.execution_accelerators.gpu_execution_accelerator
    assert found.parameters["trt_profile_max_shapes"] == "image:64x3x16x16"
    assert found.parameters["trt_profile_min_shapes"] == "image:1x3x16x16"


def test_it_computes_on_a_gpu_alone() -> None:
    text = config_text(tensorrt_card(), ServingOptions())
    assert "# TensorRT computes it inside onnxruntime, on a GPU only" in text
    assert "kind: KIND_GPU" in text
    assert "optimization" not in config_text(card(), ServingOptions())


def test_an_older_version_is_computed_in_its_own_precision(tmp_path: Path, resx: Callable[..., Finished]) -> None:
    for precision in ((), ("--fp16",)):
        done = resx("export", "resnet20", *precision, "--accelerator=tensorrt", "--max-batch=2", "--no-verify")
        assert done.code == 0, done.err
    repository = Repository(tmp_path / "model_repository")
    modes = []
    for version in (1, 2):
        message = version_pinning.parse(version_pinning.config_json(repository, "resnet20", [version]))
        (found,) = message.optimization.execution_accelerators.gpu_execution_accelerator
        modes.append(found.parameters["precision_mode"])
    assert modes == ["FP32", "FP16"]

    made = [repository.card("resnet20", version) for version in (1, 2)]
    assert [one.accelerator for one in made] == ["tensorrt", "tensorrt"]
    files = [repository.version_folder("resnet20", version) / "model.onnx" for version in (1, 2)]
    assert len({onnx.load(file).graph.name for file in files}) == 2
    shown = resx("info", "resnet20")
    assert "fp16 for the GPU by TensorRT inside onnxruntime" in shown.out
    again = resx("export", "--reproduce", "model_repository/resnet20/2")
    assert again.code == 0, again.err


def test_networks_that_differ_in_weights_alone_have_other_graph_names(tmp_path: Path) -> None:
    """By the graph's name, and no weight, onnxruntime finds an engine that was kept."""
    names = []
    for number, weight in enumerate((2.0, 2.0, 3.0)):
        path = onnx_files.sum_and_half(tmp_path / f"{number}.onnx")
        model = onnx.load(path)
        model.graph.initializer[0].CopyFrom(onnx.helper.make_tensor("two", 1, [], [weight]))
        onnx.save(model, path)
        name_after_contents(path)
        name_after_contents(path)  # again: nothing changes
        names.append(onnx.load(path).graph.name)
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--accelerator", "trt"), "--accelerator trt: give one of tensorrt"),
        (
            ("--accelerator", "tensorrt", "--target", "cpu"),
            "--accelerator tensorrt: computes on a GPU, but --target cpu makes a file for the CPU",
        ),
        (
            ("--accelerator", "tensorrt", "--int8", "--calibrate", "random", "--target", "cpu"),
            "--accelerator tensorrt: computes on a GPU, but --target cpu",
        ),
        (
            ("--accelerator", "tensorrt", "--format", "tensorrt"),
            "--accelerator tensorrt: --format tensorrt builds an engine already",
        ),
        (
            ("--accelerator", "tensorrt", "--format", "tensorrt-rtx"),
            "--accelerator tensorrt: --format tensorrt-rtx builds an engine already",
        ),
    ],
)
def test_what_does_not_go_with_an_accelerator_is_refused(
    resx: Callable[..., Finished], tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    done = resx("export", "resnet20", *options)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "model_repository").exists()


@pytest.mark.parametrize(("zero", "accepted"), [("int8", True), ("uint8", False), ("shifted", False), ("bias", False)])
def test_a_file_that_was_quantized_before_is_taken_if_tensorrt_computes_its_int8(
    resx: Callable[..., Finished], tmp_path: Path, zero: str, accepted: bool
) -> None:
    onnx_files.quantised(tmp_path / "q.onnx", zero)
    done = resx("export", "q.onnx", "--accelerator=tensorrt", "--no-verify", "--name=q", "--input=float32")
    if accepted:
        assert done.code == 0, done.err
        return
    assert done.code == 2
    assert done.err.startswith("error: --accelerator tensorrt: q.onnx: 1 of 1 layers compute in int8 (static, QDQ): ")
    assert done.err.count("\n") == 1


def test_each_model_file_has_a_folder_for_its_engines_and_shares_what_was_measured(
    engine_cache: ModuleType, tmp_path: Path
) -> None:
    chosen = [(TENSORRT, {"device_id": "0"} | KEEPS), (CUDA, {"device_id": "0"}), (CPU, {})]
    found = []
    for number, content in enumerate(("weights", "others", "weights")):
        version = tmp_path / str(number)
        version.mkdir()
        (version / "model.onnx").write_text(content)
        (version / "card.json").write_text(f"made at {number}")
        ((name, options), *others) = engine_cache.place(chosen, version / "model.onnx", tmp_path / "kept")
        assert (name, others) == (TENSORRT, chosen[1:])
        assert options["trt_timing_cache_path"] == str(tmp_path / "kept")
        found.append(options["trt_engine_cache_path"])
    assert found[0] == found[2] != found[1]
    assert all(Path(path).is_dir() and Path(path).parent == tmp_path / "kept" for path in found)


def test_weights_beside_the_file_make_another_engine_too(engine_cache: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("graph")
    before = engine_cache.key_of(tmp_path / "model.onnx")
    (tmp_path / "model.data").write_text("weights")
    assert engine_cache.key_of(tmp_path / "model.onnx") != before


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (KEEPS, {"trt_engine_cache_enable": "0", "trt_timing_cache_enable": "0"}),
        ({}, {}),
        ({"trt_engine_cache_enable": "0"}, {"trt_engine_cache_enable": "0"}),
        (
            {"trt_engine_cache_enable": "1", "trt_engine_cache_path": "/of/the/user"},
            {"trt_engine_cache_enable": "1", "trt_engine_cache_path": "/of/the/user"},
        ),
    ],
)
def test_without_a_folder_nothing_is_kept_in_the_working_folder(
    engine_cache: ModuleType, tmp_path: Path, told: dict[str, str], expected: dict[str, str]
) -> None:
    assert engine_cache.place([(TENSORRT, told)], tmp_path / "model.onnx", None) == [(TENSORRT, expected)]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("device", "folder"), [(0, "/a"), (1, "/b"), (2, None)])
def test_each_gpu_has_its_folder(engine_cache: ModuleType, device: int, folder: str | None) -> None:
    found = engine_cache.folder_for(device, {"RESX_TENSORRT_CACHE": "/a:/b"})
    assert found == (folder and Path(folder))
    assert engine_cache.folder_for(device, {}) is None


def test_half_an_engine_is_deleted_and_built_again(
    engine_cache: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first session fails as TensorRT's does over what a killed server left; the second finds an empty folder."""
    onnx_files.sum_and_half(tmp_path / "1" / "model.onnx")
    chosen = engine_cache.place([(TENSORRT, dict(KEEPS))], tmp_path / "1" / "model.onnx", tmp_path / "kept")
    own = Path(chosen[0][1]["trt_engine_cache_path"])
    (own / "half.engine").write_text("half")
    (tmp_path / "kept" / "sm90.timing").write_text("half")
    (tmp_path / "kept" / "other").mkdir()
    tries = []

    class TensorRtSession:
        """Stands for onnxruntime's: it opens no engine that is not whole."""

        def __init__(self, *_: object, enable_fallback: int, **__: object) -> None:
            assert not enable_fallback  # or onnxruntime goes on with CUDA
            tries.append(sorted(file.name for file in own.iterdir()))
            if tries[-1] or broken:
                raise RuntimeError("could not deserialize engine from cache")

        def get_providers(self) -> list[str]:
            return [TENSORRT]

    broken = False
    monkeypatch.setattr("onnxruntime.InferenceSession", TensorRtSession)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")  # open_session would leave it set
    load_session().open_session(str(tmp_path / "1" / "model.onnx"), {}, this_process(), chosen)
    assert tries == [["half.engine"], []]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted([own.name, "other"])

    broken = True
    with pytest.raises(RuntimeError, match="could not deserialize"):  # nothing was kept, so it is tried once
        load_session().open_session(str(tmp_path / "1" / "model.onnx"), {}, this_process(), chosen)
    assert tries == [["half.engine"], [], []]


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"precision_mode": "FP32"}, "0"),
        ({}, "0"),
        ({"precision_mode": "FP16"}, None),
        ({"trt_int8_enable": "1"}, None),
    ],
)
def test_tensorrt_computes_fp32_without_tf32(providers: ModuleType, options: dict[str, str], value: str | None) -> None:
    chosen = providers.choose("GPU", 0, accelerated("tensorrt", **options), [TENSORRT, CUDA, CPU])
    assert providers.environment_of(chosen).get("NVIDIA_TF32_OVERRIDE") == value
    assert providers.environment_of([(CUDA, {}), (CPU, {})]) == {}


def test_tensorrt_that_does_not_load_is_named_with_what_it_needs_and_never_replaced(providers: ModuleType) -> None:
    wanted = providers.choose("GPU", 0, accelerated("tensorrt"), [TENSORRT, CUDA, CPU])
    reason = "libnvinfer.so.10: no such file"
    match = rf"{TENSORRT} but cannot load it \({reason}\); .*CUDA, cuDNN and TensorRT .*gpu_execution_accelerator from"
    with pytest.raises(ValueError, match=match):
        providers.require_loaded(wanted, [CUDA, CPU], reason)


def test_the_native_backend_names_the_same_folders(engine_cache: ModuleType, tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    version = tmp_path / "1"
    version.mkdir()
    sizes = {"model.onnx": 3_000_001, "b.data": 0, "a.data": 55, "c.data": 56, "d.data": 64, "card.json": 7}
    for name, size in sizes.items():
        (version / name).write_bytes(bytes(index % 251 for index in range(size)))
    source = tmp_path / "main.cc"
    source.write_text(
        f'#include "{MODEL.parent / "native" / "engine_cache.h"}"\n#include <iostream>\n'
        "int main(int, char** words) {\n"
        '  engine_cache::Options options{{"trt_engine_cache_enable", "1"}, {"trt_timing_cache_enable", "1"}};\n'
        "  engine_cache::place(options, words[1], engine_cache::folder_for(std::atoi(words[2])));\n"
        '  for (auto& [key, value] : options) std::cout << key << "=" << value << "\\n";\n'
        '  if (words[3]) std::cout << "forgot=" << engine_cache::forget(options) << "\\n";\n'
        "}\n"
    )
    subprocess.run([compiler, "-std=c++17", str(source), "-o", str(tmp_path / "main")], check=True)

    def run(*words: str, folders: str) -> dict[str, str]:
        command = [str(tmp_path / "main"), str(version / "model.onnx"), *words]
        done = subprocess.run(command, env={"RESX_TENSORRT_CACHE": folders}, capture_output=True, text=True, check=True)
        return dict(line.split("=") for line in done.stdout.splitlines())

    folders = f"{tmp_path}/first:{tmp_path}/second"
    for number in (0, 1, 2):
        folder = engine_cache.folder_for(number, {"RESX_TENSORRT_CACHE": folders})
        ((_, expected),) = engine_cache.place([(TENSORRT, KEEPS)], version / "model.onnx", folder)
        assert run(str(number), folders=folders) == expected
    own = tmp_path / "first" / engine_cache.key_of(version / "model.onnx")
    assert run("0", "forget", folders=folders)["forgot"] == "0"
    (own / "half.engine").write_text("half")
    (own.parent / "sm90.timing").write_text("half")
    assert run("0", "forget", folders=folders)["forgot"] == "1"
    assert [*own.iterdir()] == []
    assert [path.name for path in own.parent.iterdir()] == [own.name]


@pytest.mark.parametrize(
    ("wish", "gpus", "why", "reason"),
    [
        ("auto", NO_GPU, "", "no NVIDIA driver is installed"),
        ("gpu", ONE_GPU, "libnvinfer.so.10: no such file", "libnvinfer.so.10: no such file"),
        ("cpu", ONE_GPU, "", "the server runs on the CPU"),
    ],
)
def test_a_server_for_models_of_tensorrt_alone_does_not_start_without_it(
    tmp_path: Path, wish: Wish, gpus: Gpus, why: str, reason: str
) -> None:
    folders = _folders(tmp_path, t=tensorrt_card())
    with pytest.raises(MissingCapability, match=rf"t: config.pbtxt asks for TensorRT .*{reason}.*; resx\[gpu\]"):
        require_tensorrt_for(folders, wish, gpus=lambda: gpus, missing=lambda _provider: why)
    require_tensorrt_for(folders, "auto", gpus=lambda: ONE_GPU, missing=lambda _provider: "")
    mixed = [*folders, *_folders(tmp_path, plain=card())]
    require_tensorrt_for(mixed, wish, gpus=lambda: gpus, missing=lambda _provider: why)  # the other is served


def test_a_deployment_asks_for_tensorrt_where_the_server_has_a_gpu(tmp_path: Path) -> None:
    (folder, plain) = _folders(tmp_path, t=tensorrt_card(), plain=card())
    asked = []

    def missing(provider: str) -> str:
        asked.append(provider)
        return "libnvinfer.so.10: no such file"

    require_device_for(plain, "gpu", missing=missing)
    assert asked == []
    with pytest.raises(MissingCapability, match="cannot be used: libnvinfer.so.10: no such file"):
        require_device_for(folder, "gpu", missing=missing)
    assert asked == [TENSORRT]
    require_device_for(folder, "gpu", missing=lambda _provider: "")


def _folders(root: Path, **cards: Card) -> list[Path]:
    for name, made in cards.items():
        (root / name).mkdir(exist_ok=True)
        (root / name / "config.pbtxt").write_text(config_text(made, ServingOptions()))
    return [root / name for name in cards]


@pytest.mark.triton
def test_without_a_gpu_neither_serve_nor_deploy_takes_it_and_both_exit_with_4(
    resx: Callable[..., Finished], triton: RunningTriton, tmp_path: Path
) -> None:
    if not find_gpus().missing:
        pytest.skip("there is a GPU")
    assert resx("export", "resnet20", "--accelerator=tensorrt", "--max-batch=2", "--no-verify").code == 0
    done = resx("serve", "--http-port=0", "--grpc-port=0", "--metrics-port=0")
    assert (done.code, done.out) == (4, "")
    assert "resnet20: config.pbtxt asks for TensorRT (gpu_execution_accelerator), which cannot be used: " in done.err

    publish_tiny(triton.repository, "accelerated")
    config = triton.repository.root / "accelerated" / "config.pbtxt"
    config.write_text(config_text(tensorrt_card(name="accelerated"), ServingOptions()))
    done = resx("deploy", "accelerated", f"--repository={triton.repository.root}")
    assert done.code == 4
    assert "accelerated: config.pbtxt asks for TensorRT" in done.err


def test_the_cache_has_a_folder_for_each_kind_of_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESX_CACHE", str(tmp_path))
    gpus = Gpus(count=3, names=("NVIDIA H100 80GB HBM3", "NVIDIA L4", "NVIDIA L4"))
    first, second, third = (Path(part) for part in _environment(gpus)["RESX_TENSORRT_CACHE"].split(":"))
    assert first.parent == second.parent == tmp_path / "tensorrt_engines"
    assert first.name.endswith("_NVIDIA-H100-80GB-HBM3")
    assert second == third != first
    assert first.is_dir()
    assert _environment(NO_GPU) == {}

    (second / "key").mkdir()
    (second / "key" / "a.engine").write_bytes(b"12345")
    assert provider_engines.kept_engines() == (tmp_path / "tensorrt_engines", 1, 5)
    (said,) = [found for found in check_machine(tmp_path) if found.what == "TensorRT engines"]
    assert said.detail.startswith(f"1, 0 MB in {tmp_path}")

    second.chmod(0o777)
    with pytest.raises(Exception, match=second.name):
        _environment(gpus)


def _environment(gpus: Gpus) -> dict[str, str]:
    return provider_engines.cache_environment(lambda: gpus)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrts_parser_takes_the_whole_graph_so_the_profile_names_its_input(
    resx: Callable[..., Finished], tmp_path: Path, precision: str
) -> None:
    """With the parser of TensorRT for RTX, on the graph that onnxruntime hands to it."""
    trt = pytest.importorskip("tensorrt_rtx")
    import onnxruntime

    options = [] if precision == "fp32" else [f"--{precision}"]
    done = resx("export", "resnet20", *options, "--accelerator=tensorrt", "--max-batch=2", "--no-verify", "--json")
    session = onnxruntime.SessionOptions()
    session.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session.optimized_model_filepath = str(tmp_path / "basic.onnx")
    onnxruntime.InferenceSession(str(tmp_path / done.json["file"]), session, providers=[CPU])

    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.supports_model_v2((tmp_path / "basic.onnx").read_bytes())


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.skipif(bool(find_gpus().missing), reason="no NVIDIA GPU")
@pytest.mark.parametrize("how", ["--isolated", "--native"])
def test_on_a_gpu_it_answers_as_its_card_says_and_a_second_start_takes_the_engine(
    resx: Callable[..., Finished], how: str
) -> None:
    ports = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")
    made = resx("export", "resnet20", "--fp16", "--accelerator=tensorrt", "--max-batch=4", "--json")
    assert made.code == 0, made.err
    numbers = []
    for _ in range(2):
        started = resx("serve", "--detach", how, *ports, "--json")
        try:
            if started.code == 4:
                pytest.skip(started.err)
            assert started.json["models"] == {"resnet20": [1]}, started.err
        finally:
            resx("stop")
        numbers.append(provider_engines.kept_engines()[1])
    assert numbers[0] == numbers[1] > 0
