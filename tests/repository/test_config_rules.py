"""A repository that somebody else made: what its models may not say or hold, and who refuses them."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resx.card.card import FILE_NAME, write_card
from resx.card.tuning import Setting, Tuning
from resx.errors import UsageError
from resx.repository import config_pbtxt, config_rules
from resx.repository.config_pbtxt import CONFIG_FILE
from resx.repository.sharing.version_copies import require_copyable
from resx.repository.versions import Repository
from resx.serving.clusters.workload import Placement, workload_of
from resx.serving.deployment import version_pinning
from resx.serving.deployment.tuned_configuration import setting_of, take_back
from resx.serving.embedded.backend_session import served_config
from resx.serving.running.server_state import running_server
from resx.serving.supervisor import detaching
from tests.support.command import Finished
from tests.support.tiny_models import publish_tiny

PLAIN = """\
name: "m"
backend: "onnxruntime"
input { name: "x" data_type: TYPE_FP32 dims: [3] }
output { name: "y" data_type: TYPE_FP32 dims: [2] label_filename: "labels.txt" }
instance_group { count: 1 }
"""
R1 = (
    'y" data_type: TYPE_FP32 dims: [ 10 ] } ]\nparameters { key: "INJECTED" value { string_value: "1" } }\n'
    'output [ { name: "y'
)


def parameter(key: str, value: str = "1") -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


def model(root: Path, config: str = PLAIN, name: str = "m") -> Path:
    """A model by hand, as somebody else's repository may hold it."""
    folder = root / name
    (folder / "1").mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(config)
    (folder / "labels.txt").write_text("a\nb\n")
    (folder / "1/model.onnx").write_bytes(b"model")
    return folder


NAMES = st.text(st.characters(exclude_categories=("Cs",)))


@settings(deadline=None)
@given(name=NAMES, key=NAMES, value=NAMES, comment=NAMES)
@example(name=R1, key=R1, value=R1, comment=R1)
@example(name="y\\", key='a"b', value="\u2028\x85\r", comment='x\nparameters { key: "INJECTED" }')
def test_a_configuration_says_what_was_asked_whatever_the_names_are(
    name: str, key: str, value: str, comment: str
) -> None:
    message = config_pbtxt.new_message(name, {key: value})
    message.input.add(name=name, data_type="TYPE_FP32", dims=[1])
    message.output.add(name=name, data_type="TYPE_FP32", dims=[1], label_filename=value)
    message.model_warmup.add(name=value).inputs[name].random_data = True
    message.dynamic_batching.SetInParent()
    text = config_pbtxt.text(message, {"input": [comment], "parameters": [comment]})
    assert text.isascii() or not comment.isascii()

    read = config_pbtxt.parse(text)
    assert read == message
    assert list(read.parameters) == [key]
    assert {field.name for field, _ in read.ListFields()} <= {
        "name",
        "input",
        "output",
        "parameters",
        "model_warmup",
        "dynamic_batching",
    }


