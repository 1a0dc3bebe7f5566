from pathlib import Path

import pytest

from resx.card.card import Card
from resx.card.origin import Source
from resx.errors import UsageError
from resx.repository import config_pbtxt
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.versions import Repository
from resx.serving.deployment import version_pinning
from tests.support.cards import bicubic_card, card, plan

HEAD = """\
name: "tiny"
backend: "onnxruntime"
max_batch_size: 4
input { name: "image" data_type: TYPE_UINT8 dims: [3, 16, 16] }
output { name: "logits" data_type: TYPE_FP32 dims: [10] label_filename: "labels.txt" }
# KIND_AUTO, the default: on the GPU where the server has a backend for it, on the CPU elsewhere.
instance_group { count: 1 }
dynamic_batching { default_queue_policy { max_queue_size: 32 } }
version_policy { latest { num_versions: 1 } }
"""
WARM_UP = """\
model_warmup {
  name: "batch 1"
  batch_size: 1
  inputs {
    key: "image"
    value {
      data_type: TYPE_UINT8
      dims: [3, 16, 16]
      zero_data: true
    }
  }
}
model_warmup {
  name: "batch 4"
  batch_size: 4
  inputs {
    key: "image"
    value {
      data_type: TYPE_UINT8
      dims: [3, 16, 16]
      zero_data: true
    }
  }
}
"""
RESIZE = 'parameters { key: "resx.resize" value { string_value: "16" } }\n'
SEARCH = 'parameters { key: "cudnn_conv_algo_search" value { string_value: "1" } }\n'
GOLDEN = HEAD + WARM_UP + SEARCH + RESIZE


def test_the_filter_that_resizes_is_named_where_it_is_not_bilinear() -> None:
    text = config_pbtxt.config_text(bicubic_card(), ServingOptions())
    line = 'parameters { key: "resx.interpolation" value { string_value: "bicubic" } }\n'
    assert text == HEAD + WARM_UP + SEARCH + line + RESIZE


PLAN = """\
# A plan runs only under the TensorRT and on the kind of GPU it was built with:
# 11.4.0, compute capability 8.6.
# Its profile: batches of 1 to 4, tuned for 2.
instance_group { count: 1 kind: KIND_GPU }
dynamic_batching { preferred_batch_size: [2, 4] default_queue_policy { max_queue_size: 32 } }
"""


def test_a_plans_configuration_names_its_backend_its_gpu_and_its_profile() -> None:
    text = config_pbtxt.config_text(plan(), ServingOptions())
    onnx_lines = GOLDEN[GOLDEN.index("# KIND_AUTO") : GOLDEN.index("version_policy")]
    assert text == GOLDEN.replace("onnxruntime", "tensorrt").replace(onnx_lines, PLAN).replace(SEARCH, "")

    config = config_pbtxt.parse(config_pbtxt.config_text(plan(), ServingOptions(max_queue_size=9)))
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 9


def test_an_engine_of_tensorrt_for_rtx_names_the_backend_that_only_the_embedded_server_has() -> None:
    of_plan, of_engine = (
        config_pbtxt.parse(config_pbtxt.config_text(plan(builder), ServingOptions()))
        for builder in ("tensorrt", "tensorrt_rtx")
    )
    assert of_engine.backend == "tensorrt_rtx"
    of_engine.backend = "tensorrt"
    assert of_engine == of_plan


def test_what_triton_cannot_serve_gets_no_configuration() -> None:
    with pytest.raises(UsageError, match="batch_min=3: Triton sends single images too"):
        config_pbtxt.config_text(plan("tensorrt_rtx", batch_min=3), ServingOptions())
    with pytest.raises(UsageError, match="batch_min=2: Triton sends single images too"):
        config_pbtxt.config_text(plan(batch_min=2), ServingOptions())


def test_the_configuration_is_golden() -> None:
    assert config_pbtxt.config_text(card(), ServingOptions()) == GOLDEN


def test_a_fixed_batch_is_an_axis_like_the_others_and_nothing_is_joined() -> None:
    """To Triton such a file is no batching model: it would add the batch to the shapes a second time."""
    signature = card().signature.model_copy(update={"batch": 3})
    source = Source(kind="onnx", signature=signature, weights="m.onnx", weights_sha256="0" * 64)
    message = config_pbtxt.config_message(card().model_copy(update={"source": source}), ServingOptions())

    assert message.max_batch_size == 0
    assert list(message.input[0].dims) == [3, 3, 16, 16]
    assert list(message.output[0].dims) == [3, 10]
    assert not message.HasField("dynamic_batching")
    assert [(sample.batch_size, list(sample.inputs["image"].dims)) for sample in message.model_warmup] == [
        (1, [3, 3, 16, 16])
    ]


@pytest.mark.parametrize(
    ("weights", "is_random"),
    [("random", True), ("random (seed 7)", True), ("random.pth", False), ("random (seed 7).pth", False),
     ("imagenet (resnet18.pth)", False), ("as net:make gives them (seed 0)", False)],
)  # fmt: skip
def test_any_client_can_tell_weights_that_nobody_trained(weights: str, is_random: bool) -> None:
    text = config_pbtxt.config_text(card(weights=weights), ServingOptions())
    line = 'parameters { key: "resx.weights" value { string_value: "random" } }\n'
    assert text == GOLDEN + line * is_random