@pytest.mark.parametrize(
    "line",
    [
        parameter("EXECUTION_ENV_PATH", "$$TRITON_MODEL_DIRECTORY/env.tar.gz"),
        parameter("execution_env_path", "env.tar.gz"),
        parameter("CPU_EXTENSION_PATH", "/tmp/x.so"),
        parameter("session.optimized_model_filepath", "out.onnx"),
        parameter("session.collect_node_memory_stats_to_file", "out.csv"),
        parameter("session.moe.offload.derived_cache_dir", "out"),
        parameter("engineDir", "out"),
        'default_model_filename: "../../other/1/model.onnx"\n',
        'default_model_filename: "/etc/passwd"\n',
        'cc_model_filenames { key: "8.6" value: "../x.plan" }\n',
        'output { name: "z" data_type: TYPE_FP32 dims: [2] label_filename: "../../secret" }\n',
        'model_warmup { name: "w" inputs { key: "x" value { dims: [3] input_data_file: "../../secret" } } }\n',
        'sequence_batching { state { input_name: "i" initial_state { name: "s" data_file: "/etc/passwd" } } }\n',
        'backend: "../../somewhere/evil"\n',
        'platform: "a/b"\n',
        'runtime: "libevil.so"\n',
        'model_operations { op_library_filename: "evil.so" }\n',
        'model_repository_agents { agents { name: "evil" } }\n',
        "optimization { execution_accelerators { gpu_execution_accelerator { name: \"tensorrt\" "
        'parameters { key: "trt_engine_cache_path" value: "/tmp" } } } }\n',
        'platform: "ensemble"\nensemble_scheduling { step { model_name: "../elsewhere/m" } }\n',
        'platform: "ensemble"\nensemble_scheduling { step { model_name: "a$(touch x)" } }\n',
        'platform: "ensemble"\nensemble_scheduling { step { model_name: "two words" } }\n',
        'instance_group { name: "$(touch x)" }\n',
        'instance_group { name: "a;b" }\n',
        'default_model_filename: "`touch x`.py"\n',
        'default_model_filename: "my model.onnx"\n',
    ],
)  # fmt: skip
def test_what_leads_out_of_the_folder_or_names_a_program_is_refused(tmp_path: Path, line: str) -> None:
    config = PLAIN.replace('backend: "onnxruntime"\n', "") if line.startswith(("backend", "platform")) else PLAIN
    model(tmp_path, config + line)
    with pytest.raises(UsageError, match=r"^m: config\.pbtxt: .*; ") as raised:
        config_rules.require_contained(tmp_path, "m")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "line",
    [
        parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no"), parameter("session.intra_op.allow_spinning"),
        parameter("session.use_ort_model_bytes_directly"), parameter("PERFORMANCE_HINT", "LATENCY"),
        parameter("resx.mean", "0.5,0.5,0.5"), parameter("execution_mode", "0"), 'runtime: "model.py"\n',
        'default_model_filename: "fp16/model.onnx"\n', 'model_repository_agents { agents { name: "checksum" } }\n',
        "optimization { execution_accelerators { gpu_execution_accelerator { name: \"tensorrt\" "
        'parameters { key: "precision_mode" value: "FP16" } } } }\n',
        'model_warmup { name: "w" inputs { key: "x" value { dims: [3] input_data_file: "raw" } } }\n',
        'instance_group { name: "first_two.a-b+c" }\n',
    ],
)  # fmt: skip
def test_what_stays_in_the_folder_is_taken(tmp_path: Path, line: str) -> None:
    model(tmp_path, PLAIN + line)
    config_rules.require_contained(tmp_path, "m")


@pytest.mark.parametrize(
    "file", ["triton_python_backend_stub", "1/libtriton_onnxruntime.so", "libtriton_python.so", "1/torch.py", "x.so"]
)
def test_a_model_that_is_data_brings_no_code(tmp_path: Path, file: str) -> None:
    folder = model(tmp_path)
    (folder / file).write_text("code")
    with pytest.raises(UsageError, match=rf"^m: m/{file}: .*; delete it"):
        config_rules.require_contained(tmp_path, "m")
    (folder / CONFIG_FILE).unlink()  # a bare model is held to the same
    with pytest.raises(UsageError, match=rf"^m: m/{file}: .*; delete it"):
        config_rules.require_contained(tmp_path, "m")


def test_a_python_model_is_code_but_brings_no_server_of_its_own(tmp_path: Path) -> None:
    folder = model(tmp_path, PLAIN.replace("onnxruntime", "python"))
    (folder / "1/model.py").write_text("code")
    config_rules.require_contained(tmp_path, "m")
    (folder / "triton_python_backend_stub").write_text("program")
    with pytest.raises(UsageError, match="instead of its own"):
        config_rules.require_contained(tmp_path, "m")