def test_a_file_for_the_cpu_says_nothing_of_a_gpus_algorithms() -> None:
    for_cpu = card().model_copy(update={"target": "cpu"})
    assert config_pbtxt.config_text(for_cpu, ServingOptions()) == GOLDEN.replace(SEARCH, "")


def test_tritons_own_protobuf_reads_it_back() -> None:
    options = ServingOptions(instances=2, threads=3, max_queue_size=64)
    config = config_pbtxt.parse(config_pbtxt.config_text(card("float32"), options))

    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 4
    assert list(config.input[0].dims) == [3, 16, 16]
    assert config.instance_group[0].count == 2
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 64
    assert config.version_policy.latest.num_versions == 1
    assert config.parameters["resx.mean"].string_value == "0.4914,0.4822,0.4465"


@pytest.mark.parametrize(("size", "max_batch", "bound"), [(-1, 4, 32), (-1, 64, 256), (0, 8, 0), (5, 64, 5)])
def test_four_batches_may_wait_unless_told_otherwise(size: int, max_batch: int, bound: int) -> None:
    assert ServingOptions(max_queue_size=size).queue_bound(max_batch) == bound


def test_what_is_switched_off_is_not_written() -> None:
    text = config_pbtxt.config_text(card(), ServingOptions(max_queue_size=0, warm_up=False))
    assert "dynamic_batching { }" in text
    assert "warmup" not in text
    assert "response_cache" not in text
    assert config_pbtxt.parse(text).HasField("dynamic_batching")


def test_the_response_cache_and_the_warm_up_are_what_triton_reads() -> None:
    config = config_pbtxt.parse(config_pbtxt.config_text(card("float32"), ServingOptions(response_cache=True)))
    assert config.response_cache.enable
    assert [sample.batch_size for sample in config.model_warmup] == [1, 4]
    assert list(config.model_warmup[1].inputs["image"].dims) == [3, 16, 16]
    assert config.model_warmup[1].inputs["image"].zero_data
    single = config_pbtxt.config_text(card().model_copy(update={"max_batch_size": 1}), ServingOptions())
    assert [sample.batch_size for sample in config_pbtxt.parse(single).model_warmup] == [1]


@pytest.mark.parametrize(
    ("instances", "threads", "cores", "fits"),
    [(1, 0, 1, True), (2, 4, 8, True), (2, 5, 8, False), (3, 0, 2, False), (1, 8, 8, True)],
)
def test_threads_above_the_cores_are_named(instances: int, threads: int, cores: int, fits: bool) -> None:
    reason = ServingOptions(instances=instances, threads=threads).oversubscribed(cores)
    assert (reason == "") == fits
    assert fits or f"exceeds this machine's {cores} cores" in reason


def test_labels_are_numbered_where_no_name_is_known() -> None:
    assert config_pbtxt.labels_text(card()).splitlines()[:2] == ["class-0", "class-1"]
    assert len(config_pbtxt.labels_text(card()).splitlines()) == 10


def labelled(label: str) -> Card:
    found = card()
    spec = found.source.spec
    assert spec is not None
    spec = spec.model_copy(update={"labels": (label, *(f"c{number}" for number in range(1, 10)))})
    return found.model_copy(update={"source": found.source.model_copy(update={"spec": spec})})


@pytest.mark.parametrize("label", ["a\nb", "a\rb", "a\x85b", "a\x1b[31mb", "", "a" * 1001, "a\u202eb"])
def test_a_label_that_is_no_line_of_its_own_is_never_written(label: str) -> None:
    with pytest.raises(UsageError, match=r"tiny: label '.*': a class's name is one line .*; rename the class"):
        config_pbtxt.labels_text(labelled(label))
    assert config_pbtxt.labels_text(labelled("n01\ttench")).startswith("n01\ttench\nc1\n")


@pytest.mark.parametrize(("field", "value"), [("instances", 0), ("threads", -1), ("max_queue_size", -2)])
def test_a_value_out_of_range_is_refused(field: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{field}={value}: give"):
        ServingOptions(**{field: value})


def test_a_broken_configuration_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="config.pbtxt: .*fix the file"):
        config_pbtxt.parse('name: "x" nonsense')


SAMPLE = (
    'model_warmup [ {{ name: "a" batch_size: 1 inputs {{ key: "x" value {{ data_type: TYPE_UINT8 dims: 4 {} }} }} }} ]'
)


@pytest.mark.parametrize(
    ("data", "has_card", "is_kept"),
    [
        ("zero_data: true", True, True),
        ("zero_data: true", False, False),
        ("random_data: true", True, False),
        ('input_data_file: "x"', True, False),
        ("", True, False),
    ],
)
def test_only_the_zeros_that_an_export_was_tried_with_warm_a_model_up(
    data: str, has_card: bool, is_kept: bool, tmp_path: Path
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(f'name: "m"\n{SAMPLE.format(data)}\n')
    if has_card:
        (tmp_path / "m" / "1" / "card.json").write_text(card().model_dump_json())
    assert (
        bool(version_pinning.parse(version_pinning.config_json(Repository(tmp_path), "m", [1])).model_warmup) == is_kept
    )