def test_links_may_lead_anywhere_in_the_repository_and_nowhere_else(tmp_path: Path) -> None:
    root = tmp_path / "models"
    folder, other = model(root), model(tmp_path / "elsewhere", name="linked")
    (root / "other").mkdir()
    (root / "other/labels.txt").write_text("a\n")
    (folder / "labels.txt").unlink()
    (folder / "labels.txt").symlink_to("../other/labels.txt")
    (root / "linked").symlink_to(other)  # a whole model may lie on another disk
    config_rules.require_contained(root, "m")
    config_rules.require_contained(root, "linked")

    for target in ("/etc/passwd", "../../elsewhere/linked/labels.txt", "labels.txt"):
        (folder / "labels.txt").unlink()
        (folder / "labels.txt").symlink_to(target)
        with pytest.raises(UsageError, match=r"m/labels\.txt: is a link that leads out"):
            config_rules.require_contained(root, "m")


def test_an_ensemble_is_refused_with_a_model_that_it_would_load(tmp_path: Path) -> None:
    model(tmp_path, PLAIN + parameter("EXECUTION_ENV_PATH"), name="hidden")
    step = 'ensemble_scheduling {{ step {{ model_name: "{}" }} }}\n'
    model(tmp_path, 'name: "middle"\nplatform: "ensemble"\n' + step.format("hidden"), name="middle")
    model(tmp_path, 'name: "top"\nplatform: "ensemble"\n' + step.format("middle"), name="top")
    model(tmp_path, 'name: "loop"\nplatform: "ensemble"\n' + step.format("loop"), name="loop")
    with pytest.raises(UsageError, match="^hidden: .*EXECUTION_ENV_PATH"):
        config_rules.require_contained(tmp_path, "top")
    config_rules.require_contained(tmp_path, "loop")


def test_every_way_to_a_server_is_the_checked_one(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    _, published = publish_tiny(repository, "m", image_endpoint=True)
    config = repository.root / "m" / CONFIG_FILE
    good = config.read_text()
    uses: list[Callable[[], Any]] = [
        lambda: version_pinning.config_json(repository, "m", [1]),
        lambda: version_pinning.reloading_json(repository, "m", [1]),
        lambda: version_pinning.rehearsal_json(repository.find("m", 1), "~m"),
        lambda: setting_of(repository, "m", 1),
        lambda: workload_of(repository, "m", Placement(image_endpoint=False)),
        lambda: served_config(config.parent),
        lambda: require_copyable(repository, Repository(tmp_path / "copy"), "m", 1),
    ]
    for use in uses:
        use()
    config.write_text(good + parameter("EXECUTION_ENV_PATH"))
    for use in uses:
        with pytest.raises(UsageError, match="EXECUTION_ENV_PATH"):
            use()
    with version_pinning.pin_versions(repository, {"m": (1,)}, tmp_path) as links:
        assert list(links.iterdir()) == []
    config.write_text(good)
    served = {"name": "m", "parameters": {"EXECUTION_ENV_PATH": {"string_value": "x"}}}
    with pytest.raises(UsageError, match="EXECUTION_ENV_PATH"):
        version_pinning.reloading_json(repository, "m", [1], served)
    assert published.folder.is_dir()


def test_a_card_from_elsewhere_writes_no_configuration_that_is_refused(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    card, published = publish_tiny(repository, "m")
    config = repository.root / "m" / CONFIG_FILE
    before = config.read_text()
    setting = Setting(version=1, instances=1, threads=1, spinning=False, max_batch=4, delay_us=0)
    tuning = Tuning(
        objective="throughput",
        concurrency=8,
        cores=1,
        client_elsewhere=False,
        processor="",
        created="",
        command="",
        before=setting,
        config_before=before + parameter("EXECUTION_ENV_PATH"),
        chosen=setting,
        ratio=None,
        low=None,
        high=None,
        num_pairs=0,
        trials=(),
    )
    (published.folder / FILE_NAME).write_text(write_card(card.model_copy(update={"tuning": tuning})))
    with pytest.raises(UsageError, match="EXECUTION_ENV_PATH"):
        take_back(None, repository, "m")
    assert config.read_text() == before
    assert published.folder.is_dir()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"}", b'name: "\\377"', b"# resx.endpoint_of\n}"])
def test_a_broken_configuration_is_one_models_fault(tmp_path: Path, content: bytes) -> None:
    repository = Repository(tmp_path)
    (model(tmp_path) / CONFIG_FILE).write_bytes(content)
    model(tmp_path, name="good")
    assert repository.names() == ["good", "m"]
    with pytest.raises(UsageError, match=r"m/config\.pbtxt: "):
        config_rules.require_contained(tmp_path, "m")


@pytest.mark.parametrize("key", ["EXECUTION_ENV_PATH", "execution_env_path", "CPU_EXTENSION_PATH"])
def test_deploy_and_render_and_tune_refuse_before_a_server_is_asked(
    tmp_path: Path, resx: Callable[..., Finished], key: str
) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "m")
    with (repository.root / "m" / CONFIG_FILE).open("a") as config:
        config.write(parameter(key))
    for command in (
        ("deploy", "m", "--url", "127.0.0.1:1"),
        ("deploy", "m", "--render", "kubernetes"),
        ("tune", "m", "--url", "127.0.0.1:1"),
    ):
        done = resx(*command)
        assert done.code == 2, done
        assert f"m: config.pbtxt: parameters {key}: " in done.err
        assert len(done.err.splitlines()) == 1


@pytest.mark.triton
def test_serve_runs_nothing_of_a_strangers_repository_and_serves_the_rest(
    tmp_path: Path, resx: Callable[..., Finished]
) -> None:
    repository = Repository(tmp_path / "model_repository")
    publish_tiny(repository, "good")
    ran, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho ran >> {ran}\n")
    program.chmod(0o755)
    for name in ("archive", "stub"):
        shutil.copytree(repository.root / "good", repository.root / name)
        (repository.root / name / "1" / FILE_NAME).unlink()
        config = repository.root / name / CONFIG_FILE
        config.write_text(config.read_text().replace('name: "good"', f'name: "{name}"'))
    with (repository.root / "archive" / CONFIG_FILE).open("a") as config_file:
        config_file.write(parameter("EXECUTION_ENV_PATH", "$$TRITON_MODEL_DIRECTORY/env.tar.gz"))
    with tarfile.open(repository.root / "archive/env.tar.gz", "w:gz") as archive:
        archive.add(program, "bin/activate")
    shell = repository.root / "shell"
    shutil.copytree(repository.root / "stub", shell)
    named = f'instance_group {{\n  name: "$({program})"'
    text = (shell / CONFIG_FILE).read_text().replace('name: "stub"', 'name: "shell"')
    (shell / CONFIG_FILE).write_text(text.replace("instance_group {", named))
    shutil.copy(program, repository.root / "stub/triton_python_backend_stub")
    shutil.copytree(repository.root / "good", repository.root / "no name")
    ports = [word for port in ("http", "grpc", "metrics") for word in (f"--{port}-port", "0")]
    try:
        done = resx("serve", "--detach", *ports, "--json")
        assert done.code == 0, done.err
        state = running_server(repository)
        assert state is not None
        assert set(state.set_aside) == {"archive", "stub", "shell"}
        assert "EXECUTION_ENV_PATH" in state.set_aside["archive"]
        assert resx("deploy", "archive").code == 2
        assert resx("deploy", "stub").code == 2
        assert resx("deploy", "good").code == 0
    finally:
        detaching.stop(repository)
    assert not ran.exists()


@pytest.mark.parametrize("key", ["cachepath", "ov_cachepath", "CacheFilename", "customlibrary", "EXECUTION_ENV_PATH"])
def test_a_parameter_whose_name_ends_in_a_word_for_a_file_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=f"^m: config.pbtxt: parameters {key}: "):
        config_rules.require_harmless(config_pbtxt.new_message("m", {key: "x"}), "m")


def test_a_parameter_that_names_no_file_is_taken() -> None:
    config_rules.require_harmless(config_pbtxt.new_message("m", {"pathology": "1", "session.x": "1"}), "m")
